"""Tests of the test: mistakes that are planted in the library must be found, within a budget, every time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given

from tests.model.explore import Deviation, stray
from tests.model.mutations import MUTATIONS, Planted
from tests.model.strategies import deterministic, deviations
from tests.model.world import Violation

BUDGET = 1000
"""Schedules, about ten seconds of them; most mistakes are found among the first hundred."""


@pytest.mark.parametrize("planted", MUTATIONS, ids=lambda planted: planted.mutation.__name__)
def test_a_planted_mistake_is_found(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exploration notices that one thing is missing which the protocol rests on."""
    planted.mutation(monkeypatch)
    with pytest.raises(Violation):
        hunt(planted)


def hunt(planted: Planted) -> int:
    """Look for a schedule that breaks a rule; give how many were tried in vain."""
    tried = 0

    @deterministic(BUDGET, shrink=False)
    @given(deviations(8))
    def explore(astray: Sequence[Deviation]) -> None:
        nonlocal tried
        tried += 1
        try:
            stray(planted.setting, astray)
        except Violation:
            print(f"found after {tried} schedules")
            raise

    explore()
    return tried
