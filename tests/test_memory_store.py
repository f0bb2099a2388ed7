"""MemoryStore keeps the contract of a store, among threads as alone."""

import contextlib
import hmac
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from typing import Any

import pytest

from oauth2broker import (
    ANY,
    BrokerStore,
    CompareAndSwapOutcome,
    ConfigError,
    MemoryStore,
    StoreKey,
    TokenFamily,
    TokenRecord,
    TokenSecret,
)
from tests.support import Crowd

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
THREADS = 16
PATIENCE = 30.0  # seconds; far more than any wait here takes

UPDATED = CompareAndSwapOutcome.UPDATED
MISMATCH = CompareAndSwapOutcome.REFRESH_MISMATCH
MISSING = CompareAndSwapOutcome.MISSING


def make(principal: str = "user-1", *, refresh: str | None = "refresh-1", **changes: Any) -> TokenRecord:
    values: dict[str, Any] = {
        "family": TokenFamily("tenant-acme", principal, "demo-provider", "demo-client"),
        "scope": "openid profile",
        "access_token": "access-1",
        "refresh_token": refresh,
        "issued_at": NOW,
        "expires_at": LATER,
    }
    return TokenRecord(**{**values, **changes})


KEY = make().key


@pytest.fixture
def store() -> MemoryStore:
    """An empty store."""
    return MemoryStore()


# Saving and fetching


def test_a_memory_store_is_a_store(store: MemoryStore) -> None:
    """It can be passed wherever a BrokerStore is asked for, and is true though empty."""
    assert isinstance(store, BrokerStore)
    assert store


def test_an_unknown_key_has_no_record(store: MemoryStore) -> None:
    """None stands for nothing stored, before and beside any record."""
    assert store.fetch(KEY) is None
    store.save(make())
    assert store.fetch(make("user-2").key) is None


def test_what_was_saved_is_fetched_whole(store: MemoryStore) -> None:
    """Every field comes back; the last save wins."""
    first, second = make(extra={"a": [1]}, failures=2), make(refresh="refresh-2")
    store.save(first)
    assert store.fetch(KEY) == first
    store.save(second)
    assert store.fetch(KEY) == second


def test_a_key_made_elsewhere_finds_the_record(store: MemoryStore) -> None:
    """Keys are values: an equal one is as good."""
    store.save(make())
    twin = StoreKey(KEY.family, KEY.scope_fingerprint, KEY.resource, KEY.grant)
    assert twin is not KEY
    assert store.fetch(twin) == make()


def test_records_that_differ_in_any_part_of_the_key_lie_side_by_side(store: MemoryStore) -> None:
    """Principal, scope, resource and grant each make another record."""
    records = [
        make(),
        make("user-2"),
        make(scope="openid"),
        make(resource="https://api.example.com/"),
        make(grant="client_credentials"),
    ]
    for record in records:
        store.save(record)
    assert [store.fetch(record.key) for record in records] == records


def test_a_save_replaces_a_tombstone(store: MemoryStore) -> None:
    """A new consent brings a dead grant back."""
    store.save(make())
    store.revoke(KEY, NOW)
    store.save(make(refresh="refresh-2"))
    assert store.fetch(KEY) == make(refresh="refresh-2")


def test_stores_do_not_share_records() -> None:
    """Each has a memory of its own."""
    one, other = MemoryStore(), MemoryStore()
    one.save(make())
    assert other.fetch(KEY) is None


# Compare-and-swap


@pytest.mark.parametrize("expected", ["refresh-1", TokenSecret("refresh-1")])
def test_a_swap_that_names_the_stored_refresh_token_is_made(
    store: MemoryStore, expected: str | TokenSecret
) -> None:
    """A plain string does where a secret does."""
    store.save(make())
    assert store.compare_and_swap_refresh(KEY, expected, make(refresh="refresh-2")) is UPDATED
    assert store.fetch(KEY) == make(refresh="refresh-2")


@pytest.mark.parametrize("expected", ["refresh-0", "", "REFRESH-1", None])
def test_a_swap_that_names_another_refresh_token_changes_nothing(
    store: MemoryStore, expected: str | None
) -> None:
    """Neither another text nor "no refresh token" matches the one that is stored."""
    store.save(make())
    assert store.compare_and_swap_refresh(KEY, expected, make(refresh="refresh-2")) is MISMATCH
    assert store.fetch(KEY) == make()


def test_a_swap_may_expect_that_no_refresh_token_is_stored(store: MemoryStore) -> None:
    """None matches exactly a record without one."""
    store.save(make(refresh=None))
    assert store.compare_and_swap_refresh(KEY, "refresh-1", make()) is MISMATCH
    assert store.compare_and_swap_refresh(KEY, None, make()) is UPDATED
    assert store.fetch(KEY) == make()


@pytest.mark.parametrize("expected", ["refresh-1", None, ""])
def test_a_swap_on_a_tombstone_is_a_mismatch(store: MemoryStore, expected: str | None) -> None:
    """Whatever was expected: a refresh that was under way does not undo a revocation."""
    store.save(make())
    tombstone = store.revoke(KEY, NOW)
    assert store.compare_and_swap_refresh(KEY, expected, make(refresh="refresh-2")) is MISMATCH
    assert store.fetch(KEY) == tombstone


def test_a_swap_where_nothing_is_stored_is_missing(store: MemoryStore) -> None:
    """A record that was deleted meanwhile does not come back."""
    assert store.compare_and_swap_refresh(KEY, "refresh-1", make()) is MISSING
    assert store.fetch(KEY) is None
    assert list(store.keys()) == []


def test_a_swap_to_another_key_is_refused(store: MemoryStore) -> None:
    """A record is never put under a key that is not its own; neither record changes."""
    store.save(make())
    store.save(make("user-2"))
    with pytest.raises(ConfigError, match="another key"):
        store.compare_and_swap_refresh(KEY, "refresh-1", make("user-2", refresh="refresh-2"))
    assert store.fetch(KEY) == make()
    assert store.fetch(make("user-2").key) == make("user-2")


def test_exactly_one_of_many_swaps_wins(store: MemoryStore) -> None:
    """16 threads expect the same refresh token: one is told that it won, and its record is what is stored."""
    store.save(make())
    numbers = count()

    def swap() -> tuple[CompareAndSwapOutcome, TokenRecord]:
        replacement = make(refresh=f"successor-{next(numbers)}")
        return store.compare_and_swap_refresh(KEY, "refresh-1", replacement), replacement

    crowd = Crowd(THREADS, swap).start().join()
    assert crowd.errors == []
    assert Counter(outcome for outcome, _ in crowd.results) == {UPDATED: 1, MISMATCH: THREADS - 1}
    winner = next(replacement for outcome, replacement in crowd.results if outcome is UPDATED)
    assert store.fetch(KEY) == winner


def meet_while_comparing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have two threads that compare refresh tokens at the same time wait for each other, if they can."""
    meeting = threading.Barrier(2)
    compare = hmac.compare_digest

    def slow(one: bytes, other: bytes) -> bool:
        equal = compare(one, other)
        with contextlib.suppress(threading.BrokenBarrierError):
            meeting.wait(0.2)
        return equal

    monkeypatch.setattr(hmac, "compare_digest", slow)


def test_comparing_and_swapping_are_one_step(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads that would both find the expected token, were they in there together, do not meet."""
    store.save(make())
    meet_while_comparing(monkeypatch)
    swap = partial(store.compare_and_swap_refresh, KEY, "refresh-1", make(refresh="refresh-2"))
    assert Counter(Crowd(2, swap).start().join().results) == {UPDATED: 1, MISMATCH: 1}


def test_comparing_and_revoking_are_one_step(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A revocation never buries the record that a swap has just put there."""
    store.save(make())
    meet_while_comparing(monkeypatch)
    turns = iter([True, False])
    swapped: list[CompareAndSwapOutcome] = []

    def race() -> None:
        if next(turns):
            store.revoke(KEY, NOW, "refresh-1")
        else:
            swapped.append(store.compare_and_swap_refresh(KEY, "refresh-1", make(refresh="refresh-2")))

    assert Crowd(2, race).start().join().errors == []
    assert (swapped, store.fetch(KEY)) in [
        ([UPDATED], make(refresh="refresh-2")),
        ([MISMATCH], make().tombstone(NOW)),
    ]


def test_no_swap_of_many_is_lost(store: MemoryStore) -> None:
    """Threads that read and swap until they win count up without a gap: read-modify-write is atomic."""
    store.save(make(refresh="0"))

    def count_up() -> None:
        for _ in range(50):
            while True:
                current = store.fetch(KEY)
                assert current is not None
                assert current.refresh_token is not None
                number = current.refresh_token.expose()
                if store.compare_and_swap_refresh(KEY, number, make(refresh=str(int(number) + 1))) is UPDATED:
                    break

    crowd = Crowd(THREADS, count_up).start().join()
    assert crowd.errors == []
    assert store.fetch(KEY) == make(refresh=str(50 * THREADS))


# Revoking and deleting


@pytest.mark.parametrize("expected", [ANY, "refresh-1", TokenSecret("refresh-1")])
def test_revoking_leaves_a_tombstone(store: MemoryStore, expected: Any) -> None:
    """Unconditionally, or when the record holds the refresh token that was named."""
    store.save(make())
    tombstone = store.revoke(KEY, NOW, expected)
    assert tombstone == make().tombstone(NOW)
    assert store.fetch(KEY) == tombstone


@pytest.mark.parametrize("expected", ["refresh-0", None])
def test_a_conditional_revocation_spares_another_refresh_token(
    store: MemoryStore, expected: str | None
) -> None:
    """A late invalid_grant for a spent token does not kill its successor; the live record is given."""
    store.save(make())
    assert store.revoke(KEY, NOW, expected) == make()
    assert store.fetch(KEY) == make()


def test_a_revocation_may_expect_that_no_refresh_token_is_stored(store: MemoryStore) -> None:
    """None is an expectation of its own and not the same as any."""
    store.save(make(refresh=None))
    assert store.revoke(KEY, NOW, None) == make(refresh=None).tombstone(NOW)


def test_revoking_nothing_gives_none_and_stores_nothing(store: MemoryStore) -> None:
    """There is no tombstone for what never was."""
    assert store.revoke(KEY, NOW) is None
    assert store.revoke(KEY, NOW, "refresh-1") is None
    assert list(store.keys()) == []


def test_revoking_twice_keeps_the_first_tombstone(store: MemoryStore) -> None:
    """The instant of the revocation does not move."""
    store.save(make())
    first = store.revoke(KEY, NOW)
    assert store.revoke(KEY, LATER) == first
    assert store.revoke(KEY, LATER, None) == first
    assert store.fetch(KEY) == first


def test_a_revocation_and_a_swap_that_race_never_leave_a_live_record(store: MemoryStore) -> None:
    """Logout against refresh: whichever comes first, the grant is dead afterwards."""
    for _ in range(50):
        store.save(make())
        turns = iter([True, False])

        def race(turns: Any = turns) -> None:
            if next(turns):
                store.revoke(KEY, NOW)
            else:
                store.compare_and_swap_refresh(KEY, "refresh-1", make(refresh="refresh-2"))

        assert Crowd(2, race).start().join().errors == []
        left = store.fetch(KEY)
        assert left is not None
        assert left.revoked_at == NOW


def test_deleting_says_whether_there_was_a_record(store: MemoryStore) -> None:
    """Live or dead, it is gone afterwards; others stay."""
    store.save(make())
    store.save(make("user-2"))
    assert store.delete(KEY) is True
    assert store.fetch(KEY) is None
    assert store.delete(KEY) is False
    store.revoke(make("user-2").key, NOW)
    assert store.delete(make("user-2").key) is True
    assert list(store.keys()) == []


def test_exactly_one_of_many_deletions_is_told_that_it_deleted(store: MemoryStore) -> None:
    """Deleting is atomic."""
    store.save(make())
    crowd = Crowd(THREADS, lambda: store.delete(KEY)).start().join()
    assert Counter(crowd.results) == {True: 1, False: THREADS - 1}


# Keys


def test_keys_are_those_of_all_records(store: MemoryStore) -> None:
    """Tombstones included, each once."""
    records = [make(f"user-{number}") for number in range(5)]
    for record in records:
        store.save(record)
        store.save(record)
    store.revoke(records[0].key, NOW)
    store.delete(records[1].key)
    keys = list(store.keys())
    assert len(keys) == 4
    assert set(keys) == {record.key for record in records} - {records[1].key}
    assert {key.digest for key in keys} == {key.digest for key in set(keys)}


def test_keys_may_be_iterated_while_the_store_changes(store: MemoryStore) -> None:
    """A cleaner deletes what it walks over."""
    for number in range(20):
        store.save(make(f"user-{number}"))
    walk = store.keys()
    for key in walk:
        store.delete(key)
        store.save(make("newcomer"))
    assert {key.family.principal for key in list(store.keys())} == {"newcomer"}


# The lease


def held_in_another_thread(store: MemoryStore, key: StoreKey, timeout: float = 0.0) -> bool:
    """Say whether another thread gets the lease of ``key``; it lets go at once."""

    def take() -> bool:
        with store.refresh_lease(key, timeout=timeout) as ours:
            return ours

    (result,) = Crowd(1, take).start().join().results
    return result


def test_a_lease_excludes_the_threads_that_do_not_wait(store: MemoryStore) -> None:
    """Timeout 0 gives False at once while it is held, and True when it is free again."""
    with store.refresh_lease(KEY, timeout=0) as ours:
        assert ours is True
        assert held_in_another_thread(store, KEY) is False
    assert held_in_another_thread(store, KEY) is True


def test_who_was_refused_a_lease_does_not_free_it(store: MemoryStore) -> None:
    """Leaving the context of a False takes nothing from the holder."""
    with store.refresh_lease(KEY, timeout=0):
        assert held_in_another_thread(store, KEY) is False
        assert held_in_another_thread(store, KEY) is False


def test_who_was_refused_a_lease_may_go_after_its_holder(store: MemoryStore) -> None:
    """There is nothing left then to let go, and the lease is free."""
    with contextlib.ExitStack() as refused:
        with store.refresh_lease(KEY, timeout=0):
            assert not refused.enter_context(store.refresh_lease(KEY, timeout=0))
    assert held_in_another_thread(store, KEY) is True


def test_a_lease_is_not_reentrant(store: MemoryStore) -> None:
    """Not even its holder gets it twice: another broker in the same thread is another renewal."""
    with store.refresh_lease(KEY, timeout=0), store.refresh_lease(KEY, timeout=0) as again:
        assert again is False
    assert held_in_another_thread(store, KEY) is True


def test_leases_of_different_keys_do_not_meet(store: MemoryStore) -> None:
    """One slow provider holds up nobody else's renewal."""
    with store.refresh_lease(KEY, timeout=0):
        assert held_in_another_thread(store, make("user-2").key) is True


def test_a_lease_keeps_nobody_from_reading_or_writing(store: MemoryStore) -> None:
    """It is the right to renew, not a lock on the record."""

    def use() -> TokenRecord | None:
        store.save(make())
        store.revoke(KEY, NOW)
        return store.fetch(KEY)

    with store.refresh_lease(KEY, timeout=0):
        crowd = Crowd(1, use).start().join()
    assert crowd.results == [make().tombstone(NOW)]


def test_a_waiter_gets_the_lease_when_it_is_let_go(store: MemoryStore) -> None:
    """Not a moment before, and then at once: it does not sleep through its whole timeout."""
    waiting, freed = threading.Event(), threading.Event()

    def wait_for_it() -> tuple[bool, bool]:
        waiting.set()
        with store.refresh_lease(KEY, timeout=PATIENCE) as ours:
            return ours, freed.is_set()

    with store.refresh_lease(KEY, timeout=0):
        crowd = Crowd(1, wait_for_it).start()
        assert waiting.wait(PATIENCE)
        assert crowd.results == []
        freed.set()
    since = time.monotonic()
    assert crowd.join().results == [(True, True)]
    assert time.monotonic() - since < PATIENCE / 2


def test_a_waiter_gives_up_when_its_time_is_over(store: MemoryStore) -> None:
    """The wait is bounded, and whoever gave up has not joined a queue."""
    with store.refresh_lease(KEY, timeout=0):
        assert held_in_another_thread(store, KEY, timeout=0.05) is False
    with store.refresh_lease(KEY, timeout=0) as ours:
        assert ours is True


def test_one_thread_at_a_time_holds_the_lease(store: MemoryStore) -> None:
    """16 threads that all wait are inside one after the other, and all of them get in."""
    inside: list[int] = []
    crowded: list[int] = []

    def work() -> bool:
        with store.refresh_lease(KEY, timeout=PATIENCE) as ours:
            inside.append(1)
            for _ in range(200):
                crowded.append(len(inside))
            inside.pop()
            return ours

    crowd = Crowd(THREADS, work).start().join()
    assert crowd.results == [True] * THREADS
    assert set(crowded) == {1}


def test_exactly_one_of_many_that_do_not_wait_gets_the_lease(store: MemoryStore) -> None:
    """All 16 ask before the holder lets go."""
    all_asked = threading.Barrier(THREADS)

    def ask() -> bool:
        with store.refresh_lease(KEY, timeout=0) as ours:
            all_asked.wait(PATIENCE)
            return ours

    crowd = Crowd(THREADS, ask).start().join()
    assert crowd.errors == []
    assert Counter(crowd.results) == {True: 1, False: THREADS - 1}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_lease_is_let_go_when_its_body_raises(store: MemoryStore, error: type[BaseException]) -> None:
    """Whatever the error, it comes through unchanged and the lease is free."""
    raised = error("failed")
    with pytest.raises(error) as caught, store.refresh_lease(KEY, timeout=0):
        raise raised
    assert caught.value is raised
    assert held_in_another_thread(store, KEY) is True


def test_the_lease_of_a_thread_that_died_is_free(store: MemoryStore) -> None:
    """A holder that ends with an error, unheard by anybody, leaves no lease behind."""

    def die() -> None:
        with store.refresh_lease(KEY, timeout=0):
            raise SystemExit

    assert len(Crowd(1, die).start().join().errors) == 1
    assert held_in_another_thread(store, KEY) is True


def test_leases_leave_nothing_behind(store: MemoryStore) -> None:
    """Memory does not grow with the number of keys ever renewed."""
    keys = [make(f"user-{number}").key for number in range(100)]
    for key in keys:
        with store.refresh_lease(key, timeout=0), store.refresh_lease(key, timeout=0):
            pass
    assert len(store._leased) == 0
    assert len(store._records) == 0
    assert list(store.keys()) == []


def test_two_stores_have_leases_of_their_own() -> None:
    """Only brokers that share a store exclude each other."""
    one, other = MemoryStore(), MemoryStore()
    with one.refresh_lease(KEY, timeout=0), other.refresh_lease(KEY, timeout=0) as ours:
        assert ours is True


FORK = """
import os, sys, threading, warnings
from tests.test_memory_store import KEY, make
from oauth2broker import MemoryStore

warnings.filterwarnings("ignore", ".*multi-threaded", DeprecationWarning)  # forking is what we test
store = MemoryStore()
held, release = threading.Event(), threading.Event()

def hold_lease():
    with store.refresh_lease(KEY, timeout=0):
        held.set()
        release.wait(30)

def hold_lock():
    with store._lock:
        held.set()
        release.wait(30)

holder = threading.Thread(target={"lease": hold_lease, "lock": hold_lock}[sys.argv[1]], daemon=True)
holder.start()
held.wait(30)
child = os.fork()
if child == 0:
    writer = threading.Thread(target=store.save, args=(make(),), daemon=True)
    writer.start()
    writer.join(5)
    with store.refresh_lease(KEY, timeout=0) as ours:
        os._exit(0 if ours and not writer.is_alive() else 1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
release.set()
holder.join()
sys.exit(status)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("what", ["lease", "lock"])
def test_a_child_after_fork_inherits_no_lock_and_no_lease(what: str) -> None:
    """Only the forking thread lives on: what another thread held would be held for ever (FAULTS 22)."""
    ran = subprocess.run(
        [sys.executable, "-c", FORK, what], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
