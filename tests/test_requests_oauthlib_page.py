"""The examples of docs/requests_oauthlib.rst run as they stand, top to bottom."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import ModuleType
from urllib.parse import parse_qsl

import pytest
import requests
import responses

from tests.test_docs_pages import DOCS, PROVIDER, TOKEN, blocks, run

Answer = tuple[int, dict[str, str], str]


class Accounts:
    """The provider's token endpoint, which knows its two users by what they present, and rotates."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._numbers: Iterator[int] = count(1)

    def __call__(self, sent: requests.PreparedRequest) -> Answer:
        form = dict(parse_qsl(str(sent.body)))
        self.calls.append(form["grant_type"])
        presented = form.get("refresh_token") or form.get("code") or "of-us"
        name = presented.split("-of-")[-1].split("-")[0]
        number = next(self._numbers) if name == "alice" else 0
        access = f"access-of-{name}" + (f"-{number}" if number else "")
        refresh = {} if name == "us" else {"refresh_token": f"refresh-of-{name}-{number}"}
        answer = json.dumps({**TOKEN, "access_token": access, **refresh})
        return 200, {"Content-Type": "application/json"}, answer


def test_the_examples_of_the_page_run_top_to_bottom(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In one namespace; each call to the provider is one that the page speaks of."""
    path = DOCS / "requests_oauthlib.rst"
    found = list(blocks(path.read_text("utf-8"), "python"))
    assert len(found) == 8
    page, accounts = ModuleType("page_requests_oauthlib"), Accounts()
    monkeypatch.setitem(sys.modules, page.__name__, page)
    monkeypatch.chdir(tmp_path)
    with responses.RequestsMock() as web:
        web.add_callback("POST", f"{PROVIDER}/token", callback=accounts)
        web.get("https://api.example.com/me", json={"name": "Alice"})
        for block in found:
            run(block, path, vars(page))
    code, own, renewal = "authorization_code", "client_credentials", "refresh_token"
    assert accounts.calls == [code, own, renewal, renewal, renewal, code]
