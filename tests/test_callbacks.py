"""Rows 25 and 26 of what must be survived: what may come back from the user's browser."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import pytest

from oauth2broker import (
    AuthorizationError,
    AuthorizationRequiredError,
    AuthorizationSession,
    Broker,
    BrokerError,
    ConfigError,
    GrantType,
    InvalidGrantError,
    ProviderDescriptor,
    ProviderStrategy,
    SerializationError,
    StateMismatchError,
    TokenRecord,
    TransientError,
    TransportError,
)
from oauth2broker.testing import Fault, LoopbackProvider
from tests.support import REDIRECT_URI, SCOPE, TENANT, USER, USER_REQUEST, Crowd, ManualClock


@pytest.fixture
def session(broker: Broker) -> AuthorizationSession:
    """An authorization under way."""
    return broker.start_authorization(TENANT, USER, SCOPE, REDIRECT_URI)


@pytest.fixture
def callback(provider: LoopbackProvider, session: AuthorizationSession) -> str:
    """The URL that the user comes back to after approving."""
    return provider.browse(session.authorize_url)


def query_of(url: str) -> str:
    """Give the query string of a URL."""
    return urlsplit(url).query


def params_of(url: str) -> dict[str, str]:
    """Give the parameters of a URL, each once."""
    return dict(parse_qsl(query_of(url), keep_blank_values=True))


def with_params(url: str, **changes: str | None) -> str:
    """Give the callback URL with parameters set, or removed for None."""
    params = {**params_of(url), **changes}
    kept = {name: value for name, value in params.items() if value is not None}
    return f"{REDIRECT_URI}?{urlencode(kept)}"


def assert_refused(
    broker: Broker,
    provider: LoopbackProvider,
    session: AuthorizationSession,
    callback: Any,
    kind: type[BrokerError],
) -> BrokerError:
    """The callback is refused with exactly this error, nothing is exchanged and nothing stored."""
    calls = provider.token_calls
    with pytest.raises(BrokerError) as caught:
        broker.complete_authorization(session, callback)
    assert type(caught.value) is kind
    assert provider.token_calls == calls
    assert broker.store.fetch(session.key) is None
    return caught.value


# What a callback may look like.


class MultiDict(Mapping[str, str]):
    """As in werkzeug and Django: [] gives one value, getlist all."""

    def __init__(self, lists: Mapping[str, list[str]]) -> None:
        self._lists = lists

    def __getitem__(self, name: str) -> str:
        return self._lists[name][0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._lists)

    def __len__(self) -> int:
        return len(self._lists)

    def getlist(self, name: str) -> list[str]:
        """Give all values of a member."""
        return self._lists.get(name, [])


def lists_of(url: str) -> dict[str, list[str]]:
    """Give all values of all parameters."""
    return parse_qs(query_of(url), keep_blank_values=True)


SHAPES: list[Any] = [
    pytest.param(str, id="URL"),
    pytest.param(lambda url: f"{url}#_=_", id="URL with a fragment"),
    pytest.param(query_of, id="query string"),
    pytest.param(lambda url: "?" + query_of(url), id="query string with a question mark"),
    pytest.param(lambda url: f"/callback?{query_of(url)}", id="path"),
    pytest.param(params_of, id="dict"),
    pytest.param(lists_of, id="dict of lists"),
    pytest.param(lambda url: {k: tuple(v) for k, v in lists_of(url).items()}, id="dict of tuples"),
    pytest.param(lambda url: MultiDict(lists_of(url)), id="multi-dict"),
    pytest.param(lambda url: {**params_of(url), "session_state": "x", "hd": ""}, id="more members"),
    pytest.param(lambda url: with_params(url, error="", error_description=""), id="empty error"),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_callback_is_read_in_every_shape_that_frameworks_give_it(
    provider: LoopbackProvider,
    broker: Broker,
    session: AuthorizationSession,
    callback: str,
    shape: Callable[[str], Any],
) -> None:
    """URL, query string, dict and multi-dict all lead to the same token."""
    record = broker.complete_authorization(session, shape(callback))
    assert provider.is_live(record.access_token.expose())
    assert record == broker.refresh_access_token(USER_REQUEST)


def test_a_query_string_may_hold_a_question_mark(
    provider: LoopbackProvider, broker: Broker, session: AuthorizationSession, callback: str
) -> None:
    """RFC 3986 section 3.4 lets a query hold a bare question mark, and WSGI gives it as it came."""
    odd = f"state={session.state}&code={params_of(callback)['code']}&iss={provider.issuer}&hint=why?not"
    assert broker.complete_authorization(session, odd).access_token


# Row 25: state.

NO_STATE = [
    pytest.param({"state": "another"}, id="wrong"),
    pytest.param({"state": None}, id="missing"),
    pytest.param({"state": ""}, id="empty"),
    pytest.param({"state": "ünïcödé\udcff"}, id="odd"),
    pytest.param({"state": "x" * 100_000}, id="long"),
]


def form_of(url: str, changes: Mapping[str, str | None]) -> dict[str, str]:
    """Give the parameters as a form_post brings them."""
    return {name: value for name, value in {**params_of(url), **changes}.items() if value is not None}


@pytest.mark.parametrize("changes", NO_STATE)
def test_a_wrong_or_missing_state_is_refused(
    provider: LoopbackProvider,
    broker: Broker,
    session: AuthorizationSession,
    callback: str,
    changes: Mapping[str, str | None],
) -> None:
    """StateMismatchError, nothing exchanged; the true callback still works afterwards."""
    assert_refused(broker, provider, session, form_of(callback, changes), StateMismatchError)
    assert_refused(
        broker,
        provider,
        session,
        form_of(callback, {**changes, "error": "access_denied"}),
        StateMismatchError,
    )
    assert broker.complete_authorization(session, callback).access_token


def test_another_sessions_state_is_refused(
    provider: LoopbackProvider, broker: Broker, session: AuthorizationSession
) -> None:
    """A callback belongs to the session it was started with and to no other (login CSRF)."""
    other = broker.start_authorization(TENANT, "mallory", SCOPE, REDIRECT_URI)
    assert_refused(broker, provider, session, provider.browse(other.authorize_url), StateMismatchError)


REPEATED = [
    pytest.param(lambda url: f"{url}&state=other", id="another state"),
    pytest.param(lambda url: f"{url}&state={params_of(url)['state']}", id="same state twice"),
    pytest.param(lambda url: f"{url}&code=other", id="two codes"),
    pytest.param(lambda url: f"{url}&code={params_of(url)['code']}", id="same code twice"),
    pytest.param(lambda url: f"{url}&iss=https://evil.example.com", id="two issuers"),
    pytest.param(lambda url: {**lists_of(url), "code": ["a", "b"]}, id="list of codes"),
    pytest.param(lambda url: {**lists_of(url), "state": lists_of(url)["state"] * 2}, id="list of states"),
    pytest.param(lambda url: MultiDict({**lists_of(url), "code": ["a", "b"]}), id="multi-dict of codes"),
]


@pytest.mark.parametrize("shape", REPEATED)
def test_a_repeated_parameter_is_refused(
    provider: LoopbackProvider,
    broker: Broker,
    session: AuthorizationSession,
    callback: str,
    shape: Callable[[str], Any],
) -> None:
    """RFC 6749 section 3.1: no parameter twice; which of the two would be the true one?"""
    assert_refused(broker, provider, session, shape(callback), AuthorizationError)
    assert broker.complete_authorization(session, callback).access_token


NO_CODE: list[Any] = [
    pytest.param(lambda url: with_params(url, code=None), id="none"),
    pytest.param(lambda url: with_params(url, code=""), id="empty"),
    pytest.param(lambda url: {**params_of(url), "code": "\ud800"}, id="surrogate"),
    pytest.param(lambda url: {**lists_of(url), "code": []}, id="empty list"),
    pytest.param(lambda url: {**params_of(url), "code": None}, id="null"),
    pytest.param(lambda url: {**params_of(url), "code": b"bytes"}, id="bytes"),
    pytest.param(lambda url: {**params_of(url), "code": 7}, id="number"),
    pytest.param(lambda url: {**params_of(url), "code": {"a": "b"}}, id="object"),
    pytest.param(lambda url: dict([*params_of(url).items(), (7, "x")]), id="a name that is no text"),
    pytest.param(lambda url: None, id="None"),
    pytest.param(lambda url: url.encode(), id="bytes for a URL"),
    pytest.param(lambda url: 7, id="a number for a URL"),
    pytest.param(lambda url: [url], id="list for a URL"),
    pytest.param(lambda url: [("code", "a")], id="pairs"),
    pytest.param(lambda url: "http://[::1?" + query_of(url), id="broken URL"),
    pytest.param(lambda url: url + "&a=b" * 200, id="hundreds of parameters"),
]


@pytest.mark.parametrize("shape", NO_CODE)
def test_a_callback_without_a_usable_code_is_refused(
    provider: LoopbackProvider,
    broker: Broker,
    session: AuthorizationSession,
    callback: str,
    shape: Callable[[str], Any],
) -> None:
    """AuthorizationError for every kind of nothing; the true callback still works afterwards."""
    error = assert_refused(broker, provider, session, shape(callback), AuthorizationError)
    assert isinstance(error, AuthorizationError)
    assert error.error == "invalid_callback"
    assert broker.complete_authorization(session, callback).access_token


def test_a_callback_of_more_parameters_than_anybody_sends_is_refused(
    broker: Broker, provider: LoopbackProvider, session: AuthorizationSession, callback: str
) -> None:
    """Whoever can reach the redirect URI does not choose how long it takes to read."""
    flood = callback + "".join(f"&p{number}=" for number in range(100))
    assert_refused(broker, provider, session, flood, AuthorizationError)


@pytest.mark.parametrize("garbage", ["", "?", "#", " ", "\x00", "\ud800", "%", "=", REDIRECT_URI, {}])
def test_garbage_for_a_callback_carries_no_state(
    provider: LoopbackProvider, broker: Broker, session: AuthorizationSession, garbage: Any
) -> None:
    """What can be read but says nothing is refused for its missing state."""
    assert_refused(broker, provider, session, garbage, StateMismatchError)


@pytest.mark.parametrize("code", ["", None, 7, b"code", "\ud800"])
def test_exchange_code_refuses_what_is_no_code(
    provider: LoopbackProvider, broker: Broker, session: AuthorizationSession, code: Any
) -> None:
    """The lower-level call refuses the same, before anything is sent."""
    with pytest.raises(AuthorizationError):
        broker.exchange_code(session, code)
    assert provider.token_calls == 0


# Row 26: the user said no, or the provider did.


def test_a_denied_authorization_says_so_and_never_tries_another_grant(
    provider: LoopbackProvider, broker: Broker, session: AuthorizationSession
) -> None:
    """access_denied comes out with the provider's code; nothing is exchanged, nothing stored."""
    denied = provider.browse(session.authorize_url, approve=False)
    error = assert_refused(broker, provider, session, denied, AuthorizationError)
    assert isinstance(error, AuthorizationError)
    assert error.error == "access_denied"
    assert (error.retryable, error.reauthorize) == (False, False)
    with pytest.raises(AuthorizationRequiredError):
        broker.refresh_access_token(USER_REQUEST)
    assert provider.token_calls == 0


def test_a_denied_authorization_leaves_the_grant_of_an_earlier_one(
    provider: LoopbackProvider, broker: Broker, session: AuthorizationSession, callback: str
) -> None:
    """Who says no to a second consent still has the first."""
    record = broker.complete_authorization(session, callback)
    second = broker.start_authorization(TENANT, USER, SCOPE, REDIRECT_URI)
    with pytest.raises(AuthorizationError):
        broker.complete_authorization(second, provider.browse(second.authorize_url, approve=False))
    assert broker.refresh_access_token(USER_REQUEST) == record
    assert provider.token_calls == 1


@pytest.mark.parametrize(
    "error",
    ["access_denied", "invalid_request", "server_error", "temporarily_unavailable", "login_required", "odd!"],
)
def test_an_error_callback_with_a_code_beside_it_exchanges_nothing(
    provider: LoopbackProvider, broker: Broker, session: AuthorizationSession, callback: str, error: str
) -> None:
    """An error outranks a code."""
    caught = assert_refused(broker, provider, session, with_params(callback, error=error), AuthorizationError)
    assert isinstance(caught, AuthorizationError)
    assert caught.error == error


def test_an_error_callback_ends_the_session(
    provider: LoopbackProvider, broker: Broker, session: AuthorizationSession, callback: str
) -> None:
    """A session whose callback was an error does not serve a second callback."""
    assert_refused(
        broker, provider, session, with_params(callback, error="access_denied", code=None), AuthorizationError
    )
    assert_refused(broker, provider, session, callback, StateMismatchError)


def test_what_the_provider_says_is_made_fit_for_a_log(
    provider: LoopbackProvider, broker: Broker, session: AuthorizationSession
) -> None:
    """Line breaks, escapes, bidi marks and novels do not get into error, description or message."""
    hostile = "no\r\nINFO forged line\x1b[31m\u202egnirts\x00" + "y" * 5000
    answer = {"state": session.state, "error": "odd\r\n" + "x" * 500, "error_description": hostile}
    caught = assert_refused(broker, provider, session, {**answer, "iss": provider.issuer}, AuthorizationError)
    assert isinstance(caught, AuthorizationError)
    for text in (caught.error, caught.description or "", str(caught)):
        assert text.isprintable()
        assert len(text) < 400
    assert (caught.description or "").startswith("no  INFO forged line")


def test_an_unreadable_error_is_still_an_error(
    provider: LoopbackProvider, broker: Broker, session: AuthorizationSession, callback: str
) -> None:
    """An error of which nothing printable is left does not let the code beside it through."""
    caught = assert_refused(
        broker, provider, session, with_params(callback, error="\r\n\x00"), AuthorizationError
    )
    assert isinstance(caught, AuthorizationError)
    assert caught.error == "unreadable"


# The issuer (RFC 9207).


@pytest.mark.parametrize("iss", ["https://evil.example.com", "", "HTTP://127.0.0.1", "http://127.0.0.1:1/"])
def test_another_issuer_is_refused(
    provider: LoopbackProvider, broker: Broker, session: AuthorizationSession, callback: str, iss: str
) -> None:
    """A mix-up is refused for a success and for an error alike, and the true callback still works."""
    caught = assert_refused(broker, provider, session, with_params(callback, iss=iss), AuthorizationError)
    assert isinstance(caught, AuthorizationError)
    assert caught.error == "invalid_issuer"
    assert_refused(
        broker, provider, session, with_params(callback, iss=iss, error="access_denied"), AuthorizationError
    )
    assert broker.complete_authorization(session, callback).access_token


@pytest.mark.parametrize("suffix", ["/", "x"])
def test_an_issuer_that_differs_by_a_character_is_another(
    provider: LoopbackProvider, broker: Broker, session: AuthorizationSession, callback: str, suffix: str
) -> None:
    """RFC 9207 section 2.4: simple string comparison."""
    near = with_params(callback, iss=provider.issuer + suffix)
    assert_refused(broker, provider, session, near, AuthorizationError)


def test_a_missing_issuer_is_refused_only_where_it_is_required(
    provider: LoopbackProvider, clock: ManualClock
) -> None:
    """iss_required refuses a callback without iss; without it, the callback passes."""
    for required in (True, False):
        with Broker(
            provider.descriptor(iss_required=required), "demo-client", "demo-secret", clock=clock
        ) as broker:
            session = broker.start_authorization(TENANT, USER, SCOPE, REDIRECT_URI)
            callback = provider.browse(session.authorize_url)
            bare = with_params(callback, iss=None)
            if required:
                caught = assert_refused(broker, provider, session, bare, AuthorizationError)
                assert isinstance(caught, AuthorizationError)
                assert caught.error == "invalid_issuer"
                assert broker.complete_authorization(session, callback).access_token
            else:
                assert broker.complete_authorization(session, bare).access_token


# Whose session, and how long.


def test_a_session_of_another_provider_or_client_is_a_mistake(
    provider: LoopbackProvider,
    broker: Broker,
    session: AuthorizationSession,
    callback: str,
    clock: ManualClock,
) -> None:
    """A verifier and a code never go to a provider or with a client that they do not belong to."""
    elsewhere = Broker(provider.descriptor(id="elsewhere"), "demo-client", "demo-secret", clock=clock)
    someone = Broker(provider.descriptor(), "public-client", clock=clock)
    with elsewhere, someone:
        for other in (elsewhere, someone):
            assert_refused(other, provider, session, callback, ConfigError)
            with pytest.raises(ConfigError):
                other.exchange_code(session, params_of(callback)["code"])
    assert provider.token_calls == 0
    assert broker.complete_authorization(session, callback).access_token


def test_a_broker_without_the_code_grant_starts_and_completes_nothing(
    provider: LoopbackProvider, session: AuthorizationSession, callback: str, clock: ManualClock
) -> None:
    """An unsupported grant is a ConfigError at the first call."""
    descriptor = provider.descriptor(grants={GrantType.CLIENT_CREDENTIALS})
    with Broker(descriptor, "demo-client", "demo-secret", clock=clock) as service:
        with pytest.raises(ConfigError):
            service.start_authorization(TENANT, USER, SCOPE, REDIRECT_URI)
        with pytest.raises(ConfigError):
            service.complete_authorization(session, callback)
    assert provider.token_calls == 0


def test_a_session_lasts_ten_minutes(provider: LoopbackProvider, broker: Broker, clock: ManualClock) -> None:
    """A callback after 599 seconds is exchanged; one after 600 is refused, and says what helps."""
    early, late = (broker.start_authorization(TENANT, USER, SCOPE, REDIRECT_URI) for _ in range(2))
    clock.advance(599)
    callbacks = [provider.browse(session.authorize_url) for session in (early, late)]
    broker.complete_authorization(early, callbacks[0])
    clock.advance(1)
    calls = provider.token_calls
    with pytest.raises(AuthorizationError) as caught:
        broker.complete_authorization(late, callbacks[1])
    assert caught.value.reauthorize
    assert provider.token_calls == calls


def test_a_restored_session_expires_too(
    provider: LoopbackProvider, broker: Broker, clock: ManualClock, session: AuthorizationSession
) -> None:
    """The end of a session survives its JSON."""
    restored = AuthorizationSession.from_json(session.to_json())
    clock.advance(600)
    callback = provider.browse(session.authorize_url)
    assert_refused(broker, provider, restored, callback, AuthorizationError)


def test_a_replayed_callback_is_refused_without_a_call(
    provider: LoopbackProvider, broker: Broker, session: AuthorizationSession, callback: str
) -> None:
    """A session serves once: the second use is StateMismatchError and leaves the token alone."""
    record = broker.complete_authorization(session, callback)
    for _ in range(2):
        with pytest.raises(StateMismatchError):
            broker.complete_authorization(session, callback)
        with pytest.raises(StateMismatchError):
            broker.exchange_code(session, params_of(callback)["code"])
    assert provider.token_calls == 1
    assert broker.refresh_access_token(USER_REQUEST) == record
    assert provider.is_live(record.access_token.expose())


def test_a_session_serves_one_of_eight_threads(
    provider: LoopbackProvider, broker: Broker, session: AuthorizationSession, callback: str
) -> None:
    """Eight threads bring the same callback at once: one token, one call, seven refusals."""
    crowd = Crowd(8, lambda: broker.complete_authorization(session, callback)).start().join()
    assert len(crowd.results) == 1
    assert [type(error) for error in crowd.errors] == [StateMismatchError] * 7
    assert provider.token_calls == 1
    assert provider.is_live(crowd.results[0].access_token.expose())


@pytest.mark.parametrize(
    "fault", [Fault.answer(503), Fault.answer(429), Fault.json(400, {"error": "temporarily_unavailable"})]
)
def test_a_session_serves_again_when_the_provider_said_that_it_did_nothing(
    provider: LoopbackProvider, broker: Broker, session: AuthorizationSession, callback: str, fault: Fault
) -> None:
    """The code is not spent, so trying again, as a retryable error says, works."""
    provider.inject(fault)
    with pytest.raises(TransientError) as refused:
        broker.complete_authorization(session, callback)
    assert (refused.value.retryable, refused.value.reauthorize) == (True, False)
    assert broker.complete_authorization(session, callback).access_token


@pytest.mark.parametrize("fault", [Fault.lost_answer(), Fault.html()])
def test_an_error_after_which_the_code_may_be_spent_says_start_again(
    provider: LoopbackProvider, broker: Broker, session: AuthorizationSession, callback: str, fault: Fault
) -> None:
    """The same call cannot succeed; only another authorization can."""
    provider.inject(fault)
    with pytest.raises(BrokerError) as lost:
        broker.complete_authorization(session, callback)
    assert (lost.value.retryable, lost.value.reauthorize) == (False, True)


@pytest.mark.parametrize(
    "fault",
    [Fault.lost_answer(), Fault.html(), Fault.json(400, {"error": "invalid_grant"})],
)
def test_a_session_whose_code_may_be_spent_does_not_serve_again(
    provider: LoopbackProvider, broker: Broker, session: AuthorizationSession, callback: str, fault: Fault
) -> None:
    """After anything was sent the session is used up; the code is never presented twice."""
    provider.inject(fault)
    with pytest.raises(BrokerError):
        broker.complete_authorization(session, callback)
    with pytest.raises(StateMismatchError):
        broker.complete_authorization(session, callback)
    assert provider.token_calls == 1


def test_a_session_is_given_back_when_the_connection_was_refused(
    provider: LoopbackProvider, broker: Broker, session: AuthorizationSession, callback: str
) -> None:
    """Nothing went out, so the same callback works once the provider is back, and then no more."""
    provider.close()
    for _ in range(2):
        with pytest.raises(TransportError) as caught:
            broker.complete_authorization(session, callback)
        assert not caught.value.sent
    provider.start()
    assert broker.complete_authorization(session, callback).access_token
    with pytest.raises(StateMismatchError):
        broker.complete_authorization(session, callback)
    assert provider.token_calls == 1


def test_a_hook_that_fails_before_anything_is_sent_does_not_use_the_session_up(
    provider: LoopbackProvider, clock: ManualClock
) -> None:
    """A mistake in a hook can be repaired while the user's callback waits."""

    class Moody(ProviderStrategy):
        failing = True

        def augment_token_request(self, grant: GrantType, form: dict[str, str]) -> None:
            """Fail at first."""
            if self.failing:
                raise RuntimeError("not yet")

    strategy = Moody()
    with Broker(
        provider.descriptor(), "demo-client", "demo-secret", strategy=strategy, clock=clock
    ) as broker:
        session = broker.start_authorization(TENANT, USER, SCOPE, REDIRECT_URI)
        callback = provider.browse(session.authorize_url)
        assert_refused(broker, provider, session, callback, ConfigError)
        strategy.failing = False
        assert broker.complete_authorization(session, callback).access_token


def test_an_invalid_code_says_so_and_leaves_an_earlier_grant(
    provider: LoopbackProvider, broker: Broker, session: AuthorizationSession, callback: str
) -> None:
    """The provider's invalid_grant about a code is InvalidGrantError and buries nothing."""
    record = broker.complete_authorization(session, callback)
    second = broker.start_authorization(TENANT, USER, SCOPE, REDIRECT_URI)
    with pytest.raises(InvalidGrantError):
        broker.exchange_code(second, "made-up")
    assert broker.refresh_access_token(USER_REQUEST) == record


# A session as JSON.


def test_a_session_survives_its_json(
    provider: LoopbackProvider, broker: Broker, session: AuthorizationSession, callback: str
) -> None:
    """What comes back from the database completes the authorization, also through bytes and twice over."""
    restored = AuthorizationSession.from_json(session.to_json())
    again = AuthorizationSession.from_json(restored.to_json().encode())
    assert again.to_json() == session.to_json()
    assert again.code_verifier == session.code_verifier
    assert again.key == session.key == broker.key_for(USER_REQUEST)
    assert broker.complete_authorization(again, callback).access_token


def test_a_sessions_resource_survives_its_json(broker: Broker) -> None:
    """A resource indicator, which is part of the key, comes back."""
    session = broker.start_authorization(
        TENANT, USER, SCOPE, REDIRECT_URI, resource="https://api.example.com"
    )
    restored = AuthorizationSession.from_json(session.to_json())
    assert restored.resource == "https://api.example.com"
    assert restored.key == session.key


HOSTILE_TEXTS = [
    "",
    " ",
    "{",
    "null",
    "[]",
    "7",
    '"x"',
    "{}",
    '{"version": 1}',
    '{"version": 2}',
    "[" * 100_000,
    "9" * 5000,
    b"\xff\xfe\x00",
    b"",
]


@pytest.mark.parametrize("text", HOSTILE_TEXTS, ids=range(len(HOSTILE_TEXTS)))
def test_text_that_is_no_session_is_a_serialization_error(text: str | bytes) -> None:
    """No ValueError, KeyError or RecursionError comes out, whatever the text."""
    with pytest.raises(SerializationError):
        AuthorizationSession.from_json(text)


MEMBERS = [
    *("version", "tenant", "principal", "provider", "client_id", "scope", "redirect_uri", "state"),
    *("code_verifier", "code_challenge", "authorize_url", "expires_at"),
]
MISSING = object()
HOSTILE_VALUES: list[Any] = [MISSING, None, 7, 1.5, ["a", 1], {"a b": 1}, "", "\ud800", "a\nb"]
LENIENT: dict[str, list[Any]] = {
    "scope": [""],  # no scope was asked for
    "resource": [MISSING, None],
}


@pytest.mark.parametrize("member", MEMBERS)
def test_a_missing_or_hostile_member_is_a_serialization_error(
    session: AuthorizationSession, member: str
) -> None:
    """Each member must be there and be what it is; the error shows nothing of the text."""
    good = json.loads(session.to_json())
    for value in HOSTILE_VALUES:
        if value in LENIENT.get(member, []):
            continue
        changed = {name: kept for name, kept in good.items() if name != member}
        text = json.dumps(changed if value is MISSING else {**changed, member: value})
        with pytest.raises(SerializationError) as caught:
            AuthorizationSession.from_json(text)
        assert session.code_verifier.expose() not in str(caught.value)
        assert session.state not in str(caught.value)


@pytest.mark.parametrize("verifier", ["\ud800", "", "a\nb", "short", "a" * 42, "a" * 129, "a" * 43 + "\n"])
def test_a_session_whose_verifier_cannot_be_one_is_a_serialization_error(
    session: AuthorizationSession, verifier: str
) -> None:
    """RFC 7636 section 4.1: 43 to 128 unreserved characters; anything else fails at the exchange."""
    text = json.dumps({**json.loads(session.to_json()), "code_verifier": verifier})
    with pytest.raises(SerializationError):
        AuthorizationSession.from_json(text)


@pytest.mark.parametrize("name", ["_use", "key", "to_json", "__class__", "", "extra"])
def test_an_unknown_member_is_a_serialization_error(session: AuthorizationSession, name: str) -> None:
    """Nothing can be smuggled into a session."""
    text = json.dumps({**json.loads(session.to_json()), name: "x"})
    with pytest.raises(SerializationError):
        AuthorizationSession.from_json(text)


@pytest.mark.parametrize(
    "moment",
    ["yesterday", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "2026-13-01", "1767225600.5"],
)
def test_an_impossible_moment_is_a_serialization_error(session: AuthorizationSession, moment: str) -> None:
    """A time that cannot be, or cannot be put into UTC, is refused."""
    text = json.dumps({**json.loads(session.to_json()), "expires_at": moment})
    with pytest.raises(SerializationError):
        AuthorizationSession.from_json(text)


@pytest.mark.parametrize("nothing", [None, {}])
def test_what_is_no_text_is_no_session(nothing: Any) -> None:
    """Such as what a callback with an unknown state finds: ``saved.pop(state, None)``."""
    with pytest.raises(SerializationError):
        AuthorizationSession.from_json(nothing)
    with pytest.raises(SerializationError):
        TokenRecord.from_json(nothing)


def test_the_json_of_a_session_is_no_session(broker: Broker, session: AuthorizationSession) -> None:
    """The error says what to call, and its traceback does not hold the code verifier."""
    text: Any = session.to_json()
    for call in (broker.complete_authorization, broker.exchange_code):
        with pytest.raises(ConfigError, match="an AuthorizationSession, not str; from_json") as caught:
            call(text, "code=one")
        ours = [entry for entry in caught.traceback if Path(entry.path).parent.name == "flows"]
        assert ours
        verifier = session.code_verifier.expose()
        assert not any(verifier in str(value) for entry in ours for value in entry.locals.values())


# The authorization request.


def test_the_authorization_url_says_all_that_it_must(provider: LoopbackProvider, clock: ManualClock) -> None:
    """code, client, redirect, scope, state, S256, resource, the descriptor's and the caller's parameters."""
    descriptor = provider.descriptor(
        authorization_endpoint=f"{provider.authorization_endpoint}?tenant=acme",
        authorization_params={"access_type": "offline"},
        scope_delimiter=",",
    )
    with Broker(descriptor, "demo-client", "demo-secret", clock=clock) as broker:
        session = broker.start_authorization(
            TENANT,
            USER,
            "profile openid",
            REDIRECT_URI,
            resource="https://api.example.com/v1?x=1&y=2",
            extra_params={"prompt": "consent", "login_hint": "a&b=c@example.com #"},
        )
    digest = sha256(session.code_verifier.expose().encode()).digest()
    challenge = urlsafe_b64encode(digest).decode().rstrip("=")
    assert session.code_challenge == challenge
    assert 43 <= len(session.code_verifier.expose()) <= 128
    assert session.authorize_url.startswith(provider.authorization_endpoint + "?")
    assert lists_of(session.authorize_url) == {
        "tenant": ["acme"],
        "response_type": ["code"],
        "client_id": ["demo-client"],
        "redirect_uri": [REDIRECT_URI],
        "scope": ["openid,profile"],
        "state": [session.state],
        "code_challenge": [challenge],
        "code_challenge_method": ["S256"],
        "resource": ["https://api.example.com/v1?x=1&y=2"],
        "access_type": ["offline"],
        "prompt": ["consent"],
        "login_hint": ["a&b=c@example.com #"],
    }
    assert session.code_verifier.expose() not in session.authorize_url
    assert "demo-secret" not in session.authorize_url
    assert provider.token_calls == 0


def test_state_and_verifier_are_never_the_same_twice(broker: Broker) -> None:
    """A hundred authorizations, a hundred states and verifiers, each long enough."""
    sessions = [broker.start_authorization(TENANT, USER, SCOPE, REDIRECT_URI) for _ in range(100)]
    assert len({session.state for session in sessions}) == 100
    assert len({session.code_verifier for session in sessions}) == 100
    assert len({session.code_challenge for session in sessions}) == 100
    assert all(len(session.state) >= 32 for session in sessions)


OURS = [
    *("response_type", "client_id", "redirect_uri", "scope", "state"),
    *("code_challenge", "code_challenge_method", "resource"),
]


@pytest.mark.parametrize("name", OURS)
def test_extra_parameters_may_not_override_ours(
    provider: LoopbackProvider, broker: Broker, name: str
) -> None:
    """Neither the caller's nor the descriptor's, also where we set none (scope, resource)."""
    with pytest.raises(ConfigError, match=name):
        broker.start_authorization(TENANT, USER, (), REDIRECT_URI, extra_params={name: "x"})
    with pytest.raises(ConfigError, match=f"authorization_params may not override {name}"):
        provider.descriptor(authorization_params={name: "x"})


def test_the_parameter_of_a_resource_is_not_given_twice(
    provider: LoopbackProvider, clock: ManualClock
) -> None:
    """A fixed audience serves until a login asks for another."""
    descriptor = provider.descriptor(resource_param="audience", authorization_params={"audience": "api"})
    with Broker(descriptor, "demo-client", "demo-secret", clock=clock) as odd:
        session = odd.start_authorization(TENANT, USER, (), REDIRECT_URI)
        assert params_of(session.authorize_url)["audience"] == "api"
        with pytest.raises(ConfigError, match="authorization_params may not override audience"):
            odd.start_authorization(TENANT, USER, (), REDIRECT_URI, resource="https://api.example.com")


@pytest.mark.parametrize("params", [{"prompt": None}, {"prompt": 7}, {7: "x"}, {"prompt": ["a"]}])
def test_extra_parameters_are_texts(broker: Broker, params: Any) -> None:
    """A parameter that is no text is a ConfigError, not the word None in a URL."""
    with pytest.raises(ConfigError):
        broker.start_authorization(TENANT, USER, SCOPE, REDIRECT_URI, extra_params=params)


def test_an_extra_parameter_without_an_encoding_is_a_config_error(broker: Broker) -> None:
    """A lone surrogate cannot be sent; saying so is our job."""
    with pytest.raises(ConfigError):
        broker.start_authorization(TENANT, USER, SCOPE, REDIRECT_URI, extra_params={"login_hint": "\ud800"})


REDIRECTS: list[Any] = [
    *("", "/callback", "app.example.com/callback", f"{REDIRECT_URI}#fragment", "https://a b.example.com/"),
    *(
        "https://app.example.com/\r\nX: 1",
        "https://app.example.com:port/",
        None,
        7,
        b"https://app.example.com",
    ),
]


@pytest.mark.parametrize("uri", REDIRECTS)
def test_a_redirect_uri_that_cannot_be_one_is_a_config_error(broker: Broker, uri: Any) -> None:
    """RFC 6749 section 3.1.2: absolute, without a fragment."""
    with pytest.raises(ConfigError):
        broker.start_authorization(TENANT, USER, SCOPE, uri)


class Augmenting(ProviderStrategy):
    """Changes the authorization request as it is told."""

    def __init__(self, act: Callable[[dict[str, str]], None]) -> None:
        self.act = act

    def augment_authorization_request(self, params: dict[str, str]) -> None:
        """Do it."""
        self.act(params)


def test_a_hook_may_add_to_the_authorization_request(provider: LoopbackProvider) -> None:
    """What the strategy adds is in the URL."""
    strategy = Augmenting(lambda params: params.update(audience="api"))
    with Broker(provider.descriptor(), "demo-client", "demo-secret", strategy=strategy) as broker:
        session = broker.start_authorization(TENANT, USER, SCOPE, REDIRECT_URI)
    assert params_of(session.authorize_url)["audience"] == "api"


def test_a_hook_that_fails_on_the_authorization_request_is_a_config_error(
    provider: LoopbackProvider,
) -> None:
    """The hook's mistake comes out as ours to name, without riding along."""

    def fail(params: dict[str, str]) -> None:
        raise KeyError(str(params))

    with Broker(provider.descriptor(), "demo-client", "demo-secret", strategy=Augmenting(fail)) as broker:
        with pytest.raises(ConfigError, match="KeyError") as caught:
            broker.start_authorization(TENANT, USER, SCOPE, REDIRECT_URI)
        assert caught.value.__context__ is None
        assert caught.value.__cause__ is None


def odd_values(params: dict[str, str]) -> None:
    """Leave something that is no text."""
    params["login_hint"] = 7  # type: ignore[assignment]


def surrogates(params: dict[str, str]) -> None:
    """Leave something without an encoding."""
    params["login_hint"] = "\ud800"


@pytest.mark.parametrize("act", [odd_values, surrogates])
def test_a_hook_that_leaves_what_cannot_be_sent_is_a_config_error(
    provider: LoopbackProvider, act: Callable[[dict[str, str]], None]
) -> None:
    """As for token requests: a value that is no encodable text is named, not sent."""
    with (
        Broker(provider.descriptor(), "demo-client", "demo-secret", strategy=Augmenting(act)) as broker,
        pytest.raises(ConfigError),
    ):
        broker.start_authorization(TENANT, USER, SCOPE, REDIRECT_URI)


def test_the_same_provider_under_another_port_is_not_asked(
    provider: LoopbackProvider, session: AuthorizationSession, callback: str, clock: ManualClock
) -> None:
    """The exchange goes to the descriptor's endpoint, whatever URLs the session or the callback hold."""
    with LoopbackProvider(clock=clock) as other:
        tampered = replace(session, authorize_url=other.authorization_endpoint)
        moved = callback.replace("app.example.com", "evil.example.com")
        descriptor: ProviderDescriptor = provider.descriptor()
        with Broker(descriptor, "demo-client", "demo-secret", clock=clock) as broker:
            assert broker.complete_authorization(tampered, moved).access_token
        assert other.token_calls == 0
    assert provider.token_calls == 1
