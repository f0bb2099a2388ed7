"""How long anything may take. All in seconds, by a monotonic clock unless they are compared with a record."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

SESSION_LIFETIME = timedelta(minutes=10)
"""How long a user may take to come back."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """``lease`` bounds waiting for a lease, ``join`` waiting for another thread's flight, ``store`` retrying
    a write that must not be lost; after that it is tried every ``flush``, and at the end ``last_flush`` is
    waited for a write that is under way. ``settled`` after a request went
    out no answer to it can still arrive: the transport's 30 seconds, ``slowest_mark`` for writing down that
    it goes out, and what is left for the skew of clocks."""

    lease: float = 35.0
    join: float = 70.0
    store: float = 2.0
    flush: float = 1.0
    last_flush: float = 10.0
    settled: float = 35.0
    slowest_mark: float = 2.0
    first_backoff: float = 1.0
    longest_backoff: float = 60.0
    longest_retry_after: float = 3600.0

    def backoff(self, failures: int) -> float:
        """Give the wait after that many failures in a row."""
        return min(self.first_backoff * 2.0 ** min(failures - 1, 30), self.longest_backoff)
