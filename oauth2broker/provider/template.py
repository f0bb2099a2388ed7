"""Descriptions of providers that stand at many addresses, with the values that differ left open."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, NoReturn
from urllib.parse import quote, urlsplit

from oauth2broker.errors import ConfigError
from oauth2broker.frozen import FrozenMapping
from oauth2broker.ids import MAX_LENGTH
from oauth2broker.provider.checks import checked_member, checked_name, checked_texts
from oauth2broker.provider.descriptor import ProviderDescriptor
from oauth2broker.provider.quirks import ExpiryRule, ProviderQuirks
from oauth2broker.urls import checked_endpoint

_PLACE = re.compile(r"\{(\w+)\}")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_PORT = re.compile(r"[0-9]{1,5}")
_VERSION = re.compile(r"v?[0-9]+(?:[.-][0-9]+)*")
_TEXT = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")


class VariableKind(StrEnum):
    """What may stand for a variable, so that no value escapes its place.

    ``host``: a host name, with a port if need be. ``label``: one part of a host name. ``segment``: one
    segment of a path. ``base_url``: an https URL to append paths to. These name a registration and join the
    descriptor's id, unless they are the default. ``version`` (such as ``v22.0``, in a path) and ``text`` (a
    header's or a parameter's value, never in a URL) do not: tokens outlive their change.
    """

    HOST = "host"
    LABEL = "label"
    SEGMENT = "segment"
    BASE_URL = "base_url"
    VERSION = "version"
    TEXT = "text"


class ProviderTemplate:
    """A descriptor with variables: ``{name}`` in any text of its fields. Immutable, safe to share.

    ``variables`` maps each variable to its :class:`VariableKind`, ``defaults`` some to a value. ``fields``
    are the arguments of :class:`ProviderDescriptor`. The descriptor's id is ``id`` and, with colons between,
    what names the place. Raises :class:`ConfigError` for a variable that is not declared, that nothing uses,
    or that stands in a URL where its kind does not fit, and for fields that no value would make right.
    """

    __slots__ = ("_fields", "defaults", "id", "variables")

    id: str
    variables: Mapping[str, VariableKind]
    defaults: Mapping[str, str]
    _fields: Mapping[str, Any]

    def __init__(
        self,
        id: str,  # noqa: A002 - as in ProviderDescriptor
        *,
        variables: Mapping[str, str],
        defaults: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> None:
        put = object.__setattr__
        put(self, "id", id)  # before anything is raised: who reports that shows a repr of us
        checked_name("id", id)
        kinds = checked_texts("variables", variables)
        checked = {name: checked_member(f"the kind of {name}", VariableKind, kinds[name]) for name in kinds}
        put(self, "variables", FrozenMapping(checked))
        put(self, "defaults", checked_texts("defaults", defaults))
        put(self, "_fields", dict(fields))
        for name in sorted(fields.keys() - ProviderDescriptor.__dataclass_fields__.keys()):
            raise ConfigError(f"template {id}: there is no field {name}; see ProviderDescriptor")
        used = set(_places(fields))
        for name in sorted(used ^ set(self.variables)):
            problem = "is used but not declared" if name in used else "is declared but not used"
            raise ConfigError(f"template {id}: the variable {name} {problem}")
        for name in sorted(set(self.defaults) - set(self.variables)):
            raise ConfigError(f"template {id}: there is a default for {name}, which is no variable")
        for field, url in fields.items():
            if isinstance(url, str) and (field.endswith("_endpoint") or field == "issuer"):
                _require_places_that_fit(field, url, self.variables)
        for name in ("token_endpoint", "grants"):
            if name not in fields:
                raise ConfigError(f"template {id}: {name} is missing")
        self._fill({name: _SAMPLES[kind] for name, kind in self.variables.items()} | {**self.defaults})

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a ProviderTemplate cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a ProviderTemplate cannot be changed")

    def __repr__(self) -> str:
        return f"ProviderTemplate({self.id!r})"

    def descriptor(self, /, **values: str) -> ProviderDescriptor:
        """Give the provider at one address. Raises :class:`ConfigError` for a value that does not fit."""
        for name in sorted(values.keys() - self.variables.keys()):
            raise ConfigError(f"template {self.id} has no variable {name}; it has {self._listed()}")
        given = {**self.defaults, **values}
        for name in sorted(self.variables.keys() - given.keys()):
            raise ConfigError(f"template {self.id} needs a value for {name} ({self.variables[name]})")
        return self._fill(given)

    def _fill(self, given: Mapping[str, str]) -> ProviderDescriptor:
        checked = {name: _checked(name, kind, given[name]) for name, kind in self.variables.items()}
        return ProviderDescriptor(id=self._id(checked), **_filled(self._fields, checked))

    def _listed(self) -> str:
        return ", ".join(self.variables) or "none"

    def _id(self, values: Mapping[str, str]) -> str:
        """Give an id that no other values have: each has its place, also one that is left out."""
        naming = [name for name, kind in self.variables.items() if kind in _NAMING]
        found = ":".join([self.id, *(self._name(name, values[name]) for name in naming)]).rstrip(":")
        if len(found) > MAX_LENGTH:
            raise ConfigError(
                f"template {self.id}: {' and '.join(naming) or 'the id'} must be shorter; they make an id of "
                f"{len(found)} characters, and {MAX_LENGTH} is the most"
            )
        return found

    def _name(self, name: str, value: str) -> str:
        """Give what the variable adds to the descriptor's id."""
        default = self.defaults.get(name)
        if default is not None and value == _checked(name, self.variables[name], default):
            return ""
        return value.removeprefix("https://").replace(":", "%3A")


_SAMPLES: Mapping[VariableKind, str] = {
    VariableKind.HOST: "sample.example",
    VariableKind.LABEL: "sample",
    VariableKind.SEGMENT: "sample",
    VariableKind.BASE_URL: "https://sample.example",
    VariableKind.VERSION: "1",
    VariableKind.TEXT: "sample",
}
_NAMING = frozenset(VariableKind) - {VariableKind.VERSION, VariableKind.TEXT}
_HOST_KINDS = frozenset({VariableKind.HOST, VariableKind.LABEL})
_PATH_KINDS = frozenset({VariableKind.SEGMENT, VariableKind.LABEL, VariableKind.VERSION})


def _require_places_that_fit(field: str, url: str, kinds: Mapping[str, VariableKind]) -> None:
    """Refuse a variable where a value that its kind allows could say more than is meant."""
    first = _PLACE.match(url)
    if first and kinds[first[1]] is VariableKind.BASE_URL and url[first.end() :][:1] in {"", "/"}:
        scheme, host, path = "", "", url[first.end() :]
    else:
        scheme, _, rest = url.partition("://")
        host, _, path = rest.partition("/")
    for part, fitting in ((scheme, frozenset[VariableKind]()), (host, _HOST_KINDS), (path, _PATH_KINDS)):
        for name in _PLACE.findall(part):
            if kinds[name] not in fitting:
                raise ConfigError(f"{field}: a {kinds[name]} such as {name} does not fit there")
    if set("{}") & set(_PLACE.sub("", url)):
        raise ConfigError(f"{field}: a brace that is of no variable")


def _places(value: Any) -> list[str]:
    """Give the variables in all texts of ``value``."""
    if isinstance(value, str):
        return _PLACE.findall(value)
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple | set | frozenset):
        return [name for text in _texts_of(value) for name in _places(text)]
    return [name for item in value for name in _places(item)]


def _texts_of(value: Any) -> list[Any]:
    """Give the fields of quirks, whose texts may hold variables as well."""
    names = value.__dataclass_fields__ if isinstance(value, ProviderQuirks | ExpiryRule) else ()
    return [getattr(value, name) for name in names]


def _filled(value: Any, values: Mapping[str, str]) -> Any:
    """Give ``value`` with every variable in its texts replaced."""
    if isinstance(value, str):
        return _PLACE.sub(lambda place: values[place[1]], value)
    if isinstance(value, Mapping):
        return {name: _filled(item, values) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_filled(item, values) for item in value]
    if isinstance(value, ProviderQuirks | ExpiryRule):
        names = value.__dataclass_fields__
        return type(value)(**{name: _filled(getattr(value, name), values) for name in names})
    return value


def _checked(name: str, kind: VariableKind, value: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{name} is a str, not {type(value).__name__}")
    return _CHECKS[kind](name, value)


def _host(name: str, value: str) -> str:
    host, colon, port = value.lower().partition(":")
    is_host = all(_LABEL.fullmatch(label) for label in host.split("."))
    if not (is_host and value.isascii()):  # Unicode has letters whose lower case is ASCII
        _refuse(name, value, "a host name such as acme.example.com, without https:// and without a path")
    if colon and (not _PORT.fullmatch(port) or not 0 < int(port) < 65536):
        _refuse(name, value, "a host name with a port between 1 and 65535")
    return host if int(port or 443) == 443 else f"{host}:{int(port)}"


def _label(name: str, value: str) -> str:
    if not (_LABEL.fullmatch(value.lower()) and value.isascii()):
        _refuse(name, value, "one part of a host name: letters, digits and hyphens, no dots")
    return value.lower()


def _segment(name: str, value: str) -> str:
    usable = value.isprintable() and value.strip() and value not in {".", ".."}  # no surrogates are printable
    if not usable or set("/\\?#%{}") & set(value):
        _refuse(name, value, "one segment of a path: no slashes, no ?, # or %")
    return quote(value, safe="")


def _base_url(name: str, value: str) -> str:
    parts = urlsplit(checked_endpoint(name, value.rstrip("/")))
    if "?" in value or set("{}%") & set(value) or {"", ".", ".."} & set(parts.path.split("/")[1:]):
        _refuse(name, value, "a URL without query and escapes, and without empty steps or dots in its path")
    netloc = parts.netloc.lower().removesuffix(":")
    if parts.scheme == "https":
        netloc = netloc.removesuffix(":443")
    return parts._replace(netloc=netloc).geturl()


def _version(name: str, value: str) -> str:
    if not _VERSION.fullmatch(value):
        _refuse(name, value, "a version such as v22.0")
    return value


def _text(name: str, value: str) -> str:
    if not _TEXT.fullmatch(value):
        _refuse(name, value, "printable ASCII without spaces around it")
    return value


def _refuse(name: str, value: str, wanted: str) -> NoReturn:
    raise ConfigError(f"{name} is {wanted}, not {value!r:.80}")


_CHECKS: Mapping[VariableKind, Callable[[str, str], str]] = {
    VariableKind.HOST: _host,
    VariableKind.LABEL: _label,
    VariableKind.SEGMENT: _segment,
    VariableKind.BASE_URL: _base_url,
    VariableKind.VERSION: _version,
    VariableKind.TEXT: _text,
}
