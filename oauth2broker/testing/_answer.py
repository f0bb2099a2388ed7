"""One HTTP answer as a value, and the bytes it becomes."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

Headers = tuple[tuple[str, str], ...]

# RFC 6749 section 5.1: what carries tokens is not to be cached.
_NO_STORE: Headers = (("Cache-Control", "no-store"), ("Pragma", "no-cache"))


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers and body. Headers and body may hold secrets, so repr shows neither."""

    status: int
    headers: Headers = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)

    @classmethod
    def of_json(cls, status: int, payload: Mapping[str, object], headers: Headers = ()) -> "Answer":
        """Build an answer that carries a JSON object."""
        types: Headers = (("Content-Type", "application/json"), *_NO_STORE)
        return cls(status, types + headers, json.dumps(dict(payload)).encode())

    @classmethod
    def of_html(cls, status: int, page: str) -> "Answer":
        """Build an answer that carries an HTML page."""
        types: Headers = (("Content-Type", "text/html; charset=utf-8"), *_NO_STORE)
        return cls(status, types, page.encode())

    @classmethod
    def of_redirect(cls, location: str, status: int = 302) -> "Answer":
        """Build a redirection without a body."""
        return cls(status, (("Location", location), *_NO_STORE))

    @property
    def payload(self) -> dict[str, object]:
        """The JSON object in the body; an empty one when the body is anything else."""
        try:
            decoded = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return decoded if isinstance(decoded, dict) else {}

    @property
    def error(self) -> str | None:
        """The `error` member of RFC 6749 section 5.2, when the body has one."""
        error = self.payload.get("error")
        return error if isinstance(error, str) else None

    def render(self) -> bytes:
        """Give the whole answer as HTTP/1.1 bytes, in one piece so that it leaves in one packet."""
        length = ("Content-Length", str(len(self.body)))
        return self.render_head(length) + b"\r\n" + self.body

    def render_head(self, *framing: tuple[str, str]) -> bytes:
        """Give status line and headers, with `framing` added, but not the empty line after them."""
        return _render_lines(self.status, (*self.headers, *framing))


def _render_lines(status: int, headers: Iterable[tuple[str, str]]) -> bytes:
    lines = [f"HTTP/1.1 {status} {_phrase(status)}", *(f"{k}: {v}" for k, v in headers)]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a header must not contain a line break")
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unregistered"
