"""SQLAlchemyStore beyond the contract: what it does with rows, transactions, leases and secrets."""

from __future__ import annotations

import logging
import multiprocessing
import secrets
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, StaticPool, create_engine, event, make_url, text
from sqlalchemy.pool import NullPool, QueuePool

from oauth2broker import (
    AesGcmCipher,
    BackendError,
    CompareAndSwapOutcome,
    ConfigError,
    SQLAlchemyStore,
    StoreKey,
    TokenFamily,
    TokenRecord,
    TokenSecret,
)
from oauth2broker.stores.leases import Holder
from oauth2broker.stores.remote import client_digest, milliseconds
from oauth2broker.stores.sql_engine import Answer, Database
from oauth2broker.stores.sqlalchemy import build_table
from oauth2broker.testing.store_contract import NOW, make_record

from .processes import wait_until
from .sql_servers import MariaDbServer, PostgresServer

PATIENCE = 60
HOUR = 3600.0
TABLE = "oauth2broker_tokens"


@pytest.fixture
def engine(sql_url: str) -> Iterator[Engine]:
    """Give a user's own engine."""
    made = create_engine(sql_url, poolclass=QueuePool)
    yield made
    wait_until(
        lambda: isinstance(made.pool, QueuePool) and made.pool.checkedout() == 0, "no lease is prolonged"
    )
    made.dispose()


@pytest.fixture
def store(engine: Engine) -> SQLAlchemyStore:
    """Give a store with its table on that engine."""
    made = SQLAlchemyStore(engine)
    made.create_table()
    return made


def digests(engine: Engine) -> set[str]:
    """Give the keys of all rows that there are, whatever is in them."""
    with engine.connect() as connection:
        return {key for (key,) in connection.execute(text(f"SELECT key_digest FROM {TABLE}"))}


def lapsed(store: SQLAlchemyStore, digest: str, owner: str) -> None:
    """Have ``owner`` hold a lease that has lapsed."""
    assert store.take_lease(digest, owner, 0.01, None) is None
    wait_until(lambda: store.take_lease(digest, "looks", HOUR, None) == Holder(owner, has_lapsed=True), "it")


# Transactions


def test_a_rollback_of_the_caller_undoes_nothing(engine: Engine, store: SQLAlchemyStore) -> None:
    """A rotation inside somebody's transaction on the same engine, in the same thread, stays."""
    record = make_record()
    store.save(record)
    newer = replace(record, refresh_token=TokenSecret("refresh-1"))
    with engine.connect() as connection:
        with connection.begin():
            connection.execute(text("CREATE TABLE callers (number INTEGER)"))
        with connection.begin() as transaction:
            connection.execute(text("SELECT number FROM callers"))
            if engine.dialect.name != "sqlite":  # which has one writer at a time
                connection.execute(text("INSERT INTO callers VALUES (1)"))
            outcome = store.compare_and_swap_refresh(record.key, "refresh-0", newer)
            transaction.rollback()
        assert connection.execute(text("SELECT COUNT(*) FROM callers")).scalar() == 0
    assert outcome is CompareAndSwapOutcome.UPDATED
    assert store.fetch(record.key) == newer


def test_what_sqlite_has_written_is_on_disk(tmp_path: Path) -> None:
    """A file for its owner alone, with a log that is flushed at each commit; a user's settings win."""
    url = f"sqlite:///{tmp_path / 'tokens.db'}"
    store = SQLAlchemyStore(url)
    store.create_table()
    with store._database.engine.connect() as connection:
        found = [
            connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "busy_timeout")
        ]
    assert found == ["wal", 2, 5000]
    assert (tmp_path / "tokens.db").stat().st_mode & 0o777 == 0o600
    assert isinstance(store._database.engine.pool, NullPool)


@pytest.mark.parametrize("begin", ["BEGIN", "BEGIN IMMEDIATE"])
def test_an_sqlite_engine_that_begins_by_itself_loses_nothing(tmp_path: Path, begin: str) -> None:
    """SQLAlchemy's own recipe for transactions that hold: what the store wrote is no part of one."""
    engine = create_engine(f"sqlite:///{tmp_path / 'tokens.db'}")
    event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    store, record = SQLAlchemyStore(engine), make_record()
    store.create_table()
    store.save(record)
    with store.refresh_lease(record.key, timeout=0) as is_ours, closing(SQLAlchemyStore(engine.url)) as other:
        assert is_ours
        assert other.fetch(record.key) == record
        with other.refresh_lease(record.key, timeout=0) as is_theirs:
            assert not is_theirs
    store.close()


@pytest.mark.parametrize("options", [{"stream_results": True}, {"yield_per": 10}])
def test_an_engine_that_streams_is_used_without(sql_url: str, options: dict[str, Any]) -> None:
    """PostgreSQL has cursors of the server's in transactions alone."""
    with closing(SQLAlchemyStore(create_engine(sql_url, execution_options=options))) as store:
        store.create_table()
        store.save(make_record())
        assert store.fetch(make_record().key) == make_record()


def test_stores_on_one_engine_bound_it_once(engine: Engine, store: SQLAlchemyStore) -> None:
    """A program may make a store for each task: what is hung on its engine does not grow."""
    ping = engine.dialect.do_ping
    assert SQLAlchemyStore(engine)._database._deadlines is store._database._deadlines
    assert engine.dialect.do_ping == ping


# Steps that are done twice, because the first answer was lost


def test_each_step_can_be_done_twice(store: SQLAlchemyStore) -> None:
    """The second time says what the first one did, and changes nothing else."""
    record, newer = make_record(), make_record(refresh_token="refresh-1")
    tombstone = record.tombstone(NOW)
    first, swapped, buried = (store.build_row(one) for one in (record, newer, tombstone))
    for _ in range(2):
        assert store.add(first) is True
    for _ in range(2):
        assert store.swap(swapped, first.refresh) is CompareAndSwapOutcome.UPDATED
    for _ in range(2):
        assert store.replace(buried, swapped.stamp) is True
    assert store.replace(swapped, first.stamp) is False
    assert store.fetch(record.key) == tombstone
    for _ in range(2):
        assert store.take_lease(record.key.digest, "me", HOUR, None) is None
    for _ in range(2):
        store.release_lease(record.key.digest, "me")
    assert store.take_lease(record.key.digest, "you", HOUR, None) is None


# Leases


def test_a_lapsed_lease_goes_only_to_who_watched_its_holder(store: SQLAlchemyStore) -> None:
    """It is the holder that was watched, not any that has lapsed, and not one that is alive."""
    digest = make_record().key.digest
    lapsed(store, digest, "dead")
    assert store.take_lease(digest, "next", HOUR, None) == Holder("dead", has_lapsed=True)
    assert store.take_lease(digest, "next", HOUR, "another") == Holder("dead", has_lapsed=True)
    assert store.take_lease(digest, "next", HOUR, "dead") is None
    assert store.take_lease(digest, "third", HOUR, "next") == Holder("next", has_lapsed=False)


def test_a_holder_that_is_back_has_its_lapsed_lease_again(store: SQLAlchemyStore) -> None:
    """If nobody took it; and only for the key that it had."""
    digest, other = make_record().key.digest, make_record("other").key.digest
    lapsed(store, digest, "cut off")
    assert store.prolong_leases({"cut off": other}, HOUR) is False
    assert store.take_lease(digest, "next", HOUR, None) == Holder("cut off", has_lapsed=True)
    assert store.prolong_leases({"cut off": digest}, HOUR) is True
    assert store.take_lease(digest, "next", HOUR, "cut off") == Holder("cut off", has_lapsed=False)
    lapsed(store, other, "gone")
    assert store.take_lease(other, "next", HOUR, "gone") is None
    assert store.prolong_leases({"gone": other, "cut off": digest}, HOUR) is False
    assert store.take_lease(other, "third", HOUR, "gone") == Holder("next", has_lapsed=False)


def test_many_leases_are_prolonged_together(store: SQLAlchemyStore) -> None:
    """More than one statement takes; each lasts as long as was said, by the database's clock."""
    owners = {f"owner-{number}": make_record(f"user-{number}").key.digest for number in range(450)}
    for owner, digest in owners.items():
        assert store.take_lease(digest, owner, 0.0, None) is None
    store.prolong_leases(owners, HOUR)
    held = [store.take_lease(digest, "next", HOUR, owner) for owner, digest in owners.items()]
    assert held == [Holder(owner, has_lapsed=False) for owner in owners]


def test_nobody_releases_the_lease_of_another(store: SQLAlchemyStore) -> None:
    """Who guesses the key has not got the owner's name."""
    digest = make_record().key.digest
    assert store.take_lease(digest, "me", HOUR, None) is None
    store.release_lease(digest, "you")
    assert store.take_lease(digest, "you", HOUR, None) == Holder("me", has_lapsed=False)
    store.release_lease(digest, "me")
    assert store.take_lease(digest, "you", HOUR, None) is None


@pytest.mark.engines
def test_a_lease_knows_no_time_zone(postgres_url: str, mariadb_url: str) -> None:
    """Sessions in zones half a day apart agree on what has lapsed."""
    for url, say in ((postgres_url, "SET TIME ZONE '{}'"), (mariadb_url, "SET time_zone = '{}'")):
        for here, there in (("+12:00", "-11:00"), ("-11:00", "+12:00")):
            stores = [store_in_zone(url, say.format(zone)) for zone in (here, there)]
            digest = make_record(here).key.digest
            assert stores[0].take_lease(digest, "here", HOUR, None) is None
            assert stores[1].take_lease(digest, "there", HOUR, "here") == Holder("here", has_lapsed=False)
            for one in stores:
                one.close()


def store_in_zone(url: str, statement: str) -> SQLAlchemyStore:
    """Give a store on an engine whose sessions say ``statement`` first."""
    engine = create_engine(url)

    @event.listens_for(engine, "connect")
    def say(connection: Any, _: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(statement)
        connection.commit()

    store = SQLAlchemyStore(engine)
    store.create_table()
    return store


# Rows


def test_a_deletion_leaves_the_lease(engine: Engine, store: SQLAlchemyStore) -> None:
    """And when it is released, nothing; a record that came meanwhile stays."""
    record, other = make_record(), make_record("other")
    for one in (record, other):
        with store.refresh_lease(one.key, timeout=0) as is_ours:
            assert is_ours
            store.save(one)
            assert store.delete(one.key) is True
            assert store.delete(one.key) is False
            assert store.fetch(one.key) is None
            with store.refresh_lease(one.key, timeout=0) as is_ours_too:
                assert not is_ours_too
            if one is other:
                store.save(one)
    assert digests(engine) == {other.key.digest}


def test_leases_and_deletions_leave_no_rows(engine: Engine, store: SQLAlchemyStore) -> None:
    """Of records, of leases on keys without one, and of tries that failed."""
    record = make_record()
    with store.refresh_lease(record.key, timeout=0), store.refresh_lease(record.key, timeout=0):
        assert list(store.keys()) == []
    assert digests(engine) == set()
    store.save(record)
    store.delete(record.key)
    assert digests(engine) == set()


def test_what_killed_holders_left_is_taken_away_by_pruning(engine: Engine, store: SQLAlchemyStore) -> None:
    """After a day; what has a record, or may still be somebody's, is not."""
    record = make_record()
    store.save(record)
    for name in ("old", "new", record.key.digest):
        assert store.take_lease(name, "killed", 0.0, None) is None
    store._run(store._ask.make_room, digest="killed before it wrote")
    with engine.begin() as connection:
        day = text(f"UPDATE {TABLE} SET lease_until = lease_until - 86400001 WHERE key_digest <> 'new'")
        connection.execute(day)
    assert list(store.keys_dead("provider:eu", "client-1", NOW)) == []
    assert digests(engine) == {"new", record.key.digest}


def test_pruning_spares_what_came_back_meanwhile(
    store: SQLAlchemyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that seemed abandoned, and holds a record or a lease when its turn comes."""
    record, run = make_record(), store._run
    for name in (record.key.digest, "leased"):
        store._run(store._ask.make_room, digest=name)

    def watched(statement: Any, **parameters: Any) -> Any:
        answer = run(statement, **parameters)
        if statement is store._ask.list_abandoned:
            assert len(answer.rows) == 2
            store.save(record)
            assert store.take_lease("leased", "me", HOUR, None) is None
        return answer

    monkeypatch.setattr(store, "_run", watched)
    assert list(store.keys_dead("provider:eu", "client-1", NOW)) == []
    assert store.fetch(record.key) == record
    assert store.take_lease("leased", "you", HOUR, None) == Holder("me", has_lapsed=False)


def test_a_large_record_comes_back(store: SQLAlchemyStore) -> None:
    """An id_token of 200 kB, which a 64 kB column would cut or refuse."""
    record = make_record(id_token="x" * 200_000)
    store.save(record)
    assert store.fetch(record.key) == record


# Listings


@pytest.fixture
def crowded(engine: Engine, store: SQLAlchemyStore) -> SQLAlchemyStore:
    """Fill in 2,500 records of one client, of which many share a time, and 20,000 of others."""
    table = build_table()
    rows = [row_of(store, f"user-{n}", "client-1", n if n < 1000 else 1000) for n in range(2500)]
    rows += [
        {**row_of(store, "x", f"client-{2 + n % 9}", n), "key_digest": f"{n:064}"} for n in range(20_000)
    ]
    with engine.begin() as connection:
        connection.execute(table.insert(), rows)
    analyze = "ANALYZE TABLE" if engine.dialect.name in ("mysql", "mariadb") else "ANALYZE"
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"{analyze} {TABLE}"))
    return store


def row_of(store: SQLAlchemyStore, user: str, client: str, second: int) -> dict[str, Any]:
    record = make_record(
        user,
        family=TokenFamily("tenant-1", user, "provider:eu", client),
        expires_at=NOW + timedelta(seconds=second),
        refresh_expires_at=NOW + timedelta(days=1, seconds=second),
    )
    row = store.build_row(record)
    return {
        "key_digest": row.digest,
        "record": row.text,
        "stamp": row.stamp,
        "refresh_digest": row.refresh,
        "revoked": row.is_revoked,
        "client_digest": row.client,
        "due_at": row.due,
        "dead_at": row.dead,
    }


def users(keys: Iterator[StoreKey]) -> list[int]:
    return sorted(int(key.family.principal.removeprefix("user-")) for key in keys)


def test_listings_give_exactly_what_is_asked_for(crowded: SQLAlchemyStore) -> None:
    """Over several pages, also where many records share a time; each once."""
    due, dead = crowded.keys_due, crowded.keys_dead
    assert users(due("provider:eu", "client-1", NOW - timedelta(seconds=1))) == []
    assert users(due("provider:eu", "client-1", NOW + timedelta(seconds=500))) == list(range(501))
    assert users(due("provider:eu", "client-1", NOW + timedelta(days=9))) == list(range(2500))
    day = NOW + timedelta(days=1)
    assert users(dead("provider:eu", "client-1", day + timedelta(seconds=500))) == list(range(501))
    assert users(dead("provider:eu", "client-1", day + timedelta(days=9))) == list(range(2500))
    assert len(list(crowded.scan())) == 22_500


def test_listings_hold_no_transaction(engine: Engine, crowded: SQLAlchemyStore) -> None:
    """Who walks may do so for hours: between two pages no connection is out, and the table can be altered."""
    walk = crowded.keys_due("provider:eu", "client-1", NOW + timedelta(days=9))
    next(walk)
    with engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE {TABLE} ADD COLUMN more INTEGER"))
    assert len(list(walk)) == 2499


def test_listings_use_their_index(engine: Engine, crowded: SQLAlchemyStore) -> None:
    """The engine's own plan, for the first page and for a later one."""
    seen: list[tuple[str, Any]] = []
    event.listen(engine, "before_cursor_execute", lambda _, __, sql, values, *___: seen.append((sql, values)))
    far = milliseconds(NOW + timedelta(days=9))
    for scan, index in ((crowded.scan_due, "due"), (crowded.scan_dead, "dead")):
        seen.clear()
        assert len(list(scan(client_digest("provider:eu", "client-1"), far))) == 2500
        pages = [one for one in seen if f"ORDER BY {TABLE}.{index}_at" in one[0]]
        assert len(pages) == 4
        for page in (pages[0], pages[2]):
            plan = explained(engine, *page)
            assert f"ix_{TABLE}_{index}" in plan
            assert not any(word in plan for word in ("Seq Scan", "SCAN oauth2broker", "'ALL'")), plan
    [of_abandoned] = [one for one in seen if "ORDER BY" not in one[0]]
    assert f"ix_{TABLE}_" in explained(engine, *of_abandoned)


def test_steps_use_the_primary_key(engine: Engine, crowded: SQLAlchemyStore) -> None:
    """Each statement by key, and prolonging leases, look at their rows and no others."""
    seen: list[tuple[str, Any]] = []
    event.listen(engine, "before_cursor_execute", lambda _, __, sql, values, *___: seen.append((sql, values)))
    record = make_record("user-1", expires_at=NOW)
    with crowded.refresh_lease(record.key, timeout=0):
        crowded.prolong_leases({f"owner-{n}": f"{n:064}" for n in range(200)}, HOUR)
        crowded.revoke(record.key, NOW)
        crowded.compare_and_swap_refresh(record.key, "refresh-0", record)
        crowded.delete(record.key)
    for sql, values in tuple(seen):
        plan = explained(engine, sql, values)
        assert not any(word in plan for word in ("Seq Scan", "SCAN oauth2broker", "'ALL'", "'index'")), plan
    assert len(seen) > 8


def explained(engine: Engine, sql: str, values: Any) -> str:
    verb = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
    with engine.connect() as connection:
        return str(connection.exec_driver_sql(f"{verb} {sql}", values).fetchall())


# Secrets


def test_nothing_that_is_logged_or_raised_shows_a_token(
    sql_url: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """With all of SQLAlchemy's logging on; errors, their causes and the locals of their frames included."""
    token = f"secret-{secrets.token_hex(8)}"
    engine = create_engine(sql_url, echo="debug")
    caplog.set_level(logging.DEBUG)
    store, record = SQLAlchemyStore(engine), secret_record(token)
    store.create_table()
    store.save(record)
    assert store.fetch(record.key) == record
    assert len(list(store.keys())) == 1
    store.compare_and_swap_refresh(record.key, f"{token}-refresh", record)
    with engine.begin() as connection:
        connection.execute(text(f"DROP TABLE {TABLE}"))
    raised = list[str]()
    calls: list[Callable[[], object]] = [
        lambda: store.save(record),
        lambda: store.fetch(record.key),
        lambda: store.compare_and_swap_refresh(record.key, record.refresh_token, record),
    ]
    for call in calls:
        with pytest.raises(BackendError) as caught:
            call()
        raised.append(shown(caught.value))
    engine.dispose()
    out = capsys.readouterr()
    said = "\n".join([caplog.text, out.out, out.err, repr(store), *raised])
    assert f"UPDATE {TABLE} SET record=" in caplog.text
    assert token not in said


def secret_record(token: str) -> TokenRecord:
    names = ("access_token", "refresh_token", "id_token")
    return make_record(**{name: f"{token}-{name.removesuffix('_token')}" for name in names})


def shown(error: BackendError) -> str:
    """Give the traceback of an error, with its context and all local variables."""
    assert (error.__cause__, error.__context__) == (None, None)
    assert "create_table()" in str(error)
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "".join(part for part in told.format() if "tests/engines" not in part)


def test_with_a_cipher_nothing_at_rest_is_a_token(
    sql_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Not in files and not in their logs; without one, the record holds tokens, other columns do not."""
    token = f"secret-{secrets.token_hex(8)}"
    plain, sealed = SQLAlchemyStore(sql_url), SQLAlchemyStore(sql_url, cipher=AesGcmCipher(b"k" * 32))
    plain.create_table()
    record = secret_record(token)
    sealed.save(record)
    sealed.compare_and_swap_refresh(record.key, f"{token}-refresh", record)
    assert sealed.fetch(record.key) == record
    assert token.encode() not in at_rest(sql_url, tmp_path, request)
    plain.save(record)
    assert token.encode() in at_rest(sql_url, tmp_path, request)
    with plain._database.engine.connect() as connection:
        [row] = connection.execute(text(f"SELECT * FROM {TABLE}")).mappings()
    assert [name for name, value in row.items() if token in str(value)] == ["record"]
    for store in (plain, sealed):
        store.close()


def at_rest(url: str, folder: Path, request: pytest.FixtureRequest) -> bytes:
    """Give all bytes that the engine has in files."""
    if url.startswith("sqlite"):
        return b"".join(path.read_bytes() for path in folder.iterdir())
    name = "postgres_server" if url.startswith("postgres") else "mariadb_server"
    server: PostgresServer | MariaDbServer = request.getfixturevalue(name)
    return server.dump()


# Making the table


def test_several_processes_create_the_table_at_once(sql_url: str) -> None:
    """All succeed, and one table with its indexes is there."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(4), context.Queue()
    makers = [
        context.Process(target=create_in_child, args=(sql_url, barrier, results), daemon=True)
        for _ in range(4)
    ]
    for maker in makers:
        maker.start()
    assert [results.get(timeout=PATIENCE) for _ in makers] == [None] * 4
    for maker in makers:
        maker.join(PATIENCE)


def create_in_child(url: str, barrier: Any, results: Any) -> None:
    """Create the table several times anew, together with others."""
    try:
        for number in range(5):
            store = SQLAlchemyStore(url, table=f"tokens_{number}")
            barrier.wait(PATIENCE)
            store.create_table()
            store.save(make_record())
            assert all(store._database._has_index(f"tokens_{number}", index.name) for index in indexes(store))
            store.close()
        results.put(None)
    except BaseException as error:
        results.put(repr(error))


def indexes(store: SQLAlchemyStore) -> Any:
    return store._table.indexes


def test_a_table_left_half_made_is_completed(engine: Engine, store: SQLAlchemyStore) -> None:
    """By a process that was killed between the table and its indexes."""
    name = f"ix_{TABLE}_due"
    with engine.begin() as connection:
        of_table = f" ON {TABLE}" if engine.dialect.name in ("mysql", "mariadb") else ""
        connection.execute(text(f"DROP INDEX {name}{of_table}"))
    store.create_table()
    assert store._database._has_index(TABLE, name)


def test_create_table_says_what_is_wrong(tmp_path: Path) -> None:
    """A database that cannot be opened is a BackendError, with nothing of SQLAlchemy's."""
    store = SQLAlchemyStore(f"sqlite:///{tmp_path / 'missing' / 'tokens.db'}")
    with pytest.raises(BackendError, match="OperationalError") as caught:
        store.create_table()
    assert caught.value.__context__ is None


# What is refused


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("sqlite://", "own"),
        ("sqlite:///:memory:", "own"),
        ("sqlite:///file:x?mode=memory&uri=true", "own"),
        ("sqlite:///file:x?mode=memory&cache=shared&uri=true", "own"),
        ("oracle+oracledb://u:hidden@h/d", "driver|not oracle"),
        ("nonsense+x://u:hidden@h/d", "not a URL"),
        ("u:hidden@h", "not a URL"),
        ("postgresql+psycopg://u:hidden@h:port/d", "not a URL"),
        (7, "not int"),
    ],
)
def test_what_cannot_be_used_is_refused_without_its_password(given: Any, why: str) -> None:
    """ConfigError when the store is made, not at the first token."""
    with pytest.raises(ConfigError, match=why) as caught:
        SQLAlchemyStore(given)
    told = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert caught.value.__context__ is None
    ours = [
        frame for frame in told.stack if "oauth2broker" in frame.filename and "tests" not in frame.filename
    ]
    assert not any("hidden" in str(frame.locals) for frame in ours)
    assert "hidden" not in str(caught.value)


def test_an_engine_that_hands_out_the_callers_connection_is_refused(tmp_path: Path) -> None:
    """Of whatever database; and so is a connection, a table's odd name and a cipher that is none."""
    path = tmp_path / "tokens.db"
    shared = create_engine(f"sqlite:///{path}", poolclass=StaticPool)
    with pytest.raises(ConfigError, match="own"):
        SQLAlchemyStore(shared)
    other = create_engine(f"sqlite:///{path}")
    with other.connect() as connection, pytest.raises(ConfigError):
        SQLAlchemyStore(connection)  # type: ignore[arg-type]
    other.dispose()
    for name in ("", "a b", "x" * 51, "naïve", 'a"; --', 7):
        with pytest.raises(ConfigError, match="name"):
            SQLAlchemyStore(f"sqlite:///{path}", table=name)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="cipher"):
        SQLAlchemyStore(f"sqlite:///{path}", cipher="key")  # type: ignore[arg-type]


def test_a_repr_shows_where_it_is_and_no_password() -> None:
    """Also when the password stands in the query."""
    url = "postgresql+psycopg://user:hidden@db.example.com/app?password=hidden"
    store = SQLAlchemyStore(url)
    assert repr(store) == "SQLAlchemyStore(postgresql://db.example.com/app, table='oauth2broker_tokens')"
    assert SQLAlchemyStore(make_url(url)).__repr__() == repr(store)


def test_without_sqlalchemy_it_says_what_to_install() -> None:
    """And importing the package, and the name, needs none."""
    program = """
import sys
sys.modules["sqlalchemy"] = None
import oauth2broker
try:
    oauth2broker.SQLAlchemyStore("sqlite:///x")
except oauth2broker.ConfigError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == 'SQLAlchemy 2.0.43 or newer is not installed: pip install "oauth2broker[sql]"\n'


def test_a_record_that_comes_back_to_what_is_expected_is_not_missing(
    store: SQLAlchemyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The swap found another refresh token; the look after it finds the one expected: it is tried again."""
    record, between = make_record(), make_record(refresh_token="refresh-between")
    store.save(between)
    statements: list[object] = []
    run = store._run

    def watched(statement: Any, **parameters: Any) -> Any:
        statements.append(statement)
        if statement is store._ask.look and statements.count(statement) == 1:
            store.save(record)
        return run(statement, **parameters)

    monkeypatch.setattr(store, "_run", watched)
    newer = make_record(refresh_token="refresh-1")
    assert store.compare_and_swap_refresh(record.key, "refresh-0", newer) is CompareAndSwapOutcome.UPDATED
    assert statements.count(store._ask.swap) == 2
    assert store.fetch(record.key) == newer


def test_a_clock_that_was_set_back_keeps_nobody_from_a_lease(store: SQLAlchemyStore) -> None:
    """One that seems to last more than twice its time counts as lapsed, and is watched like any other."""
    assert store.take_lease("key", "dead", 600.0, None) is None
    assert store.take_lease("key", "mine", 31.0, None) == Holder("dead", has_lapsed=True)
    assert store.take_lease("key", "mine", 31.0, "dead") is None


def test_a_driver_that_does_not_count_gives_no_lease(
    store: SQLAlchemyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DB-API 2.0 lets it say -1, which is neither "it was inserted" nor "it was there"; the row is let go."""
    key, run = make_record().key, Database.run

    def run_without_count(database: Database, statement: Any, parameters: Any) -> Answer:
        found = run(database, statement, parameters)
        return Answer(-1) if statement is store._ask.take_new else found

    with monkeypatch.context() as patch:
        patch.setattr(Database, "run", run_without_count)
        with pytest.raises(BackendError, match="how many rows"), store.refresh_lease(key, timeout=0.0):
            pytest.fail("nobody has it")
    with store.refresh_lease(key, timeout=0.0) as is_ours:
        assert is_ours
