"""Children forked from a process that has threads, connections, locks and renewals under way."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import pytest

from oauth2broker import Broker, CachedTokenRequest, FileStore, GrantType, ProviderDescriptor, StoreKey
from oauth2broker.testing import Fault, LoopbackProvider
from tests.faults.workers import (
    CLIENT,
    PATIENCE,
    Answer,
    Crew,
    age,
    answer_of,
    ask,
    can_lease,
    fork_and_stay,
    fork_holding_locks,
    fork_under_load,
    fork_while_all_is_locked,
    fork_with_unsaved,
    lift_limit,
    log_in,
    stored,
    trade_service_tokens,
    unsaved_tokens,
    wait_for,
)
from tests.support import SCOPE, SERVICE_REQUEST, TENANT, USER, USER_REQUEST

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="forking needs Linux"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


def test_children_forked_in_the_middle_of_renewals_work_and_the_parent_goes_on(
    provider: LoopbackProvider, broker: Broker, crew: Crew
) -> None:
    """FAULTS 22: 20 forks under load; every child renews within its time, nothing is presented twice."""
    names = [USER, "user-2", "user-3"]
    for name in names:
        log_in(broker, provider, name)
    provider.latency = 0.01
    requests = [CachedTokenRequest(TENANT, name, SCOPE) for name in names]
    parent = crew.hire()
    children, load = parent.begin(fork_under_load, 20, requests).result(90.0)
    assert [child.status for child in children] == [0] * 20
    found = [answer for child in children for answer in child.answers]
    assert [answer.message for answer in found + load if answer.error] == []
    assert len(found) == 60
    assert provider.reuses == 0
    assert parent.ask(USER_REQUEST.force_refresh()).error is None


@pytest.mark.parametrize("closing", [False, True], ids=["asks", "asks and closes"])
def test_a_child_forked_while_other_threads_hold_every_lock_works(
    provider: LoopbackProvider, broker: Broker, crew: Crew, closing: bool
) -> None:
    """FAULTS 22: whatever lock a thread of the parent held at the fork, the child is not stopped by it."""
    log_in(broker, provider)
    locks, child = crew.hire().do(fork_while_all_is_locked, closing=closing)
    assert len(locks) >= 5, "the locks were not found: this proves nothing"
    assert len([name for name in locks if "._write_locks[" in name]) == 16
    assert child.status == 0, f"it hangs at one of {locks}"
    assert [answer.message for answer in child.answers if answer.error] == []
    assert len(child.answers) == 3


def test_a_child_is_not_stopped_by_the_locks_of_a_memory_store(provider: LoopbackProvider) -> None:
    """FAULTS 22: it has a copy of the records, and locks that are free."""
    with Broker(provider.descriptor(), *CLIENT) as broker:
        log_in(broker, provider)
        locks, child = fork_holding_locks(broker, USER_REQUEST, closing=False)
        assert any("store" in name for name in locks), locks
        assert child.status == 0, f"it hangs at one of {locks}"
        assert [answer.message for answer in child.answers if answer.error] == []
        assert len(child.answers) == 3


def test_a_child_neither_writes_nor_unlocks_what_its_parent_could_not_save(
    provider: LoopbackProvider, broker: Broker, store: FileStore, key: StoreKey, crew: Crew
) -> None:
    """FAULTS 22 and 4: `unsaved` and its lease stay the parent's, also when the child closes and exits."""
    log_in(broker, provider)
    age(store, key, seconds_left=-1)
    provider.clear()
    parent, other = crew.hire(limit_at_answer=True), crew.hire()
    token = parent.ask().token
    assert token is not None
    child = parent.do(fork_with_unsaved)
    assert (child.status, child.answers) == (0, [])
    assert parent.do(unsaved_tokens) == [token]
    assert not other.do(can_lease), "the child freed its parent's lease"
    parent.do(lift_limit)
    wait_for(lambda: parent.do(unsaved_tokens) == [], 5.0)
    assert other.do(can_lease)
    assert stored(store, key).access_token.fingerprint() == token
    assert provider.token_calls == 1


def test_a_child_keeps_no_lease_alive_when_its_parent_is_killed(
    provider: LoopbackProvider, broker: Broker, store: FileStore, key: StoreKey, crew: Crew
) -> None:
    """FAULTS 22 and 8: a lease that was held at the fork goes with the parent, though the child lives on."""
    log_in(broker, provider)
    age(store, key, seconds_left=-1)
    provider.inject(Fault.silence(processed=False))
    parent, other = crew.hire(), crew.hire()
    child = parent.do(fork_and_stay)
    try:
        assert not other.do(can_lease)
        parent.kill()
        os.kill(child, 0)  # it is there
        assert other.do(can_lease), "the child holds its parent's lease"
        store.save(stored(store, key))  # nor does it hold the folder
        assert other.ask().error == "TransientError"
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


# --- connections -------------------------------------------------------------------------------------------


class PortServer(ThreadingHTTPServer):
    """Grants every client credentials request a token that names its scope; notes each client's port."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _PortHandler)
        self.ports: list[tuple[str, int]] = []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def ports_of(self, scope: str) -> list[int]:
        """The ports that asked for ``scope``, in order."""
        return [port for asked, port in self.ports if asked == scope]


class _PortHandler(BaseHTTPRequestHandler):
    server: PortServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        scope = form["scope"][0]
        self.server.ports.append((scope, self.client_address[1]))
        body = json.dumps({"access_token": f"token-of-{scope}", "token_type": "Bearer", "expires_in": 3600})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def port_server() -> Iterator[PortServer]:
    """A server that knows its clients' ports."""
    with PortServer() as server:
        yield server
        server.shutdown()


def test_a_child_shares_no_connection_with_its_parent(port_server: PortServer, crew: Crew) -> None:
    """FAULTS 22: the parent's kept-alive connection stays its own and alive; each child opens another."""
    url = f"http://127.0.0.1:{port_server.server_address[1]}/token"
    descriptor = ProviderDescriptor(id="ports", token_endpoint=url, grants={GrantType.CLIENT_CREDENTIALS})
    mine, *theirs = crew.hire(descriptor=descriptor).do(trade_service_tokens, 4)
    assert mine == ["token-of-parent"] * 6
    assert theirs == [[f"token-of-child-{number}"] * 3 for number in range(4)]
    assert len(set(port_server.ports_of("parent"))) == 1, "the parent's connection was not kept"
    for number in range(4):
        ports = set(port_server.ports_of(f"child-{number}"))
        assert len(ports) == 1
        assert ports != set(port_server.ports_of("parent"))


# --- preloaded ---------------------------------------------------------------------------------------------


def _serve(broker: Broker, barrier: Any, results: Any) -> None:
    """What a worker process does that was forked from a parent with the broker in it."""
    barrier.wait(PATIENCE)
    with ThreadPoolExecutor(4) as pool:
        calls = [partial(broker.refresh_access_token, USER_REQUEST)] * 4
        calls.append(partial(broker.client_credentials, SERVICE_REQUEST))
        results.put(list(pool.map(answer_of, calls)))


def test_workers_forked_from_a_preloaded_parent_renew_once(
    provider: LoopbackProvider, broker: Broker, store: FileStore, key: StoreKey
) -> None:
    """FAULTS 22 as gunicorn does it: a broker with threads and connections, then four forks, one renewal."""
    log_in(broker, provider)
    broker.client_credentials(SERVICE_REQUEST)
    with ThreadPoolExecutor(4) as pool:  # its threads are idle at the fork
        assert (
            len({each.access_token for each in pool.map(broker.refresh_access_token, [USER_REQUEST] * 8)})
            == 1
        )
        age(store, key, seconds_left=-1)
        provider.clear()
        provider.latency = 0.05
        context = multiprocessing.get_context("fork")
        barrier, results = context.Barrier(4), context.Queue()
        target = partial(_serve, broker, barrier, results)
        workers = [context.Process(target=target, daemon=True) for _ in range(4)]
        try:
            for worker in workers:
                worker.start()
            found: list[Answer] = [answer for _ in workers for answer in results.get(timeout=PATIENCE)]
            for worker in workers:
                worker.join(PATIENCE)
            assert [worker.exitcode for worker in workers] == [0] * 4
        finally:
            for worker in workers:
                worker.kill()
                worker.join(PATIENCE)
    assert [answer.message for answer in found if answer.error] == []
    users = {stored(store, key).access_token.fingerprint()}
    assert {answer.token for answer in found} - users == {
        broker.client_credentials(SERVICE_REQUEST).access_token.fingerprint()
    }
    assert (provider.token_calls, provider.reuses) == (1, 0)


def test_children_forked_while_the_parent_renews_adopt_what_it_gets(
    provider: LoopbackProvider, broker: Broker, store: FileStore, key: StoreKey, crew: Crew
) -> None:
    """FAULTS 22 and 2: the parent's flight is not theirs, but its lease is respected: one call in all."""
    log_in(broker, provider)
    age(store, key, seconds_left=-1)
    provider.clear()
    provider.latency = 1.0
    renewing = threading.Thread(target=broker.refresh_access_token, args=(USER_REQUEST,), daemon=True)
    renewing.start()
    wait_for(lambda: provider.token_calls == 1)
    child = crew.hire("fork")
    answers = child.do(ask, threads=4)
    renewing.join(PATIENCE)
    assert {answer.token for answer in answers} == {stored(store, key).access_token.fingerprint()}
    assert provider.token_calls == 1


def test_an_inherited_broker_is_closed_without_harm_to_the_parents(
    provider: LoopbackProvider, broker: Broker
) -> None:
    """FAULTS 22: a child that closes what it inherited closes only its own."""
    log_in(broker, provider)
    broker.client_credentials(SERVICE_REQUEST)
    context = multiprocessing.get_context("fork")
    child = context.Process(target=broker.close, daemon=True)
    child.start()
    child.join(PATIENCE)
    assert child.exitcode == 0
    assert broker.client_credentials(SERVICE_REQUEST.force_refresh()) is not None
    with Broker(provider.descriptor(), *CLIENT, store=broker.store) as another:
        assert another.refresh_access_token(USER_REQUEST.force_refresh()) is not None
