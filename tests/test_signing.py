"""The header that carries a token: as each provider's API wants it, on any library's request."""

from __future__ import annotations

import http.server
import os
import signal
import threading
import urllib.request
import warnings
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
import requests

from oauth2broker import (
    AuthorizationError,
    AuthorizationRequiredError,
    Broker,
    CachedTokenRequest,
    ConfigError,
    GrantType,
    HeaderSigner,
    ProviderDescriptor,
    ProviderQuirks,
    ProviderStrategy,
    RequestSigner,
    TokenFamily,
    TokenRecord,
    TransientError,
)
from oauth2broker.integrations import signed_calls
from oauth2broker.integrations.redirects import leads_elsewhere
from oauth2broker.integrations.session_token import SessionToken
from oauth2broker.integrations.signed_calls import SignedCalls, checked_origin, missing_scope, origin_of
from oauth2broker.provider import presets
from oauth2broker.testing import Fault, LoopbackProvider
from tests.presets.shapes import LOGINS, Login
from tests.presets.support import CLIENT_ID
from tests.presets.test_answers import answered, begin, log_in
from tests.support import USER_REQUEST, ManualClock, log_in as log_user_in

TOKEN = "access-example-token"
URL = "https://api.example.com/things"


def record_of(token: str = TOKEN, token_type: str = "Bearer") -> TokenRecord:
    """Make a record."""
    family = TokenFamily("tenant", "user", "provider", CLIENT_ID)
    return TokenRecord(family=family, access_token=token, token_type=token_type, issued_at=ManualClock().now)


def describe(strategy: ProviderStrategy | None = None, **quirks: Any) -> ProviderDescriptor:
    """Make a descriptor."""
    return ProviderDescriptor(
        id="provider",
        authorization_endpoint="https://provider.example.com/authorize",
        token_endpoint="https://provider.example.com/token",
        grants={GrantType.AUTHORIZATION_CODE},
        quirks=ProviderQuirks(**quirks),
        strategy=strategy,
    )


# Headers.


@pytest.mark.parametrize(
    ("quirks", "token_type", "headers"),
    [
        ({}, "Bearer", {"Authorization": f"Bearer {TOKEN}"}),
        ({}, "bEARER", {"Authorization": f"Bearer {TOKEN}"}),
        ({"api_scheme": "OAuth"}, "Bearer", {"Authorization": f"OAuth {TOKEN}"}),
        ({"api_scheme": "token"}, "mac", {"Authorization": f"token {TOKEN}"}),
        ({"api_scheme": ""}, "Bearer", {"Authorization": TOKEN}),
        ({"api_header": "X-Token", "api_scheme": ""}, "Bearer", {"X-Token": TOKEN}),
        ({"api_header": "X-Token"}, "Bearer", {"X-Token": f"Bearer {TOKEN}"}),
    ],
)
def test_the_header_is_the_providers(
    quirks: dict[str, Any], token_type: str, headers: dict[str, str]
) -> None:
    """Name, scheme or the bare token, whatever the type is called."""
    assert HeaderSigner(describe(**quirks)).headers(record_of(token_type=token_type)) == headers


@pytest.mark.parametrize("token_type", ["mac", "DPoP", "N_A", ""])
def test_a_token_that_is_no_bearer_token_is_not_used(token_type: str) -> None:
    """Of a type that we do not know (RFC 6749 section 7.1)."""
    try:
        record = record_of(token_type=token_type)
    except ConfigError:
        return  # no record has such a type
    with pytest.raises(ConfigError, match="api_scheme"):
        HeaderSigner(describe()).headers(record)


@pytest.mark.parametrize("token", ["a b", "a\r\nX: y", "a\tb", "ä", "a\x7f", ""])
def test_a_token_that_fits_in_no_header_is_not_sent(token: str) -> None:
    """It would be another header, or another token."""
    with pytest.raises(ConfigError, match="cannot be sent"):
        HeaderSigner(describe()).headers(record_of(token))


class Strategy(ProviderStrategy):
    """Does with the headers what it is told to."""

    def __init__(self, change: Callable[[dict[str, str]], object]) -> None:
        self._change = change

    def augment_api_headers(self, record: TokenRecord, headers: dict[str, str]) -> None:
        self._change(headers)


def test_a_strategy_has_the_last_word_on_the_headers() -> None:
    """The one given; without one, the descriptor's."""
    first = Strategy(lambda headers: headers.update({"X-Who": "1"}))
    second = Strategy(lambda headers: headers.update({"X-Who": "2"}))
    signer = HeaderSigner(describe(first))
    assert signer.headers(record_of()) == {"Authorization": f"Bearer {TOKEN}", "X-Who": "1"}
    assert HeaderSigner(describe(first), second).headers(record_of())["X-Who"] == "2"


def _raise(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda headers: _raise(ValueError(str(headers))), ConfigError, "ValueError"),
        (lambda headers: _raise(AuthorizationError("no")), AuthorizationError, "no"),
        (lambda headers: headers.update({"X-Who": "a\r\nX: y"}), ConfigError, "cannot be sent"),
        (lambda headers: headers.update({"X-Who": 7}), ConfigError, "cannot be sent"),
        (lambda headers: headers.update({"X Who": "a"}), ConfigError, "header"),
    ],
)
def test_what_a_strategy_does_wrong_is_told_without_the_token(
    change: Callable[[dict[str, str]], object], error: type[Exception], said: str
) -> None:
    """Neither in the text nor in a frame of ours, as a crash reporter would print it."""
    request = requests.Request("GET", URL).prepare()
    with pytest.raises(error, match=said) as caught:
        HeaderSigner(describe(Strategy(change))).attach(request, record_of())
    assert TOKEN not in str(caught.value)
    assert caught.value.__context__ is None
    frames = [entry.frame.f_locals for entry in caught.traceback if "oauth2broker" in str(entry.path)]
    assert frames
    assert not any(TOKEN in repr(value) for values in frames for value in dict(values).values())
    assert TOKEN not in str(request.headers)


# Requests.


def _names_and_values(request: Any) -> list[tuple[str, str]]:
    if isinstance(request, urllib.request.Request):
        return [(name.lower(), value) for name, value in request.header_items()]
    headers = getattr(request, "headers", request)
    return [(name.lower(), value) for name, value in headers.items()]


OLD = {"authorization": "Basic old", "x-TOKEN": "old", "Accept": "*/*"}
REQUESTS: dict[str, Callable[[], Any]] = {
    "requests": lambda: requests.Request("GET", URL, headers=OLD),
    "requests prepared": lambda: requests.Request("GET", URL, headers=OLD).prepare(),
    "httpx": lambda: httpx.Request("GET", URL, headers=OLD),
    "httpx headers": lambda: httpx.Request("GET", URL, headers=OLD).headers,
    "urllib": lambda: urllib.request.Request(URL, headers=OLD),
    "dict": lambda: dict(OLD),
}


@pytest.mark.parametrize("make", REQUESTS.values(), ids=REQUESTS)
@pytest.mark.parametrize("header", ["Authorization", "X-Token"])
def test_any_librarys_request_can_be_signed(make: Callable[[], Any], header: str) -> None:
    """In place of what is there, in whatever letters; and signed again, with another token."""
    signer: RequestSigner[Any] = HeaderSigner(describe(api_header=header, api_scheme=""))
    request = make()
    signer.attach(request, record_of("refused"))
    assert signer.attach(request, record_of()) is request
    found = _names_and_values(request)
    assert [value for name, value in found if name == header.lower()] == [TOKEN]
    assert ("accept", "*/*") in found
    assert "refused" not in str(found)


@pytest.mark.parametrize("request_", [None, 7, object(), ("a", "b"), "text"])
def test_what_has_no_headers_cannot_be_signed(request_: Any) -> None:
    """It is told, without the token."""
    with pytest.raises(ConfigError, match="cannot be assigned") as caught:
        HeaderSigner(describe()).attach(request_, record_of())
    assert caught.value.__context__ is None


def test_urllib_does_not_carry_the_token_to_where_it_is_redirected() -> None:
    """It copies a request's headers to any host, but for those that are said not to be."""
    seen: list[str | None] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("X-Token"))
            self.send_response(302 if len(seen) == 1 else 200)
            self.send_header("Location", "/next")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.005,), daemon=True).start()
        request = urllib.request.Request(f"http://127.0.0.1:{server.server_port}/")
        signed = HeaderSigner(describe(api_header="X-Token", api_scheme="")).attach(request, record_of())
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        opener.open(signed, timeout=20).close()
        server.shutdown()
    assert seen == [TOKEN, None]


# Presets.


@pytest.mark.parametrize("login", LOGINS.values(), ids=LOGINS)
def test_what_each_provider_answers_can_be_signed_with(login: Login) -> None:
    """Whatever it calls the token's type, the token is sent by the scheme of its API."""
    story = begin(login, answered(login.answer))
    signer = HeaderSigner(story.broker.descriptor, story.broker.strategy)
    quirks = story.broker.descriptor.quirks
    scheme = "Bearer" if quirks.api_scheme is None else quirks.api_scheme
    headers = signer.headers(log_in(story, login))
    assert headers[quirks.api_header] == f"{scheme} {login.kept.access}".strip()
    if login.renewed is not None:
        story.provider.answers.append(answered(login.renewal_answer))
        headers = signer.headers(story.renew())
        assert headers[quirks.api_header] == f"{scheme} {login.renewed.access}".strip()


@pytest.mark.parametrize(
    ("name", "headers"),
    [
        ("mailchimp", {"Authorization": f"OAuth {TOKEN}"}),
        ("monday", {"Authorization": TOKEN}),
        ("shopify", {"X-Shopify-Access-Token": TOKEN}),
        ("twitch", {"Authorization": f"Bearer {TOKEN}", "Client-Id": CLIENT_ID}),
        ("zoho", {"Authorization": f"Zoho-oauthtoken {TOKEN}"}),
        ("github", {"Authorization": f"Bearer {TOKEN}"}),
    ],
)
def test_schemes_of_providers_stay_as_they_are(name: Any, headers: dict[str, str]) -> None:
    """Each is an API that answers 401 without it."""
    variables = {"shop": "example"} if name == "shopify" else {}
    assert HeaderSigner(presets.get(name, **variables)).headers(record_of()) == headers


# What all libraries share.


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://API.example.com/x", ("https", "api.example.com", 443)),
        ("https://api.example.com:443", ("https", "api.example.com", 443)),
        ("http://localhost:8080/", ("http", "localhost", 8080)),
        ("http://[::1]/", ("http", "::1", 80)),
        ("http://127.8.9.1/", ("http", "127.8.9.1", 80)),
    ],
)
def test_a_token_may_go_to_https_and_loopback(url: str, origin: tuple[str, str, int]) -> None:
    """Written one way or another, an origin is one."""
    assert checked_origin(url) == origin


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/x",
        "ftp://localhost/",
        "http://example.com/",
        "http://127.0.0.1@example.com/",
        "http://localhost.example.com/",
        "http://0.0.0.0/",
        "https:///x",
        "https://a:99999/",
        "https://[a/",
    ],
)
def test_a_token_may_go_nowhere_else(url: str) -> None:
    """Not over plain http (RFC 6750 section 5.3), and not to who knows where."""
    with pytest.raises(ConfigError):
        checked_origin(url)
    assert origin_of("https://[a/") is None


def test_a_missing_scope_is_named_without_the_token() -> None:
    """The API's own words are quoted, but for one that repeats the token."""
    said = 'Bearer realm="x", error="insufficient_scope", scope="{}"'
    error = missing_scope({"WWW-Authenticate": said.format("mail.send")}, b"", record_of())
    assert error is not None
    assert "mail.send" in str(error)
    assert error.status == 403
    error = missing_scope({"WWW-Authenticate": said.format(TOKEN)}, b"", record_of())
    assert error is not None
    assert TOKEN not in str(error)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"error": {}}', b"[" * 100_000, b"\xff", b'{"error": "other"}']
)
def test_any_other_403_names_no_scope(body: bytes) -> None:
    """Whatever its body is."""
    assert missing_scope({"WWW-Authenticate": 'Bearer error="invalid_token"'}, body, record_of()) is None


def test_a_pause_holds_for_all_tokens_of_a_principal(broker: Broker) -> None:
    """The provider is not asked, or it would say that nobody has logged in; for others it is."""
    calls = SignedCalls(broker, USER_REQUEST, GrantType.AUTHORIZATION_CODE, None)
    calls.note_refused_again(record_of("a"))
    assert [calls.instead_of(record_of(token)) for token in ("a", "b")] == [None, None]
    others = SignedCalls(
        broker, CachedTokenRequest("tenant-acme", "user-2"), GrantType.AUTHORIZATION_CODE, None
    )
    with pytest.raises(AuthorizationRequiredError):
        others.instead_of(record_of("a"))


def test_a_pause_holds_for_all_sessions_before_one_broker(broker: Broker) -> None:
    """Programs make a session for every web request."""
    grant = GrantType.AUTHORIZATION_CODE
    one, other = (
        SignedCalls(cast(Broker, SessionToken(broker, USER_REQUEST, grant)), USER_REQUEST, grant, None)
        for _ in "12"
    )
    one.note_refused_again(record_of("a"))
    assert other.instead_of(record_of("b")) is None


def test_a_renewal_that_helped_some_and_not_others_was_fruitless(monkeypatch: pytest.MonkeyPatch) -> None:
    """In whichever order they say so: the next pause is longer."""
    for order in (0, 1):
        now = 1000.0
        monkeypatch.setattr(signed_calls, "time", SimpleNamespace(monotonic=lambda: now))  # noqa: B023
        renewals = signed_calls._Renewals()
        for refused, brought, pause in (("a", "b", 1), ("b", "c", 2), ("c", "d", 4)):
            assert renewals.may_replace(refused)
            renewals.note_brought(refused, brought)
            said = [lambda: renewals.accept(brought, retried=True), lambda: renewals.count_fruitless(brought)]  # noqa: B023
            said[order]()
            said[1 - order]()
            now += pause - 0.1
            assert not renewals.may_replace(brought)
            now += 0.1


@pytest.mark.parametrize(
    ("said", "pause"),
    [
        ([("c", True), ("elsewhere", False), ("c", False)], 1),
        ([("c", False), ("c", True)], 1),
        ([("c", False)], 2),
    ],
)
def test_only_who_wanted_a_renewal_says_that_it_helped(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, said: list[tuple[str, bool]], pause: int
) -> None:
    """Others may be at paths that take any token; but what they say takes nothing back either."""
    now = 1000.0
    monkeypatch.setattr(signed_calls, "time", SimpleNamespace(monotonic=lambda: now))
    calls = SignedCalls(broker, USER_REQUEST, GrantType.AUTHORIZATION_CODE, None)
    renewals, token = calls._renewals, record_of("c").access_token.fingerprint()
    renewals.note_brought("a", "b")
    renewals.count_fruitless("b")
    renewals.note_brought("b", token)
    for accepted, retried in said:
        calls.note_accepted(record_of(accepted), retried=retried)
    renewals.note_brought(token, "d")
    renewals.count_fruitless("d")
    now += pause - 0.1
    assert not renewals.may_replace("d")
    now += 0.1
    assert renewals.may_replace("d")


def test_a_token_that_comes_back_is_judged_anew() -> None:
    """One that was replaced once, and is brought again, is not replaced without end."""
    renewals = signed_calls._Renewals()
    renewals.note_brought("a", "b")
    renewals.note_brought("b", "a")
    assert not renewals.may_replace("a")
    assert renewals.may_replace("b")


def test_a_token_that_was_accepted_before_it_was_noted_is_on_no_trial() -> None:
    """Another thread may have used what a renewal brought before its own thread goes on."""
    renewals = signed_calls._Renewals()
    renewals.accept("b", retried=False)
    renewals.note_brought("a", "b")
    assert renewals.may_replace("b")


def test_the_principal_that_was_used_last_is_forgotten_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs make an auth for every call: what is in use is remembered."""
    monkeypatch.setattr(signed_calls, "_MOST_REMEMBERED", 2)
    memory = signed_calls._Memory()
    first, second = memory.of(1), memory.of(2)
    assert memory.of(1) is first
    memory.of(3)
    assert memory.of(1) is first
    assert memory.of(2) is not second


@pytest.mark.parametrize("location", ["https://[/", "https://api.example.com:x/", "/\u20ac", "\\\\evil"])
def test_a_location_that_cannot_be_read_leads_elsewhere(location: str) -> None:
    """Whoever follows it nevertheless takes no token along."""
    origin = checked_origin(URL)
    assert leads_elsewhere(URL, location, origin, str)
    assert not leads_elsewhere(URL, "/fine", origin, str)


def test_a_provider_that_gives_the_same_token_again_is_not_asked_for_ever(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """Some give one token for as long as it lives: the broker says when to come back, a minute at most."""
    refused = log_user_in(broker, provider)
    same = refused.access_token.expose()
    provider.clear()
    provider.inject(Fault.rewrite(lambda payload: {**payload, "access_token": same}), times=99)
    calls = SignedCalls(broker, USER_REQUEST, GrantType.AUTHORIZATION_CODE, None)
    for _ in range(600):
        with pytest.raises(TransientError):
            calls.instead_of(refused)
        clock.advance(1.0)
    assert 10 <= provider.token_calls <= 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_does_not_wait_for_who_is_not_there(broker: Broker) -> None:
    """A thread that noted something while the process forked."""
    calls = SignedCalls(broker, USER_REQUEST, GrantType.AUTHORIZATION_CODE, None)
    with signed_calls._memories[broker].lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            calls.note_refused_again(record_of("a"))
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_brokers_own_strategy_signs() -> None:
    """As it does everything else, in place of the descriptor's."""
    login = LOGINS["twitch"]
    story = begin(login, answered(login.answer))
    record = log_in(story, login)
    plain = replace(story.broker.descriptor, strategy=None)
    assert "Client-Id" not in HeaderSigner(plain).headers(record)
    assert "Client-Id" in HeaderSigner(plain, story.broker.strategy).headers(record)
