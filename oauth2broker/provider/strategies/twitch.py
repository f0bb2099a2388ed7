"""Twitch wants to know on every API call which client makes it.

See https://dev.twitch.tv/docs/api/get-started.
"""

from __future__ import annotations

from dataclasses import dataclass

from oauth2broker.provider.strategy import ProviderStrategy
from oauth2broker.records import TokenRecord


@dataclass(frozen=True)
class Twitch(ProviderStrategy):
    """Sends the client's id beside the token."""

    def augment_api_headers(self, record: TokenRecord, headers: dict[str, str]) -> None:
        headers["Client-Id"] = record.key.family.client_id
