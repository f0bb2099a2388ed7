"""The faults among processes, repeated with each engine: the same tests, on other stores."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from redis import Redis
from sqlalchemy import create_engine, text

from oauth2broker import (
    AesGcmCipher,
    Broker,
    BrokerStore,
    SerializationError,
    SQLAlchemyStore,
    StoreKey,
)
from oauth2broker.stores.remote import Found, RemoteStore
from oauth2broker.testing import LoopbackProvider
from oauth2broker.testing.store_contract import NOW, make_record
from tests.faults import test_kill, test_lost_answers, test_processes, test_signals
from tests.faults.workers import log_in
from tests.places import Place
from tests.support import USER_REQUEST

AGAIN = [
    test_kill.test_killed_after_the_rotation_and_before_the_write_leaves_a_record_that_says_so,
    test_kill.test_killed_while_renewing_ahead_leaves_a_token_that_is_served_while_it_works,
    test_kill.test_a_waiter_takes_over_from_a_holder_killed_before_its_attempt,
    test_kill.test_a_waiter_of_a_holder_killed_mid_call_is_told_when_to_come_back,
    test_lost_answers.test_a_lost_answer_to_an_unspent_token_ends_in_one_more_try_and_a_token_for_all,
    test_lost_answers.test_a_dead_provider_costs_many_waiting_processes_one_timeout,
    test_lost_answers.test_a_dead_provider_of_service_tokens_costs_many_waiting_processes_one_timeout,
    test_processes.test_many_processes_on_one_expired_token_make_one_call_each_time_it_expires,
    test_processes.test_while_one_process_renews_ahead_no_other_waits_for_it,
    test_processes.test_a_login_in_another_process_survives_an_invalid_grant,
    test_processes.test_a_winner_that_comes_while_the_refusal_is_read_is_adopted,
    test_processes.test_of_many_processes_with_a_dead_grant_one_asks_and_all_are_told,
    test_processes.test_a_logout_in_another_process_during_a_renewal_stays_a_logout,
    test_signals.test_when_sigint_ends_the_leader_the_waiters_elect_another_and_get_tokens,
]
globals().update(
    {test.__name__: test for test in AGAIN}
)  # pytest collects them here, with this folder's stores

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def damage(place: Place, key: StoreKey) -> None:
    """Put something else in the place of a record's text."""
    if place.url.startswith("redis"):
        with Redis.from_url(place.url) as client:
            client.hset(f"oauth2broker:{{{key.digest}}}", "record", "rubbish")
        return
    update = text("UPDATE oauth2broker_tokens SET record = 'rubbish' WHERE key_digest = :digest")
    engine = create_engine(place.url)
    with engine.begin() as connection:
        connection.execute(update, {"digest": key.digest})
    engine.dispose()


def test_a_record_that_cannot_be_read_is_named_and_left_as_it_is(
    place: Place, broker: Broker, provider: LoopbackProvider, store: BrokerStore, key: StoreKey
) -> None:
    """FAULTS 21: no call to the provider, nothing is overwritten, and the records of others are served."""
    record, other = log_in(broker, provider), log_in(broker, provider, "user-2")
    damage(place, key)
    provider.clear()
    for request in (USER_REQUEST, USER_REQUEST.force_refresh(), USER_REQUEST.rejecting(record)):
        with pytest.raises(SerializationError, match=key.digest):
            broker.refresh_access_token(request)
    assert provider.token_calls == 0
    assert set(store.keys()) == {other.key}
    with pytest.raises(SerializationError, match=key.digest):
        store.fetch(key)
    store.save(record)
    assert broker.refresh_access_token(USER_REQUEST) == record


def test_a_write_that_a_network_held_back_changes_nothing_when_it_arrives(
    store: BrokerStore, key: StoreKey, broker: Broker, provider: LoopbackProvider
) -> None:
    """FAULTS 4 and 7: it was to replace what was there when it was sent; a rotation and a logout stand."""
    assert isinstance(store, RemoteStore)
    late = store.build_row(log_in(broker, provider))
    before = store.read(key.digest)
    assert before is not None
    renewed = broker.refresh_access_token(USER_REQUEST.force_refresh())
    assert (store.add(late), store.replace(late, before.stamp)) == (False, False)
    assert store.fetch(key) == renewed
    tombstone = broker.revoke(USER_REQUEST)
    assert (store.add(late), store.replace(late, before.stamp)) == (False, False)
    assert store.fetch(key) == tombstone


@pytest.mark.parametrize(
    ("write", "is_buried"),
    [
        (lambda store, key: store.revoke(key, NOW), True),
        (lambda store, key: store.revoke(key, NOW, "refresh-0"), False),
        (lambda store, key: store.save(make_record().tombstone(NOW)), True),
    ],
    ids=["revoke", "revoke conditionally", "save"],
)
def test_a_write_that_a_renewal_overtook_is_made_on_what_is_there_then(
    store: BrokerStore,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[BrokerStore, StoreKey], object],
    is_buried: bool,
) -> None:
    """FAULTS 5 and 7: what another process wrote after it was read is buried as well, or spared."""
    assert isinstance(store, RemoteStore)
    record, newer = make_record(), make_record(refresh_token="refresh-1")
    store.save(record)
    read = store.read

    def overtaken(digest: str) -> Found | None:
        found = read(digest)
        monkeypatch.setattr(store, "read", read)
        store.compare_and_swap_refresh(record.key, "refresh-0", newer)
        return found

    monkeypatch.setattr(store, "read", overtaken)
    write(store, record.key)
    assert store.fetch(record.key) == (newer.tombstone(NOW) if is_buried else newer)


def test_who_cannot_read_a_record_does_not_replace_it(
    place: Place, store: BrokerStore, key: StoreKey
) -> None:
    """FAULTS 21: neither by a swap with the very refresh token nor by a tombstone."""
    record = make_record()
    good, bad = (place.open(cipher=AesGcmCipher(AesGcmCipher.generate_key())) for _ in range(2))
    good.save(record)
    for write in (
        lambda: bad.compare_and_swap_refresh(record.key, record.refresh_token, record),
        lambda: bad.revoke(record.key, NOW),
        lambda: bad.fetch(record.key),
    ):
        with pytest.raises(SerializationError, match=record.key.digest):
            write()
    assert good.fetch(record.key) == record
    for made in (good, bad):
        if isinstance(made, SQLAlchemyStore):
            made.close()
