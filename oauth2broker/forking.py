"""What a child must forget after a fork."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forgetful(Protocol):
    """Has something that is its process's own: a lock, a thread, a connection."""

    def forget_after_fork(self) -> None:
        """Start anew, in the child. Must take no lock: whoever held it is not there."""
        ...


_alive: weakref.WeakSet[Forgetful] = weakref.WeakSet()


def forget_in_children(made: Forgetful) -> None:
    """Have ``made.forget_after_fork()`` called in every child forked while ``made`` lives.

    Only the forking thread lives on in a child: a lock that another thread held would stay held for ever,
    and a connection would be shared with the parent.
    """
    _alive.add(made)


def _forget() -> None:
    for made in list(_alive):
        made.forget_after_fork()


if hasattr(os, "register_at_fork"):  # once, at import: a hook cannot be taken back
    os.register_at_fork(after_in_child=_forget)
