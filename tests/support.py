"""What many tests need: a clock that moves when told, a login in one call, threads that start as one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from oauth2broker import Broker, CachedTokenRequest, TokenRecord
from oauth2broker.testing import FrozenClock, LoopbackProvider

Result = TypeVar("Result")

TENANT, USER, SCOPE = "tenant-acme", "user-1", "openid profile"
REDIRECT_URI = "https://app.example.com/callback"
USER_REQUEST = CachedTokenRequest(TENANT, USER, SCOPE)
SERVICE_REQUEST = CachedTokenRequest(TENANT, "svc-router", "email.read profile.read")
ManualClock = FrozenClock


def log_in(broker: Broker, provider: LoopbackProvider, *, user: str = "alice") -> TokenRecord:
    """Take ``USER_REQUEST``'s principal through a whole authorization."""
    session = broker.start_authorization(TENANT, USER, SCOPE, REDIRECT_URI)
    return broker.complete_authorization(session, provider.browse(session.authorize_url, user=user))


class Crowd(Generic[Result]):
    """Runs one function in many threads that start together, and keeps what each got."""

    def __init__(self, size: int, function: Callable[[], Result]) -> None:
        self.results: list[Result] = []
        self.errors: list[BaseException] = []
        self._function = function
        self._barrier = threading.Barrier(size)
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(size)]

    def start(self) -> Crowd[Result]:
        for thread in self._threads:
            thread.start()
        return self

    def join(self, timeout: float = 60.0) -> Crowd[Result]:
        for thread in self._threads:
            thread.join(timeout)
        assert not any(thread.is_alive() for thread in self._threads), "a thread hangs"
        return self

    def _run(self) -> None:
        self._barrier.wait()
        try:
            self.results.append(self._function())
        except BaseException as error:
            self.errors.append(error)
