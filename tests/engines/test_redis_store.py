"""RedisStore on a real server and a real cluster: the contract, and what is in Redis and on the wire."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from oauth2broker import BrokerStore, CompareAndSwapOutcome, RedisStore, TokenFamily, TokenSecret
from oauth2broker.stores.base import dead_at, due_at
from oauth2broker.testing import StoreContract
from oauth2broker.testing.store_contract import NOW, make_record

from .redis_servers import RedisCluster, RedisServer
from .redis_stores import RECORD, QuickStore, can_lease, holding, rotated, watched

pytestmark = pytest.mark.engines

PREFIX = "oauth2broker:"
KEEP_DEAD = timedelta(days=30)


class RedisContract(StoreContract):
    """The contract on a database of the test's own; children find it by the file `url`."""

    @pytest.fixture(autouse=True)
    def _note_url(self, redis_url: str, tmp_path: Path) -> None:
        (tmp_path / "url").write_text(redis_url)


class TestFromUrl(RedisContract):
    """With the store's own client."""

    def open_store(self, place: Path) -> BrokerStore:
        return QuickStore.from_url((place / "url").read_text())


class TestDecodingClient(RedisContract):
    """With a program's client that makes text of all answers and speaks RESP3."""

    def open_store(self, place: Path) -> BrokerStore:
        url = (place / "url").read_text()
        client = redis.Redis.from_url(url, decode_responses=True, protocol=3)
        return QuickStore(client, prefix="app's[*]:")


class TestCluster(StoreContract):
    """On a cluster, whose keys are on three nodes."""

    @pytest.fixture(autouse=True)
    def _note_url(self, redis_cluster: RedisCluster, tmp_path: Path) -> None:
        (tmp_path / "url").write_text(redis_cluster.url)

    def open_store(self, place: Path) -> BrokerStore:
        return QuickStore(redis.RedisCluster.from_url((place / "url").read_text()))


@pytest.fixture
def store(redis_url: str) -> RedisStore:
    """Give a store in an empty database."""
    return RedisStore.from_url(redis_url)


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    """Look into the database of `store`."""
    return redis.Redis.from_url(redis_url)


class UpsideDown:
    """A cipher that hides what it seals well enough to see what is not sealed."""

    def seal(self, plain: object, place: str) -> str:
        """Tell nothing of the text but a number for it."""
        self.sealed = getattr(self, "sealed", [])
        self.sealed.append((plain, place))
        return f"sealed-{len(self.sealed)}-{secrets.token_hex(8)}"

    def open(self, sealed: str, place: str) -> object:
        """Give what has this number, if it is of this place."""
        plain, its_place = self.sealed[int(sealed.split("-")[1]) - 1]
        assert its_place == place
        return plain

    def is_current(self, sealed: str) -> bool:
        """Nothing is ever sealed anew."""
        return True


def do_everything(store: RedisStore) -> None:
    """Call every method of the store, with each outcome."""
    store.save(RECORD)
    store.fetch(RECORD.key)
    with store.refresh_lease(RECORD.key, timeout=0):
        can_lease(store, RECORD.key)
        swap = store.compare_and_swap_refresh
        assert swap(RECORD.key, "refresh-0", rotated(RECORD)) is CompareAndSwapOutcome.UPDATED
        assert swap(RECORD.key, "refresh-0", RECORD) is CompareAndSwapOutcome.REFRESH_MISMATCH
    store.revoke(RECORD.key, NOW, "refresh-0")
    for listing in (store.keys_due, store.keys_dead):
        list(listing("provider:eu", "client-1", NOW + timedelta(days=60)))
    assert len(list(store.keys())) == 1
    store.revoke(RECORD.key, NOW)
    store.delete(RECORD.key)


def test_nothing_plain_goes_to_the_server_but_the_record(redis_url: str, redis_server: RedisServer) -> None:
    """MONITOR and SLOWLOG of all calls show no token and no identifier: only the record has them."""
    store = RedisStore.from_url(redis_url, cipher=UpsideDown())  # type: ignore[arg-type]
    with redis_server.client() as admin:
        admin.config_set("slowlog-log-slower-than", 0)
        admin.slowlog_reset()
        with watched(redis_server, redis_url) as told:
            do_everything(store)
        told += [str(entry["command"]) for entry in admin.slowlog_get(1000)]
        admin.config_set("slowlog-log-slower-than", 10_000)
    assert sum("sealed-" in command for command in told) >= 10
    assert any("HMGET" in command for command in told)
    plain = [
        "access",
        "refresh-",
        "header.payload",
        "tenant-1",
        "user-1",
        "provider:eu",
        "client-1",
        "example",
    ]
    assert [command for command in told if any(word in command for word in plain)] == []


def test_no_record_goes_back_to_the_server(
    store: RedisStore, redis_url: str, redis_server: RedisServer
) -> None:
    """What a swap or a tombstone replaces is compared by a digest or a stamp, and does not cross again."""
    store.save(RECORD)
    with watched(redis_server, redis_url) as told:
        store.compare_and_swap_refresh(RECORD.key, "refresh-0", rotated(RECORD))
        store.revoke(RECORD.key, NOW, "refresh-1")
    assert sum("refresh-1" in command for command in told) == 2  # the swap, and what it did
    assert [command for command in told if "refresh-0" in command or "access-0" in command] == []


def test_what_belongs_to_a_key_is_in_one_slot(redis_cluster: RedisCluster) -> None:
    """On a cluster each record is with its lease, and records are on all nodes."""
    client = redis.RedisCluster.from_url(redis_cluster.url)
    node: Any = redis_cluster.nodes[0].client()
    store = RedisStore(client)
    records = [make_record(f"user-{number}") for number in range(20)]
    for record in records:
        store.save(record)
        with holding(store, record.key):
            names = [f"{PREFIX}{{{record.key.digest}}}", f"{PREFIX}{{{record.key.digest}}}:lease"]
            assert client.exists(*names) == 2
            slots = {node.execute_command("CLUSTER KEYSLOT", name) for name in names}
            assert len(slots) == 1
    per_node = [node.client().dbsize() for node in redis_cluster.nodes]
    assert (sum(per_node), all(per_node)) == (20, True)


FUTURE = datetime.now(UTC).replace(microsecond=0) + timedelta(days=10)
PAST = FUTURE - timedelta(days=900)
NEVER_AGAIN = {"refresh_token": None, "refresh_expires_at": None}


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        pytest.param({**NEVER_AGAIN, "expires_at": FUTURE}, timedelta(days=10) + KEEP_DEAD, id="ends"),
        pytest.param({**NEVER_AGAIN, "expires_at": PAST, "issued_at": PAST}, KEEP_DEAD, id="ended long ago"),
        pytest.param({**NEVER_AGAIN, "expires_at": None}, None, id="nobody knows when it ends"),
        pytest.param({"expires_at": PAST, "issued_at": PAST}, None, id="renewable"),
        pytest.param(
            {"expires_at": PAST, "issued_at": PAST, "refresh_expires_at": PAST + timedelta(1)},
            None,
            id="renewable, whatever was said of its refresh token",
        ),
    ],
)
def test_only_what_can_never_be_used_again_is_removed_by_the_server(
    store: RedisStore, client: redis.Redis, changes: dict[str, Any], left: timedelta | None
) -> None:
    """Its time to live is `keep_dead` from its end; also when a swap puts it there, and none for the rest."""
    record = make_record(**changes)
    name = f"{PREFIX}{{{record.key.digest}}}"
    store.save(record)
    assert is_about(client.pttl(name), left)
    store.save(make_record())
    assert client.pttl(name) == -1
    store.compare_and_swap_refresh(record.key, "refresh-0", record)
    assert is_about(client.pttl(name), left)


def is_about(milliseconds: object, left: timedelta | None) -> bool:
    """Whether this is what is left, give or take the time that all tests take; -1 is for ever."""
    assert isinstance(milliseconds, int)
    if left is None:
        return milliseconds == -1
    return abs(timedelta(milliseconds=milliseconds) - left) < timedelta(hours=3)


def test_a_tombstone_goes_in_time_and_a_login_over_it_stays(store: RedisStore, client: redis.Redis) -> None:
    """Thirty days after the logout the server removes it, unless the user came back."""
    name = f"{PREFIX}{{{RECORD.key.digest}}}"
    store.save(RECORD)
    store.revoke(RECORD.key, datetime.now(UTC))
    assert is_about(client.pttl(name), KEEP_DEAD)
    store.save(RECORD)
    assert client.pttl(name) == -1


@pytest.mark.parametrize("prefix", ["", "*", "a[bc]?", "a\\", "[^a]:"])
def test_prefixes_keep_stores_apart(redis_url: str, prefix: str) -> None:
    """Also where they look like patterns: a store neither lists, reads nor deletes what another has."""
    names = [prefix, "ab", "abx", "a*", "a?c", "ac", f"{prefix}:"]
    stores = [RedisStore.from_url(redis_url, prefix=name) for name in dict.fromkeys(names)]
    records = [make_record(f"user-{number}") for number in range(len(stores))]
    for store, record in zip(stores, records, strict=True):
        store.save(record)
    for store, record in zip(stores, records, strict=True):
        assert list(store.keys()) == [record.key]
        for other in records:
            assert (store.fetch(other.key) is not None) == store.delete(other.key) == (other is record)


@pytest.mark.parametrize("is_cluster", [False, True], ids=["one server", "cluster"])
def test_listings_over_many_records_find_exactly_what_is_asked_for(
    is_cluster: bool, request: pytest.FixtureRequest
) -> None:
    """Of 2,500 records, leases and other programs' keys: all; what is due; what is dead; of one client."""
    client: redis.Redis | redis.RedisCluster
    if is_cluster:
        client = redis.RedisCluster.from_url(request.getfixturevalue("redis_cluster").url)
    else:
        client = redis.Redis.from_url(request.getfixturevalue("redis_url"))
    store = RedisStore(client)
    records = [make_record(f"user-{number}", **make_changes(number)) for number in range(2500)]
    for number, record in enumerate(records):
        store.save(record)
        client.set(f"oauth2broker:{number}", "of another program")
    client.hset(f"{PREFIX}{{{'0' * 64}}}:lease", mapping={"owner": "x", "until": "0"})
    assert {key.digest for key in store.keys()} == {record.key.digest for record in records}  # noqa: SIM118
    ours = [record for record in records if record.family.client_id == "client-1"]
    for listing, instant_of in ((store.keys_due, due_at), (store.keys_dead, dead_at)):
        found = {key.digest for key in listing("provider:eu", "client-1", NOW)}
        expected = {r.key.digest for r in ours if (instant := instant_of(r)) is not None and instant <= NOW}
        assert 100 < len(expected) < 1000
        assert found == expected


def make_changes(number: int) -> dict[str, Any]:
    """Give records of several clients, that end before and after NOW, with and without refresh token."""
    ends = NOW + timedelta(minutes=number % 7 - 3)
    return {
        "family": TokenFamily("tenant-1", f"user-{number}", "provider:eu", f"client-{number % 2}"),
        "issued_at": NOW - timedelta(hours=1),
        "expires_at": ends if number % 11 else None,
        "refresh_token": "refresh-0" if number % 3 else None,
        "refresh_expires_at": ends if number % 5 == 0 else None,
    }


def test_what_is_sent_twice_is_done_once(store: RedisStore) -> None:
    """A client that sends again, because the answer was lost, hears the same; another's write is another."""
    first, row, again = (store.build_row(one) for one in (RECORD, rotated(RECORD), rotated(RECORD)))
    for _ in range(2):
        assert store.add(first) is True
    fingerprint = TokenSecret("refresh-0").fingerprint()
    for _ in range(2):
        assert store.swap(row, fingerprint) is CompareAndSwapOutcome.UPDATED
    assert store.swap(again, fingerprint) is CompareAndSwapOutcome.REFRESH_MISMATCH
    for _ in range(2):
        assert store.replace(again, row.stamp) is True
    assert store.replace(store.build_row(RECORD), row.stamp) is False
    assert store.add(first) is False
    assert store.fetch(RECORD.key) == rotated(RECORD)
    for _ in range(2):
        assert store.take_lease("key", "me", 60.0, None) is None
    for _ in range(2):
        store.release_lease("key", "me")
    assert store.take_lease("key", "you", 60.0, None) is None


def test_a_large_record_goes_through_all_steps(store: RedisStore) -> None:
    """200 kB are saved, read, swapped, listed and buried."""
    large = make_record(extra={"blob": secrets.token_hex(100_000)})
    store.save(large)
    assert store.fetch(large.key) == large
    swapped = store.compare_and_swap_refresh(large.key, "refresh-0", rotated(large))
    assert swapped is CompareAndSwapOutcome.UPDATED
    assert store.fetch(large.key) == rotated(large)
    assert list(store.keys()) == [large.key]
    buried = store.revoke(large.key, NOW, "refresh-1")
    assert buried is not None
    assert buried.revoked_at == NOW
