"""A broker refuses parts that are none when it is made, not as an outage at the first call."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from oauth2broker import Broker, ConfigError, LoggingObserver, ProviderDescriptor, TokenBucket, TokenLender

DESCRIPTOR = ProviderDescriptor("demo", "https://provider.example.com/token", {"client_credentials"})


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("store", "tokens", "FileStore"),
        ("http_client", object(), "send"),
        ("rate_limit", 5, "evaluate"),
        ("rate_limit", TokenBucket, "evaluate"),
        ("observers", LoggingObserver(), "a list of observers, not LoggingObserver"),
        ("observers", [LoggingObserver(), object()], "object has none"),
        ("observers", [LoggingObserver], "observe"),
        ("observers", "logging", "observe"),
        ("observers", [LoggingObserver()] * 2, "twice"),
        ("clock", datetime.now, "aware datetimes"),
        ("clock", time.time, "aware datetimes"),
        ("clock", datetime(2026, 1, 1, tzinfo=UTC), "a function"),
    ],
)
def test_a_part_that_is_none_is_a_mistake(part: str, value: Any, message: str) -> None:
    """The error says what belongs there."""
    with pytest.raises(ConfigError, match=message):
        Broker(DESCRIPTOR, "client", "secret", **{part: value})


def test_a_descriptor_is_a_descriptor() -> None:
    """Not a provider's name."""
    with pytest.raises(ConfigError, match="ProviderDescriptor"):
        Broker("github", "client", "secret")  # type: ignore[arg-type]


def test_a_broker_tells_its_clock_and_strategy() -> None:
    """For what is built on it."""
    broker = Broker(DESCRIPTOR, "client", "secret")
    assert broker.clock().utcoffset() is not None
    assert broker.strategy is None


@pytest.mark.parametrize("observers", [[], [LoggingObserver()]], ids=["unseen", "observed"])
@pytest.mark.parametrize(
    "call",
    [
        lambda broker: broker.refresh_access_token("alice"),
        lambda broker: broker.client_credentials(None),
        lambda broker: broker.revoke("alice"),
        lambda broker: broker.is_renewing("alice"),
        lambda broker: broker.key_for("alice"),
    ],
    ids=["refresh", "client_credentials", "revoke", "is_renewing", "key_for"],
)
def test_what_is_no_request_is_a_mistake(
    call: Callable[[Broker], object], observers: list[LoggingObserver]
) -> None:
    """Not an AttributeError: whatever leaves a broker is a BrokerError."""
    broker = Broker(DESCRIPTOR, "client", "secret", observers=observers)
    with pytest.raises(ConfigError, match=r"request is a CachedTokenRequest, not (str|NoneType)"):
        call(broker)


def test_a_lender_lends_of_a_broker() -> None:
    """Not of nothing."""
    with pytest.raises(ConfigError, match="broker is a Broker, not NoneType"):
        TokenLender(None)  # type: ignore[arg-type]
