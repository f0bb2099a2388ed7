"""What stores in an engine that hosts share have in common; the engine itself is left to subclasses."""

from __future__ import annotations

import hashlib
import json
import secrets
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime

from oauth2broker.errors import StoreError
from oauth2broker.obs import logger
from oauth2broker.records import StoreKey, TokenRecord
from oauth2broker.secret import TokenSecret
from oauth2broker.stores.base import (
    ANY,
    BrokerStore,
    CompareAndSwapOutcome,
    ExpectedRefresh,
    dead_at,
    due_at,
    holds_refresh,
    require_same_key,
)
from oauth2broker.stores.leases import Holder, Leases, LeaseTimes
from oauth2broker.stores.sealing import RecordCipher, RecordCodec, RewrapReport, Stored, located, rewrap


@dataclass(frozen=True, slots=True)
class Row:
    """What the engine keeps of a record; all of it ASCII.

    ``stamp`` is another one for each write. ``refresh`` is the SHA-256 of the refresh token, or empty;
    ``client`` that of provider and client. ``due`` and ``dead`` are :func:`due_at` and :func:`dead_at` in
    milliseconds since 1970, UTC.
    """

    digest: str
    text: str = field(repr=False)
    stamp: str
    refresh: str
    is_revoked: bool
    client: str
    due: int | None
    dead: int | None


@dataclass(frozen=True, slots=True)
class Found:
    """A record's text as it is in the engine, and the stamp of the write that put it there."""

    digest: str
    text: str = field(repr=False)
    stamp: str


class RemoteStore(BrokerStore):
    """Records and leases in an engine. Safe to use from several threads, and in a child after a fork.

    Subclasses say how the engine does each of the abstract steps, atomically for a key, and raise
    :class:`StoreError` and nothing else when it fails. Each may be done twice when the answer to the first
    was lost.
    """

    _times = LeaseTimes()

    def __init__(self, cipher: RecordCipher | None) -> None:
        self._codec = RecordCodec(cipher)
        self._leases = Leases(self, self._times)

    # What the engine does.

    @abstractmethod
    def read(self, digest: str) -> Found | None:
        """Give what is there."""

    @abstractmethod
    def add(self, row: Row) -> bool:
        """Put it there if no record is there; say so."""

    @abstractmethod
    def swap(self, row: Row, refresh: str) -> CompareAndSwapOutcome:
        """Put it there if a record that is not revoked and has that ``refresh`` is there."""

    @abstractmethod
    def replace(self, row: Row, stamp: str) -> bool:
        """Put it there if what is there has that ``stamp``; say so."""

    @abstractmethod
    def remove(self, digest: str) -> bool:
        """Take the record away; say whether there was one."""

    @abstractmethod
    def scan(self) -> Iterator[Found]:
        """Give all records."""

    @abstractmethod
    def scan_due(self, client: str, before: int) -> Iterator[Found]:
        """Give the records of ``client`` that are due ``before`` or earlier."""

    @abstractmethod
    def scan_dead(self, client: str, before: int) -> Iterator[Found]:
        """Give the records of ``client`` that are dead ``before`` or earlier."""

    @abstractmethod
    def take_lease(self, digest: str, owner: str, seconds: float, abandoned: str | None) -> Holder | None:
        """See :class:`LeaseBackend`."""

    @abstractmethod
    def prolong_leases(self, owners: Mapping[str, str], seconds: float) -> bool:
        """See :class:`LeaseBackend`."""

    @abstractmethod
    def release_lease(self, digest: str, owner: str) -> None:
        """See :class:`LeaseBackend`."""

    # What follows from it.

    def fetch(self, key: StoreKey) -> TokenRecord | None:
        found = self.read(key.digest)
        return None if found is None else self._require_record(found)

    def save(self, record: TokenRecord) -> None:
        """Put ``record`` in the place of what is read there now, and of nothing else.

        So what a network held back does nothing when it arrives after all.
        """
        row = self.build_row(record)
        is_written = False
        while not is_written:
            found = self.read(row.digest)
            is_written = self.add(row) if found is None else self.replace(row, found.stamp)

    def compare_and_swap_refresh(
        self, key: StoreKey, expected_refresh: TokenSecret | str | None, replacement: TokenRecord
    ) -> CompareAndSwapOutcome:
        expected = None if expected_refresh is None else TokenSecret(expected_refresh)
        del expected_refresh  # from here on nothing plain is in this frame
        require_same_key(key, replacement)
        if self._codec.seals:
            self.fetch(key)  # raises for whoever has not the key: what one cannot read, one does not replace
        return self.swap(self.build_row(replacement), _fingerprint(expected))

    def revoke(
        self, key: StoreKey, instant: datetime, expected_refresh: ExpectedRefresh = ANY
    ) -> TokenRecord | None:
        is_any = expected_refresh is ANY
        expected = TokenSecret(expected_refresh) if isinstance(expected_refresh, str | TokenSecret) else None
        del expected_refresh  # from here on nothing plain is in this frame
        while (found := self.read(key.digest)) is not None:
            current = self._require_record(found)
            if current.revoked_at is not None or not (is_any or holds_refresh(current, expected)):
                return current
            tombstone = current.tombstone(instant)
            if self.replace(self.build_row(tombstone), found.stamp):
                return tombstone
        return None

    def delete(self, key: StoreKey) -> bool:
        return self.remove(key.digest)

    def keys(self) -> Iterator[StoreKey]:
        """Give the keys of all records. A record that cannot be read is logged by digest and left out."""
        return self._listed(self.scan())

    def keys_due(self, provider: str, client_id: str, before: datetime) -> Iterator[StoreKey]:
        return self._listed(self.scan_due(client_digest(provider, client_id), milliseconds(before)))

    def keys_dead(self, provider: str, client_id: str, before: datetime) -> Iterator[StoreKey]:
        return self._listed(self.scan_dead(client_digest(provider, client_id), milliseconds(before)))

    def refresh_lease(self, key: StoreKey, *, timeout: float) -> AbstractContextManager[bool]:
        return self._leases.hold(key.digest, timeout)

    def is_lease_held(self, key: StoreKey) -> bool:
        return self._leases.is_held(key.digest)

    def rewrap(self, *, accept_plain: bool = False) -> RewrapReport:
        """Seal with the cipher's newest key what another key has sealed, while the store is in use.

        ``accept_plain``: also what was written when there was no cipher. A record that cannot be opened is
        left as it is. Raises :class:`ConfigError` without a cipher, :class:`StoreError`.
        """
        return rewrap(
            self._codec,
            ((found.digest, _stored(found)) for found in self.scan()),
            lambda digest: _stored(self.read(digest)),
            lambda record, stamp: self.replace(self.build_row(record), stamp),
            accept_plain=accept_plain,
        )

    def _listed(self, found: Iterator[Found]) -> Iterator[StoreKey]:
        for one in found:
            record = self._codec.decode(one.digest, one.text)
            if isinstance(record, StoreError):
                logger.warning("left out of the listing: record %s: %s", one.digest, record)
            else:
                yield record.key

    def _require_record(self, found: Found) -> TokenRecord:
        record = self._codec.decode(found.digest, found.text)
        if isinstance(record, StoreError):
            raise located(record, f"record {found.digest}")
        return record

    def build_row(self, record: TokenRecord) -> Row:
        """Give what the engine keeps of ``record``, with a stamp of its own."""
        text = self._codec.encode(record)
        if isinstance(text, StoreError):
            raise text
        return Row(
            record.key.digest,
            text,
            secrets.token_hex(8),
            _fingerprint(record.refresh_token),
            record.revoked_at is not None,
            client_digest(record.family.provider, record.family.client_id),
            _optional_milliseconds(due_at(record)),
            _optional_milliseconds(dead_at(record)),
        )


def _stored(found: Found | None) -> Stored[str] | None:
    return None if found is None else Stored(TokenSecret(found.text), found.stamp)


def client_digest(provider: str, client_id: str) -> str:
    """Name a client at a provider without telling who it is."""
    return hashlib.sha256(json.dumps([provider, client_id]).encode("ascii")).hexdigest()


def milliseconds(instant: datetime) -> int:
    """Give milliseconds since 1970, UTC."""
    return int(instant.timestamp() * 1000)


def _optional_milliseconds(instant: datetime | None) -> int | None:
    return None if instant is None else milliseconds(instant)


def _fingerprint(refresh_token: TokenSecret | None) -> str:
    return "" if refresh_token is None else refresh_token.fingerprint()
