"""Miro revokes by a method of its API.

See https://developers.miro.com/reference/revoke-token-v2.
"""

from __future__ import annotations

from dataclasses import dataclass

from oauth2broker.errors import ConfigError
from oauth2broker.provider.kinds import BodyFormat, Endpoint
from oauth2broker.provider.strategy import ProviderStrategy, RequestDraft


@dataclass(frozen=True)
class Miro(ProviderStrategy):
    """Revokes the access token; the refresh token ends with it. Wants client_secret_post."""

    def shape_request(self, draft: RequestDraft) -> None:
        if draft.endpoint is not Endpoint.REVOCATION:
            return
        client_id, secret = draft.form.get("client_id"), draft.form.get("client_secret")
        if client_id is None or secret is None:
            raise ConfigError("Miro revokes for clients with client_secret_post")
        draft.body_format = BodyFormat.JSON
        draft.form = {"accessToken": draft.form["token"], "clientId": client_id, "clientSecret": secret}
