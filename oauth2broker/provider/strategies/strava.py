"""Strava deauthorizes the client of a token.

See https://developers.strava.com/docs/authentication.
"""

from __future__ import annotations

from dataclasses import dataclass

from oauth2broker.provider.kinds import Endpoint
from oauth2broker.provider.strategy import ProviderStrategy, RequestDraft


@dataclass(frozen=True)
class Strava(ProviderStrategy):
    """Revokes with ``access_token`` alone in the form."""

    def shape_request(self, draft: RequestDraft) -> None:
        if draft.endpoint is Endpoint.REVOCATION:
            draft.form = {"access_token": draft.form["token"]}
            draft.headers.pop("Authorization", None)
