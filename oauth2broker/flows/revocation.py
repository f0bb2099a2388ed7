"""Ending a grant: at the provider (RFC 7009), then in the store."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial

from oauth2broker.errors import TransientError
from oauth2broker.flows.bounds import Bounds
from oauth2broker.flows.singleflight import Flights, Outcome
from oauth2broker.flows.token_endpoint import TokenEndpoint
from oauth2broker.grants import GrantType
from oauth2broker.records import StoreKey, TokenRecord
from oauth2broker.stores.base import BrokerStore


class RevocationFlow:
    """Revokes what is stored under a key, never while it is being renewed. Safe to share between threads."""

    def __init__(
        self,
        store: BrokerStore,
        endpoint: TokenEndpoint,
        flights: Flights,
        clock: Callable[[], datetime],
        bounds: Bounds,
    ) -> None:
        self._store = store
        self._endpoint = endpoint
        self._flights = flights
        self._clock = clock
        self._bounds = bounds

    def revoke(self, key: StoreKey) -> TokenRecord | None:
        """Give the tombstone; None when nothing was stored, and for service tokens, which are deleted.

        When it raises, the store is as it was.
        """
        return self._flights.lead(key, partial(self._fly, key)).record

    def _fly(self, key: StoreKey) -> Outcome:
        with self._store.refresh_lease(key, timeout=self._bounds.lease) as is_ours:
            if not is_ours:
                raise TransientError("whoever holds the lease did not finish renewing in time")
            record = self._store.fetch(key)
            if record is None or record.revoked_at is not None:
                return Outcome(record)
            self._endpoint.revoke(record)
            if key.grant is GrantType.CLIENT_CREDENTIALS:
                self._store.delete(key)
                return Outcome(None)
            return Outcome(self._store.revoke(key, self._clock()))
