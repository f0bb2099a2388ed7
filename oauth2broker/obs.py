"""What the flows tell about themselves. Only enumerated labels and ids the operator chose; never a secret."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Protocol, Self

from oauth2broker.forking import forget_in_children
from oauth2broker.ids import ProviderId, TenantId

logger = logging.getLogger("oauth2broker")
logger.addHandler(logging.NullHandler())


class FlowKind(StrEnum):
    """The flows, by their label."""

    AUTHORIZATION_CODE = "authorization_code"
    REFRESH = "refresh"
    CLIENT_CREDENTIALS = "client_credentials"


class FlowOutcome(StrEnum):
    """How far a flow got."""

    ATTEMPT = "attempt"
    SUCCESS = "success"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class FlowEvent:
    """One step of a flow. ``seconds`` is how long the flow took, ``error`` the class name of its error."""

    flow: FlowKind
    stage: str
    outcome: FlowOutcome
    provider: ProviderId | None = None
    tenant: TenantId | None = None
    seconds: float | None = None
    error: str | None = None


class Observer(Protocol):
    """Is told of flow events, on the thread of the flow, outside all locks. What it raises is logged."""

    def observe(self, event: FlowEvent) -> None:
        """Take note of ``event``."""
        ...


def record_flow_outcome(
    flow: FlowKind,
    outcome: FlowOutcome,
    *,
    observers: Iterable[Observer] = (),
    stage: str = "",
    provider: str | None = None,
    tenant: str | None = None,
    seconds: float | None = None,
    error: str | None = None,
) -> None:
    """Tell every observer; one that fails keeps the others and the flow from nothing."""
    event = FlowEvent(
        flow,
        stage,
        outcome,
        None if provider is None else ProviderId(provider),
        None if tenant is None else TenantId(tenant),
        seconds,
        error,
    )
    for observer in observers:
        try:
            observer.observe(event)
        except Exception as raised:  # noqa: BLE001 - an observer may raise anything
            logger.warning("observer %s failed: %s", type(observer).__name__, type(raised).__name__)


class FlowSpan:
    """A flow from start to end, as a context manager: tells of the attempt, then of success or failure.

    The library opens one around every public call; adapters may open their own. Not shared between threads.
    """

    __slots__ = ("_observers", "_started", "flow", "provider", "stage", "tenant")

    def __init__(
        self,
        flow: FlowKind,
        stage: str,
        *,
        observers: Iterable[Observer] = (),
        provider: str | None = None,
        tenant: str | None = None,
    ) -> None:
        self.flow = flow
        self.stage = stage
        self.provider = provider
        self.tenant = tenant
        self._observers = tuple(observers)
        self._started = 0.0

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        self._tell(FlowOutcome.ATTEMPT)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        seconds = time.monotonic() - self._started
        if kind is None:
            self._tell(FlowOutcome.SUCCESS, seconds=seconds)
        else:
            self._tell(FlowOutcome.FAILURE, seconds=seconds, error=kind.__name__)

    def _tell(self, outcome: FlowOutcome, *, seconds: float | None = None, error: str | None = None) -> None:
        record_flow_outcome(
            self.flow,
            outcome,
            observers=self._observers,
            stage=self.stage,
            provider=self.provider,
            tenant=self.tenant,
            seconds=seconds,
            error=error,
        )


class RefreshMetrics:
    """Counts the token calls made to renew users' tokens. Safe to share between threads.

    ``attempts`` calls were begun, ``successes`` brought a token that was stored, ``failures`` did not.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.attempts = 0
        self.successes = 0
        self.failures = 0
        forget_in_children(self)

    def forget_after_fork(self) -> None:
        """Another thread of the parent may have held the lock."""
        self._lock = threading.Lock()

    def count_attempt(self) -> None:
        """A call is about to be made."""
        with self._lock:
            self.attempts += 1

    def count_end(self, *, success: bool) -> None:
        """A call ended."""
        with self._lock:
            self.successes += success
            self.failures += not success

    def __repr__(self) -> str:
        return (
            f"RefreshMetrics(attempts={self.attempts}, successes={self.successes}, failures={self.failures})"
        )
