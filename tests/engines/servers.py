"""Redis (or Valkey), a Redis cluster, PostgreSQL and MariaDB for the tests."""

import itertools
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from .base import HOST, SECONDS_TO_ANSWER, Server, find, found
from .processes import wait_until

if TYPE_CHECKING:
    import psycopg
    import pymysql
    import redis

DATABASES = 1024
SLOTS = 16_384


class RedisServer(Server):
    """A Redis; with `appendonly` it loses nothing when killed, otherwise everything."""

    modules = ("redis",)

    def __init__(self, *, appendonly: bool = False, cluster: bool = False) -> None:
        """Choose whether it keeps its data, and whether it is to be a node of a cluster."""
        super().__init__()
        self._appendonly = appendonly
        self._cluster = cluster
        self._numbers = itertools.cycle(range(1, DATABASES))

    @classmethod
    def binaries(cls) -> dict[str, str | None]:
        return {"redis-server": find("redis-server", "valkey-server")}

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def new_database(self) -> str:
        """Empty the next numbered database and return its URL."""
        number = next(self._numbers)
        with self.client(number) as client:
            client.flushdb()
        return f"redis://{HOST}:{self.port}/{number}"

    def drop_database(self, url: str) -> None:
        """Empty the database."""
        with self.client(int(url.rpartition("/")[2])) as client:
            client.flushdb()

    def client(self, number: int = 0) -> "redis.Redis":
        """Return a client of one database, for the test's own looks; close it."""
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        return Redis(
            host=HOST,
            port=self.port,
            db=number,
            socket_timeout=SECONDS_TO_ANSWER,
            retry=Retry(NoBackoff(), 0),
        )

    def _command(self) -> list[str]:
        options = {
            "bind": HOST,
            "port": str(self.port),
            "dir": str(self.data),
            "databases": str(DATABASES),
            "save": "",
            "appendonly": "yes" if self._appendonly else "no",
            "appendfsync": "no",
            "rdbcompression": "no",  # what is searched for secrets is to be readable
            "cluster-enabled": "yes" if self._cluster else "no",
        }
        command = [found(self.binaries()["redis-server"])]
        return command + [word for name, value in options.items() for word in (f"--{name}", value)]

    def _ask(self) -> None:
        with self.client() as client:
            client.ping()

    def _flush(self) -> bytes:
        """Return the snapshot, which must not be there when a server without persistence starts again."""
        with self.client() as client:
            client.save()
        snapshot = self.data / "dump.rdb"
        content = snapshot.read_bytes()
        snapshot.unlink()
        return content


class RedisCluster:
    """Three primaries that share the slots, without replicas."""

    def __init__(self) -> None:
        """Reserve what the nodes need; nothing runs yet."""
        self.nodes = tuple(RedisServer(cluster=True) for _ in range(3))

    @property
    def url(self) -> str:
        """Return where redis.RedisCluster finds one node, and so all."""
        return self.nodes[0].url

    def __enter__(self) -> Self:
        """Start the nodes and return when they are one cluster."""
        with ExitStack() as started:
            for node in self.nodes:
                started.enter_context(node)
            self._assign_slots()
            wait_until(self._is_whole, "the cluster is whole")
            self._stop = started.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop all nodes."""
        self._stop.close()

    def clear(self) -> None:
        """Remove all keys from all nodes."""
        for node in self.nodes:
            with node.client() as client:
                client.flushall()

    def _assign_slots(self) -> None:
        share = SLOTS // len(self.nodes) + 1
        for index, node in enumerate(self.nodes):
            first, last = index * share, min((index + 1) * share, SLOTS) - 1
            with node.client() as client:
                client.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", index + 1)
                client.execute_command("CLUSTER MEET", HOST, self.nodes[0].port)

    def _is_whole(self) -> bool:
        return all(self._sees_all(node) for node in self.nodes)

    def _sees_all(self, node: RedisServer) -> bool:
        with node.client() as client:
            info: dict[str, str] = client.execute_command("CLUSTER INFO")
        return (info["cluster_state"], info["cluster_known_nodes"]) == ("ok", str(len(self.nodes)))


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
