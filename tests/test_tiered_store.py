"""TieredStore: what it keeps near is served without a call of the back, for a while, and never trusted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from oauth2broker import (
    BackendError,
    BrokerStore,
    CompareAndSwapOutcome,
    ConfigError,
    FileStore,
    MemoryStore,
    TieredStore,
    TokenRecord,
)
from oauth2broker.testing import StoreContract
from oauth2broker.testing.store_contract import NOW, make_record
from tests.tiered import KEY, NEWER, PATIENCE, RECORD, Back, Seconds


class TestTieredStore(StoreContract):
    """On files, with an age that a test can wait for."""

    max_age = 0.25

    def open_store(self, place: Path) -> BrokerStore:
        return TieredStore(MemoryStore(), FileStore(place / "tokens"), max_age=timedelta(seconds=0.2))


class TestTieredStoreThatKeepsNothing(StoreContract):
    """With no age at all it is the back."""

    def open_store(self, place: Path) -> BrokerStore:
        return TieredStore(MemoryStore(), FileStore(place / "tokens"), max_age=timedelta())


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


def test_what_was_read_is_served_without_a_call_until_it_is_too_old(
    store: TieredStore, back: Back, seconds: Seconds
) -> None:
    """One read per five seconds, however many ask; then what is there by then."""
    for _ in range(100):
        assert store.fetch(KEY) == RECORD
    assert back.reads == 1
    back.save(NEWER)
    seconds.now += 4.99
    assert (store.fetch(KEY), back.reads) == (RECORD, 1)
    seconds.now += 0.01
    assert (store.fetch(KEY), back.reads) == (NEWER, 2)
    assert (store.fetch(KEY), back.reads) == (NEWER, 2)


def test_the_age_counts_from_before_the_read(store: TieredStore, back: Back, seconds: Seconds) -> None:
    """A slow answer is as old as the question: what is served never lags by more than five seconds."""

    def take_three_seconds() -> None:
        seconds.now += 3

    back.after_read = take_three_seconds
    assert store.fetch(KEY) == RECORD
    seconds.now += 2
    back.save(NEWER)
    assert store.fetch(KEY) == NEWER


def test_that_there_is_nothing_is_not_kept(store: TieredStore, back: Back) -> None:
    """A login elsewhere is seen at once by who had nothing; so is a deletion here."""
    store.fetch(KEY)
    store.delete(KEY)
    assert store.fetch(KEY) is None
    assert store._read_at == {}
    back.save(RECORD)
    assert store.fetch(KEY) == RECORD


def swap(store: TieredStore) -> TokenRecord | None:
    """Renew."""
    assert store.compare_and_swap_refresh(KEY, "refresh-0", NEWER) is CompareAndSwapOutcome.UPDATED
    return NEWER


def save(store: TieredStore) -> TokenRecord | None:
    """Log in."""
    store.save(NEWER)
    return NEWER


def delete(store: TieredStore) -> TokenRecord | None:
    """Delete."""
    assert store.delete(KEY)
    return None


WRITES = [
    save,
    swap,
    delete,
    lambda store: store.revoke(KEY, NOW),
    lambda store: store.revoke(KEY, NOW, "refresh-0"),
]
Write = Callable[[TieredStore], TokenRecord | None]


@pytest.mark.parametrize("write", WRITES)
def test_own_writes_are_seen_at_once(store: TieredStore, write: Write) -> None:
    """Also when what they replace has just been read."""
    assert store.fetch(KEY) == RECORD
    written = write(store)
    assert store.fetch(KEY) == written != RECORD


@pytest.mark.parametrize("write", WRITES)
def test_a_slow_read_that_a_write_overtook_is_not_kept(store: TieredStore, back: Back, write: Write) -> None:
    """Its own caller gets what was true when it asked; who asks afterwards gets what was written."""
    has_read, go_on, results = threading.Event(), threading.Event(), list[TokenRecord | None]()

    def wait() -> None:
        has_read.set()
        assert go_on.wait(PATIENCE)

    back.after_read = wait
    reader = threading.Thread(target=lambda: results.append(store.fetch(KEY)))
    reader.start()
    assert has_read.wait(PATIENCE)
    back.after_read = bool
    written = write(store)
    go_on.set()
    reader.join(PATIENCE)
    assert results == [RECORD]
    assert store.fetch(KEY) == written


@pytest.mark.parametrize("is_told", [True, False], ids=["succeeds", "seems to fail"])
def test_what_is_read_during_a_slow_write_is_not_kept(store: TieredStore, back: Back, is_told: bool) -> None:
    """A read that came and went while the back was writing does not outlive the write."""
    assert store.fetch(KEY) == RECORD
    is_writing, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        is_writing.set()
        assert go_on.wait(PATIENCE)
        if not is_told:
            MemoryStore.save(back, NEWER)
            raise BackendError("the answer was lost")

    def write() -> None:
        with nullcontext() if is_told else pytest.raises(BackendError):
            store.save(NEWER)

    back.before_write = wait
    writer = threading.Thread(target=write)
    writer.start()
    assert is_writing.wait(PATIENCE)
    assert store.fetch(KEY) == RECORD
    go_on.set()
    writer.join(PATIENCE)
    assert store.fetch(KEY) == NEWER


def test_a_write_that_failed_leaves_nothing_near(store: TieredStore, back: Back) -> None:
    """It may have been done all the same: what is there is asked for."""

    def fail() -> None:
        MemoryStore.save(back, NEWER)
        raise BackendError("the answer was lost")

    assert store.fetch(KEY) == RECORD
    back.before_write = fail
    with pytest.raises(BackendError):
        store.save(NEWER)
    assert store.fetch(KEY) == NEWER


def test_nothing_near_is_used_under_the_lease(store: TieredStore, back: Back) -> None:
    """Who holds it reads the back each time; who did not get it, and other keys, go on with the front."""
    other = make_record("other")
    store.save(other)
    assert (store.fetch(KEY), store.fetch(other.key)) == (RECORD, other)
    with store.refresh_lease(KEY, timeout=0) as is_ours:
        assert is_ours
        with store.refresh_lease(KEY, timeout=0) as again:
            assert again is False
        back.save(NEWER)
        reads = back.reads
        assert (store.fetch(KEY), store.fetch(KEY), store.fetch(other.key)) == (NEWER, NEWER, other)
        assert back.reads == reads + 2
        back.error = BackendError("down")
        with pytest.raises(BackendError):
            store.fetch(KEY)
        back.error = None
        store.fetch(KEY)
    reads = back.reads
    assert (store.fetch(KEY), back.reads) == (NEWER, reads)


def test_who_did_not_get_the_lease_goes_on_with_what_is_near(store: TieredStore, back: Back) -> None:
    """Also when it is another host that renews."""
    assert store.fetch(KEY) == RECORD
    with back.refresh_lease(KEY, timeout=0), store.refresh_lease(KEY, timeout=0) as is_ours:
        assert not is_ours
        assert store.fetch(KEY) == RECORD
    assert (store.fetch(KEY), back.reads) == (RECORD, 1)


def test_whether_a_lease_is_still_ours_is_for_the_back_to_say(
    store: TieredStore, back: Back, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have lapsed there while this process stood still; who presents a token asks before."""
    monkeypatch.setattr(back, "is_lease_held", lambda key: key != KEY)
    with store.refresh_lease(KEY, timeout=0) as is_ours:
        assert is_ours
        assert store.is_lease_held(make_record("other").key)
        assert not store.is_lease_held(KEY)


@pytest.mark.parametrize(
    ("arguments", "changes", "message"),
    [
        ((Back, Back), {"max_age": 5}, "max_age"),
        ((Back, Back), {"max_age": timedelta(seconds=-1)}, "max_age"),
        ((Back, Back), {"stale_if_error": None}, "stale_if_error"),
        ((dict, Back), {}, "front"),
        ((Back, dict), {}, "back"),
    ],
)
def test_wrong_arguments_are_config_errors(
    arguments: tuple[Callable[[], Any], Callable[[], Any]], changes: dict[str, Any], message: str
) -> None:
    """Each is named."""
    with pytest.raises(ConfigError, match=message):
        TieredStore(arguments[0](), arguments[1](), **changes)


def test_ages_may_be_as_long_as_there_are(back: Back) -> None:
    """No sum of them overflows."""
    store = TieredStore(MemoryStore(), back, max_age=timedelta.max, stale_if_error=timedelta.max)
    assert store.fetch(KEY) == RECORD


def test_listings_are_the_backs(store: TieredStore, back: Back) -> None:
    """What is near is not all there is."""
    back.save(make_record("other"))
    assert {key.digest for key in store.keys()} == {key.digest for key in back.keys()}  # noqa: SIM118
    assert len(list(store.keys_due("provider:eu", "client-1", NOW + timedelta(days=1)))) == 2
    assert len(list(store.keys_dead("provider:eu", "client-1", NOW + timedelta(days=60)))) == 2
