"""Each preset through the public flow, with answers of the shape that its provider documents."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from oauth2broker import (
    AuthorizationError,
    AuthorizationRequiredError,
    InvalidGrantError,
    ProviderDescriptor,
    RevokedError,
    ScopeSet,
    TokenRecord,
    TokenStatus,
)
from oauth2broker.provider import presets
from tests.presets.shapes import A1, A2, DENIALS, LOGINS, R1, R2, REFUSALS, Kept, Login, Refusal, Want
from tests.presets.support import CLIENT_SECRET, CODE, Answer, Sent, Story, query_of

each_login = pytest.mark.parametrize("login", LOGINS.values(), ids=LOGINS)
RENEWING = {name: login for name, login in LOGINS.items() if login.renewal is not None}
REVOKING = {name: login for name, login in LOGINS.items() if login.revoked is not None}


def describe(login: Login) -> ProviderDescriptor:
    """Give the preset, as this login wants it."""
    name: Any = login.preset  # type checkers know the names
    return presets.get(name, environment=login.environment, **login.variables)


def begin(login: Login, *answers: Answer) -> Story:
    """Make the story of ``login``, with answers other than its own."""
    return Story(describe(login), *answers, secret=login.secret, scope=login.scope)


def answered(body: Any) -> Answer:
    """Give an answer of the table, which is a JSON value where nothing else is odd about it."""
    return body if isinstance(body, Answer) else Answer(body)


def log_in(story: Story, login: Login) -> TokenRecord:
    """Come back with a callback of the provider's shape, signed where it signs them."""
    session = story.start()
    params = {"state": session.state, "code": CODE, **login.callback}
    if login.preset == "shopify":
        message = "&".join(f"{name}={params[name]}" for name in sorted(params))
        params["hmac"] = hmac.new(CLIENT_SECRET.encode(), message.encode(), hashlib.sha256).hexdigest()
    return story.broker.complete_authorization(session, params)


def let_it_expire(story: Story, kept: Kept) -> None:
    """Move on until the token no longer serves; instead of one that never expires another is wanted."""
    story.clock.advance((kept.lasts or 0) + 1)
    if kept.lasts is None:
        story.request = story.request.force_refresh()


def plain(value: Any) -> Any:
    """Give frozen values as JSON has them."""
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def assert_sent(sent: Sent, want: Want) -> None:
    """The request went where it should, in the right form and with nothing else in it."""
    assert (sent.method, sent.url) == (want.method, want.url)
    assert (sent.place, sent.params) == (want.place, want.params)
    assert sent.client == want.client
    for name, value in want.headers.items():
        assert sent.headers[name.lower()] == value


def assert_kept(story: Story, record: TokenRecord, kept: Kept) -> None:
    """The record says what the answer said, it is what is stored, and it shows no secret."""
    assert record == story.stored
    assert record.access_token.expose() == kept.access
    assert (record.refresh_token and record.refresh_token.expose()) == kept.refresh
    assert record.expires_at == after(record, kept.lasts)
    assert record.granted_scope == (story.request.scope if kept.scope is None else ScopeSet(kept.scope))
    assert plain(record.extra) == kept.extra
    if kept.token_type is not None:
        assert record.token_type == kept.token_type
    for secret in (A1, A2, R1, R2, CODE, CLIENT_SECRET):
        assert secret not in repr(record)
        assert secret not in str(plain(record.extra))


def after(record: TokenRecord, seconds: float | None) -> Any:
    """Give the instant that is ``seconds`` after the record was issued."""
    return None if seconds is None else record.issued_at + timedelta(seconds=seconds)


@each_login
def test_the_user_is_asked_as_the_provider_wants(login: Login) -> None:
    """The authorization URL has the provider's own parameters, and lacks what it does not take."""
    asked = query_of(begin(login).start().authorize_url)
    for name, value in login.asks.items():
        assert asked.get(name) == value


@each_login
def test_a_code_ends_in_the_right_record(login: Login) -> None:
    """The code is exchanged as the provider wants, and its answer is read as it means."""
    story = begin(login, answered(login.answer))
    record = log_in(story, login)
    assert_sent(story.sent, login.code)
    assert_kept(story, record, login.kept)
    assert record.refresh_expires_at == after(record, login.kept.refresh_lasts)
    assert record.status_at(story.clock()) is TokenStatus.ACTIVE


@pytest.mark.parametrize("login", RENEWING.values(), ids=RENEWING)
def test_a_renewal_ends_in_the_right_record(login: Login) -> None:
    """The token is renewed once, as the provider wants, and what did not come again is kept."""
    assert login.renewal is not None
    assert login.renewed is not None
    story = begin(login, answered(login.answer), answered(login.renewal_answer))
    log_in(story, login)
    let_it_expire(story, login.kept)
    record = story.broker.refresh_access_token(story.request)
    assert_sent(story.sent, login.renewal)
    assert_kept(story, record, login.renewed)
    assert len(story.provider.sent) == 2


@pytest.mark.parametrize(
    "login", [each for each in LOGINS.values() if each.kept.refresh is None], ids=lambda each: each.preset
)
def test_a_token_that_cannot_be_renewed_is_served_while_it_lasts(login: Login) -> None:
    """Without a refresh token nothing more is sent: it is served, and then the user is needed."""
    story = begin(login, answered(login.answer))
    record = log_in(story, login)
    story.clock.advance((login.kept.lasts or 3 * 365 * 86400) - 120)
    assert story.broker.refresh_access_token(story.request) == record
    story.clock.advance(240)
    if login.kept.lasts is None:
        story.request = story.request.force_refresh()
    with pytest.raises(AuthorizationRequiredError):
        story.broker.refresh_access_token(story.request)
    assert len(story.provider.sent) == 1


@pytest.mark.parametrize("login", REVOKING.values(), ids=REVOKING)
def test_a_revocation_is_what_the_provider_understands(login: Login) -> None:
    """The grant ends at the provider, with the token and the client that it wants, and in the store."""
    assert login.revoked is not None
    story = begin(login, answered(login.answer))
    if login.renewal is not None:
        story.provider.answers.append(answered(login.renewal_answer))
    story.provider.answers.append(login.revoked_answer)
    log_in(story, login)
    if login.renewal is not None:
        story.renew()
    tombstone = story.revoke()
    assert_sent(story.sent, login.revoked)
    assert tombstone is not None
    assert tombstone.revoked_at == story.clock()
    assert not tombstone.access_token
    assert not story.provider.answers


@pytest.mark.parametrize(
    "login",
    [each for each in LOGINS.values() if describe(each).revocation_endpoint is None],
    ids=lambda each: each.preset,
)
def test_where_nothing_can_be_revoked_only_the_store_knows(login: Login) -> None:
    """A provider without a revocation endpoint is sent nothing."""
    story = begin(login, answered(login.answer))
    log_in(story, login)
    tombstone = story.revoke()
    assert tombstone is not None
    assert tombstone.revoked_at is not None
    assert len(story.provider.sent) == 1


def named(refusal: Refusal) -> str:
    """Give a refusal a name in the list of tests."""
    meaning = "dead grant" if refusal.dead else refusal.error.__name__
    return f"{refusal.login} {refusal.stage} {refusal.answer.status} {meaning}"


@pytest.mark.parametrize("refusal", REFUSALS, ids=named)
def test_a_refusal_ends_in_the_right_error(refusal: Refusal) -> None:
    """A dead grant is buried and nothing else is; no error shows what was sent."""
    login = LOGINS[refusal.login]
    story = begin(login, answered(login.answer), refusal.answer)
    if refusal.stage == "code":
        story.provider.answers = [refusal.answer]
    else:
        log_in(story, login)
    calls = {"code": lambda: log_in(story, login), "renewal": story.renew, "revocation": story.revoke}
    with pytest.raises(refusal.error) as caught:
        calls[refusal.stage]()
    assert type(caught.value) is refusal.error
    for secret in (A1, R1, CODE, CLIENT_SECRET):
        assert secret not in str(caught.value)
    if refusal.stage == "code":
        assert story.stored is None
        return
    assert story.stored is not None
    assert (story.stored.revoked_at is not None) == refusal.dead
    if refusal.dead:
        assert issubclass(refusal.error, InvalidGrantError)
        with pytest.raises(RevokedError):
            story.broker.refresh_access_token(story.request)
    else:
        assert story.stored.refresh_token is not None
        assert story.stored.refresh_token.expose() == login.kept.refresh


@pytest.mark.parametrize(("name", "error"), DENIALS.values(), ids=DENIALS)
def test_a_user_who_said_no_is_told_apart(name: str, error: str) -> None:
    """However the provider calls it, it is access_denied, and no code is exchanged."""
    story = begin(LOGINS[name])
    session = story.start()
    with pytest.raises(AuthorizationError) as caught:
        story.broker.complete_authorization(session, {"state": session.state, "error": error})
    assert caught.value.error == "access_denied"
    assert not story.provider.sent


def test_the_shopify_preset_wants_its_callbacks_signed() -> None:
    """A callback that anybody could have written is refused before its code is used."""
    login = LOGINS["shopify"]
    story = begin(login, answered(login.answer))
    with pytest.raises(AuthorizationError, match="signature"):
        story.log_in(**login.callback)
    assert not story.provider.sent
