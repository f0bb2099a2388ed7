"""A store in a PostgreSQL, MariaDB, MySQL or SQLite database. Needs the extra ``sql``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from oauth2broker.errors import BackendError, ConfigError
from oauth2broker.forking import forget_in_children
from oauth2broker.secret import TokenSecret
from oauth2broker.stores.base import CompareAndSwapOutcome
from oauth2broker.stores.leases import Holder
from oauth2broker.stores.remote import Found, RemoteStore, Row
from oauth2broker.stores.sealing import RecordCipher

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine, Executable, MetaData, Table

    from oauth2broker.stores.sql_engine import Answer

_TABLE: Final = "oauth2broker_tokens"
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,49}")  # with room for the names of its indexes
_MOST_OWNERS: Final = 200  # that one statement prolongs


class SQLAlchemyStore(RemoteStore):
    """Records and leases in one table of a database that hosts share.

    ``engine_or_url``: an SQLAlchemy engine, or a URL. ``table`` is its name; :meth:`create_table` makes it,
    or your migrations do (``docs/sql_store.rst``). Records are plain text in it unless there is a ``cipher``.

    Every statement runs in autocommit on a connection of its own, so that nothing that the caller's
    transactions do undoes a rotation, and a record is as durable as the database makes a commit when the call
    returns. What takes several statements (adding a row, taking a lease) may end between any two. Nothing
    that SQLAlchemy logs or raises shows a token: its errors become :class:`BackendError`.

    An engine made from a URL of psycopg, psycopg2, PyMySQL or SQLite has bounds: 3 s to connect, 5 s for a
    statement, 5 s for a free connection of its pool. One of yours, or of another driver, needs bounds like
    these, or a database that hangs hangs its callers: the driver's ``connect_timeout``; ``read_timeout`` and
    ``write_timeout`` (PyMySQL); ``statement_timeout`` and ``tcp_user_timeout`` (PostgreSQL);
    ``pool_timeout``, and a pool with room beside what your transactions hold. An SQLite file made from a URL
    is its owner's alone, in WAL mode, with full synchronization.

    Safe to use from several threads, and in a child after a fork. Raises :class:`ConfigError` when
    SQLAlchemy is not installed, for another database, for an async engine, and for one whose pool gives
    everybody the same connection.
    """

    _shown = ""  # until it is made: whoever reports why it could not be shows it

    def __init__(
        self,
        engine_or_url: Engine | URL | str,
        *,
        table: str = _TABLE,
        cipher: RecordCipher | None = None,
    ) -> None:
        _require_sqlalchemy()
        from oauth2broker.stores.sql_engine import Database, open_engine
        from oauth2broker.stores.sql_schema import build_statements

        engine = open_engine(engine_or_url)
        del engine_or_url  # it may hold a password
        if isinstance(engine, ConfigError):
            raise engine
        super().__init__(cipher)
        self._table = build_table(None, table)
        self._database = Database(engine)
        self._ask = build_statements(self._table, engine.dialect.name)
        self._shown = f"{self._database!r}, table={table!r}"
        forget_in_children(self)

    def __repr__(self) -> str:
        return f"SQLAlchemyStore({self._shown})"

    def create_table(self) -> None:
        """Create the table and its indexes if they are missing. Several processes may do so at once."""
        self._database.create(self._table)

    def close(self) -> None:
        """Close the connections that nobody uses, also those of an engine of yours. The store can go on."""
        self._database.engine.dispose()

    def forget_after_fork(self) -> None:
        """The connections are the parent's."""
        self._database.forget_connections()

    # Records.

    def read(self, digest: str) -> Found | None:
        return next(_found(self._run(self._ask.read, digest=digest)), None)

    def add(self, row: Row) -> bool:
        values = _values(row)
        if self._change(self._ask.fill, **values):
            return True
        self._change(self._ask.make_room, digest=row.digest)
        return self._change(self._ask.fill, **values) > 0 or self._is_there(row)

    def swap(self, row: Row, refresh: str) -> CompareAndSwapOutcome:
        while not self._change(self._ask.swap, expected=refresh, **_values(row)):
            found = self._run(self._ask.look, digest=row.digest).rows
            if not found:
                return CompareAndSwapOutcome.MISSING
            [one] = found
            if one.stamp == row.stamp:  # it was ours, and the answer was lost
                return CompareAndSwapOutcome.UPDATED
            if one.revoked or one.refresh_digest != refresh:
                return CompareAndSwapOutcome.REFRESH_MISMATCH
        return CompareAndSwapOutcome.UPDATED

    def replace(self, row: Row, stamp: str) -> bool:
        return self._change(self._ask.replace, expected=stamp, **_values(row)) > 0 or self._is_there(row)

    def remove(self, digest: str) -> bool:
        was_there = self._change(self._ask.remove, digest=digest) > 0
        self._change(self._ask.drop_if_empty, digest=digest)
        return was_there

    def scan(self) -> Iterator[Found]:
        after = ""
        while (answer := self._run(self._ask.scan, after=after)).rows:
            yield from _found(answer)
            after = answer.rows[-1].key_digest

    def scan_due(self, client: str, before: int) -> Iterator[Found]:
        return self._pages(self._ask.scan_due, client, before)

    def scan_dead(self, client: str, before: int) -> Iterator[Found]:
        self._drop_abandoned()
        return self._pages(self._ask.scan_dead, client, before)

    # Leases.

    def take_lease(self, digest: str, owner: str, seconds: float, abandoned: str | None) -> Holder | None:
        asked = {"digest": digest, "milliseconds": int(seconds * 1000)}
        wanted = {**asked, "owner": owner}
        while not self._change(self._ask.take_free, abandoned=abandoned, **wanted):
            for holder in self._run(self._ask.look_at_lease, **asked).rows:
                return Holder(holder.lease_owner, bool(holder.has_lapsed))
            if self._change(self._ask.take_new, **wanted):
                break
        return None

    def prolong_leases(self, owners: Mapping[str, str], seconds: float) -> bool:
        left, milliseconds, prolonged = iter(owners.items()), int(seconds * 1000), 0
        while some := dict(islice(left, _MOST_OWNERS)):
            names, digests = list(some), list(some.values())
            prolonged += self._change(
                self._ask.prolong, owners=names, digests=digests, milliseconds=milliseconds
            )
        return prolonged == len(owners)

    def release_lease(self, digest: str, owner: str) -> None:
        self._change(self._ask.release, digest=digest, owner=owner)
        self._change(self._ask.drop_if_empty, digest=digest)

    # How.

    def _is_there(self, row: Row) -> bool:
        """Whether a write whose answer was lost has come: it was ours, and there is nothing newer."""
        return [one.stamp for one in self._run(self._ask.look, digest=row.digest).rows] == [row.stamp]

    def _run(self, statement: Executable, **parameters: Any) -> Answer:
        return self._database.run(statement, {f"b_{name}": value for name, value in parameters.items()})

    def _change(self, statement: Executable, **parameters: Any) -> int:
        """Run it, and give how many rows it changed; a guess would give one lease to two."""
        count = self._run(statement, **parameters).count
        if count < 0:
            raise BackendError("the database's driver does not say how many rows a statement changed")
        return count

    def _pages(self, statement: Executable, client: str, before: int) -> Iterator[Found]:
        """Give rows in order of time and key, each page by a statement of its own."""
        from oauth2broker.stores.sql_schema import START

        since, after = START, ""
        wanted = {"client": client, "before": before}
        while (answer := self._run(statement, since=since, after=after, **wanted)).rows:
            yield from _found(answer)
            since, after = answer.rows[-1].at, answer.rows[-1].key_digest

    def _drop_abandoned(self) -> None:
        """Take away what killed holders left: leases that lapsed a day ago, of keys without a record."""
        for row in self._run(self._ask.list_abandoned).rows:
            self._change(self._ask.drop_if_abandoned, digest=row.key_digest)


def build_table(metadata: MetaData | None = None, name: str = _TABLE) -> Table:
    """Give the table that the store uses, in ``metadata``, for migrations. Raises :class:`ConfigError`."""
    _require_sqlalchemy()
    from sqlalchemy import MetaData

    from oauth2broker.stores import sql_schema

    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError("a table's name is up to 50 ASCII letters, digits and underscores")
    return sql_schema.build_table(MetaData() if metadata is None else metadata, name)


def _require_sqlalchemy() -> None:
    try:
        from sqlalchemy import __version__ as version
    except ImportError:
        version = "0"
    if [int(number) for number in re.findall(r"\d+", version)[:3]] < [2, 0, 43]:
        raise ConfigError('SQLAlchemy 2.0.43 or newer is not installed: pip install "oauth2broker[sql]"')


def _values(row: Row) -> dict[str, Any]:
    return {
        "digest": row.digest,
        "record": TokenSecret(row.text),
        "stamp": row.stamp,
        "refresh_digest": row.refresh,
        "revoked": row.is_revoked,
        "client_digest": row.client,
        "due_at": row.due,
        "dead_at": row.dead,
    }


def _found(answer: Answer) -> Iterator[Found]:
    return (Found(row.key_digest, row.text.expose(), row.stamp) for row in answer.rows)
