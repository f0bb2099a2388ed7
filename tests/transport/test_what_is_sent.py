"""What the default transport sends, to whom, and over which connection. Over real sockets."""

from __future__ import annotations

import base64
import http.client
import logging
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
import responses

from oauth2broker import (
    Broker,
    ConfigError,
    GrantType,
    HttpRequest,
    HttpResponse,
    ProviderDescriptor,
    RequestsHttpClient,
    ResponseMetadataSlot,
    TokenRecord,
)
from oauth2broker.testing import LoopbackProvider
from tests.support import REDIRECT_URI, SCOPE, SERVICE_REQUEST, TENANT, USER, USER_REQUEST
from tests.transport.sockets import (
    CLIENT_ID,
    CLIENT_SECRET,
    CODE,
    GRANTS,
    REFRESH_TOKEN,
    TOKEN_BODY,
    Certificate,
    Peer,
    SocketServer,
    answer,
    answering,
    broker_for,
    failure_of,
)

Call = Callable[[Broker], TokenRecord]
each_grant = pytest.mark.parametrize(("grant", "call"), GRANTS.items(), ids=GRANTS)


def send(client: RequestsHttpClient, url: str, *, single_use: bool = False) -> HttpResponse:
    headers = {"Authorization": "Basic b3VyczpvdXJz"}
    request = HttpRequest("POST", url, headers, b"grant_type=client_credentials", single_use)
    return client.send(request, ResponseMetadataSlot())


# Where credentials go.


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("grant", ["client_credentials", "refresh_token"])
def test_a_redirect_is_refused_and_credentials_reach_no_other_address(
    client: RequestsHttpClient, status: int, grant: str
) -> None:
    """A redirecting token endpoint ends in a ConfigError with its status; where it points gets nothing."""
    with SocketServer(answering(answer())) as elsewhere:
        redirect = answer(status, b"", {"Location": elsewhere.url})
        with SocketServer(answering(redirect)) as server:
            error = failure_of(lambda: GRANTS[grant](broker_for(server.url, client)))
        assert (len(server.requests), elsewhere.connections) == (1, 0)
    assert isinstance(error, ConfigError)
    assert error.status == status


@pytest.mark.parametrize(
    "url",
    [
        "http://provider.example.com/token",
        "http://10.0.0.1/token",
        "http://127.0.0.1.example.com/token",
        "http://localhost.example.com/token",
        "HTTP://provider.example.com/token",
        "ftp://127.0.0.1/token",
        "//127.0.0.1/token",
        "https:///token",
    ],
)
def test_http_is_refused_except_to_this_machine(
    client: RequestsHttpClient, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """Plain http to another host is a ConfigError before even its name is resolved."""
    looked_up: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **_: looked_up.append(args))
    with pytest.raises(ConfigError):
        send(client, url)
    with pytest.raises(ConfigError):
        ProviderDescriptor("demo", url, {GrantType.CLIENT_CREDENTIALS})
    assert looked_up == []


@pytest.mark.parametrize("single_use", [False, True])
def test_user_information_in_an_address_is_refused(client: RequestsHttpClient, single_use: bool) -> None:
    """A URL with a name and password is a ConfigError that repeats neither; nothing is sent."""
    with SocketServer(answering(answer())) as server:
        with pytest.raises(ConfigError) as caught:
            send(client, server.url.replace("//", "//bob:hunter2@"), single_use=single_use)
        assert server.connections == 0
    assert "hunter2" not in str(caught.value)


# What others would like to add.


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_netrc_does_not_replace_our_authorization(
    certificate: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """The provider gets the client's own credentials though a .netrc holds others for its host."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login theirs password theirs\ndefault login theirs password theirs\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    client = RequestsHttpClient(verify=certificate.path)
    with SocketServer(answering(answer()), tls=_tls(certificate, scheme)) as server:
        assert requests.utils.get_netrc_auth(server.url) == ("theirs", "theirs"), "requests would use it"
        for single_use in (False, True):
            send(client, server.url, single_use=single_use)
        client.close()
    assert [r.headers.get_all("Authorization") for r in server.requests] == [["Basic b3VyczpvdXJz"]] * 2


def _tls(certificate: Certificate, scheme: str) -> ssl.SSLContext | None:
    return certificate.context if scheme == "https" else None


@pytest.mark.parametrize("single_use", [False, True])
def test_a_proxy_of_the_environment_does_not_catch_loopback_http(
    client: RequestsHttpClient, monkeypatch: pytest.MonkeyPatch, single_use: bool
) -> None:
    """What goes unencrypted to this machine goes there directly, whatever HTTP_PROXY and ALL_PROXY say."""
    with SocketServer(answering(answer(502))) as proxy, SocketServer(answering(answer())) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert "http" in requests.utils.get_environ_proxies(server.url), "requests would use it"
        assert send(client, server.url, single_use=single_use).status == 200
        assert proxy.connections == 0


@pytest.mark.parametrize("single_use", [False, True])
def test_cookies_are_not_sent_back(client: RequestsHttpClient, single_use: bool) -> None:
    """A cookie that the provider sets with one answer is not in the next request."""
    cookie = answer(headers={"Set-Cookie": "sid=tenant-1; Path=/"})
    with SocketServer(answering(cookie)) as server:
        for _ in range(3):
            send(client, server.url, single_use=single_use)
        client.close()
    assert [request.headers["Cookie"] for request in server.requests] == [None] * 3


def test_an_answer_is_asked_for_uncompressed(client: RequestsHttpClient) -> None:
    """So that the limit on what is sent is the limit on what is read."""
    with SocketServer(answering(answer())) as server:
        send(client, server.url)
        client.close()
    assert server.requests[0].headers.get_all("Accept-Encoding") == ["identity"]


# Client authentication on the wire.


@each_grant
def test_client_secret_basic_form_encodes_both_parts_first(
    client: RequestsHttpClient, grant: str, call: Call
) -> None:
    """RFC 6749 section 2.3.1: a secret of any characters arrives whole, in the header and only there."""
    with SocketServer(answering(answer())) as server:
        call(broker_for(server.url, client, client_secret="p@ss: wörd/+%"))
        client.close()
    [request] = server.requests
    scheme, _, encoded = str(request.headers["Authorization"]).partition(" ")
    assert scheme == "Basic"
    assert base64.b64decode(encoded) == b"client-1:p%40ss%3A+w%C3%B6rd%2F%2B%25"
    assert request.form["grant_type"] == grant
    assert not {"client_id", "client_secret"} & request.form.keys()


@each_grant
def test_client_secret_post_puts_both_into_the_form(
    client: RequestsHttpClient, grant: str, call: Call
) -> None:
    """client_secret_post sends id and secret as parameters, and no Authorization header."""
    with SocketServer(answering(answer())) as server:
        secret = "p@ss: wörd/+%"
        call(broker_for(server.url, client, client_secret=secret, client_auth="client_secret_post"))
        client.close()
    [request] = server.requests
    assert request.headers["Authorization"] is None
    assert (request.form["client_id"], request.form["client_secret"]) == (CLIENT_ID, secret)
    assert request.form["grant_type"] == grant
    assert b"client_secret=p%40ss%3A+w%C3%B6rd%2F%2B%25" in request.body


@each_grant
def test_a_public_client_names_itself_and_proves_nothing(
    client: RequestsHttpClient, grant: str, call: Call
) -> None:
    """Method none sends client_id as a parameter (RFC 6749 section 3.2.1) and no credentials."""
    with SocketServer(answering(answer())) as server:
        call(broker_for(server.url, client, client_secret=None, client_auth="none"))
        client.close()
    [request] = server.requests
    assert request.headers["Authorization"] is None
    assert (request.form["client_id"], request.form["grant_type"]) == (CLIENT_ID, grant)
    assert "client_secret" not in request.form


@each_grant
def test_a_token_request_is_one_post_of_a_form(client: RequestsHttpClient, grant: str, call: Call) -> None:
    """A grant is presented once, as a form in the body; the address and other headers hold no secret."""
    with SocketServer(answering(answer())) as server:
        call(broker_for(server.url, client))
        client.close()
    [request] = server.requests
    assert request.line == "POST /token HTTP/1.1"
    assert request.headers.get_all("Content-Type") == ["application/x-www-form-urlencoded"]
    assert request.headers.get_all("Accept") == ["application/json"]
    presented = {"client_credentials": set(), "refresh_token": {REFRESH_TOKEN}, "authorization_code": {CODE}}
    assert {request.form[name] for name in ("refresh_token", "code") if name in request.form} == presented[
        grant
    ]
    del request.headers["Authorization"]
    assert not any(secret in str(request.headers) for secret in (CLIENT_SECRET, REFRESH_TOKEN, CODE))


def test_a_body_of_any_bytes_arrives_as_it_is(client: RequestsHttpClient) -> None:
    """A request's body is bytes; nothing reads them as text on the way."""
    body = bytes(range(256))
    with SocketServer(answering(answer())) as server:
        client.send(HttpRequest("POST", server.url, {}, body), ResponseMetadataSlot())
        client.close()
    assert server.requests[0].body == body


# Over which connection.


def test_requests_reuse_the_pool_except_those_that_present_a_single_use_credential(
    client: RequestsHttpClient,
) -> None:
    """Ordinary requests share one connection; each single-use one comes on a connection of its own."""
    with SocketServer(answering(answer())) as server:
        for single_use in (False, False, True, True, False):
            send(client, server.url, single_use=single_use)
        client.close()
    ports = [request.port for request in server.requests]
    assert ports[0] == ports[1] == ports[4]
    assert len(set(ports)) == server.connections == 3


def test_codes_and_refresh_tokens_ride_fresh_connections(client: RequestsHttpClient) -> None:
    """The broker's user grants never meet a connection that carried something before."""
    with SocketServer(answering(answer())) as server:
        broker = broker_for(server.url, client)
        broker.client_credentials(SERVICE_REQUEST)
        broker.client_credentials(SERVICE_REQUEST.force_refresh())
        GRANTS["refresh_token"](broker)
        GRANTS["authorization_code"](broker)
        client.close()
    service, service_again, refresh, code = (request.port for request in server.requests)
    assert service == service_again
    assert len({service, refresh, code}) == 3


def test_a_half_dead_connection_is_not_used_for_a_single_use_credential(client: RequestsHttpClient) -> None:
    """Where the pool's idle connection would swallow the request, a refresh token is renewed all the same."""

    def answers_once_per_connection(peer: Peer) -> None:
        peer.receive()
        peer.send(answer())
        peer.receive()  # and is never heard of again

    with SocketServer(answers_once_per_connection) as server:
        send(client, server.url)
        renewed = broker_for(server.url, client).refresh_access_token(USER_REQUEST)
        assert renewed.access_token.expose() == "at-1"
        with pytest.raises(requests.ConnectionError):
            send(client, server.url)  # the pool's connection was a trap indeed
        client.close()
    first, renewal, trapped = (request.port for request in server.requests)
    assert first == trapped != renewal


@pytest.mark.parametrize("status", [102, 103])
def test_an_interim_answer_does_not_shift_the_answers_of_a_connection(
    client: RequestsHttpClient, status: int
) -> None:
    """RFC 9110 section 15.2: each request gets its own answer, so that no tenant gets another's token."""
    bodies = [b"first", b"second"]

    def hints(peer: Peer) -> None:
        while peer.receive():
            peer.send(b"HTTP/1.1 %d Interim\r\nLink: </style.css>\r\n\r\n" % status)
            peer.send(answer(body=bodies.pop(0)))

    with SocketServer(hints) as server:
        assert [send(client, server.url).body for _ in range(2)] == [b"first", b"second"]
        client.close()


# What can be seen.


def test_debug_output_of_the_http_stack_shows_no_secret(
    provider: LoopbackProvider,
    broker: Broker,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With http.client printing and all loggers at DEBUG, no grant shows what it sends or gets."""
    session = broker.start_authorization(TENANT, USER, SCOPE, REDIRECT_URI)
    callback = provider.browse(session.authorize_url)
    for name in [None, *logging.root.manager.loggerDict]:
        caplog.set_level(logging.DEBUG, name)
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    _print_something(provider)
    assert "send: b'GET /resource" in capsys.readouterr().out, "http.client would print"

    records = [broker.complete_authorization(session, callback)]
    records.append(broker.refresh_access_token(USER_REQUEST.force_refresh()))
    records.append(broker.client_credentials(SERVICE_REQUEST))

    secrets = ["demo-secret", base64.b64encode(b"demo-client:demo-secret").decode()]
    secrets += parse_qs(urlsplit(callback).query)["code"]
    for held in [session.code_verifier] + [s for r in records for s in (r.access_token, r.refresh_token)]:
        secrets += [] if held is None else [held.expose()]
    output = capsys.readouterr()
    seen = output.out + output.err + caplog.text + "".join(str(record.__dict__) for record in caplog.records)
    assert "POST /token" in caplog.text
    assert len(secrets) == 9
    assert [secret for secret in secrets if secret in seen] == []


def _print_something(provider: LoopbackProvider) -> None:
    connection = http.client.HTTPConnection(urlsplit(provider.base_url).netloc, timeout=10)
    connection.request("GET", "/resource")
    connection.getresponse().close()
    connection.close()


@each_grant
def test_a_query_with_secrets_is_sent_and_not_logged(
    client: RequestsHttpClient, grant: str, call: Call, caplog: pytest.LogCaptureFixture
) -> None:
    """Some providers take parameters in the URL; urllib3 logs the URLs of others as ever."""
    for name in ["urllib3", "urllib3.connectionpool", "urllib3.connection"]:
        caplog.set_level(logging.DEBUG, name)
    headers = {"Content-Length": str(len(TOKEN_BODY)), "Odd ": "1"}  # which urllib3 warns of, with the URL
    odd = answer(200, headers=headers)
    with SocketServer(answering(odd)) as server:
        shape: dict[str, Any] = {"client_auth": "client_secret_post", "body_format": "query"}
        call(broker_for(server.url, client, client_secret="secret-of-app", **shape))
        client.close()
        requests.get(f"{server.url}/other?page=2", timeout=10).close()
    ours = server.requests[0]
    assert f"grant_type={grant}" in ours.line
    assert "client_secret=secret-of-app" in ours.line
    assert ours.body == b""
    assert "POST /token HTTP" in caplog.text
    assert "Failed to parse headers" in caplog.text
    assert "/other?page=2" in caplog.text
    assert "secret-of-app" not in caplog.text


def test_responses_mocks_serve_the_broker() -> None:
    """Programs that test with `responses` need no change: the adapter's send is requests' own."""
    endpoint = "https://provider.example.com/token"
    descriptor = ProviderDescriptor("demo", endpoint, {GrantType.CLIENT_CREDENTIALS})
    with responses.RequestsMock() as mocked, Broker(descriptor, "demo-client", "demo-secret") as broker:
        mocked.post(endpoint, json={"access_token": "mocked", "token_type": "Bearer", "expires_in": 60})
        assert broker.client_credentials(SERVICE_REQUEST).access_token.expose() == "mocked"
        assert str(mocked.calls[0].request.headers["Authorization"]).startswith("Basic ")


def test_one_send_says_nothing_to_the_next(
    client: RequestsHttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 33: proxies that the environment names for https stay out of what goes to this machine."""
    with SocketServer(answering(answer(200, b"{}"))) as server:
        for name in ("HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens
        settings = client._settings("HTTPS://idp.example/token")
        assert settings["proxies"]["https"] == "http://127.0.0.1:9"
        assert send(client, server.url).body == b"{}"
        client.close()
