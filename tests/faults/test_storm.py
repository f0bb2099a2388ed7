"""A storm of kills: workers that renew all the time die at random moments and are replaced."""

from __future__ import annotations

import math
import os
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from oauth2broker import (
    Broker,
    BrokerError,
    CachedTokenRequest,
    FileStore,
    InvalidGrantError,
    TokenRecord,
    TransientError,
)
from oauth2broker.stores.disk import PARTS
from oauth2broker.testing import LoopbackProvider
from tests.faults.workers import (
    CLIENT,
    FastClock,
    Plan,
    context_for,
    log_in,
    now,
    renew_for_ever,
    stored,
    wait_for,
)
from tests.places import Place
from tests.support import SCOPE, TENANT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the faults need POSIX processes")

SECONDS = float(os.environ.get("OAUTH2BROKER_STORM_SECONDS", "8"))
SEED = int(os.environ.get("OAUTH2BROKER_STORM_SEED", "20260101"))
NAMES = [f"user-{number}" for number in range(12)]
REQUESTS = {name: CachedTokenRequest(TENANT, name, SCOPE) for name in NAMES}
WORKERS = 3
ENOUGH = 2 * len(NAMES)  # logins and renewals, however long a slow disk takes for them
LONGEST_WAIT = 80.0  # seconds of the fast clock: for an answer to arrive, or for the current token to end
RATE = 40.0  # so that the 35 seconds in which an answer can arrive are less than one


@dataclass(slots=True)
class Storm:
    """Workers under fire. They have one thread each, so that a kill costs at most one answer.

    ``lost`` counts the kills that can have cost one: those between the sending and the storing.
    """

    plan: Plan = field(repr=False)
    clock: FastClock = field(repr=False)
    dice: random.Random = field(repr=False)
    kills: int = 0
    lost: int = 0
    _context: Any = field(default_factory=lambda: context_for("forkserver"), repr=False)
    _workers: list[tuple[Any, Any]] = field(default_factory=list, repr=False)

    def blow(self) -> None:
        """Let one worker work for a moment, kill it whatever it is doing, and replace it."""
        while len(self._workers) < WORKERS:
            self._workers.append(self._start())
        time.sleep(self.dice.uniform(0.0, 0.2))
        self._kill(*self._workers.pop(self.dice.randrange(WORKERS)))

    def end(self) -> None:
        """Kill them all."""
        while self._workers:
            self._kill(*self._workers.pop())

    def _start(self) -> tuple[Any, Any]:
        presenting = self._context.Value("b", False, lock=False)
        args = (self.plan, self.clock, list(REQUESTS.values()), self.dice.getrandbits(32), presenting)
        worker = self._context.Process(target=renew_for_ever, args=args, daemon=True)
        worker.start()
        return worker, presenting

    def _kill(self, worker: Any, presenting: Any) -> None:
        worker.kill()
        worker.join(30.0)
        assert not worker.is_alive()
        self.kills += 1
        self.lost += presenting.value


@pytest.fixture
def clock() -> FastClock:
    """Runs forty times as fast as the wall clock."""
    return FastClock(now(), RATE)


@pytest.fixture
def fast_provider(clock: FastClock) -> Iterator[LoopbackProvider]:
    """Issues tokens that last two seconds, and takes some milliseconds to answer."""
    lifetime = timedelta(seconds=2 * RATE)
    with LoopbackProvider(clock=clock, access_token_lifetime=lifetime, latency=0.01) as running:
        yield running


def answered(provider: LoopbackProvider) -> int:
    """Count the logins and renewals so far."""
    return sum(call.status == 200 for call in provider.calls)


def check_files(folder: Path) -> None:
    """Every record file is a whole record, under its own name; beside them lie temporary files at most."""
    names = {path.name for path in folder.iterdir()}
    keys = list(FileStore(folder).keys())
    temporary = {f"new-{part}.tmp" for part in PARTS}
    assert names - {"locks"} - temporary == {f"{key.digest}.json" for key in keys}
    for path in folder.glob("*.json"):
        assert f"{TokenRecord.from_json(path.read_bytes()).key.digest}.json" == path.name


def test_a_storm_of_kills_leaves_every_grant_alive_or_properly_buried(
    fast_provider: LoopbackProvider, clock: FastClock, folder: Path
) -> None:
    """FAULTS 3 and 8: no damaged file, one reuse per lost answer, and each key goes on or needs a login."""
    provider, dice = fast_provider, random.Random(SEED)
    store = FileStore(folder)
    storm = Storm(Plan(Place(str(folder)), provider.descriptor()), clock, dice)
    with Broker(provider.descriptor(), *CLIENT, store=store, clock=clock) as broker:
        keys = {name: broker.key_for(request) for name, request in REQUESTS.items()}
        for name in NAMES:
            log_in(broker, provider, name)
        buried = 0
        deadline = time.monotonic() + SECONDS
        try:
            while time.monotonic() < deadline or answered(provider) < ENOUGH:
                assert time.monotonic() < deadline + 120, "too few renewals: this proves nothing"
                storm.blow()
                for name, key in keys.items():
                    if stored(store, key).revoked_at is not None:
                        buried += 1
                        log_in(broker, provider, name)
        finally:
            storm.end()
        check_files(folder)
        assert storm.kills > SECONDS, "too few kills: this proves nothing"
        for name in NAMES:
            check_grant(broker, provider, clock, name)
        check_files(folder)
        print(f"seed {SEED}: {storm}, {answered(provider)} answers, {provider.reuses} reuses")
        assert max(provider.reuses, buried) <= storm.lost <= storm.kills


def check_grant(broker: Broker, provider: LoopbackProvider, clock: FastClock, name: str) -> None:
    """A grant is renewable, now or when no answer can arrive any more, or a tombstone; a login mends it."""
    request, key = REQUESTS[name], broker.key_for(REQUESTS[name])
    assert isinstance(broker.store, FileStore)
    outcome, waits = list[TokenRecord | BrokerError](), list[float]()

    def is_decided() -> bool:
        try:
            outcome.append(broker.refresh_access_token(request.force_refresh()))
        except TransientError as error:
            waits.append(error.retry_after or math.inf)
            time.sleep(clock.real_seconds(min(waits[-1], LONGEST_WAIT)))
            return False
        except InvalidGrantError as error:
            outcome.append(error)
        return True

    wait_for(is_decided, 10.0)
    assert max(waits, default=0.0) <= LONGEST_WAIT
    found, left = outcome[0], stored(broker.store, key)
    if isinstance(found, TokenRecord):
        assert left == found
        assert provider.is_live(found.access_token.expose())
    else:
        assert (left.revoked_at is not None, left.refresh_token) == (True, None)
    again = log_in(broker, provider, name)
    assert provider.is_live(again.access_token.expose())
    assert broker.refresh_access_token(request.force_refresh()).access_token != again.access_token
