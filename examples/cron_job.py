"""A short-lived process on a FileStore: what a cron job does.

Run ``python examples/cron_job.py FOLDER``, twice: the first run obtains a token, the second takes it from the
folder without loading an HTTP client. Uses a loopback provider unless PROVIDER_TOKEN_ENDPOINT, CLIENT_ID
and CLIENT_SECRET name one of yours.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from datetime import UTC, datetime

from oauth2broker import (
    Broker,
    BrokerError,
    CachedTokenRequest,
    FileStore,
    GrantType,
    ProviderDescriptor,
)

REPORT = CachedTokenRequest("tenant-acme", "nightly-report", ["reports.read"])


def describe_provider(stack: ExitStack) -> tuple[ProviderDescriptor, str, str]:
    """Give the provider, client id and client secret that the environment names."""
    endpoint = os.environ.get("PROVIDER_TOKEN_ENDPOINT")
    if endpoint is not None:
        descriptor = ProviderDescriptor("provider", endpoint, {GrantType.CLIENT_CREDENTIALS})
        return descriptor, os.environ["CLIENT_ID"], os.environ["CLIENT_SECRET"]
    from oauth2broker.testing import LoopbackProvider

    provider = stack.enter_context(LoopbackProvider())
    return provider.descriptor(), "demo-client", "demo-secret"


def main(folder: str) -> int:
    with ExitStack() as stack:
        descriptor, client_id, client_secret = describe_provider(stack)
        broker = stack.enter_context(Broker(descriptor, client_id, client_secret, store=FileStore(folder)))
        try:
            record = broker.client_credentials(REPORT)
        except BrokerError as error:
            print(f"no token: {type(error).__name__}: {error}", file=sys.stderr)
            return 75 if error.retryable else 1  # 75: EX_TEMPFAIL, cron may try again
        age = (datetime.now(UTC) - record.issued_at).total_seconds()
        fresh = "requests" in sys.modules
        print("obtained a token" if fresh else f"took a token that is {age:.0f} s old from the folder")
        print(f"it is good until {record.expires_at:%H:%M:%S} UTC; now the job would do its work")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "tokens"))
