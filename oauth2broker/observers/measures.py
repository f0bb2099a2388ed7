"""What is counted and measured, under which names: the same for all that export it.

Names are as OpenTelemetry has them. Prometheus writes an underscore for the dot and adds ``_total`` to
counters and the unit to histograms; so does an OpenTelemetry collector on its way there.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from oauth2broker.errors import ConfigError
from oauth2broker.forking import forget_in_children
from oauth2broker.obs import (
    FlightWait,
    FlowEvent,
    FlowKind,
    FlowOutcome,
    LeaseWait,
    Level,
    ProviderCall,
    RefreshResult,
)

OTHER_TENANTS = "other tenants"
"""Stands for those beyond the cap; no tenant's id holds a space."""

_CALL_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_WAIT_SECONDS = (0.001, 0.005, *_CALL_SECONDS)
_TOKEN_SECONDS = (0.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0, 1800.0, 3600.0, 14400.0, 86400.0)
_DAY = 86400.0
_GRANT_SECONDS = tuple(
    _DAY * days for days in (0.0, 1 / 24, 0.25, 1.0, 2.0, 7.0, 14.0, 30.0, 90.0, 180.0, 365.0)
)


@dataclass(frozen=True, slots=True)
class Instrument:
    """Something that is counted, or (with ``buckets``, upper bounds in seconds) measured."""

    name: str
    about: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...] = ()


FLOWS = Instrument("oauth2_broker.flow", "Flows begun and ended", ("flow", "outcome", "provider"))
LOGINS = Instrument(
    "oauth2_broker.authorization_code",
    "How logins and logouts ended that failed, or whose token could not be stored",
    ("result", "provider"),
)
REFRESHES = Instrument("oauth2_broker.refresh", "How calls for users' tokens ended", ("result", "provider"))
SERVICE_TOKENS = Instrument(
    "oauth2_broker.client_credentials", "How calls for the client's own tokens ended", ("result", "provider")
)
PERSIST_FAILURES = Instrument(
    "oauth2_broker.persist_failed", "Issued records that the store would not take", ("provider",)
)
PROVIDER_CALLS = Instrument(
    "oauth2_broker.token_call",
    "Calls to the provider, until the answer was there",
    ("flow", "endpoint", "error", "provider"),
    _CALL_SECONDS,
)
FLIGHT_WAITS = Instrument(
    "oauth2_broker.flight_wait",
    "Waiting for another thread that renews the same token",
    ("flow", "provider"),
    _WAIT_SECONDS,
)
LEASE_WAITS = Instrument(
    "oauth2_broker.lease_wait",
    "Waiting for the right to renew among processes and hosts",
    ("flow", "provider"),
    _WAIT_SECONDS,
)
TOKEN_REMAINING = Instrument(
    "oauth2_broker.token_remaining", "What served tokens had left", ("flow", "provider"), _TOKEN_SECONDS
)
GRANT_REMAINING = Instrument(
    "oauth2_broker.grant_remaining",
    "What refresh tokens of tokens that were served, or due in a walk, had left, if known",
    ("flow", "provider"),
    _GRANT_SECONDS,
)
FLIGHTS = Instrument("oauth2_broker.flights", "Renewals, logins and revocations under way", ("provider",))
UNSAVED_RECORDS = Instrument(
    "oauth2_broker.unsaved_records", "Issued records that the store has not taken yet", ("provider",)
)

COUNTERS = (FLOWS, LOGINS, REFRESHES, SERVICE_TOKENS, PERSIST_FAILURES)
HISTOGRAMS = (PROVIDER_CALLS, FLIGHT_WAITS, LEASE_WAITS, TOKEN_REMAINING, GRANT_REMAINING)
LEVELS: Mapping[Level, Instrument] = {Level.FLIGHTS: FLIGHTS, Level.UNSAVED_RECORDS: UNSAVED_RECORDS}
BY_TENANT = (FLOWS, LOGINS, REFRESHES, SERVICE_TOKENS)
"""What a tenant label is for, on request."""

_RESULTS = {
    FlowKind.AUTHORIZATION_CODE: LOGINS,
    FlowKind.REFRESH: REFRESHES,
    FlowKind.CLIENT_CREDENTIALS: SERVICE_TOKENS,
}

Measurement = tuple[Instrument, float, tuple[str, ...]]
"""An instrument, by how much it is raised or what it measured, and the values of its labels in order."""


def measure(event: FlowEvent) -> Iterator[Measurement]:
    """Give what ``event`` counts and measures."""
    flow, provider = event.flow.value, event.provider or ""
    yield FLOWS, 1, (flow, event.outcome.value, provider)
    if event.outcome is FlowOutcome.ATTEMPT:
        return
    if event.result is not None:
        yield _RESULTS[event.flow], 1, (event.result.value, provider)
    if event.expires_in is not None:
        yield TOKEN_REMAINING, event.expires_in, (flow, provider)
    if event.refresh_expires_in is not None:
        yield GRANT_REMAINING, event.refresh_expires_in, (flow, provider)
    for step in event.steps:
        match step:
            case ProviderCall():
                labels = flow, step.endpoint.value, step.error or "", provider
                yield PROVIDER_CALLS, step.seconds, labels
            case FlightWait():
                yield FLIGHT_WAITS, step.seconds, (flow, provider)
            case LeaseWait():
                yield LEASE_WAITS, step.seconds, (flow, provider)


def zeros(provider: str) -> Iterator[tuple[Instrument, tuple[str, ...]]]:
    """Give the counters that should be there from the start, so that the first failure is an increase."""
    for flow in FlowKind:
        for outcome in FlowOutcome:
            yield FLOWS, (flow.value, outcome.value, provider)
    for result in RefreshResult:
        for counter in _RESULTS.values():
            yield counter, (result.value, provider)
    yield PERSIST_FAILURES, (provider,)


class TenantLabels:
    """Gives the first ``most`` tenants a label of their own. Safe to share between threads."""

    def __init__(self, most: int) -> None:
        if type(most) is not int or most < 0:
            raise ConfigError("tenants is how many get a label of their own: 0 or more")
        self._most = most
        self._known: set[str] = set()
        self._lock = threading.Lock()
        forget_in_children(self)

    def forget_after_fork(self) -> None:
        """Another thread of the parent may have held the lock."""
        self._lock = threading.Lock()

    def label(self, tenant: str | None) -> str:
        """Give the label of ``tenant``."""
        if tenant is None:
            return ""
        if tenant not in self._known and not self._learn(tenant):
            return OTHER_TENANTS
        return tenant

    def _learn(self, tenant: str) -> bool:
        with self._lock:
            if len(self._known) < self._most:
                self._known.add(tenant)
            return tenant in self._known
