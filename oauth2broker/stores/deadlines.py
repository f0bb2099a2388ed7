"""An end to what drivers do that have no time-out of their own for a server that is silent."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from oauth2broker.forking import forget_in_children

_POLL_SECONDS = 0.25


@dataclass(slots=True, eq=False)
class _Work:
    """What a thread has until ``deadline`` for, and copies of the sockets that it uses for that."""

    deadline: float
    sockets: list[socket.socket] = field(default_factory=list)


class Deadlines:
    """Shuts down the sockets of whoever takes longer than ``seconds``. Safe to share between threads.

    The driver then finds its connection closed. A thread looks, while anything runs.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._mine = threading.local()
        self.forget_after_fork()
        forget_in_children(self)

    @contextmanager
    def bound(self) -> Iterator[None]:
        """Bound what this thread does meanwhile with the sockets that it names."""
        self._mine.work = work = _Work(time.monotonic() + self._seconds)
        with self._lock:
            self._running.add(work)
            self._require_thread()
        try:
            yield
        finally:
            self._mine.work = None
            with self._lock:
                self._running.discard(work)
            for copy in work.sockets:
                copy.close()

    def name(self, descriptor: int) -> None:
        """Say that what is bound on this thread, if anything is, uses the socket of that descriptor.

        It is copied: the descriptor may be closed, and be another's, before the deadline.
        """
        work: _Work | None = getattr(self._mine, "work", None)
        if work is not None:
            with suppress(OSError), self._lock:
                work.sockets.append(socket.socket(fileno=os.dup(descriptor)))

    def forget_after_fork(self) -> None:
        """What runs is the parent's, and so is the thread."""
        self._running: set[_Work] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def _require_thread(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._look, name="oauth2broker-deadlines", daemon=True)
            with suppress(RuntimeError):  # the interpreter is about to end, or there are too many
                thread.start()
                self._thread = thread

    def _look(self) -> None:
        while True:
            time.sleep(_POLL_SECONDS)
            with self._lock:
                if not self._running:
                    self._thread = None
                    return
                now = time.monotonic()
                late = [used for work in self._running if now >= work.deadline for used in work.sockets]
                for used in late:
                    with suppress(OSError):
                        used.shutdown(socket.SHUT_RDWR)
