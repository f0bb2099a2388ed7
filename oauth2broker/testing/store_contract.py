"""What every store must do, as tests: for authors of stores.

Subclass :class:`StoreContract` in a test module, say how to open a store, and run pytest::

    class TestMyStore(StoreContract):
        def open_store(self, place):
            return MyStore(place / "data")
"""

from __future__ import annotations

import multiprocessing
import threading
import time
import unittest
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from oauth2broker.errors import ConfigError
from oauth2broker.grants import GrantType
from oauth2broker.records import TokenFamily, TokenRecord
from oauth2broker.secret import TokenSecret
from oauth2broker.stores.base import BrokerStore, CompareAndSwapOutcome

NOW = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
THREADS = 16
PROCESSES = 4
PATIENCE = 60.0  # seconds; far more than anything here takes

HOSTILE = (
    "../../etc/passwd",
    "a/b\\c",
    "a:b|c;d",
    "quote\"'`",
    "%2e%2e%00",
    "-rf",
    "日本語",
    "ａｃｍｅ",  # noqa: RUF001 - looks like acme
    "acme",
    "e\N{COMBINING ACUTE ACCENT}",
    "\N{LATIN SMALL LETTER E WITH ACUTE}",
    "x" * 128,
    "CON",
    '{"a":1}',
)


def make_record(principal: str = "user-1", **changes: Any) -> TokenRecord:
    """Give a live record of ``principal`` with every field set; ``changes`` are the record's keywords."""
    fields: dict[str, Any] = {
        "family": TokenFamily("tenant-1", principal, "provider:eu", "client-1"),
        "scope": "a b",
        "granted_scope": "a",
        "resource": "https://api.example.com/v1",
        "access_token": "access-0",
        "refresh_token": "refresh-0",
        "token_type": "Bearer",
        "issued_at": NOW,
        "expires_at": NOW + timedelta(hours=1),
        "refresh_expires_at": NOW + timedelta(days=30),
        "attempted_at": NOW + timedelta(minutes=1),
        "retry_at": NOW + timedelta(minutes=2),
        "failures": 3,
        "id_token": "header.payload.signature",
        "extra": {"instance_url": "https://eu.example.com", "nested": {"list": [1, 2.5, None, True, "é\n"]}},
    }
    return TokenRecord(**{**fields, **changes})


class StoreContract(ABC):
    """The tests. A subclass is named ``Test...`` and says how to open a store.

    ``shared`` is False for a store that other processes cannot see, ``durable`` for one that forgets when it
    is closed. ``max_age`` is for how many seconds it may give what another store has replaced. Processes are
    started by spawn, so the subclass must be importable.
    """

    shared = True
    durable = True
    max_age = 0.0

    @abstractmethod
    def open_store(self, place: Path) -> BrokerStore:
        """Open the store of ``place``, an empty folder for each test; twice: two stores on the same data."""

    # Records.

    def test_a_record_comes_back_as_it_was_saved(self, tmp_path: Path) -> None:
        """Every field survives, secrets and nested extras included."""
        store, record = self.open_store(tmp_path), make_record()
        assert store.fetch(record.key) is None
        store.save(record)
        assert store.fetch(record.key) == record

    def test_a_record_with_nothing_optional_comes_back(self, tmp_path: Path) -> None:
        """None stays None."""
        store = self.open_store(tmp_path)
        record = TokenRecord(family=TokenFamily("t", "p", "x", "c"), access_token="a", issued_at=NOW)
        store.save(record)
        assert store.fetch(record.key) == record

    def test_saving_replaces_whatever_is_there(self, tmp_path: Path) -> None:
        """Also a tombstone: the user may come back."""
        store, record = self.open_store(tmp_path), make_record()
        store.save(record)
        store.revoke(record.key, NOW)
        again = replace(record, access_token=TokenSecret("access-1"))
        store.save(again)
        assert store.fetch(record.key) == again

    def test_hostile_identifiers_have_records_of_their_own(self, tmp_path: Path) -> None:
        """No two of them share a record, and none gets out of the store."""
        store = self.open_store(tmp_path)
        records = [make_record(name, access_token=f"token-{n}") for n, name in enumerate(HOSTILE)]
        for record in records:
            store.save(record)
        assert [store.fetch(record.key) for record in records] == records
        assert {key.digest for key in store.keys()} == {record.key.digest for record in records}

    def test_whatever_changes_the_token_changes_its_place(self, tmp_path: Path) -> None:
        """Another scope, resource, client or grant is another record."""
        store = self.open_store(tmp_path)
        records = [
            make_record(),
            make_record(scope="a b c"),
            make_record(resource=None),
            make_record(grant=GrantType.CLIENT_CREDENTIALS),
            make_record(family=TokenFamily("tenant-1", "user-1", "provider:eu", "client-2")),
        ]
        for number, record in enumerate(records):
            store.save(replace(record, access_token=TokenSecret(f"token-{number}")))
        found = [store.fetch(record.key) for record in records]
        assert [one and one.access_token.expose() for one in found] == [f"token-{n}" for n in range(5)]

    def test_what_was_written_is_there_when_the_store_is_opened_again(self, tmp_path: Path) -> None:
        """Durable when the call returns, for saves, swaps, tombstones and deletions."""
        if not self.durable:
            raise unittest.SkipTest("this store is not durable")
        store, names = self.open_store(tmp_path), ["saved", "swapped", "revoked", "deleted"]
        saved, swapped, revoked, deleted = [make_record(name) for name in names]
        for record in (saved, swapped, revoked, deleted):
            store.save(record)
        newer = replace(swapped, refresh_token=TokenSecret("refresh-1"))
        store.compare_and_swap_refresh(swapped.key, "refresh-0", newer)
        tombstone = store.revoke(revoked.key, NOW)
        store.delete(deleted.key)
        again = self.open_store(tmp_path)
        found = [again.fetch(record.key) for record in (saved, swapped, revoked, deleted)]
        assert found == [saved, newer, tombstone, None]

    def test_two_stores_on_the_same_data_see_each_others_writes(self, tmp_path: Path) -> None:
        """At once, or within ``max_age``, also where the second has read the record before."""
        first, second = self.open_store(tmp_path), self.open_store(tmp_path)
        record = make_record()
        first.save(record)
        assert second.fetch(record.key) == record
        for number in range(20):
            newer = replace(record, access_token=TokenSecret(f"access-{number}"))
            first.save(newer)
            deadline = time.monotonic() + self.max_age
            while (found := second.fetch(record.key)) != newer and time.monotonic() <= deadline:
                time.sleep(self.max_age / 10)
            assert found == newer

    # Compare-and-swap.

    def test_a_swap_succeeds_only_on_the_expected_refresh_token(self, tmp_path: Path) -> None:
        """UPDATED once; then the token expected is no longer there."""
        store, record = self.open_store(tmp_path), make_record()
        newer = replace(record, refresh_token=TokenSecret("refresh-1"))
        assert self._swap(store, record, newer) is CompareAndSwapOutcome.MISSING
        assert store.fetch(record.key) is None
        store.save(record)
        assert self._swap(store, record, newer) is CompareAndSwapOutcome.UPDATED
        assert self._swap(store, record, record) is CompareAndSwapOutcome.REFRESH_MISMATCH
        assert store.fetch(record.key) == newer

    def test_a_swap_expecting_no_refresh_token_wants_none(self, tmp_path: Path) -> None:
        """None is a value like another."""
        store, record = self.open_store(tmp_path), make_record(refresh_token=None)
        store.save(record)
        newer = replace(record, refresh_token=TokenSecret("refresh-1"))
        swap = store.compare_and_swap_refresh
        assert swap(record.key, "refresh-0", newer) is CompareAndSwapOutcome.REFRESH_MISMATCH
        assert swap(record.key, None, newer) is CompareAndSwapOutcome.UPDATED
        assert swap(record.key, None, newer) is CompareAndSwapOutcome.REFRESH_MISMATCH

    def test_a_tombstone_is_never_swapped(self, tmp_path: Path) -> None:
        """A logout during a refresh stays a logout; so does a deletion."""
        store, record = self.open_store(tmp_path), make_record()
        store.save(record)
        tombstone = store.revoke(record.key, NOW)
        for expected in ("refresh-0", None):
            outcome = store.compare_and_swap_refresh(record.key, expected, record)
            assert outcome is CompareAndSwapOutcome.REFRESH_MISMATCH
        assert store.fetch(record.key) == tombstone
        store.delete(record.key)
        assert self._swap(store, record, record) is CompareAndSwapOutcome.MISSING
        assert store.fetch(record.key) is None

    def test_a_swap_under_another_key_is_refused(self, tmp_path: Path) -> None:
        """ConfigError, and nothing is changed."""
        store, record = self.open_store(tmp_path), make_record()
        store.save(record)
        try:
            store.compare_and_swap_refresh(record.key, "refresh-0", make_record("somebody-else"))
        except ConfigError:
            assert store.fetch(record.key) == record
        else:
            raise AssertionError("a record was put under a key not its own")

    def test_of_many_threads_that_swap_one_wins(self, tmp_path: Path) -> None:
        """Exactly one UPDATED, and its record is the one that is there."""
        stores = [self.open_store(tmp_path) for _ in range(2)]
        record = make_record()
        stores[0].save(record)
        winners: list[str] = []

        def race(number: int) -> None:
            newer = replace(record, refresh_token=TokenSecret(f"refresh-by-{number}"))
            if self._swap(stores[number % 2], record, newer) is CompareAndSwapOutcome.UPDATED:
                winners.append(f"refresh-by-{number}")

        _in_threads(THREADS, race)
        self._check_winner(stores[0], record, winners)

    def test_of_many_processes_that_swap_one_wins(self, tmp_path: Path) -> None:
        """Exactly one UPDATED, and its record is the one that is there."""
        store, record = self._open_shared(tmp_path), make_record()
        store.save(record)
        results = _in_processes(PROCESSES, _swap_in_child, type(self), tmp_path)
        self._check_winner(store, record, [result for result in results if result])

    # Tombstones and deletions.

    def test_a_tombstone_holds_no_secret(self, tmp_path: Path) -> None:
        """Its tokens and the provider's answer are gone; key and time are there."""
        store, record = self.open_store(tmp_path), make_record()
        assert store.revoke(record.key, NOW) is None
        store.save(record)
        tombstone = store.revoke(record.key, NOW)
        assert tombstone is not None
        assert tombstone == store.fetch(record.key)
        assert (tombstone.key, tombstone.revoked_at) == (record.key, NOW)
        assert not tombstone.access_token
        assert (tombstone.refresh_token, tombstone.id_token, dict(tombstone.extra)) == (None, None, {})
        assert store.revoke(record.key, NOW + timedelta(days=1)) == tombstone

    def test_a_conditional_tombstone_spares_a_winner(self, tmp_path: Path) -> None:
        """Only a record that holds the refused token is buried; what is there is given back."""
        store, record = self.open_store(tmp_path), make_record()
        store.save(record)
        assert store.revoke(record.key, NOW, "another") == record
        assert store.revoke(record.key, NOW, None) == record
        assert store.fetch(record.key) == record
        buried = store.revoke(record.key, NOW, TokenSecret("refresh-0"))
        assert buried is not None
        assert buried.revoked_at == NOW

    def test_deleting_says_whether_there_was_a_record(self, tmp_path: Path) -> None:
        """And leaves the others alone."""
        store, record, other = self.open_store(tmp_path), make_record(), make_record("other")
        store.save(record)
        store.save(other)
        assert store.delete(record.key) is True
        assert store.delete(record.key) is False
        assert [key.digest for key in store.keys()] == [other.key.digest]

    def test_a_deletion_among_swaps_is_final(self, tmp_path: Path) -> None:
        """A swap that comes later is MISSING; whoever came first, nothing is brought back."""
        store, record = self.open_store(tmp_path), make_record()
        for _ in range(20):
            store.save(record)

            def act(number: int) -> None:
                if number == 0:
                    store.delete(record.key)
                else:
                    self._swap(store, record, record)

            _in_threads(4, act)
            assert store.fetch(record.key) is None

    # The lease.

    def test_a_lease_has_one_holder(self, tmp_path: Path) -> None:
        """Among threads and stores; another key is another lease; afterwards it is free."""
        stores = [self.open_store(tmp_path) for _ in range(2)]
        key, other = make_record().key, make_record("other").key
        with stores[0].refresh_lease(key, timeout=0) as mine:
            assert mine is True
            for store in stores:
                assert _try_lease(store, key, 0.0) is False
                assert _try_lease(store, key, 0.05) is False
                assert _try_lease(store, other, 0.0) is True
        assert _try_lease(stores[1], key, 0.0) is True

    def test_of_many_at_once_one_gets_the_lease_of_a_new_key(self, tmp_path: Path) -> None:
        """Also where there was nothing yet of the key: neither a record nor a lease."""
        stores = [self.open_store(tmp_path) for _ in range(2)]
        for number in range(20):
            assert _count_holders(stores, make_record(f"new-{number}").key) == 1

    def test_a_lease_on_a_key_is_no_record_of_it(self, tmp_path: Path) -> None:
        """Nor is what a deletion under the lease leaves: no renewal brings the record back."""
        store, record = self.open_store(tmp_path), make_record(refresh_token=None)
        with store.refresh_lease(record.key, timeout=0):
            for _ in range(2):
                outcome = store.compare_and_swap_refresh(record.key, None, record)
                assert outcome is CompareAndSwapOutcome.MISSING
                assert store.revoke(record.key, NOW) is None
                assert store.delete(record.key) is False
                assert store.fetch(record.key) is None
                assert list(store.keys()) == []
                store.save(record)
                assert store.delete(record.key) is True

    def test_a_lease_is_free_after_an_error_in_its_block(self, tmp_path: Path) -> None:
        """Whatever the holder raises goes through."""
        store, key = self.open_store(tmp_path), make_record().key
        try:
            with store.refresh_lease(key, timeout=0):
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            assert _try_lease(store, key, 0.0) is True

    def test_a_waiter_gets_the_lease_when_it_is_free(self, tmp_path: Path) -> None:
        """Within its timeout, without being told."""
        store, key = self.open_store(tmp_path), make_record().key
        holding, result = threading.Event(), list[bool]()
        waiter = threading.Thread(target=lambda: result.append(_try_lease(store, key, PATIENCE, holding)))
        with store.refresh_lease(key, timeout=0):
            waiter.start()
            assert holding.wait(PATIENCE)
        waiter.join(PATIENCE)
        assert result == [True]

    def test_threads_in_turn_are_alone_under_the_lease(self, tmp_path: Path) -> None:
        """No two of them are ever in the block together."""
        stores = [self.open_store(tmp_path) for _ in range(2)]
        key, inside, most = make_record().key, list[int](), list[int]()

        def work(number: int) -> None:
            for _ in range(5):
                with stores[number % 2].refresh_lease(key, timeout=PATIENCE) as mine:
                    assert mine
                    inside.append(number)
                    most.append(len(inside))
                    inside.remove(number)

        _in_threads(4, work)
        assert (len(most), max(most)) == (20, 1)

    def test_a_read_does_not_wait_for_the_lease(self, tmp_path: Path) -> None:
        """Nor does a write: only renewing is exclusive."""
        store, record = self.open_store(tmp_path), make_record()
        with store.refresh_lease(record.key, timeout=0):
            _in_threads(1, lambda _: store.save(record))
            assert store.fetch(record.key) == record

    def test_a_lease_dies_with_its_holder(self, tmp_path: Path) -> None:
        """A process that is killed while it holds the lease frees it."""
        store, key = self._open_shared(tmp_path), make_record().key
        context = multiprocessing.get_context("spawn")
        held = context.Event()
        holder = context.Process(target=_hold_lease_in_child, args=(type(self), tmp_path, held), daemon=True)
        holder.start()
        assert held.wait(PATIENCE)
        assert _try_lease(store, key, 0.0) is False
        holder.kill()
        holder.join(PATIENCE)
        assert _try_lease(store, key, PATIENCE) is True

    # Helpers.

    def _open_shared(self, place: Path) -> BrokerStore:
        if not self.shared:
            raise unittest.SkipTest("this store is not shared between processes")
        return self.open_store(place)

    @staticmethod
    def _swap(store: BrokerStore, old: TokenRecord, new: TokenRecord) -> CompareAndSwapOutcome:
        return store.compare_and_swap_refresh(old.key, old.refresh_token, new)

    @staticmethod
    def _check_winner(store: BrokerStore, record: TokenRecord, winners: list[str]) -> None:
        found = store.fetch(record.key)
        assert found is not None
        assert found.refresh_token is not None
        assert [found.refresh_token.expose()] == winners


def _try_lease(store: BrokerStore, key: Any, timeout: float, about_to: threading.Event | None = None) -> bool:
    if about_to is not None:
        about_to.set()
    with store.refresh_lease(key, timeout=timeout) as is_ours:
        return is_ours


def _count_holders(stores: list[BrokerStore], key: Any) -> int:
    """Have threads ask for a lease together, and give how many of them got it."""
    holders, tried = list[int](), threading.Barrier(THREADS)

    def ask(number: int) -> None:
        with stores[number % len(stores)].refresh_lease(key, timeout=0) as is_ours:
            if is_ours:
                holders.append(number)
            tried.wait(PATIENCE)

    _in_threads(THREADS, ask)
    return len(holders)


def _in_threads(count: int, work: Callable[[int], None]) -> None:
    barrier, errors = threading.Barrier(count), list[BaseException]()

    def run(number: int) -> None:
        barrier.wait()
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001 - it is raised below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    if errors:
        raise errors[0]


def _in_processes(count: int, work: Callable[..., None], *args: Any) -> list[Any]:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(count), context.Queue()
    processes = [
        context.Process(target=work, args=(number, barrier, results, *args), daemon=True)
        for number in range(count)
    ]
    for process in processes:
        process.start()
    found = [results.get(timeout=PATIENCE) for _ in processes]
    for process in processes:
        process.join(PATIENCE)
    return found


def _swap_in_child(
    number: int, barrier: Any, results: Any, contract: type[StoreContract], place: Path
) -> None:
    store, record = contract().open_store(place), make_record()
    name = f"refresh-by-{number}"
    barrier.wait(PATIENCE)
    outcome = store.compare_and_swap_refresh(
        record.key, record.refresh_token, replace(record, refresh_token=TokenSecret(name))
    )
    results.put(name if outcome is CompareAndSwapOutcome.UPDATED else None)


def _hold_lease_in_child(contract: type[StoreContract], place: Path, held: Any) -> None:
    with contract().open_store(place).refresh_lease(make_record().key, timeout=0) as is_ours:
        if is_ours:
            held.set()
            threading.Event().wait(PATIENCE)
