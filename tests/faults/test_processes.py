"""Many processes on one store: one renewal, and nobody's logout or login is undone."""

from __future__ import annotations

import sys

import pytest

from oauth2broker import Broker, BrokerStore, StoreKey
from oauth2broker.testing import LoopbackProvider
from tests.faults.workers import CLIENT, Crew, age, ask, gather, log_in, log_out, stored, wait_for
from tests.support import USER_REQUEST

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="the faults need POSIX processes"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_many_processes_on_one_expired_token_make_one_call_each_time_it_expires(
    provider: LoopbackProvider, broker: Broker, store: BrokerStore, key: StoreKey, crew: Crew, method: str
) -> None:
    """FAULTS 2: three rotations under 6 processes of 6 threads are three calls, and all answers are equal."""
    log_in(broker, provider)
    provider.latency = 0.05
    workers = crew.hire_many(6, method)
    tokens = set()
    for calls in (1, 2, 3):
        age(store, key, seconds_left=-1)
        if calls == 1:
            provider.clear()
        answers = gather([worker.begin(ask, threads=6, meet=True) for worker in workers])
        assert [answer.message for answer in answers if answer.error] == []
        assert len(answers) == 36
        assert {answer.token for answer in answers} == {stored(store, key).access_token.fingerprint()}
        assert (provider.token_calls, provider.reuses) == (calls, 0)
        tokens.add(answers[0].token)
    assert len(tokens) == 3


@pytest.mark.parametrize("rotation", ["sometimes", "never"])
def test_while_one_process_renews_ahead_no_other_waits_for_it(
    provider: LoopbackProvider, broker: Broker, store: BrokerStore, key: StoreKey, crew: Crew, rotation: str
) -> None:
    """DESIGN 4: all others get the record at once, as they see the attempt or (never) the busy lease."""
    log_in(broker, provider)
    old = age(store, key, seconds_left=30)
    leader, *others = crew.hire_many(3, descriptor=provider.descriptor(rotation=rotation))
    provider.clear()
    provider.latency = 2.0
    renewing = leader.begin(ask)
    wait_for(lambda: provider.token_calls == 1)
    for _ in range(5):
        answers = gather([worker.begin(ask, threads=4) for worker in others])
        assert {answer.token for answer in answers} == {old.access_token.fingerprint()}
    assert provider.calls[0].status is None, "the call was not in flight any more: this proves nothing"
    assert not renewing.is_done
    renewed = renewing.result()[0]
    assert renewed.token == stored(store, key).access_token.fingerprint()
    assert renewed.token != old.access_token.fingerprint()
    assert provider.token_calls == 1


def test_a_login_in_another_process_survives_an_invalid_grant(
    provider: LoopbackProvider, broker: Broker, store: BrokerStore, key: StoreKey, crew: Crew
) -> None:
    """FAULTS 5: who is refused because another process stored a new grant adopts it, and spares it."""
    log_in(broker, provider)
    age(store, key, seconds_left=-1)
    worker = crew.hire(pause_at="send")
    renewing = worker.begin(ask)
    worker.await_pause()
    provider.revoke_user("alice")
    with Broker(provider.descriptor(), *CLIENT) as elsewhere:  # of another program, which knows no leases
        winner = log_in(elsewhere, provider)
    store.save(winner)
    provider.clear()
    worker.proceed.set()
    assert renewing.result()[0].token == winner.access_token.fingerprint()
    assert [call.error for call in provider.calls] == ["invalid_grant"]
    assert store.fetch(key) == winner
    assert provider.is_live(winner.access_token.expose())


def test_a_winner_that_comes_while_the_refusal_is_read_is_adopted(
    provider: LoopbackProvider, broker: Broker, store: BrokerStore, key: StoreKey, crew: Crew
) -> None:
    """FAULTS 5: the same at the last moment, with the answer invalid_grant already in hand."""
    log_in(broker, provider)
    age(store, key, seconds_left=-1)
    provider.revoke_user("alice")
    worker = crew.hire(pause_at="classify")
    renewing = worker.begin(ask)
    worker.await_pause()
    with Broker(provider.descriptor(), *CLIENT) as elsewhere:
        winner = log_in(elsewhere, provider)
    store.save(winner)
    worker.proceed.set()
    assert renewing.result()[0].token == winner.access_token.fingerprint()
    assert store.fetch(key) == winner


def test_of_many_processes_with_a_dead_grant_one_asks_and_all_are_told(
    provider: LoopbackProvider, broker: Broker, store: BrokerStore, key: StoreKey, crew: Crew
) -> None:
    """FAULTS 6: one call, one tombstone; the others, and all later ones, fail without a call."""
    log_in(broker, provider)
    provider.revoke_user("alice")
    age(store, key, seconds_left=-1)
    provider.clear()
    workers = crew.hire_many(3)
    answers = gather([worker.begin(ask, threads=2, meet=True) for worker in workers])
    errors = {answer.error for answer in answers}
    assert "InvalidGrantError" in errors
    assert errors <= {"InvalidGrantError", "RevokedError"}
    tombstone = stored(store, key)
    assert (tombstone.revoked_at is not None, tombstone.refresh_token) == (True, None)
    later = gather([worker.begin(ask, USER_REQUEST.force_refresh()) for worker in workers])
    assert {answer.error for answer in later} == {"RevokedError"}
    assert provider.token_calls == 1


@pytest.mark.parametrize("pause_at", ["send", "normalize"])
@pytest.mark.parametrize("how", ["delete", "revoke"])
def test_a_logout_in_another_process_during_a_renewal_stays_a_logout(
    provider: LoopbackProvider,
    broker: Broker,
    store: BrokerStore,
    key: StoreKey,
    crew: Crew,
    how: str,
    pause_at: str,
) -> None:
    """FAULTS 7: whether the logout comes before the call or after its answer, nothing is brought back."""
    log_in(broker, provider)
    age(store, key, seconds_left=-1)
    provider.clear()
    renewer, leaver = crew.hire(pause_at=pause_at), crew.hire()
    renewing = renewer.begin(ask)
    renewer.await_pause()
    leaver.do(log_out, how)
    renewer.proceed.set()
    assert renewing.result()[0].error == "RevokedError"
    left = store.fetch(key)
    assert left is None if how == "delete" else (left is not None and left.revoked_at is not None)
    assert provider.token_calls == 1
    if how == "delete":
        assert provider.revocations == 1, "nobody may use the grant that came"
    assert leaver.ask().error == ("AuthorizationRequiredError" if how == "delete" else "RevokedError")
    login = log_in(broker, provider)
    assert leaver.ask().token == login.access_token.fingerprint()
