"""ServiceNow refuses what it will not grant as a server error.

Seen in its answers: 401 server_error, "access_denied", for a dead refresh token, a wrong client secret and
a grant that is switched off alike.
"""

from __future__ import annotations

from dataclasses import dataclass

from oauth2broker.provider.strategy import ProviderErrorContext, ProviderErrorKind, ProviderStrategy


@dataclass(frozen=True)
class ServiceNow(ProviderStrategy):
    """Takes such a refusal for the client's: no outage to wait for, and no certain end of a user's grant."""

    def classify_token_error(self, context: ProviderErrorContext) -> ProviderErrorKind:
        if (context.status, context.error) == (401, "server_error"):
            return ProviderErrorKind.INVALID_CLIENT
        return super().classify_token_error(context)
