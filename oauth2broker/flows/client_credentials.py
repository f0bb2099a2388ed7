"""Tokens of the client itself (RFC 6749 section 4.4)."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime

from oauth2broker.errors import RevokedError, StoreError, TransientError
from oauth2broker.flows.cached import CachedTokenFlow
from oauth2broker.flows.request import CachedTokenRequest
from oauth2broker.flows.singleflight import Outcome
from oauth2broker.flows.turn import seconds_to_back_off
from oauth2broker.flows.writes import write_surely
from oauth2broker.grants import GrantType
from oauth2broker.oauth import TokenAnswer, TokenFailure, build_record, format_scope
from oauth2broker.obs import logger
from oauth2broker.records import LONG_AGO, StoreKey, TokenRecord
from oauth2broker.secret import TokenSecret


class ClientCredentialsFlow(CachedTokenFlow):
    """Serves service tokens. Nothing in them is single-use, so an answer that is lost is asked for again."""

    def may_renew_ahead(self, request: CachedTokenRequest, record: TokenRecord, now: datetime) -> bool:
        return seconds_to_back_off(record, self._bounds, now) <= 0

    def renew(
        self, request: CachedTokenRequest, key: StoreKey, seen: TokenRecord | None, *, patient: bool
    ) -> Outcome:
        with ExitStack() as stack:
            if not self._enter_lease(stack, key, self._bounds.lease if patient else 0.0):
                if patient:
                    raise TransientError("whoever holds the lease did not finish in time")
                return Outcome(seen)
            return self._renew_leased(request, key, seen)

    def _enter_lease(self, stack: ExitStack, key: StoreKey, timeout: float) -> bool:
        try:
            return stack.enter_context(self._store.refresh_lease(key, timeout=timeout))
        except StoreError as error:
            logger.warning("no lease (%s): a service token is obtained without", type(error).__name__)
        return True

    def _renew_leased(self, request: CachedTokenRequest, key: StoreKey, seen: TokenRecord | None) -> Outcome:
        record = self._store.fetch(key)
        now = self._clock()
        if record is not None:
            if record.revoked_at is not None:
                raise RevokedError("the service token was revoked")
            if self._somebody_renewed(request, seen, record, now):
                return Outcome(record)
            seconds = seconds_to_back_off(record, self._bounds, now)
            if seconds > 0:
                raise TransientError("the provider is not to be asked yet", retry_after=seconds)
        return self._obtain(request, key, record, now)

    def _obtain(
        self, request: CachedTokenRequest, key: StoreKey, stale: TokenRecord | None, now: datetime
    ) -> Outcome:
        grant, descriptor = GrantType.CLIENT_CREDENTIALS, self._endpoint.descriptor
        self._endpoint.require_budget(key, request.scope, grant, now)
        params: dict[str, str | TokenSecret] = {**format_scope(request.scope, descriptor.scope_delimiter)}
        if request.resource is not None:
            params["resource"] = request.resource  # RFC 8707 section 2.2
        result = self._endpoint.send(self._endpoint.prepare(grant, params))
        if isinstance(result, TokenFailure):
            self._note_failure(request, key, stale, result)
            raise result.error
        record = build_record(
            _without_refresh_token(result),
            key.family,
            request.scope,
            request.resource,
            grant,
            issued_at=now,
            default_expires_in=descriptor.default_expires_in,
        )
        self._save_quietly(record)
        return Outcome(record, renewed=True)

    def _note_failure(
        self,
        request: CachedTokenRequest,
        key: StoreKey,
        stale: TokenRecord | None,
        failure: TokenFailure,
    ) -> None:
        """Keep when to ask again, in a record without a token where there is none."""
        if not failure.error.retryable:
            return
        now = self._clock()
        record = stale or TokenRecord(
            family=key.family,
            scope=request.scope,
            resource=request.resource,
            grant=GrantType.CLIENT_CREDENTIALS,
            access_token="",
            issued_at=now,
            expires_at=LONG_AGO,
        )
        self._save_quietly(replace(record, **self._back_off(record.failures, failure.error, now)))

    def _save_quietly(self, record: TokenRecord) -> None:
        try:
            write_surely(lambda: self._store.save(record), self._bounds.store)
        except StoreError as error:
            logger.warning("a service token's record could not be stored: %s", type(error).__name__)


def _without_refresh_token(came: TokenAnswer) -> TokenAnswer:
    return replace(came, refresh_token=None, refresh_expires_in=None)  # RFC 6749 section 4.4.3
