"""PrometheusObserver: what a scrape brings, from one process and from several."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as some
from prometheus_client import CollectorRegistry, Counter, generate_latest

from oauth2broker import (
    BackendError,
    Broker,
    CachedTokenRequest,
    ConfigError,
    FileStore,
    FlowKind,
    FlowOutcome,
    Level,
    MemoryStore,
    PrometheusObserver,
    ProviderId,
    RefreshResult,
    TokenRecord,
    record_flow_outcome,
)
from oauth2broker.observers.measures import COUNTERS, HISTOGRAMS, LEVELS, OTHER_TENANTS
from oauth2broker.testing import Fault, LoopbackProvider
from tests.observers.figures import by, figures_of, metrics_page, parsed, scrape, total
from tests.support import (
    REDIRECT_URI,
    SCOPE,
    SERVICE_REQUEST,
    TENANT,
    USER_REQUEST,
    Crowd,
    ManualClock,
    log_in,
)

PATIENCE = 60.0  # seconds; far more than anything here takes


def broker_with(
    provider: LoopbackProvider,
    clock: ManualClock,
    registry: CollectorRegistry,
    *,
    tenants: int = 0,
    **more: Any,
) -> Broker:
    observer = PrometheusObserver(registry, tenants=tenants)
    return Broker(
        provider.descriptor(), "demo-client", "demo-secret", clock=clock, observers=[observer], **more
    )


@pytest.fixture
def registry() -> CollectorRegistry:
    """One that nobody else uses."""
    return CollectorRegistry()


# What there is.


def test_names_and_labels_are_the_promised_ones(
    registry: CollectorRegistry, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """Dashboards depend on them: a change here is a change for operators."""
    broker = broker_with(provider, clock, registry)
    log_in(broker, provider)
    clock.advance(3700)
    broker.refresh_access_token(USER_REQUEST)
    found = {name: {label for label, _ in labels} for name, labels in figures_of(registry)}
    assert found["oauth2_broker_flow_total"] == {"flow", "outcome", "provider"}
    assert found["oauth2_broker_refresh_total"] == {"result", "provider"}
    assert found["oauth2_broker_client_credentials_total"] == {"result", "provider"}
    assert found["oauth2_broker_persist_failed_total"] == {"provider"}
    assert found["oauth2_broker_token_call_seconds_count"] == {"flow", "endpoint", "error", "provider"}
    assert found["oauth2_broker_lease_wait_seconds_count"] == {"flow", "provider"}
    assert found["oauth2_broker_token_remaining_seconds_count"] == {"flow", "provider"}
    assert found["oauth2_broker_flights"] == {"provider"}
    text = generate_latest(registry).decode()
    for name in ("flight_wait_seconds", "grant_remaining_seconds", "unsaved_records"):
        assert f"# TYPE oauth2_broker_{name} " in text
    kinds = len(COUNTERS) + len(HISTOGRAMS) + len(LEVELS)
    assert (
        len({line for line in text.splitlines() if line.startswith("# HELP") and "_created" not in line})
        == kinds
    )


def test_a_scrape_brings_what_a_renewal_counted(
    registry: CollectorRegistry, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """Over HTTP: the flow, its result, the call, the lease and what the token has left."""
    broker = broker_with(provider, clock, registry)
    log_in(broker, provider)
    clock.advance(3700)
    broker.refresh_access_token(USER_REQUEST)
    clock.advance(1800)
    broker.refresh_access_token(USER_REQUEST)
    with metrics_page(registry) as port:
        found = scrape(port)
    assert total(found, "oauth2_broker_flow_total", flow="refresh", outcome="success") == 2
    assert by(found, "oauth2_broker_refresh_total", "result") == {"renewed": 1, "hit": 1}
    assert by(found, "oauth2_broker_token_call_seconds_count", "endpoint") == {"token": 1, "refresh": 1}
    assert total(found, "oauth2_broker_token_call_seconds_count", error="") == 2
    remaining = "oauth2_broker_token_remaining_seconds_bucket"
    assert total(found, remaining, flow="refresh", le="900.0") == 0
    assert total(found, remaining, flow="refresh", le="1800.0") == 1
    assert total(found, remaining, flow="refresh", le="3600.0") == 2
    assert total(found, "oauth2_broker_lease_wait_seconds_count", flow="refresh") == 1


def test_a_scrape_tells_what_refresh_tokens_have_left(
    registry: CollectorRegistry, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """So that an alert comes before the users must log in again."""
    descriptor = provider.descriptor(default_refresh_expires_in=timedelta(days=30))
    observers = [PrometheusObserver(registry)]
    with Broker(descriptor, "demo-client", "demo-secret", clock=clock, observers=observers) as broker:
        log_in(broker, provider)
        clock.advance(1800)
        broker.refresh_access_token(USER_REQUEST)
    found, name = figures_of(registry), "oauth2_broker_grant_remaining_seconds"
    assert total(found, f"{name}_count", flow="refresh") == 1
    assert total(found, f"{name}_sum", flow="refresh") == pytest.approx(30 * 86400 - 1800, abs=5)


def test_counters_are_there_at_zero_before_anything_fails(
    registry: CollectorRegistry, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """Else the first failure is no increase, and no alert."""
    broker_with(provider, clock, registry).client_credentials(SERVICE_REQUEST)
    found = figures_of(registry)
    for result in RefreshResult:
        series = (
            "oauth2_broker_refresh_total",
            frozenset({("result", result.value), ("provider", "loopback")}),
        )
        assert found[series] == 0
    assert found["oauth2_broker_persist_failed_total", frozenset({("provider", "loopback")})] == 0
    assert (
        found[
            "oauth2_broker_flow_total",
            frozenset({("flow", "refresh"), ("outcome", "failure"), ("provider", "loopback")}),
        ]
        == 0
    )


class FullStore(MemoryStore):
    """Takes no record while it is full."""

    full = True

    def save(self, record: TokenRecord) -> None:
        if self.full:
            raise BackendError("full")
        super().save(record)


def test_gauges_show_what_is_not_over(
    registry: CollectorRegistry, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """A flight while it flies, a record until it is saved."""
    store = FullStore()
    broker = broker_with(provider, clock, registry, store=store)
    provider.inject(Fault.slow(0.5))
    flying = threading.Thread(target=broker.client_credentials, args=[SERVICE_REQUEST])
    flying.start()
    while not provider.token_calls:
        flying.join(0.01)
    assert total(figures_of(registry), "oauth2_broker_flights") == 1
    flying.join(PATIENCE)
    found = figures_of(registry)
    assert total(found, "oauth2_broker_flights") == 0
    assert total(found, "oauth2_broker_unsaved_records") == 1
    assert total(found, "oauth2_broker_persist_failed_total") == 1
    store.full = False
    broker.close()
    assert total(figures_of(registry), "oauth2_broker_unsaved_records") == 0


def test_each_record_that_the_store_refuses_is_counted(
    registry: CollectorRegistry, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """Also one that stands for another that was refused before: of those, one at a time is unsaved."""
    store = FullStore()
    store.full = True
    broker = broker_with(provider, clock, registry, store=store)
    for _ in range(3):
        broker.client_credentials(SERVICE_REQUEST)
        clock.advance(3700)
    assert total(figures_of(registry), "oauth2_broker_persist_failed_total") == 3
    assert total(figures_of(registry), "oauth2_broker_unsaved_records") == 1
    store.full = False
    broker.close()
    assert total(figures_of(registry), "oauth2_broker_unsaved_records") == 0


def test_no_count_is_lost_among_threads(registry: CollectorRegistry) -> None:
    """Threads that meet a provider, and a tenant, for the first time."""
    observer = PrometheusObserver(registry, tenants=5)

    def count() -> None:
        for number in range(200):
            record_flow_outcome(
                FlowKind.REFRESH,
                FlowOutcome.SUCCESS,
                observers=[observer],
                provider=f"p{number % 10}",
                tenant=f"t{number % 7}",
                result=RefreshResult.HIT,
            )
            observer.track(Level.FLIGHTS, 1, ProviderId("p"))

    assert not Crowd(16, count).start().join().errors
    found = figures_of(registry)
    assert total(found, "oauth2_broker_refresh_total", result="hit") == 3200
    assert total(found, "oauth2_broker_flights", provider="p") == 3200


# Tenants.


def test_tenants_have_a_label_on_request_up_to_a_cap(
    registry: CollectorRegistry, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """Also under zeros, so that a tenant's first failure is an increase; others share a label."""
    broker = broker_with(provider, clock, registry, tenants=2)
    for name in ("a", "b", "c", "d", "a"):
        broker.client_credentials(CachedTokenRequest(name, "svc", "email.read"))
    found = figures_of(registry)
    name = "oauth2_broker_flow_total"
    success = {"flow": "client_credentials", "outcome": "success"}
    assert by(
        {key: value for key, value in found.items() if set(success.items()) <= key[1]}, name, "tenant"
    ) == {
        "a": 2,
        "b": 1,
        OTHER_TENANTS: 2,
    }
    zero = {("tenant", "a"), ("result", "tombstoned"), ("provider", "loopback")}
    assert found["oauth2_broker_refresh_total", frozenset(zero)] == 0
    assert not any("tenant" in dict(labels) for name, labels in found if "token_call" in name)


def test_a_flow_of_no_tenant_takes_nobodys_label(registry: CollectorRegistry) -> None:
    """As a walk whose store cannot be listed: its label is empty, and the cap counts tenants only."""
    observer, name = PrometheusObserver(registry, tenants=1), "oauth2_broker_flow_total"
    for tenant in (None, "a"):
        record_flow_outcome(
            FlowKind.REFRESH, FlowOutcome.FAILURE, observers=[observer], provider="p", tenant=tenant
        )
    found = figures_of(registry)
    assert [total(found, name, tenant=tenant) for tenant in ("", "a", OTHER_TENANTS)] == [1, 1, 0]


@given(tenant=some.text(min_size=1, max_size=200), provider=some.text(min_size=1, max_size=100))
def test_hostile_names_do_not_break_the_exposition(tenant: str, provider: str) -> None:
    """An adapter of somebody else's may count anything; what is scraped can be parsed."""
    try:
        registry = CollectorRegistry()
        observer = PrometheusObserver(registry, tenants=1)
        record_flow_outcome(
            FlowKind.REFRESH, FlowOutcome.SUCCESS, observers=[observer], provider=provider, tenant=tenant
        )
    except ConfigError:
        return  # no id: refused before it gets anywhere
    found = parsed(generate_latest(registry).decode())
    labels = {("flow", "refresh"), ("outcome", "success"), ("provider", provider), ("tenant", tenant)}
    assert found["oauth2_broker_flow_total", frozenset(labels)] == 1


# Processes.


class Worker:
    """A process that renews and counts."""

    def __init__(self, provider: LoopbackProvider, store: Path, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.observers.prometheus_worker", provider.base_url, str(store)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        )
        self.pid = self._process.pid

    def begin(self, user: str) -> None:
        assert self._process.stdin is not None
        print(user, file=self._process.stdin, flush=True)

    def answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=PATIENCE)


@contextmanager
def workers(count: int, provider: LoopbackProvider, store: Path, folder: Path) -> Iterator[list[Worker]]:
    started = [Worker(provider, store, folder) for _ in range(count)]
    try:
        assert [worker.answer() for worker in started] == ["ready"] * count
        yield started
    finally:
        for worker in started:
            worker.kill()


SCRAPE = """
import os, sys
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
for pid in sys.argv[1:]:
    mark_process_dead(int(pid))
registry = CollectorRegistry()
MultiProcessCollector(registry)
sys.stdout.write(generate_latest(registry).decode())
"""


def scrape_all(folder: Path, *dead: int) -> dict[Any, float]:
    """Do what the ``/metrics`` of a multiprocess program does; ``dead`` are processes that it buried."""
    done = subprocess.run(
        [sys.executable, "-c", SCRAPE, *map(str, dead)],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    return parsed(done.stdout)


def test_processes_add_up_and_a_killed_one_leaves_no_flight(
    provider: LoopbackProvider, tmp_path: Path
) -> None:
    """In prometheus_client's multiprocess mode: sums are what the provider counted."""
    store, folder = tmp_path / "store", tmp_path / "metrics"
    folder.mkdir()
    users = [f"user-{number}" for number in range(3)]
    broker = Broker(provider.descriptor(), "demo-client", "demo-secret", store=FileStore(store))
    for user in users:
        session = broker.start_authorization(TENANT, user, SCOPE, REDIRECT_URI)
        broker.complete_authorization(session, provider.browse(session.authorize_url, user=user))
    provider.clear()
    with workers(3, provider, store, folder) as (first, second, killed):
        for _ in range(5):
            for worker, user in zip((first, second), users, strict=False):
                worker.begin(user)
            assert (first.answer(), second.answer()) == ("renewed", "renewed")
        provider.inject(Fault.silence(processed=False))
        killed.begin(users[2])
        while provider.token_calls < 11:
            threading.Event().wait(0.01)
        assert total(scrape_all(folder), "oauth2_broker_flights", provider="loopback") == 1
        killed.kill()
        found = scrape_all(folder, killed.pid)
        assert total(found, "oauth2_broker_flights", provider="loopback") == 0
        assert total(found, "oauth2_broker_refresh_total", result="renewed") == 10
        assert total(found, "oauth2_broker_flow_total", flow="refresh", outcome="attempt") == 11
        assert total(found, "oauth2_broker_token_call_seconds_count") == provider.token_calls - 1


RECYCLED = """
import sys
from oauth2broker import FlowKind, FlowOutcome, PrometheusObserver, record_flow_outcome
observer = PrometheusObserver(tenants=2)
for tenant in sys.argv[1:]:
    record_flow_outcome(
        FlowKind.REFRESH, FlowOutcome.SUCCESS, observers=[observer], provider="p", tenant=tenant
    )
"""


def test_the_cap_on_tenants_holds_for_workers_at_once_and_after_another(tmp_path: Path) -> None:
    """The same ones have a label in all: each is in one place only, with the sum of what all counted."""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for others in (["c", "d"], ["e", "f"], ["g", "ü"]):
        names = [[*others, "a", "b"], [*reversed(others), "b", "a"]]
        both = [subprocess.Popen([sys.executable, "-c", RECYCLED, *some], env=environment) for some in names]
        assert [one.wait(PATIENCE) for one in both] == [0, 0]
    counted = {
        dict(labels)["tenant"]: value
        for (name, labels), value in scrape_all(tmp_path).items()
        if name == "oauth2_broker_flow_total" and {("flow", "refresh"), ("outcome", "success")} <= set(labels)
    }
    assert len(counted) == 3
    assert counted.pop(OTHER_TENANTS) == 24 - sum(counted.values())
    assert set(counted) == {"c", "d"}
    assert set(counted.values()) == {2}


def _flights_in_child(registry: CollectorRegistry, observer: PrometheusObserver, results: Any) -> None:
    observer.track(Level.FLIGHTS, 1, ProviderId("p"))
    results.put(total(figures_of(registry), "oauth2_broker_flights"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_counts_levels_from_zero(registry: CollectorRegistry) -> None:
    """What flies in the parent does not fly here."""
    observer = PrometheusObserver(registry)
    observer.track(Level.FLIGHTS, 3, ProviderId("p"))
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    with observer._lock:
        child = context.Process(target=_flights_in_child, args=(registry, observer, results))
        child.start()
    assert results.get(timeout=PATIENCE) == 1
    child.join(PATIENCE)
    assert total(figures_of(registry), "oauth2_broker_flights") == 3


# Mistakes.


def test_a_second_observer_in_a_registry_is_refused(registry: CollectorRegistry) -> None:
    """And the first goes on."""
    observer = PrometheusObserver(registry)
    with pytest.raises(ConfigError, match="share one PrometheusObserver"):
        PrometheusObserver(registry)
    record_flow_outcome(FlowKind.REFRESH, FlowOutcome.SUCCESS, observers=[observer], provider="p")
    assert total(figures_of(registry), "oauth2_broker_flow_total") == 1


def test_a_name_that_is_taken_leaves_nothing_half_made(registry: CollectorRegistry) -> None:
    """What was registered before the clash is taken back, so that it can be made once that is mended."""
    taken = Counter("oauth2_broker_persist_failed", "somebody else's", registry=registry)
    with pytest.raises(ConfigError):
        PrometheusObserver(registry)
    registry.unregister(taken)
    PrometheusObserver(registry)


@pytest.mark.parametrize("no_registry", ["registry", 7, object()])
def test_a_registry_is_one(no_registry: Any) -> None:
    """Anything else is refused."""
    with pytest.raises(ConfigError, match="registry"):
        PrometheusObserver(no_registry)


@pytest.mark.parametrize("tenants", [-1, 1.5, "3", None, True])
def test_a_cap_is_a_number(registry: CollectorRegistry, tenants: Any) -> None:
    """Anything else is refused, before anything is registered."""
    with pytest.raises(ConfigError, match="tenants"):
        PrometheusObserver(registry, tenants=tenants)
    PrometheusObserver(registry)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module itself is there."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigError, match=r"oauth2broker\[prometheus\]"):
        PrometheusObserver()
