"""Quoting a provider's own words, without the secrets that it may repeat in them."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Iterator
from urllib.parse import unquote_plus

from oauth2broker.secret import TokenSecret

_PIECE = 8


def safe_text(text: object, sent: Iterable[TokenSecret] = (), limit: int = 200) -> str | None:
    """Give a provider's own words fit for a log: printable, at most ``limit`` long.

    None when they repeat a piece of one of the secrets, as it was sent or encoded otherwise.
    """
    if not isinstance(text, str) or _repeats(text, sent):
        return None
    printable = "".join(c if c.isprintable() else " " for c in text)
    return printable[:limit].strip() or None


def _repeats(text: str, sent: Iterable[TokenSecret]) -> bool:
    readings = {text, unquote_plus(text), html.unescape(text), text.replace("\\", "")}
    folded = [reading.casefold() for reading in readings]
    return any(piece in reading for secret in sent for piece in _pieces(secret) for reading in folded)


def _pieces(secret: TokenSecret) -> Iterator[str]:
    """Give what betrays a secret: any eight characters in a row of it or of its base64, or a short one whole.

    One of less than four characters is in any text; it is no secret.
    """
    plain = secret.expose()
    encoded = base64.b64encode(plain.encode()).decode().rstrip("=")
    bare = plain.replace("\\", "")  # as it is in a text whose own escapes are taken out
    for form in {plain.casefold(), bare.casefold(), encoded.casefold()}:
        if 4 <= len(form) < _PIECE:
            yield form
        yield from (form[start : start + _PIECE] for start in range(len(form) - _PIECE + 1))
