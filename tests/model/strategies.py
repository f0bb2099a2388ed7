"""How hypothesis draws a setting, a walk and a few deviations, the same ones every time."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings, strategies as st

from tests.model.explore import CHOICES, Deviation, Setting
from tests.model.moves import Trouble
from tests.model.world import ONE_TRY, TWO_TRIES

_KINDS = ("plain", "force", "rejecting", "login", "logout")
_STATES = ("expired", "expired", "advisory", "fresh", "tombstone", "nothing")
_MOST_AT_ONCE = 3  # kinds of trouble besides time


def deterministic(max_examples: int, *, shrink: bool = True) -> settings:
    """Give settings that draw the same examples on every run."""
    return settings(
        max_examples=max_examples,
        derandomize=True,
        database=None,
        phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )


def build_settings() -> st.SearchStrategy[Setting]:
    """Draw who calls, what is stored and what may go wrong."""
    call = st.tuples(st.sampled_from(_KINDS[:3] * 3 + _KINDS), st.integers(0, 1))
    drawn = st.lists(st.sampled_from(list(Trouble)), max_size=_MOST_AT_ONCE)
    return st.builds(
        Setting,
        calls=st.lists(call, min_size=1, max_size=4).map(tuple),
        state=st.sampled_from(_STATES),
        troubles=drawn.map(lambda some: frozenset({Trouble.TIME, *some})),
        processes=st.sampled_from((2, 2, 3)),
        bounds=st.sampled_from((ONE_TRY, TWO_TRIES)),
    )


def picks(most: int) -> st.SearchStrategy[list[int]]:
    """Draw what to pick at each step of a walk."""
    return st.lists(st.integers(0, CHOICES - 1), min_size=most // 4, max_size=most)


def deviations(most: int) -> st.SearchStrategy[list[Deviation]]:
    """Draw up to ``most`` deviations, most of them close to each other."""
    gap = st.sampled_from((0, 0, 1, 2, 3, 5, 8, 12))
    return st.lists(st.tuples(gap, st.integers(0, CHOICES - 1)), min_size=1, max_size=most)
