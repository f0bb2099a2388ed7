"""Reddit wants HTTP Basic also from clients that have no secret.

See https://github.com/reddit-archive/reddit/wiki/OAuth2.
"""

from __future__ import annotations

from dataclasses import dataclass

from oauth2broker.grants import GrantType
from oauth2broker.provider.strategies.bearer import basic_header
from oauth2broker.provider.strategy import (
    ProviderErrorContext,
    ProviderErrorKind,
    ProviderStrategy,
    RequestDraft,
)


@dataclass(frozen=True)
class Reddit(ProviderStrategy):
    """Authenticates a public client with an empty password, and knows what refuses a refresh token."""

    def shape_request(self, draft: RequestDraft) -> None:
        if "Authorization" not in draft.headers and "client_secret" not in draft.form:
            draft.headers["Authorization"] = basic_header(draft.form.pop("client_id"))

    def classify_token_error(self, context: ProviderErrorContext) -> ProviderErrorKind:
        """A renewal with a dead refresh token is answered 400 invalid_request as well as invalid_grant."""
        is_renewal = context.grant is GrantType.REFRESH_TOKEN
        if is_renewal and (context.status, context.error) == (400, "invalid_request"):
            return ProviderErrorKind.INVALID_GRANT
        return super().classify_token_error(context)
