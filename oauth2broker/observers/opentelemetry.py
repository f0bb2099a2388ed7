"""Spans and metrics for OpenTelemetry. Needs the extra ``otel``."""

from __future__ import annotations

import threading
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from oauth2broker.errors import ConfigError
from oauth2broker.forking import forget_in_children
from oauth2broker.ids import ProviderId
from oauth2broker.obs import (
    FlightWait,
    FlowEvent,
    FlowOutcome,
    FlowSpan,
    FlowStep,
    LeaseWait,
    Level,
    ProviderCall,
)
from oauth2broker.observers.measures import (
    BY_TENANT,
    COUNTERS,
    HISTOGRAMS,
    LEVELS,
    PERSIST_FAILURES,
    Instrument,
    TenantLabels,
    measure,
    zeros,
)

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import Histogram, Meter, MeterProvider
    from opentelemetry.trace import Span, TracerProvider

FLOW_SPAN = "oauth2_broker.flow"
FLIGHT_WAIT_SPAN = "oauth2_broker.flight_wait"
LEASE_WAIT_SPAN = "oauth2_broker.lease_wait"

_SCOPE = "oauth2broker"
_NO_WAIT = 0.001  # seconds; a lease that was had within is not worth a span
_NANOSECONDS = 1_000_000_000
_FIRST_ERROR_STATUS = 400

_Attributes = dict[str, str | int | float | bool]


class _OpenFlow:
    """The span of a flow, and when it began, in nanoseconds since 1970.

    Once entered it is current, until left. What was current before is set again by value and not by token,
    which the API would complain of in another context, and would get wrong where observers end in the order
    in which they began. A flow that never ends, as one that is interrupted while its attempt is told, is left
    when it is forgotten; its span is not exported.
    """

    __slots__ = ("_api", "_entry", "_is_left", "_outer", "began", "span")

    def __init__(self, api: Any, span: Span, began: int) -> None:
        self.span = span
        self.began = began
        self._api = api
        self._outer: Context = api.context.get_current()
        self._entry = f"oauth2broker-flow-{id(self)}"
        self._is_left = False

    def enter(self) -> None:
        """Make the span current."""
        inner = self._api.trace.set_span_in_context(self.span, self._outer)
        self._api.context.attach(self._api.context.set_value(self._entry, self.span, inner))

    def leave(self) -> None:
        """Make current what was so before, if this is where it was entered."""
        if self._api.context.get_value(self._entry) is self.span:
            self._api.context.attach(self._outer)
            self._is_left = True

    def __del__(self) -> None:
        """Take none of the SDK's locks: the thread may hold them."""
        if not self._is_left:
            self.leave()


class OpenTelemetryObserver:
    """Makes a span of each flow, with its waits and its calls to the provider below it, and counts.

    ``tracer_provider`` and ``meter_provider`` are those of the program unless given. The first ``tenants``
    tenants get an attribute of their own in metrics, all others share one; 0: none at all. Spans always name
    the tenant. Counters of a provider (and tenant) are there, at zero, from its first event on. Several
    brokers may share one observer. Safe to share between threads, and in a child after a fork as far as the
    SDK is. Raises :class:`ConfigError` when ``opentelemetry-api`` is not installed, and for arguments that
    cannot be.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        tenants: int = 0,
    ) -> None:
        labels = TenantLabels(tenants)
        self._tenants = labels if tenants else None
        api = _api()
        _require("tracer_provider", tracer_provider, "get_tracer")
        _require("meter_provider", meter_provider, "get_meter")
        self._tracer = api.trace.get_tracer(_SCOPE, tracer_provider=tracer_provider)
        meter = api.metrics.get_meter(_SCOPE, meter_provider=meter_provider)
        self._record: dict[str, Any] = {}
        for counter in COUNTERS:
            self._record[counter.name] = meter.create_counter(counter.name, description=counter.about).add
        for histogram in HISTOGRAMS:
            self._record[histogram.name] = _histogram(meter, histogram).record
        self._levels = {
            level: meter.create_up_down_counter(instrument.name, description=instrument.about)
            for level, instrument in LEVELS.items()
        }
        self._api = api
        self._flows: WeakKeyDictionary[FlowSpan, _OpenFlow] = WeakKeyDictionary()
        self._standing: Counter[tuple[Level, ProviderId]] = Counter()
        self._inherited: Counter[tuple[Level, ProviderId]] = Counter()
        self._known: set[tuple[str, str]] = set()
        self._lock = threading.Lock()
        forget_in_children(self)

    def observe(self, event: FlowEvent) -> None:
        """Open or close the flow's span, and count. An event without ``span`` is only counted."""
        if event.outcome is FlowOutcome.ATTEMPT:
            self._count(event)
            if event.span is not None:
                self._open(event, event.span)
            return
        flow = None if event.span is None else self._flows.get(event.span)
        try:
            self._count(event)  # inside the span, for exemplars
        finally:
            if flow is not None:
                self._close(event, flow)

    def track(self, level: Level, change: int, provider: ProviderId) -> None:
        """Count up or down."""
        with self._lock:
            inherited, self._inherited = self._inherited, Counter()
            self._standing[level, provider] += change
        for (ours, whose), number in inherited.items():
            self._levels[ours].add(-number, {"provider": whose})
        self._levels[level].add(change, {"provider": provider})
        if level is Level.UNSAVED_RECORDS and change > 0:
            self._require_zeros(provider, "")
            self._record[PERSIST_FAILURES.name](change, {"provider": provider})

    def forget_after_fork(self) -> None:
        """What is under way in the parent is not so here; the next change takes it off the copied sums."""
        self._lock = threading.Lock()
        self._inherited = Counter(self._standing) + self._inherited
        self._standing = Counter()

    def _count(self, event: FlowEvent) -> None:
        tenant = "" if self._tenants is None else self._tenants.label(event.tenant)
        self._require_zeros(event.provider or "", tenant)
        for instrument, value, labels in measure(event):
            self._record[instrument.name](value, self._attributes(instrument, labels, tenant))

    def _attributes(self, instrument: Instrument, labels: tuple[str, ...], tenant: str) -> dict[str, str]:
        attributes = dict(zip(instrument.labels, labels, strict=True))
        if self._tenants is not None and instrument in BY_TENANT:
            attributes["tenant"] = tenant
        return attributes

    def _require_zeros(self, provider: str, tenant: str) -> None:
        if (provider, tenant) in self._known:
            return
        for instrument, labels in zeros(provider):
            self._record[instrument.name](0, self._attributes(instrument, labels, tenant))
        self._known.add((provider, tenant))

    def _open(self, event: FlowEvent, key: FlowSpan) -> None:
        began = time.time_ns() - _nanoseconds(key.elapsed())  # other observers may have taken their time
        attributes = {
            "oauth2_broker.flow": event.flow.value,
            "oauth2_broker.stage": event.stage,
            **_given("oauth2_broker.provider", event.provider),
            **_given("oauth2_broker.tenant", event.tenant),
        }
        span = self._tracer.start_span(FLOW_SPAN, attributes=attributes, start_time=began)
        flow = self._flows[key] = _OpenFlow(self._api, span, began)
        flow.enter()

    def _close(self, event: FlowEvent, flow: _OpenFlow) -> None:
        flow.leave()
        try:
            if flow.span.is_recording():
                self._describe(event, flow)
        finally:
            flow.span.end(flow.began + _nanoseconds(event.seconds or 0.0))

    def _describe(self, event: FlowEvent, flow: _OpenFlow) -> None:
        flow.span.set_attributes(
            {
                "oauth2_broker.outcome": event.outcome.value,
                **_given("oauth2_broker.result", event.result and event.result.value),
                **_given("oauth2_broker.expires_in", event.expires_in),
                **_given("oauth2_broker.refresh_expires_in", event.refresh_expires_in),
                **_given("error.type", event.error),
            }
        )
        if event.outcome is FlowOutcome.FAILURE:
            flow.span.set_status(self._api.trace.StatusCode.ERROR, event.error)
        below = self._api.trace.set_span_in_context(flow.span)
        for step in event.steps:  # last: a span processor may fail
            self._add_step(step, flow, below)

    def _add_step(self, step: FlowStep, flow: _OpenFlow, below: Context) -> None:
        kind, links = self._api.trace.SpanKind.INTERNAL, []
        attributes: _Attributes = {}
        error: str | None = None
        match step:
            case ProviderCall():
                name, kind = step.method, self._api.trace.SpanKind.CLIENT
                error = _error_type(step)
                attributes = _http_attributes(step, error)
            case FlightWait():
                name = FLIGHT_WAIT_SPAN
                leader = None if step.leader is None else self._flows.get(step.leader)
                if leader is not None:
                    flow.span.add_link(leader.span.get_span_context())
                    links = [self._api.trace.Link(leader.span.get_span_context())]
            case LeaseWait():
                if step.acquired and step.seconds < _NO_WAIT:
                    return
                name, attributes = LEASE_WAIT_SPAN, {"oauth2_broker.acquired": step.acquired}
            case _:
                return
        began = flow.began + _nanoseconds(step.after)
        span = self._tracer.start_span(
            name, context=below, kind=kind, attributes=attributes, links=links, start_time=began
        )
        if error is not None:
            span.set_status(self._api.trace.StatusCode.ERROR)
        span.end(began + _nanoseconds(step.seconds))


def _histogram(meter: Meter, wanted: Instrument) -> Histogram:
    """Make it with its own buckets, or with the program's where meters take no advice (API before 1.30)."""
    make = partial(meter.create_histogram, wanted.name, unit="s", description=wanted.about)
    try:
        return make(explicit_bucket_boundaries_advisory=wanted.buckets)
    except TypeError:
        return make()


def _http_attributes(call: ProviderCall, error: str | None) -> _Attributes:
    """Give what the semantic conventions for HTTP clients have and is no secret, and two of ours."""
    return {
        "http.request.method": call.method,
        "server.address": call.host,
        "server.port": call.port,
        "oauth2_broker.endpoint": call.endpoint.value,
        **_given("url.full", call.url),
        **_given("http.response.status_code", call.status),
        **_given("oauth2_broker.error", call.error),
        **_given("error.type", error),
    }


def _error_type(call: ProviderCall) -> str | None:
    if call.status is not None and call.status >= _FIRST_ERROR_STATUS:
        return str(call.status)
    return call.error


def _given(name: str, value: str | float | None) -> _Attributes:
    return {} if value is None else {name: value}


def _nanoseconds(seconds: float) -> int:
    return int(seconds * _NANOSECONDS)


def _require(name: str, value: object, method: str) -> None:
    if value is not None and not callable(getattr(value, method, None)):
        raise ConfigError(f"{name} has {method}; {type(value).__name__} does not")


def _api() -> Any:
    """Load OpenTelemetry, which most programs that use the library do without."""
    try:
        import opentelemetry.context
        import opentelemetry.metrics
        import opentelemetry.trace
    except ImportError:
        raise ConfigError('OpenTelemetry is not installed: pip install "oauth2broker[otel]"') from None
    return opentelemetry
