"""A storm of renewals with faults: what every observer shows is what the provider counted."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise

import pytest

from oauth2broker import (
    BackendError,
    Broker,
    BrokerError,
    CachedTokenRequest,
    CompareAndSwapOutcome,
    MemoryStore,
    RefreshResult,
    StoreKey,
    TokenRecord,
    TokenSecret,
)
from oauth2broker.observers.measures import COUNTERS, HISTOGRAMS, Instrument
from oauth2broker.testing import Fault, LoopbackProvider
from tests.observers.figures import (
    Figures,
    by,
    exported,
    metrics_page,
    prometheus_name,
    scrape,
    scraping,
    total,
)
from tests.observers.sight import Sight
from tests.support import REDIRECT_URI, SCOPE, TENANT, Crowd, ManualClock

USERS, ROUNDS, THREADS, CALLS = 24, 6, 16, 12
SEED = 20261124
GARBLED = Fault.garble(b"<html>")
FAULTS = (
    Fault.answer(503, {"Retry-After": "5"}),
    Fault.answer(429),
    Fault.lost_answer(),
    GARBLED,
    Fault.html(502),
    Fault.json(400, {"error": "invalid_grant"}),
    Fault.json(401, {"error": "invalid_client"}),
    Fault.reset(),
    Fault.slow(0.05),
)


class FlakyStore(MemoryStore):
    """While ``flaky``, gets in the way of some of the tokens that were issued, by chance.

    Those of users who are served by one broker are refused for good: a record that is refused keeps its
    lease, and another broker would wait for that as long as the store is down. Of others, the record is
    deleted just before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flaky = False
        self.refused: set[str] = set()
        self.deleted: set[str] = set()
        self._taken: set[str] = set()
        self._dice = random.Random(SEED)

    def compare_and_swap_refresh(
        self, key: StoreKey, expected_refresh: TokenSecret | str | None, replacement: TokenRecord
    ) -> CompareAndSwapOutcome:
        issued = replacement.refresh_token
        if self.flaky and issued is not None and issued != expected_refresh:
            self._get_in_the_way(key, issued.expose())
        return super().compare_and_swap_refresh(key, expected_refresh, replacement)

    def _get_in_the_way(self, key: StoreKey, token: str) -> None:
        settled = is_settled(key.family.principal)
        struck = self.refused if settled else self.deleted
        if token not in self._taken | struck:
            (struck if self._dice.random() < (0.4 if settled else 0.1) else self._taken).add(token)
        if token in self.refused:
            raise BackendError("the disk is full")
        if token in self.deleted:
            self.delete(key)


def is_settled(principal: str) -> bool:
    """Whether a user is served by one broker only."""
    return int(principal.removeprefix("user-")) % 3 == 0


@dataclass
class Storm:
    """Threads that ask two brokers with one store for tokens that expire, at a provider in trouble."""

    provider: LoopbackProvider
    clock: ManualClock
    sight: Sight = field(default_factory=Sight)
    store: FlakyStore = field(default_factory=FlakyStore)
    served: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    injected: Counter[Fault] = field(default_factory=Counter)
    dead: set[CachedTokenRequest] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.requests = [CachedTokenRequest(TENANT, f"user-{n}", SCOPE) for n in range(USERS)]
        self.brokers = [self._broker(), self._broker()]
        self._dice, self._lock = random.Random(SEED), threading.Lock()

    def _broker(self) -> Broker:
        arguments = {"store": self.store, "clock": self.clock, "observers": self.sight.observers}
        return Broker(self.provider.descriptor(), "demo-client", "demo-secret", **arguments)  # type: ignore[arg-type]

    def log_in(self, requests: Iterable[CachedTokenRequest]) -> None:
        for request in requests:
            session = self.brokers[0].start_authorization(TENANT, str(request.principal), SCOPE, REDIRECT_URI)
            callback = self.provider.browse(session.authorize_url, user=str(request.principal))
            self.brokers[0].complete_authorization(session, callback)

    def blow(self) -> None:
        for _ in range(ROUNDS):
            dead, self.dead = self.dead, set()
            self.log_in(dead)
            self.clock.advance(timedelta(hours=2))
            for fault in self._dice.sample(FAULTS, 4):
                self.provider.inject(fault)
                self.injected[fault] += 1
            crowd = Crowd(THREADS, self._ask).start().join()
            assert not crowd.errors

    def _ask(self) -> None:
        with self._lock:
            wanted = [
                (self._dice.choice(self.requests), self._dice.choice(self.brokers)) for _ in range(CALLS)
            ]
        for request, any_broker in wanted:
            broker = self.brokers[0] if is_settled(str(request.principal)) else any_broker
            try:
                broker.refresh_access_token(request)
                ended = None
            except BrokerError as error:
                ended = type(error).__name__
                if error.reauthorize:
                    self.dead.add(request)
            with self._lock:
                self.served += ended is None
                self.failed.update([ended] if ended else [])

    def calm_down(self) -> None:
        """The store is well again; what it had refused gets there."""
        self.store.flaky = False
        for broker in self.brokers:
            broker.close()
            assert not broker.unsaved


@pytest.fixture(scope="module")
def storm() -> Iterator[tuple[Storm, list[Figures]]]:
    """One storm, scraped while it blew and once more when it was over."""
    clock = ManualClock()
    with LoopbackProvider(clock=clock, latency=0.005) as provider:
        storm = Storm(provider, clock)
        with metrics_page(storm.sight.registry) as port:
            storm.log_in(storm.requests)
            storm.store.flaky = True
            with scraping(port) as scrapes:
                storm.blow()
            storm.calm_down()
            yield storm, [*scrapes, scrape(port)]


Weather = tuple[Storm, list[Figures]]


def test_the_storm_was_one(storm: Weather) -> None:
    """Each thing that the other tests count did happen."""
    weather, [*_, last] = storm
    results = by(last, "oauth2_broker_refresh_total", "result")
    expected = {
        RefreshResult.HIT,
        RefreshResult.RENEWED,
        RefreshResult.JOINED,
        RefreshResult.UNKNOWN,
        RefreshResult.TRANSIENT,
        RefreshResult.TOMBSTONED,
        RefreshResult.PERSIST_FAILED,
        RefreshResult.CAS_LOST,
    }
    assert expected <= set(results), results
    assert weather.store.refused
    assert len(storm[1]) > 2


def test_every_call_of_a_program_is_an_ended_flow(storm: Weather) -> None:
    """Served or not, as the callers saw it."""
    weather, [*_, last] = storm
    asked = ROUNDS * THREADS * CALLS
    ended = {
        outcome: total(last, "oauth2_broker_flow_total", flow="refresh", outcome=outcome)
        for outcome in ("attempt", "success", "failure")
    }
    assert ended == {"attempt": asked, "success": weather.served, "failure": weather.failed.total()}
    assert sum(by(last, "oauth2_broker_refresh_total", "result").values()) == asked


def test_every_call_of_the_provider_was_seen(storm: Weather) -> None:
    """As many as it counted, with the status that it answered; no call was told twice or left out.

    It counts calls for tokens; the rest were to end grants whose records had been deleted.
    """
    weather, [*_, last] = storm
    calls = weather.provider.calls
    told = by(last, "oauth2_broker_token_call_seconds_count", "endpoint")
    assert told.pop("revocation") == weather.provider.revocations == len(weather.store.deleted)
    assert told.total() == len(calls)
    spans = [
        span
        for span in weather.sight.calls()
        if (span.attributes or {})["oauth2_broker.endpoint"] != "revocation"
    ]
    seen = Counter((span.attributes or {}).get("http.response.status_code") for span in spans)
    assert seen == Counter(call.status for call in calls)
    assert {(span.attributes or {})["server.port"] for span in spans} == {
        int(weather.provider.base_url.rpartition(":")[2])
    }


def test_what_the_provider_answered_is_how_renewals_ended(storm: Weather) -> None:
    """Tokens issued are renewed or not stored; dead grants, lost answers and refusals are as it sent them."""
    weather, [*_, last] = storm
    results = by(last, "oauth2_broker_refresh_total", "result")
    renewals = [call for call in weather.provider.calls if call.grant_type == "refresh_token"]
    answers = Counter((call.status, call.error) for call in renewals)
    garbled = weather.injected[GARBLED]
    garbled_refusals = answers[400, None]
    issued = answers[200, None] - (garbled - garbled_refusals)
    assert sum(results[result] for result in ("renewed", "cas_lost", "persist_failed")) == issued
    assert results["tombstoned"] == answers[400, "invalid_grant"]
    lost = answers[None, None] + answers[502, None] + garbled
    assert results["unknown"] == lost


def test_what_the_store_refused_is_counted_and_all_is_over_at_the_end(storm: Weather) -> None:
    """Each refused record once, each lost race once; no flight and no unsaved record is left."""
    weather, [*_, last] = storm
    assert total(last, "oauth2_broker_persist_failed_total") == len(weather.store.refused)
    assert by(last, "oauth2_broker_refresh_total", "result")["persist_failed"] == len(weather.store.refused)
    assert by(last, "oauth2_broker_refresh_total", "result")["cas_lost"] == len(weather.store.deleted)
    assert total(last, "oauth2_broker_flights") == 0
    assert total(last, "oauth2_broker_unsaved_records") == 0
    assert max(total(figures, "oauth2_broker_flights") for figures in storm[1]) > 0


def test_no_counter_ever_falls(storm: Weather) -> None:
    """In scrapes that were made while it blew."""
    for earlier, later in pairwise(storm[1]):
        for series, value in earlier.items():
            if series[0].endswith(("_total", "_count", "_bucket")):
                assert later[series] >= value, series


@pytest.mark.parametrize("instrument", [*COUNTERS, *HISTOGRAMS], ids=lambda instrument: instrument.name)
def test_opentelemetry_and_prometheus_agree(storm: Weather, instrument: Instrument) -> None:
    """Series by series, zeros and all."""
    weather, [*_, last] = storm
    name = prometheus_name(instrument)
    scraped = {series: value for series, value in last.items() if series[0] == name}
    sent = {series: value for series, value in exported(weather.sight.reader).items() if series[0] == name}
    assert scraped == sent


def test_every_flow_is_a_span_and_every_joiner_is_linked_to_its_leader(storm: Weather) -> None:
    """The spans' results are the counters'; a link leads to the flow that made the call."""
    weather, [*_, last] = storm
    flows = {
        span.context.span_id: span
        for span in weather.sight.spans_named("oauth2_broker.flow")
        if (span.attributes or {}).get("oauth2_broker.flow") == "refresh"
    }
    results = Counter(str((span.attributes or {})["oauth2_broker.result"]) for span in flows.values())
    assert results == by(last, "oauth2_broker_refresh_total", "result")
    waits = weather.sight.spans_named("oauth2_broker.flight_wait")
    assert len(waits) == total(last, "oauth2_broker_flight_wait_seconds_count")
    for wait in waits:
        [link] = wait.links
        assert wait.parent is not None
        assert wait.parent.span_id in flows
        assert (flows[link.context.span_id].attributes or {})["oauth2_broker.result"] != "joined"


def test_every_event_is_a_line(storm: Weather) -> None:
    """With its result as a field."""
    weather, [*_, last] = storm
    lines = weather.sight.lines.records
    assert len(lines) == len(weather.sight.listener.events) == total(last, "oauth2_broker_flow_total")
