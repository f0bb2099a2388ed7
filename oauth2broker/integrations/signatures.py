"""What a signer did to a prepared request of ``requests``, and how to undo it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from requests import PreparedRequest

from oauth2broker.errors import BrokerError, ConfigError
from oauth2broker.integrations.signed_calls import Origin, origin_of
from oauth2broker.records import TokenRecord

MakeAgain = Callable[[], PreparedRequest | None]

_URL = ""  # where a signature has the URL among the headers


@dataclass(frozen=True, slots=True)
class Made:
    """A request before it was signed, and what makes it anew."""

    method: str | None
    url: str | None = field(repr=False)
    body: Any = field(repr=False)
    again: MakeAgain

    @classmethod
    def of(cls, prepared: PreparedRequest, again: MakeAgain) -> Made:
        return cls(prepared.method, prepared.url, prepared.body, again)

    def is_it(self, unsigned: PreparedRequest) -> bool:
        """Whether this is it, and not what a redirect made of it."""
        same = (unsigned.method, unsigned.url) == (self.method, self.url)
        return same and unsigned.body is self.body


@dataclass(frozen=True, slots=True)
class Signature:
    """What signing did to a request: which headers it set, and what was there before.

    The token is kept as a hash, so that a look at the request tells whether it is still there.
    """

    record: TokenRecord
    origin: Origin
    marks: Mapping[str, bytes] = field(repr=False)
    before: Mapping[str, Any] = field(repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The headers that were set."""
        return tuple(name for name in self.marks if name != _URL)

    def is_on(self, request: PreparedRequest) -> bool:
        """Whether ``request`` carries it, to where it may go."""
        if not self.marks or origin_of(request.url or "") != self.origin:
            return False
        there = _visible(request)
        return all(_hashed(there.get(name)) == mark for name, mark in self.marks.items())

    def undo(self, request: PreparedRequest) -> None:
        """Make ``request`` what it was before."""
        for name in self.names:
            request.headers.pop(name, None)
        for name, value in self.before.items():
            if name == _URL:
                request.url = value
            elif value is not None:
                request.headers[name] = value


def signed_by(
    signer: Any, request: PreparedRequest, record: TokenRecord, origin: Origin
) -> Signature | BrokerError:
    """Let ``signer`` sign, and see what it did. Never raises: it holds the token in plain.

    Headers that hold the token already are taken off before, to see whether the signer sets them.
    """
    before, body, token = _visible(request), request.body, record.access_token.expose()
    held = {name: value for name, value in request.headers.items() if token in _text(value)}
    for name in held:
        del request.headers[name]
    error = _attached(signer, request, record)
    after = _visible(request)
    for name, value in held.items():
        request.headers.setdefault(name, value)
    if error is not None:
        return error
    if request.body is not body or origin_of(request.url or "") != origin:
        return ConfigError(
            "the signer changed the request's body or origin: a token goes in a header or the URL"
        )
    lowered = {name.lower() for name in held}
    changed = [name for name, value in after.items() if name in lowered or before.get(name) != value]
    if not changed:
        return ConfigError("the signer attached nothing to the request")
    marks = {name: _hashed(after[name]) for name in changed}
    kept = {name: before.get(name) for name in changed if before.get(name) != after[name]}
    return Signature(record, origin, marks, kept)


def _attached(signer: Any, request: PreparedRequest, record: TokenRecord) -> BrokerError | None:
    """Sign ``request`` itself; give what is wrong."""
    try:
        signed = signer.attach(request, record)
    except BrokerError as raised:
        return copy.copy(raised)  # without its traceback, whose frames may hold the token
    except Exception as raised:  # noqa: BLE001 - a signer may raise anything
        return ConfigError(f"the signer failed ({type(raised).__name__})")
    if not isinstance(signed, PreparedRequest):
        return ConfigError(f"the signer's attach must give a request, not {type(signed).__name__}")
    if signed is not request:
        vars(request).update(vars(signed))
    return None


def _visible(request: PreparedRequest) -> dict[str, Any]:
    """Give what of ``request`` may carry a token: its headers by their names in lower case, and its URL."""
    return {_URL: request.url, **{name.lower(): value for name, value in request.headers.items()}}


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _hashed(value: object) -> bytes:
    return hashlib.sha256(_text(value).encode("utf-8", "surrogatepass")).digest()
