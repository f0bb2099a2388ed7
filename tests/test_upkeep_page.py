"""The page about keeping grants alive runs as it stands."""

from __future__ import annotations

from typing import Any

import pytest

from oauth2broker import Broker
from oauth2broker.testing import LoopbackProvider
from tests.support import USER_REQUEST, ManualClock, log_in
from tests.test_docs_pages import DOCS, blocks, run


def test_the_page_runs(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its blocks renew a token twice, of which one is dead by then, and prune what is left of it."""
    log_in(broker, provider)
    asked: list[tuple[str, str]] = []
    namespace: dict[str, Any] = {"broker": broker, "ask_to_log_in_again": lambda *who: asked.append(who)}
    path = DOCS / "upkeep.rst"
    renewing, watching, pruning = blocks(path.read_text(encoding="utf-8"), "python")
    clock.advance(1000)
    run(renewing, path, namespace)
    assert capsys.readouterr().out == "1 of 1 renewed, 0 by others\n"
    clock.advance(1000)
    run(watching, path, namespace)
    assert capsys.readouterr().out == "1 user-1 renewed\n"
    provider.revoke_user("alice")
    clock.advance(1000)
    run(renewing, path, namespace)
    assert asked == [("tenant-acme", "user-1")]
    clock.advance(91 * 86400)
    capsys.readouterr()
    run(pruning, path, namespace)
    assert capsys.readouterr().out == "1 are dead\n"
    assert broker.store.fetch(broker.key_for(USER_REQUEST)) is None
