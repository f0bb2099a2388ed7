"""Where the processes of a test keep their tokens: a folder, or an engine that tests start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from oauth2broker import (
    BrokerStore,
    FileStore,
    MemoryStore,
    RedisStore,
    SQLAlchemyStore,
    StoreKey,
    TieredStore,
)
from oauth2broker.stores.guarded import GuardedStore
from oauth2broker.stores.leases import LeaseTimes

QUICK = LeaseTimes(duration=2.0, watch=1.0, beat=0.5, retry=0.1)
"""So that tests need not wait half a minute for the lease of a process that was killed."""


class QuickRedisStore(RedisStore):
    """A RedisStore with short leases."""

    _times = QUICK


class QuickSQLAlchemyStore(SQLAlchemyStore):
    """A SQLAlchemyStore with short leases."""

    _times = QUICK


@dataclass(frozen=True, slots=True)
class Place:
    """Picklable. ``url`` is a folder, or an engine's address. ``is_tiered``: with a MemoryStore in front."""

    url: str
    is_tiered: bool = False

    def open(self) -> BrokerStore:
        """Open a store there, as each process does."""
        store = self._open()
        return TieredStore(MemoryStore(), store, max_age=timedelta(seconds=0.2)) if self.is_tiered else store

    def _open(self) -> BrokerStore:
        if "://" not in self.url:
            return FileStore(self.url)
        if self.url.startswith("redis"):
            return QuickRedisStore.from_url(self.url)
        store = QuickSQLAlchemyStore(self.url)
        store.create_table()
        return store


class AnnouncingStore(GuardedStore):
    """Says when it is about to ask for a lease."""

    def __init__(self, store: BrokerStore, announce: Callable[[], None]) -> None:
        super().__init__(store)
        self._announce = announce

    @contextmanager
    def refresh_lease(self, key: StoreKey, *, timeout: float) -> Iterator[bool]:
        self._announce()
        with super().refresh_lease(key, timeout=timeout) as is_ours:
            yield is_ours
