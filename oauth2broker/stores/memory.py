"""A store in the memory of one process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from oauth2broker.forking import forget_in_children
from oauth2broker.records import StoreKey, TokenRecord
from oauth2broker.secret import TokenSecret
from oauth2broker.stores.base import (
    ANY,
    BrokerStore,
    CompareAndSwapOutcome,
    ExpectedRefresh,
    holds_refresh,
    require_same_key,
)


class MemoryStore(BrokerStore):
    """A dict and a lock. Several brokers may share one; its lease excludes them from each other.

    A child after a fork has a copy: from then on each renews its own, so let only one of them renew.
    """

    def __init__(self) -> None:
        self._records: dict[str, TokenRecord] = {}
        self._lock = threading.Lock()
        self._leased: dict[str, threading.Event] = {}  # by key, what its holder sets when it lets go
        forget_in_children(self)

    def fetch(self, key: StoreKey) -> TokenRecord | None:
        return self._records.get(key.digest)  # one dict lookup is atomic; no lock on the hot path

    def save(self, record: TokenRecord) -> None:
        with self._lock:
            self._records[record.key.digest] = record

    def compare_and_swap_refresh(
        self, key: StoreKey, expected_refresh: TokenSecret | str | None, replacement: TokenRecord
    ) -> CompareAndSwapOutcome:
        require_same_key(key, replacement)
        with self._lock:
            current = self._records.get(key.digest)
            if current is None:
                return CompareAndSwapOutcome.MISSING
            if current.revoked_at is not None or not holds_refresh(current, expected_refresh):
                return CompareAndSwapOutcome.REFRESH_MISMATCH
            self._records[key.digest] = replacement
            return CompareAndSwapOutcome.UPDATED

    def revoke(
        self, key: StoreKey, instant: datetime, expected_refresh: ExpectedRefresh = ANY
    ) -> TokenRecord | None:
        with self._lock:
            current = self._records.get(key.digest)
            if current is None or current.revoked_at is not None:
                return current
            if expected_refresh is not ANY and not holds_refresh(current, expected_refresh):
                return current
            tombstone = self._records[key.digest] = current.tombstone(instant)
            return tombstone

    def delete(self, key: StoreKey) -> bool:
        with self._lock:
            return self._records.pop(key.digest, None) is not None

    def keys(self) -> Iterator[StoreKey]:
        with self._lock:
            records = list(self._records.values())
        return (record.key for record in records)

    @contextmanager
    def refresh_lease(self, key: StoreKey, *, timeout: float) -> Iterator[bool]:
        freed = threading.Event()
        try:
            yield self._take_lease(key.digest, freed, timeout)
        finally:
            try:
                if self._leased[key.digest] is freed:  # no call up to here, so no place for an interrupt
                    del self._leased[key.digest]
            except KeyError:
                pass  # it was somebody else's, who has let go
            freed.set()

    def forget_after_fork(self) -> None:
        """Locks and leases are the parent's."""
        self._lock = threading.Lock()
        self._leased = {}

    def _take_lease(self, digest: str, freed: threading.Event, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while (holder := self._leased.setdefault(digest, freed)) is not freed:
            if not holder.wait(max(0.0, deadline - time.monotonic())):
                return False
        return True
