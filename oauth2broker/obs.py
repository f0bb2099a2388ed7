"""What the flows tell about themselves. Only enumerated labels and ids the operator chose; never a secret."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Protocol, Self

from oauth2broker.forking import forget_in_children
from oauth2broker.ids import ProviderId, TenantId
from oauth2broker.provider.kinds import Endpoint

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


class RefreshResult(StrEnum):
    """How a call for a token ended: what came of the renewal, whether or not the caller was served.

    Logins, revocations and walks have a result when they failed, and a login that could not be stored.

    Of the threads that share a renewal, the one that did it says how that went; the others say ``joined``.
    """

    HIT = "hit"
    """The stored token was served."""
    RENEWED = "renewed"
    """The provider issued a token, and it is stored."""
    JOINED = "joined"
    """Another thread's renewal was waited for."""
    ADOPTED = "adopted"
    """Another process or host had just renewed: its token was taken."""
    SERVED_CURRENT = "served_current"
    """The token was due, but still works: somebody else is at it, or it is too early to ask again."""
    TOMBSTONED = "tombstoned"
    """The provider refused the refresh token for good: the grant is dead, and marked so."""
    CAS_LOST = "cas_lost"
    """The provider issued a token, but the record had been replaced or deleted meanwhile."""
    PERSIST_FAILED = "persist_failed"
    """The provider issued a token that the store would not take: it is served, and kept in ``unsaved``."""
    TRANSIENT = "transient"
    """The provider could not be asked, or said to come back later."""
    BACKED_OFF = "backed_off"
    """No call was made: the pause after an earlier failure is not over."""
    TIMED_OUT = "timed_out"
    """No call was made: whoever is at it, in this process or another, did not finish in time."""
    UNKNOWN = "unknown"
    """The request went out and its answer was lost or made no sense: the refresh token may be spent."""
    DELAYED = "delayed"
    """No call was made: the rate limit policy said to come back later."""
    REAUTHORIZE = "reauthorize"
    """Nothing to renew with: nothing stored, no refresh token, or a tombstone; no call was made.

    Of a login: the user or the provider refused it, or its callback or code cannot be used.
    """
    STORE_FAILED = "store_failed"
    """The store failed before a token was asked for; or it failed a revocation, or a walk."""
    REFUSED = "refused"
    """A mistake in the configuration: the client's credentials, the scope, or what the request asks for."""


class Level(StrEnum):
    """What there is more or less of at any time."""

    FLIGHTS = "flights"
    """Renewals, logins and revocations under way in this process."""
    UNSAVED_RECORDS = "unsaved_records"
    """Records that the provider issued and the store has not taken yet."""


@dataclass(frozen=True, slots=True)
class FlowStep:
    """Something in a flow that took ``seconds``, from ``after`` seconds after the flow's start."""

    after: float
    seconds: float


@dataclass(frozen=True, slots=True)
class ProviderCall(FlowStep):
    """One request to the provider, from before it was sent until its answer was there.

    ``url`` has neither query nor user info, and is None where a strategy made it up: a path may hold a
    secret. ``status`` is None when no answer came; ``error`` is the class name of what the call ended in.
    """

    endpoint: Endpoint
    method: str
    host: str
    port: int
    url: str | None
    status: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class FlightWait(FlowStep):
    """Waiting for another thread that works on the same token; ``leader`` is that thread's flow.

    None when nobody observes it.
    """

    leader: FlowSpan | None = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class LeaseWait(FlowStep):
    """Waiting for the right to renew a token among processes; ``acquired`` says whether it was had."""

    acquired: bool


@dataclass(frozen=True, slots=True)
class FlowEvent:
    """The beginning (``attempt``) or the end of a flow.

    Of an end: ``seconds`` is how long the flow took, ``error`` the class name of its error, ``result`` how a
    renewal ended, ``steps`` what took its time, in order; ``expires_in`` and ``refresh_expires_in`` are the
    seconds that the token served, and its refresh token, have left (None: not known, or nothing was served);
    a walk serves nothing, and tells of refresh tokens only.
    Both events of a flow have the same ``span``; it can be a key of a ``WeakKeyDictionary``.
    """

    flow: FlowKind
    stage: str
    outcome: FlowOutcome
    provider: ProviderId | None = None
    tenant: TenantId | None = None
    seconds: float | None = None
    error: str | None = None
    result: RefreshResult | None = None
    expires_in: float | None = None
    refresh_expires_in: float | None = None
    steps: tuple[FlowStep, ...] = ()
    span: FlowSpan | None = field(default=None, repr=False, compare=False)


class Observer(Protocol):
    """Is told of flow events, on the thread of the flow, while no lock and no lease is held.

    What it raises is logged. It should not take long: the flow waits for it. Of the flows that it begins
    itself, by calling a broker while it is told, it is told nothing. An observer may have a second method,
    see :class:`LevelObserver`.
    """

    def observe(self, event: FlowEvent) -> None:
        """Take note of ``event``."""
        ...


class LevelObserver(Observer, Protocol):
    """Is also told when there is more or less of something: to be added up, from zero in a forked child."""

    def track(self, level: Level, change: int, provider: ProviderId) -> None:
        """Take note that there is ``change`` (1 or -1) more of ``level``.

        That a flight begins is told while others may already wait for it; the rest as for :meth:`observe`.
        """
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
    result: RefreshResult | None = None,
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
        result,
    )
    tell(observers, event)


def tell(observers: Iterable[Observer], event: FlowEvent) -> None:
    """Tell every observer of ``event``."""
    for observer in observers:
        _call(observer, "observe", lambda observer: observer.observe(event))


def tell_change(observers: Iterable[Observer], level: Level, change: int, provider: ProviderId) -> None:
    """Tell every observer that wants to know of a change of ``level``."""

    def track(observer: Observer) -> None:
        wants = getattr(observer, "track", None)
        if wants is not None:
            wants(level, change, provider)

    for observer in observers:
        _call(observer, "track", track)


def _call(observer: Observer, method: str, tell_it: Callable[[Observer], None]) -> None:
    """Tell ``observer``, unless it is about what it does itself while it is told: that would never end.

    Levels it does hear of while it observes, because they must add up.
    """
    mine, tracks, under_way = (method, id(observer)), ("track", id(observer)), _being_told.get()
    if mine in under_way or tracks in under_way:
        return
    before = _being_told.set((*under_way, mine))
    try:
        tell_it(observer)
    except Exception as raised:  # noqa: BLE001 - an observer may raise anything
        logger.warning("observer %s failed: %s", type(observer).__name__, type(raised).__name__)
    finally:
        _being_told.reset(before)


_being_told: ContextVar[tuple[tuple[str, int], ...]] = ContextVar("oauth2broker_being_told", default=())


class FlowSpan:
    """A flow from start to end, as a context manager: tells of the attempt, then of success or failure.

    The library opens one around every public call; adapters may open their own, set ``result``,
    ``expires_in`` and ``refresh_expires_in``, and :meth:`add` steps. Not shared between threads.
    """

    __slots__ = (
        "__weakref__",
        "_began",
        "_observers",
        "_steps",
        "expires_in",
        "flow",
        "provider",
        "refresh_expires_in",
        "result",
        "stage",
        "tenant",
    )

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
        self.provider = None if provider is None else ProviderId(provider)
        self.tenant = None if tenant is None else TenantId(tenant)
        self.result: RefreshResult | None = None
        self.expires_in: float | None = None
        self.refresh_expires_in: float | None = None
        self._observers = tuple(observers)
        self._steps: list[FlowStep] = []
        self._began = 0.0

    def __repr__(self) -> str:
        return f"FlowSpan({self.flow}, {self.stage})"

    def __deepcopy__(self, memo: object) -> Self:
        """Stand for the same flow, in copies of what names it."""
        return self

    def add(self, step: FlowStep) -> None:
        """Have the end tell of ``step``."""
        self._steps.append(step)

    def elapsed(self) -> float:
        """Give the seconds since the flow began."""
        return time.monotonic() - self._began

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        event = FlowEvent(self.flow, self.stage, FlowOutcome.ATTEMPT, self.provider, self.tenant, span=self)
        tell(self._observers, event)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        event = FlowEvent(
            self.flow,
            self.stage,
            FlowOutcome.SUCCESS if kind is None else FlowOutcome.FAILURE,
            self.provider,
            self.tenant,
            self.elapsed(),
            None if kind is None else kind.__name__,
            self.result,
            self.expires_in,
            self.refresh_expires_in,
            tuple(self._steps),
            self,
        )
        tell(self._observers, event)


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
