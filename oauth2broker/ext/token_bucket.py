"""A budget of token calls per tenant and provider, of one process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta

from oauth2broker.errors import ConfigError
from oauth2broker.ext._shared_state import SECOND, posix_ns
from oauth2broker.ext.rate_limit import (
    Allow,
    Delay,
    RateLimitContext,
    RateLimitDecision,
    RetryDirective,
)
from oauth2broker.forking import forget_in_children
from oauth2broker.ids import ProviderId, TenantId

_LONGEST_DELAY = 2 * SECOND
"""How long after the clock was read a call may come to be counted."""


@dataclass(frozen=True, slots=True)
class Budget:
    """So many calls at once (``burst``), and one more every ``interval`` nanoseconds.

    What is in a bucket follows from one number: when it is full again. None stands for a full one.
    """

    interval: int
    burst: int

    @classmethod
    def checked(cls, calls: int, per: timedelta, burst: int | None) -> Budget:
        """Give the budget of ``calls`` per ``per``. Raises :class:`ConfigError` for what is none."""
        if not isinstance(per, timedelta) or per <= timedelta():
            raise ConfigError("per is a timedelta above 0")
        per_ns = per // timedelta(microseconds=1) * 1000
        return cls(
            max(per_ns // _counted("calls", calls), 1), _counted("burst", calls if burst is None else burst)
        )

    def believed(self, now: int, full_at: int) -> int:
        """Give ``full_at``; an empty bucket for one that is far more than that: the clock went back."""
        latest = now + self.burst * self.interval
        return full_at if full_at <= latest + _LONGEST_DELAY else latest

    def take(self, now: int, full_at: int | None) -> tuple[int, int]:
        """Take one call at ``now``: give when the bucket is full again, and 0 or how long to wait for one.

        ``now`` may have been read a moment before others took theirs; that must not refund what they took.
        """
        full_at = now if full_at is None else max(self.believed(now, full_at), now)
        wait = full_at - now - (self.burst - 1) * self.interval
        return (full_at, wait) if wait > 0 else (full_at + self.interval, 0)


class TokenBucket:
    """A :class:`RateLimitPolicy`: each tenant may make ``calls`` token calls per ``per`` at each provider.

    Up to ``burst`` (None: ``calls``) of them at once, when it made none for a while. Counts the calls of
    this process, in all brokers that it is given to. Goes by the context's time: a clock that jumps ahead
    fills a bucket, one that jumps back leaves one refill and two seconds to wait for at most. Safe to share
    between threads, never waits; in a child after a fork it counts on by itself. Buckets that are full are
    forgotten. Raises :class:`ConfigError` for numbers below 1 and times that are none.
    """

    def __init__(self, calls: int, per: timedelta, *, burst: int | None = None) -> None:
        self._budget = Budget.checked(calls, per, burst)
        self._full_at: OrderedDict[tuple[TenantId, ProviderId], int] = OrderedDict()
        self._lock = threading.Lock()
        forget_in_children(self)

    def __len__(self) -> int:
        """How many buckets are remembered."""
        return len(self._full_at)

    def evaluate(self, context: RateLimitContext) -> RateLimitDecision:
        """Allow one call, and count it, or say when the next one is there."""
        now, bucket = posix_ns(context.now), (context.tenant, context.provider)
        with self._lock:
            full_at, wait = self._budget.take(now, self._full_at.get(bucket))
            self._full_at[bucket] = full_at
            self._full_at.move_to_end(bucket)
            self._forget_full(now)
        return decision(wait)

    def forget_after_fork(self) -> None:
        """The lock is the parent's."""
        self._lock = threading.Lock()

    def _forget_full(self, now: int) -> None:
        """Forget those at the front, where the ones that were asked about longest ago are."""
        while self._full_at:
            bucket, full_at = next(iter(self._full_at.items()))
            believed = self._budget.believed(now, full_at)
            if believed < full_at:
                self._full_at[bucket] = believed
                self._full_at.move_to_end(bucket)
            elif full_at <= now:
                del self._full_at[bucket]
            else:
                return


def decision(wait: int) -> RateLimitDecision:
    """Say that a call may be made, or in how many nanoseconds."""
    if not wait:
        return Allow()
    return Delay(RetryDirective(-(-wait // 1000) * 1000 / SECOND, "the budget is spent"))


def _counted(name: str, value: int) -> int:
    if type(value) is not int or value < 1:
        raise ConfigError(f"{name} is a number from 1")
    return value
