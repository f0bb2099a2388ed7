"""Cache hits from many threads: whether they get into each other's way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat

from benchmarks.hits import FLOOR, SETTLED
from benchmarks.measure import Rounds, Statement, percentile, take_turns
from benchmarks.ours import SERVICE, USER, broker_with_tokens
from benchmarks.peers.base import Work
from benchmarks.setting import Setting
from benchmarks.tables import Column, Kind, Relation, Row, Section, Table, Verdict
from oauth2broker import FileStore, MemoryStore

ABOUT = """\
Threads do nothing but ask for a token that works. Throughput is all their calls together; only one thread
runs Python at a time, so no library gets faster with threads, and the floor shows what switching between
them costs anybody. Latencies are taken in runs of their own, because reading the clock twice around each
call costs about as much as the call. 64 threads that never pause wait for their turn, which the slowest call
shows; a convoy of threads behind one lock would show at the 99th percentile."""

THREADS = (1, 8, 64)
JUDGED = "MemoryStore, client_credentials"
_BATCH = 50


@dataclass(frozen=True, slots=True)
class Subject:
    """Something to be called from many threads."""

    name: str
    call: Callable[[], object]
    ours: bool = False


def run(setting: Setting) -> Section:
    """Measure every subject with every number of threads, by turns."""
    subjects = [*_ours(setting), _floor(), *_peers(setting)]
    seconds = setting.choose(1.0, 0.05)  # 64 threads take 0.32 s for a turn each
    rounds = take_turns(
        {
            _name(subject, threads): partial(_calls_per_second, subject.call, threads, seconds)
            for subject in subjects
            for threads in THREADS
        },
        setting.choose(3, 2),
    )
    laps = {
        _name(subject, threads): _latencies(subject.call, threads, seconds)
        for subject in subjects
        for threads in THREADS
    }
    return Section(
        title="Cache hits from 1, 8 and 64 threads",
        about=ABOUT,
        tables=[_table(subjects, rounds, laps)],
        verdicts=_verdicts(rounds, laps),
        notes=[
            "FileStore asks the system about its file on every hit and lets other threads run meanwhile; a "
            "thread that has let go waits until the ones that never pause give way. Peers with a lock on the "
            "hit wait in the same way."
        ],
    )


# What is called.


def _ours(setting: Setting) -> list[Subject]:
    memory = broker_with_tokens(MemoryStore())
    file = broker_with_tokens(FileStore(setting.folder("threads")))
    time.sleep(SETTLED)
    return [
        Subject(JUDGED, partial(memory.client_credentials, SERVICE), ours=True),
        Subject("MemoryStore, refresh_access_token", partial(memory.refresh_access_token, USER), ours=True),
        Subject("FileStore, refresh_access_token", partial(file.refresh_access_token, USER), ours=True),
    ]


def _floor() -> Subject:
    tokens = {"token-7": "access-7"}

    def floor(key: str) -> str:
        time.time()
        return tokens[key]

    return Subject(FLOOR, partial(floor, "token-7"))


def _peers(setting: Setting) -> Iterator[Subject]:
    for peer in setting.peers:
        for path in setting.attempt(peer.name, partial(peer.cached_paths, setting.scratch)) or ():
            if path.work is Work.BY_KEY:
                yield Subject(f"{peer.name}, {path.work}", _callable(path.statement))


def _callable(statement: Statement) -> Callable[[], object]:
    made: Callable[[], object] = eval(f"lambda: {statement.code}", dict(statement.names))  # noqa: S307 - ours
    return made


# How it is measured.


def _calls_per_second(call: Callable[[], object], threads: int, seconds: float) -> float:
    done: list[int] = []

    def work(deadline: float) -> None:
        count = 0
        while time.perf_counter() < deadline:
            for _ in repeat(None, _BATCH):
                call()
            count += _BATCH
        done.append(count)

    took = _together(threads, seconds, work)
    return sum(done) / took


def _latencies(call: Callable[[], object], threads: int, seconds: float) -> Sequence[float]:
    laps: list[float] = []

    def work(deadline: float) -> None:
        mine: list[float] = []
        clock = time.perf_counter
        started = clock()
        while started < deadline:
            call()
            mine.append(clock() - started)
            started = clock()
        laps.extend(mine)

    _together(threads, seconds, work)
    return laps


def _together(threads: int, seconds: float, work: Callable[[float], None]) -> float:
    """Have that many threads work until a common deadline; give the seconds until the last one ended."""
    started: list[float] = []
    gate = threading.Barrier(threads, action=lambda: started.append(time.perf_counter()))

    def run() -> None:
        gate.wait()
        work(started[0] + seconds)

    crowd = [threading.Thread(target=run) for _ in range(threads)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    return time.perf_counter() - started[0]


# What is told of it.


def _name(subject: Subject, threads: int) -> str:
    return f"{subject.name}/{threads}"


def _table(subjects: Sequence[Subject], rounds: Rounds, laps: dict[str, Sequence[float]]) -> Table:
    rows = []
    for subject in subjects:
        for threads in THREADS:
            name = _name(subject, threads)
            kept = rounds.ratio(name, _name(subject, 1))
            spread = [percentile(laps[name], 0.5), percentile(laps[name], 0.99), max(laps[name])]
            rows.append(Row(subject.name, [threads, rounds.median(name), kept, *spread], subject.ours))
    columns = [
        Column("threads", Kind.COUNT),
        Column("calls per second", Kind.RATE),
        Column("of one thread", Kind.RATIO),
        Column("p50", Kind.SECONDS),
        Column("p99", Kind.SECONDS),
        Column("slowest", Kind.SECONDS),
    ]
    return Table("Throughput and latency of a hit", columns, rows)


def _verdicts(rounds: Rounds, laps: dict[str, Sequence[float]]) -> list[Verdict]:
    throughput = rounds.ratio(f"{JUDGED}/64", f"{JUDGED}/1")
    spread = percentile(laps[f"{JUDGED}/64"], 0.99) / percentile(laps[f"{JUDGED}/64"], 0.5)
    return [
        Verdict("64 threads on MemoryStore, of one thread's throughput", throughput, Relation.AT_LEAST, 0.9),
        Verdict("64 threads on MemoryStore, p99 over p50", spread, Relation.BELOW, 100),
    ]
