"""Reading the redirect back from the authorization endpoint (RFC 6749 sections 4.1.2 and 4.1.2.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from oauth2broker.secret import TokenSecret, usable_secret

_MOST_PARAMETERS = 100
_LOCATION = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|/")  # how a URL or a path starts, and no query string


@dataclass(frozen=True, slots=True)
class Callback:
    """A callback's parameters, each there at most once. The code is a secret; ``params`` are all of them."""

    state: str | None = field(repr=False)
    code: TokenSecret | None
    error: str | None
    error_description: str | None
    iss: str | None
    params: Mapping[str, str] = field(repr=False)


def parse_callback(callback: str | Mapping[str, Any]) -> Callback | str:
    """Give the parameters of a URL, a query string or a mapping, or what is wrong. Never raises."""
    pairs = _pairs(callback)
    if isinstance(pairs, str):
        return pairs
    params = dict(pairs)
    if len(params) != len(pairs):
        return "it carries a parameter more than once"
    return Callback(
        state=params.get("state"),
        code=usable_secret(params.get("code")),
        error=params.get("error") or None,
        error_description=params.get("error_description"),
        iss=params.get("iss"),
        params=params,
    )


def _pairs(callback: str | Mapping[str, Any]) -> list[tuple[str, str]] | str:
    if isinstance(callback, Mapping):
        pairs = [(name, value) for name in callback for value in _values(callback, name)]
        if not all(isinstance(name, str) and isinstance(value, str) for name, value in pairs):
            return "it carries a value that is no text"
        return pairs
    if not isinstance(callback, str):
        return "it is neither text nor a mapping"
    try:
        before, mark, _ = callback.partition("?")
        is_location = bool(mark) and (_LOCATION.match(before) is not None or "=" not in before)
        query = urlsplit(callback).query if is_location else callback
        return parse_qsl(query, keep_blank_values=True, max_num_fields=_MOST_PARAMETERS)
    except ValueError:
        return "it is no URL or query string"


def _values(mapping: Mapping[str, Any], name: str) -> Iterable[Any]:
    """Give all values of a member, also of the multi-dicts of Flask and Django."""
    getlist = getattr(mapping, "getlist", None)
    value = getlist(name) if callable(getlist) else mapping[name]
    return value if isinstance(value, list | tuple) else [value]
