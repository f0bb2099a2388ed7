"""A broker refuses parts that are none when it is made, not as an outage at the first call."""

from __future__ import annotations

from typing import Any

import pytest

from oauth2broker import Broker, ConfigError, LoggingObserver, ProviderDescriptor, TokenBucket

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
