"""Renewing a user's token, exactly once (RFC 6749 section 6). ``docs/renewing.rst`` argues why it is."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from oauth2broker.answers import TokenFailure
from oauth2broker.errors import (
    AuthorizationRequiredError,
    BrokerError,
    InvalidGrantError,
    RevokedError,
    StoreError,
    TransientError,
)
from oauth2broker.flows.cached import back_off, is_newer_and_serves
from oauth2broker.flows.request import CachedTokenRequest
from oauth2broker.flows.singleflight import Outcome
from oauth2broker.flows.token_endpoint import PreparedCall
from oauth2broker.flows.tools import Tools
from oauth2broker.flows.turn import (
    is_from_the_future,
    is_in_grace,
    may_rotate,
    seconds_to_back_off,
    seconds_to_settle,
)
from oauth2broker.grants import GrantType
from oauth2broker.issued import build_record
from oauth2broker.oauth import format_resource
from oauth2broker.obs import RefreshResult, logger
from oauth2broker.payloads import TokenAnswer
from oauth2broker.records import StoreKey, TokenRecord
from oauth2broker.secret import TokenSecret
from oauth2broker.stores.base import CompareAndSwapOutcome

_RESULTS = {
    None: RefreshResult.PERSIST_FAILED,
    CompareAndSwapOutcome.UPDATED: RefreshResult.RENEWED,
    CompareAndSwapOutcome.REFRESH_MISMATCH: RefreshResult.CAS_LOST,
    CompareAndSwapOutcome.MISSING: RefreshResult.CAS_LOST,
}


class RefreshFlow:
    """Renews users' tokens."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    def may_renew_ahead(self, request: CachedTokenRequest, record: TokenRecord, now: datetime) -> bool:
        if (
            record.refresh_token is None
            or GrantType.REFRESH_TOKEN not in self._tools.endpoint.descriptor.grants
        ):
            return False
        return _seconds_to_wait(self._tools, request, record, now) <= 0

    def renew(
        self, request: CachedTokenRequest, key: StoreKey, seen: TokenRecord | None, *, patient: bool
    ) -> Outcome:
        if seen is None:
            raise AuthorizationRequiredError(
                "nothing is stored for this principal with this scope and resource"
            )
        kept = self._kept_since(request, key, seen)
        if kept is not None:
            self._tools.telemetry.note(RefreshResult.ADOPTED)
            return Outcome(kept)
        keeper = self._tools.keeper
        with keeper.lease(key) if patient else keeper.try_lease(key) as lease:
            if lease is None:
                self._tools.telemetry.note(RefreshResult.SERVED_CURRENT)
                return Outcome(seen)
            result = _Renewal(self._tools, request, key, seen, lease).run()
        if isinstance(result, _Orphan):
            self._tools.endpoint.revoke_quietly(result.record, self._tools.clock())
            raise RevokedError("the grant was deleted while it was being renewed")
        return result

    def _kept_since(
        self, request: CachedTokenRequest, key: StoreKey, seen: TokenRecord
    ) -> TokenRecord | None:
        """Give what came since ``seen`` was read and is unsaved: there is no lease while the store fails."""
        if key.digest not in self._tools.keeper.unsaved:
            return None
        kept = self._tools.keeper.fetch(key)
        serves = kept is not None and is_newer_and_serves(request, seen, kept, self._tools.clock())
        return kept if serves else None


@dataclass(frozen=True, slots=True)
class _Orphan:
    """A grant that came while its record was being deleted: nobody may use it."""

    record: TokenRecord


@dataclass(frozen=True, slots=True)
class _Renewal:
    """One renewal, by the holder of the lease. The only place where a refresh token is presented."""

    tools: Tools
    request: CachedTokenRequest
    key: StoreKey
    seen: TokenRecord
    lease: ExitStack

    def run(self, *, again: bool = True) -> Outcome | _Orphan:
        """Renew what is stored now; ``again``: once more from the top if it is replaced under our hands."""
        record = self._fetch_alive()
        now = self.tools.clock()
        if is_newer_and_serves(self.request, self.seen, record, now):
            self.tools.telemetry.note(RefreshResult.ADOPTED)
            return Outcome(record)
        refresh_token = self._require_renewable(record)
        self._require_turn(record, now)
        call = self._prepare(record, refresh_token, now)
        sent_at = self.tools.clock()  # not before: a hook may have taken its time
        began = time.monotonic()
        attempted = self._mark_attempt(record, sent_at)
        if attempted is None:
            return self._run_again(again=again)
        self._require_still_allowed(call, record, attempted, began)
        self.tools.metrics.count_attempt()
        result = self.tools.endpoint.send(call)
        if isinstance(result, TokenAnswer):
            return self._keep(attempted, result, sent_at)
        self.tools.metrics.count_end(success=False)
        if isinstance(result.error, InvalidGrantError) and result.refresh_token is None:
            self._bury(attempted, result.error)
            return self._run_again(again=again)
        self._note_failure(record, attempted, result)
        raise result.error

    def _run_again(self, *, again: bool) -> Outcome | _Orphan:
        """Someone without the lease (a login elsewhere, a logout) has replaced the record."""
        if not again:
            raise TransientError("the stored grant keeps changing under the renewal")
        return self.run(again=False)

    # May we? Raises when not, before anything is changed.

    def _fetch_alive(self) -> TokenRecord:
        record = self.tools.store.fetch(self.key)
        if record is None:
            raise AuthorizationRequiredError(
                "nothing is stored for this principal with this scope and resource"
            )
        if record.revoked_at is not None:
            raise RevokedError("the grant was revoked")
        return record

    def _require_renewable(self, record: TokenRecord) -> TokenSecret:
        if record.refresh_token is None:
            raise AuthorizationRequiredError("the token no longer serves and there is no refresh token")
        if GrantType.REFRESH_TOKEN not in self.tools.endpoint.descriptor.grants:
            raise AuthorizationRequiredError("the token no longer serves and this provider renews none")
        return record.refresh_token

    def _require_turn(self, record: TokenRecord, now: datetime) -> None:
        if is_from_the_future(record.attempted_at, now):
            self._swap(record, replace(record, attempted_at=now))  # an honest wait starts here
            self.tools.telemetry.note(RefreshResult.BACKED_OFF)
            raise TransientError("an answer may still arrive", retry_after=self.tools.bounds.settled)
        seconds = _seconds_to_wait(self.tools, self.request, record, now)
        if seconds > 0:
            self.tools.telemetry.note(RefreshResult.BACKED_OFF)
            raise TransientError("the provider is not to be asked yet", retry_after=seconds)

    def _prepare(self, record: TokenRecord, refresh_token: TokenSecret, now: datetime) -> PreparedCall:
        grant, endpoint = GrantType.REFRESH_TOKEN, self.tools.endpoint
        params: dict[str, str | TokenSecret] = {"refresh_token": refresh_token}
        params.update(format_resource(endpoint.descriptor, record.resource))
        return endpoint.prepare(record.family, record.scope, grant, params, record.extra, now)

    def _mark_attempt(self, record: TokenRecord, sent_at: datetime) -> TokenRecord | None:
        """Write down, before the token may be spent, that it is presented. None: the record was replaced.

        Within a grace the first mark stays: that is when the provider began to count.
        """
        if not may_rotate(self.tools.endpoint.descriptor):
            return record
        in_grace = is_in_grace(record, self.tools.endpoint.descriptor, sent_at)
        attempted = record if in_grace else replace(record, attempted_at=sent_at)
        if self._swap(record, attempted) is not CompareAndSwapOutcome.UPDATED:
            return None
        return attempted

    def _require_still_allowed(
        self, call: PreparedCall, record: TokenRecord, attempted: TokenRecord, began: float
    ) -> None:
        """Raise when marking took too long, a pause began meanwhile, or the lease may be another's by now.

        Others count from the time in the mark: a store that is slow must not eat up their margin. The mark is
        taken away, but not from under somebody who may have the lease, and whose mark it may stand for.
        """
        if may_rotate(self.tools.endpoint.descriptor) and not self.tools.store.is_lease_held(self.key):
            raise TransientError("the lease was lost before the token was presented")
        try:
            self.tools.endpoint.look_again(call)
            is_slow = time.monotonic() - began > self.tools.bounds.slowest_mark
            if is_slow and may_rotate(self.tools.endpoint.descriptor):
                raise TransientError("the store is too slow to renew safely")
        except BrokerError:
            if attempted is not record:
                self._swap_quietly(attempted, record)
            raise

    # What came of it.

    def _keep(self, attempted: TokenRecord, came: TokenAnswer, sent_at: datetime) -> Outcome | _Orphan:
        record = build_record(
            came,
            self.key,
            attempted.scope,
            issued_at=sent_at,
            descriptor=self.tools.endpoint.descriptor,
            previous=attempted,
        )
        if self.request.rejects(record):  # a provider that repeats itself is not asked by every caller
            noted = back_off(attempted.failures, TransientError(), self.tools.bounds, sent_at)
            record = replace(record, **noted)
        outcome = self._swap_surely(attempted, record)
        self.tools.metrics.count_end(success=outcome in {CompareAndSwapOutcome.UPDATED, None})
        self.tools.telemetry.note(_RESULTS[outcome])
        match outcome:
            case CompareAndSwapOutcome.UPDATED | None:
                return Outcome(record, renewed=True)
            case CompareAndSwapOutcome.MISSING:
                return _Orphan(record)
            case CompareAndSwapOutcome.REFRESH_MISMATCH:
                return Outcome(self._fetch_alive())  # the store's record is the truth

    def _bury(self, attempted: TokenRecord, error: InvalidGrantError) -> None:
        """The token we sent is dead. Returns when the store holds another by now, else raises ``error``."""
        left: TokenRecord | None = None
        try:
            left = self.tools.store.revoke(
                self.key, self.tools.clock(), expected_refresh=attempted.refresh_token
            )
        except StoreError as failed:
            logger.warning("a dead grant could not be marked: %s", type(failed).__name__)
        if left is None or left.revoked_at is not None:
            logger.warning("the provider refused a grant; the user must authorize again")
            self.tools.telemetry.note(RefreshResult.TOMBSTONED)
            raise error

    def _note_failure(self, record: TokenRecord, attempted: TokenRecord, failure: TokenFailure) -> None:
        """Keep what the next one to renew must know, and a refresh token that came all the same.

        That this attempt spent nothing says nothing of an earlier one whose answer was lost: its mark stays.
        """
        error, now = failure.error, self.tools.clock()
        came = failure.refresh_token is not None
        rotated = came and failure.refresh_token != attempted.refresh_token
        changes: dict[str, Any] = {}
        if rotated:
            changes.update(refresh_token=failure.refresh_token, expires_at=now, refresh_expires_at=None)
        if came:
            changes["attempted_at"] = None
        elif failure.settled:
            changes["attempted_at"] = record.attempted_at
        if error.retryable:
            changes.update(back_off(attempted.failures, error, self.tools.bounds, now))
        noted = replace(attempted, **changes)
        if error.retryable:
            error.retry_after = _seconds_to_wait(self.tools, self.request, noted, now)
        if rotated:
            self._swap_surely(attempted, noted)
        else:
            self._swap_quietly(attempted, noted)

    # Writing.

    def _swap(self, expected: TokenRecord, replacement: TokenRecord) -> CompareAndSwapOutcome:
        return self.tools.store.compare_and_swap_refresh(self.key, expected.refresh_token, replacement)

    def _swap_surely(self, expected: TokenRecord, replacement: TokenRecord) -> CompareAndSwapOutcome | None:
        """Swap in what must not be lost; None: the store refuses and the keeper has it."""
        return self.tools.keeper.put(
            lambda: self._swap(expected, replacement), replacement, expected, self.lease
        )

    def _swap_quietly(self, expected: TokenRecord, replacement: TokenRecord) -> None:
        try:
            self._swap(expected, replacement)
        except StoreError as failed:
            logger.warning("a failed renewal could not be noted: %s", type(failed).__name__)


def _seconds_to_wait(tools: Tools, request: CachedTokenRequest, record: TokenRecord, now: datetime) -> float:
    return max(
        seconds_to_back_off(record, tools.bounds, now),
        seconds_to_settle(request, record, tools.endpoint.descriptor, tools.bounds, now),
    )
