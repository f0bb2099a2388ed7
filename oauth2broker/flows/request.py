"""What a caller asks for, and when a record no longer answers it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from enum import Enum
from functools import partial
from typing import Any, Self, TypeVar, cast

from oauth2broker.errors import ConfigError
from oauth2broker.frozen import ShownByFields
from oauth2broker.ids import PrincipalId, TenantId
from oauth2broker.records import LONGEST_SKEW, TokenRecord, checked_text
from oauth2broker.scopes import ScopeSet

PREEMPTIVE_WINDOW = timedelta(seconds=60)
MINIMUM_TTL = timedelta(seconds=5)
_NOTHING = timedelta()
_REQUESTS_KEPT = 4096

Request = TypeVar("Request", bound="CachedTokenRequest")


class Need(Enum):
    """How badly a record must be renewed: not at all, when convenient, or before it can be served."""

    NONE = "none"
    ADVISORY = "advisory"
    MANDATORY = "mandatory"


@dataclass(frozen=True, slots=True, init=False, repr=False)
class CachedTokenRequest(ShownByFields):
    """Asks for a token of a principal, as fresh as the windows say. Immutable; keep and reuse it freely.

    A record is renewed ahead when less than ``preemptive_window`` is left (less a jitter of up to a quarter
    of it, stable per key) and never served with less than ``minimum_ttl`` left. Both are capped at a quarter
    of the token's lifetime. ``force`` asks for a token other than the stored one; ``rejected`` is set by
    :meth:`rejecting`. Plain strings are coerced. Requests built alike are one object as long as it is
    remembered, so that building one for every call costs little. ``names`` tells its record from those of
    other requests, ``ahead`` is how many seconds a record must have left to be served without a second look.
    Raises :class:`ConfigError` for values that cannot be.
    """

    tenant: TenantId
    principal: PrincipalId
    scope: ScopeSet
    resource: str | None
    force: bool
    preemptive_window: timedelta
    minimum_ttl: timedelta
    rejected: str | None
    names: tuple[str, str, str, str | None] = field(init=False, compare=False, repr=False)
    ahead: float = field(init=False, compare=False, repr=False)

    def __new__(
        cls,
        tenant: str,
        principal: str,
        scope: str | Iterable[str] = (),
        *,
        resource: str | None = None,
        force: bool = False,
        preemptive_window: timedelta = PREEMPTIVE_WINDOW,
        minimum_ttl: timedelta = MINIMUM_TTL,
        rejected: str | None = None,
    ) -> Self:
        if type(scope) is not str:
            scope = tuple(scope) if type(scope) is list else _hashable(scope)
        if resource is not None:
            resource = checked_text("resource", resource)
        asked = cls, tenant, principal, scope, resource, force, preemptive_window, minimum_ttl, rejected
        if type(tenant) is type(principal) is str:  # a subclass of str may call two tenants equal
            try:
                return _remembered[asked]  # type: ignore[return-value]
            except (KeyError, TypeError):  # not seen before, or holds what cannot be hashed
                pass
        return _remember(*asked)

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, Any]]:
        return (), {spec.name: getattr(self, spec.name) for spec in fields(self) if spec.init}

    def force_refresh(self) -> Self:
        """Give a request that wants another token than the one stored when it is made use of."""
        return replace(self, force=True)

    def rejecting(self, record: TokenRecord) -> Self:
        """Give a request that is content with any token but the one of ``record``, which an API refused.

        Keeps a hash of the token, not the token.
        """
        return replace(self, rejected=record.access_token.fingerprint())

    def with_preemptive_window(self, window: timedelta) -> Self:
        """Give a request that renews ahead by ``window``."""
        return replace(self, preemptive_window=window)

    def should_refresh(self, record: TokenRecord, now: datetime) -> bool:
        """Whether ``record`` is due for renewal at ``now`` (an aware datetime), in either window."""
        return self.need_at(record, now) is not Need.NONE

    def need_at(self, record: TokenRecord, now: datetime) -> Need:
        """Say how badly ``record`` must be renewed to answer this request. Pure."""
        if self.force or self.rejects(record):
            return Need.MANDATORY
        return self.window_at(record, now)

    def window_at(self, record: TokenRecord, now: datetime) -> Need:
        """Say which window ``record`` is in at ``now``, whatever the caller insists on. Pure."""
        if record.revoked_at is not None:
            return Need.MANDATORY
        if record.issued_at > now and record.issued_at - now > LONGEST_SKEW:
            return Need.MANDATORY  # the clock went back; how long the token lasts is anybody's guess
        if record.expires_at is None:
            return Need.NONE
        left = record.expires_at - now
        if left >= self.preemptive_window and left >= self.minimum_ttl and left > _NOTHING:
            return Need.NONE  # neither window is ever wider than that
        cap = (record.expires_at - record.issued_at) / 4
        if left <= _NOTHING or left < min(self.minimum_ttl, cap):
            return Need.MANDATORY
        jitter = self.preemptive_window * (record.key.spread / 4)
        if left < min(self.preemptive_window - jitter, cap):
            return Need.ADVISORY
        return Need.NONE

    def rejects(self, record: TokenRecord) -> bool:
        """Whether ``record`` holds the very token that was refused."""
        return self.rejected is not None and record.access_token.fingerprint() == self.rejected


def _build(
    cls: type[Request],
    tenant: str,
    principal: str,
    scope: str | tuple[str, ...],
    resource: str | None,
    force: bool,
    preemptive_window: timedelta,
    minimum_ttl: timedelta,
    rejected: str | None,
) -> Request:
    request = object.__new__(cls)
    put = partial(object.__setattr__, request)
    put("tenant", TenantId(tenant))
    put("principal", PrincipalId(principal))
    put("scope", ScopeSet(scope))
    put("resource", resource)
    put("force", bool(force))
    put("preemptive_window", _window("preemptive_window", preemptive_window))
    put("minimum_ttl", _window("minimum_ttl", minimum_ttl))
    put("rejected", None if rejected is None else checked_text("rejected", rejected))
    put("names", (tenant, principal, request.scope.fingerprint, resource))
    insists = request.force or request.rejected is not None
    put("ahead", math.inf if insists else max(preemptive_window, minimum_ttl).total_seconds())
    return request


def _remember(cls: type[Request], tenant: str, principal: str, *rest: Any) -> Request:
    """Give the request that was built like this before, or build it."""
    asked: tuple[Any, ...] = cls, TenantId(tenant), PrincipalId(principal), *rest
    try:
        request: Any = _remembered.get(asked)
    except TypeError:  # something in it cannot be hashed, and most likely cannot be at all
        request = _build(*asked)
    else:
        if request is None:
            request = _build(*asked)
            if len(_remembered) >= _REQUESTS_KEPT:
                _remembered.clear()  # rather than keep order
            _remembered[asked] = request
    return cast("Request", request)


_remembered: dict[tuple[object, ...], CachedTokenRequest] = {}


def _hashable(scope: str | Iterable[str]) -> str | tuple[str, ...]:
    """Give what may be looked up and means the same scope."""
    if isinstance(scope, ScopeSet):
        return scope.normalized
    return scope if type(scope) is tuple else ScopeSet(scope).normalized


def _window(name: str, value: timedelta) -> timedelta:
    if not isinstance(value, timedelta) or value < _NOTHING:
        raise ConfigError(f"{name} is a timedelta, not negative")
    return value
