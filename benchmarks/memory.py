"""What a record takes in memory, and what is left of a million keys that came and went."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import secrets
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.ours import DESCRIPTOR, USER, user_records
from benchmarks.provider import CLIENT_ID, CLIENT_SECRET
from benchmarks.setting import Setting
from benchmarks.tables import Column, Kind, Relation, Row, Section, Table, Verdict
from oauth2broker import (
    Broker,
    CachedTokenRequest,
    HttpRequest,
    HttpResponse,
    MemoryStore,
    ResponseMetadataSlot,
)

ABOUT = """\
First: a MemoryStore with many users' records, each with two tokens of 43 characters, traced by tracemalloc.
Beside it a dict of tuples with the same strings and a time, the least that could be kept. Second: a million
distinct keys, each obtained (a flight, a lease, a token call answered in the process), served again from the
store, and deleted. The keys are shared out between as many processes as there are processors, each with a
broker of its own; the worst of them counts. Caches of bounded size fill and empty in between, so the most
that is held at any time among the last keys is compared with the most among the first."""

_EDGE = 8_192
"""So many keys at the beginning and at the end: caches of bounded size fill once or more meanwhile."""
_EVERY = 16  # keys between two looks


@dataclass(frozen=True, slots=True)
class Left:
    """What one process is left with after ``keys`` keys; ``held``: the most bytes at any time, if traced."""

    keys: int
    blocks: int
    records: int
    unsaved: int
    held: int | None


def run(setting: Setting) -> Section:
    """Weigh a full store, then an empty one with a past."""
    held, keys = setting.choose(100_000, 5_000), setting.choose(1_000_000, 2_000)
    edge, processes = setting.choose(_EDGE, 1_000), os.cpu_count() or 1
    jobs = [(keys // processes, edge, number == 0) for number in range(processes)]
    with multiprocessing.get_context("spawn").Pool(processes + 1) as pool:
        serving = pool.starmap_async(serve_and_drop, jobs, chunksize=1)
        ours, least = pool.starmap(weigh, [(held, fill_store), (held, fill_dict)], chunksize=2)
        left = serving.get()
    weights = Table(
        f"Per record, {held:,} of them",
        [Column("memory", Kind.BYTES)],
        [Row("MemoryStore", [ours], ours=True), Row("a dict of tuples", [least])],
    )
    return Section(
        title="Memory",
        about=ABOUT,
        tables=[weights, _table_of_what_is_left(left)],
        verdicts=[] if setting.quick else [_verdict(left)],  # a quick run does not even fill the caches
        notes=[
            "Memory blocks are those of the interpreter's allocator (sys.getallocatedblocks). What caches "
            "hold is traced by tracemalloc, which is slow, over further keys of one process."
        ],
    )


# A full store.


def weigh(count: int, fill: Callable[[int], object]) -> float:
    """Give the bytes per item of what ``fill`` builds."""
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    kept = fill(count)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del kept
    return (after - before) / count


def fill_store(count: int) -> object:
    """Give a store with so many records."""
    store = MemoryStore()
    for record in user_records(count):
        store.save(record)
    return store


def fill_dict(count: int) -> object:
    """Give the same tokens, and when they expire, with nothing around them."""
    return {
        f"user-{number}": (secrets.token_urlsafe(32), secrets.token_urlsafe(32), float(number))
        for number in range(count)
    }


# An empty store with a past.


class InstantProvider:
    """A transport that answers every token request at once, in the process."""

    _headers: Final = {"Content-Type": "application/json"}
    _body: Final = json.dumps({"access_token": "a" * 43, "token_type": "Bearer", "expires_in": 3600}).encode()

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        """Give an access token."""
        return HttpResponse(200, self._headers, self._body)


def serve_and_drop(keys: int, edge: int, is_traced: bool) -> Left:
    """Serve and drop ``keys`` keys between two edges, and two edges more under tracemalloc if wanted."""
    store = MemoryStore()
    broker = Broker(DESCRIPTOR, CLIENT_ID, CLIENT_SECRET, store=store, http_client=InstantProvider())
    first = _most(broker, "first", edge, sys.getallocatedblocks)
    _most(broker, "between", keys, None)
    last = _most(broker, "last", edge, sys.getallocatedblocks)
    held = _most_bytes(broker, edge) if is_traced else None
    return Left(keys + edge, last - first, len(list(store.keys())), len(broker.unsaved), held)


def _most_bytes(broker: Broker, edge: int) -> int:
    tracemalloc.start()
    _most(broker, "untold", edge, None)  # whatever bounded caches hold is traced from now on
    most = _most(broker, "traced", edge, lambda: tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    return most


def _most(broker: Broker, batch: str, keys: int, look: Callable[[], int] | None) -> int:
    """Serve and drop so many keys; give the most that ``look`` saw meanwhile."""
    most = 0
    for number in range(keys):
        request = CachedTokenRequest("tenant-acme", f"svc-{batch}-{number}", USER.scope)
        record = broker.client_credentials(request)
        if broker.client_credentials(request) is not record:
            raise RuntimeError("a token that works was not served from the store")
        broker.store.delete(record.key)
        if look is not None and number % _EVERY == 0:
            most = max(most, look())
    return most


# What is told of it.


def _blocks_per_key(left: Sequence[Left]) -> float:
    return max(one.blocks / one.keys for one in left)


def _table_of_what_is_left(left: Sequence[Left]) -> Table:
    [held] = [one.held for one in left if one.held is not None]
    found: list[tuple[str, int | None, int | None]] = [
        ("more memory blocks than before, in one process", max(one.blocks for one in left), None),
        ("held at most at any time, by caches of bounded size", None, held),
        ("records in the store", sum(one.records for one in left), None),
        ("records in broker.unsaved", sum(one.unsaved for one in left), None),
    ]
    served = sum(one.keys for one in left)
    return Table(
        f"After {served:,} keys in {len(left)} processes",
        [Column("number", Kind.COUNT), Column("memory", Kind.BYTES)],
        [Row(label, cells, ours=True) for label, *cells in found],
    )


def _verdict(left: Sequence[Left]) -> Verdict:
    served = sum(one.keys for one in left)
    return Verdict(
        f"memory blocks left per key, after {served:,} keys",
        round(_blocks_per_key(left), 4),
        Relation.BELOW,
        0.01,
        Kind.COUNT,
    )
