"""Serving a token from the store, or from a flight that renews it. What every renewing flow has in common."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Protocol

from oauth2broker.errors import (
    BrokerError,
    InvalidGrantError,
    RevokedError,
    TransientError,
)
from oauth2broker.flows.bounds import Bounds
from oauth2broker.flows.request import CachedTokenRequest, Need, mistaken_request
from oauth2broker.flows.singleflight import Outcome
from oauth2broker.flows.tools import Tools
from oauth2broker.obs import RefreshResult
from oauth2broker.records import StoreKey, TokenRecord

_FLIGHTS_PER_CALL = 2
_KEYS_KEPT = 4096


class Renewer(Protocol):
    """How the tokens of one grant are renewed."""

    def renew(
        self, request: CachedTokenRequest, key: StoreKey, seen: TokenRecord | None, *, patient: bool
    ) -> Outcome:
        """Renew, as the leader of a flight, what ``seen`` was read from. Raises :class:`BrokerError`.

        Not ``patient``: give ``seen`` at once when another holder of the lease is at it.
        """
        ...

    def may_renew_ahead(self, request: CachedTokenRequest, record: TokenRecord, now: datetime) -> bool:
        """Whether it makes sense to try and renew a record that still works."""
        ...


class CachedTokenFlow:
    """Serves one grant's tokens. Safe to share between threads.

    ``make_renewer`` loads what is needed only once something must be renewed.
    """

    def __init__(
        self,
        tools: Tools,
        build_key: Callable[[CachedTokenRequest], StoreKey],
        make_renewer: Callable[[], Renewer],
    ) -> None:
        self._tools = tools
        self._store = tools.store
        self._keeper = tools.keeper
        self._telemetry = tools.telemetry
        self._clock = tools.clock
        self._seconds = tools.seconds
        self._build_key = build_key
        self._make_renewer = make_renewer
        self._keys: dict[object, StoreKey] = {}

    def serve(self, request: CachedTokenRequest) -> TokenRecord:
        """Give a record that answers ``request``: at once if the stored one does, else by renewing it.

        Up to the first return is the hot path: the key by the request's names, the store's record, a look at
        the clock. What that cannot tell at a glance is decided with all due care below.
        """
        try:  # costs a hit nothing; isinstance would
            names = request.names
        except AttributeError:
            raise mistaken_request(request) from None
        key = self._keys.get(names) or self._learn_key(request)
        record = self._keeper.fetch(key) if self._keeper.unsaved else self._store.fetch(key)
        if record is not None and record.serves_from <= self._seconds() < record.serves_until - request.ahead:
            return record
        return self._serve_with_care(request, key, record)

    def renew_seen(self, request: CachedTokenRequest, key: StoreKey, seen: TokenRecord) -> bool:
        """Renew ``seen``, however long it still works; False when somebody else is at it or has done it.

        Raises what kept it from being renewed.
        """
        self._telemetry.note_left(seen)
        work = partial(self._fly, request, key, seen, patient=False)
        outcome = self._tools.flights.lead_if_none(key, work)
        if outcome is None:
            self._telemetry.note(RefreshResult.SERVED_CURRENT)
            return False
        if outcome.error is not None:
            raise copy.copy(outcome.error)
        self._telemetry.note_left(outcome.record)
        return outcome.renewed

    def _serve_with_care(
        self, request: CachedTokenRequest, key: StoreKey, record: TokenRecord | None
    ) -> TokenRecord:
        if record is None:
            return self.renew_first(request, key, record)
        now = self._clock()
        if record.revoked_at is not None:
            raise RevokedError("the grant was revoked")
        match request.need_at(record, now):
            case Need.NONE:
                return record
            case Need.ADVISORY:
                return self._renew_ahead(request, key, record, now)
            case Need.MANDATORY:
                return self.renew_first(request, key, record)

    def _learn_key(self, request: CachedTokenRequest) -> StoreKey:
        """Give the key of ``request`` and remember it, for some thousand requests."""
        key = self._build_key(request)
        if len(self._keys) >= _KEYS_KEPT:
            self._keys.clear()  # rather than keep order on the hot path
        self._keys[request.names] = key
        return key

    def _renew_ahead(
        self, request: CachedTokenRequest, key: StoreKey, record: TokenRecord, now: datetime
    ) -> TokenRecord:
        """Renew in the advisory window, unless somebody is at it: the record still works."""
        outcome: Outcome | None = None
        if self._make_renewer().may_renew_ahead(request, record, now):
            work = partial(self._fly, request, key, record, patient=False)
            outcome = self._tools.flights.lead_if_none(key, work)
        if outcome is None:
            self._telemetry.note(RefreshResult.SERVED_CURRENT)
            return record
        found = answer(request, outcome, record, self._clock())
        if found is None:  # it no longer works: that took long
            return self.renew_first(request, key, record)
        return _given(found)

    def renew_first(
        self, request: CachedTokenRequest, key: StoreKey, seen: TokenRecord | None
    ) -> TokenRecord:
        """Renew, or wait for whoever does; what is stored does not answer the request."""
        work = partial(self._fly, request, key, seen, patient=True)
        for _ in range(_FLIGHTS_PER_CALL):
            found = answer(request, self._tools.flights.join_or_lead(key, work), seen, self._clock())
            if found is not None:
                return _given(found)
        raise TransientError("the renewal brought no token that answers this request")

    def _fly(
        self, request: CachedTokenRequest, key: StoreKey, seen: TokenRecord | None, *, patient: bool
    ) -> Outcome:
        try:
            return self._make_renewer().renew(request, key, seen, patient=patient)
        except BrokerError as error:
            self._telemetry.note_failure(error)
            grant_is_dead = isinstance(error, InvalidGrantError)
            return Outcome(None if grant_is_dead else seen, copy.copy(error))


def answer(
    request: CachedTokenRequest, outcome: Outcome, seen: TokenRecord | None, now: datetime
) -> TokenRecord | BrokerError | None:
    """Say what a flight's outcome is to one of its callers, who saw ``seen`` on entry. Pure.

    A record that answers the request, else the flight's error, else None: another flight may bring more.
    """
    record = outcome.record
    if record is None:
        return outcome.error
    works = outcome.renewed or request.window_at(record, now) is not Need.MANDATORY
    return record if works and _contents(request, outcome, record, seen) else outcome.error


def is_other(record: TokenRecord, seen: TokenRecord | None) -> bool:
    """Whether ``record`` was issued by another answer than ``seen`` was."""
    if seen is None:
        return True
    return record.access_token != seen.access_token or record.issued_at != seen.issued_at


def _contents(
    request: CachedTokenRequest, outcome: Outcome, record: TokenRecord, seen: TokenRecord | None
) -> bool:
    """Whether who insists on another token gets one, and none older than the caller has seen itself."""
    if request.rejects(record) or (request.force and not is_other(record, seen)):
        return False
    insists = request.force or request.rejected is not None
    return outcome.renewed or not insists or seen is None or record.issued_at >= seen.issued_at


def is_newer_and_serves(
    request: CachedTokenRequest, seen: TokenRecord | None, record: TokenRecord, now: datetime
) -> bool:
    """Whether somebody put ``record`` there since ``seen`` was read, and it answers the request. Pure."""
    if not is_other(record, seen) or request.rejects(record):
        return False
    return request.window_at(record, now) is not Need.MANDATORY


def back_off(failures: int, error: BrokerError, bounds: Bounds, now: datetime) -> dict[str, Any]:
    """Give what a record must remember after ``failures`` earlier ones and ``error``. Pure."""
    seconds = min(error.retry_after or bounds.backoff(failures + 1), bounds.longest_retry_after)
    return {"failures": failures + 1, "retry_at": now + timedelta(seconds=seconds)}


def _given(found: TokenRecord | BrokerError) -> TokenRecord:
    if isinstance(found, BrokerError):
        raise copy.copy(found)  # each caller raises an error of its own
    return found
