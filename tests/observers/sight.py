"""Every observer that there is, and what came out of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from prometheus_client import CollectorRegistry, generate_latest

from oauth2broker import FlowEvent, LoggingObserver, OpenTelemetryObserver, PrometheusObserver


class Listener:
    """Keeps every event, to say what the exporters should have made of it."""

    def __init__(self) -> None:
        self.events: list[FlowEvent] = []

    def observe(self, event: FlowEvent) -> None:
        self.events.append(event)


class Lines(logging.Handler):
    """Keeps log records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@dataclass
class Sight:
    """All observers, and what they gave out."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    spans: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)
    reader: InMemoryMetricReader = field(default_factory=InMemoryMetricReader)
    lines: Lines = field(default_factory=Lines)
    listener: Listener = field(default_factory=Listener)

    def __post_init__(self) -> None:
        tracing = TracerProvider()
        tracing.add_span_processor(SimpleSpanProcessor(self.spans))
        metering = MeterProvider(metric_readers=[self.reader])
        logger = logging.Logger("storm", logging.DEBUG)
        logger.addHandler(self.lines)
        self.observers = (
            self.listener,
            OpenTelemetryObserver(tracer_provider=tracing, meter_provider=metering),
            PrometheusObserver(self.registry),
            LoggingObserver(logger, repeats=1_000_000),
        )

    def spans_named(self, *names: str) -> list[ReadableSpan]:
        return [span for span in self.spans.get_finished_spans() if span.name in names]

    def calls(self) -> list[ReadableSpan]:
        """The provider calls, as a tracing backend has them."""
        return [span for span in self.spans.get_finished_spans() if span.kind is SpanKind.CLIENT]

    def texts(self) -> Iterator[tuple[str, str]]:
        """Give everything that came out, and through which channel."""
        for span in self.spans.get_finished_spans():
            yield "spans", f"{span.to_json()} {span.events} {span.links} {span.status.description}"
        data = self.reader.get_metrics_data()
        yield "OpenTelemetry metrics", "" if data is None else data.to_json()
        yield "/metrics", generate_latest(self.registry).decode()
        for record in self.lines.records:
            yield "lines", f"{record.getMessage()} {vars(record)}"
