"""Lines in a log of the standard library."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from oauth2broker.errors import ConfigError
from oauth2broker.forking import forget_in_children
from oauth2broker.obs import FlightWait, FlowEvent, FlowOutcome, LeaseWait, ProviderCall, RefreshResult

_LEVELS = {
    None: logging.INFO,
    RefreshResult.HIT: logging.DEBUG,
    RefreshResult.JOINED: logging.DEBUG,
    RefreshResult.SERVED_CURRENT: logging.DEBUG,
    RefreshResult.RENEWED: logging.INFO,
    RefreshResult.ADOPTED: logging.INFO,
    RefreshResult.CAS_LOST: logging.WARNING,
    RefreshResult.TRANSIENT: logging.WARNING,
    RefreshResult.BACKED_OFF: logging.WARNING,
    RefreshResult.TIMED_OUT: logging.WARNING,
    RefreshResult.UNKNOWN: logging.WARNING,
    RefreshResult.DELAYED: logging.WARNING,
    RefreshResult.TOMBSTONED: logging.WARNING,
    RefreshResult.REAUTHORIZE: logging.WARNING,
    RefreshResult.PERSIST_FAILED: logging.ERROR,
    RefreshResult.STORE_FAILED: logging.ERROR,
    RefreshResult.REFUSED: logging.ERROR,
}
_MOST_KINDS = 1024

_Kind = tuple[str | None, ...]
_Logger = logging.Logger | logging.LoggerAdapter[Any]


@dataclass(slots=True)
class _Window:
    """What was written of one kind since ``began``, and what was not."""

    began: float
    written: int = 0
    held_back: int = 0


class LoggingObserver:
    """Writes a line per event to ``logger`` (None: ``oauth2broker.flows``), with fields in ``extra``.

    Attempts, hits and what others renew are DEBUG, renewals and logins INFO, failures WARNING, and ERROR
    where the store failed or the configuration is wrong. Of lines from WARNING up that differ in nothing but
    tenant and times, ``repeats`` are written in each ``per``; the next one says how many were held back.
    ``clock`` gives seconds and never goes back. Safe to share between threads and brokers, and in a child
    after a fork. Raises :class:`ConfigError` for arguments that cannot be.
    """

    def __init__(
        self,
        logger: _Logger | None = None,
        *,
        repeats: int = 5,
        per: timedelta = timedelta(minutes=1),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logging.getLogger("oauth2broker.flows") if logger is None else logger
        if not isinstance(self._logger, (logging.Logger, logging.LoggerAdapter)):
            raise ConfigError(f"logger is a logging.Logger, not {type(logger).__name__}")
        if type(repeats) is not int or repeats < 1:
            raise ConfigError("repeats is a number from 1")
        if not isinstance(per, timedelta) or per <= timedelta():
            raise ConfigError("per is a timedelta, longer than nothing")
        if not callable(clock):
            raise ConfigError("clock is a callable that gives seconds")
        self._repeats = repeats
        self._per = per.total_seconds()
        self._clock = clock
        self._windows: dict[_Kind, _Window] = {}
        self._lock = threading.Lock()
        forget_in_children(self)

    def observe(self, event: FlowEvent) -> None:
        """Write a line, or hold it back."""
        level = _level_of(event)
        if not self._logger.isEnabledFor(level):
            return
        held_back = 0
        if level >= logging.WARNING:
            is_due, held_back = self._take_turn(event)
            if not is_due:
                return
        fields = _fields_of(event)
        if held_back:
            fields["held_back"] = held_back
        line = " ".join(f"{name}={_shown(value)}" for name, value in fields.items())
        _write(self._logger, level, line, {f"oauth2_{name}": value for name, value in fields.items()})

    def forget_after_fork(self) -> None:
        """Another thread of the parent may have held the lock."""
        self._lock = threading.Lock()

    def _take_turn(self, event: FlowEvent) -> tuple[bool, int]:
        """Say whether a line of this kind may be written now, and how many were not since the last ones."""
        kind = event.flow, event.stage, event.outcome, event.result, event.error, event.provider
        now = self._clock()
        with self._lock:
            window = self._windows.get(kind)
            held_back = 0
            if window is None or now - window.began >= self._per:
                held_back = 0 if window is None else window.held_back
                if len(self._windows) >= _MOST_KINDS:
                    self._windows.clear()
                window = self._windows[kind] = _Window(now)
            is_due = window.written < self._repeats
            window.written += is_due
            window.held_back += not is_due
            return is_due, held_back


def _write(logger: _Logger, level: int, line: str, extra: Mapping[str, Any]) -> None:
    """Log ``line`` with ``extra``, in the place of which an adapter would put its own."""
    arguments: MutableMapping[str, Any] = {}
    while isinstance(logger, logging.LoggerAdapter):
        line, arguments = logger.process(line, arguments)
        extra = {**(arguments.pop("extra", None) or {}), **extra}
        logger = logger.logger
    logger.log(level, "%s", line, extra=extra, **arguments)


def _level_of(event: FlowEvent) -> int:
    if event.outcome is FlowOutcome.ATTEMPT:
        return logging.DEBUG
    level = _LEVELS[event.result]
    return max(level, logging.WARNING) if event.outcome is FlowOutcome.FAILURE else level


def _fields_of(event: FlowEvent) -> dict[str, Any]:
    """Give what is known of ``event``, by name, in the order in which it is read best."""
    calls = [step for step in event.steps if isinstance(step, ProviderCall)]
    waits = [step.seconds for step in event.steps if isinstance(step, (FlightWait, LeaseWait))]
    fields = {
        "flow": event.flow.value,
        "stage": event.stage or None,
        "outcome": event.outcome.value,
        "result": event.result and event.result.value,
        "error": event.error,
        "provider": event.provider and str(event.provider),
        "tenant": event.tenant and str(event.tenant),
        "seconds": event.seconds,
        "calls": len(calls) or None,
        "status": calls[-1].status if calls else None,
        "waited": sum(waits) if waits else None,
        "expires_in": event.expires_in,
        "refresh_expires_in": event.refresh_expires_in,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _shown(value: str | float) -> str:
    """Write ``value`` without spaces that would end it; what is not a plain word is quoted as in JSON."""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    is_plain = text.isprintable() and text and not set(text) & set(' "=\\')
    return text if is_plain else json.dumps(text)
