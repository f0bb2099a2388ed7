"""The loopback provider: a real authorization server on 127.0.0.1, in this process."""

import logging
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from oauth2broker.testing._answer import Answer
from oauth2broker.testing._authority import Authority, Policy, describe_token_request
from oauth2broker.testing._browser import consent
from oauth2broker.testing._calls import CallLog, TokenCall
from oauth2broker.testing._delivery import Outlet, deliver
from oauth2broker.testing._server import LoopbackServer, Request
from oauth2broker.testing.faults import Fault

if TYPE_CHECKING:
    from oauth2broker import ProviderDescriptor

log = logging.getLogger("oauth2broker.testing")

DEMO_CLIENTS: Mapping[str, str | None] = {"demo-client": "demo-secret", "public-client": None}


def _utc_now() -> datetime:
    return datetime.now(UTC)


class LoopbackProvider:
    """A strict OAuth 2.0 authorization server with HTTP on 127.0.0.1 and a port of its own.

    It requires PKCE (S256), authenticates clients, rotates refresh tokens and revokes the whole
    family when a spent one is presented again. It has the endpoints of RFC 6749, revocation (RFC
    7009) and a protected resource, and it can be told to fail (see `Fault`).

    A token call is processed first, under one lock; then it waits for `latency`; then it is
    answered. So the answer is in flight while other calls arrive, which is what makes a race for a
    rotating refresh token visible.

    `clients` maps client ids to their secrets, None for public clients; every https redirection
    URI, and every http one of this machine, is accepted from each. Within `reuse_grace` a spent
    refresh token gets the same answer as the first time. `clock` gives aware UTC datetimes and
    rules over lifetimes, not over waiting. `latency`, in seconds, can be set at any time.

    All members are safe to use from several threads, but `start` and `close` belong to one owner.
    In a child process after a fork the provider is the parent's: it goes on serving there, and
    `close` does nothing in the child.
    """

    def __init__(
        self,
        clients: Mapping[str, str | None] = DEMO_CLIENTS,
        *,
        access_token_lifetime: timedelta = timedelta(hours=1),
        rotate: bool = True,
        reuse_grace: timedelta | None = None,
        latency: float = 0.0,
        clock: Callable[[], datetime] = _utc_now,
    ) -> None:
        self.latency = latency
        self._clock = clock
        self._authority = Authority(Policy(dict(clients), access_token_lifetime, rotate, reuse_grace, clock))
        self._log = CallLog()
        self._revocations = 0
        self._revocations_lock = threading.Lock()
        self._server: LoopbackServer | None = None
        self._port = 0
        self._routes: Mapping[tuple[str, str], Callable[[Request, Outlet], None]] = {
            ("GET", "/authorize"): self._show_consent,
            ("POST", "/authorize"): self._take_decision,
            ("POST", "/token"): self._grant_tokens,
            ("POST", "/revoke"): self._revoke_token,
            ("GET", "/resource"): self._show_resource,
        }

    def __repr__(self) -> str:
        return f"<LoopbackProvider port={self._port} {'up' if self._server else 'down'}>"

    # Life.

    def start(self) -> Self:
        """Begin to serve. One that was closed comes back at its address, knowing what it knew."""
        if self._server is None:
            self._server = LoopbackServer(self._port, self._route)
            self._port = self._server.server_port
            self._server.start()
        return self

    def close(self) -> None:
        """End all exchanges, also those that a fault holds up, and free the port.

        Promptly, and as often as one likes.
        """
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Addresses.

    @property
    def base_url(self) -> str:
        """`http://127.0.0.1:<port>`. Raises RuntimeError before the first start."""
        if self._port == 0:
            raise RuntimeError("the provider has no address before it has been started")
        return f"http://127.0.0.1:{self._port}"

    @property
    def issuer(self) -> str:
        """The issuer identifier, which comes back as `iss` (RFC 9207)."""
        return self.base_url

    @property
    def authorization_endpoint(self) -> str:
        """Where the user's browser goes."""
        return f"{self.base_url}/authorize"

    @property
    def token_endpoint(self) -> str:
        """Where codes, refresh tokens and client credentials become access tokens."""
        return f"{self.base_url}/token"

    @property
    def revocation_endpoint(self) -> str:
        """Where tokens are revoked (RFC 7009)."""
        return f"{self.base_url}/revoke"

    @property
    def resource_endpoint(self) -> str:
        """A protected resource: answers `{"sub": ..., "scope": ...}` to a live access token."""
        return f"{self.base_url}/resource"

    def descriptor(self, **overrides: Any) -> "ProviderDescriptor":
        """Describe this provider to a broker; `overrides` replace or add arguments."""
        # Late, so that this package serves tests which never load the rest of the library.
        from oauth2broker import GrantType, ProviderDescriptor

        arguments: dict[str, Any] = {
            "id": "loopback",
            "authorization_endpoint": self.authorization_endpoint,
            "token_endpoint": self.token_endpoint,
            "revocation_endpoint": self.revocation_endpoint,
            "issuer": self.issuer,
            "grants": {
                GrantType.AUTHORIZATION_CODE,
                GrantType.REFRESH_TOKEN,
                GrantType.CLIENT_CREDENTIALS,
            },
        }
        return ProviderDescriptor(**{**arguments, **overrides})

    # The user.

    def browse(self, authorize_url: str, approve: bool = True, user: str = "alice") -> str:
        """Do what the user's browser does; give the callback URL it is sent to.

        Raises RuntimeError when the provider shows an error page instead of redirecting.
        """
        return consent(authorize_url, "approve" if approve else "deny", user)

    def revoke_user(self, user: str) -> None:
        """The user withdrew consent: all their tokens are dead, refreshing is invalid_grant."""
        self._authority.revoke_user(user)

    def is_live(self, access_token: str) -> bool:
        """Whether the protected resource accepts this access token now."""
        return self._authority.is_live(access_token)

    # Faults and records.

    def inject(self, fault: Fault, times: int = 1) -> None:
        """Let the next `times` token calls suffer `fault`, after those already queued."""
        self._log.inject(fault, times)

    @property
    def calls(self) -> tuple[TokenCall, ...]:
        """The calls of the token endpoint, in order of arrival, without their secrets."""
        return self._log.snapshot()

    @property
    def token_calls(self) -> int:
        """How many calls of the token endpoint have arrived."""
        return len(self.calls)

    @property
    def revocations(self) -> int:
        """How many calls of the revocation endpoint have arrived."""
        return self._revocations

    @property
    def reuses(self) -> int:
        """How often a spent refresh token was presented again outside the grace."""
        return self._authority.reuses

    def clear(self) -> None:
        """Forget the calls and count revocations and reuses from zero; tokens and faults stay."""
        self._log.clear()
        self._authority.clear_reuses()
        with self._revocations_lock:
            self._revocations = 0

    # Routes.

    def _route(self, request: Request, outlet: Outlet) -> None:
        serve = self._routes.get((request.method, request.path))
        if serve is not None:
            serve(request, outlet)
        else:
            known = any(path == request.path for _, path in self._routes)
            outlet.send(Answer(405 if known else 404).render())

    def _show_consent(self, request: Request, outlet: Outlet) -> None:
        outlet.send(self._authority.show_consent(request, self.issuer).render())

    def _take_decision(self, request: Request, outlet: Outlet) -> None:
        outlet.send(self._authority.take_decision(request, self.issuer).render())

    def _show_resource(self, request: Request, outlet: Outlet) -> None:
        outlet.send(self._authority.show_resource(request).render())

    def _revoke_token(self, request: Request, outlet: Outlet) -> None:
        with self._revocations_lock:
            self._revocations += 1
        outlet.send(self._authority.revoke_token(request).render())

    def _grant_tokens(self, request: Request, outlet: Outlet) -> None:
        grant_type, client_id = describe_token_request(request)
        number, fault = self._log.arrive(grant_type, client_id, self._clock())
        answer = fault.apply(lambda: self._authority.grant_tokens(request))
        log.debug("%r of %r: %d by %s", grant_type, client_id, answer.status, fault.delivery.name)
        if not outlet.wait(self.latency + fault.seconds):
            outlet.hang_up()
            return
        if fault.delivery.answers:
            # Before it is sent: who has the answer must find it here.
            self._log.finish(number, answer.status, answer.error)
        deliver(answer, fault, outlet)
