"""Measuring by turns, so that whatever else the machine does hits both sides of a ratio alike."""

from __future__ import annotations

import math
import statistics
import time
import timeit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Measurement = Callable[[], float]
"""Does a thing and gives what it cost, in seconds unless it says otherwise."""

_CALIBRATION = 0.002  # seconds


@dataclass(frozen=True, slots=True)
class Statement:
    """A line of Python, timed as it stands and shown as it stands, and the names in it."""

    code: str
    names: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Rounds:
    """What each measurement gave, round by round."""

    samples: Mapping[str, Sequence[float]]

    def median(self, name: str) -> float:
        """Give the median over all rounds."""
        return statistics.median(self.samples[name])

    def ratio(self, name: str, to: str) -> float:
        """Give the median of the ratios within each round: noise that outlasts a round cancels out."""
        pairs = zip(self.samples[name], self.samples[to], strict=True)
        return statistics.median(ours / theirs for ours, theirs in pairs)


def take_turns(measurements: Mapping[str, Measurement], rounds: int) -> Rounds:
    """Do every measurement once per round; each round another one begins."""
    names = list(measurements)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            samples[name].append(measurements[name]())
    return Rounds(samples)


def per_execution(statement: Statement, seconds: float = 0.005) -> Measurement:
    """Give the measurement of one execution: the mean of as many as fit into ``seconds``.

    The line is compiled into the loop of :mod:`timeit`, so that no wrapper's call is part of anybody's cost.
    The garbage collector is off meanwhile, for all alike.
    """
    timer = timeit.Timer(statement.code, globals=dict(statement.names))
    number = 1
    while (took := timer.timeit(number)) < _CALIBRATION:
        number *= 2
    number = max(1, round(number * seconds / took))
    return lambda: timer.timeit(number) / number


def one(act: Callable[[], object]) -> Measurement:
    """Give the measurement of a single ``act``."""

    def measure() -> float:
        started = time.perf_counter()
        act()
        return time.perf_counter() - started

    return measure


def percentile(values: Sequence[float], share: float) -> float:
    """Give the smallest value that at least ``share`` (0 to 1) of all ``values`` do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
