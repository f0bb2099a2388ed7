"""Flights: one per key, joined by others, gone when they end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from oauth2broker import Broker, ConfigError, MemoryStore, ProviderId, StoreKey, TokenFamily, TransientError
from oauth2broker.flows.singleflight import Flights, Outcome
from oauth2broker.flows.telemetry import Telemetry
from oauth2broker.grants import GrantType
from oauth2broker.testing import LoopbackProvider
from tests.support import USER_REQUEST, Crowd, ManualClock, log_in

KEY = StoreKey(TokenFamily("t", "p", "x", "c"), "fingerprint", None, GrantType.AUTHORIZATION_CODE)
OTHER = StoreKey(TokenFamily("t", "q", "x", "c"), "fingerprint", None, GrantType.AUTHORIZATION_CODE)
DONE = Outcome(None)
SILENT = Telemetry((), ProviderId("x"), lambda: 0.0)


class HeldWork:
    """Work that says when it began and ends when it may."""

    def __init__(self) -> None:
        self.runs = 0
        self.began, self.may_end = threading.Event(), threading.Event()

    def __call__(self) -> Outcome:
        self.runs += 1
        self.began.set()
        assert self.may_end.wait(10.0)
        return Outcome(None)


def test_joiners_get_the_leaders_outcome() -> None:
    """The work is done once; everyone holds the very same outcome."""
    flights, work = Flights(10.0, SILENT), HeldWork()
    crowd = Crowd(16, lambda: flights.join_or_lead(KEY, work)).start()
    assert work.began.wait(10.0)
    work.may_end.set()
    crowd.join()
    assert len({id(outcome) for outcome in crowd.results}) <= work.runs
    assert len(crowd.results) == 16


def test_who_will_not_wait_is_told_at_once() -> None:
    """lead_if_none gives None while a flight is under way, and leads when none is."""
    flights, work = Flights(10.0, SILENT), HeldWork()
    leader = Crowd(1, lambda: flights.join_or_lead(KEY, work)).start()
    assert work.began.wait(10.0)
    assert flights.lead_if_none(KEY, work) is None
    assert flights.lead_if_none(KEY, work) is None  # it is under way still
    assert flights.lead_if_none(OTHER, lambda: DONE) is DONE
    work.may_end.set()
    leader.join()
    assert flights.lead_if_none(KEY, lambda: DONE) is DONE


def test_lead_waits_for_the_flight_under_way_and_then_does_its_own_work() -> None:
    """A login after a refresh does not take the refresh's outcome for its own."""
    flights, work = Flights(10.0, SILENT), HeldWork()
    leader = Crowd(1, lambda: flights.join_or_lead(KEY, work)).start()
    assert work.began.wait(10.0)
    second = Crowd(1, lambda: flights.lead(KEY, lambda: DONE)).start()
    work.may_end.set()
    assert second.join().results == [DONE]
    assert second.results[0] is DONE
    leader.join()


def test_a_joiner_does_not_wait_for_ever() -> None:
    """After its bound it gets a TransientError; the flight goes on."""
    flights, work = Flights(0.01, SILENT), HeldWork()
    leader = Crowd(1, lambda: flights.join_or_lead(KEY, work)).start()
    assert work.began.wait(10.0)
    with pytest.raises(TransientError):
        flights.join_or_lead(KEY, work)
    assert flights.is_under_way(KEY)
    work.may_end.set()
    assert leader.join().errors == []


@pytest.mark.parametrize("method", ["join_or_lead", "lead_if_none", "lead"])
def test_a_call_from_inside_its_own_flight_is_a_mistake(method: str) -> None:
    """FAULTS 24: told at once; another key is another flight."""
    flights = Flights(10.0, SILENT)

    def reenter() -> Outcome:
        getattr(flights, method)(OTHER, lambda: DONE)
        with pytest.raises(ConfigError):
            getattr(flights, method)(KEY, lambda: DONE)
        return DONE

    assert flights.join_or_lead(KEY, reenter) is DONE
    assert len(flights) == 0


def test_a_flight_whose_leader_dies_leaves_nothing_behind() -> None:
    """FAULTS 23: the next one leads."""
    flights = Flights(10.0, SILENT)

    def die() -> Outcome:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        flights.join_or_lead(KEY, die)
    assert len(flights) == 0
    assert flights.join_or_lead(KEY, lambda: DONE) is DONE


def test_threads_of_a_process_join_a_flight_instead_of_queueing_for_the_lease(
    provider: LoopbackProvider, clock: ManualClock
) -> None:
    """The store sees one lease for the whole crowd."""

    class CountingStore(MemoryStore):
        leases = 0

        @contextmanager
        def refresh_lease(self, key: StoreKey, *, timeout: float) -> Iterator[bool]:
            self.leases += 1
            with super().refresh_lease(key, timeout=timeout) as ours:
                yield ours

    store = CountingStore()
    with Broker(provider.descriptor(), "demo-client", "demo-secret", store=store, clock=clock) as broker:
        log_in(broker, provider)
        clock.advance(7200)
        store.leases = 0
        provider.latency = 0.2
        crowd = Crowd(32, lambda: broker.refresh_access_token(USER_REQUEST)).start().join()
        assert crowd.errors == []
        assert store.leases == 1
