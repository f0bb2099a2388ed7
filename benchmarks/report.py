"""What was found, as text for people and as JSON for programs."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.tables import Column, Kind, Row, Section, Table, Value, Verdict

_DASH = "-"
_WIDTH = 110
_SCALES: Mapping[Kind, Sequence[tuple[float, str]]] = {
    Kind.SECONDS: ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")),
    Kind.RATE: ((1e6, "M/s"), (1e3, "k/s"), (1.0, "/s")),
    Kind.BYTES: ((1024.0**2, "MiB"), (1024.0, "KiB"), (1.0, "B")),
}


def show(value: Value, kind: Kind) -> str:
    """Give a value as it is printed: three digits that count, and a unit that keeps it short."""
    if value is None:
        return _DASH
    if isinstance(value, str):
        return value
    if kind is Kind.COUNT:
        return f"{value:,}"
    if kind is Kind.RATIO:
        return f"{_three_digits(value)} x"
    for scale, unit in _SCALES[kind]:
        if abs(value) >= scale:
            return f"{_three_digits(value / scale)} {unit}"
    scale, unit = _SCALES[kind][-1]
    return f"{_three_digits(value / scale)} {unit}"


def _three_digits(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def render_text(about: Mapping[str, Any], sections: Mapping[str, Section]) -> str:
    """Give everything as text: how it was run, each experiment, and the verdicts at the end."""
    parts = [_render_about(about)]
    parts += [_render_section(number, section) for number, section in enumerate(sections.values(), 1)]
    parts.append(_render_verdicts([v for section in sections.values() for v in section.verdicts]))
    return "\n\n".join(parts) + "\n"


def render_json(about: Mapping[str, Any], sections: Mapping[str, Section]) -> str:
    """Give everything as JSON, in base units: seconds, bytes, calls per second."""
    document = {
        "about": about,
        "verdicts": [
            {**asdict(verdict), "met": verdict.met}
            for section in sections.values()
            for verdict in section.verdicts
        ],
        "sections": {
            name: {
                "title": section.title,
                "tables": [asdict(table) for table in section.tables],
                "notes": section.notes,
            }
            for name, section in sections.items()
        },
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _render_about(about: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [
        f"oauth2broker benchmarks, {about['date']}{' (quick run: numbers mean little)' * about['quick']}",
        f"{about['python']} on {about['system']}",
        f"{about['processors']} processors {about['processor']}".rstrip(),
        *textwrap.wrap(f"Versions: {versions}", _WIDTH),
        *(f"Not measured: {what} ({error})" for what, error in about["not measured"].items()),
    ]
    return "\n".join(lines)


def _render_section(number: int, section: Section) -> str:
    title = f"{number}. {section.title}"
    parts = [f"{title}\n{'=' * len(title)}", textwrap.fill(section.about, _WIDTH)]
    parts += [render_table(table) for table in section.tables]
    parts += [textwrap.fill(note, _WIDTH) for note in section.notes]
    return "\n\n".join(parts)


def _render_verdicts(verdicts: Sequence[Verdict]) -> str:
    rows = [
        Row(
            verdict.target,
            [
                show(verdict.value, verdict.kind),
                f"{verdict.relation} {show(verdict.limit, verdict.kind)}",
                "met" if verdict.met else "MISSED",
            ],
            ours=True,
        )
        for verdict in verdicts
    ]
    return render_table(Table("Targets", [Column("measured"), Column("target"), Column("verdict")], rows))


def render_table(table: Table) -> str:
    """Give one table; what is about this library is marked with an asterisk."""
    heads = [table.title, *(column.title for column in table.columns)]
    lines = [
        [f"{'*' if row.ours else ' '} {row.label}", *map(_cell, row.cells, table.columns)]
        for row in table.rows
    ]
    widths = [max(map(len, texts)) for texts in zip(heads, *lines, strict=True)]
    to_the_left = [True, *(column.kind is Kind.TEXT for column in table.columns)]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join(
        [_join(heads, widths, to_the_left), rule, *(_join(line, widths, to_the_left) for line in lines)]
    )


def _cell(value: Value, column: Column) -> str:
    return show(value, column.kind)


def _join(texts: Sequence[str], widths: Sequence[int], to_the_left: Sequence[bool]) -> str:
    padded = [
        text.ljust(width) if left else text.rjust(width)
        for text, width, left in zip(texts, widths, to_the_left, strict=True)
    ]
    return "  ".join(padded).rstrip()
