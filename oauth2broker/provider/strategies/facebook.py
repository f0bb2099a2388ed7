"""Facebook has no refresh tokens: a user's access token is exchanged for one that lasts longer.

See https://developers.facebook.com/docs/facebook-login/guides/access-tokens/get-long-lived, and
https://developers.facebook.com/docs/graph-api/reference/user/permissions for revocation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oauth2broker.grants import GrantType
from oauth2broker.provider.kinds import BodyFormat, Endpoint
from oauth2broker.provider.strategy import ProviderStrategy, RequestDraft


@dataclass(frozen=True)
class Facebook(ProviderStrategy):
    """Keeps the access token as the refresh token, too.

    One that has expired cannot be exchanged any more, so ask with a ``preemptive_window`` of days.
    """

    def augment_token_request(self, grant: GrantType, form: dict[str, str]) -> None:
        if grant is GrantType.REFRESH_TOKEN:
            form["grant_type"] = "fb_exchange_token"
            form["fb_exchange_token"] = form.pop("refresh_token")

    def shape_request(self, draft: RequestDraft) -> None:
        """Revoke all permissions of the user whose token it is."""
        if draft.endpoint is Endpoint.REVOCATION:
            draft.method, draft.body_format = "DELETE", BodyFormat.QUERY
            draft.form = {"access_token": draft.form["token"]}
            draft.headers.pop("Authorization", None)

    def normalize_token_response(self, grant: GrantType, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        return renewed_by_itself(payload)


def renewed_by_itself(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give ``payload`` with its access token, if it can be sent, as the refresh token."""
    token = payload.get("access_token")
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        return payload
    return {**payload, "refresh_token": token}
