"""The renewal protocol under a deterministic scheduler: its interleavings are explored, not hoped for.

Several brokers, which stand for processes or hosts, share one store and one provider that rotates strictly
and revokes a grant whose spent token comes back. All of it runs in real threads of which one runs at a
time (``scheduler``), on a store and a provider that stop at every call and may fail there (``store``,
``provider``). ``moves`` says what may happen next in the ``world``; ``explore`` picks. After every step
the ``rules`` must hold:

1. no refresh token is presented twice while an answer to the first presentation can still arrive;
2. the provider sees a spent token once per answer that was lost, and else never;
3. a successor that came is in the store, in a process, or in the hands of one that is about to write it;
4. a grant that has ended (logout, deletion, another login) does not come back;
5. no record is buried but the one whose token was refused;
6. a call ends in a record that answers it or in the right error, and never in the token that it rejected;
7. all threads end, and a healthy world then serves whoever asks.

A failure prints every step that led there, after hypothesis has taken away what is not needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given

from oauth2broker import Broker
from tests.model.explore import Deviation, Setting, every_deviation, nth, stray, walk
from tests.model.moves import EVERYTHING, Trouble, possible
from tests.model.strategies import build_settings, deterministic, deviations, picks
from tests.model.world import new_world

SCENARIOS = {
    "one renews": Setting((("plain", 0),)),
    "two processes renew": Setting((("plain", 0), ("plain", 1)), troubles={Trouble.ANSWERS, Trouble.STORE}),
    "two threads renew": Setting((("force", 0), ("plain", 0)), troubles={Trouble.INTERRUPT, Trouble.LOGOUT}),
    "one renews ahead": Setting((("plain", 0), ("plain", 1)), "advisory", {Trouble.PROVIDER, Trouble.LOGIN}),
    "one logs in": Setting((("login", 0), ("plain", 1)), "nothing", {Trouble.STORE, Trouble.KILL}),
    "one logs out": Setting((("rejecting", 0), ("logout", 1)), "fresh", {Trouble.STORE, Trouble.LOGIN}),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_single_deviation_keeps_the_rules(name: str) -> None:
    """Whatever one thing goes otherwise, at whatever step: the rules hold."""
    setting = SCENARIOS[name]
    for deviation in every_deviation(setting):
        stray(setting, [deviation], nth)


@deterministic(1000)
@given(build_settings(), deviations(8))
def test_a_few_deviations_keep_the_rules(setting: Setting, astray: Sequence[Deviation]) -> None:
    """Whatever few things go otherwise, together: the rules hold."""
    stray(setting, astray)


@deterministic(300)
@given(build_settings(), picks(60))
def test_a_random_walk_keeps_the_rules(setting: Setting, picked: Sequence[int]) -> None:
    """However threads, processes, faults and time follow on each other: the rules hold."""
    walk(setting, picked)


def test_undisturbed_processes_make_one_call() -> None:
    """The model is one: without trouble, six callers in two processes cost the provider one call."""
    with new_world() as world:
        Setting((("plain", 0), ("plain", 1)) * 2).begin(world)
        world.drain()
        assert len(world.provider.presentations) == 1
        world.finish()


def test_the_same_picks_give_the_same_run() -> None:
    """A schedule is all there is: no step depends on the time of day or on which thread is faster."""
    runs = []
    for _ in range(2):
        with new_world() as world:
            Setting((("plain", 0), ("force", 0), ("login", 1), ("rejecting", 1))).begin(world)
            for step in range(120):
                moves = possible(world, EVERYTHING)
                world.make(moves[step * 7 % len(moves)])
            runs.append(world.trace)
    assert runs[0] == runs[1]


def test_the_code_under_test_is_the_real_one() -> None:
    """Only clocks, threads and bounds are the model's; brokers, flights, keepers and renewals are not."""
    with new_world() as world:
        for process in world.processes:
            assert type(process.broker) is Broker
            assert type(process.keeper).__module__ == "oauth2broker.flows.keeper"
