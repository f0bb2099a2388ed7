"""What is needed only to call a provider, loaded together by the first call.

Import this module to load it sooner, for instance before a server forks its workers.
"""

from oauth2broker.flows.authorization import AuthorizationFlow
from oauth2broker.flows.callback import parse_callback
from oauth2broker.flows.client_credentials import ClientCredentialsFlow
from oauth2broker.flows.refresh import RefreshFlow
from oauth2broker.flows.revocation import RevocationFlow
from oauth2broker.flows.session import mistaken_session
from oauth2broker.flows.token_endpoint import TokenEndpoint
from oauth2broker.flows.upkeep import Upkeep
from oauth2broker.provider.strategy import DefaultProviderStrategy

__all__ = [
    "AuthorizationFlow",
    "ClientCredentialsFlow",
    "DefaultProviderStrategy",
    "RefreshFlow",
    "RevocationFlow",
    "TokenEndpoint",
    "Upkeep",
    "mistaken_session",
    "parse_callback",
]
