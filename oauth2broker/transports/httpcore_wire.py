"""Connections of httpcore that keep a deadline as a whole, and know what went out and where to.

httpx and httpcore bound each read by itself; a peer that drips a byte at a time would never end.
"""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlsplit

import httpcore
import httpx

from oauth2broker.transports.base import HttpRequest, require_public

TARGET = "oauth2broker_target"  # not "target", which httpcore would send to a proxy as well
"""The extension of a request that holds its target as it is, not quoted anew."""


class Progress:
    """How far one send may go and got. Times are of the monotonic clock."""

    __slots__ = ("connect_by", "end_by", "is_https", "public_only", "sent")

    def __init__(self, request: HttpRequest, connect_timeout: float, total_timeout: float) -> None:
        started = time.monotonic()
        self.end_by = started + total_timeout
        self.connect_by = min(started + connect_timeout, self.end_by)
        self.public_only = request.public_only
        self.is_https = urlsplit(request.url).scheme == "https"
        self.sent = False

    @staticmethod
    def seconds_left(deadline: float) -> float:
        return deadline - time.monotonic()


current: ContextVar[Progress] = ContextVar("oauth2broker_httpx_progress")
"""Of the send that this thread is at."""


class _EventsOnly(logging.Filter):
    """Keeps what httpcore logs of our requests and answers to the names of its events."""

    def filter(self, record: logging.LogRecord) -> bool:
        if current.get(None) is not None:
            record.msg, record.args = str(record.msg).partition(" ")[0], ()
        return True


for _name in ("connection", "http11", "http2", "proxy", "socks"):
    logging.getLogger(f"httpcore.{_name}").addFilter(_EventsOnly())


@contextmanager
def _raised_as(late: type[Exception], failed: type[Exception]) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise late from error
    except OSError as error:
        raise failed from error


def _wait_at_most(sock: socket.socket, deadline: float) -> None:
    left = Progress.seconds_left(deadline)
    if left <= 0:
        raise TimeoutError("it took too long")
    sock.settimeout(left)


class _DeadlineStream(httpcore.NetworkStream):
    """A socket that keeps the deadlines of the send under way, whatever timeout it is given for one call.

    ``is_last``: what is written now is the request, and not what is said to a proxy before.
    """

    def __init__(self, sock: socket.socket, is_last: bool) -> None:
        self._socket = sock
        self._is_last = is_last

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _raised_as(httpcore.ReadTimeout, httpcore.ReadError):
            _wait_at_most(self._socket, self._deadline())
            return self._socket.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with _raised_as(httpcore.WriteTimeout, httpcore.WriteError):
            left = memoryview(buffer)
            while left:
                _wait_at_most(self._socket, self._deadline())
                current.get().sent |= self._is_last
                left = left[self._socket.send(left) :]

    def close(self) -> None:
        self._socket.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        deadline = current.get().connect_by
        with _raised_as(httpcore.ConnectTimeout, httpcore.ConnectError):
            try:
                _wait_at_most(self._socket, deadline)
                secured = ssl_context.wrap_socket(self._socket, server_hostname=server_hostname)
            except BaseException:
                self.close()
                raise
            try:
                _wait_at_most(secured, deadline)
            except TimeoutError:
                secured.close()
                raise
        return _DeadlineStream(secured, is_last=True)

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object":
            return self._socket if isinstance(self._socket, ssl.SSLSocket) else None
        return self._socket if info == "socket" else None

    def _deadline(self) -> float:
        progress = current.get()
        return progress.end_by if self._is_last else progress.connect_by


class _DeadlineBackend(httpcore.NetworkBackend):
    """Connects to the first address that answers, all of them together within the deadline."""

    def __init__(self, has_proxy: bool) -> None:
        self._has_proxy = has_proxy

    def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> httpcore.NetworkStream:
        progress = current.get()
        with _raised_as(httpcore.ConnectTimeout, httpcore.ConnectError):
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            if progress.public_only and not self._has_proxy:  # with one, it is the proxy that resolves
                require_public(host, [str(address[0]) for *_, address in found])
            return _DeadlineStream(_connect(found, progress.connect_by), is_last=not progress.is_https)


def _connect(found: list[tuple[Any, ...]], deadline: float) -> socket.socket:
    failed: OSError = TimeoutError("connecting took too long")
    for family, kind, protocol, _, address in found:
        if Progress.seconds_left(deadline) <= 0:
            break
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _wait_at_most(sock, deadline)
            sock.connect(address)
            _wait_at_most(sock, deadline)
        except OSError as error:
            sock.close()
            failed = error
        else:
            return sock
    raise failed


class Wire(httpx.BaseTransport):
    """One connection of httpcore's that keeps a deadline.

    ``proxy`` is its URL or None. Serves a request while :data:`current` says what is sent.
    """

    def __init__(self, tls: ssl.SSLContext | None, proxy: str | None) -> None:
        settings: dict[str, Any] = {
            "ssl_context": tls,
            "max_keepalive_connections": 0,
            "network_backend": _DeadlineBackend(proxy is not None),
        }
        self._pool: httpcore.ConnectionPool
        if proxy is None:
            self._pool = httpcore.ConnectionPool(**settings)
        else:
            url = httpx.URL(proxy)
            auth = (url.username, url.password) if url.userinfo else None
            at = httpcore.URL(scheme=b"http", host=url.raw_host, port=url.port, target=b"/")
            self._pool = httpcore.HTTPProxy(at, proxy_auth=auth, **settings)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        target = request.extensions.get(TARGET, url.raw_path)
        with _as_httpx():
            answer = self._pool.handle_request(
                httpcore.Request(
                    request.method,
                    httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=target),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer.stream))

    def close(self) -> None:
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        with _as_httpx():
            yield from self._stream

    def close(self) -> None:
        self._stream.close()


@contextmanager
def _as_httpx() -> Iterator[None]:
    """Give httpx's name to what httpcore raises; the two have the same."""
    try:
        yield
    except (
        httpcore.TimeoutException,
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.ProxyError,
        httpcore.UnsupportedProtocol,
    ) as error:
        kind = getattr(httpx, type(error).__name__, httpx.TransportError)
        raise kind(type(error).__name__) from error
