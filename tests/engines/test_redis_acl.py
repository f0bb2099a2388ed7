"""What docs/stores.rst says a user of Redis must be allowed is enough for a RedisStore, and not too much."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest

from oauth2broker import BackendError, RedisStore
from oauth2broker.testing.store_contract import NOW
from tests.test_docs_pages import DOCS

from .base import HOST
from .redis_servers import RedisServer
from .redis_stores import RECORD, QuickStore, rotated

pytestmark = pytest.mark.engines

[RULE] = re.findall(r"ACL SETUSER myapp on >password (.+)", (DOCS / "stores.rst").read_text("utf-8"))
ALLOWED = [word for word in RULE.split() if word.startswith("+")]

Opener = Callable[[str], RedisStore]


@pytest.fixture
def open_as(redis_server: RedisServer) -> Iterator[Opener]:
    """Give a function that opens a store as a user with these rights, and with nothing else."""

    def opened(rule: str) -> RedisStore:
        with redis_server.client() as client:
            client.execute_command("ACL", "SETUSER", "myapp", "reset", "on", ">password", *rule.split())
        return QuickStore.from_url(f"redis://myapp:password@{HOST}:{redis_server.port}/0")

    yield opened
    with redis_server.client() as client:
        client.execute_command("ACL", "DELUSER", "myapp")
        client.flushdb()


def do_everything(store: RedisStore) -> None:
    """Take each step of the store once; of those that only log what failed, what they are made of."""
    key = RECORD.key
    store.save(RECORD)
    store.compare_and_swap_refresh(key, RECORD.refresh_token, rotated(RECORD))
    with store.refresh_lease(key, timeout=0) as is_ours:
        assert is_ours
        store.prolong_leases({"nobody": key.digest}, 1.0)
    assert store.fetch(key) == rotated(RECORD)
    assert list(store.keys()) == [key]
    assert list(store.keys_due(key.family.provider, key.family.client_id, RECORD.expires_at or NOW)) == [key]
    store.revoke(key, NOW)
    assert store.delete(key)


def test_the_rights_of_the_page_suffice(open_as: Opener) -> None:
    """All that a store does goes through."""
    do_everything(open_as(RULE))


@pytest.mark.parametrize("command", ALLOWED)
def test_each_right_of_the_page_is_needed(open_as: Opener, command: str) -> None:
    """Without it something fails, and it is known as a failure of the store."""
    with pytest.raises(BackendError, match="Redis failed"):
        do_everything(open_as(RULE.replace(command, "")))


def test_other_keys_are_out_of_reach(open_as: Opener) -> None:
    """A store with another prefix gets nowhere with these rights."""
    open_as(RULE)
    with pytest.raises(BackendError, match="Redis failed"):
        open_as(RULE.replace("~oauth2broker:*", "~other:*")).save(RECORD)
