"""A deterministic scheduler of real threads: exactly one runs at a time, and it runs until its next pause.

The thread of the test is the scheduler's own. It hands a baton to a task (``run``), and gets it back when
the task pauses or ends. A task pauses wherever the model says so: before a store call, around a send, in a
wait. Each pause offers *orders*: what may happen there next. Whoever runs the task picks one, so a
schedule is nothing but a list of picks, and the same picks give the same run.

What the library takes from ``threading`` and ``time`` to wait is replaced by what is here: an event that
is waited for in a pause, a thread that is a task, a clock that moves when told.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

STUCK_AFTER = 30.0
"""Real seconds after which a task that neither pauses nor ends is taken to block outside the model."""


class Order(StrEnum):
    """What may happen at a pause."""

    GO = "goes on"
    TIME_OUT = "waits in vain"
    FAIL = "fails"
    FAIL_AFTER = "is done, but reported to have failed"
    LOSE = "gets no answer"
    UNSENT = "cannot connect"
    UNAVAILABLE = "gets 503"
    BAD_CLIENT = "gets invalid_client"
    GARBAGE = "gets 502 with HTML"
    USELESS = "gets a refresh token but no access token"
    KEEP = "is answered without rotation"


class Killed(BaseException):
    """The process of this task is gone; nothing that it still does reaches anybody."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Where a task stands. ``options`` is empty while it has to wait; ``deadline`` is when it stops to."""

    label: str
    options: Callable[[], Sequence[Order]]
    deadline: float | None = None


@dataclass(eq=False)
class Task:
    """A thread under the scheduler. ``owner`` is the process it belongs to."""

    name: str
    owner: Any
    work: Callable[[], object]
    number: int = 0
    pause: Pause | None = None
    ended: bool = False
    killed: bool = False
    result: object = None
    error: BaseException | None = None
    thrown: BaseException | None = None
    order: Order = Order.GO
    baton: threading.Lock = field(default_factory=threading.Lock)

    def options(self) -> Sequence[Order]:
        """Give what may happen to this task now; nothing when it waits or has ended."""
        return () if self.ended or self.pause is None else self.pause.options()


def always() -> Sequence[Order]:
    """The options of a pause at which nothing can go wrong."""
    return (Order.GO,)


class Scheduler:
    """Runs tasks, one at a time, on a clock of its own (``mono``, in seconds)."""

    def __init__(self) -> None:
        self.mono = 0.0
        self.tasks: list[Task] = []
        self.current: Task | None = None
        self._count = 0
        self._back = threading.Lock()
        self._back.acquire()

    def start(self, task: Task) -> Task:
        """Add ``task``; it waits at its first pause, before it has done anything."""
        self._count += 1
        task.number = self._count
        task.pause = Pause("start", always)
        task.baton.acquire()
        self.tasks.append(task)
        threading.Thread(target=self._main, args=(task,), daemon=True).start()
        return task

    def run(self, task: Task, order: Order = Order.GO) -> None:
        """Let ``task`` go on to its next pause, or its end."""
        before, self.current, task.order = self.current, task, order
        task.baton.release()
        if not self._back.acquire(timeout=STUCK_AFTER):
            raise AssertionError(f"{task.name} blocks outside the model")
        self.current = before
        if task.ended:
            self.tasks.remove(task)

    def throw(self, task: Task, error: BaseException) -> None:
        """Raise ``error`` in ``task``, at its pause."""
        task.thrown = error
        self.run(task)

    def kill(self, task: Task) -> None:
        """End ``task`` where it stands; its pauses from now on do not stop it."""
        task.killed = True
        while not task.ended:
            self.run(task)

    def pause(
        self, label: str, options: Callable[[], Sequence[Order]] = always, deadline: float | None = None
    ) -> Order:
        """Stop the task that calls this until it is told to go on, and give the order. For tasks only."""
        task = self.current
        assert task is not None, f"{label} outside a task"
        if not task.killed:
            task.pause = Pause(label, options, deadline)
            self._back.release()
            task.baton.acquire()
            task.pause = None
        return self._obey(task)

    def wait(self, label: str, is_over: Callable[[], bool], timeout: float | None) -> bool:
        """Stop the task that calls this until ``is_over``, at most ``timeout`` seconds; say which."""
        deadline = None if timeout is None else self.mono + timeout

        def options() -> Sequence[Order]:
            if is_over():
                return (Order.GO,)
            return (Order.TIME_OUT,) if deadline is not None and self.mono >= deadline else ()

        return self.pause(label, options, deadline) is Order.GO

    def _main(self, task: Task) -> None:
        task.baton.acquire()
        task.pause = None
        try:
            self._obey(task)
            task.result = task.work()
        except BaseException as error:
            task.error = error
        task.ended = True
        self._back.release()

    @staticmethod
    def _obey(task: Task) -> Order:
        if task.killed:
            raise Killed
        if task.thrown is not None:
            error, task.thrown = task.thrown, None
            raise error
        return task.order


@contextmanager
def one_cpu() -> Iterator[None]:
    """Keep this thread, and those it starts, on one CPU: a baton is handed over much faster there."""
    if sys.platform != "linux":
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class ModelTime:
    """Stands for the module ``time``."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def monotonic(self) -> float:
        return self._scheduler.mono

    def sleep(self, seconds: float) -> None:
        """Time passes by itself here: nobody else has to move the clock for a short sleep."""
        self._scheduler.pause("sleep")
        self._scheduler.mono += seconds


class ModelThreading:
    """Stands for the module ``threading``."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def get_ident(self) -> int:
        task = self._scheduler.current
        return 0 if task is None else task.number

    def Lock(self) -> ModelLock:  # noqa: N802 - as in threading
        return ModelLock(self._scheduler)

    def Event(self) -> ModelEvent:  # noqa: N802 - as in threading
        return ModelEvent(self._scheduler)

    def Thread(  # noqa: N802 - as in threading
        self, *, target: Callable[[], object], name: str, daemon: bool
    ) -> ModelThread:
        del daemon  # as all tasks are
        return ModelThread(self._scheduler, target, name)


class ModelLock:
    """Stands for ``threading.Lock``. One that is free is taken without a pause."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._is_held = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._is_held:
            bound = None if timeout < 0 else timeout
            if not self._scheduler.wait("lock", lambda: not self._is_held, bound if blocking else 0.0):
                return False
        self._is_held = True
        return True

    def release(self) -> None:
        self._is_held = False

    def locked(self) -> bool:
        return self._is_held

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class ModelEvent:
    """Stands for ``threading.Event``."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True

    def wait(self, timeout: float | None = None) -> bool:
        return self._scheduler.wait("event", self.is_set, timeout)


class ModelThread:
    """Stands for ``threading.Thread``: a task of the process that starts it."""

    def __init__(self, scheduler: Scheduler, target: Callable[[], object], name: str) -> None:
        self._scheduler = scheduler
        self._target = target
        self._name = name

    def start(self) -> None:
        starter = self._scheduler.current
        assert starter is not None
        self._scheduler.start(Task(f"{starter.owner}'s {self._name}", starter.owner, self._target))


class ModelAtexit:
    """Stands for the module ``atexit``: a process of the model ends by being killed."""

    @staticmethod
    def register(*_: object) -> None:
        """Forget it."""

    @staticmethod
    def unregister(*_: object) -> None:
        """There is nothing to take back."""
