"""Tokens of the client itself (RFC 6749 section 4.4)."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import datetime

from oauth2broker.answers import TokenFailure
from oauth2broker.errors import BrokerError, RevokedError, StoreError, TransientError, TransportError
from oauth2broker.flows.cached import back_off, is_newer_and_serves
from oauth2broker.flows.request import CachedTokenRequest
from oauth2broker.flows.singleflight import Outcome
from oauth2broker.flows.token_endpoint import PreparedCall
from oauth2broker.flows.tools import Tools
from oauth2broker.flows.turn import seconds_to_back_off
from oauth2broker.grants import GrantType
from oauth2broker.issued import build_record
from oauth2broker.oauth import format_resource, format_scope
from oauth2broker.obs import RefreshResult, logger
from oauth2broker.payloads import TokenAnswer
from oauth2broker.records import LONG_AGO, StoreKey, TokenRecord


class ClientCredentialsFlow:
    """Obtains service tokens. Nothing in them is single-use, so a lost answer is asked for once more."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._store = tools.store
        self._keeper = tools.keeper
        self._clock = tools.clock

    def may_renew_ahead(self, request: CachedTokenRequest, record: TokenRecord, now: datetime) -> bool:
        return seconds_to_back_off(record, self._tools.bounds, now) <= 0

    def renew(
        self, request: CachedTokenRequest, key: StoreKey, seen: TokenRecord | None, *, patient: bool
    ) -> Outcome:
        with ExitStack() as stack:
            if not self._enter_lease(stack, key, patient=patient):
                self._tools.telemetry.note(RefreshResult.SERVED_CURRENT)
                return Outcome(seen)
            return self._renew(request, key, seen)

    def _enter_lease(self, stack: ExitStack, key: StoreKey, *, patient: bool) -> bool:
        lease = self._keeper.lease(key) if patient else self._keeper.try_lease(key)
        try:
            return stack.enter_context(lease) is not None
        except StoreError as error:
            logger.warning("no lease (%s): a service token is obtained without", type(error).__name__)
        return True

    def _renew(self, request: CachedTokenRequest, key: StoreKey, seen: TokenRecord | None) -> Outcome:
        record = self._keeper.fetch(key)
        now = self._clock()
        if record is not None:
            if record.revoked_at is not None:
                raise RevokedError("the service token was revoked")
            if is_newer_and_serves(request, seen, record, now):
                self._tools.telemetry.note(RefreshResult.ADOPTED)
                return Outcome(record)
            seconds = seconds_to_back_off(record, self._tools.bounds, now)
            if seconds > 0:
                self._tools.telemetry.note(RefreshResult.BACKED_OFF)
                raise TransientError("the provider is not to be asked yet", retry_after=seconds)
        return self._obtain(request, key, record)

    def _obtain(self, request: CachedTokenRequest, key: StoreKey, stale: TokenRecord | None) -> Outcome:
        grant, endpoint = GrantType.CLIENT_CREDENTIALS, self._tools.endpoint
        params = {
            **format_scope(request.scope, endpoint.descriptor.scope_delimiter),
            **format_resource(endpoint.descriptor, request.resource),
        }

        def prepare(now: datetime) -> PreparedCall:
            return endpoint.prepare(key.family, request.scope, grant, params, {}, now)

        sent_at = self._clock()
        result = endpoint.send(prepare(sent_at))
        if isinstance(result, TokenFailure) and _was_lost(result.error):
            with suppress(BrokerError):  # what is single-use in it, a client assertion, is made anew
                call = prepare(self._clock())
                self._tools.telemetry.note(None)  # what comes of this one counts
                sent_at, result = self._clock(), endpoint.send(call)
        if isinstance(result, TokenFailure):
            self._note_failure(request, key, stale, result.error)
            raise result.error
        record = build_record(
            _without_refresh_token(result),
            key,
            request.scope,
            issued_at=sent_at,
            descriptor=endpoint.descriptor,
        )
        if request.rejects(record):  # a provider that repeats itself is not asked by every caller
            record = replace(record, **back_off(0, TransientError(), self._tools.bounds, sent_at))
        no_lease = ExitStack()  # a record that cannot be stored keeps nobody else from obtaining one
        is_saved = self._keeper.save(record, stale, no_lease)
        self._tools.telemetry.note(RefreshResult.RENEWED if is_saved else RefreshResult.PERSIST_FAILED)
        return Outcome(record, renewed=True)

    def _note_failure(
        self, request: CachedTokenRequest, key: StoreKey, stale: TokenRecord | None, error: BrokerError
    ) -> None:
        """Keep when to ask again, in a record without a token where there is none."""
        if not error.retryable:
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
        noted = replace(record, **back_off(record.failures, error, self._tools.bounds, now))
        error.retry_after = seconds_to_back_off(noted, self._tools.bounds, now)
        try:
            self._store.save(noted)
        except StoreError as failed:
            logger.warning("a failure could not be noted: %s", type(failed).__name__)


def _was_lost(error: BrokerError) -> bool:
    return isinstance(error, TransportError) and error.sent


def _without_refresh_token(came: TokenAnswer) -> TokenAnswer:
    return replace(came, refresh_token=None, refresh_expires_in=None)  # RFC 6749 section 4.4.3
