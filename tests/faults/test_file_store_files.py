"""FileStore to the letter: the files as they are on disk, and the files as somebody else left them."""

from __future__ import annotations

import itertools
import os
import shutil
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pytest
from filelock import FileLock

from oauth2broker import (
    BackendError,
    Broker,
    CachedTokenRequest,
    CompareAndSwapOutcome,
    ConfigError,
    FileStore,
    GrantType,
    SerializationError,
    StoreError,
    StoreKey,
    TokenRecord,
    TokenSecret,
)
from oauth2broker.stores import disk, file as file_module
from oauth2broker.testing import LoopbackProvider
from oauth2broker.testing.store_contract import make_record
from tests.faults.workers import NOBODY, PATIENCE, Crew, ask, log_in, stored
from tests.support import REDIRECT_URI, SCOPE, SERVICE_REQUEST, TENANT, USER, USER_REQUEST

P = ParamSpec("P")
R = TypeVar("R")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes and owners are POSIX")


def mode_of(path: Path) -> int:
    """The permissions of a file or folder."""
    return stat.S_IMODE(path.lstat().st_mode)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """Create files under another umask for a while."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def file_of(folder: Path, key: StoreKey) -> Path:
    """Where the record of ``key`` is."""
    return folder / f"{key.digest}.json"


def settle(path: Path) -> None:
    """Make a file look as if it was written ten seconds ago, so that it may be cached."""
    then = time.time_ns() - 10_000_000_000
    os.utime(path, ns=(then, then))


# --- FAULTS 21: files that are not what they should be -----------------------------------------------------


def _half(path: Path, folder: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _of_another_key(path: Path, folder: Path) -> None:
    path.write_text(make_record("somebody-else").to_json())


def _newer(path: Path, folder: Path) -> None:
    path.write_text(path.read_text().replace('"version":1', '"version":2'))


def _folder(path: Path, folder: Path) -> None:
    path.unlink()
    path.mkdir()


def _link_to_another_key(path: Path, folder: Path) -> None:
    path.unlink()
    other = make_record("somebody-else")
    FileStore(folder).save(other)
    path.symlink_to(file_of(folder, other.key))


def _link_to_garbage(path: Path, folder: Path) -> None:
    path.unlink()
    (folder / "garbage").write_text("garbage")
    path.symlink_to("garbage")


def _link_to_itself(path: Path, folder: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "empty": lambda path, folder: path.write_bytes(b""),
    "zeros": lambda path, folder: path.write_bytes(bytes(path.stat().st_size)),
    "half-written": _half,
    "foreign": lambda path, folder: path.write_text('{"access_token": "not ours"}'),
    "binary": lambda path, folder: path.write_bytes(os.urandom(4096)),
    "an unknown version": _newer,
    "of another key": _of_another_key,
    "a folder": _folder,
    "a link to another key's": _link_to_another_key,
    "a link to garbage": _link_to_garbage,
    "a link to itself": _link_to_itself,
}


def contents(path: Path) -> object:
    """What there is at ``path``, for comparison."""
    return (path.readlink() if path.is_symlink() else None, path.read_bytes() if path.is_file() else None)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_record_is_an_error_that_names_its_file_and_is_left_as_it_is(
    provider: LoopbackProvider,
    broker: Broker,
    store: FileStore,
    folder: Path,
    key: StoreKey,
    damage: Callable[[Path, Path], object],
) -> None:
    """FAULTS 21: never "no record"; nothing is called or written over; the others are unaffected."""
    log_in(broker, provider)
    neighbour = log_in(broker, provider, "neighbour")
    path = file_of(folder, key)
    expected = stored(store, key).refresh_token
    replacement = stored(store, key)
    damage(path, folder)
    left = contents(path)
    session = broker.start_authorization(TENANT, USER, SCOPE, REDIRECT_URI)
    callback = provider.browse(session.authorize_url)
    provider.clear()
    attempts: dict[str, Callable[[], object]] = {
        "fetch": lambda: store.fetch(key),
        "swap": lambda: store.compare_and_swap_refresh(key, expected, replacement),
        "revoke": lambda: store.revoke(key, replacement.issued_at),
        "renewal": lambda: broker.refresh_access_token(USER_REQUEST),
        "forced renewal": lambda: broker.refresh_access_token(USER_REQUEST.force_refresh()),
        "login": lambda: broker.complete_authorization(session, callback),
        "logout": lambda: broker.revoke(USER_REQUEST),
    }
    for attempt in attempts.values():
        with pytest.raises(StoreError, match=path.name) as refused:
            attempt()
        assert isinstance(refused.value, SerializationError | BackendError)
        assert not refused.value.reauthorize
        assert contents(path) == left
    assert (provider.token_calls, provider.revocations) == (0, 0)
    others = {found.digest for found in list(store.keys())}
    assert neighbour.key.digest in others
    assert key.digest not in others
    request = CachedTokenRequest(TENANT, "neighbour", SCOPE)
    assert broker.refresh_access_token(request.force_refresh()) == stored(store, neighbour.key)


def test_a_damaged_service_token_is_not_overwritten(
    provider: LoopbackProvider, broker: Broker, folder: Path
) -> None:
    """FAULTS 21: client_credentials could do without the record, but says what is wrong instead."""
    broker.client_credentials(SERVICE_REQUEST)
    path = file_of(folder, broker.key_for(SERVICE_REQUEST, GrantType.CLIENT_CREDENTIALS))
    path.write_text("{")
    provider.clear()
    for request in (SERVICE_REQUEST, SERVICE_REQUEST.force_refresh()):
        with pytest.raises(SerializationError, match=path.name):
            broker.client_credentials(request)
    assert path.read_text() == "{"
    assert provider.token_calls == 0


def test_a_damage_in_mid_renewal_is_not_overwritten(
    provider: LoopbackProvider, broker: Broker, store: FileStore, folder: Path, key: StoreKey, crew: Crew
) -> None:
    """FAULTS 21 and 4: the answer that came meanwhile is kept and served, and the damaged file is left."""
    log_in(broker, provider)
    path = file_of(folder, key)
    worker = crew.hire(pause_at="normalize")
    renewing = worker.begin(ask, USER_REQUEST.force_refresh())
    worker.await_pause()
    path.write_text("garbage")
    worker.proceed.set()
    token = renewing.result()[0].token
    assert token is not None
    assert worker.ask().token == token
    assert path.read_text() == "garbage"


def test_deleting_gets_rid_of_a_damaged_record(
    provider: LoopbackProvider, broker: Broker, store: FileStore, folder: Path, key: StoreKey
) -> None:
    """FAULTS 21: the way out for an operator, after which the user can log in again."""
    log_in(broker, provider)
    file_of(folder, key).write_text("garbage")
    assert store.delete(key) is True
    assert store.fetch(key) is None
    record = log_in(broker, provider)
    assert store.fetch(key) == record


@pytest.mark.parametrize("leftover", [b"", b'{"version":1,"fam', b"x" * 100_000])
def test_what_a_crash_left_of_a_write_is_ignored_and_cleaned_by_the_next(
    store: FileStore, folder: Path, leftover: bytes
) -> None:
    """FAULTS 21: a temporary file is no record, keeps nobody from writing, and does not stay."""
    record = make_record()
    store.save(record)
    temporary = Path(disk.new_file(str(file_of(folder, record.key))))
    temporary.write_bytes(leftover)
    assert store.fetch(record.key) == record
    assert [key.digest for key in list(store.keys())] == [record.key.digest]
    newer = replace(record, access_token=TokenSecret("newer"))
    store.save(newer)
    assert not temporary.exists()
    assert FileStore(folder).fetch(record.key) == newer
    assert sorted(path.name for path in folder.iterdir()) == [f"{record.key.digest}.json", "locks"]


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(
    store: FileStore, folder: Path, tmp_path: Path
) -> None:
    """What it leads to is nobody's record; the write fails, and says where."""
    other = tmp_path / "other"
    other.write_text("not ours")
    record = make_record()
    Path(disk.new_file(str(file_of(folder, record.key)))).symlink_to(other)
    with pytest.raises(BackendError, match=str(folder)):
        store.save(record)
    assert other.read_text() == "not ours"


def test_a_record_is_private_also_when_a_temporary_file_was_left_that_is_not(
    store: FileStore, folder: Path
) -> None:
    """DESIGN 7: 0600, whatever the mode of what lay in the way."""
    record = make_record()
    store.save(record)
    temporary = Path(disk.new_file(str(file_of(folder, record.key))))
    temporary.write_bytes(b"left")
    temporary.chmod(0o644)
    store.save(record)
    assert mode_of(file_of(folder, record.key)) == 0o600


def test_a_linked_record_is_not_replaced_by_a_renewal(
    provider: LoopbackProvider, broker: Broker, store: FileStore, folder: Path, tmp_path: Path, key: StoreKey
) -> None:
    """FAULTS 21: else the file behind the link keeps a spent refresh token for whoever shares it."""
    log_in(broker, provider)
    path, target = file_of(folder, key), tmp_path / "shared.json"
    shutil.move(path, target)
    path.symlink_to(target)
    provider.clear()
    with pytest.raises(StoreError, match=path.name):
        broker.refresh_access_token(USER_REQUEST.force_refresh())
    assert path.is_symlink()
    assert provider.token_calls == 0


def test_a_dangling_link_is_not_taken_for_no_record(
    provider: LoopbackProvider, broker: Broker, store: FileStore, folder: Path, key: StoreKey
) -> None:
    """FAULTS 21: where the disk behind a link is not mounted, the user need not log in again."""
    log_in(broker, provider)
    path = file_of(folder, key)
    path.unlink()
    path.symlink_to(folder / "not-mounted" / path.name)
    with pytest.raises(StoreError, match=path.name):
        broker.refresh_access_token(USER_REQUEST)


# --- modes and owners --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mask",
    [0o000, 0o022, 0o077, 0o377, 0o777],
    ids=oct,
)
def test_files_are_private_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    """DESIGN 7: folders 0700, files 0600; no more, and no less, or the next process could not read them."""
    folder = tmp_path / "tokens"
    record = make_record()
    with umask(mask):
        store = FileStore(folder)
        store.save(record)
        with store.refresh_lease(record.key, timeout=0) as is_ours:
            assert is_ours
    assert {mode_of(path) for path in (folder, folder / "locks")} == {0o700}
    files = [file_of(folder, record.key), *(folder / "locks").iterdir()]
    assert len(files) == 3
    assert {mode_of(path) for path in files} == {0o600}


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o710, 0o701, 0o720, 0o777], ids=oct)
def test_a_folder_that_others_can_enter_is_refused(tmp_path: Path, mode: int) -> None:
    """DESIGN 7: ConfigError that says what to do; nothing is made in it, nor is its mode changed."""
    folder = tmp_path / "tokens"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 700"):
        FileStore(folder)
    assert list(folder.iterdir()) == []
    assert mode_of(folder) == mode


def test_a_folder_of_another_owner_is_refused(tmp_path: Path) -> None:
    """DESIGN 7: its owner could read the tokens; for root, too."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    folder = tmp_path / "tokens"
    folder.mkdir(mode=0o700)
    os.chown(folder, NOBODY, NOBODY)
    with pytest.raises(ConfigError, match="another user"):
        FileStore(folder)


@pytest.mark.parametrize("path", [None, 5, b"tokens"])
def test_what_is_no_path_is_a_mistake(path: Any) -> None:
    """Such as what the environment has nothing for."""
    with pytest.raises(ConfigError, match=r"path of a folder, not (NoneType|int|bytes)"):
        FileStore(path)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    """DESIGN 7: a file in its place, or in its path, is a ConfigError."""
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "tokens"):
        with pytest.raises(ConfigError):
            FileStore(path)


# --- what a write does to the disk -------------------------------------------------------------------------


def noted(call: Callable[P, R], note: Callable[P, object]) -> Callable[P, R]:
    """Give ``call`` with ``note`` before it."""

    def both(*args: P.args, **kwargs: P.kwargs) -> R:
        note(*args, **kwargs)
        return call(*args, **kwargs)

    return both


class Disk:
    """Records, in order, what is synced and renamed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.steps: list[str] = []
        self._names = {self._identity(folder): "folder"}
        self._folder = folder
        for name, note in (("fsync", self._synced), ("replace", self._renamed), ("unlink", self._unlinked)):
            monkeypatch.setattr(os, name, noted(getattr(os, name), note))

    @staticmethod
    def _identity(path: Path | int) -> tuple[int, int]:
        found = os.stat(path)  # noqa: PTH116 - it may be a descriptor
        return found.st_dev, found.st_ino

    def _synced(self, descriptor: int) -> None:
        identity = self._identity(descriptor)
        whole = "" if identity in self._names else f" of {os.fstat(descriptor).st_size} bytes"
        self.steps.append(f"sync {self._names.get(identity, 'file')}{whole}")

    def _renamed(self, old: str, new: str) -> None:
        assert Path(old).parent == Path(new).parent == self._folder
        self.steps.append(f"rename to {Path(new).name}, {Path(old).stat().st_size} bytes")

    def _unlinked(self, path: str) -> None:
        self.steps.append(f"unlink {Path(path).name}")


def test_a_write_that_waits_for_the_disk_holds_up_only_its_sixteenth_of_the_keys(
    monkeypatch: pytest.MonkeyPatch, store: FileStore, folder: Path
) -> None:
    """Through this store and another: renewals of many keys at once do not queue for one disk flush each."""
    slow, *others = (make_record(f"user-{number}") for number in range(60))
    part = disk.part_of(slow.key.digest)
    kin = next(other for other in others if disk.part_of(other.key.digest) == part)
    parts = {disk.part_of(other.key.digest): other for other in others}
    flushes, at_disk, is_flushed = itertools.count(), threading.Event(), threading.Event()

    def flush(_: int) -> None:
        if next(flushes) == 0:
            at_disk.set()
            assert is_flushed.wait(PATIENCE)

    monkeypatch.setattr(disk, "_sync", flush)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(store.save, slow)
        assert at_disk.wait(PATIENCE)
        for other in (parts[name] for name in parts if name != part):
            pool.submit(store.save, other).result(PATIENCE)
            pool.submit(FileStore(folder).save, other).result(PATIENCE)
        second, third = pool.submit(store.save, kin), pool.submit(FileStore(folder).save, kin)
        assert not wait([first, second, third], 0.1).done
        is_flushed.set()
        for future in (first, second, third):
            future.result(PATIENCE)
    assert len(list(store.keys())) == 17


@pytest.mark.parametrize("write", ["save", "swap", "revoke"])
def test_a_write_is_on_disk_when_it_returns(
    monkeypatch: pytest.MonkeyPatch, store: FileStore, folder: Path, write: str
) -> None:
    """DESIGN 7: the whole file is synced, then renamed into place, then the folder is synced."""
    record = make_record()
    store.save(record)
    disk = Disk(monkeypatch, folder)
    match write:
        case "save":
            store.save(record)
        case "swap":
            outcome = store.compare_and_swap_refresh(record.key, record.refresh_token, record)
            assert outcome is CompareAndSwapOutcome.UPDATED
        case "revoke":
            store.revoke(record.key, record.issued_at)
    path = file_of(folder, record.key)
    size = path.stat().st_size
    assert disk.steps == [
        f"sync file of {size} bytes",
        f"rename to {path.name}, {size} bytes",
        "sync folder",
    ]


def test_a_deletion_is_on_disk_when_it_returns(
    monkeypatch: pytest.MonkeyPatch, store: FileStore, folder: Path
) -> None:
    """DESIGN 7: a logout does not come undone when the power fails."""
    record = make_record()
    store.save(record)
    disk = Disk(monkeypatch, folder)
    store.delete(record.key)
    assert disk.steps == [f"unlink {record.key.digest}.json", "sync folder"]


def test_a_sync_that_fails_is_no_success(
    monkeypatch: pytest.MonkeyPatch, store: FileStore, folder: Path
) -> None:
    """DESIGN 7: BackendError, the old record in its place."""
    record = make_record()
    store.save(record)

    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(BackendError, match="Input/output error"):
        store.save(replace(record, access_token=TokenSecret("newer")))
    assert FileStore(folder).fetch(record.key) == record


def test_no_operation_but_the_listing_looks_at_the_other_records(
    monkeypatch: pytest.MonkeyPatch, store: FileStore
) -> None:
    """DESIGN 7: the cost of reading and writing does not grow with the number of records."""
    for number in range(20):
        store.save(make_record(f"user-{number}"))

    def refuse(*_: object) -> None:
        raise AssertionError("it lists the folder")

    with monkeypatch.context() as patch:
        for name in ("scandir", "listdir", "walk"):
            patch.setattr(os, name, refuse)
        opened: list[str] = []
        patch.setattr(os, "open", noted(os.open, lambda path, *_: opened.append(str(path))))
        record = make_record("user-7")
        with store.refresh_lease(record.key, timeout=0):
            assert store.fetch(record.key) == record
            store.compare_and_swap_refresh(record.key, record.refresh_token, record)
        store.save(record)
        store.revoke(record.key, record.issued_at)
        store.delete(record.key)
    others = {make_record(f"user-{number}").key.digest for number in range(20)} - {record.key.digest}
    assert not [path for path in opened if any(digest in str(path) for digest in others)]
    assert len(list(store.keys())) == 19


# --- reading -----------------------------------------------------------------------------------------------


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one with each record that is parsed."""
    found: list[str] = []
    monkeypatch.setattr(file_module, "read_file", noted(disk.read_file, found.append))
    return found


def test_an_unchanged_file_is_not_parsed_again(store: FileStore, folder: Path, parses: list[str]) -> None:
    """DESIGN 7: once it is two seconds old; and what is given is the very same record."""
    record = make_record()
    store.save(record)
    for _ in range(3):
        store.fetch(record.key)
    assert len(parses) == 3, "a young file may change without looking different"
    settle(file_of(folder, record.key))
    first = store.fetch(record.key)
    assert all(store.fetch(record.key) is first for _ in range(100))
    assert len(parses) == 4


def test_a_change_by_another_is_seen_even_where_the_file_looks_alike(store: FileStore, folder: Path) -> None:
    """DESIGN 7: same size, same modification time: another inode, or at least another change time."""
    record = make_record(access_token="token-a")
    store.save(record)
    path = file_of(folder, record.key)
    settle(path)
    before = path.stat()
    assert store.fetch(record.key) == record
    newer = replace(record, access_token=TokenSecret("token-b"))
    FileStore(folder).save(newer)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert store.fetch(record.key) == newer
    settle(path)
    before = path.stat()
    assert store.fetch(record.key) == newer
    path.write_text(path.read_text().replace("token-b", "token-c"))  # in place: the same inode
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert store.fetch(record.key) == replace(record, access_token=TokenSecret("token-c"))


def test_the_cache_has_an_end(monkeypatch: pytest.MonkeyPatch, store: FileStore, folder: Path) -> None:
    """A process that serves ever more users does not keep a record of each."""
    monkeypatch.setattr(file_module, "_MOST_CACHED", 3)
    records = [make_record(f"user-{number}") for number in range(10)]
    for record in records:
        store.save(record)
        settle(file_of(folder, record.key))
        assert store.fetch(record.key) == record
        assert len(store._cache) <= 3
    assert [store.fetch(record.key) for record in records] == records


def test_a_file_from_the_future_is_read_each_time(store: FileStore, folder: Path, parses: list[str]) -> None:
    """Its clock was ahead, or ours was set back: a change of it may not show."""
    record = make_record()
    store.save(record)
    ahead = time.time_ns() + 3_600_000_000_000
    os.utime(file_of(folder, record.key), ns=(ahead, ahead))
    parses.clear()
    for _ in range(3):
        assert store.fetch(record.key) == record
    assert len(parses) == 3


def test_a_deletion_by_another_is_seen_at_once(store: FileStore, folder: Path) -> None:
    """DESIGN 7: also where the record was cached."""
    record = make_record()
    store.save(record)
    settle(file_of(folder, record.key))
    assert store.fetch(record.key) == record
    assert FileStore(folder).delete(record.key)
    assert store.fetch(record.key) is None


def test_inside_the_lease_nothing_is_taken_from_the_cache(
    store: FileStore, folder: Path, parses: list[str]
) -> None:
    """DESIGN 7: who is about to present a refresh token reads it from the disk."""
    record, other = make_record(), make_record("other")
    for each in (record, other):
        store.save(each)
        settle(file_of(folder, each.key))
        store.fetch(each.key)
    parses.clear()
    with store.refresh_lease(record.key, timeout=0):
        for _ in range(3):
            store.fetch(record.key)
            store.fetch(other.key)
    assert parses == [str(file_of(folder, record.key))] * 3
    store.fetch(record.key)
    assert len(parses) == 3


def test_reading_takes_no_lock(
    monkeypatch: pytest.MonkeyPatch, provider: LoopbackProvider, broker: Broker, store: FileStore
) -> None:
    """DESIGN 7: a fresh token is served, and the keys are listed, with no lock to be had anywhere."""
    record = log_in(broker, provider)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it takes a lock")

    monkeypatch.setattr("filelock.FileLock", refuse)
    monkeypatch.setattr(store, "_write_locks", None)
    assert broker.refresh_access_token(USER_REQUEST) == record
    assert list(store.keys()) == [record.key]


WRITES: dict[str, Callable[[FileStore, TokenRecord], object]] = {
    "save": lambda store, record: store.save(record),
    "swap": lambda store, record: store.compare_and_swap_refresh(record.key, record.refresh_token, record),
    "revoke": lambda store, record: store.revoke(record.key, record.issued_at),
    "delete": lambda store, record: store.delete(record.key),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_nothing_is_written_while_another_writes_there(
    monkeypatch: pytest.MonkeyPatch,
    store: FileStore,
    folder: Path,
    write: Callable[[FileStore, TokenRecord], object],
) -> None:
    """DESIGN 7: each writer reads, decides and replaces alone, be the other a process or a thread."""
    record = make_record()
    store.save(record)
    before = contents(file_of(folder, record.key))
    monkeypatch.setattr(file_module, "_WRITE_LOCK_SECONDS", 0.0)
    part = disk.part_of(record.key.digest)
    with (
        FileLock(folder / "locks" / f"writes-{part}.lock"),
        pytest.raises(BackendError, match="another process"),
    ):
        write(store, record)
    with store._write_locks[part], pytest.raises(BackendError, match="another thread"):
        write(store, record)
    assert contents(file_of(folder, record.key)) == before
    write(store, record)


def test_a_relative_path_stays_where_it_was_when_the_process_moves(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    """A program that changes its directory, as a daemon does, finds its tokens where it kept them."""
    monkeypatch.chdir(tmp_path)
    store, record = FileStore(folder.name), make_record()
    monkeypatch.chdir("/")
    store.save(record)
    assert FileStore(folder).fetch(record.key) == record
    assert store.path == str(folder)


def test_lock_files_stay(store: FileStore, folder: Path) -> None:
    """DESIGN 7: an unlinked lock file lets two processes hold "the" lock; so each keeps its inode."""
    record = make_record()

    def use() -> dict[str, int]:
        store.save(record)
        with store.refresh_lease(record.key, timeout=0):
            store.save(record)
        store.delete(record.key)
        return {path.name: path.stat().st_ino for path in (folder / "locks").iterdir()}

    first = use()
    assert len(first) == 2
    assert use() == first


def test_a_process_that_only_reads_loads_neither_filelock_nor_requests(
    provider: LoopbackProvider, broker: Broker, folder: Path
) -> None:
    """DESIGN 5 and 7: a start that finds its token in the store is quick."""
    log_in(broker, provider)
    script = textwrap.dedent("""
        import sys
        from oauth2broker import Broker, CachedTokenRequest, FileStore, GrantType, ProviderDescriptor
        descriptor = ProviderDescriptor(
            id="loopback",
            token_endpoint="https://provider.example.com/token",
            grants={GrantType.REFRESH_TOKEN},
        )
        with Broker(descriptor, "demo-client", "demo-secret", store=FileStore(sys.argv[1])) as broker:
            request = CachedTokenRequest(*sys.argv[2:])
            print(broker.refresh_access_token(request).access_token.fingerprint())
        print(*({"filelock", "requests", "urllib3", "oauthlib"} & sys.modules.keys()))
    """)
    command = [sys.executable, "-c", script, str(folder), TENANT, USER, SCOPE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    token = broker.refresh_access_token(USER_REQUEST).access_token.fingerprint()
    assert done.stdout.split("\n") == [token, "", ""]


def test_records_are_named_by_digest_and_hold_what_was_saved(store: FileStore, folder: Path) -> None:
    """DESIGN 7: one JSON file per record, that any program can read back."""
    record = make_record()
    store.save(record)
    assert TokenRecord.from_json(file_of(folder, record.key).read_bytes()) == record


def test_a_record_of_another_key_is_refused_every_time(store: FileStore, folder: Path) -> None:
    """FAULTS 21 and 28: nobody ever gets another principal's token, also not from the cache."""
    alice, bob = make_record("alice"), make_record("bob")
    store.save(alice)
    file = file_of(folder, bob.key)
    file.write_bytes(file_of(folder, alice.key).read_bytes())
    os.utime(file, (1.0, 1.0))
    for _ in range(3):
        with pytest.raises(SerializationError, match=file.name):
            store.fetch(bob.key)
    assert list(store.keys()) == [alice.key]


def test_a_folder_that_is_gone_is_not_made_again_for_everybody(store: FileStore, folder: Path) -> None:
    """A write then fails; it does not leave tokens in a folder that others can enter."""
    shutil.rmtree(folder)
    with umask(0o022), pytest.raises(BackendError):
        store.save(make_record())
    assert not folder.exists()
