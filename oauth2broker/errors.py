"""What can go wrong, as types that tell an outage from a dead grant.

Every error that leaves the library is a :class:`BrokerError`. An error carries plain fields, never a
response, a request body or a token, so that it can be logged, pickled and sent between processes.
"""

from __future__ import annotations

from typing import Any


class BrokerError(Exception):
    """Base of every error of this library.

    ``retryable`` says that the same call may succeed later without anybody's help, ``reauthorize`` that
    only a new consent by the user helps. ``retry_after`` is in seconds, ``status`` the HTTP status of the
    answer; both are None where there is none. A ``retry_after`` that is no time to wait counts as none: a
    hook may pass on what a provider said. Errors are picklable and hold no secrets.
    """

    retryable: bool = False
    reauthorize: bool = False

    def __init__(
        self, message: str = "", *, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after if _is_wait(retry_after) else None

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, dict(self.__dict__))


class ConfigError(BrokerError):
    """A mistake in the program or its configuration: bad descriptor, unsupported grant, re-entrant call."""


class InvalidClientError(ConfigError):
    """The client's own credentials were refused (RFC 6749 section 5.2). No user's grant is touched."""


class AuthorizationError(BrokerError):
    """The authorization ended in an error (RFC 6749 section 4.1.2.1) or its callback cannot be used.

    ``error`` is the provider's code (``access_denied`` ...) or, where the callback itself is at fault,
    ``invalid_callback``; ``description`` is the provider's own text, if it sent one.
    """

    def __init__(
        self,
        message: str = "",
        *,
        error: str = "invalid_callback",
        description: str | None = None,
        reauthorize: bool = False,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, status=status, retry_after=retry_after)
        self.error = error
        self.description = description
        self.reauthorize = reauthorize


class StateMismatchError(AuthorizationError):
    """The callback's ``state`` is missing, wrong, or was used before (RFC 6749 section 10.12)."""


class InvalidGrantError(BrokerError):
    """The provider refused the grant (RFC 6749 section 5.2); the user must authorize again."""

    reauthorize = True


class AuthorizationRequiredError(InvalidGrantError):
    """Nothing is stored, or what is stored has expired and nothing is there to renew it with."""


class RevokedError(InvalidGrantError):
    """The stored grant is a tombstone. The provider was not called."""


class InsufficientScopeError(BrokerError):
    """The scope asked for was not granted."""


class TransientError(BrokerError):
    """No answer for now: 5xx, 429, a deadline, an unreadable answer. Says nothing about the grant."""

    retryable = True


class DelayedError(TransientError):
    """The rate limit policy said to wait for ``retry_after``. The provider was not called."""


class TransportError(BrokerError):
    """The network or TLS failed. ``sent`` is False when provably nothing of the request went out."""

    retryable = True

    def __init__(
        self,
        message: str = "",
        *,
        sent: bool = True,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, status=status, retry_after=retry_after)
        self.sent = sent


class StoreError(BrokerError):
    """The store failed. Says nothing about the grant."""


class SerializationError(StoreError):
    """A stored record cannot be read: corrupt, of an unknown version, or not ours. It is left as it is."""


class BackendError(StoreError):
    """The store's backend (disk, server) failed or could not be reached."""

    retryable = True


def _rebuild(kind: type[BrokerError], args: tuple[Any, ...], fields: dict[str, Any]) -> BrokerError:
    """Make a copy or unpickle, also of a subclass whose constructor takes other arguments."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(fields)
    return error


def _is_wait(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
