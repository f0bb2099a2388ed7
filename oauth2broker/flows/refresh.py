"""Renewing a user's token, exactly once (RFC 6749 section 6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from oauth2broker.errors import (
    AuthorizationRequiredError,
    InvalidGrantError,
    RevokedError,
    StoreError,
    TransientError,
)
from oauth2broker.flows.bounds import Bounds
from oauth2broker.flows.cached import CachedTokenFlow
from oauth2broker.flows.request import CachedTokenRequest
from oauth2broker.flows.singleflight import Flights, Outcome
from oauth2broker.flows.token_endpoint import PreparedCall, TokenEndpoint
from oauth2broker.flows.turn import (
    is_from_the_future,
    may_rotate,
    seconds_to_back_off,
    seconds_to_settle,
)
from oauth2broker.flows.writes import write_surely
from oauth2broker.grants import GrantType
from oauth2broker.oauth import TokenAnswer, TokenFailure, build_record
from oauth2broker.obs import RefreshMetrics, logger
from oauth2broker.records import StoreKey, TokenRecord
from oauth2broker.secret import TokenSecret
from oauth2broker.stores.base import BrokerStore, CompareAndSwapOutcome


@dataclass(frozen=True, slots=True)
class _Orphan:
    """A grant that came while its record was being deleted: nobody may use it."""

    record: TokenRecord


class RefreshFlow(CachedTokenFlow):
    """Serves users' tokens."""

    def __init__(
        self,
        store: BrokerStore,
        endpoint: TokenEndpoint,
        flights: Flights,
        clock: Callable[[], datetime],
        bounds: Bounds,
        metrics: RefreshMetrics,
    ) -> None:
        super().__init__(store, endpoint, flights, clock, bounds)
        self._metrics = metrics

    def may_renew_ahead(self, request: CachedTokenRequest, record: TokenRecord, now: datetime) -> bool:
        if record.refresh_token is None or GrantType.REFRESH_TOKEN not in self._endpoint.descriptor.grants:
            return False
        return self._seconds_to_wait(request, record, now) <= 0

    def renew(
        self, request: CachedTokenRequest, key: StoreKey, seen: TokenRecord | None, *, patient: bool
    ) -> Outcome:
        if seen is None:
            raise AuthorizationRequiredError("nothing is stored for this principal")
        timeout = self._bounds.lease if patient else 0.0
        with self._store.refresh_lease(key, timeout=timeout) as is_ours:
            if not is_ours and not patient:
                return Outcome(seen)
            if not is_ours:
                raise TransientError("whoever holds the lease did not finish renewing in time")
            result = self._renew_leased(request, key, seen)
        if isinstance(result, _Orphan):
            self._endpoint.revoke_quietly(result.record)
            raise RevokedError("the grant was deleted while it was being renewed")
        return result

    def _renew_leased(
        self, request: CachedTokenRequest, key: StoreKey, seen: TokenRecord, *, again: bool = True
    ) -> Outcome | _Orphan:
        record = self._fetch_alive(key)
        now = self._clock()
        if self._somebody_renewed(request, seen, record, now):
            return Outcome(record)
        refresh_token = self._require_renewable(record)
        self._require_turn(request, record, now)
        call = self._prepare(record, refresh_token, now)
        attempted = self._mark_attempt(record, now)
        if attempted is None:
            return self._once_more(request, key, seen, again=again)
        self._metrics.count_attempt()
        result = self._endpoint.send(call)
        if isinstance(result, TokenAnswer):
            return self._keep(attempted, result, now)
        self._metrics.count_end(success=False)
        if isinstance(result.error, InvalidGrantError):
            self._bury(attempted, result.error)
            return self._once_more(request, key, seen, again=again)
        self._note_failure(request, attempted, result)
        raise result.error

    def _once_more(
        self, request: CachedTokenRequest, key: StoreKey, seen: TokenRecord, *, again: bool
    ) -> Outcome | _Orphan:
        """Start from the top: someone without the lease (a login, an older program) replaced the record."""
        if not again:
            raise TransientError("the stored grant keeps changing under the renewal")
        return self._renew_leased(request, key, seen, again=False)

    # May we? Raises when not, before anything is changed.

    def _fetch_alive(self, key: StoreKey) -> TokenRecord:
        record = self._store.fetch(key)
        if record is None:
            raise AuthorizationRequiredError("nothing is stored for this principal")
        if record.revoked_at is not None:
            raise RevokedError("the grant was revoked")
        return record

    def _require_renewable(self, record: TokenRecord) -> TokenSecret:
        if record.refresh_token is None:
            raise AuthorizationRequiredError("the token no longer serves and there is no refresh token")
        self._endpoint.descriptor.require_grant(GrantType.REFRESH_TOKEN)
        return record.refresh_token

    def _require_turn(self, request: CachedTokenRequest, record: TokenRecord, now: datetime) -> None:
        if is_from_the_future(record.attempted_at, now):
            self._mark_attempt(record, now)  # an honest wait starts here
            raise TransientError("an earlier answer may still arrive", retry_after=self._bounds.settled)
        seconds = self._seconds_to_wait(request, record, now)
        if seconds > 0:
            raise TransientError("the provider is not to be asked yet", retry_after=seconds)

    def _seconds_to_wait(self, request: CachedTokenRequest, record: TokenRecord, now: datetime) -> float:
        return max(
            seconds_to_back_off(record, self._bounds, now),
            seconds_to_settle(request, record, self._endpoint.descriptor, self._bounds, now),
        )

    def _prepare(self, record: TokenRecord, refresh_token: TokenSecret, now: datetime) -> PreparedCall:
        grant = GrantType.REFRESH_TOKEN
        self._endpoint.require_budget(record.key, record.scope, grant, now)
        params: dict[str, str | TokenSecret] = {"refresh_token": refresh_token}
        if record.resource is not None:
            params["resource"] = record.resource  # RFC 8707 section 2.2
        return self._endpoint.prepare(grant, params)

    def _mark_attempt(self, record: TokenRecord, now: datetime) -> TokenRecord | None:
        """Write down, before the token may be spent, that it is presented. None: the record was replaced."""
        if not may_rotate(self._endpoint.descriptor):
            return record
        attempted = replace(record, attempted_at=now)
        return attempted if self._swap(record, attempted) is CompareAndSwapOutcome.UPDATED else None

    # What came of it.

    def _keep(self, attempted: TokenRecord, came: TokenAnswer, sent_at: datetime) -> Outcome | _Orphan:
        record = build_record(
            came,
            attempted.family,
            attempted.scope,
            attempted.resource,
            attempted.grant,
            issued_at=sent_at,
            default_expires_in=self._endpoint.descriptor.default_expires_in,
            previous=attempted,
        )
        outcome = write_surely(lambda: self._swap(attempted, record), self._bounds.store)
        self._metrics.count_end(success=outcome is CompareAndSwapOutcome.UPDATED)
        match outcome:
            case CompareAndSwapOutcome.UPDATED:
                return Outcome(record, renewed=True)
            case CompareAndSwapOutcome.MISSING:
                return _Orphan(record)
            case CompareAndSwapOutcome.REFRESH_MISMATCH:
                return Outcome(self._fetch_alive(attempted.key))  # the store's record is the truth

    def _bury(self, attempted: TokenRecord, error: InvalidGrantError) -> None:
        """The token we sent is dead. Returns when the store holds another by now, else raises ``error``."""
        left: TokenRecord | None = None
        try:
            left = self._store.revoke(attempted.key, self._clock(), expected_refresh=attempted.refresh_token)
        except StoreError as failed:
            logger.warning("a dead grant could not be marked: %s", type(failed).__name__)
        if left is None or left.revoked_at is not None:
            logger.warning("the provider refused a grant; the user must authorize again")
            raise error

    def _note_failure(
        self, request: CachedTokenRequest, attempted: TokenRecord, failure: TokenFailure
    ) -> None:
        """Keep what the next one to renew must know, and a refresh token that came all the same."""
        changes: dict[str, Any] = {}
        now = self._clock()
        rotated = failure.refresh_token not in {None, attempted.refresh_token}
        if rotated:
            changes.update(refresh_token=failure.refresh_token, expires_at=now, refresh_expires_at=None)
        if failure.settled or failure.refresh_token is not None:
            changes["attempted_at"] = None
        if failure.error.retryable:
            changes.update(self._back_off(attempted.failures, failure.error, now))
        noted = replace(attempted, **changes)
        if failure.error.retryable:
            failure.error.retry_after = self._seconds_to_wait(request, noted, now)
        try:
            write_surely(lambda: self._swap(attempted, noted), self._bounds.store)
        except StoreError as failed:
            logger.warning("a failed renewal could not be noted: %s", type(failed).__name__)

    def _swap(self, expected: TokenRecord, replacement: TokenRecord) -> CompareAndSwapOutcome:
        return self._store.compare_and_swap_refresh(expected.key, expected.refresh_token, replacement)
