"""A service token (client credentials), against a real authorization server in this process.

Run with ``python examples/client_credentials.py``. With a provider of your own, only the two endpoints and
the client's id and secret are different.
"""

from __future__ import annotations

import requests

from oauth2broker import Broker, CachedTokenRequest, GrantType, ProviderDescriptor, TokenRecord
from oauth2broker.testing import LoopbackProvider


def call_the_api(url: str, record: TokenRecord) -> int:
    """Use the token; ``expose()`` is the only way to its text."""
    headers = {"Authorization": f"Bearer {record.access_token.expose()}"}
    return requests.get(url, headers=headers, timeout=10).status_code


def main() -> None:
    with LoopbackProvider() as provider:
        # What is known about the provider, as data.
        descriptor = ProviderDescriptor(
            id="demo-provider",
            authorization_endpoint=provider.authorization_endpoint,
            token_endpoint=provider.token_endpoint,
            grants={GrantType.AUTHORIZATION_CODE, GrantType.REFRESH_TOKEN, GrantType.CLIENT_CREDENTIALS},
        )
        # One broker serves all threads, tenants and users. Without a store it keeps tokens in memory.
        with Broker(descriptor, "demo-client", "demo-secret") as broker:
            request = CachedTokenRequest("tenant-acme", "svc-router", ["email.read", "profile.read"])

            first = broker.client_credentials(request)
            print(f"Obtained a {first.token_type} token for '{first.granted_scope}'")
            print(
                f"  it expires at {first.expires_at:%H:%M:%S} UTC; token calls so far: {provider.token_calls}"
            )
            print(f"  printed, it shows nothing: {first.access_token!r}")
            print(f"  the API answers {call_the_api(provider.resource_endpoint, first)}")

            again = broker.client_credentials(request)
            print(f"Asked again: the same token, from cache: {again.access_token == first.access_token}")
            print(f"  token calls so far: {provider.token_calls}")

            forced = broker.client_credentials(request.force_refresh())
            print(f"Forced: another token: {forced.access_token != first.access_token}")
            print(f"  token calls so far: {provider.token_calls}")


if __name__ == "__main__":
    main()
