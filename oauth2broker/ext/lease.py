"""Lending a token to a caller for a while."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from oauth2broker.ids import PrincipalId, ProviderId, TenantId
from oauth2broker.records import TokenRecord
from oauth2broker.scopes import ScopeSet


class TokenLeaseState(StrEnum):
    """Whether a token can be lent now."""

    GRANTED = "granted"
    PENDING = "pending"
    NEEDS_REFRESH = "needs_refresh"


@dataclass(frozen=True, slots=True)
class TokenLeaseContext:
    """Who wants to borrow which token, when, and how long it must last at least.

    ``now`` is an aware UTC datetime, ``resource`` as in the request that obtains the token (RFC 8707).
    """

    tenant: TenantId
    principal: PrincipalId
    provider: ProviderId
    scope: ScopeSet
    now: datetime
    minimum_ttl: timedelta = timedelta()
    resource: str | None = None


class Lent(Protocol):
    """What a borrower holds."""

    @property
    def record(self) -> TokenRecord:
        """A record that lasts as long as was asked for, counted from now; renewed first if it does not."""
        ...

    def reject(self) -> TokenRecord:
        """Say that the token was refused; give another record, as :attr:`record` does from now on."""
        ...


class TokenLease(Protocol):
    """Lends access to a cached record. Not the store's lease, which is the right to renew."""

    def state(self, context: TokenLeaseContext) -> TokenLeaseState:
        """Say whether a token can be lent without waiting."""
        ...

    def lend(self, context: TokenLeaseContext) -> AbstractContextManager[Lent]:
        """Lend a token that lasts as long as ``context`` asks for."""
        ...
