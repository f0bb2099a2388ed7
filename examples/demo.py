"""The main job, shown: three flows, one broker, a real (loopback) authorization server.

Run with ``make demo``, or ``pip install .`` and ``python examples/demo.py``. Exits non-zero if anything that
it says did not hold.
"""

from __future__ import annotations

import sys
import threading
import time
from datetime import UTC, datetime, timedelta

from oauth2broker import (
    AuthorizationError,
    AuthorizationSession,
    Broker,
    CachedTokenRequest,
    InvalidGrantError,
    RevokedError,
    TokenRecord,
)
from oauth2broker.testing import LoopbackProvider

THREADS = 64
REDIRECT_URI = "https://app.example.com/callback"
USER = CachedTokenRequest("tenant-acme", "user-1", "openid profile")
SERVICE = CachedTokenRequest("tenant-acme", "svc-router", ["email.read", "profile.read"])


class Clock:
    """The wall clock, and a way to be an hour late."""

    def __init__(self) -> None:
        self.offset = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.offset


class Report:
    """Says what was seen, and remembers what should have been and was not."""

    def __init__(self) -> None:
        self.failed = 0

    def title(self, text: str) -> None:
        print(f"\n{text}")

    def check(self, holds: bool, text: str) -> None:
        print(f"  {'ok  ' if holds else 'FAIL'} {text}")
        self.failed += not holds


def show_service_token(report: Report, broker: Broker, provider: LoopbackProvider) -> None:
    report.title("A service token (client credentials)")
    before = provider.token_calls
    first = broker.client_credentials(SERVICE)
    rounds = 10_000
    started = time.perf_counter()
    same = all(broker.client_credentials(SERVICE) is first for _ in range(rounds))
    micros = (time.perf_counter() - started) / rounds * 1e6
    calls = provider.token_calls - before
    report.check(
        same and calls == 1, f"asked {rounds + 1:,} times, {calls} token call, {micros:.1f} us a hit"
    )


def log_in(broker: Broker, provider: LoopbackProvider, *, approve: bool = True) -> TokenRecord:
    session = broker.start_authorization(USER.tenant, USER.principal, USER.scope, REDIRECT_URI)
    saved = session.to_json()  # a web app keeps this between the two requests
    callback = provider.browse(session.authorize_url, approve=approve)
    return broker.complete_authorization(AuthorizationSession.from_json(saved), callback)


def show_login(report: Report, broker: Broker, provider: LoopbackProvider) -> None:
    report.title("A user logs in (authorization code with PKCE, through a scripted browser)")
    record = log_in(broker, provider)
    report.check(record.refresh_token is not None, "a token and a refresh token are stored")
    report.check(provider.is_live(record.access_token.expose()), "the provider accepts the token")
    report.check("***" in repr(record), f"and nobody sees it by accident: {record.access_token!r}")


def show_rotation(report: Report, broker: Broker) -> None:
    report.title("A rotation")
    old = broker.refresh_access_token(USER)
    new = broker.refresh_access_token(USER.force_refresh())
    report.check(new.access_token != old.access_token, "the access token is another one")
    report.check(new.refresh_token != old.refresh_token, "so is the refresh token; the old one is spent")


def show_stampede(report: Report, broker: Broker, provider: LoopbackProvider, clock: Clock) -> None:
    report.title(f"{THREADS} threads meet one expired token, the provider takes 50 ms and rotates")
    clock.offset += timedelta(hours=2)
    provider.latency = 0.05
    before, barrier = provider.token_calls, threading.Barrier(THREADS)
    tokens: list[str] = []

    def ask() -> None:
        barrier.wait()
        tokens.append(broker.refresh_access_token(USER).access_token.expose())

    threads = [threading.Thread(target=ask) for _ in range(THREADS)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    millis = (time.perf_counter() - started) * 1e3
    provider.latency = 0.0
    calls, different = provider.token_calls - before, len(set(tokens))
    report.check(calls == 1, f"{calls} token call in {millis:.0f} ms")
    report.check(
        (len(tokens), different) == (THREADS, 1), f"{len(tokens)} answers, {different} token among them"
    )
    report.check(provider.reuses == 0, "no refresh token was presented twice; the grant lives")


def show_errors(report: Report, broker: Broker, provider: LoopbackProvider) -> None:
    report.title("What goes wrong says what it is")
    try:
        log_in(broker, provider, approve=False)
        report.check(False, "a denied authorization raises")
    except AuthorizationError as error:
        report.check(error.error == "access_denied", f"the user says no: {type(error).__name__}: {error}")
    provider.revoke_user("alice")
    try:
        broker.refresh_access_token(USER.force_refresh())
        report.check(False, "a revoked grant raises")
    except InvalidGrantError as error:
        report.check(error.reauthorize, f"the grant is gone: {type(error).__name__}: {error}")
    before = provider.token_calls
    try:
        broker.refresh_access_token(USER)
        report.check(False, "a dead grant raises")
    except RevokedError as error:
        calls = provider.token_calls - before
        report.check(calls == 0, f"and stays gone, with {calls} calls: {type(error).__name__}: {error}")


def main() -> int:
    report, clock = Report(), Clock()
    with (
        LoopbackProvider() as provider,
        Broker(provider.descriptor(), "demo-client", "demo-secret", clock=clock) as broker,
    ):
        print(f"An authorization server listens on {provider.base_url}")
        show_service_token(report, broker, provider)
        show_login(report, broker, provider)
        show_rotation(report, broker)
        show_stampede(report, broker, provider, clock)
        show_errors(report, broker, provider)
    print("\nAll of it held." if not report.failed else f"\n{report.failed} of it did not hold.")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
