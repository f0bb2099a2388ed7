"""The default transport, on requests. The only file that imports requests."""

from __future__ import annotations

import io
import logging
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from http.client import HTTPResponse as ClientResponse
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError
from urllib3.util.connection import create_connection

from oauth2broker.errors import BrokerError, ConfigError, TransientError, TransportError
from oauth2broker.forking import forget_in_children
from oauth2broker.grants import GrantType
from oauth2broker.provider.strategy import ProviderStrategy
from oauth2broker.transports.base import (
    CONNECT_SECONDS,
    TOTAL_SECONDS,
    BodyTooLargeError,
    ClientCertificate,
    HttpRequest,
    HttpResponse,
    NeverSentError,
    ResponseMetadata,
    ResponseMetadataSlot,
    checked_verify,
    client_certificate,
    require_public,
    require_timeouts,
)
from oauth2broker.urls import checked_endpoint

BODY_LIMIT = 1024 * 1024
_CHUNK = 64 * 1024
_POOLED = 32


class RequestsHttpClient:
    """Sends token requests with requests. Safe to share between threads.

    No redirects, no cookies, no ``.netrc``; at most 1 MiB of body; at most ``connect_timeout`` seconds
    before the request goes out (connecting and the TLS handshake together; nothing goes out when name
    resolution, which cannot be interrupted, took longer) and ``total_timeout`` seconds for one send, however
    slowly headers or body drip in. https only, except to loopback hosts; a request that presents a single-use
    credential rides a connection of its own.

    ``verify`` is True or the path of a CA bundle; certificates are always verified. ``cert`` (a client
    certificate's path, or certificate and key) and ``proxies`` are as in requests; proxies from the
    environment apply to https only. Raises :class:`ConfigError` for what is of another kind, and for timeouts
    of more than 5 and 30 seconds.
    """

    def __init__(
        self,
        *,
        verify: bool | str | os.PathLike[str] = True,
        cert: ClientCertificate = None,
        proxies: dict[str, str] | None = None,
        connect_timeout: float = CONNECT_SECONDS,
        total_timeout: float = TOTAL_SECONDS,
    ) -> None:
        presented = client_certificate(cert)
        del cert  # it may be a plain key, by mistake
        if isinstance(presented, ConfigError):
            raise presented
        require_timeouts(connect_timeout, total_timeout)
        if proxies is not None and not isinstance(proxies, Mapping):
            raise ConfigError("proxies are a dict of proxies' URLs by scheme, as in requests")
        self._verify = checked_verify(verify)
        self._cert = presented
        self._proxies = dict(proxies or {})
        self._connect_timeout = connect_timeout
        self._total_timeout = total_timeout
        self._pooled = _DeadlineAdapter(pool_maxsize=_POOLED)
        forget_in_children(self)

    @property
    def presents_certificate(self) -> bool:
        """Whether it has a client certificate (RFC 8705)."""
        return self._cert is not None

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        """Send ``request`` once and give the answer, whatever its status.

        Raises :class:`NeverSentError`, :class:`BodyTooLargeError`, what requests and urllib3 raise, and
        :class:`ConfigError` for a URL that must not receive credentials and for an address that is not public
        where only such will do.
        """
        metadata.take()
        checked_endpoint("the request's URL", request.url)
        alone = request.single_use or request.public_only
        adapter = _DeadlineAdapter() if alone else self._pooled
        progress = _Progress(request.public_only)
        token = _progress.set(progress)
        failed: str
        try:
            return self._send(request, metadata, adapter)
        except BrokerError:
            raise
        except Exception as error:
            if not progress.is_sure_that_nothing_went_out:
                raise
            failed = _root(error)
        finally:
            _progress.reset(token)
            if adapter is not self._pooled:
                adapter.close()
        raise NeverSentError(failed)

    def close(self) -> None:
        """Close the idle connections."""
        self._pooled.close()

    def forget_after_fork(self) -> None:
        """The pooled connections are the parent's."""
        self._pooled = _DeadlineAdapter(pool_maxsize=_POOLED)

    def _send(
        self, request: HttpRequest, metadata: ResponseMetadataSlot, adapter: HTTPAdapter
    ) -> HttpResponse:
        with adapter.send(
            self._prepare(request),
            timeout=urllib3.Timeout(connect=self._connect_timeout, total=self._total_timeout),  # type: ignore[arg-type]
            **self._settings(request.url),
        ) as response:
            metadata.store(ResponseMetadata.from_headers(response.status_code, response.headers))
            return HttpResponse(response.status_code, response.headers, _read_body(response))

    @staticmethod
    def _prepare(request: HttpRequest) -> requests.PreparedRequest:
        """Prepare without a session, which would add cookies, headers and what ``.netrc`` says."""
        headers = {"User-Agent": "oauth2broker", "Accept-Encoding": "identity", **request.headers}
        body: str | bytes = request.body
        if request.body.isascii():
            body = request.body.decode("ascii")  # text, which mocks can match on
        return requests.Request(request.method, request.url, headers=headers, data=body).prepare()

    def _settings(self, url: str) -> dict[str, Any]:
        """Give proxies and certificates, with what the environment says of them."""
        session = requests.Session()
        session.trust_env = urlsplit(url).scheme == "https"  # a proxy would read what goes to loopback
        proxies = dict(self._proxies)  # a copy, because requests adds the environment's to it
        return dict(session.merge_environment_settings(url, proxies, True, self._verify, self._cert))


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
        if isinstance(error, BrokerError):
            return error
        if isinstance(error, NeverSentError):
            return TransportError(f"the provider could not be reached ({error})", sent=False)
        if metadata is not None:
            message = f"the provider's answer could not be read to its end ({type(error).__name__})"
            return TransientError(message, status=metadata.status, retry_after=metadata.retry_after)
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


def _root(error: BaseException) -> str:
    """Give the class name of what ``error`` wraps, as argument, reason or cause, at the bottom."""
    seen = [error]
    while True:
        last = seen[-1]
        inner = (getattr(last, "reason", None), *last.args, last.__cause__)
        deeper = next((e for e in inner if isinstance(e, BaseException) and e not in seen), None)
        if deeper is None:
            return type(last).__name__
        seen.append(deeper)


class _Progress:
    """How far one send may go and got. Only our own connections tell; a mock in their place says nothing."""

    __slots__ = ("public_only", "sent", "started")

    def __init__(self, public_only: bool) -> None:
        self.public_only = public_only
        self.started = False
        self.sent = False

    @property
    def is_sure_that_nothing_went_out(self) -> bool:
        return self.started and not self.sent


_progress: ContextVar[_Progress] = ContextVar("oauth2broker_progress")


class _WithoutSecrets(logging.Filter):
    """Keeps out of urllib3's logs what may hold secrets.

    That is the query of our URLs, where some providers take them, and what an answer held that could not be
    parsed.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if _progress.get(None) is not None and isinstance(record.args, tuple):
            record.args = tuple(_harmless(part) for part in record.args)
            record.exc_info = record.exc_text = None
        return True


def _harmless(part: object) -> object:
    if isinstance(part, BaseException):
        return type(part).__name__
    return part.partition("?")[0] if isinstance(part, str) else part


for _name in ("urllib3.connectionpool", "urllib3.connection", "urllib3.util.retry"):
    logging.getLogger(_name).addFilter(_WithoutSecrets())


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

    def begin(self) -> None:
        """Pass over interim answers (RFC 9110 section 15.2), of which http.client knows 100 only."""
        super().begin()
        while 100 <= self.status < 200:
            self.headers = self.msg = None  # type: ignore[assignment]
            super().begin()


class _DeadlineMixin(HTTPConnection):
    """Bounds connecting and answering as a whole; urllib3 bounds each read by itself.

    urllib3 sets ``timeout`` to what connecting may take, and then to what is left of the total.
    """

    debuglevel = 0  # http.client's debug output would print credentials
    _deadline = 0.0
    _is_connected = False

    def connect(self) -> None:
        self._is_connected = False
        seconds = self._start()
        super().connect()
        self._is_connected = True
        if time.monotonic() > self._deadline:
            self.close()
            raise ConnectTimeoutError(self, f"connecting took more than {seconds} seconds")

    def _new_conn(self) -> socket.socket:
        """Connect to the first address that answers, all of them together within the deadline."""
        failed: OSError = TimeoutError("connecting took too long")
        found = socket.getaddrinfo(self._dns_host, self.port, type=socket.SOCK_STREAM)
        if _progress.get().public_only and self.proxy is None:  # with one, it is the proxy that resolves
            require_public(self.host, [str(address[0]) for *_, address in found])
        for *_, address in found:
            left = self._deadline - time.monotonic()
            if left <= 0:
                break
            try:
                return create_connection(
                    (str(address[0]), self.port), left, self.source_address, self.socket_options
                )
            except OSError as error:
                failed = error
        raise failed

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        if self._is_connected:  # else it is the proxy that is spoken to
            _progress.get().sent = True
        super().send(data)

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

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        _progress.get().started = True
        return super().get_connection_with_tls_context(*args, **kwargs)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Tell a file that is not there from the network, whose errors are OSErrors as well."""
        with suppress(OSError):
            super().cert_verify(conn, url, verify, cert)  # type: ignore[no-untyped-call]
            return
        raise ConfigError(f"verify or cert names a file that is not there: {verify!r}, {cert!r}")

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        _use_deadlines(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        _use_deadlines(manager)
        return manager


def _use_deadlines(manager: urllib3.PoolManager) -> None:
    manager.pool_classes_by_scheme = {"http": _DeadlineHTTPPool, "https": _DeadlineHTTPSPool}
