"""The three flows, renewal and revocation, against oidc-provider over real HTTP."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from oauth2broker import (
    AuthorizationError,
    AuthorizationSession,
    Broker,
    CachedTokenRequest,
    InvalidClientError,
    InvalidGrantError,
    RevokedError,
    TokenRecord,
)

from .authorization_server import AuthorizationServer, Client
from .browser import authorize
from .conftest import TENANT, USER, USER_SCOPE, Clock, OpenBroker, SignedInUser

pytestmark = pytest.mark.e2e

THREADS = 16
SECONDS_TO_MEET = 30
LONGER_THAN_A_TOKEN_LIVES = timedelta(hours=2)

confidential_clients = pytest.mark.parametrize(
    "client", ["client_secret_basic", "client_secret_post"], indirect=True
)


def start(broker: Broker, server: AuthorizationServer) -> AuthorizationSession:
    """Begin the user's authorization."""
    return broker.start_authorization(TENANT, USER, USER_SCOPE, server.redirect_uri)


def callback_of(session: AuthorizationSession, server: AuthorizationServer) -> str:
    """Log in and consent, and return the callback URL."""
    return authorize(session.authorize_url, server.redirect_uri, login=USER)


def refresh_token_of(record: TokenRecord) -> str:
    """Return the refresh token of a record that must have one."""
    assert record.refresh_token is not None
    return record.refresh_token.expose()


def service_request(server: AuthorizationServer) -> CachedTokenRequest:
    """Ask for a token of the service itself."""
    return CachedTokenRequest(TENANT, "svc-router", server.resource_scope)


def ask_together(brokers: list[Broker], request: CachedTokenRequest) -> list[TokenRecord]:
    """Let one thread per entry of `brokers` make the same request at the same moment."""
    together = Barrier(len(brokers), timeout=SECONDS_TO_MEET)

    def ask(broker: Broker) -> TokenRecord:
        together.wait()
        return broker.refresh_access_token(request)

    with ThreadPoolExecutor(len(brokers)) as threads:
        return list(threads.map(ask, brokers))


# Client credentials


@confidential_clients
def test_client_credentials_give_a_token_for_the_scope_asked(
    broker: Broker, server: AuthorizationServer, client: Client
) -> None:
    """The server takes the client's own authentication, odd characters included, and answers."""
    with server.recording() as calls:
        record = broker.client_credentials(service_request(server))
    assert [(call.status, call.authentication) for call in calls] == [(200, client.authentication)]
    assert record.granted_scope == record.scope
    assert record.refresh_token is None


@confidential_clients
def test_a_second_client_credentials_request_is_served_from_the_cache(
    broker: Broker, server: AuthorizationServer
) -> None:
    """One call answers both requests with the same record."""
    with server.recording() as calls:
        first = broker.client_credentials(service_request(server))
        second = broker.client_credentials(service_request(server))
    assert second == first
    assert len(calls) == 1


@confidential_clients
def test_a_forced_client_credentials_renewal_replaces_the_cached_token(
    broker: Broker, server: AuthorizationServer
) -> None:
    """Forcing makes a second call, and its token is the one in the cache from then on."""
    request = service_request(server)
    first = broker.client_credentials(request)
    with server.recording() as calls:
        forced = broker.client_credentials(request.force_refresh())
        cached = broker.client_credentials(request)
    assert forced.access_token != first.access_token
    assert cached == forced
    assert len(calls) == 1


@confidential_clients
def test_an_expired_client_credentials_token_is_fetched_anew_with_one_call(
    broker: Broker, server: AuthorizationServer, clock: Clock
) -> None:
    """After its lifetime a plain request gives another token and makes one call."""
    request = service_request(server)
    first = broker.client_credentials(request)
    clock.advance(LONGER_THAN_A_TOKEN_LIVES)
    with server.recording() as calls:
        second = broker.client_credentials(request)
    assert second.access_token != first.access_token
    assert len(calls) == 1


# Authorization code with PKCE


def test_a_user_signs_in_with_pkce_and_gets_tokens_the_server_accepts(
    broker: Broker, server: AuthorizationServer, client: Client
) -> None:
    """A session saved as JSON and the callback give, in one call, a token that names the user."""
    session = AuthorizationSession.from_json(start(broker, server).to_json())
    callback = callback_of(session, server)
    with server.recording() as calls:
        record = broker.complete_authorization(session, callback)
    assert [(call.grant_type, call.status, call.authentication) for call in calls] == [
        ("authorization_code", 200, client.authentication)
    ]
    assert server.userinfo(record.access_token.expose()).json() == {"sub": USER}
    assert refresh_token_of(record)
    assert record.id_token is not None
    assert record.granted_scope == record.scope


def test_a_signed_in_user_is_served_from_the_cache(user: SignedInUser, server: AuthorizationServer) -> None:
    """A request right after the exchange gives its record without a call."""
    with server.recording() as calls:
        served = user.broker.refresh_access_token(user.request)
    assert served == user.record
    assert calls == []


def test_the_callback_names_its_issuer_and_is_accepted_for_it(
    broker: Broker, server: AuthorizationServer
) -> None:
    """This server sends `iss` (RFC 9207), and the broker takes the one it was told to expect."""
    session = start(broker, server)
    callback = callback_of(session, server)
    assert parse_qs(urlsplit(callback).query)["iss"] == [server.issuer]
    assert broker.complete_authorization(session, callback).access_token.expose()


def test_a_callback_that_names_another_issuer_is_refused_before_the_exchange(
    broker: Broker, server: AuthorizationServer
) -> None:
    """A code mixed up with another server's is never sent to the token endpoint (RFC 9207)."""
    session = start(broker, server)
    parts = urlsplit(callback_of(session, server))
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    mixed_up = parts._replace(query=urlencode({**query, "iss": "https://other.example.com"}))
    with server.recording() as calls, pytest.raises(AuthorizationError):
        broker.complete_authorization(session, mixed_up.geturl())
    assert calls == []


def test_a_wrong_pkce_verifier_is_refused_and_nothing_is_stored(
    broker: Broker, server: AuthorizationServer
) -> None:
    """The server compares the verifier with the challenge, so a tampered session gets no token."""
    session = start(broker, server)
    callback = callback_of(session, server)
    saved = json.loads(session.to_json())
    tampered = AuthorizationSession.from_json(json.dumps({**saved, "code_verifier": "w" * 64}))
    with server.recording() as calls, pytest.raises(InvalidGrantError):
        broker.complete_authorization(tampered, callback)
    assert [(call.grant_type, call.error) for call in calls] == [("authorization_code", "invalid_grant")]
    assert list(broker.store.keys()) == []


def test_a_denied_consent_is_an_authorization_error_without_a_call(
    broker: Broker, server: AuthorizationServer
) -> None:
    """The user's refusal arrives as access_denied, with the server's words, and nothing stored."""
    session = start(broker, server)
    callback = authorize(session.authorize_url, server.redirect_uri, login=USER, consent=False)
    with server.recording() as calls, pytest.raises(AuthorizationError) as refused:
        broker.complete_authorization(session, callback)
    assert refused.value.error == "access_denied"
    assert refused.value.description == "End-User aborted interaction"
    assert calls == []
    assert list(broker.store.keys()) == []


# Refresh with rotation


def test_a_forced_refresh_gives_another_access_token_and_another_refresh_token(
    user: SignedInUser, server: AuthorizationServer, client: Client
) -> None:
    """The rotated record is what the store holds, and its tokens are the server's current ones."""
    with server.recording() as calls:
        renewed = user.broker.refresh_access_token(user.request.force_refresh())
    assert [(call.grant_type, call.status, call.authentication) for call in calls] == [
        ("refresh_token", 200, client.authentication)
    ]
    assert renewed.access_token != user.record.access_token
    assert renewed.refresh_token != user.record.refresh_token
    assert user.broker.refresh_access_token(user.request) == renewed
    assert server.userinfo(renewed.access_token.expose()).json() == {"sub": USER}


def test_rotation_follows_the_chain_of_refresh_tokens(user: SignedInUser) -> None:
    """Each of several forced renewals presents the token that the one before it received."""
    chain = [user.record]
    for _ in range(4):
        chain.append(user.broker.refresh_access_token(user.request.force_refresh()))
    assert len({refresh_token_of(record) for record in chain}) == len(chain)


def test_an_expired_token_is_renewed_by_a_plain_request_with_one_call(
    user: SignedInUser, server: AuthorizationServer, clock: Clock
) -> None:
    """After its lifetime the token is renewed once, and the renewed one is then served."""
    clock.advance(LONGER_THAN_A_TOKEN_LIVES)
    with server.recording() as calls:
        renewed = user.broker.refresh_access_token(user.request)
        served = user.broker.refresh_access_token(user.request)
    assert renewed.access_token != user.record.access_token
    assert served == renewed
    assert [call.grant_type for call in calls] == ["refresh_token"]


def test_sixteen_threads_on_one_expired_token_make_one_call_and_get_one_answer(
    user: SignedInUser, server: AuthorizationServer, clock: Clock
) -> None:
    """All threads are served by one renewal, and the grant survives: it can be renewed again."""
    clock.advance(LONGER_THAN_A_TOKEN_LIVES)
    with server.recording() as calls:
        answers = ask_together([user.broker] * THREADS, user.request)
    assert [call.grant_type for call in calls] == ["refresh_token"]
    assert answers == [answers[0]] * THREADS
    assert answers[0].access_token != user.record.access_token
    again = user.broker.refresh_access_token(user.request.force_refresh())
    assert again.access_token != answers[0].access_token


def test_brokers_that_share_a_store_make_one_call_for_one_expired_token(
    user: SignedInUser, server: AuthorizationServer, clock: Clock, open_broker: OpenBroker
) -> None:
    """Sixteen brokers, one thread each, meet in the store's lease instead of in a flight."""
    brokers = [open_broker(store=user.broker.store) for _ in range(THREADS)]
    clock.advance(LONGER_THAN_A_TOKEN_LIVES)
    with server.recording() as calls:
        answers = ask_together(brokers, user.request)
    assert [call.grant_type for call in calls] == ["refresh_token"]
    assert answers == [answers[0]] * THREADS
    assert answers[0].access_token != user.record.access_token


def test_a_replaced_refresh_token_is_refused_and_the_grant_is_then_known_to_be_dead(
    user: SignedInUser, server: AuthorizationServer
) -> None:
    """An old record put back into the store is invalid_grant once, then revoked without a call."""
    user.broker.refresh_access_token(user.request.force_refresh())
    user.broker.store.save(user.record)
    with server.recording() as calls, pytest.raises(InvalidGrantError):
        user.broker.refresh_access_token(user.request.force_refresh())
    assert [(call.grant_type, call.error) for call in calls] == [("refresh_token", "invalid_grant")]
    with server.recording() as calls, pytest.raises(RevokedError):
        user.broker.refresh_access_token(user.request)
    assert calls == []


def test_a_grant_that_the_server_ended_for_reuse_by_another_party_is_reported_dead(
    user: SignedInUser, server: AuthorizationServer, client: Client
) -> None:
    """When someone else replays the old token the whole family dies, and the broker learns it."""
    user.broker.refresh_access_token(user.request.force_refresh())
    replayed = server.present_refresh_token(client, refresh_token_of(user.record))
    assert (replayed.status_code, replayed.json()["error"]) == (400, "invalid_grant")
    with server.recording() as calls, pytest.raises(InvalidGrantError):
        user.broker.refresh_access_token(user.request.force_refresh())
    assert len(calls) == 1
    with server.recording() as calls, pytest.raises(RevokedError):
        user.broker.refresh_access_token(user.request)
    assert calls == []


# Revocation


def test_a_revoked_grant_is_refused_by_the_server_and_by_the_broker(
    user: SignedInUser, server: AuthorizationServer, client: Client
) -> None:
    """Revoking tells the server (RFC 7009); from then on the broker answers without asking it."""
    with server.recording() as calls:
        user.broker.revoke(user.request)
    assert {(call.endpoint, call.status) for call in calls} == {("revocation", 200)}
    assert {call.authentication for call in calls} == {client.authentication}
    presented = server.present_refresh_token(client, refresh_token_of(user.record))
    assert (presented.status_code, presented.json()["error"]) == (400, "invalid_grant")
    assert server.userinfo(user.record.access_token.expose()).status_code == 401
    with server.recording() as calls, pytest.raises(RevokedError):
        user.broker.refresh_access_token(user.request)
    assert calls == []


def test_a_user_signs_in_again_after_a_revocation(user: SignedInUser, server: AuthorizationServer) -> None:
    """A new consent replaces the tombstone."""
    user.broker.revoke(user.request)
    session = start(user.broker, server)
    record = user.broker.complete_authorization(session, callback_of(session, server))
    assert user.broker.refresh_access_token(user.request) == record


# Refused client credentials


@confidential_clients
def test_a_wrong_client_secret_is_an_invalid_client_and_keeps_the_users_grant(
    user: SignedInUser, server: AuthorizationServer, open_broker: OpenBroker
) -> None:
    """The mistake is the operator's: with the right secret the same grant is renewed at once."""
    mistaken = open_broker(client_secret="not-the-secret", store=user.broker.store)
    with server.recording() as calls, pytest.raises(InvalidClientError):
        mistaken.refresh_access_token(user.request.force_refresh())
    assert [(call.status, call.error) for call in calls] == [(401, "invalid_client")]
    assert user.broker.store.fetch(user.record.key) == user.record
    renewed = user.broker.refresh_access_token(user.request.force_refresh())
    assert renewed.refresh_token != user.record.refresh_token


@confidential_clients
def test_a_wrong_client_secret_gets_no_client_credentials_token(
    server: AuthorizationServer, open_broker: OpenBroker
) -> None:
    """The refusal is an InvalidClientError and nothing is stored."""
    mistaken = open_broker(client_secret="not-the-secret")
    with pytest.raises(InvalidClientError):
        mistaken.client_credentials(service_request(server))
    assert list(mistaken.store.keys()) == []
