"""Whether an answer that brought no token says that the credential presented was not spent."""

from __future__ import annotations

import json

import pytest

from oauth2broker import (
    BrokerError,
    ConfigError,
    DefaultProviderStrategy,
    GrantType,
    HttpResponse,
    InvalidClientError,
    InvalidGrantError,
    ProviderDescriptor,
    ProviderQuirks,
    TransientError,
)
from oauth2broker.answers import TokenFailure, read_token_answer

DESCRIPTOR = ProviderDescriptor(
    "odd",
    "https://provider.example.com/token",
    ["refresh_token"],
    quirks=ProviderQuirks(
        error_paths=["why", "and.also"],
        error_codes={"17": "invalid_client"},
        dead_refresh_texts=["token is DEAD"],
    ),
)
CHALLENGE = {"WWW-Authenticate": 'Basic realm="odd"'}
DEAD = "Your Token IS dead."


def read(response: HttpResponse, grant: GrantType = GrantType.REFRESH_TOKEN) -> TokenFailure:
    """Give what is made of an answer to a renewal."""
    found = read_token_answer(response, grant, DESCRIPTOR, DefaultProviderStrategy(), [], {})
    assert isinstance(found, TokenFailure)
    return found


def said(status: int, body: object = "", headers: dict[str, str] | None = None) -> HttpResponse:
    """Give an answer."""
    text = body if isinstance(body, str) else json.dumps(body)
    return HttpResponse(status, headers or {}, text.encode())


@pytest.mark.parametrize(
    ("response", "kind", "settled"),
    [
        *((said(status, {"error": "invalid_grant"}), ConfigError, False) for status in (300, 302, 399)),
        (said(401, "", CHALLENGE), InvalidClientError, False),
        (said(401, {"no": "code"}, CHALLENGE), InvalidClientError, False),
        (said(401, {"error": "invalid_grant"}, CHALLENGE), InvalidGrantError, True),
        (said(401, {"message": DEAD}, CHALLENGE), InvalidGrantError, True),
        (said(401, {"no": "code"}), TransientError, False),
        *((said(status, "<html>"), TransientError, True) for status in (429, 503)),
        *((said(status, "<html>"), TransientError, False) for status in (200, 400, 500, 502)),
        (said(400, {"error": "invalid_grant"}), InvalidGrantError, True),
        (said(199, {"error": "invalid_grant"}), InvalidGrantError, True),
        (said(200, {"error": "odd"}), ConfigError, True),
        (said(200, {"nothing": "at all"}), TransientError, False),
        (said(200, {"why": "odd"}), ConfigError, False),
        (said(200, {"why": 17}), InvalidClientError, True),
        (said(200, {"why": "odd", "and": {"also": 17}}), InvalidClientError, True),
        (said(200, {"message": DEAD}), InvalidGrantError, True),
        (said(200, {"why": "odd", "message": DEAD}), InvalidGrantError, True),
        (said(500, {"message": DEAD}), TransientError, False),
        (said(429, {"error": "odd", "message": DEAD}), TransientError, True),
    ],
)
def test_a_refusal_settles_and_everything_else_leaves_it_open(
    response: HttpResponse, kind: type[BrokerError], settled: bool
) -> None:
    """A refresh token whose answer says nothing may have been spent: it is not presented again at once."""
    failure = read(response)
    assert (type(failure.error), failure.error.status) == (kind, response.status)
    assert (failure.settled, failure.refresh_token) == (settled, None)


def test_words_bury_a_refresh_token_only_where_one_was_presented() -> None:
    """The same words to another grant are a body without a code."""
    failure = read(said(400, {"message": DEAD}), GrantType.AUTHORIZATION_CODE)
    assert (type(failure.error), failure.settled) == (TransientError, False)


@pytest.mark.parametrize("body", [{"why": 17}, {"why": "odd"}, {"message": DEAD}, {"error": "invalid_grant"}])
def test_a_refresh_token_beside_a_refusal_is_worth_more(body: dict[str, object]) -> None:
    """It is kept, and nothing is settled."""
    failure = read(said(200, {**body, "refresh_token": "new-one"}))
    assert failure.refresh_token is not None
    assert (failure.refresh_token.expose(), failure.settled) == ("new-one", False)
