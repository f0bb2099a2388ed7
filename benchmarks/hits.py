"""A cache hit, one thread: what nearly every call costs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import cycle

from benchmarks.measure import Rounds, Statement, per_execution, take_turns
from benchmarks.ours import NEIGHBOURS, SERVICE, USER, broker_with_tokens, user_requests
from benchmarks.peers.base import Peer, Work
from benchmarks.setting import Setting
from benchmarks.tables import Bar, Bars, Column, Kind, Relation, Row, Section, Table, Verdict
from oauth2broker import Broker, CachedTokenRequest, FileStore, MemoryStore

ABOUT = """\
A token that works is asked for again and again. The floor is a plain function that reads a clock and looks
the token up in a dict by a string: no cache can do less. Ours, and the peers of the columns "by key", find
one token among a hundred by what it is for, and look at its expiry. The other two columns are other work:
"one token" asks an object that holds a single token whether that still works; "signs a request" also puts it
into a prepared request. "Anew" builds one and the same request for every call; the rows of many users in turn
show what different ones cost, below and above the 4,096 that are remembered. What a peer does not do is a
dash. No observers; the code of each cell is below."""

FLOOR, DATETIME_FLOOR = "dict lookup and time.time()", "dict lookup and datetime.now(UTC)"
SETTLED = 2.1  # seconds until a FileStore trusts what it has read
_METHODS = {"client_credentials": SERVICE, "refresh_access_token": USER}
_MANY_USERS = 10_000
_GROUPS = {
    Work.BY_KEY: "found by key",
    Work.BY_KEY_IN_FILE: "found by key, in files that processes share",
    Work.ONE_TOKEN: "other work: one token, held by an object",
    Work.SIGNS: "other work: a request is signed",
}


@dataclass(frozen=True, slots=True)
class Subject:
    """A way to a cached token: ours, a peer's, or (the floor) nobody's."""

    name: str
    work: Work
    statement: Statement
    ours: bool = False
    peer: Peer | None = None


def run(setting: Setting) -> Section:
    """Time all ways by turns."""
    floors, ours, peers = _floors(), _ours(setting), list(_peers(setting))
    subjects = [*floors, *ours, *peers]
    rounds = take_turns(
        {subject.name: per_execution(subject.statement) for subject in subjects}, setting.choose(41, 5)
    )
    return Section(
        title="A cache hit, one thread",
        about=ABOUT,
        tables=[
            _table_of_ours([*floors, *ours], rounds),
            _table_of_peers(setting.peers, peers, rounds),
            _table_of_code(peers),
        ],
        verdicts=_verdicts(peers, rounds),
        chart=_chart(subjects, rounds),
    )


# What is timed.


def _floors() -> list[Subject]:
    tokens = {f"token-{number}": f"access-{number}" for number in range(NEIGHBOURS)}

    def floor(key: str) -> str:
        time.time()
        return tokens[key]

    def datetime_floor(key: str) -> str:
        datetime.now(UTC)
        return tokens[key]

    return [
        Subject(name, Work.BY_KEY, Statement("floor('token-7')", {"floor": function}))
        for name, function in ((FLOOR, floor), (DATETIME_FLOOR, datetime_floor))
    ]


def _ours(setting: Setting) -> list[Subject]:
    memory = broker_with_tokens(MemoryStore())
    file = broker_with_tokens(FileStore(setting.folder("hits")))
    time.sleep(SETTLED)
    return [
        *_kept_and_anew("MemoryStore", memory, Work.BY_KEY),
        _users_in_turn(NEIGHBOURS),
        _users_in_turn(_MANY_USERS),
        *_kept_and_anew("FileStore", file, Work.BY_KEY_IN_FILE),
    ]


def _kept_and_anew(store: str, broker: Broker, work: Work) -> Iterator[Subject]:
    """Ask with a request that is kept, and with one that is built for each call."""
    for method, request in _METHODS.items():
        names = {"broker": broker, "request": request, "CachedTokenRequest": CachedTokenRequest}
        anew = f"CachedTokenRequest('{request.tenant}', '{request.principal}', {list(request.scope)})"
        kept = Statement(f"broker.{method}(request)", names)
        yield Subject(f"{store}, {method}", work, kept, ours=True)
        built = Statement(f"broker.{method}({anew})", names)
        yield Subject(f"{store}, {method}, anew", work, built, ours=True)


def _users_in_turn(count: int) -> Subject:
    """Ask for another user each time: with many of them, nothing built before can be at hand."""
    broker = broker_with_tokens(MemoryStore(), count)
    users = cycle([str(request.principal) for request in user_requests(count)])
    line = (
        "broker.refresh_access_token(CachedTokenRequest('tenant-acme', next(users), ['openid', 'profile']))"
    )
    names = {"broker": broker, "users": users, "CachedTokenRequest": CachedTokenRequest}
    name = f"MemoryStore, {count:,} users in turn, anew"
    return Subject(name, Work.BY_KEY, Statement(line, names), ours=True)


def _peers(setting: Setting) -> Iterator[Subject]:
    for peer in setting.peers:
        for path in setting.attempt(peer.name, partial(peer.cached_paths, setting.scratch)) or ():
            yield Subject(f"{peer.name}, {path.work}", path.work, path.statement, peer=peer)


# What is told of it.


def _table_of_ours(subjects: Sequence[Subject], rounds: Rounds) -> Table:
    columns = [Column("a hit", Kind.SECONDS), Column("of the floor", Kind.RATIO), Column("code")]
    rows = [
        Row(
            subject.name,
            [rounds.median(subject.name), rounds.ratio(subject.name, FLOOR), subject.statement.code],
            subject.ours,
        )
        for subject in subjects
    ]
    return Table("The floor and oauth2broker", columns, rows)


def _table_of_peers(peers: Sequence[Peer], subjects: Sequence[Subject], rounds: Rounds) -> Table:
    columns = [
        *(Column(work, Kind.SECONDS) for work in Work),
        Column("locks"),
        Column("who renews when several ask"),
    ]
    rows = []
    for peer in peers:
        costs = {subject.work: rounds.median(subject.name) for subject in subjects if subject.peer is peer}
        rows.append(Row(peer.name, [*(costs.get(work) for work in Work), peer.locks, peer.coordinates]))
    return Table("Peers", columns, rows)


def _table_of_code(subjects: Sequence[Subject]) -> Table:
    rows = [
        Row(subject.name, [subject.statement.code, subject.peer.documented])
        for subject in subjects
        if subject.peer is not None
    ]
    return Table("How peers are called", [Column("code"), Column("as documented in")], rows)


def _verdicts(peers: Sequence[Subject], rounds: Rounds) -> list[Verdict]:
    """Judge by the worse of the two methods."""
    memory = [f"MemoryStore, {method}" for method in _METHODS]
    hit = max(rounds.ratio(name, FLOOR) for name in memory)
    anew = max(rounds.ratio(f"{name}, anew", name) for name in memory)
    file = max(rounds.ratio(f"FileStore, {method}", f"MemoryStore, {method}") for method in _METHODS)
    faster = [rounds.ratio(peer.name, name) for peer in peers if peer.work is Work.BY_KEY for name in memory]
    by_key = "the fastest peer that looks up by key, times our hit"
    return [
        Verdict("a hit on MemoryStore, times the floor", hit, Relation.AT_MOST, 5),
        *([Verdict(by_key, min(faster), Relation.AT_LEAST, 3)] if faster else []),
        Verdict("a request built anew, times a kept one", anew, Relation.AT_MOST, 3),
        Verdict("a hit on FileStore, times one on MemoryStore", file, Relation.BELOW, 10),
    ]


def _chart(subjects: Sequence[Subject], rounds: Rounds) -> Bars:
    bars = [
        Bar(
            subject.peer.name if subject.peer else subject.name,
            rounds.median(subject.name),
            subject.ours,
            group=_GROUPS[subject.work],
        )
        for subject in subjects
        if "in turn" not in subject.name
    ]
    order = list(_GROUPS.values())
    bars.sort(key=lambda bar: (order.index(bar.group), bar.value))
    return Bars("A token that is already there: time per call", Kind.SECONDS, bars, logarithmic=True)
