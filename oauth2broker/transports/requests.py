"""The default transport, on requests. The only file that imports requests."""

from __future__ import annotations

import io
import socket
import ssl
import time
from http.client import HTTPResponse as ClientResponse
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from oauth2broker.errors import BrokerError, ConfigError, TransientError, TransportError
from oauth2broker.forking import after_fork_in_child
from oauth2broker.grants import GrantType
from oauth2broker.provider.strategy import ProviderStrategy
from oauth2broker.transports.base import (
    HttpRequest,
    HttpResponse,
    ResponseMetadata,
    ResponseMetadataSlot,
)
from oauth2broker.urls import checked_endpoint

CONNECT_SECONDS = 5.0
TOTAL_SECONDS = 30.0
BODY_LIMIT = 1024 * 1024
_CHUNK = 64 * 1024


class BodyTooLargeError(Exception):
    """The body of an answer went over 1 MiB and was cut."""


class RequestsHttpClient:
    """Sends token requests with requests. Safe to share between threads.

    No redirects, no cookies, no ``.netrc``; at most 1 MiB of body; at most ``connect_timeout`` seconds
    before the request goes out (name resolution, connecting and the TLS handshake together) and
    ``total_timeout`` seconds for one send, however slowly headers or body drip in. https only, except to
    loopback hosts; a request that presents a single-use credential rides a connection of its own.

    ``verify`` (True or a CA bundle's path), ``cert`` (a client certificate's path, or certificate and key)
    and ``proxies`` are as in requests; proxies from the environment apply to https only.
    """

    def __init__(
        self,
        *,
        verify: bool | str = True,
        cert: str | tuple[str, str] | None = None,
        proxies: dict[str, str] | None = None,
        connect_timeout: float = CONNECT_SECONDS,
        total_timeout: float = TOTAL_SECONDS,
    ) -> None:
        if not (0 < connect_timeout <= CONNECT_SECONDS and 0 < total_timeout <= TOTAL_SECONDS):
            raise ConfigError(f"timeouts are at most {CONNECT_SECONDS:g} and {TOTAL_SECONDS:g} seconds")
        self._verify = verify
        self._cert = cert
        self._proxies = proxies
        self._connect_timeout = connect_timeout
        self._total_timeout = total_timeout
        self._forget_connections()
        after_fork_in_child(self._forget_connections)

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        """Send ``request`` once and give the answer, whatever its status.

        Raises what requests and urllib3 raise, :class:`BodyTooLargeError`, and :class:`ConfigError` for a
        URL that must not receive credentials.
        """
        metadata.take()
        checked_endpoint("the request's URL", request.url)
        adapter = _DeadlineAdapter() if request.single_use else self._pooled
        try:
            return self._send(request, metadata, adapter)
        finally:
            if adapter is not self._pooled:
                adapter.close()

    def close(self) -> None:
        """Close the idle connections."""
        self._pooled.close()

    def _forget_connections(self) -> None:
        self._pooled = _DeadlineAdapter(pool_maxsize=32)

    def _send(
        self, request: HttpRequest, metadata: ResponseMetadataSlot, adapter: HTTPAdapter
    ) -> HttpResponse:
        with self._session(request.url, adapter).request(
            request.method,
            request.url,
            data=request.body.decode("latin-1"),  # text, which mocks can match on
            headers=dict(request.headers),
            auth=_leave_headers_alone,
            allow_redirects=False,
            stream=True,
            timeout=urllib3.Timeout(connect=self._connect_timeout, total=self._total_timeout),  # type: ignore[arg-type]
            verify=self._verify,
            cert=self._cert,
            proxies=self._proxies,
        ) as response:
            metadata.store(ResponseMetadata.from_headers(response.status_code, response.headers))
            return HttpResponse(response.status_code, response.headers, _read_body(response))

    def _session(self, url: str, adapter: HTTPAdapter) -> requests.Session:
        session = requests.Session()
        session.headers.clear()
        session.headers["Accept-Encoding"] = "identity"
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        session.trust_env = url.startswith("https")  # a proxy would read what goes to a loopback host
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        return session


class RequestsTransportErrorMapper:
    """Tells what happened by the type of an error, never by its text, which may hold secrets."""

    def map_transport_error(
        self,
        strategy: ProviderStrategy,
        grant: GrantType,
        metadata: ResponseMetadata | None,
        error: Exception,
    ) -> BrokerError:
        """Give a TransportError for network and TLS failures, a TransientError for what an answer lacked."""
        name = type(error).__name__
        if isinstance(error, BrokerError):
            return error
        if metadata is not None:
            message = f"the provider's answer could not be read to its end ({name})"
            return TransientError(message, status=metadata.status, retry_after=metadata.retry_after)
        if _was_never_sent(error):
            return TransportError(f"the provider could not be reached ({_root(error)})", sent=False)
        if isinstance(error, requests.Timeout):
            return TransientError("the provider did not answer in time")
        return TransportError(f"the connection to the provider failed ({_root(error)})")


def _read_body(response: requests.Response) -> bytes:
    body = bytearray()
    while chunk := response.raw.read(_CHUNK, decode_content=True):
        body += chunk
        if len(body) > BODY_LIMIT:
            raise BodyTooLargeError
    return bytes(body)


def _leave_headers_alone(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Stands in requests' ``auth`` so that no ``.netrc`` replaces our Authorization header."""
    return request


def _was_never_sent(error: Exception) -> bool:
    if isinstance(error, requests.exceptions.ConnectTimeout | requests.exceptions.ProxyError):
        return True
    return any(
        isinstance(cause, NewConnectionError | ConnectTimeoutError | ssl.SSLCertVerificationError)
        for cause in _causes(error)
    )


def _root(error: Exception) -> str:
    return type(_causes(error)[-1]).__name__


def _causes(error: BaseException) -> list[BaseException]:
    """Give ``error`` and what it wraps: as argument, reason or cause, the ways of requests and urllib3.

    Never its context: that may be an error which the caller was handling before it called us.
    """
    found = [error]
    while True:
        last = found[-1]
        inner = [getattr(last, "reason", None), *last.args, last.__cause__]
        deeper = next((e for e in inner if isinstance(e, BaseException) and e not in found), None)
        if deeper is None:
            return found
        found.append(deeper)


class _DeadlineReader(io.RawIOBase):
    """Reads a socket until a deadline, so that a peer that drips bytes cannot go on for ever."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._socket = sock
        self._stream = sock.makefile("rb", buffering=0)
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer took too long")
        self._socket.settimeout(left)
        return self._stream.readinto(buffer)

    def close(self) -> None:
        self._stream.close()
        super().close()


class _DeadlineResponse(ClientResponse):
    def __init__(self, sock: socket.socket, deadline: float, **kwargs: Any) -> None:
        super().__init__(sock, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_DeadlineReader(sock, deadline))


class _DeadlineMixin(HTTPConnection):
    """Bounds connecting and answering as a whole; urllib3 bounds each read by itself.

    urllib3 sets ``timeout`` to what connecting may take, and then to what is left of the total.
    """

    debuglevel = 0  # http.client's debug output would print credentials
    _deadline = 0.0

    def connect(self) -> None:
        seconds = self._start()
        super().connect()
        if time.monotonic() > self._deadline:
            self.close()
            raise ConnectTimeoutError(self, f"connecting took more than {seconds} seconds")

    def getresponse(self) -> Any:
        self._start()
        return super().getresponse()

    def response_class(self, sock: socket.socket, **kwargs: Any) -> _DeadlineResponse:  # type: ignore[override]
        return _DeadlineResponse(sock, self._deadline, **kwargs)

    def _start(self) -> float:
        seconds = float(self.timeout or 0)
        self._deadline = time.monotonic() + seconds
        return seconds


class _DeadlineHTTPConnection(_DeadlineMixin):
    pass


class _DeadlineHTTPSConnection(_DeadlineMixin, HTTPSConnection):
    pass


class _DeadlineHTTPPool(HTTPConnectionPool):
    ConnectionCls = _DeadlineHTTPConnection


class _DeadlineHTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _DeadlineHTTPSConnection


class _DeadlineAdapter(HTTPAdapter):
    """requests' own adapter over connections that keep a deadline."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        _use_deadlines(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        _use_deadlines(manager)
        return manager


def _use_deadlines(manager: urllib3.PoolManager) -> None:
    manager.pool_classes_by_scheme = {"http": _DeadlineHTTPPool, "https": _DeadlineHTTPSPool}
