"""GuardedStore: a store of somebody else's does what it did, and raises nothing but errors of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import pytest

from oauth2broker import BackendError, BrokerStore, MemoryStore, SerializationError, StoreKey
from oauth2broker.stores.guarded import GuardedStore, guarded
from oauth2broker.testing import StoreContract
from oauth2broker.testing.store_contract import NOW, make_record

RECORD, OTHER = make_record(), make_record("other")
KEY = RECORD.key
CALLS: dict[str, Callable[[BrokerStore], object]] = {
    "fetch": lambda store: store.fetch(KEY),
    "save": lambda store: store.save(RECORD),
    "compare_and_swap_refresh": lambda store: store.compare_and_swap_refresh(KEY, "refresh-0", RECORD),
    "revoke": lambda store: store.revoke(KEY, NOW),
    "delete": lambda store: store.delete(KEY),
    "keys": lambda store: list(store.keys()),
    "keys_due": lambda store: list(store.keys_due("provider:eu", "client-1", NOW)),
    "keys_dead": lambda store: list(store.keys_dead("provider:eu", "client-1", NOW)),
    "is_lease_held": lambda store: store.is_lease_held(KEY),
    "refresh_lease": lambda store: store.refresh_lease(KEY, timeout=0).__enter__(),
}


class TestGuardedStore(StoreContract):
    """It keeps the contract if what it guards does."""

    shared = False
    durable = False

    def open_store(self, place: Path) -> BrokerStore:
        return self.__dict__.setdefault(str(place), GuardedStore(MemoryStore()))  # type: ignore[no-any-return]


def raising(name: str, error: Exception) -> BrokerStore:
    """Give a store, guarded, one of whose methods raises."""

    def fail(*_: Any, **__: Any) -> NoReturn:
        raise error

    theirs: type[MemoryStore] = type("Theirs", (MemoryStore,), {name: fail})
    return guarded(theirs())


@pytest.mark.parametrize("name", CALLS)
def test_whatever_a_method_raises_is_a_backend_error_without_its_text(name: str) -> None:
    """A driver's may hold arguments, which are secrets."""
    with pytest.raises(BackendError, match="KeyError") as caught:
        CALLS[name](raising(name, KeyError("refresh-0")))
    assert "refresh-0" not in str(caught.value)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


@pytest.mark.parametrize("name", CALLS)
def test_errors_of_ours_go_through(name: str) -> None:
    """Who can tell what is wrong says it."""
    error = SerializationError("damaged")
    with pytest.raises(SerializationError) as caught:
        CALLS[name](raising(name, error))
    assert caught.value is error


class Indexed(MemoryStore):
    """Has listings of its own, and leases that lapse."""

    def keys_due(self, provider: str, client_id: str, before: datetime) -> Iterator[StoreKey]:
        assert (provider, client_id, before) == ("provider:eu", "client-1", NOW)
        yield KEY

    def keys_dead(self, provider: str, client_id: str, before: datetime) -> Iterator[StoreKey]:
        assert (provider, client_id, before) == ("provider:eu", "client-1", NOW)
        yield OTHER.key

    def is_lease_held(self, key: StoreKey) -> bool:
        return key != KEY


def test_what_a_store_can_do_better_is_left_to_it() -> None:
    """An index for upkeep is asked, and it says whether a lease has lapsed."""
    store = guarded(Indexed())
    assert CALLS["keys_due"](store) == [KEY]
    assert CALLS["keys_dead"](store) == [OTHER.key]
    assert (store.is_lease_held(KEY), store.is_lease_held(OTHER.key)) == (False, True)


@pytest.mark.parametrize("odd", ["a digest", None])
def test_what_a_listing_gives_that_is_no_key_is_a_backend_error(odd: object) -> None:
    """Its type is told, and not what it is."""
    theirs = type("Theirs", (MemoryStore,), {"keys": lambda _: iter([KEY, odd])})
    keys = guarded(theirs()).keys()
    assert next(keys) == KEY
    with pytest.raises(BackendError, match=type(odd).__name__):
        next(keys)
