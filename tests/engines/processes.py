"""Signals to a server and all its children, with nothing overlooked (Linux: it reads /proc)."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

SECONDS_TO_OBEY = 30
SECONDS_BETWEEN_LOOKS = 0.01

Gone = (ProcessLookupError, FileNotFoundError)


def wait_until(is_so: Callable[[], bool], what: str, seconds: float = SECONDS_TO_OBEY) -> None:
    """Look again and again until `is_so`; raise TimeoutError, which names `what`, after `seconds`."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so after {seconds} seconds: {what}")
        time.sleep(SECONDS_BETWEEN_LOOKS)


def running(pids: list[int]) -> list[int]:
    """Return those of `pids` that still run; a zombie does not."""
    return [pid for pid in pids if _state_and_parent(pid)[0] not in "ZX"]


def family(root: int) -> list[int]:
    """Return `root` and all its descendants, parents first."""
    parents = {pid: _state_and_parent(pid)[1] for pid in _all_pids()}
    found = [root]
    for parent in found:  # which grows meanwhile
        found += [pid for pid, its_parent in parents.items() if its_parent == parent]
    return found


def stop_all(root: int) -> list[int]:
    """SIGSTOP `root` and its descendants, and return them once all stand still: none is born afterwards."""
    wait_until(lambda: _all_stand_still(root), f"process {root} stands still")
    return family(root)


def send(signal_number: signal.Signals, pids: list[int]) -> None:
    """Send a signal to each that is still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal_number)


def _all_stand_still(root: int) -> bool:
    pids = family(root)
    still = all(_state_and_parent(pid)[0] in "TZX" for pid in pids)
    send(signal.SIGSTOP, pids)
    return still


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _state_and_parent(pid: int) -> tuple[str, int]:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except Gone:
        return "X", 0
    state, parent = stat.rpartition(")")[2].split()[:2]  # a name may have blanks and parentheses
    return state, int(parent)
