"""What observers export, as figures that can be added up and compared."""

from __future__ import annotations

import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint, Sum
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.parser import text_string_to_metric_families

from oauth2broker.observers.measures import Instrument

Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]
"""What was counted: a metric's name and labels, and how much (of a histogram: how often)."""


def parsed(text: str) -> Figures:
    """Read what Prometheus reads."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def figures_of(registry: CollectorRegistry) -> Figures:
    """Give what a scrape of ``registry`` would bring."""
    return parsed(generate_latest(registry).decode())


def scrape(port: int) -> Figures:
    """Fetch a real ``/metrics``."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return parsed(answer.read().decode())


@contextmanager
def metrics_page(registry: CollectorRegistry) -> Iterator[int]:
    """Serve ``/metrics``; give the port."""
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def scraping(port: int) -> Iterator[list[Figures]]:
    """Scrape without a break, and once at least."""
    found: list[Figures] = []
    is_over = threading.Event()

    def scrape_on() -> None:
        while not found or not is_over.is_set():
            found.append(scrape(port))
            is_over.wait(0.05)

    thread = threading.Thread(target=scrape_on)
    thread.start()
    try:
        yield found
    finally:
        is_over.set()
        thread.join()


def exported(reader: InMemoryMetricReader) -> Figures:
    """Give what OpenTelemetry exports, by the names that Prometheus has for it."""
    found: Figures = {}
    data = reader.get_metrics_data()
    assert data is not None
    for metric in (m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics):
        name = metric.name.replace(".", "_")
        for point in metric.data.data_points:
            labels = frozenset((key, str(value)) for key, value in (point.attributes or {}).items())
            if isinstance(point, HistogramDataPoint):
                found[f"{name}_seconds_count", labels] = point.count
            elif isinstance(point, NumberDataPoint) and isinstance(metric.data, Sum):
                found[name + "_total" * metric.data.is_monotonic, labels] = point.value
    return found


def total(figures: Figures, name: str, **labels: str) -> float:
    """Add up the series of ``name`` that have ``labels``."""
    return sum(value for (n, ls), value in figures.items() if n == name and ls >= set(labels.items()))


def by(figures: Figures, name: str, label: str) -> Counter[str]:
    """Add up the series of ``name`` by one label, without zeros."""
    found: Counter[str] = Counter()
    for (series, labels), value in figures.items():
        if series == name and value:
            found[dict(labels)[label]] += int(value)
    return found


def prometheus_name(instrument: Instrument) -> str:
    suffix = "_seconds_count" if instrument.buckets else "_total"
    return instrument.name.replace(".", "_") + suffix
