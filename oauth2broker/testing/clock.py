"""A clock for tests."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

from oauth2broker.errors import ConfigError

_START = datetime(2026, 1, 1, tzinfo=UTC)


class FrozenClock:
    """A clock that stands still until it is moved, for ``Broker(clock=...)`` and the providers for tests.

    Called, it gives the time as an aware UTC datetime; so does ``now``, which can also be set. ``start`` is
    any aware datetime. Safe to share between threads. Raises :class:`ConfigError` for a datetime without
    time zone.
    """

    def __init__(self, start: datetime = _START) -> None:
        self._lock = threading.Lock()
        self._now = _in_utc(start)

    def __call__(self) -> datetime:
        return self._now

    def __repr__(self) -> str:
        return f"FrozenClock({self._now.isoformat()})"

    @property
    def now(self) -> datetime:
        """The time."""
        return self._now

    @now.setter
    def now(self, value: datetime) -> None:
        moment = _in_utc(value)
        with self._lock:
            self._now = moment

    def advance(self, by: float | timedelta) -> None:
        """Move on by seconds or a timedelta; back, if it is negative.

        Raises :class:`ConfigError` for what is neither, and when the result is no date.
        """
        try:
            with self._lock:
                self._now += by if isinstance(by, timedelta) else timedelta(seconds=by)
        except (TypeError, ValueError, OverflowError) as error:
            raise ConfigError(f"a clock cannot be moved by that: {error}") from None


def _in_utc(moment: datetime) -> datetime:
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        raise ConfigError("a clock shows an aware datetime, such as datetime(2026, 1, 1, tzinfo=UTC)")
    return moment.astimezone(UTC)
