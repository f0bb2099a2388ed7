"""What may happen next in a world: a task goes on or meets a fault, a caller comes, time passes ...

A move that is trouble says of which kind, so that a run can have some kinds only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from tests.model.provider import LIFETIME, LONGEST_SEND
from tests.model.scheduler import Order, Task
from tests.model.store import Health

if TYPE_CHECKING:
    from tests.model.world import Process, World

MOST_CALLS = 4
ASKING = (("plain", 2), ("force", 1), ("rejecting", 1))


class Trouble(StrEnum):
    """Kinds of what may happen besides callers that come and go on."""

    STORE = "store"
    ANSWERS = "answers"
    PROVIDER = "provider"
    TIME = "time"
    CLOCK = "clock"
    LOGOUT = "logout"
    LOGIN = "login"
    KILL = "kill"
    INTERRUPT = "interrupt"


EVERYTHING = frozenset(Trouble)
_TROUBLE_OF = {
    Order.FAIL: Trouble.STORE,
    Order.FAIL_AFTER: Trouble.STORE,
    Order.LOSE: Trouble.ANSWERS,
    Order.GARBAGE: Trouble.ANSWERS,
    Order.UNSENT: Trouble.PROVIDER,
    Order.UNAVAILABLE: Trouble.PROVIDER,
    Order.BAD_CLIENT: Trouble.PROVIDER,
    Order.USELESS: Trouble.PROVIDER,
    Order.KEEP: Trouble.PROVIDER,
}
_USUAL = {Order.GO, Order.TIME_OUT}
_HARMLESS = {Order.GO, Order.TIME_OUT, Order.KEEP}


@dataclass(frozen=True, slots=True)
class Move:
    """Something that may happen next; ``weight`` is how often, against the others.

    ``is_cause``: after it, a call may end in an error. ``order`` is what ``task`` is told, where it goes on.
    """

    label: str
    do: Callable[[], None]
    weight: int = 1
    trouble: Trouble | None = None
    is_cause: bool = False
    task: Task | None = None
    order: Order | None = None


def doing(what: Callable[..., object], *args: object, **options: object) -> Callable[[], None]:
    """Give ``what`` with its arguments, to be done later."""

    def do() -> None:
        what(*args, **options)

    return do


def possible(world: World, troubles: Set[Trouble] = EVERYTHING) -> list[Move]:
    """Give everything that may happen next, of the kinds ``troubles`` where it is trouble."""
    found = [*going_on(world)]
    found += [
        Move(f"{task.name} works", doing(world.work, task), 6, task=task)
        for task in world.scheduler.tasks
        if task.options()
    ]
    if len(world.calls()) < MOST_CALLS:
        for process in world.processes:
            found += process.coming
    if Trouble.INTERRUPT in troubles:
        found += _interrupts(world)
    if Trouble.ANSWERS in troubles:
        found += _ghosts(world)
    found += world.surroundings
    return [move for move in found if move.trouble is None or move.trouble in troubles]


def going_on(world: World) -> Iterator[Move]:
    """Give what each task can be told where it stands; the usual first."""
    for task in world.scheduler.tasks:
        options = task.options()
        for order in options:
            label = f"{task.name}: {task.pause and task.pause.label} {order}"
            trouble = _TROUBLE_OF.get(order) if len(options) > 1 else None  # else nothing can be done
            weight = 10 if order in _USUAL else 3
            do = doing(world.scheduler.run, task, order)
            yield Move(label, do, weight, trouble, order not in _HARMLESS, task, order)


def coming(world: World, process: Process) -> Iterator[Move]:
    """Give who may come to ``process``, and that it may be killed."""
    for kind, weight in ASKING:
        yield Move(f"{process} is asked, {kind}", doing(world.call, process, kind), weight)
        do = doing(world.call_and_work, process, kind)
        yield Move(f"{process} is asked, {kind}, and works", do, weight)
    yield Move(f"{process} is to log out", doing(world.call, process, "logout"), 1, Trouble.LOGOUT, True)
    for kind in ("login", "login anew"):
        yield Move(f"{process} is given a {kind}", doing(world.call, process, kind), 1, Trouble.LOGIN)
    yield Move(f"{process} is killed", doing(world.kill, process), 3, Trouble.KILL, True)


def surroundings(world: World) -> Iterator[Move]:
    """Give what happens to all, whoever is at work."""
    yield Move("a logout elsewhere", world.log_out_outside, 4, Trouble.LOGOUT, True)
    yield Move("a deletion elsewhere", world.delete_outside, 3, Trouble.LOGOUT, True)
    yield Move("the user takes the consent back", world.revoke_at_provider, 3, Trouble.LOGOUT, True)
    for label, replaces in (("a login elsewhere", False), ("a login anew elsewhere", True)):
        yield Move(label, doing(world.log_in_outside, replaces=replaces), 4, Trouble.LOGIN, True)
    for seconds, weight in ((1.0, 2), (28.0, 2), (36.0, 3), (LIFETIME, 2)):
        yield Move(f"{seconds:g} s pass", doing(world.advance, seconds), weight, Trouble.TIME, True)
    for seconds in (30.0, 1000.0):
        yield Move(f"clocks go back {seconds:g} s", doing(world.set_back, seconds), 3, Trouble.CLOCK, True)
    for health, weight in ((Health.UP, 6), (Health.READ_ONLY, 3), (Health.DOWN, 3)):
        yield Move(f"the store is {health}", doing(world.set_health, health), weight, Trouble.STORE, True)


def _interrupts(world: World) -> Iterator[Move]:
    for call in world.calls():
        do = doing(world.interrupt, call)
        yield Move(f"{call.name} is interrupted", do, 2, Trouble.INTERRUPT, True)


def _ghosts(world: World) -> Iterator[Move]:
    for shown in world.provider.presentations:
        if shown.ghost and world.scheduler.mono < shown.sent_at + LONGEST_SEND:
            label = f"the provider gets {shown.token} after all"
            yield Move(label, doing(world.provider.process, shown), 2, Trouble.ANSWERS)
