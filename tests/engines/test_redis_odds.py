"""RedisStore with what it should never meet: damaged records, wrong arguments; and no secret shows."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import redis
import redis.asyncio

from oauth2broker import (
    BackendError,
    BrokerError,
    CompareAndSwapOutcome,
    ConfigError,
    RedisStore,
    SerializationError,
)
from oauth2broker.stores.leases import Holder
from oauth2broker.testing.store_contract import NOW, make_record
from tests.test_secrecy import Witness

from .conftest import OwnRedis
from .redis_stores import RECORD, SECONDS_PER_CALL, impatient, rotated

pytestmark = pytest.mark.engines

PREFIX = "oauth2broker:"
PASSWORD = "hunter2-with=0dd"
BAD_URLS = [
    f"redis://user:{PASSWORD}@host:{PASSWORD}/0",
    f"http://user:{PASSWORD}@host/0",
    f"redis://user:{PASSWORD}@host/0?socket_timeout={PASSWORD}",
    f"redis://:{PASSWORD}@host/0?no_such_option={PASSWORD}",
    f"rediss://:{PASSWORD}@host/0?ssl_cert_reqs={PASSWORD}",
]


@pytest.fixture
def store(redis_url: str) -> RedisStore:
    """Give a store in an empty database."""
    return RedisStore.from_url(redis_url)


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    """Look into the database of `store`."""
    return redis.Redis.from_url(redis_url)


@pytest.mark.parametrize("decode_responses", [False, True])
@pytest.mark.parametrize(
    "damage",
    [
        {"record": b"{"},
        {"record": b""},
        {"record": b"\xff{}"},
        {"record": "é"},
        {"record": b"[1]", "stamp": b"\xc3"},
        {"record": make_record("damaged").to_json().encode().replace(b"access-0", b"access-\xff")},
    ],
)
def test_a_damaged_record_is_named_and_left_alone(
    redis_url: str, client: redis.Redis, damage: dict[str, bytes], decode_responses: bool
) -> None:
    """FAULTS 21: reading and burying it say so by its digest; a listing leaves it out."""
    store = RedisStore(redis.Redis.from_url(redis_url, decode_responses=decode_responses))
    damaged, other = make_record("damaged"), make_record("other")
    for record in (damaged, other):
        store.save(record)
    name = f"{PREFIX}{{{damaged.key.digest}}}"
    client.hset(name, mapping=damage)  # type: ignore[arg-type]
    before = client.hgetall(name)
    with pytest.raises(SerializationError, match=damaged.key.digest):
        store.fetch(damaged.key)
    with pytest.raises(SerializationError, match=damaged.key.digest):
        store.revoke(damaged.key, NOW)
    assert client.hgetall(name) == before
    assert list(store.keys()) == [other.key]
    client.hset(name, mapping={"due": "²", "dead": "x"})
    assert list(store.keys_due("provider:eu", "client-1", NOW + timedelta(days=1))) == [other.key]
    assert store.fetch(other.key) == other


@pytest.mark.parametrize("stamp", [b"\xc3", b"\xff\x80", b"", None])
def test_a_record_whose_stamp_is_damaged_is_replaced_all_the_same(
    store: RedisStore, client: redis.Redis, stamp: bytes | None
) -> None:
    """Else a login or a logout would read and try again for ever."""
    name = f"{PREFIX}{{{RECORD.key.digest}}}"
    writes: list[Callable[[], object]] = [
        lambda: store.save(RECORD),
        lambda: store.revoke(RECORD.key, NOW),
    ]
    for write in writes:
        store.save(RECORD)
        client.hdel(name, "stamp")
        if stamp is not None:
            client.hset(name, "stamp", stamp)
        write()
    assert store.fetch(RECORD.key) == RECORD.tombstone(NOW)


def test_what_is_not_ours_at_all_is_no_record(store: RedisStore, client: redis.Redis) -> None:
    """A hash of another program under our name, without a record: there is none."""
    client.hset(f"{PREFIX}{{{RECORD.key.digest}}}", "something", "else")
    assert store.fetch(RECORD.key) is None
    assert list(store.keys()) == []
    assert store.compare_and_swap_refresh(RECORD.key, None, RECORD) is CompareAndSwapOutcome.MISSING
    assert store.fetch(replace(RECORD).key) is None


def test_a_key_of_another_kind_is_left_out_of_listings(store: RedisStore, client: redis.Redis) -> None:
    """Whoever put it under our prefix; the records are listed, found to be due, and sealed anew."""
    record = make_record()
    store.save(record)
    client.set(f"{PREFIX}{{note}}", "not ours")
    assert list(store.keys()) == [record.key]
    assert list(store.keys_due("provider:eu", "client-1", NOW + timedelta(days=400))) == [record.key]


def test_a_clock_that_was_set_back_keeps_nobody_from_a_lease(store: RedisStore) -> None:
    """One that seems to last more than twice its time counts as lapsed, and is watched like any other."""
    assert store.take_lease("key", "dead", 600.0, None) is None
    assert store.take_lease("key", "mine", 31.0, None) == Holder("dead", has_lapsed=True)
    assert store.take_lease("key", "mine", 31.0, "dead") is None


def test_a_url_in_the_place_of_a_client_is_not_shown() -> None:
    """Nor is it in the frame that raises, whose locals a crash reporter prints."""
    with pytest.raises(ConfigError) as caught:
        RedisStore("redis://:hunter2@host")  # type: ignore[arg-type]
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    ours = [frame for frame in shown.stack if frame.filename.endswith("stores/redis.py")]
    assert ours
    assert "hunter2" not in "".join(str(frame.locals) for frame in ours) + str(caught.value)


@pytest.mark.parametrize(
    ("client", "arguments", "message"),
    [
        ("a URL", {}, "client is"),
        (redis.asyncio.Redis(), {}, "client is"),
        (redis.Redis(), {"prefix": "a{b}:"}, "braces"),
        (redis.Redis(), {"prefix": "a}"}, "braces"),
        (redis.Redis(), {"prefix": "a b"}, "spaces"),
        (redis.Redis(), {"prefix": "a\n"}, "spaces"),
        (redis.Redis(), {"prefix": "é"}, "ASCII"),
        (redis.Redis(), {"prefix": b"a"}, "ASCII"),
        (redis.Redis(), {"keep_dead": timedelta(minutes=59)}, "an hour"),
        (redis.Redis(), {"keep_dead": 3600}, "an hour"),
        (redis.Redis(), {"cipher": "none"}, "cipher"),
    ],
)
def test_wrong_arguments_are_config_errors(client: Any, arguments: dict[str, Any], message: str) -> None:
    """Each says what is wrong, before anything is sent."""
    with pytest.raises(ConfigError, match=message):
        RedisStore(client, **arguments)


@pytest.mark.parametrize(
    "make", [lambda: RedisStore(redis.Redis()), lambda: RedisStore.from_url(BAD_URLS[0])]
)
def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, make: Callable[[], RedisStore]) -> None:
    """Without redis-py the error says what to install."""
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigError, match=r"oauth2broker\[redis\]") as failed:
        make()
    assert_password_hidden(failed.value)


@pytest.mark.parametrize("url", [*BAD_URLS, None, b"redis://host", 6379])
def test_a_bad_url_is_a_config_error_that_does_not_show_it(url: Any) -> None:
    """It is found at once, and neither message, context nor locals of our frames have the password."""
    with pytest.raises(ConfigError, match="not a URL of a Redis server") as failed:
        RedisStore.from_url(url)
    assert_password_hidden(failed.value)


def test_wrong_arguments_beside_a_url_do_not_show_it() -> None:
    """Nor does the client made of it stand in a frame in plain sight."""
    with pytest.raises(ConfigError, match="braces") as failed:
        RedisStore.from_url(f"redis://user:{PASSWORD}@host/0", prefix="{")
    assert_password_hidden(failed.value)


def assert_password_hidden(error: BrokerError) -> None:
    """Look at an error as a crash reporter does, at all frames but those of the tests."""
    told = traceback.TracebackException(type(error), error, error.__traceback__, capture_locals=True)
    told.stack[:] = [frame for frame in told.stack if "/tests/" not in frame.filename]
    assert PASSWORD not in "".join(told.format())
    assert error.__context__ is None


class BrokenHookError(Exception):
    """What a program's own hook raises."""


def test_whatever_a_programs_client_raises_is_a_backend_error(redis_url: str) -> None:
    """One exception that slips out after a rotation would cost the user's login."""

    class Provider(redis.CredentialProvider):
        def get_credentials(self) -> tuple[str]:
            raise BrokenHookError(PASSWORD)

    client = redis.Redis.from_url(redis_url, credential_provider=Provider())
    with pytest.raises(BackendError, match="BrokenHook") as failed:
        RedisStore(client).save(RECORD)
    assert_password_hidden(failed.value)


def calls(store: RedisStore) -> dict[str, Callable[[], object]]:
    """Give a call of each method, with secrets in what they are given."""
    key = RECORD.key
    return {
        "fetch": lambda: store.fetch(key),
        "save": lambda: store.save(RECORD),
        "swap": lambda: store.compare_and_swap_refresh(key, "refresh-0", rotated(RECORD)),
        "wrong swap": lambda: store.compare_and_swap_refresh(key, "refresh-0", make_record("other")),
        "revoke": lambda: store.revoke(key, NOW, "refresh-0"),
        "delete": lambda: store.delete(key),
        "keys": lambda: list(store.keys()),
        "keys_due": lambda: list(store.keys_due("provider:eu", "client-1", NOW)),
        "keys_dead": lambda: list(store.keys_dead("provider:eu", "client-1", NOW)),
        "lease": lambda: store.refresh_lease(key, timeout=0).__enter__(),
    }


def error_of(call: Callable[[], object]) -> BrokerError | None:
    """Give what a call raises."""
    try:
        call()
    except BrokerError as error:
        return error
    return None


@pytest.mark.parametrize("trouble", ["hangs", "is gone", "holds something else"])
def test_no_secret_shows_when_the_server_fails(
    own_redis: OwnRedis, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    """Every call ends in a StoreError, within its bound; errors, frames, reprs and logs show no token."""
    caplog.set_level(logging.DEBUG)
    server = own_redis()
    store, witness = RedisStore(impatient(server.url)), Witness()
    for secret in ("access-0", "refresh-0", "access-1", "refresh-1", "header.payload.signature"):
        witness.learn("a token", secret)
    store.save(RECORD)
    if trouble == "hangs":
        server.pause()
    elif trouble == "is gone":
        server.kill()
    else:
        with server.client() as client:
            client.set(f"{PREFIX}{{{RECORD.key.digest}}}", "refresh-0")
            client.set(f"{PREFIX}{{{RECORD.key.digest}}}:lease", "refresh-0")
    for name, call in calls(store).items():
        began = time.monotonic()
        error = error_of(call)
        assert time.monotonic() - began < 2 * (2 * SECONDS_PER_CALL) + 1.0
        if error is None:
            assert trouble == "holds something else"
            assert name in {"save", "delete", "keys", "keys_due", "keys_dead"}
        else:
            assert type(error) is (ConfigError if name == "wrong swap" else BackendError)
            assert error.__context__ is None
            witness.see_error(error)
    witness.see("the store", store)
    for record in caplog.records:
        witness.see_log(record)
    witness.assert_silence()
