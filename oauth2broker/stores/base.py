"""The contract of a store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from enum import Enum, StrEnum
from typing import Final, Literal

from oauth2broker.errors import ConfigError
from oauth2broker.records import StoreKey, TokenRecord
from oauth2broker.secret import TokenSecret


class CompareAndSwapOutcome(StrEnum):
    """How a compare-and-swap ended."""

    UPDATED = "updated"
    REFRESH_MISMATCH = "refresh_mismatch"
    MISSING = "missing"


class _Any(Enum):
    ANY = "any"


ANY: Final = _Any.ANY
"""Stands for "whatever refresh token is stored" where one may be expected."""

ExpectedRefresh = TokenSecret | str | None | Literal[_Any.ANY]


class BrokerStore(ABC):
    """Keeps one record per key. Safe to use from several threads.

    Every method is atomic for its key. A write is durable, as far as the backend can make it, when the call
    returns. Methods raise :class:`StoreError` and nothing else when the backend fails; a stored record that
    cannot be read is a :class:`SerializationError`, never "no record".
    """

    @abstractmethod
    def fetch(self, key: StoreKey) -> TokenRecord | None:
        """Give the record of ``key``, tombstones included."""

    @abstractmethod
    def save(self, record: TokenRecord) -> None:
        """Put ``record`` under its key, whatever is there."""

    @abstractmethod
    def compare_and_swap_refresh(
        self, key: StoreKey, expected_refresh: TokenSecret | str | None, replacement: TokenRecord
    ) -> CompareAndSwapOutcome:
        """Put ``replacement`` under ``key`` if the record there is alive and holds ``expected_refresh``.

        A tombstone, and a record with another refresh token, is REFRESH_MISMATCH; no record is MISSING; both
        change nothing.
        """

    @abstractmethod
    def revoke(
        self, key: StoreKey, instant: datetime, expected_refresh: ExpectedRefresh = ANY
    ) -> TokenRecord | None:
        """Replace the record of ``key`` by its tombstone and give the record that is there afterwards.

        With ``expected_refresh``, only if the record holds that refresh token. None when there is no record.
        """

    @abstractmethod
    def delete(self, key: StoreKey) -> bool:
        """Remove the record of ``key``; say whether there was one."""

    @abstractmethod
    def keys(self) -> Iterator[StoreKey]:
        """Give the keys of all records, tombstones included, in no particular order."""

    def keys_due(self, provider: str, client_id: str, before: datetime) -> Iterator[StoreKey]:
        """Give the keys of that client's records for which :func:`due_at` says ``before`` or earlier.

        More may come: this one gives all of that client. A store with an index need not look at the others.
        """
        return _of_client(self.keys(), provider, client_id)

    def keys_dead(self, provider: str, client_id: str, before: datetime) -> Iterator[StoreKey]:
        """Give the keys of that client's records for which :func:`dead_at` says ``before`` or earlier.

        More may come, as above.
        """
        return _of_client(self.keys(), provider, client_id)

    @abstractmethod
    def refresh_lease(self, key: StoreKey, *, timeout: float) -> AbstractContextManager[bool]:
        """Hold the right to renew ``key`` among all threads and processes that share the store.

        Entering waits up to ``timeout`` seconds and gives True when the lease is ours, False when another
        holder kept it. A holder that dies loses it. Raises :class:`StoreError` when nobody can tell.
        """

    def is_lease_held(self, key: StoreKey) -> bool:
        """Whether the lease of ``key`` that this process has taken is surely still its own.

        A store whose leases lapse in time, and may have lapsed while the process or its network stood still,
        must say. One whose leases end with their holder only, as here, says True.
        """
        return True


def holds_refresh(record: TokenRecord, expected: TokenSecret | str | None) -> bool:
    """Whether ``record`` holds exactly the refresh token ``expected``. For authors of stores."""
    return record.refresh_token == (None if expected is None else TokenSecret(expected))


def due_at(record: TokenRecord) -> datetime | None:
    """When ``record`` must have been renewed: before its access or its refresh token ends. For authors of
    stores. None when it cannot be renewed, or when nobody knows."""
    if record.revoked_at is not None or record.refresh_token is None:
        return None
    ends = [end for end in (record.expires_at, record.refresh_expires_at) if end is not None]
    return min(ends, default=None)


def dead_at(record: TokenRecord) -> datetime | None:
    """Since (or from) when nothing can come of ``record`` any more; None when nobody knows. For authors of
    stores. A lifetime of refresh tokens that a later token has outlived tells nothing."""
    if record.revoked_at is not None:
        return record.revoked_at
    if record.expires_at is None:
        return None
    if record.refresh_token is None:
        return max(record.issued_at, record.expires_at)
    if record.refresh_expires_at is None or record.refresh_expires_at <= record.issued_at:
        return None
    return max(record.issued_at, record.expires_at, record.refresh_expires_at)


def _of_client(keys: Iterator[StoreKey], provider: str, client_id: str) -> Iterator[StoreKey]:
    return (key for key in keys if (key.family.provider, key.family.client_id) == (provider, client_id))


def require_same_key(key: StoreKey, replacement: TokenRecord) -> None:
    """Raise :class:`ConfigError` when a swap would put a record under a key not its own."""
    if replacement.key != key:
        raise ConfigError("the replacement belongs to another key")
