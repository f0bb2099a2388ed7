"""Points in time that the processes of one host share: a small file each, in a folder of a FileStore.

The state of a budget is one number: when its bucket is full again, or when a pause is over. What lies in the
past says nothing any more, so such files are removed. Times are POSIX nanoseconds, whole numbers, so that
sums of them are exact.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from oauth2broker.errors import BackendError, ConfigError
from oauth2broker.forking import forget_in_children
from oauth2broker.obs import logger
from oauth2broker.records import EPOCH
from oauth2broker.stores.file import FileStore

if TYPE_CHECKING:
    from filelock import FileLock

SECOND = 10**9
_FOLDER, _LOCK, _NEW, _SUFFIX = "budgets", "budgets.lock", "new.tmp", ".json"
_VERSION = 1
_CANONICAL = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"))
_MICROSECOND = timedelta(microseconds=1)
_LONGEST_WAIT = 0.25  # seconds for the threads' lock, and as much for the processes'
_POLL_SECONDS = 0.002
_LONGEST_FILE = 1024  # bytes; ours have some 50
_LOOKS_PER_WRITE = 4  # a write makes one file at most
_LISTING_SECONDS = 60.0
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)

Place = FileStore | str | os.PathLike[str]
Result = TypeVar("Result")


def posix_ns(now: datetime) -> int:
    """Give an aware datetime as POSIX nanoseconds. Raises :class:`ConfigError` for a naive one."""
    if now.utcoffset() is None:
        raise ConfigError("now is an aware datetime")
    return (now - EPOCH) // _MICROSECOND * 1000


def state_name(*parts: str | int) -> str:
    """Give the name of the file for ``parts``, as keys get theirs: a digest of canonical JSON."""
    text = _CANONICAL.encode(["oauth2broker/budget/1", *parts])
    return hashlib.sha256(text.encode("ascii")).hexdigest() + _SUFFIX


class SharedTimes:
    """Times by name, in the subfolder ``budgets`` of a FileStore's folder (0700, its files 0600).

    ``place`` is a :class:`FileStore` or its path. Safe to use from several threads and processes, and in a
    child after a fork. A file is replaced in one step but not flushed to the disk: a power failure costs at
    most what it says, and one that cannot be read counts as none. Raises what :class:`FileStore` raises.
    """

    def __init__(self, place: Place) -> None:
        if not isinstance(place, FileStore | str | os.PathLike):
            raise ConfigError(f"a FileStore or its path, not {type(place).__name__}")
        store = place if isinstance(place, FileStore) else FileStore(place)
        self._folder = Path(store.path, _FOLDER)
        self._lock = threading.Lock()
        self._unseen: list[Path] = []
        self._next_listing = 0.0
        forget_in_children(self)

    def read(self, name: str) -> int | None:
        """Give the time of ``name`` without waiting for anybody; None when there is none."""
        path = self._folder / name
        found = _load(path)
        if isinstance(found, str):
            logger.warning("a budget starts anew: %s %s", path, found)
            return None
        return found

    def update(
        self, name: str, now: int, change: Callable[[int | None], tuple[int, Result]]
    ) -> Result | None:
        """Let ``change`` make a new time of the one of ``name`` (None: there is none); give its result.

        None when the lock cannot be had within half a second. Raises :class:`BackendError` when the disk
        does not take it. ``now`` tells what may be removed.
        """
        with self._locked() as is_ours:
            if not is_ours:
                return None
            before = self.read(name)
            after, result = change(before)
            if after != before:
                self._write(name, after)
                self._remove_some(name, now)
            return result

    def forget_after_fork(self) -> None:
        """The lock is the parent's."""
        self._lock = threading.Lock()

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        """Hold the folder, or yield False: threads queue here, processes at the kernel's lock.

        That one goes when its holder dies. The file stays: two processes could hold "the" lock on two files.
        """
        if not self._lock.acquire(timeout=_LONGEST_WAIT):
            yield False
            return
        try:
            lock = self._lock_file()
            try:
                yield lock is not None
            finally:
                if lock is not None:
                    _release(lock)
        finally:
            self._lock.release()

    def _lock_file(self) -> FileLock | None:
        """Give the lock of the processes, held; None when it cannot be had in time."""
        from filelock import FileLock, Timeout  # here, because most starts find their token in the store

        try:
            if not self._folder.is_dir():
                self._make_folder()
            lock = FileLock(
                self._folder / _LOCK,
                mode=0o600,
                thread_local=False,
                fallback_to_soft=False,
                preserve_lock_file=True,
            )
            lock.acquire(_LONGEST_WAIT, _POLL_SECONDS)
        except Timeout:
            return None
        except (OSError, NotImplementedError) as error:
            raise _backend_error("lock", self._folder, error) from None
        return lock

    def _make_folder(self) -> None:
        """Make it for its owner alone; but not the folder that it belongs in, which was there."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._folder.chmod(0o700)

    def _write(self, name: str, until: int) -> None:
        new = self._folder / _NEW  # one name suffices: whoever writes holds the lock
        text = _CANONICAL.encode({"version": _VERSION, "until": until}).encode("ascii")
        try:
            opened = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _NO_LINKS, 0o600)
            with os.fdopen(opened, "wb") as file:
                if os.name == "posix":
                    os.fchmod(opened, 0o600)  # whatever the umask, or a left-over file, says
                file.write(text)
            new.replace(self._folder / name)
        except OSError as error:
            raise _backend_error("write to", self._folder, error) from None

    def _remove_some(self, name: str, now: int) -> None:
        """Remove files that say nothing any more, of a few that are looked at, beginning anywhere."""
        with suppress(OSError):
            if not self._unseen and time.monotonic() >= self._next_listing:
                found = [path for path in self._folder.iterdir() if path.suffix == _SUFFIX]
                start = int(name[:8], 16) % max(len(found), 1)
                self._unseen = found[start:] + found[:start]
                self._next_listing = time.monotonic() + _LISTING_SECONDS
            looked_at, self._unseen = self._unseen[:_LOOKS_PER_WRITE], self._unseen[_LOOKS_PER_WRITE:]
            for path in looked_at:
                until = _load(path)
                if isinstance(until, int) and until <= now:
                    path.unlink()


def _load(path: Path) -> int | str | None:
    """Give the time in a file, None when it is not there, or what is wrong."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | _NO_LINKS), "rb") as file:
            text = file.read(_LONGEST_FILE)
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    try:
        members = json.loads(text)
    except (ValueError, RecursionError):
        return "is not JSON"
    if not isinstance(members, dict) or members.get("version") != _VERSION:
        return "is of an unknown version"
    until = members.get("until")
    return until if type(until) is int else "holds no time"


def _release(lock: FileLock) -> None:
    """Let go; that it fails must not hide what was done under the lock."""
    try:
        lock.release()
    except OSError as error:
        logger.warning("a budget's lock could not be unlocked: %s", error.strerror)


def _backend_error(action: str, path: Path, error: Exception) -> BackendError:
    return BackendError(f"cannot {action} {path}: {getattr(error, 'strerror', None) or type(error).__name__}")
