"""The broker: what programs call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

from oauth2broker.answers import usable_secret
from oauth2broker.errors import ConfigError
from oauth2broker.ext.rate_limit import RateLimitPolicy
from oauth2broker.flows.authorization import AuthorizationFlow
from oauth2broker.flows.bounds import Bounds
from oauth2broker.flows.callback import parse_callback
from oauth2broker.flows.client_credentials import ClientCredentialsFlow
from oauth2broker.flows.keeper import Keeper
from oauth2broker.flows.refresh import RefreshFlow
from oauth2broker.flows.request import CachedTokenRequest
from oauth2broker.flows.revocation import RevocationFlow
from oauth2broker.flows.session import SESSION_LIFETIME, AuthorizationSession
from oauth2broker.flows.singleflight import Flights
from oauth2broker.flows.token_endpoint import TokenEndpoint, Transport
from oauth2broker.flows.tools import Tools
from oauth2broker.forking import forget_in_children
from oauth2broker.grants import GrantType
from oauth2broker.ids import TenantId
from oauth2broker.oauth import Client
from oauth2broker.obs import FlowKind, FlowSpan, Observer, RefreshMetrics
from oauth2broker.provider.descriptor import ClientAuthMethod, ProviderDescriptor
from oauth2broker.provider.strategy import DefaultProviderStrategy, ProviderStrategy
from oauth2broker.records import StoreKey, TokenFamily, TokenRecord, checked_grant, checked_text
from oauth2broker.secret import TokenSecret, wrap_secret
from oauth2broker.stores.base import BrokerStore
from oauth2broker.stores.file import FileStore
from oauth2broker.stores.guarded import GuardedStore
from oauth2broker.stores.memory import MemoryStore
from oauth2broker.transports.base import TokenHttpClient, TransportErrorMapper

_KEYS_KEPT = 4096
_KEEP_THE_CONTRACT = (MemoryStore, FileStore)


def utc_now() -> datetime:
    """Give the wall clock's time as an aware UTC datetime."""
    return datetime.now(UTC)


class Broker:
    """Obtains, caches, renews and revokes tokens of one client at one provider.

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
        client_secret: str | TokenSecret | None = None,
        *,
        store: BrokerStore | None = None,
        strategy: ProviderStrategy | None = None,
        http_client: TokenHttpClient | None = None,
        error_mapper: TransportErrorMapper | None = None,
        rate_limit: RateLimitPolicy | None = None,
        observers: Iterable[Observer] = (),
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        secret = wrap_secret(client_secret)
        del client_secret  # from here on nothing plain is in this frame
        if isinstance(secret, ConfigError):
            raise secret
        client = _checked_client(descriptor, client_id, secret)
        if clock().utcoffset() is None:
            raise ConfigError("clock gives aware datetimes")
        self._store = MemoryStore() if store is None else store
        self._descriptor = descriptor
        self._observers = tuple(observers)
        self._transport = _LazyTransport(http_client, error_mapper)
        self._metrics = RefreshMetrics()
        self._key = lru_cache(maxsize=_KEYS_KEPT)(self._build_key)
        self._client_id = client.client_id
        strategy = DefaultProviderStrategy() if strategy is None else strategy
        bounds = Bounds()
        endpoint = TokenEndpoint(descriptor, strategy, client, self._transport.get, rate_limit)
        guarded = self._store if type(self._store) in _KEEP_THE_CONTRACT else GuardedStore(self._store)
        self._keeper = Keeper(guarded, bounds)
        self._flights = Flights(bounds.join)
        tools = Tools(guarded, self._keeper, endpoint, self._flights, self._metrics, clock, bounds)
        self._authorization = AuthorizationFlow(tools)
        self._refresh = RefreshFlow(tools)
        self._client_credentials = ClientCredentialsFlow(tools)
        self._revocation = RevocationFlow(tools)
        self._serves_users = bool(descriptor.grants & {GrantType.AUTHORIZATION_CODE, GrantType.REFRESH_TOKEN})
        self._serves_itself = GrantType.CLIENT_CREDENTIALS in descriptor.grants

    @property
    def store(self) -> BrokerStore:
        """Where the records are."""
        return self._store

    @property
    def descriptor(self) -> ProviderDescriptor:
        """The provider."""
        return self._descriptor

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
            return self._authorization.start(
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
        found = parse_callback(callback)
        del callback  # it holds the code; from here on nothing plain is in this frame
        with self._span(FlowKind.AUTHORIZATION_CODE, "complete_authorization", session.tenant):
            return self._authorization.complete(session, found)

    def exchange_code(self, session: AuthorizationSession, code: str) -> TokenRecord:
        """Exchange a code (RFC 6749 section 4.1.3) whose callback the caller has checked; store the token.

        Replaces a tombstone. A stored refresh token is kept when none comes, unless the id tokens show
        another user. Raises :class:`InvalidGrantError` when the provider refuses the code,
        :class:`TransientError` or :class:`TransportError` when there is no answer (one that is not
        ``retryable`` means that the code may be spent: start again), :class:`StoreError`.
        """
        secret = usable_secret(code)
        del code  # from here on nothing plain is in this frame
        with self._span(FlowKind.AUTHORIZATION_CODE, "exchange_code", session.tenant):
            return self._authorization.exchange(session, secret)

    def refresh_access_token(self, request: CachedTokenRequest) -> TokenRecord:
        """Give a user's token that works: from the store, or renewed (RFC 6749 section 6) exactly once.

        Raises :class:`AuthorizationRequiredError`, :class:`InvalidGrantError` or :class:`RevokedError` when
        the user must authorize again, :class:`TransientError` or :class:`TransportError` when the provider
        cannot be asked now, :class:`InvalidClientError`, :class:`StoreError`.
        """
        if not self._serves_users:
            raise ConfigError(f"provider {self._descriptor.id} supports no grant of users")
        key = self.key_for(request)
        if not self._observers:
            return self._refresh.serve(request, key)
        with self._span(FlowKind.REFRESH, "refresh_access_token", request.tenant):
            return self._refresh.serve(request, key)

    def client_credentials(self, request: CachedTokenRequest) -> TokenRecord:
        """Give a token of the client itself that works: from the store, or obtained (RFC 6749 section 4.4).

        Raises :class:`TransientError` or :class:`TransportError` when the provider cannot be asked now,
        :class:`InvalidClientError`, :class:`InsufficientScopeError`, :class:`StoreError`.
        """
        if not self._serves_itself:
            self._descriptor.require_grant(GrantType.CLIENT_CREDENTIALS)
        key = self.key_for(request, GrantType.CLIENT_CREDENTIALS)
        if not self._observers:
            return self._client_credentials.serve(request, key)
        with self._span(FlowKind.CLIENT_CREDENTIALS, "client_credentials", request.tenant):
            return self._client_credentials.serve(request, key)

    def revoke(
        self, request: CachedTokenRequest, grant: str = GrantType.AUTHORIZATION_CODE
    ) -> TokenRecord | None:
        """End a grant at the provider (RFC 7009, where it has an endpoint) and in the store.

        Gives the tombstone; None when nothing was stored, and for a service token (``grant``
        client_credentials), which is deleted. When it raises, the store is as it was: call again, or use
        ``store.revoke``. Raises :class:`TransientError`, :class:`TransportError`,
        :class:`InvalidClientError`, :class:`StoreError`.
        """
        return self._revocation.revoke(self.key_for(request, grant))

    def key_for(self, request: CachedTokenRequest, grant: str = GrantType.AUTHORIZATION_CODE) -> StoreKey:
        """Give the key under which the answer to ``request`` is stored."""
        return self._key(request.tenant, request.principal, request.scope, request.resource, grant)

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

    def _build_key(
        self, tenant: str, principal: str, scope: Any, resource: str | None, grant: str
    ) -> StoreKey:
        family = TokenFamily(tenant, principal, self._descriptor.id, self._client_id)
        if grant == GrantType.REFRESH_TOKEN:
            raise ConfigError("a token is kept under the grant that it was obtained by")
        return StoreKey(family, scope.fingerprint, resource, checked_grant(grant))

    def _span(self, flow: FlowKind, stage: str, tenant: str) -> AbstractContextManager[object]:
        if not self._observers:
            return nullcontext()
        return FlowSpan(
            flow, stage, observers=self._observers, provider=self._descriptor.id, tenant=TenantId(tenant)
        )


class _LazyTransport:
    """The caller's transport and mapper, or those on requests, made when first needed.

    A start that finds its token in the store never loads requests.
    """

    def __init__(self, client: TokenHttpClient | None, mapper: TransportErrorMapper | None) -> None:
        self._client = client
        self._mapper = mapper
        self._lock = threading.Lock()
        self._made: Transport | None = None
        forget_in_children(self)

    def get(self) -> Transport:
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    def close(self) -> None:
        with self._lock:
            made, self._made = self._made, None
        if made is not None and self._client is None:
            made.client.close()  # type: ignore[attr-defined]

    def forget_after_fork(self) -> None:
        """The connections are the parent's."""
        self._lock = threading.Lock()
        if self._client is None:
            self._made = None

    def _make(self) -> Transport:
        client, mapper = self._client, self._mapper
        if client is None or mapper is None:
            from oauth2broker.transports import requests as default

            client = default.RequestsHttpClient() if client is None else client
            mapper = default.RequestsTransportErrorMapper() if mapper is None else mapper
        return Transport(client, mapper)


def _checked_client(descriptor: ProviderDescriptor, client_id: str, secret: TokenSecret | None) -> Client:
    method = descriptor.client_auth
    if method is None:
        method = ClientAuthMethod.NONE if secret is None else ClientAuthMethod.CLIENT_SECRET_BASIC
    if method is ClientAuthMethod.NONE and secret is not None:
        raise ConfigError("the descriptor says that this client does not authenticate: no client_secret")
    if method is not ClientAuthMethod.NONE and (secret is None or not usable_secret(secret.expose())):
        raise ConfigError(f"{method} needs a client_secret")
    return Client(checked_text("client_id", client_id), secret, method)
