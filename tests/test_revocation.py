"""Ending a grant: at the provider, then in the store."""

from __future__ import annotations

import pytest

from oauth2broker import Broker, InvalidClientError, RevokedError, TransportError
from oauth2broker.testing import LoopbackProvider
from tests.support import USER_REQUEST, ManualClock, log_in


def test_revoking_ends_the_grant_at_the_provider_and_in_the_store(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """RFC 7009: the family is dead there; here a tombstone says so without a call."""
    record = log_in(broker, provider)
    tombstone = broker.revoke(USER_REQUEST)
    assert tombstone is not None
    assert tombstone.revoked_at == clock.now
    assert not provider.is_live(record.access_token.expose())
    provider.clear()
    with pytest.raises(RevokedError):
        broker.refresh_access_token(USER_REQUEST)
    assert provider.token_calls == 0


def test_revoking_twice_or_nothing_calls_nobody(broker: Broker, provider: LoopbackProvider) -> None:
    """A tombstone stays what it is; where nothing is stored there is nothing to do."""
    assert broker.revoke(USER_REQUEST) is None
    log_in(broker, provider)
    tombstone = broker.revoke(USER_REQUEST)
    assert broker.revoke(USER_REQUEST) == tombstone
    assert provider.revocations == 1


def test_a_provider_without_the_endpoint_is_not_asked(provider: LoopbackProvider) -> None:
    """Then the store alone knows."""
    descriptor = provider.descriptor(revocation_endpoint=None)
    with Broker(descriptor, "demo-client", "demo-secret") as broker:
        log_in(broker, provider)
        assert broker.revoke(USER_REQUEST) is not None
    assert provider.revocations == 0


def test_when_the_provider_cannot_be_asked_the_store_stays_as_it_was(
    broker: Broker, provider: LoopbackProvider
) -> None:
    """The caller knows that nothing happened, and can call again."""
    record = log_in(broker, provider)
    provider.close()
    with pytest.raises(TransportError):
        broker.revoke(USER_REQUEST)
    assert broker.store.fetch(record.key) == record
    provider.start()
    assert broker.revoke(USER_REQUEST) is not None


def test_wrong_client_credentials_at_the_revocation_endpoint_are_told(
    broker: Broker, provider: LoopbackProvider
) -> None:
    """And the grant is not dropped for it."""
    record = log_in(broker, provider)
    with Broker(provider.descriptor(), "demo-client", "wrong", store=broker.store) as other:
        with pytest.raises(InvalidClientError):
            other.revoke(USER_REQUEST)
    assert broker.store.fetch(record.key) == record


def test_a_login_after_a_logout_replaces_the_tombstone(broker: Broker, provider: LoopbackProvider) -> None:
    """The user may always come back."""
    log_in(broker, provider)
    broker.revoke(USER_REQUEST)
    record = log_in(broker, provider)
    assert broker.refresh_access_token(USER_REQUEST) is record
