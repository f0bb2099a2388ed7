"""How to unit-test code that uses a broker: mock the provider with the ``responses`` package.

Run with ``pytest examples/test_with_responses.py`` or ``python examples/test_with_responses.py``. No network:
a request that no mock was prepared for fails the test. When the behaviour of a whole provider matters
(rotation, consent, lost answers), use `oauth2broker.testing.LoopbackProvider` instead.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import parse_qsl

import pytest
import requests
import responses

from oauth2broker import (
    Broker,
    BrokerError,
    CachedTokenRequest,
    GrantType,
    InvalidGrantError,
    MemoryStore,
    ProviderDescriptor,
    TokenRecord,
)

TOKEN_URL = "https://provider.example.com/token"
API_URL = "https://api.example.com/me"
USER = CachedTokenRequest("tenant-acme", "user-1", "profile.read")


# The code under test. In your project it is in a module of its own.


def fetch_profile(broker: Broker) -> str:
    """Ask an API for the user's name, or say what to do instead."""
    try:
        record = broker.refresh_access_token(USER)
    except InvalidGrantError:
        return "please log in again"
    except BrokerError as error:
        if not error.retryable:
            raise  # a mistake in the configuration, say: nothing that the user can do about
        return f"please try again in {error.retry_after or 1:.0f} s"
    headers = {"Authorization": f"Bearer {record.access_token.expose()}"}
    name: str = requests.get(API_URL, headers=headers, timeout=10).json()["name"]
    return name


# Its tests.


@pytest.fixture
def web() -> Iterator[responses.RequestsMock]:
    """Stands for the network; also fails a test that did not make the calls it prepared."""
    with responses.RequestsMock() as mock:
        yield mock


@pytest.fixture
def broker() -> Iterator[Broker]:
    """A broker whose store holds a user's expired token and the refresh token that goes with it."""
    descriptor = ProviderDescriptor(
        id="demo-provider", token_endpoint=TOKEN_URL, grants={GrantType.REFRESH_TOKEN}
    )
    store = MemoryStore()
    with Broker(descriptor, "demo-client", "demo-secret", store=store) as made:
        issued, expired = datetime(2026, 1, 1, 9, tzinfo=UTC), datetime(2026, 1, 1, 10, tzinfo=UTC)
        store.save(
            TokenRecord(
                family=made.key_for(USER).family,
                scope=USER.scope,
                access_token="expired-token",
                refresh_token="refresh-token",
                issued_at=issued,
                expires_at=expired,
            )
        )
        yield made


def form_of(call: responses.Call) -> dict[str, str]:
    """Give what a request to the token endpoint carried."""
    body = call.request.body or ""
    return dict(parse_qsl(body if isinstance(body, str) else body.decode()))


def test_two_api_calls_share_one_token(broker: Broker, web: responses.RequestsMock) -> None:
    """The token is fetched once, with the stored refresh token, and both API calls carry it."""
    answer = {"access_token": "fresh-token", "token_type": "Bearer", "expires_in": 3600}
    token = web.post(TOKEN_URL, json=answer)
    bearer = responses.matchers.header_matcher({"Authorization": "Bearer fresh-token"})
    api = web.get(API_URL, json={"name": "Alice"}, match=[bearer])

    assert [fetch_profile(broker), fetch_profile(broker)] == ["Alice", "Alice"]
    assert (token.call_count, api.call_count) == (1, 2)
    assert form_of(token.calls[0]) == {"grant_type": "refresh_token", "refresh_token": "refresh-token"}


def test_a_dead_grant_means_login_again(broker: Broker, web: responses.RequestsMock) -> None:
    """After invalid_grant the provider is not asked again: the broker remembers that the grant is dead."""
    token = web.post(TOKEN_URL, status=400, json={"error": "invalid_grant"})

    assert fetch_profile(broker) == "please log in again"
    assert fetch_profile(broker) == "please log in again"
    assert token.call_count == 1


def test_an_outage_means_try_later(broker: Broker, web: responses.RequestsMock) -> None:
    """A 503 leaves the grant alone, and the provider is left alone for as long as it asked."""
    token = web.post(TOKEN_URL, status=503, headers={"Retry-After": "7"})

    assert fetch_profile(broker) == "please try again in 7 s"
    fetch_profile(broker)
    assert token.call_count == 1
    record = broker.store.fetch(broker.key_for(USER))
    assert record is not None
    assert record.revoked_at is None


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
