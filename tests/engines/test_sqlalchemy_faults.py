"""SQLAlchemyStore when servers die, hang and disagree, and when its process forks."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import create_engine, event, make_url, text

from oauth2broker import BackendError, SQLAlchemyStore
from oauth2broker.testing.store_contract import make_record

from .conftest import OwnMariaDb, OwnPostgres
from .processes import wait_until
from .sql_servers import MariaDbServer, PostgresServer

BOUND = 10.0  # seconds; no call may take longer, whatever the server does
DRIVERS = ["postgresql+psycopg", "postgresql+psycopg2", "mariadb+pymysql"]

pytestmark = pytest.mark.engines


@pytest.fixture(params=DRIVERS)
def server(
    request: pytest.FixtureRequest, own_postgres: OwnPostgres, own_mariadb: OwnMariaDb
) -> tuple[PostgresServer | MariaDbServer, str]:
    """Give a server of the test's own, and the URL of a database there by each driver."""
    driver: str = request.param
    own = own_postgres() if driver.startswith("postgresql") else own_mariadb()
    return own, make_url(own.new_database()).set(drivername=driver).render_as_string(hide_password=False)


def opened(url: str) -> SQLAlchemyStore:
    """Give a store on a URL, with its table."""
    store = SQLAlchemyStore(url)
    store.create_table()
    return store


def fails(call: Callable[[], object]) -> float:
    """Check that ``call`` is a BackendError with nothing attached; give the seconds that it took."""
    began = time.monotonic()
    with pytest.raises(BackendError) as caught:
        call()
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    return time.monotonic() - began


def test_a_server_that_was_restarted_is_not_noticed(server: tuple[Any, str]) -> None:
    """A call on a connection that died is made again on a new one; while nobody listens it is an error."""
    own, url = server
    store, record = opened(url), make_record()
    with closing(store):
        store.save(record)
        own.kill()
        own.start()
        assert store.fetch(record.key) == record
        own.kill()
        assert fails(lambda: store.fetch(record.key)) < BOUND
        assert fails(lambda: store.save(record)) < BOUND
        own.start()
        store.save(record)
        assert store.fetch(record.key) == record


def test_a_server_that_hangs_holds_nobody_for_long(server: tuple[Any, str]) -> None:
    """Open connections end, new ones are given up, and the store works when the server does."""
    own, url = server
    store, record = opened(url), make_record()
    with closing(store):
        store.save(record)
        own.pause()
        assert fails(lambda: store.fetch(record.key)) < BOUND
        assert fails(lambda: store.fetch(record.key)) < BOUND
        own.resume()
        assert store.fetch(record.key) == record


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_server_that_hangs_while_the_pool_asks_holds_nobody_for_long(
    own_postgres: OwnPostgres, driver: str
) -> None:
    """An engine with ``pool_pre_ping`` asks each connection before anybody is told which it is."""
    own = own_postgres()
    url = make_url(own.new_database()).set(drivername=f"postgresql+{driver}")
    engine = create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 2})
    with closing(SQLAlchemyStore(engine)) as store:
        store.create_table()
        own.pause()
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(fails, lambda: store.fetch(make_record().key))
            try:
                asked.result(2 * BOUND)  # six seconds, and what it takes to connect in vain
            finally:
                own.resume()
        assert store.fetch(make_record().key) is None


def test_a_lock_of_somebody_else_holds_nobody_for_long(server: tuple[Any, str]) -> None:
    """A row that a transaction has locked for ever; reading it waits for nobody."""
    _, url = server
    store, record = opened(url), make_record()
    other = create_engine(url)
    with closing(store):
        store.save(record)
        with other.connect() as connection:
            connection.execute(text("UPDATE oauth2broker_tokens SET lease_owner = 'x'"))
            assert fails(lambda: store.save(record)) < BOUND
            assert store.fetch(record.key) == record
            connection.rollback()
        store.save(record)
    other.dispose()


def test_a_deadlock_is_tried_again(server: tuple[Any, str]) -> None:
    """The engine ends our statement to let another go on; it then does what it should."""
    _, url = server
    store = opened(url)
    keys = sorted(make_record(f"user-{number}").key.digest for number in range(50))
    for number, key in enumerate(keys):
        assert store.take_lease(key, f"owner-{number}", 0.0, None) is None
    failed: list[object] = []
    event.listen(store._database.engine, "handle_error", lambda context: failed.append(context))
    other = create_engine(url)
    with closing(store), other.connect() as connection:
        if url.startswith("postgresql"):
            connection.execute(text("SET deadlock_timeout = '30s'"))  # so that ours is the one that ends
        lock = text("UPDATE oauth2broker_tokens SET stamp = 'x' WHERE key_digest = :key")
        for key in keys[1:]:  # who has changed more is spared
            connection.execute(lock, {"key": key})
        prolong = threading.Thread(
            target=store.prolong_leases,
            args=({f"owner-{number}": key for number, key in enumerate(keys)}, 3600.0),
        )
        prolong.start()
        wait_until(lambda: is_waiting(connection), "ours waits for a row")
        connection.execute(lock, {"key": keys[0]})
        connection.commit()
        prolong.join(BOUND)
        assert failed  # twice, if it locks the first row again before the other one is done
        holders = [store.take_lease(key, "next", 3600.0, None) for key in keys]
    assert [holder and holder.has_lapsed for holder in holders] == [False] * 50
    other.dispose()


def is_waiting(connection: Any) -> bool:
    """Say whether anybody waits for a lock."""
    if connection.dialect.name == "postgresql":
        question = "SELECT COUNT(*) FROM pg_locks WHERE NOT granted"
    else:
        question = (
            "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS"
            " WHERE VARIABLE_NAME = 'INNODB_ROW_LOCK_CURRENT_WAITS'"
        )
    return int(connection.execute(text(question)).scalar()) > 0


def test_each_step_is_one_statement(server: tuple[Any, str]) -> None:
    """The server counts: fetch, swap, and save, which reads first, have no BEGIN or COMMIT around them."""
    own, url = server
    opened(url).close()
    count = statement_counter(own, make_url(url).database or "")
    store, record = SQLAlchemyStore(url), make_record()
    with closing(store):
        store.save(record)
        before = count()
        overhead = count() - before
        for _ in range(10):
            store.fetch(record.key)
            store.save(record)
            store.compare_and_swap_refresh(record.key, "refresh-0", record)
        assert count() - before - 2 * overhead == 10 * (1 + 2 + 1)


def statement_counter(own: PostgresServer | MariaDbServer, database: str) -> Callable[[], int]:
    """Give a function that says how many statements the server has done, its own question included."""
    if isinstance(own, MariaDbServer):
        return lambda: int(dict(own._execute("SHOW GLOBAL STATUS LIKE 'Questions'"))["Questions"])
    with own.connect() as connection:
        connection.execute(f"ALTER DATABASE {database} SET log_statement = 'all'")
    return lambda: own._log.read_text(encoding="utf-8").count("LOG:  ")


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="forking needs Linux")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_children_after_a_fork_have_connections_of_their_own(sql_url: str) -> None:
    """They use the store, and end, while the parent goes on with its own."""
    store, record = opened(sql_url), make_record()
    with closing(store), store.refresh_lease(record.key, timeout=0):
        store.save(record)
        children = [in_child(lambda: use(store)) for _ in range(3)]
        for _ in range(50):
            assert store.fetch(record.key) == record
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 3
        assert store.fetch(record.key) == record


def use(store: SQLAlchemyStore) -> None:
    """Read and write, and find the parent's lease held."""
    record, mine = make_record(), make_record(f"child-{os.getpid()}")
    for _ in range(50):
        assert store.fetch(record.key) == record
        store.save(mine)
    with store.refresh_lease(record.key, timeout=0) as is_ours:
        assert not is_ours
    with store.refresh_lease(mine.key, timeout=0) as is_ours:
        assert is_ours


def in_child(work: Callable[[], None]) -> int:
    """Fork, do it there and end the child as programs end; give its pid."""
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(20)
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def test_a_server_that_falls_silent_before_the_first_question_holds_nobody_for_long(
    server: tuple[Any, str],
) -> None:
    """SQLAlchemy itself asks a first connection some things, and looks whether a table is there."""
    own, url = server
    with closing(opened(url)) as known:
        own.pause()
        assert fails(known.create_table) < BOUND
        own.resume()
    with closing(SQLAlchemyStore(url)) as store:
        event.listen(store._database.engine.pool, "connect", lambda *_: own.pause())
        assert fails(lambda: store.fetch(make_record().key)) < BOUND
        own.resume()
