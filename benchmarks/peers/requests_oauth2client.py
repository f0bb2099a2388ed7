"""requests_oauth2client: its README, "Calling APIs with Access Tokens" and "As Auth Handler".

A `BearerToken` knows whether it has expired; an auth handler holds one, signs requests with it and renews it
when it finds it expired. There is no cache of several tokens and nothing that keeps two threads apart.
"""

# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import Statement
from benchmarks.peers.api import API, Api, api_request
from benchmarks.peers.base import CachedPath, Peer, Work
from benchmarks.provider import CLIENT_ID, CLIENT_SECRET, UserGrant


def _auth(token_endpoint: str, access_token: str, refresh_token: str, expires_in: int) -> Any:
    from requests_oauth2client import BearerToken, OAuth2AccessTokenAuth, OAuth2Client

    client = OAuth2Client(
        token_endpoint=token_endpoint,
        client_id=CLIENT_ID,
        client_secret=CLIENT_SECRET,
        testing=True,  # its own switch for a provider on loopback
    )
    token = BearerToken(access_token=access_token, refresh_token=refresh_token, expires_in=expires_in)
    return OAuth2AccessTokenAuth(client, token)


def _cached_paths(_: Path) -> Sequence[CachedPath]:
    auth = _auth("https://provider.example.com/token", "access", "refresh", 3600)
    one = "token.is_expired() or token.access_token"
    return [
        CachedPath(Work.ONE_TOKEN, Statement(one, {"token": auth.token})),
        CachedPath(Work.SIGNS, Statement("auth(request)", {"auth": auth, "request": api_request()})),
    ]


def _contender(grant: UserGrant) -> Callable[[], str]:
    import requests

    session = requests.Session()
    session.auth = _auth(grant.token_endpoint, grant.access_token, grant.refresh_token, -3600)
    session.mount(API, Api())
    return lambda: session.get(API).text


PEER = Peer(
    name="requests_oauth2client",
    documented="README: Calling APIs with Access Tokens; As Auth Handler",
    imports="import requests_oauth2client",
    locks="none",
    coordinates="nobody: each thread renews",
    cached_paths=_cached_paths,
    contender=_contender,
)
