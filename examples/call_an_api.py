"""Calling an API with requests: signed, sent again when a token is refused, never leaked by a redirect.

Run with ``python examples/call_an_api.py``. Provider and API run in this process. With your own, only the
descriptor and the URLs are different.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests

from oauth2broker import AuthorizationRequiredError, Broker, BrokerAuth, CachedTokenRequest, GrantType
from oauth2broker.testing import LoopbackProvider

SERVICE = CachedTokenRequest("tenant-acme", "svc-router", ["email.read"])
THREADS = 20


def call(session: requests.Session, url: str) -> str:
    """Call the API; give what it answered, and what it had refused before."""
    answer = session.get(url, timeout=10)
    refusals = [refusal.status_code for refusal in answer.history]
    return f"{answer.status_code}{f', after {refusals}' if refusals else ''}"


@contextmanager
def another_host() -> Iterator[str]:
    """Run a host that says whether it was sent a token."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f"{'Authorization' in self.headers}".encode())

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as url:
        yield url


@contextmanager
def redirecting_api(target: str) -> Iterator[str]:
    """Run an API that sends whoever comes to ``target``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", target)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as url:
        yield url


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def main() -> None:
    with (
        LoopbackProvider() as provider,
        Broker(provider.descriptor(), "demo-client", "demo-secret") as broker,
        requests.Session() as session,
    ):
        session.auth = BrokerAuth(broker, SERVICE, GrantType.CLIENT_CREDENTIALS)
        api = provider.resource_endpoint
        print(f"The API answers {call(session, api)}; token calls: {provider.token_calls}")
        print(f"Again: {call(session, api)}; token calls: {provider.token_calls}")

        provider.revoke_user("demo-client")  # the API stops taking the token
        print(f"The token is refused: {call(session, api)}; token calls: {provider.token_calls}")

        provider.revoke_user("demo-client")
        with ThreadPoolExecutor(THREADS) as pool:
            answers = set(
                pool.map(lambda _: requests.get(api, auth=session.auth, timeout=10), range(THREADS))
            )
        codes = {answer.status_code for answer in answers}
        print(f"{THREADS} threads meet a refused token: {codes}; token calls: {provider.token_calls}")

        with another_host() as host, redirecting_api(host) as elsewhere:
            print(f"Redirected to another host, which got a token: {session.get(elsewhere, timeout=10).text}")

        try:
            requests.get(api, auth=BrokerAuth(broker, CachedTokenRequest("tenant-acme", "bob")), timeout=10)
        except AuthorizationRequiredError as error:
            print(f"Nobody has logged in: {type(error).__name__}, and nothing was sent")


if __name__ == "__main__":
    main()
