"""Keys are rotated while the program runs, and no write is lost or undone by it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from oauth2broker import (
    AesGcmCipher,
    BackendError,
    BrokerStore,
    CompareAndSwapOutcome,
    ConfigError,
    FileStore,
    RecordCipher,
    RewrapReport,
    SerializationError,
    TokenRecord,
    TokenSecret,
)
from oauth2broker.stores import file as file_module
from oauth2broker.stores.disk import identify
from oauth2broker.testing.store_contract import NOW, make_record
from tests.encryption.support import NEW, OLD, OTHER, SEALED, Intruding, Shelf, file_of, records_in, sealing


class Data:
    """What stores of one kind share, whatever their cipher."""

    def __init__(self, open_store: Callable[[RecordCipher | None], BrokerStore]) -> None:
        self.open = open_store

    def opened(self, *keys: str) -> BrokerStore:
        return self.open(AesGcmCipher(list(keys)))

    def rewrap(self, *keys: str) -> RewrapReport:
        return rewrap(self.opened(*keys))


def rewrap(store: BrokerStore, *, accept_plain: bool = False) -> RewrapReport:
    assert isinstance(store, FileStore | Shelf)
    return store.rewrap(accept_plain=accept_plain)


@pytest.fixture(params=["files", "an engine"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Data:
    """A folder, or the rows of an engine."""
    if request.param == "files":
        return Data(lambda cipher: FileStore(tmp_path / "tokens", cipher=cipher))
    rows = Shelf({}, None).rows
    return Data(lambda cipher: Shelf(rows, cipher))


def save_some(store: BrokerStore, count: int = 5) -> list[TokenRecord]:
    records = [make_record(f"user-{number}") for number in range(count)]
    for record in records:
        store.save(record)
    return records


def test_the_newest_key_writes_and_all_read(data: Data) -> None:
    """What was sealed with an older key is served, renewed with the newest, and then needs no other."""
    old, rotated, new = data.opened(OLD), data.opened(NEW, OLD), data.opened(NEW)
    (record,) = save_some(old, 1)
    assert rotated.fetch(record.key) == record
    with pytest.raises(SerializationError, match=f"{record.key.digest}.*a key that the cipher does not have"):
        new.fetch(record.key)
    newer = replace(record, refresh_token=TokenSecret("refresh-1"))
    swapped = rotated.compare_and_swap_refresh(record.key, "refresh-0", newer)
    assert swapped is CompareAndSwapOutcome.UPDATED
    assert new.fetch(record.key) == newer
    with pytest.raises(SerializationError):
        old.fetch(record.key)


def test_rewrapping_seals_exactly_what_is_old_and_then_the_old_key_can_go(data: Data) -> None:
    """Records of any older key, tombstones too; a second run finds nothing to do."""
    records = [*save_some(data.opened(OLD), 3), *map(make_record, ("other", "new", "gone"))]
    data.opened(OTHER).save(records[3])
    data.opened(NEW).save(records[4])
    data.opened(OLD).save(records[5])
    records[5] = records[5].tombstone(NOW)
    assert data.opened(OLD).revoke(records[5].key, NOW) == records[5]
    report = data.rewrap(NEW, OLD, OTHER)
    assert (report.rewritten, report.current, report.errors) == (5, 1, {})
    assert [data.opened(NEW).fetch(record.key) for record in records] == records
    report = data.rewrap(NEW, OLD, OTHER)
    assert (report.rewritten, report.current, report.errors) == (0, 6, {})
    assert data.rewrap(NEW) == report


def test_rewrapping_again_writes_nothing(tmp_path: Path) -> None:
    """A file that is current is the very same file afterwards; one that is old is another."""
    store, folder = sealing(tmp_path / "tokens", OLD), tmp_path / "tokens"
    save_some(store)
    before = {path.name: identify(path.stat()) for path in folder.glob("*.json")}
    assert store.rewrap().current == 5
    assert {path.name: identify(path.stat()) for path in folder.glob("*.json")} == before
    assert sealing(folder, NEW, OLD).rewrap().rewritten == 5
    after = {path.name: identify(path.stat()) for path in folder.glob("*.json")}
    assert after.keys() == before.keys()
    assert all(after[name] != before[name] for name in after)


def test_what_cannot_be_opened_is_told_and_left_and_keeps_nothing_else_from_it(data: Data) -> None:
    """An unknown key, and a plain record: by digest, and why."""
    mine = save_some(data.opened(OLD), 3)
    lost, plain = make_record("lost"), make_record("plain")
    data.opened(OTHER).save(lost)
    data.open(None).save(plain)
    for first in (True, False):
        report = data.rewrap(NEW, OLD)
        assert (report.rewritten, report.current) == ((3, 0) if first else (0, 3))
        assert {digest: type(error) for digest, error in report.errors.items()} == {
            lost.key.digest: SerializationError,
            plain.key.digest: SerializationError,
        }
    assert data.opened(OTHER).fetch(lost.key) == lost
    assert data.open(None).fetch(plain.key) == plain
    assert [data.opened(NEW).fetch(record.key) for record in mine] == mine


def test_a_file_that_cannot_be_read_is_among_the_errors(tmp_path: Path) -> None:
    """Else the old key would be dropped that it needs."""
    folder, record = tmp_path / "tokens", make_record()
    store = sealing(folder, NEW, OLD)
    file_of(folder, record).mkdir()
    report = store.rewrap()
    assert [type(error) for error in report.errors.values()] == [BackendError]
    assert list(report.errors) == [record.key.digest]


def test_without_a_cipher_there_is_nothing_to_rewrap(data: Data) -> None:
    """A ConfigError, with records or without."""
    for _ in range(2):
        with pytest.raises(ConfigError, match="no cipher"):
            rewrap(data.open(None), accept_plain=True)
        save_some(data.open(None), 1)


def test_plain_records_are_taken_over_on_request(data: Data) -> None:
    """Both kinds of older records in one run."""
    records = [*save_some(data.open(None), 2), make_record("sealed")]
    data.opened(OLD).save(records[2])
    report = rewrap(data.opened(NEW, OLD), accept_plain=True)
    assert (report.rewritten, report.current, report.errors) == (3, 0, {})
    assert [data.opened(NEW).fetch(record.key) for record in records] == records


# Others write meanwhile.

RECORD = make_record()
RENEWED = replace(RECORD, access_token=TokenSecret("access-1"), refresh_token=TokenSecret("refresh-1"))


def _renew(store: BrokerStore) -> object:
    return store.compare_and_swap_refresh(RECORD.key, "refresh-0", RENEWED)


Intrusion = tuple[str, Callable[[BrokerStore], object], TokenRecord | None, tuple[int, int]]
INTRUSIONS: dict[str, Intrusion] = {
    "renewed with the old key": (OLD, _renew, RENEWED, (1, 0)),
    "renewed with the new key": (NEW, _renew, RENEWED, (0, 1)),
    "logged out": (OLD, lambda store: store.revoke(RECORD.key, NOW), RECORD.tombstone(NOW), (1, 0)),
    "deleted": (OLD, lambda store: store.delete(RECORD.key), None, (0, 0)),
    "written again": (OLD, lambda store: store.save(RECORD), RECORD, (1, 0)),
}


@pytest.mark.parametrize(("key", "act", "left", "counts"), INTRUSIONS.values(), ids=INTRUSIONS)
def test_what_others_write_between_reading_and_sealing_stays(
    data: Data,
    key: str,
    act: Callable[[BrokerStore], object],
    left: TokenRecord | None,
    counts: tuple[int, int],
) -> None:
    """It is not undone, and is sealed with the newest key in the same run."""
    data.opened(OLD).save(RECORD)
    other = data.opened(key, OLD if key == NEW else NEW)
    cipher = Intruding([NEW, OLD])
    cipher.act = lambda: act(other)
    report = rewrap(data.open(cipher))
    assert (report.rewritten, report.current, report.errors) == (*counts, {})
    assert data.opened(NEW).fetch(RECORD.key) == left


def test_rewrapping_runs_beside_renewals_logouts_and_deletions(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every swap finds what the last one wrote, and what is dead or gone stays so."""
    monkeypatch.setattr(file_module, "_WRITE_LOCK_SECONDS", 60.0)  # who writes on and on lets others wait
    users, turns = [make_record(f"user-{number}") for number in range(4)], 12
    dead, gone = make_record("dead"), make_record("gone")
    workers = data.opened(OLD, NEW)
    ready, done, errors = threading.Barrier(6), threading.Event(), list[BaseException]()

    def watched(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                ready.wait(30)
                work()
            except BaseException as error:
                errors.append(error)

        return run

    def renew(record: TokenRecord) -> None:
        for turn in range(turns):
            newer = replace(record, refresh_token=TokenSecret(f"refresh-{turn + 1}"))
            swapped = workers.compare_and_swap_refresh(record.key, f"refresh-{turn}", newer)
            assert swapped is CompareAndSwapOutcome.UPDATED, turn

    def end() -> None:
        for turn in range(turns):
            assert workers.delete(gone.key) or not turn
            assert workers.fetch(gone.key) is None
            workers.save(gone)
            workers.save(dead)
            workers.revoke(dead.key, NOW + timedelta(seconds=turn))
            found = workers.fetch(dead.key)
            assert found is not None
            assert found.revoked_at == NOW + timedelta(seconds=turn)
        workers.delete(gone.key)

    def rotate() -> None:
        stores = data.opened(NEW, OLD), data.opened(OLD, NEW)
        while not done.is_set():
            for store in stores:
                assert rewrap(store).errors == {}

    for record in users:
        workers.save(record)
    works: list[Callable[[], None]] = [*(lambda record=record: renew(record) for record in users), end]
    threads = [threading.Thread(target=watched(work)) for work in works]
    rotating = threading.Thread(target=watched(rotate))
    for thread in (*threads, rotating):
        thread.start()
    for thread in threads:
        thread.join(90)
    done.set()
    rotating.join(30)
    assert errors == []
    assert data.rewrap(NEW, OLD).errors == {}
    left = data.opened(NEW)
    tokens = [found.refresh_token for record in users if (found := left.fetch(record.key))]
    assert tokens == [TokenSecret(f"refresh-{turns}")] * len(users)
    assert left.fetch(gone.key) is None


def test_new_keys_reach_programs_one_after_the_other(data: Data) -> None:
    """The way of the docs for fixed keys: at each step, the programs of it and the last read each other."""
    steps = [(OLD,), (OLD, NEW), (NEW, OLD), (NEW,)]
    record = make_record()
    for number, (before, after) in enumerate(pairwise(steps)):
        if after == (NEW,):
            assert data.rewrap(*before).errors == {}
        for writer, reader in ((before, after), (after, before)):
            newest = replace(record, access_token=TokenSecret(f"{number} {writer}"))
            data.opened(*writer).save(newest)
            assert data.opened(*reader).fetch(record.key) == newest


def test_moving_between_stores(data: Data, tmp_path: Path) -> None:
    """In and out of encryption, record by record, as the docs say."""
    records = save_some(data.opened(OLD))
    plain, sealed = FileStore(tmp_path / "plain"), sealing(tmp_path / "sealed", NEW)
    for source, target in ((data.opened(OLD), plain), (plain, sealed)):
        for key in source.keys():  # noqa: SIM118 - a store is no mapping
            found = source.fetch(key)
            assert found is not None
            target.save(found)
        assert [target.fetch(record.key) for record in records] == records
    assert all(text.startswith(SEALED.encode()) for text in records_in(tmp_path / "sealed").values())
    assert not any(text.startswith(SEALED.encode()) for text in records_in(tmp_path / "plain").values())
