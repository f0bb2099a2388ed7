"""What docs/transports.rst shows runs as it stands, and what it says is so."""

from __future__ import annotations

import re
from typing import Any

import pytest

from oauth2broker.testing.transport_contract import TransportContract
from tests.test_docs_pages import DOCS, blocks, run
from tests.test_examples import EXAMPLES, require_no_secret, run as run_program

PAGE = DOCS / "transports.rst"


def test_the_blocks_of_the_page_run_in_order() -> None:
    """From top to bottom, in one namespace; the only sockets are those of the contract."""
    found = list(blocks(PAGE.read_text("utf-8"), "python"))
    assert len(found) == 7
    namespace: dict[str, Any] = {"__name__": "transports_page"}
    for block in found:
        run(block, PAGE, namespace)
    assert issubclass(namespace["TestOurTransport"], TransportContract)


def test_what_the_page_points_to_is_there() -> None:
    """Examples and words of the contract."""
    text = PAGE.read_text("utf-8")
    for name in re.findall(r"``examples/(\w+\.py)``", text):
        assert (EXAMPLES / name).exists()
    for name in ("total_timeout", "body_limit", "resolves"):
        assert name in text
        assert hasattr(TransportContract, name)


def test_the_httpx_example_says_what_it_shows(tmp_path: Any) -> None:
    """As a program of its own, without a warning and without a secret."""
    output = run_program([str(EXAMPLES / "httpx_client.py")], tmp_path)
    require_no_secret(output)
    for line in (
        "Before the login: AuthorizationRequiredError; nothing was sent\n",
        "The API says: {'sub': 'alice', 'scope': 'openid profile'}\n",
        "After a renewal: 200\n  token calls for that: 1\n",
    ):
        assert line in output


@pytest.mark.parametrize("path", ["docs/transports.rst", "examples/httpx_client.py"])
def test_no_line_is_too_long(path: str) -> None:
    """The pages are read in terminals."""
    text = (DOCS.parent / path).read_text("utf-8")
    assert [line for line in text.splitlines() if len(line) > 120] == []
