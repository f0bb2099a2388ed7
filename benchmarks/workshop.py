"""The environment of a run: this tree's wheel and the peers, installed as anybody would install them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv-bench"
_REQUIREMENTS = ROOT / "benchmarks" / "requirements.txt"
_SOURCES = ("oauth2broker", "pyproject.toml", "setup.cfg", "README.rst", "LICENSE")


def prepare() -> Path:
    """Make the environment, or bring it up to date; give its interpreter."""
    python = FOLDER / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        _make(python)
    _unless_done(
        "peers", [_REQUIREMENTS], lambda: _pip(python, "install", "--upgrade", "-r", str(_REQUIREMENTS))
    )
    _unless_done("wheel", _source_files(), lambda: _install_wheel(python))
    return python


def _make(python: Path) -> None:
    try:
        venv.create(FOLDER, with_pip=True)
    except subprocess.CalledProcessError:  # some systems ship venv without pip; then ours installs one
        venv.create(FOLDER, clear=True)
        command = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "pip"]
        subprocess.run(command, check=True)


def _install_wheel(python: Path) -> None:
    """Build from a copy, which leaves the tree alone and takes nothing from earlier builds."""
    with tempfile.TemporaryDirectory() as folder:
        for name in _SOURCES:
            source, copy = ROOT / name, Path(folder, name)
            if source.is_dir():
                shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy)
        _pip(python, "wheel", "--no-deps", "--wheel-dir", folder, folder)
        [wheel] = Path(folder).glob("*.whl")
        _pip(python, "install", str(wheel))
        _pip(python, "install", "--no-deps", "--force-reinstall", str(wheel))  # the version may be the same


def _pip(python: Path, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "-q", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True, stdout=sys.stderr)


def _source_files() -> list[Path]:
    found = [path for path in (ROOT / "oauth2broker").rglob("*") if path.suffix in {".py", ".pyi", ".typed"}]
    return [*sorted(found), *(ROOT / name for name in _SOURCES[1:])]


def _unless_done(what: str, inputs: Iterable[Path], act: Callable[[], None]) -> None:
    """Do ``act`` unless it has been done with the very same inputs."""
    digest = hashlib.sha256()
    for path in inputs:
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    stamp = FOLDER / f".{what}"
    if stamp.exists() and stamp.read_text() == digest.hexdigest():
        return
    print(f"installing the {what} ...", file=sys.stderr, flush=True)
    act()
    stamp.write_text(digest.hexdigest())
