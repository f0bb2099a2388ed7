"""TieredStore in front of a real Redis: the contract, hits that do not reach it, and an outage."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from oauth2broker import BackendError, Broker, BrokerStore, MemoryStore, RedisStore, TieredStore
from oauth2broker.testing import LoopbackProvider, StoreContract
from tests.support import USER_REQUEST, log_in

from .conftest import OwnRedis
from .redis_servers import RedisServer
from .redis_stores import RECORD, QuickStore, impatient, watched

pytestmark = pytest.mark.engines


class TestTieredOnRedis(StoreContract):
    """With an age that a test can wait for."""

    max_age = 0.25

    @pytest.fixture(autouse=True)
    def _note_url(self, redis_url: str, tmp_path: Path) -> None:
        (tmp_path / "url").write_text(redis_url)

    def open_store(self, place: Path) -> BrokerStore:
        back = QuickStore.from_url((place / "url").read_text())
        return TieredStore(MemoryStore(), back, max_age=timedelta(seconds=0.2))


def test_hits_do_not_reach_the_server(redis_url: str, redis_server: RedisServer) -> None:
    """Of a hundred reads the server sees one."""
    RedisStore.from_url(redis_url).save(RECORD)
    store = TieredStore(MemoryStore(), RedisStore.from_url(redis_url), max_age=timedelta(hours=1))
    with watched(redis_server, redis_url) as told:
        for _ in range(100):
            assert store.fetch(RECORD.key) == RECORD
    assert sum("EVAL" in command for command in told) == 1
    assert sum(RECORD.key.digest in command for command in told) == 2  # the script, and what it does


@pytest.mark.parametrize("trouble", ["is gone", "hangs"])
def test_a_valid_token_is_served_while_the_server_is_down(
    own_redis: OwnRedis, provider: LoopbackProvider, trouble: str
) -> None:
    """FAULTS 9: also by force only a StoreError, and nothing is presented; then all is as before."""
    server = own_redis(appendonly=True)
    back = RedisStore(impatient(server.url))
    store = TieredStore(MemoryStore(), back, max_age=timedelta())
    with Broker(provider.descriptor(), "demo-client", "demo-secret", store=store) as broker:
        log_in(broker, provider)
        record = broker.refresh_access_token(USER_REQUEST)
        provider.clear()
        if trouble == "is gone":
            server.kill()
        else:
            server.pause()
        for _ in range(3):
            assert broker.refresh_access_token(USER_REQUEST) == record
        with pytest.raises(BackendError):
            broker.refresh_access_token(USER_REQUEST.force_refresh())
        assert provider.token_calls == 0
        if trouble == "is gone":
            server.start()
        else:
            server.resume()
        assert broker.refresh_access_token(USER_REQUEST.force_refresh()) != record
        assert (provider.token_calls, provider.reuses) == (1, 0)
