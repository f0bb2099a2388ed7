"""OpenTelemetryObserver, as the SDK's in-memory exporters see it."""

from __future__ import annotations

import logging
import multiprocessing
import sys
import threading
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from oauth2broker import (
    BackendError,
    Broker,
    BrokerError,
    CachedTokenRequest,
    ConfigError,
    FlowEvent,
    FlowKind,
    FlowOutcome,
    FlowSpan,
    HttpRequest,
    HttpResponse,
    InvalidClientError,
    Level,
    MemoryStore,
    OpenTelemetryObserver,
    ProviderId,
    RefreshResult,
    ResponseMetadataSlot,
    TokenRecord,
    record_flow_outcome,
)
from oauth2broker.testing import Fault, LoopbackProvider
from tests.observers.figures import exported, total
from tests.support import SERVICE_REQUEST, TENANT, USER_REQUEST, Crowd, ManualClock, log_in

FLOW, FLIGHT_WAIT, LEASE_WAIT = (
    "oauth2_broker.flow",
    "oauth2_broker.flight_wait",
    "oauth2_broker.lease_wait",
)


class Lab:
    """An observer, and what the SDK has exported."""

    def __init__(self, *, tenants: int = 0, **tracing: Any) -> None:
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracing = TracerProvider(**tracing)
        self.tracing.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.metering = MeterProvider(metric_readers=[self.reader])
        self.observer = OpenTelemetryObserver(
            tracer_provider=self.tracing, meter_provider=self.metering, tenants=tenants
        )

    def broker(self, provider: LoopbackProvider, clock: ManualClock, **arguments: Any) -> Broker:
        arguments = {"clock": clock, "observers": [self.observer], **arguments}
        return Broker(provider.descriptor(), "demo-client", "demo-secret", **arguments)

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def figure(self, name: str, **labels: str) -> float:
        return total(exported(self.reader), name, **labels)


@pytest.fixture
def lab() -> Lab:
    """An observer with the SDK behind it."""
    return Lab()


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    return span.attributes or {}


def identity(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


def beginning(span: ReadableSpan) -> int:
    assert span.start_time is not None
    return span.start_time


def end(span: ReadableSpan) -> int:
    assert span.end_time is not None
    return span.end_time


def parent(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


# Spans.


def test_a_renewal_is_a_span_with_the_call_below_it(
    lab: Lab, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """With the flow's words, and the conventions' attributes for the call; times nest."""
    broker = lab.broker(provider, clock)
    log_in(broker, provider)
    lab.exporter.clear()
    clock.advance(3700)
    broker.refresh_access_token(USER_REQUEST)
    [flow], [call] = lab.spans(FLOW), lab.spans("POST")
    found = dict(attributes(flow))
    assert found.pop("oauth2_broker.expires_in") == pytest.approx(3600, abs=1)
    assert found == {
        "oauth2_broker.flow": "refresh",
        "oauth2_broker.stage": attributes(flow)["oauth2_broker.stage"],
        "oauth2_broker.provider": "loopback",
        "oauth2_broker.tenant": USER_REQUEST.tenant,
        "oauth2_broker.outcome": "success",
        "oauth2_broker.result": "renewed",
    }
    assert flow.status.status_code is StatusCode.UNSET
    assert dict(attributes(call)) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "oauth2_broker.endpoint": "refresh",
        "server.address": "127.0.0.1",
        "server.port": int(provider.base_url.rpartition(":")[2]),
        "url.full": provider.token_endpoint,
    }
    assert (call.kind, parent(call)) == (SpanKind.CLIENT, identity(flow))
    assert beginning(flow) <= beginning(call) < end(call) <= end(flow)


@pytest.mark.parametrize(
    ("fault", "status", "error_type", "error"),
    [
        (Fault.answer(503), 503, "503", "TransientError"),
        (Fault.json(400, {"error": "invalid_grant"}), 400, "400", "InvalidGrantError"),
        (Fault.json(401, {"error": "invalid_client"}), 401, "401", "InvalidClientError"),
        (Fault.garble(b"<html>"), 200, "TransientError", "TransientError"),
        (Fault.lost_answer(), None, "TransportError", "TransportError"),
    ],
)
def test_a_failure_shows_on_the_flow_and_on_the_call(
    lab: Lab,
    provider: LoopbackProvider,
    clock: ManualClock,
    fault: Fault,
    status: int | None,
    error_type: str,
    error: str,
) -> None:
    """As status and error type; the flow's is our class, the call's is the HTTP status if that tells."""
    broker = lab.broker(provider, clock)
    log_in(broker, provider)
    lab.exporter.clear()
    clock.advance(3700)
    provider.inject(fault)
    with pytest.raises(BrokerError):
        broker.refresh_access_token(USER_REQUEST)
    [flow], [call] = lab.spans(FLOW), lab.spans("POST")
    assert attributes(call).get("http.response.status_code") == status
    assert attributes(call)["error.type"] == error_type
    assert attributes(call)["oauth2_broker.error"] == error
    assert call.status.status_code is StatusCode.ERROR
    assert (attributes(flow)["error.type"], flow.status.description) == (error, error)
    assert flow.status.status_code is StatusCode.ERROR
    assert attributes(flow)["oauth2_broker.outcome"] == "failure"
    assert not flow.events  # an exception event would hold the message and the stack


def test_a_renewal_that_fails_ahead_of_expiry_is_no_error_of_the_flow(
    lab: Lab, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """The caller was served; the result and the call say what happened."""
    broker = lab.broker(provider, clock)
    log_in(broker, provider)
    lab.exporter.clear()
    clock.advance(3600 - 20)
    provider.inject(Fault.answer(503))
    broker.refresh_access_token(USER_REQUEST)
    [flow], [call] = lab.spans(FLOW), lab.spans("POST")
    assert (flow.status.status_code, call.status.status_code) == (StatusCode.UNSET, StatusCode.ERROR)
    assert attributes(flow)["oauth2_broker.result"] == "transient"


def test_joiners_are_linked_to_the_flow_that_renews_for_them(
    lab: Lab, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """Thirty-two threads, one call: its flow is the leader, all others wait and link to it."""
    broker = lab.broker(provider, clock)
    log_in(broker, provider)
    lab.exporter.clear()
    clock.advance(3700)
    provider.latency = 0.3
    crowd = Crowd(32, lambda: broker.refresh_access_token(USER_REQUEST)).start().join()
    assert not crowd.errors
    flows = {identity(span): span for span in lab.spans(FLOW)}
    [leader] = [one for one in flows.values() if attributes(one)["oauth2_broker.result"] == "renewed"]
    joiners = [one for one in flows.values() if attributes(one)["oauth2_broker.result"] == "joined"]
    assert len(flows) == 32
    assert joiners
    assert {link.context.span_id for one in joiners for link in one.links} == {identity(leader)}
    assert all(one.links for one in joiners)
    waits = lab.spans(FLIGHT_WAIT)
    assert sorted(parent(one) or 0 for one in waits) == sorted(identity(one) for one in joiners)
    assert {link.context.span_id for one in waits for link in one.links} == {identity(leader)}
    [call] = lab.spans("POST")
    assert parent(call) == identity(leader)


def test_a_flow_is_below_the_programs_own_span_and_above_what_happens_in_it(
    lab: Lab, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """An instrumented HTTP library, or a hook, finds the flow as its parent; afterwards all is as before."""
    tracer = lab.tracing.get_tracer("program")

    class Transport:
        def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
            with tracer.start_as_current_span("inner"):
                body = b'{"access_token": "a", "token_type": "Bearer", "expires_in": 3600}'
                return HttpResponse(200, {"Content-Type": "application/json"}, body)

    broker = lab.broker(provider, clock, http_client=Transport())
    before = trace.get_current_span()
    with tracer.start_as_current_span("outer") as outer:
        broker.client_credentials(SERVICE_REQUEST)
        assert trace.get_current_span() is outer
    assert trace.get_current_span() is before
    [flow], [inner], [above] = lab.spans(FLOW), lab.spans("inner"), lab.spans("outer")
    assert (parent(inner), parent(flow)) == (identity(flow), identity(above))


def test_what_a_walk_renews_is_below_the_programs_own_span(
    lab: Lab, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """Though threads of the walk's own renew."""
    broker = lab.broker(provider, clock)
    log_in(broker, provider)
    clock.advance(3700)
    with lab.tracing.get_tracer("program").start_as_current_span("walk") as walk:
        broker.renew_due(within=timedelta(hours=1), jitter=timedelta())
    flow = lab.spans(FLOW)[-1]
    assert attributes(flow)["oauth2_broker.stage"] == "renew_due"
    assert parent(flow) == walk.get_span_context().span_id


def test_waiting_for_a_lease_is_a_span_if_it_took_time(
    lab: Lab, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """One that is had at once is none."""
    store = MemoryStore()
    broker = lab.broker(provider, clock, store=store)
    log_in(broker, provider)
    clock.advance(3700)
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with store.refresh_lease(broker.key_for(USER_REQUEST), timeout=0):
            held.set()
            let_go.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(10)
    threading.Timer(0.1, let_go.set).start()
    broker.refresh_access_token(USER_REQUEST)
    holder.join()
    [wait] = lab.spans(LEASE_WAIT)
    assert attributes(wait)["oauth2_broker.acquired"] is True
    [renewal] = [one for one in lab.spans(FLOW) if attributes(one).get("oauth2_broker.result") == "renewed"]
    assert parent(wait) == identity(renewal)


class Picky(SpanProcessor):
    """Fails on each call to the provider."""

    def on_end(self, span: ReadableSpan) -> None:
        if span.name == "POST":
            raise ValueError("picky")


def test_a_span_processor_that_fails_costs_the_flow_nothing(
    lab: Lab, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """How it ended is on its span all the same."""
    lab.tracing.add_span_processor(Picky())
    provider.inject(Fault.json(401, {"error": "invalid_client"}))
    with pytest.raises(InvalidClientError):
        lab.broker(provider, clock).client_credentials(SERVICE_REQUEST)
    [flow] = lab.spans(FLOW)
    assert attributes(flow)["oauth2_broker.result"] == "refused"
    assert flow.status.status_code is StatusCode.ERROR


class Slow:
    """Takes its time when a flow begins, and says when that was."""

    began = 0

    def observe(self, event: FlowEvent) -> None:
        if event.outcome is FlowOutcome.ATTEMPT:
            self.began = time.time_ns()
            time.sleep(0.2)


def test_a_flow_begins_when_it_began_whoever_is_told_first(
    lab: Lab, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """Another observer that takes its time moves neither its beginning nor its end."""
    slow = Slow()
    lab.broker(provider, clock, observers=[slow, lab.observer]).client_credentials(SERVICE_REQUEST)
    now, [flow] = time.time_ns(), lab.spans(FLOW)
    assert beginning(flow) < slow.began + 100_000_000
    assert end(flow) < now + 100_000_000


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_leaves_no_span_open(
    lab: Lab, provider: LoopbackProvider, clock: ManualClock, interrupt: type[BaseException]
) -> None:
    """The flow's span ends with it, and the thread is in no span any more."""

    class Interrupted:
        def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
            raise interrupt

    before = trace.get_current_span()
    with pytest.raises(interrupt):
        lab.broker(provider, clock, http_client=Interrupted()).client_credentials(SERVICE_REQUEST)
    [flow] = lab.spans(FLOW)
    assert attributes(flow)["error.type"] == interrupt.__name__
    assert trace.get_current_span() is before
    assert lab.figure("oauth2_broker_flights") == 0


def test_a_flow_of_an_adapter_is_a_span_and_a_bare_outcome_is_counted(lab: Lab) -> None:
    """``FlowSpan`` and ``record_flow_outcome`` work for programs, too."""
    with FlowSpan(FlowKind.REFRESH, "mine", observers=[lab.observer]):
        pass
    record_flow_outcome(FlowKind.REFRESH, FlowOutcome.FAILURE, observers=[lab.observer], provider="p")
    [flow] = lab.spans(FLOW)
    assert dict(attributes(flow)) == {
        "oauth2_broker.flow": "refresh",
        "oauth2_broker.stage": "mine",
        "oauth2_broker.outcome": "success",
    }
    assert lab.figure("oauth2_broker_flow_total", outcome="success", provider="") == 1
    assert lab.figure("oauth2_broker_flow_total", outcome="failure", provider="p") == 1


def test_what_is_not_sampled_is_counted_all_the_same(provider: LoopbackProvider, clock: ManualClock) -> None:
    """No span, and every figure."""
    lab = Lab(sampler=ALWAYS_OFF)
    broker = lab.broker(provider, clock)
    log_in(broker, provider)
    clock.advance(3700)
    broker.refresh_access_token(USER_REQUEST)
    assert not lab.exporter.get_finished_spans()
    assert lab.figure("oauth2_broker_refresh_total", result="renewed") == 1
    assert lab.figure("oauth2_broker_token_call_seconds_count") == 2


def test_nothing_is_kept_of_flows_that_are_over(
    lab: Lab, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """Neither by the observer nor on the thread."""
    broker = lab.broker(provider, clock)
    for _ in range(10):
        broker.client_credentials(SERVICE_REQUEST)
    assert len(lab.observer._flows) == 0


def test_nothing_is_logged_about_contexts(
    lab: Lab, provider: LoopbackProvider, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Spans are taken off the thread that they were put on, whoever joins whom."""
    broker = lab.broker(provider, clock)
    log_in(broker, provider)
    clock.advance(3700)
    with caplog.at_level(logging.WARNING, "opentelemetry"):
        Crowd(8, lambda: broker.refresh_access_token(USER_REQUEST)).start().join()
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


# Metrics.


class FullStore(MemoryStore):
    """Takes no record while it is full."""

    full = False

    def save(self, record: TokenRecord) -> None:
        if self.full:
            raise BackendError("full")
        super().save(record)


def test_levels_go_up_and_down_again(lab: Lab, provider: LoopbackProvider, clock: ManualClock) -> None:
    """A record that is not saved, until it is."""
    store = FullStore()
    store.full = True
    broker = lab.broker(provider, clock, store=store)
    broker.client_credentials(SERVICE_REQUEST)
    assert lab.figure("oauth2_broker_unsaved_records", provider="loopback") == 1
    assert lab.figure("oauth2_broker_persist_failed_total", provider="loopback") == 1
    assert lab.figure("oauth2_broker_client_credentials_total", result="persist_failed") == 1
    store.full = False
    broker.close()
    assert lab.figure("oauth2_broker_unsaved_records") == 0
    assert lab.figure("oauth2_broker_flights") == 0
    assert lab.figure("oauth2_broker_persist_failed_total") == 1


def test_counters_are_there_at_zero_before_anything_fails(
    provider: LoopbackProvider, clock: ManualClock
) -> None:
    """As those of Prometheus are; also where the first thing that is told is no event."""
    lab = Lab(tenants=1)
    lab.observer.track(Level.UNSAVED_RECORDS, 1, ProviderId("p"))
    lab.broker(provider, clock).client_credentials(SERVICE_REQUEST)
    found = exported(lab.reader)
    for whose in ({"provider": "p", "tenant": ""}, {"provider": "loopback", "tenant": TENANT}):
        for result in RefreshResult:
            series = frozenset({"result": result.value, **whose}.items())
            assert found["oauth2_broker_refresh_total", series] == 0
        failures = frozenset({"flow": "refresh", "outcome": "failure", **whose}.items())
        assert found["oauth2_broker_flow_total", failures] == 0
    assert found["oauth2_broker_persist_failed_total", frozenset({("provider", "loopback")})] == 0


def test_two_observers_of_one_program_add_up(lab: Lab) -> None:
    """A program that makes one per broker sees all flights."""
    other = OpenTelemetryObserver(tracer_provider=lab.tracing, meter_provider=lab.metering)
    for observer in (lab.observer, other):
        observer.track(Level.FLIGHTS, 1, ProviderId("p"))
    assert lab.figure("oauth2_broker_flights") == 2


def test_tenants_have_attributes_on_request_up_to_a_cap(
    provider: LoopbackProvider, clock: ManualClock
) -> None:
    """The others share one."""
    lab = Lab(tenants=2)
    broker = lab.broker(provider, clock)
    for name in ("a", "b", "c", "d", "a"):
        broker.client_credentials(CachedTokenRequest(name, "svc", "email.read"))
    for tenant, calls in (("a", 2), ("b", 1), ("other tenants", 2)):
        success = {"tenant": tenant, "outcome": "success", "flow": "client_credentials"}
        assert lab.figure("oauth2_broker_flow_total", **success) == calls
    assert {dict(labels).get("tenant") for name, labels in exported(lab.reader) if "token_call" in name} == {
        None
    }


def test_histograms_have_the_buckets_that_fit_what_they_measure(
    lab: Lab, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """Not the SDK's default, which is for milliseconds."""
    lab.broker(provider, clock).client_credentials(SERVICE_REQUEST)
    data = lab.reader.get_metrics_data()
    assert data is not None
    metrics = {m.name: m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics}
    [point] = metrics["oauth2_broker.token_remaining"].data.data_points
    assert 3600.0 in point.explicit_bounds  # type: ignore[union-attr]
    assert 86400.0 in point.explicit_bounds  # type: ignore[union-attr]
    assert metrics["oauth2_broker.token_remaining"].unit == "s"


def _levels_in_child(lab: Lab, results: Any) -> None:
    for change in (1, 1, -1):
        lab.observer.track(Level.FLIGHTS, change, ProviderId("p"))
    results.put(lab.figure("oauth2_broker_flights"))


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_counts_levels_from_zero(lab: Lab) -> None:
    """Also when a thread of the parent held the lock, and though the SDK's sums are copied."""
    lab.observer.track(Level.FLIGHTS, 3, ProviderId("p"))
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    with lab.observer._lock:
        child = context.Process(target=_levels_in_child, args=(lab, results))
        child.start()
    assert results.get(timeout=30) == 1
    child.join(30)
    assert lab.figure("oauth2_broker_flights") == 3


# Mistakes.


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module itself is there."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"oauth2broker\[otel\]"):
        OpenTelemetryObserver()


@pytest.mark.parametrize("tenants", [-1, 1.5, "3", None, True])
def test_a_cap_is_a_number(tenants: Any) -> None:
    """Anything else is refused."""
    with pytest.raises(ConfigError, match="tenants"):
        OpenTelemetryObserver(tenants=tenants)


@pytest.mark.parametrize("name", ["tracer_provider", "meter_provider"])
def test_a_provider_is_one(name: str) -> None:
    """Another object is refused when the observer is made."""
    arguments: dict[str, Any] = {name: object()}
    with pytest.raises(ConfigError, match=name):
        OpenTelemetryObserver(**arguments)
