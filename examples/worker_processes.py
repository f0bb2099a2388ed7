"""Several worker processes on one FileStore meet an expired token, and make one call.

Run with ``python examples/worker_processes.py [PROCESSES]``. What gunicorn or Celery workers do, against a
loopback provider that rotates refresh tokens and revokes the grant when a spent one comes back.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Barrier

from oauth2broker import Broker, CachedTokenRequest, FileStore, ProviderDescriptor
from oauth2broker.testing import LoopbackProvider

USER = CachedTokenRequest("tenant-acme", "user-1", "openid profile")
LATER = timedelta(hours=2)  # when the token obtained at the login has expired


def work(descriptor: ProviderDescriptor, folder: str, barrier: Barrier) -> str:
    """One worker: a broker of its own on the shared folder, like any process of yours would have."""
    store = FileStore(folder)
    with Broker(
        descriptor, "demo-client", "demo-secret", store=store, clock=lambda: datetime.now(UTC) + LATER
    ) as broker:
        barrier.wait()
        token = broker.refresh_access_token(USER).access_token.expose()
    return hashlib.sha256(token.encode()).hexdigest()[:8]


def main(processes: int) -> int:
    with LoopbackProvider(latency=0.05) as provider, tempfile.TemporaryDirectory() as folder:
        with Broker(provider.descriptor(), "demo-client", "demo-secret", store=FileStore(folder)) as broker:
            session = broker.start_authorization(
                USER.tenant, USER.principal, USER.scope, "https://app.example.com/callback"
            )
            broker.complete_authorization(session, provider.browse(session.authorize_url))
        provider.clear()
        context = multiprocessing.get_context("spawn")
        with context.Manager() as manager, context.Pool(processes) as pool:
            barrier = manager.Barrier(processes)
            jobs = [(provider.descriptor(), folder, barrier)] * processes
            tokens = pool.starmap(work, jobs, chunksize=1)
        print(f"{processes} processes met one expired token")
        print(f"token calls: {provider.token_calls}")
        print(f"different tokens handed out: {len(set(tokens))}")
        print(f"spent refresh tokens presented: {provider.reuses}")
        return 0 if (provider.token_calls, len(set(tokens)), provider.reuses) == (1, 1, 0) else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 4))
