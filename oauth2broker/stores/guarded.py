"""A store of somebody else's, held to its contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import TypeVar

from oauth2broker.errors import BackendError, BrokerError
from oauth2broker.records import StoreKey, TokenRecord
from oauth2broker.secret import TokenSecret
from oauth2broker.stores.base import ANY, BrokerStore, CompareAndSwapOutcome, ExpectedRefresh

Result = TypeVar("Result")
_END = object()


class GuardedStore(BrokerStore):
    """Makes a :class:`BackendError` of whatever a store raises that is none of ours.

    One exception of a driver that slips out after a rotation would cost the user's login.
    """

    def __init__(self, store: BrokerStore) -> None:
        self._store = store

    def fetch(self, key: StoreKey) -> TokenRecord | None:
        return _guarded(lambda: self._store.fetch(key))

    def save(self, record: TokenRecord) -> None:
        _guarded(lambda: self._store.save(record))

    def compare_and_swap_refresh(
        self, key: StoreKey, expected_refresh: TokenSecret | str | None, replacement: TokenRecord
    ) -> CompareAndSwapOutcome:
        return _guarded(lambda: self._store.compare_and_swap_refresh(key, expected_refresh, replacement))

    def revoke(
        self, key: StoreKey, instant: datetime, expected_refresh: ExpectedRefresh = ANY
    ) -> TokenRecord | None:
        return _guarded(lambda: self._store.revoke(key, instant, expected_refresh))

    def delete(self, key: StoreKey) -> bool:
        return _guarded(lambda: self._store.delete(key))

    def keys(self) -> Iterator[StoreKey]:
        keys = _guarded(lambda: iter(self._store.keys()))
        while (key := _guarded(lambda: next(keys, _END))) is not _END:
            if not isinstance(key, StoreKey):
                raise BackendError(f"the store listed what is no key but {type(key).__name__}")
            yield key

    @contextmanager
    def refresh_lease(self, key: StoreKey, *, timeout: float) -> Iterator[bool]:
        lease = ExitStack()
        is_ours = _guarded(lambda: lease.enter_context(self._store.refresh_lease(key, timeout=timeout)))
        try:
            yield is_ours
        finally:
            _guarded(lease.close)


def _guarded(call: Callable[[], Result]) -> Result:
    try:
        return call()
    except BrokerError:
        raise
    except Exception as error:  # noqa: BLE001 - a store may raise anything
        failed = type(error).__name__
    raise BackendError(f"the store failed ({failed})")
