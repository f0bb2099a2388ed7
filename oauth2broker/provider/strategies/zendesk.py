"""Zendesk revokes by its REST API.

See https://developer.zendesk.com/api-reference/ticketing/oauth/oauth_tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from oauth2broker.provider.kinds import Endpoint
from oauth2broker.provider.strategies.bearer import present_token
from oauth2broker.provider.strategy import ProviderStrategy, RequestDraft


@dataclass(frozen=True)
class Zendesk(ProviderStrategy):
    """Deletes the very token that the call is made with."""

    def shape_request(self, draft: RequestDraft) -> None:
        if draft.endpoint is Endpoint.REVOCATION:
            present_token(draft, method="DELETE")
