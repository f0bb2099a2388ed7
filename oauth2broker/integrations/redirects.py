"""Keeping a token from the requests that ``requests`` makes to follow a redirect."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, NoReturn
from urllib.parse import urljoin, urlsplit

from requests import PreparedRequest

from oauth2broker.errors import ConfigError
from oauth2broker.integrations.signed_calls import GOES_ALONG, Origin, origin_of

Left = tuple[str, ...] | None
"""The headers that a request leaves behind on a redirect; None for one that must not follow it at all."""


def leads_elsewhere(base: str, location: str, origin: Origin, requote: Callable[[str], str]) -> bool:
    """Whether ``requests`` would follow ``location``, in an answer of ``base``, to where ``origin`` is not.

    Also when that cannot be told. ``requote`` is what ``requests`` does to a URL before it resolves it,
    which can make another URL of it.
    """
    if any(char < " " or char in "\\\x7f" for char in location):
        return True
    try:
        targets = (urljoin(base, location), _resolved(base, location, requote))
        return any(origin_of(target) != origin or urlsplit(target).path[:2] == "//" for target in targets)
    except Exception:  # noqa: BLE001 - requote raises errors of requests
        return True


def _resolved(base: str, location: str, requote: Callable[[str], str]) -> str:
    """Give the URL as ``requests`` computes it, which is not always that of RFC 3986 section 5."""
    found = location.encode("latin-1").decode("utf-8")
    if found.startswith("//"):
        found = f"{urlsplit(base).scheme}:{found}"
    parts = urlsplit(found)
    quoted = requote(parts.geturl())
    return quoted if parts.netloc else urljoin(base, quoted)


def leave_behind(request: Any, names: Left, note: Callable[[Any], object]) -> None:
    """Have copies of ``request`` that this thread makes lack the headers ``names``, until its next response.

    ``requests`` makes one or two to follow a redirect, and one for ``response.next``. ``request`` itself
    stays as it was sent, so that it can be sent again, and never without a token. ``note`` is called with
    each copy.
    """
    copies = vars(request).setdefault("copy", RedirectCopies(request, {}))
    copies.note = note
    copies.lacking[threading.get_ident()] = names


class RedirectCopies:
    """Stands for ``copy`` of one request.

    What the copies of a thread lack is told by the response that this thread saw last. A thread that saw none
    may follow what any other saw: its copies lack what those of any thread lack.
    """

    def __init__(self, request: Any, lacking: Mapping[int, Left]) -> None:
        self._request = request
        self.lacking = dict(lacking)
        self.note: Callable[[Any], object] | None = None

    def __call__(self) -> Any:
        made = type(self._request).copy(self._request)
        names = self.lacking.get(threading.get_ident(), self._any())
        if names is None:
            made.__class__ = _StaysHere
        for name in names or ():
            made.headers.pop(name, None)
        if self.note is not None:
            self.note(made)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied deeply or pickled with its request; threads of another process are others."""
        return RedirectCopies, (self._request, {0: self._any()})

    def _any(self) -> Left:
        found: set[str] = set()
        for names in list(self.lacking.values()):
            if names is None:
                return None
            found.update(names)
        return tuple(found)


class _StaysHere(PreparedRequest):
    """What ``requests`` makes to follow a redirect that must not be followed. It can be looked at."""

    @property
    def hooks(self) -> NoReturn:
        """What a session asks a request for before it sends it."""
        raise ConfigError(GOES_ALONG)
