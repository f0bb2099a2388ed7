"""Slack gives an app two kinds of token, each with a refresh token of its own: one broker holds one of them.

See https://docs.slack.dev/authentication/using-token-rotation, and the pages of the methods oauth.v2.access
and auth.revoke.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oauth2broker.errors import ConfigError
from oauth2broker.grants import GrantType
from oauth2broker.provider.kinds import Endpoint
from oauth2broker.provider.strategies.bearer import present_token
from oauth2broker.provider.strategy import ProviderStrategy, RequestDraft

_SECRETS = frozenset({"access_token", "refresh_token", "id_token"})


class _Slack(ProviderStrategy):
    def shape_request(self, draft: RequestDraft) -> None:
        """Revoke by auth.revoke, which the token itself authorizes."""
        if draft.endpoint is Endpoint.REVOCATION:
            present_token(draft)


@dataclass(frozen=True)
class SlackBot(_Slack):
    """The app's bot token.

    The answer to a request for ``user_scope`` besides would carry two pairs that rotate, and one record keeps
    one: such a request is refused.
    """

    def augment_authorization_request(self, params: dict[str, str]) -> None:
        if params.get("user_scope"):
            raise ConfigError("user_scope brings a second token, which is lost: use the preset slack_user")

    def normalize_token_response(self, grant: GrantType, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """Say who installed the app, without a token of theirs."""
        user = payload.get("authed_user")
        if not isinstance(user, Mapping):
            return payload
        return {**payload, "authed_user": {name: user[name] for name in user if name not in _SECRETS}}


@dataclass(frozen=True)
class SlackUser(_Slack):
    """The token of the user, which is inside ``authed_user``; a renewal's answer has it at the top."""

    def normalize_token_response(self, grant: GrantType, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """Take no bot's token, which must not be stored as the user's."""
        if payload.get("token_type") == "bot" or not isinstance(payload.get("authed_user", {}), Mapping):
            return {**payload, "access_token": None, "refresh_token": None}
        return payload
