"""Engines that are killed, that hang, that lose their data, and hosts that are cut off from them."""

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from oauth2broker import Broker, BrokerStore, StoreKey
from oauth2broker.testing import Fault, LoopbackProvider
from tests.engines.base import Server
from tests.engines.conftest import OwnMariaDb, OwnPostgres, OwnRedis
from tests.engines.network import Cut
from tests.faults.workers import (
    Crew,
    age,
    ask,
    ask_until_served,
    log_in,
    renew_each,
    renew_for,
    stored,
    unsaved_tokens,
    wait_for,
)
from tests.places import QUICK, Place

pytestmark = pytest.mark.engines

NAMES = [f"user-{number}" for number in range(6)]
WORKERS = 3
SECONDS = 6.0
SEED = 20260101


@pytest.fixture(params=["redis", "postgresql", "mariadb"])
def engine(request: pytest.FixtureRequest) -> Server:
    """Run an engine of the test's own, which keeps what it has acknowledged."""
    if "edis" in request.param:
        own_redis: OwnRedis = request.getfixturevalue("own_redis")
        return own_redis(appendonly=request.param == "redis")
    own: OwnPostgres | OwnMariaDb = request.getfixturevalue(
        {"postgresql": "own_postgres", "mariadb": "own_mariadb"}[request.param]
    )
    return own()


@pytest.fixture
def place(engine: Server) -> Place:
    """Give an empty place in it."""
    return Place(engine.new_database())


@pytest.fixture
def expired(broker: Broker, provider: LoopbackProvider, store: BrokerStore, key: StoreKey) -> StoreKey:
    """Log in; let the token have expired."""
    log_in(broker, provider)
    age(store, key, seconds_left=-1)
    provider.clear()
    return key


def pause(seconds: float) -> None:
    """Let what goes by an engine's clock, or what others do meanwhile, take its time."""
    threading.Event().wait(seconds)


def let_leases_lapse() -> None:
    """Wait until a lease that nobody prolongs has ended."""
    pause(QUICK.duration + 0.5)


# An engine that is down when the answer is to be stored.


def test_what_the_engine_cannot_take_is_served_kept_and_written_when_it_is_back(
    engine: Server, provider: LoopbackProvider, expired: StoreKey, crew: Crew
) -> None:
    """FAULTS 4: nobody else presents the spent token meanwhile, and all have its successor afterwards."""
    renewer, other = crew.hire(pause_at="normalize"), crew.hire()
    renewing = renewer.begin(ask)
    renewer.await_pause()
    engine.kill()
    renewer.proceed.set()
    renewed = renewing.result()[0]
    assert renewed.token is not None
    assert renewer.do(unsaved_tokens) == [renewed.token]
    assert renewer.ask().token == renewed.token
    assert other.ask().error == "BackendError"
    engine.start()
    wait_for(lambda: renewer.do(unsaved_tokens) == [])
    assert other.ask().token == renewed.token
    assert (provider.token_calls, provider.reuses) == (1, 0)


def test_after_an_outage_longer_than_the_lease_the_spent_token_is_still_not_presented(
    engine: Server, provider: LoopbackProvider, expired: StoreKey, crew: Crew
) -> None:
    """FAULTS 4: whose lease lapsed in the outage gets it back before others take it, and writes first."""
    renewer = crew.hire(pause_at="normalize")
    other = crew.hire(ahead=60.0)  # to whom no answer can arrive any more: the token is free to be presented
    renewing = renewer.begin(ask)
    renewer.await_pause()
    engine.kill()
    renewer.proceed.set()
    renewed = renewing.result()[0]
    let_leases_lapse()
    os.kill(renewer.pid, signal.SIGSTOP)  # so that it is surely not the first to be back
    asking = other.begin(ask_until_served)
    engine.start()
    pause(0.5)  # less than it is watched
    os.kill(renewer.pid, signal.SIGCONT)
    assert asking.result()[-1].token == renewed.token
    assert (provider.token_calls, provider.reuses) == (1, 0)


def test_an_engine_that_is_down_before_the_call_means_no_call(
    engine: Server, provider: LoopbackProvider, expired: StoreKey, crew: Crew
) -> None:
    """FAULTS 4: what cannot be written down is not presented; when the engine is back, all goes on."""
    worker = crew.hire(pause_at="augment")
    renewing = worker.begin(ask)
    worker.await_pause()
    engine.kill()
    worker.proceed.set()
    assert renewing.result()[0].error == "BackendError"
    assert provider.token_calls == 0
    engine.start()
    assert worker.do(ask_until_served)[-1].token is not None
    assert (provider.token_calls, provider.reuses) == (1, 0)


@pytest.mark.parametrize("how", ["killed", "hanging"])
def test_without_leases_a_valid_token_is_served_and_an_expired_one_is_not_renewed(
    engine: Server,
    broker: Broker,
    provider: LoopbackProvider,
    store: BrokerStore,
    key: StoreKey,
    crew: Crew,
    how: str,
) -> None:
    """FAULTS 9: the record was read, and then the engine was gone, or did not answer."""
    fail, mend = (engine.kill, engine.start) if how == "killed" else (engine.pause, engine.resume)
    log_in(broker, provider)
    provider.clear()
    current = age(store, key, seconds_left=30).access_token.fingerprint()
    assert ask_when(crew, fail) == (current, None)
    mend()
    age(store, key, seconds_left=-1)
    assert ask_when(crew, fail) == (None, "BackendError")
    mend()
    assert provider.token_calls == 0
    assert crew.workers[0].do(ask_until_served)[-1].token not in {None, current}
    assert (provider.token_calls, provider.reuses) == (1, 0)


def ask_when(crew: Crew, fail: Callable[[], object]) -> tuple[str | None, str | None]:
    """Have somebody ask, and let something fail when it has read the record and wants the lease."""
    worker = crew.hire(pause_at="lease")
    asking = worker.begin(ask)
    worker.await_pause()
    fail()
    worker.proceed.set()
    answer = asking.result()[0]
    return answer.token, answer.error


# A holder that stands still.


def test_a_holder_that_lost_its_lease_before_its_attempt_presents_nothing(
    provider: LoopbackProvider, expired: StoreKey, crew: Crew
) -> None:
    """FAULTS 2 and 8: it was stopped, another took over and is at the provider, and then it goes on."""
    stopped, other = crew.hire(pause_at="augment"), crew.hire()
    renewing = stopped.begin(ask)
    stopped.await_pause()
    os.kill(stopped.pid, signal.SIGSTOP)
    provider.inject(Fault.slow(6.0))
    taking_over = other.begin(ask)
    wait_for(lambda: provider.token_calls == 1)
    os.kill(stopped.pid, signal.SIGCONT)
    stopped.proceed.set()
    assert renewing.result()[0].error == "TransientError"
    renewed = taking_over.result()[0]
    assert renewed.token is not None
    assert stopped.do(ask_until_served)[-1].token == renewed.token
    assert (provider.token_calls, provider.reuses) == (1, 0)


# A host that is cut off.


@pytest.fixture
def cut(engine: Server) -> Iterator[Cut]:
    """Stand between one host and the engine."""
    with Cut(engine.port) as relay:
        yield relay


def behind(cut: Cut, place: Place) -> Place:
    """Give the place as it is seen from behind the relay."""
    return Place(cut.url(place.url))


def test_a_host_cut_off_before_its_attempt_loses_the_lease_to_another(
    provider: LoopbackProvider, expired: StoreKey, crew: Crew, place: Place, cut: Cut
) -> None:
    """FAULTS 8: it presents nothing; the other, which waits, takes over, once."""
    lost, other = crew.hire(place=behind(cut, place), pause_at="augment"), crew.hire()
    renewing = lost.begin(ask)
    lost.await_pause()
    cut.cut()
    waiting = other.begin(ask, threads=4)
    lost.proceed.set()
    assert renewing.result()[0].error == "BackendError"
    assert len({answer.token for answer in waiting.result()} - {None}) == 1
    cut.mend()
    assert lost.do(ask_until_served)[-1].token == other.ask().token
    assert (provider.token_calls, provider.reuses) == (1, 0)


def test_a_host_cut_off_with_a_token_in_hand_brings_it_when_it_is_back(
    provider: LoopbackProvider, expired: StoreKey, crew: Crew, place: Place, cut: Cut
) -> None:
    """FAULTS 4 and 10: the others hold back while its answer could arrive, and then adopt what it has."""
    lost, other = crew.hire(place=behind(cut, place), pause_at="normalize"), crew.hire()
    renewing = lost.begin(ask)
    lost.await_pause()
    cut.cut()
    lost.proceed.set()
    renewed = renewing.result()[0]
    assert renewed.token is not None
    let_leases_lapse()
    assert other.ask().error == "TransientError"
    assert provider.token_calls == 1
    cut.mend()
    wait_for(lambda: lost.do(unsaved_tokens) == [])
    assert other.ask().token == renewed.token
    assert (provider.token_calls, provider.reuses) == (1, 0)


def test_a_host_that_comes_back_too_late_changes_nothing(
    provider: LoopbackProvider, store: BrokerStore, expired: StoreKey, crew: Crew, place: Place, cut: Cut
) -> None:
    """FAULTS 10: its token is dead by then, with the whole grant; the tombstone stays."""
    lost, other = crew.hire(place=behind(cut, place), pause_at="normalize"), crew.hire(ahead=60.0)
    renewing = lost.begin(ask)
    lost.await_pause()
    cut.cut()
    lost.proceed.set()
    assert renewing.result()[0].token is not None
    let_leases_lapse()
    assert other.ask().error == "InvalidGrantError"
    cut.mend()
    wait_for(lambda: lost.do(unsaved_tokens) == [])
    assert lost.ask().error == "RevokedError"
    assert stored(store, expired).revoked_at is not None
    assert provider.token_calls == 2


# An engine that loses its data.


@pytest.mark.parametrize("engine", ["a Redis that keeps nothing"], indirect=True)
@pytest.mark.parametrize("pause_at", ["augment", "send", "normalize"])
def test_a_redis_that_lost_its_data_wants_logins_and_burns_nothing(
    engine: Server,
    broker: Broker,
    provider: LoopbackProvider,
    store: BrokerStore,
    expired: StoreKey,
    crew: Crew,
    pause_at: str,
) -> None:
    """Whatever was under way: nothing spent is presented, nothing is brought back, and a login mends it."""
    worker, other = crew.hire(pause_at=pause_at), crew.hire()
    renewing = worker.begin(ask)
    worker.await_pause()
    engine.kill()
    engine.start()
    worker.proceed.set()
    assert renewing.result()[0].token is None
    assert {worker.ask().error, other.ask().error} == {"AuthorizationRequiredError"}
    assert store.fetch(expired) is None
    assert provider.token_calls == (0 if pause_at == "augment" else 1)
    assert provider.reuses == 0
    login = log_in(broker, provider)
    assert worker.ask().token == other.ask().token == login.access_token.fingerprint()


@pytest.mark.parametrize("engine", ["a Redis that keeps nothing"], indirect=True)
def test_what_was_unsaved_when_redis_lost_its_data_is_not_brought_back(
    engine: Server, provider: LoopbackProvider, expired: StoreKey, crew: Crew
) -> None:
    """Nobody can tell a store that forgot from one where the user logged out."""
    worker = crew.hire(pause_at="normalize")
    renewing = worker.begin(ask)
    worker.await_pause()
    engine.kill()
    worker.proceed.set()
    assert renewing.result()[0].token is not None
    engine.start()
    wait_for(lambda: worker.do(unsaved_tokens) == [])
    assert worker.ask().error == "AuthorizationRequiredError"
    assert (provider.token_calls, provider.reuses) == (1, 0)


# A storm.


def test_a_storm_of_outages_burns_no_grant(
    engine: Server, provider: LoopbackProvider, broker: Broker, crew: Crew
) -> None:
    """The engine is killed again and again under workers that renew all the time; no token is lost."""
    for name in NAMES:
        log_in(broker, provider, name)
    provider.clear()
    workers, dice = crew.hire_many(WORKERS), random.Random(SEED)
    busy = [worker.begin(renew_for, NAMES, SECONDS, seed) for seed, worker in enumerate(workers)]
    outages = 0
    while not all(pending.is_done for pending in busy):
        pause(dice.uniform(0.2, 1.0))
        engine.kill()
        pause(dice.uniform(0.0, 1.5))
        engine.start()
        outages += 1
    renewed = [pending.result() for pending in busy]
    for worker in workers:
        wait_for(lambda worker=worker: worker.do(unsaved_tokens) == [])  # type: ignore[misc]
        assert worker.do(renew_each, NAMES) == []
    assert outages >= 3, "too few outages: this proves nothing"
    assert min(renewed) > 3, "too few renewals: this proves nothing"
    assert provider.reuses == 0
