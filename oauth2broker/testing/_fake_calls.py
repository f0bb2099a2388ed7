"""What `FakeProvider` remembers of the calls that it got, and how it reads them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote_plus, urlsplit

from oauth2broker.provider.descriptor import ProviderDescriptor

if TYPE_CHECKING:
    from requests import PreparedRequest

_CREDENTIALS = ("client_secret", "client_assertion")
_SHOWN = frozenset({"grant_type", "client_id", "scope", "redirect_uri", "resource", "token_type_hint"})


class Params(dict[str, str]):
    """The parameters of a call. Its repr shows no value that could be a secret."""

    def __repr__(self) -> str:
        shown = {name: value if name in _SHOWN else "***" for name, value in self.items()}
        return f"Params({shown})"


@dataclass(frozen=True, slots=True)
class FakeCall:
    """One call of the token or revocation endpoint.

    ``endpoint`` is ``token``, ``refresh`` (where a provider renews elsewhere) or ``revocation``. ``params``
    are the parameters by their names in the RFCs, tokens and code included, the client's secret or assertion
    not. ``client_auth`` is how the client authenticated: ``basic``, ``post``, ``assertion`` or ``none``.
    ``status`` and the ``error`` code are what was answered, None when there was no answer; ``at`` is when.
    ``request`` is the whole request, secrets and all. The repr shows none of them.
    """

    endpoint: str
    url: str
    grant_type: str
    client_id: str
    client_auth: str
    scope: str
    at: datetime
    params: Params = field(repr=False)
    request: PreparedRequest = field(repr=False, compare=False)
    status: int | None = None
    error: str | None = None

    def answered(self, status: int, error: str | None) -> FakeCall:
        """Give the call with what was answered."""
        return replace(self, status=status, error=error)


@dataclass(frozen=True, slots=True)
class ApiCall:
    """One call of an API. ``user`` is whose live token it brought, None without one."""

    method: str
    url: str
    user: str | None
    at: datetime
    request: PreparedRequest = field(repr=False, compare=False)
    status: int | None = None


def read_call(
    descriptor: ProviderDescriptor, endpoint: str, request: PreparedRequest, at: datetime
) -> FakeCall:
    """Take a request to the provider apart, whatever it is."""
    params = Params(given_names(descriptor, _params(request)))
    client_id, client_auth = _client(descriptor, request, params)
    for name in _CREDENTIALS:
        params.pop(name, None)
    return FakeCall(
        endpoint=endpoint,
        url=without_query(request),
        grant_type=_grant_type(descriptor, endpoint, params),
        client_id=client_id,
        client_auth=client_auth,
        scope=params.get("scope", ""),
        at=at,
        params=params,
        request=request,
    )


def given_names(descriptor: ProviderDescriptor, params: Mapping[str, str]) -> dict[str, str]:
    """Give parameters the names that they have in the RFCs."""
    names = {theirs: ours for ours, theirs in descriptor.quirks.param_names.items() if theirs}
    return {names.get(name, name): value for name, value in params.items()}


def without_query(request: PreparedRequest) -> str:
    """Give the address of a request without its parameters, which may be secret."""
    parts = urlsplit(str(request.url))
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def token_on(descriptor: ProviderDescriptor, request: PreparedRequest) -> str:
    """Give the token that a request carries where this provider's APIs want it."""
    quirks = descriptor.quirks
    carried = str(request.headers.get(quirks.api_header, ""))
    scheme = "Bearer" if quirks.api_scheme is None else quirks.api_scheme
    if not scheme:
        return carried
    stated, _, token = carried.partition(" ")
    return token if stated.lower() == scheme.lower() else ""


def _text_of(request: PreparedRequest) -> str:
    """Give the body of a request."""
    body = request.body or ""
    return body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body)


def _params(request: PreparedRequest) -> dict[str, str]:
    found = dict(parse_qsl(urlsplit(str(request.url)).query, keep_blank_values=True))
    text = _text_of(request)
    if "json" not in str(request.headers.get("Content-Type", "")):
        return {**found, **dict(parse_qsl(text, keep_blank_values=True))}
    try:
        members = json.loads(text)
    except ValueError:
        members = None
    return {**found, **{k: str(v) for k, v in members.items()}} if isinstance(members, dict) else found


def _grant_type(descriptor: ProviderDescriptor, endpoint: str, params: Mapping[str, str]) -> str:
    """Give the grant, also at a provider that gives it another name, or leaves it out."""
    named = params.get("grant_type", "")
    if endpoint == "revocation" or named in {"authorization_code", "refresh_token", "client_credentials"}:
        return named
    for grant, given in descriptor.grant_params.items():
        if named and given.get("grant_type") == named:
            return str(grant)
    if "code" in params:
        return "authorization_code"
    if endpoint == "refresh" or "refresh_token" in params:
        return "refresh_token"
    is_left_out = descriptor.quirks.param_names.get("grant_type", "") is None
    return "client_credentials" if is_left_out else named


def _client(
    descriptor: ProviderDescriptor, request: PreparedRequest, params: Mapping[str, str]
) -> tuple[str, str]:
    scheme, _, credentials = str(request.headers.get("Authorization", "")).partition(" ")
    if scheme.lower() == "basic":
        return _basic(credentials, descriptor), "basic"
    if "client_assertion" in params:
        return params.get("client_id", ""), "assertion"
    return params.get("client_id", ""), "post" if "client_secret" in params else "none"


def _basic(credentials: str, descriptor: ProviderDescriptor) -> str:
    """Give the client id, or nothing where a strategy leaves it out: a key alone is no pair."""
    try:
        client_id, _, secret = base64.b64decode(credentials).decode().partition(":")
    except ValueError:
        return ""
    if descriptor.strategy is not None and not secret:
        return ""
    return client_id if descriptor.quirks.plain_basic else unquote_plus(client_id)
