"""Fixtures for tests of programs that use a broker. Nothing is there until a project asks for it::

    pytest_plugins = ["oauth2broker.testing.pytest_plugin"]  # in the topmost conftest.py

``oauth2_descriptor`` is there to be overridden: a fixture of that name in a conftest or a test module says
which provider the others are. All fixtures are made anew for each test.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from oauth2broker.testing.clock import FrozenClock

if TYPE_CHECKING:
    from oauth2broker.flows.broker import Broker
    from oauth2broker.provider.descriptor import ProviderDescriptor
    from oauth2broker.testing.fake_provider import FakeProvider
    from oauth2broker.testing.loopback import LoopbackProvider


@pytest.fixture
def oauth2_clock() -> FrozenClock:
    """A clock that stands still: oauth2_clock.advance(3600) lets an hour pass for provider and broker."""
    return FrozenClock()


@pytest.fixture
def oauth2_descriptor() -> ProviderDescriptor | None:
    """The provider that oauth2_provider is; override it with yours. None: one that has everything."""
    return None


@pytest.fixture
def oauth2_provider(
    oauth2_descriptor: ProviderDescriptor | None, oauth2_clock: FrozenClock
) -> Iterator[FakeProvider]:
    """A FakeProvider at work: a provider without sockets, by oauth2_clock. Fails tests that go elsewhere."""
    from oauth2broker.testing.fake_provider import FakeProvider

    with FakeProvider(oauth2_descriptor, clock=oauth2_clock) as provider:
        yield provider


@pytest.fixture
def oauth2_broker(oauth2_provider: FakeProvider, oauth2_clock: FrozenClock) -> Iterator[Broker]:
    """A broker of oauth2_provider ("client-id", "client-secret"), by oauth2_clock, on a MemoryStore."""
    from oauth2broker.flows.broker import Broker

    descriptor = oauth2_provider.descriptor
    with Broker(descriptor, "client-id", "client-secret", clock=oauth2_clock) as broker:
        yield broker


@pytest.fixture
def loopback_provider(oauth2_clock: FrozenClock) -> Iterator[LoopbackProvider]:
    """A LoopbackProvider at work: a real authorization server on 127.0.0.1, by oauth2_clock."""
    from oauth2broker.testing.loopback import LoopbackProvider

    with LoopbackProvider(clock=oauth2_clock) as provider:
        yield provider
