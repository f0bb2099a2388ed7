"""Holding back at a provider that asked for a pause."""

from __future__ import annotations

import threading

from oauth2broker.errors import BackendError, ConfigError
from oauth2broker.ext._shared_state import SECOND, Place, SharedTimes, posix_ns, state_name
from oauth2broker.ext.rate_limit import (
    Allow,
    Delay,
    RateLimitContext,
    RateLimitDecision,
    RateLimitPolicy,
    RetryDirective,
)
from oauth2broker.forking import forget_in_children
from oauth2broker.ids import ProviderId
from oauth2broker.obs import logger
from oauth2broker.records import LONGEST_SKEW

_LONGEST = (3600 + int(LONGEST_SKEW.total_seconds())) * SECOND


class CoolDown:
    """A :class:`RateLimitPolicy` that calls nobody at a provider which answered 429 or 503 to anybody.

    The pause lasts as long as the answer said, an hour at most (a second where it does not say), for all
    tenants; the longest one stands. Otherwise ``policy`` decides (None: allow), and is told of pauses if it
    wants to know. ``shared``, a :class:`FileStore` or its path, makes all processes of one host hold back
    together; while its folder fails, each does so for itself.

    Everyone may come back at the same moment: when that is too much, the first 429 is the next pause. There
    is no spread, so that ``retry_after`` is what the provider said and nobody waits longer than it wants.
    A pause that seems to last longer than an hour and five minutes is from before the clock went back, and
    over. Safe to share between threads and to use in a child after a fork.
    Raises :class:`ConfigError` as :class:`FileStore` does, and for what is no policy.
    """

    def __init__(self, policy: RateLimitPolicy | None = None, *, shared: Place | None = None) -> None:
        if policy is not None and not callable(getattr(policy, "evaluate", None)):
            raise ConfigError(f"policy is a RateLimitPolicy, not {type(policy).__name__}")
        self._policy = policy
        self._shared = None if shared is None else SharedTimes(shared)
        self._until: dict[ProviderId, int] = {}
        self._lock = threading.Lock()
        forget_in_children(self)

    def evaluate(self, context: RateLimitContext) -> RateLimitDecision:
        """Delay while the provider's pause lasts; after that decide as the policy does."""
        return self._pause(context) or (Allow() if self._policy is None else self._policy.evaluate(context))

    def look_again(self, context: RateLimitContext) -> RateLimitDecision:
        """Delay while the provider's pause lasts; after that as the policy says, if it wants to be asked."""
        ask = getattr(self._policy, "look_again", None)
        return self._pause(context) or (Allow() if ask is None else ask(context))

    def _pause(self, context: RateLimitContext) -> Delay | None:
        now, until = posix_ns(context.now), self._until.get(context.provider)
        left = _left(until, now)
        if self._shared is not None:
            left = max(left, _left(self._shared.read(_name(context)), now))
        return Delay(RetryDirective(left / SECOND, "the provider asked for a pause")) if left else None

    def hold_back(self, context: RateLimitContext, directive: RetryDirective) -> None:
        """Call nobody at the provider of ``context`` for as long as ``directive`` says, from its time on."""
        now, provider = posix_ns(context.now), context.provider
        seconds = int(directive.retry_after * SECOND)

        def prolong(until: int | None) -> tuple[int, bool]:
            return now + max(_left(until, now), seconds), True

        with self._lock:
            self._until[provider] = prolong(self._until.get(provider))[0]
            self._until = {name: until for name, until in self._until.items() if _left(until, now)}
        if self._shared is not None:
            try:
                if self._shared.update(_name(context), now, prolong) is None:
                    logger.warning("other processes were not told of a pause: its lock is busy")
            except BackendError as error:
                logger.warning("other processes were not told of a pause: %s", error)
        hand_on = getattr(self._policy, "hold_back", None)
        if hand_on is not None:
            hand_on(context, directive)

    def forget_after_fork(self) -> None:
        """The lock is the parent's."""
        self._lock = threading.Lock()


def _left(until: int | None, now: int) -> int:
    """Give the nanoseconds that are left of a pause."""
    left = 0 if until is None else max(until - now, 0)
    return left if left <= _LONGEST else 0


def _name(context: RateLimitContext) -> str:
    return state_name("pause", context.provider)
