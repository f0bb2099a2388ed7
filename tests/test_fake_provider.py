"""FakeProvider and FrozenClock: what an application's unit tests can rely on."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import requests
import responses

from oauth2broker import (
    AuthorizationError,
    Broker,
    CachedTokenRequest,
    CallbackContext,
    ConfigError,
    DelayedError,
    ExpiryRule,
    GrantType,
    InvalidClientError,
    InvalidGrantError,
    PkceSupport,
    ProviderDescriptor,
    ProviderQuirks,
    ProviderStrategy,
    RotationPolicy,
    StateMismatchError,
    TokenBucket,
    TransientError,
    TransportError,
)
from oauth2broker.provider import presets
from oauth2broker.testing import FakeProvider, FrozenClock
from oauth2broker.testing._fake_server import default_descriptor
from oauth2broker.testing.fake_provider import FakeApi
from tests.presets.test_catalogue import sample
from tests.support import Crowd

REQUEST = CachedTokenRequest("tenant-acme", "alice", "mail.read mail.send")
SERVICE = CachedTokenRequest("tenant-acme", "svc", "report.read")
REDIRECT_URI = "https://app.example.com/callback"
ME = "https://api.example.com/me"


@pytest.fixture
def fake(clock: FrozenClock) -> Iterator[FakeProvider]:
    """The default provider, on the test's clock."""
    with FakeProvider(clock=clock) as started:
        yield started


@pytest.fixture
def app(fake: FakeProvider, clock: FrozenClock) -> Iterator[Broker]:
    """A client of ``fake``."""
    with client_of(fake, clock) as made:
        yield made


def client_of(fake: FakeProvider, clock: FrozenClock, client_id: str = "client-id") -> Broker:
    return Broker(fake.descriptor, client_id, "client-secret", clock=clock)


def log_in(fake: FakeProvider, app: Broker) -> str:
    """Log Alice in; give her access token."""
    return fake.log_in(app, "tenant-acme", "alice", "mail.read mail.send").access_token.expose()


def renew(app: Broker) -> str:
    return app.refresh_access_token(REQUEST.force_refresh()).access_token.expose()


def get(url: str, token: str) -> requests.Response:
    return requests.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=5)


def described(**changes: Any) -> ProviderDescriptor:
    return replace(default_descriptor(), **changes)


# The provider as it is.


def test_a_user_logs_in_by_the_real_flow(fake: FakeProvider, app: Broker) -> None:
    """Code, PKCE, token: the record is stored and says what was granted."""
    record = fake.log_in(app, "tenant-acme", "alice", "mail.read mail.send")
    assert record.access_token.expose() == "access-token-1"
    assert record.refresh_token is not None
    assert record.refresh_token.expose() == "refresh-token-1"
    assert set(record.granted_scope or ()) == {"mail.read", "mail.send"}
    assert app.refresh_access_token(REQUEST) == record
    (call,) = fake.calls
    assert (call.endpoint, call.grant_type, call.client_id, call.client_auth) == (
        "token",
        "authorization_code",
        "client-id",
        "basic",
    )
    assert (call.status, call.error, call.params["redirect_uri"]) == (200, None, REDIRECT_URI)


def test_an_expired_token_is_renewed(fake: FakeProvider, app: Broker, clock: FrozenClock) -> None:
    """By the shared clock; the refresh token is rotated, and the call can be looked at."""
    old = log_in(fake, app)
    clock.advance(3600)
    assert not fake.is_live(old)
    assert app.refresh_access_token(REQUEST).access_token.expose() == "access-token-2"
    call = fake.calls[-1]
    assert (call.grant_type, call.params["refresh_token"]) == ("refresh_token", "refresh-token-1")
    assert call.at == clock.now
    assert fake.is_live("access-token-2")


def test_a_revoked_grant_asks_for_a_login(fake: FakeProvider, app: Broker, clock: FrozenClock) -> None:
    """Only that of the user who withdrew consent; a new login mends it."""
    log_in(fake, app)
    fake.log_in(app, "tenant-acme", "bob")
    fake.revoke_grant("alice")
    with pytest.raises(InvalidGrantError):
        renew(app)
    clock.advance(3600)
    app.refresh_access_token(CachedTokenRequest("tenant-acme", "bob"))
    assert fake.is_live(log_in(fake, app))
    fake.revoke_grant()
    with pytest.raises(InvalidGrantError):
        renew(app)


def test_consent_that_nobody_gave_cannot_be_withdrawn(fake: FakeProvider, app: Broker) -> None:
    """A slip in the name is said, with those who did; nobody's grant ends."""
    token = log_in(fake, app)
    with pytest.raises(ConfigError, match=r"'alise' granted nothing.*\['alice'\]"):
        fake.revoke_grant("alise")
    assert fake.is_live(token)


def test_a_service_gets_a_token_without_a_refresh_token(fake: FakeProvider, app: Broker) -> None:
    """Client credentials (RFC 6749 section 4.4)."""
    record = app.client_credentials(SERVICE)
    assert fake.is_live(record.access_token.expose())
    assert record.refresh_token is None
    assert [call.scope for call in fake.token_calls] == ["report.read"]


def test_logging_out_revokes_at_the_provider(fake: FakeProvider, app: Broker) -> None:
    """RFC 7009: the access token dies with the refresh token; the call is not counted as a token call."""
    token = log_in(fake, app)
    app.revoke(REQUEST)
    assert not fake.is_live(token)
    assert [call.endpoint for call in fake.calls] == ["token", "revocation"]
    assert len(fake.token_calls) == 1


def test_where_only_access_tokens_are_revoked_the_grant_ends_with_them(clock: FrozenClock) -> None:
    """The broker sends no refresh token there, and yet nobody can renew with it."""
    descriptor = described(quirks=ProviderQuirks(revoke_access_token=True))
    renewal = {"grant_type": "refresh_token", "refresh_token": "refresh-token-1"}
    with FakeProvider(descriptor, clock=clock) as fake, client_of(fake, clock) as app:
        token = log_in(fake, app)
        app.revoke(REQUEST)
        assert fake.calls[-1].params["token"] == token
        assert present(fake, **renewal)["error"] == "invalid_grant"
    with FakeProvider(clock=clock) as fake, client_of(fake, clock) as app:
        revoke_url = str(fake.descriptor.revocation_endpoint)
        form = {"token": log_in(fake, app), "client_id": "client-id"}
        assert requests.post(revoke_url, data=form, timeout=5).status_code == 200
        assert present(fake, **renewal)["status"] == 200


def present(fake: FakeProvider, **form: str) -> dict[str, Any]:
    """Make a token call that no broker would make."""
    form = {"client_id": "client-id", **form}
    answer = requests.post(fake.descriptor.token_endpoint, data=form, timeout=5)
    return {"status": answer.status_code, **answer.json()}


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"grant_type": "refresh_token", "refresh_token": "unknown"}, "invalid_grant"),
        ({"grant_type": "refresh_token"}, "invalid_grant"),
        ({"grant_type": "authorization_code", "code": "unknown"}, "invalid_grant"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"grant_type": "refresh_token", "refresh_token": "access-token-1"}, "invalid_grant"),
        (
            {"grant_type": "refresh_token", "refresh_token": "refresh-token-1", "scope": "admin"},
            "invalid_scope",
        ),
        (
            {"grant_type": "refresh_token", "refresh_token": "refresh-token-1", "client_id": "other"},
            "invalid_grant",
        ),
    ],
)
def test_what_a_provider_refuses_is_refused(
    form: dict[str, str], error: str, fake: FakeProvider, app: Broker
) -> None:
    """With the RFC's error; what was not spent by that still serves."""
    log_in(fake, app)
    answer = present(fake, **form)
    assert (answer["status"], answer["error"]) == (400, error)
    assert renew(app) == "access-token-2"


def test_a_spent_refresh_token_ends_its_grant(fake: FakeProvider, app: Broker) -> None:
    """RFC 9700 section 4.14.2: all that came of the grant is dead."""
    log_in(fake, app)
    token = renew(app)
    spent = {"grant_type": "refresh_token", "refresh_token": "refresh-token-1"}
    assert present(fake, **spent)["error"] == "invalid_grant"
    assert not fake.is_live(token)


def test_a_code_serves_once_and_only_with_its_verifier(fake: FakeProvider, app: Broker) -> None:
    """RFC 6749 section 4.1.2 and RFC 7636 section 4.6."""
    session = app.start_authorization("tenant-acme", "alice", "mail.read", REDIRECT_URI)
    fake.browse(session.authorize_url)
    form = {"grant_type": "authorization_code", "code": "code-1", "redirect_uri": REDIRECT_URI}
    assert present(fake, **form)["error"] == "invalid_grant"
    assert present(fake, **form, code_verifier="w" * 43)["error"] == "invalid_grant"
    verifier = session.code_verifier.expose()
    wrong = {**form, "redirect_uri": "https://app.example.com/other", "code_verifier": verifier}
    assert present(fake, **wrong)["error"] == "invalid_grant"
    token = present(fake, **form, code_verifier=verifier)["access_token"]
    assert fake.is_live(token)
    assert present(fake, **form, code_verifier=verifier)["error"] == "invalid_grant"
    assert not fake.is_live(token)


def test_the_user_can_say_no_or_grant_less(fake: FakeProvider, app: Broker) -> None:
    """access_denied, and a narrower scope in the answer."""
    session = app.start_authorization("tenant-acme", "alice", "mail.read mail.send", REDIRECT_URI)
    with pytest.raises(AuthorizationError, match="access_denied"):
        app.complete_authorization(session, fake.browse(session.authorize_url, approve=False))
    session = app.start_authorization("tenant-acme", "alice", "mail.read mail.send", REDIRECT_URI)
    record = app.complete_authorization(session, fake.browse(session.authorize_url, scope="mail.read"))
    assert set(record.granted_scope or ()) == {"mail.read"}


def test_the_authorization_endpoint_redirects_like_a_browser_would_be(
    fake: FakeProvider, app: Broker
) -> None:
    """For tests that follow redirects by themselves."""
    session = app.start_authorization("tenant-acme", "alice", "mail.read", REDIRECT_URI)
    answer = requests.get(session.authorize_url, allow_redirects=False, timeout=5)
    assert answer.status_code == 302
    assert app.complete_authorization(session, answer.headers["Location"]).refresh_token


def test_an_authorization_request_that_cannot_be_is_an_error(fake: FakeProvider, app: Broker) -> None:
    """A provider would show its user an error page; a test gets a ConfigError that says why."""
    session = app.start_authorization("tenant-acme", "alice", "mail.read", REDIRECT_URI)
    url = session.authorize_url
    for broken, reason in [
        (url.replace("code_challenge=", "x="), "no code_challenge"),
        (url.replace("redirect_uri=", "x="), "no redirect_uri"),
        (url.replace("S256", "plain"), "not S256"),
        (url.replace("response_type=code", "response_type=token"), "response_type"),
        ("https://elsewhere.example.com/authorize", "no authorization request"),
    ]:
        with pytest.raises(ConfigError, match=reason):
            fake.browse(broken)
    with pytest.raises(StateMismatchError):
        app.complete_authorization(session, fake.browse(url.replace("&state=", "&state=not")))


# As the descriptor says.


@pytest.mark.parametrize(
    ("rotation", "second"),
    [(RotationPolicy.ALWAYS, "refresh-token-2"), (RotationPolicy.NEVER, "refresh-token-1")],
)
def test_refresh_tokens_rotate_as_described(
    rotation: RotationPolicy, second: str, clock: FrozenClock
) -> None:
    """A provider that keeps them takes the first one again and again."""
    with FakeProvider(described(rotation=rotation), clock=clock) as fake, client_of(fake, clock) as app:
        log_in(fake, app)
        assert [renew(app), renew(app)] == ["access-token-2", "access-token-3"]
        assert fake.calls[-1].params["refresh_token"] == second


def test_a_spent_refresh_token_serves_during_the_grace(clock: FrozenClock) -> None:
    """As long as the descriptor says."""
    descriptor = described(reuse_grace=timedelta(seconds=30))
    spent = {"grant_type": "refresh_token", "refresh_token": "refresh-token-1"}
    with FakeProvider(descriptor, clock=clock) as fake, client_of(fake, clock) as app:
        log_in(fake, app)
        renew(app)
        clock.advance(30)
        assert present(fake, **spent)["status"] == 200
        clock.advance(31)
        assert present(fake, **spent)["error"] == "invalid_grant"


def test_answers_have_the_shape_of_the_provider(clock: FrozenClock) -> None:
    """Names, units and place of the members, and parameters by other names; the broker reads it all."""
    quirks = ProviderQuirks(
        token_path="data.0",
        expiry=ExpiryRule("expires_at_ms", unit="milliseconds", absolute=True),
        scope_member="granted",
        param_names={"client_id": "client_key", "refresh_token": "token"},
    )
    descriptor = described(quirks=quirks, scope_delimiter=",", client_auth="client_secret_post")
    with FakeProvider(descriptor, clock=clock) as fake, client_of(fake, clock) as app:
        record = fake.log_in(app, "tenant-acme", "alice", "mail.read mail.send")
        assert record.expires_at == clock.now + timedelta(hours=1)
        assert set(record.granted_scope or ()) == {"mail.read", "mail.send"}
        renew(app)
        assert fake.calls[-1].params["refresh_token"] == "refresh-token-1"
        assert "client_secret" not in fake.calls[-1].params
        assert (fake.calls[-1].client_id, fake.calls[-1].client_auth) == ("client-id", "post")
        service = {"grant_type": "client_credentials", "scope": "mail.read,mail.send"}
        answer = present(fake, **service)
    (token,) = answer["data"]
    assert token["granted"] == "mail.read,mail.send"
    assert token["expires_at_ms"] == (clock.now.timestamp() + 3600) * 1000


def test_a_provider_without_refresh_tokens_issues_none(clock: FrozenClock) -> None:
    """And tokens without an end, if asked to."""
    descriptor = described(grants={GrantType.AUTHORIZATION_CODE}, pkce=PkceSupport.UNSUPPORTED)
    with (
        FakeProvider(descriptor, clock=clock, lifetime=None) as fake,
        client_of(fake, clock) as app,
    ):
        record = fake.log_in(app, "tenant-acme", "alice")
        assert (record.refresh_token, record.expires_at) == (None, None)
        clock.advance(timedelta(days=400))
        assert fake.is_live(record.access_token.expose())


NEED_MORE = {"stripe_connect"}  # an account
ELSEWHERE = {
    "facebook": ("revocation", "https://graph.facebook.com/{}/me/permissions", "DELETE"),
    "github": ("revocation", "https://api.github.com/applications/client-id/token", "DELETE"),
    "instagram": ("token", "https://graph.instagram.com/access_token", "GET"),
    "zendesk": ("revocation", "https://{}.zendesk.com/api/v2/oauth/tokens/current.json", "DELETE"),
}


@pytest.mark.parametrize("name", sorted(set(presets.names()) - NEED_MORE - {*ELSEWHERE}))
def test_it_plays_the_presets(name: Any, clock: FrozenClock) -> None:
    """Login, renewal, a dead grant and logout, with nothing but the descriptor."""
    play(sample(name), clock)


def play(descriptor: ProviderDescriptor, clock: FrozenClock, *elsewhere: tuple[str, str, str]) -> None:
    takes_none = descriptor.client_auth == "none"
    with FakeProvider(descriptor, clock=clock) as fake:
        for endpoint, url, method in elsewhere:
            fake.add_endpoint(endpoint, url, method=method)
        app = Broker(descriptor, "client-id", None if takes_none else "client-secret", clock=clock)
        if GrantType.CLIENT_CREDENTIALS in descriptor.grants:
            assert fake.is_live(app.client_credentials(SERVICE).access_token.expose())
        if GrantType.AUTHORIZATION_CODE not in descriptor.grants:
            return
        first = log_in(fake, app)
        assert fake.is_live(first)
        if GrantType.REFRESH_TOKEN in descriptor.grants:
            clock.advance(3500)
            assert fake.is_live(renew(app))
            fake.revoke_grant("alice")
            with pytest.raises(InvalidGrantError):
                renew(app)
        last = log_in(fake, app)
        app.revoke(REQUEST)
        assert fake.is_live(last) == (descriptor.revocation_endpoint is None)


def test_an_endpoint_of_a_strategy_is_added_in_one_line(clock: FrozenClock) -> None:
    """Instagram renews and GitHub revokes at an address that is in no descriptor."""
    for name in ("instagram", "github"):
        play(presets.get(name), clock, ELSEWHERE[name])


def test_a_provider_that_signs_its_callbacks_signs_them_for_its_client_only(clock: FrozenClock) -> None:
    """Whatever else is in them; one with another secret is refused, and so is what a test forges."""
    descriptor = presets.get("shopify", shop="acme")
    with FakeProvider(descriptor, client_secret="hush", clock=clock) as fake:
        app = Broker(descriptor, "client-id", "hush", clock=clock)
        record = fake.log_in(app, "tenant-acme", "alice", callback_params={"host": "a/b c&d=é"})
        assert record.extra["shop"] == "acme.myshopify.com"
        for forged in ({"hmac": "0"}, {"shop": "bolt.myshopify.com"}):
            with pytest.raises(AuthorizationError):
                fake.log_in(app, "tenant-acme", "bob", callback_params=forged)
        with pytest.raises(AuthorizationError, match="signature"):
            fake.log_in(client_of(fake, clock), "tenant-acme", "alice")


def test_a_strategy_of_ones_own_says_how_its_callbacks_are_signed(clock: FrozenClock) -> None:
    """In the place that only tests ask; it sees the parameters of the callback."""

    class Sealed(ProviderStrategy):
        def sign_callback(self, callback: CallbackContext) -> Mapping[str, str]:
            assert callback.client_secret is not None
            return {"seal": f"{callback.client_secret.expose()} on {callback.params['code']}"}

        def check_callback(self, callback: CallbackContext) -> None:
            if callback.params.get("seal") != self.sign_callback(callback)["seal"]:
                raise AuthorizationError("no seal")

    with FakeProvider(described(strategy=Sealed()), clock=clock) as fake:
        assert fake.is_live(log_in(fake, client_of(fake, clock)))


def test_a_walk_with_a_budget_ends_at_once_by_a_frozen_clock(clock: FrozenClock) -> None:
    """Without patience: what is delayed is in the report, and renewed by the next walk."""
    budget = TokenBucket(3, timedelta(seconds=1))
    with FakeProvider(clock=clock) as fake:
        app = Broker(fake.descriptor, "client-id", "client-secret", clock=clock, rate_limit=budget)
        for user in ("alice", "bob", "carol", "dave", "eve"):
            fake.log_in(app, "tenant-acme", user)
            clock.advance(1)
        clock.advance(3000)
        began = time.monotonic()
        first = app.renew_due(within=timedelta(hours=1), jitter=timedelta(), patience=timedelta())
        clock.advance(1)
        second = app.renew_due(within=timedelta(hours=1), jitter=timedelta(), patience=timedelta())
        assert time.monotonic() - began < 60
    assert (first.renewed, second.renewed) == (3, 2)
    assert {type(error) for error in first.errors.values()} == {DelayedError}


# What is scripted.


def test_the_script_is_followed_in_order(fake: FakeProvider, app: Broker, clock: FrozenClock) -> None:
    """Then the provider answers as it is; tokens of the script are tokens like others."""
    fake.will_issue(access_token="t1", refresh_token="r1", expires_in=600, account="a-17")
    fake.will_answer(503, headers={"Retry-After": "7"})
    fake.will_issue(access_token="t2", refresh_token="r2")
    record = fake.log_in(app, "tenant-acme", "alice", "mail.read mail.send")
    assert (record.access_token.expose(), record.extra["account"]) == ("t1", "a-17")
    assert record.expires_at == clock.now + timedelta(seconds=600)
    clock.advance(600)
    with pytest.raises(TransientError) as caught:
        app.refresh_access_token(REQUEST)
    assert caught.value.retry_after == 7.0
    clock.advance(7)
    assert [renew(app), renew(app)] == ["t2", "access-token-3"]
    assert fake.is_live("t2")
    assert [call.params.get("refresh_token") for call in fake.calls] == [None, "r1", "r1", "r2"]
    assert [call.status for call in fake.calls] == [200, 503, 200, 200]


def test_an_answer_without_a_refresh_token_can_be_scripted(fake: FakeProvider, app: Broker) -> None:
    """None leaves a member out."""
    fake.will_issue(refresh_token=None, scope=None, expires_in=None)
    record = fake.log_in(app, "tenant-acme", "alice", "mail.read mail.send")
    assert (record.refresh_token, record.expires_at) == (None, None)
    assert set(record.granted_scope or ()) == {"mail.read", "mail.send"}


def test_a_refusal_does_not_use_up_what_is_to_be_issued(fake: FakeProvider, app: Broker) -> None:
    """An unknown refresh token is refused, whatever was scripted for the next success."""
    log_in(fake, app)
    fake.will_issue(access_token="t1")
    spent = {"grant_type": "refresh_token", "refresh_token": "unknown"}
    assert present(fake, **spent)["error"] == "invalid_grant"
    assert renew(app) == "t1"


def test_errors_and_failures_are_scripted(fake: FakeProvider, app: Broker, clock: FrozenClock) -> None:
    """OAuth errors with their status and description, networks that fail; a call without answer has none."""
    log_in(fake, app)
    clock.advance(3600)
    fake.will_fail(requests.ConnectionError("no route"))
    fake.will_refuse("invalid_client")
    fake.will_refuse("invalid_grant", description="the user left")
    with pytest.raises(TransportError):
        renew(app)
    clock.advance(60)
    with pytest.raises(InvalidClientError):
        renew(app)
    clock.advance(60)
    with pytest.raises(InvalidGrantError, match="the user left"):
        renew(app)
    assert [(call.status, call.error) for call in fake.calls[1:]] == [
        (None, None),
        (401, "invalid_client"),
        (400, "invalid_grant"),
    ]


def test_the_revocation_endpoint_has_a_script_of_its_own(fake: FakeProvider, app: Broker) -> None:
    """Nothing of it is used by a token call."""
    fake.will_answer(503, endpoint="revocation")
    log_in(fake, app)
    with pytest.raises(TransientError):
        app.revoke(REQUEST)
    app.revoke(REQUEST)
    assert [call.status for call in fake.calls] == [200, 503, 200]


def test_an_outage_lasts_as_long_as_its_block(fake: FakeProvider, app: Broker, clock: FrozenClock) -> None:
    """By a status or by an exception, however often the provider is called."""
    log_in(fake, app)
    for outage, expected in [
        (fake.outage(headers={"Retry-After": "30"}), TransientError),
        (fake.outage(error=requests.ConnectionError()), TransportError),
    ]:
        clock.advance(3600)
        with outage:
            for _ in range(2):
                clock.advance(60)
                with pytest.raises(expected):
                    app.refresh_access_token(REQUEST)
        clock.advance(120)
        assert fake.is_live(app.refresh_access_token(REQUEST).access_token.expose())


def test_an_outage_inside_another_ends_alone(fake: FakeProvider) -> None:
    """The outer one goes on, also when the inner one ends by an exception; no script is used up meanwhile."""
    fake.will_refuse("slow_down")

    def ask() -> int:
        return requests.post(fake.descriptor.token_endpoint, timeout=5).status_code

    with fake.outage(503):
        with fake.outage(500):
            assert ask() == 500
        assert ask() == 503
        with suppress(ZeroDivisionError), fake.outage(error=requests.ConnectionError("no route")):
            with pytest.raises(requests.ConnectionError, match="no route"):
                ask()
            raise ZeroDivisionError
        assert ask() == 503
    assert ask() == 400


def test_what_no_call_asked_for_fails_the_test() -> None:
    """A script that the program did not get to is a wrong test or a wrong program; unless that is allowed."""
    with pytest.raises(AssertionError, match=r"no call asked for will_issue\(access_token\)"):
        with FakeProvider() as fake:
            fake.will_issue(access_token="a-secret-token")
    with pytest.raises(AssertionError, match=r"no call asked for will_refuse\('invalid_token'\)"):
        with FakeProvider() as fake:
            fake.api("GET", ME).will_refuse()
    with FakeProvider(allow_unused=True) as fake:
        fake.will_refuse()


def test_an_error_of_the_test_itself_comes_first() -> None:
    """Leaving the context replaces no error by one about the script."""

    def fail() -> None:
        with FakeProvider() as fake:
            fake.will_refuse()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()


def test_a_call_that_nobody_prepared_fails_the_test_by_name() -> None:
    """Even if the program swallowed it; without the query, which may be secret."""

    def stray() -> None:
        with FakeProvider(), suppress(requests.ConnectionError):
            requests.get("https://api.example.com/other?key=hidden", timeout=5)

    with pytest.raises(AssertionError, match=r"to GET https://api\.example\.com/other$") as caught:
        stray()
    assert "hidden" not in str(caught.value)


def test_an_error_of_the_program_says_which_call_was_not_prepared(clock: FrozenClock) -> None:
    """The broker's own error names no URL; a note on it does."""
    elsewhere = described(token_endpoint="https://elsewhere.example.com/token")
    with pytest.raises(TransportError) as caught:
        with FakeProvider(), Broker(elsewhere, "client-id", "secret", clock=clock) as app:
            app.client_credentials(SERVICE)
    assert caught.value.__notes__ == [
        "FakeProvider: nobody prepared an answer to POST https://elsewhere.example.com/token"
    ]


@pytest.mark.parametrize(
    "mistake",
    [
        lambda fake: fake.will_answer(200, json={}, body=""),
        lambda fake: fake.will_answer(42),
        lambda fake: fake.will_answer(503, times=0),
        lambda fake: fake.will_refuse(endpoint="authorization"),
        lambda fake: fake.will_fail("no exception"),
        lambda fake: fake.api("GET", "no url"),
        lambda fake: fake.api("GET", "ftp://api.example.com/me"),
        lambda fake: fake.add_endpoint("introspection", ME),
        lambda fake: fake.log_in(Broker(fake.descriptor, "client-id", "secret"), "tenant", "user"),
        lambda fake: FakeProvider("github"),  # type: ignore[arg-type]
    ],
)
def test_mistakes_are_config_errors(mistake: Any) -> None:
    """At the line that makes them."""
    with pytest.raises(ConfigError):
        mistake(FakeProvider())


# APIs.


@pytest.fixture
def me(fake: FakeProvider) -> FakeApi:
    """An API that says who the user is."""
    return fake.api("GET", ME, json={"name": "Alice"}, scope="mail.read")


def test_an_api_takes_live_tokens_only(
    fake: FakeProvider, app: Broker, me: FakeApi, clock: FrozenClock
) -> None:
    """401 to none, to an unknown, an expired and a revoked one, as RFC 6750 section 3.1 says."""
    token = log_in(fake, app)
    assert get(f"{ME}?fields=name", token).json() == {"name": "Alice"}
    assert requests.get(ME, timeout=5).status_code == 401
    assert requests.get(ME, headers={"Authorization": f"Basic {token}"}, timeout=5).status_code == 401
    refused = get(ME, "unknown")
    assert refused.status_code == 401
    assert 'error="invalid_token"' in refused.headers["WWW-Authenticate"]
    clock.advance(3600)
    assert get(ME, token).status_code == 401
    assert [(call.user, call.status) for call in me.calls] == [("alice", 200)] + [(None, 401)] * 4


def test_tokens_die_before_their_time(fake: FakeProvider, app: Broker, me: FakeApi) -> None:
    """The access token only: renewing still works."""
    token = log_in(fake, app)
    fake.expire_tokens()
    assert get(ME, token).status_code == 401
    assert get(ME, renew(app)).status_code == 200


def test_an_api_wants_its_scope(fake: FakeProvider, app: Broker, me: FakeApi) -> None:
    """403 insufficient_scope names what is missing."""
    other = fake.log_in(app, "tenant-acme", "bob", "mail.send").access_token.expose()
    refused = get(ME, other)
    assert refused.status_code == 403
    assert refused.headers["WWW-Authenticate"] == 'Bearer error="insufficient_scope", scope="mail.read"'


def test_an_api_is_scripted_too(fake: FakeProvider, app: Broker, me: FakeApi) -> None:
    """One 401 to a token that is live, an outage, a failure; then its answer."""
    token = log_in(fake, app)
    me.will_refuse()
    me.will_answer(502, body="bad gateway")
    me.will_fail(requests.ReadTimeout)
    assert [get(ME, token).status_code for _ in range(2)] == [401, 502]
    with pytest.raises(requests.ReadTimeout):
        get(ME, token)
    assert get(ME, token).status_code == 200


def test_a_token_goes_where_the_provider_wants_it(clock: FrozenClock) -> None:
    """Another header, without a scheme."""
    quirks = ProviderQuirks(api_header="X-Access-Token", api_scheme="")
    with FakeProvider(described(quirks=quirks), clock=clock) as fake, client_of(fake, clock) as app:
        me, token = fake.api("GET", ME), log_in(fake, app)
        assert requests.get(ME, headers={"X-Access-Token": token}, timeout=5).status_code == 200
        assert get(ME, token).status_code == 401
        assert [call.user for call in me.calls] == ["alice", None]


def test_of_apis_that_overlap_the_last_one_answers(fake: FakeProvider, app: Broker) -> None:
    """However often; the others stay where they are for the rest of their addresses."""
    token = log_in(fake, app)
    every = fake.api("GET", re.compile(r"https://api\.example\.com/"), body="every")
    me = fake.api("GET", ME, body="me")
    asked = [ME, ME, "https://api.example.com/other", ME, "https://api.example.com/other?page=2"]
    assert [get(url, token).text for url in asked] == ["me", "me", "every", "me", "every"]
    assert (len(every.calls), len(me.calls)) == (2, 3)
    fake.api("GET", ME, body="new")
    assert [get(ME, token).text for _ in range(3)] == ["new"] * 3


def test_apis_are_told_apart_by_the_query_of_their_urls(fake: FakeProvider, app: Broker) -> None:
    """A call must have it, in any order and beside others; one without is not prepared for."""
    token = log_in(fake, app)
    for page in ("1", "2"):
        fake.api("GET", f"{ME}?page={page}&q=a%20b", body=page)
    asked = [f"{ME}?q=a+b&page=1", f"{ME}?page=2&q=a+b&size=9", f"{ME}?page=1&q=a%20b"]
    assert [get(url, token).text for url in asked] == ["1", "2", "1"]
    fake.api("GET", f"{ME}?flag=", body="flag")
    assert [get(url, token).text for url in (f"{ME}?flag=", asked[0])] == ["flag", "1"]


@pytest.mark.parametrize("query", ["", "?page=3", "?page=", "?page=11", "?pages=1"])
def test_an_api_with_a_query_does_not_answer_without(query: str, clock: FrozenClock) -> None:
    """The test fails, and the error says what there is."""

    def stray() -> None:
        with FakeProvider(clock=clock) as fake:
            fake.api("GET", f"{ME}?page=1")
            with pytest.raises(requests.ConnectionError, match=re.escape(f"GET {ME}?page=1")):
                get(f"{ME}{query}", "any")

    with pytest.raises(AssertionError, match=f"nobody prepared an answer to GET {ME}$"):
        stray()


def test_endpoints_can_differ_by_their_query_alone(clock: FrozenClock) -> None:
    """Each call arrives where it belongs."""
    base = "https://site.example.com/?oauth="
    descriptor = described(
        token_endpoint=f"{base}token",
        revocation_endpoint=f"{base}revoke",
        authorization_endpoint=f"{base}ask",
    )
    with FakeProvider(descriptor, clock=clock) as fake, client_of(fake, clock) as app:
        token = log_in(fake, app)
        renew(app)
        app.revoke(REQUEST)
        assert not fake.is_live(token)
        assert [call.endpoint for call in fake.calls] == ["token", "token", "revocation"]


# With others.


def test_it_joins_mocks_of_the_users_own(clock: FrozenClock) -> None:
    """Both answer, the user's mock keeps its own rules, and is as it was afterwards."""
    with responses.RequestsMock() as web:
        own = web.get("https://own.example.com/", json={"own": True})
        with FakeProvider(clock=clock, mock=web) as fake, client_of(fake, clock) as app:
            log_in(fake, app)
            assert requests.get("https://own.example.com/", timeout=5).json() == {"own": True}
        assert web.registered() == [own]
        with pytest.raises(requests.ConnectionError):
            requests.post(fake.descriptor.token_endpoint, timeout=5)


def test_it_leaves_a_mock_of_the_users_own_for_the_same_address_in_place(clock: FrozenClock) -> None:
    """It takes away what it brought, and nothing else."""
    with responses.RequestsMock(assert_all_requests_are_fired=False) as web:
        own = web.post(default_descriptor().token_endpoint, json={})
        with FakeProvider(clock=clock, mock=web):
            assert len(web.registered()) == 2
        assert web.registered() == [own]


def test_a_provider_that_was_not_called_is_no_mistake() -> None:
    """Not even where the user's mock counts: it wants calls of its own responses only."""
    with FakeProvider(mock=responses.RequestsMock()) as fake:
        fake.mock.start()
        fake.mock.stop()
        fake.mock.start()
        fake.mock.get(ME)
        with pytest.raises(AssertionError, match=re.escape(f"[('GET', '{ME}')]")):
            fake.mock.stop()


def test_two_providers_share_a_mock(clock: FrozenClock) -> None:
    """Each answers for its own addresses."""
    second = described(id="second", token_endpoint="https://second.example.com/token")
    with (
        responses.RequestsMock(assert_all_requests_are_fired=False) as web,
        FakeProvider(clock=clock, mock=web) as one,
        FakeProvider(second, clock=clock, mock=web) as two,
    ):
        client_of(one, clock).client_credentials(SERVICE)
        client_of(two, clock).client_credentials(SERVICE)
        assert (len(one.calls), len(two.calls)) == (1, 1)


def test_of_two_providers_at_one_address_the_later_one_answers(clock: FrozenClock) -> None:
    """As often as it is asked, and as long as it is there; then the first one is back."""
    with (
        responses.RequestsMock(assert_all_requests_are_fired=False) as web,
        FakeProvider(clock=clock, mock=web) as one,
    ):
        with FakeProvider(clock=clock, mock=web) as two:
            for _ in range(3):
                present(two, grant_type="client_credentials")
            assert (len(one.calls), len(two.calls)) == (0, 3)
        present(one, grant_type="client_credentials")
        assert (len(one.calls), len(two.calls)) == (1, 3)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_mock_of_the_users_own_for_the_same_address_wins(is_first: bool, clock: FrozenClock) -> None:
    """Added before or after, at every call; the provider keeps its other addresses."""
    refusal: dict[str, Any] = {"status": 400, "json": {"error": "invalid_client"}}
    with responses.RequestsMock() as web:
        if is_first:
            web.post(default_descriptor().token_endpoint, **refusal)
        with FakeProvider(clock=clock, mock=web) as fake, client_of(fake, clock) as app:
            if not is_first:
                web.post(fake.descriptor.token_endpoint, **refusal)
            for _ in range(2):
                clock.advance(60)
                with pytest.raises(InvalidClientError):
                    app.client_credentials(SERVICE)
            assert fake.calls == ()
            me = fake.api("GET", ME)
            assert get(ME, "unknown").status_code == 401
            assert len(me.calls) == 1


def test_fifty_threads_make_one_renewal(fake: FakeProvider, app: Broker, clock: FrozenClock) -> None:
    """All get the same token; the provider saw one call."""
    log_in(fake, app)
    clock.advance(3600)
    crowd = Crowd(50, lambda: app.refresh_access_token(REQUEST).access_token.expose()).start().join()
    assert (crowd.errors, set(crowd.results)) == ([], {"access-token-2"})
    assert len(fake.calls) == 2


def test_fifty_threads_without_a_broker_get_fifty_tokens(fake: FakeProvider) -> None:
    """Every call is answered and remembered, none twice: scripts and counters are safe to share."""
    fake.will_refuse("slow_down", times=10)
    me = fake.api("GET", ME)

    def ask() -> str:
        answer = present(fake, grant_type="client_credentials")
        return "" if "error" in answer else f"{answer['access_token']} {get(ME, answer['access_token'])}"

    crowd = Crowd(50, ask).start().join()
    assert crowd.errors == []
    assert crowd.results.count("") == 10
    assert len(set(crowd.results)) == 41
    assert (len(fake.calls), len(me.calls)) == (50, 40)
    assert {call.user for call in me.calls} == {"client-id"}


def test_calls_are_answered_one_after_the_other() -> None:
    """Two threads never meet inside: what one call changes, the next one sees."""
    meeting, met = threading.Barrier(2), []

    def asked() -> datetime:
        with suppress(threading.BrokenBarrierError):
            met.append(meeting.wait(timeout=0.5))
        return datetime(2026, 1, 1, tzinfo=UTC)

    with FakeProvider(clock=asked) as fake:
        crowd = Crowd(2, lambda: present(fake, grant_type="client_credentials")).start().join()
    assert crowd.errors == []
    assert met == []


def test_a_repr_shows_no_secret(fake: FakeProvider, app: Broker) -> None:
    """Calls can be printed; what a test wants to compare is in params and request."""
    fake.will_issue(access_token="hidden-access", refresh_token="hidden-refresh")
    me = fake.api("GET", ME)
    get(ME, log_in(fake, app))
    renew(app)
    shown = f"{fake!r} {fake.calls!r} {me!r} {me.calls!r} {[call.params for call in fake.calls]}"
    for secret in ("hidden", "code-1", "client-secret"):
        assert secret not in shown
    assert "redirect_uri" in shown
    assert "'grant_type': 'refresh_token'" in shown
    verifier = fake.calls[0].params["code_verifier"]
    assert verifier not in shown
    assert fake.calls[1].params["refresh_token"] == "hidden-refresh"
    assert "client_secret" not in fake.calls[0].params


# The clock.


def test_a_frozen_clock_moves_only_when_told() -> None:
    """By seconds or a timedelta, forth and back; always in UTC."""
    clock = FrozenClock(datetime(2026, 5, 1, 14, tzinfo=timezone(timedelta(hours=2))))
    assert clock() == clock.now == datetime(2026, 5, 1, 12, tzinfo=UTC)
    assert clock().tzinfo is UTC
    clock.advance(1.5)
    clock.advance(timedelta(minutes=1))
    assert clock() == datetime(2026, 5, 1, 12, 1, 1, 500_000, UTC)
    clock.advance(-61.5)
    assert repr(clock) == "FrozenClock(2026-05-01T12:00:00+00:00)"
    clock.now = datetime(2030, 1, 1, tzinfo=UTC)
    assert clock() == datetime(2030, 1, 1, tzinfo=UTC)


def test_a_frozen_clock_is_moved_by_many_threads_at_once() -> None:
    """No step is lost."""
    clock = FrozenClock()
    start = clock()

    def step() -> None:
        for _ in range(200):
            clock.advance(1)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        assert Crowd(50, step).start().join().errors == []
    finally:
        sys.setswitchinterval(interval)
    assert clock() - start == timedelta(seconds=10_000)


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: FrozenClock(datetime(2026, 1, 1)),
        lambda: FrozenClock("2026-01-01"),  # type: ignore[arg-type]
        lambda: setattr(FrozenClock(), "now", datetime(2026, 1, 1)),
        lambda: FrozenClock().advance("an hour"),  # type: ignore[arg-type]
        lambda: FrozenClock().advance(1e18),
        lambda: FrozenClock().advance(float("nan")),
    ],
)
def test_a_frozen_clock_refuses_what_is_no_time(mistake: Any) -> None:
    """Naive datetimes above all."""
    with pytest.raises(ConfigError):
        mistake()


# What is loaded.


def test_the_package_for_tests_needs_no_extra() -> None:
    """Neither responses nor pytest is loaded before FakeProvider is asked for, and it can be."""
    program = (
        "import sys, oauth2broker.testing as t\n"
        "assert not {'responses', 'pytest', '_pytest'} & set(sys.modules), 'loaded early'\n"
        "assert {'FakeProvider', 'TransportContract'} <= set(dir(t))\n"
        "t.FakeProvider, t.FrozenClock, t.TransportContract\n"
        "assert 'responses' in sys.modules\n"
        "try:\n    t.Nothing\nexcept AttributeError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, encoding="utf-8", check=False
    )
    assert (done.stdout, done.stderr) == (
        "module 'oauth2broker.testing' has no attribute 'Nothing'\n",
        "",
    )


@pytest.mark.parametrize(
    "wanted",
    [
        "from oauth2broker.testing import FakeProvider",
        "import oauth2broker.testing.fake_provider",
        "from oauth2broker.testing import *",
    ],
)
def test_without_the_extra_the_error_names_it(wanted: str) -> None:
    """Whichever way FakeProvider is asked for; the rest of the package is there."""
    program = (
        "import sys\n"
        "sys.modules['responses'] = None\n"
        "from oauth2broker.testing import FrozenClock, LoopbackProvider\n"
        f"try:\n    {wanted}\nexcept ImportError as error:\n    print(error, error.name, sep='|')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, encoding="utf-8", check=False
    )
    assert (done.stdout, done.stderr) == (
        'FakeProvider needs the package responses: pip install "oauth2broker[testing]"|responses\n',
        "",
    )
