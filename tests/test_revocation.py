"""Ending a grant: at the provider, then in the store."""

from __future__ import annotations

import json

import pytest

from oauth2broker import (
    Broker,
    BrokerError,
    ConfigError,
    HttpResponse,
    InvalidClientError,
    ProviderQuirks,
    RevokedError,
    TransientError,
    TransportError,
)
from oauth2broker.testing import LoopbackProvider
from tests import test_provider_data as data
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


QUIRKS = ProviderQuirks(error_codes={"gone": "invalid_token", "17": "invalid_client"}, error_paths=["why"])


def said(status: int, body: object = "") -> HttpResponse:
    """Give an answer of the revocation endpoint."""
    text = body if isinstance(body, str) else json.dumps(body)
    return HttpResponse(status, {"Retry-After": "7"}, text.encode())


@pytest.mark.parametrize(
    "answer",
    [
        said(200),
        said(204),
        said(299, "<html>"),
        said(200, {"revoked": True}),
        said(200, {"why": "a word that nobody knows"}),
        said(200, {"error": ""}),
        *(
            said(400, {"error": code})
            for code in ("unsupported_token_type", "invalid_token", "invalid_grant")
        ),
        said(200, {"error": "invalid_token"}),
        said(404, {"why": "gone"}),
    ],
)
def test_what_is_gone_or_cannot_be_revoked_ends_in_the_store(answer: HttpResponse) -> None:
    """RFC 7009 section 2.2: a token that is not valid is no error; here the grant ends either way."""
    broker = data.make(data.Wire(data.ANSWER, answer), quirks=QUIRKS)
    data.log_in(broker)
    tombstone = broker.revoke(USER_REQUEST)
    assert tombstone is not None
    assert tombstone.revoked_at is not None


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        *((said(status), ConfigError, "the revocation endpoint redirects") for status in (300, 302, 399)),
        (said(300, {"error": "invalid_token"}), ConfigError, "the revocation endpoint redirects"),
        (said(400, {"error": "invalid_request"}), ConfigError, "refused the revocation: invalid_request"),
        (said(200, {"error": "invalid_request"}), ConfigError, "refused the revocation: invalid_request"),
        (said(200, {"error": "odd"}), ConfigError, "refused the revocation: odd"),
        (said(200, {"ok": False, "why": "odd"}), ConfigError, "refused the revocation: odd"),
        (said(200, {"why": 17}), InvalidClientError, "invalid_client"),
        (said(401, {"error": "invalid_client"}), InvalidClientError, "invalid_client"),
        (said(400, {"no": "code"}), TransientError, "answered 400 with a body that has no error code"),
        (said(404, "<html>"), TransientError, "answered 404 with a body that"),
        (said(199, "<html>"), TransientError, "answered 199 with a body that"),
        (said(503), TransientError, "answered 503 with a body that"),
    ],
)
def test_a_revocation_that_is_refused_leaves_the_grant(
    answer: HttpResponse, kind: type[BrokerError], words: str
) -> None:
    """The caller is told why, and when to ask again; the record is as it was."""
    broker = data.make(data.Wire(data.ANSWER, answer), quirks=QUIRKS)
    record = data.log_in(broker)
    with pytest.raises(kind, match=words) as refused:
        broker.revoke(USER_REQUEST)
    assert (type(refused.value), refused.value.status) == (kind, answer.status)
    assert refused.value.retry_after == (7 if kind is TransientError else None)
    assert broker.store.fetch(record.key) == record
