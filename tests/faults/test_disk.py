"""Stores that fail between the provider's rotation and the write, and leases that cannot be had."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from oauth2broker import (
    BackendError,
    Broker,
    FileStore,
    ProviderStrategy,
    StoreKey,
    TokenRecord,
)
from oauth2broker.flows import broker as broker_module
from oauth2broker.flows.bounds import Bounds
from oauth2broker.testing import LoopbackProvider
from tests.faults.workers import (
    CLIENT,
    NOBODY,
    QUICK,
    Crew,
    Plan,
    Worker,
    age,
    ask,
    ask_service,
    can_lease,
    close_broker,
    gather,
    lift_limit,
    lift_limit_at_exit,
    log_in,
    log_out,
    secrets_in_log,
    stored,
    unsaved_tokens,
    wait_for,
)
from tests.places import Place
from tests.support import USER_REQUEST, Crowd

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the faults need POSIX files and processes")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brokers of this process try to write for a fifth of a second before a record is unsaved."""
    monkeypatch.setattr(broker_module, "Bounds", lambda: QUICK)


# --- no file may grow any more (RLIMIT_FSIZE) --------------------------------------------------------------


@pytest.fixture
def holder(provider: LoopbackProvider, broker: Broker, store: FileStore, key: StoreKey, crew: Crew) -> Worker:
    """A process whose disk is full since the provider rotated: it holds the only copy of the new token."""
    log_in(broker, provider)
    expired = age(store, key, seconds_left=-1)
    provider.clear()
    worker = crew.hire("spawn", limit_at_answer=True)  # a fork server's children run no exit functions
    answer = worker.ask()
    assert answer.error is None
    assert worker.do(unsaved_tokens) == [answer.token]
    left = stored(store, key)
    assert left.attempted_at is not None
    assert replace(left, attempted_at=None) == expired
    return worker


def test_a_record_the_disk_refuses_is_served_kept_and_written_when_there_is_room(
    provider: LoopbackProvider, store: FileStore, key: StoreKey, crew: Crew, holder: Worker
) -> None:
    """FAULTS 4: in `unsaved` with its lease; a thread writes it within seconds; then the lease is free."""
    other = crew.hire()
    assert not other.do(can_lease), "another process could present the spent token"
    tokens = holder.do(unsaved_tokens)
    assert [answer.token for answer in holder.do(ask, threads=4)] == tokens * 4
    assert provider.token_calls == 1
    assert holder.do(secrets_in_log) == []
    holder.do(lift_limit)
    wait_for(lambda: holder.do(unsaved_tokens) == [], 5.0)
    assert [stored(store, key).access_token.fingerprint()] == tokens
    assert stored(store, key).attempted_at is None
    assert other.do(can_lease)
    assert other.ask().token == tokens[0]
    assert (provider.token_calls, provider.reuses) == (1, 0)
    assert holder.do(secrets_in_log, store.fetch(key).refresh_token.expose()) == []  # type: ignore[union-attr]


def test_nobody_presents_the_spent_token_while_its_successor_is_unsaved(
    provider: LoopbackProvider, store: FileStore, key: StoreKey, crew: Crew, holder: Worker
) -> None:
    """FAULTS 4: also when no answer can arrive any more; and while the old token works, it is served."""
    other = crew.hire(ahead=36.0, bounds=Bounds(lease=1.5))
    refused = other.do(ask, threads=3)
    assert {answer.error for answer in refused} == {"TransientError"}
    forced = other.ask(USER_REQUEST.force_refresh())
    assert forced.error == "TransientError"
    current = age(store, key, seconds_left=36.0 + 30.0)
    served = other.ask()
    assert served.token == current.access_token.fingerprint()
    assert served.seconds < 1.5, "an advisory caller waited"
    assert (provider.token_calls, provider.reuses) == (1, 0)


@pytest.mark.parametrize("how", ["delete", "revoke"])
def test_a_logout_elsewhere_wins_over_an_unsaved_record(
    provider: LoopbackProvider, store: FileStore, key: StoreKey, crew: Crew, holder: Worker, how: str
) -> None:
    """FAULTS 4 and 7: the unsaved record is dropped, at once for callers, and never written."""
    crew.hire().do(log_out, how)
    expected = "AuthorizationRequiredError" if how == "delete" else "RevokedError"
    assert holder.ask().error == expected
    assert holder.do(unsaved_tokens) == []
    holder.do(lift_limit)
    left = store.fetch(key)
    assert left is None if how == "delete" else (left is not None and left.revoked_at is not None)
    assert holder.do(can_lease), "the lease was not given back"
    assert provider.token_calls == 1


def test_a_logout_elsewhere_wins_over_the_thread_that_writes(
    store: FileStore, key: StoreKey, crew: Crew, holder: Worker
) -> None:
    """FAULTS 4 and 7: with nobody asking meanwhile, the flush finds the tombstone and gives way."""
    crew.hire().do(log_out, "revoke")
    holder.do(lift_limit)
    wait_for(lambda: holder.do(unsaved_tokens) == [], 5.0)
    assert stored(store, key).revoked_at is not None


def test_closing_writes_what_is_unsaved(
    provider: LoopbackProvider, store: FileStore, key: StoreKey, holder: Worker
) -> None:
    """FAULTS 4: a last flush, before close() returns."""
    tokens = holder.do(unsaved_tokens)
    holder.do(close_broker)
    assert [stored(store, key).access_token.fingerprint()] == tokens
    assert holder.do(unsaved_tokens) == []
    assert holder.do(can_lease)


def test_the_exit_of_the_interpreter_writes_what_is_unsaved(
    provider: LoopbackProvider, store: FileStore, key: StoreKey, crew: Crew, holder: Worker
) -> None:
    """FAULTS 4: also for programs that never close their broker."""
    tokens = holder.do(unsaved_tokens)
    holder.do(lift_limit_at_exit)
    holder.leave()
    assert [stored(store, key).access_token.fingerprint()] == tokens
    assert crew.hire().ask().token == tokens[0]
    assert (provider.token_calls, provider.reuses) == (1, 0)


def test_a_holder_that_is_killed_leaves_a_grant_that_is_tried_once_more(
    provider: LoopbackProvider, store: FileStore, key: StoreKey, crew: Crew, holder: Worker
) -> None:
    """FAULTS 4 and 3: its lease frees itself, and the attempt it wrote down still counts."""
    holder.kill()
    other = crew.hire()
    assert other.do(can_lease)
    assert other.ask().error == "TransientError"
    assert provider.token_calls == 1
    assert crew.hire(ahead=36.0).ask().error == "InvalidGrantError"
    assert provider.token_calls == 2


def test_a_service_token_the_disk_refuses_is_served_and_keeps_nobody_from_another(
    provider: LoopbackProvider, broker: Broker, crew: Crew
) -> None:
    """FAULTS 4 for client_credentials: nothing in it is single-use, so it keeps no lease."""
    holder, other = crew.hire(limit_at_answer=True), crew.hire()
    token = holder.do(ask_service)[0].token
    assert token is not None
    assert holder.do(ask_service)[0].token == token
    assert other.do(ask_service)[0].token not in {None, token}
    assert provider.token_calls == 2


# --- a full file system ------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB of its own."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk")
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small disk here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True, timeout=30)


class Filling(ProviderStrategy):
    """Fills a disk to the last byte, when told or when an answer comes; then starts a crowd, if given one.

    Whoever reads a record while it is replaced keeps the old file, and with it room on the disk: so nobody
    but the leader is there before the disk is full.
    """

    def __init__(self, filler: Path) -> None:
        self.filler = filler
        self.armed = False
        self.crowd: Crowd[TokenRecord] | None = None

    def fill(self) -> None:
        """Leave no room."""
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            self._fill()

    def normalize_token_response(self, grant, payload):  # type: ignore[no-untyped-def]
        if self.armed:
            self.armed = False
            self.fill()
            if self.crowd is not None:
                self.crowd.start()
        return payload

    def _fill(self) -> None:
        with self.filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 512)


def test_a_disk_that_is_full_when_the_answer_comes_loses_nothing(
    provider: LoopbackProvider, small_disk: Path
) -> None:
    """FAULTS 4 with a real ENOSPC: served from `unsaved`, and on disk seconds after there is room."""
    store, strategy = FileStore(small_disk / "tokens"), Filling(small_disk / "filler")
    with Broker(provider.descriptor(), *CLIENT, store=store, strategy=strategy) as broker:
        key = broker.key_for(USER_REQUEST)
        log_in(broker, provider)
        age(store, key, seconds_left=-1)
        provider.clear()
        strategy.armed = True
        strategy.crowd = Crowd(7, lambda: broker.refresh_access_token(USER_REQUEST))
        record = broker.refresh_access_token(USER_REQUEST)
        strategy.crowd.join()
        assert (strategy.crowd.errors, strategy.crowd.results) == ([], [record] * 7)
        assert provider.token_calls == 1
        assert broker.unsaved == {key: record}
        assert stored(store, key).attempted_at is not None
        assert [path.name for path in store_files(small_disk / "tokens")] == [f"{key.digest}.json"]
        strategy.filler.unlink()
        wait_for(lambda: broker.unsaved == {}, 5.0)
        assert stored(FileStore(small_disk / "tokens"), key) == record


def test_a_disk_that_is_full_before_the_call_means_no_call(
    provider: LoopbackProvider, small_disk: Path
) -> None:
    """FAULTS 4: where the attempt cannot be written down, the token is not presented."""
    store, filler = FileStore(small_disk / "tokens"), Filling(small_disk / "filler")
    with Broker(provider.descriptor(), *CLIENT, store=store) as broker:
        key = broker.key_for(USER_REQUEST)
        log_in(broker, provider)
        age(store, key, seconds_left=-1)
        with store.refresh_lease(key, timeout=0):
            pass  # so that its lock file is there
        provider.clear()
        filler.fill()
        with pytest.raises(BackendError):
            broker.refresh_access_token(USER_REQUEST)
        assert provider.token_calls == 0
        filler.filler.unlink()
        broker.refresh_access_token(USER_REQUEST)


def store_files(folder: Path) -> list[Path]:
    """The record files of a folder."""
    return sorted(folder.glob("*.json"))


# --- a store that fails on demand, under threads -----------------------------------------------------------


class FailingStore(FileStore):
    """Fails on demand: when it is to write, or whatever it is to do."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.failing = ""
        self.tries = 0

    def fetch(self, key: StoreKey) -> TokenRecord | None:
        self._fail("all")
        return super().fetch(key)

    def compare_and_swap_refresh(self, key, expected_refresh, replacement):  # type: ignore[no-untyped-def]
        self._fail("writing", "all")
        return super().compare_and_swap_refresh(key, expected_refresh, replacement)

    def _fail(self, *modes: str) -> None:
        if self.failing in modes:
            self.tries += 1
            raise BackendError("the disk is on fire")


class FailAtAnswer(ProviderStrategy):
    """Lets the store fail from the moment an answer comes."""

    def __init__(self, store: FailingStore, mode: str) -> None:
        self._store = store
        self._mode = mode
        self.armed = False

    def normalize_token_response(self, grant, payload):  # type: ignore[no-untyped-def]
        if self.armed:
            self._store.failing = self._mode
        return payload


@pytest.mark.parametrize("mode", ["writing", "all"])
def test_threads_are_served_what_the_store_refused_until_it_is_back(
    provider: LoopbackProvider, folder: Path, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    """FAULTS 4: one call; served from `unsaved`; tried again; logged without secrets; flushed."""
    caplog.set_level(logging.DEBUG)
    store = FailingStore(folder)
    strategy = FailAtAnswer(store, mode)
    with Broker(provider.descriptor(), *CLIENT, store=store, strategy=strategy) as broker:
        key = broker.key_for(USER_REQUEST)
        log_in(broker, provider)
        old = age(store, key, seconds_left=-1)
        provider.clear()
        strategy.armed = True
        crowd = Crowd(16, lambda: broker.refresh_access_token(USER_REQUEST)).start().join()
        assert crowd.errors == []
        record = crowd.results[0]
        assert all(result == record for result in crowd.results)
        assert broker.unsaved == {key: record}
        assert store.tries > 2, "the write was not tried again"
        plain = FileStore(folder)
        with plain.refresh_lease(key, timeout=0.0) as is_ours:
            assert not is_ours
        assert stored(plain, key).refresh_token == old.refresh_token
        later = Crowd(16, lambda: broker.refresh_access_token(USER_REQUEST)).start().join()
        assert [result == record for result in later.results] == [True] * 16
        store.failing = ""
        wait_for(lambda: broker.unsaved == {}, 5.0)
        assert stored(plain, key) == record
        with plain.refresh_lease(key, timeout=5.0) as is_ours:  # it is let go right after
            assert is_ours
        assert (provider.token_calls, provider.reuses) == (1, 0)
        wait_for(lambda: not any(t.name == "oauth2broker-unsaved" for t in threading.enumerate()), 5.0)
    assert "unsaved" in caplog.text
    for secret in (record.access_token, record.refresh_token, old.access_token, old.refresh_token):
        assert secret is not None
        assert secret.expose() not in caplog.text


def test_forced_callers_do_not_hammer_a_store_that_is_down(provider: LoopbackProvider, folder: Path) -> None:
    """FAULTS 4: a forced renewal of an unsaved record is a StoreError, without a call; a try a second."""
    store = FailingStore(folder)
    strategy = FailAtAnswer(store, "writing")
    with Broker(provider.descriptor(), *CLIENT, store=store, strategy=strategy) as broker:
        log_in(broker, provider)
        age(store, broker.key_for(USER_REQUEST), seconds_left=-1)
        strategy.armed = True
        broker.refresh_access_token(USER_REQUEST)
        provider.clear()
        tries = store.tries
        forced = USER_REQUEST.force_refresh()
        for _ in range(3):
            crowd = Crowd(16, lambda: broker.refresh_access_token(forced)).start().join()
            assert {type(error) for error in crowd.errors} == {BackendError}
        assert store.tries - tries <= 3
        assert provider.token_calls == 0
        strategy.armed = False
        store.failing = ""
        wait_for(lambda: broker.unsaved == {}, 5.0)
        broker.refresh_access_token(forced)
        assert (provider.token_calls, provider.reuses) == (1, 0)


def test_a_second_outage_is_survived_like_the_first(provider: LoopbackProvider, folder: Path) -> None:
    """FAULTS 4: the thread that writes comes and goes with what there is to write."""
    store = FailingStore(folder)
    strategy = FailAtAnswer(store, "writing")
    with Broker(provider.descriptor(), *CLIENT, store=store, strategy=strategy) as broker:
        key = broker.key_for(USER_REQUEST)
        log_in(broker, provider)
        for _ in range(2):
            strategy.armed = True
            record = broker.refresh_access_token(USER_REQUEST.force_refresh())
            assert broker.unsaved == {key: record}
            strategy.armed = False
            store.failing = ""
            wait_for(lambda: broker.unsaved == {}, 5.0)
            assert stored(FileStore(folder), key) == record
    assert provider.reuses == 0


# --- folders that cannot be written or locked --------------------------------------------------------------


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that a process without root's privileges reaches and, if it must, owns."""
    outer = Path(tempfile.mkdtemp(prefix="oauth2broker-faults-"))
    outer.chmod(0o711)
    yield outer / "tokens"
    subprocess.run(["chmod", "-R", "u+rwx", str(outer)], check=True, timeout=30)
    shutil.rmtree(outer)


def give_away(folder: Path) -> int | None:
    """Let an ordinary user own ``folder``; give the id to become in a child, None if we are ordinary."""
    if os.geteuid() != 0:
        return None
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, NOBODY, NOBODY)
    return NOBODY


def test_a_folder_that_is_read_only_before_the_call_means_no_call(
    provider: LoopbackProvider, open_folder: Path
) -> None:
    """FAULTS 4: StoreError and no POST for who is expired; who is not, is served."""
    store = FileStore(open_folder)
    with Broker(provider.descriptor(), *CLIENT, store=store) as broker:
        key = broker.key_for(USER_REQUEST)
        login = log_in(broker, provider)
        broker.refresh_access_token(USER_REQUEST.force_refresh())  # so that all lock files are there
        store.save(replace(login, refresh_token=stored(store, key).refresh_token))
        user_id = give_away(open_folder)
        open_folder.chmod(0o500)
        provider.clear()
        crew = Crew(Plan(Place(str(open_folder)), provider.descriptor(), user_id=user_id))
        try:
            fresh = crew.hire()
            assert fresh.ask().token == login.access_token.fingerprint()
            assert fresh.ask(USER_REQUEST.force_refresh()).error == "BackendError"
            late = crew.hire(ahead=7200.0)
            assert late.ask().error == "BackendError"
            assert provider.token_calls == 0
            open_folder.chmod(0o700)
            assert late.ask().error is None
            assert provider.token_calls == 1
        finally:
            crew.dismiss()


@pytest.mark.parametrize("how", ["a file in its place", "closed"])
def test_without_leases_a_valid_token_is_served_and_a_rotating_one_is_not_presented(
    provider: LoopbackProvider, open_folder: Path, how: str
) -> None:
    """FAULTS 9: fresh and advisory callers get the record, the expired a StoreError; no POST from either."""
    store = FileStore(open_folder)
    with Broker(provider.descriptor(), *CLIENT, store=store) as broker:
        log_in(broker, provider)
        age(store, broker.key_for(USER_REQUEST), seconds_left=600.0)
        token = broker.refresh_access_token(USER_REQUEST).access_token.fingerprint()
    locks = open_folder / "locks"
    if how == "closed":
        locks.chmod(0)
    else:
        shutil.rmtree(locks)
        locks.write_text("not a folder")
    user_id = give_away(open_folder)
    provider.clear()
    crew = Crew(Plan(Place(str(open_folder)), provider.descriptor(), user_id=user_id))
    try:
        for ahead in (0.0, 570.0):  # fresh, advisory
            assert [answer.token for answer in crew.hire(ahead=ahead).do(ask, threads=3)] == [token] * 3
        expired = crew.hire(ahead=600.0)
        assert {answer.error for answer in expired.do(ask, threads=3)} == {"BackendError"}
        assert provider.token_calls == 0
        assert expired.do(ask_service)[0].token is not None, "a service token needs no protection"
        assert provider.token_calls == 1
        locks.chmod(0o700)
        if how == "a file in its place":
            locks.unlink()
        answers = gather([expired.begin(ask, threads=3)])
        assert [answer.error for answer in answers] == [None] * 3
        assert provider.reuses == 0
    finally:
        crew.dismiss()
    assert stat.S_IMODE(open_folder.stat().st_mode) == 0o700
