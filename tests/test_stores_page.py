"""docs/stores.rst runs as it stands; its engines are not asked anything yet."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn

import pytest

from oauth2broker import (
    Broker,
    BrokerError,
    CachedTokenRequest,
    FileStore,
    RedisStore,
    RevokedError,
    SQLAlchemyStore,
    TieredStore,
    TransientError,
)
from tests.test_docs_pages import DOCS, blocks, run

pytest.importorskip("redis")
pytest.importorskip("psycopg")

PAGE = DOCS / "stores.rst"
CHOICE, SENTINEL, GUNICORN, CELERY = blocks(PAGE.read_text("utf-8"), "python")


def test_every_store_of_the_choice_can_be_made(tmp_path: Path) -> None:
    """The folder is another one here; nothing is connected to, and all of them are what they are called."""
    made: list[Any] = []
    namespace: dict[str, Any] = {}
    for line in CHOICE.code.replace("/var/lib/myapp", str(tmp_path)).splitlines():
        exec(line, namespace)
        if line.startswith("store ="):
            made.append(namespace["store"])
    assert [type(store) for store in made] == [FileStore, RedisStore, SQLAlchemyStore, TieredStore]
    made[2].close()


def test_a_client_behind_sentinel_is_taken() -> None:
    """It asks Sentinel for nothing before it is used."""
    namespace: dict[str, Any] = {"RedisStore": RedisStore}
    run(SENTINEL, PAGE, namespace)
    assert isinstance(namespace["store"], RedisStore)


def test_the_worker_of_the_recipe_with_gunicorn_starts() -> None:
    """Importing it makes a broker, and connects to nothing."""
    namespace: dict[str, Any] = {}
    run(GUNICORN, PAGE, namespace)
    assert isinstance(namespace["broker"], Broker)


@pytest.mark.parametrize("error", [TransientError("busy", retry_after=7.0), RevokedError("gone")])
def test_the_task_of_the_recipe_with_celery_retries_what_is_retryable(
    monkeypatch: pytest.MonkeyPatch, error: BrokerError
) -> None:
    """After what the error says, and gives up on a dead grant. Celery is a stand-in."""
    monkeypatch.setitem(sys.modules, "celery", stand_in_for_celery())
    namespace: dict[str, Any] = {}
    run(CELERY, PAGE, namespace)

    def fail(request: CachedTokenRequest) -> NoReturn:
        assert (request.tenant, request.principal) == ("tenant-acme", "user-1")
        raise error

    monkeypatch.setattr(namespace["broker"], "refresh_access_token", fail)
    with pytest.raises(Retried if error.retryable else RevokedError) as raised:
        namespace["synchronize"](Task(), "tenant-acme", "user-1")
    assert not error.retryable or raised.value.args == (7.0,)
    namespace["store"].close()


class Retried(Exception):  # noqa: N818 - as Celery has it
    """Says after how many seconds."""


class Task:
    """What a bound task is given first."""

    def retry(self, countdown: float) -> Retried:
        """Give what is to be raised."""
        return Retried(countdown)


def stand_in_for_celery() -> ModuleType:
    """Give a module whose tasks are the functions themselves."""
    module = ModuleType("celery")
    vars(module)["Celery"] = lambda name: SimpleNamespace(task=lambda **options: lambda function: function)
    return module
