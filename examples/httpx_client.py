"""httpx on both sides: an API called with a broker's tokens, and the tokens fetched over httpx.

Run with ``python examples/httpx_client.py``; needs ``pip install "oauth2broker[httpx]"``. The provider, which
is the API as well, runs on this machine.
"""

from __future__ import annotations

import httpx

from oauth2broker import AuthorizationRequiredError, Broker, CachedTokenRequest
from oauth2broker.integrations.httpx import HttpxBrokerAuth
from oauth2broker.testing import LoopbackProvider
from oauth2broker.transports.httpx import HttpxHttpClient, HttpxTransportErrorMapper

TENANT, USER, SCOPE = "tenant-acme", "user-1", "openid profile"


def log_in(broker: Broker, provider: LoopbackProvider) -> None:
    session = broker.start_authorization(TENANT, USER, SCOPE, "https://app.example.com/callback")
    broker.complete_authorization(session, provider.browse(session.authorize_url))


def main() -> None:
    with LoopbackProvider() as provider:
        transport = HttpxHttpClient()
        broker = Broker(
            provider.descriptor(),
            "demo-client",
            "demo-secret",
            http_client=transport,
            error_mapper=HttpxTransportErrorMapper(),
        )
        request = CachedTokenRequest(TENANT, USER, SCOPE)
        with httpx.Client(auth=HttpxBrokerAuth(broker, request)) as api:
            try:
                api.get(provider.resource_endpoint)
            except AuthorizationRequiredError as error:
                print(f"Before the login: {type(error).__name__}; nothing was sent")
            log_in(broker, provider)
            print(f"The API says: {api.get(provider.resource_endpoint).json()}")

            calls = provider.token_calls
            broker.refresh_access_token(request.force_refresh())  # some other thread's renewal
            print(f"After a renewal: {api.get(provider.resource_endpoint).status_code}")
            print(f"  token calls for that: {provider.token_calls - calls}")
        transport.close()


if __name__ == "__main__":
    main()
