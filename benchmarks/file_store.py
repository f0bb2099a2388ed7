"""FileStore in a folder of ten records, and of a hundred thousand."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.hits import SETTLED
from benchmarks.measure import Measurement, Rounds, one, take_turns
from benchmarks.ours import user_records
from benchmarks.peers.base import FileCache
from benchmarks.provider import CLIENT_ID, CLIENT_SECRET, UserGrant, provider_process
from benchmarks.setting import Setting
from benchmarks.tables import Bar, Bars, Column, Kind, Relation, Row, Section, Table, Verdict
from oauth2broker import Broker, FileStore, TokenRecord

ABOUT = """\
Three folders with so many records each, measured by turns. Which record is random every time, so a folder of
many does not profit from one that the system has just looked at. "Fetch warm" finds the record in the
store's memory and asks the system whether the file is still the same; "fetch cold" is a store that was just
opened, and reads and parses the file. A save is on the disk when it returns. The renewal is a whole one, at
a provider without artificial latency."""

OPERATIONS = ("save", "fetch warm", "fetch cold", "renewal")
_FETCHED = 8  # records per measurement: one fetch alone is too short to be timed


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of records, one more that belongs to a user of the provider, and peers' caches on it."""

    path: Path
    records: Sequence[TokenRecord]
    renew: Callable[[], object]
    caches: Mapping[str, FileCache]

    def some(self, count: int) -> list[TokenRecord]:
        """Give so many records, at random."""
        return random.sample(self.records, count)


def run(setting: Setting) -> Section:
    """Fill the folders, then measure: first what reads, then what writes."""
    sizes = setting.choose((10, 1_000, 100_000), (10, 100, 1_000))
    with provider_process() as desk:
        folders = {size: _make_folder(setting, size, desk.log_in()) for size in sizes}
        _settle()
        reading = take_turns(_by_size(_reading, folders), setting.choose(150, 15))
        writing = take_turns(_by_size(_writing, folders), setting.choose(120, 10))
    rounds = Rounds({**reading.samples, **writing.samples})
    return Section(
        title="FileStore and the number of records",
        about=ABOUT,
        tables=[_table(setting, sizes, rounds)],
        verdicts=_verdicts(sizes, rounds),
        notes=[
            "botocore's JSONFileCache reads and writes the very same files of the same folders. It flushes "
            "the file but not the folder, takes no lock among processes, does not look at the contents, and "
            "keeps nothing in memory, so its fetch stands beside the cold one."
        ],
        chart=Bars(
            "FileStore: time by number of records",
            Kind.SECONDS,
            [
                Bar(f"{size:,} records", rounds.median(f"{name}/{size}"), ours=True, group=name)
                for name in OPERATIONS
                for size in sizes
            ],
            logarithmic=True,
        ),
    )


# The folders.


def _make_folder(setting: Setting, size: int, grant: UserGrant) -> Folder:
    path = setting.folder(f"records-{size}")
    records = user_records(size - 1)
    _write_files(path, records)
    store = FileStore(path)
    store.save(grant.as_expired_record())
    broker = Broker(grant.descriptor, CLIENT_ID, CLIENT_SECRET, store=store)
    renew = partial(broker.refresh_access_token, grant.request.force_refresh())
    renew()  # loads what a first renewal loads
    caches = {
        peer.name: cache
        for peer in setting.peers
        if peer.file_cache is not None
        and (cache := setting.attempt(peer.name, partial(peer.file_cache, path))) is not None
    }
    return Folder(path, records, renew, caches)


def _write_files(path: Path, records: Iterable[TokenRecord]) -> None:
    """Write what a store would, but not each file through to the disk."""
    for record in records:
        file = path / f"{record.key.digest}.json"
        file.write_text(record.to_json())
        file.chmod(0o600)


def _settle() -> None:
    if hasattr(os, "sync"):
        os.sync()  # else the system would write the files while we measure
    time.sleep(SETTLED)


# What is measured.


def _by_size(
    make: Callable[[Folder], Mapping[str, Measurement]], folders: Mapping[int, Folder]
) -> dict[str, Measurement]:
    return {
        f"{name}/{size}": measurement
        for size, folder in folders.items()
        for name, measurement in make(folder).items()
    }


def _reading(folder: Folder) -> Mapping[str, Measurement]:
    measurements: dict[str, Measurement] = {
        "fetch warm": partial(_fetch_warm, FileStore(folder.path), folder),
        "fetch cold": partial(_fetch_cold, folder),
    }
    for name, cache in folder.caches.items():
        measurements[f"{name}, fetch cold"] = partial(_fetch_of_peer, cache, folder)
    return measurements


def _writing(folder: Folder) -> Mapping[str, Measurement]:
    measurements: dict[str, Measurement] = {
        "save": partial(_save, FileStore(folder.path), folder),
        "renewal": one(folder.renew),
    }
    for name, cache in folder.caches.items():
        measurements[f"{name}, save"] = partial(_save_of_peer, cache, folder)
    return measurements


def _fetch_warm(store: FileStore, folder: Folder) -> float:
    keys = [record.key for record in folder.some(_FETCHED)]
    for key in keys * 3:  # once to read the file, and twice to forget about that in the processor's caches
        store.fetch(key)
    return _mean(store.fetch, keys)


def _fetch_cold(folder: Folder) -> float:
    store = FileStore(folder.path)  # has seen nothing yet, and each record is asked for once
    return _mean(store.fetch, [record.key for record in folder.some(_FETCHED)])


def _fetch_of_peer(cache: FileCache, folder: Folder) -> float:
    return _mean(cache.fetch, [record.key.digest for record in folder.some(_FETCHED)])


def _save(store: FileStore, folder: Folder) -> float:
    return _mean(store.save, folder.some(1))


def _save_of_peer(cache: FileCache, folder: Folder) -> float:
    [record] = folder.some(1)
    return one(partial(cache.save, record.key.digest, json.loads(record.to_json())))()


def _mean(act: Callable[[Any], object], arguments: Sequence[Any]) -> float:
    started = time.perf_counter()
    for argument in arguments:
        act(argument)
    return (time.perf_counter() - started) / len(arguments)


# What is told of it.


def _verdicts(sizes: Sequence[int], rounds: Rounds) -> list[Verdict]:
    least, most = min(sizes), max(sizes)
    return [
        Verdict(
            f"FileStore, {name}: {most:,} records, times {least:,}",
            rounds.ratio(f"{name}/{most}", f"{name}/{least}"),
            Relation.AT_MOST,
            1.2,
        )
        for name in OPERATIONS
    ]


def _table(setting: Setting, sizes: Sequence[int], rounds: Rounds) -> Table:
    least, most = min(sizes), max(sizes)
    works = [*OPERATIONS]
    for peer in setting.peers:
        has = peer.file_cache is not None
        works += [f"{peer.name}, save", f"{peer.name}, fetch cold"] if has else [peer.name]
    rows = []
    for work in works:
        costs: list[float | None] = [None] * (len(sizes) + 1)
        if f"{work}/{least}" in rounds.samples:
            costs = [rounds.median(f"{work}/{size}") for size in sizes]
            costs.append(rounds.ratio(f"{work}/{most}", f"{work}/{least}"))
        rows.append(Row(work, costs, ours=work in OPERATIONS))
    columns = [
        *(Column(f"{size:,} records", Kind.SECONDS) for size in sizes),
        Column(f"{most:,} of {least:,}", Kind.RATIO),
    ]
    return Table("One operation", columns, rows)
