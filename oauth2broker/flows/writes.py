"""Writes that must not be lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from oauth2broker.errors import StoreError

_PAUSE = 0.05  # seconds between two tries

Written = TypeVar("Written")


def write_surely(write: Callable[[], Written], seconds: float) -> Written:
    """Do ``write``, again and again for that long while the store fails; then raise its StoreError."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return write()
        except StoreError:
            if time.monotonic() + _PAUSE > deadline:
                raise
        time.sleep(_PAUSE)
