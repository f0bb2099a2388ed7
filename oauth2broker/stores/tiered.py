"""Two stores as one: what a distant one holds is kept near for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from oauth2broker.errors import BackendError, ConfigError, StoreError
from oauth2broker.forking import forget_in_children
from oauth2broker.records import StoreKey, TokenRecord
from oauth2broker.secret import TokenSecret
from oauth2broker.stores.base import ANY, BrokerStore, CompareAndSwapOutcome, ExpectedRefresh
from oauth2broker.stores.guarded import guarded
from oauth2broker.stores.memory import MemoryStore

_DOWN_SECONDS = 1.0  # for how long a back that failed is not asked for what the front has
_MOST_KEPT = 10_000


class TieredStore(BrokerStore):
    """A :class:`MemoryStore` in ``front`` of a store that processes share: most reads cost no round trip.

    What was read from ``back`` is served from ``front`` for ``max_age``, so a renewal, a login or a logout
    elsewhere may be seen that much later; those of this process are seen at once. While ``back`` fails, what
    was read serves for ``stale_if_error`` more. Writes, leases, and what is read under a lease, go to
    ``back``: a renewal, also one that rejects a token, never relies on ``front``.

    ``front`` belongs to this store alone. Safe to use from several threads, and in a child after a fork.
    Raises :class:`ConfigError` for arguments that are none.
    """

    def __init__(
        self,
        front: MemoryStore,
        back: BrokerStore,
        *,
        max_age: timedelta = timedelta(seconds=5),
        stale_if_error: timedelta = timedelta(seconds=60),
    ) -> None:
        for name, store, kind in (("front", front, MemoryStore), ("back", back, BrokerStore)):
            if not isinstance(store, kind):
                raise ConfigError(f"{name} is a {kind.__name__}, not {type(store).__name__}")
        for name, age in (("max_age", max_age), ("stale_if_error", stale_if_error)):
            if not isinstance(age, timedelta) or age < timedelta():
                raise ConfigError(f"{name} is a timedelta from 0")
        self._front = front
        self._back = guarded(back)
        self._max_age = max_age.total_seconds()
        self._max_age_if_error = self._max_age + stale_if_error.total_seconds()
        self._read_at: dict[str, float] = {}  # by digest, of what is in front
        self._leased: set[str] = set()
        self._changes = 0
        self._down_until = 0.0
        self._lock = threading.Lock()
        forget_in_children(self)

    def fetch(self, key: StoreKey) -> TokenRecord | None:
        now = time.monotonic()
        age = self._max_age if now >= self._down_until else self._max_age_if_error
        return self._near(key, now, age) or self._fetch_back(key, now)

    def save(self, record: TokenRecord) -> None:
        with self._changing(record.key):
            self._back.save(record)

    def compare_and_swap_refresh(
        self, key: StoreKey, expected_refresh: TokenSecret | str | None, replacement: TokenRecord
    ) -> CompareAndSwapOutcome:
        with self._changing(key):
            return self._back.compare_and_swap_refresh(key, expected_refresh, replacement)

    def revoke(
        self, key: StoreKey, instant: datetime, expected_refresh: ExpectedRefresh = ANY
    ) -> TokenRecord | None:
        with self._changing(key):
            return self._back.revoke(key, instant, expected_refresh)

    def delete(self, key: StoreKey) -> bool:
        with self._changing(key):
            return self._back.delete(key)

    def keys(self) -> Iterator[StoreKey]:
        return self._back.keys()

    def keys_due(self, provider: str, client_id: str, before: datetime) -> Iterator[StoreKey]:
        return self._back.keys_due(provider, client_id, before)

    def keys_dead(self, provider: str, client_id: str, before: datetime) -> Iterator[StoreKey]:
        return self._back.keys_dead(provider, client_id, before)

    def is_lease_held(self, key: StoreKey) -> bool:
        return self._back.is_lease_held(key)

    @contextmanager
    def refresh_lease(self, key: StoreKey, *, timeout: float) -> Iterator[bool]:
        with self._back.refresh_lease(key, timeout=timeout) as is_ours:
            if not is_ours:
                yield False
                return
            self._leased.add(key.digest)  # who renews must not trust the front
            try:
                yield True
            finally:
                self._leased.discard(key.digest)

    def forget_after_fork(self) -> None:
        """Lock and leases are the parent's."""
        self._lock = threading.Lock()
        self._leased = set()

    def _near(self, key: StoreKey, now: float, age: float) -> TokenRecord | None:
        """Give what is in front, if it was read no longer than ``age`` ago and nobody renews it here."""
        read_at = self._read_at.get(key.digest)
        if read_at is None or now - read_at >= age or key.digest in self._leased:
            return None
        return self._front.fetch(key)

    def _fetch_back(self, key: StoreKey, now: float) -> TokenRecord | None:
        changes = self._changes
        if self._down_until:
            self._down_until = now + _DOWN_SECONDS  # we ask; the others need not wait for that
        try:
            record = self._back.fetch(key)
        except BackendError:
            self._down_until = time.monotonic() + _DOWN_SECONDS
            record = self._near(key, now, self._max_age_if_error)
            if record is None:
                raise
            return record
        except StoreError:  # a record that cannot be read: who says so is up
            self._down_until = 0.0
            raise
        self._down_until = 0.0
        if record is not None:
            self._keep(record, now, changes)
        return record

    def _keep(self, record: TokenRecord, now: float, changes: int) -> None:
        """Keep what was read, unless something was changed since: it may be older than that."""
        with self._lock:
            if changes != self._changes:
                return
            if len(self._read_at) >= _MOST_KEPT and record.key.digest not in self._read_at:
                self._forget_all()  # rather than keep order on the hot path
            self._front.save(record)
            self._read_at[record.key.digest] = now

    def _forget_all(self) -> None:
        for key in self._front.keys():  # noqa: SIM118 - a store is no mapping
            self._front.delete(key)
        self._read_at.clear()

    @contextmanager
    def _changing(self, key: StoreKey) -> Iterator[None]:
        """Forget what was read of ``key`` before the change, and while it is made."""
        self._forget(key)
        try:
            yield
        finally:
            self._forget(key)

    def _forget(self, key: StoreKey) -> None:
        with self._lock:
            self._changes += 1
            self._read_at.pop(key.digest, None)
            self._front.delete(key)
