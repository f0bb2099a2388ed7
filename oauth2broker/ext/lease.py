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
    """Who wants to borrow which token, when, and how long it must last at least."""

    tenant: TenantId
    principal: PrincipalId
    provider: ProviderId
    scope: ScopeSet
    now: datetime
    minimum_ttl: timedelta = timedelta()


class TokenLease(Protocol):
    """Lends access to a cached record. Not the store's lease, which is the right to renew."""

    def state(self, context: TokenLeaseContext) -> TokenLeaseState:
        """Say whether a token can be lent without waiting."""
        ...

    def lend(self, context: TokenLeaseContext) -> AbstractContextManager[TokenRecord]:
        """Lend a record that lasts as long as ``context`` asks for."""
        ...
