"""X refuses a dead refresh token as an invalid request.

Seen in its answers: 400 invalid_request, "Value passed for the token was invalid."
"""

from __future__ import annotations

from dataclasses import dataclass

from oauth2broker.grants import GrantType
from oauth2broker.provider.strategy import ProviderErrorContext, ProviderErrorKind, ProviderStrategy

_DEAD = "Value passed for the token was invalid"


@dataclass(frozen=True)
class X(ProviderStrategy):
    """Tells a dead refresh token from a request that is wrong otherwise, by X's words for it."""

    def classify_token_error(self, context: ProviderErrorContext) -> ProviderErrorKind:
        refusal = context.grant, context.status, context.error
        if refusal == (GrantType.REFRESH_TOKEN, 400, "invalid_request") and _DEAD in str(context.description):
            return ProviderErrorKind.INVALID_GRANT
        return super().classify_token_error(context)
