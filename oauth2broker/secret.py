"""A string that does not show itself."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any, NoReturn, Self

from oauth2broker.errors import ConfigError

_REDACTED = "***"


class TokenSecret:
    """A token, a client secret or a verifier. ``expose()`` is the only way out.

    repr, str and format are redacted, comparison takes constant time, pickling is refused (TypeError, as
    pickle expects), and copies are the object itself. An empty secret is false: it stands for one that was
    removed. Immutable.
    """

    __slots__ = ("_value",)

    _value: str

    def __new__(cls, value: str | TokenSecret) -> TokenSecret:
        if isinstance(value, TokenSecret):
            return value
        if not isinstance(value, str):
            kind = type(value).__name__
            del value
            raise ConfigError(f"a secret is a str, not {kind}")
        self = super().__new__(cls)
        object.__setattr__(self, "_value", str.__str__(value))
        return self

    def expose(self) -> str:
        """Give the plain text."""
        return self._value

    def fingerprint(self) -> str:
        """Give the hex SHA-256 of the plain text, to recognise a token without keeping it."""
        return hashlib.sha256(_encoded(self)).hexdigest()

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TokenSecret):
            return NotImplemented
        return hmac.compare_digest(_encoded(self), _encoded(other))

    def __hash__(self) -> int:
        return hash((TokenSecret, self._value))

    def __repr__(self) -> str:
        return f"TokenSecret({_REDACTED})"

    def __str__(self) -> str:
        return _REDACTED

    def __format__(self, format_spec: str) -> str:
        return format(_REDACTED, format_spec)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a TokenSecret cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a TokenSecret cannot be changed")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a TokenSecret refuses to be pickled")

    def __getstate__(self) -> NoReturn:
        raise TypeError("a TokenSecret refuses to be pickled")


def wrap_secret(value: str | TokenSecret | None) -> TokenSecret | ConfigError | None:
    """Give a secret, or what is wrong with it.

    Never raises: whoever holds the plain value can let go of it before the error is raised, so that no
    traceback shows it.
    """
    if value is None or isinstance(value, str | TokenSecret):
        return None if value is None else TokenSecret(value)
    return ConfigError(f"a secret is a str, not {type(value).__name__}")


def usable_secret(value: object) -> TokenSecret | None:
    """Give a secret of any text that can be sent again: not empty, and with an encoding."""
    if isinstance(value, TokenSecret):
        value = value.expose()
    if not isinstance(value, str) or not value:
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return TokenSecret(value)


def _encoded(secret: TokenSecret) -> bytes:
    return secret.expose().encode("utf-8", "surrogatepass")
