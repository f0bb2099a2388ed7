"""What a cron job does: start, take the token that is there, go. The folder is the argument."""

import sys

from oauth2broker import Broker, CachedTokenRequest, FileStore, GrantType, ProviderDescriptor

descriptor = ProviderDescriptor(
    id="demo-provider",
    token_endpoint="https://provider.example.com/token",
    grants={GrantType.CLIENT_CREDENTIALS},
)
with Broker(descriptor, "demo-client", "demo-secret", store=FileStore(sys.argv[1])) as broker:
    request = CachedTokenRequest("tenant-acme", "svc-router", ["email.read", "profile.read"])
    print(broker.client_credentials(request).access_token.expose())
