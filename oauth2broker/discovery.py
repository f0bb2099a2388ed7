"""Describing a provider by its own metadata: RFC 8414 and OpenID Connect Discovery 1.0."""

from __future__ import annotations

import contextlib
import copy
import json
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from oauth2broker.errors import BrokerError, ConfigError, TransientError, TransportError
from oauth2broker.grants import GrantType
from oauth2broker.provider.descriptor import ProviderDescriptor
from oauth2broker.provider.kinds import ClientAuthMethod, Endpoint, PkceSupport
from oauth2broker.provider.strategy import ProviderStrategy
from oauth2broker.quoting import safe_text
from oauth2broker.transports import requests as default
from oauth2broker.transports.base import (
    BodyTooLargeError,
    HttpRequest,
    HttpResponse,
    ResponseMetadata,
    ResponseMetadataSlot,
    TokenHttpClient,
    is_public_address,
)
from oauth2broker.urls import checked_endpoint

_ENDPOINTS = (
    "token_endpoint",
    "authorization_endpoint",
    "revocation_endpoint",
    "introspection_endpoint",
    "device_authorization_endpoint",
)
_KINDS = {list: "a list", dict: "an object", bool: "true or false"}


def discover(
    issuer: str,
    *,
    id: str | None = None,  # noqa: A002 - as in ProviderDescriptor
    metadata_url: str | None = None,
    stated_issuer: str | None = None,
    http_client: TokenHttpClient | None = None,
    allow_private: bool = False,
    mutual_tls: bool = False,
    overrides: Mapping[str, Any],
) -> ProviderDescriptor:
    """Do what :meth:`ProviderDescriptor.discover` says."""
    for name in overrides.keys() - {field.name for field in fields(ProviderDescriptor)}:
        raise ConfigError(f"there is no field {name!r:.80} to override; see ProviderDescriptor")
    if "?" in _checked("issuer", issuer, allow_private):
        raise ConfigError("issuer must not hold a query (RFC 8414 section 2)")
    places = _places(issuer)
    if metadata_url is not None:
        places = [_checked("metadata_url", metadata_url, allow_private)]
    members = _fetch_first(places, http_client, public_only=not allow_private)
    _require_issuer(members.get("issuer"), issuer if stated_issuer is None else stated_issuer)
    given = {"id": issuer.partition("://")[2].rstrip("/") if id is None else id, "issuer": issuer}
    return ProviderDescriptor(
        **describe(Metadata(members, allow_private, mutual_tls), {**given, **overrides})
    )


def describe(metadata: Metadata, given: Mapping[str, Any]) -> dict[str, Any]:
    """Give the arguments of a descriptor: those ``given``, and what the document says of the others."""
    found = dict(given)

    def fill(name: str, read: Callable[[], Any]) -> None:
        if name not in found:
            found[name] = read()

    for name in _ENDPOINTS:
        fill(name, partial(metadata.endpoint, name))
    fill("grants", lambda: _grants(metadata.words("grant_types_supported"), found["authorization_endpoint"]))
    if "client_auth" not in found:  # who overrides the preferred method mistrusts the others in the list
        found["client_auth"], *also = _by_preference(metadata.methods("token"))
        fill("client_auth_also", lambda: also)
    fill("endpoint_client_auth", lambda: dict(_differing(metadata, found["client_auth"])))
    fill("pkce", lambda: _pkce(metadata.words("code_challenge_methods_supported")))
    fill("iss_required", lambda: metadata.flag("authorization_response_iss_parameter_supported"))
    if found["token_endpoint"] is None:
        raise ConfigError("the metadata has no token_endpoint; give one as an override")
    return found


@dataclass(frozen=True, slots=True)
class Metadata:
    """A metadata document. A member that is null counts as absent; one that is used must be of its type."""

    members: Mapping[str, Any]
    allow_private: bool
    mutual_tls: bool

    def endpoint(self, name: str) -> str | None:
        """Give an endpoint; if wanted, the one for client certificates, which browsers do not show."""
        member, url = name, self.members.get(name)
        if self.mutual_tls and name != "authorization_endpoint":
            alias = (self._member("mtls_endpoint_aliases", dict) or {}).get(name)
            if alias is not None:
                member, url = f"mtls_endpoint_aliases.{name}", alias
        if url is None:
            return None
        return _checked(f"the metadata's {member}, unless overridden,", url, self.allow_private)

    def words(self, name: str) -> list[str] | None:
        """Give the strings of a list, None where there is no list."""
        found = self._member(name, list)
        return None if found is None else [word for word in found if isinstance(word, str)]

    def methods(self, endpoint: str) -> list[ClientAuthMethod] | None:
        """Give the methods of client authentication listed for an endpoint that we know, ``none`` last."""
        words = self.words(f"{endpoint}_endpoint_auth_methods_supported")
        if words is None:
            return None
        known = [ClientAuthMethod(word) for word in words if word in ClientAuthMethod.__members__.values()]
        return sorted(dict.fromkeys(known), key=lambda method: method is ClientAuthMethod.NONE)

    def flag(self, name: str) -> bool:
        """Give a boolean, False where there is none."""
        return bool(self._member(name, bool))

    def _member(self, name: str, kind: type) -> Any:
        found = self.members.get(name)
        if found is not None and not isinstance(found, kind):
            raise ConfigError(f"the metadata's {name} is not {_KINDS[kind]}; override what is read from it")
        return found


def _grants(words: Iterable[str] | None, authorization_endpoint: str | None) -> set[str]:
    """Take the grants that we know; refresh_token, which documents forget, comes with authorization_code."""
    grants: set[str] = {GrantType.AUTHORIZATION_CODE} if words is None else {*words} & {*GrantType}
    if authorization_endpoint is None:
        grants.discard(GrantType.AUTHORIZATION_CODE)
    if GrantType.AUTHORIZATION_CODE in grants:
        grants.add(GrantType.REFRESH_TOKEN)
    if not grants:
        raise ConfigError("the metadata names no grant that can be used; give grants as an override")
    return grants


def _by_preference(methods: list[ClientAuthMethod] | None) -> list[ClientAuthMethod | None]:
    """Put client_secret_basic first, which is also what a document without a list means (RFC 8414)."""
    basic = ClientAuthMethod.CLIENT_SECRET_BASIC
    if methods is None or basic in methods:
        return [basic, *(method for method in methods or () if method is not basic)]
    return [*methods] or [None]


def _differing(metadata: Metadata, usual: str | None) -> Iterable[tuple[str, str]]:
    for endpoint in (Endpoint.REVOCATION, Endpoint.INTROSPECTION):
        methods = metadata.methods(endpoint)
        if methods and usual not in methods:
            yield endpoint, methods[0]


def _pkce(methods: list[str] | None) -> PkceSupport:
    if methods is None:
        return PkceSupport.UNKNOWN
    return PkceSupport.SUPPORTED if "S256" in methods else PkceSupport.UNSUPPORTED


def _require_issuer(stated: object, expected: str) -> None:
    """RFC 8414 section 3.3: else anyone's document could pass for that of another."""
    if stated != expected:
        theirs = safe_text(stated) or "none"
        hint = "give it as stated_issuer only if the provider is known to state that"
        raise ConfigError(f"the metadata must name the issuer {expected}, it names {theirs}; {hint}")


def _checked(name: str, url: str, allow_private: bool) -> str:
    checked_endpoint(name, url)
    host = (urlsplit(url).hostname or "").rstrip(".")
    if not allow_private and (f".{host}".endswith(".localhost") or _is_private_literal(host)):
        raise ConfigError(f"{name} is not at a public address; allow_private takes it if that is meant")
    return url


def _is_private_literal(host: str) -> bool:
    """Whether ``host`` is no name but an address, in whatever notation, and not public."""
    with contextlib.suppress(OSError):
        host = socket.inet_ntoa(socket.inet_aton(host))
    try:
        return not is_public_address(host)
    except ValueError:
        return False


def _places(issuer: str) -> list[str]:
    """RFC 8414 section 3.1, then OpenID Connect Discovery 1.0 section 4."""
    bare = issuer.rstrip("/")
    parts = urlsplit(bare)
    inserted = f"/.well-known/oauth-authorization-server{parts.path}"
    return [parts._replace(path=inserted).geturl(), f"{bare}/.well-known/openid-configuration"]


def _fetch_first(
    places: list[str], http_client: TokenHttpClient | None, *, public_only: bool
) -> dict[str, Any]:
    """Give the first document there is, asking with a client of our own if need be."""
    answers = []
    with contextlib.ExitStack() as stack:
        client = http_client
        if client is None:
            client = own = default.RequestsHttpClient()
            stack.callback(own.close)
        for url in places:
            headers = {"Accept": "application/json"}
            request = HttpRequest("GET", url, headers, b"", public_only=public_only)
            found = _read(url, _send(client, request))
            if isinstance(found, dict):
                return found
            answers.append(f"{url} gave {found}")
    raise ConfigError(f"no metadata: {', '.join(answers)}; give its address as metadata_url")


def _send(client: TokenHttpClient, request: HttpRequest) -> HttpResponse:
    slot = ResponseMetadataSlot()
    try:
        response = client.send(request, slot)
    except Exception as error:  # noqa: BLE001 - a transport may raise anything
        failure = _failure(error, slot.take())
    else:
        if _is_whole(response):
            return response
        failure = TransportError(f"the transport gave no whole HttpResponse but {type(response).__name__}")
    raise failure


def _is_whole(response: HttpResponse) -> bool:
    """Whether it is what it must be, which transports of others may disregard."""
    if not isinstance(response, HttpResponse) or type(response.body) is not bytes:
        return False
    return type(response.status) is int and 100 <= response.status <= 999


def _failure(raised: Exception, metadata: ResponseMetadata | None) -> BrokerError:
    if isinstance(raised, BodyTooLargeError):
        return ConfigError("the metadata is larger than 1 MiB")
    mapper, strategy = default.RequestsTransportErrorMapper(), ProviderStrategy()
    with contextlib.suppress(Exception):  # what it is given may be odd
        return copy.copy(mapper.map_transport_error(strategy, GrantType.AUTHORIZATION_CODE, metadata, raised))
    return TransportError(f"the transport failed ({type(raised).__name__})")


def _read(url: str, response: HttpResponse) -> dict[str, Any] | str:
    """Give the document or, where another place may have it, what came instead."""
    status = response.status
    if 300 <= status < 400:
        return f"a redirect (HTTP {status}), which is not followed"
    if status == 429 or status >= 500:
        known = ResponseMetadata.from_headers(status, response.headers)
        raise TransientError(f"{url} gave HTTP {status}", status=status, retry_after=known.retry_after)
    if status != 200:
        return f"HTTP {status}"
    if len(response.body) > default.BODY_LIMIT:
        raise ConfigError("the metadata is larger than 1 MiB")
    try:
        found = json.loads(response.body)
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else "no JSON object"
