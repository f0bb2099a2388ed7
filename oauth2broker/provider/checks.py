"""Checks of what a provider is described with. All raise :class:`ConfigError` that says what to change."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from enum import StrEnum
from typing import TypeGuard, TypeVar

from oauth2broker.errors import ConfigError
from oauth2broker.frozen import FrozenMapping

Kind = TypeVar("Kind", bound=StrEnum)
LONGEST = timedelta(days=3650)
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.1
_FIELD_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_ERROR_CODE = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]{1,64}")  # RFC 6749 appendix A.7, and no novels
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_SET_BY_US = frozenset({"authorization", "content-length", "content-type", "host", "transfer-encoding"})


def checked_member(name: str, kind: type[Kind], value: str) -> Kind:
    """Give the member of ``kind`` that ``value`` names."""
    if isinstance(value, str) and value in kind.__members__.values():
        return kind(value)
    raise ConfigError(f"{name} is one of {', '.join(kind)}, not {value!r:.80}")


def checked_texts(name: str, items: Mapping[str, str] | None) -> Mapping[str, str]:
    """Give a mapping of strings to strings."""
    for value in checked_mapping(name, items).values():
        if not is_text(value):
            raise ConfigError(f"{name} maps strings to strings, which hold no surrogates")
    return FrozenMapping(items)


def checked_mapping(name: str, items: Mapping[str, object] | None) -> Mapping[str, object]:
    """Give a mapping whose names are strings."""
    if items is None:
        return {}
    if not isinstance(items, Mapping):
        raise ConfigError(f"{name} is a mapping of strings")
    if not all(map(is_text, items)):
        raise ConfigError(f"{name} maps strings to strings, which hold no surrogates")
    return items


def is_text(value: object) -> bool:
    """Whether ``value`` is a string that can be sent: surrogates have no encoding."""
    return isinstance(value, str) and _SURROGATE.search(value) is None


def is_path(value: object) -> TypeGuard[str | os.PathLike[str]]:
    """Whether ``value`` can be a file's path: not empty, and not the PEM text that the file should hold."""
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    return isinstance(text, str) and text != "" and "-----BEGIN" not in text


def is_error_code(text: str) -> bool:
    """Whether an answer's code can be ``text`` (RFC 6749 appendix A.7); a zero says that all is well."""
    return _ERROR_CODE.fullmatch(text) is not None and text == text.strip() and text != "0"


def checked_names(name: str, names: Iterable[str]) -> tuple[str, ...]:
    """Give several names, none of them empty."""
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise ConfigError(f"{name} is a list of strings, not {type(names).__name__}")
    found = tuple(names)
    if not all(isinstance(each, str) and each for each in found):
        raise ConfigError(f"{name} is a list of strings, none of them empty")
    return found


def checked_name(name: str, value: str) -> str:
    """Give one name, not empty."""
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{name} is a string, not {'empty' if value == '' else type(value).__name__}")
    return value


def checked_token(name: str, value: str) -> str:
    """Give a token of RFC 9110 section 5.6.2: the name of a header or of an authentication scheme."""
    if not isinstance(value, str) or not _FIELD_NAME.fullmatch(value):
        raise ConfigError(f"{name} is a token of RFC 9110, not {value!r:.80}")
    return value


def checked_path(name: str, path: str) -> str:
    """Give a path into a JSON value: members and indices with dots between, as in ``errors.0.code``."""
    if not isinstance(path, str) or not all(path.split(".")):
        raise ConfigError(f"{name} is a path such as 'errors.0.code', not {path!r:.80}")
    return path


def checked_duration(name: str, value: timedelta | None) -> timedelta | None:
    """Give a positive duration of at most ten years, or None."""
    if value is not None and (not isinstance(value, timedelta) or not timedelta() < value <= LONGEST):
        raise ConfigError(f"{name} is a positive timedelta of at most {LONGEST.days} days, or None")
    return value


def checked_headers(name: str, headers: Mapping[str, str] | None) -> Mapping[str, str]:
    """Give headers that may join every request (RFC 9110 section 5)."""
    found = checked_texts(name, headers)
    if len({header.lower() for header in found}) < len(found):
        raise ConfigError(
            f"{name} holds a header twice: in their names capitals are as good as small letters"
        )
    for header, value in found.items():
        if not _FIELD_NAME.fullmatch(header) or not _FIELD_VALUE.fullmatch(value):
            raise ConfigError(f"{name} holds a header that cannot be sent: {header!r:.80}")
        if header.lower() in _SET_BY_US:
            raise ConfigError(f"{name} may not set {header}: it is made for each request")
    return found
