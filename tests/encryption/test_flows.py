"""A broker on an encrypted store: with another's key, and without keys for a while."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from oauth2broker import (
    AesGcmCipher,
    BackendError,
    Broker,
    FileStore,
    HttpRequest,
    HttpResponse,
    RequestsHttpClient,
    ResponseMetadataSlot,
    SerializationError,
    TokenRecord,
)
from oauth2broker.flows import broker as broker_module
from oauth2broker.flows.bounds import Bounds
from oauth2broker.testing import LoopbackProvider
from tests.encryption.support import NEW, OLD, OTHER, file_of, records_in, sealing
from tests.support import (
    REDIRECT_URI,
    SCOPE,
    SERVICE_REQUEST,
    TENANT,
    USER,
    USER_REQUEST,
    ManualClock,
    log_in,
)

CLIENT = "demo-client", "demo-secret"
HOUR = timedelta(hours=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the tokens are."""
    return tmp_path / "tokens"


@pytest.fixture
def open_broker(provider: LoopbackProvider, clock: ManualClock) -> Iterator[Callable[..., Broker]]:
    """Makes brokers; closes them at the end."""
    made: list[Broker] = []

    def make(store: FileStore, **more: Any) -> Broker:
        made.append(Broker(provider.descriptor(), *CLIENT, store=store, clock=clock, **more))
        return made[-1]

    yield make
    for broker in made:
        broker.close()


# Another key.


def test_with_a_wrong_key_nothing_is_called_or_written(
    folder: Path, open_broker: Callable[..., Broker], provider: LoopbackProvider, clock: ManualClock
) -> None:
    """By no flow, walk or listing; each says which file; and with the right key all goes on as before."""
    right, wrong = open_broker(sealing(folder, OLD)), open_broker(sealing(folder, NEW, OTHER))
    record = log_in(right, provider)
    service = right.client_credentials(SERVICE_REQUEST)
    session = wrong.start_authorization(TENANT, USER, SCOPE, REDIRECT_URI)
    callback = provider.browse(session.authorize_url)
    provider.clear()
    before, name = records_in(folder), file_of(folder, record).name
    user_calls: list[Callable[[], object]] = [
        lambda: wrong.refresh_access_token(USER_REQUEST),
        lambda: wrong.refresh_access_token(USER_REQUEST.force_refresh()),
        lambda: wrong.refresh_access_token(USER_REQUEST.rejecting(record)),
        lambda: wrong.complete_authorization(session, callback),
        lambda: wrong.revoke(USER_REQUEST),
    ]
    service_calls: list[Callable[[], object]] = [
        lambda: wrong.client_credentials(SERVICE_REQUEST),
        lambda: wrong.client_credentials(SERVICE_REQUEST.force_refresh()),
    ]
    for seconds in (0, 3590, 100):  # fresh, nearly expired, expired
        clock.advance(seconds)
        for calls, file in ((user_calls, name), (service_calls, file_of(folder, service).name)):
            for call in calls:
                with pytest.raises(SerializationError, match=f"{file}: encrypted with a key") as refused:
                    call()
                assert not refused.value.reauthorize
                assert records_in(folder) == before
    assert list(wrong.store.keys()) == []
    assert wrong.renew_due(within=24 * HOUR, jitter=timedelta()).due == 0
    assert wrong.prune(older_than=timedelta()).keys == ()
    assert (provider.token_calls, provider.revocations) == (0, 0)
    assert wrong.unsaved == {}
    assert records_in(folder) == before
    assert right.refresh_access_token(USER_REQUEST).access_token != record.access_token
    assert provider.token_calls == 1


def test_a_login_refused_for_a_wrong_key_goes_on_when_the_key_is_right(
    folder: Path, open_broker: Callable[..., Broker], provider: LoopbackProvider
) -> None:
    """The code is not spent; other users log in meanwhile; and deleting the record is the other way out."""
    log_in(open_broker(sealing(folder, OLD)), provider)
    wrong = open_broker(sealing(folder, NEW))
    session = wrong.start_authorization(TENANT, USER, SCOPE, REDIRECT_URI)
    callback = provider.browse(session.authorize_url)
    with pytest.raises(SerializationError):
        wrong.complete_authorization(session, callback)
    other = wrong.start_authorization(TENANT, "user-2", SCOPE, REDIRECT_URI)
    wrong.complete_authorization(other, provider.browse(other.authorize_url))
    record = open_broker(sealing(folder, NEW, OLD)).complete_authorization(session, callback)
    assert sealing(folder, NEW).fetch(record.key) == record
    lost = open_broker(sealing(folder, OTHER))
    with pytest.raises(SerializationError):
        log_in(lost, provider)
    assert lost.store.delete(record.key)
    assert lost.store.fetch(log_in(lost, provider).key) is not None


# No keys for now.


class Keys:
    """Gives a key, or fails, or gives rubbish."""

    def __init__(self) -> None:
        self.found: Any = OLD

    def __call__(self) -> Any:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


class Losing(RequestsHttpClient):
    """The keys are lost while the provider answers."""

    def __init__(self, keys: Keys, found: Any) -> None:
        super().__init__()
        self.keys, self.found = keys, found

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        response = super().send(request, metadata)
        self.keys.found = self.found
        return response


def _renew(broker: Broker, provider: LoopbackProvider) -> TokenRecord:
    return broker.refresh_access_token(USER_REQUEST.force_refresh())


def _obtain(broker: Broker, provider: LoopbackProvider) -> TokenRecord:
    return broker.client_credentials(SERVICE_REQUEST.force_refresh())


CLOSED = RuntimeError("the vault is closed")
LOSSES: dict[str, tuple[Callable[[Broker, LoopbackProvider], TokenRecord], Any, bool]] = {
    "in a renewal": (_renew, CLOSED, True),
    "and rubbish comes, in a renewal": (_renew, None, True),
    "and the key of another store, in a renewal": (_renew, OTHER, True),
    "in a first login": (log_in, CLOSED, False),
    "and rubbish comes, in a login": (log_in, "rubbish", True),
    "in a first service token": (_obtain, CLOSED, False),
    "and nothing comes, in a service token": (_obtain, [], True),
}


@pytest.mark.parametrize(("flow", "found", "is_known"), LOSSES.values(), ids=LOSSES)
def test_what_was_issued_is_kept_until_the_keys_are_back(
    folder: Path,
    open_broker: Callable[..., Broker],
    provider: LoopbackProvider,
    monkeypatch: pytest.MonkeyPatch,
    flow: Callable[[Broker, LoopbackProvider], TokenRecord],
    found: Any,
    is_known: bool,
) -> None:
    """It is served from memory and in ``unsaved``; the file is as it was; then it is written."""
    monkeypatch.setattr(broker_module, "Bounds", lambda: Bounds(store=0.06))  # two tries
    keys = Keys()
    store = FileStore(folder, cipher=AesGcmCipher(keys))
    broker = open_broker(store, http_client=Losing(keys, found))
    if is_known:
        earlier = open_broker(store)
        log_in(earlier, provider)
        earlier.client_credentials(SERVICE_REQUEST)
    record = flow(broker, provider)
    assert broker.unsaved == {record.key: record}
    if flow is _obtain:
        assert broker.client_credentials(SERVICE_REQUEST) == record
    else:
        assert broker.refresh_access_token(USER_REQUEST) == record
    left = sealing(folder, OLD).fetch(record.key)
    assert (left is not None) == is_known
    assert left is None or left.access_token != record.access_token
    keys.found = OLD
    broker.close()
    assert broker.unsaved == {}
    assert sealing(folder, OLD).fetch(record.key) == record


def test_without_keys_nothing_is_asked_of_the_provider(
    folder: Path, open_broker: Callable[..., Broker], provider: LoopbackProvider, clock: ManualClock
) -> None:
    """A renewal that could not be noted is not begun: a retryable error, and the grant lives on."""
    keys = Keys()
    broker = open_broker(FileStore(folder, cipher=AesGcmCipher(keys)))
    log_in(broker, provider)
    broker.client_credentials(SERVICE_REQUEST)
    before = records_in(folder)
    provider.clear()
    clock.advance(3700)
    keys.found = CLOSED
    calls: list[Callable[[], object]] = [
        lambda: broker.refresh_access_token(USER_REQUEST),
        lambda: broker.client_credentials(SERVICE_REQUEST),
        lambda: broker.revoke(USER_REQUEST),
    ]
    for call in calls:
        with pytest.raises(BackendError) as failed:
            call()
        assert failed.value.retryable
    assert (provider.token_calls, provider.revocations) == (0, 0)
    assert records_in(folder) == before
    keys.found = OLD
    assert broker.refresh_access_token(USER_REQUEST).key == broker.key_for(USER_REQUEST)


def test_a_cached_record_needs_no_keys(
    folder: Path, open_broker: Callable[..., Broker], provider: LoopbackProvider
) -> None:
    """A token that works is served through an outage of where the keys come from."""
    keys = Keys()
    broker = open_broker(FileStore(folder, cipher=AesGcmCipher(keys)))
    record = log_in(broker, provider)
    os.utime(file_of(folder, record), (1.0, 1.0))
    assert broker.refresh_access_token(USER_REQUEST) == record
    keys.found = CLOSED
    assert broker.refresh_access_token(USER_REQUEST) == record


class Rewrapping(RequestsHttpClient):
    """Rotates the key while the provider answers."""

    def __init__(self, store: FileStore) -> None:
        super().__init__()
        self.store = store

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        response = super().send(request, metadata)
        assert self.store.rewrap().rewritten == 1
        return response


def test_a_renewal_survives_a_rotation_in_its_middle(
    folder: Path, open_broker: Callable[..., Broker], provider: LoopbackProvider
) -> None:
    """The mark of the attempt and the successor are both there in the end, sealed with what there is."""
    keys = Keys()
    store = FileStore(folder, cipher=AesGcmCipher(keys))
    log_in(open_broker(store), provider)
    broker = open_broker(store, http_client=Rewrapping(sealing(folder, NEW, OLD)))
    keys.found = [OLD, NEW]
    record = broker.refresh_access_token(USER_REQUEST.force_refresh())
    assert (broker.unsaved, record.attempted_at) == ({}, None)
    assert sealing(folder, OLD).fetch(record.key) == record
