"""Instagram has no refresh tokens: a short-lived access token is exchanged once, then renews itself.

See https://developers.facebook.com/docs/instagram-platform/instagram-api-with-instagram-login/business-login.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oauth2broker.grants import GrantType
from oauth2broker.provider.kinds import BodyFormat, Endpoint
from oauth2broker.provider.strategies.facebook import renewed_by_itself
from oauth2broker.provider.strategy import ProviderStrategy, RequestDraft

_EXCHANGE = "https://graph.instagram.com/access_token"
_REFRESH = "https://graph.instagram.com/refresh_access_token"
_SHORT_LIVED = 3600  # seconds; the answer does not say


@dataclass(frozen=True)
class Instagram(ProviderStrategy):
    """Keeps the access token as the refresh token, too, and in ``extra["lived"]`` which of the two it is.

    The first renewal exchanges the short-lived token for one of 60 days, those after it renew that one. A
    token that has expired cannot be renewed any more, so ask with a ``preemptive_window`` of days.
    """

    def shape_request(self, draft: RequestDraft) -> None:
        if draft.endpoint is not Endpoint.REFRESH:
            return
        token, secret = draft.form["refresh_token"], draft.form.get("client_secret")
        draft.method, draft.body_format = "GET", BodyFormat.QUERY
        if draft.extra.get("lived") == "short" and secret is not None:
            draft.url = _EXCHANGE
            draft.form = {"grant_type": "ig_exchange_token", "client_secret": secret, "access_token": token}
        else:
            draft.url = _REFRESH
            draft.form = {"grant_type": "ig_refresh_token", "access_token": token}

    def normalize_token_response(self, grant: GrantType, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        members = _unwrapped(payload)
        scope = members.pop("permissions", None)
        if scope is not None:
            members["scope"] = scope
        if grant is GrantType.AUTHORIZATION_CODE:
            members.update(lived="short", expires_in=members.get("expires_in") or _SHORT_LIVED)
        else:
            members["lived"] = "long"
        return renewed_by_itself(members)


def _unwrapped(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The code's answer is documented as a list of one, ``data``, and also comes without."""
    data = payload.get("data")
    if not isinstance(data, list) or not data or not isinstance(data[0], Mapping):
        return dict(payload)
    return {**{name: payload[name] for name in payload if name != "data"}, **data[0]}
