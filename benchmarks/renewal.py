"""What a renewal costs over the one HTTP request that it cannot do without."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import requests

from benchmarks.measure import Rounds, one, take_turns
from benchmarks.provider import CLIENT_ID, CLIENT_SECRET, UserGrant, provider_process
from benchmarks.setting import Setting
from benchmarks.tables import Bar, Bars, Column, Kind, Relation, Row, Section, Table, Verdict
from oauth2broker import Broker, BrokerStore, CachedTokenRequest, FileStore, MemoryStore, ProviderDescriptor

ABOUT = """\
Beside a bare `requests.post` of the same form to the same token endpoint, authenticated in the same way, of
which only the next refresh token is read: a forced renewal, which also holds flight and lease, marks the
attempt, bounds the call in time, checks the answer, and stores the record. One of each in turn, at a provider
without artificial latency. A FileStore puts two records on the disk per renewal (the attempt before, the
token after), each as a file flushed, renamed and its folder flushed; such a write by itself is measured
beside it."""

BARE, MEMORY, FILE = "bare requests.post", "MemoryStore", "FileStore"
BARE_SERVICE, SERVICE = "bare requests.post, client_credentials", "MemoryStore, client_credentials"
WRITE = "a file written, flushed, renamed, its folder flushed"
_RECORD_SIZE = 700  # bytes, about
_WARM_UP = 5

Act = Callable[[], object]


def run(setting: Setting) -> Section:
    """Renew by turns."""
    with provider_process() as desk:
        acts = {
            BARE: _bare(desk.log_in()),
            MEMORY: _ours(desk.log_in(), MemoryStore()),
            FILE: _ours(desk.log_in(), FileStore(setting.folder("renewal"))),
            BARE_SERVICE: _bare_service(desk.descriptor()),
            SERVICE: _our_service(desk.descriptor()),
            WRITE: _durable_write(setting.folder("write")),
        }
        for act in list(acts.values()) * _WARM_UP:
            act()
        rounds = take_turns({name: one(act) for name, act in acts.items()}, setting.choose(400, 25))
    target = "a renewal on MemoryStore, times the bare requests.post"
    return Section(
        title="A renewal's own cost",
        about=ABOUT,
        tables=[_table(rounds)],
        verdicts=[Verdict(target, rounds.ratio(MEMORY, BARE), Relation.AT_MOST, 1.25)],
        notes=[_share_of_flushing(rounds)],
        chart=Bars(
            "One renewal of a user's token: time",
            Kind.SECONDS,
            [Bar(name, rounds.median(name), ours=name != BARE) for name in (BARE, MEMORY, FILE)],
        ),
    )


def _bare(grant: UserGrant) -> Act:
    tokens = [grant.refresh_token]

    def post() -> None:
        form = {"grant_type": "refresh_token", "refresh_token": tokens.pop()}
        auth = CLIENT_ID, CLIENT_SECRET
        answer = requests.post(grant.token_endpoint, data=form, auth=auth, timeout=30)
        tokens.append(answer.json()["refresh_token"])

    return post


def _bare_service(descriptor: ProviderDescriptor) -> Act:
    def post() -> object:
        form = {"grant_type": "client_credentials", "scope": "email.read"}
        auth = CLIENT_ID, CLIENT_SECRET
        answer = requests.post(descriptor.token_endpoint, data=form, auth=auth, timeout=30)
        return answer.json()["access_token"]

    return post


def _ours(grant: UserGrant, store: BrokerStore) -> Act:
    store.save(grant.as_expired_record())
    broker = Broker(grant.descriptor, CLIENT_ID, CLIENT_SECRET, store=store)
    request = grant.request.force_refresh()
    return lambda: broker.refresh_access_token(request)


def _our_service(descriptor: ProviderDescriptor) -> Act:
    broker = Broker(descriptor, CLIENT_ID, CLIENT_SECRET)
    request = CachedTokenRequest("tenant-acme", "svc-router", "email.read").force_refresh()
    return lambda: broker.client_credentials(request)


def _durable_write(folder: Path) -> Act:
    new, path, text = folder / "new", folder / "record", b"x" * _RECORD_SIZE

    def write() -> None:
        with new.open("wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        if os.name == "nt":
            return  # a folder cannot be opened there
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    return write


def _table(rounds: Rounds) -> Table:
    bare = {BARE: BARE, MEMORY: BARE, FILE: BARE, BARE_SERVICE: BARE_SERVICE, SERVICE: BARE_SERVICE}
    rows = []
    for name in rounds.samples:
        share = rounds.ratio(name, bare[name]) if name in bare else None
        rows.append(Row(name, [rounds.median(name), share], ours=name in {MEMORY, FILE, SERVICE}))
    columns = [Column("time", Kind.SECONDS), Column("of the bare post", Kind.RATIO)]
    return Table("One renewal", columns, rows)


def _share_of_flushing(rounds: Rounds) -> str:
    longer = rounds.median(FILE) - rounds.median(MEMORY)
    writes = 2 * rounds.median(WRITE)
    return (
        f"Of the {longer * 1e3:.2f} ms that a renewal on FileStore takes longer than on MemoryStore, two "
        f"bare writes through to the disk are {writes * 1e3:.2f} ms ({writes / longer:.0%}). A service "
        "token's renewal keeps its connection, which the bare post does not; a user's never does."
    )
