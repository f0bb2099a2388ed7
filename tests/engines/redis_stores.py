"""Stores on Redis whose leases lapse soon, and what tests ask the server itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from oauth2broker import RedisStore, StoreKey, TokenRecord, TokenSecret
from oauth2broker.stores.leases import LeaseTimes
from oauth2broker.testing.store_contract import make_record

from .redis_servers import RedisServer

WATCH = 1.0
PATIENCE = 30.0  # seconds; far more than anything here takes
SECONDS_PER_CALL = 0.5


class QuickStore(RedisStore):
    """Whose leases lapse after a second and a half, and are watched for one."""

    _times = LeaseTimes(duration=1.5, watch=WATCH, beat=0.2, retry=0.1)


class SilentStore(RedisStore):
    """Like `QuickStore`, of a process that died or is cut off: it never prolongs a lease."""

    _times = LeaseTimes(duration=0.2, watch=WATCH, beat=3600.0, retry=3600.0)


def impatient(url: str) -> redis.Redis:
    """Connect like a program that waits for half a second and does not try again."""
    return redis.Redis.from_url(
        url,
        socket_timeout=SECONDS_PER_CALL,
        socket_connect_timeout=SECONDS_PER_CALL,
        retry=Retry(NoBackoff(), 0),
    )


def rotated(record: TokenRecord, number: int = 1) -> TokenRecord:
    """Give what a renewal puts in the place of `record`."""
    return replace(
        record,
        access_token=TokenSecret(f"access-{number}"),
        refresh_token=TokenSecret(f"refresh-{number}"),
    )


def can_lease(store: RedisStore, key: StoreKey, timeout: float = 0.0) -> bool:
    """Whether the lease of `key` is to be had within `timeout` seconds; it is let go at once."""
    with store.refresh_lease(key, timeout=timeout) as is_ours:
        return is_ours


def has_lapsed(client: redis.Redis) -> bool:
    """Whether the only lease on the server has lapsed, by the server's clock."""
    [name] = client.keys("*:lease")
    ends = int(client.hget(name, "until") or 0)
    seconds, microseconds = client.time()
    return ends <= seconds * 1000 + microseconds // 1000


@contextmanager
def watched(server: RedisServer, url: str) -> Iterator[list[str]]:
    """Give a list of all that is told meanwhile to this database, also by scripts, as the server shows it."""
    number = int(url.rpartition("/")[2])
    told: list[str] = []
    with server.client() as client, client.monitor() as monitor:
        yield told
        with server.client() as marker:
            marker.echo("that was all")
        while "that was all" not in str((seen := monitor.next_command())["command"]):
            if seen["db"] == number:
                told.append(str(seen["command"]))


@contextmanager
def holding(store: RedisStore, key: StoreKey) -> Iterator[threading.Event]:
    """Hold a lease in another thread until the block ends, or the event given is set."""
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with store.refresh_lease(key, timeout=0) as is_ours:
            if is_ours:
                held.set()
            let_go.wait(PATIENCE)

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    assert held.wait(PATIENCE)
    try:
        yield let_go
    finally:
        let_go.set()
        holder.join(PATIENCE)
        assert not holder.is_alive()


RECORD = make_record()
