"""A store in a folder, shared by the processes of one host."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from oauth2broker.errors import BackendError, ConfigError, StoreError
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
from oauth2broker.stores.disk import (
    PARTS,
    POLL_SECONDS,
    FileText,
    Identity,
    backend_error,
    identify,
    list_files,
    make_folder,
    part_of,
    read_file,
    remove_file,
    replace_file,
    require_own_folder,
)
from oauth2broker.stores.sealing import RecordCipher, RecordCodec, RewrapReport, Stored, located, rewrap

if TYPE_CHECKING:
    from filelock import FileLock

_SUFFIX = ".json"
_LOCKS = "locks"
_WRITE_LOCK_SECONDS = 10.0
_MOST_CACHED = 10_000


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A record as it was read, and the file's identity if a change of the file is sure to show in it.

    The path is in bytes, which the system takes as they are; that is all a hit costs.
    """

    path: bytes
    identity: Identity | None
    record: TokenRecord


class FileStore(BrokerStore):
    """One JSON file per record, named by its key's digest, in a folder that only its owner can enter.

    Several processes of one host, and several stores in one process, may share the folder. A write is on
    disk when the call returns. Reading takes no lock and does not wait for a renewal. Safe to use from
    several threads, and in a child after a fork. The files hold plain secrets (mode 0600) unless there is a
    ``cipher``.

    ``path`` is made if it is missing. Raises :class:`ConfigError` when it is no folder, or one that others
    can enter or own.
    """

    def __init__(self, path: str | os.PathLike[str], *, cipher: RecordCipher | None = None) -> None:
        is_path = isinstance(path, str | os.PathLike)
        self._folder = os.path.abspath(path) if is_path else ""  # first: who reports an error shows our repr
        if not is_path:
            raise ConfigError(f"path is the path of a folder, not {type(path).__name__}")
        self._codec = RecordCodec(cipher)
        require_own_folder(self._folder)
        self._cache: dict[str, _Loaded] = {}
        self._leased: set[str] = set()
        self._write_locks = _one_for_each_part()
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
                if identify(os.stat(cached.path)) == cached.identity:
                    return cached.record
            except OSError:
                pass  # reading tells what is wrong
        return self._read(key)

    def save(self, record: TokenRecord) -> None:
        with self._writing(record.key.digest):
            self._replace(record)

    def compare_and_swap_refresh(
        self, key: StoreKey, expected_refresh: TokenSecret | str | None, replacement: TokenRecord
    ) -> CompareAndSwapOutcome:
        require_same_key(key, replacement)
        expected = None if expected_refresh is None else TokenSecret(expected_refresh)
        del expected_refresh  # from here on nothing plain is in this frame
        with self._writing(key.digest):
            current = self._read(key)
            if current is None:
                return CompareAndSwapOutcome.MISSING
            if current.revoked_at is not None or not holds_refresh(current, expected):
                return CompareAndSwapOutcome.REFRESH_MISMATCH
            self._replace(replacement)
            return CompareAndSwapOutcome.UPDATED

    def revoke(
        self, key: StoreKey, instant: datetime, expected_refresh: ExpectedRefresh = ANY
    ) -> TokenRecord | None:
        is_any = expected_refresh is ANY
        expected = TokenSecret(expected_refresh) if isinstance(expected_refresh, str | TokenSecret) else None
        del expected_refresh  # from here on nothing plain is in this frame
        with self._writing(key.digest):
            current = self._read(key)
            if current is None or current.revoked_at is not None:
                return current
            if not is_any and not holds_refresh(current, expected):
                return current
            tombstone = current.tombstone(instant)
            self._replace(tombstone)
            return tombstone

    def delete(self, key: StoreKey) -> bool:
        with self._writing(key.digest):
            return remove_file(self._path(key.digest))

    def keys(self) -> Iterator[StoreKey]:
        """Give the keys of all records. A file that cannot be read is logged by name and left out."""
        for digest in self._digests():
            found = self._load(digest)
            if isinstance(found, StoreError):
                logger.warning("left out of the listing: %s", found)
            elif found is not None:
                yield found.record.key

    def rewrap(self, *, accept_plain: bool = False) -> RewrapReport:
        """Seal with the cipher's newest key what another key has sealed, while the store is in use.

        ``accept_plain``: also what was written when there was no cipher. A record that cannot be opened is
        left as it is. Raises :class:`ConfigError` without a cipher, :class:`StoreError`.
        """
        found = ((digest, self._stored(digest)) for digest in self._digests())
        return rewrap(self._codec, found, self._stored, self._replace_unchanged, accept_plain=accept_plain)

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

    def _digests(self) -> list[str]:
        """Give the digests of all records, by the names of their files."""
        return [name.removesuffix(_SUFFIX) for name in list_files(self._folder, _SUFFIX)]

    def _stored(self, digest: str) -> Stored[FileText] | StoreError | None:
        """Give a record's text, and the file as it is for its version."""
        found = read_file(self._path(digest))
        if not isinstance(found, FileText):
            return found
        return Stored(TokenSecret(found.text.decode("utf-8", "replace")), found)

    def _replace_unchanged(self, record: TokenRecord, version: FileText) -> bool:
        with self._writing(record.key.digest):
            found = read_file(self._path(record.key.digest))
            is_unchanged = isinstance(found, FileText) and found.text == version.text
            if is_unchanged:
                self._replace(record)
            return is_unchanged

    def _read(self, key: StoreKey) -> TokenRecord | None:
        found = self._load(key.digest)
        if isinstance(found, _Loaded) and found.identity is not None:
            self._remember(key.digest, found)
        else:
            self._cache.pop(key.digest, None)
        if isinstance(found, StoreError):
            raise found
        return None if found is None else found.record

    def _load(self, digest: str) -> _Loaded | StoreError | None:
        """Give what is in a file, None when it is not there, or what is wrong.

        Never raises, so that no traceback holds the text.
        """
        path = self._path(digest)
        found = read_file(path)
        if found is None or isinstance(found, StoreError):
            return found
        record = self._codec.decode(digest, found.text)
        if isinstance(record, StoreError):
            return located(record, path)
        return _Loaded(os.fsencode(path), found.identity, record)

    def _remember(self, digest: str, loaded: _Loaded) -> None:
        if len(self._cache) >= _MOST_CACHED:
            self._cache.clear()  # rather than keep order on the hot path
        self._cache[digest] = loaded

    def _replace(self, record: TokenRecord) -> None:
        text = self._codec.encode(record)
        error = text if isinstance(text, StoreError) else replace_file(self._path(record.key.digest), text)
        del text  # it may hold plain secrets
        if error is not None:
            raise error

    def _path(self, digest: str) -> str:
        return f"{self._folder}{os.sep}{digest}{_SUFFIX}"

    @contextmanager
    def _writing(self, digest: str) -> Iterator[None]:
        """Hold a part of the folder for a read-modify-write: threads queue here, processes at the file lock.

        A part, because a write waits for the disk: behind one lock, renewals of many keys queue for seconds.
        """
        part = part_of(digest)
        lock = self._write_locks[part]
        if not lock.acquire(timeout=_WRITE_LOCK_SECONDS):
            raise BackendError(f"{self._folder} is locked by another thread")
        try:
            with self._locked(f"writes-{part}", _WRITE_LOCK_SECONDS) as is_ours:
                if not is_ours:
                    raise BackendError(f"{self._folder} is locked by another process")
                yield
        finally:
            lock.release()

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
            make_folder(folder, os.mkdir)
            lock = FileLock(
                os.path.join(folder, f"{name}.lock"),
                mode=0o600,
                thread_local=False,
                fallback_to_soft=False,
                preserve_lock_file=True,
            )
            lock.acquire(timeout, POLL_SECONDS)
        except Timeout:
            lock = None
        except OSError as error:
            raise backend_error("lock", self._folder, error) from None
        if lock is None:
            yield False
            return
        try:
            yield True
        finally:
            _release(lock)

    def forget_after_fork(self) -> None:
        """Locks and leases are the parent's."""
        self._write_locks = _one_for_each_part()
        self._leased = set()


def _one_for_each_part() -> dict[str, threading.Lock]:
    return {part: threading.Lock() for part in PARTS}


def _release(lock: FileLock) -> None:
    """Let go; that it fails must not hide what was done under the lock."""
    try:
        lock.release()
    except OSError as error:
        logger.warning("a lock file could not be unlocked: %s", error.strerror)
