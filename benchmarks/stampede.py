"""A stampede: many callers at once on one expired token of a provider that rotates refresh tokens."""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Barrier

from benchmarks.crowd import rush
from benchmarks.provider import CLIENT_ID, CLIENT_SECRET, LATENCY, ProviderDesk, UserGrant, provider_process
from benchmarks.setting import NOT_MEASURED, Setting
from benchmarks.tables import Bar, Bars, Column, Kind, Relation, Row, Section, Table, Verdict
from oauth2broker import Broker, BrokerStore, CachedTokenRequest, FileStore, MemoryStore

ABOUT = """\
32 threads that begin together find one expired token. The provider takes 50 ms, gives a new refresh token
with every answer, and revokes the whole grant when a spent one is presented. Peers share one session between
the threads and call an API through it, as they document; the API answers in the process, so that only the
token is counted. Of several rounds the worst counts and the median time are shown. "Grant alive" says whether
a token that was handed out still works at the end; where it does not, the user has to log in again. The same
with 4 processes of 8 threads each that share a folder."""

THREADS = 32
PROCESSES = 4
OURS = "oauth2broker, "

Contender = Callable[[UserGrant], Callable[[], str]]


@dataclass(frozen=True, slots=True)
class Round:
    """How one stampede ended."""

    calls: int
    errors: Counter[str]
    tokens: int
    alive: bool
    seconds: float


def run(setting: Setting) -> Section:
    """Drive everybody into the same wall."""
    rounds = setting.choose(7, 2)
    found: dict[str, Sequence[Round]] = {}
    with provider_process(LATENCY) as desk:
        found[f"{OURS}MemoryStore"] = _stampedes(desk, _on_memory_store, rounds)
        found[f"{OURS}FileStore"] = _stampedes(desk, partial(_on_file_store, setting.scratch), rounds)
        found[f"{OURS}FileStore, {PROCESSES} processes"] = [
            _stampede_of_processes(desk, setting.scratch) for _ in range(setting.choose(3, 1))
        ]
        for peer in setting.peers:
            if peer.contender is None:
                continue
            done = setting.attempt(peer.name, partial(_stampedes, desk, peer.contender, rounds))
            if done is not None:
                found[peer.name] = done
    return Section(
        title="A stampede on one expired token",
        about=ABOUT,
        tables=[_table(setting, found)],
        verdicts=_verdicts(found),
        chart=Bars(
            f"{THREADS} callers, one expired token: token calls",
            Kind.COUNT,
            [Bar(name, _worst_calls(rounds), name.startswith(OURS)) for name, rounds in found.items()],
        ),
    )


# Threads.


def _on_memory_store(grant: UserGrant) -> Callable[[], str]:
    return _on_store(grant, MemoryStore())


def _on_file_store(scratch: Path, grant: UserGrant) -> Callable[[], str]:
    return _on_store(grant, FileStore(tempfile.mkdtemp(dir=scratch)))


def _on_store(grant: UserGrant, store: BrokerStore) -> Callable[[], str]:
    store.save(grant.as_expired_record())
    broker = Broker(grant.descriptor, CLIENT_ID, CLIENT_SECRET, store=store)
    return lambda: broker.refresh_access_token(grant.request).access_token.expose()


def _stampedes(desk: ProviderDesk, contender: Contender, rounds: int) -> list[Round]:
    return [_stampede(desk, contender) for _ in range(rounds)]


def _stampede(desk: ProviderDesk, contender: Contender) -> Round:
    ask = contender(desk.log_in())
    desk.clear()
    crowd = rush(THREADS, ask)
    return _round(desk, crowd.results, Counter(_kinds(crowd.errors)), crowd.seconds)


def _round(desk: ProviderDesk, answers: Sequence[str], errors: Counter[str], seconds: float) -> Round:
    tokens = set(answers)
    alive = any(desk.is_live(token) for token in tokens)
    return Round(desk.tally().calls, errors, len(tokens), alive, seconds)


def _kinds(errors: Sequence[Exception]) -> list[str]:
    return [type(error).__name__ for error in errors]


# Processes.


@dataclass(frozen=True, slots=True)
class Report:
    """What one process tells its parent. The times are the wall clock's, which all processes share."""

    answers: list[str]
    errors: list[str]
    started: float
    ended: float


def _stampede_of_processes(desk: ProviderDesk, scratch: Path) -> Round:
    grant, folder = desk.log_in(), tempfile.mkdtemp(dir=scratch)
    FileStore(folder).save(grant.as_expired_record())
    desk.clear()
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(PROCESSES) as pool:
        jobs = [(grant, folder, manager.Barrier(PROCESSES))] * PROCESSES
        reports = pool.starmap(_work, jobs, chunksize=1)
    answers = [answer for report in reports for answer in report.answers]
    errors = Counter(error for report in reports for error in report.errors)
    seconds = max(report.ended for report in reports) - min(report.started for report in reports)
    return _round(desk, answers, errors, seconds)


def _work(grant: UserGrant, folder: str, barrier: Barrier) -> Report:
    """What each process does: open the folder, wait for the others, ask from several threads."""
    with Broker(grant.descriptor, CLIENT_ID, CLIENT_SECRET) as broker:
        broker.client_credentials(CachedTokenRequest("tenant-acme", "svc"))  # loads what a first call loads
    store = FileStore(folder)
    with Broker(grant.descriptor, CLIENT_ID, CLIENT_SECRET, store=store) as broker:
        barrier.wait()
        started = time.time()
        crowd = rush(
            THREADS // PROCESSES,
            lambda: broker.refresh_access_token(grant.request).access_token.expose(),
        )
        return Report(crowd.results, _kinds(crowd.errors), started, time.time())


# What is told of it.


def _worst_calls(rounds: Sequence[Round]) -> int:
    return max(one.calls for one in rounds)


def _worst_errors(rounds: Sequence[Round]) -> int:
    return max(one.errors.total() for one in rounds)


def _table(setting: Setting, found: Mapping[str, Sequence[Round]]) -> Table:
    columns = [
        Column("token calls", Kind.COUNT),
        Column("errors", Kind.COUNT),
        Column("tokens", Kind.COUNT),
        Column("grant alive"),
        Column("time", Kind.SECONDS),
        Column("errors were"),
    ]
    rows = [_row(name, rounds) for name, rounds in found.items()]
    rows += [
        Row(peer.name, [None, None, None, None, None, peer.no_calls or NOT_MEASURED])
        for peer in setting.peers
        if peer.name not in found
    ]
    return Table(f"{THREADS} callers at once", columns, rows)


def _row(name: str, rounds: Sequence[Round]) -> Row:
    cells = [
        _worst_calls(rounds),
        _worst_errors(rounds),
        max(one.tokens for one in rounds),
        "yes" if all(one.alive for one in rounds) else "no",
        statistics.median(one.seconds for one in rounds),
        ", ".join(sorted({kind for one in rounds for kind in one.errors})),
    ]
    return Row(name, cells, name.startswith(OURS))


def _verdicts(found: Mapping[str, Sequence[Round]]) -> list[Verdict]:
    verdicts = []
    for name, rounds in found.items():
        if name.startswith(OURS):
            what = f"a stampede on {name.removeprefix(OURS)}"
            calls, errors = _worst_calls(rounds), _worst_errors(rounds)
            verdicts.append(Verdict(f"{what}: token calls", calls, Relation.EXACTLY, 1, Kind.COUNT))
            verdicts.append(Verdict(f"{what}: errors", errors, Relation.EXACTLY, 0, Kind.COUNT))
    return verdicts
