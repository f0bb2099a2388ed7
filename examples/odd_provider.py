"""A provider that keeps to few of the RFCs, described as data (see docs/describing_providers.rst).

Run with ``python examples/odd_provider.py``. The provider, *Kiosk*, is invented and in this process.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit

import requests

from oauth2broker import (
    AuthorizationError,
    Broker,
    BrokerError,
    CachedTokenRequest,
    ExpiryRule,
    GrantType,
    ProviderDescriptor,
    ProviderQuirks,
    TokenRecord,
)

CALLBACK = "https://app.example.com/callback"
ORDERS = CachedTokenRequest("tenant-acme", "user-1", "orders stock")


def describe_kiosk(base: str) -> ProviderDescriptor:
    """Say all that is odd about it. With a provider of your own, this is what you write."""
    return ProviderDescriptor(
        id="kiosk",
        authorization_endpoint=f"{base}/connect",
        token_endpoint=f"{base}/api/token",
        grants={GrantType.AUTHORIZATION_CODE, GrantType.REFRESH_TOKEN},
        client_auth="client_secret_post",
        scope_delimiter=",",
        body_format="json",
        token_headers={"Kiosk-Version": "2026-01"},
        rotation="always",
        quirks=ProviderQuirks(
            param_names={"client_id": "client_key"},
            error_paths=["status"],
            error_codes={
                "4001": "invalid_client",
                "4003": "invalid_grant",
                "4029": "slow_down",
                "user_said_no": "access_denied",
            },
            token_path="data",
            expiry=ExpiryRule("expires_at", absolute=True),
            scope_member="scopes",
            callback_members=["account_id"],
            extra_members=["account_id"],
        ),
    )


def log_in(broker: Broker, *, approve: bool = True) -> TokenRecord:
    """Send the user away and take the callback, as a web application does in two requests."""
    session = broker.start_authorization(ORDERS.tenant, ORDERS.principal, ORDERS.scope, CALLBACK)
    page = requests.get(f"{session.authorize_url}&approve={approve}", allow_redirects=False, timeout=10)
    return broker.complete_authorization(session, page.headers["Location"])


def ask(broker: Broker, request: CachedTokenRequest = ORDERS) -> None:
    """Ask for a token; print it, or why there is none."""
    try:
        record = broker.refresh_access_token(request)
    except BrokerError as error:
        wait = "" if error.retry_after is None else f"; again in {error.retry_after:.0f} s"
        print(f"  {type(error).__name__}: {error}{wait}{'; log in again' * error.reauthorize}")
    else:
        print(f"  a token for {record.granted_scope}, account {record.extra['account_id']}")


def main() -> None:
    with kiosk() as server, Broker(describe_kiosk(server.base), "our-key", server.secret) as broker:
        print("The user says no")
        try:
            log_in(broker, approve=False)
        except AuthorizationError as error:
            print(f"  {type(error).__name__}: {error.error}")

        print("The user logs in")
        record = log_in(broker)
        print(f"  granted: {record.granted_scope}; kept: {dict(record.extra)}")
        print(f"  refresh token: {record.refresh_token!r}")
        assert record.expires_at is not None
        print(f"  serves for {(record.expires_at - record.issued_at).total_seconds() / 60:.0f} minutes")

        print("The API refuses the token, so another is needed")
        ask(broker, ORDERS.rejecting(record))

        print("Kiosk renumbered its keys: the client is refused, and the grant stays")
        server.secret, ours = "another", server.secret
        ask(broker, ORDERS.force_refresh())
        server.secret = ours
        ask(broker, ORDERS.force_refresh())

        print("Kiosk has too much to do; the token that is there still serves everyone else")
        server.busy = True
        ask(broker, ORDERS.force_refresh())
        ask(broker)
        server.busy = False

    with kiosk() as server, Broker(describe_kiosk(server.base), "our-key", server.secret) as broker:
        print("The user removes our access, and Kiosk is not asked in vain a second time")
        log_in(broker)
        server.refresh_token = ""
        ask(broker, ORDERS.force_refresh())
        ask(broker)
        print(f"  answers of Kiosk, all with status 200: {', '.join(map(str, server.answered))}")


# Kiosk itself.


class Kiosk(HTTPServer):
    """One user, one client, one grant. ``answered`` are the numbers that it answered token requests with."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self.server_port}"
        self.secret = "our-secret"
        self.code = self.refresh_token = ""
        self.busy = False
        self.answered: list[int] = []

    def status_of(self, sent: Mapping[str, str], version: str | None) -> int:
        """Say what is wrong with a token request; 0 is nothing."""
        if self.busy:
            return 4029
        if version != "2026-01" or (sent.get("client_key"), sent.get("client_secret")) != (
            "our-key",
            self.secret,
        ):
            return 4001
        presented = sent.get("code") or sent.get("refresh_token")
        return 0 if presented and presented in {self.code, self.refresh_token} else 4003

    def issue(self) -> dict[str, str]:
        """Spend what was presented, and give new tokens."""
        self.code, self.refresh_token = "", secrets.token_hex(8)
        expires_at = datetime.now(UTC) + timedelta(hours=1)
        return {
            "access_token": secrets.token_hex(8),
            "refresh_token": self.refresh_token,
            "expires_at": expires_at.isoformat(timespec="seconds"),
            "scopes": "orders,stock",
        }


class Handler(BaseHTTPRequestHandler):
    server: Kiosk

    def do_GET(self) -> None:
        asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        self.server.code = secrets.token_hex(8)
        back = {"error": "user_said_no"}
        if asked["approve"] == "True" and (asked["client_key"], asked["scope"]) == (
            "our-key",
            "orders,stock",
        ):
            back = {"code": self.server.code, "account_id": "a-17"}
        self.send_response(302)
        self.send_header(
            "Location", f"{asked['redirect_uri']}?{urlencode({**back, 'state': asked['state']})}"
        )
        self.end_headers()

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status = self.server.status_of(sent, self.headers["Kiosk-Version"])
        self.server.answered.append(status)
        answer = {"status": status, "data": {} if status else self.server.issue()}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status == 4029:
            self.send_header("Retry-After", "30")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as it is inherited
        pass


@contextmanager
def kiosk() -> Iterator[Kiosk]:
    """Run one until the end of the block."""
    with Kiosk() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


if __name__ == "__main__":
    main()
