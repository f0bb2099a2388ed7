"""The store as the flows use it: what a provider issued is not lost when the store fails.

A record that the store would not take is kept here, with its lease, stands for the record it replaces, and is
written by a thread that exists only while there is something to write.
"""

from __future__ import annotations

import atexit
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from oauth2broker.errors import BackendError, StoreError, TransientError
from oauth2broker.flows.bounds import Bounds
from oauth2broker.flows.telemetry import Telemetry
from oauth2broker.forking import forget_in_children
from oauth2broker.obs import Level, RefreshResult, logger
from oauth2broker.records import StoreKey, TokenRecord
from oauth2broker.stores.base import BrokerStore

_PAUSE = 0.05  # seconds between two tries of one write

Written = TypeVar("Written")


@dataclass(frozen=True, slots=True)
class Unsaved:
    """``record`` stands for ``replaced`` until the store has taken it; ``lease`` keeps others away."""

    replaced: TokenRecord | None
    record: TokenRecord
    lease: ExitStack

    def stands_for(self, stored: TokenRecord | None) -> bool:
        """Whether the store still holds what this record replaced."""
        replaced = self.replaced
        if stored is None or replaced is None:
            return stored is replaced
        return (stored.access_token, stored.refresh_token, stored.revoked_at) == (
            replaced.access_token,
            replaced.refresh_token,
            replaced.revoked_at,
        )


class Keeper:
    """Reads, leases and writes that must not be lost. Safe to share between threads."""

    def __init__(self, store: BrokerStore, bounds: Bounds, telemetry: Telemetry) -> None:
        self.unsaved: dict[str, Unsaved] = {}
        self._store = store
        self._bounds = bounds
        self._telemetry = telemetry
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._closed = threading.Event()
        self._writer: threading.Thread | None = None
        self._failed_at = -math.inf
        self._inherited: dict[str, Unsaved] = {}
        forget_in_children(self)

    def fetch(self, key: StoreKey) -> TokenRecord | None:
        """Give the record of ``key``: an unsaved one while it stands for what is stored."""
        unsaved = self.unsaved.get(key.digest)
        if unsaved is None:
            return self._store.fetch(key)
        if self._writer is None:
            self._require_writer()
        try:
            stored = self._store.fetch(key)
        except StoreError:
            return unsaved.record
        if unsaved.stands_for(stored):
            return unsaved.record
        if self._drop(unsaved):
            self._telemetry.track(Level.UNSAVED_RECORDS, -1)
        return stored

    @contextmanager
    def lease(self, key: StoreKey) -> Iterator[ExitStack]:
        """Hold the lease of ``key``, or raise :class:`TransientError` when it stays busy too long.

        The stack is what holds the lease: :meth:`put` takes it over when the lease must be kept. An unsaved
        record of ``key`` is written first; raises :class:`StoreError` when it still cannot be.
        """
        with self._hold(key, self._bounds.lease) as stack:
            if stack is None:
                self._telemetry.note(RefreshResult.TIMED_OUT)
                raise TransientError("whoever holds the lease did not finish in time")
            yield stack

    def try_lease(self, key: StoreKey) -> AbstractContextManager[ExitStack | None]:
        """Hold the lease of ``key`` as :meth:`lease` does, if it can be had at once; else None."""
        return self._hold(key, 0.0)

    def put(
        self,
        write: Callable[[], Written],
        record: TokenRecord,
        replaced: TokenRecord | None,
        lease: ExitStack,
    ) -> Written | None:
        """Do ``write``, which puts ``record`` in the place of ``replaced``, or keep the record (None)."""
        failed: str
        try:
            return write_surely(write, self._bounds.store)
        except StoreError as error:
            failed = type(error).__name__
            self._failed_at = time.monotonic()
        except BaseException:  # an interrupt: whether it was written shows when it is tried again
            self._keep(record, replaced, lease)
            raise
        logger.error("the store refused a record (%s); it is kept in `unsaved` and tried again", failed)
        self._keep(record, replaced, lease)
        return None

    def save(self, record: TokenRecord, replaced: TokenRecord | None, lease: ExitStack) -> bool:
        """Save ``record``, or keep it (False)."""

        def write() -> bool:
            self._store.save(record)
            return True

        return self.put(write, record, replaced, lease) is not None

    def close(self) -> None:
        """Try a last time to write what is unsaved."""
        self._closed.set()
        self._write_last()
        if self.unsaved:
            logger.error("closed with %d records that the store would not take", len(self.unsaved))

    def forget_after_fork(self) -> None:
        """What is unsaved is the parent's to write, and its leases are not ours to release: keep them."""
        self._inherited = self.unsaved
        self.unsaved = {}
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._closed = threading.Event()
        self._writer = None

    @contextmanager
    def _hold(self, key: StoreKey, timeout: float) -> Iterator[ExitStack | None]:
        unsaved = self.unsaved.get(key.digest)
        if unsaved is not None:
            self._require_try()
            self._write(unsaved, patience=self._bounds.flush)
        stack = ExitStack()
        with self._telemetry.lease_wait() as had:
            is_ours = stack.enter_context(self._store.refresh_lease(key, timeout=timeout))
            had.append(is_ours)
        try:
            yield stack if is_ours else None
        finally:
            _let_go(stack)

    def _require_try(self) -> None:
        """A store that is down is asked once in a while, not by every caller."""
        if time.monotonic() - self._failed_at < self._bounds.flush:
            raise BackendError("the store did not take the last record; it will be tried again")

    def _keep(self, record: TokenRecord, replaced: TokenRecord | None, lease: ExitStack) -> None:
        digest = record.key.digest
        with self._lock:
            earlier = self.unsaved.get(digest)
            replaced = replaced if earlier is None else earlier.replaced
            self.unsaved[digest] = Unsaved(replaced, record, lease.pop_all())
        if earlier is not None:  # it will never be saved: ours is another one
            self._telemetry.track(Level.UNSAVED_RECORDS, -1)
        self._telemetry.track(Level.UNSAVED_RECORDS, 1)
        self._require_writer()

    def _write(self, unsaved: Unsaved, *, patience: float = 0.0) -> None:
        """Write ``unsaved`` unless somebody else has put another record there. One thread at a time.

        Else a slow one could still write what another has written, and what came after it.
        """
        if not (self._writing.acquire(timeout=patience) if patience else self._writing.acquire(False)):
            raise BackendError("an unsaved record is being written at this moment")
        is_written = False
        try:
            if self.unsaved.get(unsaved.record.key.digest) is unsaved:
                is_written = self._replace(unsaved)
        except StoreError:
            self._failed_at = time.monotonic()
            raise
        finally:
            self._writing.release()
        if is_written:
            self._telemetry.track(Level.UNSAVED_RECORDS, -1)

    def _replace(self, unsaved: Unsaved) -> bool:
        """Write ``unsaved`` if it still stands for what is stored, and drop it."""
        key, replaced = unsaved.record.key, unsaved.replaced
        if unsaved.stands_for(self._store.fetch(key)):
            if replaced is None or replaced.revoked_at is not None:
                self._store.save(unsaved.record)
            else:
                self._store.compare_and_swap_refresh(key, replaced.refresh_token, unsaved.record)
        return self._drop(unsaved)

    def _drop(self, unsaved: Unsaved) -> bool:
        """Forget ``unsaved`` and release its lease; False when somebody has done so."""
        digest = unsaved.record.key.digest
        with self._lock:
            is_there = self.unsaved.get(digest) is unsaved
            if is_there:
                del self.unsaved[digest]
        if is_there:
            _let_go(unsaved.lease)
        return is_there

    def _write_all(self, *, patience: float = 0.0) -> None:
        for unsaved in list(self.unsaved.values()):
            try:
                self._write(unsaved, patience=patience)
            except StoreError as error:
                logger.debug("a record is still unsaved (%s)", type(error).__name__)

    def _write_last(self) -> None:
        """Write what can be written before the end, also behind a writer that is at it."""
        self._write_all(patience=self._bounds.last_flush)

    def _require_writer(self) -> None:
        """Have a thread that writes; one that cannot be started is tried again when next a record is read."""
        with self._lock:
            if self._writer is not None:
                return
            self._closed = threading.Event()
            writer = threading.Thread(target=self._write_on, name="oauth2broker-unsaved", daemon=True)
            atexit.register(self._write_last)
            self._writer = writer
            try:
                writer.start()
            except RuntimeError:
                self._writer = None
                logger.warning("no thread could be started to write what is unsaved")

    def _write_on(self) -> None:
        while True:
            self._closed.wait(self._bounds.flush)
            self._write_all()
            with self._lock:
                if self.unsaved and not self._closed.is_set():
                    continue
                self._writer = None
                if not self.unsaved:
                    atexit.unregister(self._write_last)
                return


def _let_go(lease: ExitStack) -> None:
    """Release a lease; that it fails must not hide what was done under it."""
    try:
        lease.close()
    except StoreError as error:
        logger.warning("a lease could not be released (%s)", type(error).__name__)


def write_surely(write: Callable[[], Written], seconds: float) -> Written:
    """Do ``write``, again and again for that long while the store fails; then raise its StoreError."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return write()
        except StoreError:
            if time.monotonic() + _PAUSE > deadline:
                raise
        time.sleep(_PAUSE)
