"""The loopback provider in a process of its own, so that it does not share our interpreter lock."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from multiprocessing.managers import BaseManager
from typing import cast

from oauth2broker import Broker, CachedTokenRequest, GrantType, ProviderDescriptor, TokenFamily, TokenRecord
from oauth2broker.testing import LoopbackProvider

CLIENT_ID, CLIENT_SECRET = "demo-client", "demo-secret"
LATENCY = 0.05  # seconds, where one is asked for


@dataclass(frozen=True, slots=True)
class UserGrant:
    """What a login brought, in plain text: peers take strings, and processes hand it on."""

    token_endpoint: str
    descriptor: ProviderDescriptor
    request: CachedTokenRequest
    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)

    def as_record(self, *, age: timedelta, left: timedelta) -> TokenRecord:
        """Give the grant as a record whose access token is that old and works that much longer."""
        now = datetime.now(UTC)
        request = self.request
        return TokenRecord(
            family=TokenFamily(request.tenant, request.principal, self.descriptor.id, CLIENT_ID),
            scope=request.scope,
            access_token=self.access_token,
            refresh_token=self.refresh_token,
            issued_at=now - age,
            expires_at=now + left,
        )

    def as_expired_record(self) -> TokenRecord:
        """Give the grant as a record whose access token expired an hour ago."""
        return self.as_record(age=timedelta(hours=2), left=timedelta(hours=-1))


@dataclass(frozen=True, slots=True)
class Tally:
    """How the provider saw it: calls with a refresh token, and how many of them presented a spent one."""

    calls: int
    reuses: int


class ProviderDesk:
    """A provider that rotates refresh tokens and revokes the grant when a spent one comes again."""

    def __init__(self) -> None:
        self._provider = LoopbackProvider().start()
        self._numbers = itertools.count()

    def descriptor(self) -> ProviderDescriptor:
        """Describe the provider to a broker."""
        return self._provider.descriptor()

    def log_in(self) -> UserGrant:
        """Take a user that was not there before through a whole authorization."""
        user = f"user-{next(self._numbers)}"
        request = CachedTokenRequest("tenant-acme", user, "openid profile")
        descriptor = self._provider.descriptor()
        with Broker(descriptor, CLIENT_ID, CLIENT_SECRET) as broker:
            session = broker.start_authorization(
                request.tenant, request.principal, request.scope, "https://app.example.com/callback"
            )
            callback = self._provider.browse(session.authorize_url, user=user)
            record = broker.complete_authorization(session, callback)
        refresh_token = record.refresh_token.expose() if record.refresh_token else ""
        return UserGrant(
            descriptor.token_endpoint, descriptor, request, record.access_token.expose(), refresh_token
        )

    def set_latency(self, seconds: float) -> None:
        """Let every answer of the token endpoint take that long."""
        self._provider.latency = seconds

    def clear(self) -> None:
        """Count from zero."""
        self._provider.clear()

    def tally(self) -> Tally:
        """Count what came since."""
        calls = [call for call in self._provider.calls if call.grant_type == GrantType.REFRESH_TOKEN]
        return Tally(len(calls), self._provider.reuses)

    def is_live(self, access_token: str) -> bool:
        """Whether an API would accept this token now."""
        return self._provider.is_live(access_token)


class _Manager(BaseManager):
    pass


_Manager.register("ProviderDesk", ProviderDesk)


@contextmanager
def provider_process(latency: float = 0.0) -> Iterator[ProviderDesk]:
    """Have a provider for as long as the context lasts."""
    with _Manager(ctx=multiprocessing.get_context("spawn")) as manager:
        desk = cast("ProviderDesk", manager.ProviderDesk())  # type: ignore[attr-defined]  # a proxy of one
        desk.set_latency(latency)
        yield desk
