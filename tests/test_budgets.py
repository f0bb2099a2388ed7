"""Budgets of token calls and pauses, in one process: by themselves and as a broker consults them."""

from __future__ import annotations

import logging
import multiprocessing
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from oauth2broker import (
    Allow,
    BackendError,
    Broker,
    BrokerError,
    CachedTokenRequest,
    CompareAndSwapOutcome,
    ConfigError,
    CoolDown,
    Delay,
    DelayedError,
    FileStore,
    FolderTokenBucket,
    GrantType,
    MemoryStore,
    ProviderId,
    RateLimitContext,
    RateLimitDecision,
    RateLimitPolicy,
    RetryDirective,
    RotationPolicy,
    ScopeSet,
    StoreKey,
    TenantId,
    TokenBucket,
    TokenRecord,
    TokenSecret,
    TransientError,
    TransportError,
)
from oauth2broker.testing import Fault, LoopbackProvider
from tests.support import (
    REDIRECT_URI,
    SCOPE,
    SERVICE_REQUEST,
    TENANT,
    USER,
    USER_REQUEST,
    Crowd,
    ManualClock,
    log_in,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MakeBroker = Callable[[RateLimitPolicy], Broker]


def call(tenant: str = "acme", provider: str = "loopback", *, at: datetime = NOW) -> RateLimitContext:
    """What a policy is asked about a refresh."""
    return RateLimitContext(
        TenantId(tenant), ProviderId(provider), ScopeSet("openid"), GrantType.REFRESH_TOKEN, at
    )


def seconds_of(decision: RateLimitDecision) -> float | None:
    """None for Allow, else how long to wait."""
    return decision.directive.retry_after if isinstance(decision, Delay) else None


@pytest.fixture
def make_broker(broker: Broker, provider: LoopbackProvider, clock: ManualClock) -> MakeBroker:
    """Makes brokers on the fixture's store, with a policy."""

    def make(policy: RateLimitPolicy) -> Broker:
        return Broker(
            provider.descriptor(),
            "demo-client",
            "demo-secret",
            store=broker.store,
            rate_limit=policy,
            clock=clock,
        )

    return make


# The bucket of one process.


def test_a_bucket_gives_its_burst_and_then_says_to_the_microsecond_when_the_next_call_is_there() -> None:
    """3 calls per second: a third of a second after each; what a caller waits for is there, not before."""
    bucket = TokenBucket(3, SECOND)
    assert [seconds_of(bucket.evaluate(call())) for _ in range(4)] == [None, None, None, 0.333334]
    assert isinstance(bucket.evaluate(call(at=NOW + timedelta(seconds=0.333))), Delay)
    assert isinstance(bucket.evaluate(call(at=NOW + timedelta(seconds=0.333334))), Allow)
    assert isinstance(bucket.evaluate(call(at=NOW + timedelta(seconds=0.4))), Delay)


def test_a_bucket_of_a_smaller_burst_spreads_the_calls() -> None:
    """60 per minute, but one at a time."""
    bucket = TokenBucket(60, timedelta(minutes=1), burst=1)
    allowed = [
        isinstance(bucket.evaluate(call(at=NOW + timedelta(seconds=half / 2))), Allow) for half in range(8)
    ]
    assert allowed == [True, False] * 4


def test_tenants_and_providers_have_buckets_of_their_own() -> None:
    """One that is empty is nobody else's."""
    bucket = TokenBucket(1, SECOND)
    asked = [("acme", "a"), ("acme", "a"), ("acme", "b"), ("bolt", "a"), ("bolt", "a")]
    allowed = [isinstance(bucket.evaluate(call(*whose)), Allow) for whose in asked]
    assert allowed == [True, False, True, True, False]


@given(
    calls=st.integers(1, 5),
    burst=st.integers(1, 5),
    steps=st.lists(st.integers(0, 900), min_size=1, max_size=60),
)
def test_no_stretch_of_time_sees_more_than_the_burst_and_what_came_in_meanwhile(
    calls: int, burst: int, steps: list[int]
) -> None:
    """For every pair of allowed calls; and a call that is allowed was due, by the count of the rules."""
    bucket, interval = TokenBucket(calls, SECOND, burst=burst), 1.0 / calls
    now, allowed = 0.0, []
    for step in steps:
        now += step / 1000
        decision = bucket.evaluate(call(at=NOW + timedelta(seconds=now)))
        if isinstance(decision, Allow):
            allowed.append(now)
        else:
            assert isinstance(decision, Delay)
            assert 0 < decision.directive.retry_after <= interval + 1e-6
    for first, begin in enumerate(allowed):
        for last, end in enumerate(allowed[first:], start=1):
            assert last <= burst + (end - begin) / interval + 1e-5
    assert len(allowed) >= min(len(steps), burst)


@given(jumps=st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=20))
def test_a_clock_that_jumps_neither_fills_above_the_burst_nor_blocks_for_more_than_one_refill(
    jumps: list[int],
) -> None:
    """Wherever it lands; and who waits as told is allowed, also when the clock never comes back."""
    bucket = TokenBucket(2, SECOND, burst=3)
    now = NOW
    for jump in jumps:
        now = NOW + timedelta(seconds=jump)
        decisions = [bucket.evaluate(call(at=now)) for _ in range(5)]
        assert sum(isinstance(decision, Allow) for decision in decisions) <= 3
        waits = [wait for decision in decisions if (wait := seconds_of(decision)) is not None]
        assert waits
        assert max(waits) <= 2.5
        wait = waits[-1]
        assert isinstance(bucket.evaluate(call(at=now + timedelta(seconds=wait))), Allow)


def test_who_read_the_clock_a_moment_ago_refunds_nothing(tmp_path: Path) -> None:
    """Between reading it and being counted a thread may wait for others: their calls stay counted."""
    for bucket in (TokenBucket(10, SECOND), FolderTokenBucket(tmp_path, 10, SECOND)):
        decisions = [bucket.evaluate(call()) for _ in range(20)]
        decisions.append(bucket.evaluate(call(at=NOW - timedelta(seconds=0.3))))
        decisions += [bucket.evaluate(call()) for _ in range(20)]
        assert sum(isinstance(decision, Allow) for decision in decisions) == 10


def test_threads_together_get_exactly_what_is_there() -> None:
    """8 threads that ask 8,000 times, and are interrupted wherever it hurts, get the 4,000 calls."""
    bucket = TokenBucket(4000, timedelta(hours=1))

    def ask() -> int:
        return sum(isinstance(bucket.evaluate(call()), Allow) for _ in range(1000))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        crowd = Crowd(8, ask).start().join()
    finally:
        sys.setswitchinterval(before)
    assert crowd.errors == []
    assert sum(crowd.results) == 4000


@pytest.mark.parametrize("back", [timedelta(), timedelta(days=365)], ids=["steady", "a clock gone back"])
def test_buckets_that_are_full_are_forgotten(back: timedelta) -> None:
    """100,000 tenants leave nothing behind once they are idle."""
    bucket = TokenBucket(1, SECOND)
    for number in range(100_000):
        bucket.evaluate(call(f"tenant-{number}"))
    assert len(bucket) == 100_000
    bucket.evaluate(call("last", at=NOW - back))
    bucket.evaluate(call("last", at=NOW - back + 2 * SECOND))
    assert len(bucket) == 1


def ask_in_child(policy: RateLimitPolicy, answers: Any) -> None:
    answers.put([type(policy.evaluate(call())).__name__ for _ in range(3)])


@pytest.mark.parametrize("kind", ["bucket", "folder", "cool down"])
def test_a_child_does_not_wait_for_a_lock_that_a_thread_of_its_parent_held(kind: str, tmp_path: Path) -> None:
    """At the fork the lock is held; the child counts on from what was taken."""
    policies: dict[str, Any] = {
        "bucket": TokenBucket(2, SECOND),
        "folder": FolderTokenBucket(tmp_path / "store", 2, SECOND),
        "cool down": CoolDown(TokenBucket(2, SECOND)),
    }
    policy = policies[kind]
    policy.evaluate(call())
    locks = {"bucket": "_lock", "folder": "_times._lock", "cool down": "_lock"}[kind].split(".")
    held = policy
    for name in locks:
        held = getattr(held, name)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    with held:
        child = context.Process(target=ask_in_child, args=[policy, answers])
        child.start()
    try:
        assert answers.get(timeout=30) == ["Allow", "Delay", "Delay"]
    finally:
        child.kill()
        child.join()


@pytest.mark.parametrize(
    "make", [TokenBucket, lambda *args, **more: FolderTokenBucket("store", *args, **more)]
)
@pytest.mark.parametrize(
    ("calls", "per", "burst"),
    [
        (0, SECOND, None),
        (True, SECOND, None),
        (1.5, SECOND, None),
        (1, timedelta(), None),
        (1, -SECOND, None),
        (1, 60, None),
        (1, SECOND, 0),
        (1, SECOND, "2"),
    ],
)
def test_a_budget_that_is_none_is_a_mistake(
    make: Any, calls: Any, per: Any, burst: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said when it is made; no folder is made for it."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError):
        make(calls, per, burst=burst)
    assert list(tmp_path.iterdir()) == []


def test_other_mistakes_are_said_too(tmp_path: Path) -> None:
    """A naive time, a policy that is none, a store that is none, a folder that others can enter."""
    with pytest.raises(ConfigError, match="aware"):
        TokenBucket(1, SECOND).evaluate(call(at=datetime(2026, 1, 1)))
    with pytest.raises(ConfigError, match="policy"):
        CoolDown(object())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="FileStore"):
        CoolDown(shared=7)  # type: ignore[arg-type]
    tmp_path.chmod(0o755)
    with pytest.raises(ConfigError, match="chmod"):
        FolderTokenBucket(tmp_path, 1, SECOND)


# The pause.


def test_a_pause_holds_for_every_tenant_of_that_provider_until_it_is_over() -> None:
    """With what is left as retry_after; another provider is asked as before."""
    policy = CoolDown()
    policy.hold_back(call("acme"), RetryDirective(30))
    later = NOW + timedelta(seconds=12)
    assert seconds_of(policy.evaluate(call("bolt", at=later))) == 18.0
    assert seconds_of(policy.evaluate(call("acme", at=later))) == 18.0
    assert seconds_of(policy.evaluate(call("acme", "other", at=later))) is None
    assert seconds_of(policy.evaluate(call("bolt", at=NOW + timedelta(seconds=30)))) is None


def test_the_longest_pause_stands() -> None:
    """Whichever was asked for last."""
    policy = CoolDown()
    for seconds in (5, 40, 10):
        policy.hold_back(call(), RetryDirective(seconds))
    assert seconds_of(policy.evaluate(call())) == 40.0


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
def test_a_clock_that_goes_back_ends_a_pause_or_prolongs_it_by_minutes(shared: bool, tmp_path: Path) -> None:
    """Nobody waits for a clock to catch up with a year."""
    policy = CoolDown(shared=tmp_path / "store" if shared else None)
    policy.hold_back(call(), RetryDirective(7200))
    assert seconds_of(policy.evaluate(call())) == 3600.0
    assert seconds_of(policy.evaluate(call(at=NOW - timedelta(seconds=60)))) == 3600.0
    assert seconds_of(policy.evaluate(call(at=NOW - timedelta(days=365)))) is None
    policy.hold_back(call(at=NOW - timedelta(days=365)), RetryDirective(5))
    assert seconds_of(policy.evaluate(call(at=NOW - timedelta(days=365)))) == 5.0


class Listening:
    """Allows, and remembers what it was told and asked."""

    def __init__(self) -> None:
        self.asked: list[RateLimitContext] = []
        self.told: list[tuple[str, float]] = []

    def evaluate(self, context: RateLimitContext) -> RateLimitDecision:
        self.asked.append(context)
        return Allow()

    def hold_back(self, context: RateLimitContext, directive: RetryDirective) -> None:
        self.told.append((context.tenant, directive.retry_after))


def test_the_wrapped_policy_decides_when_there_is_no_pause_and_learns_of_pauses() -> None:
    """A pause takes nothing from its budget; one that does not care for pauses is not told."""
    inner = Listening()
    policy = CoolDown(CoolDown(inner))
    policy.hold_back(call(), RetryDirective(3))
    policy.evaluate(call())
    assert (inner.asked, inner.told) == ([], [("acme", 3.0)])
    after = call(at=NOW + timedelta(seconds=3))
    assert isinstance(policy.evaluate(after), Allow)
    assert inner.asked == [after]
    bucket = CoolDown(TokenBucket(1, SECOND))
    bucket.hold_back(call(), RetryDirective(1))
    bucket.evaluate(call())
    assert isinstance(bucket.evaluate(after), Allow)
    assert seconds_of(bucket.evaluate(after)) == 1.0


def test_looking_again_minds_pauses_and_counts_nothing() -> None:
    """Also those of a policy that is wrapped; one that does not care for pauses is not asked."""
    inner = CoolDown(TokenBucket(1, SECOND))
    policy = CoolDown(inner)
    decisions = [policy.look_again(call()), policy.look_again(call()), policy.evaluate(call())]
    assert [seconds_of(decision) for decision in decisions] == [None, None, None]
    inner.hold_back(call(), RetryDirective(3))
    assert seconds_of(policy.look_again(call())) == 3.0


def test_a_shared_pause_that_cannot_be_written_holds_in_this_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And the log says that others were not told."""
    store = FileStore(tmp_path / "store")
    policy = CoolDown(shared=store)
    (tmp_path / "store" / "budgets").touch()
    with caplog.at_level(logging.WARNING, "oauth2broker"):
        policy.hold_back(call(), RetryDirective(3))
    assert seconds_of(policy.evaluate(call("bolt"))) == 3.0
    assert "not told of a pause" in caplog.text


# As a broker consults them.


def test_a_policy_is_asked_before_every_token_call_and_before_no_other(
    make_broker: MakeBroker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """Exchange, refresh, a service token and its second try; not for hits and revocations."""
    policy = Listening()
    with make_broker(policy) as broker:
        log_in(broker, provider)
        clock.advance(7)
        broker.refresh_access_token(USER_REQUEST)
        broker.refresh_access_token(USER_REQUEST.force_refresh())
        provider.inject(Fault.lost_answer())
        broker.client_credentials(SERVICE_REQUEST)
        broker.revoke(USER_REQUEST)
    service = ScopeSet(SERVICE_REQUEST.scope)
    asked = [
        (context.operation, context.tenant, context.provider, context.scope, context.now)
        for context in policy.asked
    ]
    begin, later = clock.now - timedelta(seconds=7), clock.now
    assert asked == [
        (GrantType.AUTHORIZATION_CODE, TENANT, "loopback", ScopeSet(SCOPE), begin),
        (GrantType.REFRESH_TOKEN, TENANT, "loopback", ScopeSet(SCOPE), later),
        (GrantType.CLIENT_CREDENTIALS, TENANT, "loopback", service, later),
        (GrantType.CLIENT_CREDENTIALS, TENANT, "loopback", service, later),
    ]
    assert provider.token_calls == len(asked)
    assert provider.revocations == 1


def test_the_second_try_of_a_service_token_is_not_made_when_the_budget_is_spent(
    make_broker: MakeBroker, provider: LoopbackProvider
) -> None:
    """The caller gets the first try's error."""
    provider.inject(Fault.lost_answer())
    with make_broker(TokenBucket(1, timedelta(minutes=1))) as broker:
        with pytest.raises(TransportError):
            broker.client_credentials(SERVICE_REQUEST)
    assert provider.token_calls == 1


def test_a_delay_leaves_no_trace_and_does_not_wait(
    make_broker: MakeBroker, broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """The record is the same object's equal, nothing is stored where nothing was, and time stands still."""
    log_in(broker, provider)
    key = broker.key_for(USER_REQUEST)
    clock.advance(7200)
    before = broker.store.fetch(key)
    policy = CoolDown()
    policy.hold_back(call(at=clock()), RetryDirective(1800))
    provider.clear()
    began = time.monotonic()
    with make_broker(policy) as limited:
        for _ in range(3):
            for obtain, request in (
                (limited.refresh_access_token, USER_REQUEST),
                (limited.client_credentials, SERVICE_REQUEST),
            ):
                with pytest.raises(TransientError) as caught:
                    obtain(request)
                assert (caught.value.retry_after, caught.value.retryable) == (1800.0, True)
        assert time.monotonic() - began < 10
        assert broker.store.fetch(key) == before
        assert list(broker.store.keys()) == [key]
        assert provider.token_calls == 0
        clock.advance(1800)
        limited.refresh_access_token(USER_REQUEST)
        limited.client_credentials(SERVICE_REQUEST)
    assert provider.token_calls == 2


def test_a_delayed_exchange_leaves_the_code_to_be_tried_again(
    make_broker: MakeBroker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """The session still serves, and the second try brings the token."""
    with make_broker(TokenBucket(1, timedelta(seconds=20))) as broker:
        broker.client_credentials(SERVICE_REQUEST)
        session = broker.start_authorization(TENANT, USER, SCOPE, REDIRECT_URI)
        callback = provider.browse(session.authorize_url)
        with pytest.raises(TransientError) as caught:
            broker.complete_authorization(session, callback)
        assert caught.value.retry_after == 20.0
        clock.advance(20)
        assert broker.complete_authorization(session, callback).access_token
    assert provider.token_calls == 2


def test_a_token_that_still_works_is_served_while_its_renewal_is_delayed(
    make_broker: MakeBroker, broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """In the advisory window; who insists on another is told when."""
    record = log_in(broker, provider)
    provider.clear()
    clock.advance(3600 - 30)
    policy = CoolDown()
    policy.hold_back(call(at=clock()), RetryDirective(9))
    with make_broker(policy) as limited:
        assert limited.refresh_access_token(USER_REQUEST) is record
        with pytest.raises(TransientError) as caught:
            limited.refresh_access_token(USER_REQUEST.rejecting(record))
    assert caught.value.retry_after == 9.0
    assert provider.token_calls == 0


class MeanwhileStore(MemoryStore):
    """Does ``meanwhile`` when an attempt has been written down; then fails if it ``breaks``."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: Callable[[], object] | None = None
        self.breaks = False
        self.is_broken = False

    def compare_and_swap_refresh(
        self, key: StoreKey, expected_refresh: TokenSecret | str | None, replacement: TokenRecord
    ) -> CompareAndSwapOutcome:
        if self.is_broken:
            raise BackendError("gone")
        outcome = super().compare_and_swap_refresh(key, expected_refresh, replacement)
        if self.meanwhile is not None and replacement.attempted_at is not None:
            self.meanwhile()
            self.is_broken = self.breaks
        return outcome


class Pausing:
    """What a renewal meets that was allowed, and before which a pause begins for everybody."""

    def __init__(self, provider: LoopbackProvider, clock: ManualClock, **more: Any) -> None:
        self.policy = CoolDown(TokenBucket(3, timedelta(days=30)))
        self.store = MeanwhileStore()
        self.broker = Broker(
            provider.descriptor(**more),
            "demo-client",
            "demo-secret",
            store=self.store,
            rate_limit=self.policy,
            clock=clock,
        )
        self.record = log_in(self.broker, provider)
        provider.clear()
        clock.advance(7200)
        self.store.meanwhile = lambda: self.policy.hold_back(call("bolt", at=clock()), RetryDirective(30))

    def renew(self) -> TokenRecord:
        return self.broker.refresh_access_token(USER_REQUEST)


def test_a_pause_that_begins_when_a_call_was_allowed_already_holds_it_back(
    provider: LoopbackProvider, clock: ManualClock
) -> None:
    """While a slow store writes down the attempt. The record is as it was, and the budget was asked once."""
    given = Pausing(provider, clock)
    with pytest.raises(DelayedError) as caught:
        given.renew()
    assert caught.value.retry_after == 30.0
    assert given.store.fetch(given.record.key) == given.record
    assert provider.token_calls == 0
    given.store.meanwhile = None
    clock.advance(1800)
    assert given.renew() != given.record
    assert provider.token_calls == 1


def test_a_mark_that_cannot_be_taken_back_is_as_safe_as_any(
    provider: LoopbackProvider, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller is told of the pause, and nothing was sent; who comes next waits for what was not."""
    given = Pausing(provider, clock)
    given.store.breaks = True
    with pytest.raises(DelayedError):
        given.renew()
    assert "could not be noted" in caplog.text
    given.store.is_broken, given.store.meanwhile = False, None
    clock.advance(1800)
    assert given.renew() != given.record
    assert provider.token_calls == 1


def test_without_a_mark_a_pause_is_looked_for_as_well(provider: LoopbackProvider, clock: ManualClock) -> None:
    """At a provider that never rotates there is nothing to take back."""
    given = Pausing(provider, clock, rotation=RotationPolicy.NEVER)
    asked = iter([Allow(), Delay(RetryDirective(7))])
    given.policy.look_again = lambda context: next(asked)  # type: ignore[method-assign]
    given.renew()
    with pytest.raises(DelayedError):
        given.broker.refresh_access_token(USER_REQUEST.force_refresh())
    assert provider.token_calls == 1


@pytest.mark.parametrize("bad", [lambda context: 1 / 0, lambda context: None])
def test_a_policy_that_fails_when_it_is_asked_again_is_a_mistake_that_calls_nobody(
    bad: Any, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """ConfigError, and nothing is left in the record."""
    given = Pausing(provider, clock)
    given.policy.look_again = bad  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="rate limit policy failed"):
        given.renew()
    assert given.store.fetch(given.record.key) == given.record
    assert provider.token_calls == 0


@pytest.mark.parametrize(
    ("status", "headers", "seconds"),
    [(429, {"Retry-After": "30"}, 30), (503, {"Retry-After": "30"}, 30), (429, {}, 1), (503, {}, 1)],
)
def test_what_one_tenant_is_told_holds_for_all_tenants(
    status: int,
    headers: dict[str, str],
    seconds: int,
    make_broker: MakeBroker,
    provider: LoopbackProvider,
    clock: ManualClock,
) -> None:
    """Not one call for tenant B until the pause is over by the clock; then one."""
    b = CachedTokenRequest("tenant-b", "svc", "email.read")
    provider.inject(Fault.answer(status, headers=headers))
    with make_broker(CoolDown()) as broker:
        with pytest.raises(TransientError):
            broker.client_credentials(SERVICE_REQUEST)
        provider.clear()
        clock.advance(seconds - 0.5)
        with pytest.raises(TransientError) as caught:
            broker.client_credentials(b)
        assert caught.value.retry_after == 0.5
        assert provider.token_calls == 0
        clock.advance(0.5)
        broker.client_credentials(b)
    assert provider.token_calls == 1


@pytest.mark.parametrize("status", [400, 401, 500, 502])
def test_other_failures_ask_for_no_pause(
    status: int, make_broker: MakeBroker, provider: LoopbackProvider
) -> None:
    """One tenant's trouble is not everybody's."""
    policy = Listening()
    provider.inject(Fault.answer(status, headers={"Retry-After": "30"}))
    with make_broker(policy) as broker:
        with pytest.raises(BrokerError):
            broker.client_credentials(SERVICE_REQUEST)
    assert policy.told == []


class Broken:
    """Fails whatever it is asked."""

    def evaluate(self, context: RateLimitContext) -> RateLimitDecision:
        raise ZeroDivisionError


def test_a_policy_that_fails_is_a_mistake_that_calls_nobody(
    make_broker: MakeBroker, broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """ConfigError without a cause to leak; a token that works is still served, and nothing is written."""
    record = log_in(broker, provider)
    provider.clear()
    with make_broker(Broken()) as limited:
        clock.advance(3600 - 30)
        assert limited.refresh_access_token(USER_REQUEST) is record
        clock.advance(60)
        with pytest.raises(ConfigError, match=r"rate limit policy failed .ZeroDivisionError") as caught:
            limited.refresh_access_token(USER_REQUEST)
    assert (caught.value.__context__, caught.value.__cause__) == (None, None)
    assert broker.store.fetch(record.key) is record
    assert provider.token_calls == 0


class BrokenListener(Listening):
    """Allows, and fails when it is told of a pause."""

    def hold_back(self, context: RateLimitContext, directive: RetryDirective) -> None:
        raise ZeroDivisionError


def test_a_policy_that_fails_to_hold_back_does_not_hide_what_the_provider_said(
    make_broker: MakeBroker, provider: LoopbackProvider
) -> None:
    """The caller gets the 429, and a pause around such a policy holds."""
    provider.inject(Fault.answer(429, headers={"Retry-After": "30"}))
    policy = CoolDown(BrokenListener())
    with make_broker(policy) as broker:
        with pytest.raises(TransientError) as caught:
            broker.client_credentials(SERVICE_REQUEST)
    assert (caught.value.status, caught.value.retry_after) == (429, 30.0)
    assert seconds_of(policy.evaluate(call("bolt"))) == 30.0


def test_many_threads_of_many_tenants_make_as_many_calls_as_are_allowed(
    make_broker: MakeBroker, provider: LoopbackProvider
) -> None:
    """40 principals of one tenant that all need a token, 5 calls: 5 tokens and 35 who are told when."""
    numbers = iter(range(40))
    with make_broker(CoolDown(TokenBucket(5, timedelta(hours=1)))) as broker:

        def ask() -> object:
            return broker.client_credentials(CachedTokenRequest(TENANT, f"svc-{next(numbers)}", "a.read"))

        crowd = Crowd(40, ask).start().join()
    assert (len(crowd.results), provider.token_calls) == (5, 5)
    assert {getattr(error, "retry_after", None) for error in crowd.errors} == {720.0}
