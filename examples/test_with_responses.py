"""How to unit-test code that uses a broker beside your own mocks of the ``responses`` package.

Run with ``pytest examples/test_with_responses.py`` or ``python examples/test_with_responses.py``. No network:
a request that no mock was prepared for fails the test. `FakeProvider` is the provider; test_flask_app.py has
the same with ready-made fixtures. Where sockets or processes matter, use
`oauth2broker.testing.LoopbackProvider` instead.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import requests
import responses

from oauth2broker import Broker, BrokerAuth, BrokerError, CachedTokenRequest
from oauth2broker.testing import FakeProvider, FrozenClock

API_URL = "https://api.example.com/me"
USER = CachedTokenRequest("tenant-acme", "user-1", "profile.read")


# The code under test. In your project it is in a module of its own.


def fetch_profile(broker: Broker) -> str:
    """Ask an API for the user's name, or say what to do instead."""
    try:
        answer = requests.get(API_URL, auth=BrokerAuth(broker, USER), timeout=10)
    except BrokerError as error:
        if error.reauthorize:
            return "please log in again"
        if not error.retryable:
            raise  # a mistake in the configuration, say: nothing that the user can do about
        return f"please try again in {error.retry_after or 1:.0f} s"
    name: str = answer.json()["name"]
    return name


# Its tests.


@pytest.fixture
def clock() -> FrozenClock:
    """The time, for provider and broker."""
    return FrozenClock()


@pytest.fixture
def web() -> Iterator[responses.RequestsMock]:
    """Stands for the network; also fails a test that did not make the calls it prepared."""
    with responses.RequestsMock() as mock:
        yield mock


@pytest.fixture
def provider(web: responses.RequestsMock, clock: FrozenClock) -> Iterator[FakeProvider]:
    """A provider on that network."""
    with FakeProvider(mock=web, clock=clock) as fake:
        yield fake


@pytest.fixture
def broker(provider: FakeProvider, clock: FrozenClock) -> Iterator[Broker]:
    """A broker whose store holds a user's expired token and the refresh token that goes with it."""
    with Broker(provider.descriptor, "demo-client", "demo-secret", clock=clock) as made:
        provider.will_issue(access_token="expired-token", refresh_token="refresh-token")
        provider.log_in(made, USER.tenant, USER.principal, USER.scope)
        clock.advance(3600)
        yield made


def test_two_api_calls_share_one_token(
    broker: Broker, provider: FakeProvider, web: responses.RequestsMock
) -> None:
    """The token is fetched once, with the stored refresh token, and both API calls carry it."""
    provider.will_issue(access_token="fresh-token")
    bearer = responses.matchers.header_matcher({"Authorization": "Bearer fresh-token"})
    api = web.get(API_URL, json={"name": "Alice"}, match=[bearer])

    assert [fetch_profile(broker), fetch_profile(broker)] == ["Alice", "Alice"]
    assert api.call_count == 2
    (renewal,) = provider.calls[1:]  # the first was the login
    assert (renewal.grant_type, renewal.params["refresh_token"]) == ("refresh_token", "refresh-token")


def test_a_dead_grant_means_login_again(broker: Broker, provider: FakeProvider) -> None:
    """After invalid_grant the provider is not asked again: the broker remembers that the grant is dead."""
    provider.revoke_grant("user-1")

    assert fetch_profile(broker) == "please log in again"
    assert fetch_profile(broker) == "please log in again"
    assert [call.error for call in provider.calls[1:]] == ["invalid_grant"]


def test_an_outage_means_try_later(broker: Broker, provider: FakeProvider, clock: FrozenClock) -> None:
    """A 503 leaves the grant alone, and the provider is left alone for as long as it asked."""
    provider.will_answer(503, headers={"Retry-After": "7"})

    assert fetch_profile(broker) == "please try again in 7 s"
    clock.advance(3)
    assert fetch_profile(broker) == "please try again in 4 s"
    assert [call.status for call in provider.calls[1:]] == [503]
    record = broker.store.fetch(broker.key_for(USER))
    assert record is not None
    assert record.revoked_at is None


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
