"""Processes that are killed: whatever they were doing, nothing is damaged and nobody hangs."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from oauth2broker import Broker, BrokerStore, StoreKey
from oauth2broker.testing import Fault, LoopbackProvider
from tests.faults.workers import Crew, age, ask, can_lease, gather, log_in, set_clock, stored, wait_for

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the faults need POSIX processes")


def test_killed_after_the_rotation_and_before_the_write_leaves_a_record_that_says_so(
    provider: LoopbackProvider, broker: Broker, store: BrokerStore, key: StoreKey, crew: Crew
) -> None:
    """FAULTS 3: no second presentation before 35 seconds, then one, then a definite end; a login mends it."""
    log_in(broker, provider)
    expired = age(store, key, seconds_left=-1)
    provider.clear()
    provider.inject(Fault.slow(60.0))
    victim, other = crew.hire(), crew.hire()
    victim.begin(ask)
    wait_for(lambda: provider.token_calls == 1)
    victim.kill()
    left = stored(store, key)
    assert left.attempted_at is not None
    assert replace(left, attempted_at=None) == expired
    waiting = other.ask()
    assert waiting.error == "TransientError"
    assert waiting.retry_after is not None
    assert 25.0 < waiting.retry_after <= 35.0
    other.do(set_clock, 30.0 - (35.0 - waiting.retry_after))
    assert other.ask().error == "TransientError"
    assert provider.token_calls == 1
    other.do(set_clock, 36.0)
    assert other.ask().error == "InvalidGrantError"
    assert (provider.token_calls, provider.reuses) == (2, 1)
    tombstone = stored(store, key)
    assert (tombstone.revoked_at is not None, bool(tombstone.access_token)) == (True, False)
    assert other.ask().error == "RevokedError"
    assert crew.hire().ask().error == "RevokedError"
    assert provider.token_calls == 2
    assert other.do(set_clock, 0.0) is None
    again = log_in(broker, provider)
    assert other.ask().token == again.access_token.fingerprint()


def test_killed_while_renewing_ahead_leaves_a_token_that_is_served_while_it_works(
    provider: LoopbackProvider, broker: Broker, store: BrokerStore, key: StoreKey, crew: Crew
) -> None:
    """FAULTS 3: the spent token is not presented while the current one serves, however long that is."""
    log_in(broker, provider)
    current = age(store, key, seconds_left=44).access_token.fingerprint()
    provider.clear()
    provider.inject(Fault.slow(60.0))
    victim, other = crew.hire(), crew.hire()
    victim.begin(ask)
    wait_for(lambda: provider.token_calls == 1)
    victim.kill()
    for ahead in (0.0, 20.0, 36.0):  # the last: no answer can arrive any more, and the token still serves
        other.do(set_clock, ahead)
        assert other.ask().token == current
    assert provider.token_calls == 1
    other.do(set_clock, 50.0)
    assert other.ask().error == "InvalidGrantError"
    assert provider.token_calls == 2


def test_a_waiter_takes_over_from_a_holder_killed_before_its_attempt(
    provider: LoopbackProvider, broker: Broker, store: BrokerStore, key: StoreKey, crew: Crew
) -> None:
    """FAULTS 8: the lease frees itself; as nothing was presented yet, the waiter renews at once."""
    log_in(broker, provider)
    age(store, key, seconds_left=-1)
    provider.clear()
    holder, waiter = crew.hire(pause_at="augment"), crew.hire(announce_lease=True)
    holder.begin(ask)
    holder.await_pause()
    waiting = waiter.begin(ask, threads=4)
    waiter.await_pause()
    assert not waiting.is_done
    holder.kill()
    answers = waiting.result()
    assert {answer.token for answer in answers} == {stored(store, key).access_token.fingerprint()}
    assert (provider.token_calls, provider.reuses) == (1, 0)


def test_a_waiter_of_a_holder_killed_mid_call_is_told_when_to_come_back(
    provider: LoopbackProvider, broker: Broker, store: BrokerStore, key: StoreKey, crew: Crew
) -> None:
    """FAULTS 8: it gets the lease at once and neither hangs nor presents the token before its time."""
    log_in(broker, provider)
    age(store, key, seconds_left=-1)
    provider.clear()
    provider.inject(Fault.silence(processed=False))
    holder, waiter = crew.hire(), crew.hire(announce_lease=True)
    holder.begin(ask)
    wait_for(lambda: provider.token_calls == 1)
    waiting = waiter.begin(ask, threads=4)
    waiter.await_pause()
    assert waiter.reached.is_set()
    holder.kill()
    answers = waiting.result(10.0)
    assert {answer.error for answer in answers} == {"TransientError"}
    assert all(answer.retry_after and 25.0 < answer.retry_after <= 35.0 for answer in answers)
    assert waiter.do(can_lease)
    assert provider.token_calls == 1
    waiter.do(set_clock, 36.0)
    others = [waiter, crew.hire(ahead=36.0)]
    answers = gather([worker.begin(ask, threads=2) for worker in others])
    assert {answer.token for answer in answers} == {stored(store, key).access_token.fingerprint()}
    assert (provider.token_calls, provider.reuses) == (2, 0)
