"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from oauth2broker import Broker
from oauth2broker.testing import LoopbackProvider
from tests.support import ManualClock

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")  # how busy the machine is proves nothing


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still until moved."""
    return ManualClock()


@pytest.fixture
def provider(clock: ManualClock) -> Iterator[LoopbackProvider]:
    """A strict authorization server on loopback, on the test's clock."""
    with LoopbackProvider(clock=clock) as running:
        yield running


@pytest.fixture
def broker(provider: LoopbackProvider, clock: ManualClock) -> Iterator[Broker]:
    """A confidential client of ``provider`` on a MemoryStore, on the test's clock."""
    with Broker(provider.descriptor(), "demo-client", "demo-secret", clock=clock) as made:
        yield made
