"""PostgreSQL, also behind a pooler, and MariaDB."""

import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .base import HOST, SECONDS_TO_ANSWER, Server, find, found
from .processes import wait_until

if TYPE_CHECKING:
    import psycopg
    import pymysql


class PostgresServer(Server):
    """A PostgreSQL, the newest that is installed."""

    modules = ("psycopg", "sqlalchemy")

    @classmethod
    def binaries(cls) -> dict[str, str | None]:
        folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
        newest = folders[-1] if folders else Path()
        return {name: find(str(newest / name)) for name in ("postgres", "initdb")}

    @property
    def url(self) -> str:
        return self._url("postgres")

    def new_database(self) -> str:
        name = f"test_{secrets.token_hex(8)}"
        self._execute("CREATE DATABASE {}", name)
        return self._url(name)

    def drop_database(self, url: str) -> None:
        self._execute("DROP DATABASE {} WITH (FORCE)", url.rpartition("/")[2])

    def connect(self, database: str = "postgres") -> "psycopg.Connection":
        """Return a connection in autocommit mode, for the test's own looks; close it."""
        import psycopg

        return psycopg.connect(
            host=HOST,
            port=self.port,
            user="tests",
            dbname=database,
            autocommit=True,
            connect_timeout=SECONDS_TO_ANSWER,
        )

    def _url(self, database: str) -> str:
        return f"postgresql+psycopg://tests@{HOST}:{self.port}/{database}"

    def _execute(self, statement: Any, name: str) -> None:
        from psycopg import sql

        with self.connect() as connection:
            connection.execute(sql.SQL(statement).format(sql.Identifier(name)))

    def _create(self) -> None:
        initdb = found(self.binaries()["initdb"])
        self.run(
            initdb,
            "-D",
            str(self.data),
            "-U",
            "tests",
            "-E",
            "UTF8",
            "--auth=trust",
            "--no-sync",
            "--wal-segsize=1",
        )

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            "dynamic_shared_memory_type": "mmap",  # files in the data folder: nothing is left elsewhere
            "fsync": "off",
        }
        command = [found(self.binaries()["postgres"]), "-D", str(self.data)]
        return command + [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]

    def _ask(self) -> None:
        with self.connect() as connection:
            connection.execute("SELECT 1")

    def stop(self) -> None:
        """End it and remove its data, and the System V segment that it has for a lock on them."""
        self.kill()
        lock = self.data / "postmaster.pid"
        if lock.exists():
            segment = lock.read_text(encoding="utf-8").splitlines()[6].split()[1]
            subprocess.run(["ipcrm", "-m", segment], check=True)
        super().stop()

    def _flush(self) -> bytes:
        """Return all rows uncompressed: long values are compressed in the files."""
        with self.connect() as connection:
            connection.execute("CHECKPOINT")
            databases = connection.execute("SELECT datname FROM pg_database WHERE datallowconn").fetchall()
        return b"\0".join(row for (name,) in databases for row in self._rows(name))

    def _rows(self, database: str) -> Iterator[bytes]:
        from psycopg import sql

        with self.connect(database) as connection:
            tables = connection.execute(
                "SELECT schemaname, tablename FROM pg_tables"
                " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
            ).fetchall()
            for table in tables:
                copy = sql.SQL("COPY {} TO STDOUT (FORMAT binary)").format(sql.Identifier(*table))
                with connection.cursor().copy(copy) as rows:
                    yield from map(bytes, rows)


class PgBouncer(PostgresServer):
    """A PgBouncer before a PostgreSQL: each transaction gets whatever connection is free, of a few."""

    def __init__(self, postgres: PostgresServer) -> None:
        super().__init__()
        self._postgres = postgres

    @classmethod
    def binaries(cls) -> dict[str, str | None]:
        return {"pgbouncer": find("pgbouncer")}

    @property
    def _settings(self) -> Path:
        return self.folder / "pgbouncer.ini"

    def _create(self) -> None:
        self.data.mkdir()
        users = self.data / "users.txt"
        users.write_text('"tests" ""\n', encoding="utf-8")
        settings = {
            "listen_addr": HOST,
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": users,
            "pool_mode": "transaction",
            "default_pool_size": 3,
        }
        lines = "\n".join(f"{name} = {value}" for name, value in settings.items())
        self._settings.write_text(
            f"[databases]\n* = host={HOST} port={self._postgres.port}\n[pgbouncer]\n{lines}\n",
            encoding="utf-8",
        )

    def _command(self) -> list[str]:
        return [found(self.binaries()["pgbouncer"]), str(self._settings)]


class MariaDbServer(Server):
    """A MariaDB with InnoDB."""

    modules = ("pymysql", "sqlalchemy")

    @classmethod
    def binaries(cls) -> dict[str, str | None]:
        return {name: find(name) for name in ("mariadbd", "mariadb-install-db")}

    @property
    def url(self) -> str:
        return self._url("mysql")

    def new_database(self) -> str:
        name = f"test_{secrets.token_hex(8)}"
        self._execute(f"CREATE DATABASE {name}")
        return self._url(name)

    def drop_database(self, url: str) -> None:
        self._execute(f"DROP DATABASE {url.rpartition('/')[2].partition('?')[0]}")

    def connect(self, database: str | None = None) -> "pymysql.Connection[Any]":
        """Return a connection in autocommit mode, for the test's own looks; close it."""
        import pymysql

        return pymysql.connect(
            host=HOST,
            port=self.port,
            user="root",
            database=database,
            autocommit=True,
            connect_timeout=SECONDS_TO_ANSWER,
            read_timeout=SECONDS_TO_ANSWER,
        )

    def _url(self, database: str) -> str:
        return f"mariadb+pymysql://root@{HOST}:{self.port}/{database}?charset=utf8mb4"

    def _execute(self, statement: str) -> list[tuple[Any, ...]]:
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    def _create(self) -> None:
        install = found(self.binaries()["mariadb-install-db"])
        self.run(install, *self._options(), "--auth-root-authentication-method=normal", "--skip-test-db")

    def _command(self) -> list[str]:
        return [found(self.binaries()["mariadbd"]), *self._options()]

    def _options(self) -> list[str]:
        return [
            "--no-defaults",
            f"--datadir={self.data}",
            f"--tmpdir={self.folder}",
            f"--socket={self.folder}/socket",
            f"--pid-file={self.folder}/pid",
            f"--bind-address={HOST}",
            f"--port={self.port}",
            "--skip-name-resolve",
            "--character-set-server=utf8mb4",
            "--innodb-flush-log-at-trx-commit=2",
            "--innodb-flush-method=nosync",
            "--innodb-buffer-pool-size=64M",
            "--innodb-log-file-size=16M",
            "--innodb-io-capacity=20000",  # pages per second that `dump` waits for
        ]

    def _ask(self) -> None:
        self.connect().close()

    def _flush(self) -> bytes:
        self._execute("SET GLOBAL innodb_max_dirty_pages_pct_lwm = 0, GLOBAL innodb_max_dirty_pages_pct = 0")
        wait_until(lambda: self._dirty_pages() == 0, "all pages are on disk")
        return b""

    def _dirty_pages(self) -> int:
        [[_, count]] = self._execute("SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages_dirty'")
        return int(count)
