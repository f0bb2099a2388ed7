"""The chart: one SVG with a panel of bars per experiment, legible on light and on dark ground."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.report import show
from benchmarks.tables import Bar, Bars, Kind

_HEADLINE = "oauth2broker, beside what people use today"
_WIDTH = 920
_MARGIN = 32
_LABELS = 300  # how much of the width the labels take
_VALUES = 86  # and the values behind the longest bar
_BAR, _GAP, _GROUP = 16, 8, 26
_HEAD, _FOOT, _BETWEEN = 44, 30, 34
_TITLE = 74

_STYLE = """
    text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #1c2430 }
    .title { font-size: 20px; font-weight: 600 }
    .panel { font-size: 15px; font-weight: 600 }
    .quiet { fill: #66717f; font-size: 12px }
    .value { font-size: 12px; font-variant-numeric: tabular-nums }
    .strong { font-weight: 600 }
    .ground { fill: #ffffff }
    .grid { stroke: #e3e7ec; stroke-width: 1 }
    .ours { fill: #0b7285 }
    .theirs { fill: #b4bdc8 }
    @media (prefers-color-scheme: dark) {
      text { fill: #e8ecf1 }
      .quiet { fill: #93a0ae }
      .ground { fill: #12171d }
      .grid { stroke: #29323c }
      .ours { fill: #3bc9db }
      .theirs { fill: #586573 }
    }
"""  # plain colours: not every program that shows an SVG knows CSS variables


@dataclass(frozen=True, slots=True)
class _Scale:
    """Where a value lies between ``low`` and ``high``, from 0 to 1, and which values get a line."""

    low: float
    high: float
    logarithmic: bool

    def share(self, value: float) -> float:
        """Give how far a bar for ``value`` reaches."""
        if self.logarithmic:
            return math.log10(max(value, self.low) / self.low) / math.log10(self.high / self.low)
        return max(value, 0.0) / self.high

    def ticks(self) -> list[float]:
        """Give round values to draw lines at."""
        if self.logarithmic:
            first, last = round(math.log10(self.low)), round(math.log10(self.high))
            return [10.0**power for power in range(first, last + 1)]
        step = _round_step(self.high / 4)
        return [step * number for number in range(int(self.high / step) + 1)]


def render_svg(panels: Sequence[Bars], subtitle: str) -> str:
    """Draw all panels below each other."""
    parts: list[str] = []
    top = _TITLE + _MARGIN
    for panel in panels:
        parts += _panel(panel, top)
        top += _height(panel) + _BETWEEN
    height = top - _BETWEEN + _MARGIN
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img"'
        f' width="{_WIDTH}" height="{height}">',
        "<title>oauth2broker benchmarks</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="ground" width="{_WIDTH}" height="{height}" rx="10"/>',
        f'<text class="title" x="{_MARGIN}" y="{_MARGIN + 18}">{_HEADLINE}</text>',
        f'<text class="quiet" x="{_MARGIN}" y="{_MARGIN + 40}">{escape(subtitle)}</text>',
        *_legend(),
    ]
    return "\n".join([*head, *parts, "</svg>", ""])


def _legend() -> Iterator[str]:
    x = _WIDTH - _MARGIN - 178
    for name, label in (("ours", "oauth2broker"), ("theirs", "others")):
        yield f'<rect class="{name}" x="{x}" y="{_MARGIN + 7}" width="12" height="12" rx="2"/>'
        yield f'<text class="quiet" x="{x + 18}" y="{_MARGIN + 17}">{label}</text>'
        x += 118


def _panel(panel: Bars, top: float) -> Iterator[str]:
    scale = _scale(panel)
    bars_top, bottom = top + _HEAD, top + _height(panel) - _FOOT
    hint = "log scale: each line is ten times the one before" if panel.logarithmic else ""
    yield f'<text class="panel" x="{_MARGIN}" y="{top + 14}">{escape(panel.title)}</text>'
    yield f'<text class="quiet" x="{_WIDTH - _MARGIN}" y="{top + 14}" text-anchor="end">{hint}</text>'
    for tick in scale.ticks():
        x = _x(scale, tick)
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{bars_top - 8}" y2="{bottom}"/>'
        label = _tick_label(tick, panel.kind)
        yield f'<text class="quiet" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{label}</text>'
    y, group = bars_top, ""
    for bar in panel.bars:
        if bar.group != group:
            group = bar.group
            yield f'<text class="quiet" x="{_MARGIN}" y="{y + 14}">{escape(group)}</text>'
            y += _GROUP
        yield from _bar(bar, panel.kind, scale, y)
        y += _BAR + _GAP


def _bar(bar: Bar, kind: Kind, scale: _Scale, top: float) -> Iterator[str]:
    start, end = _x(scale, scale.low), _x(scale, bar.value)
    middle = top + _BAR - 4
    strong = " strong" if bar.ours else ""
    label, value = escape(bar.label), escape(show(bar.value, kind))
    yield f'<text class="value{strong}" x="{start - 10}" y="{middle}" text-anchor="end">{label}</text>'
    yield (
        f'<rect class="{"ours" if bar.ours else "theirs"}" x="{start}" y="{top}" rx="2"'
        f' width="{max(end - start, 2):.1f}" height="{_BAR}"/>'
    )
    yield f'<text class="value{strong}" x="{max(end, start + 2) + 8:.1f}" y="{middle}">{value}</text>'


def _height(panel: Bars) -> int:
    groups = {bar.group for bar in panel.bars} - {""}
    return _HEAD + len(panel.bars) * (_BAR + _GAP) + len(groups) * _GROUP + _FOOT


def _x(scale: _Scale, value: float) -> float:
    left = _MARGIN + _LABELS
    return left + scale.share(value) * (_WIDTH - _MARGIN - _VALUES - left)


def _scale(panel: Bars) -> _Scale:
    values = [bar.value for bar in panel.bars]
    if not panel.logarithmic:
        return _Scale(0.0, max(values), logarithmic=False)
    low = 10.0 ** math.floor(math.log10(min(values)))
    return _Scale(low, 10.0 ** math.ceil(math.log10(max(values))), logarithmic=True)


def _round_step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least)


def _tick_label(value: float, kind: Kind) -> str:
    if kind is Kind.SECONDS:
        for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if value >= scale * 0.999:
                return f"{value / scale:g} {unit}"
        return f"{value / 1e-9:g} ns" if value else "0"
    return f"{value:g}"
