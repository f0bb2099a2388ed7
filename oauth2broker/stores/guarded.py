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
_OUR_STORES = "oauth2broker.stores."


def guarded(store: BrokerStore) -> BrokerStore:
    """Give ``store`` itself if it is one of ours, else a :class:`GuardedStore`.

    A subclass of ours is somebody else's.
    """
    return store if type(store).__module__.startswith(_OUR_STORES) else GuardedStore(store)


class GuardedStore(BrokerStore):
    """Makes a :class:`BackendError` of whatever a store raises that is none of ours.

    One exception of a driver that slips out after a rotation would cost the user's login.
    """

    def __init__(self, store: BrokerStore) -> None:
        self._store = store

    def fetch(self, key: StoreKey) -> TokenRecord | None:
        return _held(lambda: self._store.fetch(key))

    def save(self, record: TokenRecord) -> None:
        _held(lambda: self._store.save(record))

    def compare_and_swap_refresh(
        self, key: StoreKey, expected_refresh: TokenSecret | str | None, replacement: TokenRecord
    ) -> CompareAndSwapOutcome:
        return _held(lambda: self._store.compare_and_swap_refresh(key, expected_refresh, replacement))

    def revoke(
        self, key: StoreKey, instant: datetime, expected_refresh: ExpectedRefresh = ANY
    ) -> TokenRecord | None:
        return _held(lambda: self._store.revoke(key, instant, expected_refresh))

    def delete(self, key: StoreKey) -> bool:
        return _held(lambda: self._store.delete(key))

    def keys(self) -> Iterator[StoreKey]:
        return _held_keys(self._store.keys)

    def keys_due(self, provider: str, client_id: str, before: datetime) -> Iterator[StoreKey]:
        return _held_keys(lambda: self._store.keys_due(provider, client_id, before))

    def keys_dead(self, provider: str, client_id: str, before: datetime) -> Iterator[StoreKey]:
        return _held_keys(lambda: self._store.keys_dead(provider, client_id, before))

    def is_lease_held(self, key: StoreKey) -> bool:
        return _held(lambda: self._store.is_lease_held(key))

    @contextmanager
    def refresh_lease(self, key: StoreKey, *, timeout: float) -> Iterator[bool]:
        lease = ExitStack()
        is_ours = _held(lambda: lease.enter_context(self._store.refresh_lease(key, timeout=timeout)))
        try:
            yield is_ours
        finally:
            _held(lease.close)


def _held_keys(listing: Callable[[], Iterator[StoreKey]]) -> Iterator[StoreKey]:
    keys = _held(lambda: iter(listing()))
    while (key := _held(lambda: next(keys, _END))) is not _END:
        if not isinstance(key, StoreKey):
            raise BackendError(f"the store listed what is no key but {type(key).__name__}")
        yield key


def _held(call: Callable[[], Result]) -> Result:
    try:
        return call()
    except BrokerError:
        raise
    except Exception as error:  # noqa: BLE001 - a store may raise anything
        failed = type(error).__name__
    raise BackendError(f"the store failed ({failed})")
