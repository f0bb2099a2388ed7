"""Where the processes of a test keep their tokens: a folder, or an engine that tests start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from oauth2broker import (
    BrokerStore,
    FileStore,
    RecordCipher,
    RedisStore,
    SQLAlchemyStore,
    StoreKey,
)
from oauth2broker.stores.guarded import GuardedStore
from oauth2broker.stores.leases import LeaseTimes

QUICK = LeaseTimes(duration=3.0, watch=1.0, beat=0.5, retry=0.1)
"""So that tests need not wait half a minute for the lease of a process that was killed."""


class QuickRedisStore(RedisStore):
    """A RedisStore with short leases."""

    _times = QUICK


class QuickSQLAlchemyStore(SQLAlchemyStore):
    """A SQLAlchemyStore with short leases."""

    _times = QUICK


@dataclass(frozen=True, slots=True)
class Place:
    """Picklable. ``url`` is a folder, or the address of an engine."""

    url: str

    def open(self, cipher: RecordCipher | None = None) -> BrokerStore:
        """Open a store there, as each process does. It asks nothing of an engine yet."""
        if "://" not in self.url:
            return FileStore(self.url, cipher=cipher)
        if self.url.startswith("redis"):
            return QuickRedisStore.from_url(self.url, cipher=cipher)
        return QuickSQLAlchemyStore(self.url, cipher=cipher)

    @contextmanager
    def opened(self) -> Iterator[BrokerStore]:
        """Open the first store there, and close it in the end."""
        store = self.open()
        if not isinstance(store, SQLAlchemyStore):
            yield store
            return
        store.create_table()
        yield store
        store.close()


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
