"""google-auth: its User Guide, "User credentials" and "Making authenticated requests" (requests).

`Credentials` hold one token and renew it when a request finds it expired. After
`with_non_blocking_refresh()` a token that is about to expire is renewed by a thread in the background.
"""

# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.measure import Statement
from benchmarks.peers.api import API, Api
from benchmarks.peers.base import AheadOfExpiry, CachedPath, Peer, Work
from benchmarks.provider import CLIENT_ID, CLIENT_SECRET, UserGrant


def _in(seconds: float) -> datetime:
    return datetime.now(UTC).replace(tzinfo=None) + timedelta(seconds=seconds)  # it wants naive UTC


def _credentials(token_endpoint: str, access_token: str, refresh_token: str, left: float) -> Any:
    from google.oauth2.credentials import Credentials

    return Credentials(
        access_token,
        refresh_token=refresh_token,
        token_uri=token_endpoint,
        client_id=CLIENT_ID,
        client_secret=CLIENT_SECRET,
        expiry=_in(left),
    )


def _cached_paths(_: Path) -> Sequence[CachedPath]:
    from google.auth.transport.requests import Request

    credentials = _credentials("https://provider.example.com/token", "access", "refresh", 3600.0)
    sign = "credentials.before_request(transport, 'GET', url, {})"
    names = {"credentials": credentials, "transport": Request(), "url": API}
    return [
        CachedPath(
            Work.ONE_TOKEN,
            Statement("credentials.valid and credentials.token", {"credentials": credentials}),
        ),
        CachedPath(Work.SIGNS, Statement(sign, names)),
    ]


def _contender(grant: UserGrant) -> Callable[[], str]:
    from google.auth.transport.requests import AuthorizedSession

    session = AuthorizedSession(
        _credentials(grant.token_endpoint, grant.access_token, grant.refresh_token, -3600.0)
    )
    session.mount(API, Api())
    return lambda: str(session.get(API).text)


def _ahead(grant: UserGrant) -> AheadOfExpiry:
    from google.auth.transport.requests import Request

    transport = Request()
    credentials = _credentials(grant.token_endpoint, grant.access_token, grant.refresh_token, 60.0)
    credentials.with_non_blocking_refresh()
    return AheadOfExpiry(
        rewind=lambda: setattr(credentials, "expiry", _in(60.0)),
        ask=lambda: credentials.before_request(transport, "GET", API, {}),
    )


PEER = Peer(
    name="google-auth",
    documented="User Guide: User credentials; Making authenticated requests",
    imports="import google.oauth2.credentials, google.auth.transport.requests",
    locks="none on a hit",
    coordinates="nobody; one background thread when non-blocking",
    cached_paths=_cached_paths,
    contender=_contender,
    ahead=_ahead,
)
