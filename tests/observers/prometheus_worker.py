"""A process of a web server: renews what it is told, and counts in a folder that its siblings share.

Run as ``python -m tests.observers.prometheus_worker URL STORE`` with ``PROMETHEUS_MULTIPROC_DIR`` set. Each
line of its standard input is a user whose token it renews; it answers with a line.
"""

from __future__ import annotations

import sys

from oauth2broker import (
    Broker,
    BrokerError,
    CachedTokenRequest,
    FileStore,
    GrantType,
    PrometheusObserver,
    ProviderDescriptor,
)
from tests.support import SCOPE, TENANT


def main(url: str, store: str) -> None:
    descriptor = ProviderDescriptor(
        id="loopback",
        token_endpoint=f"{url}/token",
        grants={GrantType.REFRESH_TOKEN},
    )
    broker = Broker(
        descriptor, "demo-client", "demo-secret", store=FileStore(store), observers=[PrometheusObserver()]
    )
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            broker.refresh_access_token(CachedTokenRequest(TENANT, line.strip(), SCOPE).force_refresh())
            print("renewed", flush=True)
        except BrokerError as error:
            print(type(error).__name__, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
