"""Which requests a `FakeProvider` answers, and with what."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from oauth2broker.errors import ConfigError
from oauth2broker.testing._fake_calls import without_query

if TYPE_CHECKING:
    from requests import PreparedRequest

    from oauth2broker.testing._answer import Answer

Handler = Callable[["PreparedRequest"], "Answer"]


@dataclass(frozen=True, slots=True)
class Route:
    """Requests of some methods to one address, or to those that a pattern matches, and what answers them.

    ``query`` is what the request's query must have; it may have more.
    """

    methods: frozenset[str]
    address: str | re.Pattern[str]
    query: Counter[tuple[str, str]]
    handler: Handler

    @classmethod
    def to(cls, methods: Iterable[str], url: str | re.Pattern[str], handler: Handler) -> Route:
        """Make the route of a URL. Raises :class:`ConfigError` for what is none."""
        if isinstance(url, re.Pattern):
            return cls(frozenset(methods), url, Counter(), handler)
        sent = _as_sent(url)
        return cls(frozenset(methods), without_query(sent), _query_of(sent), handler)

    def __str__(self) -> str:
        wanted = "&".join(f"{name}={value}" for name, value in self.query.elements())
        address = self.address.pattern if isinstance(self.address, re.Pattern) else self.address
        return f"{'|'.join(sorted(self.methods))} {address}{'?' if wanted else ''}{wanted}"

    def fits(self, request: PreparedRequest) -> bool:
        """Whether the request goes this way."""
        if request.method not in self.methods:
            return False
        if isinstance(self.address, re.Pattern):
            return self.address.match(str(request.url)) is not None
        return without_query(request) == self.address and self.query <= _query_of(request)


def _query_of(request: PreparedRequest) -> Counter[tuple[str, str]]:
    return Counter(parse_qsl(urlsplit(str(request.url)).query, keep_blank_values=True))


def _as_sent(url: str) -> PreparedRequest:
    """Give a request with this address as requests writes it. Raises :class:`ConfigError`."""
    from requests import Request

    try:
        sent = Request("GET", url).prepare()
    except (ValueError, TypeError):
        sent = None
    if sent is None or urlsplit(str(sent.url)).scheme not in ("http", "https"):
        raise ConfigError("url is an http or https URL")
    return sent
