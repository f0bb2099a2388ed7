"""A provider for unit tests of applications, without sockets, on the ``responses`` package."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import requests

try:
    import responses
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f'FakeProvider needs the package {error.name}: pip install "oauth2broker[testing]"', name=error.name
    ) from error

from oauth2broker.errors import ConfigError
from oauth2broker.provider.descriptor import ProviderDescriptor
from oauth2broker.provider.kinds import Endpoint
from oauth2broker.secret import TokenSecret
from oauth2broker.testing._answer import Answer
from oauth2broker.testing._fake_api import FakeApi
from oauth2broker.testing._fake_calls import ApiCall, FakeCall, read_call, token_on, without_query
from oauth2broker.testing._fake_endpoints import ScriptedEndpoints
from oauth2broker.testing._fake_routes import Route
from oauth2broker.testing._fake_script import built_answer
from oauth2broker.testing._fake_server import FakeServer, default_descriptor

if TYPE_CHECKING:
    from oauth2broker.flows.broker import Broker
    from oauth2broker.records import TokenRecord

__all__ = ["ApiCall", "FakeApi", "FakeCall", "FakeProvider"]

REDIRECT_URI = "https://app.example.com/callback"
_LIFETIME = timedelta(hours=1)
_UNMATCHED = "Connection refused by Responses"


def _utc_now() -> datetime:
    return datetime.now(UTC)


class FakeProvider(ScriptedEndpoints):
    """An authorization server that answers the calls of ``requests`` in this process; a context manager.

    ``descriptor`` is the provider to be, by default one of its own with everything: its endpoints are
    answered as it says (rotation and grace of refresh tokens, PKCE, names, units and place of what an answer
    says). Tokens are called ``access-token-1``, ``refresh-token-1`` and so on. A code serves once, a refresh
    token that was rotated ends its grant, and a token serves only the client that it was issued to; any
    client with any secret is welcome. Callbacks that a provider signs (``sign_callback`` of its strategy) are
    signed with ``client_secret``, which must be the broker's then.

    ``lifetime`` is that of access tokens, None for ones that do not end. ``clock`` gives aware UTC
    datetimes; give the broker the same one. ``mock`` is a ``responses.RequestsMock`` of yours, already
    started, to join; without one it brings its own (:attr:`mock`), which lets nothing through.

    What is scripted (:meth:`will_issue` ...) is what token calls get, in this order; then the provider
    answers as it is. Leaving the context raises AssertionError for a call to an address that nobody prepared,
    and, unless ``allow_unused``, for scripted answers that no call asked for.

    Safe to use from several threads; entered and left by one.
    """

    def __init__(
        self,
        descriptor: ProviderDescriptor | None = None,
        *,
        client_secret: str = "client-secret",
        lifetime: timedelta | None = _LIFETIME,
        clock: Callable[[], datetime] = _utc_now,
        mock: responses.RequestsMock | None = None,
        allow_unused: bool = False,
    ) -> None:
        if descriptor is not None and not isinstance(descriptor, ProviderDescriptor):
            raise ConfigError(f"descriptor is a ProviderDescriptor, not {type(descriptor).__name__}")
        super().__init__()
        self.descriptor = default_descriptor() if descriptor is None else descriptor
        self._clock = clock
        self._lock = threading.RLock()
        self._server = FakeServer(self.descriptor, clock, lifetime, TokenSecret(client_secret))
        self._is_ours = mock is None
        self.mock = responses.RequestsMock(assert_all_requests_are_fired=False) if mock is None else mock
        self._allow_unused = allow_unused
        self._calls: list[FakeCall] = []
        self._door = _Door(self.descriptor.id, self.mock)
        self._is_entered = False
        self._before = 0
        self._add_endpoints()

    def __repr__(self) -> str:
        return f"<FakeProvider {self.descriptor.id}>"

    # Life.

    def __enter__(self) -> Self:
        if self._is_ours:
            self.mock.start()
        self._before = len(self.mock.calls)
        self._is_entered = True
        self.mock.add(self._door)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        complaints = [f"nobody prepared an answer to {call}" for call in self._unmatched()]
        self._is_entered = False
        self.mock.remove(self._door)
        if self._is_ours:
            self.mock.stop(allow_assert=False)
            self.mock.reset()
        if error is not None:
            for complaint in complaints:
                error.add_note(f"FakeProvider: {complaint}")
            return
        if not self._allow_unused:
            complaints += [f"no call asked for {step}" for step in self.unused]
        if complaints:
            raise AssertionError("; ".join(complaints))

    # The user, and what happens at the provider.

    def browse(
        self,
        authorize_url: str,
        *,
        user: str = "alice",
        approve: bool = True,
        scope: str | None = None,
        callback_params: Mapping[str, str] | None = None,
    ) -> str:
        """Do what the user's browser does; give the URL that the user is sent back to.

        ``scope`` is what the user grants, if it is not all. ``callback_params`` join the callback. Raises
        :class:`ConfigError` for a request that a provider would show an error page for.
        """
        with self._lock:
            return self._server.authorize(
                authorize_url, user, scope, approve=approve, more=callback_params or {}
            )

    def log_in(
        self,
        broker: Broker,
        tenant: str,
        principal: str,
        scope: str | Iterable[str] = (),
        *,
        redirect_uri: str = REDIRECT_URI,
        resource: str | None = None,
        callback_params: Mapping[str, str] | None = None,
    ) -> TokenRecord:
        """Take a user through a whole authorization; give the record, which ``broker`` has stored.

        The user of the provider is called like the ``principal``. Raises what the broker raises, and
        :class:`ConfigError` outside of the context.
        """
        if not self._is_entered:
            raise ConfigError("enter the FakeProvider first: with FakeProvider() as provider")
        session = broker.start_authorization(tenant, principal, scope, redirect_uri, resource=resource)
        callback = self.browse(session.authorize_url, user=principal, callback_params=callback_params)
        return broker.complete_authorization(session, callback)

    def expire_tokens(self) -> None:
        """End every access token issued so far; refresh tokens serve on. The broker learns it by a 401."""
        with self._lock:
            self._server.books.end_access_tokens()

    def revoke_grant(self, user: str | None = None) -> None:
        """The user withdrew consent (None: all did): their tokens are dead, renewing is invalid_grant.

        Raises :class:`ConfigError` for a user who never gave it.
        """
        with self._lock:
            books = self._server.books
            if user is None:
                books.revoke_all()
            elif user in books.subjects():
                books.revoke_subject(user)
            else:
                raise ConfigError(f"{user!r} granted nothing; who did: {sorted(books.subjects())}")

    def is_live(self, access_token: str) -> bool:
        """Whether an API would take this access token now."""
        with self._lock:
            return self._server.books.live_access(access_token) is not None

    # Calls.

    @property
    def calls(self) -> tuple[FakeCall, ...]:
        """The calls of token and revocation endpoint, in order of arrival."""
        with self._lock:
            return tuple(self._calls)

    @property
    def token_calls(self) -> tuple[FakeCall, ...]:
        """The calls of the token endpoint only."""
        return tuple(call for call in self.calls if call.endpoint != Endpoint.REVOCATION)

    def api(
        self,
        method: str,
        url: str | re.Pattern[str],
        *,
        json: Any = None,
        body: str | bytes | None = None,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        scope: str | Iterable[str] = (),
    ) -> FakeApi:
        """Put up an API that takes this provider's tokens where they belong (RFC 6750 section 2.1).

        It answers as given, 401 without a live token, 403 to a token without all of ``scope``. What ``url``
        has in its query a call must have, too, among others; a pattern must match the beginning of the whole
        address. Where several fit, the one that was put up last answers. Raises :class:`ConfigError`.
        """
        needed = tuple(scope.split() if isinstance(scope, str) else scope)
        name = f"{method.upper()} {getattr(url, 'pattern', url)}"
        api = FakeApi(name, built_answer(status, json, body, headers), needed)
        self._door.add(Route.to({method.upper()}, url, partial(self._serve_api, api)))
        self._apis.append(api)
        return api

    def add_endpoint(self, endpoint: str, url: str, *, method: str = "POST") -> None:
        """Answer at another address, too: where a strategy sends its renewals or revocations.

        ``endpoint`` is ``token``, ``refresh`` or ``revocation``; ``url`` is as for :meth:`api`.
        """
        if endpoint not in (Endpoint.TOKEN, Endpoint.REFRESH, Endpoint.REVOCATION):
            raise ConfigError("endpoint is token, refresh or revocation")
        self._door.add(Route.to({method.upper()}, url, partial(self._serve_endpoint, Endpoint(endpoint))))

    # What answers.

    def _add_endpoints(self) -> None:
        found, post = self.descriptor, {"POST"} if self.descriptor.strategy is None else {"POST", "GET"}
        addresses = {Endpoint.TOKEN: found.token_endpoint, Endpoint.REFRESH: found.refresh_endpoint}
        addresses[Endpoint.REVOCATION] = found.revocation_endpoint
        taken: set[str] = set()
        for endpoint, url in addresses.items():
            if url is not None and url not in taken:
                taken.add(url)
                self._door.add(Route.to(post, url, partial(self._serve_endpoint, endpoint)))
        if found.authorization_endpoint is not None and found.authorization_endpoint not in taken:
            self._door.add(Route.to({"GET"}, found.authorization_endpoint, self._redirect))

    def _redirect(self, request: requests.PreparedRequest) -> Answer:
        return Answer.of_redirect(self.browse(str(request.url)))

    def _serve_endpoint(self, endpoint: Endpoint, request: requests.PreparedRequest) -> Answer:
        """Answer or raise, and remember the call, all as one: calls come one after the other."""
        with self._lock:
            call = read_call(self.descriptor, endpoint, request, self._clock())
            answer = self._answer(self._server, call)
            if isinstance(answer, Exception):
                self._calls.append(call)
                raise answer
            self._calls.append(call.answered(answer.status, answer.error))
            return answer

    def _serve_api(self, api: FakeApi, request: requests.PreparedRequest) -> Answer:
        with self._lock:
            token = self._server.books.live_access(token_on(self.descriptor, request))
            return api._serve(request, token, self._clock())

    def _unmatched(self) -> list[str]:
        """Give the calls to addresses that nobody prepared, each once."""
        found = (
            f"{call.request.method} {without_query(call.request)}"
            for call in list(self.mock.calls)[self._before :]
            if isinstance(call.response, requests.ConnectionError) and _UNMATCHED in str(call.response)
        )
        return list(dict.fromkeys(found))


class _Door(responses.BaseResponse):
    """Where a mock finds all that a provider answers.

    One for all: of two responses that fit, a mock throws one away. So this one fits only where no mock of the
    user's own does, and no provider that came later.
    """

    def __init__(self, provider_id: str, mock: responses.RequestsMock) -> None:
        super().__init__("FakeProvider", provider_id)
        self._mock = mock
        self._routes: list[Route] = []

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    @property
    def call_count(self) -> int:
        """At least one: a provider that was not called is no mistake."""
        return max(1, len(self.calls))

    def add(self, route: Route) -> None:
        """Go before those that are there."""
        self._routes.append(route)

    def fits(self, request: requests.PreparedRequest) -> bool:
        """Whether one of the routes does."""
        return any(route.fits(request) for route in self._routes)

    def matches(self, request: requests.PreparedRequest) -> tuple[bool, str]:
        """Whether this provider, and nobody else, answers the request."""
        if not self.fits(request):
            return False, f"answers {', '.join(map(str, self._routes))}"
        return (False, "Another mock answers") if self._yields(request) else (True, "")

    def get_response(self, request: requests.PreparedRequest) -> Any:
        """Give the answer as urllib3 does, or raise."""
        route = next(route for route in reversed(self._routes) if route.fits(request))
        answer = route.handler(request)
        headers = dict(answer.headers)
        kind = headers.pop("Content-Type", None)
        ready = responses.Response(
            str(request.method),
            str(request.url),
            body=answer.body,
            status=answer.status,
            headers=headers,
            content_type=kind,
        )
        return ready.get_response(request)

    def _yields(self, request: requests.PreparedRequest) -> bool:
        is_later = False
        for other in self._mock.registered():
            if other is self:
                is_later = True
            elif not isinstance(other, _Door):
                if other.matches(request)[0]:
                    return True
            elif is_later and other.fits(request):
                return True
        return False
