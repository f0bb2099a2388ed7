"""What the default transport makes of providers and networks that fail. Over real sockets."""

from __future__ import annotations

import itertools
import socket
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
import urllib3

from oauth2broker import (
    BrokerError,
    ConfigError,
    GrantType,
    HttpRequest,
    HttpResponse,
    ProviderStrategy,
    RequestsHttpClient,
    ResponseMetadata,
    ResponseMetadataSlot,
    TransientError,
    TransportError,
)
from oauth2broker.transports.base import NeverSentError
from oauth2broker.transports.httpx import HttpxHttpClient
from tests.support import SERVICE_REQUEST, USER_REQUEST
from tests.transport.sockets import (
    CONNECT,
    GRANTS,
    Certificate,
    Peer,
    Script,
    SocketServer,
    after_request,
    answer,
    answering,
    broker_for,
    closed_port,
    failure_of,
    leave,
)


def send(client: RequestsHttpClient, url: str, slot: ResponseMetadataSlot | None = None) -> HttpResponse:
    request = HttpRequest("POST", url, {}, b"grant_type=client_credentials")
    return client.send(request, slot or ResponseMetadataSlot())


# What is known when the headers are there.


BROKEN_BODIES: Mapping[str, Callable[[Peer], object]] = {
    "truncated": leave,
    "reset": Peer.reset,
    "stalled": Peer.await_departure,
    "dripping": lambda peer: peer.drip(itertools.repeat(b" "), 0.02),
}
each_broken_body = pytest.mark.parametrize("then", BROKEN_BODIES.values(), ids=BROKEN_BODIES)


def overloaded(then: Callable[[Peer], object], **headers: str) -> Script:
    fields = {"Content-Length": "999", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return after_request(answer(503, b"{", fields), then=then)


@each_broken_body
def test_metadata_is_there_although_the_body_broke(
    hasty: RequestsHttpClient, then: Callable[[Peer], object]
) -> None:
    """Status and Retry-After are noted as soon as the headers are there."""
    slot = ResponseMetadataSlot()
    with SocketServer(overloaded(then, Retry_After="7")) as server:
        with pytest.raises(urllib3.exceptions.HTTPError):
            send(hasty, server.url, slot)
        assert slot.take() == ResponseMetadata(503, 7.0)
        assert slot.take() is None


@each_broken_body
@pytest.mark.parametrize("grant", ["client_credentials", "refresh_token"])
def test_retry_after_is_told_although_the_body_broke(
    hasty: RequestsHttpClient, grant: str, then: Callable[[Peer], object]
) -> None:
    """503 with Retry-After and a broken body ends in a TransientError that says when to come back."""
    with SocketServer(overloaded(then, Retry_After="7")) as server:
        error = failure_of(lambda: GRANTS[grant](broker_for(server.url, hasty)))
    assert isinstance(error, TransientError)
    assert (error.status, error.retry_after) == (503, 7.0)


def test_metadata_of_an_earlier_send_is_gone_when_the_next_one_fails(client: RequestsHttpClient) -> None:
    """A slot that is used again is emptied before anything can fail."""
    slot = ResponseMetadataSlot()
    for url in (f"http://127.0.0.1:{closed_port()}/token", "http://provider.example.com/token"):
        slot.store(ResponseMetadata(429, 60.0))
        with pytest.raises((NeverSentError, ConfigError)):
            send(client, url, slot)
        assert slot.take() is None


def test_a_mapper_of_ones_own_gets_what_is_known(hasty: RequestsHttpClient) -> None:
    """The mapper is given strategy, grant, metadata and error; what it gives is what the caller sees."""
    seen: list[tuple[object, ...]] = []

    class Mapper:
        def map_transport_error(
            self,
            strategy: ProviderStrategy,
            grant: GrantType,
            metadata: ResponseMetadata | None,
            error: Exception,
        ) -> BrokerError:
            seen.append((grant, metadata, type(error).__name__))
            return TransientError("mapped", status=599)

    with SocketServer(overloaded(leave, Retry_After="7")) as server:
        broker = broker_for(server.url, hasty, error_mapper=Mapper())
        error = failure_of(lambda: broker.client_credentials(SERVICE_REQUEST))
    assert seen == [(GrantType.CLIENT_CREDENTIALS, ResponseMetadata(503, 7.0), "ProtocolError")]
    assert (str(error), error.status) == ("mapped", 599)


# Did anything go out?


def transport_failure(client: RequestsHttpClient, url: str) -> TransportError:
    error = failure_of(lambda: broker_for(url, client).client_credentials(SERVICE_REQUEST))
    assert isinstance(error, TransportError)
    return error


def test_a_refused_connection_was_not_sent(client: RequestsHttpClient) -> None:
    """Where nobody listens, nothing went out."""
    assert not transport_failure(client, f"http://127.0.0.1:{closed_port()}/token").sent


def test_an_unknown_host_was_not_sent(client: RequestsHttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no name resolves, nothing went out."""

    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert not transport_failure(client, "https://provider.example.com/token").sent


@pytest.mark.parametrize("then", [leave, Peer.reset], ids=["closed", "reset"])
def test_a_request_that_got_no_answer_was_sent_once(
    client: RequestsHttpClient, then: Callable[[Peer], object]
) -> None:
    """A connection that dies without an answer leaves it open whether the grant is spent; no second try."""
    with SocketServer(after_request(then=then)) as server:
        error = failure_of(lambda: GRANTS["refresh_token"](broker_for(server.url, client)))
        server.settle()
    assert isinstance(error, TransportError)
    assert error.sent
    assert len(server.requests) == server.connections == 1


@pytest.mark.parametrize("grant", ["client_credentials", "refresh_token"])
def test_a_request_does_not_go_out_after_the_connect_deadline(
    hasty: RequestsHttpClient, monkeypatch: pytest.MonkeyPatch, grant: str
) -> None:
    """When resolving alone took longer than connect_timeout, not a byte is sent, and we know it."""
    resolve = socket.getaddrinfo

    def resolve_slowly(*args: Any, **options: Any) -> object:
        threading.Event().wait(CONNECT + 0.1)
        return resolve(*args, **options)

    with SocketServer(Peer.await_departure) as server:
        monkeypatch.setattr(socket, "getaddrinfo", resolve_slowly)
        error = failure_of(lambda: GRANTS[grant](broker_for(server.url, hasty)))
    assert isinstance(error, TransportError)
    assert not error.sent
    assert server.connections == 0


def test_what_the_caller_was_handling_says_nothing_about_what_we_sent(client: RequestsHttpClient) -> None:
    """A renewal inside `except` of a failure to connect elsewhere is judged by its own failure."""
    with SocketServer(after_request(then=leave)) as server:
        broker = broker_for(server.url, client)
        with pytest.raises(requests.ConnectionError) as unrelated:
            requests.get(f"http://127.0.0.1:{closed_port()}/", timeout=5)
        try:
            raise unrelated.value
        except requests.ConnectionError:
            with pytest.raises(TransportError) as caught:
                broker.client_credentials(SERVICE_REQUEST)
    assert caught.value.__context__ is unrelated.value, "or this test proves nothing"
    assert caught.value.sent


# TLS.


def test_a_certificate_that_nobody_trusts_stops_the_request(
    client: RequestsHttpClient, certificate: Certificate
) -> None:
    """TLS is verified: to a self-signed server no request goes out, and we know it."""
    with SocketServer(answering(answer()), tls=certificate.context) as server:
        assert not transport_failure(client, server.url).sent
        server.settle()
    assert server.bytes_received == 0


def test_a_certificate_for_another_name_stops_the_request(certificate: Certificate) -> None:
    """A trusted certificate of another host is no better."""
    client = RequestsHttpClient(verify=certificate.path)
    with SocketServer(answering(answer()), tls=certificate.context) as server:
        assert not transport_failure(client, server.url.replace("127.0.0.1", "localhost")).sent
        server.settle()
    assert server.bytes_received == 0


@pytest.mark.parametrize("kind", [RequestsHttpClient, HttpxHttpClient])
@pytest.mark.parametrize("of_type", [str, Path])
@pytest.mark.parametrize("grant", GRANTS)
def test_verify_names_the_authority_to_trust(
    certificate: Certificate, grant: str, of_type: type[Any], kind: type[Any]
) -> None:
    """With its CA bundle in ``verify`` a private provider is served over TLS."""
    client = kind(verify=of_type(certificate.path))
    with SocketServer(answering(answer()), tls=certificate.context) as server:
        assert GRANTS[grant](broker_for(server.url, client)).access_token.expose() == "at-1"
        client.close()


@pytest.mark.parametrize("options", [{"verify": "/no/such/file"}, {"cert": "/no/such/file"}, {}])
def test_a_file_that_is_not_there_is_no_outage(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """It does not pass by waiting, so the error names the file; a grant's record bears no mark of it."""
    if not options:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/file")
    client = RequestsHttpClient(**options)
    url = f"https://127.0.0.1:{closed_port()}"
    for single_use in (False, True):
        with pytest.raises(ConfigError, match="/no/such/file"):
            client.send(HttpRequest("POST", url, {}, b"a=b", single_use), ResponseMetadataSlot())
    broker = broker_for(url, client)
    error = failure_of(lambda: broker.refresh_access_token(USER_REQUEST))
    assert type(error) is ConfigError
    record = broker.store.fetch(broker.key_for(USER_REQUEST))
    assert record is not None
    assert record.attempted_at is None
    client.close()


@pytest.mark.parametrize("verify", [False, None, 5, "", b"ca.pem"])
@pytest.mark.parametrize("kind", [RequestsHttpClient, HttpxHttpClient])
def test_certificates_are_always_verified(kind: type[Any], verify: Any) -> None:
    """``verify=False`` would give the client's secret to whoever answers."""
    with pytest.raises(ConfigError, match="verify is True or the path of a CA bundle"):
        kind(verify=verify)


KEY = "-----BEGIN PRIVATE KEY-----\nhush-hush"


@pytest.mark.parametrize(
    "cert", [5, "", (), ("client.pem",), ["client.pem", "key.pem"], ("client.pem", 5), KEY]
)
@pytest.mark.parametrize("kind", [RequestsHttpClient, HttpxHttpClient])
def test_a_client_certificate_that_is_none_is_a_mistake_at_once(kind: type[Any], cert: Any) -> None:
    """Not an outage at the first call; and a key in the place of its path shows nowhere."""
    with pytest.raises(ConfigError, match="cert is the path of a client certificate") as refused:
        kind(cert=cert)
    told = traceback.TracebackException.from_exception(refused.value, capture_locals=True)
    assert "hush-hush" not in repr([frame.locals for frame in told.stack if frame.name == "__init__"])
    assert "hush-hush" not in str(refused.value)


@pytest.mark.parametrize("kind", [RequestsHttpClient, HttpxHttpClient])
def test_a_client_certificate_may_be_given_by_any_kind_of_path(
    certificate: Certificate, kind: type[Any]
) -> None:
    """As a CA bundle may: certificate and key as strings or as paths."""
    folder = Path(certificate.path).parent
    for of_type in (str, Path):
        pair = of_type(folder / "cert.pem"), of_type(folder / "key.pem")
        client = kind(verify=certificate.path, cert=pair)
        with SocketServer(answering(answer()), tls=certificate.context) as server:
            assert broker_for(server.url, client).client_credentials(SERVICE_REQUEST).access_token
            client.close()


@pytest.mark.parametrize("seconds", ["5", None, 0, -1.0, 30.1, float("nan")])
@pytest.mark.parametrize("kind", [RequestsHttpClient, HttpxHttpClient])
def test_a_timeout_that_is_none_is_a_mistake(kind: type[Any], seconds: Any) -> None:
    """Nothing waits for ever, nor longer than flows count on."""
    for name in ("connect_timeout", "total_timeout"):
        with pytest.raises(ConfigError, match="timeouts are at most 5 and 30 seconds"):
            kind(**{name: seconds})


def test_proxies_are_a_dict() -> None:
    """As in requests, and not the one proxy of httpx."""
    with pytest.raises(ConfigError, match="proxies are a dict"):
        RequestsHttpClient(proxies="http://proxy.example.com:3128")  # type: ignore[arg-type]


def test_a_handshake_that_never_ends_was_not_sent(hasty: RequestsHttpClient) -> None:
    """Before the handshake ends nothing of the request can have gone out."""
    with SocketServer(Peer.await_departure) as server:
        assert not transport_failure(hasty, server.url.replace("http:", "https:")).sent


# Proxies.


@pytest.mark.parametrize("then", [leave, Peer.reset], ids=["closed", "reset"])
def test_a_request_lost_behind_a_tunnel_was_sent(
    certificate: Certificate, then: Callable[[Peer], object]
) -> None:
    """A provider reached through a CONNECT proxy that dies after the request may have spent the grant."""

    def tunnel(peer: Peer) -> None:
        peer.receive()
        peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        peer.start_tls(certificate.context)
        peer.receive()
        then(peer)

    with SocketServer(tunnel) as proxy:
        client = RequestsHttpClient(
            verify=certificate.path, proxies={"https": f"http://127.0.0.1:{proxy.port}"}
        )
        error = transport_failure(client, f"https://127.0.0.1:{closed_port()}/token")
        client.close()
        proxy.settle()
    assert [request.line for request in proxy.requests][1] == "POST /token HTTP/1.1"
    assert error.sent


@pytest.mark.parametrize("then", [leave, lambda peer: peer.send(answer(407))], ids=["dies", "refuses"])
def test_a_tunnel_that_is_never_dug_lets_nothing_through(then: Callable[[Peer], object]) -> None:
    """A proxy that does not connect learns the provider's host and nothing of the request."""
    with SocketServer(after_request(then=then)) as proxy:
        proxied = RequestsHttpClient(proxies={"https": f"http://127.0.0.1:{proxy.port}"})
        assert not transport_failure(proxied, "https://provider.example.com/token").sent
        proxied.close()
    [request] = proxy.requests
    assert request.line.startswith("CONNECT provider.example.com:443 ")
    assert request.headers["Authorization"] is None


def test_a_proxy_that_nobody_runs_was_not_sent_to() -> None:
    """Where the proxy itself cannot be reached, nothing went out."""
    client = RequestsHttpClient(proxies={"https": f"http://127.0.0.1:{closed_port()}"})
    assert not transport_failure(client, "https://provider.example.com/token").sent
