"""Zoho keeps each user in one of its data centres and names it in the callback.

See https://www.zoho.com/accounts/protocol/oauth/multi-dc.html, and for the centres in China and the United
Arab Emirates https://www.zoho.com/crm/developer/docs/api/multi-dc.html and
https://www.zoho.com/workdrive/developer/docs/api/v1/getting-started-multi-dc-support.html.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from oauth2broker.errors import AuthorizationError
from oauth2broker.provider.strategy import ProviderStrategy, RequestDraft

_MEMBER = "accounts-server"
_SERVERS = (
    "https://accounts.zoho.com",
    "https://accounts.zoho.eu",
    "https://accounts.zoho.in",
    "https://accounts.zoho.com.au",
    "https://accounts.zoho.jp",
    "https://accounts.zohocloud.ca",
    "https://accounts.zoho.sa",
    "https://accounts.zoho.uk",
    "https://accounts.zoho.com.cn",
    "https://accounts.zoho.ae",
)


@dataclass(frozen=True)
class Zoho(ProviderStrategy):
    """Sends token, refresh and revocation requests to the server that the callback named.

    The callback comes through the user's browser, so only Zoho's own servers are believed.
    """

    def shape_request(self, draft: RequestDraft) -> None:
        draft.url = _moved(draft.url, draft.extra.get(_MEMBER))


def _moved(url: str, server: object) -> str:
    """Give ``url`` at ``server``, one of Zoho's; as it is when there is none."""
    if server is None:
        return url
    parts = urlsplit(url)
    for known in (*_SERVERS, f"{parts.scheme}://{parts.netloc}"):
        if server in (known, f"{known}/"):
            moved = urlsplit(known)
            return parts._replace(scheme=moved.scheme, netloc=moved.netloc).geturl()
    raise AuthorizationError(f"the {_MEMBER} is none of Zoho's data centres")
