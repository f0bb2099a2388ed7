"""OAuth on the wire, outbound: authorization URLs and token requests. Pure; no I/O.

The only file that imports oauthlib, and inside functions, so that a start which finds its token in the store
does not pay for it. Functions that hold plain secrets return what went wrong instead of raising it, so that
no traceback shows their locals.
"""

from __future__ import annotations

import base64
import copy
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote_plus

from oauth2broker.client import Client
from oauth2broker.errors import BrokerError, ConfigError
from oauth2broker.frozen import FrozenMapping
from oauth2broker.grants import GrantType
from oauth2broker.provider.descriptor import ClientAuthMethod, ProviderDescriptor
from oauth2broker.provider.strategy import ProviderStrategy
from oauth2broker.scopes import ScopeSet
from oauth2broker.secret import TokenSecret
from oauth2broker.transports.base import HttpRequest


def new_state() -> str:
    """Give a fresh ``state`` (RFC 6749 section 10.12)."""
    return secrets.token_urlsafe(32)


def new_code_verifier() -> TokenSecret:
    """Give a fresh code verifier (RFC 7636 section 4.1)."""
    return TokenSecret(secrets.token_urlsafe(48))


def build_code_challenge(verifier: TokenSecret) -> str:
    """Give the S256 challenge of ``verifier`` (RFC 7636 section 4.2)."""
    from oauthlib.oauth2 import WebApplicationClient

    client = WebApplicationClient("unused")
    return str(client.create_code_challenge(verifier.expose(), "S256"))


def build_authorization_url(endpoint: str, params: Mapping[str, str]) -> str:
    """Give the URL to send the user to (RFC 6749 section 4.1.1)."""
    from oauthlib.common import add_params_to_uri

    return str(add_params_to_uri(endpoint, list(params.items())))


def format_scope(scope: ScopeSet, delimiter: str) -> dict[str, str]:
    """Give the ``scope`` parameter, or nothing when no scope is asked for."""
    return {"scope": delimiter.join(scope)} if scope else {}


def build_token_request(
    descriptor: ProviderDescriptor,
    strategy: ProviderStrategy,
    client: Client,
    grant: GrantType,
    params: Mapping[str, str | TokenSecret],
) -> HttpRequest | BrokerError:
    """Give the request that presents ``params`` (RFC 6749 sections 4.1.3, 4.4.2 and 6), or what is wrong."""
    form = {"grant_type": str(grant), **descriptor.token_params}
    form.update((name, _plain(value)) for name, value in params.items())
    error: BrokerError | None = None
    try:
        strategy.augment_token_request(grant, form)
    except BrokerError as raised:
        error = copy.copy(raised)  # without its traceback, whose frames hold the form
    except Exception as raised:  # noqa: BLE001 - a hook may raise anything
        error = ConfigError(f"the strategy's augment_token_request failed ({type(raised).__name__})")
    if error is None and not is_form(form):
        error = ConfigError("the strategy's augment_token_request left what cannot be sent")
    if error is not None:
        return error
    single_use = grant is not GrantType.CLIENT_CREDENTIALS
    return _form_request(descriptor.token_endpoint, client, form, single_use=single_use)


def build_revocation_request(endpoint: str, client: Client, token: TokenSecret, hint: str) -> HttpRequest:
    """Give the request that revokes ``token`` (RFC 7009 section 2.1)."""
    form = {"token": token.expose(), "token_type_hint": hint}
    return _form_request(endpoint, client, form, single_use=False)


def is_form(params: Mapping[Any, Any]) -> bool:
    """Whether names and values are text that has an encoding (surrogates have none)."""
    try:
        "".join(part for pair in params.items() for part in pair).encode()
    except (TypeError, UnicodeEncodeError):
        return False
    return True


def _form_request(url: str, client: Client, form: dict[str, str], *, single_use: bool) -> HttpRequest:
    from oauthlib.common import urlencode

    headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
    match client.method:
        case ClientAuthMethod.CLIENT_SECRET_BASIC:
            headers["Authorization"] = _basic(client)
        case ClientAuthMethod.CLIENT_SECRET_POST:
            form["client_id"], form["client_secret"] = client.client_id, _plain(client.secret or "")
        case ClientAuthMethod.NONE:
            form["client_id"] = client.client_id
    body = urlencode(list(form.items())).encode("ascii")
    return HttpRequest("POST", url, FrozenMapping(headers), body, single_use)


def _basic(client: Client) -> str:
    """HTTP Basic with both parts form-encoded first (RFC 6749 section 2.3.1)."""
    pair = f"{quote_plus(client.client_id)}:{quote_plus(_plain(client.secret or ''))}"
    return "Basic " + base64.b64encode(pair.encode("ascii")).decode("ascii")


def _plain(value: str | TokenSecret) -> str:
    return value.expose() if isinstance(value, TokenSecret) else value
