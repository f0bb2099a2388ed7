"""Walking a store: what is due is renewed once, what is long dead is removed, and nothing else is touched."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from oauth2broker import (
    BackendError,
    Broker,
    CachedTokenRequest,
    ConfigError,
    Delay,
    DelayedError,
    FileStore,
    FlowEvent,
    GrantType,
    InvalidGrantError,
    MemoryStore,
    ProviderQuirks,
    RateLimitContext,
    RateLimitDecision,
    RenewalProgress,
    RetryDirective,
    SerializationError,
    StoreError,
    StoreKey,
    TokenFamily,
    TokenRecord,
    TransientError,
)
from oauth2broker.flows import upkeep
from oauth2broker.testing import Fault, LoopbackProvider
from tests.support import REDIRECT_URI, SCOPE, TENANT, ManualClock

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
AT_ONCE = timedelta()


def request(number: int) -> CachedTokenRequest:
    return CachedTokenRequest(TENANT, f"user-{number}", SCOPE)


def log_in(broker: Broker, provider: LoopbackProvider, number: int) -> TokenRecord:
    session = broker.start_authorization(TENANT, f"user-{number}", SCOPE, REDIRECT_URI)
    return broker.complete_authorization(session, provider.browse(session.authorize_url))


def change(broker: Broker, number: int, **changes: object) -> TokenRecord:
    """Put the record of a user back with ``changes``."""
    record = broker.store.fetch(broker.key_for(request(number)))
    assert record is not None
    changed = replace(record, **changes)  # type: ignore[arg-type]
    broker.store.save(changed)
    return changed


def stored(broker: Broker, number: int) -> TokenRecord | None:
    return broker.store.fetch(broker.key_for(request(number)))


@pytest.fixture
def users(broker: Broker, provider: LoopbackProvider, clock: ManualClock) -> Broker:
    """Six users with an hour-old token each; 0, 1 and 2 have logged in again just now."""
    for number in range(6):
        log_in(broker, provider, number)
    clock.advance(3000)
    for number in range(3):
        log_in(broker, provider, number)
    provider.clear()
    return broker


# --- renew_due ---------------------------------------------------------------------------------------------


def test_what_expires_within_the_horizon_is_renewed_and_the_rest_is_left(
    users: Broker, provider: LoopbackProvider
) -> None:
    """Also far ahead of the windows that a caller's request has."""
    before = [stored(users, number) for number in range(6)]
    report = users.renew_due(within=timedelta(minutes=15), jitter=AT_ONCE)
    assert (report.seen, report.due, report.renewed, report.elsewhere, report.errors) == (6, 3, 3, 0, {})
    after = [stored(users, number) for number in range(6)]
    assert after[:3] == before[:3]
    assert all(new != old for new, old in zip(after[3:], before[3:], strict=True))
    assert (provider.token_calls, provider.reuses) == (3, 0)
    again = users.renew_due(within=timedelta(minutes=15))
    assert (again.due, provider.token_calls) == (0, 3)


def test_a_horizon_longer_than_a_lifetime_renews_each_once_a_run(
    users: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """A nightly job over tokens of an hour: those in the first quarter of their life are left, also what a
    run on another host, or before a crash, has just renewed; expired ones are renewed."""
    assert users.renew_due(within=DAY, jitter=AT_ONCE).renewed == 3
    assert users.renew_due(within=DAY, jitter=AT_ONCE).due == 0
    clock.advance(901)
    assert users.renew_due(within=DAY, jitter=AT_ONCE).renewed == 6
    clock.advance(86400)
    assert users.renew_due(within=DAY, jitter=AT_ONCE).renewed == 6
    assert provider.token_calls == 15


def test_several_walkers_at_once_renew_each_token_once(
    users: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """Threads of one broker, and brokers of their own on the same store, share the work."""
    provider.latency = 0.02
    others = [
        Broker(provider.descriptor(), "demo-client", "demo-secret", store=users.store, clock=clock)
        for _ in range(2)
    ]
    reports = []
    meet = threading.Barrier(6)

    def walk(broker: Broker) -> None:
        meet.wait()
        reports.append(broker.renew_due(within=timedelta(minutes=15), jitter=AT_ONCE))

    threads = [threading.Thread(target=walk, args=[broker]) for broker in [users, *others] * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(report.renewed for report in reports) == 3
    assert [report.errors for report in reports] == [{}] * 6
    assert all(report.due == report.renewed + report.elsewhere for report in reports)
    assert (provider.token_calls, provider.reuses) == (3, 0)
    for broker in others:
        broker.close()


WALK = """
import sys
from datetime import timedelta
from oauth2broker import Broker, FileStore, GrantType, ProviderDescriptor

url, folder = sys.argv[1:]
descriptor = ProviderDescriptor(
    "loopback", f"{url}/token", GrantType, authorization_endpoint=f"{url}/authorize"
)
with Broker(descriptor, "demo-client", "demo-secret", store=FileStore(folder)) as broker:
    print("ready", flush=True)
    sys.stdin.readline()
    report = broker.renew_due(within=timedelta(hours=25), parallelism=4, jitter=timedelta())
    print(report.seen, report.due, report.renewed, report.elsewhere, len(report.errors))
"""


def test_three_processes_renew_what_is_due_once(tmp_path: Path) -> None:
    """A cron job on three hosts at once: 600 records, 60 due, 60 calls."""
    with LoopbackProvider() as provider:
        store = FileStore(tmp_path / "tokens")
        descriptor = provider.descriptor(id="loopback")
        with Broker(descriptor, "demo-client", "demo-secret", store=store) as broker:
            for number in range(60):
                log_in(broker, provider, number)
                found = stored(broker, number)
                assert found is not None
                half = timedelta(minutes=30)
                store.save(
                    replace(found, issued_at=found.issued_at - half, expires_at=found.issued_at + half)
                )
                family = found.family
                for other in range(9):
                    principal = f"other-{number}-{other}"
                    kin = TokenFamily(family.tenant, principal, family.provider, family.client_id)
                    store.save(replace(found, family=kin))
        provider.clear()
        walkers = [
            subprocess.Popen(
                [sys.executable, "-W", "error", "-c", WALK, provider.base_url, str(tmp_path / "tokens")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(3)
        ]
        for walker in walkers:
            assert walker.stdout is not None
            assert walker.stdout.readline() == "ready\n"
        outputs = []
        for walker in walkers:
            assert walker.stdin is not None
            walker.stdin.write("\n")
            walker.stdin.flush()
        for walker in walkers:
            outputs.append(walker.communicate(timeout=100)[0])
        counts = [[int(word) for word in output.split()] for output in outputs]
        assert [count[0] for count in counts] == [600] * 3
        assert sum(count[2] for count in counts) == 60
        assert [count[4] for count in counts] == [0] * 3
        assert (provider.token_calls, provider.reuses) == (60, 0)


def test_one_bad_grant_keeps_no_other_from_being_renewed(users: Broker, provider: LoopbackProvider) -> None:
    """Errors are collected by key; a dead grant is marked, and a provider that is down is not."""
    change(users, 4, refresh_token="unknown-to-the-provider")
    report = users.renew_due(within=timedelta(minutes=15), jitter=AT_ONCE)
    assert (report.due, report.renewed) == (3, 2)
    [(key, error)] = report.errors.items()
    assert key == users.key_for(request(4))
    assert isinstance(error, InvalidGrantError)
    found = stored(users, 4)
    assert found is not None
    assert found.revoked_at is not None
    assert users.renew_due(within=timedelta(minutes=15)).seen == 6


def test_a_provider_that_is_down_is_an_error_per_key_and_asked_again_later(
    users: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """The next run, after what the provider asked for, renews all."""
    provider.inject(Fault.answer(503, headers={"Retry-After": "120"}), times=3)
    told: list[RenewalProgress] = []
    down = users.renew_due(within=timedelta(minutes=15), jitter=AT_ONCE, progress=told.append)
    assert [(step.renewed, step.error) for step in told] == [(False, down.errors[step.key]) for step in told]
    assert {type(error) for error in down.errors.values()} == {TransientError}
    assert [error.retry_after for error in down.errors.values()] == [120.0] * 3
    waiting = users.renew_due(within=timedelta(minutes=15), jitter=AT_ONCE)
    assert (len(waiting.errors), provider.token_calls) == (3, 3)
    clock.advance(121)
    assert users.renew_due(within=timedelta(minutes=15), jitter=AT_ONCE).renewed == 3


def test_the_budget_is_asked_and_what_it_delays_is_left_for_the_next_run(
    users: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """A policy that allows two calls: two are made, and the third record is as it was."""

    class Two:
        def __init__(self) -> None:
            self.left = 2

        def evaluate(self, context: RateLimitContext) -> RateLimitDecision:
            self.left -= 1
            return RateLimitDecision() if self.left >= 0 else Delay(RetryDirective(60))

    before = {number: stored(users, number) for number in range(3, 6)}
    with Broker(
        provider.descriptor(),
        "demo-client",
        "demo-secret",
        store=users.store,
        clock=clock,
        rate_limit=Two(),
    ) as bounded:
        report = bounded.renew_due(
            within=timedelta(minutes=15),
            parallelism=1,
            jitter=AT_ONCE,
            patience=timedelta(seconds=59),
        )
    assert (report.renewed, len(report.errors), provider.token_calls) == (2, 1, 2)
    [(key, error)] = report.errors.items()
    assert isinstance(error, DelayedError)
    assert error.retry_after == 60
    assert users.store.fetch(key) in before.values()


def test_progress_is_told_on_the_calling_thread_and_may_fail(users: Broker) -> None:
    """One call per token that was due, counted; what it raises does not end the walk."""
    told: list[tuple[RenewalProgress, int]] = []

    def progress(step: RenewalProgress) -> None:
        told.append((step, threading.get_ident()))
        raise RuntimeError("the terminal is gone")

    report = users.renew_due(within=timedelta(minutes=15), progress=progress)
    assert report.renewed == 3
    assert [step.done for step, _ in told] == [1, 2, 3]
    assert {step.key for step, _ in told} == {users.key_for(request(number)) for number in (3, 4, 5)}
    assert {(step.renewed, step.error, thread) for step, thread in told} == {
        (True, None, threading.get_ident())
    }


def test_the_walk_waits_for_a_budget_that_comes_in_time(
    users: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """One call each 20 ms, told as a delay: all are renewed, none before it may be, and reported once."""
    due_at: list[float] = []

    class Slow:
        def __init__(self) -> None:
            self.free_at = 0.0

        def evaluate(self, context: RateLimitContext) -> RateLimitDecision:
            now = time.monotonic()
            if now < self.free_at:
                return Delay(RetryDirective(self.free_at - now))
            due_at.append(now)
            self.free_at = now + 0.02
            return RateLimitDecision()

    told: list[int] = []
    with Broker(
        provider.descriptor(),
        "demo-client",
        "demo-secret",
        store=users.store,
        clock=clock,
        rate_limit=Slow(),
    ) as bounded:
        report = bounded.renew_due(
            within=timedelta(minutes=15), jitter=AT_ONCE, progress=lambda step: told.append(step.done)
        )
    assert (report.renewed, report.errors, provider.token_calls, told) == (3, {}, 3, [1, 2, 3])
    assert all(later - sooner >= 0.02 for sooner, later in itertools.pairwise(due_at))


def test_nothing_is_done_while_everything_waits_for_a_budget(
    users: Broker, provider: LoopbackProvider, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The walk sleeps a second at most at a time, not long after the time is there, and asks for nothing."""
    pauses: list[float] = []
    asked_at: list[float] = []
    slept = SimpleNamespace(monotonic=lambda: 1000.0 + sum(pauses), sleep=pauses.append)

    class Later:
        def evaluate(self, context: RateLimitContext) -> RateLimitDecision:
            asked_at.append(slept.monotonic())
            return RateLimitDecision() if asked_at[-1] >= 1002.5 else Delay(RetryDirective(2.5))

    with Broker(
        provider.descriptor(),
        "demo-client",
        "demo-secret",
        store=users.store,
        clock=clock,
        rate_limit=Later(),
    ) as bounded:
        monkeypatch.setattr(upkeep, "time", slept)
        report = bounded.renew_due(
            within=timedelta(minutes=15), jitter=AT_ONCE, patience=timedelta(seconds=2.5)
        )
    assert (report.renewed, report.errors) == (3, {})
    assert asked_at == [1000.0] * 3 + [1002.5] * 3
    assert pauses == [1.0, 1.0, 0.5]


class Gate:
    """A policy that lets nobody go on until it is opened, and counts who came."""

    def __init__(self) -> None:
        self.came = threading.Semaphore(0)
        self.is_open = threading.Event()

    def evaluate(self, context: RateLimitContext) -> RateLimitDecision:
        self.came.release()
        assert self.is_open.wait(60)
        return RateLimitDecision()


@pytest.mark.parametrize("parallelism", [1, 2, 3])
def test_no_more_than_so_many_renew_at_once_and_the_walk_waits_for_them(
    users: Broker, provider: LoopbackProvider, clock: ManualClock, parallelism: int
) -> None:
    """Parallelism is used in full and is a bound, also on how many records are held ready."""
    clock.advance(1000)  # so that all are due
    gate, fetched = Gate(), []

    class Counting(MemoryStore):
        def fetch(self, key: StoreKey) -> TokenRecord | None:
            fetched.append(key)
            return super().fetch(key)

    store = Counting()
    for key in list(users.store.keys()):
        record = users.store.fetch(key)
        assert record is not None
        for number in range(3):
            family = TokenFamily(
                TENANT, f"{key.family.principal}-{number}", key.family.provider, "demo-client"
            )
            store.save(replace(record, family=family))
    with Broker(
        provider.descriptor(), "demo-client", "demo-secret", store=store, clock=clock, rate_limit=gate
    ) as bounded:
        walk = threading.Thread(
            target=lambda: bounded.renew_due(within=DAY, parallelism=parallelism, jitter=AT_ONCE)
        )
        walk.start()
        try:
            for _ in range(parallelism):
                assert gate.came.acquire(timeout=60)
            assert not gate.came.acquire(timeout=0.3), "one more came through"
            assert (
                len(fetched) <= 4 * parallelism + 1
            )  # two each under way or ready, and read under the lease
        finally:
            gate.is_open.set()
        walk.join(60)
        assert not walk.is_alive()


def test_an_interrupt_ends_the_walk_and_nothing_is_half_done(
    users: Broker, provider: LoopbackProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while others wait out an hour of jitter: they do not; and the next walk does the rest."""
    waits = iter([0.0])
    monkeypatch.setattr("random.uniform", lambda low, high: next(waits, high))

    def progress(step: RenewalProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        users.renew_due(within=timedelta(minutes=15), jitter=HOUR, progress=progress)
    assert (provider.token_calls, provider.reuses) == (1, 0)
    assert users.renew_due(within=timedelta(minutes=15), jitter=AT_ONCE).renewed == 2


def test_a_refresh_token_is_used_before_it_lapses(
    users: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """Though its access token has long to go, or says nothing of its life."""
    found = stored(users, 0)
    assert found is not None
    lapses = found.issued_at + timedelta(days=3)
    change(users, 0, expires_at=found.issued_at + timedelta(days=30), refresh_expires_at=lapses)
    change(users, 1, expires_at=None, refresh_expires_at=lapses)
    change(users, 2, expires_at=None, refresh_expires_at=lapses + timedelta(days=30))
    assert users.renew_due(within=timedelta(days=4), jitter=AT_ONCE).due == 3  # which expire in minutes
    clock.advance(86400)
    change(users, 3, expires_at=None)
    report = users.renew_due(within=timedelta(days=4), jitter=AT_ONCE)
    assert report.due == 4  # 0, 1, and two that have expired again
    assert provider.token_calls == 7


def test_a_refresh_token_that_has_lapsed_is_left_while_the_access_token_works(
    users: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """To present it would end a grant that serves for weeks; once it serves no more, it costs nothing."""
    found = stored(users, 0)
    assert found is not None
    ends, lapses = found.issued_at + timedelta(days=60), found.issued_at + timedelta(hours=20)
    change(users, 0, expires_at=ends, refresh_expires_at=lapses)
    clock.advance(86400)
    for number in range(1, 6):
        users.store.delete(users.key_for(request(number)))
    for _ in range(59):
        assert users.renew_due(within=timedelta(hours=25)).due == 0
        clock.advance(86400)
    assert users.renew_due(within=timedelta(hours=25)).due == 1
    assert provider.token_calls == 1


def test_a_refresh_token_that_lapses_for_good_is_used_once_more(
    users: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """An absolute lifetime is not prolonged by renewing, so it is not tried at each run."""
    found = stored(users, 0)
    assert found is not None
    descriptor = provider.descriptor(quirks=ProviderQuirks(refresh_lifetime_is_absolute=True))
    store = MemoryStore()
    store.save(
        replace(
            found,
            expires_at=found.issued_at + timedelta(days=90),
            refresh_expires_at=found.issued_at + timedelta(days=7),
        )
    )
    with Broker(descriptor, "demo-client", "demo-secret", store=store, clock=clock) as broker:
        assert broker.renew_due(within=DAY).due == 0
        clock.advance(6 * 86400 + 60)
        assert broker.renew_due(within=DAY).renewed == 1
        renewed = store.fetch(found.key)
        assert renewed is not None
        assert renewed.refresh_expires_at == found.issued_at + timedelta(days=7)
        store.save(replace(renewed, expires_at=clock() + timedelta(days=90)))
        for _ in range(24):
            assert broker.renew_due(within=DAY).due == 0
            clock.advance(3600)


def test_what_cannot_be_renewed_is_not_due(users: Broker, provider: LoopbackProvider) -> None:
    """Tombstones, users without a refresh token, service tokens, and what belongs to other clients."""
    users.client_credentials(CachedTokenRequest(TENANT, "svc", "a"))
    change(users, 3, refresh_token=None)
    found = stored(users, 4)
    assert found is not None
    users.store.revoke(found.key, found.issued_at)
    stranger = TokenFamily(TENANT, "user-5", found.family.provider, "another-client")
    users.store.save(replace(found, family=stranger))
    elsewhere = TokenFamily(TENANT, "user-5", "another-provider", "demo-client")
    users.store.save(replace(found, family=elsewhere))
    provider.clear()
    report = users.renew_due(within=timedelta(minutes=15), jitter=AT_ONCE)
    assert (report.seen, report.due, report.renewed, provider.token_calls) == (6, 1, 1, 1)


class Spoiled(MemoryStore):
    """Cannot read one record, or list any."""

    def __init__(self) -> None:
        super().__init__()
        self.bad: StoreKey | None = None
        self.lists = True

    def fetch(self, key: StoreKey) -> TokenRecord | None:
        if key == self.bad:
            raise SerializationError("the record is torn")
        return super().fetch(key)

    def keys(self) -> Iterator[StoreKey]:
        yield from super().keys()
        if not self.lists:
            raise OSError("the connection broke half way")


def test_a_record_that_cannot_be_read_is_reported_and_a_listing_that_breaks_raises(
    users: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """What a foreign store raises while it lists is a BackendError; what was under way is finished."""
    store = Spoiled()
    for key in list(users.store.keys()):
        record = users.store.fetch(key)
        assert record is not None
        store.save(record)
    with Broker(provider.descriptor(), "demo-client", "demo-secret", store=store, clock=clock) as broker:
        store.bad = broker.key_for(request(3))
        report = broker.renew_due(within=timedelta(minutes=15), jitter=AT_ONCE)
        assert (report.due, report.renewed, list(report.errors)) == (2, 2, [store.bad])
        assert isinstance(report.errors[store.bad], SerializationError)
        store.lists = False
        with pytest.raises(BackendError):
            broker.renew_due(within=timedelta(minutes=15))
        with pytest.raises(BackendError):
            broker.prune()


def test_a_record_that_goes_while_the_store_lists_is_not_due(
    users: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """Whoever deletes it meanwhile does not end the walk."""

    class Stale(MemoryStore):
        def keys_due(self, provider: str, client_id: str, before: datetime) -> Iterator[StoreKey]:
            yield users.key_for(request(3))

        keys_dead = keys_due

    with Broker(provider.descriptor(), "demo-client", "demo-secret", store=Stale(), clock=clock) as broker:
        report = broker.renew_due(within=HOUR, jitter=AT_ONCE)
        assert (report.seen, report.due, report.errors) == (1, 0, {})
        assert broker.prune(older_than=AT_ONCE).keys == ()


@pytest.mark.parametrize("odd", ["a digest", None])
def test_a_store_that_lists_what_is_no_key_says_so(
    users: Broker, provider: LoopbackProvider, odd: object
) -> None:
    """Rather than to end the walk as if there were no more, or with an error that is none of ours."""

    class Odd(MemoryStore):
        def keys(self) -> Iterator[StoreKey]:
            yield odd  # type: ignore[misc]

    with Broker(provider.descriptor(), "demo-client", "demo-secret", store=Odd()) as broker:
        with pytest.raises(BackendError):
            broker.renew_due(within=HOUR)
        with pytest.raises(BackendError):
            broker.prune()


def test_a_token_for_a_resource_is_renewed_for_it(broker: Broker, provider: LoopbackProvider) -> None:
    """The walk asks for what the record was obtained for."""
    resource = "https://api.example.com/v1"
    session = broker.start_authorization(TENANT, "user-1", SCOPE, REDIRECT_URI, resource=resource)
    old = broker.complete_authorization(session, provider.browse(session.authorize_url))
    broker.store.save(replace(old, expires_at=old.issued_at))
    assert broker.renew_due(within=HOUR, jitter=AT_ONCE).renewed == 1
    new = broker.store.fetch(old.key)
    assert new is not None
    assert (new.resource, new.expires_at) == (resource, old.expires_at)


def test_observers_see_each_renewal(users: Broker, provider: LoopbackProvider, clock: ManualClock) -> None:
    """A span per token, of the stage renew_due."""
    events: list[FlowEvent] = []

    class Watching:
        def observe(self, event: FlowEvent) -> None:
            events.append(event)

    with Broker(
        provider.descriptor(),
        "demo-client",
        "demo-secret",
        store=users.store,
        clock=clock,
        observers=[Watching()],
    ) as watched:
        change(users, 4, refresh_token="unknown-to-the-provider")
        watched.renew_due(within=timedelta(minutes=15), jitter=AT_ONCE)
    assert {event.stage for event in events} == {"renew_due"}
    assert sorted(event.outcome for event in events) == ["attempt"] * 3 + ["failure"] + ["success"] * 2


@pytest.mark.parametrize(
    "options",
    [
        {"within": -HOUR},
        {"within": 3600},
        {"within": HOUR, "parallelism": 0},
        {"within": HOUR, "parallelism": 1.5},
        {"within": HOUR, "parallelism": 17},
        {"within": HOUR, "patience": -HOUR},
        {"within": timedelta.max},
        {"within": HOUR, "jitter": -HOUR},
    ],
)
def test_nonsense_is_refused_before_anything_is_done(
    users: Broker, provider: LoopbackProvider, options: dict[str, object]
) -> None:
    """A ConfigError, and no call."""
    with pytest.raises(ConfigError):
        users.renew_due(**options)  # type: ignore[arg-type]
    assert provider.token_calls == 0


def test_a_provider_that_renews_nothing_says_so(provider: LoopbackProvider) -> None:
    """Rather than to walk for nothing."""
    descriptor = provider.descriptor(grants={GrantType.CLIENT_CREDENTIALS})
    with Broker(descriptor, "demo-client", "demo-secret") as broker, pytest.raises(ConfigError):
        broker.renew_due(within=HOUR)


# --- prune -------------------------------------------------------------------------------------------------


def names(broker: Broker) -> set[str]:
    return {key.family.principal for key in iter(broker.store.keys())}


@pytest.fixture
def graveyard(users: Broker, clock: ManualClock) -> Broker:
    """0 lives. 1 is a tombstone, 2 expired without, 3 with a refresh token that lapsed, 4 with one that may
    live for ever, 5 never expires. A service token and one that could never be had are there, too."""
    users.store.revoke(users.key_for(request(1)), clock())
    change(users, 2, refresh_token=None)
    change(users, 3, refresh_expires_at=clock() + DAY)
    change(users, 5, expires_at=None, refresh_token=None)
    users.client_credentials(CachedTokenRequest(TENANT, "svc", "a"))
    clock.advance(31 * 86400)
    change(users, 0, expires_at=clock() + HOUR)
    return users


def test_prune_says_what_is_long_dead_and_removes_it_only_when_told(graveyard: Broker) -> None:
    """Dry run by default; then exactly the same goes."""
    everybody = names(graveyard)
    report = graveyard.prune()
    dead = {key.family.principal for key in report.keys}
    assert dead == {"user-1", "user-2", "user-3", "svc"}
    assert (report.dry_run, report.errors, names(graveyard)) == (True, {}, everybody)
    removed = graveyard.prune(dry_run=False)
    assert (set(removed.keys), removed.dry_run) == (set(report.keys), False)
    assert names(graveyard) == everybody - dead
    assert graveyard.prune(dry_run=False).keys == ()


def test_prune_goes_by_no_lifetime_that_is_only_supposed(
    users: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """One that the descriptor gives, and one that a later token of the same grant has outlived."""
    found = stored(users, 0)
    assert found is not None
    past = found.issued_at - DAY
    users.store.save(replace(found, refresh_expires_at=past))
    supposed = provider.descriptor(default_refresh_expires_in=DAY)
    change(users, 1, refresh_expires_at=found.issued_at + DAY)
    clock.advance(90 * 86400)
    assert {key.family.principal for key in users.prune().keys} == {"user-1"}
    with Broker(supposed, "demo-client", "demo-secret", store=users.store, clock=clock) as broker:
        assert broker.prune().keys == ()


def test_prune_waits_for_as_long_as_it_is_told(graveyard: Broker, clock: ManualClock) -> None:
    """Counted from the moment that nothing could come of a record any more."""
    assert graveyard.prune(older_than=timedelta(days=40)).keys == ()
    clock.advance(9 * 86400)
    found = {key.family.principal for key in graveyard.prune(older_than=timedelta(days=40)).keys}
    assert found == {"user-1"}
    found = {key.family.principal for key in graveyard.prune(older_than=timedelta(days=39.5)).keys}
    assert found == {"user-1", "user-2", "svc"}  # 3 could be renewed for a day more
    with pytest.raises(ConfigError):
        graveyard.prune(older_than=-DAY)


def test_prune_leaves_what_somebody_works_on_and_what_came_back(
    graveyard: Broker, provider: LoopbackProvider
) -> None:
    """A login holds the lease; and one that ended after we looked has put a living record there."""
    busy = graveyard.key_for(request(1))
    with graveyard.store.refresh_lease(busy, timeout=0) as is_ours:
        assert is_ours
        assert busy not in graveyard.prune(dry_run=False).keys
    assert graveyard.store.fetch(busy) is not None

    class LateLogin(MemoryStore):
        """A login ends just before the lease of the dead record can be had."""

        def refresh_lease(self, key: StoreKey, *, timeout: float):  # type: ignore[no-untyped-def]
            if dead_record.key == key:
                self.save(living)
            return super().refresh_lease(key, timeout=timeout)

    found = graveyard.store.fetch(busy)
    assert found is not None
    dead_record = found
    living = log_in(graveyard, provider, 1)
    store = LateLogin()
    store.save(dead_record)
    with Broker(
        provider.descriptor(),
        "demo-client",
        "demo-secret",
        store=store,
        clock=lambda: living.issued_at,
    ) as broker:
        assert broker.prune().keys == (busy,)
        assert broker.prune(dry_run=False).keys == ()
    assert store.fetch(busy) == living


def test_prune_reports_what_it_cannot_remove(users: Broker, clock: ManualClock) -> None:
    """One record's error keeps no other from being removed."""

    class Stuck(MemoryStore):
        def delete(self, key: StoreKey) -> bool:
            if key.family.principal == "user-1":
                raise BackendError("read-only")
            return super().delete(key)

    store = Stuck()
    for number in (1, 2):
        record = stored(users, number)
        assert record is not None
        store.save(record.tombstone(clock()))
    clock.advance(31 * 86400)
    with Broker(users.descriptor, "demo-client", "demo-secret", store=store, clock=clock) as broker:
        report = broker.prune(dry_run=False)
    assert [key.family.principal for key in report.keys] == ["user-2"]
    assert {key.family.principal: type(error) for key, error in report.errors.items()} == {
        "user-1": BackendError
    }
    assert issubclass(BackendError, StoreError)
