"""The store of the model: a ``MemoryStore`` whose calls pause and may fail, and whose lease never blocks.

All processes share it. It tells the rules what became of the record after every write, and knows who holds
the lease, so that a process that is killed loses it. The environment (somebody else's logout or login,
which asks nobody for the lease) writes past the pauses, with ``outside=True``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from oauth2broker import (
    ANY,
    BackendError,
    BrokerStore,
    CompareAndSwapOutcome,
    MemoryStore,
    StoreKey,
    TokenRecord,
    TokenSecret,
)
from oauth2broker.stores.base import ExpectedRefresh
from tests.model.scheduler import Order, Scheduler

if TYPE_CHECKING:
    from tests.model.rules import Rules
    from tests.model.world import Process

Result = TypeVar("Result")


class Health(StrEnum):
    """What the backend of the store can do."""

    UP = "up"
    READ_ONLY = "read-only"
    DOWN = "down"


class ModelStore(BrokerStore):
    """One key's record and lease, shared by all processes of the model."""

    def __init__(self, scheduler: Scheduler, key: StoreKey, rules: Rules) -> None:
        self.health = Health.UP
        self.holder: ModelLease | None = None
        self.scheduler = scheduler
        self.key = key
        self.rules = rules
        self._inner = MemoryStore()

    @property
    def record(self) -> TokenRecord | None:
        """What is stored, for the rules and the environment to look at."""
        return self._inner.fetch(self.key)

    def fetch(self, key: StoreKey) -> TokenRecord | None:
        self._pause("fetch", reads=True)
        record = self._inner.fetch(key)
        self.rules.fetched(record)
        self.scheduler.pause("fetched")
        return record

    def save(self, record: TokenRecord, *, outside: bool = False) -> None:
        self._write("save", lambda: self._inner.save(record), outside=outside)

    def compare_and_swap_refresh(
        self, key: StoreKey, expected_refresh: TokenSecret | str | None, replacement: TokenRecord
    ) -> CompareAndSwapOutcome:
        return self._write(
            "swap", lambda: self._inner.compare_and_swap_refresh(key, expected_refresh, replacement)
        )

    def revoke(
        self,
        key: StoreKey,
        instant: datetime,
        expected_refresh: ExpectedRefresh = ANY,
        *,
        outside: bool = False,
    ) -> TokenRecord | None:
        return self._write(
            "revoke", lambda: self._inner.revoke(key, instant, expected_refresh), outside=outside
        )

    def delete(self, key: StoreKey, *, outside: bool = False) -> bool:
        return self._write("delete", lambda: self._inner.delete(key), outside=outside)

    def keys(self) -> Iterator[StoreKey]:
        return self._inner.keys()

    def refresh_lease(self, key: StoreKey, *, timeout: float) -> ModelLease:
        return ModelLease(self, timeout)

    def _write(self, label: str, write: Callable[[], Result], *, outside: bool = False) -> Result:
        order = Order.GO if outside else self._pause(label)
        before = self.record
        result = write()
        self.rules.wrote(label, before, self.record)
        if order is Order.FAIL_AFTER:
            self.rules.store_failed(label, self.record)
            raise BackendError("the store took it, but could not say so")
        return result

    def _pause(self, label: str, *, reads: bool = False) -> Order:
        def options() -> Sequence[Order]:
            if self.health is Health.DOWN or (self.health is Health.READ_ONLY and not reads):
                return (Order.FAIL,)
            return (Order.GO, Order.FAIL) if reads else (Order.GO, Order.FAIL, Order.FAIL_AFTER)

        order = self.scheduler.pause(label, options)
        if order is Order.FAIL:
            self.rules.store_failed(label)
            raise BackendError("the store of the model is told to fail")
        return order


class ModelLease:
    """The lease, as a context manager that gives whether it is ours. A wait for it is a pause.

    ``owner`` is the process that holds it. What a dead one leaves behind may be collected at any time, and
    does nothing then.
    """

    def __init__(self, store: ModelStore, timeout: float) -> None:
        self.owner: Process | None = None
        self._store = store
        self._timeout = timeout

    def __enter__(self) -> bool:
        store, scheduler = self._store, self._store.scheduler
        deadline = scheduler.mono + self._timeout

        def options() -> Sequence[Order]:
            if store.health is Health.DOWN:
                return (Order.FAIL,)
            if store.holder is None:
                return (Order.GO, Order.FAIL)
            return (Order.TIME_OUT,) if scheduler.mono >= deadline else ()

        order = scheduler.pause("lease", options, deadline)
        if order is Order.FAIL:
            store.rules.store_failed("lease")
            raise BackendError("nobody can tell who holds the lease")
        if order is Order.GO and scheduler.current is not None:
            self.owner, store.holder = scheduler.current.owner, self
        return order is Order.GO

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.owner is not None and not self.owner.is_alive:
            return
        try:
            self._store.scheduler.pause("release")
        finally:
            if self._store.holder is self:
                self._store.holder = None
        self._store.scheduler.pause("released")
