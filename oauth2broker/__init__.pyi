from oauth2broker.errors import (
    AuthorizationError as AuthorizationError,
)
from oauth2broker.errors import (
    AuthorizationRequiredError as AuthorizationRequiredError,
)
from oauth2broker.errors import (
    BackendError as BackendError,
)
from oauth2broker.errors import (
    BrokerError as BrokerError,
)
from oauth2broker.errors import (
    ConfigError as ConfigError,
)
from oauth2broker.errors import (
    InsufficientScopeError as InsufficientScopeError,
)
from oauth2broker.errors import (
    InvalidClientError as InvalidClientError,
)
from oauth2broker.errors import (
    InvalidGrantError as InvalidGrantError,
)
from oauth2broker.errors import (
    RevokedError as RevokedError,
)
from oauth2broker.errors import (
    SerializationError as SerializationError,
)
from oauth2broker.errors import (
    StateMismatchError as StateMismatchError,
)
from oauth2broker.errors import (
    StoreError as StoreError,
)
from oauth2broker.errors import (
    TransientError as TransientError,
)
from oauth2broker.errors import (
    TransportError as TransportError,
)
from oauth2broker.ext.lease import (
    TokenLease as TokenLease,
)
from oauth2broker.ext.lease import (
    TokenLeaseContext as TokenLeaseContext,
)
from oauth2broker.ext.lease import (
    TokenLeaseState as TokenLeaseState,
)
from oauth2broker.ext.rate_limit import (
    Allow as Allow,
)
from oauth2broker.ext.rate_limit import (
    Delay as Delay,
)
from oauth2broker.ext.rate_limit import (
    RateLimitContext as RateLimitContext,
)
from oauth2broker.ext.rate_limit import (
    RateLimitDecision as RateLimitDecision,
)
from oauth2broker.ext.rate_limit import (
    RateLimitPolicy as RateLimitPolicy,
)
from oauth2broker.ext.rate_limit import (
    RetryDirective as RetryDirective,
)
from oauth2broker.ext.signer import (
    RequestSigner as RequestSigner,
)
from oauth2broker.flows.broker import (
    Broker as Broker,
)
from oauth2broker.flows.request import (
    CachedTokenRequest as CachedTokenRequest,
)
from oauth2broker.flows.session import (
    AuthorizationSession as AuthorizationSession,
)
from oauth2broker.grants import (
    GrantType as GrantType,
)
from oauth2broker.ids import (
    PrincipalId as PrincipalId,
)
from oauth2broker.ids import (
    ProviderId as ProviderId,
)
from oauth2broker.ids import (
    TenantId as TenantId,
)
from oauth2broker.obs import (
    FlowEvent as FlowEvent,
)
from oauth2broker.obs import (
    FlowKind as FlowKind,
)
from oauth2broker.obs import (
    FlowOutcome as FlowOutcome,
)
from oauth2broker.obs import (
    FlowSpan as FlowSpan,
)
from oauth2broker.obs import (
    Observer as Observer,
)
from oauth2broker.obs import (
    RefreshMetrics as RefreshMetrics,
)
from oauth2broker.obs import (
    record_flow_outcome as record_flow_outcome,
)
from oauth2broker.provider.descriptor import (
    ClientAuthMethod as ClientAuthMethod,
)
from oauth2broker.provider.descriptor import (
    ProviderDescriptor as ProviderDescriptor,
)
from oauth2broker.provider.descriptor import (
    ProviderQuirks as ProviderQuirks,
)
from oauth2broker.provider.descriptor import (
    RotationPolicy as RotationPolicy,
)
from oauth2broker.provider.strategy import (
    DefaultProviderStrategy as DefaultProviderStrategy,
)
from oauth2broker.provider.strategy import (
    ProviderErrorContext as ProviderErrorContext,
)
from oauth2broker.provider.strategy import (
    ProviderErrorKind as ProviderErrorKind,
)
from oauth2broker.provider.strategy import (
    ProviderStrategy as ProviderStrategy,
)
from oauth2broker.records import (
    StoreKey as StoreKey,
)
from oauth2broker.records import (
    TokenFamily as TokenFamily,
)
from oauth2broker.records import (
    TokenRecord as TokenRecord,
)
from oauth2broker.records import (
    TokenStatus as TokenStatus,
)
from oauth2broker.scopes import (
    ScopeSet as ScopeSet,
)
from oauth2broker.secret import (
    TokenSecret as TokenSecret,
)
from oauth2broker.stores.base import (
    ANY as ANY,
)
from oauth2broker.stores.base import (
    BrokerStore as BrokerStore,
)
from oauth2broker.stores.base import (
    CompareAndSwapOutcome as CompareAndSwapOutcome,
)
from oauth2broker.stores.file import (
    FileStore as FileStore,
)
from oauth2broker.stores.memory import (
    MemoryStore as MemoryStore,
)
from oauth2broker.transports.base import (
    HttpRequest as HttpRequest,
)
from oauth2broker.transports.base import (
    HttpResponse as HttpResponse,
)
from oauth2broker.transports.base import (
    ResponseMetadata as ResponseMetadata,
)
from oauth2broker.transports.base import (
    ResponseMetadataSlot as ResponseMetadataSlot,
)
from oauth2broker.transports.base import (
    TokenHttpClient as TokenHttpClient,
)
from oauth2broker.transports.base import (
    TransportErrorMapper as TransportErrorMapper,
)
from oauth2broker.transports.requests import (
    RequestsHttpClient as RequestsHttpClient,
)
from oauth2broker.transports.requests import (
    RequestsTransportErrorMapper as RequestsTransportErrorMapper,
)

__all__: list[str]
