"""The broker: what programs call.

What is needed only to call the provider is imported where it is called: most starts find their tokens in the
store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from oauth2broker.client import Client
from oauth2broker.client_auth.base import ClientAuthentication
from oauth2broker.client_auth.certificate import TlsClientAuth
from oauth2broker.client_auth.sources import SecretLike, secret_source
from oauth2broker.errors import ConfigError
from oauth2broker.flows.bounds import SESSION_LIFETIME, Bounds
from oauth2broker.flows.cached import CachedTokenFlow, Renewer
from oauth2broker.flows.keeper import Keeper
from oauth2broker.flows.request import CachedTokenRequest, mistaken_request
from oauth2broker.flows.singleflight import Flights
from oauth2broker.flows.telemetry import BrokerSpan, Telemetry
from oauth2broker.flows.tools import Tools
from oauth2broker.flows.transport import LazyTransport
from oauth2broker.grants import GrantType
from oauth2broker.obs import FlowKind, Observer, RefreshMetrics
from oauth2broker.provider.descriptor import ProviderDescriptor
from oauth2broker.records import EPOCH, StoreKey, TokenFamily, TokenRecord, checked_grant
from oauth2broker.secret import usable_secret
from oauth2broker.stores.base import BrokerStore
from oauth2broker.stores.guarded import guarded
from oauth2broker.stores.memory import MemoryStore

if TYPE_CHECKING:
    from oauth2broker.ext.rate_limit import RateLimitPolicy
    from oauth2broker.flows.authorization import AuthorizationFlow
    from oauth2broker.flows.session import AuthorizationSession
    from oauth2broker.flows.token_endpoint import TokenEndpoint
    from oauth2broker.flows.upkeep import PruneReport, RenewalProgress, RenewalReport, Upkeep
    from oauth2broker.provider.strategy import ProviderStrategy
    from oauth2broker.transports.base import TokenHttpClient, TransportErrorMapper


def utc_now() -> datetime:
    """Give the wall clock's time as an aware UTC datetime."""
    return datetime.now(UTC)


def _posix_now() -> float:
    return time.time()  # looked up each time: tests replace it


def _require_parts(descriptor: object, store: object, http_client: object, rate_limit: object) -> None:
    """Raise :class:`ConfigError` for what else would look like an outage at the first call."""
    if not isinstance(descriptor, ProviderDescriptor):
        raise ConfigError(f"descriptor is a ProviderDescriptor, not {type(descriptor).__name__}")
    if store is not None and not isinstance(store, BrokerStore):
        raise ConfigError(f"store is a BrokerStore, such as FileStore(path), not {type(store).__name__}")
    for name, part, method in (("http_client", http_client, "send"), ("rate_limit", rate_limit, "evaluate")):
        if part is not None and (isinstance(part, type) or not callable(getattr(part, method, None))):
            raise ConfigError(f"{name} has a method {method}: {type(part).__name__} has none")


def _require_clock(clock: object) -> None:
    now = clock() if callable(clock) else None
    if not isinstance(now, datetime) or now.utcoffset() is None:
        raise ConfigError("clock is a function that gives aware datetimes")


class Broker:
    """Obtains, caches, renews and revokes tokens of one client at one provider.

    ``client_secret`` is text, the path of a file (``pathlib.Path``) or a callable that gives it; file and
    callable are asked at each call to the provider, so that a secret can change while the program runs.
    ``client_auth`` is another way to authenticate, instead of a secret. ``strategy`` None is the
    descriptor's.
    Safe to share between threads; several brokers, in any processes, may share a store. ``store`` None is a
    :class:`MemoryStore` of its own. ``http_client`` None is a :class:`RequestsHttpClient`, made when first
    needed. ``clock`` gives aware UTC datetimes. Every method raises :class:`BrokerError` and nothing else
    for whatever a provider, a network or a store does; mistakes in arguments are :class:`ConfigError`.
    A context manager: leaving it closes what the broker made itself.
    """

    def __init__(
        self,
        descriptor: ProviderDescriptor,
        client_id: str,
        client_secret: SecretLike | None = None,
        *,
        client_auth: ClientAuthentication | None = None,
        store: BrokerStore | None = None,
        strategy: ProviderStrategy | None = None,
        http_client: TokenHttpClient | None = None,
        error_mapper: TransportErrorMapper | None = None,
        rate_limit: RateLimitPolicy | None = None,
        observers: Iterable[Observer] = (),
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        secret = None if client_secret is None else secret_source(client_secret)
        del client_secret  # from here on nothing plain is in this frame
        if isinstance(secret, ConfigError):
            raise secret
        _require_parts(descriptor, store, http_client, rate_limit)
        client = Client.checked(descriptor, client_id, secret, client_auth)
        _require_clock(clock)
        self._store = MemoryStore() if store is None else store
        self._descriptor = descriptor
        self._client = client
        self._strategy = strategy
        self._rate_limit = rate_limit
        cert = client_auth.cert if isinstance(client_auth, TlsClientAuth) else None
        if cert is not None and getattr(http_client, "presents_certificate", True) is False:
            raise ConfigError(
                "client_auth is a certificate that http_client must present: give it as its cert"
            )
        self._transport = LazyTransport(http_client, error_mapper, cert)
        self._metrics = RefreshMetrics()
        seconds = _posix_now if clock is utc_now else lambda: (clock() - EPOCH).total_seconds()
        self._telemetry = Telemetry(observers, descriptor.id, seconds)
        self._is_observed = bool(self._telemetry.observers)
        bounds = Bounds()
        held_to_contract = guarded(self._store)
        self._keeper = Keeper(held_to_contract, bounds, self._telemetry)
        self._flights = Flights(bounds.join, self._telemetry)
        self._tools = Tools(
            store=held_to_contract,
            keeper=self._keeper,
            flights=self._flights,
            metrics=self._metrics,
            telemetry=self._telemetry,
            clock=clock,
            seconds=seconds,
            bounds=bounds,
            make_endpoint=self._make_endpoint,
        )
        self._users_tokens = CachedTokenFlow(self._tools, self._users_key, self._users_renewer)
        self._own_tokens = CachedTokenFlow(self._tools, self._own_key, self._own_renewer)

    @property
    def store(self) -> BrokerStore:
        """Where the records are."""
        return self._store

    @property
    def descriptor(self) -> ProviderDescriptor:
        """The provider."""
        return self._descriptor

    @property
    def strategy(self) -> ProviderStrategy | None:
        """What data cannot say of the provider: the broker's own strategy, else the descriptor's."""
        return self._strategy or self._descriptor.strategy

    @property
    def clock(self) -> Callable[[], datetime]:
        """What tells the time: a function that gives aware UTC datetimes."""
        return self._tools.clock

    @property
    def refresh_metrics(self) -> RefreshMetrics:
        """How many token calls were made to renew users' tokens."""
        return self._metrics

    @property
    def unsaved(self) -> dict[StoreKey, TokenRecord]:
        """The records that the provider issued and the store has not taken yet, by key; normally none.

        They are served, and written as soon as the store takes them; until then they exist only here.
        """
        return {kept.record.key: kept.record for kept in list(self._keeper.unsaved.values())}

    def start_authorization(
        self,
        tenant: str,
        principal: str,
        scope: str | Iterable[str],
        redirect_uri: str,
        *,
        resource: str | None = None,
        extra_params: Mapping[str, str] | None = None,
        lifetime: timedelta = SESSION_LIFETIME,
    ) -> AuthorizationSession:
        """Begin an authorization (RFC 6749 section 4.1.1) with fresh state and PKCE (RFC 7636, S256).

        ``resource`` is an RFC 8707 resource indicator. ``extra_params`` join the URL; they may not override
        a parameter that we set. The session serves for ``lifetime``. Raises :class:`ConfigError`.
        """
        with self._span(FlowKind.AUTHORIZATION_CODE, "start_authorization", tenant):
            return self._authorization().start(
                tenant,
                principal,
                scope,
                redirect_uri,
                resource=resource,
                extra_params=extra_params,
                lifetime=lifetime,
            )

    def complete_authorization(
        self, session: AuthorizationSession, callback: str | Mapping[str, Any]
    ) -> TokenRecord:
        """Check the callback (``state``, ``iss``, ``error``), exchange its code and store the token.

        ``callback`` is the URL that the user came back to, its query string, or a mapping of its parameters
        (``form_post``). Raises :class:`StateMismatchError`, :class:`AuthorizationError` (``access_denied``
        ...), and what :meth:`exchange_code` raises.
        """
        from oauth2broker.flows import late

        found = late.parse_callback(callback)
        del callback  # it holds the code; from here on nothing plain is in this frame
        mistaken = late.mistaken_session(session)
        if mistaken is not None:
            del session  # its JSON holds the code verifier
            raise mistaken
        with self._span(FlowKind.AUTHORIZATION_CODE, "complete_authorization", session.tenant) as span:
            return span.served(self._authorization().complete(session, found))

    def exchange_code(self, session: AuthorizationSession, code: str) -> TokenRecord:
        """Exchange a code (RFC 6749 section 4.1.3) whose callback the caller has checked; store the token.

        Replaces a tombstone. A stored refresh token is kept when none comes, unless the id tokens show
        another user. Raises :class:`InvalidGrantError` when the provider refuses the code,
        :class:`TransientError` or :class:`TransportError` when there is no answer (one that is not
        ``retryable`` means that the code may be spent: start again), :class:`StoreError`.
        """
        from oauth2broker.flows import late

        secret = usable_secret(code)
        del code  # from here on nothing plain is in this frame
        mistaken = late.mistaken_session(session)
        if mistaken is not None:
            del session  # its JSON holds the code verifier
            raise mistaken
        with self._span(FlowKind.AUTHORIZATION_CODE, "exchange_code", session.tenant) as span:
            return span.served(self._authorization().exchange(session, secret))

    def refresh_access_token(self, request: CachedTokenRequest) -> TokenRecord:
        """Give a user's token that works: from the store, or renewed (RFC 6749 section 6) exactly once.

        Raises :class:`AuthorizationRequiredError`, :class:`InvalidGrantError` or :class:`RevokedError` when
        the user must authorize again, :class:`TransientError` or :class:`TransportError` when the provider
        cannot be asked now, :class:`InvalidClientError`, :class:`StoreError`.
        """
        if not self._is_observed:
            return self._users_tokens.serve(request)
        if not isinstance(request, CachedTokenRequest):
            raise mistaken_request(request)
        with self._span(FlowKind.REFRESH, "refresh_access_token", request.tenant) as span:
            return span.serve(partial(self._users_tokens.serve, request))

    def client_credentials(self, request: CachedTokenRequest) -> TokenRecord:
        """Give a token of the client itself that works: from the store, or obtained (RFC 6749 section 4.4).

        Raises :class:`TransientError` or :class:`TransportError` when the provider cannot be asked now,
        :class:`InvalidClientError`, :class:`InsufficientScopeError`, :class:`StoreError`.
        """
        if not self._is_observed:
            return self._own_tokens.serve(request)
        if not isinstance(request, CachedTokenRequest):
            raise mistaken_request(request)
        with self._span(FlowKind.CLIENT_CREDENTIALS, "client_credentials", request.tenant) as span:
            return span.serve(partial(self._own_tokens.serve, request))

    def revoke(
        self, request: CachedTokenRequest, grant: str = GrantType.AUTHORIZATION_CODE
    ) -> TokenRecord | None:
        """End a grant at the provider (RFC 7009, where it has an endpoint) and in the store.

        Gives the tombstone; None when nothing was stored, and for a service token (``grant``
        client_credentials), which is deleted. When it raises, the store is as it was: call again, or use
        ``store.revoke``. Raises :class:`TransientError`, :class:`TransportError`,
        :class:`InvalidClientError`, :class:`StoreError`.
        """
        from oauth2broker.flows import late

        key = self.key_for(request, grant)
        own = key.grant is GrantType.CLIENT_CREDENTIALS
        with self._span(
            FlowKind.CLIENT_CREDENTIALS if own else FlowKind.AUTHORIZATION_CODE, "revoke", request.tenant
        ):
            return late.RevocationFlow(self._tools).revoke(key)

    def renew_due(
        self,
        *,
        within: timedelta,
        parallelism: int = 4,
        jitter: timedelta = timedelta(milliseconds=100),
        patience: timedelta = timedelta(minutes=5),
        progress: Callable[[RenewalProgress], object] | None = None,
    ) -> RenewalReport:
        """Walk the store and renew this client's users' tokens that would not last for ``within``.

        Due is an access token that expires by then, and a refresh token that would lapse unused (or for good:
        then it is used once more), but neither in the first quarter of its life: so every token is renewed
        once, also when several hosts do this at the same time. ``parallelism`` (1 to 16) threads renew, each
        waiting up to ``jitter``, at random, before a call. A rate limit policy is asked as for any call; what
        it delays is tried again when it says so, until ``patience`` has passed since the start, and then left
        for the next run (:class:`DelayedError`). ``progress`` is called on the calling thread, as tokens are
        done with; what it raises is logged.

        What goes wrong with one token is in the report and keeps no other from being renewed. Raises
        :class:`ConfigError`, and :class:`StoreError` when the store cannot be listed.
        """
        return self._upkeep().renew_due(within, parallelism, jitter, patience, progress)

    def prune(self, *, older_than: timedelta = timedelta(days=30), dry_run: bool = True) -> PruneReport:
        """Remove this client's records that have been dead for ``older_than``; ``dry_run``: only name them.

        Dead is a tombstone, and an expired token with nothing (more) to renew it with. A refresh token whose
        lifetime the provider did not state is never taken for dead. Safe beside anything else that uses the
        store: a record that somebody is working on stays. Raises :class:`ConfigError`, and
        :class:`StoreError` when the store cannot be listed.
        """
        return self._upkeep().prune(older_than, dry_run=dry_run)

    def key_for(self, request: CachedTokenRequest, grant: str = GrantType.AUTHORIZATION_CODE) -> StoreKey:
        """Give the key under which the answer to ``request`` is stored."""
        if not isinstance(request, CachedTokenRequest):
            raise mistaken_request(request)
        family = TokenFamily(request.tenant, request.principal, self._descriptor.id, self._client.client_id)
        if grant == GrantType.REFRESH_TOKEN:
            raise ConfigError("a token is kept under the grant that it was obtained by")
        return StoreKey(family, request.scope.fingerprint, request.resource, checked_grant(grant))

    def is_renewing(self, request: CachedTokenRequest, grant: str = GrantType.AUTHORIZATION_CODE) -> bool:
        """Whether a thread of this process is at the provider for the token of ``request`` at this moment."""
        return self._flights.is_under_way(self.key_for(request, grant))

    def close(self) -> None:
        """Try a last time to write what is `unsaved`, then close what the broker made itself. Idempotent."""
        self._keeper.close()
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _users_key(self, request: CachedTokenRequest) -> StoreKey:
        if not self._descriptor.grants & {GrantType.AUTHORIZATION_CODE, GrantType.REFRESH_TOKEN}:
            raise ConfigError(f"provider {self._descriptor.id} supports no grant of users")
        return self.key_for(request)

    def _own_key(self, request: CachedTokenRequest) -> StoreKey:
        self._descriptor.require_grant(GrantType.CLIENT_CREDENTIALS)
        return self.key_for(request, GrantType.CLIENT_CREDENTIALS)

    def _users_renewer(self) -> Renewer:
        from oauth2broker.flows import late

        return late.RefreshFlow(self._tools)

    def _own_renewer(self) -> Renewer:
        from oauth2broker.flows import late

        return late.ClientCredentialsFlow(self._tools)

    def _authorization(self) -> AuthorizationFlow:
        from oauth2broker.flows import late

        return late.AuthorizationFlow(self._tools)

    def _upkeep(self) -> Upkeep:
        from oauth2broker.flows import late

        return late.Upkeep(self._tools, self._users_tokens, self._client.client_id)

    def _make_endpoint(self) -> TokenEndpoint:
        from oauth2broker.flows import late

        strategy = self.strategy or late.DefaultProviderStrategy()
        client, transport = self._client, self._transport.get
        return late.TokenEndpoint(
            self._descriptor,
            strategy,
            client,
            transport,
            self._rate_limit,
            self._tools.clock,
            self._telemetry,
        )

    def _span(self, flow: FlowKind, stage: str, tenant: str) -> BrokerSpan:
        return self._telemetry.span(flow, stage, tenant)
