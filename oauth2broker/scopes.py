"""Scope sets (RFC 6749 section 3.3)."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from oauth2broker.errors import ConfigError

_SCOPE_TOKEN = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")


@dataclass(frozen=True, slots=True, init=False, repr=False)
class ScopeSet(Collection[str]):
    """An immutable set of scope tokens, iterated in sorted order.

    Takes a space-delimited string or an iterable of tokens. ``normalized`` is the sorted tokens joined by
    single spaces, ``fingerprint`` the unpadded base64 of its SHA-256. Raises :class:`ConfigError` for a
    token outside the RFC's grammar.
    """

    normalized: str
    fingerprint: str = field(compare=False)

    def __init__(self, tokens: str | Iterable[str] = ()) -> None:
        object.__setattr__(self, "normalized", "")  # for a repr of one whose tokens are refused
        normalized = " ".join(sorted({_checked(token) for token in _split(tokens)}))
        digest = hashlib.sha256(normalized.encode("ascii")).digest()
        object.__setattr__(self, "normalized", normalized)
        object.__setattr__(self, "fingerprint", base64.b64encode(digest).decode().rstrip("="))

    def __contains__(self, token: object) -> bool:
        return token in self.normalized.split()

    def __iter__(self) -> Iterator[str]:
        return iter(self.normalized.split())

    def __len__(self) -> int:
        return len(self.normalized.split())

    def __str__(self) -> str:
        return self.normalized

    def __repr__(self) -> str:
        return f"ScopeSet({self.normalized!r})"


def is_scope_token(token: object) -> bool:
    """Whether ``token`` is a scope-token of RFC 6749 section 3.3."""
    return isinstance(token, str) and _SCOPE_TOKEN.fullmatch(token) is not None


def _split(tokens: str | Iterable[str]) -> Iterable[str]:
    if isinstance(tokens, str):
        return filter(None, str.split(tokens, " "))
    if isinstance(tokens, Iterable):
        return tokens
    raise ConfigError(f"a scope is a string or an iterable of strings, not {type(tokens).__name__}")


def _checked(token: str) -> str:
    if not is_scope_token(token):
        raise ConfigError(f"not a scope token of RFC 6749 section 3.3: {token!r:.80}")
    return str.__str__(token)  # the characters themselves, also of an enumeration's member
