"""Service tokens: cached, renewed once, and never mixed up with users' tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from oauth2broker import (
    BackendError,
    Broker,
    CachedTokenRequest,
    ConfigError,
    GrantType,
    InvalidClientError,
    MemoryStore,
    RevokedError,
    StoreKey,
    TokenRecord,
    TransientError,
    TransportError,
)
from oauth2broker.testing import Fault, LoopbackProvider
from tests.support import SERVICE_REQUEST, TENANT, Crowd, ManualClock

GRANT = GrantType.CLIENT_CREDENTIALS


def test_a_token_is_obtained_once_and_then_served_from_the_store(
    broker: Broker, provider: LoopbackProvider
) -> None:
    """The second call gets the very record of the first; forcing gets another."""
    first = broker.client_credentials(SERVICE_REQUEST)
    assert broker.client_credentials(SERVICE_REQUEST) is first
    assert provider.token_calls == 1
    forced = broker.client_credentials(SERVICE_REQUEST.force_refresh())
    assert forced.access_token != first.access_token
    assert first.refresh_token is None


def test_many_threads_without_a_token_make_one_call(broker: Broker, provider: LoopbackProvider) -> None:
    """FAULTS 1 for service tokens, from an empty store."""
    provider.latency = 0.05
    crowd = Crowd(32, lambda: broker.client_credentials(SERVICE_REQUEST)).start().join()
    assert crowd.errors == []
    assert len({record.access_token.expose() for record in crowd.results}) == 1
    assert provider.token_calls == 1


def test_two_brokers_on_one_store_obtain_one_token(provider: LoopbackProvider) -> None:
    """The second waits for the store's lease and adopts what the first has stored."""
    store = MemoryStore()
    brokers = [Broker(provider.descriptor(), "demo-client", "demo-secret", store=store) for _ in "12"]
    provider.latency = 0.2
    turns = iter(brokers)
    crowd = Crowd(2, lambda: next(turns).client_credentials(SERVICE_REQUEST)).start().join()
    assert crowd.errors == []
    assert crowd.results[0] == crowd.results[1]
    assert provider.token_calls == 1
    for each in brokers:
        each.close()


def test_an_expired_token_is_renewed(broker: Broker, provider: LoopbackProvider, clock: ManualClock) -> None:
    """Ahead in the advisory window, and at the latest when it no longer serves."""
    first = broker.client_credentials(SERVICE_REQUEST)
    clock.advance(3600 - 30)
    second = broker.client_credentials(SERVICE_REQUEST)
    clock.advance(7200)
    third = broker.client_credentials(SERVICE_REQUEST)
    assert len({first.access_token, second.access_token, third.access_token}) == 3


def test_different_scopes_and_resources_have_tokens_of_their_own(broker: Broker) -> None:
    """FAULTS 29: whatever changes the token is in the key."""
    plain = broker.client_credentials(CachedTokenRequest(TENANT, "svc", "a"))
    other = broker.client_credentials(CachedTokenRequest(TENANT, "svc", "b"))
    audience = broker.client_credentials(
        CachedTokenRequest(TENANT, "svc", "a", resource="https://api.example")
    )
    assert len({plain.key.digest, other.key.digest, audience.key.digest}) == 3
    assert broker.key_for(CachedTokenRequest(TENANT, "svc", "a")) != plain.key


def test_a_lost_answer_is_asked_for_once_more(broker: Broker, provider: LoopbackProvider) -> None:
    """Nothing in a service token is single-use: the caller never notices."""
    provider.inject(Fault.lost_answer())
    assert broker.client_credentials(SERVICE_REQUEST).access_token
    assert provider.token_calls == 2


def test_a_token_lives_from_the_call_that_brought_it(provider: LoopbackProvider, clock: ManualClock) -> None:
    """Not from one whose answer was lost, nor from before the client's secret was looked up."""

    def give_slowly() -> str:
        clock.advance(30.0)
        return "demo-secret"

    with Broker(provider.descriptor(), "demo-client", give_slowly, clock=clock) as broker:
        provider.inject(Fault.lost_answer())
        assert broker.client_credentials(SERVICE_REQUEST).issued_at == clock.now


def test_a_provider_that_repeats_a_rejected_token_is_not_asked_by_every_caller(
    broker: Broker, provider: LoopbackProvider
) -> None:
    """Some give one token for as long as it lives: then it is said when to come back."""
    rejected = broker.client_credentials(SERVICE_REQUEST)
    same = rejected.access_token.expose()
    provider.inject(Fault.rewrite(lambda payload: {**payload, "access_token": same}), times=9)
    for _ in range(3):
        with pytest.raises(TransientError) as refused:
            broker.client_credentials(SERVICE_REQUEST.rejecting(rejected))
        assert refused.value.retry_after is not None
    assert provider.token_calls == 2
    assert broker.client_credentials(SERVICE_REQUEST).access_token.expose() == same


def test_a_provider_that_fails_is_not_hammered(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """FAULTS 11: until the back-off is over, nobody calls; also where no token was ever obtained."""
    provider.inject(Fault.lost_answer(), times=2)
    with pytest.raises(TransportError) as lost:
        broker.client_credentials(SERVICE_REQUEST)
    with pytest.raises(TransientError) as waiting:
        broker.client_credentials(SERVICE_REQUEST)
    assert (provider.token_calls, lost.value.retry_after, waiting.value.retry_after) == (2, 1.0, 1.0)
    clock.advance(1.0)
    broker.client_credentials(SERVICE_REQUEST)
    assert provider.token_calls == 3


def test_wrong_credentials_are_the_operators_mistake(provider: LoopbackProvider) -> None:
    """FAULTS 17: a configuration error, each time, and nothing is stored."""
    with Broker(provider.descriptor(), "demo-client", "wrong") as broker:
        for _ in range(2):
            with pytest.raises(InvalidClientError) as refused:
                broker.client_credentials(SERVICE_REQUEST)
            assert (refused.value.status, refused.value.retryable) == (401, False)
        assert list(broker.store.keys()) == []


def test_a_provider_without_the_grant_is_refused_before_anything(provider: LoopbackProvider) -> None:
    """Descriptor rules hold for every flow."""
    descriptor = provider.descriptor(grants={GrantType.AUTHORIZATION_CODE, GrantType.REFRESH_TOKEN})
    with Broker(descriptor, "demo-client", "demo-secret") as broker, pytest.raises(ConfigError):
        broker.client_credentials(SERVICE_REQUEST)
    service_only = provider.descriptor(grants={GRANT})
    with Broker(service_only, "demo-client", "demo-secret") as broker, pytest.raises(ConfigError):
        broker.refresh_access_token(SERVICE_REQUEST)


class NoLeaseStore(MemoryStore):
    """Its lease's backend is down."""

    @contextmanager
    def refresh_lease(self, key: StoreKey, *, timeout: float) -> Iterator[bool]:
        raise BackendError("no lease")
        yield False


class ReadOnlyStore(MemoryStore):
    """Refuses writes."""

    def save(self, record: TokenRecord) -> None:
        raise BackendError("read-only")


@pytest.mark.parametrize("store", [NoLeaseStore(), ReadOnlyStore()])
def test_a_broken_store_does_not_keep_a_service_from_its_token(
    provider: LoopbackProvider, store: MemoryStore
) -> None:
    """FAULTS 9: without a lease or a place to keep it, a service token is obtained all the same."""
    with Broker(provider.descriptor(), "demo-client", "demo-secret", store=store) as broker:
        record = broker.client_credentials(SERVICE_REQUEST)
    assert record.access_token


def test_a_failure_that_cannot_be_noted_is_told_all_the_same(provider: LoopbackProvider) -> None:
    """The caller hears of the provider, not of the store."""
    provider.inject(Fault.html(502))
    with Broker(provider.descriptor(), "demo-client", "demo-secret", store=ReadOnlyStore()) as broker:
        with pytest.raises(TransientError) as failed:
            broker.client_credentials(SERVICE_REQUEST)
    assert failed.value.status == 502


def test_a_refresh_token_for_a_service_is_not_kept(broker: Broker, provider: LoopbackProvider) -> None:
    """RFC 6749 section 4.4.3: nor is its lifetime, which would say when the record is dead."""
    provider.inject(
        Fault.rewrite(lambda payload: {**payload, "refresh_token": "r", "refresh_expires_in": 60})
    )
    record = broker.client_credentials(SERVICE_REQUEST)
    assert (record.refresh_token, record.refresh_expires_at) == (None, None)


def test_revoking_a_service_token_deletes_it(broker: Broker, provider: LoopbackProvider) -> None:
    """No tombstone: the next call obtains another."""
    record = broker.client_credentials(SERVICE_REQUEST)
    assert broker.revoke(SERVICE_REQUEST, GRANT) is None
    assert not provider.is_live(record.access_token.expose())
    assert broker.store.fetch(record.key) is None
    assert broker.client_credentials(SERVICE_REQUEST).access_token != record.access_token


def test_an_operators_tombstone_on_a_service_token_is_respected(broker: Broker, clock: ManualClock) -> None:
    """What was revoked in the store by hand is not obtained again behind the operator's back."""
    record = broker.client_credentials(SERVICE_REQUEST)
    broker.store.revoke(record.key, clock.now)
    with pytest.raises(RevokedError):
        broker.client_credentials(SERVICE_REQUEST)


def test_a_tombstone_that_comes_before_the_lease_is_respected(
    provider: LoopbackProvider, clock: ManualClock
) -> None:
    """What was revoked after the caller had read it is not obtained again either."""

    class RevokedMeanwhile(MemoryStore):
        @contextmanager
        def refresh_lease(self, key: StoreKey, *, timeout: float) -> Iterator[bool]:
            self.revoke(key, clock.now)
            with super().refresh_lease(key, timeout=timeout) as is_ours:
                yield is_ours

    store = RevokedMeanwhile()
    with Broker(provider.descriptor(), "demo-client", "demo-secret", store=store, clock=clock) as broker:
        broker.client_credentials(SERVICE_REQUEST)
        with pytest.raises(RevokedError):
            broker.client_credentials(SERVICE_REQUEST.force_refresh())
    assert provider.token_calls == 1


def test_who_looked_before_a_token_was_unsaved_finds_it_all_the_same(provider: LoopbackProvider) -> None:
    """FAULTS 4: what the store would not take is adopted, not asked for again."""

    class SlowToRead(ReadOnlyStore):
        is_first = True

        def fetch(self, key: StoreKey) -> TokenRecord | None:
            found, was_first = super().fetch(key), self.is_first
            self.is_first = False
            if was_first:
                Crowd(1, lambda: broker.client_credentials(SERVICE_REQUEST)).start().join()
            return found

    with Broker(provider.descriptor(), "demo-client", "demo-secret", store=SlowToRead()) as broker:
        record = broker.client_credentials(SERVICE_REQUEST)
        assert broker.unsaved == {record.key: record}
    assert provider.token_calls == 1
