"""Ending a grant: at the provider (RFC 7009), then in the store."""

from __future__ import annotations

from functools import partial

from oauth2broker.flows.singleflight import Outcome
from oauth2broker.flows.tools import Tools
from oauth2broker.grants import GrantType
from oauth2broker.records import StoreKey, TokenRecord


class RevocationFlow:
    """Revokes what is stored under a key, never while it is being renewed. Safe to share between threads."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    def revoke(self, key: StoreKey) -> TokenRecord | None:
        """Give the tombstone; None when nothing was stored, and for service tokens, which are deleted.

        When it raises, the store is as it was.
        """
        return self._tools.flights.lead(key, partial(self._fly, key)).record

    def _fly(self, key: StoreKey) -> Outcome:
        store = self._tools.store
        with self._tools.keeper.lease(key):
            record = store.fetch(key)
            if record is None or record.revoked_at is not None:
                return Outcome(record)
            self._tools.endpoint.revoke(record, self._tools.clock())
            if key.grant is GrantType.CLIENT_CREDENTIALS:
                store.delete(key)
                return Outcome(None)
            return Outcome(store.revoke(key, self._tools.clock()))
