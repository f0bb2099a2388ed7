"""What the provider issued and the store would not take is not lost, whatever else happens."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from types import SimpleNamespace

import pytest

from oauth2broker import (
    BackendError,
    Broker,
    BrokerSession,
    MemoryStore,
    StoreKey,
    TokenRecord,
    TokenSecret,
    TransientError,
)
from oauth2broker.flows import keeper as keeper_module
from oauth2broker.stores.base import ANY, CompareAndSwapOutcome, ExpectedRefresh
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
from tests.test_renewing import expire, wait_for


class Store(MemoryStore):
    """Refuses what clears a mark while ``down``, in the way that ``fail`` says."""

    down = False
    failure: type[BaseException] = BackendError

    def save(self, record: TokenRecord) -> None:
        self._fail()
        super().save(record)

    def compare_and_swap_refresh(
        self, key: StoreKey, expected_refresh: TokenSecret | str | None, replacement: TokenRecord
    ) -> CompareAndSwapOutcome:
        if replacement.attempted_at is None:
            self._fail()
        return super().compare_and_swap_refresh(key, expected_refresh, replacement)

    def _fail(self) -> None:
        if self.down:
            raise self.failure("down")


class Watched(MemoryStore):
    """Notes of each write whether somebody had the lease."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bool] = []
        self._is_leased = False

    @contextmanager
    def refresh_lease(self, key: StoreKey, *, timeout: float) -> Iterator[bool]:
        with super().refresh_lease(key, timeout=timeout) as is_ours:
            self._is_leased = is_ours
            try:
                yield is_ours
            finally:
                self._is_leased = False

    def save(self, record: TokenRecord) -> None:
        self.writes.append(self._is_leased)
        super().save(record)

    def compare_and_swap_refresh(
        self, key: StoreKey, expected_refresh: TokenSecret | str | None, replacement: TokenRecord
    ) -> CompareAndSwapOutcome:
        self.writes.append(self._is_leased)
        return super().compare_and_swap_refresh(key, expected_refresh, replacement)

    def revoke(
        self, key: StoreKey, instant: datetime, expected_refresh: ExpectedRefresh = ANY
    ) -> TokenRecord | None:
        self.writes.append(self._is_leased)
        return super().revoke(key, instant, expected_refresh)


@pytest.fixture
def store() -> Store:
    """A store that can be down."""
    return Store()


@pytest.fixture
def broker(provider: LoopbackProvider, clock: ManualClock, store: Store) -> Broker:
    """A broker with an expired token on that store."""
    made = Broker(provider.descriptor(), "demo-client", "demo-secret", store=store, clock=clock)
    log_in(made, provider)
    expire(clock)
    return made


def test_a_login_a_logout_and_an_import_write_under_the_lease(
    provider: LoopbackProvider, clock: ManualClock
) -> None:
    """Else what another process has renewed meanwhile would be lost, or would bring back what was revoked."""
    store = Watched()
    with Broker(provider.descriptor(), "demo-client", "demo-secret", store=store, clock=clock) as broker:
        BrokerSession(broker, USER_REQUEST, token={"access_token": "kept elsewhere", "expires_in": 60})
        log_in(broker, provider)
        broker.revoke(USER_REQUEST)
    assert store.writes == [True] * 3


def test_an_interrupted_write_is_kept_and_done(broker: Broker, store: Store) -> None:
    """FAULTS 4 and 23: a signal in the middle of the last write costs no login while the process lives."""
    store.down, store.failure = True, KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        broker.refresh_access_token(USER_REQUEST)
    assert len(broker.unsaved) == 1
    store.down = False
    wait_for(lambda: not broker.unsaved)
    assert broker.refresh_access_token(USER_REQUEST).attempted_at is None


def test_who_looked_before_a_token_was_unsaved_is_served_it_all_the_same(
    broker: Broker, store: Store, provider: LoopbackProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 4: the old record was read, then another thread renewed it, and no lease is to be had."""
    provider.clear()
    store.down = True
    fetch, others = store.fetch, Crowd(1, lambda: broker.refresh_access_token(USER_REQUEST))

    def fetch_slowly(key: StoreKey) -> TokenRecord | None:
        found = fetch(key)
        monkeypatch.undo()
        others.start().join()
        return found

    monkeypatch.setattr(store, "fetch", fetch_slowly)
    assert [broker.refresh_access_token(USER_REQUEST)] == others.results
    assert provider.token_calls == 1
    store.down = False


def test_while_a_record_is_unsaved_nobody_else_gets_its_lease(broker: Broker, store: Store) -> None:
    """FAULTS 4: whoever got it would present what this process has spent."""
    store.down = True
    key = broker.refresh_access_token(USER_REQUEST).key
    with store.refresh_lease(key, timeout=0.0) as is_ours:
        assert not is_ours
    store.down = False
    wait_for(lambda: not broker.unsaved)
    with store.refresh_lease(key, timeout=10.0) as is_ours:
        assert is_ours


def test_a_rescued_refresh_token_that_the_store_refuses_is_kept(
    broker: Broker, store: Store, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """FAULTS 4 and 17a together: the answer is of no use, the store is down, and the login lives."""
    provider.inject(Fault.rewrite(lambda payload: {**payload, "access_token": None}))
    store.down = True
    with pytest.raises(TransientError):
        broker.refresh_access_token(USER_REQUEST)
    assert len(broker.unsaved) == 1
    store.down = False
    wait_for(lambda: not broker.unsaved)
    clock.advance(1.0)
    assert broker.refresh_access_token(USER_REQUEST).access_token
    assert provider.reuses == 0


def test_an_unsaved_token_is_served_although_the_stored_one_works(broker: Broker, store: Store) -> None:
    """FAULTS 4: somebody had a reason to replace it."""
    broker.refresh_access_token(USER_REQUEST)
    store.down = True
    forced = broker.refresh_access_token(USER_REQUEST.force_refresh())
    assert broker.refresh_access_token(USER_REQUEST) is forced
    store.down = False


def test_an_unsaved_service_token_gives_way_to_what_another_has_stored(
    broker: Broker, store: Store, clock: ManualClock
) -> None:
    """FAULTS 5: service tokens have no refresh token to be told apart by."""
    first = broker.client_credentials(SERVICE_REQUEST)
    store.down = True
    broker.client_credentials(SERVICE_REQUEST.force_refresh())
    newer = replace(first, access_token=TokenSecret("newer"), issued_at=clock.now)
    MemoryStore.save(store, newer)
    assert broker.client_credentials(SERVICE_REQUEST) == newer
    assert broker.unsaved == {}


@pytest.mark.parametrize("is_tombstone", [False, True])
def test_a_login_that_the_store_refuses_stands_for_what_was_stored(
    broker: Broker, store: Store, provider: LoopbackProvider, clock: ManualClock, is_tombstone: bool
) -> None:
    """FAULTS 4: the code is spent; the user must not be sent away again."""
    if is_tombstone:
        store.revoke(broker.key_for(USER_REQUEST), clock.now)
    store.down = True
    record = log_in(broker, provider)
    assert broker.refresh_access_token(USER_REQUEST) is record
    store.down = False
    wait_for(lambda: not broker.unsaved)
    assert store.fetch(record.key) == record


def test_a_store_that_cannot_be_read_does_not_cost_the_code(
    broker: Broker, store: Store, provider: LoopbackProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 9: the same callback serves when the store is well again."""
    session = broker.start_authorization(TENANT, USER, SCOPE, REDIRECT_URI)
    callback = provider.browse(session.authorize_url, user="alice")

    def fail(key: StoreKey) -> TokenRecord | None:
        raise BackendError("down")

    monkeypatch.setattr(store, "fetch", fail)
    with pytest.raises(BackendError):
        broker.complete_authorization(session, callback)
    monkeypatch.undo()
    assert broker.complete_authorization(session, callback).access_token


def test_while_a_record_is_unsaved_who_wants_another_is_told_at_once(
    broker: Broker, store: Store, provider: LoopbackProvider
) -> None:
    """FAULTS 4: its lease is this process's own; nobody waits for it, and nothing is presented."""
    store.down = True
    broker.refresh_access_token(USER_REQUEST)
    provider.clear()
    with pytest.raises(BackendError):
        broker.refresh_access_token(USER_REQUEST.force_refresh())
    assert provider.token_calls == 0
    store.down = False


def test_without_a_thread_to_write_the_next_reader_starts_one(
    broker: Broker, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on threads is no reason to lose a token, nor to raise."""

    class RefusedThread(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    store.down = True
    with monkeypatch.context() as patch:
        patch.setattr(
            keeper_module, "threading", SimpleNamespace(Thread=RefusedThread, Event=threading.Event)
        )
        renewed = broker.refresh_access_token(USER_REQUEST)
    store.down = False
    assert broker.refresh_access_token(USER_REQUEST) is renewed
    wait_for(lambda: not broker.unsaved)
    assert store.fetch(renewed.key) == renewed


def test_a_broker_that_goes_on_after_its_close_still_writes(broker: Broker, store: Store) -> None:
    """close() is a last try, not the end of the care."""
    broker.close()
    store.down = True
    renewed = broker.refresh_access_token(USER_REQUEST)
    store.down = False
    wait_for(lambda: not broker.unsaved)
    assert store.fetch(renewed.key) == renewed


def test_closing_waits_for_a_write_that_is_under_way(broker: Broker, store: Store) -> None:
    """The last flush is not the one that gives up."""
    store.down = True
    broker.refresh_access_token(USER_REQUEST)
    keeper = broker._keeper
    assert keeper._writing.acquire(timeout=10.0)
    store.down = False
    closing = threading.Thread(target=broker.close)
    closing.start()
    wait_for(keeper._closed.is_set)
    keeper._writing.release()
    closing.join(30.0)
    assert broker.unsaved == {}


def test_a_service_token_deleted_while_it_is_being_written_stays_deleted(
    broker: Broker, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 7: also for records without a refresh token, the write is conditional."""
    first = broker.client_credentials(SERVICE_REQUEST)
    store.down = True
    broker.client_credentials(SERVICE_REQUEST.force_refresh())
    (kept,) = broker._keeper.unsaved.values()
    store.down = False
    fetch = store.fetch

    def fetch_then_delete(key: StoreKey) -> TokenRecord | None:
        found = fetch(key)
        store.delete(key)
        return found

    monkeypatch.setattr(store, "fetch", fetch_then_delete)
    broker._keeper._replace(kept)
    monkeypatch.undo()
    assert store.fetch(first.key) is None


def test_a_mark_of_a_lost_answer_outlives_an_attempt_that_was_never_sent(
    broker: Broker, store: Store, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """FAULTS 10: that the second attempt spent nothing says nothing of the first."""
    record = store.fetch(broker.key_for(USER_REQUEST))
    assert record is not None
    lost_at = clock.now
    store.save(replace(record, attempted_at=lost_at))
    clock.advance(36.0)
    provider.close()
    with pytest.raises(Exception, match="could not be reached"):
        broker.refresh_access_token(USER_REQUEST)
    left = store.fetch(record.key)
    assert left is not None
    assert left.attempted_at == lost_at


class CountingStore(Store):
    """Counts the leases that were released, in this process."""

    released = 0

    @contextmanager
    def refresh_lease(self, key: StoreKey, *, timeout: float) -> Iterator[bool]:
        try:
            with super().refresh_lease(key, timeout=timeout) as is_ours:
                yield is_ours
        finally:
            self.released += 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_releases_no_lease_of_what_its_parent_could_not_save(
    provider: LoopbackProvider, clock: ManualClock
) -> None:
    """FAULTS 22: not even as garbage; a store of somebody else's may not notice that it was forked."""
    store = CountingStore()
    with Broker(provider.descriptor(), "demo-client", "demo-secret", store=store, clock=clock) as broker:
        log_in(broker, provider)
        expire(clock)
        store.down = True
        broker.refresh_access_token(USER_REQUEST)
        before = store.released
        child = os.fork()
        if not child:
            os._exit(store.released - before)
        assert os.waitpid(child, 0)[1] == 0
        store.down = False
