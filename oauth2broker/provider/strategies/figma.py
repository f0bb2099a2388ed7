"""Figma renews at an endpoint that knows what it is for.

See https://www.figma.com/developers/api#oauth2.
"""

from __future__ import annotations

from dataclasses import dataclass

from oauth2broker.grants import GrantType
from oauth2broker.provider.strategy import ProviderStrategy


@dataclass(frozen=True)
class Figma(ProviderStrategy):
    """Renews without a ``grant_type``."""

    def augment_token_request(self, grant: GrantType, form: dict[str, str]) -> None:
        if grant is GrantType.REFRESH_TOKEN:
            form.pop("grant_type", None)
