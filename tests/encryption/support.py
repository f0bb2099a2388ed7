"""Keys, stores that use them, and a store in an engine that is a dict."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

from oauth2broker import (
    AesGcmCipher,
    CompareAndSwapOutcome,
    FileStore,
    RecordCipher,
    TokenRecord,
    TokenSecret,
)
from oauth2broker.stores.leases import Holder
from oauth2broker.stores.remote import Found, RemoteStore, Row

OLD, NEW, OTHER = (base64.b64encode(bytes([number]) * 32).decode() for number in (251, 252, 253))
SECRETS = ["access-0", "refresh-0", "header.payload.signature"]  # what make_record puts in a record
SEALED = "oauth2broker:sealed:1:"


def sealing(folder: Path, *keys: str) -> FileStore:
    """Open a store with these keys, newest first."""
    return FileStore(folder, cipher=AesGcmCipher(list(keys)))


def file_of(folder: Path, record: TokenRecord) -> Path:
    """Where a record is."""
    return folder / f"{record.key.digest}.json"


def records_in(folder: Path) -> dict[str, bytes]:
    """Give the records' files as they are."""
    return {path.name: path.read_bytes() for path in folder.glob("*.json")}


def fail(error: BaseException, secret: str) -> NoReturn:
    """Raise ``error`` as code does that has something to hide: in its locals, and in what led to it."""
    error.__context__ = ValueError(secret)
    raise error


class Intruding(AesGcmCipher):
    """Lets somebody else act between the moment that a record was read and what is done with it, once."""

    act: Callable[[], object] | None = None

    def open(self, sealed: str, place: str) -> TokenSecret:
        act, self.act = self.act, None
        if act is not None:
            act()
        return super().open(sealed, place)


class Shelf(RemoteStore):
    """What stores in engines have in common, in an engine that is a dict of this process."""

    def __init__(self, rows: dict[str, Row], cipher: RecordCipher | None) -> None:
        super().__init__(cipher)
        self.rows = rows
        self._lock = threading.Lock()

    def read(self, digest: str) -> Found | None:
        row = self.rows.get(digest)
        return None if row is None else Found(digest, row.text, row.stamp)

    def add(self, row: Row) -> bool:
        with self._lock:
            return self.rows.setdefault(row.digest, row) is row

    def swap(self, row: Row, refresh: str) -> CompareAndSwapOutcome:
        with self._lock:
            current = self.rows.get(row.digest)
            if current is None:
                return CompareAndSwapOutcome.MISSING
            if current.is_revoked or current.refresh != refresh:
                return CompareAndSwapOutcome.REFRESH_MISMATCH
            self.rows[row.digest] = row
            return CompareAndSwapOutcome.UPDATED

    def replace(self, row: Row, stamp: str) -> bool:
        with self._lock:
            current = self.rows.get(row.digest)
            is_unchanged = current is not None and current.stamp == stamp
            if is_unchanged:
                self.rows[row.digest] = row
            return is_unchanged

    def remove(self, digest: str) -> bool:
        with self._lock:
            return self.rows.pop(digest, None) is not None

    def scan(self) -> Iterator[Found]:
        return iter([Found(row.digest, row.text, row.stamp) for row in list(self.rows.values())])

    def scan_due(self, client: str, before: int) -> Iterator[Found]:
        return self.scan()

    def scan_dead(self, client: str, before: int) -> Iterator[Found]:
        return self.scan()

    def take_lease(self, digest: str, owner: str, seconds: float, abandoned: str | None) -> Holder | None:
        return None

    def prolong_leases(self, owners: Mapping[str, str], seconds: float) -> bool:
        return True

    def release_lease(self, digest: str, owner: str) -> None:
        """Nobody waits for them here."""
