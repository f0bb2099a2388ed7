"""Ctrl-C in the thread that renews."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from oauth2broker import Broker, BrokerStore, StoreKey
from oauth2broker.testing import Fault, LoopbackProvider
from tests.faults.workers import (
    Crew,
    age,
    ask,
    can_lease,
    lead_until_interrupted,
    log_in,
    stored,
    survive_interrupts,
    wait_for,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the faults need POSIX signals")


def test_when_sigint_ends_the_leader_the_waiters_elect_another_and_get_tokens(
    provider: LoopbackProvider, broker: Broker, store: BrokerStore, key: StoreKey, crew: Crew
) -> None:
    """FAULTS 23: interrupted before anything was presented, the flight starts anew: one call, all served."""
    log_in(broker, provider)
    age(store, key, seconds_left=-1)
    provider.clear()
    worker = crew.hire(pause_at="augment")
    leading = worker.begin(lead_until_interrupted, 8)
    worker.await_pause()
    os.kill(worker.pid, signal.SIGINT)
    interrupted, answers = leading.result()
    assert interrupted
    assert [answer.message for answer in answers if answer.error] == []
    assert [answer.token for answer in answers] == [stored(store, key).access_token.fingerprint()] * 8
    assert (provider.token_calls, provider.reuses) == (1, 0)


def test_when_sigint_ends_the_leader_in_mid_call_the_waiters_are_told_when_to_come_back(
    provider: LoopbackProvider, broker: Broker, store: BrokerStore, key: StoreKey, crew: Crew
) -> None:
    """FAULTS 23 and 10: its answer is lost, so nobody presents the token again, and nobody hangs."""
    log_in(broker, provider)
    age(store, key, seconds_left=-1)
    provider.clear()
    provider.inject(Fault.silence(processed=False))
    worker = crew.hire()
    leading = worker.begin(lead_until_interrupted, 8)
    worker.await_pause()
    wait_for(lambda: provider.token_calls == 1)
    os.kill(worker.pid, signal.SIGINT)
    interrupted, answers = leading.result()
    assert interrupted
    assert [answer.error for answer in answers] == ["TransientError"] * 8
    assert all(answer.retry_after and answer.retry_after > 25.0 for answer in answers)
    assert provider.token_calls == 1
    assert stored(store, key).attempted_at is not None
    assert worker.do(can_lease)
    assert crew.hire(ahead=36.0).do(ask)[0].error is None
    assert (provider.token_calls, provider.reuses) == (2, 0)


def test_a_storm_of_interrupts_leaves_no_flight_and_no_lease_behind(crew: Crew) -> None:
    """FAULTS 23: wherever SIGINT hits a renewal, the next caller, in another thread, gets a token."""
    interrupts, stuck = crew.hire().do(survive_interrupts, 3.0)
    assert stuck == []
    assert interrupts > 50, "too few interrupts: this proves nothing"
