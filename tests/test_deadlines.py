"""Deadlines for drivers that have none: whose sockets are shut down. By a clock of the tests' own."""

from __future__ import annotations

import multiprocessing
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from oauth2broker.stores import deadlines as deadlines_module
from oauth2broker.stores.deadlines import Deadlines

PATIENCE = 30.0
SECONDS = 6.0


class Clock:
    """Time that the test moves; whoever looks at deadlines does so when the test says."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._asleep, self._awake = threading.Semaphore(0), threading.Semaphore(0)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, _: float) -> None:
        self._asleep.release()
        assert self._awake.acquire(timeout=PATIENCE)

    def look(self) -> None:
        """Have the thread look once, and wait until it has."""
        self.end()
        assert self._asleep.acquire(timeout=PATIENCE)
        self._asleep.release()

    def end(self) -> None:
        """Have the thread look, though it may not come back."""
        assert self._asleep.acquire(timeout=PATIENCE)
        self._awake.release()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time that deadlines see."""
    made = Clock()
    monkeypatch.setattr(deadlines_module, "time", made)
    return made


@pytest.fixture
def deadlines(clock: Clock) -> Iterator[Deadlines]:
    """Of six seconds; their thread ends when nothing runs."""
    made = Deadlines(SECONDS)
    yield made
    thread = made._thread
    assert thread is not None
    clock.end()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert made._thread is None


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give two ends of a connection."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def is_open(end: socket.socket) -> bool:
    """Whether nobody has shut down this end or the other."""
    end.setblocking(False)
    try:
        return end.recv(1) != b""
    except BlockingIOError:
        return True


def descriptors() -> int:
    """Count what this process has open."""
    return len(list(Path("/dev/fd").iterdir()))


Pair = tuple[socket.socket, socket.socket]


def test_a_socket_is_shut_down_when_its_time_is_over(deadlines: Deadlines, clock: Clock, pair: Pair) -> None:
    """And not earlier."""
    with deadlines.bound():
        deadlines.name(pair[0].fileno())
        clock.now += SECONDS - 0.1
        clock.look()
        assert is_open(pair[0])
        clock.now += 0.1
        clock.look()
        assert not is_open(pair[0])


def test_each_thread_has_its_own_time(deadlines: Deadlines, clock: Clock, pair: Pair) -> None:
    """One that is late takes no connection from another."""
    with deadlines.bound(), ThreadPoolExecutor(1) as pool:
        clock.now += SECONDS

        def work() -> bool:
            with deadlines.bound():
                deadlines.name(pair[0].fileno())
                clock.look()
                return is_open(pair[0])

        assert pool.submit(work).result(PATIENCE)


def test_what_was_done_in_time_is_left_alone(deadlines: Deadlines, clock: Clock, pair: Pair) -> None:
    """The connection goes back to its pool, and nothing of ours refers to it."""
    before = descriptors()
    with deadlines.bound():
        deadlines.name(pair[0].fileno())
    deadlines.name(pair[0].fileno())  # a program that uses the same pool on the same thread
    assert descriptors() == before
    with deadlines.bound():
        clock.now += 2 * SECONDS
        clock.look()
    assert is_open(pair[0])


def test_a_descriptor_that_was_given_to_another_socket_is_not_meant(
    deadlines: Deadlines, clock: Clock, pair: Pair
) -> None:
    """The driver may close its own before the time is over, and the system gives the number away."""
    mine, theirs = socket.socketpair()
    with deadlines.bound():
        number = mine.fileno()
        deadlines.name(number)
        os.dup2(pair[0].fileno(), number)
        clock.now += SECONDS
        clock.look()
        assert is_open(pair[0])
        assert not is_open(theirs)
    mine.close()
    theirs.close()


def test_a_thread_that_cannot_be_started_fails_nobody(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, deadlines: Deadlines, pair: Pair
) -> None:
    """The next one tries again."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with deadlines.bound():
            deadlines.name(pair[0].fileno())
    with deadlines.bound():
        deadlines.name(pair[0].fileno())
        clock.now += SECONDS
        clock.look()
        assert not is_open(pair[0])


def _wait_in_child(deadlines: Deadlines, results: Any) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, deadlines.bound():
        ours.settimeout(PATIENCE)
        deadlines.name(ours.fileno())
        results.put(ours.recv(1))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_after_a_fork_has_a_thread_of_its_own_that_looks() -> None:
    """Its parent's looks at nothing there, and may have held the lock. In real time."""
    context = multiprocessing.get_context("fork")
    deadlines, results = Deadlines(0.0), context.Queue()
    child = context.Process(target=_wait_in_child, args=(deadlines, results), daemon=True)
    with deadlines.bound():
        thread = deadlines._thread
        assert thread is not None
        with deadlines._lock:
            child.start()
        assert results.get(timeout=2 * PATIENCE) == b""
    child.join(PATIENCE)
    thread.join(PATIENCE)
    assert not thread.is_alive()
