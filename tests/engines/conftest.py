"""One server per engine for the session, an empty database per test, and servers for tests that kill them."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest

from oauth2broker import BrokerStore
from oauth2broker.testing import LoopbackProvider
from tests.faults.conftest import broker, key, provider
from tests.faults.workers import Crew, Plan
from tests.places import Place

from .base import Server
from .servers import MariaDbServer, PgBouncer, PostgresServer, RedisCluster, RedisServer

__all__ = ["broker", "key", "provider"]  # fixtures of the faults, which the same tests use here

OwnRedis = Callable[..., RedisServer]
OwnPostgres = Callable[[], PostgresServer]
OwnMariaDb = Callable[[], MariaDbServer]
AnyServer = TypeVar("AnyServer", bound=Server)


def _unavailable(reason: str) -> NoReturn:
    if os.environ.get("OAUTH2BROKER_ENGINES") == "require":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _available(kind: type[AnyServer]) -> type[AnyServer]:
    if not Path("/proc/self/stat").exists():
        _unavailable("the engines' processes are found by /proc, which is not here")
    if missing := kind.missing():
        _unavailable(f"not installed: {', '.join(missing)}")
    return kind


def _database_of(server: Server) -> Iterator[str]:
    url = server.new_database()
    yield url
    server.drop_database(url)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """Run a Redis without persistence for the whole session; do not kill or pause it."""
    with _available(RedisServer)() as running:
        yield running


@pytest.fixture
def redis_url(redis_server: RedisServer) -> Iterator[str]:
    """Give an empty database of the session's Redis."""
    yield from _database_of(redis_server)


@pytest.fixture(scope="session")
def _session_cluster() -> Iterator[RedisCluster]:
    _available(RedisServer)
    with RedisCluster() as running:
        yield running


@pytest.fixture
def redis_cluster(_session_cluster: RedisCluster) -> RedisCluster:
    """Give the session's cluster, emptied."""
    _session_cluster.clear()
    return _session_cluster


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Run a PostgreSQL for the whole session; do not kill or pause it."""
    with _available(PostgresServer)() as running:
        yield running


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """Give an empty database of the session's PostgreSQL."""
    yield from _database_of(postgres_server)


@pytest.fixture(scope="session")
def pgbouncer(postgres_server: PostgresServer) -> Iterator[PgBouncer]:
    """Run a PgBouncer before the session's PostgreSQL."""
    with _available(PgBouncer)(postgres_server) as running:
        yield running


@pytest.fixture
def pgbouncer_url(pgbouncer: PgBouncer) -> Iterator[str]:
    """Give an empty database of that PostgreSQL, through the PgBouncer."""
    yield from _database_of(pgbouncer)


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDbServer]:
    """Run a MariaDB for the whole session; do not kill or pause it."""
    with _available(MariaDbServer)() as running:
        yield running


@pytest.fixture
def mariadb_url(mariadb_server: MariaDbServer) -> Iterator[str]:
    """Give an empty database of the session's MariaDB."""
    yield from _database_of(mariadb_server)


@pytest.fixture
def own_redis() -> Iterator[OwnRedis]:
    """Give a function that starts a Redis of the test's own: `own_redis(appendonly=True)`."""
    with ExitStack() as started:
        yield lambda *, appendonly=False: started.enter_context(
            _available(RedisServer)(appendonly=appendonly)
        )


@pytest.fixture
def own_postgres() -> Iterator[OwnPostgres]:
    """Give a function that starts a PostgreSQL of the test's own."""
    with ExitStack() as started:
        yield lambda: started.enter_context(_available(PostgresServer)())


@pytest.fixture
def own_mariadb() -> Iterator[OwnMariaDb]:
    """Give a function that starts a MariaDB of the test's own."""
    with ExitStack() as started:
        yield lambda: started.enter_context(_available(MariaDbServer)())


_SQL_ENGINES = [
    "sqlite",
    *(pytest.param(name, marks=pytest.mark.engines) for name in ("postgres", "mariadb")),
]


@pytest.fixture(params=_SQL_ENGINES)
def sql_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give an empty database of each SQL engine in turn."""
    return _url_of(request, tmp_path)


@pytest.fixture(params=[pytest.param("redis", marks=pytest.mark.engines), *_SQL_ENGINES])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Give an empty place in each engine in turn."""
    return Place(_url_of(request, tmp_path))


def _url_of(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'tokens.db'}"
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def store(place: Place) -> Iterator[BrokerStore]:
    """The test's own view of that place."""
    with place.opened() as made:
        yield made


@pytest.fixture
def crew(provider: LoopbackProvider, place: Place, store: BrokerStore) -> Iterator[Crew]:
    """Starts processes on that place; kills what is left of them."""
    made = Crew(Plan(place, provider.descriptor()))
    yield made
    made.dismiss()
