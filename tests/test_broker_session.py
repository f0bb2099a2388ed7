"""BrokerSession: programs written for OAuth2Session run on, with another constructor."""

from __future__ import annotations

import gc
import json
import logging
import pickle
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import flask
import pytest
import requests
import responses
from oauthlib.oauth2 import BackendApplicationClient, TokenExpiredError
from requests_oauthlib import OAuth2Session  # type: ignore[import-untyped]
from requests_oauthlib.compliance_fixes import (  # type: ignore[import-untyped]
    ebay_compliance_fix,
    facebook_compliance_fix,
    fitbit_compliance_fix,
    mailchimp_compliance_fix,
    plentymarkets_compliance_fix,
    slack_compliance_fix,
)

from oauth2broker import (
    AuthorizationError,
    AuthorizationRequiredError,
    BackendError,
    BodyFormat,
    Broker,
    BrokerSession,
    CachedTokenRequest,
    ConfigError,
    GrantType,
    InvalidGrantError,
    MemoryStore,
    ProviderDescriptor,
    RevokedError,
    StateMismatchError,
    StoreKey,
    TokenRecord,
    TransientError,
)
from oauth2broker.testing import Fault, LoopbackProvider
from tests.support import (
    REDIRECT_URI,
    SCOPE,
    SERVICE_REQUEST,
    TENANT,
    USER_REQUEST,
    Crowd,
    ManualClock,
    log_in,
)

CLIENT_ID, CLIENT_SECRET = "demo-client", "demo-secret"
PROVIDER, API = "https://provider.example.com", "https://api.example.com/me"
ANSWER = {
    "access_token": "access-1",
    "refresh_token": "refresh-1",
    "token_type": "Bearer",
    "expires_in": 3600,
}
Make = Callable[..., Any]


# The programs of requests-oauthlib's documentation, told anew. Each runs with both constructors.


class RememberingSession(OAuth2Session):  # type: ignore[misc]
    """An OAuth2Session whose code verifiers survive until the callback, as the provider wants PKCE."""

    verifiers: dict[str, str] = {}  # noqa: RUF012 - of all of them

    def authorization_url(self, *args: Any, **kwargs: Any) -> tuple[str, str]:
        url, state = super().authorization_url(*args, **kwargs)
        self.verifiers[state] = self._code_verifier
        return url, state

    def fetch_token(self, *args: Any, **kwargs: Any) -> Any:
        self._code_verifier = self.verifiers[self._state]
        return super().fetch_token(*args, **kwargs)


@pytest.fixture
def live() -> Iterator[LoopbackProvider]:
    """A provider on the wall clock, which is the one that OAuth2Session knows."""
    with LoopbackProvider() as running:
        yield running


@pytest.fixture(params=["OAuth2Session", "BrokerSession"])
def make(request: pytest.FixtureRequest, live: LoopbackProvider, monkeypatch: pytest.MonkeyPatch) -> Make:
    """The constructor of a user's session: the one line that differs."""
    if request.param == "OAuth2Session":
        monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
        return lambda **more: RememberingSession(
            CLIENT_ID, scope=SCOPE.split(), redirect_uri=REDIRECT_URI, pkce="S256", **more
        )
    broker = Broker(live.descriptor(), CLIENT_ID, CLIENT_SECRET)

    def made(auto_refresh_url: str = "", auto_refresh_kwargs: object = None, **more: Any) -> BrokerSession:
        return BrokerSession(broker, USER_REQUEST, redirect_uri=REDIRECT_URI, **more)

    return made


def test_web_application_flow(make: Make, live: LoopbackProvider) -> None:
    """Authorize, fetch, use; the token has the same members of the same types."""
    session = make()
    assert not session.authorized
    url, state = session.authorization_url(live.authorization_endpoint, access_type="offline", empty="")
    sent = dict(parse_qsl(urlsplit(url).query))
    assert (sent["state"], sent["access_type"], sent["scope"]) == (state, "offline", SCOPE)
    assert "empty" not in url
    came_back_to = live.browse(url)
    token = session.fetch_token(
        live.token_endpoint, authorization_response=came_back_to, client_secret=CLIENT_SECRET
    )
    assert session.authorized
    assert isinstance(session, requests.Session)
    assert isinstance(session, OAuth2Session)
    kinds = {name: type(value) for name, value in session.token.items()}
    assert kinds == {
        **{"access_token": str, "refresh_token": str, "token_type": str},
        **{"scope": list, "expires_in": int, "expires_at": int},
    }
    assert token["access_token"] == session.token["access_token"] == session.access_token
    assert (token["expires_in"], token["scope"], token.scopes.sort()) == (3600, SCOPE.split(), None)
    assert session.get(live.resource_endpoint).json() == {"sub": "alice", "scope": SCOPE}
    assert (session.client_id, list(session.scope), session.redirect_uri) == (
        CLIENT_ID,
        SCOPE.split(),
        REDIRECT_URI,
    )
    assert [call.status for call in live.calls] == [200]


def test_the_code_alone_is_exchanged_by_the_session_that_asked_for_it(
    make: Make, live: LoopbackProvider
) -> None:
    """For programs that take the code out of the callback themselves."""
    session = make()
    url, _ = session.authorization_url(live.authorization_endpoint)
    code = parse_qs(urlsplit(live.browse(url)).query)["code"][0]
    session.fetch_token(live.token_endpoint, code=code, client_secret=CLIENT_SECRET)
    assert session.get(live.resource_endpoint).ok


def test_a_callback_may_be_given_as_its_parameters(
    broker: Broker, provider: LoopbackProvider, session: BrokerSession
) -> None:
    """As a framework has them; one that is there twice is refused."""
    came_back_to = provider.browse(session.authorization_url()[0])
    app = flask.Flask("example")
    with app.test_request_context(f"{came_back_to}&code=another"):
        with pytest.raises(AuthorizationError):
            session.fetch_token(authorization_response=flask.request.args)
    with app.test_request_context(came_back_to):
        assert session.fetch_token(authorization_response=flask.request.args)


@pytest.mark.parametrize("kind", ["OAuth2Session", "BrokerSession"])
def test_backend_application_flow(kind: str, live: LoopbackProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token of the client itself, fetched and used."""
    if kind == "OAuth2Session":
        monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
        session = OAuth2Session(client=BackendApplicationClient(client_id=CLIENT_ID, scope=["a.read"]))
    else:
        broker = Broker(live.descriptor(), CLIENT_ID, CLIENT_SECRET)
        request = CachedTokenRequest(TENANT, "svc", "a.read")
        session = BrokerSession(broker, request, grant=GrantType.CLIENT_CREDENTIALS)
    token = session.fetch_token(
        token_url=live.token_endpoint, client_id=CLIENT_ID, client_secret=CLIENT_SECRET
    )
    assert live.is_live(token["access_token"])
    assert "refresh_token" not in token
    assert session.get(live.resource_endpoint).json()["scope"] == "a.read"
    assert [call.grant_type for call in live.calls] == ["client_credentials"]


def expired(make: Make, live: LoopbackProvider) -> dict[str, Any]:
    """Log somebody in elsewhere; give the token as a program's database has it, some time later."""
    with Broker(live.descriptor(), CLIENT_ID, CLIENT_SECRET) as elsewhere:
        record = log_in(elsewhere, live)
    live.clear()
    assert record.refresh_token is not None
    return {
        "access_token": "eswfld123kjhn1v5423",
        "refresh_token": record.refresh_token.expose(),
        "token_type": "Bearer",
        "expires_in": "-30",
    }


def test_refreshing_by_hand(make: Make, live: LoopbackProvider) -> None:
    """Try, renew when expired, save, try again: the branch for expired tokens may never be taken."""
    saved: list[dict[str, Any]] = []
    token, extra = expired(make, live), {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
    try:
        session = make(token=token)
        response = session.get(live.resource_endpoint)
    except TokenExpiredError:
        saved.append(session.refresh_token(live.token_endpoint, **extra))
        session = make(token=saved[-1])
        response = session.get(live.resource_endpoint)
    assert response.json()["sub"] == "alice"
    assert [call.grant_type for call in live.calls] == ["refresh_token"]


def test_refreshing_when_asked_to(make: Make, live: LoopbackProvider) -> None:
    """refresh_token renews, gives the new token, and calls no token_updater: the caller has it."""
    told: list[dict[str, Any]] = []
    session = make(token=expired(make, live), token_updater=told.append)
    extra = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
    token = session.refresh_token(live.token_endpoint, **extra)
    assert live.is_live(token["access_token"])
    assert session.token == token
    assert session.get(live.resource_endpoint).ok
    assert told == []
    assert live.token_calls == 1


def test_refreshing_by_itself_with_a_token_updater(make: Make, live: LoopbackProvider) -> None:
    """The updater gets the new token once, and can save it."""
    told: list[dict[str, Any]] = []
    session = make(
        token=expired(make, live),
        auto_refresh_url=live.token_endpoint,
        auto_refresh_kwargs={"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET},
        token_updater=told.append,
    )
    for _ in range(2):
        assert session.get(live.resource_endpoint).ok
    assert live.token_calls == 1
    assert [live.is_live(token["access_token"]) for token in told] == [True]
    assert json.loads(json.dumps(told[0])) == session.token


def flask_app(make: Make, live: LoopbackProvider) -> flask.Flask:
    """Login, callback and profile; each view makes its session anew."""
    app = flask.Flask("example")
    app.secret_key = "of the test"

    @app.route("/login")
    def login() -> Any:
        url, state = make().authorization_url(live.authorization_endpoint)
        flask.session["oauth_state"] = state
        return flask.redirect(url)

    @app.route("/callback")
    def callback() -> Any:
        session = make(state=flask.session["oauth_state"])
        token = session.fetch_token(
            live.token_endpoint, client_secret=CLIENT_SECRET, authorization_response=flask.request.url
        )
        flask.session["oauth_token"] = token
        return flask.redirect("/profile")

    @app.route("/profile")
    def profile() -> Any:
        session = make(token=flask.session["oauth_token"])
        return flask.jsonify(session.get(live.resource_endpoint).json())

    return app


def test_the_flask_example(make: Make, live: LoopbackProvider) -> None:
    """Three views, three sessions, the web session's cookie between them."""
    browser = flask_app(make, live).test_client()
    there = browser.get("/login", base_url="https://app.example.com").headers["Location"]
    back = browser.get(live.browse(there, user="bob"), base_url="https://app.example.com")
    assert back.headers["Location"] == "/profile"
    shown = browser.get("/profile", base_url="https://app.example.com")
    assert shown.get_json()["sub"] == "bob"
    assert live.token_calls == 1


# Compliance hooks, with both constructors, against a provider that leaves the RFCs.


@pytest.fixture
def web() -> Iterator[responses.RequestsMock]:
    """A network of which only what a test registers is there."""
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


def odd_broker(**more: Any) -> Broker:
    descriptor = ProviderDescriptor(
        id="odd",
        authorization_endpoint=f"{PROVIDER}/authorize",
        token_endpoint=f"{PROVIDER}/token",
        grants={*GrantType},
        **more,
    )
    return Broker(descriptor, CLIENT_ID, CLIENT_SECRET)


def form_of(sent: requests.PreparedRequest) -> dict[str, str]:
    body = sent.body or b""
    return dict(parse_qsl(body if isinstance(body, str) else body.decode()))


@pytest.fixture(params=["OAuth2Session", "BrokerSession"])
def odd_session(request: pytest.FixtureRequest) -> Any:
    """A session with a provider that is mocked, by either constructor."""
    if request.param == "OAuth2Session":
        return OAuth2Session(CLIENT_ID, scope=SCOPE.split(), redirect_uri=REDIRECT_URI)
    return BrokerSession(odd_broker(), USER_REQUEST, redirect_uri=REDIRECT_URI)


def come_back(session: Any) -> dict[str, Any]:
    _, state = session.authorization_url(f"{PROVIDER}/authorize")
    token: dict[str, Any] = session.fetch_token(
        f"{PROVIDER}/token",
        authorization_response=f"{REDIRECT_URI}?code=code-1&state={state}",
        client_secret=CLIENT_SECRET,
    )
    return token


def test_the_facebook_fix(odd_session: Any, web: responses.RequestsMock) -> None:
    """A form that calls itself plain text, with a lifetime by another name."""
    web.post(f"{PROVIDER}/token", body="access_token=fb-1&expires=5184000", content_type="text/plain")
    assert facebook_compliance_fix(odd_session) is odd_session
    token = come_back(odd_session)
    assert (token["access_token"], token["token_type"]) == ("fb-1", "Bearer")
    assert int(token["expires_in"]) == 5184000


@pytest.mark.parametrize(
    ("fix", "answer"),
    [
        (ebay_compliance_fix, {**ANSWER, "token_type": "User Access Token"}),
        (fitbit_compliance_fix, ANSWER),
        (mailchimp_compliance_fix, {**ANSWER, "scope": None, "expires_in": 0}),
        (plentymarkets_compliance_fix, {"accessToken": "access-1", "tokenType": "Bearer", "expiresIn": 3600}),
    ],
)
def test_the_fixes_that_come_with_requests_oauthlib(
    fix: Callable[[Any], Any], answer: dict[str, Any], odd_session: Any, web: responses.RequestsMock
) -> None:
    """They change answers by the private ways of a Response that requests made."""
    web.post(f"{PROVIDER}/token", json=answer)
    web.get(API, json={})
    fix(odd_session)
    token = come_back(odd_session)
    assert (token["access_token"], token["token_type"], token["expires_in"]) == ("access-1", "Bearer", 3600)
    odd_session.get(API)
    assert web.calls[-1].request.headers["Authorization"] == "Bearer access-1"


def test_protected_request_hooks_run_as_before(odd_session: Any, web: responses.RequestsMock) -> None:
    """They may change URL, headers and data, and know the token that will be sent (as the Slack fix does)."""
    web.post(f"{PROVIDER}/token", json=ANSWER)
    web.post(f"{API}/changed", json={})
    slack_compliance_fix(odd_session)
    odd_session.register_compliance_hook(
        "protected_request", lambda url, headers, data: (f"{url}/changed", {**headers, "X-Seen": "1"}, data)
    )
    come_back(odd_session)
    odd_session.post(API, data={"text": "hi"}, headers={"X-Mine": "1"})
    sent = web.calls[-1].request
    assert form_of(sent) == {"text": "hi", "token": "access-1"}
    wanted = {"X-Seen": "1", "X-Mine": "1", "Authorization": "Bearer access-1"}
    assert wanted.items() <= dict(sent.headers).items()


def test_request_hooks_change_what_is_sent_to_the_provider(
    odd_session: Any, web: responses.RequestsMock
) -> None:
    """They see URL, headers, and the form or the body; the client's own authentication stays."""
    web.post(f"{PROVIDER}/v2/token", json=ANSWER)
    seen: list[set[str]] = []

    def fetching(url: str, headers: Any, given: dict[str, Any]) -> tuple[str, Any, Any]:
        seen.append({"Authorization", "authorization"} & set(headers))
        given["data"]["audience"] = "us"
        return url.replace("/token", "/v2/token"), {"X-Version": "2"}, given

    def renewing(url: str, headers: Any, body: str) -> tuple[str, Any, str]:
        seen.append({"Authorization", "authorization"} & set(headers))
        return url.replace("/token", "/v2/token"), {**headers, "X-Version": "3"}, f"{body}&audience=them"

    odd_session.register_compliance_hook("access_token_request", fetching)
    odd_session.register_compliance_hook("refresh_token_request", renewing)
    come_back(odd_session)
    odd_session.refresh_token(f"{PROVIDER}/token", auth=(CLIENT_ID, CLIENT_SECRET))
    first, second = (call.request for call in web.calls)
    assert form_of(first).items() >= {"audience": "us", "code": "code-1"}.items()
    assert form_of(second).items() >= {"audience": "them", "refresh_token": "refresh-1"}.items()
    assert (first.headers["X-Version"], second.headers["X-Version"]) == ("2", "3")
    assert first.headers["Authorization"] == second.headers["Authorization"]
    assert first.headers["Authorization"].startswith("Basic ")
    assert seen == [set(), set()]


def test_protected_request_hooks_see_the_token_that_will_be_sent(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """And not the one that has expired: it is renewed before they run."""
    log_in(broker, provider)
    session = BrokerSession(broker, USER_REQUEST)
    clock.advance(3600)
    seen: list[bool] = []

    def seeing(*given: object) -> object:
        seen.append(provider.is_live(str(session.access_token)))
        return given

    session.register_compliance_hook("protected_request", seeing)
    assert session.get(provider.resource_endpoint).ok
    assert seen == [True]
    session.get(provider.resource_endpoint, withhold_token=True)
    assert seen == [True]


# Compliance hooks, where a broker must keep more than OAuth2Session does.


@pytest.fixture
def logged_in(broker: Broker, provider: LoopbackProvider) -> TokenRecord:
    """Somebody has logged in; the calls of that are forgotten."""
    record = log_in(broker, provider)
    provider.clear()
    return record


@pytest.fixture
def session(broker: Broker) -> BrokerSession:
    """A session of the user."""
    return BrokerSession(broker, USER_REQUEST, redirect_uri=REDIRECT_URI)


def failing(*args: object) -> Any:
    raise RuntimeError(f"hooks may show what they hold: {args}")


def stored(broker: Broker) -> TokenRecord | None:
    return broker.store.fetch(broker.key_for(USER_REQUEST))


@pytest.mark.parametrize("bad", [failing, lambda *_: None, lambda *a: ("http://evil.example.com/", *a[1:])])
def test_a_request_hook_that_fails_sends_nothing_and_changes_nothing(
    bad: Any, broker: Broker, provider: LoopbackProvider, logged_in: TokenRecord, session: BrokerSession
) -> None:
    """It is a ConfigError; the record is as it was, and without the hook the renewal works."""
    session.register_compliance_hook("refresh_token_request", bad)
    with pytest.raises(ConfigError) as caught:
        session.refresh_token()
    assert "hook" in str(caught.value)
    require_no_secrets(caught.value, logged_in)
    assert stored(broker) == logged_in
    assert provider.token_calls == 0
    session.compliance_hook["refresh_token_request"].clear()
    assert session.refresh_token()["access_token"] != logged_in.access_token.expose()


def test_a_login_whose_request_hook_failed_can_be_completed(
    broker: Broker, provider: LoopbackProvider, session: BrokerSession
) -> None:
    """The code was not spent, so the callback may come once more."""
    session.register_compliance_hook("access_token_request", failing)
    came_back_to = provider.browse(session.authorization_url()[0])
    with pytest.raises(ConfigError):
        session.fetch_token(authorization_response=came_back_to)
    assert provider.token_calls == 0
    session.compliance_hook["access_token_request"].clear()
    assert session.fetch_token(authorization_response=came_back_to)["access_token"]


def garbled(response: requests.Response) -> requests.Response:
    response._content = b"<html>"
    return response


def textual(response: requests.Response) -> requests.Response:
    vars(response)["_content"] = response.text
    return response


def forgetful(response: requests.Response) -> requests.Response:
    members = json.loads(response.content)
    del members["refresh_token"]
    response._content = json.dumps(members).encode()
    return response


def refusing(response: requests.Response) -> requests.Response:
    response.status_code = 400
    response._content = b'{"error": "invalid_grant"}'
    return response


@pytest.mark.parametrize("hook", [failing, lambda _: None, garbled, textual, forgetful])
def test_a_response_hook_that_fails_loses_no_token(
    hook: Any,
    broker: Broker,
    provider: LoopbackProvider,
    logged_in: TokenRecord,
    session: BrokerSession,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The answer is used as it came; the log says what failed and shows nothing of it."""
    caplog.set_level(logging.DEBUG)
    session.register_compliance_hook("refresh_token_response", hook)
    token = session.refresh_token()
    record = stored(broker)
    assert record is not None
    assert record.refresh_token not in (None, logged_in.refresh_token)
    assert token["access_token"] == record.access_token.expose()
    assert token["access_token"] not in caplog.text
    if hook is not forgetful:
        assert "a refresh_token_response hook failed" in caplog.text
    session.compliance_hook["refresh_token_response"].clear()
    assert session.refresh_token()["access_token"] != token["access_token"]
    assert provider.reuses == 0


def test_a_response_hook_cannot_make_a_refusal_of_a_new_refresh_token(
    broker: Broker, provider: LoopbackProvider, logged_in: TokenRecord, session: BrokerSession
) -> None:
    """The answer is unusable, so there is an error, but the new refresh token is stored, not a tombstone."""
    session.register_compliance_hook("refresh_token_response", refusing)
    with pytest.raises(TransientError):
        session.refresh_token()
    record = stored(broker)
    assert record is not None
    assert record.revoked_at is None
    assert record.refresh_token not in (None, logged_in.refresh_token)


def test_hooks_apply_to_the_renewal_that_a_refused_token_leads_to(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock, session: BrokerSession
) -> None:
    """An API answers 401, and the call for another token is made as the hooks say."""
    seen: list[str] = []

    def seeing(response: requests.Response) -> requests.Response:
        seen.append(response.url)
        return response

    session.register_compliance_hook("refresh_token_response", seeing)
    record = log_in(broker, provider)
    provider.revoke_user("nobody")
    broker.store.save(broker_record_with(record, "not-a-token"))
    assert session.get(provider.resource_endpoint).ok
    assert seen == [provider.token_endpoint]


def broker_record_with(record: TokenRecord, access_token: str) -> TokenRecord:
    members = json.loads(record.to_json())
    return TokenRecord.from_json(json.dumps({**members, "access_token": access_token}))


def test_hooks_do_not_reach_beyond_their_session(
    broker: Broker, provider: LoopbackProvider, logged_in: TokenRecord, session: BrokerSession
) -> None:
    """Not the calls of the broker itself, nor those that a hook makes for another token."""
    seen: list[object] = []

    def asking(response: requests.Response) -> requests.Response:
        seen.append(1)
        broker.client_credentials(SERVICE_REQUEST)
        return response

    def asking_first(*given: str) -> tuple[str, ...]:
        broker.client_credentials(CachedTokenRequest(TENANT, "svc-2", "a"))
        return given

    session.register_compliance_hook("refresh_token_request", asking_first)
    session.register_compliance_hook("refresh_token_response", asking)
    session.register_compliance_hook("access_token_request", failing)
    session.refresh_token()
    broker.refresh_access_token(USER_REQUEST.force_refresh())
    BrokerSession(broker, USER_REQUEST).refresh_token()
    assert len(seen) == 1
    assert [call.grant_type for call in provider.calls].count("client_credentials") == 2
    session.get(provider.resource_endpoint, hooks={"response": lambda *_, **__: other_call(broker)})
    assert [call.grant_type for call in provider.calls].count("client_credentials") == 3


def other_call(broker: Broker) -> None:
    broker.client_credentials(SERVICE_REQUEST.force_refresh())


@pytest.mark.parametrize("body_format", list(BodyFormat))
def test_request_hooks_serve_every_way_of_sending_parameters(
    body_format: BodyFormat, web: responses.RequestsMock
) -> None:
    """Forms, JSON and queries; what was there arrives, and what a hook added, too."""
    web.post(f"{PROVIDER}/token", json=ANSWER)
    session = BrokerSession(odd_broker(body_format=body_format), USER_REQUEST, redirect_uri=REDIRECT_URI)

    def adding(url: str, headers: Any, given: dict[str, Any]) -> tuple[str, Any, Any]:
        (params,) = given.values()
        params["audience"] = "us & them"
        return url, headers, {**given, "timeout": 5}

    session.register_compliance_hook("access_token_request", adding)
    session.register_compliance_hook("refresh_token_request", lambda u, h, body: (u, h, body))
    come_back(session)
    session.refresh_token()
    for call, name in zip(web.calls, ("code", "refresh_token"), strict=True):
        url, body = str(call.request.url), call.request.body or b""
        text = body if isinstance(body, str) else body.decode()
        sent = json.loads(text) if text[:1] == "{" else dict(parse_qsl(text or urlsplit(url).query))
        assert sent[name].startswith(name[:4])
        assert ("audience" in sent) == (name == "code")


def test_a_request_hook_that_wants_another_transport_is_told_so(web: responses.RequestsMock) -> None:
    """Certificates and proxies are the http_client's; to ignore what a hook says of them is not safe."""
    session = BrokerSession(odd_broker(), USER_REQUEST, redirect_uri=REDIRECT_URI)
    session.register_compliance_hook(
        "access_token_request", lambda u, h, given: (u, h, {**given, "verify": 0})
    )
    with pytest.raises(ConfigError, match="verify"):
        come_back(session)
    assert not web.calls


def test_nothing_of_a_session_stays_on_the_broker(
    broker: Broker, provider: LoopbackProvider, logged_in: TokenRecord
) -> None:
    """A web program makes one per request, and registers its hooks on each."""
    gone = []
    for _ in range(3):
        session = BrokerSession(broker, USER_REQUEST, token_updater=print)
        session.register_compliance_hook("refresh_token_response", lambda r: r)
        session.get(provider.resource_endpoint)
        gone.append(weakref.ref(session))
    del session
    gc.collect()
    assert [alive() for alive in gone] == [None] * 3


# The token: what is stored now.


def test_the_token_is_what_is_stored_now_and_asks_nobody(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock, session: BrokerSession
) -> None:
    """Empty, then there, then another one that somebody else obtained, then revoked."""
    assert session.token == {}
    assert (session.access_token, session.authorized) == (None, False)
    first = log_in(broker, provider)
    assert session.token["access_token"] == first.access_token.expose()
    clock.advance(1800)
    assert session.token["expires_in"] == 1800
    second = broker.refresh_access_token(USER_REQUEST.force_refresh())
    assert session.access_token == second.access_token.expose()
    provider.clear()
    clock.advance(7200)
    assert session.token["expires_in"] == 0
    assert session.authorized  # it can be renewed
    broker.store.revoke(broker.key_for(USER_REQUEST), clock())
    assert session.token == {}
    assert not session.authorized
    assert provider.token_calls == 0


def test_what_the_provider_answered_besides_is_in_the_token(web: responses.RequestsMock) -> None:
    """And so are id_token and the granted scope, as a list."""
    web.post(
        f"{PROVIDER}/token", json={**ANSWER, "team": {"id": [1]}, "id_token": "a.b.c", "scope": "openid"}
    )
    session = BrokerSession(odd_broker(), USER_REQUEST, redirect_uri=REDIRECT_URI)
    token = come_back(session)
    assert token == session.token
    assert (token["team"], token["id_token"], token["scope"]) == ({"id": [1]}, "a.b.c", ["openid"])
    assert json.loads(json.dumps(token)) == token


def test_a_session_without_a_way_to_renew_is_authorized_until_the_token_ends(
    provider: LoopbackProvider, clock: ManualClock
) -> None:
    """A refresh token is no use at a provider that renews nothing; a service token can always be had."""
    descriptor = provider.descriptor(grants={GrantType.AUTHORIZATION_CODE, GrantType.CLIENT_CREDENTIALS})
    with Broker(descriptor, CLIENT_ID, CLIENT_SECRET, clock=clock) as broker:
        log_in(broker, provider)
        session = BrokerSession(broker, USER_REQUEST)
        assert session.authorized
        clock.advance(3600)
        assert not session.authorized
        service = BrokerSession(broker, SERVICE_REQUEST, grant="client_credentials")
        assert service.authorized
        service.fetch_token()
        broker.store.revoke(broker.key_for(SERVICE_REQUEST, "client_credentials"), clock())
        assert not service.authorized


def test_a_refresh_token_that_has_lapsed_authorizes_nobody(
    provider: LoopbackProvider, clock: ManualClock
) -> None:
    """The user is needed when neither token is good for anything."""
    descriptor = provider.descriptor(default_refresh_expires_in=timedelta(days=1))
    with Broker(descriptor, CLIENT_ID, CLIENT_SECRET, clock=clock) as broker:
        log_in(broker, provider)
        session = BrokerSession(broker, USER_REQUEST)
        clock.advance(86399)
        assert session.authorized
        clock.advance(1)
        assert not session.authorized


def as_kept(record: TokenRecord) -> dict[str, Any]:
    assert record.refresh_token is not None
    return {"access_token": record.access_token.expose(), "refresh_token": record.refresh_token.expose()}


def test_an_assigned_token_is_imported_when_nothing_is_stored(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock, session: BrokerSession
) -> None:
    """With everything that is known of it; it is renewed by the broker's rules."""
    with Broker(provider.descriptor(), CLIENT_ID, CLIENT_SECRET, clock=clock) as elsewhere:
        kept = {
            **as_kept(log_in(elsewhere, provider)),
            "token_type": "bearer",
            "team": "red",
            "scope": ["openid"],
        }
    provider.clear()
    session.token = {**kept, "expires_at": clock().timestamp() + 600.5, "expires_in": 3600}
    record = stored(broker)
    assert record is not None
    assert record.expires_at == clock() + timedelta(seconds=600.5)
    assert (str(record.granted_scope), record.extra["team"]) == ("openid", "red")
    assert record.scope == USER_REQUEST.scope
    assert session.get(provider.resource_endpoint).ok
    assert provider.token_calls == 0
    clock.advance(601)
    assert session.get(provider.resource_endpoint).ok
    assert provider.token_calls == 1


def test_a_stale_token_does_not_replace_what_is_stored(
    broker: Broker, provider: LoopbackProvider, logged_in: TokenRecord, session: BrokerSession
) -> None:
    """A cookie of yesterday holds a refresh token that is spent; a logout is not undone by it."""
    renewed = broker.refresh_access_token(USER_REQUEST.force_refresh())
    session.token = as_kept(logged_in)
    BrokerSession(broker, USER_REQUEST, token=as_kept(logged_in))
    assert stored(broker) == renewed
    assert session.get(provider.resource_endpoint).ok
    assert provider.reuses == 0
    broker.revoke(USER_REQUEST)
    session.token = as_kept(renewed)
    assert session.token == {}
    with pytest.raises(RevokedError):
        session.get(provider.resource_endpoint)


def test_a_stale_token_is_no_work_for_the_store(
    broker: Broker, provider: LoopbackProvider, logged_in: TokenRecord, session: BrokerSession
) -> None:
    """Where something is stored, no lease is taken: it may be assigned while the token is being renewed."""
    assigned: list[int] = []

    def assigning(response: requests.Response) -> requests.Response:
        session.token = as_kept(logged_in)
        assigned.append(1)
        return response

    session.register_compliance_hook("refresh_token_response", assigning)
    session.refresh_token()
    assert assigned == [1]


def test_nothing_is_imported_of_an_empty_token(broker: Broker, logged_in: TokenRecord) -> None:
    """Neither does it log anybody out."""
    session = BrokerSession(broker, USER_REQUEST, token={})
    session.token = None
    session.access_token = ""
    assert stored(broker) == logged_in


def test_an_access_token_alone_is_imported(broker: Broker) -> None:
    """By assigning to it, as programs do that keep nothing else."""
    BrokerSession(broker, USER_REQUEST).access_token = "kept elsewhere"
    assert BrokerSession(broker, USER_REQUEST).access_token == "kept elsewhere"


def test_a_refresh_token_alone_is_imported(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock, session: BrokerSession
) -> None:
    """As an argument of refresh_token, from a program that keeps nothing else."""
    with Broker(provider.descriptor(), CLIENT_ID, CLIENT_SECRET, clock=clock) as elsewhere:
        kept = as_kept(log_in(elsewhere, provider))
    token = session.refresh_token(provider.token_endpoint, refresh_token=kept["refresh_token"])
    assert provider.is_live(token["access_token"])


@pytest.mark.parametrize(
    "bad",
    [
        "secret-text",
        ["secret-text"],
        {"token_type": "Bearer"},
        {"access_token": 7},
        {"access_token": "secret-text", "refresh_token": ["x"]},
        {"access_token": "secret-text\n"},
        {"access_token": "secret-text", "expires_at": "tomorrow"},
        {"access_token": "secret-text", "expires_at": float("nan")},
        {"access_token": "secret-text", "expires_at": 1e300},
        {"access_token": "secret-text", "expires_in": True},
        {"access_token": "secret-text", "scope": 7},
        {"access_token": "secret-text", "error": "invalid_grant"},
    ],
)
def test_what_is_no_token_is_refused(bad: Any, broker: Broker, session: BrokerSession) -> None:
    """With a ConfigError that shows nothing of it; nothing is stored."""
    with pytest.raises(ConfigError) as caught:
        session.token = bad
    assert "secret-text" not in shown(caught.value)
    assert stored(broker) is None


@pytest.mark.parametrize("bad", ["secret-text", {"access_token": "secret-text", "expires_at": "tomorrow"}])
def test_who_gives_what_is_no_token_learns_what_to_give(bad: Any, session: BrokerSession) -> None:
    """Not only that it was a ValueError."""
    with pytest.raises(
        ConfigError, match="a dict like fetch_token's, with expires_at and expires_in in seconds"
    ):
        session.token = bad


def test_of_many_imports_at_once_one_is_stored(provider: LoopbackProvider, clock: ManualClock) -> None:
    """Twenty web requests of one user bring the same cookie."""
    saves: list[TokenRecord] = []

    together, seen = threading.Barrier(20), threading.local()

    class CountingStore(MemoryStore):
        def fetch(self, key: StoreKey) -> TokenRecord | None:
            found = super().fetch(key)
            if not hasattr(seen, "once"):
                seen.once = together.wait(30)
            return found

        def save(self, record: TokenRecord) -> None:
            saves.append(record)
            super().save(record)

    with Broker(
        provider.descriptor(), CLIENT_ID, CLIENT_SECRET, clock=clock, store=CountingStore()
    ) as broker:
        kept = {"access_token": "a", "refresh_token": "r", "expires_in": 3600}
        crowd = Crowd(20, lambda: BrokerSession(broker, USER_REQUEST, token=kept).access_token).start().join()
    assert crowd.errors == []
    assert crowd.results == ["a"] * 20
    assert len(saves) == 1


# Requests.


def test_no_request_leaves_without_a_token(web: responses.RequestsMock) -> None:
    """Where OAuth2Session would have sent it bare."""
    web.get(API, json={})
    session = BrokerSession(odd_broker(), USER_REQUEST)
    with pytest.raises(AuthorizationRequiredError):
        session.get(API)
    assert not web.calls


@pytest.mark.parametrize("more", [{}, {"withhold_token": True}, {"auth": ("me", "word")}])
def test_a_request_over_plain_http_is_refused(
    more: Any, session: BrokerSession, logged_in: TokenRecord
) -> None:
    """Also without a token, as OAuth2Session does; and when a hook leads there."""
    with pytest.raises(ConfigError, match="https"):
        session.get("http://api.example.com/", **more)
    session.register_compliance_hook("protected_request", lambda u, h, d: ("http://api.example.com/", h, d))
    with pytest.raises(ConfigError, match="https"):
        session.get(API, **{name: value for name, value in more.items() if name == "auth"})


def test_the_callers_own_authentication_wins(web: responses.RequestsMock) -> None:
    """Of one request, or of the session; None is none, and a withheld token stays away."""
    web.post(f"{PROVIDER}/token", json=ANSWER)
    web.get(API, json={})
    session = BrokerSession(odd_broker(), USER_REQUEST, redirect_uri=REDIRECT_URI)
    come_back(session)

    def sent(**more: Any) -> str | None:
        session.get(API, **more)
        value: str | None = web.calls[-1].request.headers.get("Authorization")
        return value

    assert sent() == "Bearer access-1"
    assert sent(withhold_token=True) is None
    assert sent(auth=("me", "word")) == "Basic bWU6d29yZA=="
    session.auth = ("me", "word")
    assert sent() == "Basic bWU6d29yZA=="
    session.auth = None
    assert (
        sent(client_id="x", client_secret="y", headers={"Authorization": "Bearer old"}) == "Bearer access-1"
    )


def test_no_password_of_a_netrc_takes_the_place_of_a_token(
    broker: Broker, provider: LoopbackProvider, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nor does it go along where the token is withheld: requests would take one for any host from there."""
    netrc = tmp_path / "netrc"
    netrc.write_text("default login theirs password theirs\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    url = provider.resource_endpoint
    assert "Authorization" in requests.get(url, timeout=30).request.headers
    sent = BrokerSession(broker, USER_REQUEST).get(url, withhold_token=True, timeout=30).request
    assert "Authorization" not in sent.headers


def test_the_token_updater_is_told_of_what_others_renewed(
    broker: Broker, provider: LoopbackProvider, logged_in: TokenRecord
) -> None:
    """A web program's cookie is brought up to date, once; a session that saw the token is told nothing."""
    broker.refresh_access_token(USER_REQUEST.force_refresh())
    told: list[dict[str, Any]] = []
    session = BrokerSession(broker, USER_REQUEST, token=as_kept(logged_in), token_updater=told.append)
    for _ in range(2):
        session.get(provider.resource_endpoint)
    assert told == [session.token]
    fresh = BrokerSession(broker, USER_REQUEST, token_updater=told.append)
    fresh.get(provider.resource_endpoint)
    assert len(told) == 1
    broker.refresh_access_token(USER_REQUEST.force_refresh())
    fresh.get(provider.resource_endpoint)
    assert told[1:] == [fresh.token]


def test_the_token_updater_is_not_told_of_an_older_token(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock, logged_in: TokenRecord
) -> None:
    """Which a slower thread may still come with."""
    told: list[dict[str, Any]] = []
    session = BrokerSession(broker, USER_REQUEST, token_updater=told.append)
    session.get(provider.resource_endpoint)
    clock.advance(10)
    broker.refresh_access_token(USER_REQUEST.force_refresh())
    session.get(provider.resource_endpoint)
    broker.store.save(logged_in)
    session.get(provider.resource_endpoint)
    assert len(told) == 1


@pytest.mark.parametrize("sessions", [1, 20])
def test_many_threads_meet_an_expired_token_and_one_renews(
    sessions: int, broker: Broker, provider: LoopbackProvider, clock: ManualClock, logged_in: TokenRecord
) -> None:
    """They share a session, or the broker; each session's updater is told once."""
    told: list[dict[str, Any]] = []
    clock.advance(3600)
    provider.latency = 0.1
    made = [BrokerSession(broker, USER_REQUEST, token_updater=told.append) for _ in range(sessions)] * 20
    crowd = Crowd(20, lambda: made.pop().get(provider.resource_endpoint).status_code).start().join()
    assert crowd.errors == []
    assert crowd.results == [200] * 20
    assert provider.token_calls == 1
    assert 1 <= len(told) <= sessions
    assert {token["access_token"] for token in told} == {BrokerSession(broker, USER_REQUEST).access_token}


def test_many_sessions_meet_a_refused_token_and_one_renews(
    broker: Broker, provider: LoopbackProvider, logged_in: TokenRecord
) -> None:
    """The API answers 401 to all of them; each gets its answer."""
    broker.store.save(broker_record_with(logged_in, "not-a-token"))
    provider.latency = 0.1
    made = [BrokerSession(broker, USER_REQUEST) for _ in range(50)]
    crowd = Crowd(50, lambda: made.pop().get(provider.resource_endpoint).status_code).start().join()
    assert crowd.errors == []
    assert crowd.results == [200] * 50
    assert provider.token_calls == 1


# Logins under way.


def test_login_and_callback_may_be_served_by_different_processes(
    provider: LoopbackProvider, clock: ManualClock
) -> None:
    """Two brokers with nothing in common but a store and a mapping, which holds nothing afterwards."""
    pending: dict[str, str] = {}
    store = MemoryStore()
    here, there = (
        BrokerSession(
            Broker(provider.descriptor(), CLIENT_ID, CLIENT_SECRET, store=store, clock=clock),
            USER_REQUEST,
            redirect_uri=REDIRECT_URI,
            pending=pending,
        )
        for _ in range(2)
    )
    url, state = here.authorization_url()
    assert list(pending) == [state]
    there.fetch_token(authorization_response=provider.browse(url))
    assert pending == {}
    assert here.get(provider.resource_endpoint).ok


def test_a_callback_that_nobody_waits_for_is_refused(
    broker: Broker, provider: LoopbackProvider, session: BrokerSession
) -> None:
    """An unknown state, none, another than the session was told, another user's, or one that came before."""
    url, state = session.authorization_url()
    came_back_to = provider.browse(url)
    other = CachedTokenRequest(TENANT, "user-2", SCOPE)
    for stranger, callback in [
        (BrokerSession(broker, USER_REQUEST), came_back_to.replace(state, "not-it")),
        (BrokerSession(broker, USER_REQUEST), came_back_to.replace("state=", "estate=")),
        (BrokerSession(broker, USER_REQUEST, state="mine"), came_back_to),
        (BrokerSession(broker, other), came_back_to),
    ]:
        with pytest.raises(StateMismatchError):
            stranger.fetch_token(authorization_response=callback)
    with pytest.raises(StateMismatchError):
        BrokerSession(broker, USER_REQUEST).fetch_token(code="code")
    assert provider.token_calls == 0
    BrokerSession(broker, USER_REQUEST).fetch_token(authorization_response=came_back_to)
    with pytest.raises(StateMismatchError):
        session.fetch_token(authorization_response=came_back_to)
    assert provider.token_calls == 1


def test_of_two_callbacks_at_once_one_is_exchanged(
    broker: Broker, provider: LoopbackProvider, session: BrokerSession
) -> None:
    """A browser that sends it twice does not spend the code twice."""
    came_back_to = provider.browse(session.authorization_url()[0])
    provider.latency = 0.1
    crowd = Crowd(8, lambda: session.fetch_token(authorization_response=came_back_to)).start().join()
    assert len(crowd.results) == 1
    assert {type(error) for error in crowd.errors} == {StateMismatchError}
    assert provider.token_calls == 1


def test_a_login_that_failed_on_the_way_can_be_completed(
    broker: Broker, provider: LoopbackProvider, session: BrokerSession
) -> None:
    """The provider said 503: the code was not spent. After a refusal, it is over."""
    came_back_to = provider.browse(session.authorization_url()[0])
    provider.inject(Fault.html(503))
    with pytest.raises(TransientError):
        session.fetch_token(authorization_response=came_back_to)
    assert session.fetch_token(authorization_response=came_back_to)
    bad = provider.browse(session.authorization_url()[0]).replace("code=", "code=not-")
    for error in (InvalidGrantError, StateMismatchError):
        with pytest.raises(error):
            session.fetch_token(authorization_response=bad)


def test_logins_in_memory_are_bounded(
    broker: Broker, clock: ManualClock, session: BrokerSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expired ones go, and of too many the oldest; they go with the broker."""
    from oauth2broker.integrations import pending

    monkeypatch.setattr(pending, "_MOST_LOGINS", 3)
    kept = pending.logins_here(broker)
    states = [session.authorization_url()[1] for _ in range(5)]
    assert list(kept) == states[2:]
    clock.advance(601)
    _, state = BrokerSession(broker, USER_REQUEST, redirect_uri=REDIRECT_URI).authorization_url()
    assert list(kept) == [state]
    assert "verifier" not in repr(kept)


def test_what_a_mapping_raises_becomes_an_error_of_ours(broker: Broker, provider: LoopbackProvider) -> None:
    """Its server may be away; nothing of the login is in the error."""

    class Away(dict[str, str]):
        def __setitem__(self, state: str, text: str) -> None:
            raise OSError(text)

        get = __setitem__  # type: ignore[assignment]

    session = BrokerSession(broker, USER_REQUEST, redirect_uri=REDIRECT_URI, pending=Away())
    with pytest.raises(BackendError) as caught:
        session.authorization_url()
    assert "code_verifier" not in shown(caught.value)
    with pytest.raises(BackendError):
        BrokerSession(broker, USER_REQUEST, pending=Away()).fetch_token(
            authorization_response=f"{REDIRECT_URI}?code=c&state=s"
        )


def test_the_state_may_be_the_programs_own(broker: Broker, provider: LoopbackProvider) -> None:
    """An argument, the session's, or a function's; it is the one in the URL and in the callback."""
    made = BrokerSession(broker, USER_REQUEST, redirect_uri=REDIRECT_URI, state=lambda: "from a function/?&")
    for given, state in [(None, "from a function/?&"), ("given", "given")]:
        url, got = made.authorization_url(state=given)
        assert got == state == dict(parse_qsl(urlsplit(url).query))["state"]
    callback = provider.browse(url)
    assert BrokerSession(broker, USER_REQUEST, state="given").fetch_token(authorization_response=callback)
    fixed = BrokerSession(broker, USER_REQUEST, redirect_uri=REDIRECT_URI, state="fixed")
    assert fixed.authorization_url()[1] == fixed.new_state() == "fixed"
    fresh = BrokerSession(broker, USER_REQUEST)
    assert fresh.new_state() != fresh.new_state()


def test_parameters_that_somebody_else_sets_are_left_out(
    provider: LoopbackProvider, clock: ManualClock
) -> None:
    """What the descriptor says already, the request's resource, and PKCE by hand."""
    descriptor = provider.descriptor(authorization_params={"access_type": "offline"})
    with Broker(descriptor, CLIENT_ID, CLIENT_SECRET, clock=clock) as broker:
        request = CachedTokenRequest(TENANT, "u", SCOPE, resource="https://api.example.com/")
        session = BrokerSession(broker, request, redirect_uri=REDIRECT_URI)
        url, _ = session.authorization_url(
            "https://old.example.com/",
            access_type="offline",
            resource="https://api.example.com/",
            code_challenge="x",
            code_challenge_method="S256",
            max_age=300,
        )
        query = parse_qs(urlsplit(url).query)
        assert url.startswith(provider.authorization_endpoint)
        assert (query["access_type"], query["max_age"]) == (["offline"], ["300"])
        assert query["code_challenge"] != ["x"]
        with pytest.raises(ConfigError, match="redirect_uri"):
            session.authorization_url(redirect_uri="https://evil.example.com")


# What cannot be carried over, and secrets.


def test_what_makes_no_sense_says_what_to_do(broker: Broker, session: BrokerSession) -> None:
    """ConfigErrors, all of them."""
    calls: list[Callable[[], object]] = [
        lambda: session.token_from_fragment("https://x#access_token=a"),
        lambda: session.fetch_token(username="me", password="word"),
        lambda: session.fetch_token(),
        lambda: setattr(session, "client_id", "another"),
        lambda: delattr(session, "client_id"),
        lambda: delattr(session, "access_token"),
        lambda: BrokerSession(broker, USER_REQUEST).authorization_url(),
        lambda: BrokerSession(broker, USER_REQUEST, grant="password"),
        lambda: BrokerSession(broker, USER_REQUEST, grant="refresh_token"),
        lambda: BrokerSession(broker, USER_REQUEST, grant="other"),
        lambda: BrokerSession(broker, USER_REQUEST.force_refresh()),
        lambda: BrokerSession(broker, "user"),  # type: ignore[arg-type]
        lambda: BrokerSession("client-id", USER_REQUEST),  # type: ignore[arg-type]
    ]
    for call in calls:
        with pytest.raises(ConfigError):
            call()
    session.client_id = CLIENT_ID


def test_another_scope_is_another_token(
    broker: Broker, provider: LoopbackProvider, logged_in: TokenRecord, session: BrokerSession
) -> None:
    """As programs do that set it after the constructor; hooks and updater stay."""
    told: list[object] = []

    def seeing(*given: object) -> object:
        told.append(1)
        return given

    session.register_compliance_hook("protected_request", seeing)
    session.token_updater = told.append
    session.scope = ["email"]
    assert (session.scope, session.token) == (["email"], {})
    session.scope = SCOPE
    session.get(provider.resource_endpoint)
    assert (told, session.token_updater) == ([1], told.append)
    session.compliance_hook["protected_request"].clear()
    session.register_compliance_hook("refresh_token_request", seeing)
    session.refresh_token()
    assert told == [1, 1]
    broker.refresh_access_token(USER_REQUEST.force_refresh())
    session.get(provider.resource_endpoint)
    assert told[2:] == [session.token]


def test_a_service_token_is_fetched_and_renewed(broker: Broker, provider: LoopbackProvider) -> None:
    """By the same methods; an imported one leaves its refresh token behind."""
    session = BrokerSession(broker, SERVICE_REQUEST, grant="client_credentials")
    session.token = {"access_token": "old", "refresh_token": "r", "expires_in": -30}
    assert session.token["access_token"] == "old"
    assert "refresh_token" not in session.token
    first = session.fetch_token()
    assert session.get(provider.resource_endpoint).ok
    assert session.refresh_token()["access_token"] != first["access_token"]
    assert [call.grant_type for call in provider.calls] == ["client_credentials"] * 2


def test_a_session_shows_keeps_and_pickles_no_secret(
    broker: Broker, provider: LoopbackProvider, logged_in: TokenRecord
) -> None:
    """Not in its repr, not in what it holds itself, and there is no copy of it."""
    session = BrokerSession(broker, USER_REQUEST, token=as_kept(logged_in), token_updater=lambda _: None)
    session.get(provider.resource_endpoint)
    session.refresh_token()
    assert (
        repr(session)
        == "BrokerSession(TenantId('tenant-acme'), PrincipalId('user-1'), ProviderId('loopback'))"
    )
    for holder in (session, session._client, session._tokens, session._auth):
        held = repr(vars(holder))
        for secret in (*as_kept(logged_in).values(), *session.token.values()):
            assert not isinstance(secret, str) or len(secret) < 20 or secret not in held
    with pytest.raises(TypeError):
        pickle.dumps(session)


def require_no_secrets(error: BaseException, record: TokenRecord) -> None:
    text = shown(error)
    for secret in (*as_kept(record).values(), CLIENT_SECRET):
        assert secret not in text


def shown(error: BaseException) -> str:
    """Give what a crash reporter shows of the frames in the library."""
    found = traceback.TracebackException.from_exception(error, capture_locals=True)
    frames = [str(frame.locals) for frame in found.stack if "tests" not in frame.filename]
    assert error.__context__ is None or "hooks" not in str(error.__context__)
    return "".join([str(error), repr(error.__context__), *frames])


@pytest.mark.parametrize(
    "came", [{"authorization_response": f"{REDIRECT_URI}?code=secret-code&state=s"}, {"code": "secret-code"}]
)
def test_no_error_of_a_callback_shows_its_code(came: Any, broker: Broker) -> None:
    """Nor the client secret that came with it."""
    session = BrokerSession(broker, USER_REQUEST)
    with pytest.raises(StateMismatchError) as caught:
        session.fetch_token("https://x/", client_secret="secret-word", **came)
    assert "secret-" not in shown(caught.value)


def test_a_token_that_is_spent_gives_way_to_one_that_is_imported(provider: LoopbackProvider) -> None:
    """Nothing could have come of it since; one that could be renewed, and a tombstone, stay."""
    with Broker(provider.descriptor(), "demo-client", "demo-secret") as broker:
        session = BrokerSession(broker, USER_REQUEST, token={"access_token": "dead", "expires_at": 1})
        assert not session.authorized
        session.token = {"access_token": "fresh", "refresh_token": "r9", "expires_in": 3600}
        assert session.token["access_token"] == "fresh"
        session.token = {"access_token": "another", "expires_in": 3600}
        assert session.token["access_token"] == "fresh"


def test_a_tombstone_and_what_can_be_renewed_outlast_an_import(broker: Broker, clock: ManualClock) -> None:
    """However long ago they expired: the refresh token that is assigned may be dead, or spent."""
    token = {"access_token": "kept elsewhere", "refresh_token": "r1", "expires_in": 60}
    session, key = BrokerSession(broker, USER_REQUEST, token=token), broker.key_for(USER_REQUEST)
    clock.advance(3600)
    session.token = {"access_token": "another", "refresh_token": "r2", "expires_in": 60}
    stored = broker.store.fetch(key)
    assert stored is not None
    assert stored.access_token.expose() == "kept elsewhere"
    tombstone = broker.store.revoke(key, clock())
    session.token = {"access_token": "another", "refresh_token": "r2", "expires_in": 60}
    assert broker.store.fetch(key) == tombstone


@pytest.mark.parametrize("mistake", [{"pending": 5}, {"token_updater": 5}])
def test_a_part_of_a_session_that_is_none_is_refused_at_once(broker: Broker, mistake: dict[str, Any]) -> None:
    """Not in a later request, after a renewal."""
    with pytest.raises(ConfigError):
        BrokerSession(broker, USER_REQUEST, **mistake)


def test_a_login_without_a_redirect_uri_says_what_to_give(broker: Broker) -> None:
    """OAuth2Session may leave it out; a broker may not."""
    with pytest.raises(ConfigError, match="redirect_uri="):
        BrokerSession(broker, USER_REQUEST).authorization_url("https://provider.example.com/authorize")
