"""An end to statements of drivers that have no time-out of their own for a server that is silent."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from oauth2broker.forking import forget_in_children

_POLL_SECONDS = 0.25


class Deadlines:
    """Shuts down the socket of whoever takes longer than ``seconds``. Safe to share between threads.

    The driver then finds its connection closed. A thread looks, while anything runs.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.forget_after_fork()
        forget_in_children(self)

    @contextmanager
    def bound(self, descriptor: int) -> Iterator[None]:
        """Bound what is done meanwhile on the socket of that file ``descriptor``, which stays open."""
        running = object()
        with self._lock:
            self._running[running] = (time.monotonic() + self._seconds, descriptor)
            self._require_thread()
        try:
            yield
        finally:
            with self._lock:  # afterwards the descriptor may be another's
                del self._running[running]

    def forget_after_fork(self) -> None:
        """What runs is the parent's, and so is the thread."""
        self._running: dict[object, tuple[float, int]] = {}
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
                for deadline, descriptor in self._running.values():
                    if now >= deadline:
                        _shut_down(descriptor)


def _shut_down(descriptor: int) -> None:
    with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as copy:
        copy.shutdown(socket.SHUT_RDWR)
