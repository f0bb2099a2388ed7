"""What is kept about a token: its key, the record itself, and the record's JSON."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from oauth2broker.errors import BrokerError, ConfigError, InsufficientScopeError, SerializationError
from oauth2broker.frozen import FrozenMapping, ShownByFields, thaw
from oauth2broker.grants import GrantType
from oauth2broker.ids import PrincipalId, ProviderId, TenantId
from oauth2broker.scopes import ScopeSet
from oauth2broker.secret import TokenSecret, wrap_secret

KEY_VERSION = "oauth2broker/key/1"
RECORD_VERSION = 1
_CANONICAL = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"))
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""Where POSIX seconds count from."""
LONG_AGO = EPOCH
"""When an access token that was never there expired."""
LONGEST_SKEW = timedelta(seconds=300)
"""How far the clocks of two hosts, or of one host on two days, may be apart."""


@dataclass(frozen=True, slots=True, init=False, repr=False)
class TokenFamily(ShownByFields):
    """What one consent covers. Raises :class:`ConfigError` for an id that cannot be one."""

    tenant: TenantId
    principal: PrincipalId
    provider: ProviderId
    client_id: str

    def __init__(self, tenant: str, principal: str, provider: str, client_id: str) -> None:
        object.__setattr__(self, "tenant", TenantId(tenant))
        object.__setattr__(self, "principal", PrincipalId(principal))
        object.__setattr__(self, "provider", ProviderId(provider))
        object.__setattr__(self, "client_id", checked_text("client_id", client_id))


@dataclass(frozen=True, slots=True)
class StoreKey:
    """Names one record in a store. Whatever changes the token is in it.

    ``digest`` is the hex SHA-256 of a versioned canonical JSON array, the same in every process, and safe
    as a file name or a database key. ``spread`` is a number from 0 to 1 drawn from it, for jitter.
    """

    family: TokenFamily
    scope_fingerprint: str
    resource: str | None
    grant: GrantType
    digest: str = field(init=False, compare=False)
    spread: float = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.family, TokenFamily):
            raise ConfigError(f"family is a TokenFamily, not {type(self.family).__name__}")
        checked_text("scope_fingerprint", self.scope_fingerprint)
        if self.resource is not None:
            checked_text("resource", self.resource)
        object.__setattr__(self, "grant", checked_grant(self.grant))
        parts = [
            KEY_VERSION,
            self.family.tenant,
            self.family.principal,
            self.family.provider,
            self.family.client_id,
            self.scope_fingerprint,
            self.resource,
            self.grant,
        ]
        digest = hashlib.sha256(_CANONICAL.encode(parts).encode("ascii")).hexdigest()
        object.__setattr__(self, "digest", digest)
        object.__setattr__(self, "spread", int(digest[:8], 16) / 2**32)


class TokenStatus(StrEnum):
    """What a record is at one moment."""

    PENDING = "pending"
    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, init=False, repr=False, kw_only=True)
class TokenRecord(ShownByFields):
    """One token as issued, immutable. Times are aware UTC datetimes; plain strings are coerced.

    ``scope`` is what was asked for, ``granted_scope`` what the provider said it gave. ``expires_at`` is None
    when the provider does not say. ``attempted_at`` is when the refresh token was last presented without a
    known answer, ``retry_at`` when the provider may be asked again, ``failures`` how many renewals failed
    since the last one that did not. ``extra`` holds the other members of the provider's answer. A record
    with ``revoked_at`` is a tombstone and holds no secrets; a record whose access token is empty remembers
    only failures. ``serves_from`` and ``serves_until`` bound, in POSIX seconds, when it can be served at all,
    so that serving it compares two floats. Raises :class:`ConfigError` for values that cannot be.
    """

    family: TokenFamily
    scope: ScopeSet
    granted_scope: ScopeSet
    resource: str | None
    grant: GrantType
    access_token: TokenSecret
    refresh_token: TokenSecret | None
    token_type: str
    issued_at: datetime
    expires_at: datetime | None
    refresh_expires_at: datetime | None
    revoked_at: datetime | None
    attempted_at: datetime | None
    retry_at: datetime | None
    failures: int
    id_token: TokenSecret | None
    extra: FrozenMapping
    key: StoreKey = field(init=False, compare=False, repr=False)
    serves_from: float = field(init=False, compare=False, repr=False)
    serves_until: float = field(init=False, compare=False, repr=False)

    def __init__(
        self,
        *,
        family: TokenFamily,
        access_token: str | TokenSecret,
        issued_at: datetime,
        scope: str | Iterable[str] = (),
        granted_scope: str | Iterable[str] | None = None,
        resource: str | None = None,
        grant: str = GrantType.AUTHORIZATION_CODE,
        refresh_token: str | TokenSecret | None = None,
        token_type: str = "Bearer",
        expires_at: datetime | None = None,
        refresh_expires_at: datetime | None = None,
        revoked_at: datetime | None = None,
        attempted_at: datetime | None = None,
        retry_at: datetime | None = None,
        failures: int = 0,
        id_token: str | TokenSecret | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        secrets = wrap_secret(access_token), wrap_secret(refresh_token), wrap_secret(id_token)
        frozen = _frozen(extra)
        del access_token, refresh_token, id_token, extra  # from here on nothing plain is in this frame
        put = object.__setattr__
        for name, secret in zip(("access_token", "refresh_token", "id_token"), secrets, strict=True):
            if isinstance(secret, ConfigError):
                raise secret
            put(self, name, secret)
        if self.access_token is None:
            raise ConfigError("access_token is a str, not None")
        if isinstance(frozen, ConfigError):
            raise frozen
        put(self, "extra", frozen)
        if not isinstance(family, TokenFamily):
            raise ConfigError(f"family is a TokenFamily, not {type(family).__name__}")
        if type(failures) is not int or failures < 0:
            raise ConfigError("failures is a number from 0")
        put(self, "family", family)
        put(self, "scope", ScopeSet(scope))
        put(self, "granted_scope", self.scope if granted_scope is None else ScopeSet(granted_scope))
        put(self, "resource", None if resource is None else checked_text("resource", resource))
        put(self, "grant", checked_grant(grant))
        put(self, "token_type", checked_text("token_type", token_type))
        put(self, "issued_at", _utc("issued_at", issued_at))
        put(self, "expires_at", _optional_utc("expires_at", expires_at))
        put(self, "refresh_expires_at", _optional_utc("refresh_expires_at", refresh_expires_at))
        put(self, "revoked_at", _optional_utc("revoked_at", revoked_at))
        put(self, "attempted_at", _optional_utc("attempted_at", attempted_at))
        put(self, "retry_at", _optional_utc("retry_at", retry_at))
        put(self, "failures", failures)
        key = StoreKey(self.family, self.scope.fingerprint, self.resource, self.grant)
        put(self, "key", key)
        put(self, "serves_from", self.issued_at.timestamp() - LONGEST_SKEW.total_seconds())
        put(self, "serves_until", _last_second(self))

    def status_at(self, now: datetime) -> TokenStatus:
        """Say what this record is at ``now`` (an aware datetime)."""
        if self.revoked_at is not None:
            return TokenStatus.REVOKED
        if now < self.issued_at:
            return TokenStatus.PENDING
        if self.expires_at is not None and now >= self.expires_at:
            return TokenStatus.EXPIRED
        return TokenStatus.ACTIVE

    def require_scope(self, scope: str | Iterable[str] | None = None) -> TokenRecord:
        """Give this record if ``scope`` (None: all that was asked for) was granted.

        Raises :class:`InsufficientScopeError` that names the missing tokens.
        """
        wanted = self.scope if scope is None else ScopeSet(scope)
        granted = set(self.granted_scope)
        missing = [token for token in wanted if token not in granted]
        if missing:
            raise InsufficientScopeError(f"scope not granted: {' '.join(missing)}")
        return self

    def tombstone(self, instant: datetime) -> TokenRecord:
        """Give this record revoked at ``instant``, its secrets and the provider's answer removed."""
        return TokenRecord(
            family=self.family,
            scope=self.scope,
            granted_scope=self.granted_scope,
            resource=self.resource,
            grant=self.grant,
            access_token="",
            token_type=self.token_type,
            issued_at=self.issued_at,
            expires_at=self.expires_at,
            refresh_expires_at=self.refresh_expires_at,
            revoked_at=instant,
        )

    def to_json(self) -> str:
        """Give the record as JSON, with a version. The text holds the plain secrets."""
        members: dict[str, Any] = {
            "version": RECORD_VERSION,
            "family": _family_members(self.family),
        }
        for spec in _STORED_FIELDS:
            members[spec] = _plain(getattr(self, spec))
        return json.dumps(members, ensure_ascii=True, allow_nan=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> TokenRecord:
        """Read what :meth:`to_json` wrote.

        Raises :class:`SerializationError` for anything else, without a word of the text in the message.
        """
        found = _decoded(text)
        del text
        if isinstance(found, str):
            raise SerializationError(found)
        return found


_STORED_FIELDS = tuple(spec.name for spec in fields(TokenRecord) if spec.init and spec.name != "family")
_TIMES = tuple(name for name in _STORED_FIELDS if name.endswith("_at"))


def _last_second(record: TokenRecord) -> float:
    if record.revoked_at is not None:
        return -math.inf
    return math.inf if record.expires_at is None else record.expires_at.timestamp()


def checked_text(name: str, value: str) -> str:
    """Give ``value`` if it is non-empty printable text, else raise :class:`ConfigError`."""
    if not isinstance(value, str):
        raise ConfigError(f"{name} is a str, not {type(value).__name__}")
    value = str.__str__(value)  # the characters themselves, whatever a subclass says of them
    if not value or not value.isprintable():
        raise ConfigError(f"{name} must be printable and not empty")
    return value


def checked_grant(grant: str) -> GrantType:
    """Give the :class:`GrantType` of that name, else raise :class:`ConfigError`."""
    if isinstance(grant, GrantType) or grant in GrantType.__members__.values():
        return GrantType(grant)
    raise ConfigError(f"not a grant type: {grant!r:.80}")


def _frozen(extra: Mapping[str, Any] | None) -> FrozenMapping | ConfigError:
    """Give the frozen mapping, or what is wrong. Never raises, so that no traceback holds the values."""
    if extra is not None and not isinstance(extra, Mapping):
        return ConfigError(f"extra is a mapping, not {type(extra).__name__}")
    try:
        return FrozenMapping(extra)
    except ConfigError as error:
        return copy.copy(error)


def _utc(name: str, value: datetime) -> datetime:
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise ConfigError(f"{name} is an aware datetime")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        pass
    raise ConfigError(f"{name} is out of range")


def _optional_utc(name: str, value: datetime | None) -> datetime | None:
    return None if value is None else _utc(name, value)


def _family_members(family: TokenFamily) -> dict[str, str]:
    return {spec.name: str(getattr(family, spec.name)) for spec in fields(family)}


def _plain(value: Any) -> Any:
    if isinstance(value, TokenSecret):
        return value.expose()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, ScopeSet):
        return value.normalized
    return thaw(value)


def _decoded(text: str | bytes) -> TokenRecord | str:
    """Give the record, or what is wrong. Never raises, so that no traceback holds the text."""
    try:
        members = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return "not JSON"
    if not isinstance(members, dict):
        return "not a JSON object"
    version = members.pop("version", None)
    if type(version) is not int or version != RECORD_VERSION:
        return "not a token record, or one of an unknown version"
    if members.keys() != {"family", *_STORED_FIELDS}:
        return "members are missing or unknown"
    if not isinstance(members["granted_scope"], str) or not isinstance(members["extra"], dict):
        return "a member has a value that cannot be"
    try:
        family = TokenFamily(**members.pop("family"))
        for name in _TIMES:
            if members[name] is not None:
                members[name] = datetime.fromisoformat(members[name])
        return TokenRecord(family=family, **members)
    except (BrokerError, TypeError, ValueError, AttributeError, RecursionError) as error:
        return f"a member has a value that cannot be ({type(error).__name__})"
