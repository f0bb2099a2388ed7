"""Atlassian calls a dead refresh token the client's fault.

See https://developer.atlassian.com/cloud/oauth/getting-started/refresh-tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from oauth2broker.grants import GrantType
from oauth2broker.provider.strategy import ProviderErrorContext, ProviderErrorKind, ProviderStrategy


@dataclass(frozen=True)
class Atlassian(ProviderStrategy):
    """Tells a dead grant from a wrong client by what is said of the refresh token."""

    def classify_token_error(self, context: ProviderErrorContext) -> ProviderErrorKind:
        says = (context.grant, context.status, context.error)
        of_the_token = "refresh token" in (context.description or "").lower()
        if of_the_token and says == (GrantType.REFRESH_TOKEN, 403, "unauthorized_client"):
            return ProviderErrorKind.INVALID_GRANT
        return super().classify_token_error(context)
