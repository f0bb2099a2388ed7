"""What is known about a provider, as data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TypeVar

from oauth2broker.errors import ConfigError
from oauth2broker.frozen import FrozenMapping, ShownByFields
from oauth2broker.grants import GrantType
from oauth2broker.ids import ProviderId
from oauth2broker.records import checked_grant, checked_text
from oauth2broker.urls import checked_endpoint

Kind = TypeVar("Kind", bound=StrEnum)


class ClientAuthMethod(StrEnum):
    """How the client authenticates (RFC 6749 section 2.3; names as in RFC 7591 section 2)."""

    CLIENT_SECRET_BASIC = "client_secret_basic"
    CLIENT_SECRET_POST = "client_secret_post"
    NONE = "none"


class RotationPolicy(StrEnum):
    """Whether a refresh answer brings another refresh token and spends the one presented."""

    ALWAYS = "always"
    SOMETIMES = "sometimes"
    NEVER = "never"


@dataclass(frozen=True, slots=True, init=False, repr=False)
class ProviderQuirks(ShownByFields):
    """Where a provider leaves the RFCs, declared.

    ``error_codes`` maps the provider's own error codes to those of RFC 6749 section 5.2, which decides
    whether an answer means a dead grant, a wrong client or an outage.
    """

    error_codes: Mapping[str, str]

    def __init__(self, *, error_codes: Mapping[str, str] | None = None) -> None:
        object.__setattr__(self, "error_codes", _texts("error_codes", error_codes))


@dataclass(frozen=True, slots=True, init=False, repr=False)
class ProviderDescriptor(ShownByFields):
    """A registration at one authorization server. Immutable, picklable, safe to share.

    ``client_auth`` None means client_secret_basic with a secret and none without. ``authorization_params``
    and ``token_params`` are static extra parameters. ``rotation`` and ``reuse_grace`` (how long a spent
    refresh token still gets an answer, None: not at all) decide when a refresh token whose answer was lost
    may be presented again; a provider not known to keep its refresh tokens is treated as one that rotates.
    ``default_expires_in`` stands for a lifetime that is missing or not positive; None then means that the
    token never expires until it is refused. ``iss_required``: a callback without ``iss`` is refused (RFC
    9207 section 2.4).

    Raises :class:`ConfigError` that says what to change.
    """

    id: ProviderId
    token_endpoint: str
    grants: frozenset[GrantType]
    authorization_endpoint: str | None
    revocation_endpoint: str | None
    issuer: str | None
    client_auth: ClientAuthMethod | None
    scope_delimiter: str
    authorization_params: Mapping[str, str]
    token_params: Mapping[str, str]
    rotation: RotationPolicy
    reuse_grace: timedelta | None
    default_expires_in: timedelta | None
    iss_required: bool
    quirks: ProviderQuirks

    def __init__(
        self,
        id: str,  # noqa: A002 - the RFCs' and the design's word
        token_endpoint: str,
        grants: Iterable[str],
        *,
        authorization_endpoint: str | None = None,
        revocation_endpoint: str | None = None,
        issuer: str | None = None,
        client_auth: str | None = None,
        scope_delimiter: str = " ",
        authorization_params: Mapping[str, str] | None = None,
        token_params: Mapping[str, str] | None = None,
        rotation: str = RotationPolicy.SOMETIMES,
        reuse_grace: timedelta | None = None,
        default_expires_in: timedelta | None = None,
        iss_required: bool = False,
        quirks: ProviderQuirks | None = None,
    ) -> None:
        put = object.__setattr__
        put(self, "id", ProviderId(id))
        put(self, "token_endpoint", checked_endpoint("token_endpoint", token_endpoint))
        put(self, "grants", _grants(grants))
        put(self, "authorization_endpoint", _url("authorization_endpoint", authorization_endpoint))
        put(self, "revocation_endpoint", _url("revocation_endpoint", revocation_endpoint))
        put(self, "issuer", None if issuer is None else checked_text("issuer", issuer))
        put(
            self,
            "client_auth",
            None if client_auth is None else _member("client_auth", ClientAuthMethod, client_auth),
        )
        put(self, "scope_delimiter", _delimiter(scope_delimiter))
        put(self, "authorization_params", _texts("authorization_params", authorization_params))
        put(self, "token_params", _texts("token_params", token_params))
        put(self, "rotation", _member("rotation", RotationPolicy, rotation))
        put(self, "reuse_grace", _duration("reuse_grace", reuse_grace))
        put(self, "default_expires_in", _duration("default_expires_in", default_expires_in))
        put(self, "iss_required", bool(iss_required))
        put(self, "quirks", _quirks(quirks))
        if GrantType.AUTHORIZATION_CODE in self.grants and self.authorization_endpoint is None:
            raise ConfigError("the authorization_code grant needs an authorization_endpoint")
        if self.iss_required and self.issuer is None:
            raise ConfigError("iss_required needs an issuer to compare with")

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


def _delimiter(delimiter: str) -> str:
    if delimiter not in (" ", ",", "+"):
        raise ConfigError("scope_delimiter is a space, a comma or a plus sign")
    return delimiter


def _texts(name: str, items: Mapping[str, str] | None) -> Mapping[str, str]:
    if items is None:
        return FrozenMapping()
    if not isinstance(items, Mapping):
        raise ConfigError(f"{name} is a mapping of strings")
    for key, value in items.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise ConfigError(f"{name} maps strings to strings")
    return FrozenMapping(items)


def _duration(name: str, value: timedelta | None) -> timedelta | None:
    if value is not None and (not isinstance(value, timedelta) or value <= timedelta()):
        raise ConfigError(f"{name} is a positive timedelta or None")
    return value


def _member(name: str, kind: type[Kind], value: str) -> Kind:
    if value in kind.__members__.values():
        return kind(value)
    raise ConfigError(f"{name} is one of {', '.join(kind)}, not {value!r:.80}")


def _quirks(quirks: ProviderQuirks | None) -> ProviderQuirks:
    if quirks is not None and not isinstance(quirks, ProviderQuirks):
        raise ConfigError(f"quirks is a ProviderQuirks, not {type(quirks).__name__}")
    return quirks or ProviderQuirks()
