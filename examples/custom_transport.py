"""An HTTP stack of one's own: token requests over ``http.client``, with errors of its own kind.

Run with ``python examples/custom_transport.py``. A template for another pool, TLS stack or simulator: a
`TokenHttpClient` sends, and a `TransportErrorMapper` says what its errors mean. It passes `TransportContract`
of ``oauth2broker.testing``.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from urllib.parse import urlsplit

from oauth2broker import (
    Broker,
    BrokerError,
    CachedTokenRequest,
    ConfigError,
    GrantType,
    HttpRequest,
    HttpResponse,
    ProviderStrategy,
    ResponseMetadata,
    ResponseMetadataSlot,
    TransientError,
    TransportError,
    is_public_address,
)
from oauth2broker.testing import Fault, LoopbackProvider

CONNECT_SECONDS = 5.0
EXCHANGE_SECONDS = 20.0  # together well within the 30 s that one send may take
BODY_LIMIT = 1024 * 1024


class WireError(Exception):
    """What this transport raises. ``connected``: some of the request may have gone out."""

    def __init__(self, reason: str, *, connected: bool) -> None:
        super().__init__(reason)
        self.connected = connected


class PlainHttpClient:
    """A `TokenHttpClient`: a connection per request, no redirects, no proxies. Threads may share it."""

    def __init__(self) -> None:
        self._tls = ssl.create_default_context()

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        metadata.take()  # nothing of an earlier answer may pass for this one's
        require_safe(request.url)
        connection = self._connect(request)
        with closing(connection), hang_up_after(EXCHANGE_SECONDS, connection.sock):
            try:
                return exchange(connection, request, metadata)
            except (OSError, HTTPException) as error:
                # Its type says enough; its text may be whatever the other side sent.
                raise WireError(type(error).__name__, connected=True) from None

    def _connect(self, request: HttpRequest) -> HTTPConnection:
        parts = urlsplit(request.url)
        host, is_https = parts.hostname or "", parts.scheme == "https"
        try:
            sock = socket.create_connection((host, parts.port or (443 if is_https else 80)), CONNECT_SECONDS)
        except OSError as error:
            raise WireError(type(error).__name__, connected=False) from None
        if request.public_only and not is_public_address(sock.getpeername()[0]):
            sock.close()  # discovery asks for this; nothing has been sent
            raise ConfigError(f"{host} is not at a public address")
        try:
            sock = self._tls.wrap_socket(sock, server_hostname=host) if is_https else sock
        except OSError as error:
            sock.close()
            raise WireError(type(error).__name__, connected=False) from None
        sock.settimeout(EXCHANGE_SECONDS)
        connection = HTTPConnection(parts.netloc)
        connection.sock = sock
        connection.response_class = FinalResponse
        return connection


class FinalResponse(HTTPResponse):
    """Passes over interim answers (103 ...): ``http.client`` knows 100 only."""

    def begin(self) -> None:
        super().begin()
        while 100 <= self.status < 200:
            self.headers = self.msg = None  # type: ignore[assignment]
            super().begin()


def require_safe(url: str) -> None:
    """Credentials go over TLS, or stay on this machine."""
    parts = urlsplit(url)
    is_local = parts.hostname == "localhost"
    with suppress(ValueError):
        is_local = is_local or ipaddress.ip_address(parts.hostname or "").is_loopback
    if parts.scheme != "https" and not (parts.scheme == "http" and is_local):
        raise ConfigError("token requests go to https URLs (http is for loopback hosts only)")


def exchange(
    connection: HTTPConnection, request: HttpRequest, metadata: ResponseMetadataSlot
) -> HttpResponse:
    parts = urlsplit(request.url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection.request(request.method, target, request.body, dict(request.headers))
    with connection.getresponse() as response:
        headers = dict(response.getheaders())
        # The headers are there: say so now, before the body can fail.
        metadata.store(ResponseMetadata.from_headers(response.status, headers))
        return HttpResponse(response.status, headers, read_body(response))


def read_body(response: HTTPResponse) -> bytes:
    body = response.read(BODY_LIMIT + 1)
    if len(body) > BODY_LIMIT:
        raise WireError("the body is too large", connected=True)
    if response.length:  # what Content-Length promised and did not come
        raise WireError("the body is incomplete", connected=True)
    return body


@contextmanager
def hang_up_after(seconds: float, sock: socket.socket) -> Iterator[None]:
    """Bound the whole exchange: a socket's own timeout starts anew with every byte that drips in."""
    too_late = threading.Event()

    def hang_up() -> None:
        too_late.set()
        with suppress(OSError):  # closed already
            socket.socket.shutdown(sock, socket.SHUT_RDWR)  # under TLS too, without its farewell

    timer = threading.Timer(seconds, hang_up)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
    if too_late.is_set():  # what was read may be cut
        raise WireError("it took too long", connected=True)


class WireErrorMapper:
    """A `TransportErrorMapper`: gives the error that the broker's callers see and decide by."""

    def map_transport_error(
        self,
        strategy: ProviderStrategy,
        grant: GrantType,
        metadata: ResponseMetadata | None,
        error: Exception,
    ) -> BrokerError:
        if isinstance(error, BrokerError):  # ours already: a mistake in the program
            return error
        # The text of an error that is not our own may hold anything.
        reason = str(error) if isinstance(error, WireError) else type(error).__name__
        if metadata is not None:  # headers had come: the provider is there, its answer was lost
            message = f"the answer broke off ({reason})"
            return TransientError(message, status=metadata.status, retry_after=metadata.retry_after)
        if isinstance(error, WireError) and not error.connected:
            # sent=False only with proof: it allows a refresh token to be presented again at once.
            return TransportError(f"no connection ({reason})", sent=False)
        return TransportError(f"no answer ({reason})")


def show(title: str, broker: Broker, principal: str) -> None:
    try:
        record = broker.client_credentials(CachedTokenRequest("tenant-acme", principal, "email.read"))
        print(f"{title}: {record.token_type} {record.access_token!r}")
    except TransportError as error:
        print(f"{title}: TransportError: {error}, sent={error.sent}")
    except TransientError as error:
        wait = round(error.retry_after or 0)
        print(f"{title}: TransientError: {error}, status={error.status}, retry after {wait} s")


def main() -> None:
    with LoopbackProvider() as provider:
        broker = Broker(
            provider.descriptor(),
            "demo-client",
            "demo-secret",
            http_client=PlainHttpClient(),
            error_mapper=WireErrorMapper(),
        )
        show("A success", broker, "svc-router")
        provider.inject(Fault.answer(503, headers={"Retry-After": "7"}))
        show("A 503 with Retry-After", broker, "svc-billing")
        calls = provider.token_calls
        show("Asked again too early", broker, "svc-billing")
        print(f"  token calls for that: {provider.token_calls - calls}")
        provider.inject(Fault.cut(10))
        show("An answer that breaks off", broker, "svc-search")
        provider.inject(Fault.lost_answer(), times=2)  # a lost service token is asked for once more
        show("A connection closed without an answer", broker, "svc-mail")
    show("A provider that is gone", broker, "svc-audit")


if __name__ == "__main__":
    main()
