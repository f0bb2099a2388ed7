"""What signing the requests of any HTTP library has in common."""

from __future__ import annotations

import json
import re
import threading
import time
import weakref
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from oauth2broker.errors import ConfigError, InsufficientScopeError
from oauth2broker.ext.signer import HeaderSigner
from oauth2broker.flows.broker import Broker
from oauth2broker.flows.request import CachedTokenRequest, mistaken_request
from oauth2broker.forking import forget_in_children
from oauth2broker.grants import GrantType
from oauth2broker.quoting import safe_text
from oauth2broker.records import TokenRecord, checked_grant
from oauth2broker.secret import TokenSecret
from oauth2broker.urls import is_loopback

LONGEST_REFUSAL = 64 * 1024
"""How many bytes of a refusal's body are looked at."""

GOES_ALONG = (
    "the API redirects to another origin, and the token would go along in the request's body or URL: "
    "not followed. Without following redirects, the answer is yours to read"
)

_LONGEST_PAUSE = 60.0
_MOST_REMEMBERED = 4096
_MOST_TOKENS = 16
_UNMISTAKABLE = 8  # bytes
_PART = rb"[\w.~+/-]"
_PORTS = {"http": 80, "https": 443}
_INSUFFICIENT_SCOPE = re.compile(r'\berror\s*=\s*"?insufficient_scope\b', re.IGNORECASE)
_SCOPE = re.compile(r'\bscope\s*=\s*"([^"]*)"', re.IGNORECASE)

Origin = tuple[str, str, int | None]


class _Renewals:
    """What came of the renewals of one principal's token that an API's refusals asked for.

    A renewal is fruitless if the API refuses the token that it brought to the request for which it was
    obtained, or to another before anybody has had it accepted. Tokens are kept by their hash, a few of them.
    Methods that change something are called under one lock.
    """

    def __init__(self) -> None:
        self._replaced: dict[str, None] = {}  # the oldest first; never has ``_brought``
        self._fruitless: dict[str, None] = {}  # counted; the oldest first
        self._brought: str | None = None  # by the latest renewal
        self._is_on_trial = False  # nobody has had it accepted
        self._is_fruitful = False  # a request for which it was obtained had it accepted
        self._accepted: str | None = None  # the last that was
        self._failures = 0
        self._until = 0.0

    def may_replace(self, token: str) -> bool:
        """Whether ``token``, just refused, may be replaced now. One that was before costs no call."""
        if token in self._replaced:
            return True
        if token == self._brought and self._is_on_trial:
            self.count_fruitless(token)
        return time.monotonic() >= self._until

    def note_brought(self, refused: str, token: str) -> None:
        """``token`` came for ``refused``, which it never is: a broker raises when there is no other."""
        if token != self._brought:
            self._begin(token)
        _add(self._replaced, refused)

    def count_fruitless(self, token: str) -> None:
        """The renewal that brought ``token`` was fruitless. Counts once, and begins a pause."""
        if token in self._fruitless:
            return
        _add(self._fruitless, token)
        now = time.monotonic()
        if now > self._until + _LONGEST_PAUSE:
            self._failures = 0
        self._until = now + min(2.0**self._failures, _LONGEST_PAUSE)
        self._failures = min(self._failures + 1, 16)

    def is_known(self, token: str) -> bool:
        """Whether :meth:`accept` would change nothing. Needs no lock."""
        return token == self._accepted

    def accept(self, token: str, *, retried: bool) -> None:
        """``token`` was accepted; ``retried``: by a request for which it was obtained."""
        self._accepted = token
        if token == self._brought:
            self._is_on_trial = False
            self._is_fruitful = self._is_fruitful or retried

    def _begin(self, token: str) -> None:
        """Judge the renewal before: only now has everybody spoken who was sent its token."""
        if self._is_fruitful and self._brought not in self._fruitless:
            self._failures = 0
        self._replaced.pop(token, None)
        self._brought, self._is_on_trial, self._is_fruitful = token, token != self._accepted, False


def _add(found: dict[str, None], token: str) -> None:
    found[token] = None
    if len(found) > _MOST_TOKENS:
        del found[next(iter(found))]


class _Memory:
    """The renewals of the principals of one broker, in this process: of some thousand at most."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._renewals: dict[object, _Renewals] = {}
        forget_in_children(self)

    def forget_after_fork(self) -> None:
        """Whoever held the lock is not in the child."""
        self.lock = threading.Lock()

    def of(self, key: object) -> _Renewals:
        with self.lock:
            found = self._renewals.pop(key, None) or _Renewals()
            self._renewals[key] = found  # the last to be forgotten
            if len(self._renewals) > _MOST_REMEMBERED:
                del self._renewals[next(iter(self._renewals))]
            return found


_memories: weakref.WeakKeyDictionary[object, _Memory] = weakref.WeakKeyDictionary()
"""By broker, for as long as it lives: programs make an auth for every call."""


class SignedCalls:
    """Gives the token for each request of one principal, and another one for the token that was refused.

    ``grant`` says whose token it is: the principal's (``authorization_code``) or the client's own
    (``client_credentials``). Safe to share between threads.
    """

    def __init__(self, broker: Broker, request: CachedTokenRequest, grant: str, signer: Any | None) -> None:
        if not isinstance(request, CachedTokenRequest):
            raise mistaken_request(request)
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
        self._memory = _memories.get(behind) or _memories.setdefault(behind, _Memory())
        self._renewals = self._memory.of((checked_grant(grant), request.names))
        self.signer = HeaderSigner(broker.descriptor, broker.strategy) if signer is None else signer

    def record(self) -> TokenRecord:
        """Give the record whose token the next request carries. Raises what the broker raises."""
        return self._serve(self._request)

    def instead_of(self, refused: TokenRecord) -> TokenRecord | None:
        """Give another record than ``refused``, whose token an API would not take; one call for all who ask.

        None while renewals pause: an API that takes no token at all would have us call the provider for each
        of its answers. A fruitless renewal is followed by a pause of a second, the next by two, then four ...
        up to a minute.
        """
        token = refused.access_token.fingerprint()
        with self._memory.lock:
            if not self._renewals.may_replace(token):
                return None
        record = self._serve(self._request.rejecting(refused))
        with self._memory.lock:
            self._renewals.note_brought(token, record.access_token.fingerprint())
        return record

    def note_refused_again(self, record: TokenRecord) -> None:
        """The token of ``record``, obtained because another was refused, was refused, too."""
        token = record.access_token.fingerprint()
        with self._memory.lock:
            self._renewals.count_fruitless(token)

    def note_accepted(self, record: TokenRecord, *, retried: bool = False) -> None:
        """An API answered a request with the token of ``record`` with something else than 401.

        ``retried``: the request had been refused with another token.
        """
        token = record.access_token.fingerprint()
        if not retried and self._renewals.is_known(token):
            return
        with self._memory.lock:
            self._renewals.accept(token, retried=retried)


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


def carries(sent: object, token: TokenSecret) -> bool:
    """Whether a URL, a header or a body holds ``token``, as it is or encoded as in a form.

    A body that is no text is not looked at: a file, a generator.
    """
    if not token or not isinstance(sent, str | bytes | bytearray | memoryview):
        return False
    plain = token.expose().encode("utf-8", "surrogatepass")
    text = sent.encode("utf-8", "surrogatepass") if isinstance(sent, str) else bytes(sent)
    return _holds(text, plain) or _holds(unquote_to_bytes(text), plain)


def _holds(text: bytes, plain: bytes) -> bool:
    """Whether ``plain`` is in ``text``; a short one that is part of something else is not."""
    if len(plain) >= _UNMISTAKABLE:
        return plain in text
    return re.search(rb"(?<!%b)%b(?!%b)" % (_PART, re.escape(plain), _PART), text) is not None


def missing_scope(
    headers: Mapping[str, str], body: bytes, record: TokenRecord
) -> InsufficientScopeError | None:
    """Give the error for a 403 that says ``insufficient_scope``; None for one that does not.

    It is said in ``WWW-Authenticate`` (RFC 6750 section 3.1), by some in a JSON body.
    """
    challenge, members = headers.get("WWW-Authenticate") or "", _members(body)
    if not _INSUFFICIENT_SCOPE.search(challenge) and members.get("error") != "insufficient_scope":
        return None
    wanted = _SCOPE.search(challenge)
    scope = safe_text(wanted[1] if wanted else members.get("scope"), [record.access_token])
    more = f": it needs {scope}" if scope else ""
    return InsufficientScopeError(f"the API refused the token's scope{more}", status=403)


def _members(body: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
