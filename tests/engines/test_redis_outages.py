"""RedisStore while servers are killed, fail over, lose their data or hang; and with TLS."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.cluster import LoadBalancingStrategy
from redis.sentinel import Sentinel

from oauth2broker import (
    AuthorizationRequiredError,
    BackendError,
    Broker,
    BrokerError,
    InvalidGrantError,
    RedisStore,
)
from oauth2broker.testing import Fault, LoopbackProvider
from oauth2broker.testing.store_contract import make_record
from tests.certificates import write_certificates
from tests.support import USER_REQUEST, log_in

from .base import HOST
from .conftest import OwnRedis
from .processes import wait_until
from .redis_kinds import MASTER, Pair, SentinelServer, TlsRedis
from .redis_servers import RedisCluster, RedisServer
from .redis_stores import PATIENCE, RECORD, QuickStore, can_lease, holding, rotated

pytestmark = pytest.mark.engines

KEY, OTHER = RECORD.key, make_record("other").key
CLIENT = ("demo-client", "demo-secret")
Do = Callable[[RedisStore], object]


@pytest.mark.parametrize(
    "do",
    [lambda store: store.fetch(KEY), lambda store: store.save(RECORD), lambda store: can_lease(store, KEY)],
)
def test_a_server_that_was_restarted_between_two_calls_is_no_error(own_redis: OwnRedis, do: Do) -> None:
    """The store's own client connects again by itself, and what was acknowledged is there."""
    server = own_redis(appendonly=True)
    store = RedisStore.from_url(server.url)
    store.save(RECORD)
    server.kill()
    server.start()
    do(store)
    assert store.fetch(KEY) == RECORD


def test_a_server_that_is_back_serves_a_store_that_met_the_outage(own_redis: OwnRedis) -> None:
    """Calls meanwhile are BackendErrors; no store has to be made anew."""
    server = own_redis(appendonly=True)
    store = RedisStore.from_url(server.url)
    store.save(RECORD)
    server.kill()
    for _ in range(3):
        with pytest.raises(BackendError):
            store.fetch(KEY)
    server.start()
    assert store.fetch(KEY) == RECORD


def test_a_call_to_a_server_that_hangs_ends_in_seconds(own_redis: OwnRedis) -> None:
    """The store's own client waits for two seconds, connected or not, and does not begin again."""
    server = own_redis()
    stores = [RedisStore.from_url(server.url) for _ in range(2)]
    stores[0].fetch(KEY)
    server.pause()
    for store in stores:
        began = time.monotonic()
        with pytest.raises(BackendError, match="Timeout"):
            store.fetch(KEY)
        assert time.monotonic() - began < 3.5


@pytest.fixture
def provider() -> Iterator[LoopbackProvider]:
    """A strict authorization server on the real clock."""
    with LoopbackProvider() as running:
        yield running


def expire(store: RedisStore, broker: Broker) -> None:
    """Let the token of USER_REQUEST have ended."""
    record = store.fetch(broker.key_for(USER_REQUEST))
    assert record is not None
    now = datetime.now(UTC)
    store.save(replace(record, issued_at=now - timedelta(hours=2), expires_at=now - timedelta(seconds=1)))


def test_lost_data_end_in_a_new_login_and_no_call(own_redis: OwnRedis, provider: LoopbackProvider) -> None:
    """A server that comes back empty: AuthorizationRequiredError; the user logs in and all is well."""
    server = own_redis()
    store = RedisStore.from_url(server.url)
    with Broker(provider.descriptor(), *CLIENT, store=store) as broker:
        log_in(broker, provider)
        provider.clear()
        server.kill()
        server.start()
        with pytest.raises(AuthorizationRequiredError):
            broker.refresh_access_token(USER_REQUEST)
        assert provider.token_calls == 0
        log_in(broker, provider)
        assert broker.refresh_access_token(USER_REQUEST.force_refresh())
        assert provider.reuses == 0


def test_data_lost_during_a_renewal_never_burn_a_grant(
    own_redis: OwnRedis, provider: LoopbackProvider
) -> None:
    """The server comes back empty while the provider rotates: a new login, and nothing is presented twice."""
    server = own_redis()
    stores = [RedisStore.from_url(server.url) for _ in range(2)]
    with ExitStack() as stack:
        one, two = [
            stack.enter_context(Broker(provider.descriptor(), *CLIENT, store=store)) for store in stores
        ]
        log_in(one, provider)
        expire(stores[0], one)
        provider.clear()
        provider.inject(Fault.slow(1.0))
        ends: list[BrokerError | None] = []
        renewing = threading.Thread(target=lambda: ends.append(error_of(one)))
        renewing.start()
        wait_until(lambda: provider.token_calls == 1, "the refresh token is presented")
        server.kill()
        server.start()
        with pytest.raises(AuthorizationRequiredError):
            two.refresh_access_token(USER_REQUEST)
        renewing.join(PATIENCE)
        assert isinstance(ends[0], InvalidGrantError)
        for broker in (one, two):
            with pytest.raises(AuthorizationRequiredError):
                broker.refresh_access_token(USER_REQUEST)
        assert (provider.token_calls, provider.reuses) == (1, 0)


def error_of(broker: Broker) -> BrokerError | None:
    """Give what asking for the token raises."""
    try:
        broker.refresh_access_token(USER_REQUEST)
    except BrokerError as error:
        return error
    return None


@pytest.mark.usefixtures("redis_server")
def test_a_programs_client_brings_tls(tmp_path: Path) -> None:
    """With a CA of our own and a client's certificate; who does not trust the CA gets a BackendError."""
    write_certificates(tmp_path)
    with TlsRedis(tmp_path) as server:
        store = RedisStore(server.client())
        store.save(RECORD)
        assert store.fetch(KEY) == RECORD
        assert can_lease(store, KEY) is True
        wrong: list[dict[str, Any]] = [{"ssl_ca_certs": None}, {"ssl_certfile": None, "ssl_keyfile": None}]
        for options in wrong:
            with pytest.raises(BackendError):
                RedisStore(server.client(**options)).fetch(KEY)


@pytest.mark.usefixtures("redis_server")
def test_a_store_goes_on_when_sentinel_has_made_a_replica_the_master() -> None:
    """The program's client finds the new master, with what was replicated; the lease is still held."""
    with Pair() as pair, SentinelServer() as sentinel:
        sentinel.watch(pair.master)
        wait_until(sentinel.knows_replica, "Sentinel knows the replica", 60)
        finder: Any = Sentinel([(HOST, sentinel.port)], socket_timeout=1.0)  # type: ignore[no-untyped-call]
        store, other = [QuickStore(finder.master_for(MASTER, socket_timeout=1.0)) for _ in range(2)]
        store.save(RECORD)
        with holding(store, KEY):
            pair.settle()
            pair.master.kill()
            with pytest.raises(BackendError):
                store.save(RECORD)
            wait_until(lambda: is_up(store), "there is a new master", 60)
            assert store.fetch(KEY) == RECORD
            assert can_lease(other, KEY, timeout=2.0) is False
        assert can_lease(other, KEY, timeout=PATIENCE) is True
        store.save(rotated(RECORD))
        with pair.replica.client() as client:
            assert client.exists(f"oauth2broker:{{{KEY.digest}}}") == 1


def is_up(store: RedisStore) -> bool:
    """Whether the store takes a record."""
    try:
        store.save(RECORD)
    except BackendError:
        return False
    return True


@pytest.mark.usefixtures("redis_server")
def test_a_replica_takes_nothing() -> None:
    """READONLY is a BackendError for what writes, and no lease is given; reading works."""
    with Pair() as pair:
        RedisStore.from_url(pair.master.url).save(RECORD)
        pair.settle()
        store = RedisStore.from_url(pair.replica.url)
        assert store.fetch(KEY) == RECORD
        for do in (
            lambda: store.save(rotated(RECORD)),
            lambda: store.compare_and_swap_refresh(KEY, "refresh-0", rotated(RECORD)),
            lambda: store.revoke(KEY, datetime.now(UTC)),
            lambda: store.delete(KEY),
            lambda: can_lease(store, KEY),
        ):
            with pytest.raises(BackendError, match=r"ReadOnly|Response"):
                do()
        assert store.fetch(KEY) == RECORD


@pytest.mark.usefixtures("redis_server")
def test_what_is_read_is_never_behind() -> None:
    """A cluster's client that prefers replicas reads no record from them."""
    with RedisCluster() as cluster, RedisServer(cluster=True) as replica:
        with replica.client() as admin, cluster.nodes[0].client() as first:
            primary = first.execute_command("CLUSTER MYID").decode()
            admin.execute_command("CLUSTER MEET", HOST, cluster.nodes[0].port)
            wait_until(lambda: primary in str(admin.execute_command("CLUSTER NODES")), "they have met")
            first.config_set("repl-diskless-sync-delay", 0)
            admin.execute_command("CLUSTER REPLICATE", primary)
            wait_until(lambda: admin.info("replication")["master_link_status"] == "up", "it follows")
            slots = partial(first.execute_command, "CLUSTER SLOTS")
            wait_until(lambda: str(replica.port) in str(slots()), "that is known")
        client = redis.RedisCluster.from_url(
            cluster.url,
            load_balancing_strategy=LoadBalancingStrategy.ROUND_ROBIN_REPLICAS,
            socket_timeout=1.0,
        )
        assert client.get_replicas()  # type: ignore[no-untyped-call]
        records = [make_record(f"user-{number}") for number in range(30)]
        store = RedisStore(client)
        for record in records:
            store.save(record)
        for record in [*records, *records]:
            assert store.fetch(record.key) == record
        with replica.client() as admin:
            assert {"cmdstat_hmget", "cmdstat_eval"}.isdisjoint(admin.info("commandstats"))
