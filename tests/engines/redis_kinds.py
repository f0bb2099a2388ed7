"""Other ways to run Redis: with TLS, as a replica, watched by Sentinel."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .base import HOST, SECONDS_TO_ANSWER
from .processes import wait_until
from .redis_servers import RedisServer

MASTER = "the-master"


class TlsRedis(RedisServer):
    """A Redis that speaks TLS only, and wants a client's certificate of the CA."""

    def __init__(self, certificates: Path) -> None:
        """Take `ca`, `server` and `tls-client` from a folder; nothing runs yet."""
        super().__init__()
        self.certificates = certificates

    def client(self, number: int = 0, **options: object) -> redis.Redis:
        """Return a client that shows its certificate, as a program would make it; close it."""
        arguments: dict[str, object] = {
            "ssl": True,
            "ssl_ca_certs": str(self.certificates / "ca.pem"),
            "ssl_certfile": str(self.certificates / "tls-client.pem"),
            "ssl_keyfile": str(self.certificates / "tls-client.key"),
            "socket_timeout": SECONDS_TO_ANSWER,
            "retry": Retry(NoBackoff(), 0),
            **options,
        }
        made: redis.Redis = redis.Redis(host=HOST, port=self.port, db=number, **arguments)  # type: ignore[arg-type]
        return made

    def _command(self) -> list[str]:
        command = super()._command()
        command[command.index("--port") + 1] = "0"
        options = {
            "--tls-port": str(self.port),
            "--tls-ca-cert-file": f"{self.data}/ca.pem",
            "--tls-cert-file": f"{self.data}/server.pem",
            "--tls-key-file": f"{self.data}/server.key",
        }
        return command + [word for pair in options.items() for word in pair]

    def _create(self) -> None:
        super()._create()
        for name in ("ca.pem", "server.pem", "server.key"):
            copy = self.data / name
            copy.write_bytes((self.certificates / name).read_bytes())
            copy.chmod(0o444)  # the server may run as another user


class SentinelServer(RedisServer):
    """A Sentinel, which watches a master and makes its replica the master when it is gone."""

    def watch(self, master: RedisServer) -> None:
        """Watch `master`, and take it for dead after half a second of silence."""
        with self.client() as client:
            client.execute_command("SENTINEL", "MONITOR", MASTER, HOST, master.port, 1)
            for name, value in (("down-after-milliseconds", 500), ("failover-timeout", 5000)):
                client.execute_command("SENTINEL", "SET", MASTER, name, value)

    def knows_replica(self) -> bool:
        """Whether it has found the master's replica, without which there is no failover."""
        with self.client() as client:
            replicas = client.execute_command("SENTINEL", "REPLICAS", MASTER)
        return bool(replicas)

    def _create(self) -> None:
        super()._create()
        self.run("sh", "-c", f"echo port {self.port} > {self.data}/sentinel.conf")

    def _command(self) -> list[str]:
        return [super()._command()[0], f"{self.data}/sentinel.conf", "--sentinel", "--bind", HOST]


class Pair:
    """A master and its replica."""

    def __init__(self) -> None:
        """Reserve what they need; nothing runs yet."""
        self.master, self.replica = RedisServer(), RedisServer()

    def __enter__(self) -> Self:
        """Start both and return when the replica follows."""
        with ExitStack() as started:
            started.enter_context(self.master)
            started.enter_context(self.replica)
            with self.master.client() as client:
                client.config_set("repl-diskless-sync-delay", 0)
            with self.replica.client() as client:
                client.replicaof(HOST, str(self.master.port))
                wait_until(lambda: self._follows(client), "the replica follows")
            self._stop = started.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop both."""
        self._stop.close()

    def settle(self) -> None:
        """Return when the replica has all that the master has."""
        with self.master.client() as client:
            wait_until(lambda: self._has_all(client), "the replica has all")

    def _has_all(self, client: redis.Redis) -> bool:
        told = client.info("replication")
        return bool(told["slave0"]["offset"] == told["master_repl_offset"])

    @staticmethod
    def _follows(client: redis.Redis) -> bool:
        return bool(client.info("replication")["master_link_status"] == "up")
