"""What tests of TieredStore need: a back that is counted and stopped, and a clock for ages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Self

import pytest

from oauth2broker import (
    MemoryStore,
    StoreKey,
    TokenRecord,
    TokenSecret,
)
from oauth2broker.testing.store_contract import make_record

RECORD = make_record()
NEWER = replace(RECORD, access_token=TokenSecret("access-1"), refresh_token=TokenSecret("refresh-1"))
KEY = RECORD.key
PATIENCE = 30.0


class Back(MemoryStore):
    """A distant store: counts reads, can fail, and lets a test stop reads and writes half-way."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.error: Exception | None = None
        self.after_read: Callable[[], object] = bool
        self.before_write: Callable[[], object] = bool

    @classmethod
    def holding(cls, record: TokenRecord) -> Self:
        """Make one in which there is a record."""
        made = cls()
        made.save(record)
        return made

    def fetch(self, key: StoreKey) -> TokenRecord | None:
        self.reads += 1
        found = super().fetch(key)
        self.after_read()
        if self.error is not None:
            raise self.error
        return found

    def save(self, record: TokenRecord) -> None:
        self.before_write()
        super().save(record)


class Seconds:
    """A monotonic clock that moves when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    @classmethod
    def rule(cls, monkeypatch: pytest.MonkeyPatch) -> Self:
        """Let one rule over the ages of what is near."""
        made = cls()
        monkeypatch.setattr("oauth2broker.stores.tiered.time", SimpleNamespace(monotonic=made))
        return made
