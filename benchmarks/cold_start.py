"""A cold start: what a process pays before it has its first token."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.measure import Rounds, take_turns
from benchmarks.ours import broker_with_tokens
from benchmarks.setting import Setting
from benchmarks.tables import Bar, Bars, Column, Kind, Relation, Row, Section, Table, Verdict
from oauth2broker import FileStore

ABOUT = """\
Whole processes, timed from outside, one of each in turn; bare Python is subtracted round by round. All run
isolated (-I), so that no environment variable makes a difference, and all packages are compiled to bytecode,
as pip does it. The cached start opens a FileStore and prints a token that is in it. Peers are imported
the way their documentation begins, which is less than a cached start: they would have to find a token yet."""

BARE, REQUESTS = "bare python", "import requests"
IMPORT = "import oauth2broker"
NAMES = "import the names a program uses"
START = "a cached start, which prints a token"
_HEAVY = {"requests", "oauthlib"}


def run(setting: Setting) -> Section:
    """Start processes by turns."""
    folder = setting.folder("cold-start")
    broker_with_tokens(FileStore(folder))
    commands = _commands(setting, folder)
    loaded = {
        name: modules
        for name, command in commands.items()
        if (modules := setting.attempt(name, partial(_loaded_modules, command))) is not None
    }
    rounds = _minus_bare(
        take_turns({name: partial(_seconds, commands[name]) for name in loaded}, setting.choose(15, 1))
    )
    short = {peer.imports: f"import {peer.name}" for peer in setting.peers}
    return Section(
        title="Cold start",
        about=ABOUT,
        tables=[_table(commands, rounds, loaded)],
        verdicts=[
            Verdict(
                "import oauth2broker (its names not yet), of importing requests",
                rounds.ratio(IMPORT, REQUESTS),
                Relation.AT_MOST,
                0.25,
            ),
            Verdict(
                "requests and oauthlib: loaded on a cached start",
                len(_HEAVY & loaded[START]),
                Relation.EXACTLY,
                0,
                Kind.COUNT,
            ),
        ],
        chart=Bars(
            "Starting: time over bare Python",
            Kind.SECONDS,
            [
                Bar(short.get(name, name), rounds.median(name), ours=name in {IMPORT, NAMES, START})
                for name in loaded
                if name != BARE
            ],
        ),
    )


def _commands(setting: Setting, folder: Path) -> dict[str, Sequence[str]]:
    names = "from oauth2broker import Broker, CachedTokenRequest, FileStore, ProviderDescriptor"
    commands: dict[str, Sequence[str]] = {
        BARE: ["-c", "pass"],
        REQUESTS: ["-c", "import requests"],
        IMPORT: ["-c", "import oauth2broker"],
        NAMES: ["-c", names],
        START: [str(Path(__file__).with_name("cached_start.py")), str(folder)],
    }
    commands.update({peer.imports: ["-c", peer.imports] for peer in setting.peers})
    return commands


def _seconds(command: Sequence[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-I", *command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def _loaded_modules(command: Sequence[str]) -> set[str]:
    """Have the interpreter tell of every import, while the same command runs unchanged."""
    told = subprocess.run(
        [sys.executable, "-I", "-X", "importtime", *command],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ).stderr
    lines = [line for line in told.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines[1:]}


def _minus_bare(rounds: Rounds) -> Rounds:
    bare = rounds.samples[BARE]
    return Rounds(
        {
            name: [took - base for took, base in zip(samples, bare, strict=True)] if name != BARE else samples
            for name, samples in rounds.samples.items()
        }
    )


def _table(commands: Iterable[str], rounds: Rounds, loaded: Mapping[str, set[str]]) -> Table:
    rows = []
    for name in commands:
        if name not in rounds.samples:
            rows.append(Row(name, [None] * 4))
            continue
        over = None if name == BARE else rounds.median(name)
        whole = rounds.median(BARE) + (over or 0.0)
        share = None if name == BARE else rounds.ratio(name, REQUESTS)
        more = None if name == BARE else len(loaded[name] - loaded[BARE])
        rows.append(Row(name, [whole, over, share, more], ours=name in {IMPORT, NAMES, START}))
    columns = [
        Column("whole process", Kind.SECONDS),
        Column("over bare python", Kind.SECONDS),
        Column("of import requests", Kind.RATIO),
        Column("modules more", Kind.COUNT),
    ]
    return Table("From start to end of a process", columns, rows)
