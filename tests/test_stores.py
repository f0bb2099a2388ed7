"""The stores that come with the library pass the contract; a broken one does not."""

from __future__ import annotations

from pathlib import Path

from oauth2broker import BrokerStore, FileStore, MemoryStore
from oauth2broker.testing import StoreContract


class TestFileStore(StoreContract):
    """FileStore: shared and durable."""

    def open_store(self, place: Path) -> BrokerStore:
        return FileStore(place / "tokens")


class TestMemoryStore(StoreContract):
    """MemoryStore: for one process; "two stores on the same data" are one object."""

    shared = False
    durable = False

    def open_store(self, place: Path) -> BrokerStore:
        return self.__dict__.setdefault(str(place), MemoryStore())  # type: ignore[no-any-return]
