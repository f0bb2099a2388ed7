"""Two ways through the world.

``stray`` plays a scenario as it would go undisturbed, one task after the other, and leaves that path a few
times: after so many steps, another of the moves that can be made there. Most mistakes need few such
deviations, and hypothesis can take them away one by one when it shrinks a failure. ``every_deviation``
gives each way to stray once.

``walk`` never follows a path: each step picks one of the moves that can be made, by weight. It goes far
from anything that somebody thought of.

Both begin with a :class:`Setting`. Only some kinds of trouble are in one run: where everything happens at
once, nothing gets far enough to go wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass

from oauth2broker.flows.bounds import Bounds
from tests.model.moves import EVERYTHING, Move, Trouble, possible
from tests.model.provider import LIFETIME
from tests.model.scheduler import Order, Task
from tests.model.world import ONE_TRY, World, new_world

CHOICES = 256
"""A pick is a number below this: where in the list of moves, by weight."""

Deviation = tuple[int, int]
"""How many steps go undisturbed, and what is picked then."""

Picker = Callable[[Sequence[Move], "Move | None", int], "Move | None"]


@dataclass(frozen=True, slots=True)
class Setting:
    """How the world begins: ``state`` is the stored record's, and ``("plain", 0)`` asks the first process."""

    calls: tuple[tuple[str, int], ...] = ()
    state: str = "expired"
    troubles: Set[Trouble] = EVERYTHING
    processes: int = 2
    bounds: Bounds = ONE_TRY

    def begin(self, world: World) -> None:
        """Log in, let the token become as old as it shall be, and have the callers come."""
        if self.state != "nothing":
            world.log_in_outside(replaces=False)
        if self.state == "tombstone":
            world.log_out_outside()
        world.advance({"expired": LIFETIME, "advisory": LIFETIME - 10}.get(self.state, 0.0))
        for kind, process in self.calls:
            world.call(world.processes[process], kind)


def walk(setting: Setting, picks: Sequence[int]) -> None:
    """Make the moves that are picked, then finish. Raises Violation."""
    with new_world(setting.processes, setting.bounds) as world:
        setting.begin(world)
        for pick in picks:
            world.make(_picked(possible(world, setting.troubles), pick))
        world.finish()


def stray(setting: Setting, deviations: Sequence[Deviation], pick: Picker | None = None) -> list[int]:
    """Let the callers get what they want, with some deviations, then finish.

    Where nothing goes on any more, the next deviation comes at once. Gives how many moves there were at each
    step. Raises Violation.
    """
    choices: list[int] = []
    ahead, last = list(deviations), None
    gap = ahead[0][0] if ahead else 0
    with new_world(setting.processes, setting.bounds) as world:
        setting.begin(world)
        while True:
            moves = possible(world, setting.troubles)
            going, other = _undisturbed(moves, last), None
            if ahead and (gap <= 0 or going is None):
                other = (pick or _other)(moves, going, ahead[0][1])
            if other is not None:
                del ahead[0]
                gap = 1 + ahead[0][0] if ahead else 0
            move = other or going
            if move is None:
                break
            world.make(move)
            choices.append(len(moves))
            last, gap = move.task or last, gap - 1
        world.finish()
    return choices


def every_deviation(setting: Setting) -> Iterator[Deviation]:
    """Give each single deviation from ``setting``, for :func:`stray` with :func:`nth`."""
    for step, choices in enumerate(stray(setting, ())):
        for number in range(choices):
            yield step, number


def nth(moves: Sequence[Move], going: Move | None, pick: int) -> Move | None:
    """Give the move of that number."""
    return moves[pick]


def _other(moves: Sequence[Move], going: Move | None, pick: int) -> Move | None:
    """Give the move that is picked instead of ``going``, or None if it must come later.

    By turns: a fault that strikes its task, something around it, another task or caller, anything.
    """
    if going is None:
        return _picked(moves, pick)
    others = [move for move in moves if move.label != going.label]
    match pick % 4:
        case 0:
            others = [move for move in others if move.task is going.task and move.order is not None]
        case 1:
            others = [move for move in others if move.task is None and move.trouble is not None]
        case 2:
            others = [move for move in others if move.task is not going.task and move.trouble is None]
    return _picked(others, pick) if others else None


def _picked(moves: Sequence[Move], pick: int) -> Move:
    mark = pick * sum(move.weight for move in moves) // CHOICES
    for move in moves:
        mark -= move.weight
        if mark < 0:
            return move
    return moves[-1]


def _undisturbed(moves: Sequence[Move], last: Task | None) -> Move | None:
    """Give the next step of the task that went on last, or else of the first that can."""
    going = [move for move in moves if move.order in {Order.GO, Order.TIME_OUT, Order.FAIL, Order.LOSE}]
    return min(going, key=lambda move: move.task is not last, default=None)
