"""The token of one session: served with the session's compliance hooks, watched for changes, imported."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime

from oauth2broker.errors import ConfigError
from oauth2broker.flows.broker import Broker
from oauth2broker.flows.request import CachedTokenRequest, Need, mistaken_request
from oauth2broker.flows.singleflight import Outcome
from oauth2broker.forking import forget_in_children
from oauth2broker.grants import GrantType
from oauth2broker.integrations.compliance import ComplianceHooks, Hooks, amended
from oauth2broker.integrations.oauthlib_tokens import GivenToken
from oauth2broker.records import StoreKey, TokenRecord

_LONG_BEFORE = datetime.min.replace(tzinfo=UTC)

Serve = Callable[[CachedTokenRequest], TokenRecord]


class SessionToken:
    """What a session knows of its token, and the broker as its :class:`BrokerAuth` sees it.

    ``hooks`` are the session's compliance hooks. ``tell`` is called with a record that is another than the
    session last saw, by the thread that came upon it. Keeps no token, only a hash. Safe to share between
    threads. ``behind`` is the broker itself.
    """

    def __init__(self, broker: Broker, request: CachedTokenRequest, grant: GrantType) -> None:
        if not isinstance(request, CachedTokenRequest):
            raise mistaken_request(request)
        self.hooks: Hooks = {}
        self.tell: Callable[[TokenRecord], object] | None = None
        self.request = request
        self.grant = grant
        self.key: StoreKey = broker.key_for(request, grant)
        self.descriptor, self.strategy = broker.descriptor, broker.strategy
        self.behind = broker
        self._tools = broker._tools
        self._seen: tuple[datetime, str] | None = None
        self._lock = threading.Lock()
        forget_in_children(self)

    def forget_after_fork(self) -> None:
        """Whoever held the lock is not in the child."""
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """Give the broker's time."""
        return self.behind.clock()

    def stored(self) -> TokenRecord | None:
        """Give what is stored now, tombstones included. Calls no provider. Raises :class:`StoreError`."""
        return self._tools.keeper.fetch(self.key)

    def can_be_had(self) -> bool:
        """Whether the broker can give a token without the user, as far as the store tells."""
        record, now = self.stored(), self.now()
        if record is not None and record.revoked_at is not None:
            return False
        if self.grant is GrantType.CLIENT_CREDENTIALS:
            return True
        if record is None:
            return False
        if self.request.window_at(record, now) is not Need.MANDATORY:
            return True
        ends, renews = record.refresh_expires_at, GrantType.REFRESH_TOKEN in self.descriptor.grants
        return renews and record.refresh_token is not None and (ends is None or now < ends)

    # The broker, with the session's hooks on the token calls that it makes.

    def refresh_access_token(self, request: CachedTokenRequest) -> TokenRecord:
        """Serve a user's token to a request that carries it."""
        return self._noticed(self._serve(self.behind.refresh_access_token, request))

    def client_credentials(self, request: CachedTokenRequest) -> TokenRecord:
        """Serve a token of the client itself to a request that carries it."""
        return self._noticed(self._serve(self.behind.client_credentials, request))

    def obtain(self, *, force: bool = False) -> TokenRecord:
        """Give the token to a caller who asked for it; ``force``: another one than is stored."""
        own = self.grant is GrantType.CLIENT_CREDENTIALS
        serve = self.behind.client_credentials if own else self.behind.refresh_access_token
        return self._serve(serve, self.request.force_refresh() if force else self.request)

    def _serve(self, serve: Serve, request: CachedTokenRequest) -> TokenRecord:
        with amended(ComplianceHooks(self.hooks)):
            return serve(request)

    # Noticing changes.

    def look_first(self) -> None:
        """Note what is stored before the first request, to notice when it changes."""
        if self.tell is None or self._seen is not None:
            return
        record = self.stored()
        with self._lock:
            self._seen = self._seen or (_LONG_BEFORE, "" if record is None else _hash(record))

    def take_note(self, record: TokenRecord) -> TokenRecord:
        """Note what a caller got by asking for it: that is no news."""
        with self._lock:
            self._seen = record.issued_at, _hash(record)
        return record

    def _noticed(self, record: TokenRecord) -> TokenRecord:
        tell = self.tell
        if tell is None:
            return record
        mark = record.issued_at, _hash(record)
        with self._lock:
            when, what = self._seen or (_LONG_BEFORE, "")
            is_news = mark[1] != what and mark[0] >= when  # and no older one, of a slower thread
            if is_news:
                self._seen = mark
        if is_news:
            tell(record)
        return record

    # Importing.

    def take_over(self, given: GivenToken) -> None:
        """Store a token that was kept elsewhere, unless one is stored that still serves, or a tombstone.

        Raises :class:`ConfigError` for what is no token, :class:`StoreError`, :class:`TransientError`.
        """
        if not given:
            return
        record = given.record(self.key, self.request.scope, self.descriptor, self.now())
        if isinstance(record, ConfigError):
            raise record
        with self._lock:
            self._seen = _LONG_BEFORE, _hash(record)
        if self._is_free(self.stored()):
            self._tools.flights.lead(self.key, lambda: self._save_first(record))

    def _save_first(self, record: TokenRecord) -> Outcome:
        """Store ``record`` unless there is one by now, as the leader of a flight and under the lease."""
        keeper, store = self._tools.keeper, self._tools.store
        with keeper.lease(self.key) as lease:
            stored = keeper.fetch(self.key)
            if not self._is_free(stored):
                return Outcome(stored)
            keeper.put(lambda: store.save(record), record, stored, lease)
        return Outcome(record)

    def _is_free(self, stored: TokenRecord | None) -> bool:
        """Whether nothing is stored, or only what has expired and could not have been renewed since."""
        if stored is None:
            return True
        is_spent = stored.expires_at is not None and stored.expires_at <= self.now()
        return is_spent and stored.refresh_token is None and stored.revoked_at is None


def _hash(record: TokenRecord) -> str:
    return record.access_token.fingerprint()
