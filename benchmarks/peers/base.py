"""What the experiments need to know of another library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from benchmarks.measure import Statement
from benchmarks.provider import UserGrant


class Work(StrEnum):
    """What a library does to give a token that it already has. Only like is compared with like."""

    BY_KEY = "by key"
    BY_KEY_IN_FILE = "by key, file"
    ONE_TOKEN = "one token"
    SIGNS = "signs a request"


@dataclass(frozen=True, slots=True)
class CachedPath:
    """One documented way to a cached token. Every one of them checks the expiry."""

    work: Work
    statement: Statement


@dataclass(frozen=True, slots=True)
class AheadOfExpiry:
    """``rewind`` makes the token one that works but is due for renewal; ``ask`` asks for it."""

    rewind: Callable[[], object]
    ask: Callable[[], object]


@dataclass(frozen=True, slots=True)
class FileCache:
    """A cache of one file per token in a folder: ``save`` takes a name and a JSON object."""

    save: Callable[[str, Any], object]
    fetch: Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Peer:
    """Another library, called as its own documentation shows.

    ``imports`` is the line a program begins with. ``contender`` makes, of an expired token, what each thread
    of a stampede does: call an API and give the token that the API was shown. What is None is not done here,
    and ``no_calls`` and ``no_window`` say why.
    """

    name: str
    documented: str
    imports: str
    locks: str
    coordinates: str
    cached_paths: Callable[[Path], Sequence[CachedPath]]
    contender: Callable[[UserGrant], Callable[[], str]] | None = None
    ahead: Callable[[UserGrant], AheadOfExpiry] | None = None
    file_cache: Callable[[Path], FileCache] | None = None
    no_calls: str = ""
    no_window: str = "no such window"
