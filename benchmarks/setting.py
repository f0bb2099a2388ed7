"""Where a run takes place and how thorough it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from benchmarks.peers.base import Peer

NOT_MEASURED = "not measured in this run"

Choice = TypeVar("Choice")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Setting:
    """``scratch`` is a folder of the run's own, on the disk that the results go to."""

    quick: bool
    scratch: Path
    peers: Sequence[Peer]
    failures: dict[str, str] = field(default_factory=dict)

    def choose(self, full: Choice, quick: Choice) -> Choice:
        """Give what a full run, or a quick one, takes."""
        return quick if self.quick else full

    def folder(self, name: str) -> Path:
        """Make a folder for this purpose alone."""
        made = self.scratch / name
        made.mkdir(mode=0o700)
        return made

    def attempt(self, what: str, make: Callable[[], Made]) -> Made | None:
        """Give what ``make`` gives, or None: a peer that is not there, or has changed, is a dash."""
        try:
            return make()
        except Exception as error:  # noqa: BLE001 - whatever somebody else's code raises
            self.failures[what] = type(error).__name__
            return None
