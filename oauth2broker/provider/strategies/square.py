"""Square revokes with an authentication scheme of its own.

See https://developer.squareup.com/reference/square/o-auth-api/revoke-token.
"""

from __future__ import annotations

from dataclasses import dataclass

from oauth2broker.errors import ConfigError
from oauth2broker.provider.kinds import BodyFormat, Endpoint
from oauth2broker.provider.strategy import ProviderStrategy, RequestDraft


@dataclass(frozen=True)
class Square(ProviderStrategy):
    """Revokes all tokens that the merchant gave this client. Wants client_secret_post."""

    def shape_request(self, draft: RequestDraft) -> None:
        if draft.endpoint is not Endpoint.REVOCATION:
            return
        client_id, secret = draft.form.get("client_id"), draft.form.get("client_secret")
        if client_id is None or secret is None:
            raise ConfigError("Square revokes for clients with client_secret_post")
        draft.body_format = BodyFormat.JSON
        draft.headers["Authorization"] = f"Client {secret}"
        draft.form = {"client_id": client_id, "access_token": draft.form["token"]}
