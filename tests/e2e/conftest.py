"""Start the authorization server once, and give each test its client, clock and brokers."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn

import pytest

from oauth2broker import (
    Broker,
    BrokerStore,
    CachedTokenRequest,
    ClientAuthMethod,
    GrantType,
    ProviderDescriptor,
    TokenRecord,
)
from tests.certificates import write_certificates

from .authorization_server import AuthorizationServer, Client, serve
from .browser import authorize

HERE = Path(__file__).parent
TENANT = "tenant-acme"
USER = "user-1"
USER_SCOPE = "openid offline_access"

OpenBroker = Callable[..., Broker]


@dataclass(slots=True)
class Clock:
    """The real time, until a test moves it forward."""

    ahead: timedelta = field(default=timedelta())

    def __call__(self) -> datetime:
        """Return the time now, in UTC."""
        return datetime.now(UTC) + self.ahead

    def advance(self, interval: timedelta) -> None:
        """Let `interval` pass at once."""
        self.ahead += interval


@dataclass(frozen=True, slots=True)
class SignedInUser:
    """A user who has consented: whose broker, which request, and the record of the exchange."""

    broker: Broker
    request: CachedTokenRequest
    record: TokenRecord


def _unavailable(reason: str) -> NoReturn:
    if os.environ.get("OAUTH2BROKER_E2E") == "require":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a CA, a server's certificate and clients', made for this session."""
    folder = tmp_path_factory.mktemp("certificates")
    write_certificates(folder)
    return folder


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, certificates: Path) -> Iterator[AuthorizationServer]:
    """Run oidc-provider on loopback for the whole session."""
    node = shutil.which("node")
    if node is None:
        _unavailable("node is not installed")
    if not (HERE / "node_modules" / "oidc-provider").is_dir():
        _unavailable("oidc-provider is not installed: run `npm ci` in tests/e2e")
    log_path = tmp_path_factory.mktemp("oidc-provider") / "stderr.log"
    with log_path.open("w", encoding="utf-8") as log:
        with serve(node, HERE / "server.mjs", certificates, log) as it:
            yield it


@pytest.fixture(params=["client_secret_basic", "client_secret_post", "none"])
def client(request: pytest.FixtureRequest, server: AuthorizationServer) -> Client:
    """Give each registered client in turn, by its authentication method."""
    return server.clients[request.param]


@pytest.fixture
def clock() -> Clock:
    """Give a clock that every broker of the test reads."""
    return Clock()


@pytest.fixture
def descriptor(server: AuthorizationServer, client: Client) -> ProviderDescriptor:
    """Describe the server as its metadata does; only client_secret_post needs to be spelled out."""
    post = ClientAuthMethod.CLIENT_SECRET_POST
    return ProviderDescriptor(
        id="oidc-provider",
        authorization_endpoint=server.metadata["authorization_endpoint"],
        token_endpoint=server.metadata["token_endpoint"],
        revocation_endpoint=server.metadata["revocation_endpoint"],
        issuer=server.issuer,
        grants={
            GrantType.AUTHORIZATION_CODE,
            GrantType.REFRESH_TOKEN,
            GrantType.CLIENT_CREDENTIALS,
        },
        client_auth=post if client.authentication == post else None,
        iss_required=server.metadata["authorization_response_iss_parameter_supported"],
        authorization_params={"prompt": "consent"},
    )


@pytest.fixture
def open_broker(descriptor: ProviderDescriptor, client: Client, clock: Clock) -> Iterator[OpenBroker]:
    """Give a function that makes brokers for the client; they are closed after the test."""
    with ExitStack() as opened:

        def open_one(
            *, client_secret: str | None = client.client_secret, store: BrokerStore | None = None
        ) -> Broker:
            broker = Broker(descriptor, client.client_id, client_secret, store=store, clock=clock)
            return opened.enter_context(broker)

        yield open_one


@pytest.fixture
def broker(open_broker: OpenBroker) -> Broker:
    """Give one broker for the client with an empty store."""
    return open_broker()


@pytest.fixture
def user(broker: Broker, server: AuthorizationServer) -> SignedInUser:
    """Sign a user in through the login and consent forms."""
    session = broker.start_authorization(TENANT, USER, USER_SCOPE, server.redirect_uri)
    callback = authorize(session.authorize_url, server.redirect_uri, login=USER)
    record = broker.complete_authorization(session, callback)
    return SignedInUser(broker, CachedTokenRequest(TENANT, USER, USER_SCOPE), record)
