"""The world of the model: processes on one store and one provider, and what happens to them.

A *process* is a broker of its own: its own flights, its own keeper, the renewal code as it is. A *call* is
a task that calls such a broker. ``make`` does one of the ``moves`` and checks the rules. ``finish`` heals
everything, lets all tasks end, and asks once more: whoever asks then gets a token if the grant lives and
its refresh token is known to anybody.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from oauth2broker import Broker, CachedTokenRequest, InvalidGrantError, MemoryStore, RevokedError, TokenRecord
from oauth2broker.flows import (
    broker as broker_module,
    keeper as keeper_module,
    refresh as refresh_module,
    singleflight as singleflight_module,
)
from oauth2broker.flows.bounds import Bounds
from oauth2broker.flows.keeper import Keeper
from oauth2broker.obs import logger
from tests.model.moves import Move, coming, doing, going_on, surroundings
from tests.model.provider import DESCRIPTOR, LIFETIME, ModelErrorMapper, ModelTransport, Provider
from tests.model.rules import Rules
from tests.model.scheduler import ModelAtexit, ModelThreading, ModelTime, Order, Scheduler, Task, one_cpu
from tests.model.store import Health, ModelStore

ONE_TRY = Bounds(store=0.0)  # of a write that fails
TWO_TRIES = Bounds(store=0.06)
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
REQUEST = CachedTokenRequest("tenant-acme", "user-1", "openid")
REDIRECT_URI = "https://app.example.com/callback"
MOST_STEPS = 2000
LONG = 2 * 3600.0


class Violation(AssertionError):  # noqa: N818 - not an error of the program
    """A rule does not hold; the message has all steps that led there."""


@dataclass(eq=False)
class Process:
    """A process, or host: a broker of its own on the shared store."""

    name: str
    broker: Broker
    is_alive: bool = True
    store_failed_at: int = -1
    coming: list[Move] = field(default_factory=list)

    def __str__(self) -> str:
        return self.name

    @property
    def keeper(self) -> Keeper:
        return self.broker._keeper

    @property
    def flights(self) -> int:
        return len(self.broker._flights)


@dataclass(eq=False)
class Call(Task):
    """A caller. What it gets may depend on all since step ``origin``; ``seen`` is what it read first."""

    kind: str = "plain"
    request: CachedTokenRequest = REQUEST
    origin: int = 0
    seen: TokenRecord | None = None
    has_begun: bool = False
    has_read: bool = False
    turnover: int = 0  # when it read
    is_judged: bool = False

    @property
    def record(self) -> TokenRecord | None:
        """What the broker gave it."""
        assert self.result is None or isinstance(self.result, TokenRecord)
        return self.result

    def told(self) -> str:
        """Say how it ended."""
        if self.error is not None:
            return repr(self.error)
        if self.record is None:
            return "None"
        return "a tombstone" if self.record.revoked_at else self.record.access_token.expose()


class World:
    """Everything there is. Made by :func:`new_world`, which puts the library under its scheduler."""

    def __init__(self, scheduler: Scheduler, processes: int) -> None:
        self.scheduler = scheduler
        self.offset = 0.0
        self.step = 0
        self.trace: list[str] = []
        self.rules = Rules(self)
        self.provider = Provider(self.rules)
        self._names = itertools.count(1)
        self._transport = ModelTransport(scheduler, self.provider)
        key = Broker(DESCRIPTOR, "model-client", store=MemoryStore()).key_for(REQUEST)
        self.store = ModelStore(scheduler, key, self.rules)
        self.processes = [self._new_process() for _ in range(processes)]
        self.surroundings = list(surroundings(self))

    def now(self) -> datetime:
        """Give the time that everybody's wall clock shows."""
        return EPOCH + timedelta(seconds=self.scheduler.mono + self.offset)

    def calls(self) -> list[Call]:
        """Give the calls under way."""
        return [task for task in self.scheduler.tasks if isinstance(task, Call)]

    def current_call(self) -> Call | None:
        """Give the call whose task runs, if one does."""
        task = self.scheduler.current
        return task if isinstance(task, Call) else None

    # What happens, by itself or as a move.

    def log_in_outside(self, *, replaces: bool) -> None:
        """Somebody stores the record of a new grant without asking for the lease."""
        answer = self.provider.log_in(self.provider.new_grant(), replaces=replaces)
        record = TokenRecord(
            family=self.store.key.family,
            scope=REQUEST.scope,
            access_token=answer["access_token"],
            refresh_token=answer["refresh_token"],
            issued_at=self.now(),
            expires_at=self.now() + timedelta(seconds=LIFETIME),
        )
        self.store.save(record, outside=True)

    def log_out_outside(self) -> None:
        """Somebody writes a tombstone without asking for the lease."""
        self.store.revoke(self.store.key, self.now(), outside=True)

    def delete_outside(self) -> None:
        """Somebody deletes the record."""
        self.store.delete(self.store.key, outside=True)

    def revoke_at_provider(self) -> None:
        """The user takes the consent back at the provider."""
        for grant in self.provider.grants:
            grant.alive = False

    def advance(self, seconds: float) -> None:
        """Time passes for everybody."""
        self.scheduler.mono += seconds

    def set_back(self, seconds: float) -> None:
        """All wall clocks are set back."""
        self.offset -= seconds

    def set_health(self, health: Health) -> None:
        """The backend of the store fails from now on, or works again."""
        self.store.health = health

    def call(self, process: Process, kind: str = "plain") -> Call:
        """A caller comes to ``process``."""
        request, stored = REQUEST, self.store.record
        if kind == "force":
            request = REQUEST.force_refresh()
        if kind == "rejecting" and stored is not None:
            request = REQUEST.rejecting(stored)
        work = self._work_of(process.broker, kind, request)
        name, short = f"{process}/{kind}{next(self._names)}", kind.partition(" ")[0]
        call = Call(name, process, lambda: self._begin(call, work), kind=short, request=request)
        self.scheduler.start(call)
        return call

    def work(self, task: Task) -> None:
        """Let ``task`` go on undisturbed until it waits or ends."""
        for _ in range(MOST_STEPS):
            move = next((move for move in going_on(self) if move.task is task), None)
            if move is None:
                return
            self.make(move)

    def call_and_work(self, process: Process, kind: str) -> None:
        """A caller comes, and goes on undisturbed until it waits or ends."""
        self.work(self.call(process, kind))

    def kill(self, process: Process) -> None:
        """``process`` dies; another takes its place, which knows nothing."""
        self._lose_what_is_held_by(lambda task: task.owner is process, process)
        process.is_alive = False
        for task in [task for task in self.scheduler.tasks if task.owner is process]:
            self.scheduler.kill(task)
        if self.store.holder is not None and self.store.holder.owner is process:
            self.store.holder = None
        self.processes[self.processes.index(process)] = self._new_process()

    def interrupt(self, task: Task) -> None:
        """A KeyboardInterrupt strikes ``task``."""
        self._lose_what_is_held_by(lambda other: other is task, None)
        self.scheduler.throw(task, KeyboardInterrupt())

    # How it goes on.

    def make(self, move: Move) -> None:
        """Do ``move``, and check the rules. Raises :class:`Violation`."""
        self.step += 1
        self.trace.append(f"{self.step:4} [{self.scheduler.mono:6.1f}] {move.label}")
        self.rules.troubles += move.is_cause
        before = self.calls()
        move.do()
        for call in before:
            if call.ended and not call.is_judged:
                call.is_judged = True
                self.trace.append(f"       {call.name} ends in {call.told()}")
                self.rules.ended(call)
        self.rules.stepped()
        self.check()

    def do(self, label: str, what: Callable[..., object], *args: object) -> None:
        """Make a move of one's own."""
        self.make(Move(label, doing(what, *args)))

    def check(self) -> None:
        """Raise :class:`Violation` if a rule is broken."""
        if self.rules.broken:
            raise Violation("\n".join([self.rules.broken[0], "after", *self.trace]))

    def finish(self) -> None:
        """Heal everything, let all end, and check that a healthy world serves whoever asks."""
        self.do("everything is healthy again", self.set_health, Health.UP)
        self.drain()
        self.do(f"{LONG:g} s pass", self.advance, LONG)
        self.drain()
        self._require_quiet()
        for process in self.processes:
            self._require_service(process)

    def drain(self) -> None:
        """Let all tasks end; time passes only when all wait."""
        usual = {Order.GO, Order.TIME_OUT, Order.LOSE}
        for _ in range(MOST_STEPS):
            move = next((move for move in going_on(self) if move.order in usual), None)
            pauses = [task.pause for task in self.scheduler.tasks if task.pause is not None]
            deadlines = [pause.deadline for pause in pauses if pause.deadline is not None]
            if move is not None:
                self.make(move)
            elif deadlines:
                self.do("all wait", self.advance, max(min(deadlines) - self.scheduler.mono, 0.0))
            else:
                break
        self.rules.require(not self.scheduler.tasks, "7: somebody waits for ever")
        self.check()

    def close(self) -> None:
        """End all threads."""
        for process in self.processes:
            process.is_alive = False
        for task in list(self.scheduler.tasks):
            self.scheduler.kill(task)

    def _begin(self, call: Call, work: Callable[[], object]) -> object:
        """Do the work of ``call``, which may be given what a call before it is already at."""
        others = [other.origin for other in self.calls() if other.owner is call.owner and other.has_begun]
        call.origin, call.has_begun = min([self.step, *others]), True
        return work()

    def _work_of(self, broker: Broker, kind: str, request: CachedTokenRequest) -> Callable[[], object]:
        if kind == "logout":
            return lambda: broker.revoke(request)
        if not kind.startswith("login"):
            return lambda: broker.refresh_access_token(request)
        code = self.provider.new_code(replaces=kind.endswith("anew"))
        session = broker.start_authorization(REQUEST.tenant, REQUEST.principal, REQUEST.scope, REDIRECT_URI)
        return lambda: broker.exchange_code(session, code)

    def _lose_what_is_held_by(self, is_hit: Callable[[Task], bool], process: Process | None) -> None:
        """Excuse the presentations whose answer is known to nobody once these tasks end."""
        unsaved = [] if process is None else [kept.record for kept in process.keeper.unsaved.values()]
        tokens = {r.refresh_token.expose() for r in unsaved if r.refresh_token is not None}
        for shown in self.provider.presentations:
            is_held = is_hit(shown.task) and not shown.task.ended
            if shown.delivered and not shown.stored and (is_held or shown.successor in tokens):
                shown.excused = True

    def _new_process(self) -> Process:
        broker = Broker(
            DESCRIPTOR,
            "model-client",
            store=self.store,
            http_client=self._transport,
            error_mapper=ModelErrorMapper(),
            clock=self.now,
        )
        process = Process(f"P{next(self._names)}", broker)
        process.coming += coming(self, process)
        return process

    def _require_quiet(self) -> None:
        """7: nothing is left under way."""
        self.rules.require(self.store.holder is None, "7: the lease is held, and nothing is under way")
        for process in self.processes:
            self.rules.require(not process.keeper.unsaved, f"3: {process} has not written what is unsaved")
            self.rules.require(not process.flights, f"7: a flight of {process} is left")
        self.check()

    def _require_service(self, process: Process) -> None:
        """6: a fresh caller in a healthy world gets a token, if there is one to be had."""
        record, grant = self.store.record, self.rules.grant_of(self.store.record)
        is_served = grant is not None and grant.alive and self.rules.holds(record, grant.current)
        is_tombstone = record is not None and record.revoked_at is not None
        call = self.call(process)
        self.work(call)
        if is_served:
            self.rules.require(call.error is None, f"6: a healthy world gives {call.told()}")
        else:
            right = RevokedError if is_tombstone else InvalidGrantError
            self.rules.require(isinstance(call.error, right), f"6: a dead grant gives {call.told()}")
        self.check()


@contextmanager
def new_world(processes: int = 2, bounds: Bounds = ONE_TRY) -> Iterator[World]:
    """Give a world with the library under its scheduler; on leaving, all of its threads have ended."""
    scheduler = Scheduler()
    time, threading = ModelTime(scheduler), ModelThreading(scheduler)
    with one_cpu(), pytest.MonkeyPatch.context() as patch:
        for module in (keeper_module, refresh_module, singleflight_module):
            patch.setattr(module, "time", time)
        for module in (keeper_module, singleflight_module):
            patch.setattr(module, "threading", threading)
        patch.setattr(keeper_module, "atexit", ModelAtexit())
        patch.setattr(broker_module, "Bounds", lambda: bounds)
        patch.setattr(logger, "disabled", True)
        world = World(scheduler, processes)
        try:
            yield world
        finally:
            world.close()
