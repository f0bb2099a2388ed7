"""What an experiment found, as values: tables, a chart's bars, and verdicts on the targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

Value = float | int | str | None
"""None is shown as a dash: not measured, because that library does not do this."""


class Kind(StrEnum):
    """What the numbers of a column are. Seconds, bytes and rates are kept in base units."""

    SECONDS = "seconds"
    RATIO = "ratio"
    COUNT = "count"
    RATE = "per second"
    BYTES = "bytes"
    TEXT = "text"


class Relation(StrEnum):
    """How a measured value has to relate to its limit."""

    AT_MOST = "at most"
    BELOW = "below"
    AT_LEAST = "at least"
    EXACTLY = "exactly"


@dataclass(frozen=True, slots=True)
class Column:
    """A column's heading, and what is in it."""

    title: str
    kind: Kind = Kind.TEXT


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table. ``ours``: it is about this library."""

    label: str
    cells: Sequence[Value]
    ours: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under columns; the first column, of labels, has no heading but the title."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a chart. Bars of one ``group`` stand together under its name."""

    label: str
    value: float
    ours: bool = False
    group: str = ""


@dataclass(frozen=True, slots=True)
class Bars:
    """One panel of the chart. ``logarithmic``: each step to the right is ten times the one before."""

    title: str
    kind: Kind
    bars: Sequence[Bar]
    logarithmic: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target of the library and what was measured of it."""

    target: str
    value: float
    relation: Relation
    limit: float
    kind: Kind = Kind.RATIO

    @property
    def met(self) -> bool:
        """Whether the target was met."""
        match self.relation:
            case Relation.AT_MOST:
                return self.value <= self.limit
            case Relation.BELOW:
                return self.value < self.limit
            case Relation.AT_LEAST:
                return self.value >= self.limit
            case Relation.EXACTLY:
                return self.value == self.limit


@dataclass(frozen=True, slots=True)
class Section:
    """One experiment: what was asked, what was found, and what to know when reading it."""

    title: str
    about: str
    tables: Sequence[Table]
    verdicts: Sequence[Verdict] = ()
    notes: Sequence[str] = ()
    chart: Bars | None = None
