"""The engine of :class:`SQLAlchemyStore`: bounded, in autocommit, and silent about what it carries.

Needs the extra ``sql``.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import URL, Dialect, Engine, Executable, Row, create_engine, event, inspect, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import NullPool, SingletonThreadPool, StaticPool
from sqlalchemy.schema import CreateIndex, CreateTable, Table

from oauth2broker.errors import BackendError, ConfigError
from oauth2broker.stores.deadlines import Deadlines
from oauth2broker.stores.sql_schema import DIALECTS

_SECONDS: Final = 5
_TO_CONNECT: Final = 3
_AT_ONCE: Final = 1.0  # seconds; a connection that was dead all along shows it sooner
_MOST_CONFLICTS: Final = 10

_OPTIONS: Final[Mapping[str, Any]] = {
    "isolation_level": "AUTOCOMMIT",
    "preserve_rowcount": True,  # else an INSERT of psycopg has no count
    "stream_results": False,  # what an engine's own options may say; PostgreSQL streams in no autocommit
    "yield_per": None,
}

_POSTGRES: Final = {
    "connect_timeout": _TO_CONNECT,
    "options": f"-c statement_timeout={_SECONDS * 1000}",
    "tcp_user_timeout": _SECONDS * 1000,
    "keepalives_idle": _SECONDS,
    "keepalives_interval": 1,
    "keepalives_count": 3,
}
_BOUNDS: Final[Mapping[str, Mapping[str, Any]]] = {
    "psycopg": _POSTGRES,
    "psycopg2": _POSTGRES,
    "pymysql": {
        "connect_timeout": _TO_CONNECT,
        "read_timeout": _SECONDS,
        "write_timeout": _SECONDS,
        "init_command": f"SET innodb_lock_wait_timeout = {_SECONDS - 1}",
    },
    "pysqlite": {"timeout": _SECONDS},
}

_DEADLINES: Final[WeakKeyDictionary[Dialect, Deadlines]] = WeakKeyDictionary()
"""By the dialect, which an engine shares with what ``execution_options`` makes of it."""

_CONFLICTS: Final = ("40001", "40P01", 1213)
_NO_TABLE: Final = ("42P01", 1146)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a statement gave: how many rows it changed, or its rows."""

    count: int
    rows: tuple[Row[Any], ...] = ()


@dataclass(frozen=True, slots=True)
class _Failure:
    reason: str
    was_disconnected: bool
    is_conflict: bool


class Database:
    """Runs single statements, each on a connection of its own, in autocommit.

    It fails with :class:`BackendError`, without the statement, its parameters or the driver's error.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine.execution_options(**_OPTIONS)
        self.engine.hide_parameters = True  # of this view of the engine alone
        self._deadlines = _deadlines_of(engine)

    def __repr__(self) -> str:
        url = self.engine.url
        return f"{self.engine.dialect.name}://{url.host or ''}/{url.database or ''}"

    def run(self, statement: Executable, parameters: Mapping[str, Any]) -> Answer:
        """Run it; once more if the connection proves dead at once, again if the engine asks for that."""
        conflicts = 0
        began = time.monotonic()
        found = self._try(statement, parameters)
        if isinstance(found, _Failure) and found.was_disconnected and time.monotonic() - began < _AT_ONCE:
            found = self._try(statement, parameters)
        while isinstance(found, _Failure) and found.is_conflict and conflicts < _MOST_CONFLICTS:
            conflicts += 1
            found = self._try(statement, parameters)
        if isinstance(found, _Failure):
            raise BackendError(found.reason)
        return found

    def create(self, table: Table) -> None:
        """Create ``table`` and its indexes if they are missing, whoever else does so meanwhile."""
        name = table.name
        self._create(CreateTable(table), lambda: inspect(self.engine).has_table(name))
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            self._create(CreateIndex(index), partial(self._has_index, name, str(index.name)))

    def forget_connections(self) -> None:
        """Leave the connections to the parent, after a fork. Takes no lock."""
        self.engine.dispose(close=False)

    def _try(self, statement: Executable, parameters: Mapping[str, Any]) -> Answer | _Failure:
        try:
            with self._deadlines.bound(), self.engine.connect() as connection:
                result = connection.execute(statement, parameters)
                rows = tuple(result) if result.returns_rows else None
                if self.engine.dialect.name == "sqlite":
                    connection.commit()  # a listener to an engine's "begin" may have said BEGIN all the same
                return Answer(result.rowcount) if rows is None else Answer(0, rows)
        except Exception as error:  # noqa: BLE001 - a driver, or what listens to the engine, may raise anything
            return _explain(error)

    def _create(self, statement: Executable, is_there: Callable[[], bool]) -> None:
        if self._look(is_there):
            return
        try:
            self.run(statement, {})
        except BackendError:
            if not self._look(is_there):  # else somebody else was faster
                raise

    def _look(self, is_there: Callable[[], bool]) -> bool:
        try:
            with self._deadlines.bound():
                return is_there()
        except Exception as error:  # noqa: BLE001 - as above
            failure = _explain(error)
        raise BackendError(failure.reason)

    def _has_index(self, table: str, name: str) -> bool:
        return any(index["name"] == name for index in inspect(self.engine).get_indexes(table))


def _deadlines_of(engine: Engine) -> Deadlines:
    """Give what bounds the use of ``engine``'s connections, the same to all stores on it."""
    deadlines = _DEADLINES.get(engine.dialect)
    if deadlines is None:
        deadlines = Deadlines(_SECONDS + 1)  # the server's own bound, if it has one, comes first
        _name_sockets(engine, deadlines)
        _DEADLINES[engine.dialect] = deadlines
    return deadlines


def _name_sockets(engine: Engine, deadlines: Deadlines) -> None:
    """Bound what libpq does: it waits for ever for a server that is stopped, or that hangs."""
    ping = engine.dialect.do_ping

    def name(connection: Any, *_: object) -> None:
        descriptor = getattr(connection, "fileno", None)
        if descriptor is not None:
            deadlines.name(descriptor())

    def name_and_ping(connection: DBAPIConnection) -> bool:
        name(connection)
        return ping(connection)

    for moment in ("connect", "checkout"):  # before SQLAlchemy itself asks a new connection anything
        event.listen(engine.pool, moment, name, insert=True)
    engine.dialect.do_ping = name_and_ping  # type: ignore[method-assign, assignment] # there is no event for it


def open_engine(engine_or_url: Any) -> Engine | ConfigError:
    """Give the engine, made with bounds if it is a URL, or what is wrong: a URL may hold a password."""
    engine = engine_or_url if isinstance(engine_or_url, Engine) else _from_url(engine_or_url)
    if isinstance(engine, ConfigError):
        return engine
    dialect = engine.dialect
    if dialect.name not in DIALECTS:
        return ConfigError(f"an engine of PostgreSQL, MariaDB, MySQL or SQLite, not {dialect.name}")
    if dialect.is_async:
        return ConfigError("the store is synchronous: it cannot use an async engine")
    if isinstance(engine.pool, StaticPool | SingletonThreadPool) or _is_in_memory(engine.url):
        return ConfigError("the store needs connections of its own: not a StaticPool, nor SQLite in memory")
    return engine


def _from_url(url: Any) -> Engine | ConfigError:
    if not isinstance(url, str | URL):
        return ConfigError(f"an SQLAlchemy Engine or a URL, not {type(url).__name__}")
    try:
        return _build_engine(make_url(url))
    except ModuleNotFoundError as error:
        return ConfigError(f"the database's driver is not installed: {error.name}")
    except (ArgumentError, NoSuchModuleError, TypeError, ValueError, ImportError) as error:
        return ConfigError(f"not a URL that SQLAlchemy can use ({type(error).__name__})")


def _build_engine(url: URL) -> Engine:
    driver = url.get_dialect().driver
    bounds = {name: value for name, value in _BOUNDS.get(driver, {}).items() if name not in url.query}
    options: dict[str, Any] = {"pool_timeout": _SECONDS}
    if url.get_backend_name() == "sqlite":
        options = {"poolclass": NullPool}  # SQLite's connections do not survive a fork, not even unused
    engine = create_engine(
        url,
        connect_args=bounds,
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        hide_parameters=True,
        **options,
    )
    if engine.dialect.name == "sqlite" and not _is_in_memory(url):
        _prepare_sqlite(engine)
    return engine


def _prepare_sqlite(engine: Engine) -> None:
    """Have the file made for its owner alone, and writes on disk when they return."""
    path = str(engine.url.database)

    def make_file(*_: object) -> None:
        if not path.startswith("file:"):
            with suppress(OSError):  # it is there, or SQLite tells what is wrong
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))

    def set_up(connection: Any, _: object) -> None:
        connection.execute("PRAGMA synchronous = FULL")
        if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            with suppress(sqlite3.OperationalError):  # in use: who opens it next tries again
                connection.execute("PRAGMA journal_mode = WAL")

    event.listen(engine, "do_connect", make_file)
    event.listen(engine, "connect", set_up)


def _is_in_memory(url: URL) -> bool:
    if url.get_backend_name() != "sqlite":
        return False
    name = url.database or ":memory:"
    return ":memory:" in name or url.query.get("mode") == "memory" or "mode=memory" in name


def _explain(error: Exception) -> _Failure:
    """Say what went wrong in words of ours: the error's own hold the statement, and maybe values."""
    if not isinstance(error, DBAPIError):
        return _Failure(
            f"the database failed ({type(error).__name__})", was_disconnected=False, is_conflict=False
        )
    code = _code(error.orig)
    reason = f"the database failed ({type(error).__name__}{'' if code is None else f' {code}'})"
    if code in _NO_TABLE or str(error.orig).startswith("no such table"):
        reason = "the table of tokens is not there: call create_table() once, or run your migrations"
    return _Failure(reason, was_disconnected=error.connection_invalidated, is_conflict=code in _CONFLICTS)


def _code(error: BaseException | None) -> str | int | None:
    """Give the SQLSTATE or the number that the driver's ``error`` has."""
    arguments = getattr(error, "args", ())
    for code in (*arguments[:1], getattr(error, "sqlstate", None), getattr(error, "pgcode", None)):
        if isinstance(code, int) or (isinstance(code, str) and len(code) == 5 and code.isalnum()):
            return code
    return None
