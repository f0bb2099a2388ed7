"""What OpenTelemetryObserver makes current, and that it is taken back whatever happens; faults as spans."""

from __future__ import annotations

import contextvars
import logging
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import pytest
from opentelemetry import trace
from opentelemetry.metrics import Histogram
from opentelemetry.sdk.metrics import Meter

from oauth2broker import BrokerError, FlowEvent, FlowKind, FlowOutcome, FlowSpan, OpenTelemetryObserver
from oauth2broker.observers.opentelemetry import _OpenFlow
from oauth2broker.testing import LoopbackProvider
from tests.observers.test_opentelemetry import FLOW, Lab, attributes
from tests.support import SERVICE_REQUEST, USER_REQUEST, Crowd, ManualClock, log_in
from tests.test_refresh_results import Store


@pytest.fixture
def lab() -> Lab:
    """An observer with the SDK behind it."""
    return Lab()


@pytest.fixture(autouse=True)
def as_before(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a test does: no span is left on the thread, and the API has not complained."""
    before = trace.get_current_span()
    with caplog.at_level(logging.DEBUG, "opentelemetry"):
        yield
    assert trace.get_current_span() is before
    records = [*caplog.get_records("call"), *caplog.get_records("teardown")]
    assert not [record for record in records if record.name.startswith("opentelemetry")]


def span_of(*labs: Lab) -> FlowSpan:
    return FlowSpan(FlowKind.REFRESH, "mine", observers=[lab.observer for lab in labs])


# Contexts.


def test_a_flow_may_end_in_another_context_than_it_began_in(lab: Lab) -> None:
    """As in a generator, or a task: its span is exported, nothing is logged, and the end leaves it alone."""
    begun_elsewhere = span_of(lab)
    contextvars.copy_context().run(begun_elsewhere.__enter__)
    begun_elsewhere.__exit__(None, None, None)
    assert len(lab.spans(FLOW)) == 1

    with lab.tracing.get_tracer("program").start_as_current_span("outer") as outer:
        begun_elsewhere = span_of(lab)
        contextvars.Context().run(begun_elsewhere.__enter__)
        begun_elsewhere.__exit__(None, None, None)
        assert trace.get_current_span() is outer
    assert len(lab.spans(FLOW)) == 2


def test_two_observers_of_one_flow_take_back_what_they_made_current(lab: Lab) -> None:
    """Though they are told of the end in the order in which they were told of the beginning."""
    other = Lab()
    with lab.tracing.get_tracer("program").start_as_current_span("outer") as outer:
        with span_of(lab, other):
            pass
        assert trace.get_current_span() is outer
    assert (len(lab.spans(FLOW)), len(other.spans(FLOW))) == (1, 1)


def test_flows_within_flows_nest(lab: Lab) -> None:
    """Each is below the one around it."""
    with span_of(lab), span_of(lab):
        pass
    inner, outer = lab.spans(FLOW)
    assert inner.parent is not None
    assert outer.context is not None
    assert (inner.parent.span_id, outer.parent) == (outer.context.span_id, None)


class Raises:
    """An observer that is interrupted at one end of a flow."""

    def __init__(self, outcome: FlowOutcome) -> None:
        self._outcome = outcome

    def observe(self, event: FlowEvent) -> None:
        if event.outcome is self._outcome:
            raise KeyboardInterrupt


@pytest.mark.parametrize("outcome", [FlowOutcome.ATTEMPT, FlowOutcome.SUCCESS])
@pytest.mark.parametrize("is_first", [True, False])
def test_an_interrupt_of_another_observer_leaves_nothing_current(
    lab: Lab, provider: LoopbackProvider, clock: ManualClock, outcome: FlowOutcome, is_first: bool
) -> None:
    """Also where the observer is never told of the end."""
    told = [Raises(outcome), lab.observer] if is_first else [lab.observer, Raises(outcome)]
    with lab.tracing.get_tracer("program").start_as_current_span("outer") as outer:
        with pytest.raises(KeyboardInterrupt):
            lab.broker(provider, clock, observers=told).client_credentials(SERVICE_REQUEST)
        assert trace.get_current_span() is outer
    assert len(lab.observer._flows) == 0


def test_an_interrupt_while_the_span_is_made_leaves_nothing_current(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the worst moment: it is current already, and nobody has been told."""
    enter = _OpenFlow.enter

    def interrupted(flow: _OpenFlow) -> None:
        enter(flow)
        raise KeyboardInterrupt

    monkeypatch.setattr(_OpenFlow, "enter", interrupted)
    with pytest.raises(KeyboardInterrupt):
        span_of(lab).__enter__()


def test_a_tracer_that_fails_costs_the_span_and_nothing_else(
    lab: Lab, provider: LoopbackProvider, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flow goes on, is counted, and its own span ends and is off the thread."""
    broker = lab.broker(provider, clock)

    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(lab.observer, "_add_step", fail)
    broker.client_credentials(SERVICE_REQUEST)
    assert len(lab.spans(FLOW)) == 1
    assert lab.figure("oauth2_broker_token_call_seconds_count") == 1


# Without an SDK, without OpenTelemetry.


def test_without_an_sdk_flows_work_as_ever(provider: LoopbackProvider, clock: ManualClock) -> None:
    """A program that has set up nothing has a span context of nothing, and none is left."""
    broker = Lab().broker(provider, clock, observers=[OpenTelemetryObserver()])
    log_in(broker, provider)
    clock.advance(3700)
    crowd = Crowd(8, lambda: broker.refresh_access_token(USER_REQUEST)).start().join()
    assert not crowd.errors
    assert provider.token_calls == 2


def test_opentelemetry_is_loaded_with_the_first_observer_and_not_before() -> None:
    """The module is there without it."""
    program = """
import sys
import oauth2broker
from oauth2broker import ConfigError, OpenTelemetryObserver
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
sys.modules["opentelemetry"] = None
try:
    OpenTelemetryObserver()
except ConfigError as error:
    print(error)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, "oauth2broker[otel]" in ended.stdout) == (0, True), ended.stderr


def test_a_meter_that_takes_no_advice_measures_all_the_same(
    monkeypatch: pytest.MonkeyPatch, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """As the API's own before 1.30."""
    create = Meter.create_histogram

    def create_as_before(meter: Meter, name: str, unit: str = "", description: str = "") -> Histogram:
        return create(meter, name, unit, description)

    monkeypatch.setattr(Meter, "create_histogram", create_as_before)
    lab = Lab()
    lab.broker(provider, clock).client_credentials(SERVICE_REQUEST)
    assert lab.figure("oauth2_broker_token_call_seconds_count") == 1


# Faults.


def last(lab: Lab) -> tuple[object, object]:
    """The result and the error of the flow that ended last."""
    found = attributes(lab.spans(FLOW)[-1])
    return found.get("oauth2_broker.result"), found.get("error.type")


def test_each_fault_has_its_result_on_the_span_and_every_call_is_one_that_the_provider_counted(
    lab: Lab, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """The store is down, a race is lost, the grant is dead, it stays so, and then the provider is away."""
    store = Store()
    broker = lab.broker(provider, clock, store=store)
    log_in(broker, provider)

    def renew() -> tuple[object, object]:
        clock.advance(3700)
        with suppress(BrokerError):
            broker.refresh_access_token(USER_REQUEST)
        return last(lab)

    store.down = True
    assert renew() == ("store_failed", "BackendError")
    store.down = False
    store.meddle = lambda record: store.delete(record.key)
    assert renew()[0] == "cas_lost"
    store.meddle = lambda record: None
    log_in(broker, provider)
    assert renew() == ("renewed", None)
    provider.revoke_user("alice")
    assert renew() == ("tombstoned", "InvalidGrantError")
    assert renew() == ("reauthorize", "RevokedError")
    log_in(broker, provider)
    calls = Counter(attributes(span)["oauth2_broker.endpoint"] for span in lab.spans("POST"))
    kinds = Counter(call.grant_type for call in provider.calls)
    assert calls == {
        "token": kinds["authorization_code"],
        "refresh": kinds["refresh_token"],
        "revocation": provider.revocations,  # of the token that lost the race
    }
    for endpoint, number in calls.items():
        assert lab.figure("oauth2_broker_token_call_seconds_count", endpoint=str(endpoint)) == number
    assert lab.figure("oauth2_broker_token_call_seconds_count", error="InvalidGrantError") == 1
    provider.close()
    assert renew() == ("transient", "TransportError")
    assert "http.response.status_code" not in attributes(lab.spans("POST")[-1])
    for result in ("store_failed", "cas_lost", "renewed", "tombstoned", "reauthorize", "transient"):
        assert lab.figure("oauth2_broker_refresh_total", result=result) == 1
    assert lab.figure("oauth2_broker_flights") == lab.figure("oauth2_broker_unsaved_records") == 0
