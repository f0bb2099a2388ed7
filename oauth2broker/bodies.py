"""The body of a provider's answer, read for what it is and not for what it is called. Pure.

Functions that hold plain secrets return what went wrong instead of raising it, so that no traceback shows
their locals.
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import parse_qsl

from oauth2broker.secret import TokenSecret, usable_secret
from oauth2broker.transports.base import HttpResponse

_FORM = "application/x-www-form-urlencoded"
_NO_FORMS = frozenset('{["<')  # how JSON, also when it was cut, and pages begin
_TELLING = frozenset({"access_token", "refresh_token", "error"})
_REFRESH_MEMBER = re.compile(r'"refresh_token"\s*:\s*("(?:[^"\\]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*")')


def parse_body(response: HttpResponse) -> dict[str, Any] | str:
    """Give the answer's JSON object (or form, as some providers answer), or what is wrong with it.

    A list of one object stands for it, and a list of errors for the first.
    """
    text = _text(response).strip()
    if not text:
        return "is empty"
    try:
        payload = json.loads(text, parse_int=_integer, strict=False)
    except (ValueError, RecursionError):
        return _form(text, response) or ("is HTML, not JSON" if text[0] == "<" else "is not JSON")
    if isinstance(payload, list) and (len(payload) == 1 or not 200 <= response.status < 300):
        payload = next(iter(payload), None)
    return payload if isinstance(payload, dict) else "is JSON but no object"


def rescue_refresh_token(response: HttpResponse) -> TokenSecret | None:
    """Find the refresh token in a successful answer that cannot be parsed: no other may be alive."""
    found = _REFRESH_MEMBER.search(_text(response)) if 200 <= response.status < 300 else None
    return None if found is None else usable_secret(json.loads(found[1], strict=False))


def _form(text: str, response: HttpResponse) -> dict[str, Any]:
    """Give the members of a form: of what is called one, or has a member that makes it one."""
    if text[0] in _NO_FORMS:
        return {}
    members: dict[str, Any] = dict(parse_qsl(text))
    is_called_one = response.headers.get("content-type", "").lower().startswith(_FORM)
    return members if is_called_one or _TELLING & members.keys() else {}


def _text(response: HttpResponse) -> str:
    """Give the body as text; bytes that are none become replacement characters, not an error."""
    return response.body.decode(json.detect_encoding(response.body), "replace")


def _integer(digits: str) -> int | float:
    """Read a JSON integer; one of more digits than Python takes is as good as infinite."""
    try:
        return int(digits)
    except ValueError:
        return float(digits)
