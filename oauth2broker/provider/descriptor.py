"""What is known about a provider, as data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from oauth2broker.errors import ConfigError
from oauth2broker.frozen import FrozenMapping, KeptByFields
from oauth2broker.grants import GrantType
from oauth2broker.ids import ProviderId
from oauth2broker.provider.checks import (
    checked_duration,
    checked_headers,
    checked_mapping,
    checked_member,
    checked_name,
    checked_names,
    checked_texts,
)
from oauth2broker.provider.kinds import (
    BodyFormat,
    ClientAuthMethod,
    Endpoint,
    PkceSupport,
    RotationPolicy,
)
from oauth2broker.provider.quirks import ProviderQuirks
from oauth2broker.provider.strategy import ProviderStrategy
from oauth2broker.records import checked_grant
from oauth2broker.urls import checked_endpoint

_OAUTHS_OWN = frozenset(
    {"response_type", "client_id", "client_secret", "redirect_uri", "scope", "state", "code", "grant_type"}
    | {"code_challenge", "code_challenge_method", "code_verifier", "refresh_token"}
)
SET_BY_THE_BROKER = frozenset(  # in authorization requests
    {"response_type", "client_id", "redirect_uri", "scope", "resource", "state"}
    | {"code_challenge", "code_challenge_method"}
)
if TYPE_CHECKING:
    from oauth2broker.transports.base import TokenHttpClient


@dataclass(frozen=True, slots=True, init=False, repr=False)
class ProviderDescriptor(KeptByFields):
    """A registration at one authorization server. Immutable, picklable, safe to share.

    Endpoints are https URLs (http for loopback hosts only) without fragments. ``refresh_endpoint`` is where
    tokens are renewed if that is not the ``token_endpoint``. ``introspection_endpoint`` and
    ``device_authorization_endpoint`` are facts for callers; the broker does not call them.

    ``client_auth`` is the preferred method and ``client_auth_also`` what else the provider takes; with None
    any credential goes, and a plain secret means client_secret_basic. ``endpoint_client_auth`` names the
    method of an :class:`Endpoint` that wants another.

    ``authorization_params``, ``token_params`` (all grants) and ``grant_params`` (by grant) are static extra
    parameters; ``token_headers`` join every request to the provider. ``resource_param`` is the name that a
    resource is sent by (RFC 8707, or ``audience``), None for a provider that takes none. PKCE is sent unless
    ``pkce`` is unsupported.

    ``rotation`` and ``reuse_grace`` (how long a spent refresh token still gets an answer, None: not at all)
    decide when a refresh token whose answer was lost may be presented again; a provider not known to keep
    its refresh tokens is treated as one that rotates. ``default_expires_in`` stands for a lifetime that is
    missing or not positive; None then means that the token never expires until it is refused.
    ``default_refresh_expires_in`` does the same for a refresh token that comes without one.

    ``iss_required``: a callback without ``iss`` is refused (RFC 9207 section 2.4). ``quirks`` declare where
    the provider leaves the RFCs, and ``strategy`` is what data cannot say, unless the broker is given
    another.

    Raises :class:`ConfigError` that says what to change.
    """

    id: ProviderId
    token_endpoint: str
    grants: frozenset[GrantType]
    authorization_endpoint: str | None
    refresh_endpoint: str | None
    revocation_endpoint: str | None
    introspection_endpoint: str | None
    device_authorization_endpoint: str | None
    issuer: str | None
    client_auth: ClientAuthMethod | None
    client_auth_also: frozenset[ClientAuthMethod]
    endpoint_client_auth: Mapping[str, ClientAuthMethod]
    pkce: PkceSupport
    scope_delimiter: str
    resource_param: str | None
    authorization_params: Mapping[str, str]
    token_params: Mapping[str, str]
    grant_params: Mapping[str, Mapping[str, str]]
    token_headers: Mapping[str, str]
    body_format: BodyFormat
    rotation: RotationPolicy
    reuse_grace: timedelta | None
    default_expires_in: timedelta | None
    default_refresh_expires_in: timedelta | None
    iss_required: bool
    quirks: ProviderQuirks
    strategy: ProviderStrategy | None

    def __init__(
        self,
        id: str,  # noqa: A002 - the RFCs' and the design's word
        token_endpoint: str,
        grants: Iterable[str],
        *,
        authorization_endpoint: str | None = None,
        refresh_endpoint: str | None = None,
        revocation_endpoint: str | None = None,
        introspection_endpoint: str | None = None,
        device_authorization_endpoint: str | None = None,
        issuer: str | None = None,
        client_auth: str | None = None,
        client_auth_also: Iterable[str] = (),
        endpoint_client_auth: Mapping[str, str] | None = None,
        pkce: str = PkceSupport.UNKNOWN,
        scope_delimiter: str = " ",
        resource_param: str | None = "resource",
        authorization_params: Mapping[str, str] | None = None,
        token_params: Mapping[str, str] | None = None,
        grant_params: Mapping[str, Mapping[str, str]] | None = None,
        token_headers: Mapping[str, str] | None = None,
        body_format: str = BodyFormat.FORM,
        rotation: str = RotationPolicy.SOMETIMES,
        reuse_grace: timedelta | None = None,
        default_expires_in: timedelta | None = None,
        default_refresh_expires_in: timedelta | None = None,
        iss_required: bool = False,
        quirks: ProviderQuirks | None = None,
        strategy: ProviderStrategy | None = None,
    ) -> None:
        put = object.__setattr__
        put(self, "id", ProviderId(id))
        put(self, "token_endpoint", checked_endpoint("token_endpoint", token_endpoint))
        put(self, "grants", _grants(grants))
        put(self, "authorization_endpoint", _url("authorization_endpoint", authorization_endpoint))
        put(self, "refresh_endpoint", _url("refresh_endpoint", refresh_endpoint))
        put(self, "revocation_endpoint", _url("revocation_endpoint", revocation_endpoint))
        put(self, "introspection_endpoint", _url("introspection_endpoint", introspection_endpoint))
        device = _url("device_authorization_endpoint", device_authorization_endpoint)
        put(self, "device_authorization_endpoint", device)
        put(self, "issuer", _url("issuer", issuer))
        put(self, "client_auth", None if client_auth is None else _method("client_auth", client_auth))
        also = checked_names("client_auth_also", client_auth_also)
        put(self, "client_auth_also", frozenset(_method("client_auth_also", method) for method in also))
        put(self, "endpoint_client_auth", _methods(endpoint_client_auth))
        put(self, "pkce", checked_member("pkce", PkceSupport, pkce))
        put(self, "scope_delimiter", _delimiter(scope_delimiter))
        put(self, "resource_param", _resource_param(resource_param))
        put(self, "authorization_params", _extras(authorization_params))
        put(self, "token_params", checked_texts("token_params", token_params))
        put(self, "grant_params", _by_grant(grant_params))
        put(self, "token_headers", checked_headers("token_headers", token_headers))
        put(self, "body_format", checked_member("body_format", BodyFormat, body_format))
        put(self, "rotation", checked_member("rotation", RotationPolicy, rotation))
        put(self, "reuse_grace", checked_duration("reuse_grace", reuse_grace))
        put(self, "default_expires_in", checked_duration("default_expires_in", default_expires_in))
        lifetime = checked_duration("default_refresh_expires_in", default_refresh_expires_in)
        put(self, "default_refresh_expires_in", lifetime)
        put(self, "iss_required", bool(iss_required))
        put(self, "quirks", _quirks(quirks))
        put(self, "strategy", _strategy(strategy))
        if GrantType.AUTHORIZATION_CODE in self.grants and self.authorization_endpoint is None:
            raise ConfigError("the authorization_code grant needs an authorization_endpoint")
        if self.iss_required and self.issuer is None:
            raise ConfigError("iss_required needs an issuer to compare with")
        if self.pkce is PkceSupport.REQUIRED and None in self._pkce_names():
            raise ConfigError("pkce is required, so param_names may not leave out a parameter of it")
        if self.client_auth is None and self.client_auth_also:
            raise ConfigError("client_auth_also needs a client_auth, the method that is preferred")

    def _pkce_names(self) -> set[str | None]:
        ours = ("code_challenge", "code_challenge_method", "code_verifier")
        return {self.quirks.param_names.get(name, name) for name in ours}

    @classmethod
    def discover(
        cls,
        issuer: str,
        *,
        id: str | None = None,  # noqa: A002 - as above
        metadata_url: str | None = None,
        stated_issuer: str | None = None,
        http_client: TokenHttpClient | None = None,
        allow_private: bool = False,
        mutual_tls: bool = False,
        **overrides: Any,
    ) -> ProviderDescriptor:
        """Describe a provider by its own metadata (RFC 8414, OpenID Connect Discovery 1.0).

        For issuers from your configuration, never from a request: whoever names the issuer says where your
        client's credentials go. The document must name exactly ``issuer`` (or ``stated_issuer``, for one that
        is known to misstate itself, with :func:`dataclasses.replace` for what assertions and callbacks call
        it); it is read from the well-known places or ``metadata_url``, over https, without redirects, at most
        1 MiB in 30 seconds from each. Addresses that are not public are refused unless ``allow_private``.
        ``mutual_tls`` takes the endpoints for client certificates (RFC 8705 section 5).
        ``overrides`` are fields of the descriptor, for documents that are wrong; ``id`` is by default the
        issuer without its scheme.

        Raises :class:`ConfigError` for a document that cannot be used, :class:`TransientError` or
        :class:`TransportError` when there is none to be had now.
        """
        from oauth2broker.discovery import discover

        return discover(
            issuer,
            id=id,
            metadata_url=metadata_url,
            stated_issuer=stated_issuer,
            http_client=http_client,
            allow_private=allow_private,
            mutual_tls=mutual_tls,
            overrides=overrides,
        )

    def require_grant(self, grant: GrantType) -> None:
        """Raise :class:`ConfigError` unless the provider supports ``grant``."""
        if grant not in self.grants:
            raise ConfigError(f"provider {self.id} does not support the {grant} grant")


def _grants(grants: Iterable[str]) -> frozenset[GrantType]:
    if isinstance(grants, str) or not isinstance(grants, Iterable):
        raise ConfigError(f"grants is a set of GrantType, not {type(grants).__name__}")
    found = frozenset(checked_grant(grant) for grant in grants)
    if not found:
        raise ConfigError("grants must name at least one grant")
    return found


def _url(name: str, url: str | None) -> str | None:
    return None if url is None else checked_endpoint(name, url)


def _extras(params: Mapping[str, str] | None) -> Mapping[str, str]:
    found = checked_texts("authorization_params", params)
    for name in sorted(SET_BY_THE_BROKER & found.keys()):
        raise ConfigError(f"authorization_params may not override {name}, which the broker sets")
    return found


def _resource_param(name: str | None) -> str | None:
    if name is not None and checked_name("resource_param", name) in _OAUTHS_OWN:
        raise ConfigError(f"resource_param may not be {name}, which is a parameter of its own")
    return name


def _delimiter(delimiter: str) -> str:
    if delimiter not in (" ", ",", "+"):
        raise ConfigError("scope_delimiter is a space, a comma or a plus sign")
    return delimiter


def _method(name: str, method: str) -> ClientAuthMethod:
    return checked_member(name, ClientAuthMethod, method)


def _methods(methods: Mapping[str, str] | None) -> Mapping[str, ClientAuthMethod]:
    name = "endpoint_client_auth"
    found = checked_texts(name, methods)
    return FrozenMapping(
        {checked_member(name, Endpoint, key): _method(name, value) for key, value in found.items()}
    )


def _by_grant(params: Mapping[str, Mapping[str, str]] | None) -> Mapping[str, Mapping[str, str]]:
    name = "grant_params"
    found = checked_mapping(name, params)
    return FrozenMapping(
        {
            checked_member(name, GrantType, grant): checked_texts(name, extras)  # type: ignore[arg-type]
            for grant, extras in found.items()
        }
    )


def _quirks(quirks: ProviderQuirks | None) -> ProviderQuirks:
    if quirks is not None and not isinstance(quirks, ProviderQuirks):
        raise ConfigError(f"quirks is a ProviderQuirks, not {type(quirks).__name__}")
    return quirks or ProviderQuirks()


def _strategy(strategy: ProviderStrategy | None) -> ProviderStrategy | None:
    if strategy is not None and not isinstance(strategy, ProviderStrategy):
        raise ConfigError(f"strategy is a ProviderStrategy, not {type(strategy).__name__}")
    return strategy
