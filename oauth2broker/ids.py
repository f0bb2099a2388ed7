"""Identifiers: who is served, on whose behalf, by whom."""

from __future__ import annotations

import unicodedata
from typing import Self

from oauth2broker.errors import ConfigError

MAX_LENGTH = 128


class Identifier(str):
    """A string of 1 to 128 characters without whitespace, control characters or surrogates.

    Identifiers are kept as given, without normalization: two that merely look alike are two. Surrogates are
    refused because text that holds them has no unique encoding. Raises :class:`ConfigError`.
    """

    __slots__ = ()

    def __new__(cls, value: str) -> Self:
        if isinstance(value, cls):
            return value
        if not isinstance(value, str):
            raise ConfigError(f"{cls.__name__} takes a str, not {type(value).__name__}")
        value = str.__str__(value)  # the characters themselves, whatever a subclass says of them
        if not 1 <= len(value) <= MAX_LENGTH:
            raise ConfigError(f"{cls.__name__} has 1 to {MAX_LENGTH} characters, not {len(value)}")
        if not (value.isascii() and value.isprintable() and " " not in value):  # as most are, told at once
            for position, character in enumerate(value):
                if character.isspace() or unicodedata.category(character) in {"Cc", "Cs"}:
                    raise ConfigError(
                        f"{cls.__name__} must not hold whitespace, control characters or surrogates: "
                        f"U+{ord(character):04X} at position {position}"
                    )
        return super().__new__(cls, value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str.__repr__(self)})"


class TenantId(Identifier):
    """The customer, account or installation that is served."""

    __slots__ = ()


class PrincipalId(Identifier):
    """The user or service on whose behalf tokens are used."""

    __slots__ = ()


class ProviderId(Identifier):
    """A registration at one authorization server; a template's variables join it (``okta:acme``)."""

    __slots__ = ()
