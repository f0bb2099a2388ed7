"""The transport on httpx: what the contract leaves open, and whole flows of a broker on it."""

from __future__ import annotations

import gzip
import logging
import socket
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from oauth2broker import (
    Broker,
    ConfigError,
    HttpRequest,
    HttpResponse,
    InvalidGrantError,
    ResponseMetadataSlot,
    TransientError,
    TransportError,
)
from oauth2broker.testing import Fault, LoopbackProvider
from oauth2broker.transports.base import BodyTooLargeError, NeverSentError
from oauth2broker.transports.httpx import HttpxHttpClient, HttpxTransportErrorMapper
from tests.support import SERVICE_REQUEST, USER_REQUEST, Crowd, ManualClock, log_in
from tests.transport.sockets import (
    CONNECT,
    TOTAL,
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


@pytest.fixture
def web() -> Iterator[HttpxHttpClient]:
    """The transport, with more time than any test needs."""
    made = HttpxHttpClient(total_timeout=10)
    yield made
    made.close()


def send(web: HttpxHttpClient, url: str, **changes: Any) -> HttpResponse:
    return web.send(HttpRequest("POST", url, {}, b"a=b", **changes), ResponseMetadataSlot())


def failure(web: HttpxHttpClient, url: str) -> Exception:
    broker = broker_for(url, web, error_mapper=HttpxTransportErrorMapper())
    return failure_of(lambda: broker.client_credentials(SERVICE_REQUEST))


# What it is made with.


@pytest.mark.parametrize(
    "options",
    [
        {"connect_timeout": 6},
        {"total_timeout": 31},
        {"total_timeout": 0},
        {"verify": False},
        {"verify": "/no/such/file"},
        {"cert": "/no/such/file"},
        {"proxy": "socks5://127.0.0.1:1"},
        {"proxy": "127.0.0.1:1"},
        {"transport": httpx.MockTransport(lambda _: httpx.Response(200)), "cert": "x"},
    ],
)
def test_mistakes_in_the_options_are_config_errors(options: dict[str, Any]) -> None:
    """When it is made, not at the first call."""
    with pytest.raises(ConfigError):
        HttpxHttpClient(**options)


# TLS and proxies.


def test_a_private_authority_and_a_client_certificate(certificate: Certificate) -> None:
    """``verify`` names whom to trust, ``cert`` what is presented (RFC 8705)."""
    key = certificate.path.replace("cert.pem", "key.pem")
    web = HttpxHttpClient(verify=certificate.path, cert=(certificate.path, key))
    with SocketServer(answering(answer()), tls=certificate.context) as server:
        assert send(web, server.url).status == 200
        web.close()
    assert web.presents_certificate
    assert not HttpxHttpClient().presents_certificate


def test_a_certificate_that_nobody_trusts_stops_the_request(
    web: HttpxHttpClient, certificate: Certificate
) -> None:
    """No byte of the request goes out, and that is known."""
    with SocketServer(answering(answer()), tls=certificate.context) as server:
        error = failure(web, server.url)
        server.settle()
    assert isinstance(error, TransportError)
    assert not error.sent
    assert server.bytes_received == 0


@pytest.mark.parametrize("from_environment", [False, True])
def test_a_proxy_sees_the_host_and_nothing_of_the_request(
    certificate: Certificate, from_environment: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """https goes through a tunnel; a request lost in it was sent."""

    def tunnel(peer: Peer) -> None:
        peer.receive()
        peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        peer.start_tls(certificate.context)
        peer.receive()

    with SocketServer(tunnel) as proxy:
        address = f"http://user:secret@127.0.0.1:{proxy.port}"
        if from_environment:
            monkeypatch.setenv("HTTPS_PROXY", address)
        web = HttpxHttpClient(verify=certificate.path, proxy=None if from_environment else address)
        error = failure(web, f"https://127.0.0.1:{closed_port()}/token?code=secret")
        proxy.settle()
        web.close()
    connect, post, *_ = proxy.requests
    assert connect.line.startswith("CONNECT 127.0.0.1:")
    assert "/token" not in connect.line
    assert connect.headers["Proxy-Authorization"] is not None
    assert post.line == "POST /token?code=secret HTTP/1.1"
    assert isinstance(error, TransportError)
    assert error.sent


@pytest.mark.parametrize("then", [leave, lambda peer: peer.send(answer(407))], ids=["dies", "refuses"])
def test_a_tunnel_that_is_never_dug_lets_nothing_through(then: Any) -> None:
    """What is said to the proxy is not the request."""
    with SocketServer(after_request(then=then)) as proxy:
        web = HttpxHttpClient(proxy=f"http://127.0.0.1:{proxy.port}")
        error = failure(web, "https://provider.example.com/token")
        web.close()
    assert isinstance(error, TransportError)
    assert not error.sent


# Addresses.


def test_the_address_that_was_checked_is_the_one_connected_to(
    web: HttpxHttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name is resolved once; one address inside is enough to refuse it."""
    asked: list[object] = []

    def resolve(*args: Any, **options: Any) -> list[Any]:
        asked.append(args[0])
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 443)) for host in ("8.8.8.8", "10.0.0.1")]

    def connect(*_: object) -> None:
        raise AssertionError("it connected")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(ConfigError, match=r"10\.0\.0\.1"):
        send(web, "https://issuer.example.com/", public_only=True)
    assert asked == ["issuer.example.com"]


def test_nothing_goes_out_after_the_connect_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the handshake was slow, not a byte follows it; resolving counts."""
    web, resolve = HttpxHttpClient(connect_timeout=CONNECT, total_timeout=10), socket.getaddrinfo

    def slowly(*args: Any, **options: Any) -> Any:
        threading.Event().wait(CONNECT + 0.1)
        return resolve(*args, **options)

    with SocketServer(Peer.await_departure) as server:
        monkeypatch.setattr(socket, "getaddrinfo", slowly)
        error = failure(web, server.url)
        assert server.connections == 0
    assert isinstance(error, TransportError)
    assert not error.sent


# Connections.


def in_turn(*answers: bytes) -> Script:
    """Give a script that answers the first request of each connection, in turn."""
    left = list(answers)

    def script(peer: Peer) -> None:
        if peer.receive():
            peer.send(left.pop(0))

    return script


def test_each_request_rides_a_connection_of_its_own(web: HttpxHttpClient) -> None:
    """What a server, or a balancer, sends too much is not the answer to somebody else's request."""
    twice = answer(200, b"for the first") + answer(200, b"too much")
    with SocketServer(in_turn(twice, answer(200, b"for the second"))) as server:
        assert send(web, server.url, single_use=False).body == b"for the first"
        assert send(web, server.url, single_use=False).body == b"for the second"
    assert server.connections == 2


# Bodies.


def test_a_compressed_body_is_undone_and_a_bomb_cut(web: HttpxHttpClient) -> None:
    """Though neither was asked for."""
    zipped = {"Content-Encoding": "gzip"}
    small, bomb = gzip.compress(b"plain"), gzip.compress(bytes(2**26))
    with SocketServer(in_turn(answer(200, small, zipped), answer(200, bomb, zipped))) as server:
        assert send(web, server.url).body == b"plain"
        with pytest.raises(BodyTooLargeError):
            send(web, server.url)
        web.close()
    with SocketServer(in_turn(answer(200, small[:-9], zipped), answer(200, b"{}", zipped))) as server:
        for _ in range(2):
            with pytest.raises(httpx.DecodingError):
                send(web, server.url)
        web.close()


# Logs.


def test_logs_name_events_and_nothing_else(web: HttpxHttpClient, caplog: pytest.LogCaptureFixture) -> None:
    """Of our requests; those of others are logged as ever."""
    caplog.set_level(logging.DEBUG)
    for name in ("httpcore", "httpcore.http11", "httpcore.connection", "httpx"):
        caplog.set_level(logging.DEBUG, name)
    secret = answer(200, b"{}", {"Set-Cookie": "sid=secret-of-answer"})
    with SocketServer(answering(secret)) as server:
        send(web, f"{server.url}?code=secret-of-request")
        web.close()
        assert "send_request_headers.started" in caplog.text
        assert "secret-of" not in caplog.text
        with httpx.Client(trust_env=False) as other:
            other.get(f"{server.url}?page=2")
    assert "/token?page=2" in caplog.text
    assert "secret-of-answer" in caplog.text


# A transport of the caller's.


def test_a_mock_transport_serves_the_broker() -> None:
    """What it raises, or is asked for about addresses, is never taken for proof that nothing went out."""
    answers = [httpx.Response(200, json={"access_token": "a", "token_type": "Bearer", "expires_in": 60})]

    def handler(request: httpx.Request) -> httpx.Response:
        if answers:
            return answers.pop()
        raise httpx.ConnectError("no")

    web = HttpxHttpClient(transport=httpx.MockTransport(handler))
    broker = broker_for("https://provider.example.com/token", web, error_mapper=HttpxTransportErrorMapper())
    assert broker.client_credentials(SERVICE_REQUEST).access_token.expose() == "a"
    error = failure(web, "https://provider.example.com/token")
    assert isinstance(error, TransportError)
    assert error.sent
    with pytest.raises(ConfigError):
        send(web, "https://provider.example.com/", public_only=True)


def test_a_request_that_cannot_be_built_was_never_sent(web: HttpxHttpClient) -> None:
    """And what could not be encoded is not in the error."""
    with pytest.raises(NeverSentError) as caught:
        web.send(
            HttpRequest("POST", "https://provider.example.com/", {"X": "s€cret"}, b""), ResponseMetadataSlot()
        )
    assert str(caught.value) == "UnicodeEncodeError"
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


# Whole flows.


@pytest.fixture
def broker(provider: LoopbackProvider, clock: ManualClock, web: HttpxHttpClient) -> Iterator[Broker]:
    """A broker on the transport."""
    mapper = HttpxTransportErrorMapper()
    with Broker(
        provider.descriptor(),
        "demo-client",
        "demo-secret",
        clock=clock,
        http_client=web,
        error_mapper=mapper,
    ) as made:
        yield made


def test_all_flows_and_a_logout(broker: Broker, provider: LoopbackProvider, clock: ManualClock) -> None:
    """Login, rotation twice, a service token, revocation."""
    tokens = {log_in(broker, provider).access_token.expose()}
    for _ in range(2):
        clock.advance(3600)
        tokens.add(broker.refresh_access_token(USER_REQUEST).access_token.expose())
    service = broker.client_credentials(SERVICE_REQUEST).access_token.expose()
    assert (len(tokens), provider.reuses, provider.is_live(service)) == (3, 0, True)
    provider.revoke_user("alice")
    with pytest.raises(InvalidGrantError):
        broker.refresh_access_token(USER_REQUEST.force_refresh())


FAULTS = {
    "503": (Fault.answer(503, headers={"Retry-After": "7"}), TransientError),
    "reset": (Fault.reset(), TransportError),
    "cut": (Fault.cut(10, processed=False), TransientError),
    "html": (Fault.html(), TransientError),
    "redirect": (Fault.redirect("/elsewhere"), ConfigError),
    "flood": (Fault.flood(processed=False), TransientError),
    "silence": (Fault.silence(processed=False), TransientError),
    "dripping headers": (Fault.drip_headers(0.05, processed=False), TransientError),
    "dripping body": (Fault.drip_body(0.05, processed=False), TransientError),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_keeps_the_grant_and_the_next_call_succeeds(
    name: str, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """Each becomes the error that it is with the default transport; the login outlives it."""
    fault, kind = FAULTS[name]
    web = HttpxHttpClient(total_timeout=TOTAL)
    with Broker(
        provider.descriptor(),
        "demo-client",
        "demo-secret",
        clock=clock,
        http_client=web,
        error_mapper=HttpxTransportErrorMapper(),
    ) as broker:
        log_in(broker, provider)
        clock.advance(3600)
        provider.inject(fault)
        with pytest.raises(kind):
            broker.refresh_access_token(USER_REQUEST)
        clock.advance(timedelta(hours=1).total_seconds())
        assert broker.refresh_access_token(USER_REQUEST).access_token
        web.close()
    assert provider.reuses == 0


def test_thirty_two_threads_cost_one_call(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """One rotation for all who met the expired token."""
    log_in(broker, provider)
    clock.advance(3600)
    provider.clear()
    crowd = Crowd(32, lambda: broker.refresh_access_token(USER_REQUEST).access_token.expose()).start().join()
    assert (crowd.errors, len(set(crowd.results)), provider.token_calls) == ([], 1, 1)
