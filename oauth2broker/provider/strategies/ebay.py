"""eBay wants an id of its own where others want the redirect URI.

See https://developer.ebay.com/api-docs/static/oauth-redirect-uri.html.
"""

from __future__ import annotations

from dataclasses import dataclass

from oauth2broker.grants import GrantType
from oauth2broker.provider.strategy import ProviderStrategy


@dataclass(frozen=True)
class EBay(ProviderStrategy):
    """Sends ``ru_name``, the name that eBay gave to your redirect URI, in its place."""

    ru_name: str

    def augment_authorization_request(self, params: dict[str, str]) -> None:
        params["redirect_uri"] = self.ru_name

    def augment_token_request(self, grant: GrantType, form: dict[str, str]) -> None:
        if grant is GrantType.AUTHORIZATION_CODE:
            form["redirect_uri"] = self.ru_name
