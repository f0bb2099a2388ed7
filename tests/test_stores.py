"""The stores that come with the library pass the contract; a broken one does not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from oauth2broker import (
    ANY,
    BrokerStore,
    CompareAndSwapOutcome,
    FileStore,
    MemoryStore,
    StoreKey,
    TokenRecord,
    TokenSecret,
)
from oauth2broker.stores.base import ExpectedRefresh, dead_at, due_at
from oauth2broker.testing import StoreContract
from oauth2broker.testing.store_contract import NOW, make_record


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


class ForgetfulSwap(MemoryStore):
    """Swaps without looking."""

    def compare_and_swap_refresh(
        self, key: StoreKey, expected_refresh: TokenSecret | str | None, replacement: TokenRecord
    ) -> CompareAndSwapOutcome:
        self.save(replacement)
        return CompareAndSwapOutcome.UPDATED


class RacingSwap(MemoryStore):
    """Looks and swaps in two steps, with room for another thread between them."""

    def compare_and_swap_refresh(
        self, key: StoreKey, expected_refresh: TokenSecret | str | None, replacement: TokenRecord
    ) -> CompareAndSwapOutcome:
        current = self.fetch(key)
        threading.Event().wait(0.01)
        if current is None or current.refresh_token != expected_refresh:
            return CompareAndSwapOutcome.REFRESH_MISMATCH
        self.save(replacement)
        return CompareAndSwapOutcome.UPDATED


class UnconditionalTombstone(MemoryStore):
    """Buries a winner."""

    def revoke(
        self, key: StoreKey, instant: datetime, expected_refresh: ExpectedRefresh = ANY
    ) -> TokenRecord | None:
        return super().revoke(key, instant)


class GenerousLease(MemoryStore):
    """Gives its lease to everybody."""

    @contextmanager
    def refresh_lease(self, key: StoreKey, *, timeout: float) -> Iterator[bool]:
        yield True


class KeyedByPrincipal(MemoryStore):
    """Thinks that a principal's name is enough of a key."""

    def fetch(self, key: StoreKey) -> TokenRecord | None:
        principal = key.family.principal
        return next((r for r in self._records.values() if r.family.principal == principal), None)


@pytest.mark.parametrize(
    ("store", "test"),
    [
        (ForgetfulSwap, "test_a_swap_succeeds_only_on_the_expected_refresh_token"),
        (ForgetfulSwap, "test_a_tombstone_is_never_swapped"),
        (RacingSwap, "test_of_many_threads_that_swap_one_wins"),
        (UnconditionalTombstone, "test_a_conditional_tombstone_spares_a_winner"),
        (GenerousLease, "test_a_lease_has_one_holder"),
        (KeyedByPrincipal, "test_whatever_changes_the_token_changes_its_place"),
    ],
)
def test_a_broken_store_fails_the_contract(store: type[MemoryStore], test: str, tmp_path: Path) -> None:
    """The contract's tests can fail: each mistake is found by the test that is there for it."""
    shared = store()

    class Broken(StoreContract):
        def open_store(self, place: Path) -> BrokerStore:
            return shared

    with pytest.raises(AssertionError):
        getattr(Broken(), test)(tmp_path)


HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.mark.parametrize(
    ("changes", "due", "dead"),
    [
        ({"expires_at": NOW + HOUR, "refresh_expires_at": NOW + DAY}, NOW + HOUR, NOW + DAY),
        ({"expires_at": NOW + DAY, "refresh_expires_at": NOW + HOUR}, NOW + HOUR, NOW + DAY),
        ({"expires_at": NOW + HOUR, "refresh_expires_at": NOW}, NOW, None),
        ({"expires_at": NOW + HOUR, "refresh_expires_at": None}, NOW + HOUR, None),
        ({"expires_at": None, "refresh_expires_at": NOW + DAY}, NOW + DAY, None),
        ({"expires_at": None, "refresh_expires_at": None}, None, None),
        ({"expires_at": NOW + HOUR, "refresh_token": None}, None, NOW + HOUR),
        ({"expires_at": NOW - HOUR, "refresh_token": None}, None, NOW),
        ({"expires_at": NOW - HOUR, "refresh_expires_at": NOW + HOUR}, NOW - HOUR, NOW + HOUR),
        ({"expires_at": None, "refresh_token": None}, None, None),
    ],
)
def test_when_a_record_is_due_and_when_dead(
    changes: dict[str, Any], due: datetime | None, dead: datetime | None
) -> None:
    """By what ends first, and by what ends last; a tombstone is never due, and dead since it was made."""
    record = make_record(**changes)
    assert (due_at(record), dead_at(record)) == (due, dead)
    tombstone = replace(record, revoked_at=NOW + DAY)
    assert (due_at(tombstone), dead_at(tombstone)) == (None, NOW + DAY)
