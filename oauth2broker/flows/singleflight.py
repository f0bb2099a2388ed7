"""One renewal under way per key in this process; others wait for how it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from oauth2broker.errors import BrokerError, ConfigError, TransientError
from oauth2broker.flows.telemetry import Telemetry
from oauth2broker.forking import forget_in_children
from oauth2broker.obs import FlowSpan, Level, RefreshResult
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
    """A renewal under way. ``outcome`` stays None when its leader died. ``span`` is the leader's."""

    __slots__ = ("ended", "leader", "outcome", "span")

    def __init__(self, span: FlowSpan | None) -> None:
        self.leader = threading.get_ident()
        self.span = span
        self.ended = threading.Event()
        self.outcome: Outcome | None = None


class Flights:
    """The flights of one broker. Holds nothing for a key between flights.

    Entering is one ``setdefault``, which is atomic; leaving is done by the leader alone. So there is no lock
    that an interrupted thread could keep.
    """

    def __init__(self, longest_wait: float, telemetry: Telemetry) -> None:
        self._longest_wait = longest_wait
        self._telemetry = telemetry
        self._under_way: dict[str, Flight] = {}
        forget_in_children(self)

    def __len__(self) -> int:
        return len(self._under_way)

    def is_under_way(self, key: StoreKey) -> bool:
        """Whether there is a flight of ``key`` at this moment."""
        return key.digest in self._under_way

    def join_or_lead(self, key: StoreKey, work: Work) -> Outcome:
        """Give the outcome of the flight of ``key``: the one under way, or else one that does ``work``."""
        outcome = self._run(key, work, joins=True)
        assert outcome is not None  # noqa: S101 - who waits gets one
        return outcome

    def lead(self, key: StoreKey, work: Work) -> Outcome:
        """Do ``work`` in a flight of its own, after any that is under way."""
        outcome = self._run(key, work)
        assert outcome is not None  # noqa: S101 - who waits gets one
        return outcome

    def lead_if_none(self, key: StoreKey, work: Work) -> Outcome | None:
        """Do ``work`` in a flight of its own; None, at once, when one is under way."""
        return self._run(key, work, waits=False)

    def forget_after_fork(self) -> None:
        """Their leaders are threads of the parent."""
        self._under_way = {}

    def _run(self, key: StoreKey, work: Work, *, joins: bool = False, waits: bool = True) -> Outcome | None:
        deadline = time.monotonic() + self._longest_wait
        mine, leads = Flight(self._telemetry.current()), False
        try:
            while (other := self._under_way.setdefault(key.digest, mine)) is not mine:
                if other.leader == mine.leader:
                    raise ConfigError("a hook, store or transport called the broker for the key it works on")
                if not waits:
                    return None
                self._wait(other, deadline, joins=joins)
                if joins and other.outcome is not None:
                    return other.outcome
            self._telemetry.note(None)  # whatever was waited for before
            self._telemetry.track_now(Level.FLIGHTS, 1)
            leads = True
            mine.outcome = outcome = work()
            return outcome
        finally:
            try:  # no call up to the deletion, and so no place for an interrupt
                if self._under_way[key.digest] is mine:
                    del self._under_way[key.digest]
            except KeyError:
                pass  # it was somebody else's, who has left
            mine.ended.set()
            if leads:
                self._telemetry.track(Level.FLIGHTS, -1)

    def _wait(self, other: Flight, deadline: float, *, joins: bool) -> None:
        if joins:
            self._telemetry.note(RefreshResult.JOINED)
        with self._telemetry.flight_wait(other.span):
            if not other.ended.wait(max(0.0, deadline - time.monotonic())):
                self._telemetry.note(RefreshResult.TIMED_OUT)
                raise TransientError("another thread's renewal of this token did not end in time")
