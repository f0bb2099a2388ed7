"""Lending a token that lasts as long as the work it is for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from oauth2broker.errors import ConfigError, TransientError
from oauth2broker.ext.lease import TokenLeaseContext, TokenLeaseState
from oauth2broker.flows.broker import Broker
from oauth2broker.flows.cached import CachedTokenFlow
from oauth2broker.flows.request import (
    MINIMUM_TTL,
    PREEMPTIVE_WINDOW,
    CachedTokenRequest,
    Need,
    mistaken_request,
)
from oauth2broker.grants import GrantType
from oauth2broker.obs import FlowKind
from oauth2broker.provider.checks import LONGEST
from oauth2broker.records import TokenRecord, checked_grant
from oauth2broker.secret import TokenSecret

_RENEWALS_PER_ACCESS = 2
_LEAST_TO_SPARE = timedelta(seconds=5)
_LEARNED_SECONDS = 60.0
_NOTHING = timedelta()


@dataclass(frozen=True, slots=True)
class _Wish:
    """A request, and how long its token must last, which the request's windows say only up to a quarter."""

    request: CachedTokenRequest
    minimum_ttl: timedelta

    def is_met(self, record: TokenRecord, now: datetime) -> bool:
        return record.expires_at is None or record.expires_at - now >= self.minimum_ttl

    def is_served(self, record: TokenRecord, now: datetime) -> bool:
        return self.request.window_at(record, now) is not Need.MANDATORY

    def require_possible(self, lifetime: timedelta) -> None:
        """Raise :class:`ConfigError` when a token that lasts for ``lifetime`` would not do for long."""
        if lifetime - self.minimum_ttl < min(lifetime / 10, _LEAST_TO_SPARE):
            raise ConfigError(
                f"tokens last {lifetime} (the latest did), too short for a minimum_ttl of {self.minimum_ttl}"
            )


class LentToken:
    """A token while it is lent, as :meth:`TokenLender.lend` gives it. Safe to share between threads.

    After the end of the ``with`` block whatever one asks of it is a :class:`ConfigError`.
    """

    def __init__(self, obtain: Callable[[_Wish], TokenRecord], wish: _Wish) -> None:
        self._obtain = obtain
        self._wish = wish
        self._is_over = False
        self._owner = threading.get_ident()
        self._given = threading.local()
        self._rejected: set[str] = set()
        self._given_to_owner = obtain(wish)

    @property
    def record(self) -> TokenRecord:
        """A record that lasts for ``minimum_ttl`` from this moment on, renewed first if it does not.

        Raises what :meth:`Broker.refresh_access_token` raises, and :class:`ConfigError` when the provider's
        tokens never last that long. Ask each time that a token is needed; it costs what a hit costs.
        """
        self._require_lent()
        self._given.last = found = self._obtain(self._wish)
        if threading.get_ident() == self._owner:
            self._given_to_owner = found
        return found

    @property
    def access_token(self) -> TokenSecret:
        """The access token of :attr:`record`."""
        return self.record.access_token

    def reject(self, record: TokenRecord | None = None) -> TokenRecord:
        """Say that the token of ``record`` was refused; give another, as :attr:`record` does from now on.

        None is the record that this thread was given last, or, when it was given none, the one that the
        thread of the ``with`` block was given last. However many threads reject one token, the provider is
        asked once. Raises as :attr:`record` does; the token stays rejected.
        """
        self._require_lent()
        refused = getattr(self._given, "last", self._given_to_owner) if record is None else record
        if not isinstance(refused, TokenRecord):
            kind = type(refused).__name__
            del record, refused  # it may be the plain token
            raise ConfigError(f"record is a TokenRecord, not {kind}")
        fingerprint = refused.access_token.fingerprint()
        if fingerprint not in self._rejected:  # else a later one has been rejected since, and stays so
            self._rejected.add(fingerprint)
            self._wish = replace(self._wish, request=self._wish.request.rejecting(refused))
        return self.record

    def _end(self) -> None:
        self._is_over = True

    def _require_lent(self) -> None:
        if self._is_over:
            raise ConfigError("the token is no longer lent")


class TokenLender:
    """A :class:`TokenLease` on a broker, for the tokens of one grant. Safe to share between threads.

    ``grant`` says whose tokens: users' (``authorization_code``) or the client's own
    (``client_credentials``). Raises :class:`ConfigError` for any other.
    """

    def __init__(self, broker: Broker, grant: str = GrantType.AUTHORIZATION_CODE) -> None:
        if not isinstance(broker, Broker):
            raise ConfigError(f"broker is a Broker, not {type(broker).__name__}")
        self._broker = broker
        self._grant = checked_grant(grant)
        self._clock = broker.clock
        self._learned: tuple[float, timedelta] | None = None
        self._serve: Callable[[CachedTokenRequest], TokenRecord]
        self._flow: CachedTokenFlow
        match self._grant:
            case GrantType.AUTHORIZATION_CODE:
                self._serve, self._flow = broker.refresh_access_token, broker._users_tokens
            case GrantType.CLIENT_CREDENTIALS:
                self._serve, self._flow = broker.client_credentials, broker._own_tokens
            case _:
                raise ConfigError("grant is authorization_code (a user's token) or client_credentials")

    def context(
        self, request: CachedTokenRequest, *, minimum_ttl: timedelta | None = None
    ) -> TokenLeaseContext:
        """Say who borrows which token, now, and for how long; ``minimum_ttl`` None is the request's.

        Raises :class:`ConfigError` for a request that insists on another token, and for what is no time.
        """
        if not isinstance(request, CachedTokenRequest):
            raise mistaken_request(request)
        if request.force or request.rejected is not None:
            raise ConfigError("request is served at each access: give one that insists on nothing")
        context = TokenLeaseContext(
            request.tenant,
            request.principal,
            self._broker.descriptor.id,
            request.scope,
            self._clock(),
            request.minimum_ttl if minimum_ttl is None else minimum_ttl,
            request.resource,
        )
        self._wish(context)
        return context

    def state(self, context: TokenLeaseContext) -> TokenLeaseState:
        """Say whether the stored token lasts long enough, or one is being obtained in this process.

        Judged at the context's time, or now if that is later. Calls nobody and does not wait. A granted
        token may still be renewed ahead when it is lent. Raises :class:`StoreError`.
        """
        wish = self._wish(context)
        key = self._broker.key_for(wish.request, self._grant)
        record = self._broker._tools.keeper.fetch(key)
        now = max(context.now, self._clock())
        if record is not None and wish.is_met(record, now) and wish.is_served(record, now):
            return TokenLeaseState.GRANTED
        if self._broker.is_renewing(wish.request, self._grant):
            return TokenLeaseState.PENDING
        return TokenLeaseState.NEEDS_REFRESH

    @contextmanager
    def lend(self, context: TokenLeaseContext) -> Iterator[LentToken]:
        """Lend a token for the ``with`` block, obtained before it begins.

        Raises :class:`ConfigError` for a context of another provider and when the provider's tokens never
        last for ``minimum_ttl``, and what :meth:`Broker.refresh_access_token` raises.
        """
        lent = LentToken(self._obtain, self._wish(context))
        try:
            yield lent
        finally:
            lent._end()

    def _wish(self, context: TokenLeaseContext) -> _Wish:
        """Make a wish of a context: renewed ahead by a minute more than the token must last."""
        if not isinstance(context, TokenLeaseContext):
            raise ConfigError(f"context is a TokenLeaseContext, not {type(context).__name__}")
        if context.now.utcoffset() is None:
            raise ConfigError("the context's now is an aware datetime")
        if context.provider != self._broker.descriptor.id:
            raise ConfigError(
                f"the context is one of {context.provider}, not of {self._broker.descriptor.id}"
            )
        if not isinstance(context.minimum_ttl, timedelta) or not _NOTHING <= context.minimum_ttl <= LONGEST:
            raise ConfigError(f"minimum_ttl is a timedelta from 0 to {LONGEST.days} days")
        request = CachedTokenRequest(
            context.tenant,
            context.principal,
            context.scope,
            resource=context.resource,
            preemptive_window=context.minimum_ttl + PREEMPTIVE_WINDOW,
            minimum_ttl=max(context.minimum_ttl, MINIMUM_TTL),
        )
        return _Wish(request, context.minimum_ttl)

    def _obtain(self, wish: _Wish) -> TokenRecord:
        began = self._clock()
        record = self._serve(wish.request)
        for _ in range(_RENEWALS_PER_ACCESS):
            if wish.is_met(record, self._clock()):
                return record
            self._learn(record, began)
            self._require_possible(wish)
            record = self._renew(wish.request, record)
            self._learn(record, began)
        if wish.is_met(record, self._clock()):
            return record
        self._require_possible(wish)
        raise TransientError("the renewal took too long for the token to last")

    def _learn(self, record: TokenRecord, since: datetime) -> None:
        """Note how long the provider's tokens last, by one that it has issued since then."""
        if record.expires_at is not None and record.issued_at >= since:
            self._learned = time.monotonic(), record.expires_at - record.issued_at

    def _require_possible(self, wish: _Wish) -> None:
        """Raise :class:`ConfigError` for a wish that the provider did not fulfil a moment ago."""
        learned = self._learned
        if learned is not None and time.monotonic() - learned[0] < _LEARNED_SECONDS:
            wish.require_possible(learned[1])

    def _renew(self, request: CachedTokenRequest, seen: TokenRecord) -> TokenRecord:
        """Renew what still works. A token that came since ``seen`` was served is adopted, not replaced."""
        kind = FlowKind.CLIENT_CREDENTIALS if self._flow is self._broker._own_tokens else FlowKind.REFRESH
        key = self._broker.key_for(request, self._grant)
        with self._broker._span(kind, "lend", request.tenant) as span:
            return span.serve(partial(self._flow.renew_first, request.force_refresh(), key, seen))
