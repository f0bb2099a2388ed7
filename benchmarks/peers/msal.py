"""msal: its reference of `ConfidentialClientApplication.acquire_token_for_client`.

An application looks in its cache first, by client, tenant and scopes, and at the expiry. It speaks to
Microsoft's and other OpenID providers over https only, so it gets its tokens here through the documented
`http_client` argument, without a network, and takes no part where a provider on loopback is needed.
"""

# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import Statement
from benchmarks.ours import NEIGHBOURS
from benchmarks.peers.base import CachedPath, Peer, Work
from benchmarks.provider import CLIENT_ID, CLIENT_SECRET

_AUTHORITY = "https://provider.example.com/tenant-acme"


class _Answer:
    status_code = 200

    def __init__(self, members: dict[str, Any]) -> None:
        self.text = json.dumps(members)
        self.headers: dict[str, str] = {}

    def raise_for_status(self) -> None:
        """There is nothing to raise."""


class _HttpClient:
    """An OpenID provider in the process."""

    def get(self, url: str, **_: Any) -> _Answer:
        return _Answer(
            {
                "issuer": _AUTHORITY,
                "authorization_endpoint": f"{_AUTHORITY}/authorize",
                "token_endpoint": f"{_AUTHORITY}/token",
            }
        )

    def post(self, url: str, **_: Any) -> _Answer:
        return _Answer({"access_token": "access", "token_type": "Bearer", "expires_in": 3600})

    def close(self) -> None:
        """Nothing is open."""


def _cached_paths(_: Path) -> Sequence[CachedPath]:
    from msal import ConfidentialClientApplication

    app = ConfidentialClientApplication(
        CLIENT_ID, client_credential=CLIENT_SECRET, oidc_authority=_AUTHORITY, http_client=_HttpClient()
    )
    scopes = ["email.read", "profile.read"]
    for asked in [scopes, *([f"scope-{number}"] for number in range(NEIGHBOURS))]:
        app.acquire_token_for_client(scopes=asked)
    call = "app.acquire_token_for_client(scopes=scopes)['access_token']"
    return [CachedPath(Work.BY_KEY, Statement(call, {"app": app, "scopes": scopes}))]


PEER = Peer(
    name="msal",
    documented="API reference: ConfidentialClientApplication.acquire_token_for_client",
    imports="import msal",
    locks="one per cache, also on a hit",
    coordinates="nobody: each thread renews",
    cached_paths=_cached_paths,
    no_calls="talks to OpenID providers over https only",
)
