"""Fixtures for the faults: a provider on the real clock, a folder of tokens, processes that end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from oauth2broker import Broker, BrokerStore, FileStore, StoreKey
from oauth2broker.testing import LoopbackProvider
from tests.faults.workers import CLIENT, Crew, Plan
from tests.places import Place
from tests.support import USER_REQUEST


@pytest.fixture
def provider() -> Iterator[LoopbackProvider]:
    """A strict authorization server on loopback, on the real clock, which other processes share."""
    with LoopbackProvider() as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where all processes of a test keep their tokens."""
    return tmp_path / "tokens"


@pytest.fixture
def store(folder: Path) -> FileStore:
    """The test's own view of that folder."""
    return FileStore(folder)


@pytest.fixture
def broker(provider: LoopbackProvider, store: BrokerStore) -> Iterator[Broker]:
    """The test's own broker on that store."""
    with Broker(provider.descriptor(), *CLIENT, store=store) as made:
        yield made


@pytest.fixture
def key(broker: Broker) -> StoreKey:
    """The key of USER_REQUEST."""
    return broker.key_for(USER_REQUEST)


@pytest.fixture
def crew(provider: LoopbackProvider, folder: Path) -> Iterator[Crew]:
    """Starts processes on that folder; kills what is left of them."""
    made = Crew(Plan(Place(str(folder)), provider.descriptor()))
    yield made
    made.dismiss()
