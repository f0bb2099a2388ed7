"""Metrics for Prometheus. Needs the extra ``prometheus``."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oauth2broker.errors import ConfigError
from oauth2broker.forking import forget_in_children
from oauth2broker.ids import ProviderId
from oauth2broker.obs import FlowEvent, Level
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
    from prometheus_client import CollectorRegistry, Gauge

_Series = tuple[str, tuple[str, ...]]


class PrometheusObserver:
    """Counts in ``registry`` (None: the default one of prometheus_client), also in its multiprocess mode.

    The first ``tenants`` tenants get a label of their own, all others share one; 0: there is no such label.
    In multiprocess mode they are the same ones in all processes: a file in its folder has their names.
    Counters of a provider (and tenant) are there, at zero, from its first event on. Several brokers may share
    one observer, and must if they share a registry. Safe to share between threads, and in a child after a
    fork. Raises :class:`ConfigError` when prometheus_client is not installed, and when ``registry`` is no
    registry or has these metrics already.
    """

    def __init__(self, registry: CollectorRegistry | None = None, *, tenants: int = 0) -> None:
        folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        labels = _SharedTenantLabels(tenants, Path(folder)) if folder else TenantLabels(tenants)
        self._tenants = labels if tenants else None
        self._metrics = _register(registry, self._labels_of)
        self._record: dict[_Series, Callable[[float], None]] = {}
        self._gauges: dict[tuple[Level, ProviderId], Gauge] = {}
        self._known: set[tuple[str, str]] = set()
        self._is_child = False
        self._lock = threading.Lock()
        forget_in_children(self)

    def observe(self, event: FlowEvent) -> None:
        """Count ``event``, and what it measured."""
        tenant = "" if self._tenants is None else self._tenants.label(event.tenant)
        self._require_zeros(event.provider or "", tenant)
        for instrument, value, labels in measure(event):
            self._recorder(instrument, labels, tenant)(value)

    def track(self, level: Level, change: int, provider: ProviderId) -> None:
        """Move a gauge."""
        if self._is_child:
            self._begin_anew()
        gauge = self._gauges.get((level, provider))
        if gauge is None:
            gauge = self._metrics[LEVELS[level].name].labels(provider)
            self._gauges[level, provider] = gauge
        gauge.inc(change)
        if level is Level.UNSAVED_RECORDS and change > 0:
            self._require_zeros(provider, "")
            self._recorder(PERSIST_FAILURES, (provider,), "")(change)

    def forget_after_fork(self) -> None:
        """What is under way in the parent is not so here."""
        self._lock = threading.Lock()
        self._is_child = True

    def _labels_of(self, instrument: Instrument) -> tuple[str, ...]:
        is_by_tenant = self._tenants is not None and instrument in BY_TENANT
        return (*instrument.labels, "tenant") if is_by_tenant else instrument.labels

    def _recorder(
        self, instrument: Instrument, labels: tuple[str, ...], tenant: str
    ) -> Callable[[float], None]:
        """Give what takes a value of a series. It is remembered: to look it up there takes its time."""
        if self._tenants is not None and instrument in BY_TENANT:
            labels = (*labels, tenant)
        recorder = self._record.get((instrument.name, labels))
        if recorder is None:
            series = self._metrics[instrument.name].labels(*labels)
            recorder = series.observe if instrument.buckets else series.inc
            self._record[instrument.name, labels] = recorder
        return recorder

    def _require_zeros(self, provider: str, tenant: str) -> None:
        if (provider, tenant) in self._known:
            return
        for instrument, labels in zeros(provider):
            self._recorder(instrument, labels, tenant)
        self._known.add((provider, tenant))

    def _begin_anew(self) -> None:
        with self._lock:
            if self._is_child:
                for gauge in self._gauges.values():
                    gauge.set(0)
                self._is_child = False


class _SharedTenantLabels(TenantLabels):
    """Gives labels to the tenants that are named first in a file, which processes share.

    A name is appended in one write, and then what is there is read: so all see the same order, without a
    lock. Once the file names enough, it is not looked at again.
    """

    def __init__(self, most: int, folder: Path) -> None:
        super().__init__(most)
        self._file = folder / "oauth2broker_tenants.txt"

    def _learn(self, tenant: str) -> bool:
        if len(self._known) < self._most:
            self._known = self._named_first()
            if tenant not in self._known and len(self._known) < self._most:
                with self._file.open("ab", buffering=0) as file:
                    file.write(f"{tenant}\n".encode())
                self._known = self._named_first()
        return tenant in self._known

    def _named_first(self) -> set[str]:
        text = self._file.read_text("utf-8") if self._file.exists() else ""
        return set(islice(dict.fromkeys(text.split("\n")[:-1]), self._most))


def _register(
    registry: CollectorRegistry | None, labels_of: Callable[[Instrument], tuple[str, ...]]
) -> dict[str, Any]:
    """Make all metrics in ``registry``, or none. Gives them by their instruments' names."""
    try:
        import prometheus_client as prometheus
    except ImportError:
        raise ConfigError(
            'prometheus_client is not installed: pip install "oauth2broker[prometheus]"'
        ) from None
    if registry is None:
        registry = prometheus.REGISTRY
    if not isinstance(registry, prometheus.CollectorRegistry):
        raise ConfigError(f"registry is a CollectorRegistry, not {type(registry).__name__}")
    made: dict[str, Any] = {}

    def make(kind: Callable[..., Any], instrument: Instrument, suffix: str = "", **more: Any) -> None:
        name = instrument.name.replace(".", "_") + suffix
        made[instrument.name] = kind(name, instrument.about, labels_of(instrument), registry=registry, **more)

    try:
        for counter in COUNTERS:
            make(prometheus.Counter, counter)
        for histogram in HISTOGRAMS:
            make(prometheus.Histogram, histogram, "_seconds", buckets=histogram.buckets)
        for level in LEVELS.values():
            make(prometheus.Gauge, level, multiprocess_mode="livesum")
    except ValueError:
        for metric in made.values():
            registry.unregister(metric)
    else:
        return made
    raise ConfigError("the registry has metrics of these names: let all brokers share one PrometheusObserver")
