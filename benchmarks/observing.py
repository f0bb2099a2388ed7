"""What it costs to be seen: a cache hit and a renewal with each observer."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

from benchmarks.measure import Rounds, Statement, per_execution, take_turns
from benchmarks.ours import DESCRIPTOR, USER, broker_with_tokens
from benchmarks.provider import CLIENT_ID, CLIENT_SECRET
from benchmarks.setting import Setting
from benchmarks.tables import Bar, Bars, Column, Kind, Relation, Row, Section, Table, Value, Verdict
from oauth2broker import (
    Broker,
    CachedTokenRequest,
    FlowEvent,
    HttpRequest,
    HttpResponse,
    LoggingObserver,
    MemoryStore,
    Observer,
    OpenTelemetryObserver,
    PrometheusObserver,
    ResponseMetadataSlot,
    TokenRecord,
)

ABOUT = """\
The same calls of a broker that nobody could observe (one without the question whether anybody does), of one
with no observer, with one that does nothing (what the library itself does to be able to tell), and with each
that ships with it. A hit comes from a MemoryStore. A renewal is answered by a transport that gives
its answer at once, so that only our own work is timed; a provider takes milliseconds. Logs are at INFO, where
a hit is not written. OpenTelemetry is shown without its SDK (as in a program that has not set it up), with
spans sampled out, and with every span recorded for an exporter that drops it; measuring is on in the last
two."""

BLIND = "a broker that nobody could observe"
NOBODY, SILENT = "no observer", "an observer that does nothing"


class Blind(Broker):
    """What a broker would be if it had nothing to tell."""

    def refresh_access_token(self, request: CachedTokenRequest) -> TokenRecord:
        """Serve a hit, without a thought of observers."""
        return self._users_tokens.serve(request)


class Silent:
    """Does nothing."""

    def observe(self, event: FlowEvent) -> None:
        """Take no note."""


class AnswersAtOnce:
    """A transport without a network: a new token for each request."""

    def __init__(self) -> None:
        self._numbers = count()

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        """Give another answer."""
        number = next(self._numbers)
        body = (
            f'{{"access_token": "access-{number}", "refresh_token": "refresh-{number}", '
            '"token_type": "Bearer", "expires_in": 3600}'
        )
        return HttpResponse(200, {"Content-Type": "application/json"}, body.encode())


def run(setting: Setting) -> Section:
    """Time all by turns."""
    observers: dict[str, Sequence[Observer]] = {NOBODY: (), SILENT: (Silent(),)}
    for name, make in _OURS.items():
        made = setting.attempt(name, make)
        if made is not None:
            observers[name] = (made,)
    timed = {BLIND: per_execution(_hit((), Blind))}
    timed |= {name: per_execution(_hit(told)) for name, told in observers.items()}
    hits = take_turns(timed, setting.choose(41, 5))
    timed = {name: per_execution(_renewal(told)) for name, told in observers.items()}
    renewals = take_turns(timed, setting.choose(21, 3))
    return Section(
        title="Being seen",
        about=ABOUT,
        tables=[_table(hits, renewals)],
        verdicts=[
            Verdict(
                "a hit with no observer, times one that nobody could observe",
                hits.ratio(NOBODY, BLIND),
                Relation.AT_MOST,
                1.1,
            )
        ],
        chart=Bars(
            "A token that is already there, and who is told: time per call",
            Kind.SECONDS,
            [Bar(name, hits.median(name), ours=name != BLIND) for name in hits.samples],
        ),
    )


def _hit(observers: Sequence[Observer], make: type[Broker] = Broker) -> Statement:
    store = broker_with_tokens(MemoryStore()).store
    broker = make(DESCRIPTOR, CLIENT_ID, CLIENT_SECRET, store=store, observers=observers)
    return Statement("broker.refresh_access_token(request)", {"broker": broker, "request": USER})


def _renewal(observers: Sequence[Observer]) -> Statement:
    store = broker_with_tokens(MemoryStore()).store
    broker = Broker(
        DESCRIPTOR,
        CLIENT_ID,
        CLIENT_SECRET,
        store=store,
        observers=observers,
        http_client=AnswersAtOnce(),
    )
    names = {"broker": broker, "request": USER.force_refresh()}
    return Statement("broker.refresh_access_token(request)", names)


def _table(hits: Rounds, renewals: Rounds) -> Table:
    columns = [
        Column("a hit", Kind.SECONDS),
        Column("of one unseen", Kind.RATIO),
        Column("a renewal", Kind.SECONDS),
        Column("of one unseen", Kind.RATIO),
    ]

    def renewal(name: str) -> list[Value]:
        return (
            [renewals.median(name), renewals.ratio(name, NOBODY)]
            if name in renewals.samples
            else [None, None]
        )

    rows = [
        Row(name, [hits.median(name), hits.ratio(name, NOBODY), *renewal(name)], ours=True)
        for name in hits.samples
    ]
    return Table("Who is told", columns, rows)


# The observers, set up as an application does it.


def _logging() -> Observer:
    logger = logging.Logger("seen", logging.INFO)
    logger.addHandler(logging.StreamHandler(io.StringIO()))
    return LoggingObserver(logger)


def _prometheus() -> Observer:
    from prometheus_client import CollectorRegistry

    return PrometheusObserver(CollectorRegistry())


def _opentelemetry(**sampling: Any) -> Observer:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

    class Drops(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    tracers = TracerProvider(**sampling)
    tracers.add_span_processor(SimpleSpanProcessor(Drops()))
    meters = MeterProvider([InMemoryMetricReader()])
    return OpenTelemetryObserver(tracer_provider=tracers, meter_provider=meters)


def _sampled_out() -> Observer:
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    return _opentelemetry(sampler=ALWAYS_OFF)


_OURS: Mapping[str, Callable[[], Observer]] = {
    "LoggingObserver": _logging,
    "PrometheusObserver": _prometheus,
    "OpenTelemetryObserver, no SDK": OpenTelemetryObserver,
    "OpenTelemetryObserver, spans sampled out": _sampled_out,
    "OpenTelemetryObserver, spans recorded": _opentelemetry,
}
