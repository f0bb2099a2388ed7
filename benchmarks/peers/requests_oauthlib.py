"""requests-oauthlib: its "OAuth 2 Workflow" page, "Refreshing tokens", the third and recommended way.

A session holds one token. Whether it has expired is looked at when a request is signed, so a token without
a request is not to be had. With `auto_refresh_url` and `token_updater` it is renewed then.
"""

# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.measure import Statement
from benchmarks.peers.api import API, Api, api_request
from benchmarks.peers.base import CachedPath, Peer, Work
from benchmarks.provider import CLIENT_ID, CLIENT_SECRET, UserGrant


def _cached_paths(_: Path) -> Sequence[CachedPath]:
    from requests_oauthlib import OAuth2

    token = {"access_token": "access", "token_type": "Bearer", "expires_at": time.time() + 3600}
    names = {"auth": OAuth2(CLIENT_ID, token=token), "request": api_request()}
    return [CachedPath(Work.SIGNS, Statement("auth(request)", names))]


def _contender(grant: UserGrant) -> Callable[[], str]:
    os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"  # oauthlib's own switch for a provider on loopback
    from requests_oauthlib import OAuth2Session

    session = OAuth2Session(
        CLIENT_ID,
        token={
            "access_token": grant.access_token,
            "refresh_token": grant.refresh_token,
            "token_type": "Bearer",
            "expires_in": "-30",
        },
        auto_refresh_url=grant.token_endpoint,
        auto_refresh_kwargs={"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET},
        token_updater=lambda _: None,
    )
    session.mount(API, Api())
    return lambda: str(session.get(API).text)


PEER = Peer(
    name="requests-oauthlib",
    documented="OAuth 2 Workflow: Refreshing tokens (third, recommended)",
    imports="import requests_oauthlib",
    locks="none",
    coordinates="nobody: each thread renews",
    cached_paths=_cached_paths,
    contender=_contender,
)
