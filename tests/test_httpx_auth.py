"""HttpxBrokerAuth: a broker's tokens on the requests of httpx.Client. Over real sockets but where noted."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from oauth2broker import (
    AuthorizationRequiredError,
    Broker,
    BrokerError,
    CachedTokenRequest,
    ConfigError,
    GrantType,
    InsufficientScopeError,
    InvalidGrantError,
    ProviderQuirks,
    ProviderStrategy,
    TokenRecord,
    TokenSecret,
    TransientError,
)
from oauth2broker.integrations.httpx import HttpxBrokerAuth
from oauth2broker.testing import Fault, LoopbackProvider
from tests.support import SERVICE_REQUEST, USER_REQUEST, Crowd, log_in
from tests.transport.sockets import Peer, Received, SocketServer, answer, make_certificate

OK = answer(200, b"ok")
UNAUTHORIZED = answer(401, b'{"error": "invalid_token"}', {"WWW-Authenticate": "Bearer"})


def scripted(respond: Callable[[Received], bytes]) -> Callable[[Peer], None]:
    """Give a script that answers every request as ``respond`` says."""

    def script(peer: Peer) -> None:
        while request := peer.receive():
            peer.send(respond(request))

    return script


def token_of(request: Received, header: str = "Authorization") -> str | None:
    value = request.headers[header]
    return None if value is None else str(value).split(" ")[-1]


def taking_only_live(provider: LoopbackProvider) -> Callable[[Received], bytes]:
    return lambda request: OK if provider.is_live(token_of(request) or "") else UNAUTHORIZED


@pytest.fixture
def api(provider: LoopbackProvider) -> Iterator[SocketServer]:
    """An API that takes the second token and all after it, and refuses the first that it sees."""
    first: list[str | None] = []

    def respond(request: Received) -> bytes:
        token = token_of(request)
        if not first:
            first.append(token)
        return UNAUTHORIZED if token in (None, first[0]) else OK

    with SocketServer(scripted(respond)) as server:
        yield server


@pytest.fixture
def auth(broker: Broker, provider: LoopbackProvider) -> HttpxBrokerAuth:
    """Signs with the token of a user who is logged in."""
    log_in(broker, provider)
    provider.clear()
    return HttpxBrokerAuth(broker, USER_REQUEST)


@pytest.fixture
def web() -> Iterator[httpx.Client]:
    """A client without anything of the environment."""
    with httpx.Client(trust_env=False, timeout=10) as client:
        yield client


def current(broker: Broker) -> str:
    return broker.refresh_access_token(USER_REQUEST).access_token.expose()


# What is signed, with what.


def test_each_request_carries_the_token_of_its_moment(
    broker: Broker, auth: HttpxBrokerAuth, web: httpx.Client
) -> None:
    """A renewal between two requests is seen by the second, without anything being rebuilt."""
    with SocketServer(scripted(lambda _: OK)) as server:
        tokens = [current(broker)]
        web.get(server.url, auth=auth)
        tokens.append(broker.refresh_access_token(USER_REQUEST.force_refresh()).access_token.expose())
        web.get(server.url, auth=auth)
    assert [request.headers["Authorization"] for request in server.requests] == [
        f"Bearer {token}" for token in tokens
    ]
    assert tokens[0] != tokens[1]


def test_the_clients_own_token_with_client_credentials(
    broker: Broker, provider: LoopbackProvider, web: httpx.Client
) -> None:
    """``grant`` says whose token is sent."""
    auth = HttpxBrokerAuth(broker, SERVICE_REQUEST, GrantType.CLIENT_CREDENTIALS)
    with SocketServer(scripted(taking_only_live(provider))) as server:
        assert web.get(server.url, auth=auth).status_code == 200
    assert [call.grant_type for call in provider.calls] == ["client_credentials"]


def test_a_header_and_scheme_of_the_providers_own(provider: LoopbackProvider, web: httpx.Client) -> None:
    """The token goes where the descriptor says, and nowhere else."""
    quirks = ProviderQuirks(api_header="X-Api-Token", api_scheme="")
    broker = Broker(provider.descriptor(quirks=quirks), "demo-client", "demo-secret")
    log_in(broker, provider)
    with SocketServer(scripted(lambda _: OK)) as server, broker:
        web.get(server.url, auth=HttpxBrokerAuth(broker, USER_REQUEST))
        token = current(broker)
    [request] = server.requests
    assert (request.headers["X-Api-Token"], request.headers["Authorization"]) == (token, None)


class Signer:
    """A signer of one's own, which does what it is told."""

    def __init__(self, act: Callable[[httpx.Request, TokenRecord], Any]) -> None:
        self.attach = act


def test_a_signer_of_ones_own(broker: Broker, auth: HttpxBrokerAuth, web: httpx.Client) -> None:
    """It may give another request object; the token in a query is renewed as one in a header."""
    log: list[str] = []

    def attach(request: httpx.Request, record: TokenRecord) -> httpx.Request:
        log.append(record.access_token.expose())
        url = request.url.copy_set_param("key", record.access_token.expose())
        return httpx.Request(request.method, url, headers=request.headers)

    def respond(request: Received) -> bytes:
        return OK if len(log) == 2 else UNAUTHORIZED

    with SocketServer(scripted(respond)) as server:
        signed = HttpxBrokerAuth(broker, USER_REQUEST, signer=Signer(attach))
        assert web.get(f"{server.url}?page=2", auth=signed).status_code == 200
    assert [request.line.split(" ")[1] for request in server.requests] == [
        f"/token?page=2&key={token}" for token in log
    ]


def _raise(request: httpx.Request, record: TokenRecord) -> None:
    raise KeyError(record.access_token.expose())


@pytest.mark.parametrize(
    "act",
    [
        _raise,
        lambda request, record: None,
        lambda request, record: request,
        lambda request, record: httpx.Request("GET", "https://other.example.com/"),
    ],
    ids=["raises", "gives nothing", "signs nothing", "goes elsewhere"],
)
def test_a_signer_that_fails_lets_nothing_out(
    act: Callable[..., Any], broker: Broker, auth: HttpxBrokerAuth, web: httpx.Client
) -> None:
    """ConfigError, in which there is no token; nothing is sent."""
    with SocketServer(scripted(lambda _: OK)) as server:
        with pytest.raises(ConfigError) as caught:
            web.get(server.url, auth=HttpxBrokerAuth(broker, USER_REQUEST, signer=Signer(act)))
        assert server.connections == 0
    assert "TypeError" not in str(caught.value)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    assert current(broker) not in str(caught.value)


def test_a_signers_own_error_brings_no_frame_that_holds_the_token(
    broker: Broker, auth: HttpxBrokerAuth, web: httpx.Client
) -> None:
    """A crash reporter prints the locals of frames."""

    def attach(request: httpx.Request, record: TokenRecord) -> None:
        plain = record.access_token.expose()
        raise ConfigError(f"cannot sign with {len(plain)} characters")

    with pytest.raises(ConfigError, match="cannot sign") as caught:
        web.get("https://api.example.com/", auth=HttpxBrokerAuth(broker, USER_REQUEST, signer=Signer(attach)))
    names, trace = [], caught.value.__traceback__
    while trace is not None:
        names.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    assert "attach" not in names
    assert "_signed" not in names


# Nothing goes out without a token, or where none may go.


def test_without_a_token_nothing_is_sent(broker: Broker, web: httpx.Client) -> None:
    """A user who never logged in: the broker's error, and no anonymous request."""
    with SocketServer(scripted(lambda _: OK)) as server:
        with pytest.raises(AuthorizationRequiredError):
            web.get(server.url, auth=HttpxBrokerAuth(broker, USER_REQUEST))
        assert server.connections == 0


def test_a_provider_that_is_down_lets_nothing_out(
    broker: Broker, provider: LoopbackProvider, web: httpx.Client
) -> None:
    """A token that cannot be had for now is a TransientError, and no anonymous request."""
    provider.inject(Fault.answer(503, headers={"Retry-After": "7"}))
    auth = HttpxBrokerAuth(broker, SERVICE_REQUEST, GrantType.CLIENT_CREDENTIALS)
    with SocketServer(scripted(lambda _: OK)) as server:
        with pytest.raises(TransientError):
            web.get(server.url, auth=auth)
        assert server.connections == 0


@pytest.mark.parametrize(
    "url", ["http://api.example.com/", "http://127.0.0.1.example.com/", "ftp://x.example/"]
)
def test_no_token_is_asked_for_where_it_may_not_go(
    url: str, auth: HttpxBrokerAuth, provider: LoopbackProvider, web: httpx.Client
) -> None:
    """RFC 6750 section 5.3: https, or this machine."""
    with pytest.raises(ConfigError):
        web.get(url, auth=auth)
    assert provider.token_calls == 0


def test_an_async_client_is_told_that_this_is_synchronous(auth: HttpxBrokerAuth) -> None:
    """A ConfigError before anything is sent, instead of an event loop that stands still."""

    async def get() -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            await client.get("https://api.example.com/", auth=auth)

    with pytest.raises(ConfigError, match="synchronous"):
        asyncio.run(get())


@pytest.mark.parametrize(
    ("request_", "grant"),
    [
        ("user-1", GrantType.AUTHORIZATION_CODE),
        (USER_REQUEST.force_refresh(), GrantType.AUTHORIZATION_CODE),
        (USER_REQUEST, GrantType.REFRESH_TOKEN),
    ],
)
def test_mistakes_in_the_arguments_are_config_errors(broker: Broker, request_: Any, grant: str) -> None:
    """When it is built, not at the first request."""
    with pytest.raises(ConfigError):
        HttpxBrokerAuth(broker, request_, grant)


# A token that the API refuses.


def multipart_of_a_file(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "upload"
    path.write_bytes(b"x" * 100_000)
    return {"files": {"file": path.open("rb")}, "data": {"name": "value"}}


BODIES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "none": lambda _: {},
    "bytes": lambda _: {"content": b"\x00\xff" * 10},
    "form": lambda _: {"data": {"a": "1", "b": "ä"}},
    "json": lambda _: {"json": {"a": [1, 2]}},
    "multipart of bytes": lambda _: {"files": {"file": b"abc"}},
    "multipart of a file": multipart_of_a_file,
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_refused_token_is_replaced_and_the_request_sent_once_more(
    body: Callable[[Path], dict[str, Any]],
    api: SocketServer,
    auth: HttpxBrokerAuth,
    provider: LoopbackProvider,
    web: httpx.Client,
    tmp_path: Path,
) -> None:
    """With the same body, byte for byte; one renewal; the caller sees the second answer."""
    arguments = body(tmp_path)
    response = web.post(api.url, auth=auth, **arguments)
    assert (response.status_code, response.text) == (200, "ok")
    first, second = api.requests
    assert first.body == second.body
    assert bool(second.body) is bool(arguments)
    assert provider.token_calls == 1
    for file in arguments.get("files", {}).values():
        if not isinstance(file, bytes):
            file.close()


class Pipe(io.RawIOBase):
    """A file that cannot go back."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._data.readinto(buffer)


@pytest.mark.parametrize(
    "arguments",
    [
        lambda: {"content": iter([b"abc", b"def"]), "headers": {"Content-Length": "6"}},
        lambda: {"content": (part for part in [b"abc", b"def"]), "headers": {"Content-Length": "6"}},
        lambda: {"content": io.BytesIO(b"abcdef")},
        lambda: {"files": {"file": io.BufferedReader(Pipe(b"abc"))}, "headers": {"Content-Length": "145"}},
    ],
    ids=["iterator", "generator", "file", "multipart of a pipe"],
)
def test_a_body_that_cannot_be_sent_again_is_left_alone(
    arguments: Callable[[], dict[str, Any]],
    api: SocketServer,
    auth: HttpxBrokerAuth,
    provider: LoopbackProvider,
    web: httpx.Client,
) -> None:
    """The caller gets the 401; the next request goes with another token."""
    given = arguments()
    if "files" in given:  # its length depends on the boundary, and a pipe has none
        request = httpx.Request("POST", api.url, files={"file": ("f", b"abc")})
        given["headers"]["Content-Length"] = request.headers["Content-Length"]
        given["headers"]["Content-Type"] = request.headers["Content-Type"]
        given["files"] = {"file": ("f", given["files"]["file"])}
    assert web.post(api.url, auth=auth, **given).status_code == 401
    assert len(api.requests) == 1
    assert provider.token_calls == 1
    assert web.post(api.url, auth=auth, content=b"again").status_code == 200
    assert (len(api.requests), provider.token_calls) == (2, 1)


def test_a_large_stream_is_never_read_into_memory(auth: HttpxBrokerAuth, web: httpx.Client) -> None:
    """An upload goes out piece by piece: each is made when the one before has left."""
    alive: set[int] = set()
    most = 0

    def pieces() -> Iterator[bytes]:
        nonlocal most
        for number in range(64):
            alive.add(number)
            most = max(most, len(alive))
            yield b"x" * 65536
            alive.discard(number)

    with SocketServer(scripted(lambda _: OK)) as server:
        response = web.post(
            server.url, auth=auth, content=pieces(), headers={"Content-Length": str(64 * 65536)}
        )
    assert (response.status_code, most) == (200, 1)
    assert len(server.requests[0].body) == 64 * 65536


def test_an_api_that_takes_no_token_is_not_believed_for_ever(
    auth: HttpxBrokerAuth, provider: LoopbackProvider, web: httpx.Client
) -> None:
    """The second 401 is the caller's, and ten more requests cost no further renewal."""
    with SocketServer(scripted(lambda _: UNAUTHORIZED)) as server:
        assert [web.get(server.url, auth=auth).status_code for _ in range(11)] == [401] * 11
    assert provider.token_calls == 1
    assert len(server.requests) == 12


def test_a_refused_token_without_another_is_the_brokers_error(
    broker: Broker, auth: HttpxBrokerAuth, provider: LoopbackProvider, web: httpx.Client
) -> None:
    """The user withdrew consent: one request was sent, and the caller learns that a login is needed."""
    provider.revoke_user("alice")
    with SocketServer(scripted(taking_only_live(provider))) as server:
        with pytest.raises(InvalidGrantError) as caught:
            web.get(server.url, auth=auth)
    assert caught.value.reauthorize
    assert len(server.requests) == 1


def test_fifty_threads_refused_at_once_cost_one_renewal(
    auth: HttpxBrokerAuth, provider: LoopbackProvider, web: httpx.Client
) -> None:
    """50 answers with status 200, and one call of the token endpoint, though all held the first token."""
    everybody = threading.Barrier(50)
    first: list[str | None] = []

    def respond(request: Received) -> bytes:
        token = token_of(request)
        first.append(token)
        if token == first[0]:
            everybody.wait(30)
            return UNAUTHORIZED
        return OK

    web = httpx.Client(trust_env=False, timeout=30, limits=httpx.Limits(max_connections=None))
    with SocketServer(scripted(respond)) as server, web:
        crowd = Crowd(50, lambda: web.get(server.url, auth=auth).status_code).start().join()
    assert (crowd.errors, crowd.results) == ([], [200] * 50)
    assert provider.token_calls == 1


# A scope that is too small.


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"WWW-Authenticate": 'Bearer error="insufficient_scope", scope="mail.send"'}, b""),
        ({"Content-Type": "application/json"}, b'{"error": "insufficient_scope"}'),
    ],
    ids=["challenge", "body"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_403_for_want_of_scope_is_an_error_of_its_own(
    headers: dict[str, str], body: bytes, stream: bool, auth: HttpxBrokerAuth, web: httpx.Client
) -> None:
    """RFC 6750 section 3.1; the token is not rejected for it."""
    with SocketServer(scripted(lambda _: answer(403, body, headers))) as server:
        with pytest.raises(InsufficientScopeError) as caught:
            web.send(web.build_request("GET", server.url), auth=auth, stream=stream)
        web.close()
    assert caught.value.status == 403
    assert len(server.requests) == 1
    assert ("mail.send" in str(caught.value)) == ("WWW-Authenticate" in headers)


@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize("stream", [False, True])
def test_another_403_is_the_callers_with_its_whole_body(
    size: int, stream: bool, auth: HttpxBrokerAuth, web: httpx.Client
) -> None:
    """What was looked at is still there to be read, also piece by piece."""
    body = json.dumps({"error": "x" * size}).encode()
    with SocketServer(scripted(lambda _: answer(403, body))) as server:
        response = web.send(web.build_request("GET", server.url), auth=auth, stream=stream)
        found = b"".join(response.iter_bytes()) if stream else response.content
        web.close()
    assert (response.status_code, found) == (403, body)


def test_a_403_that_a_hook_has_read_is_understood(auth: HttpxBrokerAuth, web: httpx.Client) -> None:
    """A hook may read the body before the auth sees the response."""
    web.event_hooks = {"response": [lambda response: response.read()]}
    with SocketServer(scripted(lambda _: answer(403, b'{"error": "insufficient_scope"}'))) as server:
        with pytest.raises(InsufficientScopeError):
            web.get(server.url, auth=auth)
        web.close()


def test_a_403_whose_body_breaks_off_is_told_as_ever(auth: HttpxBrokerAuth, web: httpx.Client) -> None:
    """httpx's own error, as it would be without us."""

    def script(peer: Peer) -> None:
        peer.receive()
        peer.send(answer(403, b'{"error":', {"Content-Length": "99"}))

    with SocketServer(script) as server, pytest.raises(httpx.RemoteProtocolError):
        web.get(server.url, auth=auth)


# Redirects.


class AppIdToo(ProviderStrategy):
    """Sends a second header with the token."""

    def augment_api_headers(self, record: TokenRecord, headers: dict[str, str]) -> None:
        headers["X-Token-Copy"] = record.access_token.expose()


QUIRKS = {
    "Authorization": ProviderQuirks(),
    "a header of its own": ProviderQuirks(api_header="X-Api-Token", api_scheme=""),
}


def seen_by(server: SocketServer, token: str) -> list[bool]:
    """Whether each request that ``server`` got had the token anywhere."""
    return [token in f"{request.line}{request.headers}{request.body!r}" for request in server.requests]


@pytest.fixture(params=QUIRKS)
def signer_auth(
    request: pytest.FixtureRequest, provider: LoopbackProvider
) -> Iterator[tuple[HttpxBrokerAuth, str]]:
    """An auth whose token goes into one header or another, and into a second one; and its token."""
    descriptor = provider.descriptor(quirks=QUIRKS[request.param], strategy=AppIdToo())
    with Broker(descriptor, "demo-client", "demo-secret") as broker:
        log_in(broker, provider)
        yield HttpxBrokerAuth(broker, USER_REQUEST), current(broker)


def redirecting(*where: str, status: int = 302) -> Callable[[Peer], None]:
    """Answer with redirects in turn, then with ``ok``."""
    left = list(where)

    def respond(_: Received) -> bytes:
        return answer(status, b"", {"Location": left.pop(0)}) if left else OK

    return scripted(respond)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("on_client", [False, True], ids=["auth of the request", "auth of the client"])
def test_a_token_never_follows_a_redirect_to_another_origin(
    status: int, on_client: bool, signer_auth: tuple[HttpxBrokerAuth, str]
) -> None:
    """Of two servers the first sees the token, the second the request without it."""
    auth, token = signer_auth
    web = httpx.Client(trust_env=False, follow_redirects=True, auth=auth if on_client else None)
    with web, SocketServer(scripted(lambda _: OK)) as other:
        with SocketServer(redirecting(other.url, status=status)) as server:
            arguments: dict[str, Any] = {} if on_client else {"auth": auth}
            assert web.post(server.url, content=b"body", **arguments).status_code == 200
            web.close()
        assert (seen_by(server, token), seen_by(other, token)) == ([True], [False])


@pytest.mark.parametrize(
    "target",
    ["//{}/x", "////{}/x", "/////{}/x", "http:////{}/x", "https:////{}/x", "%68ttp://{}/x", "http:{}/x"],
)
def test_a_location_that_can_be_read_in_two_ways_leads_no_token_astray(
    target: str, signer_auth: tuple[HttpxBrokerAuth, str]
) -> None:
    """Whatever httpx makes of it."""
    auth, token = signer_auth
    with httpx.Client(trust_env=False, follow_redirects=True, auth=auth) as web:
        with SocketServer(scripted(lambda _: OK)) as other:
            with SocketServer(redirecting(target.format(f"127.0.0.1:{other.port}"))) as server:
                with contextlib.suppress(httpx.HTTPError, httpx.InvalidURL):
                    web.get(server.url)
                web.close()
    assert seen_by(server, token)[0]
    assert not any(seen_by(other, token))


@pytest.mark.parametrize("token", ["x", "me"])
def test_a_short_token_is_not_mistaken_for_part_of_another_header(
    token: str, broker: Broker, auth: HttpxBrokerAuth
) -> None:
    """Which goes with redirects wherever they lead; the token does not, though the caller wrote it there."""
    record = broker.refresh_access_token(USER_REQUEST)
    broker.store.save(replace(record, access_token=TokenSecret(token)))
    headers = {"X-Name": "me-x", "X-Api-Token": token}

    def attach(request: httpx.Request, record: TokenRecord) -> httpx.Request:
        request.headers["X-Api-Token"] = record.access_token.expose()
        return request

    signed = HttpxBrokerAuth(broker, USER_REQUEST, signer=Signer(attach))
    with httpx.Client(trust_env=False, follow_redirects=True, auth=signed) as web:
        with SocketServer(scripted(lambda _: OK)) as other, SocketServer(redirecting(other.url)) as server:
            assert web.get(server.url, headers=headers).status_code == 200
            web.close()
    names = [
        (each.headers["X-Name"], each.headers["X-Api-Token"]) for each in server.requests + other.requests
    ]
    assert names == [("me-x", token), ("me-x", None)]


def test_a_redirect_within_the_origin_keeps_the_token(signer_auth: tuple[HttpxBrokerAuth, str]) -> None:
    """A slash at the end of a path is no reason to be anonymous."""
    auth, token = signer_auth
    with httpx.Client(trust_env=False, follow_redirects=True, auth=auth) as web:
        with SocketServer(redirecting("/token/", "/elsewhere")) as server:
            assert web.get(server.url).status_code == 200
            web.close()
    assert seen_by(server, token) == [True] * 3


def test_a_token_that_stayed_behind_does_not_come_back(signer_auth: tuple[HttpxBrokerAuth, str]) -> None:
    """There and back again: another origin does not choose what we ask our API with a token."""
    auth, token = signer_auth
    back: list[str] = []
    with httpx.Client(trust_env=False, follow_redirects=True, auth=auth) as web:
        with SocketServer(scripted(lambda _: answer(302, b"", {"Location": back[0]}))) as other:
            with SocketServer(redirecting(other.url)) as server:
                back.append(f"{server.url}/transfer")
                assert web.get(server.url).status_code == 200
                web.close()
        assert (seen_by(server, token), seen_by(other, token)) == ([True, False], [False])


def test_a_refusal_of_what_came_back_without_its_token_is_not_about_the_token(
    signer_auth: tuple[HttpxBrokerAuth, str], provider: LoopbackProvider
) -> None:
    """There and back again: another origin does not make us renew by having our API ask for a token."""
    auth, token = signer_auth
    provider.clear()
    back: list[str] = []
    with httpx.Client(trust_env=False, follow_redirects=True, auth=auth) as web:
        with SocketServer(scripted(lambda _: answer(302, b"", {"Location": back[0]}))) as other:
            first = [answer(302, b"", {"Location": other.url})]
            with SocketServer(scripted(lambda _: first.pop() if first else UNAUTHORIZED)) as server:
                back.append(f"{server.url}/transfer")
                assert web.get(server.url).status_code == 401
                web.close()
    assert (seen_by(server, token), provider.token_calls) == ([True, False], 0)


@pytest.mark.parametrize("status", [401, 403])
def test_what_another_origin_says_is_not_about_the_token(
    status: int, signer_auth: tuple[HttpxBrokerAuth, str], provider: LoopbackProvider
) -> None:
    """A 401 or 403 there is the caller's: no renewal, no second request, no error of scope."""
    auth, token = signer_auth
    provider.clear()
    refusal = answer(status, b"", {"WWW-Authenticate": 'Bearer error="insufficient_scope"'})
    with httpx.Client(trust_env=False, follow_redirects=True, auth=auth) as web:
        with SocketServer(scripted(lambda _: refusal)) as other:
            with SocketServer(redirecting(other.url)) as server:
                assert web.get(server.url).status_code == status
                web.close()
    assert (len(server.requests), seen_by(other, token), provider.token_calls) == (1, [False], 0)


def test_a_redirect_that_the_caller_follows_carries_no_token(
    signer_auth: tuple[HttpxBrokerAuth, str],
) -> None:
    """``client.send(response.next_request)``: the client's auth does not sign for the other origin."""
    auth, token = signer_auth
    with httpx.Client(trust_env=False, auth=auth) as web, SocketServer(scripted(lambda _: OK)) as other:
        with SocketServer(redirecting(other.url, "/here")) as server:
            response = web.get(server.url)
            assert response.next_request is not None
            assert web.send(response.next_request).status_code == 200
            response = web.get(server.url)
            assert response.next_request is not None
            assert web.send(response.next_request).status_code == 200
            web.close()
        assert (seen_by(server, token), seen_by(other, token)) == ([True] * 3, [False])


def in_the_body(request: httpx.Request, record: TokenRecord) -> httpx.Request:
    form = {"text": "hello", "token": record.access_token.expose()}
    return httpx.Request(request.method, request.url, data=form)


def in_a_multipart_body(request: httpx.Request, record: TokenRecord) -> httpx.Request:
    form = {"token": record.access_token.expose()}
    return httpx.Request(request.method, request.url, data=form, files={"f": b"hello"})


@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize("attach", [in_the_body, in_a_multipart_body])
def test_a_body_that_carries_the_token_does_not_follow_a_redirect_to_another_origin(
    status: int, attach: Callable[..., Any], broker: Broker, auth: HttpxBrokerAuth
) -> None:
    """Following is an error, by httpx or by the caller; who does not follow has the answer."""
    signed = HttpxBrokerAuth(broker, USER_REQUEST, signer=Signer(attach))
    with httpx.Client(trust_env=False) as web, SocketServer(scripted(lambda _: OK)) as other:
        with SocketServer(redirecting("/here", other.url, other.url, status=status)) as server:
            with pytest.raises(ConfigError, match="not followed"):
                web.post(server.url, auth=signed, follow_redirects=True)
            response = web.post(server.url, auth=signed)
            assert (response.status_code, response.headers["Location"]) == (status, other.url)
            assert response.next_request is not None
            for each in (signed, None):
                with pytest.raises(ConfigError, match="not followed"):
                    web.send(response.next_request, auth=each)
            web.close()
        assert (len(server.requests), other.requests) == (3, [])


def test_a_redirect_that_drops_the_body_is_followed(broker: Broker, auth: HttpxBrokerAuth) -> None:
    """The token was in it, and stays behind with it."""
    signed = HttpxBrokerAuth(broker, USER_REQUEST, signer=Signer(in_the_body))
    with httpx.Client(trust_env=False, follow_redirects=True, auth=signed) as web:
        with SocketServer(scripted(lambda _: OK)) as other, SocketServer(redirecting(other.url)) as server:
            assert web.post(server.url).status_code == 200
            web.close()
        token = current(broker)
        assert (seen_by(server, token), seen_by(other, token)) == ([True], [False])


def test_a_location_that_repeats_the_token_is_not_followed_to_another_origin(
    broker: Broker, auth: HttpxBrokerAuth
) -> None:
    """A server that copies the query into it."""
    by_query = HttpxBrokerAuth(broker, USER_REQUEST, signer=QuerySigner())

    def copying(request: Received) -> bytes:
        return answer(302, b"", {"Location": f"{other.url}?{request.line.split(' ')[1].partition('?')[2]}"})

    with httpx.Client(trust_env=False, follow_redirects=True, auth=by_query) as web:
        with SocketServer(scripted(lambda _: OK)) as other, SocketServer(scripted(copying)) as server:
            with pytest.raises(ConfigError, match="not followed"):
                web.get(server.url)
            web.close()
        assert other.requests == []


def test_a_copy_of_the_token_in_a_header_of_the_callers_stays_behind(
    broker: Broker, auth: HttpxBrokerAuth
) -> None:
    """Whoever wrote it there."""
    token = current(broker)
    with httpx.Client(trust_env=False, follow_redirects=True, auth=auth) as web:
        with SocketServer(scripted(lambda _: OK)) as other, SocketServer(redirecting(other.url)) as server:
            assert web.get(server.url, headers={"X-Copy": f"token {token}"}).status_code == 200
            web.close()
    assert (seen_by(server, token), seen_by(other, token)) == ([True], [False])


def test_a_token_refused_behind_a_redirect_is_replaced_there(
    broker: Broker, auth: HttpxBrokerAuth, provider: LoopbackProvider
) -> None:
    """What was refused is sent again, not what led to it: a POST that was done is not done twice."""
    old = current(broker)

    def respond(request: Received) -> bytes:
        if request.line.startswith("POST"):
            return answer(303, b"", {"Location": "/orders/1"})
        return UNAUTHORIZED if token_of(request) == old else OK

    with httpx.Client(trust_env=False, follow_redirects=True, auth=auth) as web:
        with SocketServer(scripted(respond)) as server:
            assert web.post(server.url, content=b"order").status_code == 200
            web.close()
    assert [request.line.split(" ")[0] for request in server.requests] == ["POST", "GET", "GET"]
    assert provider.token_calls == 1


def test_an_upgrade_to_https_is_another_origin(auth: HttpxBrokerAuth, broker: Broker, tmp_path: Path) -> None:
    """httpx itself would keep Authorization from http to https of the same host, at their default ports."""
    certificate, token = make_certificate(tmp_path), current(broker)

    def proxy(peer: Peer) -> None:
        request = peer.receive()
        if request and request.line.startswith("CONNECT"):
            peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            peer.start_tls(certificate.context)
            peer.receive()
            peer.send(OK)
        else:
            peer.send(answer(302, b"", {"Location": "https://127.0.0.1/token"}))

    context = ssl.create_default_context(cafile=certificate.path)
    with SocketServer(proxy) as server:
        settings: dict[str, Any] = {"proxy": f"http://127.0.0.1:{server.port}", "verify": context}
        with httpx.Client(trust_env=False, follow_redirects=True, auth=auth, **settings) as web:
            assert web.get("http://127.0.0.1/token").status_code == 200
    assert [request.line.split(" ")[0] for request in server.requests] == ["GET", "CONNECT", "GET"]
    assert seen_by(server, token) == [True, False, False]


def test_a_token_goes_through_a_proxys_tunnel(auth: HttpxBrokerAuth, broker: Broker, tmp_path: Path) -> None:
    """The proxy is not where it leads: the API behind it sees the token, the proxy does not."""
    certificate, token = make_certificate(tmp_path), current(broker)

    def proxy(peer: Peer) -> None:
        peer.receive()
        peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        peer.start_tls(certificate.context)
        peer.receive()
        peer.send(OK)

    context = ssl.create_default_context(cafile=certificate.path)
    with SocketServer(proxy) as server:
        settings: dict[str, Any] = {"proxy": f"http://127.0.0.1:{server.port}", "verify": context}
        with httpx.Client(trust_env=False, auth=auth, **settings) as web:
            assert web.get("https://127.0.0.1/api").status_code == 200
    assert seen_by(server, token) == [False, True]


# With what callers do to httpx.


def test_a_request_object_can_be_sent_again(broker: Broker, auth: HttpxBrokerAuth, web: httpx.Client) -> None:
    """It gets the token of the moment, once."""
    with SocketServer(scripted(lambda _: OK)) as server:
        request = web.build_request("GET", server.url)
        for _ in range(3):
            web.send(request, auth=auth)
            broker.refresh_access_token(USER_REQUEST.force_refresh())
    tokens = [request.headers.get_all("Authorization") or [] for request in server.requests]
    assert [len(each) for each in tokens] == [1, 1, 1]
    assert len({each[0] for each in tokens}) == 3


def test_a_trace_of_the_callers_is_called(auth: HttpxBrokerAuth, web: httpx.Client) -> None:
    """The extension is shared, not taken."""
    events: list[str] = []
    with SocketServer(scripted(lambda _: OK)) as server:
        web.get(server.url, auth=auth, extensions={"trace": lambda event, info: events.append(event)})
    assert "http11.send_request_headers.started" in events


def test_a_mock_transport_sees_the_token(broker: Broker, auth: HttpxBrokerAuth) -> None:
    """No sockets: tests of programs that mock httpx work, retry included."""
    tokens = itertools.count()

    def handler(request: httpx.Request) -> httpx.Response:
        assert request.headers["Authorization"].startswith("Bearer ")
        return httpx.Response(401 if next(tokens) == 0 else 200)

    with httpx.Client(transport=httpx.MockTransport(handler), auth=auth) as web:
        assert web.get("https://api.example.com/").status_code == 200


def test_no_token_in_what_is_raised(
    auth: HttpxBrokerAuth, broker: Broker, provider: LoopbackProvider, web: httpx.Client
) -> None:
    """Neither in an error nor in the locals of its frames that are ours."""
    token = current(broker)
    challenge = {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{token}"'}
    with SocketServer(scripted(lambda _: answer(403, b"", challenge))) as server:
        with pytest.raises(BrokerError) as caught:
            web.get(server.url, auth=auth)
    assert token not in repr(caught.value)
    frames, ours = caught.value.__traceback__, 0
    while frames is not None:
        if "oauth2broker" in frames.tb_frame.f_code.co_filename:
            ours += 1
            assert token not in repr(
                {k: v for k, v in frames.tb_frame.f_locals.items() if not isinstance(v, httpx.Request)}
            )
        frames = frames.tb_next
    assert ours


def test_the_request_that_is_served_is_the_one_given(broker: Broker, provider: LoopbackProvider) -> None:
    """Another principal is another user: nobody gets a neighbour's token."""
    log_in(broker, provider)
    stranger = CachedTokenRequest("tenant-acme", "user-2", "openid profile")
    with httpx.Client(trust_env=False) as web, pytest.raises(AuthorizationRequiredError):
        web.get("https://api.example.com/", auth=HttpxBrokerAuth(broker, stranger))


class QuerySigner:
    """Puts the token in the query."""

    def attach(self, request: httpx.Request, record: TokenRecord) -> httpx.Request:
        request.url = request.url.copy_merge_params({"key": record.access_token.expose()})
        return request


def test_a_request_that_carried_no_token_gets_none_rejected(
    broker: Broker, provider: LoopbackProvider, auth: HttpxBrokerAuth
) -> None:
    """A redirect leaves a token in the query behind: the 401 it meets says nothing of it."""

    def api(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/moved":
            return httpx.Response(302, headers={"Location": "/here"})
        return httpx.Response(401)

    calls = provider.token_calls
    by_query = HttpxBrokerAuth(broker, USER_REQUEST, signer=QuerySigner())
    with httpx.Client(auth=by_query, transport=httpx.MockTransport(api), follow_redirects=True) as client:
        for _ in range(3):
            assert client.get("https://api.example.com/moved").status_code == 401
        assert provider.token_calls == calls
        assert client.get("https://api.example.com/here").status_code == 401
    assert provider.token_calls == calls + 1
