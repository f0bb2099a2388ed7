"""RedisStore in a child after a fork: connections and leases of its own."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from multiprocessing.synchronize import Event

import pytest

from oauth2broker import RedisStore
from oauth2broker.testing.store_contract import make_record

from .processes import running, wait_until
from .redis_stores import PATIENCE, RECORD, WATCH, QuickStore, can_lease

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="forking needs Linux"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

KEY, OTHER = RECORD.key, make_record("other").key


def test_a_child_after_a_fork_has_connections_and_leases_of_its_own(redis_url: str) -> None:
    """Parent and child, which was forked under load, use the store at once, and get no others' answers."""
    store = RedisStore.from_url(redis_url)
    records = [make_record(f"user-{number}") for number in range(8)]
    for record in records:
        store.save(record)
    stop = threading.Event()
    wrong: list[object] = []

    def read_on(number: int) -> None:
        while not stop.is_set():
            if store.fetch(records[number].key) != records[number]:
                wrong.append(number)

    threads = [threading.Thread(target=read_on, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    with store.refresh_lease(KEY, timeout=0):
        children = [fork_and(lambda: use(store)) for _ in range(5)]
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 5
        assert can_lease(RedisStore.from_url(redis_url), KEY) is False  # no child released its parent's lease
    stop.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert wrong == []


def fork_and(work: Callable[[], bool]) -> int:
    """Fork a child that does some work, and ends as the parent's block would: letting go of what is held."""
    child = os.fork()
    if child == 0:
        try:
            status = 0 if work() else 1
        except BaseException:
            status = 2
        os._exit(status)
    return child


def use(store: RedisStore) -> bool:
    """Use the store as a child does."""
    records = [make_record(f"user-{number}") for number in range(8)]
    found = [store.fetch(record.key) for record in records * 20]
    with store.refresh_lease(OTHER, timeout=PATIENCE) as is_ours:
        return found == records * 20 and is_ours and not can_lease(store, KEY)


def test_a_child_keeps_no_lease_alive_when_its_parent_is_killed(redis_url: str) -> None:
    """FAULTS 22 and 8: a lease held at the fork lapses with the parent; the child's own does not."""
    context = multiprocessing.get_context("spawn")
    is_forked, is_done = context.Event(), context.Event()
    parent = context.Process(target=_hold_and_fork, args=(redis_url, is_forked, is_done))
    parent.start()
    assert is_forked.wait(PATIENCE)
    store = QuickStore.from_url(redis_url)
    assert can_lease(store, KEY) is False
    parent.kill()
    wait_until(lambda: not running([parent.pid or 0]), "the parent is gone")
    assert can_lease(store, OTHER) is False  # the child lives, and holds one of its own
    assert can_lease(store, KEY, timeout=PATIENCE) is True
    assert can_lease(store, OTHER, timeout=4 * WATCH) is False
    is_done.set()
    assert can_lease(store, OTHER, timeout=PATIENCE) is True  # so the child has ended


def _hold_and_fork(url: str, is_forked: Event, is_done: Event) -> None:
    store = QuickStore.from_url(url)
    with store.refresh_lease(KEY, timeout=0):
        if os.fork() == 0:
            with store.refresh_lease(OTHER, timeout=0):
                is_forked.set()
                is_done.wait(2 * PATIENCE)
            os._exit(0)
        threading.Event().wait(PATIENCE)
