"""The loopback provider is as strict, and as badly behaved, as it says."""

import base64
import gc
import hashlib
import http.client
import json
import logging
import multiprocessing
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, quote_plus, urlencode, urlsplit

import pytest

from oauth2broker.testing import Fault, LoopbackProvider, TokenCall

CALLBACK = "https://app.example.com/callback"
SECRET = "demo-secret"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


# Helpers: a client that knows no more than the RFCs.


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        decoded = json.loads(self.body)
        assert isinstance(decoded, dict)
        return decoded

    @property
    def access(self) -> str:
        return str(self.json["access_token"])

    @property
    def refresh(self) -> str:
        return str(self.json["refresh_token"])

    @property
    def error(self) -> tuple[int, object]:
        return self.status, self.json["error"]


def connect(provider: LoopbackProvider, timeout: float = 10.0) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(provider.base_url).netloc, timeout=timeout)


def send(
    provider: LoopbackProvider,
    method: str,
    path: str,
    body: str | None = None,
    headers: dict[str, str] | None = None,
) -> Reply:
    with closing(connect(provider)) as connection:
        connection.request(method, path, body, headers or {})
        with connection.getresponse() as response:
            return Reply(response.status, dict(response.getheaders()), response.read())


def post(provider: LoopbackProvider, path: str, form: dict[str, str], **headers: str) -> Reply:
    return send(provider, "POST", path, urlencode(form), {**FORM, **headers})


def basic(client_id: str, secret: str) -> str:
    pair = f"{quote_plus(client_id)}:{quote_plus(secret)}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def demo(**form: str) -> dict[str, str]:
    return {"client_id": "demo-client", "client_secret": SECRET, **form}


def refresh(provider: LoopbackProvider, token: str, **form: str) -> Reply:
    return post(provider, "/token", demo(grant_type="refresh_token", refresh_token=token, **form))


def service(provider: LoopbackProvider, **form: str) -> Reply:
    return post(provider, "/token", demo(grant_type="client_credentials", **form))


def challenge_of(verifier: str) -> str:
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


VERIFIER = secrets.token_urlsafe(48)


def authorize_url(provider: LoopbackProvider, **changes: str | None) -> str:
    parameters = {
        "response_type": "code",
        "client_id": "demo-client",
        "redirect_uri": CALLBACK,
        "scope": "profile openid",
        "state": "s t&=ä",
        "code_challenge": challenge_of(VERIFIER),
        "code_challenge_method": "S256",
        **changes,
    }
    present = {name: value for name, value in parameters.items() if value is not None}
    return f"{provider.authorization_endpoint}?{urlencode(present)}"


def query_of(location: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(location).query, strict_parsing=True)


def code_for(provider: LoopbackProvider, user: str = "alice", **changes: str | None) -> str:
    return query_of(provider.browse(authorize_url(provider, **changes), user=user))["code"][0]


def exchange(provider: LoopbackProvider, code: str, **changes: str) -> Reply:
    form = {"redirect_uri": CALLBACK, "code_verifier": VERIFIER, **changes}
    return post(provider, "/token", demo(grant_type="authorization_code", code=code, **form))


def login(provider: LoopbackProvider, user: str = "alice") -> Reply:
    reply = exchange(provider, code_for(provider, user))
    assert reply.status == 200
    return reply


def resource(provider: LoopbackProvider, token: str) -> Reply:
    return send(provider, "GET", "/resource", headers={"Authorization": f"Bearer {token}"})


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens without fail; only a defect lets this time out."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.001)


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **by: float) -> None:
        self.now += timedelta(**by)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def provider(clock: Clock) -> Iterator[LoopbackProvider]:
    with LoopbackProvider(clock=clock) as running:
        yield running


# The authorization endpoint.


def test_a_user_who_approves_is_sent_back_with_code_state_and_issuer(
    provider: LoopbackProvider,
) -> None:
    """The callback carries exactly code, state and iss, and keeps the redirection URI's query."""
    location = provider.browse(authorize_url(provider, redirect_uri=CALLBACK + "?keep=1"))
    assert location.startswith(CALLBACK + "?")
    query = query_of(location)
    assert query.pop("code")
    assert query == {"keep": ["1"], "state": ["s t&=ä"], "iss": [provider.issuer]}


def test_a_user_who_denies_is_sent_back_with_access_denied(provider: LoopbackProvider) -> None:
    """Denial carries error, state and iss, and no code."""
    query = query_of(provider.browse(authorize_url(provider), approve=False))
    assert query["error"] == ["access_denied"]
    assert query["state"] == ["s t&=ä"]
    assert query["iss"] == [provider.issuer]
    assert "code" not in query


def test_the_consent_page_is_html_that_escapes_what_it_was_sent(provider: LoopbackProvider) -> None:
    """The page is a form, and a hostile state cannot break out of it."""
    hostile = '"><script>alert(1)</script>'
    url = authorize_url(provider, state=hostile)
    reply = send(provider, "GET", url.removeprefix(provider.base_url))
    assert reply.status == 200
    assert reply.headers["Content-Type"].startswith("text/html")
    assert b"<form" in reply.body
    assert b"<script>" not in reply.body
    assert query_of(provider.browse(url))["state"] == [hostile]


@pytest.mark.parametrize(
    "changes",
    [
        {"code_challenge": None, "code_challenge_method": None},
        {"code_challenge_method": "plain"},
        {"code_challenge_method": None},
        {"code_challenge_method": "S512"},
        {"code_challenge": "short"},
        {"code_challenge": "ä" * 43},
    ],
)
def test_an_authorization_request_without_s256_is_refused(
    provider: LoopbackProvider, changes: dict[str, str | None]
) -> None:
    """PKCE with S256 is required, and the refusal goes to the client with state and iss."""
    query = query_of(provider.browse(authorize_url(provider, **changes)))
    assert query["error"] == ["invalid_request"]
    assert query["state"] == ["s t&=ä"]
    assert query["iss"] == [provider.issuer]


def test_a_malformed_scope_and_another_response_type_are_refused(
    provider: LoopbackProvider,
) -> None:
    """Errors that concern the client come back to it by redirection."""
    query = query_of(provider.browse(authorize_url(provider, scope='a"b')))
    assert query["error"] == ["invalid_scope"]
    query = query_of(provider.browse(authorize_url(provider, response_type="token")))
    assert query["error"] == ["unsupported_response_type"]


@pytest.mark.parametrize(
    "changes",
    [
        {"client_id": "stranger"},
        {"client_id": None},
        {"redirect_uri": None},
        {"redirect_uri": "http://app.example.com/callback"},
        {"redirect_uri": "https://app.example.com/callback#fragment"},
        {"redirect_uri": "javascript:alert(1)"},
        {"redirect_uri": "https://[bad/callback"},
        {"redirect_uri": "https://[1:2]/callback"},
    ],
)
def test_a_request_that_cannot_be_trusted_gets_a_page_and_no_redirection(
    provider: LoopbackProvider, changes: dict[str, str | None]
) -> None:
    """An unknown client or an unacceptable redirection URI is never redirected to."""
    with pytest.raises(RuntimeError, match="400"):
        provider.browse(authorize_url(provider, **changes))


def test_a_repeated_authorization_parameter_is_refused(provider: LoopbackProvider) -> None:
    """Which of two states is meant cannot be known, so there is no redirection."""
    with pytest.raises(RuntimeError, match="repeated"):
        provider.browse(authorize_url(provider) + "&state=other")


def test_the_form_cannot_skip_the_checks(provider: LoopbackProvider) -> None:
    """Posting a decision straight away meets the same checks as opening the page."""
    bad = {"decision": "approve", "user": "alice", "client_id": "stranger"}
    assert post(provider, "/authorize", bad).status == 400
    assert post(provider, "/authorize", {"decision": "perhaps", "user": "alice"}).status == 400
    assert post(provider, "/authorize", {"decision": "approve"}).status == 400


@pytest.mark.parametrize("uri", ["http://127.0.0.1:1/cb", "http://localhost/cb", "http://[::1]/cb"])
def test_loopback_redirection_uris_may_be_http(provider: LoopbackProvider, uri: str) -> None:
    """Native applications listen on this machine (RFC 8252)."""
    assert provider.browse(authorize_url(provider, redirect_uri=uri)).startswith(uri + "?code=")


# Codes.


def test_a_code_becomes_tokens_for_the_user_who_consented(provider: LoopbackProvider) -> None:
    """The exchange answers RFC 6749 section 5.1, and the resource knows user and scope."""
    reply = login(provider, "bob")
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.json["token_type"] == "Bearer"
    assert reply.json["expires_in"] == 3600
    assert reply.json["scope"] == "profile openid"
    assert resource(provider, reply.access).json == {"sub": "bob", "scope": "profile openid"}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"code_verifier": "x" * 43}, "invalid_grant"),
        ({"code_verifier": ""}, "invalid_request"),
        ({"redirect_uri": CALLBACK + "/"}, "invalid_grant"),
        ({"redirect_uri": ""}, "invalid_request"),
        ({"code": "wrong"}, "invalid_grant"),
        ({"code": ""}, "invalid_request"),
    ],
)
def test_a_code_is_only_exchanged_with_everything_that_belongs_to_it(
    provider: LoopbackProvider, changes: dict[str, str], error: str
) -> None:
    """Verifier, redirection URI and code must all be the right ones."""
    code = changes.pop("code", None)
    reply = exchange(provider, code_for(provider) if code is None else code, **changes)
    assert reply.error == (400, error)


def test_a_verifier_that_is_too_short_is_refused_even_if_it_matches(
    provider: LoopbackProvider,
) -> None:
    """RFC 7636 asks for 43 characters at least."""
    code = code_for(provider, code_challenge=challenge_of("short"))
    assert exchange(provider, code, code_verifier="short").error == (400, "invalid_grant")


def test_a_code_serves_once_and_its_replay_kills_the_tokens(provider: LoopbackProvider) -> None:
    """A replayed code is refused and takes what it led to with it (RFC 6749 section 4.1.2)."""
    code = code_for(provider)
    reply = exchange(provider, code)
    assert provider.is_live(reply.access)
    assert exchange(provider, code).error == (400, "invalid_grant")
    assert not provider.is_live(reply.access)
    assert refresh(provider, reply.refresh).error == (400, "invalid_grant")


def test_a_code_is_short_lived(provider: LoopbackProvider, clock: Clock) -> None:
    """After a minute a code is worth nothing."""
    late, early = code_for(provider), code_for(provider)
    clock.advance(seconds=59)
    assert exchange(provider, early).status == 200
    clock.advance(seconds=1)
    assert exchange(provider, late).error == (400, "invalid_grant")


def test_a_code_belongs_to_its_client(provider: LoopbackProvider) -> None:
    """Another client cannot use a code, nor spoil it for the right one."""
    code = code_for(provider)
    form = {"redirect_uri": CALLBACK, "code_verifier": VERIFIER, "code": code}
    stranger = {"client_id": "public-client", "grant_type": "authorization_code", **form}
    assert post(provider, "/token", stranger).error == (400, "invalid_grant")
    assert exchange(provider, code).status == 200


# Refreshing.


def test_refreshing_rotates_the_refresh_token(provider: LoopbackProvider) -> None:
    """Each refresh gives new tokens that work; the older access token lives on."""
    first = login(provider)
    second = refresh(provider, first.refresh)
    third = refresh(provider, second.refresh)
    assert len({first.refresh, second.refresh, third.refresh}) == 3
    assert all(provider.is_live(reply.access) for reply in (first, second, third))
    assert provider.reuses == 0


def test_a_spent_refresh_token_kills_its_family(provider: LoopbackProvider) -> None:
    """Reuse revokes all tokens of that consent, and no other consent's."""
    other = login(provider)
    first = login(provider)
    second = refresh(provider, first.refresh)
    assert refresh(provider, first.refresh).error == (400, "invalid_grant")
    assert provider.reuses == 1
    assert refresh(provider, second.refresh).error == (400, "invalid_grant")
    assert provider.reuses == 1
    assert not provider.is_live(first.access)
    assert not provider.is_live(second.access)
    assert refresh(provider, other.refresh).status == 200


def test_within_the_grace_a_spent_token_gets_the_same_answer(clock: Clock) -> None:
    """The grace repeats the successor; after it reuse is reuse."""
    grace = timedelta(seconds=30)
    with LoopbackProvider(reuse_grace=grace, clock=clock) as provider:
        first = login(provider)
        second = refresh(provider, first.refresh)
        clock.advance(seconds=30)
        again = refresh(provider, first.refresh)
        assert again.json == second.json
        assert provider.reuses == 0
        clock.advance(seconds=1)
        assert refresh(provider, first.refresh).error == (400, "invalid_grant")
        assert provider.reuses == 1
        assert refresh(provider, second.refresh).error == (400, "invalid_grant")


def test_a_provider_that_does_not_rotate_sends_no_refresh_token() -> None:
    """With rotate=False the first refresh token serves on and no answer repeats it."""
    with LoopbackProvider(rotate=False) as provider:
        first = login(provider)
        for _ in range(2):
            reply = refresh(provider, first.refresh)
            assert reply.status == 200
            assert "refresh_token" not in reply.json
        assert provider.reuses == 0


def test_a_refresh_may_narrow_the_scope_but_not_widen_it(provider: LoopbackProvider) -> None:
    """The access token is narrower, the successor still stands for the whole consent."""
    first = login(provider)
    assert refresh(provider, first.refresh, scope="admin").error == (400, "invalid_scope")
    narrow = refresh(provider, first.refresh, scope="openid")
    assert resource(provider, narrow.access).json["scope"] == "openid"
    assert refresh(provider, narrow.refresh).json["scope"] == "profile openid"


def test_a_refresh_token_belongs_to_its_client(provider: LoopbackProvider) -> None:
    """Another client gets invalid_grant, and cannot destroy the family by presenting it."""
    first = login(provider)
    second = refresh(provider, first.refresh)
    for token in (first.refresh, second.refresh):
        form = {"client_id": "public-client", "grant_type": "refresh_token", "refresh_token": token}
        assert post(provider, "/token", form).error == (400, "invalid_grant")
    assert provider.reuses == 0
    assert refresh(provider, second.refresh).status == 200


@pytest.mark.parametrize("threads", [2, 32])
def test_of_racing_refreshes_one_wins_and_the_family_dies(threads: int) -> None:
    """One answer is 200, the others are reuse, and the winner's tokens are dead on arrival."""
    barrier = threading.Barrier(threads)
    replies: list[Reply] = []
    with LoopbackProvider(latency=0.05) as provider:
        token = login(provider).refresh

        def race() -> None:
            barrier.wait()
            replies.append(refresh(provider, token))

        run_all(race, threads)
        winners = [reply for reply in replies if reply.status == 200]
        losers = [reply.error for reply in replies if reply.status != 200]
        assert len(winners) == 1
        assert losers == [(400, "invalid_grant")] * (threads - 1)
        assert provider.reuses == threads - 1
        assert not provider.is_live(winners[0].access)
        assert refresh(provider, winners[0].refresh).error == (400, "invalid_grant")


def run_all(target: Callable[[], None], times: int) -> None:
    threads = [threading.Thread(target=target) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_hundred_and_twenty_eight_clients_get_in_at_once(provider: LoopbackProvider) -> None:
    """The listen backlog holds a thundering herd."""
    barrier = threading.Barrier(128)
    statuses: list[int] = []

    def call() -> None:
        barrier.wait()
        statuses.append(service(provider).status)

    run_all(call, 128)
    assert statuses == [200] * 128
    assert provider.token_calls == 128


def test_a_user_who_withdraws_consent_is_gone(provider: LoopbackProvider) -> None:
    """Every token of that user is dead, unredeemed codes too, and nobody else's."""
    alice, bob = login(provider, "alice"), login(provider, "bob")
    code = code_for(provider, "alice")
    provider.revoke_user("alice")
    assert refresh(provider, alice.refresh).error == (400, "invalid_grant")
    assert exchange(provider, code).error == (400, "invalid_grant")
    assert not provider.is_live(alice.access)
    assert refresh(provider, bob.refresh).status == 200
    assert provider.reuses == 0


# Clients.


def test_a_client_may_authenticate_in_the_header(provider: LoopbackProvider) -> None:
    """client_secret_basic works, with or without the same client_id in the body."""
    header = basic("demo-client", SECRET)
    for extra in ({}, {"client_id": "demo-client"}):
        form = {"grant_type": "client_credentials", **extra}
        assert post(provider, "/token", form, Authorization=header).status == 200


def test_basic_credentials_are_form_decoded() -> None:
    """RFC 6749 section 2.3.1: both parts are form-encoded inside the header."""
    client_id, secret = "https://c.example/a:b", "p%41 +:ä&="
    with LoopbackProvider({client_id: secret}) as provider:
        form = {"grant_type": "client_credentials"}
        good = post(provider, "/token", form, Authorization=basic(client_id, secret))
        assert good.status == 200
        assert provider.calls[0].client_id == client_id
        raw = "Basic " + base64.b64encode(b"c:p%41 +:&=").decode()
        assert post(provider, "/token", form, Authorization=raw).error == (401, "invalid_client")


@pytest.mark.parametrize(
    "credentials",
    [
        {},
        {"client_id": "demo-client"},
        {"client_id": "demo-client", "client_secret": "wrong"},
        {"client_id": "stranger", "client_secret": SECRET},
        {"client_id": "stranger"},
        {"client_id": "public-client", "client_secret": "guess"},
    ],
)
@pytest.mark.parametrize("path", ["/token", "/revoke"])
def test_a_wrong_client_is_answered_401(
    provider: LoopbackProvider, path: str, credentials: dict[str, str]
) -> None:
    """Unknown clients, wrong, missing and superfluous secrets are all invalid_client."""
    form = {"grant_type": "refresh_token", "refresh_token": "x", "token": "x", **credentials}
    reply = post(provider, path, form)
    assert reply.error == (401, "invalid_client")
    assert reply.headers["WWW-Authenticate"].startswith("Basic")


@pytest.mark.parametrize(
    "header",
    ["Basic !!!", "Basic " + base64.b64encode(b"demo-client").decode(), "Bearer x", "Basic", "Basic w6Q="],
)
def test_an_unreadable_authorization_header_is_invalid_client(
    provider: LoopbackProvider, header: str
) -> None:
    """Whatever is in the header, the answer is a clean 401."""
    form = {"grant_type": "client_credentials"}
    assert post(provider, "/token", form, Authorization=header).error == (401, "invalid_client")


def test_a_client_that_authenticates_in_two_ways_is_refused(provider: LoopbackProvider) -> None:
    """RFC 6749 section 2.3 forbids more than one method, also with two names."""
    header = basic("demo-client", SECRET)
    for extra in (demo(), {"client_id": "public-client"}):
        form = {"grant_type": "client_credentials", **extra}
        reply = post(provider, "/token", form, Authorization=header)
        assert reply.error == (400, "invalid_request")


def test_a_public_client_needs_no_secret(provider: LoopbackProvider) -> None:
    """Code, refresh and revocation work with the client_id alone."""
    client = {"client_id": "public-client"}
    code = code_for(provider, client_id="public-client")
    form = {"code": code, "redirect_uri": CALLBACK, "code_verifier": VERIFIER}
    first = post(provider, "/token", {**client, "grant_type": "authorization_code", **form})
    form = {"grant_type": "refresh_token", "refresh_token": first.refresh}
    second = post(provider, "/token", {**client, **form})
    assert second.status == 200
    assert post(provider, "/revoke", {**client, "token": second.refresh}).status == 200
    assert not provider.is_live(second.access)


def test_client_credentials_are_for_confidential_clients(provider: LoopbackProvider) -> None:
    """The grant gives the client itself a token, never a refresh token, and no public client."""
    reply = service(provider, scope="a b")
    assert "refresh_token" not in reply.json
    assert resource(provider, reply.access).json == {"sub": "demo-client", "scope": "a b"}
    assert "scope" not in service(provider).json
    form = {"grant_type": "client_credentials", "client_id": "public-client"}
    assert post(provider, "/token", form).error == (401, "invalid_client")


# Malformed requests.


def test_an_unknown_or_missing_grant_type_is_refused(provider: LoopbackProvider) -> None:
    """Only the three grants exist."""
    for form in (demo(grant_type="password"), demo()):
        assert post(provider, "/token", form).error == (400, "unsupported_grant_type")


@pytest.mark.parametrize("body", ["grant_type=a&grant_type=b", "grant_type=%FF", "x=1&" * 80])
def test_an_ambiguous_or_undecodable_body_is_invalid_request(provider: LoopbackProvider, body: str) -> None:
    """Repeated parameters, broken UTF-8 and floods of parameters get a clean 400."""
    reply = send(provider, "POST", "/token", body, FORM)
    assert reply.error == (400, "invalid_request")
    assert provider.calls[0].grant_type == ""


def test_a_body_that_is_no_form_is_invalid_request(provider: LoopbackProvider) -> None:
    """JSON is not what RFC 6749 speaks."""
    headers = {"Content-Type": "application/json"}
    body = json.dumps(demo(grant_type="client_credentials"))
    assert send(provider, "POST", "/token", body, headers).error == (400, "invalid_request")


def test_the_server_refuses_what_it_cannot_read(provider: LoopbackProvider) -> None:
    """Unknown paths, other methods, missing and absurd lengths have answers of their own."""
    assert send(provider, "GET", "/nowhere").status == 404
    assert send(provider, "GET", "/token").status == 405
    chunked = {**FORM, "Transfer-Encoding": "chunked"}
    assert send(provider, "POST", "/token", None, chunked).status == 411
    assert send(provider, "POST", "/token", None, {"Content-Length": "9" * 30}).status == 413
    assert provider.token_calls == 0


def test_a_client_that_leaves_in_the_middle_is_no_call(provider: LoopbackProvider) -> None:
    """Half a body is never acted upon."""
    with socket.create_connection(("127.0.0.1", urlsplit(provider.base_url).port or 0)) as half:
        half.sendall(b"POST /token HTTP/1.1\r\nContent-Length: 50\r\n\r\ngrant")
        half.shutdown(socket.SHUT_WR)
        assert half.recv(1) == b""
    assert provider.token_calls == 0


# Access tokens, the resource and revocation.


def test_an_access_token_ends_with_its_lifetime(clock: Clock) -> None:
    """expires_in and the resource agree, by the given clock."""
    lifetime = timedelta(minutes=5)
    with LoopbackProvider(access_token_lifetime=lifetime, clock=clock) as provider:
        reply = service(provider)
        assert reply.json["expires_in"] == 300
        clock.advance(seconds=299)
        assert resource(provider, reply.access).status == 200
        clock.advance(seconds=1)
        assert resource(provider, reply.access).status == 401
        assert not provider.is_live(reply.access)


def test_the_resource_challenges_whoever_has_no_live_token(provider: LoopbackProvider) -> None:
    """401 with WWW-Authenticate, naming invalid_token only if there was a token (RFC 6750)."""
    none, wrong = send(provider, "GET", "/resource"), resource(provider, "wrong")
    assert none.status == wrong.status == 401
    assert none.headers["WWW-Authenticate"] == 'Bearer realm="loopback"'
    assert 'error="invalid_token"' in wrong.headers["WWW-Authenticate"]
    assert resource(provider, login(provider).refresh).status == 401


def test_revoking_a_refresh_token_kills_its_family(provider: LoopbackProvider) -> None:
    """Refresh token, its successors and all access tokens are dead afterwards."""
    first = login(provider)
    second = refresh(provider, first.refresh)
    assert post(provider, "/revoke", demo(token=first.refresh)).status == 200
    assert not provider.is_live(first.access)
    assert not provider.is_live(second.access)
    assert refresh(provider, second.refresh).error == (400, "invalid_grant")
    assert provider.reuses == 0


def test_revoking_an_access_token_leaves_the_rest(provider: LoopbackProvider) -> None:
    """Only that token dies, whatever the hint says."""
    first = login(provider)
    form = demo(token=first.access, token_type_hint="refresh_token")
    assert post(provider, "/revoke", form).status == 200
    assert not provider.is_live(first.access)
    assert refresh(provider, first.refresh).status == 200


def test_revoking_an_unknown_token_is_fine_and_another_clients_is_not(
    provider: LoopbackProvider,
) -> None:
    """RFC 7009: unknown tokens answer 200; a token of another client is refused and lives."""
    first = login(provider)
    assert post(provider, "/revoke", demo(token="unknown")).status == 200
    stranger = {"client_id": "public-client", "token": first.refresh}
    assert post(provider, "/revoke", stranger).error == (400, "unauthorized_client")
    assert provider.is_live(first.access)
    assert post(provider, "/revoke", demo()).error == (400, "invalid_request")
    assert provider.revocations == 3


# Records.


def test_calls_are_recorded_in_order_without_secrets(provider: LoopbackProvider, clock: Clock) -> None:
    """Grant, client, status, error and time of each call; clear forgets them all."""
    first = login(provider)
    clock.advance(seconds=5)
    refresh(provider, "wrong")
    service(provider)
    post(provider, "/revoke", demo(token=first.access))
    began, now = clock.now - timedelta(seconds=5), clock.now
    assert provider.calls == (
        TokenCall("authorization_code", "demo-client", 200, None, began),
        TokenCall("refresh_token", "demo-client", 400, "invalid_grant", now),
        TokenCall("client_credentials", "demo-client", 200, None, now),
    )
    assert (provider.token_calls, provider.revocations) == (3, 1)
    provider.clear()
    assert list(provider.calls) == []
    assert (provider.token_calls, provider.revocations, provider.reuses) == (0, 0, 0)
    assert refresh(provider, first.refresh).status == 200


def test_no_secret_appears_in_repr_or_logs_at_debug(
    provider: LoopbackProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even oauthlib, which prints tokens at DEBUG, has anything to print."""
    caplog.set_level(logging.DEBUG)
    code = code_for(provider)
    first = exchange(provider, code)
    second = refresh(provider, first.refresh)
    lost = Fault.json(200, {"access_token": second.access})
    provider.inject(lost)
    refresh(provider, first.refresh)
    refresh(provider, first.refresh)
    bearer = service(provider)
    post(provider, "/token", {"grant_type": "client_credentials"}, Authorization=basic("demo-client", SECRET))
    exchange(provider, code)
    post(provider, "/revoke", demo(token=second.refresh))
    issued = [code, first.access, first.refresh, second.access, second.refresh, bearer.access]
    shown = caplog.text + repr(provider) + repr(provider.calls) + repr(lost) + str(provider)
    assert "oauthlib" in caplog.text
    for secret in [*issued, SECRET, VERIFIER, basic("demo-client", SECRET)]:
        assert secret not in shown


# Faults that answer.


def test_an_injected_answer_replaces_the_processing(provider: LoopbackProvider) -> None:
    """Status, headers and body are the fault's, once, and the refresh token is not spent."""
    first = login(provider)
    provider.inject(Fault.answer(503, headers={"Retry-After": "7"}, body=b"later"))
    reply = refresh(provider, first.refresh)
    assert (reply.status, reply.headers["Retry-After"], reply.body) == (503, "7", b"later")
    assert refresh(provider, first.refresh).status == 200
    assert [call.status for call in provider.calls] == [200, 503, 200]


def test_a_status_nobody_registered_can_be_answered(provider: LoopbackProvider) -> None:
    """Proxies invent their own (Cloudflare's 520, for one)."""
    provider.inject(Fault.answer(520))
    assert service(provider).status == 520


def test_a_fault_cannot_split_the_answer(
    provider: LoopbackProvider, capfd: pytest.CaptureFixture[str]
) -> None:
    """A line break in a header is a mistake in the test, and is reported as one."""
    provider.inject(Fault.answer(503, headers={"Retry-After": "7\r\nX: y"}))
    with pytest.raises(http.client.RemoteDisconnected):
        service(provider)
    until(lambda: len(connection_threads()) == 0)
    assert "line break" in capfd.readouterr().err


def test_faults_queue_up_and_each_call_takes_one(provider: LoopbackProvider) -> None:
    """Faults are served in the order of injection, as often as was said."""
    provider.inject(Fault.html(502), times=2)
    provider.inject(Fault.json(200, {"ok": False, "error": "invalid_auth"}))
    replies = [service(provider) for _ in range(4)]
    assert [reply.status for reply in replies] == [502, 502, 200, 200]
    assert replies[0].headers["Content-Type"].startswith("text/html")
    assert replies[2].error == (200, "invalid_auth")
    assert [call.error for call in provider.calls] == [None, None, "invalid_auth", None]


def test_a_redirecting_token_endpoint_processes_nothing(provider: LoopbackProvider) -> None:
    """The client is sent elsewhere, by default in a way that repeats the POST."""
    first = login(provider)
    provider.inject(Fault.redirect("https://evil.example.com/token"))
    reply = refresh(provider, first.refresh)
    assert (reply.status, reply.headers["Location"]) == (307, "https://evil.example.com/token")
    assert refresh(provider, first.refresh).status == 200


def test_a_rewritten_answer_comes_after_rotation(provider: LoopbackProvider) -> None:
    """The payload is changed on the way out; the presented token is spent."""
    first = login(provider)
    provider.inject(Fault.rewrite(lambda payload: {**payload, "expires_in": "soon"}))
    reply = refresh(provider, first.refresh)
    assert (reply.status, reply.json["expires_in"]) == (200, "soon")
    assert refresh(provider, reply.refresh).status == 200
    assert refresh(provider, first.refresh).status == 400
    assert provider.reuses == 1


def test_a_garbled_answer_comes_after_rotation(provider: LoopbackProvider) -> None:
    """The raw body is replaced under the true status; the presented token is spent."""
    first = login(provider)
    provider.inject(Fault.garble(b'{"access_tok'))
    reply = refresh(provider, first.refresh)
    assert (reply.status, reply.body) == (200, b'{"access_tok')
    refresh(provider, first.refresh)
    assert provider.reuses == 1


def test_latency_holds_the_answer_back_after_processing() -> None:
    """Each token call takes that long, and what it did is done before its answer leaves."""
    with LoopbackProvider() as provider:
        first = login(provider)
        provider.latency = 0.2
        began = time.monotonic()
        assert refresh(provider, first.refresh).status == 200
        assert time.monotonic() - began >= 0.2
        with closing(connect(provider)) as early:
            provider.latency = 60
            form = demo(grant_type="refresh_token", refresh_token=first.refresh)
            early.request("POST", "/token", urlencode(form), FORM)
            until(lambda: provider.reuses == 1)
            assert provider.calls[-1].status is None


def test_a_slow_answer_is_late_and_can_be_unprocessed(provider: LoopbackProvider) -> None:
    """The delay is the fault's; an unprocessed call ends in 503 and spends nothing."""
    first = login(provider)
    provider.inject(Fault.slow(0.1, processed=False))
    began = time.monotonic()
    assert refresh(provider, first.refresh).error == (503, "temporarily_unavailable")
    assert time.monotonic() - began >= 0.1
    provider.inject(Fault.slow(0.05))
    assert refresh(provider, first.refresh).status == 200


# Faults that swallow the answer.


@pytest.mark.parametrize("reset", [False, True])
def test_a_lost_answer_has_been_processed(provider: LoopbackProvider, reset: bool) -> None:
    """The client sees the connection end without a byte, and its refresh token is spent."""
    first = login(provider)
    provider.inject(Fault.lost_answer(reset=reset))
    with pytest.raises(ConnectionResetError if reset else http.client.RemoteDisconnected) as caught:
        refresh(provider, first.refresh)
    assert isinstance(caught.value, http.client.RemoteDisconnected) is not reset
    assert provider.calls[-1].status is None
    assert refresh(provider, first.refresh).status == 400
    assert provider.reuses == 1


def test_a_reset_has_not_been_processed(provider: LoopbackProvider) -> None:
    """The connection is reset and the refresh token still good."""
    first = login(provider)
    provider.inject(Fault.reset())
    with pytest.raises(ConnectionResetError):
        refresh(provider, first.refresh)
    assert provider.token_calls == 2
    assert refresh(provider, first.refresh).status == 200


@pytest.mark.parametrize("processed", [True, False])
def test_silence_lasts_until_the_client_leaves(provider: LoopbackProvider, processed: bool) -> None:
    """No byte comes; whether the token is spent is the flag's choice."""
    first = login(provider)
    provider.inject(Fault.silence(processed=processed))
    form = demo(grant_type="refresh_token", refresh_token=first.refresh)
    with closing(connect(provider, timeout=0.2)) as patient:
        patient.request("POST", "/token", urlencode(form), FORM)
        with pytest.raises(TimeoutError):
            patient.getresponse()
    assert provider.calls[-1].status is None
    until(lambda: len(connection_threads()) == 0)
    assert refresh(provider, first.refresh).status == (400 if processed else 200)


def connection_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "process_request" in thread.name]


def test_a_cut_answer_announces_more_than_it_sends(provider: LoopbackProvider) -> None:
    """The client can tell that the body is not whole."""
    provider.inject(Fault.cut(5))
    with pytest.raises(http.client.IncompleteRead) as caught:
        service(provider)
    assert len(caught.value.partial) == 5


# Faults without an end.


def raw_token_call(provider: LoopbackProvider) -> socket.socket:
    """Send a token request on a bare socket, to see each byte that comes back."""
    connection = socket.create_connection(("127.0.0.1", urlsplit(provider.base_url).port or 0), 10)
    body = urlencode(demo(grant_type="client_credentials"))
    head = f"POST /token HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    kind = f"Content-Type: {FORM['Content-Type']}\r\n\r\n"
    connection.sendall(f"{head}{kind}{body}".encode())
    return connection


def receive(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        piece = connection.recv(65536)
        assert piece, "the answer ended"
        received += piece
    return received


def test_dripping_headers_never_end(provider: LoopbackProvider) -> None:
    """Bytes come one by one and the empty line after the headers never does."""
    provider.inject(Fault.drip_headers(0.0001))
    with raw_token_call(provider) as connection:
        received = receive(connection, 1000)
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\n\r\n" not in received
    assert received.endswith(b"....")


def test_a_dripping_body_never_ends(provider: LoopbackProvider) -> None:
    """Headers come at once; the body is the true answer, then spaces without an end."""
    provider.inject(Fault.drip_body(0.0001))
    with raw_token_call(provider) as connection:
        head, _, body = receive(connection, 1000).partition(b"\r\n\r\n")
    assert b"Content-Length" not in head
    assert json.loads(body)["token_type"] == "Bearer"
    assert body.endswith(b"    ")


def test_drips_wait_for_their_interval(provider: LoopbackProvider) -> None:
    """Ten bytes at 20 ms take at least the nine intervals between them."""
    provider.inject(Fault.drip_headers(0.02))
    with raw_token_call(provider) as connection:
        connection.recv(1)
        began = time.monotonic()
        receive(connection, 9)
    assert time.monotonic() - began >= 9 * 0.02 * 0.9


def test_a_flood_is_as_large_as_was_said(provider: LoopbackProvider) -> None:
    """The answer is whole and valid JSON, only padded beyond reason."""
    size = 3 * 1024 * 1024 + 1
    provider.inject(Fault.flood(size))
    reply = service(provider)
    assert len(reply.body) == size
    assert provider.is_live(reply.access)


def test_an_endless_flood_is_chunked(provider: LoopbackProvider) -> None:
    """Whoever reads on gets more."""
    provider.inject(Fault.flood())
    with closing(connect(provider)) as connection:
        body = urlencode(demo(grant_type="client_credentials"))
        connection.request("POST", "/token", body, FORM)
        with connection.getresponse() as response:
            assert response.chunked
            assert len(response.read(5_000_000)) == 5_000_000


# Life and death.


ENDLESS = [
    Fault.silence(),
    Fault.silence(processed=False),
    Fault.slow(3600),
    Fault.drip_headers(3600),
    Fault.drip_body(0.001),
    Fault.drip_headers(0.0),
    Fault.flood(),
    Fault.flood(10**12),
]


@pytest.mark.parametrize("fault", ENDLESS, ids=repr)
def test_closing_ends_every_fault_promptly(fault: Fault) -> None:
    """With a client still waiting, close waits for none of them and leaves no thread."""
    with LoopbackProvider() as provider:
        provider.inject(fault)
        with raw_token_call(provider):
            until(lambda: provider.token_calls == 1)
            began = time.monotonic()
            provider.close()
            assert time.monotonic() - began < 4  # it gives up after five
    until(lambda: len(connection_threads()) == 0)
    gc.collect()


@pytest.mark.parametrize("fault", ENDLESS[4:], ids=repr)
def test_a_client_that_leaves_ends_the_fault(
    provider: LoopbackProvider, fault: Fault, capfd: pytest.CaptureFixture[str]
) -> None:
    """The broken pipe is noticed, ends the thread, and nobody hears of it."""
    provider.inject(fault)
    with raw_token_call(provider) as connection:
        receive(connection, 100)
    until(lambda: len(connection_threads()) == 0)
    assert capfd.readouterr() == ("", "")


def test_idle_kept_alive_connections_do_not_hold_up_closing() -> None:
    """Connections are kept alive between requests and ended by close."""
    with LoopbackProvider() as provider, closing(connect(provider)) as connection:
        for _ in range(2):
            connection.request("GET", "/resource")
            with connection.getresponse() as response:
                assert response.read() == b""
                assert response.version == 11
            assert connection.sock is not None
        assert len(connection_threads()) == 1
        began = time.monotonic()
        provider.close()
        assert time.monotonic() - began < 4  # it gives up after five
        assert connection.sock.recv(1) == b""


def test_a_provider_can_go_down_and_come_back() -> None:
    """While it is closed connections are refused; restarted it is the same one."""
    provider = LoopbackProvider()
    with pytest.raises(RuntimeError, match="started"):
        _ = provider.base_url
    provider.start()
    assert provider.start() is provider
    first, address = login(provider), provider.base_url
    provider.close()
    provider.close()
    with pytest.raises(ConnectionRefusedError):
        service(provider)
    with provider:
        assert provider.base_url == address
        assert refresh(provider, first.refresh).status == 200


def test_a_defect_of_a_test_is_heard_of(
    provider: LoopbackProvider, capfd: pytest.CaptureFixture[str]
) -> None:
    """A rewrite that raises is printed, not mistaken for a client that left."""
    provider.inject(Fault.rewrite(lambda payload: {"x": payload["no such member"]}))
    with pytest.raises(http.client.RemoteDisconnected):
        service(provider)
    until(lambda: len(connection_threads()) == 0)
    assert "no such member" in capfd.readouterr().err


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_child_can_call_the_provider_and_end() -> None:
    """The child talks to the parent's provider, leaves its block without hanging, and exits 0."""
    with LoopbackProvider() as provider, closing(connect(provider)) as kept:
        kept.request("GET", "/resource")
        with kept.getresponse() as response:
            response.read()
        child = multiprocessing.get_context("fork").Process(target=use_and_close, args=[provider])
        child.start()
        child.join(10)
        assert child.exitcode == 0
        assert provider.token_calls == 1
        assert service(provider).status == 200


def use_and_close(provider: LoopbackProvider) -> None:
    with provider:
        assert service(provider).status == 200


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_child_keeps_no_socket_of_the_provider_open() -> None:
    """What the parent closes is closed, though a child born in between lives on."""
    context = multiprocessing.get_context("fork")
    born, done = context.Event(), context.Event()

    def live_on() -> None:
        born.set()
        done.wait(10)

    provider = LoopbackProvider().start()
    provider.inject(Fault.silence())
    with raw_token_call(provider) as connection:
        until(lambda: provider.token_calls == 1)
        child = context.Process(target=live_on)
        child.start()
        assert born.wait(10)
        provider.close()
        assert connection.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            service(provider)
    done.set()
    child.join(10)
    assert child.exitcode == 0


def test_the_descriptor_points_a_broker_at_the_provider(provider: LoopbackProvider) -> None:
    """All endpoints, the issuer and the three grants are there; overrides win."""
    from oauth2broker import GrantType

    descriptor = provider.descriptor(id="other")
    assert descriptor.id == "other"
    assert provider.descriptor().id == "loopback"
    assert descriptor.token_endpoint == provider.token_endpoint
    assert descriptor.authorization_endpoint == provider.authorization_endpoint
    assert descriptor.revocation_endpoint == provider.revocation_endpoint
    assert descriptor.issuer == provider.issuer
    wanted = {"AUTHORIZATION_CODE", "REFRESH_TOKEN", "CLIENT_CREDENTIALS"}
    assert set(descriptor.grants) == {GrantType[name] for name in wanted}
