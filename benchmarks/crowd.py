"""Threads that begin at the same moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Result = TypeVar("Result")


@dataclass(slots=True)
class Rush(Generic[Result]):
    """What a crowd got, and the seconds from the moment it was let go until the last had an answer."""

    results: list[Result] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    seconds: float = 0.0


def rush(size: int, act: Callable[[], Result]) -> Rush[Result]:
    """Have ``size`` threads do ``act`` once, together."""
    found: Rush[Result] = Rush()
    started: list[float] = []
    gate = threading.Barrier(size, action=lambda: started.append(time.perf_counter()))

    def run() -> None:
        gate.wait()
        try:
            found.results.append(act())
        except Exception as error:  # noqa: BLE001 - that is what is counted
            found.errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.seconds = time.perf_counter() - started[0]
    return found
