"""How renewals end, as observers are told: one word for each ending, and the leader's word counts."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from oauth2broker import (
    AuthorizationError,
    BackendError,
    Broker,
    BrokerError,
    CachedTokenRequest,
    CompareAndSwapOutcome,
    FlowEvent,
    FlowKind,
    FlowOutcome,
    HttpRequest,
    HttpResponse,
    MemoryStore,
    RefreshResult,
    RequestsHttpClient,
    ResponseMetadataSlot,
    StoreKey,
    TokenBucket,
    TokenLender,
    TokenRecord,
    TokenSecret,
    TransientError,
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

SUCCESS, FAILURE = FlowOutcome.SUCCESS, FlowOutcome.FAILURE
NEVER_DUE = CachedTokenRequest(
    USER_REQUEST.tenant, USER_REQUEST.principal, USER_REQUEST.scope, preemptive_window=timedelta()
)


class Listener:
    """Keeps the ends of flows."""

    def __init__(self) -> None:
        self.ends: list[FlowEvent] = []

    def observe(self, event: FlowEvent) -> None:
        if event.outcome is not FlowOutcome.ATTEMPT:
            self.ends.append(event)

    def last(self) -> tuple[RefreshResult | None, FlowOutcome]:
        return self.ends[-1].result, self.ends[-1].outcome


class Store(MemoryStore):
    """Calls ``meddle`` before it takes a record that has just been issued, and fails when told."""

    def __init__(self) -> None:
        super().__init__()
        self.meddle: Callable[[TokenRecord], object] = lambda record: None
        self.down, self.lists = False, True

    def fetch(self, key: StoreKey) -> TokenRecord | None:
        if self.down:
            raise BackendError("down")
        return super().fetch(key)

    def keys(self) -> Iterator[StoreKey]:
        if not self.lists:
            raise BackendError("down")
        return super().keys()

    def save(self, record: TokenRecord) -> None:
        self.meddle(record)
        super().save(record)

    def compare_and_swap_refresh(
        self, key: StoreKey, expected_refresh: TokenSecret | str | None, replacement: TokenRecord
    ) -> CompareAndSwapOutcome:
        if replacement.refresh_token != expected_refresh:
            self.meddle(replacement)
        return super().compare_and_swap_refresh(key, expected_refresh, replacement)


class Scene:
    """A provider, a store and brokers that are listened to."""

    def __init__(self, provider: LoopbackProvider, clock: ManualClock) -> None:
        self.provider, self.clock, self.store, self.listener = provider, clock, Store(), Listener()

    def broker(self, **arguments: Any) -> Broker:
        arguments = {"store": self.store, "clock": self.clock, "observers": [self.listener], **arguments}
        secret = arguments.pop("secret", "demo-secret")
        return Broker(self.provider.descriptor(), "demo-client", secret, **arguments)

    def logged_in(self, **arguments: Any) -> Broker:
        made = self.broker(**arguments)
        log_in(made, self.provider)
        return made


@pytest.fixture
def scene(provider: LoopbackProvider, clock: ManualClock) -> Scene:
    """A stage with nobody on it."""
    return Scene(provider, clock)


@contextmanager
def failing(kind: type[BaseException] = BrokerError) -> Iterator[None]:
    with pytest.raises(kind):
        yield


def test_a_token_from_the_store_is_a_hit(scene: Scene) -> None:
    """Of users and of the client itself; the end says what the token has left."""
    broker = scene.logged_in()
    scene.clock.advance(600)
    broker.refresh_access_token(USER_REQUEST)
    assert scene.listener.last() == (RefreshResult.HIT, SUCCESS)
    assert scene.listener.ends[-1].expires_in == pytest.approx(3000, abs=1)
    broker.client_credentials(SERVICE_REQUEST)
    broker.client_credentials(SERVICE_REQUEST)
    assert scene.listener.last() == (RefreshResult.HIT, SUCCESS)
    assert scene.provider.token_calls == 2


def test_what_the_provider_issued_is_renewed(scene: Scene) -> None:
    """A renewal, and a service token that was not there."""
    broker = scene.logged_in()
    scene.clock.advance(3700)
    broker.refresh_access_token(USER_REQUEST)
    assert scene.listener.last() == (RefreshResult.RENEWED, SUCCESS)
    assert scene.listener.ends[-1].expires_in == pytest.approx(3600, abs=1)
    broker.client_credentials(SERVICE_REQUEST)
    assert scene.listener.last() == (RefreshResult.RENEWED, SUCCESS)


def test_a_crowd_joins_one_renewal_and_one_failure(scene: Scene) -> None:
    """The leader says how it went, also when it failed; the others that they joined."""
    broker = scene.logged_in()
    scene.provider.latency = 0.3
    scene.clock.advance(3700)
    Crowd(8, partial(broker.refresh_access_token, USER_REQUEST)).start().join()
    told = Counter((end.result, end.outcome) for end in scene.listener.ends[-8:])
    assert told == {(RefreshResult.RENEWED, SUCCESS): 1, (RefreshResult.JOINED, SUCCESS): 7}
    scene.clock.advance(3700)
    scene.provider.inject(Fault.answer(503))
    Crowd(8, partial(broker.refresh_access_token, USER_REQUEST)).start().join()
    told = Counter((end.result, end.outcome) for end in scene.listener.ends[-8:])
    assert told == {(RefreshResult.TRANSIENT, FAILURE): 1, (RefreshResult.JOINED, FAILURE): 7}


def test_what_another_process_renewed_is_adopted(scene: Scene) -> None:
    """Two brokers on one store stand for two processes: one call, and who waited for the lease adopts."""
    brokers = [scene.logged_in(), scene.broker()]
    scene.provider.latency = 0.3
    scene.clock.advance(3700)
    scene.provider.clear()
    turns = iter(brokers)
    Crowd(2, lambda: next(turns).refresh_access_token(USER_REQUEST)).start().join()
    assert {end.result for end in scene.listener.ends[-2:]} == {RefreshResult.RENEWED, RefreshResult.ADOPTED}
    assert scene.provider.token_calls == 1


def test_a_token_that_is_due_while_somebody_else_is_at_it_is_served(scene: Scene) -> None:
    """With the lease elsewhere, and while the provider is not to be asked yet."""
    broker = scene.logged_in()
    scene.clock.advance(3600 - 30)
    with scene.store.refresh_lease(broker.key_for(USER_REQUEST), timeout=0):
        broker.refresh_access_token(USER_REQUEST)
    assert scene.listener.last() == (RefreshResult.SERVED_CURRENT, SUCCESS)
    scene.provider.inject(Fault.answer(503, {"Retry-After": "600"}))
    broker.refresh_access_token(USER_REQUEST)
    assert scene.listener.last() == (
        RefreshResult.TRANSIENT,
        SUCCESS,
    )  # the call failed, the caller was served
    broker.refresh_access_token(USER_REQUEST)
    assert scene.listener.last() == (RefreshResult.SERVED_CURRENT, SUCCESS)


def test_a_grant_dies_once_and_stays_dead(scene: Scene) -> None:
    """Who buries it says so; who finds the grave says that the user must authorize again."""
    broker = scene.logged_in()
    scene.provider.revoke_user("alice")
    scene.clock.advance(3700)
    for result in (RefreshResult.TOMBSTONED, RefreshResult.REAUTHORIZE, RefreshResult.REAUTHORIZE):
        with failing():
            broker.refresh_access_token(USER_REQUEST)
        assert scene.listener.last() == (result, FAILURE)
    with failing():
        broker.refresh_access_token(CachedTokenRequest("tenant-acme", "nobody"))
    assert scene.listener.last() == (RefreshResult.REAUTHORIZE, FAILURE)


def test_a_record_that_was_replaced_or_deleted_meanwhile_is_a_lost_race(scene: Scene) -> None:
    """The provider issued a token, and another login, or a deletion, was faster."""
    broker = scene.logged_in()
    scene.clock.advance(3700)

    another = TokenSecret("another")

    def replace_it(record: TokenRecord) -> None:
        scene.store.meddle = lambda record: None
        MemoryStore.save(scene.store, replace(record, refresh_token=another, access_token=another))

    scene.store.meddle = replace_it
    assert broker.refresh_access_token(USER_REQUEST).access_token == another
    assert scene.listener.last() == (RefreshResult.CAS_LOST, SUCCESS)
    scene.clock.advance(3700)
    scene.store.save(replace(log_in(scene.broker(), scene.provider), expires_at=scene.clock()))
    scene.store.meddle = lambda record: scene.store.delete(record.key)
    with failing():
        broker.refresh_access_token(USER_REQUEST)
    assert scene.listener.last() == (RefreshResult.CAS_LOST, FAILURE)


def test_what_the_store_would_not_take_is_a_persist_failure(scene: Scene) -> None:
    """Of a renewal, a service token and a login: all three are served."""
    broker = scene.logged_in()
    scene.clock.advance(3700)

    def refuse(record: TokenRecord) -> None:
        raise BackendError("full")

    scene.store.meddle = refuse
    broker.refresh_access_token(USER_REQUEST)
    assert scene.listener.last() == (RefreshResult.PERSIST_FAILED, SUCCESS)
    broker.client_credentials(SERVICE_REQUEST)
    assert scene.listener.last() == (RefreshResult.PERSIST_FAILED, SUCCESS)
    scene.store.meddle = lambda record: None
    broker.close()
    again = scene.logged_in()
    scene.store.meddle = refuse
    log_in(again, scene.provider)
    assert scene.listener.last() == (RefreshResult.PERSIST_FAILED, SUCCESS)
    scene.store.meddle = lambda record: None
    again.close()


@pytest.mark.parametrize(
    ("fault", "result"),
    [
        (Fault.answer(503), RefreshResult.TRANSIENT),
        (Fault.answer(429), RefreshResult.TRANSIENT),
        (Fault.json(400, {"error": "temporarily_unavailable"}), RefreshResult.TRANSIENT),
        (Fault.lost_answer(), RefreshResult.UNKNOWN),
        (Fault.garble(b"<html>"), RefreshResult.UNKNOWN),
        (Fault.html(502), RefreshResult.UNKNOWN),
        (Fault.json(401, {"error": "invalid_client"}), RefreshResult.REFUSED),
        (Fault.json(400, {"error": "invalid_scope"}), RefreshResult.REFUSED),
        (Fault.json(400, {"error": "invalid_grant"}), RefreshResult.TOMBSTONED),
    ],
    ids=["503", "429", "try later", "lost", "garbled", "html", "client", "scope", "grant"],
)
def test_a_failed_call_says_whether_its_answer_is_known(
    scene: Scene, fault: Fault, result: RefreshResult
) -> None:
    """The same whether the token works no more or still does: only the outcome differs."""
    broker = scene.logged_in()
    scene.clock.advance(3700)
    scene.provider.inject(fault)
    with failing():
        broker.refresh_access_token(USER_REQUEST)
    assert scene.listener.last() == (result, FAILURE)
    again = Scene(scene.provider, scene.clock)
    broker = again.logged_in()
    scene.clock.advance(3600 - 30)
    scene.provider.inject(fault)
    if result is RefreshResult.TOMBSTONED:
        with failing():
            broker.refresh_access_token(USER_REQUEST)
        assert again.listener.last() == (result, FAILURE)
    else:
        broker.refresh_access_token(USER_REQUEST)
        assert again.listener.last() == (result, SUCCESS)


def test_a_call_that_a_budget_or_a_store_keeps_from_being_made_says_so(scene: Scene) -> None:
    """Nothing went out: a matter of the policy, or of the store."""
    broker = scene.logged_in(rate_limit=TokenBucket(1, timedelta(days=10)))
    scene.clock.advance(3700)
    with failing():
        broker.refresh_access_token(USER_REQUEST)
    assert scene.listener.last() == (RefreshResult.DELAYED, FAILURE)
    scene.store.down = True
    for act in (broker.refresh_access_token, broker.client_credentials):
        with failing():
            act(USER_REQUEST)
        assert scene.listener.last() == (RefreshResult.STORE_FAILED, FAILURE)


def test_a_provider_that_is_not_there_is_transient(scene: Scene) -> None:
    """Nothing went out, and the refresh token is not spent."""
    broker = scene.logged_in()
    scene.clock.advance(3700)
    scene.provider.close()
    with failing():
        broker.refresh_access_token(USER_REQUEST)
    assert scene.listener.last() == (RefreshResult.TRANSIENT, FAILURE)


class Heir(RequestsHttpClient):
    """Lets the first leader die in the middle of a call."""

    dies = True

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        response = super().send(request, metadata)
        if b"grant_type=client_credentials" in request.body and self.dies:
            self.dies = False
            raise KeyboardInterrupt
        return response


@pytest.mark.parametrize(
    ("result", "error"), [(RefreshResult.RENEWED, None), (RefreshResult.REFUSED, "InvalidClientError")]
)
def test_who_waited_for_a_leader_that_died_and_then_leads_says_how_that_went(
    scene: Scene, result: RefreshResult, error: str | None
) -> None:
    """Having waited is not how it ended."""
    broker = scene.broker(http_client=Heir())
    scene.provider.latency = 0.2
    scene.provider.inject(Fault())
    if result is not RefreshResult.RENEWED:
        scene.provider.inject(Fault.json(401, {"error": "invalid_client"}))
    crowd = Crowd(3, partial(broker.client_credentials, SERVICE_REQUEST)).start().join()
    assert KeyboardInterrupt in {type(error) for error in crowd.errors}
    told = Counter((end.result, end.error) for end in scene.listener.ends)
    assert told == {(None, "KeyboardInterrupt"): 1, (result, error): 1, (RefreshResult.JOINED, error): 1}


@pytest.mark.parametrize(("fault", "days"), [(None, 9), (Fault.answer(503), 0.5)])
def test_a_walk_says_what_the_grant_has_left(scene: Scene, fault: Fault | None, days: float) -> None:
    """Of the renewed one, or of the one that could not be renewed; no token was served."""
    lasting = Fault.rewrite(lambda payload: {**payload, "refresh_token_expires_in": 9 * 86400})
    scene.provider.inject(lasting)
    broker = scene.logged_in()
    scene.clock.advance(8.5 * 86400)
    scene.provider.inject(fault or lasting)
    broker.renew_due(within=timedelta(days=1), jitter=timedelta())
    end = scene.listener.ends[-1]
    assert (end.stage, end.expires_in) == ("renew_due", None)
    assert end.refresh_expires_in == pytest.approx(days * 86400, abs=5)


def test_walks_and_loans_say_how_they_ended(scene: Scene) -> None:
    """renew_due and a lent token that had to be renewed are flows with a result, too."""
    broker = scene.logged_in()
    scene.clock.advance(1800)
    assert broker.renew_due(within=timedelta(hours=1), jitter=timedelta()).renewed == 1
    assert (scene.listener.ends[-1].stage, *scene.listener.last()) == (
        "renew_due",
        RefreshResult.RENEWED,
        SUCCESS,
    )
    lender = TokenLender(broker)
    scene.clock.advance(1800)
    with lender.lend(lender.context(USER_REQUEST, minimum_ttl=timedelta(minutes=50))) as lent:
        assert lent.record.expires_at is not None
    assert scene.listener.ends[-1].flow is FlowKind.REFRESH
    assert RefreshResult.RENEWED in {end.result for end in scene.listener.ends[-2:]}


def test_one_failure_is_counted_once_however_many_ask_in_the_pause_after_it(scene: Scene) -> None:
    """Who makes no call says so: of users' tokens, of service tokens, and after an answer that was lost."""
    broker = scene.logged_in()
    for act, fault, result in (
        (broker.refresh_access_token, Fault.answer(503, {"Retry-After": "600"}), RefreshResult.TRANSIENT),
        (broker.refresh_access_token, Fault.lost_answer(), RefreshResult.UNKNOWN),
        (broker.client_credentials, Fault.answer(503), RefreshResult.TRANSIENT),
    ):
        scene.clock.advance(3700)
        scene.provider.clear()
        scene.provider.inject(fault)
        for _ in range(4):
            with failing():
                act(USER_REQUEST)
        assert scene.provider.token_calls == 1
        told = [end.result for end in scene.listener.ends[-4:]]
        assert told == [result, *[RefreshResult.BACKED_OFF] * 3]


def test_a_mark_of_the_future_is_waited_for_without_a_call(scene: Scene) -> None:
    """A clock has gone back: an answer may still arrive."""
    broker = scene.logged_in()
    scene.clock.advance(3700)
    key = broker.key_for(USER_REQUEST)
    record = scene.store.fetch(key)
    assert record is not None
    scene.store.save(replace(record, attempted_at=scene.clock() + timedelta(days=1)))
    with failing(TransientError):
        broker.refresh_access_token(USER_REQUEST)
    assert scene.listener.last() == (RefreshResult.BACKED_OFF, FAILURE)


def test_who_waits_in_vain_says_so(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a lease that another process has, and for another thread that is at the provider."""
    broker = scene.logged_in()
    scene.clock.advance(3700)
    monkeypatch.setattr(broker._keeper, "_bounds", replace(broker._keeper._bounds, lease=0.05))
    with scene.store.refresh_lease(broker.key_for(USER_REQUEST), timeout=0), failing(TransientError):
        broker.refresh_access_token(USER_REQUEST)
    assert scene.listener.last() == (RefreshResult.TIMED_OUT, FAILURE)
    monkeypatch.setattr(broker._flights, "_longest_wait", 0.05)
    at_the_provider, done = threading.Event(), threading.Event()

    def hold(record: TokenRecord) -> None:
        at_the_provider.set()
        assert done.wait(60)

    scene.store.meddle = hold
    leader = Crowd(1, partial(broker.refresh_access_token, USER_REQUEST)).start()
    assert at_the_provider.wait(60)
    with failing(TransientError):
        broker.refresh_access_token(USER_REQUEST)
    assert scene.listener.last() == (RefreshResult.TIMED_OUT, FAILURE)
    done.set()
    leader.join()


def test_logins_and_logouts_that_fail_say_what_is_wrong(scene: Scene) -> None:
    """A store that is away, a client that is refused, a provider that is down; and a user who says no."""
    broker = scene.logged_in()
    assert {end.result for end in scene.listener.ends} == {None}
    login, logout = partial(log_in, broker, scene.provider), partial(broker.revoke, USER_REQUEST)
    scene.store.down = True
    for act in (login, logout):
        with failing(BackendError):
            act()
        assert scene.listener.last() == (RefreshResult.STORE_FAILED, FAILURE)
    scene.store.down = False
    for fault, result in (
        (Fault.json(401, {"error": "invalid_client"}), RefreshResult.REFUSED),
        (Fault.answer(503), RefreshResult.TRANSIENT),
    ):
        scene.provider.inject(fault)
        with failing():
            login()
        assert scene.listener.last() == (result, FAILURE)
    with failing():
        scene.broker(secret="wrong").revoke(USER_REQUEST)
    assert scene.listener.last() == (RefreshResult.REFUSED, FAILURE)
    session = broker.start_authorization(TENANT, USER, SCOPE, REDIRECT_URI)
    with failing(AuthorizationError):
        broker.complete_authorization(session, {"state": session.state, "error": "access_denied"})
    assert scene.listener.last() == (RefreshResult.REAUTHORIZE, FAILURE)


def test_a_walk_that_cannot_list_is_told_of(scene: Scene) -> None:
    """No token's flow would tell of it: there is none."""
    broker = scene.logged_in()
    scene.clock.advance(3700)
    scene.store.lists = False
    for walk, stage in (
        (partial(broker.renew_due, within=timedelta(hours=1)), "renew_due"),
        (broker.prune, "prune"),
    ):
        with failing(BackendError):
            walk()
        end = scene.listener.ends[-1]
        assert (end.flow, end.stage, end.tenant, end.error) == (FlowKind.REFRESH, stage, None, "BackendError")
        assert scene.listener.last() == (RefreshResult.STORE_FAILED, FAILURE)


def test_a_record_that_a_walk_cannot_read_is_told_of(scene: Scene) -> None:
    """With its tenant; the walk goes on, and reports it."""
    broker = scene.logged_in()
    scene.clock.advance(3700)
    scene.store.down = True
    assert len(broker.renew_due(within=timedelta(hours=1)).errors) == 1
    end = scene.listener.ends[-1]
    assert (end.stage, end.tenant, *scene.listener.last()) == (
        "renew_due",
        TENANT,
        RefreshResult.STORE_FAILED,
        FAILURE,
    )


@pytest.mark.parametrize(
    ("second", "result"),
    [
        (Fault.json(401, {"error": "invalid_client"}), RefreshResult.REFUSED),
        (Fault.answer(503), RefreshResult.TRANSIENT),
        (Fault.lost_answer(), RefreshResult.UNKNOWN),
        (Fault(), RefreshResult.RENEWED),
    ],
)
def test_the_second_try_of_a_service_token_says_how_it_ended(
    scene: Scene, second: Fault, result: RefreshResult
) -> None:
    """Not the answer before it, that was lost."""
    broker = scene.broker()
    scene.provider.inject(Fault.lost_answer())
    scene.provider.inject(second)
    with nullcontext() if result is RefreshResult.RENEWED else failing():
        broker.client_credentials(SERVICE_REQUEST)
    assert (scene.listener.ends[-1].result, scene.provider.token_calls) == (result, 2)


def test_a_second_try_that_is_not_made_leaves_the_first_ones_result(scene: Scene) -> None:
    """The budget is spent: what is known is that an answer was lost."""
    broker = scene.broker(rate_limit=TokenBucket(1, timedelta(days=10)))
    scene.provider.inject(Fault.lost_answer())
    with failing():
        broker.client_credentials(SERVICE_REQUEST)
    assert (scene.listener.ends[-1].result, scene.provider.token_calls) == (RefreshResult.UNKNOWN, 1)
