"""One renewal under way per key in this process; others wait for how it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from oauth2broker.errors import BrokerError, ConfigError, TransientError
from oauth2broker.forking import forget_in_children
from oauth2broker.records import StoreKey, TokenRecord


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a flight ended: the record that is now the truth (if it is alive), what went wrong, and whether
    the record was obtained by this very flight."""

    record: TokenRecord | None
    error: BrokerError | None = None
    renewed: bool = False


Work = Callable[[], Outcome]


class Flight:
    """A renewal under way. ``outcome`` stays None when its leader died."""

    __slots__ = ("ended", "leader", "outcome")

    def __init__(self) -> None:
        self.leader = threading.get_ident()
        self.ended = threading.Event()
        self.outcome: Outcome | None = None


class Flights:
    """The flights of one broker. Holds nothing for a key between flights."""

    def __init__(self, longest_wait: float) -> None:
        self._longest_wait = longest_wait
        self._lock = threading.Lock()
        self._under_way: dict[str, Flight] = {}
        forget_in_children(self)

    def __len__(self) -> int:
        return len(self._under_way)

    def join_or_lead(self, key: StoreKey, work: Work) -> Outcome:
        """Give the outcome of the flight of ``key``: the one under way, or else one that does ``work``."""
        return self._run(key, work, joins=True)

    def lead_if_none(self, key: StoreKey, work: Work) -> Outcome | None:
        """Do ``work`` in a flight of its own; None, at once, when one is under way."""
        mine = Flight()
        try:
            return self._lead(mine, work) if self._enter(key, mine) is mine else None
        finally:
            self._leave(key, mine)

    def lead(self, key: StoreKey, work: Work) -> Outcome:
        """Do ``work`` in a flight of its own, after any that is under way."""
        return self._run(key, work, joins=False)

    def forget_after_fork(self) -> None:
        """Their leaders are threads of the parent."""
        self._lock = threading.Lock()
        self._under_way = {}

    def _run(self, key: StoreKey, work: Work, *, joins: bool) -> Outcome:
        deadline = time.monotonic() + self._longest_wait
        mine = Flight()
        try:
            while (other := self._enter(key, mine)) is not mine:
                if not other.ended.wait(max(0.0, deadline - time.monotonic())):
                    raise TransientError("another thread's renewal of this token did not end in time")
                if joins and other.outcome is not None:
                    return other.outcome
            return self._lead(mine, work)
        finally:
            self._leave(key, mine)

    @staticmethod
    def _lead(mine: Flight, work: Work) -> Outcome:
        mine.outcome = outcome = work()
        return outcome

    def _enter(self, key: StoreKey, mine: Flight) -> Flight:
        with self._lock:
            flight = self._under_way.setdefault(key.digest, mine)
        if flight is not mine and flight.leader == mine.leader:
            raise ConfigError("a hook, store or transport called the broker for the key it is working on")
        return flight

    def _leave(self, key: StoreKey, mine: Flight) -> None:
        with self._lock:
            if self._under_way.get(key.digest) is mine:
                del self._under_way[key.digest]
        mine.ended.set()
