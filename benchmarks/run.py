"""The command: set up an environment with the built wheel and the peers, and run the suite in it.

Run with ``make bench``, or ``python -m benchmarks.run [--quick] [--only hits,threads] [--out FOLDER]``. Needs
Python 3.11 or newer and a package index; everything else is set up in ``.venv-bench``.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from benchmarks import workshop
from benchmarks.options import Options

# Isolated, and with the tree behind the installed packages, so that the wheel is measured and not the tree.
_INSIDE = """
import sys
sys.path.append(sys.argv[1])
from benchmarks.suite import main
sys.exit(main(sys.argv[2:]))
"""


def main(arguments: Sequence[str]) -> int:
    """Run, here or in an environment of its own; give the exit status. A missed target is no failure."""
    options = Options.parse(arguments)
    if options.here:
        from benchmarks.suite import main as run_suite

        return run_suite(arguments)
    python = workshop.prepare()
    command = [str(python), "-I", "-c", _INSIDE, str(workshop.ROOT), *_explicit(options)]
    return subprocess.run(command, check=False).returncode


def _explicit(options: Options) -> list[str]:
    """Give the options as arguments: what the environment said and where we are counts no more inside."""
    arguments = ["--out", str(options.out)]
    if options.quick:
        arguments.append("--quick")
    if options.only:
        arguments += ["--only", ",".join(sorted(options.only))]
    return arguments


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
