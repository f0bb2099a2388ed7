"""Lending tokens: how long they last, how often the provider is asked for it, and what a borrower may do."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from oauth2broker import (
    Allow,
    AuthorizationRequiredError,
    Broker,
    BrokerError,
    ConfigError,
    FileStore,
    FlowEvent,
    FlowKind,
    GrantType,
    LentToken,
    ProviderId,
    RateLimitContext,
    RateLimitDecision,
    RateLimitPolicy,
    RevokedError,
    TokenLease,
    TokenLeaseContext,
    TokenLeaseState,
    TokenLender,
    TokenRecord,
    TokenSecret,
    TransientError,
)
from oauth2broker.testing import Fault, LoopbackProvider
from tests.support import SERVICE_REQUEST, USER_REQUEST, Crowd, ManualClock, log_in

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
HALF = timedelta(minutes=30)


@pytest.fixture
def lender(broker: Broker, provider: LoopbackProvider) -> TokenLender:
    """Lends the tokens of somebody who has logged in; calls are counted from here on."""
    log_in(broker, provider)
    provider.clear()
    return TokenLender(broker)


def stored(broker: Broker) -> TokenRecord:
    record = broker.store.fetch(broker.key_for(USER_REQUEST))
    assert record is not None
    return record


# What is lent.


def test_a_token_that_lasts_is_lent_from_the_store(
    lender: TokenLender, broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """The contract of TokenLease, without a call; the context says who, what, when and how long."""
    lease: TokenLease = lender
    context = lender.context(USER_REQUEST, minimum_ttl=HALF)
    assert context == TokenLeaseContext(
        USER_REQUEST.tenant,
        USER_REQUEST.principal,
        ProviderId("loopback"),
        USER_REQUEST.scope,
        clock(),
        HALF,
    )
    assert lender.context(USER_REQUEST).minimum_ttl == USER_REQUEST.minimum_ttl
    assert lease.state(context) is TokenLeaseState.GRANTED
    with lease.lend(context) as lent:
        assert lent.record is stored(broker)
    with lender.lend(context) as token:
        assert token.access_token == stored(broker).access_token
    assert provider.token_calls == 0


@pytest.mark.parametrize("minimum", [MINUTE, HALF, timedelta(minutes=59)], ids=str)
def test_at_each_access_as_much_is_left_as_was_asked_for(
    minimum: timedelta, lender: TokenLender, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """In work that takes a day; also beyond the quarter of a lifetime at which a request's windows end."""
    with lender.lend(lender.context(USER_REQUEST, minimum_ttl=minimum)) as lent:
        for _ in range(24 * 60 // 7):
            clock.advance(7 * 60)
            record = lent.record
            assert record.expires_at is not None
            assert record.expires_at - clock() >= minimum
            assert provider.is_live(lent.access_token.expose())
    assert 22 <= provider.token_calls <= 24 * 60 // 7
    assert provider.reuses == 0


def test_a_token_without_a_known_end_lasts_long_enough(broker: Broker, provider: LoopbackProvider) -> None:
    """Nobody can say that it does not."""
    provider.inject(Fault.rewrite(lambda body: {k: v for k, v in body.items() if k != "expires_in"}))
    log_in(broker, provider)
    lender = TokenLender(broker)
    context = lender.context(USER_REQUEST, minimum_ttl=timedelta(days=365))
    assert lender.state(context) is TokenLeaseState.GRANTED
    with lender.lend(context) as lent:
        assert lent.record.expires_at is None
    assert provider.token_calls == 1


def test_the_clients_own_tokens_are_lent_too(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """Obtained when first lent, and renewed for who needs more of them."""
    lender = TokenLender(broker, GrantType.CLIENT_CREDENTIALS)
    context = lender.context(SERVICE_REQUEST, minimum_ttl=HALF)
    assert lender.state(context) is TokenLeaseState.NEEDS_REFRESH
    with lender.lend(context) as lent:
        first = lent.record
        clock.advance(31 * 60)
        assert lent.record.access_token != first.access_token
    assert [call.grant_type for call in provider.calls] == ["client_credentials"] * 2


# How often the provider is asked.


@pytest.mark.parametrize("lenders", ["one lender", "two lenders", "one loan"])
def test_borrowers_on_many_threads_make_one_call(
    lenders: str, lender: TokenLender, broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """50 threads, each of which needs more than is left of the stored token."""
    context = lender.context(USER_REQUEST, minimum_ttl=HALF)
    others = [lender, lender if lenders == "one lender" else TokenLender(broker)]
    turns = iter(range(50))
    if lenders == "one loan":
        with lender.lend(context) as lent:
            clock.advance(31 * 60)
            crowd = Crowd(50, lambda: lent.access_token).start().join()
    else:
        clock.advance(31 * 60)

        def borrow() -> TokenSecret:
            with others[next(turns) % 2].lend(context) as mine:
                return mine.access_token

        crowd = Crowd(50, borrow).start().join()
    assert crowd.errors == []
    assert len(crowd.results) == 50
    assert len(set(crowd.results)) == 1
    assert provider.token_calls == 1


def test_who_comes_late_adopts_what_another_thread_or_process_has_obtained(
    lender: TokenLender, broker: Broker, provider: LoopbackProvider, clock: ManualClock, tmp_path: Path
) -> None:
    """Two brokers on one folder: one finds its token too short while the other renews it."""
    brokers = []
    for _ in range(2):
        brokers.append(
            Broker(
                provider.descriptor(),
                "demo-client",
                "demo-secret",
                store=FileStore(tmp_path / "store"),
                clock=clock,
            )
        )
    log_in(brokers[0], provider)
    clock.advance(31 * 60)
    provider.clear()
    mine, theirs = TokenLender(brokers[0]), TokenLender(brokers[1])
    context = mine.context(USER_REQUEST, minimum_ttl=HALF)
    served = mine._serve

    def serve_then_lose_the_race(request: object) -> TokenRecord:
        record = served(request)  # type: ignore[arg-type]
        with theirs.lend(context):
            return record

    mine._serve = serve_then_lose_the_race
    with mine.lend(context) as lent:
        assert lent.record.access_token == stored(brokers[1]).access_token
    assert provider.token_calls == 1


@pytest.mark.parametrize("minimum", [2 * HOUR, HOUR + timedelta(seconds=1)], ids=str)
def test_tokens_that_never_last_so_long_are_a_mistake_that_costs_one_call(
    minimum: timedelta, lender: TokenLender, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """However often one tries within a minute; the error names both durations, the state promises nothing."""
    clock.advance(60)
    context = lender.context(USER_REQUEST, minimum_ttl=minimum)
    assert lender.state(context) is TokenLeaseState.NEEDS_REFRESH
    for _ in range(3):
        with pytest.raises(ConfigError) as caught, lender.lend(context):
            pass
        assert "last 1:00:00 " in str(caught.value)
        assert f"minimum_ttl of {minimum}" in str(caught.value)
    assert provider.token_calls == 1


@pytest.mark.parametrize("minimum", [HOUR, HOUR - timedelta(seconds=2)], ids=str)
def test_a_minimum_that_leaves_nothing_to_spare_does_not_renew_at_every_access(
    minimum: timedelta, lender: TokenLender, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """A token that has just been obtained will do; a moment later it is a mistake, not a call for each."""
    clock.advance(60)
    with lender.lend(lender.context(USER_REQUEST, minimum_ttl=minimum)) as lent:
        assert lent.record is not None
        clock.advance(3)
        for _ in range(3):
            with pytest.raises(ConfigError):
                _ = lent.record
    assert provider.token_calls == 1


def test_a_stored_token_that_was_short_from_the_start_says_nothing_of_others(
    lender: TokenLender, broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """One that was imported when it was old: it is renewed, and the new one lasts."""
    record = stored(broker)
    broker.store.save(replace(record, expires_at=record.issued_at + timedelta(minutes=10)))
    clock.advance(1)
    with lender.lend(lender.context(USER_REQUEST, minimum_ttl=timedelta(minutes=20))) as lent:
        assert lent.record.expires_at == clock() + HOUR
    assert provider.token_calls == 1


def test_a_rejected_token_stays_rejected_when_an_older_one_is_rejected_again(
    lender: TokenLender, provider: LoopbackProvider
) -> None:
    """A thread that was slow to notice must not bring back what another has rejected since."""
    with lender.lend(lender.context(USER_REQUEST)) as lent:
        first = lent.record
        second = lent.reject(first)
        provider.inject(Fault.answer(503))
        with pytest.raises(TransientError):
            lent.reject(second)
        with pytest.raises(TransientError):
            lent.reject(first)


def test_who_rejects_a_token_and_not_its_record_leaves_it_in_no_traceback(lender: TokenLender) -> None:
    """The error's own frame would show it."""
    with lender.lend(lender.context(USER_REQUEST)) as lent:
        with pytest.raises(ConfigError, match="a TokenRecord, not str") as caught:
            lent.reject("s3cr3t")  # type: ignore[arg-type]
        assert "s3cr3t" not in str(caught.traceback[-1].locals)


@pytest.mark.parametrize(
    "context",
    [{"minimum_ttl": timedelta.max}, {"now": datetime(2026, 1, 1)}],
)
def test_a_context_that_cannot_be_is_refused(lender: TokenLender, context: dict[str, Any]) -> None:
    """As a mistake, not as an overflow or a comparison that fails."""
    made = replace(lender.context(USER_REQUEST), **context)
    with pytest.raises(ConfigError):
        lender.state(made)
    with pytest.raises(ConfigError):
        lender.state("tenant")  # type: ignore[arg-type]


def test_an_expired_token_is_renewed_before_it_is_said_that_none_lasts_so_long(
    lender: TokenLender, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """The provider may have changed its mind; one call per lifetime."""
    clock.advance(3600)
    context = lender.context(USER_REQUEST, minimum_ttl=2 * HOUR)
    for _ in range(3):
        with pytest.raises(ConfigError), lender.lend(context):
            pass
    assert provider.token_calls == 1


def test_a_provider_whose_tokens_got_shorter_is_called_once(
    lender: TokenLender, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """The token in the store lasted an hour, the new one lasts ten minutes."""
    context = lender.context(USER_REQUEST, minimum_ttl=HALF)
    clock.advance(31 * 60)
    provider.inject(Fault.rewrite(lambda body: {**body, "expires_in": 600}), times=9)
    for _ in range(3):
        with pytest.raises(ConfigError, match=r"0:10:00.* 0:30:00"), lender.lend(context):
            pass
    assert provider.token_calls == 1


def test_a_renewal_that_fails_is_said_to_who_needs_more_and_noticed_by_nobody_else(
    lender: TokenLender, broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """The guarantee is kept or the error raised, and the provider left alone for as long as it says."""
    clock.advance(31 * 60)
    provider.inject(Fault.answer(503, headers={"Retry-After": "30"}))
    context = lender.context(USER_REQUEST, minimum_ttl=HALF)
    for _ in range(3):
        with pytest.raises(TransientError) as caught, lender.lend(context):
            pass
        assert caught.value.retry_after == 30.0
    assert provider.token_calls == 1
    with lender.lend(lender.context(USER_REQUEST, minimum_ttl=MINUTE)) as lent:
        assert lent.record.access_token == stored(broker).access_token
    assert provider.token_calls == 1
    clock.advance(30)
    with lender.lend(context) as lent:
        assert lent.record.issued_at == clock()


# A token that is refused.


def test_threads_that_reject_one_token_make_one_call(
    lender: TokenLender, broker: Broker, provider: LoopbackProvider
) -> None:
    """50 threads work with what one of them has borrowed; those that come late reject nobody else's."""
    first = stored(broker)
    with lender.lend(lender.context(USER_REQUEST)) as lent:
        results = []
        for size in (50, 1, 1):
            crowd = Crowd(size, lent.reject).start().join()
            assert crowd.errors == []
            results += crowd.results
        assert provider.token_calls == 1
        assert {record.access_token for record in results} == {lent.access_token}
        assert lent.access_token != first.access_token


def test_threads_that_have_read_the_token_reject_the_one_they_read(
    lender: TokenLender, broker: Broker, provider: LoopbackProvider
) -> None:
    """Not the one that another thread has got for it meanwhile; or the one that they name."""
    with lender.lend(lender.context(USER_REQUEST)) as lent:
        refused = lent.record
        Crowd(1, lent.reject).start().join()
        assert provider.token_calls == 1
        second = lent.reject()
        assert second is stored(broker)
        assert lent.reject(refused) is second
        assert provider.token_calls == 1
        assert lent.reject() is not second
    assert provider.token_calls == 2


def test_a_thread_rejects_what_it_was_given_not_what_the_opener_has_by_now(
    lender: TokenLender, provider: LoopbackProvider
) -> None:
    """A worker's refusal comes in after the thread of the block has got another token."""
    read, replaced = threading.Event(), threading.Event()
    with lender.lend(lender.context(USER_REQUEST)) as lent:

        def work() -> TokenRecord:
            _ = lent.record
            read.set()
            assert replaced.wait(30)
            return lent.reject()

        crowd = Crowd(1, work).start()
        assert read.wait(30)
        second = lent.reject()
        replaced.set()
        crowd.join()
        assert crowd.errors == []
        assert crowd.results == [second]
    assert provider.token_calls == 1


def test_a_rejected_token_is_not_lent_again_when_no_other_can_be_had(
    lender: TokenLender, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """Though it is still in the store and its time is not over."""
    provider.inject(Fault.answer(503))
    with lender.lend(lender.context(USER_REQUEST)) as lent:
        refused = lent.access_token
        with pytest.raises(TransientError):
            lent.reject()
        with pytest.raises(TransientError):
            _ = lent.record
        clock.advance(1)
        assert lent.access_token != refused
    assert provider.token_calls == 2


# States.


class LookingOn:
    """Allows, and keeps what a function said while the token call was about to be made."""

    def __init__(self) -> None:
        self.look: Callable[[], TokenLeaseState] = lambda: TokenLeaseState.GRANTED
        self.seen: list[TokenLeaseState] = []

    def evaluate(self, context: RateLimitContext) -> RateLimitDecision:
        self.seen.append(self.look())
        return Allow()


def test_the_state_tells_what_lending_would_meet(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """Nothing stored, granted, too short, under way (even for the thread that is at it), ended; no call."""
    policy: LookingOn = LookingOn()
    as_policy: RateLimitPolicy = policy
    with Broker(
        provider.descriptor(),
        "demo-client",
        "demo-secret",
        store=broker.store,
        rate_limit=as_policy,
        clock=clock,
    ) as watched:
        lender = TokenLender(watched)
        context = lender.context(USER_REQUEST, minimum_ttl=HALF)
        assert lender.state(context) is TokenLeaseState.NEEDS_REFRESH
        log_in(broker, provider)
        assert lender.state(context) is TokenLeaseState.GRANTED
        assert lender.state(replace(context, now=clock() + 31 * MINUTE)) is TokenLeaseState.NEEDS_REFRESH
        clock.advance(31 * 60)
        assert lender.state(context) is TokenLeaseState.NEEDS_REFRESH
        provider.clear()
        policy.look = lambda: lender.state(context)
        with lender.lend(context):
            assert policy.seen == [TokenLeaseState.PENDING]
            assert lender.state(context) is TokenLeaseState.GRANTED
        assert provider.token_calls == 1
        watched.revoke(USER_REQUEST)
        assert lender.state(context) is TokenLeaseState.NEEDS_REFRESH
        with pytest.raises(RevokedError), lender.lend(context):
            pass


def test_nothing_stored_is_said_before_the_block_begins(broker: Broker) -> None:
    """As anywhere: the user must log in."""
    lender = TokenLender(broker)
    with pytest.raises(AuthorizationRequiredError), lender.lend(lender.context(USER_REQUEST)):
        pytest.fail("lent nothing")


# Mistakes.


def test_after_the_block_nothing_is_lent(lender: TokenLender) -> None:
    """Also when the block ends in an error, which passes through."""
    with pytest.raises(ZeroDivisionError), lender.lend(lender.context(USER_REQUEST)) as lent:
        raise ZeroDivisionError
    uses: list[Callable[[LentToken], object]] = [
        lambda over: over.record,
        lambda over: over.access_token,
        lambda over: over.reject(),
    ]
    for use in uses:
        with pytest.raises(ConfigError, match="no longer lent"):
            use(lent)


def test_what_cannot_be_lent_is_a_mistake(lender: TokenLender, broker: Broker) -> None:
    """Another provider's token, a time that is none, a request that insists, a grant without tokens."""
    context = lender.context(USER_REQUEST)
    elsewhere = replace(context, provider=ProviderId("other"))
    with pytest.raises(ConfigError, match="other, not of loopback"), lender.lend(elsewhere):
        pass
    with pytest.raises(ConfigError, match="other"):
        lender.state(elsewhere)
    for minimum in (-MINUTE, 60):
        with pytest.raises(ConfigError, match="minimum_ttl"):
            lender.context(USER_REQUEST, minimum_ttl=minimum)  # type: ignore[arg-type]
    for request in (USER_REQUEST.force_refresh(), USER_REQUEST.rejecting(stored(broker)), "user-1"):
        with pytest.raises(ConfigError, match="request"):
            lender.context(request)  # type: ignore[arg-type]
    for grant in (GrantType.REFRESH_TOKEN, "password"):
        with pytest.raises(ConfigError, match="grant"):
            TokenLender(broker, grant)


def test_no_token_shows_in_what_a_lender_shows(
    lender: TokenLender, broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """Neither in a repr nor in the locals of a traceback."""
    record = stored(broker)
    secrets = [record.access_token.expose()]
    assert record.refresh_token is not None
    secrets.append(record.refresh_token.expose())
    clock.advance(31 * 60)
    provider.inject(Fault.answer(503))
    shown = ""
    with lender.lend(lender.context(USER_REQUEST)) as lent:
        shown += repr(lent) + repr(vars(lent)) + repr(lender) + repr(vars(lender))
        with pytest.raises(BrokerError) as caught:
            lent.reject()
    assert caught.tb.tb_next is not None  # below the frame of this test
    below = traceback.StackSummary.extract(traceback.walk_tb(caught.tb.tb_next), capture_locals=True)
    shown += "".join(below.format())
    assert "refused" in shown
    assert not any(secret in shown for secret in secrets)


class Watching:
    """An observer."""

    def __init__(self) -> None:
        self.events: list[FlowEvent] = []

    def observe(self, event: FlowEvent) -> None:
        self.events.append(event)


def test_observers_see_the_renewal_for_a_loan(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """A token that is renewed only because more of it is needed is a refresh like any other."""
    watching = Watching()
    log_in(broker, provider)
    with Broker(
        provider.descriptor(),
        "demo-client",
        "demo-secret",
        store=broker.store,
        observers=[watching],
        clock=clock,
    ) as watched:
        lender = TokenLender(watched)
        clock.advance(31 * 60)
        with lender.lend(lender.context(USER_REQUEST, minimum_ttl=HALF)):
            pass
    assert (FlowKind.REFRESH, "lend") in {(event.flow, event.stage) for event in watching.events}
