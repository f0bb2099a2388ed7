"""TieredStore while its back is down, under brokers of two hosts, with many records, and after a fork."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta

import pytest

from oauth2broker import (
    BackendError,
    Broker,
    MemoryStore,
    RevokedError,
    SerializationError,
    TieredStore,
)
from oauth2broker.testing import LoopbackProvider
from oauth2broker.testing.store_contract import make_record
from tests.support import USER_REQUEST, Crowd, ManualClock, log_in
from tests.tiered import KEY, NEWER, PATIENCE, RECORD, Back, Seconds

MOST_KEPT = 10_000


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> Seconds:
    """Give the clock by which ages are measured."""
    return Seconds.rule(monkeypatch)


@pytest.fixture
def back() -> Back:
    """Give a back that holds RECORD."""
    return Back.holding(RECORD)


@pytest.fixture
def store(back: Back, seconds: Seconds) -> TieredStore:
    """Give a store with the default ages (5 s and 60 s more) on that clock."""
    return TieredStore(MemoryStore(), back)


@pytest.mark.parametrize("error", [BackendError("down"), RuntimeError("a driver's")])
def test_while_the_back_is_down_what_was_read_serves_for_a_minute(
    store: TieredStore, back: Back, seconds: Seconds, error: Exception
) -> None:
    """The back is asked once a second; after 65 seconds each call is a BackendError; then all is well."""
    store.fetch(KEY)
    back.error = error
    reads = []
    for _ in range(129):
        seconds.now += 0.5
        assert store.fetch(KEY) == RECORD
        reads.append(back.reads)
    assert reads[:14] == [1] * 9 + [2, 2, 3, 3, 4]
    assert back.reads == 1 + 60
    seconds.now += 0.5
    for _ in range(2):
        with pytest.raises(BackendError):
            store.fetch(KEY)
    back.error = None
    MemoryStore.save(back, NEWER)
    assert store.fetch(KEY) == NEWER


def test_while_one_asks_a_back_that_was_down_the_others_do_not_wait(
    store: TieredStore, back: Back, seconds: Seconds
) -> None:
    """Of many threads one tries again; the rest are served from what was read, and do not ask."""
    store.fetch(KEY)
    back.error = BackendError("down")
    seconds.now += 6
    assert store.fetch(KEY) == RECORD
    seconds.now += 2
    is_asking, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        is_asking.set()
        assert go_on.wait(PATIENCE)

    back.after_read = hang
    asking = Crowd(1, lambda: store.fetch(KEY)).start()
    assert is_asking.wait(PATIENCE)
    reads = back.reads
    others = Crowd(16, lambda: store.fetch(KEY)).start().join()
    assert (others.results, others.errors, back.reads) == ([RECORD] * 16, [], reads)
    go_on.set()
    assert asking.join().results == [RECORD]


def test_when_the_back_is_up_again_ages_are_as_before(
    store: TieredStore, back: Back, seconds: Seconds
) -> None:
    """What one caller found out holds for the others at once."""
    other = make_record("other")
    store.save(other)
    store.fetch(KEY)
    store.fetch(other.key)
    back.error = BackendError("down")
    seconds.now += 6
    assert store.fetch(KEY) == RECORD
    back.error = None
    seconds.now += 1
    MemoryStore.delete(back, other.key)
    assert store.fetch(KEY) == RECORD
    assert store.fetch(other.key) is None


def test_what_was_never_read_is_a_store_error_while_the_back_is_down(store: TieredStore, back: Back) -> None:
    """There is nothing that could be served."""
    back.error = BackendError("down")
    for _ in range(2):
        with pytest.raises(BackendError):
            store.fetch(KEY)


def test_a_record_that_cannot_be_read_is_no_outage(store: TieredStore, back: Back, seconds: Seconds) -> None:
    """A SerializationError is told, not covered up by what was there before."""
    store.fetch(KEY)
    back.error = SerializationError("damaged")
    seconds.now += 6
    with pytest.raises(SerializationError):
        store.fetch(KEY)


def test_who_finds_a_damaged_record_knows_that_the_back_is_up(
    store: TieredStore, back: Back, seconds: Seconds
) -> None:
    """However often it is asked for after an outage, what is near of others gets no older than usual."""
    other = make_record("other")
    store.save(other)
    assert (store.fetch(KEY), store.fetch(other.key)) == (RECORD, other)
    back.error = BackendError("down")
    seconds.now += 6
    assert store.fetch(KEY) == RECORD
    back.error = SerializationError("damaged")
    seconds.now += 1
    with pytest.raises(SerializationError):
        store.fetch(KEY)
    back.error = None
    MemoryStore.delete(back, other.key)
    assert store.fetch(other.key) is None


def test_no_caller_is_told_what_a_foreign_back_raised(store: TieredStore, back: Back) -> None:
    """Its text may hold a secret: only its type is told."""
    back.before_write = fail_with_secret
    with pytest.raises(BackendError, match="KeyError") as failed:
        store.save(RECORD)
    assert "refresh-0" not in str(failed.value)
    assert failed.value.__context__ is None


def fail_with_secret() -> None:
    """Raise what a driver might raise."""
    raise KeyError("refresh-0")


# With brokers.


@pytest.fixture
def brokers(
    provider: LoopbackProvider, clock: ManualClock, back: Back, seconds: Seconds
) -> Iterator[list[Broker]]:
    """Give the brokers of two hosts, each with a front of its own; the user is logged in, and both know."""
    with ExitStack() as stack:
        made = [
            stack.enter_context(
                Broker(
                    provider.descriptor(),
                    "demo-client",
                    "demo-secret",
                    store=TieredStore(MemoryStore(), back),
                    clock=clock,
                )
            )
            for _ in range(2)
        ]
        log_in(made[0], provider)
        for broker in made:
            broker.refresh_access_token(USER_REQUEST)
        provider.clear()
        yield made


def test_a_hit_of_a_broker_does_not_call_the_back(
    brokers: list[Broker], back: Back, seconds: Seconds
) -> None:
    """A hundred requests, no read."""
    brokers[0].refresh_access_token(USER_REQUEST)
    reads = back.reads
    for _ in range(100):
        brokers[0].refresh_access_token(USER_REQUEST)
    assert back.reads == reads


@pytest.mark.parametrize("how", ["rejecting", "forced", "expired"])
def test_a_renewal_never_relies_on_the_front(
    brokers: list[Broker], provider: LoopbackProvider, clock: ManualClock, seconds: Seconds, how: str
) -> None:
    """Another host has renewed, and the front does not know: that is adopted, without a token call."""
    one, two = brokers
    stale = two.refresh_access_token(USER_REQUEST)
    if how == "expired":
        clock.advance(timedelta(hours=2))
    renewed = one.refresh_access_token(USER_REQUEST.force_refresh())
    assert provider.token_calls == 1
    requests = {"rejecting": USER_REQUEST.rejecting(stale), "forced": USER_REQUEST.force_refresh()}
    assert two.refresh_access_token(requests.get(how, USER_REQUEST)) == renewed
    assert (provider.token_calls, provider.reuses) == (1, 0)


def test_a_logout_elsewhere_is_seen_when_the_front_is_too_old(
    brokers: list[Broker], seconds: Seconds
) -> None:
    """For five seconds at most the other host serves the token."""
    one, two = brokers
    two.refresh_access_token(USER_REQUEST)
    one.revoke(USER_REQUEST)
    with pytest.raises(RevokedError):
        one.refresh_access_token(USER_REQUEST)
    seconds.now += 4.5
    assert two.refresh_access_token(USER_REQUEST)
    seconds.now += 0.5
    with pytest.raises(RevokedError):
        two.refresh_access_token(USER_REQUEST)


def test_a_valid_token_is_served_while_the_back_is_down_and_no_other(
    brokers: list[Broker], back: Back, provider: LoopbackProvider, clock: ManualClock, seconds: Seconds
) -> None:
    """FAULTS 9: and nothing is presented; one that has expired is a StoreError."""
    back.error = BackendError("down")
    seconds.now += 30
    assert brokers[0].refresh_access_token(USER_REQUEST)
    clock.advance(timedelta(hours=2))
    with pytest.raises(BackendError):
        brokers[0].refresh_access_token(USER_REQUEST)
    assert provider.token_calls == 0


# Bounds and forks.


def test_memory_is_bounded(back: Back, seconds: Seconds) -> None:
    """Of any number of keys no more than 10,000 records are kept near, and the latest is among them."""
    front = MemoryStore()
    store = TieredStore(front, back)
    records = [make_record(f"user-{number}") for number in range(MOST_KEPT + 50)]
    most = 0
    for record in records:
        back.save(record)
        store.fetch(record.key)
        most = max(most, len(front._records))
    assert most == MOST_KEPT
    assert len(store._read_at) == len(front._records) == 50
    reads = back.reads
    assert (store.fetch(records[-1].key), back.reads) == (records[-1], reads)


def test_just_as_many_records_as_are_kept_stay(back: Back, seconds: Seconds) -> None:
    """That one of them is read again, because it is too old, pushes no other out."""
    store = TieredStore(MemoryStore(), back)
    records = [make_record(f"user-{number}") for number in range(MOST_KEPT)]
    for record in records:
        back.save(record)
        store.fetch(record.key)
    seconds.now += 3
    store.save(records[0])
    store.fetch(records[0].key)
    seconds.now += 2
    store.fetch(records[1].key)  # too old
    reads = back.reads
    store.fetch(records[0].key)
    assert back.reads == reads


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="forking needs Linux")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_after_a_fork_is_not_stopped_by_what_its_parent_held(store: TieredStore, back: Back) -> None:
    """FAULTS 22: locks are free in it, its parent's lease is not its own, and what is near serves."""
    store.fetch(KEY)
    is_locked, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with store._lock:
            is_locked.set()
            go_on.wait(PATIENCE)

    holder = threading.Thread(target=hold)
    holder.start()
    assert is_locked.wait(PATIENCE)
    with store.refresh_lease(KEY, timeout=0):
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            reads = back.reads
            is_near = store.fetch(KEY) == RECORD and back.reads == reads
            store.save(NEWER)
            os._exit(0 if is_near and store.fetch(KEY) == NEWER else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    go_on.set()
    holder.join(PATIENCE)
    assert store.fetch(KEY) == RECORD
