"""Renewing ahead: what the others notice while one caller renews a token that still works."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from benchmarks.measure import percentile
from benchmarks.peers.base import AheadOfExpiry, Peer
from benchmarks.provider import CLIENT_ID, CLIENT_SECRET, LATENCY, ProviderDesk, UserGrant, provider_process
from benchmarks.setting import NOT_MEASURED, Setting
from benchmarks.tables import Column, Kind, Row, Section, Table, Value
from oauth2broker import Broker, BrokerStore, FileStore, MemoryStore, TokenRecord

ABOUT = """\
A token works for another 30 seconds, which is inside the advisory window: somebody should renew it, and
nobody should wait for it. 8 threads ask every half millisecond. One of them (or a thread in the background)
renews at a provider that takes 50 ms; what counts is how long the calls of all others take meanwhile. Beside
it the same threads when nothing is due. Where there is no such window, callers all wait for a renewal, or
each make one."""

CALLERS = 8
_PAUSE = 0.0005
_WATCHED = LATENCY + 0.01  # seconds: as long as a renewal takes
_AGE, _LEFT = timedelta(minutes=59), timedelta(seconds=30)


def run(setting: Setting) -> Section:
    """Watch the others, with a renewal under way and without."""
    rounds = setting.choose(15, 3)
    stores = {"MemoryStore": MemoryStore(), "FileStore": FileStore(setting.folder("advisory"))}
    with provider_process(LATENCY) as desk:
        rows = [
            _row(f"oauth2broker, {name}", _ours(desk.log_in(), store), rounds, ours=True)
            for name, store in stores.items()
        ]
        rows += [_row_of_peer(setting, peer, desk, rounds) for peer in setting.peers]
    columns = [
        Column("slowest call", Kind.SECONDS),
        Column("others' calls", Kind.COUNT),
        Column("others' p50", Kind.SECONDS),
        Column("p99", Kind.SECONDS),
        Column("slowest", Kind.SECONDS),
        Column("nothing due: p50", Kind.SECONDS),
        Column("p99", Kind.SECONDS),
        Column(""),
    ]
    return Section(
        title="Others, while one caller renews ahead of the expiry",
        about=ABOUT,
        tables=[Table("Latency of a call", columns, rows)],
        notes=[
            '"Slowest call" is the slowest of each round, by the median, and is left out of the others. '
            "Where one caller renews it is that caller; where a thread in the background renews, it is just "
            "the slowest of the others."
        ],
    )


def _row_of_peer(setting: Setting, peer: Peer, desk: ProviderDesk, rounds: int) -> Row:
    if (ahead := peer.ahead) is None:
        return Row(peer.name, [None] * 7 + [peer.no_window])
    row = setting.attempt(peer.name, lambda: _row(peer.name, ahead(desk.log_in()), rounds))
    return row or Row(peer.name, [None] * 7 + [NOT_MEASURED])


def _ours(grant: UserGrant, store: BrokerStore) -> AheadOfExpiry:
    broker = Broker(grant.descriptor, CLIENT_ID, CLIENT_SECRET, store=store)
    key = broker.key_for(grant.request)
    store.save(grant.as_record(age=_AGE, left=_LEFT))
    broker.refresh_access_token(grant.request.force_refresh())  # loads what a first renewal loads

    def rewind() -> None:
        current = store.fetch(key)
        if current is None:
            raise RuntimeError("the grant is gone")
        store.save(_due(current))

    return AheadOfExpiry(rewind, lambda: broker.refresh_access_token(grant.request))


def _due(record: TokenRecord) -> TokenRecord:
    now = datetime.now(UTC)
    return replace(record, issued_at=now - _AGE, expires_at=now + _LEFT)


def _row(name: str, ahead: AheadOfExpiry, rounds: int, *, ours: bool = False) -> Row:
    slowest: list[float] = []
    others: list[float] = []
    idle: list[float] = []
    for _ in range(rounds):
        ahead.rewind()
        calls = sorted(_watch(ahead.ask))
        slowest.append(calls.pop())
        others += calls
        time.sleep(LATENCY)  # a renewal in the background comes to its end
        ahead.ask()
        idle += _watch(ahead.ask)
    cells: list[Value] = [
        percentile(slowest, 0.5),
        len(others),
        percentile(others, 0.5),
        percentile(others, 0.99),
        max(others),
        percentile(idle, 0.5),
        percentile(idle, 0.99),
        "",
    ]
    return Row(name, cells, ours)


def _watch(ask: Callable[[], object]) -> list[float]:
    """Have all callers ask, with pauses, for as long as a renewal takes; give the seconds of each call."""
    calls: list[float] = []
    gate = threading.Barrier(CALLERS)

    def work() -> None:
        mine = []
        gate.wait()
        deadline = time.perf_counter() + _WATCHED
        while (started := time.perf_counter()) < deadline:
            ask()
            mine.append(time.perf_counter() - started)
            time.sleep(_PAUSE)
        calls.extend(mine)

    threads = [threading.Thread(target=work) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return calls
