"""Budgets: asking whether the provider may be called."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from oauth2broker.grants import GrantType
from oauth2broker.ids import ProviderId, TenantId
from oauth2broker.scopes import ScopeSet


@dataclass(frozen=True, slots=True)
class RateLimitContext:
    """The token call that is about to be made; ``now`` is an aware UTC datetime."""

    tenant: TenantId
    provider: ProviderId
    scope: ScopeSet
    operation: GrantType
    now: datetime


@dataclass(frozen=True, slots=True)
class RetryDirective:
    """When to come back: ``retry_after`` in seconds, and why."""

    retry_after: float
    reason: str = "rate limited"


class RateLimitDecision:
    """What a policy decides: :class:`Allow` or :class:`Delay`."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Allow(RateLimitDecision):
    """The call may be made now."""


@dataclass(frozen=True, slots=True)
class Delay(RateLimitDecision):
    """The call may not be made now."""

    directive: RetryDirective


class RateLimitPolicy(Protocol):
    """Is consulted before every call to a token endpoint, from several threads. Must not wait."""

    def evaluate(self, context: RateLimitContext) -> RateLimitDecision:
        """Decide about one call."""
        ...
