"""The ground under the other tests here: servers that really die, hang, are cut off and leave nothing."""

import os
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import redis
import sqlalchemy
from redis.backoff import NoBackoff
from redis.retry import Retry

from .base import HOST, Server
from .conftest import OwnPostgres, OwnRedis
from .network import Cut
from .processes import running
from .servers import MariaDbServer, PostgresServer, RedisCluster, RedisServer

pytestmark = pytest.mark.engines

SECONDS_OF_PATIENCE = 0.3
Own = Callable[[], Server]
SQL = ["own_postgres", "own_mariadb"]


@pytest.fixture(params=["own_redis", *SQL])
def own(request: pytest.FixtureRequest) -> Own:
    """Give what starts a server of each engine."""
    start: Own = request.getfixturevalue(request.param)
    return start


@pytest.fixture(params=SQL)
def own_sql(request: pytest.FixtureRequest) -> Own:
    """Give what starts a server of each engine that speaks SQL."""
    start: Own = request.getfixturevalue(request.param)
    return start


@pytest.fixture
def planted() -> str:
    """Give a value that is nowhere else."""
    return secrets.token_hex(16)


def client(url: str) -> redis.Redis:
    """Connect like an impatient user of Redis, who does not try again."""
    return redis.Redis.from_url(
        url,
        socket_timeout=SECONDS_OF_PATIENCE,
        socket_connect_timeout=SECONDS_OF_PATIENCE,
        retry=Retry(NoBackoff(), 0),
    )


def write_row(url: str, value: str) -> None:
    """Commit one row with the value, and a text around it that is long enough to be compressed."""
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE kept (value TEXT)")
        connection.exec_driver_sql(f"INSERT INTO kept VALUES ('{'-' * 5000}{value}')")


def read_row(url: str) -> str:
    """Return the end of the row: the value."""
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        return str(connection.exec_driver_sql("SELECT value FROM kept").scalar_one()).lstrip("-")


def test_what_sql_committed_survives_a_kill(own_sql: Own, planted: str) -> None:
    """After SIGKILL and a start on the same data, the same URL finds the committed row."""
    server = own_sql()
    url = server.new_database()
    write_row(url, planted)
    server.kill()
    with pytest.raises(sqlalchemy.exc.OperationalError):
        read_row(url)
    server.start()
    assert read_row(url) == planted


@pytest.mark.parametrize("appendonly", [True, False])
def test_redis_keeps_data_only_with_persistence(own_redis: OwnRedis, appendonly: bool, planted: str) -> None:
    """After SIGKILL and start the key is there with `appendonly`, and gone without it, also after a dump."""
    server = own_redis(appendonly=appendonly)
    with client(server.new_database()) as redis_client:
        redis_client.set("key", planted)
        server.dump()
        server.kill()
        server.start()
        assert redis_client.get("key") == (planted.encode() if appendonly else None)


def test_a_killed_server_leaves_no_process(own: Own) -> None:
    """SIGKILL takes the children along, also of a server that stands still, and they are not reborn."""
    server = own()
    server.pause()
    pids = server.pids()
    assert pids
    server.kill()
    assert running(pids) == server.pids() == []


def test_a_stopped_server_leaves_nothing(own: Own) -> None:
    """After `stop` neither a process nor a file nor a listener is left."""
    server = own()
    pids = server.pids()
    server.stop()
    assert not running(pids)
    assert not server.folder.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, server.port))


def test_no_shared_memory_is_left_by_a_killed_postgres(own_postgres: OwnPostgres) -> None:
    """The System V segment of a PostgreSQL that was killed is removed with its data."""
    server = own_postgres()
    segment = (server.data / "postmaster.pid").read_text().splitlines()[6].split()[1]
    server.kill()
    assert segment in segments()
    server.stop()
    assert segment not in segments()


def segments() -> set[str]:
    """Return the identifiers of all System V shared memory segments."""
    with open("/proc/sysvipc/shm", encoding="ascii") as table:  # noqa: PTH123
        return {line.split()[1] for line in table}


def test_a_paused_server_lets_clients_wait(own: Own) -> None:
    """Connecting succeeds, no answer comes while it is paused, and the question is answered afterwards."""
    server = own()
    server.pause()
    with socket.create_connection((HOST, server.port), timeout=SECONDS_OF_PATIENCE) as asking:
        asking.sendall(QUESTION[type(server)])
        with pytest.raises(TimeoutError):
            asking.recv(1)
        server.resume()
        asking.settimeout(30)
        assert asking.recv(1)


# The first thing that a client says; MariaDB speaks first itself.
QUESTION = {RedisServer: b"PING\r\n", PostgresServer: bytes.fromhex("0000000804d2162f"), MariaDbServer: b""}


def test_a_dump_shows_what_sql_holds(own_sql: Own, planted: str) -> None:
    """A value is found in the dump, also at the end of a long text, and no other value is."""
    server = own_sql()
    write_row(server.new_database(), planted)
    dump = server.dump()
    assert planted.encode() in dump
    assert secrets.token_hex(16).encode() not in dump


def test_a_dump_shows_what_postgres_compresses(own_postgres: OwnPostgres, planted: str) -> None:
    """A value that repeats in a long text, so that the files hold it compressed, is found whole."""
    server = own_postgres()
    write_row(server.new_database(), f"{planted} " * 200)
    assert f"{planted} {planted}".encode() in server.dump()


@pytest.mark.parametrize("appendonly", [True, False])
def test_a_dump_shows_what_redis_holds(own_redis: OwnRedis, appendonly: bool, planted: str) -> None:
    """A long value of a hash is found in the dump, whether Redis writes files by itself or not."""
    server = own_redis(appendonly=appendonly)
    with client(server.new_database()) as redis_client:
        redis_client.hset("key", "field", "-" * 5000 + planted)
    assert planted.encode() in server.dump()


@pytest.mark.parametrize("engine", ["postgres", "mariadb"])
def test_each_test_has_an_empty_database(engine: str, request: pytest.FixtureRequest) -> None:
    """Two databases of the session's server do not see each other's tables."""
    write_row(request.getfixturevalue(f"{engine}_url"), "one")
    server: Server = request.getfixturevalue(f"{engine}_server")
    other = server.new_database()
    write_row(other, "two")
    assert read_row(other) == "two"
    server.drop_database(other)


def test_each_test_has_an_empty_redis(redis_url: str, redis_server: RedisServer) -> None:
    """Two databases of the session's Redis do not see each other's keys."""
    with client(redis_url) as one, client(redis_server.new_database()) as other:
        one.set("key", "one")
        assert other.dbsize() == 0


def test_the_cluster_refuses_keys_of_several_slots(redis_cluster: RedisCluster) -> None:
    """Every slot is served, and a node refuses a script over keys that do not share a slot."""
    with closing(redis.RedisCluster.from_url(redis_cluster.url)) as cluster:
        for number in range(100):
            cluster.set(f"key-{number}", number)
        cluster.eval("return 1", 2, "{same}1", "{same}2")
    with redis_cluster.nodes[0].client() as node:
        with pytest.raises(redis.exceptions.ResponseError, match="same slot"):
            node.eval("return 1", 2, "one", "other")


@pytest.fixture
def cut(redis_server: RedisServer) -> Iterator[Cut]:
    """Give a relay in front of the session's Redis."""
    with Cut(redis_server.port) as relay:
        yield relay


def test_a_cut_holds_back_what_is_sent(cut: Cut, redis_url: str) -> None:
    """During a cut a write times out and does not arrive; after it the same client is answered."""
    with client(cut.url(redis_url)) as far, client(redis_url) as near:
        far.set("key", "before")
        cut.cut()
        with pytest.raises(redis.exceptions.TimeoutError):
            far.set("key", "late")
        assert near.get("key") == b"before"
        cut.mend()
        assert far.ping()


def test_a_late_write_arrives(cut: Cut, redis_server: RedisServer, redis_url: str) -> None:
    """What a client sent before it gave up reaches the server after the cut is mended."""
    with client(redis_url) as near, near.pubsub() as heard:
        heard.subscribe("channel")
        assert heard.get_message(timeout=5)
        with socket.create_connection((HOST, cut.port)) as far:
            far.sendall(b"PING\r\n")
            assert far.recv(7) == b"+PONG\r\n"
            cut.cut()
            far.sendall(b"PUBLISH channel late\r\n")
        cut.mend()
        message = heard.get_message(timeout=30)
        assert message is not None
        assert message["data"] == b"late"


def test_new_connects_hang_or_are_refused(cut: Cut, redis_url: str) -> None:
    """A cut lets connects hang or refuses them, as asked for; after it the same client connects."""
    with client(cut.url(redis_url)) as far:
        cut.cut()
        with pytest.raises(TimeoutError):
            socket.create_connection((HOST, cut.port), timeout=SECONDS_OF_PATIENCE)
        cut.cut(refuse=True)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, cut.port))
        cut.mend()
        assert far.ping()


def test_the_binaries_are_named_when_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not installed is named, for the reason of the skip."""
    monkeypatch.setattr("tests.engines.base.SEARCH_PATH", os.devnull)
    assert RedisServer.missing() == ["redis-server"]
    assert MariaDbServer.missing() == ["mariadbd", "mariadb-install-db"]
