"""botocore: its token provider for IAM Identity Center (SSO), as the SDKs' configuration guide sets it up.

A session's token renews itself in two windows, one thread ahead of the others. `JSONFileCache` keeps one
file per token, named by a key; it does not look at expiry and takes no lock among processes. Tokens are
renewed by a call to AWS only, so it takes no part where a provider on loopback is needed.
"""

# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.measure import Statement
from benchmarks.peers.base import CachedPath, FileCache, Peer, Work

_START_URL = "https://sso.example.com/start"
_CONFIG = f"""
[default]
sso_session = demo
[sso-session demo]
sso_start_url = {_START_URL}
sso_region = eu-central-1
"""


class _Clock:
    """The wall clock, late while a token is loaded: for a minute after that its expiry is not looked at."""

    def __init__(self) -> None:
        self.late = timedelta(minutes=2)

    def __call__(self) -> datetime:
        return datetime.now(UTC) - self.late


def _cached_paths(scratch: Path) -> Sequence[CachedPath]:
    from botocore.session import Session
    from botocore.tokens import SSOTokenProvider
    from botocore.utils import JSONFileCache, SSOTokenLoader

    config = scratch / "botocore.ini"
    config.write_text(_CONFIG)
    session = Session()
    session.set_config_variable("config_file", str(config))
    cache = JSONFileCache(str(scratch / "botocore"))
    expires_at = (datetime.now(UTC) + timedelta(hours=12)).strftime("%Y-%m-%dT%H:%M:%SZ")
    SSOTokenLoader(cache).save_token(
        _START_URL, {"accessToken": "access", "expiresAt": expires_at}, session_name="demo"
    )
    clock = _Clock()
    token = SSOTokenProvider(session, cache=cache, time_fetcher=clock).load_token()
    token.get_frozen_token()
    clock.late = timedelta()
    return [CachedPath(Work.ONE_TOKEN, Statement("token.get_frozen_token().token", {"token": token}))]


def _file_cache(folder: Path) -> FileCache:
    from botocore.utils import JSONFileCache

    cache = JSONFileCache(str(folder))
    return FileCache(save=cache.__setitem__, fetch=cache.__getitem__)


PEER = Peer(
    name="botocore",
    documented="AWS SDKs guide: SSO token provider configuration",
    imports="import botocore.session, botocore.tokens",
    locks="none on a hit",
    coordinates="one thread renews ahead, later all wait for it",
    cached_paths=_cached_paths,
    file_cache=_file_cache,
    no_calls="renews by calling AWS only",
    no_window="has such a window, but renews by calling AWS only",
)
