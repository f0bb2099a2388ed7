"""Fixtures for the tests of the transport."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from oauth2broker import RequestsHttpClient
from tests.transport.sockets import CONNECT, TOTAL, Certificate, make_certificate


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxies but those that a test sets."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def client() -> Iterator[RequestsHttpClient]:
    """The default transport, with more time than any test needs."""
    made = RequestsHttpClient(connect_timeout=5, total_timeout=10)
    yield made
    made.close()


@pytest.fixture
def hasty() -> Iterator[RequestsHttpClient]:
    """The default transport, soon at its deadlines."""
    made = RequestsHttpClient(connect_timeout=CONNECT, total_timeout=TOTAL)
    yield made
    made.close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate for 127.0.0.1."""
    return make_certificate(tmp_path_factory.mktemp("tls"))
