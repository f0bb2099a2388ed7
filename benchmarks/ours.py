"""The library's side of the experiments: brokers that hold tokens which still work."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta

from benchmarks.provider import CLIENT_ID, CLIENT_SECRET
from oauth2broker import (
    Broker,
    BrokerStore,
    CachedTokenRequest,
    GrantType,
    ProviderDescriptor,
    TokenFamily,
    TokenRecord,
)

USER = CachedTokenRequest("tenant-acme", "user-1", ["openid", "profile"])
SERVICE = CachedTokenRequest("tenant-acme", "svc-router", ["email.read", "profile.read"])
LIFETIME = timedelta(hours=12)
NEIGHBOURS = 100
"""How many other tokens lie in a store or cache that one token is looked up in, ours or a peer's."""

DESCRIPTOR = ProviderDescriptor(
    id="demo-provider",
    authorization_endpoint="https://provider.example.com/authorize",
    token_endpoint="https://provider.example.com/token",
    grants={GrantType.AUTHORIZATION_CODE, GrantType.REFRESH_TOKEN, GrantType.CLIENT_CREDENTIALS},
)


def make_record(request: CachedTokenRequest, grant: GrantType) -> TokenRecord:
    """Make what a provider issues: random tokens of 43 characters, and times."""
    now = datetime.now(UTC)
    is_service = grant is GrantType.CLIENT_CREDENTIALS
    return TokenRecord(
        family=TokenFamily(request.tenant, request.principal, DESCRIPTOR.id, CLIENT_ID),
        scope=request.scope,
        grant=grant,
        access_token=secrets.token_urlsafe(32),
        refresh_token=None if is_service else secrets.token_urlsafe(32),
        issued_at=now,
        expires_at=now + LIFETIME,
    )


def user_requests(count: int) -> list[CachedTokenRequest]:
    """Give the requests of so many users, none of whom is USER."""
    return [CachedTokenRequest("tenant-acme", f"neighbour-{number}", USER.scope) for number in range(count)]


def user_records(count: int) -> list[TokenRecord]:
    """Give the records of those users."""
    return [make_record(request, GrantType.AUTHORIZATION_CODE) for request in user_requests(count)]


def broker_with_tokens(store: BrokerStore, neighbours: int = NEIGHBOURS) -> Broker:
    """Make a broker whose store holds tokens of USER, SERVICE and neighbours. It needs no network."""
    store.save(make_record(SERVICE, GrantType.CLIENT_CREDENTIALS))
    store.save(make_record(USER, GrantType.AUTHORIZATION_CODE))
    for record in user_records(neighbours):
        store.save(record)
    return Broker(DESCRIPTOR, CLIENT_ID, CLIENT_SECRET, store=store)
