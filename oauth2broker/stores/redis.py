"""A store in Redis or Valkey. Needs the extra ``redis``.

A record is a hash named by prefix and ``{digest}`` (the braces are in the name: what belongs to a key is on
one node of a cluster), its lease another with ``:lease`` behind. Scripts are sent whole each time, so that
one which a server has never seen, or has forgotten, is no case of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Self, TypeVar

from oauth2broker.errors import BackendError, ConfigError
from oauth2broker.stores.base import CompareAndSwapOutcome
from oauth2broker.stores.leases import Holder
from oauth2broker.stores.redis_scripts import ADD, PROLONG, READ, RELEASE, REPLACE, SWAP, TAKE
from oauth2broker.stores.remote import Found, RemoteStore, Row
from oauth2broker.stores.sealing import RecordCipher

if TYPE_CHECKING:
    from redis import Redis, RedisCluster

Result = TypeVar("Result")

_SECONDS_PER_CALL = 2.0
_SCANNED = 500
_RAW = {"NEVER_DECODE": True}  # answers stay bytes, whatever the client is set to: damaged ones are no text
_LAPSED_FOR = 86_400_000  # milliseconds for which a lapsed lease is still known as somebody's


class RedisStore(RemoteStore):
    """Records and leases in Redis 6 or newer, or Valkey, also as a cluster or behind Sentinel.

    ``client`` is a client of redis-py, with TLS, Sentinel, cluster and passwords as the program needs them.
    Its ``socket_timeout`` and ``socket_connect_timeout`` bound how long a call to the store takes, and should
    be some two seconds (:meth:`from_url` sets them). ``prefix`` begins all keys of this store. With a
    ``cipher`` records are encrypted. What can never be used again, a tombstone or an expired token without a
    refresh token, is removed by the server after ``keep_dead``; all else stays.

    The server must keep what it has acknowledged. One that comes back empty makes users log in again; one
    that comes back with older records may have spent refresh tokens presented, which ends grants. Safe to
    use from several threads, and in a child after a fork. Raises :class:`ConfigError` when redis-py is not
    installed or an argument is none.
    """

    def __init__(
        self,
        client: Redis | RedisCluster,
        *,
        prefix: str = "oauth2broker:",
        cipher: RecordCipher | None = None,
        keep_dead: timedelta = timedelta(days=30),
    ) -> None:
        self._prefix = prefix  # before anything is raised: who reports that shows a repr of us
        redis = _import_redis()
        if isinstance(redis, ConfigError):
            raise redis
        if not isinstance(client, redis.Redis | redis.RedisCluster):
            kind = type(client).__name__
            del client  # a URL, say, with a password
            raise ConfigError(f"client is a redis.Redis or redis.RedisCluster, not {kind}")
        if not isinstance(prefix, str) or not re.fullmatch(r"[!-z|~]*", prefix):
            raise ConfigError("prefix is printable ASCII without spaces and braces")
        if not isinstance(keep_dead, timedelta) or keep_dead < timedelta(hours=1):
            raise ConfigError("keep_dead is a timedelta of an hour or more")
        super().__init__(cipher)
        self._client: Any = client  # its types leave open whether a command gives an awaitable
        self._keep_dead = keep_dead // timedelta(milliseconds=1)

    def __repr__(self) -> str:
        return f"RedisStore(prefix={self._prefix!r})"

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        prefix: str = "oauth2broker:",
        cipher: RecordCipher | None = None,
        keep_dead: timedelta = timedelta(days=30),
    ) -> Self:
        """Make one with a client of its own, whose calls take up to two seconds.

        One whose connection was lost is sent again, once. ``url`` is ``redis://``, ``rediss://`` (TLS) or
        ``unix://``, as redis-py takes it.
        """
        client = _client_of(url)
        del url  # it may hold a password; from here on nothing plain is in this frame
        if isinstance(client, ConfigError):
            raise client
        return cls(client, prefix=prefix, cipher=cipher, keep_dead=keep_dead)

    def read(self, digest: str) -> Found | None:
        text, stamp = self._held(lambda: self._eval(READ, self._key(digest)))
        return None if text is None else Found(digest, _text(text), _text(stamp))

    def add(self, row: Row) -> bool:
        return bool(self._put(ADD, row, ""))

    def swap(self, row: Row, refresh: str) -> CompareAndSwapOutcome:
        return CompareAndSwapOutcome(_text(self._put(SWAP, row, refresh)))

    def replace(self, row: Row, stamp: str) -> bool:
        return bool(self._put(REPLACE, row, stamp))

    def remove(self, digest: str) -> bool:
        return bool(self._held(lambda: self._client.delete(self._key(digest))))

    def scan(self) -> Iterator[Found]:
        """Give all records, some perhaps twice, as SCAN does."""
        for digests in self._pages():
            yield from self._read_all(digests)

    def scan_due(self, client: str, before: int) -> Iterator[Found]:
        return self._scan_by("due", client, before)

    def scan_dead(self, client: str, before: int) -> Iterator[Found]:
        return self._scan_by("dead", client, before)

    def take_lease(self, digest: str, owner: str, seconds: float, abandoned: str | None) -> Holder | None:
        held = self._lease(TAKE, digest, owner, seconds, abandoned or "")
        return None if held is None else Holder(_text(held[0]), bool(held[1]))

    def prolong_leases(self, owners: Mapping[str, str], seconds: float) -> bool:
        failed: BackendError | None = None
        prolonged = 0
        for owner, digest in owners.items():
            try:
                prolonged += self._lease(PROLONG, digest, owner, seconds)
            except BackendError as error:  # of a cluster, other nodes may be up
                failed = error
        if failed is not None:
            raise failed
        return prolonged == len(owners)

    def release_lease(self, digest: str, owner: str) -> None:
        self._lease(RELEASE, digest, owner, 0.0)

    def _put(self, script: str, row: Row, expected: str) -> Any:
        dead = (
            "" if row.dead is None or row.refresh else row.dead
        )  # a refresh token may outlive what was said
        return self._held(
            lambda: self._eval(script, self._key(row.digest), expected, dead, self._keep_dead, *_fields(row))
        )

    def _lease(self, script: str, digest: str, owner: str, seconds: float, *more: str) -> Any:
        key, milliseconds = f"{self._key(digest)}:lease", int(seconds * 1000)
        return self._held(lambda: self._eval(script, key, owner, milliseconds, _LAPSED_FOR, *more))

    def _scan_by(self, field: str, client: str, before: int) -> Iterator[Found]:
        """Give the records of ``client`` whose ``field`` is ``before`` or earlier, and read no others."""
        for digests in self._pages():
            asked = zip(digests, self._fields_of(digests, "client", field), strict=True)
            yield from self._read_all(
                [
                    digest
                    for digest, (whose, instant) in asked
                    if _text(whose) == client and _is_reached(_text(instant), before)
                ]
            )

    def _read_all(self, digests: list[str]) -> Iterator[Found]:
        for digest, (text, stamp) in zip(digests, self._fields_of(digests, "record", "stamp"), strict=True):
            if text is not None:
                yield Found(digest, _text(text), _text(stamp))

    def _fields_of(self, digests: list[str], *names: str) -> list[Any]:
        """Give these fields of these records, in one round trip; of what is no hash, nothing."""
        pipeline = self._client.pipeline(transaction=False)
        for digest in digests:
            pipeline.execute_command("HMGET", self._key(digest), *names, **_RAW)
        found = self._held(lambda: pipeline.execute(raise_on_error=False))
        return [self._held(partial(_fields_or_nothing, one, len(names))) for one in found]

    def _pages(self) -> Iterator[list[str]]:
        """Give the digests of all records, some hundred at a time; the server goes on meanwhile."""
        pattern = re.sub(r"([*?\[\]\\^])", r"\\\1", self._prefix) + "{*}"
        names = iter(self._client.scan_iter(match=pattern, count=_SCANNED))
        start, end = len(self._prefix) + 1, -1
        while page := self._held(lambda: list(islice(names, _SCANNED))):
            yield [_text(name)[start:end] for name in page]

    def _key(self, digest: str) -> str:
        return f"{self._prefix}{{{digest}}}"

    def _eval(self, script: str, key: str, *arguments: str | int) -> Any:
        """Run a script, within :meth:`_held`: ``arguments`` may hold a record."""
        return self._client.execute_command("EVAL", script, 1, key, *arguments, **_RAW)

    def _held(self, call: Callable[[], Result]) -> Result:
        """Make a :class:`BackendError` of what the client raises, whose texts may hold arguments."""
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - a program's client may have hooks that raise anything
            failed = type(error).__name__
        raise BackendError(f"Redis failed ({failed})")


def _import_redis() -> Any:
    """Give redis-py, or a :class:`ConfigError`."""
    try:
        import redis
    except ImportError:
        return ConfigError('redis is not installed: pip install "oauth2broker[redis]"')
    return redis


def _client_of(url: str) -> Redis | ConfigError:
    """Give a client, or what is wrong; never raises, so that no traceback holds the URL."""
    redis = _import_redis()
    if isinstance(redis, ConfigError):
        return redis
    once = redis.retry.Retry(redis.backoff.NoBackoff(), 1, (redis.ConnectionError,))
    try:
        client: Redis = redis.Redis.from_url(
            url, socket_timeout=_SECONDS_PER_CALL, socket_connect_timeout=_SECONDS_PER_CALL, retry=once
        )
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # does not connect, but looks at the URL's options
    except Exception as error:  # noqa: BLE001 - whatever it is, its text may be the URL
        return ConfigError(f"not a URL of a Redis server ({type(error).__name__})")
    return client


def _fields_or_nothing(found: Any, count: int) -> Any:
    """Give what a pipeline found, or raise what it failed of; but a key of another kind is not ours."""
    if isinstance(found, Exception) and not str(found).startswith("WRONGTYPE"):
        raise found
    return [None] * count if isinstance(found, Exception) else found


def _fields(row: Row) -> Iterator[str | int]:
    """Give names and values of the hash in turn."""
    yield from ("record", row.text, "stamp", row.stamp, "refresh", row.refresh)
    yield from ("revoked", int(row.is_revoked), "client", row.client)
    yield from ("due", "" if row.due is None else row.due, "dead", "" if row.dead is None else row.dead)


def _is_reached(instant: str, before: int) -> bool:
    return instant.isdecimal() and int(instant) <= before


def _text(value: bytes | str | None) -> str:
    """Give text, whether or not the client decodes answers. What is not ASCII is damaged, and no JSON."""
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else value or ""
    return text if text.isascii() else ""
