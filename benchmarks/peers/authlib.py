"""authlib: its "OAuth 2 Session" page, sections "Refresh & Auto Update Token" and "Using OAuth2Session".

A session holds one token. With a `token_endpoint` it renews the token when a request finds it expired, and
tells `update_token`. There is no cache of several tokens and nothing that keeps two threads apart.
"""

# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import Statement
from benchmarks.peers.api import API, Api, api_request
from benchmarks.peers.base import CachedPath, Peer, Work
from benchmarks.provider import CLIENT_ID, CLIENT_SECRET, UserGrant


def _session(token_endpoint: str, access_token: str, refresh_token: str, left: float) -> Any:
    from authlib.integrations.requests_client import OAuth2Session

    token = {
        "access_token": access_token,
        "refresh_token": refresh_token,
        "token_type": "Bearer",
        "expires_at": int(time.time() + left),
    }
    return OAuth2Session(
        CLIENT_ID,
        CLIENT_SECRET,
        token=token,
        token_endpoint=token_endpoint,
        update_token=lambda token, refresh_token=None, access_token=None: None,
    )


def _cached_paths(_: Path) -> Sequence[CachedPath]:
    session = _session("https://provider.example.com/token", "access", "refresh", 3600.0)
    one = "session.ensure_active_token(session.token); session.token['access_token']"
    return [
        CachedPath(Work.ONE_TOKEN, Statement(one, {"session": session})),
        CachedPath(
            Work.SIGNS,
            Statement("session.token_auth(request)", {"session": session, "request": api_request()}),
        ),
    ]


def _contender(grant: UserGrant) -> Callable[[], str]:
    session = _session(grant.token_endpoint, grant.access_token, grant.refresh_token, -3600.0)
    session.mount(API, Api())
    return lambda: str(session.get(API).text)


PEER = Peer(
    name="authlib",
    documented="OAuth 2 Session: Refresh & Auto Update Token",
    imports="import authlib.integrations.requests_client",
    locks="none",
    coordinates="nobody: each thread renews",
    cached_paths=_cached_paths,
    contender=_contender,
)
