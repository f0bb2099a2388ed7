"""A transport on httpx and httpcore: the extra ``httpx``. Keeps the promises of the default one."""

from __future__ import annotations

import os
import ssl
import zlib
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from oauth2broker.errors import BrokerError, ConfigError, TransientError, TransportError
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
    require_timeouts,
)
from oauth2broker.transports.httpcore_wire import TARGET, Progress, Wire, current
from oauth2broker.urls import checked_endpoint

BODY_LIMIT = 1024 * 1024
_CHUNK = 64 * 1024
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS


class HttpxHttpClient:
    """Sends token requests with httpx. Safe to share between threads; forgets its connections after a fork.

    No redirects, no cookies, no ``.netrc``; at most 1 MiB of body; at most ``connect_timeout`` seconds
    before the request goes out (connecting and the TLS handshake together; nothing goes out when name
    resolution, which cannot be interrupted, took longer) and ``total_timeout`` seconds for one send, however
    slowly headers or body drip in. https only, except to loopback hosts. HTTP/1.1; each request rides a
    connection of its own, because what a server sends too much must not be read as the answer to the next.

    ``verify`` is True or the path of a CA bundle, ``cert`` the path of a client certificate, or certificate
    and key. ``proxy`` is the URL of an http proxy for https requests; None: what the environment says.

    ``transport`` sends instead of all that (``httpx.MockTransport``, one that records ...). Then connections,
    certificates, and how long headers may take, are its business; it is never believed to have sent nothing,
    and requests that may go to public addresses only are refused.

    Raises :class:`ConfigError` for what is of another kind, or cannot be loaded, and for timeouts of more
    than 5 and 30 seconds.
    """

    def __init__(
        self,
        *,
        verify: bool | str | os.PathLike[str] = True,
        cert: ClientCertificate = None,
        proxy: str | None = None,
        connect_timeout: float = CONNECT_SECONDS,
        total_timeout: float = TOTAL_SECONDS,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        presented = client_certificate(cert)
        del cert  # it may be a plain key, by mistake
        if isinstance(presented, ConfigError):
            raise presented
        require_timeouts(connect_timeout, total_timeout)
        if transport is not None and (verify is not True or presented is not None or proxy is not None):
            raise ConfigError("verify, cert and proxy are the business of the transport that is given")
        self._cert = presented
        self._proxy = None if proxy is None else _checked_proxy(proxy)
        self._connect_timeout = connect_timeout
        self._total_timeout = total_timeout
        self._transport = transport
        self._tls = None if transport is not None else _tls_context(verify, presented)

    @property
    def presents_certificate(self) -> bool:
        """Whether it has a client certificate (RFC 8705)."""
        return self._cert is not None

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        """Send ``request`` once and give the answer, whatever its status.

        Raises :class:`NeverSentError`, :class:`BodyTooLargeError`, ``httpx.HTTPError``, what a transport of
        one's own raises, and :class:`ConfigError` for a URL that must not receive credentials and for an
        address that is not public where only such will do.
        """
        metadata.take()
        checked_endpoint("the request's URL", request.url)
        if request.public_only and self._transport is not None:
            raise ConfigError("a transport of one's own does not say which address it connects to")
        progress = Progress(request, self._connect_timeout, self._total_timeout)
        token = current.set(progress)
        failed: str
        try:
            return self._send(request, metadata, progress)
        except BrokerError:
            raise
        except Exception as error:
            if progress.sent:
                raise
            failed = _root(error)
        finally:
            current.reset(token)
        raise NeverSentError(failed)

    def close(self) -> None:
        """Close the transport that was given."""
        if self._transport is not None:
            self._transport.close()

    def _send(self, request: HttpRequest, metadata: ResponseMetadataSlot, progress: Progress) -> HttpResponse:
        prepared = self._prepare(request)
        with self._wire_for(request) as wire:
            progress.sent = wire is self._transport  # which says nothing of how far it got
            response = wire.handle_request(prepared)
            try:
                metadata.store(ResponseMetadata.from_headers(response.status_code, response.headers))
                body = _read_body(response, progress)
            finally:
                response.close()
        return HttpResponse(response.status_code, response.headers, body)

    def _prepare(self, request: HttpRequest) -> httpx.Request:
        """Prepare without a client, which would add cookies and headers, and log the URL."""
        headers = httpx.Headers({"User-Agent": "oauth2broker", "Accept-Encoding": "identity"})
        headers.update(request.headers)
        parts = urlsplit(request.url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connect, total = self._connect_timeout, self._total_timeout
        timeout = httpx.Timeout(total, connect=connect, pool=connect).as_dict()
        extensions = {"timeout": timeout, TARGET: target.encode("ascii")}  # as it is, not quoted anew
        return httpx.Request(
            request.method, request.url, headers=headers, content=request.body, extensions=extensions
        )

    def _wire_for(self, request: HttpRequest) -> Any:
        """Give a context manager: the caller's transport, or a connection of its own."""
        if self._transport is not None:
            return nullcontext(self._transport)
        return Wire(self._tls, self._proxy_for(request.url))

    def _proxy_for(self, url: str) -> str | None:
        """Give the proxy for ``url``; none for http, which is for loopback: a proxy would read it."""
        parts = urlsplit(url)
        if parts.scheme != "https" or self._proxy is not None:
            return self._proxy if parts.scheme == "https" else None
        named = getproxies()
        found = named.get("https") or named.get("all")
        if not found or proxy_bypass(parts.netloc):
            return None
        return _checked_proxy(found if "://" in found else f"http://{found}")


class HttpxTransportErrorMapper:
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
        if isinstance(error, httpx.TimeoutException):
            return TransientError("the provider did not answer in time")
        return TransportError(f"the connection to the provider failed ({_root(error)})")


def _tls_context(verify: bool | str | os.PathLike[str], cert: str | tuple[str, str] | None) -> ssl.SSLContext:
    trusted = checked_verify(verify)
    failed: str
    try:
        context = httpx.create_ssl_context() if trusted is True else _trusting(trusted)
        if cert is not None:
            context.load_cert_chain(*([cert] if isinstance(cert, str) else cert))
    except (OSError, ValueError) as error:
        failed = type(error).__name__
    else:
        return context
    raise ConfigError(f"verify or cert cannot be loaded ({failed})")


def _trusting(path: str) -> ssl.SSLContext:
    is_folder = Path(path).is_dir()
    return ssl.create_default_context(cafile=None if is_folder else path, capath=path if is_folder else None)


def _checked_proxy(url: str) -> str:
    if isinstance(url, str):
        parts = urlsplit(url)
        if parts.scheme == "http" and parts.hostname:
            return url
    raise ConfigError("a proxy, also one from the environment, is given as http://host:port")


def _read_body(response: httpx.Response, progress: Progress) -> bytes:
    pieces: Iterable[bytes] = response.stream  # type: ignore[assignment]
    for encoding in reversed(response.headers.get("Content-Encoding", "").lower().split(",")):
        if encoding.strip() in {"gzip", "x-gzip", "deflate"}:  # which was not asked for
            pieces = _inflate(pieces)
    body = bytearray()
    for piece in pieces:
        body += piece
        if len(body) > BODY_LIMIT:
            raise BodyTooLargeError
        if progress.seconds_left(progress.end_by) <= 0:
            raise httpx.ReadTimeout("the answer took too long")
    return bytes(body)


def _inflate(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Give what ``pieces`` say, never much of it at once."""
    decoder, is_empty = zlib.decompressobj(_GZIP_OR_ZLIB), True
    for piece in pieces:
        left = piece
        while left and not decoder.eof:
            is_empty = False
            try:
                inflated = decoder.decompress(left, _CHUNK)
            except zlib.error as error:
                raise httpx.DecodingError("the body is not what its Content-Encoding says") from error
            yield inflated
            left = decoder.unconsumed_tail
    if not (is_empty or decoder.eof):
        raise httpx.DecodingError("the body is incomplete")


def _root(error: BaseException) -> str:
    """Give the class name of what caused ``error``, at the bottom."""
    while error.__cause__ is not None:
        error = error.__cause__
    return type(error).__name__
