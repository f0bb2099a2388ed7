"""A synchronous, thread-safe OAuth 2.0 token broker.

What programs need is importable from here (presets: from ``oauth2broker.provider``), and loaded when it is
first asked for: importing the package costs next to nothing, and a start that finds its token in the store
loads neither requests nor oauthlib.
"""

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:  # read by type checkers, and by what packs programs into one file
    from oauth2broker.client_auth.assertions import (
        ClientSecretJwt as ClientSecretJwt,
        PrivateKeyJwt as PrivateKeyJwt,
    )
    from oauth2broker.client_auth.base import (
        ClientAuthentication as ClientAuthentication,
        ClientIdentity as ClientIdentity,
    )
    from oauth2broker.client_auth.certificate import (
        TlsClientAuth as TlsClientAuth,
    )
    from oauth2broker.client_auth.secrets import (
        ClientSecretBasic as ClientSecretBasic,
        ClientSecretPost as ClientSecretPost,
        NoAuthentication as NoAuthentication,
    )
    from oauth2broker.errors import (
        AuthorizationError as AuthorizationError,
        AuthorizationRequiredError as AuthorizationRequiredError,
        BackendError as BackendError,
        BrokerError as BrokerError,
        ConfigError as ConfigError,
        DelayedError as DelayedError,
        InsufficientScopeError as InsufficientScopeError,
        InvalidClientError as InvalidClientError,
        InvalidGrantError as InvalidGrantError,
        RevokedError as RevokedError,
        SerializationError as SerializationError,
        StateMismatchError as StateMismatchError,
        StoreError as StoreError,
        TransientError as TransientError,
        TransportError as TransportError,
    )
    from oauth2broker.ext.cool_down import (
        CoolDown as CoolDown,
    )
    from oauth2broker.ext.folder_bucket import (
        FolderTokenBucket as FolderTokenBucket,
    )
    from oauth2broker.ext.lease import (
        TokenLease as TokenLease,
        TokenLeaseContext as TokenLeaseContext,
        TokenLeaseState as TokenLeaseState,
    )
    from oauth2broker.ext.rate_limit import (
        Allow as Allow,
        Delay as Delay,
        RateLimitContext as RateLimitContext,
        RateLimitDecision as RateLimitDecision,
        RateLimitPolicy as RateLimitPolicy,
        RetryDirective as RetryDirective,
    )
    from oauth2broker.ext.signer import (
        HeaderSigner as HeaderSigner,
        RequestSigner as RequestSigner,
    )
    from oauth2broker.ext.token_bucket import (
        TokenBucket as TokenBucket,
    )
    from oauth2broker.flows.broker import (
        Broker as Broker,
    )
    from oauth2broker.flows.lending import (
        LentToken as LentToken,
        TokenLender as TokenLender,
    )
    from oauth2broker.flows.request import (
        CachedTokenRequest as CachedTokenRequest,
    )
    from oauth2broker.flows.session import (
        AuthorizationSession as AuthorizationSession,
    )
    from oauth2broker.flows.upkeep import (
        PruneReport as PruneReport,
        RenewalProgress as RenewalProgress,
        RenewalReport as RenewalReport,
    )
    from oauth2broker.grants import (
        GrantType as GrantType,
    )
    from oauth2broker.ids import (
        PrincipalId as PrincipalId,
        ProviderId as ProviderId,
        TenantId as TenantId,
    )
    from oauth2broker.integrations.requests import (
        BrokerAuth as BrokerAuth,
    )
    from oauth2broker.integrations.requests_oauthlib import (
        BrokerSession as BrokerSession,
    )
    from oauth2broker.obs import (
        FlightWait as FlightWait,
        FlowEvent as FlowEvent,
        FlowKind as FlowKind,
        FlowOutcome as FlowOutcome,
        FlowSpan as FlowSpan,
        FlowStep as FlowStep,
        LeaseWait as LeaseWait,
        Level as Level,
        LevelObserver as LevelObserver,
        Observer as Observer,
        ProviderCall as ProviderCall,
        RefreshMetrics as RefreshMetrics,
        RefreshResult as RefreshResult,
        record_flow_outcome as record_flow_outcome,
    )
    from oauth2broker.observers.logging import (
        LoggingObserver as LoggingObserver,
    )
    from oauth2broker.observers.opentelemetry import (
        OpenTelemetryObserver as OpenTelemetryObserver,
    )
    from oauth2broker.observers.prometheus import (
        PrometheusObserver as PrometheusObserver,
    )
    from oauth2broker.provider.descriptor import (
        ProviderDescriptor as ProviderDescriptor,
    )
    from oauth2broker.provider.kinds import (
        BodyFormat as BodyFormat,
        ClientAuthMethod as ClientAuthMethod,
        Endpoint as Endpoint,
        PkceSupport as PkceSupport,
        RotationPolicy as RotationPolicy,
    )
    from oauth2broker.provider.quirks import (
        ExpiryRule as ExpiryRule,
        ProviderQuirks as ProviderQuirks,
        TimeUnit as TimeUnit,
    )
    from oauth2broker.provider.strategy import (
        CallbackContext as CallbackContext,
        DefaultProviderStrategy as DefaultProviderStrategy,
        ProviderErrorContext as ProviderErrorContext,
        ProviderErrorKind as ProviderErrorKind,
        ProviderStrategy as ProviderStrategy,
        RequestDraft as RequestDraft,
    )
    from oauth2broker.provider.template import (
        ProviderTemplate as ProviderTemplate,
        VariableKind as VariableKind,
    )
    from oauth2broker.records import (
        StoreKey as StoreKey,
        TokenFamily as TokenFamily,
        TokenRecord as TokenRecord,
        TokenStatus as TokenStatus,
    )
    from oauth2broker.scopes import (
        ScopeSet as ScopeSet,
    )
    from oauth2broker.secret import (
        TokenSecret as TokenSecret,
    )
    from oauth2broker.stores.aes_gcm import (
        AesGcmCipher as AesGcmCipher,
    )
    from oauth2broker.stores.base import (
        ANY as ANY,
        BrokerStore as BrokerStore,
        CompareAndSwapOutcome as CompareAndSwapOutcome,
    )
    from oauth2broker.stores.file import (
        FileStore as FileStore,
    )
    from oauth2broker.stores.memory import (
        MemoryStore as MemoryStore,
    )
    from oauth2broker.stores.redis import (
        RedisStore as RedisStore,
    )
    from oauth2broker.stores.sealing import (
        RecordCipher as RecordCipher,
        RewrapReport as RewrapReport,
    )
    from oauth2broker.stores.sqlalchemy import (
        SQLAlchemyStore as SQLAlchemyStore,
    )
    from oauth2broker.stores.tiered import (
        TieredStore as TieredStore,
    )
    from oauth2broker.transports.base import (
        HttpRequest as HttpRequest,
        HttpResponse as HttpResponse,
        ResponseMetadata as ResponseMetadata,
        ResponseMetadataSlot as ResponseMetadataSlot,
        TokenHttpClient as TokenHttpClient,
        TransportErrorMapper as TransportErrorMapper,
        is_public_address as is_public_address,
    )
    from oauth2broker.transports.requests import (
        RequestsHttpClient as RequestsHttpClient,
        RequestsTransportErrorMapper as RequestsTransportErrorMapper,
    )

_PUBLIC = {
    "client_auth.assertions": "ClientSecretJwt PrivateKeyJwt",
    "client_auth.base": "ClientAuthentication ClientIdentity",
    "client_auth.certificate": "TlsClientAuth",
    "client_auth.secrets": "ClientSecretBasic ClientSecretPost NoAuthentication",
    "errors": (
        "AuthorizationError AuthorizationRequiredError BackendError BrokerError ConfigError DelayedError "
        "InsufficientScopeError InvalidClientError InvalidGrantError RevokedError SerializationError "
        "StateMismatchError StoreError TransientError TransportError"
    ),
    "ext.cool_down": "CoolDown",
    "ext.folder_bucket": "FolderTokenBucket",
    "ext.lease": "TokenLease TokenLeaseContext TokenLeaseState",
    "ext.rate_limit": "Allow Delay RateLimitContext RateLimitDecision RateLimitPolicy RetryDirective",
    "ext.signer": "HeaderSigner RequestSigner",
    "ext.token_bucket": "TokenBucket",
    "flows.broker": "Broker",
    "flows.lending": "LentToken TokenLender",
    "flows.request": "CachedTokenRequest",
    "flows.session": "AuthorizationSession",
    "flows.upkeep": "PruneReport RenewalProgress RenewalReport",
    "grants": "GrantType",
    "ids": "PrincipalId ProviderId TenantId",
    "integrations.requests": "BrokerAuth",
    "integrations.requests_oauthlib": "BrokerSession",
    "obs": (
        "FlightWait FlowEvent FlowKind FlowOutcome FlowSpan FlowStep LeaseWait Level LevelObserver Observer "
        "ProviderCall RefreshMetrics RefreshResult record_flow_outcome"
    ),
    "observers.logging": "LoggingObserver",
    "observers.opentelemetry": "OpenTelemetryObserver",
    "observers.prometheus": "PrometheusObserver",
    "provider.descriptor": "ProviderDescriptor",
    "provider.kinds": "BodyFormat ClientAuthMethod Endpoint PkceSupport RotationPolicy",
    "provider.quirks": "ExpiryRule ProviderQuirks TimeUnit",
    "provider.strategy": (
        "CallbackContext DefaultProviderStrategy ProviderErrorContext ProviderErrorKind ProviderStrategy "
        "RequestDraft"
    ),
    "provider.template": "ProviderTemplate VariableKind",
    "records": "StoreKey TokenFamily TokenRecord TokenStatus",
    "scopes": "ScopeSet",
    "secret": "TokenSecret",
    "stores.aes_gcm": "AesGcmCipher",
    "stores.base": "ANY BrokerStore CompareAndSwapOutcome",
    "stores.file": "FileStore",
    "stores.memory": "MemoryStore",
    "stores.redis": "RedisStore",
    "stores.sealing": "RecordCipher RewrapReport",
    "stores.sqlalchemy": "SQLAlchemyStore",
    "stores.tiered": "TieredStore",
    "transports.base": (
        "HttpRequest HttpResponse ResponseMetadata ResponseMetadataSlot TokenHttpClient TransportErrorMapper "
        "is_public_address"
    ),
    "transports.requests": "RequestsHttpClient RequestsTransportErrorMapper",
}  # by module, the same
_MODULES = {module.partition(".")[0] for module in _PUBLIC}
_HOMES = {name: f"oauth2broker.{module}" for module, names in _PUBLIC.items() for name in names.split()}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(home), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
