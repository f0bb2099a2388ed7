"""A budget of token calls per tenant and provider, of all processes of one host."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from oauth2broker.errors import BackendError
from oauth2broker.ext._shared_state import Place, SharedTimes, posix_ns, state_name
from oauth2broker.ext.rate_limit import Delay, RateLimitContext, RateLimitDecision, RetryDirective
from oauth2broker.ext.token_bucket import Budget, TokenBucket, decision
from oauth2broker.obs import logger

_BUSY = Delay(RetryDirective(0.1, "the budget is being counted"))


class FolderTokenBucket:
    """A :class:`TokenBucket` that all processes of one host share, through the folder of a FileStore.

    ``store`` is the :class:`FileStore`, or its path; what is counted is in its subfolder ``budgets``, one
    small file for each bucket that is not full, which names nobody and holds no secret. Budgets of different
    numbers are counted apart. Waits for other processes for half a second at most; then it says Delay.

    A disk that fails must not cost users their tokens, nor the provider its protection: while the folder
    cannot be written to, each process keeps the budget for itself (a warning is logged once). A file that
    cannot be read stands for a full bucket.
    Safe to share between threads and to use in a child after a fork. Raises :class:`ConfigError` as
    :class:`TokenBucket` and :class:`FileStore` do.
    """

    def __init__(self, store: Place, calls: int, per: timedelta, *, burst: int | None = None) -> None:
        self._budget = Budget.checked(calls, per, burst)
        self._own = TokenBucket(calls, per, burst=burst)
        self._times = SharedTimes(store)
        self._is_failing = False

    def evaluate(self, context: RateLimitContext) -> RateLimitDecision:
        """Allow one call, and count it for all processes, or say when the next one is there."""
        now = posix_ns(context.now)
        name = state_name(
            "bucket", context.tenant, context.provider, self._budget.interval, self._budget.burst
        )
        try:
            wait = self._times.update(name, now, partial(self._budget.take, now))
        except BackendError as error:
            if not self._is_failing:
                logger.warning("each process keeps the budget for itself: %s", error)
            self._is_failing = True
            return self._own.evaluate(context)
        self._is_failing = False
        if wait is None:
            return _BUSY
        if not wait:
            self._own.evaluate(context)  # so that it is not full when the disk fails
        return decision(wait)
