"""Renewing a user's token, exactly once: DESIGN section 4 for the threads of one process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import cast

import pytest

from oauth2broker import (
    AuthorizationRequiredError,
    BackendError,
    Broker,
    BrokerError,
    CachedTokenRequest,
    CompareAndSwapOutcome,
    ConfigError,
    GrantType,
    HttpRequest,
    HttpResponse,
    InvalidGrantError,
    MemoryStore,
    ProviderStrategy,
    RequestsHttpClient,
    ResponseMetadataSlot,
    RevokedError,
    RotationPolicy,
    StoreKey,
    TokenRecord,
    TokenSecret,
    TransientError,
    TransportError,
)
from oauth2broker.flows.cached import answer
from oauth2broker.flows.singleflight import Outcome
from oauth2broker.testing import Fault, LoopbackProvider
from tests.support import SCOPE, TENANT, USER, USER_REQUEST, Crowd, ManualClock, log_in

HOUR = 3600.0


def stored(broker: Broker) -> TokenRecord:
    """The record of USER_REQUEST, which must be there."""
    record = broker.store.fetch(broker.key_for(USER_REQUEST))
    assert record is not None
    return record


def expire(clock: ManualClock) -> None:
    """Move past the lifetime of any token of the loopback provider."""
    clock.advance(2 * HOUR)


@pytest.mark.parametrize("threads", [32, 128])
def test_many_threads_on_one_expired_token_make_one_call(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock, threads: int
) -> None:
    """FAULTS 1: one token call, and every thread gets its result."""
    log_in(broker, provider)
    expire(clock)
    provider.clear()
    provider.latency = 0.05
    crowd = Crowd(threads, lambda: broker.refresh_access_token(USER_REQUEST)).start().join()
    assert crowd.errors == []
    assert len({record.access_token.expose() for record in crowd.results}) == 1
    assert (len(crowd.results), provider.token_calls, provider.reuses) == (threads, 1, 0)


def test_a_fresh_token_is_served_without_a_call(broker: Broker, provider: LoopbackProvider) -> None:
    """What works is handed out as it is, the very object that is stored."""
    record = log_in(broker, provider)
    provider.clear()
    assert broker.refresh_access_token(USER_REQUEST) is record
    assert provider.token_calls == 0


def test_two_brokers_on_one_store_renew_once(provider: LoopbackProvider, clock: ManualClock) -> None:
    """The store's lease excludes brokers from each other; the second adopts what the first stored."""
    store = MemoryStore()
    brokers = [
        Broker(provider.descriptor(), "demo-client", "demo-secret", store=store, clock=clock) for _ in "12"
    ]
    log_in(brokers[0], provider)
    expire(clock)
    provider.clear()
    provider.latency = 0.05
    turns = iter(brokers * 8)
    lock = threading.Lock()

    def ask() -> TokenRecord:
        with lock:
            mine = next(turns)
        return mine.refresh_access_token(USER_REQUEST)

    crowd = Crowd(16, ask).start().join()
    assert crowd.errors == []
    assert len({record.access_token.expose() for record in crowd.results}) == 1
    assert (provider.token_calls, provider.reuses) == (1, 0)
    for each in brokers:
        each.close()


def test_in_the_advisory_window_one_renews_and_the_others_are_served_at_once(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """While one caller renews ahead, others get the current token without waiting for it."""
    old = log_in(broker, provider)
    clock.advance(HOUR - 30)
    provider.clear()
    provider.inject(Fault.slow(30.0))
    leader = threading.Thread(target=lambda: broker.refresh_access_token(USER_REQUEST), daemon=True)
    leader.start()
    wait_for(lambda: provider.token_calls == 1)
    crowd = Crowd(8, lambda: broker.refresh_access_token(USER_REQUEST)).start().join(5.0)
    assert [record.access_token for record in crowd.results] == [old.access_token] * 8
    assert leader.is_alive()
    provider.close()
    leader.join(10.0)


def test_a_token_that_expires_while_it_is_renewed_ahead_elsewhere_is_not_served(
    provider: LoopbackProvider, clock: ManualClock
) -> None:
    """Asking for the lease took long, and it is somebody else's: then it is waited for."""

    class SlowStore(MemoryStore):
        @contextmanager
        def refresh_lease(self, key: StoreKey, *, timeout: float) -> Iterator[bool]:
            if not timeout:
                clock.advance(30.0)
                yield False
                return
            with super().refresh_lease(key, timeout=timeout) as is_ours:
                yield is_ours

    with Broker(
        provider.descriptor(), "demo-client", "demo-secret", store=SlowStore(), clock=clock
    ) as broker:
        log_in(broker, provider)
        clock.advance(HOUR - 30)
        served = broker.refresh_access_token(USER_REQUEST)
        assert served.expires_at == clock.now + timedelta(hours=1)


def test_rejecting_a_token_renews_it_once_for_a_hundred_callers(
    broker: Broker, provider: LoopbackProvider
) -> None:
    """A hundred 401s to one token make one call."""
    rejected = log_in(broker, provider)
    provider.clear()
    provider.latency = 0.02
    request = USER_REQUEST.rejecting(rejected)
    crowd = Crowd(100, lambda: broker.refresh_access_token(request)).start().join()
    assert crowd.errors == []
    assert all(record.access_token != rejected.access_token for record in crowd.results)
    assert provider.token_calls == 1
    broker.refresh_access_token(request)  # late: another token is stored by now
    assert provider.token_calls == 1


def test_forced_rejecting_and_plain_callers_each_get_what_they_asked_for(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """FAULTS 31: all join one flight; nobody gets the token that it rejected."""
    old = log_in(broker, provider)
    expire(clock)
    provider.clear()
    provider.latency = 0.05
    requests = [USER_REQUEST, USER_REQUEST.force_refresh(), USER_REQUEST.rejecting(old)] * 8
    lock = threading.Lock()

    def ask() -> TokenRecord:
        with lock:
            mine = requests.pop()
        return broker.refresh_access_token(mine)

    crowd = Crowd(24, ask).start().join()
    assert crowd.errors == []
    assert all(record.access_token != old.access_token for record in crowd.results)
    assert provider.reuses == 0


def test_a_forced_caller_that_joins_an_advisory_flight_without_the_lease_leads_the_next(
    provider: LoopbackProvider, clock: ManualClock
) -> None:
    """FAULTS 31: an advisory leader may end with nothing; who insists then starts once more."""
    store = PausingStore()
    with Broker(provider.descriptor(), "demo-client", "demo-secret", store=store, clock=clock) as broker:
        old = log_in(broker, provider)
        clock.advance(HOUR - 30)
        provider.clear()
        store.busy = True
        leader = Crowd(1, lambda: broker.refresh_access_token(USER_REQUEST)).start()
        assert store.asked.wait(10.0)
        forced = Crowd(1, lambda: broker.refresh_access_token(USER_REQUEST.force_refresh())).start()
        wait_for(lambda: store.fetches >= 3)  # the login, the leader, and the forced caller have read
        store.busy = False
        store.proceed.set()
        assert leader.join().results == [old]
        assert forced.join().errors == []
        assert forced.results[0].access_token != old.access_token
        assert provider.token_calls == 1


def test_a_refused_grant_becomes_a_tombstone(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """FAULTS 6: invalid_grant buries the grant; later calls fail at once, without a call."""
    log_in(broker, provider)
    provider.revoke_user("alice")
    expire(clock)
    with pytest.raises(InvalidGrantError) as refused:
        broker.refresh_access_token(USER_REQUEST)
    assert refused.value.reauthorize
    tombstone = stored(broker)
    assert tombstone.revoked_at == clock.now
    assert (bool(tombstone.access_token), tombstone.refresh_token) == (False, None)
    provider.clear()
    with pytest.raises(RevokedError):
        broker.refresh_access_token(USER_REQUEST.force_refresh())
    assert provider.token_calls == 0


def test_the_winner_of_a_lost_race_is_adopted_not_destroyed(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """FAULTS 5: invalid_grant for a token that somebody replaced meanwhile means: read again."""
    log_in(broker, provider)
    expire(clock)
    winner = replace(
        stored(broker),
        access_token=TokenSecret("winner"),
        refresh_token=TokenSecret("winner-refresh"),
        issued_at=clock.now,
        expires_at=clock.now + timedelta(hours=1),
    )

    def lose(payload: object) -> dict[str, object]:
        broker.store.save(winner)
        return {"error": "invalid_grant"}

    provider.inject(Fault.rewrite(lose))
    assert broker.refresh_access_token(USER_REQUEST) == winner
    assert broker.store.fetch(winner.key) == winner


def test_a_grant_that_turns_out_dead_ahead_of_expiry_is_told_at_once(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """FAULTS 6: the old token would work for some seconds, and then the user is asked all the same."""
    log_in(broker, provider)
    provider.revoke_user("alice")
    clock.advance(HOUR - 30)
    with pytest.raises(InvalidGrantError):
        broker.refresh_access_token(USER_REQUEST)


def test_a_token_that_came_too_late_is_given_to_who_waited_for_it(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """FAULTS 30: what a flight has just obtained is served to all in it, or they would renew for ever."""

    def answer_slowly(payload: dict[str, object]) -> dict[str, object]:
        clock.advance(20.0)
        return {**payload, "expires_in": 10}

    log_in(broker, provider)
    expire(clock)
    provider.clear()
    provider.inject(Fault.rewrite(answer_slowly))
    assert broker.refresh_access_token(USER_REQUEST).expires_at == clock.now - timedelta(seconds=10)
    assert provider.token_calls == 1


@pytest.mark.parametrize(
    "request_", [USER_REQUEST.force_refresh(), replace(USER_REQUEST, rejected="another")]
)
def test_who_insists_on_another_token_gets_none_that_is_older_than_what_it_saw(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock, request_: CachedTokenRequest
) -> None:
    """A flight that it joined may have begun with what was stored before, and brought nothing."""
    older = log_in(broker, provider)
    clock.advance(1.0)
    seen = broker.refresh_access_token(USER_REQUEST.force_refresh())
    assert answer(request_, Outcome(older), seen, clock.now) is None
    assert answer(USER_REQUEST, Outcome(older), seen, clock.now) is older


class RestlessStore(MemoryStore):
    """While ``restless``, somebody replaces the record just before each mark."""

    restless, swaps = False, 0

    def compare_and_swap_refresh(
        self, key: StoreKey, expected_refresh: TokenSecret | str | None, replacement: TokenRecord
    ) -> CompareAndSwapOutcome:
        if self.restless:
            self.swaps += 1
            self.save(
                replace(replacement, refresh_token=TokenSecret(f"other-{self.swaps}"), attempted_at=None)
            )
        return super().compare_and_swap_refresh(key, expected_refresh, replacement)


def test_a_record_that_is_replaced_again_and_again_is_given_up(
    provider: LoopbackProvider, clock: ManualClock
) -> None:
    """From the top once, not for ever; and nothing that was replaced is presented."""
    store = RestlessStore()
    with Broker(provider.descriptor(), "demo-client", "demo-secret", store=store, clock=clock) as broker:
        log_in(broker, provider)
        expire(clock)
        provider.clear()
        store.restless = True
        with pytest.raises(TransientError, match="keeps changing"):
            broker.refresh_access_token(USER_REQUEST)
        assert (provider.token_calls, store.swaps) == (0, 2)


def test_grants_that_are_refused_and_replaced_again_and_again_are_given_up(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """The next refusal after the second try is not answered with a third, and buries nobody's grant."""
    log_in(broker, provider)
    expire(clock)
    provider.clear()

    def lose(payload: object) -> dict[str, object]:
        other = TokenSecret(f"other-{provider.token_calls}")
        broker.store.save(replace(stored(broker), refresh_token=other, attempted_at=None))
        return {"error": "invalid_grant"}

    provider.inject(Fault.rewrite(lose), times=9)
    with pytest.raises(TransientError, match="keeps changing"):
        broker.refresh_access_token(USER_REQUEST)
    assert provider.token_calls == 2
    assert stored(broker).revoked_at is None


@pytest.mark.parametrize("how", ["delete", "revoke"])
def test_a_logout_during_a_refresh_stays_a_logout(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock, how: str
) -> None:
    """FAULTS 7: the refresh does not bring the record back."""
    log_in(broker, provider)
    expire(clock)
    key = broker.key_for(USER_REQUEST)

    def log_out(payload: dict[str, object]) -> dict[str, object]:
        broker.store.delete(key) if how == "delete" else broker.store.revoke(key, clock.now)
        return payload

    provider.inject(Fault.rewrite(log_out))
    with pytest.raises(RevokedError):
        broker.refresh_access_token(USER_REQUEST)
    left = broker.store.fetch(key)
    assert left is None if how == "delete" else (left is not None and left.revoked_at is not None)
    assert provider.revocations == (1 if how == "delete" else 0)
    metrics = broker.refresh_metrics
    assert (metrics.attempts, metrics.successes, metrics.failures) == (1, 0, 1)


def test_nothing_stored_means_authorize_first(broker: Broker, provider: LoopbackProvider) -> None:
    """Without a record there is nothing to renew, and no call is made."""
    with pytest.raises(AuthorizationRequiredError):
        broker.refresh_access_token(USER_REQUEST)
    assert provider.token_calls == 0


def test_an_expired_token_without_a_refresh_token_means_authorize_again(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """Served while it works, also in the advisory window; then the user is needed."""
    record = replace(log_in(broker, provider), refresh_token=None)
    broker.store.save(record)
    clock.advance(HOUR - 30)
    provider.clear()
    assert broker.refresh_access_token(USER_REQUEST) is record
    expire(clock)
    with pytest.raises(AuthorizationRequiredError):
        broker.refresh_access_token(USER_REQUEST)
    assert provider.token_calls == 0


# --- answers that are lost ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Fault.lost_answer(), Fault.lost_answer(reset=True), Fault.html(502)])
def test_after_a_lost_answer_the_token_waits_until_none_can_arrive(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock, fault: Fault
) -> None:
    """FAULTS 10: no second presentation before 35 seconds; then one more try and a definite answer."""
    log_in(broker, provider)
    expire(clock)
    provider.clear()
    provider.inject(fault)
    with pytest.raises((TransientError, TransportError)) as lost:
        broker.refresh_access_token(USER_REQUEST)
    assert lost.value.retryable
    assert not lost.value.reauthorize
    assert stored(broker).attempted_at is not None
    clock.advance(34.9)
    with pytest.raises(TransientError) as waiting:
        broker.refresh_access_token(USER_REQUEST)
    assert provider.token_calls == 1
    assert waiting.value.retry_after == pytest.approx(0.1)
    clock.advance(0.2)
    if fault.processed:
        with pytest.raises(InvalidGrantError):
            broker.refresh_access_token(USER_REQUEST)
    else:
        assert broker.refresh_access_token(USER_REQUEST).attempted_at is None
    assert provider.token_calls == 2


def test_the_wait_after_a_lost_answer_counts_from_the_sending_not_from_before_a_slow_hook(
    provider: LoopbackProvider, clock: ManualClock
) -> None:
    """FAULTS 10: whatever the caller's own code took to give the client's secret."""

    def give_slowly() -> str:
        clock.advance(30.0)
        return "demo-secret"

    with Broker(provider.descriptor(), "demo-client", give_slowly, clock=clock) as broker:
        assert log_in(broker, provider).issued_at == clock.now
        expire(clock)
        provider.inject(Fault.lost_answer())
        with pytest.raises(TransportError):
            broker.refresh_access_token(USER_REQUEST)
        assert stored(broker).attempted_at == clock.now


def test_after_a_lost_answer_a_token_that_still_serves_is_served(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """FAULTS 3 and 10: the refresh token is not presented again while the current token serves."""
    old = log_in(broker, provider)
    clock.advance(HOUR - 40)
    provider.clear()
    provider.inject(Fault.lost_answer())
    assert broker.refresh_access_token(USER_REQUEST).access_token == old.access_token
    clock.advance(34)
    assert broker.refresh_access_token(USER_REQUEST).access_token == old.access_token
    assert provider.token_calls == 1
    with pytest.raises(TransientError):
        broker.refresh_access_token(USER_REQUEST.force_refresh())
    assert provider.token_calls == 1


def test_a_provider_that_never_rotates_is_asked_again_after_the_back_off(
    provider: LoopbackProvider, clock: ManualClock
) -> None:
    """FAULTS 10: nothing can be spent there, so only the back-off counts."""
    descriptor = provider.descriptor(rotation=RotationPolicy.NEVER)
    with Broker(descriptor, "demo-client", "demo-secret", clock=clock) as broker:
        log_in(broker, provider)
        expire(clock)
        provider.inject(Fault.reset())
        with pytest.raises(BrokerError):
            broker.refresh_access_token(USER_REQUEST)
        assert stored(broker).attempted_at is None
        clock.advance(1.0)
        broker.refresh_access_token(USER_REQUEST)


def test_within_a_documented_grace_the_token_is_presented_again(clock: ManualClock) -> None:
    """FAULTS 10: a provider that repeats its answer for a while may be asked again in that while."""
    grace = timedelta(seconds=30)
    with LoopbackProvider(clock=clock, reuse_grace=grace) as provider:
        descriptor = provider.descriptor(reuse_grace=grace)
        with Broker(descriptor, "demo-client", "demo-secret", clock=clock) as broker:
            log_in(broker, provider)
            expire(clock)
            provider.inject(Fault.lost_answer())
            with pytest.raises(BrokerError):
                broker.refresh_access_token(USER_REQUEST)
            clock.advance(1.0)
            broker.refresh_access_token(USER_REQUEST)
            assert provider.reuses == 0


def test_lost_answers_do_not_stretch_the_grace(clock: ManualClock) -> None:
    """FAULTS 10: the provider counts from the first presentation, and so do we."""
    grace = timedelta(seconds=30)
    with LoopbackProvider(clock=clock, reuse_grace=grace) as provider:
        descriptor = provider.descriptor(reuse_grace=grace)
        with Broker(descriptor, "demo-client", "demo-secret", clock=clock) as broker:
            log_in(broker, provider)
            clock.advance(HOUR - 300)
            provider.inject(Fault.lost_answer(), times=99)
            started = clock.now
            for _ in range(60):
                with pytest.raises(BrokerError):
                    broker.refresh_access_token(USER_REQUEST.force_refresh())
                clock.advance(1.0)
            presented = [call.at for call in provider.calls if call.grant_type == "refresh_token"]
            assert len(presented) > 2
            assert max(presented) - started < grace
            assert provider.reuses == 0


def test_a_refused_connection_costs_only_the_back_off(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """What provably never went out leaves no attempt behind; back-off grows from a second."""
    log_in(broker, provider)
    expire(clock)
    provider.close()
    for expected in (1.0, 2.0, 4.0):
        with pytest.raises(TransportError) as failed:
            broker.refresh_access_token(USER_REQUEST)
        assert failed.value.sent is False
        assert failed.value.retry_after == expected
        assert stored(broker).attempted_at is None
        clock.advance(expected)
    provider.start()
    assert broker.refresh_access_token(USER_REQUEST).failures == 0


class Looking:
    """A transport that looks whether anybody else could have the lease of ``key`` during a call."""

    key: StoreKey

    def __init__(self, store: MemoryStore) -> None:
        self._client, self._store = RequestsHttpClient(), store
        self.was_held: list[bool] = []

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        with self._store.refresh_lease(self.key, timeout=0.0) as is_free:
            self.was_held.append(not is_free)
        return self._client.send(request, metadata)


def test_whoever_calls_the_provider_for_a_key_holds_its_lease(
    provider: LoopbackProvider, clock: ManualClock
) -> None:
    """Else a login or a logout in one process and a renewal in another would spoil each other's work."""
    store = MemoryStore()
    web = Looking(store)
    with Broker(
        provider.descriptor(), "demo-client", "demo-secret", store=store, http_client=web, clock=clock
    ) as broker:
        web.key = broker.key_for(USER_REQUEST)
        log_in(broker, provider)
        broker.refresh_access_token(USER_REQUEST.force_refresh())
        broker.revoke(USER_REQUEST)
        web.key = broker.key_for(USER_REQUEST, GrantType.CLIENT_CREDENTIALS)
        broker.client_credentials(USER_REQUEST)
        broker.revoke(USER_REQUEST, GrantType.CLIENT_CREDENTIALS)
    assert web.was_held == [True] * 5
    web._client.close()


class Swallowing:
    """A transport that loses each answer, and says nothing of it."""

    def __init__(self) -> None:
        self._client, self.swallows = RequestsHttpClient(), False

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        response = self._client.send(request, metadata)
        return cast(HttpResponse, None) if self.swallows else response


def test_an_answer_that_a_transport_does_not_give_is_lost(
    provider: LoopbackProvider, clock: ManualClock
) -> None:
    """FAULTS 10: the token may be spent, and is not presented again at once."""
    web = Swallowing()
    with Broker(provider.descriptor(), "demo-client", "demo-secret", http_client=web, clock=clock) as broker:
        log_in(broker, provider)
        expire(clock)
        web.swallows = True
        with pytest.raises(TransportError):
            broker.refresh_access_token(USER_REQUEST)
        assert stored(broker).attempted_at == clock.now
    web._client.close()


class GloomyMapper:
    """Takes whatever happens for a mistake of the operator's."""

    def map_transport_error(self, *_: object) -> BrokerError:
        return ConfigError("all is wrong")


def test_an_answer_is_lost_whatever_a_mapper_calls_it(provider: LoopbackProvider, clock: ManualClock) -> None:
    """FAULTS 10: that the token was not spent is told by the transport, not by what its error means."""
    with Broker(
        provider.descriptor(), "demo-client", "demo-secret", error_mapper=GloomyMapper(), clock=clock
    ) as broker:
        log_in(broker, provider)
        expire(clock)
        provider.inject(Fault.lost_answer())
        with pytest.raises(ConfigError):
            broker.refresh_access_token(USER_REQUEST)
        assert stored(broker).attempted_at == clock.now


def test_a_failing_provider_costs_waiting_callers_one_call(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """FAULTS 32, for threads: one answer for all, and each raises an error of its own."""
    log_in(broker, provider)
    expire(clock)
    provider.clear()
    provider.latency = 0.05
    provider.inject(Fault.json(503, {"error": "temporarily_unavailable"}), times=64)
    crowd = Crowd(32, lambda: broker.refresh_access_token(USER_REQUEST)).start().join()
    assert provider.token_calls == 1
    assert len({id(error) for error in crowd.errors}) == 32
    assert all(isinstance(error, TransientError) for error in crowd.errors)


# --- clocks ------------------------------------------------------------------------------------------------


def test_a_record_from_the_future_is_renewed_once(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """FAULTS 20: after the clock went back, no token is served for years, nor renewed for ever."""
    log_in(broker, provider)
    clock.advance(-365 * 24 * HOUR)
    provider.clear()
    renewed = broker.refresh_access_token(USER_REQUEST)
    assert renewed.issued_at == clock.now
    assert broker.refresh_access_token(USER_REQUEST) is renewed
    assert provider.token_calls == 1


def test_a_small_skew_is_no_reason_to_renew(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """FAULTS 20: up to 300 seconds into the future is another host's clock."""
    record = log_in(broker, provider)
    clock.advance(-300)
    assert broker.refresh_access_token(USER_REQUEST) is record


def test_a_retry_time_from_before_the_clock_went_back_is_ignored(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """FAULTS 20: a back-off never lasts longer than an hour."""
    record = log_in(broker, provider)
    broker.store.save(replace(record, retry_at=clock.now + timedelta(days=365), expires_at=clock.now))
    assert broker.refresh_access_token(USER_REQUEST).access_token != record.access_token


def test_an_attempt_from_the_future_is_waited_for_honestly(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """FAULTS 20: the wait starts anew at the clock that holds now, and then ends."""
    record = log_in(broker, provider)
    future = clock.now + timedelta(days=365)
    broker.store.save(replace(record, attempted_at=future, expires_at=clock.now))
    provider.clear()
    with pytest.raises(TransientError) as waiting:
        broker.refresh_access_token(USER_REQUEST)
    assert waiting.value.retry_after == 35.0
    clock.advance(35.0)
    broker.refresh_access_token(USER_REQUEST)
    assert provider.token_calls == 1


@pytest.mark.parametrize("seconds", [1, 5, 20, 60, 100])
def test_a_short_lived_token_is_cached_for_most_of_its_life(clock: ManualClock, seconds: int) -> None:
    """FAULTS 30: tokens shorter than the preemptive window are not renewed on every call."""
    with LoopbackProvider(clock=clock, access_token_lifetime=timedelta(seconds=seconds)) as provider:
        with Broker(provider.descriptor(), "demo-client", "demo-secret", clock=clock) as broker:
            record = log_in(broker, provider)
            clock.advance(seconds * 0.74)
            assert broker.refresh_access_token(USER_REQUEST) is record
            clock.advance(seconds * 0.26)
            assert broker.refresh_access_token(USER_REQUEST) is not record


# --- hooks, interrupts, memory -----------------------------------------------------------------------------


def test_a_hook_that_calls_the_broker_for_the_same_key_is_told_at_once(
    provider: LoopbackProvider, clock: ManualClock
) -> None:
    """FAULTS 24: a ConfigError instead of a deadlock; the grant is unharmed."""

    class Reentrant(ProviderStrategy):
        armed = False

        def augment_token_request(self, grant: GrantType, form: dict[str, str]) -> None:
            if self.armed:
                broker.refresh_access_token(USER_REQUEST)

    strategy = Reentrant()
    broker = Broker(provider.descriptor(), "demo-client", "demo-secret", strategy=strategy, clock=clock)
    log_in(broker, provider)
    expire(clock)
    strategy.armed = True
    with pytest.raises(ConfigError):
        broker.refresh_access_token(USER_REQUEST)
    strategy.armed = False
    broker.refresh_access_token(USER_REQUEST)
    broker.close()


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_waiters_elect_another_when_their_leader_is_interrupted(
    provider: LoopbackProvider, clock: ManualClock, interrupt: type[BaseException]
) -> None:
    """FAULTS 23: none hangs, and one of them renews."""

    class Interrupted(ProviderStrategy):
        def __init__(self) -> None:
            self.reached, self.proceed = threading.Event(), threading.Event()
            self.armed = False

        def augment_token_request(self, grant: GrantType, form: dict[str, str]) -> None:
            if self.armed:
                self.armed = False
                self.reached.set()
                self.proceed.wait(10.0)
                raise interrupt

    strategy = Interrupted()
    broker = Broker(provider.descriptor(), "demo-client", "demo-secret", strategy=strategy, clock=clock)
    log_in(broker, provider)
    expire(clock)
    provider.clear()
    strategy.armed = True
    leader = Crowd(1, lambda: broker.refresh_access_token(USER_REQUEST)).start()
    assert strategy.reached.wait(10.0)
    others = Crowd(16, lambda: broker.refresh_access_token(USER_REQUEST)).start()
    strategy.proceed.set()
    assert [type(error) for error in leader.join().errors] == [interrupt]
    assert others.join().errors == []
    assert len(others.results) == 16
    assert provider.token_calls == 1
    broker.close()


def test_nothing_is_left_of_a_flight_when_it_ends(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """Memory does not grow with the number of keys ever seen."""
    log_in(broker, provider)
    for index in range(50):
        with pytest.raises(AuthorizationRequiredError):
            broker.refresh_access_token(CachedTokenRequest(TENANT, f"{USER}-{index}", SCOPE))
    broker.refresh_access_token(USER_REQUEST.force_refresh())
    assert len(broker._flights) == 0
    assert isinstance(broker.store, MemoryStore)
    assert not broker.store._leased


def test_a_token_lives_from_before_it_was_asked_for(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """However long the answer was on its way: the provider counts from some moment in between."""

    def answer_slowly(payload: dict[str, object]) -> dict[str, object]:
        clock.advance(20.0)
        return payload

    expire(clock)
    provider.inject(Fault.rewrite(answer_slowly), times=3)
    calls: list[Callable[[], TokenRecord]] = [
        lambda: log_in(broker, provider),
        lambda: broker.refresh_access_token(USER_REQUEST.force_refresh()),
        lambda: broker.client_credentials(USER_REQUEST),
    ]
    for call in calls:
        began = clock.now
        assert call().issued_at == began
        assert clock.now == began + timedelta(seconds=20)


def test_metrics_count_token_calls(broker: Broker, provider: LoopbackProvider, clock: ManualClock) -> None:
    """Attempts are calls made to renew; each ends as success or failure."""
    log_in(broker, provider)
    broker.refresh_access_token(USER_REQUEST)
    broker.refresh_access_token(USER_REQUEST.force_refresh())
    provider.inject(Fault.html(502))
    with pytest.raises(TransientError):
        broker.refresh_access_token(USER_REQUEST.force_refresh())
    metrics = broker.refresh_metrics
    assert (metrics.attempts, metrics.successes, metrics.failures) == (2, 1, 1)


def test_a_provider_that_repeats_a_rejected_token_is_not_asked_by_every_caller(
    broker: Broker, provider: LoopbackProvider
) -> None:
    """A hundred 401s make one call also where it brings nothing new; then it says when to come back."""
    rejected = log_in(broker, provider)
    same = rejected.access_token.expose()
    provider.clear()
    provider.latency = 0.02
    provider.inject(Fault.rewrite(lambda payload: {**payload, "access_token": same}), times=200)
    request = USER_REQUEST.rejecting(rejected)
    crowd = Crowd(100, lambda: broker.refresh_access_token(request)).start().join()
    assert crowd.results == []
    assert {(type(error), getattr(error, "retry_after", None)) for error in crowd.errors} == {
        (TransientError, 1.0)
    }
    assert provider.token_calls == 1
    assert broker.refresh_access_token(USER_REQUEST).access_token.expose() == same


def test_a_provider_that_renews_nothing_wants_the_user_when_the_token_has_expired(
    provider: LoopbackProvider, clock: ManualClock
) -> None:
    """That is a login, not a mistake of the operator's."""
    descriptor = provider.descriptor(grants={GrantType.AUTHORIZATION_CODE})
    with Broker(descriptor, "demo-client", "demo-secret", clock=clock) as broker:
        log_in(broker, provider)
        clock.advance(HOUR - 30)
        assert broker.refresh_access_token(USER_REQUEST)
        expire(clock)
        with pytest.raises(AuthorizationRequiredError):
            broker.refresh_access_token(USER_REQUEST)


class UntidyStore(MemoryStore):
    """Lets its driver's exceptions out, once armed."""

    armed: str | None = None

    def fetch(self, key: StoreKey) -> TokenRecord | None:
        self._fail("fetch")
        return super().fetch(key)

    def compare_and_swap_refresh(
        self, key: StoreKey, expected_refresh: TokenSecret | str | None, replacement: TokenRecord
    ) -> CompareAndSwapOutcome:
        if replacement.attempted_at is None:
            self._fail("swap")
        return super().compare_and_swap_refresh(key, expected_refresh, replacement)

    @contextmanager
    def refresh_lease(self, key: StoreKey, *, timeout: float) -> Iterator[bool]:
        self._fail("lease")
        with super().refresh_lease(key, timeout=timeout) as is_ours:
            yield is_ours
        self._fail("release")

    def _fail(self, where: str) -> None:
        if self.armed == where:
            raise OSError(where)


@pytest.mark.parametrize("where", ["fetch", "lease"])
def test_what_a_store_lets_out_before_the_call_is_a_backend_error(
    provider: LoopbackProvider, clock: ManualClock, where: str
) -> None:
    """FAULTS 9: no token is presented, and no driver's exception reaches the caller."""
    store = UntidyStore()
    with Broker(provider.descriptor(), "demo-client", "demo-secret", store=store, clock=clock) as broker:
        log_in(broker, provider)
        expire(clock)
        provider.clear()
        store.armed = where
        with pytest.raises(BackendError):
            broker.refresh_access_token(USER_REQUEST)
        assert provider.token_calls == 0


def test_a_tombstone_needs_no_lease(provider: LoopbackProvider, clock: ManualClock) -> None:
    """FAULTS 9: that the grant is dead is told although none is to be had."""
    store = UntidyStore()
    with Broker(provider.descriptor(), "demo-client", "demo-secret", store=store, clock=clock) as broker:
        log_in(broker, provider)
        store.revoke(broker.key_for(USER_REQUEST), clock.now)
        store.armed = "lease"
        with pytest.raises(RevokedError):
            broker.refresh_access_token(USER_REQUEST)


def test_what_a_store_lets_out_after_the_call_loses_nothing(
    provider: LoopbackProvider, clock: ManualClock
) -> None:
    """FAULTS 4: the new record is unsaved and served, and written when the store is well again."""
    store = UntidyStore()
    with Broker(provider.descriptor(), "demo-client", "demo-secret", store=store, clock=clock) as broker:
        log_in(broker, provider)
        expire(clock)
        store.armed = "swap"
        renewed = broker.refresh_access_token(USER_REQUEST)
        assert broker.unsaved == {renewed.key: renewed}
        assert broker.refresh_access_token(USER_REQUEST) is renewed
        store.armed = None
        wait_for(lambda: not broker.unsaved)
        assert store.fetch(renewed.key) == renewed
        assert not store._leased


class ForgetfulStore(MemoryStore):
    """Is never sure whether its lease has not lapsed."""

    def is_lease_held(self, key: StoreKey) -> bool:
        return False


def test_who_may_have_lost_the_lease_presents_nothing(provider: LoopbackProvider, clock: ManualClock) -> None:
    """Another may have it by now, and wait for what the mark says: it stays."""
    store = ForgetfulStore()
    with Broker(provider.descriptor(), "demo-client", "demo-secret", store=store, clock=clock) as broker:
        log_in(broker, provider)
        expire(clock)
        provider.clear()
        with pytest.raises(TransientError, match="lease was lost"):
            broker.refresh_access_token(USER_REQUEST)
        assert provider.token_calls == 0
        assert stored(broker).attempted_at == clock.now


def test_a_token_that_cannot_be_spent_is_presented_whoever_has_the_lease(
    provider: LoopbackProvider, clock: ManualClock
) -> None:
    """At a provider that never rotates, a call too many costs nothing."""
    descriptor = provider.descriptor(rotation=RotationPolicy.NEVER)
    with Broker(descriptor, "demo-client", "demo-secret", store=ForgetfulStore(), clock=clock) as broker:
        old = log_in(broker, provider)
        expire(clock)
        assert broker.refresh_access_token(USER_REQUEST).access_token != old.access_token


def test_a_lease_that_cannot_be_released_hides_no_renewal(
    provider: LoopbackProvider, clock: ManualClock
) -> None:
    """What was done under the lease is done."""
    store = UntidyStore()
    with Broker(provider.descriptor(), "demo-client", "demo-secret", store=store, clock=clock) as broker:
        log_in(broker, provider)
        expire(clock)
        store.armed = "release"
        assert broker.refresh_access_token(USER_REQUEST) == stored(broker)


def test_a_clock_without_a_time_zone_is_refused_at_once(provider: LoopbackProvider) -> None:
    """Not when the first code has been spent."""
    with pytest.raises(ConfigError, match="clock"):
        Broker(provider.descriptor(), "demo-client", "demo-secret", clock=lambda: datetime(2026, 1, 1))


class PausingStore(MemoryStore):
    """While ``busy``, its lease is held by somebody else, who is seen only when ``proceed`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.busy = False
        self.asked, self.proceed = threading.Event(), threading.Event()
        self.fetches = 0

    def fetch(self, key):  # type: ignore[no-untyped-def]
        self.fetches += 1
        return super().fetch(key)

    def refresh_lease(self, key, *, timeout):  # type: ignore[no-untyped-def]
        from contextlib import nullcontext

        if self.busy:
            self.asked.set()
            self.proceed.wait(10.0)
            return nullcontext(False)
        return super().refresh_lease(key, timeout=timeout)


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until another thread has got there, by looking."""
    pause = threading.Event()
    for _ in range(2000):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("it never came to that")
