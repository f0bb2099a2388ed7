"""The run itself, inside an environment where the library and its peers are installed."""

from __future__ import annotations

import logging
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import (
    advisory,
    cold_start,
    engines,
    file_store,
    hits,
    memory,
    observing,
    peers,
    renewal,
    stampede,
    threads,
)
from benchmarks.chart import render_svg
from benchmarks.options import Options
from benchmarks.report import render_json, render_text
from benchmarks.setting import Setting
from benchmarks.tables import Section

GROUPS: Mapping[str, Callable[[Setting], Section]] = {
    "hits": hits.run,
    "observing": observing.run,
    "threads": threads.run,
    "stampede": stampede.run,
    "advisory": advisory.run,
    "renewal": renewal.run,
    "file_store": file_store.run,
    "engines": engines.run,
    "memory": memory.run,
    "cold_start": cold_start.run,
}


def main(arguments: Sequence[str]) -> int:
    """Run the groups that were asked for, print what they found and write it to files."""
    options = Options.parse(arguments)
    logging.getLogger().addHandler(logging.NullHandler())  # else warnings of pools and peers mix with ours
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.out, prefix="scratch-") as scratch:
        setting = Setting(options.quick, Path(scratch), peers.load())
        sections = {name: _run(name, setting) for name in GROUPS if name in (options.only or GROUPS)}
    about = _about(setting)
    text = render_text(about, sections)
    panels = [section.chart for section in sections.values() if section.chart is not None]
    subtitle = f"{about['python']}, {about['processors']} processors, {about['date']}; medians of one run"
    _write(options.out / "results.txt", text)
    _write(options.out / "results.json", render_json(about, sections))
    _write(options.out / "results.svg", render_svg(panels, subtitle))
    print(text)
    for what, error in setting.failures.items():
        print(f"not measured: {what} ({error})", file=sys.stderr)
    print(f"Written: results.txt, results.json and results.svg in {options.out}", file=sys.stderr)
    return 0


def _run(name: str, setting: Setting) -> Section:
    print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
    started = time.perf_counter()
    section = GROUPS[name](setting)
    print(f"{time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    return section


def _about(setting: Setting) -> Mapping[str, Any]:
    names = ["oauth2broker", "requests", "oauthlib", *(peer.name for peer in setting.peers)]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "quick": setting.quick,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "processors": os.cpu_count(),
        "versions": {name: version for name in names if (version := _version(name))},
        "not measured": setting.failures,
    }


def _processor() -> str:
    """Give the processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
