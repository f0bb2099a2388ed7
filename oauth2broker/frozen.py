"""JSON-like values that cannot change."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, Self

from oauth2broker.errors import ConfigError

MAX_DEPTH = 32
MAX_BITS = 4096


class ShownByFields:
    """The repr of a dataclass that checks its fields in ``__init__``: also of one that is not complete.

    A crash reporter shows ``self`` in the frame of a constructor that has just refused its arguments.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        shown = [spec.name for spec in fields(self) if spec.repr and hasattr(self, spec.name)]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"


class KeptByFields(ShownByFields):
    """One that is pickled by the names of its fields: what is kept fits a later version of the class."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        values = {spec.name: getattr(self, spec.name) for spec in fields(self)}  # type: ignore[arg-type]
        return _rebuilt, (type(self), values)


class FrozenMapping(Mapping[str, Any]):
    """An immutable mapping whose values are frozen all the way down. Its repr shows names only.

    Takes JSON values (lists become tuples). Raises :class:`ConfigError` for anything else, and for values
    nested more than 32 deep.
    """

    __slots__ = ("_items",)

    _items: dict[str, Any]

    def __init__(self, items: Mapping[str, Any] | None = None) -> None:
        frozen = {_name(name): freeze(value) for name, value in (items or {}).items()}
        object.__setattr__(self, "_items", frozen)

    def __getitem__(self, name: str) -> Any:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a FrozenMapping cannot be changed")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a FrozenMapping cannot be changed")

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[type[Self], tuple[Any]]:
        return type(self), (thaw(self),)

    def __repr__(self) -> str:
        names = getattr(self, "_items", ())  # a crash reporter may show one that is not complete
        return f"FrozenMapping({', '.join(map(repr, names))})"


def freeze(value: Any, depth: int = MAX_DEPTH) -> Any:
    """Give an immutable equal of a JSON value."""
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise ConfigError("a number is larger than JSON readers take")
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if depth <= 0:
        raise ConfigError(f"a value is nested more than {MAX_DEPTH} deep")
    if isinstance(value, Mapping):
        frozen = FrozenMapping()
        frozen._items.update((_name(n), freeze(v, depth - 1)) for n, v in value.items())
        return frozen
    if isinstance(value, list | tuple):
        return tuple(freeze(item, depth - 1) for item in value)
    raise ConfigError(f"not a JSON value (RFC 8259): {type(value).__name__}")


def thaw(value: Any) -> Any:
    """Give the plain dicts and lists that ``value`` was frozen from."""
    if isinstance(value, Mapping):
        return {name: thaw(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [thaw(item) for item in value]
    return value


def _rebuilt(kind: type[Any], values: dict[str, Any]) -> Any:
    return kind(**values)


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise ConfigError(f"a member's name is a str, not {type(name).__name__}")
    return name
