"""A store in a folder, shared by the processes of one host."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from oauth2broker.errors import BackendError, ConfigError, SerializationError, StoreError
from oauth2broker.forking import forget_in_children
from oauth2broker.obs import logger
from oauth2broker.records import StoreKey, TokenRecord
from oauth2broker.secret import TokenSecret
from oauth2broker.stores.base import (
    ANY,
    BrokerStore,
    CompareAndSwapOutcome,
    ExpectedRefresh,
    holds_refresh,
    require_same_key,
)

if TYPE_CHECKING:
    from filelock import FileLock

_SUFFIX = ".json"
_NEW_RECORD = "new-record.tmp"  # one name suffices: whoever writes holds the folder's lock
_LOCKS = "locks"
_FOLDER_LOCK = "folder"
_FOLDER_LOCK_SECONDS = 10.0
_POLL_SECONDS = 0.01
_SETTLED_NS = 2_000_000_000  # a file younger than this may change without looking different
_MOST_CACHED = 10_000
_REPLACE_TRIES = 50
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)

_Identity = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A record as it was read, and the file's identity if a change of the file is sure to show in it.

    The path is in bytes, which the system takes as they are; that is all a hit costs.
    """

    path: bytes
    identity: _Identity | None
    record: TokenRecord


class FileStore(BrokerStore):
    """One JSON file per record, named by its key's digest, in a folder that only its owner can enter.

    Several processes of one host, and several stores in one process, may share the folder. A write is on
    disk when the call returns. Reading takes no lock and does not wait for a renewal. Safe to use from
    several threads, and in a child after a fork. The files hold plain secrets (mode 0600).

    ``path`` is made if it is missing. Raises :class:`ConfigError` when it is no folder, or one that others
    can enter or own.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._folder = _own_folder(os.path.abspath(path))
        self._cache: dict[str, _Loaded] = {}
        self._leased: set[str] = set()
        self._write_lock = threading.Lock()
        forget_in_children(self)

    def __repr__(self) -> str:
        return f"FileStore({self._folder!r})"

    @property
    def path(self) -> str:
        """Where the folder is, absolute."""
        return self._folder

    def fetch(self, key: StoreKey) -> TokenRecord | None:
        digest = key.digest
        cached = self._cache.get(digest)
        if cached is not None and digest not in self._leased:
            try:
                if _identity(os.stat(cached.path)) == cached.identity:
                    return cached.record
            except OSError:
                pass  # reading tells what is wrong
        return self._read(key)

    def save(self, record: TokenRecord) -> None:
        with self._writing():
            self._replace(record)

    def compare_and_swap_refresh(
        self, key: StoreKey, expected_refresh: TokenSecret | str | None, replacement: TokenRecord
    ) -> CompareAndSwapOutcome:
        require_same_key(key, replacement)
        with self._writing():
            current = self._read(key)
            if current is None:
                return CompareAndSwapOutcome.MISSING
            if current.revoked_at is not None or not holds_refresh(current, expected_refresh):
                return CompareAndSwapOutcome.REFRESH_MISMATCH
            self._replace(replacement)
            return CompareAndSwapOutcome.UPDATED

    def revoke(
        self, key: StoreKey, instant: datetime, expected_refresh: ExpectedRefresh = ANY
    ) -> TokenRecord | None:
        with self._writing():
            current = self._read(key)
            if current is None or current.revoked_at is not None:
                return current
            if expected_refresh is not ANY and not holds_refresh(current, expected_refresh):
                return current
            tombstone = current.tombstone(instant)
            self._replace(tombstone)
            return tombstone

    def delete(self, key: StoreKey) -> bool:
        with self._writing():
            try:
                _patiently(partial(os.unlink, self._path(key.digest)))
                _sync_folder(self._folder)
            except FileNotFoundError:
                return False
            except OSError as error:
                raise _backend_error("delete a record in", self._folder, error) from None
            return True

    def keys(self) -> Iterator[StoreKey]:
        """Give the keys of all records. A file that cannot be read is logged by name and left out."""
        try:
            names = [entry.name for entry in os.scandir(self._folder) if entry.name.endswith(_SUFFIX)]
        except OSError as error:
            raise _backend_error("list", self._folder, error) from None
        for name in names:
            found = _load(os.path.join(self._folder, name))
            if isinstance(found, StoreError):
                logger.warning("left out of the listing: %s", found)
            elif found is not None and found.record.key.digest + _SUFFIX != name:
                logger.warning("left out of the listing: %s holds a record of another key", name)
            elif found is not None:
                yield found.record.key

    @contextmanager
    def refresh_lease(self, key: StoreKey, *, timeout: float) -> Iterator[bool]:
        with self._locked(key.digest, timeout) as is_ours:
            if not is_ours:
                yield False
                return
            self._leased.add(key.digest)  # who renews must not trust the cache
            try:
                yield True
            finally:
                self._leased.discard(key.digest)

    def _read(self, key: StoreKey) -> TokenRecord | None:
        path = self._path(key.digest)
        found = _load(path)
        if isinstance(found, StoreError):
            raise found
        if found is None or found.identity is None or found.record.key != key:
            self._cache.pop(key.digest, None)
        else:
            self._remember(key.digest, found)
        if found is not None and found.record.key != key:
            raise SerializationError(f"{path} holds a record of another key")
        return None if found is None else found.record

    def _remember(self, digest: str, loaded: _Loaded) -> None:
        if len(self._cache) >= _MOST_CACHED:
            self._cache.clear()  # rather than keep order on the hot path
        self._cache[digest] = loaded

    def _replace(self, record: TokenRecord) -> None:
        """Put ``record`` in its place, so that a crash leaves the old file or the new one."""
        new = os.path.join(self._folder, _NEW_RECORD)
        error = _write(new, record)
        if error is None:
            error = _rename(new, self._path(record.key.digest), self._folder)
        if error is not None:
            raise _backend_error("write a record to", self._folder, error)

    def _path(self, digest: str) -> str:
        return f"{self._folder}{os.sep}{digest}{_SUFFIX}"

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the folder for one read-modify-write: threads queue here, processes at the file lock."""
        if not self._write_lock.acquire(timeout=_FOLDER_LOCK_SECONDS):
            raise BackendError(f"{self._folder} is locked by another thread")
        try:
            with self._locked(_FOLDER_LOCK, _FOLDER_LOCK_SECONDS) as is_ours:
                if not is_ours:
                    raise BackendError(f"{self._folder} is locked by another process")
                yield
        finally:
            self._write_lock.release()

    @contextmanager
    def _locked(self, name: str, timeout: float) -> Iterator[bool]:
        """Hold a lock file, or yield False. A lock of the kernel's: it goes when its holder dies.

        A new lock object each time, because one does not survive a fork. The file stays: unlinking it would
        let two processes hold "the" lock on two files.
        """
        from filelock import FileLock, Timeout  # here, because a start that only reads does not need it

        folder = os.path.join(self._folder, _LOCKS)
        lock: FileLock | None = None
        try:
            _make_folder(folder, os.mkdir)
            lock = FileLock(
                os.path.join(folder, f"{name}.lock"),
                mode=0o600,
                thread_local=False,
                fallback_to_soft=False,
                preserve_lock_file=True,
            )
            lock.acquire(timeout, _POLL_SECONDS)
        except Timeout:
            lock = None
        except OSError as error:
            raise _backend_error("lock", self._folder, error) from None
        if lock is None:
            yield False
            return
        try:
            yield True
        finally:
            _release(lock)

    def forget_after_fork(self) -> None:
        """Locks and leases are the parent's."""
        self._write_lock = threading.Lock()
        self._leased = set()


def _own_folder(path: str) -> str:
    """Give ``path``, a folder that nobody else can enter, made if it was missing."""
    try:
        _make_folder(path, os.makedirs)
        found = os.stat(path)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"{path} is not a folder") from None
    except OSError as error:
        raise _backend_error("make", path, error) from None
    if os.name == "posix":
        if found.st_uid != os.geteuid():
            raise ConfigError(f"{path} belongs to another user")
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise ConfigError(f"{path} can be entered by others: chmod 700")
    return path


def _make_folder(path: str, make: Callable[[str, int], None]) -> None:
    """Make ``path`` for its owner alone, whatever the umask says; leave one that is there as it is."""
    if os.path.isdir(path):
        return
    try:
        make(path, 0o700)
        os.chmod(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise  # else another process was faster


def _release(lock: FileLock) -> None:
    """Let go; that it fails must not hide what was done under the lock."""
    try:
        lock.release()
    except OSError as error:
        logger.warning("a lock file could not be unlocked: %s", error.strerror)


def _load(path: str) -> _Loaded | StoreError | None:
    """Give what is in a file, None when it is not there, or what is wrong.

    Never raises, so that no traceback holds the text.
    """
    try:
        with open(os.open(path, os.O_RDONLY | _NO_LINKS), "rb") as file:
            found = os.fstat(file.fileno())
            text = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        return _backend_error("read", path, error)
    try:
        record = TokenRecord.from_json(text)
    except SerializationError as error:
        return SerializationError(f"{path}: {error}")
    is_settled = time.time_ns() - found.st_mtime_ns >= _SETTLED_NS
    return _Loaded(os.fsencode(path), _identity(found) if is_settled else None, record)


def _identity(found: os.stat_result) -> _Identity:
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size


def _write(path: str, record: TokenRecord) -> OSError | None:
    """Write ``record`` to ``path`` and through to the disk. Gives what went wrong (see :func:`_load`)."""
    text = record.to_json().encode("ascii")
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _NO_LINKS, 0o600), "wb") as file:
            if os.name == "posix":
                os.fchmod(file.fileno(), 0o600)  # whatever the umask, or a left-over file, says
            file.write(text)
            file.flush()
            _sync(file.fileno())
    except OSError as error:
        return error.with_traceback(None)
    return None


def _rename(new: str, path: str, folder: str) -> OSError | None:
    try:
        _patiently(partial(os.replace, new, path))
        _sync_folder(folder)
    except OSError as error:
        return error
    return None


def _patiently(act: Callable[[], None]) -> None:
    """Replace or remove a file; Windows refuses for the moment while somebody reads it."""
    for left in reversed(range(_REPLACE_TRIES)):
        try:
            act()
            break
        except PermissionError:
            if os.name != "nt" or not left:
                raise
        time.sleep(_POLL_SECONDS)


def _sync_folder(folder: str) -> None:
    if os.name == "nt":
        return  # a folder cannot be opened there; NTFS journals the rename
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    """Flush to the medium; on macOS fsync stops at the drive's cache and F_FULLFSYNC does not."""
    try:
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # type: ignore[attr-defined, unused-ignore]
    except (ImportError, AttributeError, OSError):
        os.fsync(descriptor)


def _backend_error(action: str, path: str, error: OSError) -> BackendError:
    return BackendError(f"cannot {action} {path}: {error.strerror or type(error).__name__}")
