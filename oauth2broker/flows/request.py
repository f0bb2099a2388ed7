"""What a caller asks for, and when a record no longer answers it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from enum import Enum
from functools import partial
from typing import Any, final

from oauth2broker.errors import ConfigError
from oauth2broker.frozen import ShownByFields
from oauth2broker.ids import PrincipalId, TenantId
from oauth2broker.records import LONGEST_SKEW, TokenRecord, checked_text
from oauth2broker.scopes import ScopeSet

PREEMPTIVE_WINDOW = timedelta(seconds=60)
MINIMUM_TTL = timedelta(seconds=5)
_NOTHING = timedelta()
_REQUESTS_KEPT = 4096
_LONGEST_KEPT = 2048  # characters


class Need(Enum):
    """How badly a record must be renewed: not at all, when convenient, or before it can be served."""

    NONE = "none"
    ADVISORY = "advisory"
    MANDATORY = "mandatory"


@final
@dataclass(frozen=True, slots=True, init=False, repr=False)
class CachedTokenRequest(ShownByFields):
    """Asks for a token of a principal, as fresh as the windows say. Immutable; keep and reuse it freely.

    A record is renewed ahead when less than ``preemptive_window`` is left (less a jitter of up to a quarter
    of it, stable per key) and never served with less than ``minimum_ttl`` left. Both are capped at a quarter
    of the token's lifetime. ``force`` asks for a token other than the stored one; ``rejected`` is set by
    :meth:`rejecting`. Plain strings are coerced. ``names`` is what its key is looked up by, ``ahead`` how
    many seconds a record must have left to be served without a second look.

    Requests built from the same plain strings are one object for as long as it is remembered (4,096 are,
    then all are forgotten), so that building one for every call costs little.
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
    ) -> CachedTokenRequest:
        asked: tuple[object, ...] | None = None
        try:
            # Plain strings only. No scope token holds a line feed: text and number tell all lists apart.
            if type(tenant) is type(principal) is str and (resource is None or type(resource) is str):
                if type(scope) is str:
                    asked = tenant, principal, scope, 0, resource, force, preemptive_window, minimum_ttl
                elif type(scope) is list:
                    text = "\n".join(scope)
                    asked = (
                        tenant,
                        principal,
                        text,
                        len(scope),
                        resource,
                        force,
                        preemptive_window,
                        minimum_ttl,
                    )
            if rejected is None:
                return _remembered[asked]
        except (KeyError, TypeError):  # not asked before, or it cannot be
            pass
        request = object.__new__(cls)
        put = partial(object.__setattr__, request)
        put("tenant", TenantId(tenant))
        put("principal", PrincipalId(principal))
        put("scope", scope if isinstance(scope, ScopeSet) else ScopeSet(scope))
        put("resource", None if resource is None else checked_text("resource", resource))
        put("force", bool(force))
        put("preemptive_window", _window("preemptive_window", preemptive_window))
        put("minimum_ttl", _window("minimum_ttl", minimum_ttl))
        put("rejected", None if rejected is None else checked_text("rejected", rejected))
        put("names", (request.tenant, request.principal, request.scope.fingerprint, request.resource))
        insists = request.force or request.rejected is not None
        put("ahead", math.inf if insists else max(preemptive_window, minimum_ttl).total_seconds())
        if asked is not None and rejected is None:
            _remember(asked, request)
        return request

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and unpickle through the constructor: a copy may be an object that others hold, too."""
        return _rebuilt, ({spec.name: getattr(self, spec.name) for spec in fields(self) if spec.init},)

    def force_refresh(self) -> CachedTokenRequest:
        """Give a request that wants another token than the one stored when it is made use of."""
        return replace(self, force=True)

    def rejecting(self, record: TokenRecord) -> CachedTokenRequest:
        """Give a request that is content with any token but the one of ``record``, which an API refused.

        Keeps a hash of the token, not the token.
        """
        if not isinstance(record, TokenRecord):
            kind = type(record).__name__
            del record  # it may be the plain token
            raise ConfigError(f"record is the TokenRecord that was refused, not {kind}")
        return replace(self, rejected=record.access_token.fingerprint())

    def with_preemptive_window(self, window: timedelta) -> CachedTokenRequest:
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


def mistaken_request(request: object) -> ConfigError:
    """Say what should have been a request."""
    return ConfigError(f"request is a CachedTokenRequest, not {type(request).__name__}")


_remembered: dict[object, CachedTokenRequest] = {}
"""By what they were built from, in plain strings only: a subclass of str may call two tenants equal."""


def _remember(asked: tuple[object, ...], request: CachedTokenRequest) -> None:
    if sum(len(part) for part in asked if isinstance(part, str)) > _LONGEST_KEPT:
        return
    if len(_remembered) >= _REQUESTS_KEPT:
        _remembered.clear()  # rather than keep order
    with suppress(TypeError):  # of what cannot be hashed
        _remembered[asked] = request


def _rebuilt(options: dict[str, Any]) -> CachedTokenRequest:
    return CachedTokenRequest(**options)


def _window(name: str, value: timedelta) -> timedelta:
    if not isinstance(value, timedelta) or value < _NOTHING:
        raise ConfigError(f"{name} is a timedelta, not negative")
    return value
