"""Dropbox revokes by a method of its API, /2/auth/token/revoke.

See https://www.dropbox.com/developers/documentation/http/documentation#auth-token-revoke.
"""

from __future__ import annotations

from dataclasses import dataclass

from oauth2broker.provider.kinds import Endpoint
from oauth2broker.provider.strategies.bearer import present_token
from oauth2broker.provider.strategy import ProviderStrategy, RequestDraft


@dataclass(frozen=True)
class Dropbox(ProviderStrategy):
    """Revokes with the access token in the header and nothing else; the refresh token ends with it."""

    def shape_request(self, draft: RequestDraft) -> None:
        if draft.endpoint is Endpoint.REVOCATION:
            present_token(draft)
