"""requests' calls signed by a broker: what is sent, where to, and what an API's refusals come to."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import pickle
import random
import re
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import responses

from oauth2broker import (
    AuthorizationRequiredError,
    Broker,
    BrokerAuth,
    BrokerError,
    CachedTokenRequest,
    ConfigError,
    GrantType,
    InsufficientScopeError,
    InvalidGrantError,
    ProviderQuirks,
    TokenRecord,
    TokenSecret,
    TransientError,
)
from oauth2broker.integrations import signed_calls
from oauth2broker.testing import Fault, LoopbackProvider
from tests.support import SERVICE_REQUEST, USER_REQUEST, Crowd, ManualClock, log_in

SERVICE = GrantType.CLIENT_CREDENTIALS
KEY_HEADER = "X-Api-Token"
SECONDS = 20.0
MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class Seen:
    """A request as it arrived: header names in lower case, the body as its length and hash."""

    method: str
    path: str
    headers: Mapping[str, str]
    length: int = 0
    digest: str = ""

    @property
    def token(self) -> str | None:
        """What came in either of the headers that our tests sign with."""
        found = self.headers.get(KEY_HEADER.lower()) or self.headers.get("authorization")
        return found.removeprefix("Bearer ") if found else None


@dataclass(frozen=True)
class Answer:
    """What the API says. ``before_body``: without having read the body, whose connection it then closes."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    before_body: bool = False
    pieces: Iterator[bytes] | None = None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent about clients that left."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def server_bind(self) -> None:
        """Bind without HTTPServer's reverse DNS lookup, which can take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]


class Api:
    """An API on a port of its own, which is an origin of its own; keeps what it has seen."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.connections = 0
        self.refused: set[str] = set()
        self.answers: dict[str, Callable[[Seen], Answer]] = {}
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.005,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, seen: Seen) -> Answer:
        """Refuse who must be refused, else do what ``answers`` has for the path, else hash the body."""
        if seen.token is None or seen.token in self.refused or "*" in self.refused:
            return Answer(401, {"WWW-Authenticate": "Bearer"}, b'{"error": "invalid_token"}')
        if seen.path in self.answers:
            return self.answers[seen.path](seen)
        return Answer(body=json.dumps({"length": seen.length, "digest": seen.digest}).encode())

    def start(self) -> Api:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(api: Api) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            api.connections += 1

        def serve(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            early = Seen(self.command, self.path, headers)
            answer = api.answers["early"](early) if "early" in api.answers else None
            if answer is None or not answer.before_body:
                length, digest = self._read_body()
                early = Seen(self.command, self.path, headers, length, digest)
                answer = api.answer(early)
            api.seen.append(early)
            self._say(answer)

        def _say(self, answer: Answer) -> None:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.pieces is None:
                self.send_header("Content-Length", str(len(answer.body)))
            if answer.pieces is not None or answer.before_body:
                self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = self.close_connection or answer.before_body
            try:
                self.wfile.write(answer.body)
                for piece in answer.pieces or ():
                    self.wfile.write(piece)
            except OSError:
                self.close_connection = True

        def _read_body(self) -> tuple[int, str]:
            digest, total = hashlib.sha256(), 0
            for piece in self._pieces():
                digest.update(piece)
                total += len(piece)
            return total, digest.hexdigest()

        def _pieces(self) -> Iterator[bytes]:
            left = int(self.headers.get("Content-Length", "0"))
            while left and (piece := self.rfile.read(min(left, 65536))):
                left -= len(piece)
                yield piece
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    yield self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()

        def log_message(self, *_: object) -> None:
            pass

    for method in ("GET", "POST", "PUT"):
        setattr(Handler, f"do_{method}", Handler.serve)
    return Handler


class Keeping(requests.adapters.HTTPAdapter):
    """Keeps what it was told to send, how, and what came."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[requests.PreparedRequest] = []
        self.kwargs: list[dict[str, Any]] = []
        self.responses: list[requests.Response] = []

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:  # type: ignore[override]
        self.sent.append(request.copy())
        self.kwargs.append(kwargs)
        self.responses.append(super().send(request, **kwargs))
        return self.responses[-1]


@pytest.fixture
def api() -> Iterator[Api]:
    """The API that tokens are for."""
    running = Api().start()
    yield running
    running.stop()


@pytest.fixture
def other() -> Iterator[Api]:
    """Another origin, which must see no token."""
    running = Api().start()
    running.answers["/elsewhere"] = lambda seen: Answer()
    yield running
    running.stop()


@pytest.fixture
def auth(broker: Broker, provider: LoopbackProvider) -> BrokerAuth:
    """The auth of a user who has logged in; the provider's calls are counted from here."""
    log_in(broker, provider)
    provider.clear()
    return BrokerAuth(broker, USER_REQUEST)


@pytest.fixture(params=["Authorization", KEY_HEADER])
def either_auth(
    request: pytest.FixtureRequest, provider: LoopbackProvider, clock: ManualClock
) -> Iterator[BrokerAuth]:
    """As ``auth``, at a provider whose API wants the token in the usual header, or in one of its own."""
    quirks = ProviderQuirks()
    if request.param == KEY_HEADER:
        quirks = ProviderQuirks(api_header=KEY_HEADER, api_scheme="")
    with Broker(provider.descriptor(quirks=quirks), "demo-client", "demo-secret", clock=clock) as made:
        log_in(made, provider)
        provider.clear()
        yield BrokerAuth(made, USER_REQUEST)


@pytest.fixture
def session() -> Iterator[requests.Session]:
    """A session that takes nothing from the environment."""
    with requests.Session() as made:
        made.trust_env = False
        yield made


def stored(broker: Broker) -> TokenRecord:
    """Give the user's record."""
    found = broker.store.fetch(broker.key_for(USER_REQUEST))
    assert found is not None
    return found


def token_of(broker: Broker) -> str:
    """Give the user's token in plain."""
    return stored(broker).access_token.expose()


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# Signing.


def test_a_request_carries_the_token(api: Api, broker: Broker, auth: BrokerAuth) -> None:
    """As a Bearer token (RFC 6750 section 2.1), by requests.get and by a session, with no token call."""
    assert requests.get(api.url, auth=auth, timeout=SECONDS).status_code == 200
    with requests.Session() as session:
        session.auth = auth
        session.get(api.url, timeout=SECONDS, headers={"authorization": "Basic mine"})
    assert [seen.headers["authorization"] for seen in api.seen] == [f"Bearer {token_of(broker)}"] * 2


def test_a_service_token_is_sent_for_the_client_itself(api: Api, broker: Broker) -> None:
    """Obtained by the first request, kept for the others."""
    auth = BrokerAuth(broker, SERVICE_REQUEST, GrantType.CLIENT_CREDENTIALS)
    for _ in range(2):
        requests.get(api.url, auth=auth, timeout=SECONDS)
    token = broker.client_credentials(SERVICE_REQUEST).access_token.expose()
    assert [seen.token for seen in api.seen] == [token, token]


def test_without_a_token_nothing_is_sent(api: Api, broker: Broker, session: requests.Session) -> None:
    """Nobody has logged in: the request raises, and the API sees none."""
    session.auth = BrokerAuth(broker, USER_REQUEST)
    with pytest.raises(AuthorizationRequiredError) as caught:
        session.get(api.url, timeout=SECONDS)
    assert caught.value.reauthorize
    assert api.seen == []


@pytest.mark.parametrize(
    "url", ["http://api.example.com/", "http://127.0.0.1.example.com/", "http://user@example.com/"]
)
def test_a_url_that_may_see_no_token_is_refused_before_one_is_taken(
    url: str, broker: Broker, provider: LoopbackProvider
) -> None:
    """Plain http to other hosts (RFC 6750 section 5.3): no token call, nothing on the wire."""
    auth = BrokerAuth(broker, SERVICE_REQUEST, GrantType.CLIENT_CREDENTIALS)
    with responses.RequestsMock(), pytest.raises(ConfigError, match="https"):
        requests.get(url, auth=auth, timeout=SECONDS)
    assert provider.token_calls == 0


def test_mistakes_are_told_when_the_auth_is_made(broker: Broker) -> None:
    """Not when the first request is sent."""
    for request, grant in (
        (USER_REQUEST.force_refresh(), GrantType.AUTHORIZATION_CODE),
        (USER_REQUEST, GrantType.REFRESH_TOKEN),
        ("user-1", GrantType.AUTHORIZATION_CODE),
    ):
        with pytest.raises(ConfigError):
            BrokerAuth(broker, request, grant)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="signer"):
        BrokerAuth(broker, USER_REQUEST, signer="Bearer")


def test_an_auth_shows_no_secret(broker: Broker, auth: BrokerAuth) -> None:
    """Neither does what it hangs on a request."""
    prepared = requests.Request("GET", "https://api.example.com/", auth=auth).prepare()
    shown = repr(auth) + repr(prepared.hooks) + repr(vars(prepared.hooks["response"][0]))
    assert token_of(broker) not in shown


# 401: another token, once.


def test_a_refused_token_is_replaced_and_the_request_sent_again(
    api: Api, broker: Broker, auth: BrokerAuth, provider: LoopbackProvider, session: requests.Session
) -> None:
    """The caller sees the answer; the refusal is in its history, with the request that was refused."""
    old = token_of(broker)
    api.refused = {old}
    answer = session.post(api.url, json={"a": 1}, auth=auth, timeout=SECONDS)
    new = token_of(broker)
    assert (answer.status_code, provider.token_calls) == (200, 1)
    assert [seen.token for seen in api.seen] == [old, new]
    assert answer.json()["digest"] == sha(b'{"a": 1}')
    (refusal,) = answer.history
    assert refusal.status_code == 401
    assert refusal.json() == {"error": "invalid_token"}
    assert refusal.request.headers["Authorization"] == f"Bearer {old}"
    assert answer.request.headers["Authorization"] == f"Bearer {new}"
    assert api.connections == 1


def test_a_header_that_holds_the_token_already_is_ours_too(
    api: Api, broker: Broker, auth: BrokerAuth, session: requests.Session
) -> None:
    """Of a program that once signed by itself: it is replaced with the token."""
    old = token_of(broker)
    api.refused = {old}
    headers = {"Authorization": f"Bearer {old}"}
    assert session.get(api.url, auth=auth, timeout=SECONDS, headers=headers).status_code == 200
    assert api.seen[1].token == token_of(broker)


def test_fifty_threads_whose_token_is_refused_cost_one_call(
    api: Api, broker: Broker, auth: BrokerAuth, provider: LoopbackProvider, session: requests.Session
) -> None:
    """They share one auth and one session; all get their answer."""
    api.refused = {token_of(broker)}
    provider.latency = 0.05
    session.auth = auth
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=50))
    crowd = Crowd(50, lambda: session.post(api.url, data=b"x" * 1000, timeout=SECONDS)).start().join()
    assert crowd.errors == []
    assert [answer.status_code for answer in crowd.results] == [200] * 50
    assert provider.token_calls == 1
    assert provider.reuses == 0


def test_a_service_token_that_is_refused_is_obtained_again(
    api: Api, broker: Broker, provider: LoopbackProvider
) -> None:
    """By the same rules."""
    auth = BrokerAuth(broker, SERVICE_REQUEST, GrantType.CLIENT_CREDENTIALS)
    api.refused = {broker.client_credentials(SERVICE_REQUEST).access_token.expose()}
    assert requests.get(api.url, auth=auth, timeout=SECONDS).status_code == 200
    assert provider.token_calls == 2


def test_a_second_refusal_is_the_answer(
    api: Api, auth: BrokerAuth, provider: LoopbackProvider, session: requests.Session
) -> None:
    """One retry, not more."""
    api.refused = {"*"}
    answer = session.get(api.url, auth=auth, timeout=SECONDS)
    assert (answer.status_code, len(answer.history), len(api.seen)) == (401, 1, 2)
    assert provider.token_calls == 1


class Instant(requests.adapters.BaseAdapter):
    """An API without a network: ``answer`` gives the status for a path and a token."""

    def __init__(self, answer: Callable[[str, str], int]) -> None:
        super().__init__()
        self.answer = answer
        self.sent: list[requests.PreparedRequest] = []

    def send(self, request: requests.PreparedRequest, **_: Any) -> requests.Response:  # type: ignore[override]
        self.sent.append(requests.PreparedRequest.copy(request))
        response = requests.Response()
        vars(response).update(request=request, url=request.url, connection=self, raw=io.BytesIO())
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        response.status_code = self.answer(urlsplit(request.url or "").path, token)
        return response

    def close(self) -> None:
        pass


class Stopwatch:
    """The monotonic clock of signing, which moves when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(signed_calls, "time", SimpleNamespace(monotonic=lambda: self.now))


@pytest.fixture
def stopwatch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    return Stopwatch(monkeypatch)


def get(session: requests.Session, path: str, auth: BrokerAuth) -> int:
    return session.get(f"https://api.example.com{path}", auth=auth, timeout=SECONDS).status_code


def test_an_api_that_takes_no_token_is_asked_about_less_and_less(
    api: Api, auth: BrokerAuth, provider: LoopbackProvider, session: requests.Session, stopwatch: Stopwatch
) -> None:
    """However often it is asked, and from however many threads: after 1 s, 2 s, 4 s ... at most 60 s."""
    api.refused = {"*"}
    session.auth = auth
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=50))

    def ask() -> list[int]:
        return [session.get(api.url, timeout=SECONDS).status_code for _ in range(2)]

    for calls, pause in enumerate((1, 2, 4, 8, 16, 32, 60, 60, 60), 1):
        crowd = Crowd(50 if pause < 4 else 2, ask).start().join()
        assert crowd.errors == []
        assert {status for found in crowd.results for status in found} == {401}
        assert provider.token_calls == calls
        stopwatch.now += pause - 0.1
        assert ask() == [401] * 2
        assert provider.token_calls == calls
        stopwatch.now += 0.1


@pytest.mark.parametrize("make_body", [lambda: b"abc", lambda: iter([b"abc"])], ids=["bytes", "generator"])
def test_an_api_that_refuses_for_ever_costs_about_a_call_a_minute(
    make_body: Callable[[], Any],
    auth: BrokerAuth,
    provider: LoopbackProvider,
    session: requests.Session,
    stopwatch: Stopwatch,
) -> None:
    """Also where nothing can be sent again, and no retry tells that the new token is no better."""
    session.mount("https://", Instant(lambda path, token: 401))
    for _ in range(3600):
        session.post("https://api.example.com/", data=make_body(), auth=auth, timeout=SECONDS)
        stopwatch.now += 1
    assert 55 <= provider.token_calls <= 70


@pytest.mark.parametrize("kills_the_old", [False, True])
@pytest.mark.parametrize("good_comes_first", [False, True])
def test_one_broken_path_neither_drains_the_provider_nor_locks_others_out(
    kills_the_old: bool,
    good_comes_first: bool,
    broker: Broker,
    auth: BrokerAuth,
    provider: LoopbackProvider,
    session: requests.Session,
    stopwatch: Stopwatch,
) -> None:
    """Though the good one accepts each new token, and has it before the broken one has refused it again."""
    good: list[int] = []

    def serves(token: str) -> bool:
        return not kills_the_old or token == token_of(broker)

    def ask_good() -> None:
        with requests.Session() as own:
            own.mount("https://", Instant(lambda path, token: 200 if serves(token) else 401))
            good.append(get(own, "/good", auth))

    def answer(path: str, token: str) -> int:
        if good_comes_first:
            ask_good()
        return 401

    session.mount("https://", Instant(answer))
    for _ in range(600):
        assert get(session, "/broken", auth) == 401
        ask_good()
        stopwatch.now += 1
    assert set(good) == {200}
    assert 10 <= provider.token_calls <= 20


def test_a_laggard_is_given_what_is_there_during_a_pause(
    broker: Broker,
    auth: BrokerAuth,
    provider: LoopbackProvider,
    session: requests.Session,
    stopwatch: Stopwatch,
) -> None:
    """Its token has been replaced already: it costs no call, and no 401 for want of one."""
    old = token_of(broker)

    def broken_between(path: str, token: str) -> int:
        if path == "/late" and token == old:
            with requests.Session() as own:
                own.mount("https://", Instant(lambda path, token: 401))
                assert get(own, "/broken", auth) == 401
        return 401 if token == old else 200

    session.mount("https://", Instant(broken_between))
    assert get(session, "/late", auth) == 200
    assert provider.token_calls == 1


def test_a_late_retry_stops_the_others_for_a_second(
    broker: Broker,
    auth: BrokerAuth,
    provider: LoopbackProvider,
    session: requests.Session,
    stopwatch: Stopwatch,
) -> None:
    """A's retry comes when its token has been revoked, too; B, who needs another, has it a second later."""
    refused = {token_of(broker)}

    def answer(path: str, token: str) -> int:
        if path == "/a" and token not in refused:
            refused.add(token)
        return 401 if token in refused else 200

    session.mount("https://", Instant(answer))
    assert get(session, "/a", auth) == 401
    assert get(session, "/b", auth) == 401
    stopwatch.now += 1
    assert get(session, "/b", auth) == 200
    assert provider.token_calls == 2
    refused.add(token_of(broker))
    assert get(session, "/b", auth) == 200
    refused.add(token_of(broker))
    assert get(session, "/a", auth) == 401
    stopwatch.now += 1
    assert get(session, "/b", auth) == 200


def test_pauses_are_forgotten_in_time(
    auth: BrokerAuth, provider: LoopbackProvider, session: requests.Session, stopwatch: Stopwatch
) -> None:
    """Of what was long ago nothing is left but a first second."""
    session.mount("https://", Instant(lambda path, token: 401))
    for _ in range(6):
        get(session, "/", auth)
        stopwatch.now += 60
    stopwatch.now += 61
    before = provider.token_calls
    for calls in (1, 1, 2):
        get(session, "/", auth)
        assert provider.token_calls == before + calls
        stopwatch.now += 0.5


def test_the_pause_of_one_principal_is_none_of_anothers(
    broker: Broker, auth: BrokerAuth, session: requests.Session, stopwatch: Stopwatch
) -> None:
    """The client's own token is replaced while the user's is not; nor does another auth begin anew."""
    session.mount("https://", Instant(lambda path, token: 401))
    get(session, "/", auth)
    own = BrokerAuth(broker, SERVICE_REQUEST, SERVICE)
    old = broker.client_credentials(SERVICE_REQUEST).access_token
    before = token_of(broker)
    get(session, "/", own)
    get(session, "/", BrokerAuth(broker, USER_REQUEST))
    assert broker.client_credentials(SERVICE_REQUEST).access_token != old
    assert token_of(broker) == before


def test_what_is_remembered_of_pauses_is_bounded(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many principals, those used last; of tokens, a few."""
    monkeypatch.setattr(signed_calls, "_MOST_REMEMBERED", 3)
    auths = [BrokerAuth(broker, CachedTokenRequest("t", f"user-{n}")) for n in range(10)]
    memory = signed_calls._memories[broker]
    assert len(memory._renewals) == 3
    assert BrokerAuth(broker, CachedTokenRequest("t", "user-9"))._calls._renewals is auths[9]._calls._renewals
    renewals = signed_calls._Renewals()
    for number in range(1000):
        renewals.note_brought(f"{number}", f"{number + 1}")
        renewals.count_fruitless(f"{number}")
    assert len(renewals._replaced) == len(renewals._fruitless) == signed_calls._MOST_TOKENS


def test_who_uses_a_fresh_token_that_nobody_has_accepted_yet_obtains_no_other(
    api: Api, broker: Broker, auth: BrokerAuth, provider: LoopbackProvider, session: requests.Session
) -> None:
    """A refusal while the one who obtained it still waits for the API says that the API takes none."""
    old = token_of(broker)
    may_answer, is_waiting = threading.Event(), threading.Event()

    def refuse(seen: Seen) -> Answer:
        if seen.token != old and seen.path == "/slow":
            is_waiting.set()
            assert may_answer.wait(SECONDS)
        return Answer(401, before_body=True)

    api.answers["early"] = refuse
    slow = Crowd(1, lambda: session.get(f"{api.url}/slow", auth=auth, timeout=SECONDS)).start()
    assert is_waiting.wait(SECONDS)
    answer = session.get(api.url, auth=auth, timeout=SECONDS)
    may_answer.set()
    assert [answer.status_code, slow.join().results[0].status_code] == [401, 401]
    assert provider.token_calls == 1


def test_a_token_that_was_accepted_is_renewed_again_at_once(
    api: Api, broker: Broker, auth: BrokerAuth, provider: LoopbackProvider, session: requests.Session
) -> None:
    """Twice in a minute is no sign of an API that takes none, when it took one in between."""
    for calls in (1, 2, 3):
        api.refused = {token_of(broker)}
        assert session.get(api.url, auth=auth, timeout=SECONDS).status_code == 200
        assert provider.token_calls == calls


def test_a_token_that_anybody_had_accepted_is_renewed_again_at_once(
    api: Api, broker: Broker, auth: BrokerAuth, provider: LoopbackProvider, session: requests.Session
) -> None:
    """Whoever obtained it may have lost the network before the API answered."""

    class SecondLost(Keeping):
        def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:  # type: ignore[override]
            response = super().send(request, **kwargs)
            if len(self.sent) == 2:
                response.close()
                raise requests.ConnectionError("lost")
            return response

    session.mount("http://", SecondLost())
    api.refused = {token_of(broker)}
    with pytest.raises(requests.ConnectionError):
        session.get(api.url, auth=auth, timeout=SECONDS)
    assert session.get(api.url, auth=auth, timeout=SECONDS).status_code == 200
    api.refused = {token_of(broker)}
    assert session.get(api.url, auth=auth, timeout=SECONDS).status_code == 200
    assert provider.token_calls == 2


def test_a_dead_grant_is_told_by_its_error(
    api: Api, broker: Broker, auth: BrokerAuth, provider: LoopbackProvider, session: requests.Session
) -> None:
    """The user must log in again: no 401 to guess from, and none whose connection stays open."""
    api.refused = {"*"}
    provider.revoke_user("alice")
    adapter = Keeping()
    session.mount("http://", adapter)
    with pytest.raises(InvalidGrantError) as caught:
        session.get(api.url, auth=auth, timeout=SECONDS)
    assert caught.value.reauthorize
    assert len(api.seen) == 1
    assert [response.raw.closed for response in adapter.responses] == [True]


def test_a_provider_that_is_down_is_told_by_its_error(
    api: Api, auth: BrokerAuth, provider: LoopbackProvider, session: requests.Session
) -> None:
    """It can be tried later."""
    api.refused = {"*"}
    provider.inject(Fault.html(503))
    with pytest.raises(TransientError) as caught:
        session.get(api.url, auth=auth, timeout=SECONDS)
    assert caught.value.retryable
    assert len(api.seen) == 1


def test_one_prepared_request_is_sent_many_times(
    api: Api, broker: Broker, auth: BrokerAuth, provider: LoopbackProvider, session: requests.Session
) -> None:
    """Its token is replaced when it is refused, each time."""
    prepared = session.prepare_request(requests.Request("POST", api.url, data=b"abc", auth=auth))
    tokens = []
    for _ in range(3):
        api.refused.add(token_of(broker))
        assert session.send(prepared, timeout=SECONDS).status_code == 200
        assert session.send(prepared, timeout=SECONDS).status_code == 200
        tokens.append(token_of(broker))
    assert len(set(tokens)) == provider.token_calls == 3
    assert [seen.digest for seen in api.seen] == [sha(b"abc")] * 9


def test_a_request_that_is_signed_twice_is_signed_once(
    api: Api, broker: Broker, auth: BrokerAuth, provider: LoopbackProvider, session: requests.Session
) -> None:
    """By the same auth, or by another: the last counts, and one retry is one retry."""
    prepared = session.prepare_request(requests.Request("GET", api.url, auth=auth))
    prepared.prepare_auth(auth)
    prepared.prepare_auth(BrokerAuth(broker, USER_REQUEST))
    prepared.prepare_auth(auth)
    api.refused = {"*"}
    assert session.send(prepared, timeout=SECONDS).status_code == 401
    assert (len(api.seen), provider.token_calls) == (2, 1)


def test_the_settings_of_a_request_hold_for_its_retry(api: Api, broker: Broker, auth: BrokerAuth) -> None:
    """Timeout, streaming, certificates and proxies are those of the caller."""
    adapter = Keeping()
    with requests.Session() as session:
        session.mount("http://", adapter)
        api.refused = {token_of(broker)}
        with session.get(api.url, auth=auth, timeout=7.5, stream=True, verify=False) as answer:
            assert answer.raw.read()
    first, second = adapter.kwargs
    assert first == second
    assert (second["timeout"], second["stream"], second["verify"]) == (7.5, True, False)


def test_an_answer_that_does_not_say_how_it_came_is_left_alone(
    api: Api, broker: Broker, auth: BrokerAuth, provider: LoopbackProvider, session: requests.Session
) -> None:
    """The token is replaced for the next request, as for a body that cannot be sent again."""

    class Anonymous(Keeping):
        def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:  # type: ignore[override]
            response = super().send(request, **kwargs)
            vars(response).pop("connection")
            return response

    session.mount("http://", Anonymous())
    api.refused = {token_of(broker)}
    assert session.get(api.url, auth=auth, timeout=SECONDS).status_code == 401
    assert session.get(api.url, auth=auth, timeout=SECONDS).status_code == 200
    assert provider.token_calls == 1


def test_a_hook_of_the_callers_sees_the_answer_only(
    api: Api, broker: Broker, auth: BrokerAuth, session: requests.Session
) -> None:
    """raise_for_status and the like are not set off by a refusal that was overcome."""
    api.refused = {token_of(broker)}
    codes: list[int] = []
    session.hooks["response"] = [lambda response, **_: codes.append(response.status_code)]
    session.get(api.url, auth=auth, timeout=SECONDS)
    assert codes == [200]


@pytest.mark.parametrize("written", [None, "mine=1"])
def test_cookies_of_a_refusal_go_along_and_are_kept(
    written: str | None, api: Api, auth: BrokerAuth, session: requests.Session
) -> None:
    """Beside those that were there; but a Cookie header that the caller wrote stays as written."""
    refusal = Answer(401, {"Set-Cookie": "lb=b; Path=/"}, before_body=True)
    api.answers["early"] = lambda seen: Answer() if api.seen else refusal
    session.cookies.set("had", "a", domain="127.0.0.1", path="/")
    headers = None if written is None else {"Cookie": written}
    assert session.get(api.url, auth=auth, timeout=SECONDS, headers=headers).status_code == 200
    came = api.seen[1].headers["cookie"]
    assert came == written if written else sorted(came.split("; ")) == ["had=a", "lb=b"]
    assert session.cookies.get("lb") == "b"


def test_a_request_without_cookies_of_any_kind_is_sent_again(
    api: Api, broker: Broker, auth: BrokerAuth, session: requests.Session
) -> None:
    """One that was put together by hand."""
    api.refused = {token_of(broker)}
    prepared = requests.PreparedRequest()
    prepared.prepare_method("GET")
    prepared.prepare_url(api.url, None)
    prepared.prepare_headers(None)
    prepared.prepare_auth(auth)
    assert session.send(prepared, timeout=SECONDS).status_code == 200


def test_mocks_of_responses_work(auth: BrokerAuth, broker: Broker) -> None:
    """Refusal, retry and answer, without a network."""
    old = stored(broker)
    with responses.RequestsMock() as web:
        web.add_passthru(broker.descriptor.token_endpoint)
        matcher = responses.matchers.header_matcher
        web.get(
            "https://api.example.com/",
            status=401,
            match=[matcher({"Authorization": f"Bearer {old.access_token.expose()}"})],
        )
        web.get("https://api.example.com/", json={"ok": True})
        assert requests.get("https://api.example.com/", auth=auth, timeout=SECONDS).json() == {"ok": True}


# Bodies.


@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("kind", ["file", "bytesio"])
def test_a_file_is_sent_again_from_where_it_stood(
    start: int, kind: str, api: Api, broker: Broker, auth: BrokerAuth, tmp_path: Path
) -> None:
    """Which need not be its beginning."""
    api.refused = {token_of(broker)}
    path = tmp_path / "upload"
    path.write_bytes(b"0123456789" * 10_000)
    with path.open("rb") if kind == "file" else io.BytesIO(path.read_bytes()) as body:
        body.seek(start)
        answer = requests.put(api.url, data=body, auth=auth, timeout=SECONDS)
    assert [seen.digest for seen in api.seen] == [sha(path.read_bytes()[start:])] * 2
    assert {seen.headers["content-length"] for seen in api.seen} == {str(100_000 - start)}
    assert answer.status_code == 200


def test_forms_and_multipart_are_sent_again(api: Api, broker: Broker, auth: BrokerAuth) -> None:
    """requests keeps their bytes."""
    for body in ({"data": {"a": "b"}}, {"files": {"f": io.BytesIO(b"content")}}, {"data": "täxt"}):
        api.seen.clear()
        api.refused = {token_of(broker)}
        assert requests.post(api.url, auth=auth, timeout=SECONDS, **body).status_code == 200
        first, second = api.seen
        assert first.length
        assert (first.length, first.digest) == (second.length, second.digest)


class Unseekable(io.RawIOBase):
    """A pipe, as far as requests can tell."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._content.readinto(buffer)


class OnlyRead:
    """Has no position."""

    def __init__(self, content: bytes) -> None:
        self.read = io.BytesIO(content).read

    def __len__(self) -> int:
        return 6


class ClosedWhenRead(io.BytesIO):
    """Gone after it was read."""

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        if not found:
            self.close()
        return found


@pytest.mark.parametrize(
    "body",
    [
        lambda: iter([b"abc", b"def"]),
        lambda: Unseekable(b"abcdef"),
        lambda: OnlyRead(b"abcdef"),
        lambda: ClosedWhenRead(b"abcdef"),
    ],
    ids=["generator", "pipe", "reader", "closed"],
)
def test_a_body_that_cannot_be_sent_again_is_left_alone(
    body: Callable[[], Any],
    api: Api,
    broker: Broker,
    auth: BrokerAuth,
    provider: LoopbackProvider,
    session: requests.Session,
) -> None:
    """The refusal is the answer; for the next request the token has been replaced, once."""
    old = token_of(broker)
    api.refused = {old}
    answer = session.post(api.url, data=body(), auth=auth, timeout=SECONDS)
    assert (answer.status_code, answer.history, len(api.seen)) == (401, [], 1)
    assert answer.json() == {"error": "invalid_token"}
    assert answer.request.headers["Authorization"] == f"Bearer {old}"
    assert provider.token_calls == 1
    assert session.post(api.url, data=body(), auth=auth, timeout=SECONDS).status_code == 200
    assert api.seen[-1].digest == sha(b"abcdef")
    assert provider.token_calls == 1


@pytest.mark.parametrize("answers_early", [False, True])
def test_a_large_upload_is_streamed_twice_and_never_held(
    answers_early: bool,
    api: Api,
    broker: Broker,
    auth: BrokerAuth,
    session: requests.Session,
    tmp_path: Path,
) -> None:
    """Also when the refusal comes before the body was read, and closes the connection."""
    size = 210 * MEGABYTE
    path = tmp_path / "large"
    with path.open("wb") as made:
        made.truncate(size)
    old = token_of(broker)
    api.refused = {old}
    if answers_early:
        api.answers["early"] = lambda seen: Answer(401, before_body=seen.token == old)
    tracemalloc.start()
    try:
        with path.open("rb") as body:
            answer = session.put(api.url, data=body, auth=auth, timeout=SECONDS)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert answer.status_code == 200
    assert answer.json()["length"] == size
    assert [seen.length for seen in api.seen] == [0 if answers_early else size, size]
    assert peak < 20 * MEGABYTE


def test_an_endless_refusal_is_not_read(
    api: Api, broker: Broker, auth: BrokerAuth, session: requests.Session
) -> None:
    """Neither one that never stops, nor one that keeps us waiting for its next byte."""
    over = threading.Event()

    def drip() -> Iterator[bytes]:
        yield b"x"
        over.wait(SECONDS)

    def flood() -> Iterator[bytes]:
        while True:
            yield b"x" * 65536

    for pieces in (drip, flood):
        old = token_of(broker)
        refusal = Answer(401, before_body=True, pieces=pieces())
        api.answers["early"] = partial(
            lambda old, no, seen: no if seen.token == old else Answer(), old, refusal
        )
        answer = session.get(api.url, auth=auth, timeout=SECONDS)
        assert (answer.status_code, answer.history[0].content) == (200, b"")
    over.set()


# Redirects.


def redirect(status: int, target: str) -> Callable[[Seen], Answer]:
    """Give what sends a request on to ``target``."""
    return lambda _: Answer(status, {"Location": target})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_token_does_not_travel_to_another_origin(
    status: int, api: Api, other: Api, either_auth: BrokerAuth, session: requests.Session
) -> None:
    """In no header: another port is another origin. What was sent stays visible in the history."""
    api.answers["/"] = redirect(status, f"{other.url}/elsewhere")
    answer = session.post(f"{api.url}/", data=b"abc", auth=either_auth, timeout=SECONDS)
    (there,) = other.seen
    assert api.seen[0].token is not None
    assert there.path == "/elsewhere"
    assert not {"authorization", KEY_HEADER.lower()} & set(there.headers)
    assert api.seen[0].token in str(answer.history[0].request.headers)
    assert api.seen[0].token not in str(answer.request.headers)


@pytest.mark.parametrize(
    "target", ["/next", "next", "?q=1", "{url}/next", "//{host}/next", "{URL}/next", "/n\xc3\xa9xt", "/a b"]
)
def test_a_token_stays_on_redirects_within_its_origin(
    target: str, api: Api, either_auth: BrokerAuth, session: requests.Session
) -> None:
    """Relative, absolute, without scheme, in other letters."""
    host = api.url.removeprefix("http://")
    location = target.format(url=api.url, host=host, URL=api.url.replace("http", "HTTP"))
    api.answers["/"] = redirect(302, location)
    assert session.get(f"{api.url}/", auth=either_auth, timeout=SECONDS).status_code == 200
    first, second = api.seen
    assert first.token == second.token is not None


@pytest.mark.parametrize(
    "target",
    [
        "//{other}/elsewhere",
        "http://{host}@{other}/elsewhere",
        "http://{other}\\@{host}/elsewhere",
        "http:\\\\{other}/elsewhere",
        "http://localhost:{port}/",
        "http://127.0.0.1/",
        "https://{host}/",
        "http://127.0.0.1:99999/",
        "ht\ttp://{host}/next",
        "////{other}/elsewhere",
        "http:////{other}/elsewhere",
        "https:////{other}/elsewhere",
        "/////{other}/elsewhere",
        "%68ttp://{other}/elsewhere",
    ],
)
def test_a_token_stays_behind_wherever_else_a_redirect_leads(
    target: str, api: Api, other: Api, either_auth: BrokerAuth
) -> None:
    """Whatever requests makes of the location: no other request than the first has it."""
    host, elsewhere = api.url.removeprefix("http://"), other.url.removeprefix("http://")
    port = host.rpartition(":")[2]
    api.answers["/"] = redirect(302, target.format(host=host, other=elsewhere, port=port))
    sent: list[requests.PreparedRequest] = []

    class FirstOnly(requests.adapters.HTTPAdapter):
        def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:  # type: ignore[override]
            sent.append(request.copy())
            if len(sent) > 1:
                raise requests.ConnectionError("far enough")
            return super().send(request, **kwargs)

    with requests.Session() as session:
        session.mount("http://", FirstOnly())
        session.mount("https://", FirstOnly())
        with pytest.raises((requests.RequestException, ValueError)):
            session.get(f"{api.url}/", auth=either_auth, timeout=SECONDS)
    token = api.seen[0].token
    assert token is not None
    assert token in str(sent[0].headers)
    assert all(token not in str(request.headers) for request in sent[1:])


def test_a_token_does_not_come_back_from_another_origin(
    api: Api, other: Api, either_auth: BrokerAuth, session: requests.Session
) -> None:
    """A to A to B to A: the last request is B's doing, and carries none."""
    api.answers["/"] = redirect(307, "/second")
    api.answers["/second"] = redirect(307, f"{other.url}/back")
    other.answers["early"] = lambda _: Answer(307, {"Location": f"{api.url}/last"}, before_body=True)
    answer = session.get(f"{api.url}/", auth=either_auth, timeout=SECONDS)
    assert [seen.path for seen in api.seen] == ["/", "/second", "/last"]
    assert [seen.token is None for seen in other.seen] == [True]
    assert [seen.token is None for seen in api.seen] == [False, False, True]
    assert answer.status_code == 401


def test_the_refusal_of_another_origin_is_none_of_ours(
    api: Api, other: Api, either_auth: BrokerAuth, provider: LoopbackProvider, session: requests.Session
) -> None:
    """No token was sent there, so none is replaced, and none is sent."""
    api.answers["/"] = redirect(302, f"{other.url}/private")
    answer = session.get(f"{api.url}/", auth=either_auth, timeout=SECONDS)
    assert (answer.status_code, len(other.seen), provider.token_calls) == (401, 1, 0)


def test_a_token_that_somebody_else_sends_elsewhere_is_not_followed_by_another(
    api: Api, other: Api, either_auth: BrokerAuth, provider: LoopbackProvider
) -> None:
    """A session that restores what was dropped: the other origin gets no second token for refusing one."""

    class Restoring(requests.Session):
        def rebuild_auth(self, prepared_request: Any, response: requests.Response) -> None:
            prepared_request.headers.update(response.request.headers)

    api.answers["/"] = redirect(302, f"{other.url}/private")
    other.refused = {"*"}
    with Restoring() as session:
        session.trust_env = False
        assert session.get(f"{api.url}/", auth=either_auth, timeout=SECONDS).status_code == 401
    assert (len(other.seen), provider.token_calls) == (1, 0)


def test_a_refusal_behind_a_redirect_is_overcome(
    api: Api, either_auth: BrokerAuth, provider: LoopbackProvider, session: requests.Session
) -> None:
    """The request of the redirect is the one that is sent again."""
    api.answers["/"] = redirect(307, "/next")
    api.answers["/next"] = lambda seen: (
        Answer(401) if seen.token == api.seen[0].token else Answer(body=seen.digest.encode())
    )
    answer = session.post(f"{api.url}/", data=b"abc", auth=either_auth, timeout=SECONDS)
    assert (answer.status_code, answer.text) == (200, sha(b"abc"))
    assert [seen.path for seen in api.seen] == ["/", "/next", "/next"]
    assert provider.token_calls == 1


@pytest.mark.parametrize("leaves", [False, True])
def test_a_redirect_behind_a_refusal_carries_the_new_token_or_none(
    leaves: bool, api: Api, other: Api, either_auth: BrokerAuth, session: requests.Session
) -> None:
    """The new one within the origin, none to another."""
    target = f"{other.url}/elsewhere" if leaves else "/next"
    api.answers["early"] = lambda seen: Answer(401 if not api.seen else 500, before_body=not api.seen)
    api.answers["/"] = redirect(302, target)
    session.get(f"{api.url}/", auth=either_auth, timeout=SECONDS)
    old, new = api.seen[0].token, api.seen[1].token
    assert len({old, new, None}) == 3
    last = other.seen[0] if leaves else api.seen[2]
    assert last.token == (None if leaves else new)


def test_a_request_that_was_redirected_elsewhere_can_be_sent_again(
    api: Api, other: Api, either_auth: BrokerAuth, session: requests.Session
) -> None:
    """With its token, whether redirects are followed or not, or cannot be."""
    api.answers["/"] = redirect(302, f"{other.url}/elsewhere")
    prepared = session.prepare_request(requests.Request("GET", f"{api.url}/", auth=either_auth))
    session.send(prepared, timeout=SECONDS)
    unfollowed = session.send(prepared, timeout=SECONDS, allow_redirects=False)
    following = unfollowed.next
    assert following is not None
    session.max_redirects = 0
    with pytest.raises(requests.TooManyRedirects):
        session.send(prepared, timeout=SECONDS)
    session.max_redirects = 3
    assert len({seen.token for seen in api.seen}) == 1
    assert api.seen[0].token is not None
    assert api.seen[0].token not in str(following.headers)
    assert [seen.token for seen in other.seen] == [None]
    assert "Location" in unfollowed.headers
    assert api.seen[0].token in str(prepared.headers)
    api.answers["/"] = redirect(302, "/next")
    assert session.send(prepared, timeout=SECONDS, allow_redirects=True).status_code == 200


class Redirecting(Instant):
    """Answers the first request with a redirect to ``location``, and keeps where each of them would go."""

    def __init__(self, location: str) -> None:
        super().__init__(lambda path, token: 200)
        self.location = location
        self.hosts: list[tuple[str, str | None, int]] = []

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:  # type: ignore[override]
        where = requests.adapters.HTTPAdapter().build_connection_pool_key_attributes(request, True)[0]
        self.hosts.append((where["scheme"], where["host"], where["port"] or 443))
        response = super().send(request, **kwargs)
        if len(self.sent) == 1:
            response.status_code = 302
            response.headers["Location"] = self.location
        return response


def test_no_location_leads_a_token_astray(either_auth: BrokerAuth) -> None:
    """Three thousand of them, put together from what URLs are made of."""
    chance = random.Random(6)
    hosts = ["http", "https", "evil.example", "evil.example", "api.example.com", "443", "80"]
    pieces = [*hosts, *"//:@?#%.[];\\", "//", "//", "//", "://", "..", "%2f", "%68", "%3a", " ", "\xc3\xa9"]
    home, strays, homes = ("https", "api.example.com", 443), 0, 0
    for _ in range(3_000):
        adapter = Redirecting("".join(chance.choices(pieces, k=chance.randint(1, 7))))
        with requests.Session() as session:
            session.trust_env = False
            session.mount("http://", adapter)
            session.mount("https://", adapter)
            with contextlib.suppress(requests.RequestException, ValueError):
                session.get("https://api.example.com/", auth=either_auth, timeout=SECONDS)
        for host, request in list(zip(adapter.hosts, adapter.sent, strict=True))[1:]:
            has_token = bool({"Authorization", KEY_HEADER} & set(request.headers))
            strays += host != home
            homes += has_token
            assert not has_token or host == home, adapter.location
    assert strays > 100
    assert homes > 100


class SendsCopies(requests.adapters.HTTPAdapter):
    """As adapters do that change what they send."""

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:  # type: ignore[override]
        return super().send(request.copy(), **kwargs)


@pytest.mark.parametrize("detours", [0, 2])
def test_a_token_stays_behind_though_an_adapter_sends_copies(
    detours: int, api: Api, other: Api, either_auth: BrokerAuth, session: requests.Session
) -> None:
    """What the redirect copies is not what was sent; also after redirects within the origin."""
    session.mount("http://", SendsCopies())
    for number in range(detours):
        api.answers[f"/{number}"] = redirect(307, f"/{number + 1}")
    api.answers[f"/{detours}"] = redirect(307, f"{other.url}/elsewhere")
    session.get(f"{api.url}/0", auth=either_auth, timeout=SECONDS)
    assert [seen.token is None for seen in api.seen] == [False] * (detours + 1)
    assert [seen.token for seen in other.seen] == [None]


def test_a_token_stays_behind_though_another_thread_follows(
    api: Api, other: Api, either_auth: BrokerAuth, session: requests.Session
) -> None:
    """The one that follows is not the one that got the answer."""
    api.answers["/"] = redirect(307, f"{other.url}/elsewhere")
    prepared = session.prepare_request(requests.Request("GET", f"{api.url}/", auth=either_auth))
    response = session.send(prepared, timeout=SECONDS, allow_redirects=False)
    follow = partial(session.resolve_redirects, response, prepared, timeout=SECONDS)
    crowd = Crowd(1, lambda: list(follow())).start().join()
    assert crowd.errors == []
    assert [seen.token for seen in other.seen] == [None]


def test_a_token_stays_behind_whatever_other_threads_see(
    api: Api, other: Api, either_auth: BrokerAuth, session: requests.Session
) -> None:
    """Though another is led home with the same request, after this one was led elsewhere."""
    locations = [f"{other.url}/elsewhere", "/next"]
    api.answers["/"] = lambda _: Answer(307, {"Location": locations.pop(0)})

    def send_in_between(response: requests.Response, **_: Any) -> None:
        if locations:
            mine = Crowd(1, lambda: session.send(prepared, timeout=SECONDS)).start().join()
            assert [answer.status_code for answer in mine.results] == [200]

    prepared = session.prepare_request(
        requests.Request("GET", f"{api.url}/", auth=either_auth, hooks={"response": send_in_between})
    )
    session.send(prepared, timeout=SECONDS)
    assert [seen.path for seen in api.seen] == ["/", "/", "/next"]
    assert None not in [seen.token for seen in api.seen]
    assert [seen.token for seen in other.seen] == [None]


@pytest.mark.parametrize(
    "body",
    [
        lambda token: {"data": {"text": "hello", "token": token}},
        lambda token: {"data": f"<token>{token}</token>".encode()},
        lambda token: {"data": bytearray(token, "ascii")},
        lambda token: {"json": {"token": token}},
        lambda token: {"data": {"token": token}, "files": {"f": b"hello"}},
    ],
)
@pytest.mark.parametrize("token", ["a+b/c==", "abc-def_ghi.jkl~mno+pqr/stu=="])
def test_a_body_that_carries_the_token_does_not_follow_a_redirect_to_another_origin(
    token: str,
    body: Callable[[str], dict[str, Any]],
    api: Api,
    other: Api,
    broker: Broker,
    auth: BrokerAuth,
    session: requests.Session,
) -> None:
    """As it is or in a form; also after a redirect within the origin."""
    broker.store.save(replace(stored(broker), access_token=TokenSecret(token)))
    api.answers["/"] = redirect(307, "/next")
    api.answers["/next"] = redirect(308, f"{other.url}/elsewhere")
    with pytest.raises(ConfigError, match="not followed"):
        session.post(f"{api.url}/", auth=auth, timeout=SECONDS, **body(token))
    assert [seen.path for seen in api.seen] == ["/", "/next"]
    assert other.connections == 0


@pytest.mark.parametrize("written", [lambda url: url, lambda url: url.replace("_", "%5f")])
def test_a_location_that_repeats_the_token_is_not_followed_to_another_origin(
    written: Callable[[str], str],
    api: Api,
    other: Api,
    broker: Broker,
    auth: BrokerAuth,
    session: requests.Session,
) -> None:
    """A server that copies the query, as it was or written otherwise; within the origin it may."""
    broker.store.save(replace(stored(broker), access_token=TokenSecret("access_token_1")))
    own = BrokerAuth(broker, USER_REQUEST, signer=QuerySigner())
    api.answers["early"] = lambda seen: Answer(
        307, {"Location": written(seen.path.replace("/", target, 1))}, before_body=True
    )
    target = f"{other.url}/elsewhere"
    with pytest.raises(ConfigError, match="not followed"):
        session.get(f"{api.url}/", auth=own, timeout=SECONDS)
    answer = session.get(f"{api.url}/", auth=own, timeout=SECONDS, allow_redirects=False)
    assert answer.headers["Location"].startswith(target)
    assert other.connections == 0


def test_a_body_without_the_token_follows_as_ever(
    api: Api, other: Api, broker: Broker, auth: BrokerAuth, session: requests.Session
) -> None:
    """Also one in which a short token is part of a word; a file is not looked at."""
    broker.store.save(replace(stored(broker), access_token=TokenSecret("el")))
    api.answers["/"] = redirect(307, f"{other.url}/elsewhere")
    for body in (b"hello", io.BytesIO(b"hello")):
        session.post(f"{api.url}/", data=body, auth=auth, timeout=SECONDS)
    assert [(seen.digest, seen.token) for seen in other.seen] == [(sha(b"hello"), None)] * 2


# What callers do with requests and responses.


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda given: pickle.loads(pickle.dumps(given))])
def test_a_response_can_be_pickled_and_copied(
    copied: Callable[[Any], Any], api: Api, other: Api, either_auth: BrokerAuth, session: requests.Session
) -> None:
    """With its request; copies of that one are copies of that one, and still leave the token behind."""
    api.answers["/"] = redirect(307, f"{other.url}/elsewhere")
    prepared = session.prepare_request(requests.Request("GET", f"{api.url}/", auth=either_auth))
    response = copied(session.send(prepared, timeout=SECONDS, allow_redirects=False))
    assert response.status_code == 307
    request = response.request
    token = str(api.seen[0].token)
    assert token in str(request.headers)
    request.headers["X-Only"] = "here"
    made = request.copy()
    assert made.headers["X-Only"] == "here"
    assert token not in str(made.headers)
    session.send(request, timeout=SECONDS)
    assert [seen.token for seen in other.seen] == [None]


def test_a_deep_copy_of_a_request_is_watched_as_well(
    api: Api, broker: Broker, auth: BrokerAuth, session: requests.Session
) -> None:
    """Its token is replaced when it is refused."""
    prepared = copy.deepcopy(requests.Request("GET", api.url, auth=auth).prepare())
    api.refused = {token_of(broker)}
    assert session.send(prepared, timeout=SECONDS).status_code == 200


def test_a_header_that_was_ours_does_not_stay_beside_another(broker: Broker, auth: BrokerAuth) -> None:
    """Though the program had written it before: signed again elsewhere, the token is in one place."""
    headers = {"Authorization": f"Bearer {token_of(broker)}"}
    prepared = requests.Request("GET", "https://api.example.com/", auth=auth, headers=headers).prepare()
    prepared.prepare_auth(BrokerAuth(broker, USER_REQUEST, signer=QuerySigner()))
    assert "Authorization" not in prepared.headers


def test_a_pickle_holds_no_token_but_the_header(api: Api, broker: Broker, auth: BrokerAuth) -> None:
    """Where requests itself keeps it."""
    signed = BrokerAuth(broker, USER_REQUEST, signer=QuerySigner())
    prepared = requests.Request("GET", api.url, auth=signed).prepare()
    pickled = pickle.dumps(prepared)
    assert pickled.count(token_of(broker).encode()) == 1
    assert b"_Watch" not in pickled


@pytest.mark.parametrize("hooks", [{}, None, {"response": []}, {"response": lambda response, **_: None}])
def test_a_request_with_whatever_hooks_can_be_signed(
    hooks: Any, api: Api, broker: Broker, auth: BrokerAuth, session: requests.Session
) -> None:
    """And however often: hooks do not pile up."""
    api.refused = {token_of(broker)}
    prepared = requests.Request("GET", api.url).prepare()
    prepared.hooks = hooks
    for _ in range(10):
        BrokerAuth(broker, USER_REQUEST)(prepared)
    assert len(prepared.hooks["response"]) == (2 if hooks and callable(hooks["response"]) else 1)
    assert session.send(prepared, timeout=SECONDS).status_code == 200


def test_an_answer_says_how_long_it_took(
    api: Api, broker: Broker, auth: BrokerAuth, session: requests.Session
) -> None:
    """That of a retry, too."""
    api.refused = {token_of(broker)}
    assert session.get(api.url, auth=auth, timeout=SECONDS).elapsed.total_seconds() > 0


@pytest.mark.parametrize("token", ["x", "me", "1", "a"])
def test_a_short_token_is_not_mistaken_for_part_of_something_else(
    token: str, broker: Broker, auth: BrokerAuth, session: requests.Session
) -> None:
    """Of another header, or of the URL: those stay as they are, on the retry and on redirects."""
    broker.store.save(replace(stored(broker), access_token=TokenSecret(token)))
    adapter = Instant(lambda path, found: 401 if found == token else 200)
    session.mount("https://", adapter)
    headers = {"Content-Type": "text/x-me1", "X-Name": "me1x", "Authorization": f"Bearer {token}"}
    url = "https://api.example.com/x?me=1"
    assert session.get(url, auth=auth, timeout=SECONDS, headers=headers).status_code == 200
    first, second = adapter.sent
    assert first.url == second.url == url
    assert first.headers["Authorization"] == f"Bearer {token}"
    assert second.headers["Authorization"] == f"Bearer {token_of(broker)}"
    first.headers.pop("Authorization")
    second.headers.pop("Authorization")
    assert dict(first.headers) == dict(second.headers)
    assert first.headers["X-Name"] == "me1x"


def test_a_short_token_in_the_url_is_no_signature(
    api: Api, other: Api, broker: Broker, auth: BrokerAuth, session: requests.Session
) -> None:
    """What was signed is known again on another URL: it stays behind when a second redirect leads away."""
    record = replace(stored(broker), access_token=TokenSecret("1"))
    broker.store.save(record)
    own = BrokerAuth(broker, USER_REQUEST, signer=KeySigner())
    api.answers["/1"] = redirect(307, "/next")
    api.answers["/next"] = redirect(307, f"{other.url}/elsewhere")
    session.get(f"{api.url}/1", auth=own, timeout=SECONDS)
    assert [seen.token for seen in api.seen] == ["1", "1"]
    assert [seen.token for seen in other.seen] == [None]


class KeySigner:
    """Puts the token into a header of its own."""

    def attach(self, request: requests.PreparedRequest, record: TokenRecord) -> requests.PreparedRequest:
        request.headers[KEY_HEADER] = record.access_token.expose()
        return request


# 403.


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"WWW-Authenticate": 'Bearer error="insufficient_scope", scope="mail.send"'}, b""),
        ({"Content-Type": "application/json"}, b'{"error": "insufficient_scope", "scope": "mail.send"}'),
        ({"Content-Type": "application/json"}, b'{"error": "insufficient_scope", "scope": ["odd"]}'),
    ],
)
def test_a_scope_that_is_missing_is_an_error(
    headers: dict[str, str],
    body: bytes,
    stream: bool,
    api: Api,
    auth: BrokerAuth,
    provider: LoopbackProvider,
    session: requests.Session,
) -> None:
    """Another token would not help, so none is asked for (RFC 6750 section 3.1)."""
    api.answers["/"] = lambda _: Answer(403, headers, body)
    with pytest.raises(InsufficientScopeError) as caught:
        session.get(f"{api.url}/", auth=auth, timeout=SECONDS, stream=stream)
    assert ("mail.send" in str(caught.value)) == (b"odd" not in body)
    assert provider.token_calls == 0


def test_a_403_of_any_length_is_not_searched(api: Api, auth: BrokerAuth, session: requests.Session) -> None:
    """One that says it in a body of more than 64 KiB is the caller's."""
    body = json.dumps({"error": "insufficient_scope", "padding": "x" * 65536}).encode()
    api.answers["/"] = lambda _: Answer(403, {"Content-Type": "application/json"}, body)
    assert session.get(f"{api.url}/", auth=auth, timeout=SECONDS).content == body


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("size", [0, 100_000])
def test_any_other_403_is_the_callers_to_read(
    stream: bool, size: int, api: Api, auth: BrokerAuth, session: requests.Session
) -> None:
    """Whole, and streamed where it was asked for."""
    body = json.dumps({"error": "forbidden", "padding": "x" * size}).encode()
    api.answers["/"] = lambda _: Answer(403, {"Content-Type": "application/json"}, body)
    with session.get(f"{api.url}/", auth=auth, timeout=SECONDS, stream=stream) as answer:
        assert answer.status_code == 403
        assert answer._content_consumed is not (stream and bool(size))  # type: ignore[attr-defined]
        assert b"".join(answer.iter_content(1000)) == body


def test_a_large_answer_is_streamed(
    api: Api, broker: Broker, auth: BrokerAuth, session: requests.Session
) -> None:
    """Behind a refusal, too."""
    api.refused = {token_of(broker)}
    api.answers["/"] = lambda _: Answer(body=b"x" * MEGABYTE)
    with session.get(f"{api.url}/", auth=auth, timeout=SECONDS, stream=True) as answer:
        assert not answer._content_consumed  # type: ignore[attr-defined]
        assert sum(len(piece) for piece in answer.iter_content(65536)) == MEGABYTE


# Signers of one's own.


class QuerySigner:
    """Puts the token into the query, as few APIs want it."""

    def attach(self, request: requests.PreparedRequest, record: TokenRecord) -> requests.PreparedRequest:
        request.prepare_url(request.url, {"access_token": record.access_token.expose()})
        return request


def test_a_signer_of_ones_own_may_use_the_url(
    api: Api, broker: Broker, auth: BrokerAuth, session: requests.Session
) -> None:
    """On the retry the new token takes the old one's place."""
    old = token_of(broker)
    api.answers["early"] = lambda seen: Answer(401 if old in seen.path else 200, before_body=True)
    signed = BrokerAuth(broker, USER_REQUEST, signer=QuerySigner())
    assert session.get(f"{api.url}/?a=1", auth=signed, timeout=SECONDS).status_code == 200
    assert [seen.path for seen in api.seen] == [
        f"/?a=1&access_token={old}",
        f"/?a=1&access_token={token_of(broker)}",
    ]


def test_signing_again_takes_the_first_signature_off(broker: Broker, auth: BrokerAuth) -> None:
    """Wherever it was: no request carries a token twice, or that of somebody else before."""
    signed = BrokerAuth(broker, USER_REQUEST, signer=QuerySigner())
    prepared = requests.Request("GET", "https://api.example.com/", auth=signed).prepare()
    prepared.prepare_auth(signed)
    assert prepared.url == f"https://api.example.com/?access_token={token_of(broker)}"
    prepared.prepare_auth(auth)
    assert prepared.url == "https://api.example.com/"
    assert prepared.headers["Authorization"] == f"Bearer {token_of(broker)}"


class Copying:
    """Leaves the request that it gets alone, and gives a copy that is signed."""

    def attach(self, request: requests.PreparedRequest, record: TokenRecord) -> requests.PreparedRequest:
        signed = request.copy()
        signed.headers[KEY_HEADER] = record.access_token.expose()
        return signed


def test_a_signer_may_give_another_request(
    api: Api, broker: Broker, auth: BrokerAuth, session: requests.Session
) -> None:
    """What it gives is what is sent."""
    api.refused = {token_of(broker)}
    signed = BrokerAuth(broker, USER_REQUEST, signer=Copying())
    assert session.get(api.url, auth=signed, timeout=SECONDS).status_code == 200
    assert [seen.headers[KEY_HEADER.lower()] for seen in api.seen][1] == token_of(broker)


def _into_body(request: Any, record: TokenRecord) -> None:
    request.headers["X-Signed"] = "yes"
    request.body = f"access_token={record.access_token.expose()}"


def _elsewhere(request: Any, record: TokenRecord) -> None:
    request.url = "https://evil.example.com/"


def _fails(request: Any, record: TokenRecord) -> None:
    raise ValueError(record.access_token.expose())


@pytest.mark.parametrize("what", [_into_body, _elsewhere, _fails, lambda request, record: None])
def test_a_signer_that_does_not_sign_safely_is_told_so(
    what: Callable[[Any, TokenRecord], None], api: Api, broker: Broker, auth: BrokerAuth
) -> None:
    """In the body, to another origin, not at all: nothing is sent, and the error shows no token."""

    class Signer:
        def attach(self, request: Any, record: TokenRecord) -> Any:
            what(request, record)
            return request

    token = token_of(broker)
    with pytest.raises(ConfigError) as caught:
        requests.get(api.url, auth=BrokerAuth(broker, USER_REQUEST, signer=Signer()), timeout=SECONDS)
    assert api.seen == []
    error: BaseException | None = caught.value
    assert token not in str(error)
    assert error is not None
    assert error.__context__ is None
    assert not shows(error, token)


def shows(error: BaseException, token: str) -> bool:
    """Whether a frame of this library has ``token`` in a local, as crash reporters print them."""
    frames = []
    trace = error.__traceback__
    while trace is not None:
        if re.search(r"oauth2broker", trace.tb_frame.f_code.co_filename):
            frames.append(trace.tb_frame)
        trace = trace.tb_next
    assert frames
    return any(token in repr(value) for frame in frames for value in frame.f_locals.values())


def test_no_error_shows_a_token_in_its_frames(
    api: Api, broker: Broker, auth: BrokerAuth, provider: LoopbackProvider, session: requests.Session
) -> None:
    """From a refusal that could not be overcome, and from a scope that is missing."""
    token = token_of(broker)
    api.answers["/"] = lambda _: Answer(403, {"WWW-Authenticate": "Bearer error=insufficient_scope"})
    errors: list[BrokerError] = []
    for path, refused in (("/", set()), ("/x", {"*"})):
        api.refused = refused
        provider.revoke_user("alice")
        with pytest.raises(BrokerError) as caught:
            session.get(api.url + path, auth=auth, timeout=SECONDS)
        errors.append(caught.value)
    assert [type(error) for error in errors] == [InsufficientScopeError, InvalidGrantError]
    assert not any(shows(error, token) for error in errors)


def test_a_request_keeps_its_token_when_no_other_can_be_attached(
    api: Api, broker: Broker, auth: BrokerAuth, session: requests.Session
) -> None:
    """It could be sent again, and must not be sent without one."""
    old = token_of(broker)
    api.refused = {old}

    class Once:
        def attach(self, request: Any, record: TokenRecord) -> Any:
            if record.access_token.expose() != old:
                raise ValueError
            request.headers["Authorization"] = f"Bearer {old}"
            return request

    signed = BrokerAuth(broker, USER_REQUEST, signer=Once())
    prepared = session.prepare_request(requests.Request("GET", api.url, auth=signed))
    with pytest.raises(ConfigError, match="signer failed"):
        session.send(prepared, timeout=SECONDS)
    assert prepared.headers["Authorization"] == f"Bearer {old}"


def test_a_signer_that_gives_no_request_is_told_so(api: Api, broker: Broker, auth: BrokerAuth) -> None:
    """Most often its author forgot to return it."""

    class Forgetful:
        def attach(self, request: Any, record: TokenRecord) -> None:
            request.headers["Authorization"] = "x"

    with pytest.raises(ConfigError, match="attach must give a request, not NoneType"):
        requests.get(api.url, auth=BrokerAuth(broker, USER_REQUEST, signer=Forgetful()), timeout=SECONDS)
    assert api.seen == []


def test_requests_for_several_users_share_a_session(
    api: Api, broker: Broker, auth: BrokerAuth, session: requests.Session
) -> None:
    """Each auth is one principal's."""
    with pytest.raises(AuthorizationRequiredError):
        session.get(api.url, auth=BrokerAuth(broker, CachedTokenRequest("t", "nobody")), timeout=SECONDS)
    assert session.get(api.url, auth=auth, timeout=SECONDS).status_code == 200
    assert len(api.seen) == 1
