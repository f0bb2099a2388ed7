"""An error body of any known shape, described as data, ends as what it means.

The shapes are those of real providers. Where no documented code is known, the numbers are made up: what is
tested is where a code sits and what becomes of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from oauth2broker import (
    AuthorizationError,
    AuthorizationSession,
    Broker,
    BrokerError,
    GrantType,
    HttpRequest,
    HttpResponse,
    InvalidClientError,
    InvalidGrantError,
    ProviderDescriptor,
    ProviderQuirks,
    ResponseMetadataSlot,
    RevokedError,
    TokenRecord,
    TransientError,
)
from tests.support import REDIRECT_URI, SCOPE, SERVICE_REQUEST, TENANT, USER, USER_REQUEST, ManualClock

DEAD, CLIENT, DENIED, LATER = "dead grant", "wrong client", "user denied", "try later"
TOKEN = {"access_token": "new-access", "refresh_token": "new-refresh", "expires_in": 3600}
STANDARD = {
    DEAD: "invalid_grant",
    CLIENT: "invalid_client",
    DENIED: "access_denied",
    LATER: "temporarily_unavailable",
}
NUMBERS = {DEAD: 101, CLIENT: 102, DENIED: 103, LATER: 104}
NUMBERED = {str(number): STANDARD[meaning] for meaning, number in NUMBERS.items()}


@dataclass(frozen=True)
class Shape:
    """How a provider says what went wrong.

    ``body`` makes the body of a code; ``codes`` gives the code of a meaning; ``success`` wraps a token;
    ``statuses`` are other statuses than ``status``.
    """

    body: Callable[[Any], object]
    codes: Mapping[str, object] = field(default_factory=lambda: STANDARD)
    quirks: ProviderQuirks = field(default_factory=ProviderQuirks)
    status: int = 400
    statuses: Mapping[str, int] = field(default_factory=dict)
    content_type: str = "application/json"
    success: Callable[[dict[str, Any]], object] = dict

    def answer(self, meaning: str) -> HttpResponse:
        """Give the answer that has this meaning; every one asks for 7 seconds, should it matter."""
        status = self.statuses.get(meaning, self.status)
        return self.answer_with(status, self.body(self.codes[meaning]), {"Retry-After": "7"})

    def good(self) -> HttpResponse:
        """Give an answer that brings a token."""
        return self.answer_with(200, self.success(TOKEN), {})

    def answer_with(self, status: int, body: object, headers: Mapping[str, str]) -> HttpResponse:
        """Give an answer with this body."""
        text = body if isinstance(body, str) else json.dumps(body)
        return HttpResponse(status, {"Content-Type": self.content_type, **headers}, text.encode())


SHAPES = {
    "RFC 6749": Shape(lambda code: {"error": code}),
    "slack": Shape(
        lambda code: {"ok": False, "error": code},
        {
            DEAD: "invalid_refresh_token",
            CLIENT: "bad_client_secret",
            DENIED: "access_denied",
            LATER: "ratelimited",
        },
        ProviderQuirks(
            token_path="authed_user",
            error_codes={
                "invalid_refresh_token": "invalid_grant",
                "bad_client_secret": "invalid_client",
                "ratelimited": "slow_down",
            },
        ),
        status=200,
        success=lambda token: {"ok": True, "team": {"id": "T1"}, "authed_user": {"id": "U1", **token}},
    ),
    "github": Shape(
        lambda code: {
            "error": code,
            "error_description": "The words of it.",
            "error_uri": "https://x.example",
        },
        {**STANDARD, DEAD: "bad_refresh_token", CLIENT: "incorrect_client_credentials"},
        ProviderQuirks(
            error_codes={
                "bad_refresh_token": "invalid_grant",
                "incorrect_client_credentials": "invalid_client",
            }
        ),
        status=200,
    ),
    "github, a form": Shape(
        lambda code: f"error={code}&error_description=The+words+of+it.",
        {**STANDARD, DEAD: "bad_verification_code"},
        ProviderQuirks(error_codes={"bad_verification_code": "invalid_grant"}),
        status=200,
        content_type="application/x-www-form-urlencoded; charset=utf-8",
    ),
    "a form that is called text": Shape(
        lambda code: f"error={code}&error_description=The+words+of+it.", content_type="text/plain"
    ),
    "a number as the error": Shape(
        lambda code: {"error": code, "message": "Words."}, NUMBERS, ProviderQuirks(error_codes=NUMBERED)
    ),
    "error_code": Shape(lambda code: {"error_code": code, "error": True}),
    "code, numbered": Shape(
        lambda code: {"code": code, "message": "Words."}, NUMBERS, ProviderQuirks(error_codes=NUMBERED)
    ),
    "a list": Shape(lambda code: [{"error": code}], success=lambda token: [token]),
    "a list of several": Shape(lambda code: [{"error": code}, {"error": "invalid_request"}]),
    "reddit": Shape(lambda code: {"error": code}, status=200),
    "withings": Shape(
        lambda code: {"status": code, "body": {}, "error": "The words of it"},
        NUMBERS,
        ProviderQuirks(token_path="body", error_paths=["status"], error_codes=NUMBERED),
        status=200,
        success=lambda token: {"status": 0, "body": {"userid": "363", **token}},
    ),
    "wechat": Shape(
        lambda code: {"errcode": code, "errmsg": "the words of it"},
        NUMBERS,
        ProviderQuirks(error_paths=["errcode"], error_codes=NUMBERED),
        status=200,
        content_type="text/plain",
        success=lambda token: {"openid": "o1", "unionid": "u1", **token},
    ),
    "tiktok": Shape(
        lambda code: {"error": code, "error_description": "The words of it.", "log_id": "2026"},
        status=200,
        success=lambda token: {"open_id": "o1", **token},
    ),
    "tiktok, the first version": Shape(
        lambda code: {"data": {"error_code": code, "description": "words"}, "message": "error"},
        NUMBERS,
        ProviderQuirks(token_path="data", error_paths=["data.error_code"], error_codes=NUMBERED),
        status=200,
        success=lambda token: {"data": {"error_code": 0, "open_id": "o1", **token}, "message": "success"},
    ),
    "facebook": Shape(
        lambda code: {
            "error": {"message": "Words.", "type": "OAuthException", "code": code, "fbtrace_id": "A1b"}
        },
        NUMBERS,
        ProviderQuirks(error_paths=["error.error_subcode", "error.code"], error_codes=NUMBERED),
        statuses={LATER: 403},
    ),
    "facebook, by the subcode": Shape(
        lambda code: {"error": {"type": "OAuthException", "code": 1, "error_subcode": code}},
        NUMBERS,
        ProviderQuirks(error_paths=["error.error_subcode", "error.code"], error_codes=NUMBERED),
    ),
    "instagram": Shape(
        lambda code: {"error_type": "OAuthException", "code": code, "error_message": "Words."},
        NUMBERS,
        ProviderQuirks(error_paths=["code"], error_codes=NUMBERED),
    ),
    "fitbit": Shape(
        lambda code: {"success": False, "errors": [{"errorType": code, "message": "Words: more words"}]},
        quirks=ProviderQuirks(error_paths=["errors.0.errorType"]),
        statuses={CLIENT: 401, LATER: 429},
    ),
    "twitch": Shape(
        lambda code: {"error": "Bad Request", "status": 400, "message": code},
        {
            DEAD: "Invalid refresh token",
            CLIENT: "invalid client secret",
            DENIED: "access denied",
            LATER: "wait a little",
        },
        ProviderQuirks(
            error_paths=["message"],
            error_codes={
                "Invalid refresh token": "invalid_grant",
                "invalid client secret": "invalid_client",
                "access denied": "access_denied",
                "wait a little": "slow_down",
            },
        ),
        statuses={CLIENT: 403},
    ),
    "square": Shape(
        lambda code: {"errors": [{"category": "SOME_ERROR", "code": code, "detail": "Words."}]},
        {DEAD: "GONE", CLIENT: "UNAUTHORIZED", DENIED: "DENIED", LATER: "RATE_LIMITED"},
        ProviderQuirks(
            error_paths=["errors.0.code", "type"],
            error_codes={
                "GONE": "invalid_grant",
                "UNAUTHORIZED": "invalid_client",
                "DENIED": "access_denied",
                "RATE_LIMITED": "slow_down",
            },
        ),
        statuses={CLIENT: 401, LATER: 429},
    ),
    "square, the older shape": Shape(
        lambda code: {"message": "Words.", "type": code},
        {DEAD: "grant.gone", CLIENT: "service.not_authorized", DENIED: "denied", LATER: "busy"},
        ProviderQuirks(
            error_paths=["errors.0.code", "type"],
            error_codes={
                "grant.gone": "invalid_grant",
                "service.not_authorized": "invalid_client",
                "denied": "access_denied",
                "busy": "temporarily_unavailable",
            },
        ),
        statuses={CLIENT: 401},
    ),
    "strava": Shape(
        lambda field: {"message": "Bad", "errors": [{"resource": "R", "field": field, "code": "invalid"}]},
        {DEAD: "refresh_token", CLIENT: "client_id", DENIED: "denied", LATER: "rate limit"},
        ProviderQuirks(
            error_paths=["errors.0.field"],
            error_codes={
                "refresh_token": "invalid_grant",
                "client_id": "invalid_client",
                "denied": "access_denied",
                "rate limit": "slow_down",
            },
        ),
        statuses={CLIENT: 401},
    ),
    "hubspot": Shape(
        lambda code: {"status": code, "message": "Words.", "correlationId": "a-b-c"},
        {DEAD: "BAD_REFRESH_TOKEN", CLIENT: "BAD_CLIENT_ID", DENIED: "DENIED", LATER: "BUSY"},
        ProviderQuirks(
            error_paths=["status"],
            error_codes={
                "BAD_REFRESH_TOKEN": "invalid_grant",
                "BAD_CLIENT_ID": "invalid_client",
                "DENIED": "access_denied",
                "BUSY": "temporarily_unavailable",
            },
        ),
    ),
    "x, application only": Shape(
        lambda code: {"errors": [{"code": code, "label": "a_label", "message": "Words."}]},
        NUMBERS,
        ProviderQuirks(error_paths=["errors.0.code"], error_codes=NUMBERED),
        status=403,
    ),
    "atlassian": Shape(
        lambda code: {"error": code, "error_description": "Unknown or invalid refresh token."},
        {**STANDARD, DEAD: "unauthorized_client"},
        ProviderQuirks(error_codes={"unauthorized_client": "invalid_grant"}),
        status=403,
    ),
    "auth0": Shape(lambda code: {"error": code, "error_description": "Words."}, status=403),
    "notion": Shape(
        lambda code: {"object": "error", "status": 400, "code": code, "message": "W.", "request_id": "r"},
        {**STANDARD, CLIENT: "unauthorized", LATER: "rate_limited"},
        ProviderQuirks(
            error_paths=["code"],
            error_codes={"unauthorized": "invalid_client", "rate_limited": "slow_down"},
        ),
        statuses={CLIENT: 401, LATER: 429},
    ),
    "huawei": Shape(
        lambda code: {"error": 1101, "sub_error": code, "error_description": "words"},
        NUMBERS,
        ProviderQuirks(error_paths=["sub_error", "error"], error_codes=NUMBERED),
    ),
    "huawei, without a sub_error": Shape(
        lambda code: {"error": code, "error_description": "words"},
        NUMBERS,
        ProviderQuirks(error_paths=["sub_error", "error"], error_codes=NUMBERED),
        status=200,
    ),
}


@dataclass
class Provider:
    """A transport that gives one answer after another, and the last one for ever."""

    answers: list[HttpResponse]
    calls: int = 0

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        """Answer as told."""
        self.calls += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class World:
    """A broker at a provider of this shape, with a user's expired token in its store."""

    def __init__(self, quirks: ProviderQuirks, *answers: HttpResponse) -> None:
        self.provider = Provider(list(answers))
        self.clock = ManualClock()
        descriptor = ProviderDescriptor(
            id="odd",
            token_endpoint="https://odd.example.com/token",
            authorization_endpoint="https://odd.example.com/authorize",
            grants=set(GrantType),
            quirks=quirks,
        )
        self.broker = Broker(
            descriptor, "client", "client-secret", http_client=self.provider, clock=self.clock
        )
        self.key = self.broker.key_for(USER_REQUEST)
        self.old = TokenRecord(
            family=self.key.family,
            scope=SCOPE,
            access_token="old-access",
            refresh_token="old-refresh",
            issued_at=self.clock.now - timedelta(hours=2),
            expires_at=self.clock.now - timedelta(hours=1),
        )
        self.broker.store.save(self.old)

    def stored(self) -> TokenRecord:
        """Give the user's record."""
        record = self.broker.store.fetch(self.key)
        assert record is not None
        return record

    def session(self) -> AuthorizationSession:
        """Start an authorization of the user."""
        return self.broker.start_authorization(TENANT, USER, SCOPE, REDIRECT_URI)


def renew(world: World) -> TokenRecord:
    """Renew the user's token."""
    return world.broker.refresh_access_token(USER_REQUEST)


def exchange(world: World) -> TokenRecord:
    """Exchange a code."""
    return world.broker.exchange_code(world.session(), "a-code")


def obtain(world: World) -> TokenRecord:
    """Obtain a service token."""
    return world.broker.client_credentials(SERVICE_REQUEST)


FLOWS = [renew, exchange, obtain]
UNTOLD = {"a number as the error", "error_code", "code, numbered"}  # where only a code that is known is found
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


@every_shape
@pytest.mark.parametrize("flow", FLOWS)
def test_a_good_answer_of_the_shape_is_no_error(shape: Shape, flow: Callable[[World], TokenRecord]) -> None:
    """What describes a provider's errors does not make errors of its tokens."""
    world = World(shape.quirks, shape.good())
    assert flow(world).access_token.expose() == "new-access"
    assert world.provider.calls == 1


@every_shape
def test_a_dead_grant_becomes_a_tombstone(shape: Shape) -> None:
    """InvalidGrantError, and from then on RevokedError without a call."""
    world = World(shape.quirks, shape.answer(DEAD))
    with pytest.raises(InvalidGrantError) as caught:
        renew(world)
    assert (caught.value.reauthorize, caught.value.retryable) == (True, False)
    assert world.stored() == world.old.tombstone(world.clock.now)
    with pytest.raises(RevokedError):
        renew(world)
    assert world.provider.calls == 1


@every_shape
def test_a_refused_code_touches_no_stored_grant(shape: Shape) -> None:
    """InvalidGrantError at the exchange of a code is about the code."""
    world = World(shape.quirks, shape.answer(DEAD))
    with pytest.raises(InvalidGrantError):
        exchange(world)
    assert world.stored() == world.old


@every_shape
@pytest.mark.parametrize("flow", FLOWS)
def test_a_wrong_client_touches_no_grant(shape: Shape, flow: Callable[[World], TokenRecord]) -> None:
    """InvalidClientError, the record as it was to the last field, and it is renewed once that is mended."""
    world = World(shape.quirks, shape.answer(CLIENT), shape.good())
    with pytest.raises(InvalidClientError) as caught:
        flow(world)
    assert (caught.value.reauthorize, caught.value.retryable) == (False, False)
    assert world.stored() == world.old
    assert renew(world).access_token.expose() == "new-access"
    assert world.provider.calls == 2


@every_shape
@pytest.mark.parametrize("flow", FLOWS)
def test_a_denial_at_the_token_endpoint_says_access_denied(
    shape: Shape, flow: Callable[[World], TokenRecord]
) -> None:
    """AuthorizationError by the RFC's code, whatever the provider calls it; the grant is as it was."""
    world = World(shape.quirks, shape.answer(DENIED))
    with pytest.raises(AuthorizationError) as caught:
        flow(world)
    assert (caught.value.error, caught.value.retryable) == ("access_denied", False)
    assert world.stored() == world.old


@every_shape
@pytest.mark.parametrize("flow", [renew, obtain])
def test_a_provider_that_says_later_is_left_alone_until_then(
    shape: Shape, flow: Callable[[World], TokenRecord]
) -> None:
    """TransientError with the wait; no call during it, one after it, with the same refresh token."""
    world = World(shape.quirks, shape.answer(LATER), shape.good())
    with pytest.raises(TransientError) as caught:
        flow(world)
    assert (caught.value.retryable, caught.value.retry_after) == (True, 7)
    assert world.stored().refresh_token == world.old.refresh_token
    assert world.stored().revoked_at is None
    world.clock.advance(6)
    with pytest.raises(TransientError) as caught:
        flow(world)
    assert (world.provider.calls, caught.value.retry_after) == (1, 1)
    world.clock.advance(1)
    assert flow(world).access_token.expose() == "new-access"
    assert world.provider.calls == 2


@every_shape
def test_a_code_may_be_presented_again_when_the_provider_said_later(shape: Shape) -> None:
    """The session serves once more: an answer came, and it says that the code was not spent."""
    world = World(shape.quirks, shape.answer(LATER), shape.good())
    session = world.session()
    with pytest.raises(TransientError) as caught:
        world.broker.exchange_code(session, "a-code")
    assert (caught.value.retryable, caught.value.retry_after) == (True, 7)
    assert world.broker.exchange_code(session, "a-code").access_token.expose() == "new-access"


@every_shape
@pytest.mark.parametrize("meaning", [DEAD, CLIENT, DENIED, LATER])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_provider_that_is_down_buries_no_grant(shape: Shape, meaning: str, status: int) -> None:
    """Whatever it says."""
    said = shape.answer(meaning)
    world = World(shape.quirks, HttpResponse(status, said.headers, said.body))
    with pytest.raises(TransientError) as caught:
        renew(world)
    assert caught.value.retry_after == 7
    assert (world.stored().refresh_token, world.stored().revoked_at) == (world.old.refresh_token, None)


# Callbacks.

CALLBACKS = {
    "linkedin, at the login": ({"error": "user_cancelled_login"}, "user_cancelled_login"),
    "linkedin, at the consent": ({"error": "user_cancelled_authorize"}, "user_cancelled_authorize"),
    "pipedrive": ({"error": "user_denied"}, "user_denied"),
    "numbers": ({"error": "103", "sub_error": "20155"}, "103"),
    "RFC 6749": ({"error": "access_denied", "error_description": "No."}, "unused"),
}


@pytest.mark.parametrize(("params", "code"), CALLBACKS.values(), ids=CALLBACKS.keys())
def test_a_denial_in_the_callback_says_access_denied(params: Mapping[str, str], code: str) -> None:
    """By the same map of codes; no call is made, and the stored grant stays."""
    world = World(ProviderQuirks(error_codes={code: "access_denied"}), SHAPES["RFC 6749"].good())
    session = world.session()
    with pytest.raises(AuthorizationError) as caught:
        world.broker.complete_authorization(session, {**params, "state": session.state})
    assert caught.value.error == "access_denied"
    assert (world.provider.calls, world.stored()) == (0, world.old)


# Without a code that could be described.

PAGE = HttpResponse(400, {"Content-Type": "text/html"}, b"<!DOCTYPE html><title>Oauth error</title>")
CHALLENGE = {"WWW-Authenticate": 'Basic realm="provider"'}


def test_a_page_instead_of_a_refusal_is_no_dead_grant() -> None:
    """Shopify: nobody can tell an outage from a refusal, so the refresh token is tried again later."""
    world = World(ProviderQuirks(), PAGE, SHAPES["RFC 6749"].good())
    with pytest.raises(TransientError, match="answered 400 with a body that is HTML"):
        renew(world)
    assert world.stored().refresh_token == world.old.refresh_token
    world.clock.advance(60)
    assert renew(world).access_token.expose() == "new-access"


def test_a_page_instead_of_a_refused_code_means_start_again() -> None:
    """Shopify, at the exchange: the code may be spent, so the user is asked and not the provider."""
    world = World(ProviderQuirks(), PAGE)
    with pytest.raises(TransientError) as caught:
        exchange(world)
    assert (caught.value.retryable, caught.value.reauthorize) == (False, True)
    assert world.stored() == world.old


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("body", [b"", b"<html></html>", b"Unauthorized"])
def test_a_challenge_without_an_oauth_body_is_a_wrong_client(
    flow: Callable[[World], TokenRecord], body: bytes
) -> None:
    """Reddit: 401 with WWW-Authenticate says what a code would have said."""
    world = World(ProviderQuirks(), HttpResponse(401, CHALLENGE, body))
    with pytest.raises(InvalidClientError):
        flow(world)
    assert world.stored().refresh_token == world.old.refresh_token
    assert world.stored().revoked_at is None


@pytest.mark.parametrize("shape", [shape for name, shape in SHAPES.items() if name not in UNTOLD])
def test_an_unknown_code_is_a_mistake_of_the_configuration_and_no_more(shape: Shape) -> None:
    """What the descriptor does not know destroys nothing, and is named so that it can be described."""
    code = 987 if isinstance(shape.codes[DEAD], int) else "never_heard_of"
    said = shape.body(code)
    body = said if isinstance(said, str) else json.dumps(said)
    world = World(shape.quirks, HttpResponse(400, {"Content-Type": shape.content_type}, body.encode()))
    with pytest.raises(BrokerError, match=str(code)) as caught:
        renew(world)
    assert (caught.value.retryable, caught.value.reauthorize) == (False, False)
    assert world.stored() == world.old


@pytest.mark.parametrize("name", sorted(UNTOLD))
def test_an_unknown_code_in_a_place_that_nobody_told_us_is_none(name: str) -> None:
    """It may be anything, such as the status again: the grant stays, and the renewal is tried again."""
    world = World(SHAPES[name].quirks, SHAPES[name].answer_with(400, SHAPES[name].body(404), {}))
    with pytest.raises(TransientError, match="no error code"):
        renew(world)
    assert world.stored().refresh_token == world.old.refresh_token
