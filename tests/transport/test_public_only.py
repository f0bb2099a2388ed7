"""Requests that may go to public addresses only. Over real sockets where a connection is made."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from urllib3.util.connection import create_connection

from oauth2broker import (
    ConfigError,
    GrantType,
    HttpRequest,
    HttpResponse,
    ProviderStrategy,
    RequestsHttpClient,
    RequestsTransportErrorMapper,
    ResponseMetadataSlot,
)
from oauth2broker.transports.base import is_public_address
from tests.transport.sockets import Certificate, Peer, SocketServer, answer, answering, failure_of

NAME, PUBLIC = "issuer.example.com", "93.184.215.14"
NOT_PUBLIC = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.2.1",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::10.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::8.8.8.8",
    "2001::1",
    "2001:db8::1",
    "3fff::1",
    "3fff:fff:ffff::1",
    "2002:7f00:1::",
    "2002:c0a8:101::1",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fe80::1%2",
    "fec0::1",
    "ff02::1",
]


def send(client: RequestsHttpClient, url: str, *, public_only: bool = True) -> HttpResponse:
    request = HttpRequest("GET", url, {}, b"", public_only=public_only)
    return client.send(request, ResponseMetadataSlot())


class Resolver:
    """Stands for ``socket.getaddrinfo``: ``NAME`` leads to ``addresses``, others to where they do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
        self.asked: list[str] = []
        self._addresses = addresses
        self._resolve = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __call__(self, host: str, port: int, *args: Any, **options: Any) -> list[Any]:
        if host != NAME:
            return self._resolve(host, port, *args, **options)
        self.asked.append(host)
        found = [self._resolve(address, port, type=socket.SOCK_STREAM) for address in self._addresses]
        return [entry for entries in found for entry in entries]


class Detour:
    """Stands for connecting: notes where to, and goes to ``server`` instead."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, server: SocketServer) -> None:
        self.wanted: list[str] = []
        self._port = server.port
        monkeypatch.setattr("oauth2broker.transports.requests.create_connection", self)

    def __call__(self, address: tuple[str, int], *args: Any) -> socket.socket:
        self.wanted.append(address[0])
        return create_connection(("127.0.0.1", self._port), *args)


# Which addresses are public.


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_leads_inside_is_not_public(address: str) -> None:
    """Special-purpose addresses are not public, in whatever form of IPv6 they are wrapped."""
    assert not is_public_address(address)


@pytest.mark.parametrize(
    "address",
    [
        PUBLIC,
        "8.8.8.8",
        "100.128.0.1",
        "2606:4700::1111",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
        "2002:808:808::1",
    ],
)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    """Also wrapped, as networks that speak IPv6 only show it."""
    assert is_public_address(address)


# What the default transport does with them.


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "fe80::1", "::ffff:10.0.0.1"]
)
@pytest.mark.parametrize("scheme", ["https", "http"])
def test_a_name_that_leads_inside_is_refused_before_anything_is_sent(
    client: RequestsHttpClient, monkeypatch: pytest.MonkeyPatch, address: str, scheme: str
) -> None:
    """The address is checked when it is connected to, so that a name cannot change its mind in between."""
    with SocketServer(answering(answer())) as server:
        detour = Detour(monkeypatch, server)
        Resolver(monkeypatch, address)
        monkeypatch.setattr(
            "oauth2broker.transports.requests.checked_endpoint", lambda *_: None
        )  # else http ends there already
        error = failure_of(lambda: send(client, f"{scheme}://{NAME}:{server.port}/"))
        assert server.connections == 0
    assert isinstance(error, ConfigError)
    assert (NAME in str(error), address in str(error)) == (True, True)
    assert detour.wanted == []


@pytest.mark.parametrize("addresses", [(PUBLIC, "10.0.0.1"), ("10.0.0.1", PUBLIC)])
def test_one_address_inside_refuses_the_name(
    client: RequestsHttpClient, monkeypatch: pytest.MonkeyPatch, addresses: tuple[str, str]
) -> None:
    """A name with a public and a private address is refused whatever their order."""
    with SocketServer(answering(answer())) as server:
        detour = Detour(monkeypatch, server)
        Resolver(monkeypatch, *addresses)
        with pytest.raises(ConfigError):
            send(client, f"https://{NAME}/")
    assert detour.wanted == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "0x7f000001", "2130706433", "[::1]"])
def test_an_address_in_the_url_is_refused_too(client: RequestsHttpClient, host: str) -> None:
    """However the URL spells this machine."""
    with SocketServer(answering(answer())) as server:
        with pytest.raises(ConfigError):
            send(client, f"https://{host}:{server.port}/")
        assert server.connections == 0


def test_the_address_that_was_checked_is_the_one_connected_to(
    client: RequestsHttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is resolved once; a second answer has no chance."""
    with SocketServer(answering(answer())) as server:
        resolver, detour = Resolver(monkeypatch, PUBLIC), Detour(monkeypatch, server)
        monkeypatch.setattr("oauth2broker.transports.requests.checked_endpoint", lambda *_: None)
        assert send(client, f"http://{NAME}/").status == 200
    assert (resolver.asked, detour.wanted) == ([NAME], [PUBLIC])


def test_a_pooled_connection_does_not_get_around_the_check(client: RequestsHttpClient) -> None:
    """A connection that an ordinary request left open carries no request that may go outside only."""
    with SocketServer(answering(answer())) as server:
        assert send(client, server.url, public_only=False).status == 200
        with pytest.raises(ConfigError):
            send(client, server.url)
        assert send(client, server.url, public_only=False).status == 200
        client.close()
    assert (len(server.requests), server.connections) == (2, 1)


def test_behind_a_proxy_the_proxy_resolves(certificate: Certificate) -> None:
    """The proxy's own address is no secret of the provider's, and the name is not resolved here."""

    def tunnel(peer: Peer) -> None:
        peer.receive()
        peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        peer.start_tls(certificate.context)
        peer.receive()
        peer.send(answer())

    with SocketServer(tunnel) as proxy:
        proxies = {"https": f"http://127.0.0.1:{proxy.port}"}
        client = RequestsHttpClient(verify=certificate.path, proxies=proxies)
        assert send(client, "https://127.0.0.1:9/document").status == 200
        client.close()
    connect, get = (request.line for request in proxy.requests)
    assert connect.startswith("CONNECT 127.0.0.1:9 ")
    assert get.startswith("GET /document ")


def test_a_refusal_is_the_operators_to_see(client: RequestsHttpClient) -> None:
    """The default mapper gives a ConfigError, which asks for no second try."""
    refused = failure_of(lambda: send(client, "https://127.0.0.1:9/"))
    mapper, grant = RequestsTransportErrorMapper(), GrantType.AUTHORIZATION_CODE
    mapped = mapper.map_transport_error(ProviderStrategy(), grant, None, refused)
    assert (type(mapped), mapped.retryable) == (ConfigError, False)
