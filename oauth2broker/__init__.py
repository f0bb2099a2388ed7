"""A synchronous, thread-safe OAuth 2.0 token broker.

Everything public is importable from here, and loaded when it is first asked for: importing the package costs
next to nothing, and a start that finds its token in the store loads neither requests nor oauthlib.
"""

from importlib import import_module

_PUBLIC = {
    "errors": (
        "AuthorizationError AuthorizationRequiredError BackendError BrokerError ConfigError "
        "InsufficientScopeError InvalidClientError InvalidGrantError RevokedError SerializationError "
        "StateMismatchError StoreError TransientError TransportError"
    ),
    "ext.lease": "TokenLease TokenLeaseContext TokenLeaseState",
    "ext.rate_limit": "Allow Delay RateLimitContext RateLimitDecision RateLimitPolicy RetryDirective",
    "ext.signer": "RequestSigner",
    "flows.broker": "Broker",
    "flows.request": "CachedTokenRequest",
    "flows.session": "AuthorizationSession",
    "grants": "GrantType",
    "ids": "PrincipalId ProviderId TenantId",
    "obs": "FlowEvent FlowKind FlowOutcome FlowSpan Observer RefreshMetrics record_flow_outcome",
    "provider.descriptor": "ClientAuthMethod ProviderDescriptor ProviderQuirks RotationPolicy",
    "provider.strategy": "DefaultProviderStrategy ProviderErrorContext ProviderErrorKind ProviderStrategy",
    "records": "StoreKey TokenFamily TokenRecord TokenStatus",
    "scopes": "ScopeSet",
    "secret": "TokenSecret",
    "stores.base": "ANY BrokerStore CompareAndSwapOutcome",
    "stores.file": "FileStore",
    "stores.memory": "MemoryStore",
    "transports.base": (
        "HttpRequest HttpResponse ResponseMetadata ResponseMetadataSlot TokenHttpClient TransportErrorMapper"
    ),
    "transports.requests": "RequestsHttpClient RequestsTransportErrorMapper",
}  # by module; __init__.pyi says the same to type checkers
_HOMES = {name: f"oauth2broker.{module}" for module, names in _PUBLIC.items() for name in names.split()}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(home), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
