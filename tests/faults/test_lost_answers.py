"""Answers that never arrive, seen from two processes: no second presentation before its time."""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import pytest

from oauth2broker import Broker, BrokerStore, StoreKey
from oauth2broker.testing import Fault, LoopbackProvider
from tests.faults.workers import QUICK, Crew, age, ask, ask_service, gather, log_in, set_clock, stored
from tests.support import USER_REQUEST

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the faults need POSIX processes")

TIMEOUT = 1.0
SPENT = {
    "never answered": Fault.silence(),
    "answered too late": Fault.slow(3.0),
    "reset": Fault.lost_answer(reset=True),
    "hung up": Fault.lost_answer(),
    "cut": Fault.cut(20),
    "dripping": Fault.drip_body(0.1),
}
UNSPENT = {
    "never answered": Fault.silence(processed=False),
    "reset": Fault.reset(),
}


def lose_an_answer(
    provider: LoopbackProvider, broker: Broker, store: BrokerStore, key: StoreKey, crew: Crew, fault: Fault
) -> None:
    """Two processes meet an expired token and lose the answer; then both wait until none can arrive.

    Leaves them as the crew's, with clocks at which the wait is over.
    """
    log_in(broker, provider)
    age(store, key, seconds_left=-1)
    provider.clear()
    provider.inject(fault)
    workers = crew.hire_many(2, timeout=TIMEOUT)
    answers = gather([worker.begin(ask, threads=2, meet=True) for worker in workers])
    assert {answer.error for answer in answers} <= {"TransientError", "TransportError"}
    assert all(answer.retry_after is not None for answer in answers)
    assert max(answer.seconds for answer in answers) < TIMEOUT + 3.0
    assert provider.token_calls == 1
    for worker in workers:
        worker.do(set_clock, 20.0)
    answers = gather([worker.begin(ask, threads=2, meet=True) for worker in workers])
    assert {answer.error for answer in answers} == {"TransientError"}
    answers = gather([worker.begin(ask, USER_REQUEST.force_refresh()) for worker in workers])
    assert {answer.error for answer in answers} == {"TransientError"}
    assert provider.token_calls == 1
    for worker in workers:
        worker.do(set_clock, 36.0)


@pytest.mark.parametrize("fault", SPENT.values(), ids=SPENT)
def test_a_lost_answer_to_a_spent_token_ends_in_one_more_try_and_a_definite_answer(
    provider: LoopbackProvider, broker: Broker, store: BrokerStore, key: StoreKey, crew: Crew, fault: Fault
) -> None:
    """FAULTS 10: nobody asks before 35 seconds; then one asks, and all learn that the user is needed."""
    lose_an_answer(provider, broker, store, key, crew, fault)
    answers = gather([worker.begin(ask, threads=2, meet=True) for worker in crew.workers])
    assert {answer.error for answer in answers} <= {"InvalidGrantError", "RevokedError"}
    assert "InvalidGrantError" in {answer.error for answer in answers}
    assert (provider.token_calls, provider.reuses) == (2, 1)
    assert stored(store, key).revoked_at is not None


@pytest.mark.parametrize("fault", UNSPENT.values(), ids=UNSPENT)
def test_a_lost_answer_to_an_unspent_token_ends_in_one_more_try_and_a_token_for_all(
    provider: LoopbackProvider, broker: Broker, store: BrokerStore, key: StoreKey, crew: Crew, fault: Fault
) -> None:
    """FAULTS 10: the grant is not given up before it is tried again."""
    lose_an_answer(provider, broker, store, key, crew, fault)
    answers = gather([worker.begin(ask, threads=2, meet=True) for worker in crew.workers])
    assert {answer.token for answer in answers} == {stored(store, key).access_token.fingerprint()}
    assert (provider.token_calls, provider.reuses) == (2, 0)


def test_a_dead_provider_costs_many_waiting_processes_one_timeout(
    provider: LoopbackProvider, broker: Broker, store: BrokerStore, key: StoreKey, crew: Crew
) -> None:
    """FAULTS 32: one call and one timeout in all; the others find `retry_at` and say when to come back."""
    log_in(broker, provider)
    age(store, key, seconds_left=-1)
    provider.clear()
    provider.inject(Fault.silence(processed=False), times=100)
    workers = crew.hire_many(4, timeout=2.0)
    answers = gather([worker.begin(ask, threads=3, meet=True) for worker in workers])
    assert provider.token_calls == 1
    assert {answer.error for answer in answers} == {"TransientError"}
    assert all(answer.retry_after and answer.retry_after > 0 for answer in answers)
    assert max(answer.seconds for answer in answers) < 8.0  # a timeout, and a slow store


def test_a_dead_provider_of_service_tokens_costs_many_waiting_processes_one_timeout(
    provider: LoopbackProvider, crew: Crew
) -> None:
    """FAULTS 32 for client_credentials: after it, one of them asks again, and all have the token."""
    provider.inject(Fault.silence(processed=False), times=1)
    bounds = replace(QUICK, first_backoff=30.0)  # longer than a slow store keeps them in line
    workers = crew.hire_many(4, timeout=2.0, bounds=bounds)
    answers = gather([worker.begin(ask_service, threads=2, meet=True) for worker in workers])
    assert provider.token_calls == 1
    assert {answer.error for answer in answers} == {"TransientError"}
    assert max(answer.seconds for answer in answers) < 8.0
    wait = max(answer.retry_after or 0.0 for answer in answers)
    assert 0 < wait <= 30.0
    for worker in workers:
        worker.do(set_clock, wait)
    began = time.monotonic()
    answers = gather([worker.begin(ask_service, threads=2, meet=True) for worker in workers])
    assert len({answer.token for answer in answers}) == 1
    assert answers[0].token is not None
    assert provider.token_calls == 2
    assert time.monotonic() - began < 10.0
