"""Leases of RedisStore on a real server: holders that live, hang, die, are cut off and come back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from oauth2broker import BackendError, CompareAndSwapOutcome, RedisStore
from oauth2broker.flows.bounds import Bounds
from oauth2broker.stores.leases import Holder, LeaseTimes
from oauth2broker.testing.store_contract import make_record

from .conftest import OwnRedis
from .network import Cut
from .processes import wait_until
from .redis_servers import RedisServer
from .redis_stores import (
    PATIENCE,
    RECORD,
    WATCH,
    QuickStore,
    SilentStore,
    can_lease,
    has_lapsed,
    holding,
    impatient,
    rotated,
)

pytestmark = pytest.mark.engines

KEY, OTHER = RECORD.key, make_record("other").key
DAY = 86_400_000  # milliseconds
SECONDS_OF_A_HANGING_CALL = 2.0


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    """Look into the test's own database."""
    return redis.Redis.from_url(redis_url, decode_responses=True)


@pytest.fixture
def store(redis_url: str) -> RedisStore:
    """Give one of the stores that want the lease."""
    return QuickStore.from_url(redis_url)


@pytest.fixture
def silent(redis_url: str, client: redis.Redis) -> Iterator[SilentStore]:
    """Give a store whose holder is silent, and has lapsed already."""
    store = SilentStore.from_url(redis_url)
    with holding(store, KEY):
        wait_until(lambda: has_lapsed(client), "the lease has lapsed")
        yield store


def owner_of(client: redis.Redis) -> str:
    """Give who has the lease, by the server's word."""
    return str(client.hget(f"oauth2broker:{{{KEY.digest}}}:lease", "owner"))


@pytest.mark.usefixtures("silent")
def test_a_lapsed_lease_is_not_taken_before_it_was_watched(store: RedisStore) -> None:
    """Who wants it waits for the whole watch, then has it."""
    began = time.monotonic()
    assert can_lease(store, KEY) is False
    assert can_lease(store, KEY, timeout=0.7 * WATCH) is False
    assert can_lease(store, KEY, timeout=PATIENCE) is True
    assert time.monotonic() - began >= WATCH


def test_a_holder_that_is_back_in_time_keeps_its_lease(
    store: RedisStore, silent: SilentStore, client: redis.Redis
) -> None:
    """What others have watched counts for nothing once it is prolonged."""
    assert can_lease(store, KEY) is False
    owner = owner_of(client)
    assert silent.prolong_leases({owner: KEY.digest}, 3 * WATCH) is True
    taken = store.take_lease(KEY.digest, "who has watched it", 3 * WATCH, owner)
    assert taken == Holder(owner, has_lapsed=False)
    assert can_lease(store, KEY, timeout=2 * WATCH) is False


@pytest.mark.usefixtures("silent")
def test_a_dead_holders_lease_goes_to_one_of_many(redis_url: str) -> None:
    """Of waiters in several stores exactly one gets it, and keeps it while it works."""
    stores = [QuickStore.from_url(redis_url) for _ in range(3)]
    winners, lost = [], threading.Semaphore(0)

    def want(number: int) -> None:
        with stores[number % 3].refresh_lease(KEY, timeout=3 * WATCH) as is_ours:
            if not is_ours:
                lost.release()
                return
            winners.append(number)
            for _ in range(7):
                assert lost.acquire(timeout=PATIENCE)

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(want, number) for number in range(8)]:
            done.result(PATIENCE)
    assert len(winners) == 1


def test_only_its_owner_releases_or_prolongs_a_lease(store: RedisStore, client: redis.Redis) -> None:
    """Another owner's word changes neither who has it nor until when."""
    with holding(SilentStore.from_url(store_url(client)), KEY):
        before = client.hgetall(f"oauth2broker:{{{KEY.digest}}}:lease")
        store.release_lease(KEY.digest, "somebody else")
        assert store.prolong_leases({"somebody else": KEY.digest}, 60.0) is False
        assert client.hgetall(f"oauth2broker:{{{KEY.digest}}}:lease") == before
    assert store.prolong_leases({"somebody else": KEY.digest}, 60.0) is False
    assert client.keys() == []  # nor does it bring back one that was let go


def store_url(client: redis.Redis) -> str:
    """Give the URL of the database that `client` looks into."""
    of = client.get_connection_kwargs()
    return f"redis://{of['host']}:{of['port']}/{of['db']}"


def test_a_lease_is_prolonged_also_beside_one_that_cannot_be(store: RedisStore, client: redis.Redis) -> None:
    """One that fails, as on a node of a cluster that is down, is told when all others were tried."""
    assert store.take_lease(KEY.digest, "who", 1.0, None) is None
    client.set(f"oauth2broker:{{{OTHER.digest}}}:lease", "no lease at all")
    with pytest.raises(BackendError):
        store.prolong_leases({"another": OTHER.digest, "who": KEY.digest}, 60.0)
    assert int(str(client.pttl(f"oauth2broker:{{{KEY.digest}}}:lease"))) > DAY + 50_000


def test_a_holder_that_works_long_keeps_its_lease(redis_url: str, store: RedisStore) -> None:
    """For more than twice its duration, and several at once."""
    holder = QuickStore.from_url(redis_url)
    with holding(holder, KEY), holding(holder, OTHER):
        assert can_lease(store, KEY, timeout=3.5) is False
        assert can_lease(store, OTHER, timeout=2 * WATCH) is False
    assert can_lease(store, KEY) is True


def test_a_jump_of_the_servers_clock_takes_no_lease_from_a_holder_that_lives(
    redis_url: str, store: RedisStore, client: redis.Redis
) -> None:
    """A lease that seems to have lapsed long ago is prolonged before it was watched."""
    with holding(QuickStore.from_url(redis_url), KEY):
        client.hset(f"oauth2broker:{{{KEY.digest}}}:lease", "until", "1")
        assert can_lease(store, KEY, timeout=2 * WATCH) is False


class LongStore(RedisStore):
    """Whose leases last far longer than any test, and whose heart beats fast."""

    _times = LeaseTimes(duration=3600.0, beat=0.1, retry=0.1)


def test_a_lease_whose_take_was_answered_too_late_is_given_back(own_redis: OwnRedis) -> None:
    """The server hangs, takes the request afterwards, and still nobody has to wait for the lease to lapse."""
    server = own_redis()
    unlucky, other = LongStore(impatient(server.url)), LongStore(impatient(server.url))
    unlucky.fetch(KEY)  # so that there is a connection, on which the request will be waiting
    server.pause()
    with pytest.raises(BackendError), unlucky.refresh_lease(KEY, timeout=0):
        raise AssertionError("that was not ours to know")
    server.resume()
    with server.client() as client:
        wait_until(lambda: "cmdstat_pexpire" in client.info("commandstats"), "the late request was served")
    assert can_lease(other, KEY, timeout=PATIENCE) is True


def test_a_lease_that_could_not_be_released_is_released_later(own_redis: OwnRedis) -> None:
    """The server hangs when the work is done; when it is back the lease is free, long before it lapses."""
    server = own_redis()
    holder, other = LongStore(impatient(server.url)), LongStore(impatient(server.url))
    with holder.refresh_lease(KEY, timeout=0):
        server.pause()
    server.resume()
    assert can_lease(other, KEY, timeout=PATIENCE) is True


def test_a_client_without_a_timeout_gets_no_lease_that_has_lapsed(own_redis: OwnRedis) -> None:
    """An answer that took longer than the lease is good for is no answer, and the lease is given back."""
    server = own_redis()
    endless = QuickStore(redis.Redis.from_url(server.url, socket_timeout=None))
    endless.fetch(KEY)
    server.pause()
    with ThreadPoolExecutor(1) as pool:
        taking = pool.submit(can_lease, endless, KEY)
        with pytest.raises(TimeoutError):
            taking.result(1.0)  # more than half of its duration
        server.resume()
        with pytest.raises(BackendError, match="too late"):
            taking.result(PATIENCE)
    assert can_lease(QuickStore.from_url(server.url), KEY) is True


def test_an_outage_of_the_server_is_no_watch(own_redis: OwnRedis) -> None:
    """While nobody reached the server its holder did not either: the watch begins anew."""
    server = own_redis()
    store = QuickStore(impatient(server.url))
    with holding(SilentStore.from_url(server.url), KEY), server.client() as client:
        wait_until(lambda: has_lapsed(client), "the lease has lapsed")
        assert can_lease(store, KEY) is False
        server.pause()
        began = time.monotonic()
        with pytest.raises(BackendError):
            can_lease(store, KEY)
        wait_until(lambda: time.monotonic() - began > 1.2 * WATCH, "it has been down for a whole watch")
        server.resume()
        assert can_lease(store, KEY, timeout=0.5 * WATCH) is False
        assert can_lease(store, KEY, timeout=PATIENCE) is True


def test_a_hang_of_the_server_is_no_watch_either(own_redis: OwnRedis) -> None:
    """Also when a client waited for the answer: its holder had to wait as well."""
    server = own_redis()
    endless = QuickStore(redis.Redis.from_url(server.url, socket_timeout=None))
    with holding(SilentStore.from_url(server.url), KEY), server.client() as client:
        wait_until(lambda: has_lapsed(client), "the lease has lapsed")
        assert can_lease(endless, KEY) is False
        server.pause()
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(can_lease, endless, KEY)
            with pytest.raises(TimeoutError):
                asking.result(1.2 * WATCH)
            server.resume()
            assert asking.result(PATIENCE) is False
        assert can_lease(endless, KEY, timeout=0.5 * WATCH) is False
        assert can_lease(endless, KEY, timeout=PATIENCE) is True


def test_a_host_that_was_cut_off_changes_nothing_when_it_is_back(
    redis_url: str, redis_server: RedisServer, store: RedisStore, client: redis.Redis
) -> None:
    """Its lease lapses and goes to another host; what it sent late neither undoes that one's work nor
    prolongs, takes or releases its lease."""
    store.save(RECORD)
    with Cut(redis_server.port) as cable:
        far = QuickStore(impatient(cable.url(redis_url)))
        with holding(far, KEY) as let_go:
            its_owner = owner_of(client)
            cable.cut()
            began = time.monotonic()
            with pytest.raises(BackendError):
                far.compare_and_swap_refresh(KEY, "refresh-0", rotated(RECORD, 9))
            with store.refresh_lease(KEY, timeout=PATIENCE) as is_ours:
                assert is_ours
                assert time.monotonic() - began > WATCH
                swapped = store.compare_and_swap_refresh(KEY, "refresh-0", rotated(RECORD))
                assert swapped is CompareAndSwapOutcome.UPDATED
                owner = owner_of(client)
                cable.mend()
                far.fetch(KEY)
                let_go.set()
                wait_until(lambda: its_owner not in far._leases._held, "it has let go")
                assert owner_of(client) == owner != its_owner
                assert can_lease(far, KEY) is False
        late = far.compare_and_swap_refresh(KEY, "refresh-0", rotated(RECORD, 9))
        assert late is CompareAndSwapOutcome.REFRESH_MISMATCH
        assert store.fetch(KEY) == far.fetch(KEY) == rotated(RECORD)


def test_a_host_that_is_back_before_the_watch_ends_has_its_lease_again(
    redis_url: str, redis_server: RedisServer, store: RedisStore, client: redis.Redis
) -> None:
    """It lapsed during the cut; by itself the holder prolongs it, and others go on waiting."""
    with Cut(redis_server.port) as cable, holding(QuickStore(impatient(cable.url(redis_url))), KEY):
        cable.cut(refuse=True)
        wait_until(lambda: has_lapsed(client), "the lease has lapsed")
        cable.mend()
        assert can_lease(store, KEY, timeout=2 * WATCH) is False


def test_the_times_of_leases_fit_how_long_others_wait() -> None:
    """Longer than a provider's call, watched before who waits gives up, prolonged within a watch."""
    times = LeaseTimes()
    assert 30 < times.duration < times.duration + times.watch < Bounds().lease
    assert times.retry + SECONDS_OF_A_HANGING_CALL < times.watch
    assert times.beat + SECONDS_OF_A_HANGING_CALL <= times.watch
