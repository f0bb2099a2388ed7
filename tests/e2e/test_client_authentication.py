"""Assertions (RFC 7523) and certificates (RFC 8705) against oidc-provider, in every flow and refused."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from oauth2broker import (
    Broker,
    CachedTokenRequest,
    ClientAuthentication,
    ClientSecretJwt,
    GrantType,
    HttpRequest,
    HttpResponse,
    InvalidClientError,
    PrivateKeyJwt,
    ProviderDescriptor,
    ProviderQuirks,
    RequestsHttpClient,
    ResponseMetadataSlot,
    TlsClientAuth,
)

from .authorization_server import AuthorizationServer, Client
from .browser import authorize
from .conftest import TENANT, USER, USER_SCOPE, Clock, SignedInUser

pytestmark = pytest.mark.e2e

ASSERTING = [
    "client_secret_jwt",
    *(f"private_key_jwt {name}" for name in ("RS256", "PS256", "ES256", "EdDSA")),
]
CERTIFIED = ["tls_client_auth", "self_signed_tls_client_auth"]
CERTIFICATES = {"tls_client_auth": "tls-client", "self_signed_tls_client_auth": "self-signed"}
MORE_THAN_AN_ASSERTION_LIVES = timedelta(minutes=10)

Open = Callable[..., Broker]

asserting_clients = pytest.mark.parametrize("client", ASSERTING, indirect=True)
certified_clients = pytest.mark.parametrize("client", CERTIFIED, indirect=True)


@pytest.fixture(params=[*ASSERTING, *CERTIFIED])
def client(request: pytest.FixtureRequest, server: AuthorizationServer) -> Client:
    """Give each client that proves a secret, a key or a certificate without sending it."""
    return server.clients[request.param]


def describe(server: AuthorizationServer, client: Client, **changes: Any) -> ProviderDescriptor:
    """Describe the server; clients with a certificate call its other address, as mtls_endpoint_aliases do."""
    origin = server.mtls_origin if client.name in CERTIFIED else server.issuer
    fields: dict[str, Any] = {"issuer": server.issuer, "iss_required": True, **changes}
    return ProviderDescriptor(
        id="oidc-provider",
        authorization_endpoint=server.metadata["authorization_endpoint"],
        token_endpoint=server.metadata["token_endpoint"].replace(server.issuer, origin),
        revocation_endpoint=server.metadata["revocation_endpoint"].replace(server.issuer, origin),
        grants=set(GrantType),
        client_auth=client.authentication,
        authorization_params={"prompt": "consent"},
        **fields,
    )


def authentication_of(client: Client, certificates: Path) -> ClientAuthentication:
    """Authenticate as `client` is registered."""
    if client.authentication in CERTIFICATES:
        return certificate(certificates, CERTIFICATES[client.authentication])
    if client.client_secret is not None:
        return ClientSecretJwt(client.client_secret)
    assert client.private_pem is not None
    assert client.algorithm is not None
    return PrivateKeyJwt(client.private_pem, algorithm=client.algorithm, key_id=f"key-{client.algorithm}")


def certificate(certificates: Path, name: str) -> TlsClientAuth:
    """Authenticate by the certificate of that name."""
    return TlsClientAuth(certificates / f"{name}.pem", certificates / f"{name}.key")


def presented(client: Client) -> str:
    """Return what the server sees of the client's authentication."""
    return client.algorithm or f"CN={CERTIFICATES[client.authentication]}"


@pytest.fixture
def open_as(
    server: AuthorizationServer,
    client: Client,
    clock: Clock,
    certificates: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Open]:
    """Give a function that makes brokers, by default of the client; they are closed after the test."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates / "ca.pem"))
    with ExitStack() as opened:

        def open_one(authentication: ClientAuthentication | None = None, **arguments: Any) -> Broker:
            authentication = authentication or authentication_of(client, certificates)
            descriptor = arguments.pop("descriptor", None) or describe(server, client)
            arguments = {"clock": clock, **arguments}
            broker = Broker(descriptor, client.client_id, client_auth=authentication, **arguments)
            return opened.enter_context(broker)

        yield open_one


@pytest.fixture
def broker(open_as: Open) -> Broker:
    """Give one broker for the client with an empty store."""
    return open_as()


def service_request(server: AuthorizationServer) -> CachedTokenRequest:
    """Ask for a token of the service itself."""
    return CachedTokenRequest(TENANT, "svc-router", server.resource_scope)


# Every method in every flow


def test_a_user_is_signed_in_renewed_twice_and_revoked(
    broker: Broker, server: AuthorizationServer, client: Client
) -> None:
    """Code, rotation and revocation, each call authenticated as registered; the tokens are the server's."""
    with server.recording() as calls:
        session = broker.start_authorization(TENANT, USER, USER_SCOPE, server.redirect_uri)
        callback = authorize(session.authorize_url, server.redirect_uri, login=USER)
        record = broker.complete_authorization(session, callback)
        request = CachedTokenRequest(TENANT, USER, USER_SCOPE)
        renewed = broker.refresh_access_token(request.force_refresh())
        again = broker.refresh_access_token(request.force_refresh())
        assert server.userinfo(again.access_token.expose()).json() == {"sub": USER}
        broker.revoke(request)
    assert len({each.refresh_token for each in (record, renewed, again)}) == 3
    assert server.userinfo(again.access_token.expose()).status_code == 401
    assert [(call.endpoint, call.status) for call in calls] == [*[("token", 200)] * 3, ("revocation", 200)]
    assert {call.authentication for call in calls} == {presented(client)}


def test_a_service_gets_its_token(broker: Broker, server: AuthorizationServer, client: Client) -> None:
    """Client credentials, twice in a row, which takes another assertion."""
    request = service_request(server)
    with server.recording() as calls:
        first = broker.client_credentials(request)
        second = broker.client_credentials(request.force_refresh())
    assert first.access_token != second.access_token
    assert [(call.status, call.authentication) for call in calls] == [(200, presented(client))] * 2


@asserting_clients
def test_the_token_endpoint_is_the_audience_where_no_issuer_is_known(
    open_as: Open, server: AuthorizationServer, client: Client
) -> None:
    """Servers take it as well, from the time before the issuer was what to use."""
    unnamed = describe(server, client, issuer=None, iss_required=False)
    assert open_as(descriptor=unnamed).client_credentials(service_request(server)).access_token


@pytest.mark.parametrize("client", ASSERTING[1:], indirect=True)
def test_a_json_web_key_in_a_file_signs_as_well(
    open_as: Open, server: AuthorizationServer, client: Client, tmp_path: Path
) -> None:
    """As the server's own platform writes it; its kid is taken from it."""
    assert client.private_jwk is not None
    assert client.algorithm is not None
    path = tmp_path / "key.json"
    path.write_text(client.private_jwk)
    broker = open_as(PrivateKeyJwt(path, algorithm=client.algorithm))
    assert broker.client_credentials(service_request(server)).access_token


@certified_clients
def test_a_transport_of_ones_own_presents_the_certificate(
    open_as: Open,
    server: AuthorizationServer,
    client: Client,
    certificates: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """RequestsHttpClient with a CA and a certificate, and nothing in the environment."""
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    authentication = certificate(certificates, CERTIFICATES[client.authentication])
    http_client = RequestsHttpClient(verify=str(certificates / "ca.pem"), cert=authentication.cert)
    broker = open_as(authentication, http_client=http_client)
    assert broker.client_credentials(service_request(server)).access_token
    http_client.close()


# Refused, and what that costs: nothing


@pytest.fixture
def user(broker: Broker, server: AuthorizationServer) -> SignedInUser:
    """Sign a user in with the right authentication."""
    session = broker.start_authorization(TENANT, USER, USER_SCOPE, server.redirect_uri)
    callback = authorize(session.authorize_url, server.redirect_uri, login=USER)
    record = broker.complete_authorization(session, callback)
    return SignedInUser(broker, CachedTokenRequest(TENANT, USER, USER_SCOPE), record)


def assert_refused(mistaken: Broker, user: SignedInUser, server: AuthorizationServer) -> None:
    """Check that no call succeeds, and that the user's grant is as it was and can be renewed."""
    attempts: list[Callable[[], object]] = [
        lambda: mistaken.refresh_access_token(user.request.force_refresh()),
        lambda: mistaken.revoke(user.request),
        lambda: mistaken.client_credentials(service_request(server)),
    ]
    with server.recording() as calls:
        for attempt in attempts:
            with pytest.raises(InvalidClientError) as refused:
                attempt()
            assert refused.value.status == 401
    assert [(call.status, call.error) for call in calls] == [(401, "invalid_client")] * 3
    assert list(mistaken.store.keys()) == [user.record.key]
    assert mistaken.store.fetch(user.record.key) == user.record
    renewed = user.broker.refresh_access_token(user.request.force_refresh())
    assert renewed.refresh_token != user.record.refresh_token


@pytest.fixture
def wrong_key(client: Client) -> ClientAuthentication:
    """Give what signs as the client does, with a secret or key that the server does not know."""
    if client.algorithm == "HS256":
        return ClientSecretJwt("another-secret-of-more-than-32-bytes")
    assert client.algorithm is not None
    makers: dict[str, Callable[[], Any]] = {
        "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate,
    }
    make = makers.get(client.algorithm, lambda: rsa.generate_private_key(65537, 2048))
    pem = make().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return PrivateKeyJwt(pem, algorithm=client.algorithm, key_id=f"key-{client.algorithm}")


@asserting_clients
def test_a_key_that_is_not_registered_is_refused(
    open_as: Open, user: SignedInUser, server: AuthorizationServer, wrong_key: ClientAuthentication
) -> None:
    """The signature is verified: another key of the same kind does not do."""
    assert_refused(open_as(wrong_key, store=user.broker.store), user, server)


@asserting_clients
def test_an_expired_assertion_is_refused(
    open_as: Open, user: SignedInUser, server: AuthorizationServer
) -> None:
    """Its times are those of the broker's clock: one that is ten minutes late makes none that serve."""
    late = Clock(-MORE_THAN_AN_ASSERTION_LIVES)
    assert_refused(open_as(store=user.broker.store, clock=late), user, server)


@asserting_clients
def test_an_assertion_for_another_audience_is_refused(
    open_as: Open, user: SignedInUser, server: AuthorizationServer, client: Client
) -> None:
    """The quirk decides what it is addressed to."""
    elsewhere = describe(
        server, client, quirks=ProviderQuirks(assertion_audience="https://other.example.com")
    )
    assert_refused(open_as(store=user.broker.store, descriptor=elsewhere), user, server)


@certified_clients
@pytest.mark.parametrize("name", ["another-client", "pretender", "self-signed-too"])
def test_a_certificate_that_is_not_registered_is_refused(
    open_as: Open, user: SignedInUser, server: AuthorizationServer, certificates: Path, name: str
) -> None:
    """Another one of the CA, a self-signed one that bears the registered name, another self-signed one."""
    assert_refused(open_as(certificate(certificates, name), store=user.broker.store), user, server)


@dataclass
class OwnHttpClient:
    """A transport of the caller's, of which the broker cannot know what it presents."""

    inner: RequestsHttpClient

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        """Send it as it is."""
        return self.inner.send(request, metadata)


@certified_clients
def test_a_transport_without_the_certificate_is_refused(
    open_as: Open, user: SignedInUser, server: AuthorizationServer, certificates: Path
) -> None:
    """A transport of one's own has to present it itself."""
    inner = RequestsHttpClient(verify=str(certificates / "ca.pem"))
    assert_refused(open_as(store=user.broker.store, http_client=OwnHttpClient(inner)), user, server)
    inner.close()


# Replay


@dataclass
class Meddling:
    """The default transport, which sends each request twice, or loses the answer to the first."""

    twice: bool = False
    lose: bool = False
    answers: list[HttpResponse] = field(default_factory=list)
    inner: RequestsHttpClient = field(default_factory=RequestsHttpClient)

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        """Send, and give the last answer."""
        for _ in range(1 + self.twice):
            self.answers.append(self.inner.send(request, ResponseMetadataSlot()))
        if self.lose and len(self.answers) == 1:
            raise ConnectionError
        return self.answers[-1]


@asserting_clients
def test_the_server_refuses_an_assertion_that_it_has_seen(open_as: Open, server: AuthorizationServer) -> None:
    """One prepared request sent twice: 200, then invalid_client. So the next test proves something."""
    meddling = Meddling(twice=True)
    with pytest.raises(InvalidClientError):
        open_as(http_client=meddling).client_credentials(service_request(server))
    assert [answer.status for answer in meddling.answers] == [200, 401]
    meddling.inner.close()


@asserting_clients
def test_our_own_second_try_after_a_lost_answer_is_not_a_replay(
    open_as: Open, server: AuthorizationServer
) -> None:
    """The request is built anew, with an assertion that the server has not seen."""
    meddling = Meddling(lose=True)
    with server.recording() as calls:
        record = open_as(http_client=meddling).client_credentials(service_request(server))
    assert [call.status for call in calls] == [200, 200]
    assert record.access_token.expose() in meddling.answers[1].body.decode()
    meddling.inner.close()
