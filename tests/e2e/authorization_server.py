"""What the tests know of the running server: its clients, its endpoints and the calls it answered."""

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self
from urllib.parse import quote_plus

import requests

SECONDS_TO_START = 60
SECONDS_TO_STOP = 10
SECONDS_PER_CALL = 20


@dataclass(frozen=True, slots=True)
class Client:
    """One registered client; `authentication` is its RFC 7591 token_endpoint_auth_method.

    `algorithm` is what its assertions are signed with, by its secret or a private key, which is here as PEM
    and as JSON Web Key.
    """

    client_id: str
    client_secret: str | None
    authentication: str
    algorithm: str | None = None
    private_pem: str | None = None
    private_jwk: str | None = None

    @classmethod
    def from_registration(cls, members: dict[str, Any]) -> Self:
        """Read what server.mjs printed of one client."""
        return cls(
            members["client_id"],
            members.get("client_secret"),
            members["token_endpoint_auth_method"],
            members.get("token_endpoint_auth_signing_alg"),
            members.get("private_pem"),
            members.get("private_jwk"),
        )

    @property
    def name(self) -> str:
        """Return its method, and the algorithm if there are several by that method."""
        is_one_of_several = self.authentication == "private_key_jwt"
        return f"{self.authentication} {self.algorithm}" if is_one_of_several else self.authentication

    def authenticate(self, form: dict[str, str]) -> dict[str, Any]:
        """Return the arguments for `requests` that send `form` as this client (RFC 6749, 2.3.1)."""
        if self.client_secret is None:
            return {"data": {**form, "client_id": self.client_id}}
        if self.authentication == "client_secret_post":
            credentials = {"client_id": self.client_id, "client_secret": self.client_secret}
            return {"data": {**form, **credentials}}
        return {"data": form, "auth": (quote_plus(self.client_id), quote_plus(self.client_secret))}


@dataclass(frozen=True, slots=True)
class Call:
    """One token or revocation request as the server saw it.

    `authentication` is the method by which a secret came, the algorithm of an assertion, the subject of a
    certificate, or "none".
    """

    endpoint: str
    status: int
    error: str | None
    grant_type: str | None
    authentication: str


@dataclass(frozen=True, slots=True)
class AuthorizationServer:
    """The server that `serve` started, seen from outside the library under test.

    Its endpoints are also at `mtls_origin`, where a client may show a certificate.
    """

    issuer: str
    mtls_origin: str
    redirect_uri: str
    resource_scope: str
    clients: dict[str, Client]
    metadata: dict[str, Any]
    http: requests.Session

    @classmethod
    def from_ready_line(cls, line: str, http: requests.Session) -> Self:
        """Parse what server.mjs printed and fetch the server's own metadata (RFC 8414)."""
        ready = json.loads(line)
        clients = [Client.from_registration(members) for members in ready["clients"]]
        discovery = f"{ready['issuer']}/.well-known/openid-configuration"
        return cls(
            issuer=ready["issuer"],
            mtls_origin=ready["mtls_origin"],
            redirect_uri=ready["redirect_uri"],
            resource_scope=ready["resource_scope"],
            clients={client.name: client for client in clients},
            metadata=http.get(discovery, timeout=SECONDS_PER_CALL).json(),
            http=http,
        )

    def calls(self) -> list[Call]:
        """Return every token and revocation request answered since the server started."""
        answer = self.http.get(f"{self.issuer}/calls", timeout=SECONDS_PER_CALL)
        return [Call(**call) for call in answer.json()]

    @contextmanager
    def recording(self) -> Iterator[list[Call]]:
        """Fill the yielded list, on leaving, with the calls made inside the block."""
        before = len(self.calls())
        recorded: list[Call] = []
        yield recorded
        recorded.extend(self.calls()[before:])

    def present_refresh_token(self, client: Client, refresh_token: str) -> requests.Response:
        """Present a refresh token as `client`, without the library."""
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        return self.http.post(
            self.metadata["token_endpoint"],
            **client.authenticate(form),
            timeout=SECONDS_PER_CALL,
        )

    def userinfo(self, access_token: str) -> requests.Response:
        """Use an access token at the server's protected resource."""
        return self.http.get(
            self.metadata["userinfo_endpoint"],
            headers={"Authorization": f"Bearer {access_token}"},
            timeout=SECONDS_PER_CALL,
        )


@contextmanager
def serve(node: str, script: Path, certificates: Path, log: IO[str]) -> Iterator[AuthorizationServer]:
    """Run `script` for the length of the block; the server ends when its stdin closes.

    `certificates` is the folder that `write_certificates` filled.
    """
    with (
        subprocess.Popen(
            [node, str(script), str(certificates)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
        requests.Session() as http,
    ):
        http.trust_env = False  # neither a proxy nor .netrc between us and loopback
        try:
            yield AuthorizationServer.from_ready_line(_read_ready_line(process, log), http)
        finally:
            _stop(process)


def _read_ready_line(process: subprocess.Popen[str], log: IO[str]) -> str:
    assert process.stdout is not None
    deadline = threading.Timer(SECONDS_TO_START, process.kill)
    deadline.start()
    try:
        line = process.stdout.readline()
    finally:
        deadline.cancel()
        deadline.join()
    if not line:
        raise RuntimeError(f"the server ended, or was too slow, before it was ready: see {log.name}")
    return line


def _stop(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(SECONDS_TO_STOP)
    except subprocess.TimeoutExpired:
        process.kill()
