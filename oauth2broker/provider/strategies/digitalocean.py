"""DigitalOcean lets the access token itself authorize its revocation.

See https://docs.digitalocean.com/reference/api/oauth/.
"""

from __future__ import annotations

from dataclasses import dataclass

from oauth2broker.provider.kinds import Endpoint
from oauth2broker.provider.strategy import ProviderStrategy, RequestDraft


@dataclass(frozen=True)
class DigitalOcean(ProviderStrategy):
    """Revokes with the access token in the header and in the form, and without the client's credentials."""

    def shape_request(self, draft: RequestDraft) -> None:
        if draft.endpoint is Endpoint.REVOCATION:
            draft.headers["Authorization"] = f"Bearer {draft.form['token']}"
            draft.form = {"token": draft.form["token"]}
