"""What a child must forget after a fork."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable


def after_fork_in_child(reset: Callable[[], None]) -> None:
    """Have the bound method ``reset`` called in every child forked while its object lives.

    Only the forking thread lives on in a child: a lock that another thread held would stay held for ever,
    and a connection would be shared with the parent. ``reset`` must take no lock.
    """
    if not hasattr(os, "register_at_fork"):
        return
    method = weakref.WeakMethod(reset)

    def run() -> None:
        alive = method()
        if alive is not None:
            alive()

    os.register_at_fork(after_in_child=run)
