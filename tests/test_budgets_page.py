"""docs/budgets.rst runs as it stands."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import responses

from tests.test_docs_pages import DOCS, PROVIDER, TOKEN, blocks, run


def test_the_examples_of_the_page_run_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three service tokens are obtained, and one is not: its error says what the page says."""
    path = DOCS / "budgets.rst"
    found = list(blocks(path.read_text("utf-8"), "python"))
    page = ModuleType("page_budgets")
    monkeypatch.setitem(sys.modules, page.__name__, page)
    monkeypatch.chdir(tmp_path)
    with responses.RequestsMock() as web:
        web.post(f"{PROVIDER}/token", json={**TOKEN, "access_token": "access-1"})
        for block in found:
            run(block, path, vars(page))
        assert len(web.calls) == 3
    assert capsys.readouterr().out == "not called: the budget is spent\n"
    assert len(list((tmp_path / "tokens" / "budgets").glob("*.json"))) == 1
