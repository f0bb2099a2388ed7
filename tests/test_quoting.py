"""A provider's own words are quoted, but for those that repeat a piece of what was sent."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable
from urllib.parse import quote_plus

import pytest

from oauth2broker.quoting import safe_text
from oauth2broker.secret import TokenSecret

SECRET = 'Se+cr%41t <&"\\> of twenty'


def says(text: str, *secrets: str) -> str | None:
    """Give what is quoted of ``text`` when ``secrets`` were sent."""
    return safe_text(text, [TokenSecret(secret) for secret in secrets])


@pytest.mark.parametrize("start", range(len(SECRET) - 7))
def test_any_eight_characters_of_a_secret_betray_it(start: int) -> None:
    """From the first to the last, in any case, with whatever stands around; seven do not."""
    piece = SECRET[start : start + 8]
    for text in (piece, piece.upper(), piece.lower(), f"the token {piece}... is unknown"):
        assert says(text, "another-one", SECRET) is None
    assert says(f"({piece[:7]})", SECRET) == f"({piece[:7]})"


@pytest.mark.parametrize(
    "encode",
    [
        str,
        quote_plus,
        html.escape,
        json.dumps,
        lambda plain: json.dumps(json.dumps(plain)),
        lambda plain: base64.b64encode(plain.encode()).decode(),
        lambda plain: base64.b64encode(plain.encode()).decode().lower(),
    ],
    ids=["plain", "form", "HTML", "JSON", "JSON in JSON", "base64", "base64 in small letters"],
)
def test_a_secret_is_known_in_every_dress(encode: Callable[[str], str]) -> None:
    """As answers, error pages and gateways repeat it."""
    for secret in (SECRET, 'a<"\\b+c%41', "plain-and-long"):
        assert says(f"not {encode(secret)} at all", secret) is None


@pytest.mark.parametrize("secret", ["abcd", "abcde", "abcdef", "abcdefg"])
def test_a_short_secret_is_known_as_a_whole(secret: str) -> None:
    """Also by its base64, with and without the padding; a part of it is a word like others."""
    encoded = base64.b64encode(secret.encode()).decode()
    for repeated in (secret, secret.upper(), encoded, encoded.rstrip("=")):
        assert says(f"unknown: {repeated}!", secret) is None
    assert says(f"unknown: {secret[:-1]}!", secret) == f"unknown: {secret[:-1]}!"


def test_three_characters_are_no_secret() -> None:
    """They are in any text; else nothing would ever be quoted."""
    assert says("the abc of it", "abc") == "the abc of it"


def test_what_is_quoted_is_one_line_of_bounded_length() -> None:
    """Fit for a log; what is no text, or blank, is nothing."""
    assert safe_text("  bad\r\nthing\x00\x1b[2J ") == "bad  thing  [2J"
    assert safe_text("x" * 300) == "x" * 200
    assert safe_text("x" * 300, limit=64) == "x" * 64
    for nothing in (None, 7, b"text", ["text"], "", " \r\n"):
        assert safe_text(nothing) is None
