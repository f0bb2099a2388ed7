"""Budgets and pauses that the processes of one host share: real processes, files that are damaged, disks."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from oauth2broker import (
    Allow,
    Broker,
    CachedTokenRequest,
    CoolDown,
    Delay,
    FileStore,
    FolderTokenBucket,
    ProviderDescriptor,
    RetryDirective,
    TransientError,
)
from oauth2broker.testing import Fault, LoopbackProvider
from tests.support import SERVICE_REQUEST, TENANT, Crowd, ManualClock, log_in
from tests.test_budgets import NOW, SECOND, call, seconds_of

HOUR = timedelta(hours=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def state(folder: Path) -> Path:
    """Where the budgets are, once there are any."""
    return folder / "budgets"


def files(state: Path) -> list[Path]:
    return sorted(state.glob("*.json"))


# Several processes.


def spend(folder: Path, barrier: Any, tries: int, answers: Any) -> None:
    """Ask so often, not counting answers that say that the lock is busy; tell how often it was allowed."""
    policy = FolderTokenBucket(folder, 100, HOUR)
    barrier.wait()
    allowed = asked = 0
    while asked < tries:
        decision = policy.evaluate(call())
        allowed += isinstance(decision, Allow)
        asked += isinstance(decision, Allow) or "counted" not in decision.directive.reason  # type: ignore[attr-defined]
    answers.put(allowed)


def test_processes_together_are_allowed_exactly_what_is_there(folder: Path) -> None:
    """4 processes ask 240 times for 100 calls."""
    context = multiprocessing.get_context("spawn")
    answers, barrier = context.Queue(), context.Barrier(4)
    children = [context.Process(target=spend, args=[folder, barrier, 60, answers]) for _ in range(4)]
    for child in children:
        child.start()
    try:
        allowed = [answers.get(timeout=60) for _ in children]
    finally:
        for child in children:
            child.kill()
            child.join()
    assert sum(allowed) == 100


def test_policies_on_one_folder_share_a_bucket_and_those_of_other_numbers_do_not(folder: Path) -> None:
    """Given the store or its path; by tenant, provider, calls, time and burst."""
    first = FolderTokenBucket(FileStore(folder), 2, HOUR)
    second = FolderTokenBucket(str(folder), 2, HOUR)
    assert [seconds_of(policy.evaluate(call())) for policy in (first, second, first)] == [None, None, 1800.0]
    assert isinstance(second.evaluate(call("bolt")), Allow)
    assert isinstance(second.evaluate(call("acme", "other")), Allow)
    assert isinstance(FolderTokenBucket(folder, 3, HOUR, burst=2).evaluate(call()), Allow)
    assert isinstance(FolderTokenBucket(folder, 2, HOUR, burst=1).evaluate(call()), Allow)
    assert isinstance(second.evaluate(call(at=NOW + HOUR / 2)), Allow)
    assert isinstance(first.evaluate(call(at=NOW + HOUR / 2)), Delay)


def test_threads_queue_in_the_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """30 threads, 10 calls: with time enough each gets a decision about the budget, none of a busy lock."""
    monkeypatch.setattr("oauth2broker.ext._shared_state._LONGEST_WAIT", 30.0)
    policy = FolderTokenBucket(folder, 10, HOUR)
    crowd = Crowd(30, lambda: seconds_of(policy.evaluate(call()))).start().join()
    assert crowd.errors == []
    assert (crowd.results.count(None), crowd.results.count(360.0)) == (10, 20)


HOLDER = textwrap.dedent("""
    import sys, time
    from oauth2broker.ext._shared_state import SharedTimes

    def hold(until):
        print("held", flush=True)
        time.sleep(600)

    SharedTimes(sys.argv[1]).update("00000000.json", 0, hold)
""")


@contextmanager
def holder_of_the_lock(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that sits on the lock until it is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "held\n"
            yield child
        finally:
            child.kill()


def test_a_lock_that_is_held_delays_a_little_and_is_free_when_its_holder_is_killed(folder: Path) -> None:
    """kill -9; what was counted before still counts. A pause is known without the lock."""
    policy = FolderTokenBucket(folder, 2, HOUR)
    pause = CoolDown(shared=folder)
    policy.evaluate(call())
    pause.hold_back(call(), RetryDirective(9))
    with holder_of_the_lock(folder) as child:
        began = time.monotonic()
        assert seconds_of(policy.evaluate(call())) == 0.1
        assert time.monotonic() - began < 5
        assert seconds_of(CoolDown(shared=folder).evaluate(call())) == 9.0
        child.send_signal(signal.SIGKILL)
        child.wait(30)
        assert isinstance(policy.evaluate(call()), Allow)
        assert seconds_of(policy.evaluate(call())) == 1800.0


def meet_a_429(descriptor: ProviderDescriptor, folder: Path, outcome: Any) -> None:
    """One process: its own broker, clock and policy on the shared folder."""
    with Broker(
        descriptor,
        "demo-client",
        "demo-secret",
        store=FileStore(folder),
        rate_limit=CoolDown(shared=folder),
        clock=ManualClock(),
    ) as broker:
        try:
            broker.client_credentials(SERVICE_REQUEST)
        except TransientError as error:
            outcome.put(error.status)


def test_a_pause_that_one_process_was_told_of_holds_in_others(
    provider: LoopbackProvider, clock: ManualClock, folder: Path
) -> None:
    """A 429 in another process; here not one call for another tenant, until the time is over."""
    provider.inject(Fault.answer(429, headers={"Retry-After": "30"}))
    context = multiprocessing.get_context("spawn")
    outcome = context.Queue()
    child = context.Process(target=meet_a_429, args=[provider.descriptor(), folder, outcome])
    child.start()
    try:
        assert outcome.get(timeout=60) == 429
    finally:
        child.kill()
        child.join()
    provider.clear()
    policy = CoolDown(FolderTokenBucket(folder, 1, HOUR), shared=folder)
    request = CachedTokenRequest("tenant-b", "svc", "a.read")
    with Broker(
        provider.descriptor(), "demo-client", "demo-secret", rate_limit=policy, clock=clock
    ) as broker:
        with pytest.raises(TransientError) as caught:
            broker.client_credentials(request)
        assert (caught.value.retry_after, provider.token_calls) == (30.0, 0)
        clock.advance(30)
        broker.client_credentials(request)
    assert provider.token_calls == 1


# What is in the folder.


def test_the_store_does_not_notice_the_budgets_and_they_name_nobody(
    provider: LoopbackProvider, clock: ManualClock, folder: Path, state: Path
) -> None:
    """keys() lists the records; the files are their owner's, and neither name nor token is in them."""
    store = FileStore(folder)
    policy = CoolDown(FolderTokenBucket(store, 5, HOUR), shared=store)
    with Broker(
        provider.descriptor(), "demo-client", "demo-secret", store=store, rate_limit=policy, clock=clock
    ) as broker:
        record = log_in(broker, provider)
    policy.hold_back(call(at=clock()), RetryDirective(9))
    assert list(store.keys()) == [record.key]
    assert store.path == str(folder)
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    found = list(state.iterdir())
    assert len(files(state)) == 2
    for file in found:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        text = file.name + file.read_text("ascii")
        for secret in (record.access_token.expose(), TENANT, "loopback", "demo"):
            assert secret not in text
    for file in files(state):
        assert len(file.stem) == 64
        assert json.loads(file.read_bytes()).keys() == {"version", "until"}
    assert store.delete(record.key)


def test_the_modes_hold_whatever_the_umask_says(folder: Path, state: Path) -> None:
    """0700 and 0600 under a umask that takes away much, and under one that takes away nothing."""
    for umask, calls in ((0o277, 1), (0, 2)):
        before = os.umask(umask)
        try:
            assert isinstance(FolderTokenBucket(folder, calls, HOUR).evaluate(call()), Allow)
        finally:
            os.umask(before)
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in files(state)} == {0o600}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\x00" * 49,
        b'{"version":1,"un',
        b"[" * 1024,
        b"9" * 1024,
        b"[]",
        b'{"version":2,"until":1}',
        b'{"version":1,"until":"soon"}',
        b'{"version":1,"until":true}',
        b'{"version":1,"until":1e999}',
        b'{"version":1}',
        b"{}" * 10**6,
    ],
)
def test_a_file_that_cannot_be_read_stands_for_a_full_bucket_and_no_pause(
    text: bytes, folder: Path, state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged by name, and replaced by one that counts."""
    policy, pause = FolderTokenBucket(folder, 1, HOUR), CoolDown(shared=folder)
    policy.evaluate(call())
    pause.hold_back(call(), RetryDirective(9))
    for file in files(state):
        file.write_bytes(text)
    with caplog.at_level(logging.WARNING, "oauth2broker"):
        assert isinstance(policy.evaluate(call()), Allow)
        assert isinstance(CoolDown(shared=folder).evaluate(call()), Allow)
    assert sum(file.name in caplog.text for file in files(state)) == 2
    assert isinstance(policy.evaluate(call()), Delay)


@pytest.mark.parametrize("until", [-(10**300), 10**300])
def test_a_time_that_cannot_be_is_an_empty_or_a_full_bucket(until: int, folder: Path, state: Path) -> None:
    """As a clock that jumped: at most one refill to wait for, and no pause that lasts for ever."""
    policy, pause = FolderTokenBucket(folder, 2, HOUR), CoolDown(shared=folder)
    policy.evaluate(call())
    pause.hold_back(call(), RetryDirective(9))
    for file in files(state):
        file.write_text(json.dumps({"version": 1, "until": until}))
    assert isinstance(CoolDown(shared=folder).evaluate(call()), Allow)
    assert isinstance(policy.evaluate(call()), Allow if until < 0 else Delay)
    assert isinstance(policy.evaluate(call(at=NOW + HOUR / 2)), Allow)


def test_a_link_in_the_place_of_a_file_is_not_followed(folder: Path, state: Path, tmp_path: Path) -> None:
    """Neither read nor written through."""
    policy = FolderTokenBucket(folder, 1, HOUR)
    policy.evaluate(call())
    (file,) = files(state)
    elsewhere = file.replace(tmp_path / "elsewhere")
    file.symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    assert isinstance(policy.evaluate(call()), Allow)
    (state / "new.tmp").symlink_to(elsewhere)
    assert isinstance(policy.evaluate(call(at=NOW + 9 * HOUR)), Allow)
    assert elsewhere.read_bytes() == before


def test_files_of_idle_buckets_are_removed_a_few_at_a_time(folder: Path, state: Path) -> None:
    """500 tenants that went idle are gone after some hundred calls of others; those not full stay."""
    policy = FolderTokenBucket(folder, 1, SECOND)
    slow = FolderTokenBucket(folder, 1, 24 * HOUR)
    slow.evaluate(call())
    for number in range(500):
        policy.evaluate(call(f"tenant-{number}"))
    assert len(files(state)) == 501
    later = FolderTokenBucket(folder, 1, SECOND)  # as by a process that starts
    for number in range(150):
        at = NOW + timedelta(minutes=1 + number)
        assert isinstance(later.evaluate(call("last", at=at)), Allow)
        assert len(files(state)) >= 498 - 4 * number
    assert len(files(state)) == 2
    assert isinstance(slow.evaluate(call()), Delay)


# A disk that fails.


@contextmanager
def no_room() -> Iterator[None]:
    """The system lets this process write no file of more than no bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_when_the_disk_takes_nothing_each_process_keeps_the_budget_for_itself(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No user is turned away for it; what this process had taken counts, and one warning says so."""
    policy = FolderTokenBucket(folder, 3, HOUR)
    policy.evaluate(call())
    with caplog.at_level(logging.WARNING, "oauth2broker"), no_room():
        decisions = [seconds_of(policy.evaluate(call())) for _ in range(4)]
    assert decisions == [None, None, 1200.0, 1200.0]
    assert caplog.text.count("for itself") == 1
    assert [seconds_of(policy.evaluate(call())) for _ in range(3)] == [None, None, 1200.0]


def test_a_folder_that_is_gone_is_not_made_again(folder: Path) -> None:
    """It was somebody's decision; the budget is kept in the process."""
    policy = FolderTokenBucket(folder, 2, HOUR)
    shutil.rmtree(folder)
    assert [seconds_of(policy.evaluate(call())) for _ in range(3)] == [None, None, 1800.0]
    assert not folder.exists()


def test_budgets_that_are_removed_begin_anew(folder: Path, state: Path) -> None:
    """Deleting the subfolder is how an operator gives everybody a full bucket."""
    policy, pause = FolderTokenBucket(folder, 1, HOUR), CoolDown(shared=folder)
    policy.evaluate(call())
    pause.hold_back(call(), RetryDirective(9))
    shutil.rmtree(state)
    assert isinstance(policy.evaluate(call()), Allow)
    assert isinstance(policy.evaluate(call()), Delay)
    assert isinstance(CoolDown(shared=folder).evaluate(call()), Allow)
