"""What ``docs/calling_apis.rst`` and ``examples/call_an_api.py`` show is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.test_docs_pages import DOCS, blocks, run

EXAMPLE = DOCS.parent / "examples" / "call_an_api.py"
PAGE = DOCS / "calling_apis.rst"


def test_the_examples_of_the_page_run_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one namespace, in an empty folder, against the provider for tests."""
    page = ModuleType("page_calling_apis")
    monkeypatch.setitem(sys.modules, page.__name__, page)
    monkeypatch.chdir(tmp_path)
    found = list(blocks(PAGE.read_text("utf-8"), "python"))
    assert len(found) >= 6
    for block in found:
        run(block, PAGE, vars(page))
    assert capsys.readouterr().out == "{'sub': 'alice', 'scope': 'openid'}\n"


def test_the_example_says_what_it_shows(tmp_path: Path) -> None:
    """As a user runs it; it shows no token."""
    done = subprocess.run(
        [sys.executable, EXAMPLE], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "The API answers 200; token calls: 1",
        "Again: 200; token calls: 1",
        "The token is refused: 200, after [401]; token calls: 2",
        "20 threads meet a refused token: {200}; token calls: 3",
        "Redirected to another host, which got a token: False",
        "Nobody has logged in: AuthorizationRequiredError, and nothing was sent",
    ]
    assert not re.search(r"\b[\w-]{30,}\b", done.stdout)
