"""Schedules that once broke a rule, kept step by step: they say what went wrong, and that it does no more."""

from __future__ import annotations

import pytest

from tests.model.explore import Setting
from tests.model.provider import LIFETIME
from tests.model.scheduler import Task
from tests.model.store import Health
from tests.model.world import World, new_world


def run_to(world: World, task: Task, label: str = "") -> None:
    """Let ``task`` go on until it stands before ``label``, waits, or ends."""
    while (options := task.options()) and task.pause is not None and task.pause.label != label:
        world.do(f"{task.name}: {task.pause.label} {options[0]}", world.scheduler.run, task, options[0])


def advance(world: World, seconds: float) -> None:
    """Let time pass."""
    world.do(f"{seconds:g} s pass", world.advance, seconds)


def leave_a_login_unsaved(world: World) -> Task:
    """Log in while the store cannot be written; give the thread that writes it, once it is about to."""
    login = world.call(world.processes[0], "login")
    run_to(world, login, "save")
    world.do("the store is read-only", world.set_health, Health.READ_ONLY)
    run_to(world, login)
    world.do("the store is up", world.set_health, Health.UP)
    (writer,) = world.scheduler.tasks
    run_to(world, writer, "event")
    advance(world, 1.5)
    run_to(world, writer, "save")
    return writer


@pytest.mark.parametrize("kind", ["logout", "force"])
def test_what_is_unsaved_is_written_by_one_thread_at_a_time(kind: str) -> None:
    """A slow write must not bring back a grant after its logout, nor a spent token after a renewal.

    The writer has seen that the store holds what the unsaved record replaces. Before it saves, a caller does
    the same, saves, frees the lease and goes on.
    """
    with new_world() as world:
        writer = leave_a_login_unsaved(world)
        advance(world, 1.5)
        call = world.call(world.processes[0], kind)
        run_to(world, call)
        run_to(world, writer)
        world.finish()


@pytest.mark.parametrize("kind", ["force", "rejecting"])
def test_who_insists_on_another_token_gets_no_older_one(kind: str) -> None:
    """A caller joins a flight whose leader has read an older record than the caller itself.

    The leader finds the lease busy and ends with what it read: at a provider that rotates, a token that may
    have died with its refresh token.
    """
    with new_world() as world:
        Setting((("plain", 0), ("force", 1)), "advisory").begin(world)
        leader, other = world.calls()
        run_to(world, leader, "lease")
        run_to(world, other, "release")  # its new record is stored
        call = world.call(world.processes[0], kind)
        run_to(world, call)
        run_to(world, leader)
        run_to(world, call)
        world.finish()


def test_a_token_that_expires_while_the_lease_is_tried_is_not_served() -> None:
    """In the advisory window the lease is tried without waiting; a slow store makes that last."""
    with new_world() as world:
        Setting((("plain", 0), ("force", 1)), "advisory").begin(world)
        leader, other = world.calls()
        run_to(world, leader, "lease")
        run_to(world, other, "lease")
        run_to(world, other, "fetch")
        advance(world, LIFETIME)
        run_to(world, leader)
        run_to(world, other)
        world.finish()
