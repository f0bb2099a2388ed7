"""What the flows of one broker tell its observers, and where they tell it.

A flow opens a span; whatever works for it on its thread notes down there how it ended and what took its time.
The observers are told when the flow is over and holds nothing that others wait for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from oauth2broker.errors import (
    AuthorizationError,
    BrokerError,
    ConfigError,
    DelayedError,
    InvalidGrantError,
    StoreError,
    TransientError,
    TransportError,
)
from oauth2broker.ids import ProviderId
from oauth2broker.obs import (
    FlightWait,
    FlowKind,
    FlowSpan,
    LeaseWait,
    Level,
    Observer,
    ProviderCall,
    RefreshResult,
    tell_change,
)
from oauth2broker.provider.kinds import Endpoint
from oauth2broker.records import TokenRecord

_DEFAULT_PORTS: Mapping[str, int] = {"https": 443, "http": 80}


class Telemetry:
    """Safe to share between threads. ``seconds`` gives the broker's time, in POSIX seconds.

    Raises :class:`ConfigError` for observers that are none.
    """

    def __init__(
        self, observers: Iterable[Observer], provider: ProviderId, seconds: Callable[[], float]
    ) -> None:
        self.observers = _checked(observers)
        self._provider = provider
        self._seconds = seconds

    def span(self, flow: FlowKind, stage: str, tenant: str | None) -> BrokerSpan:
        """Open a span, which is the thread's own until it is closed."""
        return BrokerSpan(self, flow, stage, self._provider, tenant)

    def current(self) -> BrokerSpan | None:
        """Give the span that this thread is in, if it is one of this broker's."""
        span = _current.get()
        return span if span is not None and span.telemetry is self else None

    def note(self, result: RefreshResult | None) -> None:
        """Note down how the renewal in the current span ended; None: that it goes on."""
        span = self.current()
        if span is not None:
            span.result = result

    def note_failure(self, error: BrokerError) -> None:
        """Note down that it ended in ``error``, unless more is known of it."""
        span = self.current()
        if span is not None and span.result is None:
            span.result = result_of(error)

    def note_left(self, record: TokenRecord | None) -> None:
        """Note down how long the refresh token of ``record`` still works, which is served to nobody."""
        span = self.current()
        if span is not None and record is not None:
            span.left(record)

    def track(self, level: Level, change: int) -> None:
        """Tell that there is more or less of ``level``: once the current span is closed, or else at once."""
        span = self.current()
        if span is None:
            tell_change(self.observers, level, change, self._provider)
        else:
            span.changes.append((level, change))

    def track_now(self, level: Level, change: int) -> None:
        """Tell at once that there is more or less of ``level``."""
        tell_change(self.observers, level, change, self._provider)

    @contextmanager
    def lease_wait(self) -> Iterator[list[bool]]:
        """Time how long a lease is waited for; the list takes whether it was had."""
        span, began, had = self.current(), time.monotonic(), [False]
        try:
            yield had
        finally:
            if span is not None:
                seconds = time.monotonic() - began
                span.add(LeaseWait(span.elapsed() - seconds, seconds, had[-1]))

    @contextmanager
    def flight_wait(self, leader: FlowSpan | None) -> Iterator[None]:
        """Time how long a flight led by ``leader`` is waited for."""
        span, began = self.current(), time.monotonic()
        try:
            yield
        finally:
            if span is not None:
                seconds = time.monotonic() - began
                span.add(FlightWait(span.elapsed() - seconds, seconds, leader))

    @contextmanager
    def call(self, endpoint: Endpoint, method: str, url: str, known: Iterable[str | None]) -> Iterator[Call]:
        """Time a call to ``url``, which is told as a whole if it is one of the ``known``."""
        call, span = Call(), self.current()
        try:
            yield call
        except BaseException as error:
            call.error = type(error).__name__
            raise
        finally:
            if span is not None:
                span.add(call.step(span, endpoint, method, url, known))


class BrokerSpan(FlowSpan):
    """The span of a call of a broker."""

    __slots__ = ("_outer", "changes", "telemetry")

    def __init__(
        self, telemetry: Telemetry, flow: FlowKind, stage: str, provider: ProviderId, tenant: str | None
    ) -> None:
        super().__init__(flow, stage, observers=telemetry.observers, provider=provider, tenant=tenant)
        self.telemetry = telemetry
        self.changes: list[tuple[Level, int]] = []
        self._outer: Token[BrokerSpan | None] | None = None

    def __enter__(self) -> Self:
        super().__enter__()
        self._outer = _current.set(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._outer is not None:
            _current.reset(self._outer)
        if self.result is None and isinstance(error, BrokerError):
            self.result = result_of(error)
        try:
            super().__exit__(kind, error, traceback)
        finally:  # an observer may have been interrupted
            for level, change in self.changes:
                self.telemetry.track_now(level, change)

    def serve(self, call: Callable[[], TokenRecord]) -> TokenRecord:
        """Do ``call``, which gives a token from the store unless something notes down that it was renewed."""
        record = call()
        if self.result is None:
            self.result = RefreshResult.HIT
        return self.served(record)

    def served(self, record: TokenRecord) -> TokenRecord:
        """Note down how long ``record`` still works, which is what the flow serves."""
        if record.expires_at is not None:
            self.expires_in = record.expires_at.timestamp() - self.telemetry._seconds()
        self.left(record)
        return record

    def left(self, record: TokenRecord) -> None:
        """Note down how long the refresh token of ``record`` still works."""
        ends = record.refresh_expires_at
        self.refresh_expires_in = None if ends is None else ends.timestamp() - self.telemetry._seconds()


class Call:
    """A call to the provider under way; the time within its ``with`` block is what it took."""

    __slots__ = ("_began", "_ended", "error", "status")

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._ended: float | None = None
        self.status: int | None = None
        self.error: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """The answer is there, or will not come; what it says is another matter."""
        self._ended = time.monotonic()

    def ends_in(self, error: BrokerError | None) -> None:
        """Note down what came of it."""
        if error is not None:
            self.error = type(error).__name__
            self.status = error.status if self.status is None else self.status

    def step(
        self, span: FlowSpan, endpoint: Endpoint, method: str, url: str, known: Iterable[str | None]
    ) -> ProviderCall:
        """Tell of the call as a step of ``span``."""
        now = time.monotonic()
        seconds = (self._ended or now) - self._began
        host, port = _address(url)
        bare = _bare(url)
        is_known = any(one is not None and bare == _bare(one) for one in known)
        return ProviderCall(
            span.elapsed() - (now - self._began),
            seconds,
            endpoint,
            method,
            host,
            port,
            bare if is_known else None,
            self.status,
            self.error,
        )


def result_of(error: BrokerError) -> RefreshResult:
    """Say what ``error`` means for the token, as far as its class tells."""
    match error:
        case DelayedError():
            return RefreshResult.DELAYED
        case TransientError() | TransportError():
            return RefreshResult.TRANSIENT
        case StoreError():
            return RefreshResult.STORE_FAILED
        case InvalidGrantError() | AuthorizationError():
            return RefreshResult.REAUTHORIZE
        case _:
            return RefreshResult.REFUSED


def _checked(observers: Iterable[Observer]) -> tuple[Observer, ...]:
    """Give what observes, each once: one that is told twice counts twice, and ends what it has ended."""
    try:
        found = tuple(observers)
    except TypeError:
        raise ConfigError(f"observers is a list of observers, not {type(observers).__name__}") from None
    for one in found:
        if isinstance(one, type) or not callable(getattr(one, "observe", None)):
            raise ConfigError(f"an observer has a method observe: {type(one).__name__} has none")
    if len({id(one) for one in found}) < len(found):
        raise ConfigError("the same observer is given twice")
    return found


def _address(url: str) -> tuple[str, int]:
    """Give host and port of ``url``, as far as it has any."""
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
    except ValueError:
        return "", 0


def _bare(url: str) -> str:
    """Give ``url`` without query and fragment; our endpoints have no user info."""
    return url.partition("#")[0].partition("?")[0]


_current: ContextVar[BrokerSpan | None] = ContextVar("oauth2broker_span", default=None)
