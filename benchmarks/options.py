"""What can be asked of a run."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NAMES = (
    "hits",
    "observing",
    "threads",
    "stampede",
    "advisory",
    "renewal",
    "file_store",
    "engines",
    "memory",
    "cold_start",
)
_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Options:
    """``only`` empty: all groups. ``here``: in this interpreter, with what is installed for it."""

    quick: bool
    only: frozenset[str]
    out: Path
    here: bool

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> Options:
        """Read a command line. Leaves the program when it cannot be read."""
        parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
        parser.add_argument(
            "--quick",
            action="store_true",
            default=os.environ.get("BENCH_QUICK", "") not in {"", "0"},
            help="a smoke run with small numbers (also BENCH_QUICK=1)",
        )
        parser.add_argument(
            "--only", type=_groups, default=frozenset(), metavar="GROUP,...", help=", ".join(NAMES)
        )
        parser.add_argument("--out", type=Path, default=_ROOT / "build" / "bench", help="where results go")
        parser.add_argument(
            "--here",
            action="store_true",
            help="set nothing up: use this interpreter and what is installed for it; "
            "a peer that is not there is a dash",
        )
        found = parser.parse_args(arguments)
        return cls(found.quick, found.only, found.out.resolve(), found.here)


def _groups(text: str) -> frozenset[str]:
    names = frozenset(text.split(","))
    if unknown := names - set(NAMES):
        raise argparse.ArgumentTypeError(f"no such group: {', '.join(sorted(unknown))}")
    return names
