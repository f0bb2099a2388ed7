"""requests_auth: its README, "Client Credentials flow" and "Managing token cache".

An auth handler signs requests with a token that it looks up, by a key made of its parameters, in
`OAuth2.token_cache`: in memory, or in one file with all tokens (`JsonTokenFileCache`). Both look at the
expiry, under a lock. Users' tokens are renewed within a flow that opens a browser when the provider
refuses, so a stampede of them is not driven here.
"""

# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import Statement
from benchmarks.ours import NEIGHBOURS
from benchmarks.peers.api import api_request
from benchmarks.peers.base import CachedPath, Peer, Work
from benchmarks.provider import CLIENT_ID, CLIENT_SECRET


def _put(cache: Any, key: str) -> None:
    cache.get_token(key, on_missing_token=lambda: (key, f"access-{key}", 3600))


def _cached_paths(scratch: Path) -> Sequence[CachedPath]:
    from requests_auth import JsonTokenFileCache, OAuth2, OAuth2ClientCredentials

    auth = OAuth2ClientCredentials(
        "https://provider.example.com/token", client_id=CLIENT_ID, client_secret=CLIENT_SECRET, scope="read"
    )
    file_cache = JsonTokenFileCache(str(scratch / "requests_auth.json"))
    for cache in (OAuth2.token_cache, file_cache):
        for key in [auth.state, *(f"key-{number}" for number in range(NEIGHBOURS))]:
            _put(cache, key)
    key = auth.state
    return [
        CachedPath(
            Work.BY_KEY, Statement("OAuth2.token_cache.get_token(key)", {"OAuth2": OAuth2, "key": key})
        ),
        CachedPath(
            Work.BY_KEY_IN_FILE,
            Statement("file_cache.get_token(key)", {"file_cache": file_cache, "key": key}),
        ),
        CachedPath(Work.SIGNS, Statement("auth(request)", {"auth": auth, "request": api_request()})),
    ]


PEER = Peer(
    name="requests_auth",
    documented="README: Client Credentials flow; Managing token cache (auth(request) calls it)",
    imports="import requests_auth",
    locks="one per cache, also on a hit",
    coordinates="one thread at a time obtains; each waiting one obtains again",
    cached_paths=_cached_paths,
    no_calls="a refused renewal opens a browser",
)
