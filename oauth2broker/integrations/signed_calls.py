"""What signing the requests of any HTTP library has in common."""

from __future__ import annotations

import json
import re
import time
import weakref
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from oauth2broker.errors import ConfigError, InsufficientScopeError
from oauth2broker.ext.signer import HeaderSigner
from oauth2broker.flows.broker import Broker
from oauth2broker.flows.request import CachedTokenRequest
from oauth2broker.grants import GrantType
from oauth2broker.quoting import safe_text
from oauth2broker.records import TokenRecord, checked_grant
from oauth2broker.urls import is_loopback

LONGEST_REFUSAL = 64 * 1024
"""How many bytes of a refusal's body are looked at."""

_HOPELESS_SECONDS = 60.0
_MOST_REMEMBERED = 4096
_PORTS = {"http": 80, "https": 443}
_INSUFFICIENT_SCOPE = re.compile(r'\berror\s*=\s*"?insufficient_scope\b', re.IGNORECASE)
_SCOPE = re.compile(r'\bscope\s*=\s*"([^"]*)"', re.IGNORECASE)

Origin = tuple[str, str, int | None]


class _Fingerprints:
    """Remembers tokens by their hash, each for a minute, some thousand at most. Thread-safe."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def __contains__(self, record: TokenRecord) -> bool:
        until = self._until.get(record.access_token.fingerprint()) if self._until else None
        return until is not None and time.monotonic() < until

    def add(self, record: TokenRecord) -> None:
        now = time.monotonic()
        if len(self._until) >= _MOST_REMEMBERED:
            self._until.clear()
        for fingerprint, until in list(self._until.items()):
            if until <= now:
                self._until.pop(fingerprint, None)
        self._until[record.access_token.fingerprint()] = now + _HOPELESS_SECONDS

    def discard(self, record: TokenRecord) -> None:
        if self._until:
            self._until.pop(record.access_token.fingerprint(), None)


class _Refusals:
    """What APIs made of the tokens of one broker, in this process.

    ``hopeless`` are those that were refused as soon as they were obtained, ``on_trial`` those that were
    obtained because another was refused, and of which nobody knows yet.
    """

    def __init__(self) -> None:
        self.hopeless = _Fingerprints()
        self.on_trial = _Fingerprints()


_refusals: weakref.WeakKeyDictionary[object, _Refusals] = weakref.WeakKeyDictionary()
"""By broker, for as long as it lives: programs make an auth for every call."""


class SignedCalls:
    """Gives the token for each request of one principal, and another one for the token that was refused.

    ``grant`` says whose token it is: the principal's (``authorization_code``) or the client's own
    (``client_credentials``). Safe to share between threads.
    """

    def __init__(self, broker: Broker, request: CachedTokenRequest, grant: str, signer: Any | None) -> None:
        if not isinstance(request, CachedTokenRequest):
            raise ConfigError(f"request is a CachedTokenRequest, not {type(request).__name__}")
        if request.force or request.rejected is not None:
            raise ConfigError("request is served for every call: give one that insists on nothing")
        serve = {
            GrantType.AUTHORIZATION_CODE: broker.refresh_access_token,
            GrantType.CLIENT_CREDENTIALS: broker.client_credentials,
        }.get(checked_grant(grant))
        if serve is None:
            raise ConfigError("grant is authorization_code (a user's token) or client_credentials")
        if signer is not None and not callable(getattr(signer, "attach", None)):
            raise ConfigError(f"signer is a RequestSigner, not {type(signer).__name__}")
        self._serve = serve
        self._request = request
        behind = getattr(broker, "behind", broker)  # a session stands before the broker itself
        self._refusals = _refusals.get(behind) or _refusals.setdefault(behind, _Refusals())
        self.signer = HeaderSigner(broker.descriptor, broker.strategy) if signer is None else signer

    def record(self) -> TokenRecord:
        """Give the record whose token the next request carries. Raises what the broker raises."""
        return self._serve(self._request)

    def instead_of(self, refused: TokenRecord) -> TokenRecord | None:
        """Give another record than ``refused``, whose token an API would not take; one call for all who ask.

        None for a token that was refused as soon as it was obtained: an API that takes none at all would
        have us call the provider for each of its answers. After a minute it is tried again.
        """
        if refused in self._refusals.on_trial:
            self.note_refused_again(refused)
        if refused in self._refusals.hopeless:
            return None
        return self._serve(self._request.rejecting(refused))

    def note_refused_again(self, record: TokenRecord) -> None:
        """The token of ``record``, obtained because another was refused, was refused, too."""
        self._refusals.hopeless.add(record)
        self._refusals.on_trial.discard(record)

    def note_trial(self, record: TokenRecord) -> None:
        """The token of ``record``, obtained because another was refused, is about to be sent.

        Until it is accepted, an API that refuses it to any thread refused it at once.
        """
        self._refusals.on_trial.add(record)

    def note_accepted(self, record: TokenRecord) -> None:
        """An API answered a request with the token of ``record`` with something else than 401."""
        self._refusals.on_trial.discard(record)


def checked_origin(url: str) -> Origin:
    """Give the origin of ``url`` (RFC 6454) if it may see a token: https, or a loopback host.

    Raises :class:`ConfigError` for any other (RFC 6750 section 5.3).
    """
    found = origin_of(url)
    if found is None:
        raise ConfigError("a token is sent to http and https URLs only")
    scheme, host, _ = found
    if scheme == "http" and not is_loopback(host):
        raise ConfigError("a token is sent over https only (http is for loopback hosts)")
    return found


def origin_of(url: str) -> Origin | None:
    """Give scheme, host and port of ``url``; None for what has none."""
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme.lower(), parts.hostname, parts.port
    except ValueError:
        return None
    if scheme not in _PORTS or not host:
        return None
    return scheme, host.lower(), port or _PORTS[scheme]


def missing_scope(
    headers: Mapping[str, str], body: bytes, record: TokenRecord
) -> InsufficientScopeError | None:
    """Give the error for a 403 that says ``insufficient_scope``; None for one that does not.

    It is said in ``WWW-Authenticate`` (RFC 6750 section 3.1), by some in a JSON body.
    """
    challenge = headers.get("WWW-Authenticate") or ""
    said = bool(_INSUFFICIENT_SCOPE.search(challenge)) or _says_so(body)
    if not said:
        return None
    wanted = _SCOPE.search(challenge)
    scope = safe_text(wanted[1], [record.access_token]) if wanted else None
    more = f": it needs {scope}" if scope else ""
    return InsufficientScopeError(f"the API refused the token's scope{more}", status=403)


def _says_so(body: bytes) -> bool:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("error") == "insufficient_scope"
