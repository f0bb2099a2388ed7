"""What takes time in a flow, what is under way, and that observers are told of it while nobody waits."""

from __future__ import annotations

import copy
import gc
import logging
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from oauth2broker import (
    BackendError,
    Broker,
    BrokerError,
    DefaultProviderStrategy,
    Endpoint,
    FlightWait,
    FlowEvent,
    FlowKind,
    FlowOutcome,
    FlowSpan,
    FlowStep,
    LeaseWait,
    Level,
    MemoryStore,
    ProviderCall,
    ProviderId,
    RefreshResult,
    RequestDraft,
    StoreKey,
    TokenRecord,
)
from oauth2broker.testing import Fault, LoopbackProvider
from tests.support import SERVICE_REQUEST, USER_REQUEST, Crowd, ManualClock, log_in
from tests.test_renewing import wait_for


class Listener:
    """Keeps events and adds up levels."""

    def __init__(self) -> None:
        self.events: list[FlowEvent] = []
        self.levels: Counter[Level] = Counter()
        self.highest: Counter[Level] = Counter()
        self._lock = threading.Lock()

    def observe(self, event: FlowEvent) -> None:
        self.events.append(event)

    def track(self, level: Level, change: int, provider: ProviderId) -> None:
        assert provider == "loopback"
        with self._lock:
            self.levels[level] += change
            self.highest[level] = max(self.highest[level], self.levels[level])

    def steps(self, kind: type[FlowStep]) -> list[Any]:
        return [step for event in self.events for step in event.steps if isinstance(step, kind)]


@pytest.fixture
def listener() -> Listener:
    """Somebody who listens."""
    return Listener()


@pytest.fixture
def observed(provider: LoopbackProvider, clock: ManualClock, listener: Listener) -> Broker:
    """A broker that is listened to, with a token that has expired."""
    made = Broker(provider.descriptor(), "demo-client", "demo-secret", clock=clock, observers=[listener])
    log_in(made, provider)
    clock.advance(3700)
    listener.events.clear()
    return made


# Steps.


def test_a_renewal_tells_of_its_lease_and_its_call(
    observed: Broker, provider: LoopbackProvider, listener: Listener
) -> None:
    """In order, within the flow's time, with where the call went and what came of it."""
    provider.latency = 0.05
    observed.refresh_access_token(USER_REQUEST)
    end = listener.events[-1]
    lease, call = end.steps
    assert isinstance(lease, LeaseWait)
    assert lease.acquired
    assert isinstance(call, ProviderCall)
    assert (call.endpoint, call.method, call.host) == (Endpoint.REFRESH, "POST", "127.0.0.1")
    assert f"http://{call.host}:{call.port}/token" == call.url == provider.token_endpoint
    assert (call.status, call.error) == (200, None)
    assert end.seconds is not None
    assert 0 <= lease.after <= lease.after + lease.seconds <= call.after
    assert 0.05 <= call.seconds <= call.after + call.seconds <= end.seconds


def test_every_call_to_the_provider_is_told_once(
    observed: Broker, provider: LoopbackProvider, listener: Listener
) -> None:
    """Logins, renewals, service tokens, revocations, failures, repetitions: as the provider counts them."""
    provider.clear()
    log_in(observed, provider)
    provider.inject(Fault.lost_answer())
    observed.client_credentials(SERVICE_REQUEST)  # asks once more
    provider.inject(Fault.json(400, {"error": "invalid_grant"}))
    with pytest.raises(BrokerError):
        observed.refresh_access_token(USER_REQUEST.force_refresh())
    log_in(observed, provider)
    observed.revoke(USER_REQUEST)
    told = [(call.endpoint, call.status, call.error) for call in listener.steps(ProviderCall)]
    assert told == [
        (Endpoint.TOKEN, 200, None),
        (Endpoint.TOKEN, None, "TransportError"),
        (Endpoint.TOKEN, 200, None),
        (Endpoint.REFRESH, 400, "InvalidGrantError"),
        (Endpoint.TOKEN, 200, None),
        (Endpoint.REVOCATION, 200, None),
    ]
    assert provider.token_calls + provider.revocations == len(told)
    stages = Counter((event.flow, event.stage) for event in listener.events)
    assert stages[FlowKind.AUTHORIZATION_CODE, "revoke"] == 2


def test_a_joiner_names_the_flow_it_waited_for(
    observed: Broker, provider: LoopbackProvider, listener: Listener
) -> None:
    """The leader's span, which is the one that tells of the call."""
    provider.latency = 0.3
    Crowd(4, partial(observed.refresh_access_token, USER_REQUEST)).start().join()
    ends = [event for event in listener.events if event.outcome is not FlowOutcome.ATTEMPT]
    [leader] = [end for end in ends if end.result is RefreshResult.RENEWED]
    waits = listener.steps(FlightWait)
    assert len(waits) == 3
    assert {wait.leader for wait in waits} == {leader.span}
    assert all(0 < wait.seconds < 5 for wait in waits)
    assert Counter(event.span for event in listener.events) == dict.fromkeys((end.span for end in ends), 2)


def test_a_lease_that_is_not_had_is_told(
    observed: Broker, provider: LoopbackProvider, clock: ManualClock, listener: Listener
) -> None:
    """Whoever finds it busy in the advisory window goes on with the token that works."""
    log_in(observed, provider)
    clock.advance(3600 - 30)
    with observed.store.refresh_lease(observed.key_for(USER_REQUEST), timeout=0):
        observed.refresh_access_token(USER_REQUEST)
    assert listener.steps(LeaseWait)[-1].acquired is False


class InThePath(DefaultProviderStrategy):
    """Puts a secret where a URL's path is, and another into its query."""

    def shape_request(self, draft: RequestDraft) -> None:
        draft.url += "/s3cret-in-the-path?client_secret=s3cret-in-the-query"


class InTheQuery(DefaultProviderStrategy):
    """Puts a secret into the query only."""

    def shape_request(self, draft: RequestDraft) -> None:
        draft.url += "?client_secret=s3cret-in-the-query"


@pytest.mark.parametrize(("strategy", "told"), [(InThePath(), False), (InTheQuery(), True)])
def test_a_url_is_told_only_where_nothing_secret_can_be_in_it(
    provider: LoopbackProvider,
    listener: Listener,
    clock: ManualClock,
    strategy: DefaultProviderStrategy,
    told: bool,
) -> None:
    """Never the query, and no path that a strategy has made."""
    with (
        Broker(
            provider.descriptor(),
            "demo-client",
            "demo-secret",
            strategy=strategy,
            observers=[listener],
            clock=clock,
        ) as broker,
        suppress(BrokerError),
    ):
        broker.client_credentials(SERVICE_REQUEST)
    [call] = listener.steps(ProviderCall)
    assert call.url == (provider.token_endpoint if told else None)
    assert "s3cret" not in repr(listener.events)


# Levels.


def test_what_is_under_way_is_added_up_and_comes_back_to_nothing(
    observed: Broker, provider: LoopbackProvider, clock: ManualClock, listener: Listener
) -> None:
    """After success, failure, interrupt, login and revocation."""
    provider.latency = 0.2
    crowd = Crowd(5, partial(observed.refresh_access_token, USER_REQUEST)).start()
    wait_for(lambda: listener.levels[Level.FLIGHTS] == 1)
    crowd.join()
    provider.latency = 0.0
    assert (listener.levels[Level.FLIGHTS], listener.highest[Level.FLIGHTS]) == (0, 1)
    provider.inject(Fault.json(400, {"error": "invalid_grant"}))
    with pytest.raises(BrokerError):
        observed.refresh_access_token(USER_REQUEST.force_refresh())
    log_in(observed, provider)
    observed.revoke(USER_REQUEST)
    assert listener.levels[Level.FLIGHTS] == 0
    assert listener.levels[Level.UNSAVED_RECORDS] == 0


class Store(MemoryStore):
    """Takes nothing while ``down``."""

    down = False

    def save(self, record: TokenRecord) -> None:
        if self.down:
            raise BackendError("down")
        super().save(record)


@pytest.mark.parametrize("how", ["written by the thread", "written at the end", "outdated"])
def test_an_unsaved_record_is_told_until_it_is_saved_or_outdated(
    provider: LoopbackProvider, clock: ManualClock, listener: Listener, how: str
) -> None:
    """One more, and one less, whoever takes care of it."""
    store = Store()
    broker = Broker(
        provider.descriptor(), "demo-client", "demo-secret", store=store, clock=clock, observers=[listener]
    )
    store.down = True
    broker.client_credentials(SERVICE_REQUEST)
    assert (listener.levels[Level.UNSAVED_RECORDS], len(broker.unsaved)) == (1, 1)
    [unsaved] = broker.unsaved.values()
    if how == "outdated":
        MemoryStore.save(store, unsaved)
        broker.client_credentials(SERVICE_REQUEST)
    store.down = False
    if how == "written at the end":
        broker.close()
    wait_for(lambda: not broker.unsaved)
    wait_for(lambda: listener.levels[Level.UNSAVED_RECORDS] == 0)
    broker.close()


# When they are told.


class Intruder(Listener):
    """Tries, whenever it is told something, whether the renewal's lease and flight are free."""

    def __init__(self, key: Callable[[], StoreKey], broker: Callable[[], Broker]) -> None:
        super().__init__()
        self._key, self._broker = key, broker
        self.free: list[tuple[str, bool, bool]] = []

    def observe(self, event: FlowEvent) -> None:
        super().observe(event)
        self._try(event.outcome.value)

    def track(self, level: Level, change: int, provider: ProviderId) -> None:
        super().track(level, change, provider)
        self._try(f"{level} {change}")

    def _try(self, what: str) -> None:
        broker, key = self._broker(), self._key()
        with broker.store.refresh_lease(key, timeout=0) as is_ours:
            self.free.append((what, is_ours, not broker._flights.is_under_way(key)))


def test_observers_are_told_while_neither_lease_nor_flight_is_held(
    provider: LoopbackProvider, clock: ManualClock
) -> None:
    """But for the beginning of a flight, which is told before there is a lease."""
    broker = Broker(provider.descriptor(), "demo-client", "demo-secret", clock=clock)
    key = broker.key_for(USER_REQUEST)
    intruder = Intruder(lambda: key, lambda: watched)
    watched = Broker(
        provider.descriptor(),
        "demo-client",
        "demo-secret",
        store=broker.store,
        clock=clock,
        observers=[intruder],
    )
    log_in(watched, provider)
    clock.advance(3700)
    watched.refresh_access_token(USER_REQUEST)
    clock.advance(3700)
    provider.inject(Fault.lost_answer())
    with pytest.raises(BrokerError):
        watched.refresh_access_token(USER_REQUEST)
    watched.revoke(USER_REQUEST)
    began, ended = "flights 1", "flights -1"
    assert Counter(what for what, _, _ in intruder.free)[began] == 4
    assert Counter(what for what, _, _ in intruder.free)[ended] == 4
    assert {(lease, flight) for what, lease, flight in intruder.free if what != began} == {(True, True)}
    assert {(lease, flight) for what, lease, flight in intruder.free if what == began} == {(True, False)}


def test_a_record_that_stays_unsaved_is_told_once_its_flight_is_over(
    provider: LoopbackProvider, clock: ManualClock
) -> None:
    """Its lease is kept as long as it is unsaved, but nobody waits for the flight."""
    store = Store()
    intruder = Intruder(lambda: key, lambda: watched)
    watched = Broker(
        provider.descriptor(), "demo-client", "demo-secret", store=store, clock=clock, observers=[intruder]
    )
    key = watched.key_for(USER_REQUEST)
    store.down = True
    log_in(watched, provider)
    assert ("unsaved_records 1", False, True) in intruder.free
    store.down = False
    watched.close()


class Breaker:
    """Fails at all that it is told."""

    def observe(self, event: FlowEvent) -> None:
        raise ValueError("s3cret")

    def track(self, level: Level, change: int, provider: ProviderId) -> None:
        raise ValueError("s3cret")


def test_an_observer_that_fails_at_levels_is_logged_and_breaks_nothing(
    provider: LoopbackProvider, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    """The flow goes on and the others are told."""
    with (
        caplog.at_level(logging.WARNING, "oauth2broker"),
        Broker(
            provider.descriptor(), "demo-client", "demo-secret", observers=[Breaker(), listener]
        ) as broker,
    ):
        broker.client_credentials(SERVICE_REQUEST)
    assert listener.highest[Level.FLIGHTS] == 1
    assert caplog.text.count("observer Breaker failed: ValueError") == 4
    assert "s3cret" not in caplog.text


class Asking(DefaultProviderStrategy):
    """Asks another broker for a token while it shapes a request."""

    def __init__(self, other: Broker) -> None:
        self._other = other

    def shape_request(self, draft: RequestDraft) -> None:
        self._other.client_credentials(SERVICE_REQUEST)


@pytest.mark.parametrize("heard", [False, True])
def test_what_another_broker_does_inside_a_flow_is_told_to_its_own_observers_only(
    provider: LoopbackProvider, clock: ManualClock, listener: Listener, heard: bool
) -> None:
    """A hook may use a broker, observed or not."""
    others = Listener()
    inner = Broker(
        provider.descriptor(),
        "demo-client",
        "demo-secret",
        clock=clock,
        observers=[others] if heard else [],
    )
    outer = Broker(
        provider.descriptor(),
        "demo-client",
        "demo-secret",
        clock=clock,
        observers=[listener],
        strategy=Asking(inner),
    )
    outer.client_credentials(SERVICE_REQUEST)
    assert len(listener.steps(ProviderCall)) == 1
    assert len(others.steps(ProviderCall)) == heard
    assert listener.events[-1].result is RefreshResult.RENEWED
    assert listener.highest[Level.FLIGHTS] == 1


# Spans.


def test_an_adapter_tells_of_steps_and_result_in_a_span_of_its_own() -> None:
    """What it sets and adds comes with the end."""
    listener = Listener()
    step = LeaseWait(0.0, 0.5, acquired=True)
    with FlowSpan(FlowKind.REFRESH, "my_adapter", observers=[listener], provider="loopback") as span:
        span.result, span.expires_in = RefreshResult.ADOPTED, 30.0
        span.add(step)
    end = listener.events[-1]
    assert (end.result, end.expires_in, end.steps, end.span) == (RefreshResult.ADOPTED, 30.0, (step,), span)


def test_a_span_lives_as_long_as_its_events(observed: Broker, listener: Listener) -> None:
    """So it can key a WeakKeyDictionary; a copy of an event names the same flow."""
    observed.refresh_access_token(USER_REQUEST)
    assert copy.deepcopy(listener.events[-1]).span is listener.events[-1].span
    spans = weakref.WeakSet(event.span for event in listener.events if event.span is not None)
    assert len(spans) == 1
    listener.events.clear()
    gc.collect()
    assert len(spans) == 0
