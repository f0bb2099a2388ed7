"""A provider that answers as it is told, and what it was sent, taken apart."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from oauth2broker import (
    AuthorizationSession,
    Broker,
    CachedTokenRequest,
    HttpRequest,
    HttpResponse,
    ProviderDescriptor,
    ResponseMetadataSlot,
    TokenRecord,
)
from oauth2broker.client_auth.sources import SecretLike
from tests.support import REDIRECT_URI, TENANT, USER, ManualClock

CLIENT_ID, CLIENT_SECRET = "client id/example", "client secret:example"
CODE = "code-example"


@dataclass(frozen=True)
class Answer:
    """What the provider says: ``body`` is a JSON value, or text as it stands."""

    body: Any = ""
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    def respond(self) -> HttpResponse:
        """Give the answer as a transport does."""
        text = self.body if isinstance(self.body, str) else json.dumps(self.body)
        return HttpResponse(self.status, {"Content-Type": self.content_type, **self.headers}, text.encode())


@dataclass(frozen=True)
class Sent:
    """One request. ``params`` are those of form, JSON object or query, whichever ``place`` says (None: none).

    ``client`` is how it was authenticated: ``Basic user:password``, another scheme with its credentials, or
    None when there is no such header.
    """

    method: str
    url: str
    place: str | None
    params: Mapping[str, Any]
    client: str | None
    headers: Mapping[str, str]


class Provider:
    """A transport that gives ``answers`` in their order and keeps what it was ``sent``."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.sent: list[Sent] = []

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        """Take ``request`` apart and give the next answer; without one, the network is down."""
        metadata.take()
        self.sent.append(read_request(request))
        if not self.answers:
            raise OSError(f"cannot reach {request.url}")
        return self.answers.pop(0).respond()


class Story:
    """One user of one provider: what is done with the public flow, and the provider that it is done to."""

    def __init__(
        self,
        descriptor: ProviderDescriptor,
        *answers: Answer,
        secret: SecretLike | None = CLIENT_SECRET,
        scope: str = "",
    ) -> None:
        self.clock = ManualClock()
        self.provider = Provider(*answers)
        self.broker = Broker(descriptor, CLIENT_ID, secret, http_client=self.provider, clock=self.clock)
        self.request = CachedTokenRequest(TENANT, USER, scope)

    @property
    def sent(self) -> Sent:
        """The last request."""
        return self.provider.sent[-1]

    @property
    def stored(self) -> TokenRecord | None:
        """The user's record."""
        return self.broker.store.fetch(self.broker.key_for(self.request))

    def start(self, **extra_params: str) -> AuthorizationSession:
        """Send the user to the provider."""
        return self.broker.start_authorization(
            TENANT, USER, self.request.scope, REDIRECT_URI, extra_params=extra_params
        )

    def log_in(self, **callback: str) -> TokenRecord:
        """Come back with a code and what else the provider puts into its callback."""
        session = self.start()
        return self.broker.complete_authorization(session, {"state": session.state, "code": CODE, **callback})

    def renew(self) -> TokenRecord:
        """Want another token than the one that is stored, a second later."""
        self.clock.advance(1)
        return self.broker.refresh_access_token(self.request.force_refresh())

    def revoke(self) -> TokenRecord | None:
        """End the grant."""
        return self.broker.revoke(self.request)


def query_of(url: str) -> dict[str, str]:
    """Give the parameters of a URL."""
    return dict(parse_qsl(urlsplit(url).query, keep_blank_values=True, strict_parsing=True))


def read_request(request: HttpRequest) -> Sent:
    """Take a request apart."""
    headers = {name.lower(): value for name, value in request.headers.items()}
    url, mark, query = request.url.partition("?")
    place: str | None = None
    params: Mapping[str, Any] = {}
    if request.body and headers["content-type"] == "application/json":
        place, params = "json", json.loads(request.body)
    elif request.body:
        assert headers["content-type"] == "application/x-www-form-urlencoded"
        place, params = "form", dict(parse_qsl(request.body.decode(), strict_parsing=True))
    if mark:
        assert place is None
        place, params = "query", dict(parse_qsl(query, strict_parsing=True))
    return Sent(request.method, url, place, params, _client(headers.get("authorization")), headers)


def _client(authorization: str | None) -> str | None:
    scheme, _, credentials = (authorization or "").partition(" ")
    if scheme == "Basic":
        return f"Basic {base64.b64decode(credentials).decode()}"
    return authorization
