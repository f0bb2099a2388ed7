"""A broker's tokens on the requests of httpx: the extra ``httpx``."""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Generator, Iterator
from typing import Any, NoReturn

import httpx

from oauth2broker.errors import BrokerError, ConfigError
from oauth2broker.flows.broker import Broker
from oauth2broker.flows.request import CachedTokenRequest
from oauth2broker.grants import GrantType
from oauth2broker.integrations.signed_calls import (
    GOES_ALONG,
    LONGEST_REFUSAL,
    Origin,
    SignedCalls,
    carries,
    checked_origin,
    missing_scope,
    origin_of,
)
from oauth2broker.records import TokenRecord
from oauth2broker.secret import TokenSecret

_TRACE = "trace"  # the extension of httpx by which httpcore tells what it is about to do


class HttpxBrokerAuth(httpx.Auth):
    """Signs requests of ``httpx.Client`` with a broker's token: ``auth=`` of a client, or of one request.

    Each request gets the token that ``broker`` has for ``request`` (a :class:`CachedTokenRequest`) at that
    moment. ``grant`` says whose it is: the user's, or with ``client_credentials`` the client's own. When the
    API answers 401, the token is rejected and the request is sent once more with another, if its body can be
    sent again: bytes, forms, JSON, and multipart forms whose files can go back to their start. On a redirect
    to another origin, the token stays behind; where it would go along in the body or the URL, following one
    is a :class:`ConfigError`. ``signer`` is a :class:`RequestSigner` for ``httpx.Request``;
    None puts the token where the provider's API wants it.

    A request raises what the broker raises, and nothing is sent then: :class:`AuthorizationRequiredError`,
    :class:`InvalidGrantError` or :class:`RevokedError` when the user must authorize again,
    :class:`TransientError`, :class:`TransportError` ... Besides, :class:`ConfigError` for a URL that tokens
    may not go to (RFC 6750 section 5.3) and a token that cannot be attached, and
    :class:`InsufficientScopeError` for a 403 that says so. Safe to share between threads. Not for
    ``httpx.AsyncClient``: :class:`ConfigError`.
    """

    def __init__(
        self,
        broker: Broker,
        request: CachedTokenRequest,
        grant: str = GrantType.AUTHORIZATION_CODE,
        *,
        signer: Any | None = None,
    ) -> None:
        self._calls = SignedCalls(broker, request, grant, signer)

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Sign ``request``; once more with another token when the first is refused."""
        former = request.extensions.get(_TRACE)
        if isinstance(former, _Guard) and former.strip(request):
            yield request  # the caller follows our redirect to another origin
            return
        origin = checked_origin(_origin_text(request.url))
        record, retried = self._calls.record(), False
        guard = _Guard(origin, former.inner if isinstance(former, _Guard) else former)
        response = yield self._sign(request, record, guard)
        if guard.tells(response) and response.status_code == 401:
            another = self._calls.instead_of(record)
            if another is None or not _can_replay(response.request):
                return
            record = another
            retried = True
            response = yield self._sign(response.request, record, guard)
            if guard.tells(response) and response.status_code == 401:
                self._calls.note_refused_again(record)
        if not guard.tells(response) or response.status_code == 401:
            return
        self._calls.note_accepted(record, retried=retried)
        if response.status_code == 403:
            _require_scope(response, record)

    def async_auth_flow(self, request: httpx.Request) -> NoReturn:
        """Raise :class:`ConfigError`: renewing a token would block the event loop."""
        raise ConfigError("HttpxBrokerAuth is for httpx.Client: this library is synchronous")

    def _sign(self, request: httpx.Request, record: TokenRecord, guard: _Guard) -> httpx.Request:
        signed = _signed(self._calls.signer, request, record, guard)
        if isinstance(signed, BrokerError):
            raise signed
        return signed


class _Guard:
    """Keeps one request's token from other origins, as httpcore's trace of it and of its redirects.

    httpx takes ``Authorization`` off a redirect to another origin, and no other header. ``names`` are those
    that carry the token, ``urls`` hashes of those that do. One that went elsewhere does not get it back, and
    one whose URL or body has one of ``tokens`` does not go there.
    """

    def __init__(self, origin: Origin, inner: Any) -> None:
        self.inner = inner
        self.names: set[str] = set()
        self.urls: set[bytes] = set()
        self.tokens: set[TokenSecret] = set()
        self._origin = origin
        self._has_left = False

    def __call__(self, event: str, info: dict[str, Any]) -> None:
        if event.endswith(".send_request_headers.started") and not self._may_go(info["request"]):
            raise ConfigError(GOES_ALONG)
        if self.inner is not None:
            self.inner(event, info)

    def leads_home(self, url: httpx.URL) -> bool:
        """Whether ``url`` is of the origin that the token is for."""
        return origin_of(_origin_text(url)) == self._origin

    def tells(self, response: httpx.Response) -> bool:
        """Whether ``response`` says something of the token.

        Not when it, or one before it, is of another origin, nor when a redirect left the token in the URL
        behind.
        """
        if self.urls and _hash_of(response.request.url) not in self.urls:
            return False
        return all(self.leads_home(each.request.url) for each in (*response.history, response))

    def strip(self, request: httpx.Request) -> bool:
        """Take the token off ``request`` if it leads elsewhere; give whether it does."""
        if self.leads_home(request.url):
            return False
        for name in self.names:
            request.headers.pop(name, None)
        return True

    def _may_go(self, request: Any) -> bool:
        """Take the token's headers off ``request`` if it has left; False when that does not do."""
        if request.method == b"CONNECT":  # which a proxy gets, with headers of its own
            return True
        url, target = request.url, request.url.target
        text = f"{url.scheme.decode()}://{_bracketed(url.host.decode())}"
        text += "" if url.port is None else f":{url.port}"
        if target.startswith((b"http:", b"https:")):  # a proxy is asked to pass it on
            text = target.decode("ascii", "replace")
        self._has_left |= origin_of(text) != self._origin
        if not self._has_left:
            return True
        lowered = {name.lower().encode() for name in self.names}
        request.headers[:] = [(name, value) for name, value in request.headers if name.lower() not in lowered]
        sent = (target, *_texts(request.stream))
        return not any(carries(each, token) for each in sent for token in self.tokens)


def _signed(
    signer: Any, request: httpx.Request, record: TokenRecord, guard: _Guard
) -> httpx.Request | BrokerError:
    """Let ``signer`` sign, and see what it did. Never raises: it holds the token in plain."""
    url, token = request.url, record.access_token.expose()
    held = {name: value for name, value in request.headers.items() if token in value}
    for name in held:  # to see whether the signer sets them
        del request.headers[name]
    before = dict(request.headers)
    signed = _attached(signer, request, record)
    if isinstance(signed, BrokerError):
        _restore(request, held)
        return signed
    after = dict(signed.headers)
    changed = {name for name, value in after.items() if before.get(name) != value}
    _restore(request, held)
    _restore(signed, held)
    if not guard.leads_home(signed.url):
        return ConfigError("the signer led the request to another origin")
    if not changed and signed.url == url:
        return ConfigError("the signer attached nothing to the request")
    guard.tokens.add(record.access_token)
    guard.names |= changed | {name for name, value in held.items() if carries(value, record.access_token)}
    if signed.url != url:
        guard.urls.add(_hash_of(signed.url))
    signed.extensions = {**signed.extensions, _TRACE: guard}
    return signed


def _attached(signer: Any, request: httpx.Request, record: TokenRecord) -> httpx.Request | BrokerError:
    try:
        signed = signer.attach(request, record)
    except BrokerError as raised:
        return copy.copy(raised)  # without its traceback, whose frames may hold the token
    except Exception as raised:  # noqa: BLE001 - a signer may raise anything
        return ConfigError(f"the signer failed ({type(raised).__name__})")
    if not isinstance(signed, httpx.Request):
        return ConfigError(f"the signer's attach must give a request, not {type(signed).__name__}")
    return signed


def _restore(request: httpx.Request, held: dict[str, str]) -> None:
    for name, value in held.items():
        request.headers.setdefault(name, value)


def _origin_text(url: httpx.URL) -> str:
    """Give scheme, host and port of ``url`` as they are connected to."""
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def _hash_of(url: httpx.URL) -> bytes:
    """Give the SHA-256 of ``url``, which may hold a token."""
    return hashlib.sha256(str(url).encode()).digest()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _can_replay(request: httpx.Request) -> bool:
    """Whether the body can be sent again as it was, without having been read into memory.

    A multipart form goes back to the start of its files whenever it is sent, where they can.
    """
    if isinstance(request.stream, httpx.ByteStream):
        return True
    fields = getattr(request.stream, "fields", None)
    return isinstance(fields, list) and all(_is_rewindable(getattr(each, "file", b"")) for each in fields)


def _texts(stream: Any) -> Iterator[object]:
    """Give what of a body can be looked at without reading files."""
    if isinstance(stream, httpx.ByteStream):
        yield b"".join(stream)
    for each in getattr(stream, "fields", ()):  # of a multipart form
        yield getattr(each, "value", None)
        yield getattr(each, "file", None)


def _is_rewindable(file: Any) -> bool:
    if isinstance(file, bytes | str):
        return True
    try:
        return bool(file.seekable())
    except (AttributeError, ValueError):  # no file, or one that is closed
        return False


def _require_scope(response: httpx.Response, record: TokenRecord) -> None:
    """Raise :class:`InsufficientScopeError` for a 403 that says so; else its body can still be read."""
    error = missing_scope(response.headers, b"", record)
    if error is None and "json" in response.headers.get("Content-Type", "").lower():
        error = missing_scope({}, _peek(response), record)
    if error is not None:
        raise error


def _peek(response: httpx.Response) -> bytes:
    """Give the body if it is short, and leave it to be read."""
    if response.is_stream_consumed:  # by a hook
        with contextlib.suppress(httpx.ResponseNotRead):
            return response.content
        return b""
    peeked = _PeekedStream(response.stream)
    response.stream = peeked
    try:
        return httpx.Response(response.status_code, headers=response.headers, content=peeked.begin()).content
    except httpx.DecodingError:
        return b""


class _PeekedStream(httpx.SyncByteStream):
    """A stream whose beginning was looked at."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._rest = iter(stream)
        self._seen: list[bytes] = []
        self._failed: Exception | None = None

    def begin(self) -> bytes:
        """Give all of it; nothing where it is long or fails, which is for those to see who read on."""
        size = 0
        try:
            for chunk in self._rest:
                self._seen.append(chunk)
                size += len(chunk)
                if size > LONGEST_REFUSAL:
                    return b""
        except Exception as error:  # noqa: BLE001 - a transport may raise anything
            self._failed = error
            return b""
        return b"".join(self._seen)

    def __iter__(self) -> Iterator[bytes]:
        yield from self._seen
        if self._failed is not None:
            raise self._failed
        yield from self._rest

    def close(self) -> None:
        self._stream.close()
