"""Stores in engines that hosts share, with ten records and with a million."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count, islice

import redis
from sqlalchemy import create_engine, insert

from benchmarks.measure import Measurement, Rounds, one, take_turns
from benchmarks.ours import DESCRIPTOR, USER, make_record
from benchmarks.provider import CLIENT_ID
from benchmarks.setting import Setting
from benchmarks.tables import Bar, Bars, Column, Kind, Relation, Row, Section, Table, Verdict
from oauth2broker import (
    CachedTokenRequest,
    GrantType,
    RedisStore,
    SQLAlchemyStore,
    StoreKey,
    TokenRecord,
)
from oauth2broker.stores.sqlalchemy import build_table
from tests.engines.servers import MariaDbServer, PostgresServer, RedisServer

Store = RedisStore | SQLAlchemyStore

ABOUT = """\
Each engine with so many records, measured by turns; which record is random every time. The servers are those
that the tests start: on this machine, reached over loopback, with default sizes of their caches, and not
waiting for the disk at a commit, so what a disk and a network add is not in here. A swap is what ends a
renewal; a lease is taken and released. "What is due" lists the ten records that are, among all others."""

LISTING = "what is due"
OPERATIONS = ("fetch", "swap", "lease", LISTING)
DUE = 10
_SAMPLED = 1_000
_WRITTEN_AT_ONCE = 5_000
_SOON = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Filled:
    """A store with so many records, and some of them that are read and written."""

    store: Store
    keys: Sequence[StoreKey]


def run(setting: Setting) -> Section:
    """Fill each engine that is here, then measure them by turns."""
    sizes = setting.choose((10, 10_000, 1_000_000), (10, 100, 1_000))
    with ExitStack() as servers:
        measurements: dict[str, Measurement] = {}
        names = []
        for name, make_place in _places(setting, servers).items():
            names.append(name)
            for size in sizes:
                operations = _operations(_fill(make_place(), size))
                measurements |= {f"{name}, {work}/{size}": act for work, act in operations.items()}
        listings = {name: act for name, act in measurements.items() if LISTING in name}
        others = {name: act for name, act in measurements.items() if LISTING not in name}
        often = take_turns(others, setting.choose(200, 10))
        seldom = take_turns(listings, setting.choose(5, 3))  # where there is no index, it takes its time
    rounds = Rounds({**often.samples, **seldom.samples})
    return Section(
        title="Engines and the number of records",
        about=ABOUT,
        tables=[_table(names, sizes, rounds)],
        verdicts=_verdicts(names, sizes, rounds),
        chart=Bars(
            f"Engines: time of an operation with {max(sizes):,} records",
            Kind.SECONDS,
            [
                Bar(name, rounds.median(f"{name}, {work}/{max(sizes)}"), ours=True, group=work)
                for work in OPERATIONS
                for name in names
            ],
            logarithmic=True,
        ),
    )


# The engines.


def _places(setting: Setting, servers: ExitStack) -> Mapping[str, Callable[[], str]]:
    """Give, for each engine that is installed here, what gives the URL of an empty place in it."""
    folder, numbers = setting.folder("sqlite"), count()
    found: dict[str, Callable[[], str]] = {"SQLite": lambda: f"sqlite:///{folder}/{next(numbers)}.db"}
    for name, kind in (("Redis", RedisServer), ("PostgreSQL", PostgresServer), ("MariaDB", MariaDbServer)):
        if missing := kind.missing():
            setting.failures[name] = f"not installed: {', '.join(missing)}"
        else:
            found[name] = servers.enter_context(kind()).new_database
    return found


def _open(url: str) -> Store:
    if url.startswith("redis"):
        return RedisStore.from_url(url)
    store = SQLAlchemyStore(url)
    store.create_table()
    return store


# What is in them.


def _fill(url: str, size: int) -> Filled:
    """Write so many records in bulk, ten of which are due, and remember the keys of some."""
    store = _open(url)
    sampled: list[StoreKey] = []

    def records() -> Iterator[TokenRecord]:
        for number in range(size):
            request = CachedTokenRequest("tenant-acme", f"neighbour-{number}", USER.scope)
            record = make_record(request, GrantType.AUTHORIZATION_CODE)
            if number < DUE:
                record = replace(record, expires_at=datetime.now(UTC) + _SOON)
            if number % max(1, size // _SAMPLED) == 0:
                sampled.append(record.key)
            yield record

    bulk = _write_to_redis if isinstance(store, RedisStore) else _write_to_table
    left = records()
    while some := list(islice(left, _WRITTEN_AT_ONCE)):
        bulk(url, store, some)
    return Filled(store, sampled)


def _write_to_redis(url: str, _: Store, records: Sequence[TokenRecord]) -> None:
    with redis.Redis.from_url(url) as client:
        pipeline = client.pipeline(transaction=False)
        queued = RedisStore(pipeline)  # its calls are made when the pipeline is executed
        for record in records:
            queued.add(queued.build_row(record))
        pipeline.execute()


def _write_to_table(url: str, store: Store, records: Sequence[TokenRecord]) -> None:
    rows = [store.build_row(record) for record in records]
    values = [
        {
            "key_digest": row.digest,
            "record": row.text,
            "stamp": row.stamp,
            "refresh_digest": row.refresh,
            "revoked": row.is_revoked,
            "client_digest": row.client,
            "due_at": row.due,
            "dead_at": row.dead,
        }
        for row in rows
    ]
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(insert(build_table()), values)
    engine.dispose()


# What is measured.


def _operations(filled: Filled) -> Mapping[str, Measurement]:
    return {
        "fetch": _on_any(filled, filled.store.fetch),
        "swap": _on_any(filled, partial(_swap, filled.store)),
        "lease": _on_any(filled, partial(_lease, filled.store)),
        LISTING: one(partial(_list_due, filled.store)),
    }


def _on_any(filled: Filled, act: Callable[[StoreKey], object]) -> Measurement:
    return lambda: one(partial(act, *random.sample(filled.keys, 1)))()


def _swap(store: Store, key: StoreKey) -> None:
    """Fetch and swap, as who renews does. What is swapped in is the same, to be found again."""
    record = store.fetch(key)
    if record is None or store.compare_and_swap_refresh(key, record.refresh_token, record) != "updated":
        raise RuntimeError("a record is not there any more")


def _lease(store: Store, key: StoreKey) -> None:
    with store.refresh_lease(key, timeout=0) as is_ours:
        if not is_ours:
            raise RuntimeError("somebody else has the lease")


def _list_due(store: Store) -> None:
    found = list(store.keys_due(DESCRIPTOR.id, CLIENT_ID, datetime.now(UTC) + 2 * _SOON))
    if len(found) != DUE:
        raise RuntimeError(f"{len(found)} records are due, not {DUE}")


# What is told of it.


def _verdicts(names: Sequence[str], sizes: Sequence[int], rounds: Rounds) -> list[Verdict]:
    least, most = min(sizes), max(sizes)
    return [
        Verdict(
            f"{name}, {work}: {most:,} records, times {least:,}",
            rounds.ratio(f"{name}, {work}/{most}", f"{name}, {work}/{least}"),
            Relation.AT_MOST,
            2.0,
        )
        for name in names
        for work in OPERATIONS
        if (name, work) != ("Redis", LISTING)  # it has no index, and says so
    ]


def _table(names: Sequence[str], sizes: Sequence[int], rounds: Rounds) -> Table:
    least, most = min(sizes), max(sizes)
    rows = [
        Row(
            f"{name}, {work}",
            [
                *(rounds.median(f"{name}, {work}/{size}") for size in sizes),
                rounds.ratio(f"{name}, {work}/{most}", f"{name}, {work}/{least}"),
            ],
            ours=True,
        )
        for name in names
        for work in OPERATIONS
    ]
    columns = [
        *(Column(f"{size:,} records", Kind.SECONDS) for size in sizes),
        Column(f"{most:,} of {least:,}", Kind.RATIO),
    ]
    return Table("One operation", columns, rows)
