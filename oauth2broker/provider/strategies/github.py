"""GitHub revokes by its REST API.

See https://docs.github.com/en/rest/apps/oauth-applications#delete-an-app-token.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from oauth2broker.errors import ConfigError
from oauth2broker.provider.kinds import BodyFormat, Endpoint
from oauth2broker.provider.strategies.bearer import basic_header
from oauth2broker.provider.strategy import ProviderStrategy, RequestDraft


@dataclass(frozen=True)
class GitHub(ProviderStrategy):
    """Deletes the access token below the descriptor's ``revocation_endpoint``, which lists applications.

    The revocation endpoint's client authentication must be client_secret_post: it names the client.
    """

    def shape_request(self, draft: RequestDraft) -> None:
        if draft.endpoint is not Endpoint.REVOCATION:
            return
        client_id, secret = draft.form.get("client_id"), draft.form.get("client_secret")
        if client_id is None or secret is None:
            raise ConfigError("GitHub revokes for clients with client_secret_post")
        draft.method, draft.body_format = "DELETE", BodyFormat.JSON
        draft.url = f"{draft.url}/{quote(client_id, safe='')}/token"
        draft.headers["Authorization"] = basic_header(client_id, secret)
        draft.form = {"access_token": draft.form["token"]}
