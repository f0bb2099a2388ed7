"""The port that token requests leave through, and what a transport tells about an answer."""

from __future__ import annotations

import ipaddress
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal, Protocol, TypeAlias
from urllib.parse import urlsplit

from oauth2broker.errors import BrokerError, ConfigError
from oauth2broker.grants import GrantType
from oauth2broker.provider.checks import is_path
from oauth2broker.provider.strategy import ProviderStrategy

FilePath: TypeAlias = str | os.PathLike[str]
ClientCertificate: TypeAlias = FilePath | tuple[FilePath, FilePath] | None

CONNECT_SECONDS = 5.0
TOTAL_SECONDS = 30.0
MAX_RETRY_AFTER = 3600.0
_ALLOCATED = ipaddress.ip_network("2000::/3")  # all of IPv6 that is given out for global unicast so far
_DOCUMENTATION = ipaddress.ip_network("3fff::/20")  # RFC 9637, which older Pythons do not know
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052 section 2.1


@dataclass(frozen=True, slots=True, repr=False)
class HttpRequest:
    """A request to send once. ``single_use``: the body presents a credential that works only once.

    ``public_only``: it may go to public addresses only, see :meth:`TokenHttpClient.send`. Holds secrets; its
    repr shows method and host only.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    single_use: bool = False
    public_only: bool = False

    def __repr__(self) -> str:
        return f"HttpRequest({self.method} {urlsplit(self.url).hostname})"


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A whole answer. Its header names are made lower case; its repr shows the status only."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    def __post_init__(self) -> None:
        lowered = {str(name).lower(): str(value) for name, value in self.headers.items()}
        object.__setattr__(self, "headers", lowered)
        if isinstance(self.body, bytearray | memoryview):
            object.__setattr__(self, "body", bytes(self.body))


@dataclass(frozen=True, slots=True)
class ResponseMetadata:
    """What was known as soon as the headers arrived. ``retry_after`` is in seconds, 0 to 3600."""

    status: int
    retry_after: float | None = None

    @classmethod
    def from_headers(cls, status: int, headers: Mapping[str, str]) -> ResponseMetadata:
        """Read ``Retry-After`` (RFC 9110 section 10.2.3), against the answer's own ``Date`` if it has one."""
        lowered = {name.lower(): value for name, value in headers.items()}
        return cls(status, parse_retry_after(lowered.get("retry-after"), lowered.get("date")))


class ResponseMetadataSlot:
    """Where a transport leaves the metadata of one send, for the error mapper. Used by one thread at a time.

    A transport calls :meth:`take` before it sends, so that nothing stale remains, and :meth:`store` as soon
    as the headers are there.
    """

    __slots__ = ("_metadata",)

    def __init__(self) -> None:
        self._metadata: ResponseMetadata | None = None

    def take(self) -> ResponseMetadata | None:
        """Give what is there and leave the slot empty."""
        metadata, self._metadata = self._metadata, None
        return metadata

    def store(self, metadata: ResponseMetadata) -> None:
        """Put ``metadata`` in the slot."""
        self._metadata = metadata


class BodyTooLargeError(Exception):
    """The body of an answer went over 1 MiB and was cut."""


class NeverSentError(Exception):
    """Nothing of a request went out; the message is the class name of what failed."""


def require_timeouts(connect: object, total: object) -> None:
    """Raise :class:`ConfigError` for what are no seconds, or more than a flow waits for an answer."""
    for seconds, most in ((connect, CONNECT_SECONDS), (total, TOTAL_SECONDS)):
        if not isinstance(seconds, int | float) or not 0 < seconds <= most:
            raise ConfigError(f"timeouts are at most {CONNECT_SECONDS:g} and {TOTAL_SECONDS:g} seconds")


def checked_verify(verify: object) -> Literal[True] | str:
    """Give True or the path of a CA bundle; certificates are always verified."""
    if verify is True:
        return True
    if not is_path(verify):  # requests verifies nothing by an empty one
        raise ConfigError("verify is True or the path of a CA bundle")
    return os.fspath(verify)


def client_certificate(cert: object) -> str | tuple[str, str] | ConfigError | None:
    """Give the path of a client certificate, or its and its key's, or what is wrong. Never raises."""
    match cert:
        case None:
            return None
        case (certificate, key) if isinstance(cert, tuple) and is_path(certificate) and is_path(key):
            return os.fspath(certificate), os.fspath(key)
        case _ if is_path(cert):
            return os.fspath(cert)
    return ConfigError("cert is the path of a client certificate, or a tuple of its path and its key's")


class TokenHttpClient(Protocol):
    """The transport. May be called from several threads at once."""

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        """Send once, without following redirects, and give the whole answer whatever its status.

        Bounded: it returns or raises within 30 seconds, and then nothing of the request is still going out
        (when a lost refresh token may be presented again depends on it). May raise anything; the broker's
        :class:`TransportErrorMapper` makes a :class:`BrokerError` of it.

        For a request that is ``public_only``, resolve the host's name yourself, connect to what was checked,
        and raise :class:`ConfigError` for an address that :func:`is_public_address` denies. A name that was
        checked before may lead elsewhere when it is connected to. Where a proxy resolves, it is the proxy's.
        """
        ...


class TransportErrorMapper(Protocol):
    """Makes a :class:`BrokerError` of whatever a transport raised."""

    def map_transport_error(
        self,
        strategy: ProviderStrategy,
        grant: GrantType,
        metadata: ResponseMetadata | None,
        error: Exception,
    ) -> BrokerError:
        """Give (not raise) the error that callers shall see.

        ``metadata`` is there when headers had arrived. Give a :class:`TransportError` with ``sent=False``
        only when provably nothing went out: it allows a refresh token to be presented again.
        """
        ...


def is_public_address(address: str) -> bool:
    """Whether ``address``, as a resolver gives it, is of the public internet.

    Not so are private, shared, loopback, link-local, multicast and reserved addresses, nor IPv6 addresses
    that carry such an IPv4 address (mapped, 6to4, NAT64). Raises ValueError for what is no IP address.
    """
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv4Address):
        return found.is_global and not found.is_multicast
    carried = found.ipv4_mapped or found.sixtofour
    if found in _NAT64:
        carried = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
    if carried is not None:
        return is_public_address(str(carried))
    return found in _ALLOCATED and found not in _DOCUMENTATION and found.is_global


def require_public(host: str, addresses: list[str]) -> None:
    """Raise :class:`ConfigError` unless all ``addresses`` that ``host`` resolves to are public."""
    for address in addresses:
        if not is_public_address(address):
            raise ConfigError(
                f"{host} has the address {address}, which is not public; allow it if that is meant"
            )


def parse_retry_after(value: str | None, date: str | None = None) -> float | None:
    """Give the seconds that ``Retry-After`` asks for, between 0 and 3600, or None when it says nothing.

    ``date`` is the answer's ``Date`` header, which an HTTP date is relative to.
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        until, since = _http_date(value), _http_date(date)
        if until is None:
            return None
        seconds = (until - (since or datetime.now(UTC))).total_seconds()
    return None if math.isnan(seconds) else min(max(seconds, 0.0), MAX_RETRY_AFTER)


def _http_date(value: str | None) -> datetime | None:
    try:
        found = parsedate_to_datetime(value or "")
    except (ValueError, TypeError, OverflowError):
        return None
    return found if found.utcoffset() is not None else found.replace(tzinfo=UTC)
