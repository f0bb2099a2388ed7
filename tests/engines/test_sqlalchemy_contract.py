"""SQLAlchemyStore keeps the contract of stores on SQLite, PostgreSQL (also behind PgBouncer) and MariaDB."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine

from oauth2broker import SQLAlchemyStore
from oauth2broker.stores.leases import LeaseTimes
from oauth2broker.testing.store_contract import StoreContract


class BriskStore(SQLAlchemyStore):
    """The store, with leases that lapse within the patience of a test."""

    _times = LeaseTimes(duration=4.0, watch=0.3, beat=0.3, retry=0.1)


class SQLAlchemyContract(StoreContract):
    """What the engines have in common: the folder of a test holds the URL, for the processes it starts."""

    opened: list[BriskStore] = []  # noqa: RUF012 - of one process, which closes them

    def open_store(self, place: Path) -> BriskStore:
        store = BriskStore(self.engine((place / "url").read_text(encoding="utf-8")))
        self.opened.append(store)
        return store

    def engine(self, url: str) -> Engine | str:
        """Give what the store is made of."""
        return url

    def prepare(self, place: Path, url: str) -> Iterator[None]:
        """Have a database with the table while a test runs."""
        (place / "url").write_text(url, encoding="utf-8")
        self.open_store(place).create_table()
        yield
        while self.opened:
            self.opened.pop().close()


class TestSQLite(SQLAlchemyContract):
    """In a file."""

    @pytest.fixture(autouse=True)
    def _database(self, tmp_path: Path) -> Iterator[None]:
        yield from self.prepare(tmp_path, f"sqlite:///{tmp_path / 'tokens.db'}")


@pytest.mark.engines
class TestPostgres(SQLAlchemyContract):
    """By psycopg."""

    @pytest.fixture(autouse=True)
    def _database(self, tmp_path: Path, postgres_url: str) -> Iterator[None]:
        yield from self.prepare(tmp_path, postgres_url)


@pytest.mark.engines
class TestPsycopg2(SQLAlchemyContract):
    """By the older driver."""

    @pytest.fixture(autouse=True)
    def _database(self, tmp_path: Path, postgres_url: str) -> Iterator[None]:
        yield from self.prepare(tmp_path, postgres_url.replace("+psycopg:", "+psycopg2:"))


@pytest.mark.engines
class TestPgBouncer(SQLAlchemyContract):
    """By psycopg, in transaction mode, with an engine as ``docs/sql_store.rst`` makes it."""

    def engine(self, url: str) -> Engine | str:
        return create_engine(
            url,
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
            connect_args={"connect_timeout": 3, "tcp_user_timeout": 5000, "prepare_threshold": None},
        )

    @pytest.fixture(autouse=True)
    def _database(self, tmp_path: Path, pgbouncer_url: str) -> Iterator[None]:
        yield from self.prepare(tmp_path, pgbouncer_url)


@pytest.mark.engines
class TestMariaDb(SQLAlchemyContract):
    """By PyMySQL."""

    @pytest.fixture(autouse=True)
    def _database(self, tmp_path: Path, mariadb_url: str) -> Iterator[None]:
        yield from self.prepare(tmp_path, mariadb_url)
