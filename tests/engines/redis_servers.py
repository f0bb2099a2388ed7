"""Redis (or Valkey), alone and as a cluster."""

import itertools
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from .base import HOST, SECONDS_TO_ANSWER, Server, find, found
from .processes import wait_until

if TYPE_CHECKING:
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
