"""The benchmarks run, and write what they promise. Their times are not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.options import NAMES as GROUPS
from tests.test_examples import ROOT

TARGETS = {
    "a hit on MemoryStore, times the floor",
    "a request built anew, times a kept one",
    "a hit on FileStore, times one on MemoryStore",
    "a hit with no observer, times one that nobody could observe",
    "a stampede on MemoryStore: token calls",
    "a renewal on MemoryStore, times the bare requests.post",
    "import oauth2broker (its names not yet), of importing requests",
    "requests and oauthlib: loaded on a cached start",
}


def test_a_quick_run_measures_every_group(tmp_path: Path) -> None:
    """With what is installed here: peers that are not are dashes, and every target has a figure."""
    command = [sys.executable, "-m", "benchmarks.run", "--here", "--quick", "--out", str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert list(found["sections"]) == list(GROUPS)
    assert {verdict["target"] for verdict in found["verdicts"]} >= TARGETS
    assert all(isinstance(verdict["value"], int | float) for verdict in found["verdicts"])
    assert ElementTree.parse(tmp_path / "results.svg").getroot().tag.endswith("svg")
    assert (tmp_path / "results.txt").read_text(encoding="utf-8") == ran.stdout.removesuffix("\n")
    calls = [
        verdict for verdict in found["verdicts"] if verdict["target"].endswith((": token calls", ": errors"))
    ]
    assert [verdict["target"] for verdict in calls if not verdict["met"]] == []
