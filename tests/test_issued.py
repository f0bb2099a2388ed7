"""What a record takes from an answer, and whom an id token names."""

from __future__ import annotations

import base64
import json
from datetime import timedelta

import pytest

from oauth2broker.issued import read_subject
from oauth2broker.secret import TokenSecret
from tests.test_provider_data import ANSWER, Wire, log_in, make


def id_token(payload: bytes) -> TokenSecret:
    """Give what looks like a signed token with this payload."""
    return TokenSecret(f"e30.{base64.urlsafe_b64encode(payload).decode().rstrip('=')}.sig")


@pytest.mark.parametrize("subject", ["", "a", "ab", "abc", "abcd", "älice?>~", "ÿ" * 7])
def test_the_subject_is_read_whatever_its_length(subject: str) -> None:
    """Base64 without padding, in the alphabet for URLs (RFC 7515 section 2)."""
    assert read_subject(id_token(json.dumps({"sub": subject}, ensure_ascii=False).encode())) == subject


@pytest.mark.parametrize(
    "token",
    [
        None,
        TokenSecret("no-dots"),
        TokenSecret("a.b"),
        TokenSecret("a.%%%.c"),
        id_token(b""),
        id_token(b"\xff\xfe"),
        id_token(b'"sub"'),
        id_token(b'["sub"]'),
        id_token(b"7"),
        id_token(b"{}"),
        id_token(b'{"sub": 7}'),
        id_token(b"[" * 100_000),
    ],
)
def test_what_names_nobody_is_none(token: TokenSecret | None) -> None:
    """Never an exception: its frame would hold the token."""
    assert read_subject(token) is None


def test_a_refresh_token_that_there_is_not_has_no_lifetime() -> None:
    """The default is of those that came."""
    month = timedelta(days=30)
    without = {name: value for name, value in ANSWER.items() if name != "refresh_token"}
    assert log_in(make(Wire(without), default_refresh_expires_in=month)).refresh_expires_at is None
    record = log_in(make(Wire(ANSWER), default_refresh_expires_in=month))
    assert record.refresh_expires_at == record.issued_at + month
