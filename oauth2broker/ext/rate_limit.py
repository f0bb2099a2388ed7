"""Budgets: asking whether the provider may be called."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from oauth2broker.errors import ConfigError
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
    """When to come back: ``retry_after`` in seconds (clamped to 0 to an hour), and why."""

    retry_after: float
    reason: str = "rate limited"

    def __post_init__(self) -> None:
        if not isinstance(self.retry_after, int | float) or math.isnan(self.retry_after):
            raise ConfigError("retry_after is a number of seconds")
        object.__setattr__(self, "retry_after", min(max(float(self.retry_after), 0.0), 3600.0))


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
    """Is consulted before every call to a token endpoint, from several threads. Must not wait.

    A policy that also has ``hold_back(context, directive)`` is told when the provider answered 429 or 503:
    ``context`` is what it was asked about that call, with the time of the answer, and ``directive`` says for
    how long (what the answer said, else a second).

    One that also has ``look_again(context)`` is asked once more right before a renewal goes out that it has
    allowed, because writing down that it goes out may have taken a moment: whether a pause has begun
    meanwhile. It decides as in ``evaluate`` but counts nothing, for the call is counted already.
    """

    def evaluate(self, context: RateLimitContext) -> RateLimitDecision:
        """Decide about one call."""
        ...
