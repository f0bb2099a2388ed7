"""A synchronous, thread-safe OAuth 2.0 token broker.

Everything public is importable from here. Importing it loads neither requests nor oauthlib.
"""

from typing import TYPE_CHECKING, Any

from oauth2broker.errors import (
    AuthorizationError,
    AuthorizationRequiredError,
    BackendError,
    BrokerError,
    ConfigError,
    InsufficientScopeError,
    InvalidClientError,
    InvalidGrantError,
    RevokedError,
    SerializationError,
    StateMismatchError,
    StoreError,
    TransientError,
    TransportError,
)
from oauth2broker.ext.lease import TokenLease, TokenLeaseContext, TokenLeaseState
from oauth2broker.ext.rate_limit import (
    Allow,
    Delay,
    RateLimitContext,
    RateLimitDecision,
    RateLimitPolicy,
    RetryDirective,
)
from oauth2broker.ext.signer import RequestSigner
from oauth2broker.flows.broker import Broker
from oauth2broker.flows.request import CachedTokenRequest
from oauth2broker.flows.session import AuthorizationSession
from oauth2broker.grants import GrantType
from oauth2broker.ids import PrincipalId, ProviderId, TenantId
from oauth2broker.obs import (
    FlowEvent,
    FlowKind,
    FlowOutcome,
    FlowSpan,
    Observer,
    RefreshMetrics,
    record_flow_outcome,
)
from oauth2broker.provider.descriptor import (
    ClientAuthMethod,
    ProviderDescriptor,
    ProviderQuirks,
    RotationPolicy,
)
from oauth2broker.provider.strategy import (
    DefaultProviderStrategy,
    ProviderErrorContext,
    ProviderErrorKind,
    ProviderStrategy,
)
from oauth2broker.records import StoreKey, TokenFamily, TokenRecord, TokenStatus
from oauth2broker.scopes import ScopeSet
from oauth2broker.secret import TokenSecret
from oauth2broker.stores.base import ANY, BrokerStore, CompareAndSwapOutcome
from oauth2broker.stores.file import FileStore
from oauth2broker.stores.memory import MemoryStore
from oauth2broker.transports.base import (
    HttpRequest,
    HttpResponse,
    ResponseMetadata,
    ResponseMetadataSlot,
    TokenHttpClient,
    TransportErrorMapper,
)

if TYPE_CHECKING:
    from oauth2broker.transports.requests import RequestsHttpClient, RequestsTransportErrorMapper

__all__ = [
    "ANY",
    "Allow",
    "AuthorizationError",
    "AuthorizationRequiredError",
    "AuthorizationSession",
    "BackendError",
    "Broker",
    "BrokerError",
    "BrokerStore",
    "CachedTokenRequest",
    "ClientAuthMethod",
    "CompareAndSwapOutcome",
    "ConfigError",
    "DefaultProviderStrategy",
    "Delay",
    "FileStore",
    "FlowEvent",
    "FlowKind",
    "FlowOutcome",
    "FlowSpan",
    "GrantType",
    "HttpRequest",
    "HttpResponse",
    "InsufficientScopeError",
    "InvalidClientError",
    "InvalidGrantError",
    "MemoryStore",
    "Observer",
    "PrincipalId",
    "ProviderDescriptor",
    "ProviderErrorContext",
    "ProviderErrorKind",
    "ProviderId",
    "ProviderQuirks",
    "ProviderStrategy",
    "RateLimitContext",
    "RateLimitDecision",
    "RateLimitPolicy",
    "RefreshMetrics",
    "RequestSigner",
    "RequestsHttpClient",
    "RequestsTransportErrorMapper",
    "ResponseMetadata",
    "ResponseMetadataSlot",
    "RetryDirective",
    "RevokedError",
    "RotationPolicy",
    "ScopeSet",
    "SerializationError",
    "StateMismatchError",
    "StoreError",
    "StoreKey",
    "TenantId",
    "TokenFamily",
    "TokenHttpClient",
    "TokenLease",
    "TokenLeaseContext",
    "TokenLeaseState",
    "TokenRecord",
    "TokenSecret",
    "TokenStatus",
    "TransientError",
    "TransportError",
    "TransportErrorMapper",
    "record_flow_outcome",
]


def __getattr__(name: str) -> Any:
    if name in {"RequestsHttpClient", "RequestsTransportErrorMapper"}:
        from oauth2broker.transports import requests

        return getattr(requests, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
