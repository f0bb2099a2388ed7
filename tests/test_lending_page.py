"""docs/lending.rst and its example run as they stand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import responses

from tests.test_docs_pages import DOCS, PROVIDER, TOKEN, blocks, run

EXAMPLE = DOCS.parent / "examples" / "lend_to_subprocess.py"


def test_the_examples_of_the_page_run_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One token is obtained for all, and another for the one that the SDK's API refuses."""
    path = DOCS / "lending.rst"
    found = list(blocks(path.read_text("utf-8"), "python"))
    page = ModuleType("page_lending")
    monkeypatch.setitem(sys.modules, page.__name__, page)
    monkeypatch.chdir(tmp_path)
    with responses.RequestsMock() as web:
        for name in ("first", "second"):
            web.post(f"{PROVIDER}/token", json={**TOKEN, "access_token": f"access-{name}"})
        for block in found:
            run(block, path, vars(page))
        assert len(web.calls) == 2
    assert vars(page)["done"].stdout == f"uploading with {len('access-second')}\n"


def test_the_example_lends_a_token_and_another_when_it_is_refused(tmp_path: Path) -> None:
    """From any folder, without a warning; no token is printed or put into arguments."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE)],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "before: needs_refresh",
        "while it is lent: granted",
        "tool: the API answered 401",
        "tool: the API answered 200",
        "token calls: 2",
    ]
