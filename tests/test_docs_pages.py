"""The examples in the documentation run as they stand, top to bottom, and what they assert holds."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import responses
from responses.matchers import header_matcher, json_params_matcher, query_param_matcher

DOCS = Path(__file__).resolve().parent.parent / "docs"
PROVIDER, ISSUER = "https://provider.example.com", "https://id.example.com"
TOKEN = {"token_type": "Bearer", "expires_in": 3600}
METADATA = {
    "issuer": ISSUER,
    "authorization_endpoint": f"{ISSUER}/authorize",
    "token_endpoint": f"{ISSUER}/token",
    "revocation_endpoint": f"{ISSUER}/revoke",
    "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials"],
    "response_types_supported": ["code"],
    "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "private_key_jwt"],
    "code_challenge_methods_supported": ["S256"],
}


@dataclass(frozen=True)
class Block:
    """A code block of a page, and the number of lines above its first one."""

    code: str
    above: int


def blocks(text: str, language: str) -> Iterator[Block]:
    """Give the blocks in ``language``, dedented."""
    directive = rf"^( *)\.\. code-block:: {language} *\n(?:\1 +:.*\n)*"
    for found in re.finditer(directive + r"((?:\1 +\S.*\n?|[ \t]*\n)+)", text, re.MULTILINE):
        yield Block(textwrap.dedent(found[2]), text[: found.start(2)].count("\n"))


def run(block: Block, path: Path, namespace: dict[str, Any]) -> None:
    """Run a block; a traceback shows the line of the page."""
    lines = "\n" * block.above + block.code
    exec(compile(lines, str(path), "exec", dont_inherit=True), namespace)


# What each page finds on the network.


def odd_provider(web: responses.RequestsMock, page: str) -> None:
    """The answers that the page shows, in that order; requests must look as it says."""
    shown = [json.loads(block.code) for block in blocks(page, "json")]
    client = {"client_key": "our-key", "client_secret": "our-secret"}
    for answer in shown:
        web.post(
            f"{PROVIDER}/api/token",
            json=answer,
            headers={"Retry-After": "30"},
            match=[
                json_params_matcher(client, strict_match=False),
                header_matcher({"Kiosk-Version": "2026-01"}),
            ],
        )
    assert len(shown) == 4


def strategies(web: responses.RequestsMock, page: str) -> None:
    """A token endpoint, one that renews access tokens by themselves, and permissions to delete."""
    web.post(f"{PROVIDER}/token", json={**TOKEN, "access_token": "access-1"})
    web.post(f"{PROVIDER}/token", json={"access_token": "access-1"})
    web.post(f"{PROVIDER}/token", json={**TOKEN, "access_token": "access-3", "user_id": "7/.."})
    renewal = {"grant_type": "exchange", "access_token": "access-1"}
    web.get(f"{PROVIDER}/token", json={"access_token": "access-2"}, match=[query_param_matcher(renewal)])
    bearer = header_matcher({"Authorization": "Bearer access-3"})
    web.delete(f"{PROVIDER}/users/7%2F../permissions", json={"success": True}, match=[bearer])


def ordinary_provider(web: responses.RequestsMock, page: str) -> None:
    """A provider, and one that publishes metadata; both give a token to whoever asks."""
    for base in (PROVIDER, ISSUER):
        web.post(f"{base}/token", json={**TOKEN, "access_token": "access-1"})
        web.post(f"{base}/revoke")
    for place in ("oauth-authorization-server", "openid-configuration"):
        web.get(f"{ISSUER}/.well-known/{place}", json=METADATA)
    web.assert_all_requests_are_fired = False


PAGES: dict[str, Callable[[responses.RequestsMock, str], None]] = {
    "client_authentication": ordinary_provider,
    "describing_providers": odd_provider,
    "discovery": ordinary_provider,
    "presets": ordinary_provider,
    "strategies": strategies,
}


@pytest.mark.parametrize("name", PAGES)
def test_the_examples_of_a_page_run_top_to_bottom(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one namespace, in an empty folder; calls that were not prepared fail, and so do missing pages."""
    path = DOCS / f"{name}.rst"
    text = path.read_text("utf-8")
    found = list(blocks(text, "python"))
    assert found, "a page about code has code"
    page = ModuleType(f"page_{name}")
    monkeypatch.setitem(sys.modules, page.__name__, page)
    monkeypatch.chdir(tmp_path)
    with responses.RequestsMock() as web:
        PAGES[name](web, text)
        for block in found:
            run(block, path, vars(page))


def test_blocks_are_found_with_their_lines() -> None:
    """Options, other languages and the text around are not part of them; their own indentation is."""
    shell = "A\n=\n\n.. code-block:: sh\n\n   no\n\n"
    page = ".. code-block:: python\n   :caption: x\n\n   if 1:\n\n       y\n\nB\n"
    assert list(blocks(shell + page, "python")) == [Block("\nif 1:\n\n    y\n\n", 9)]
    nested = "* item\n\n  .. code-block:: python\n\n      a = 1\n\n  more\n\n"
    nested += nested.replace("a = 1", "b = 2")
    assert [block.code.strip() for block in blocks(nested, "python")] == ["a = 1", "b = 2"]


def test_a_block_that_does_not_hold_is_noticed() -> None:
    """At its own line of the page."""
    (block,) = blocks("Title\n\n.. code-block:: python\n\n   assert 1 == 2\n", "python")
    with pytest.raises(AssertionError) as caught:
        run(block, Path("page.rst"), {})
    assert caught.traceback[-1].lineno + 1 == 5
