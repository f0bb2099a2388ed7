"""OAuth on the wire, outbound: authorization URLs and token requests. Pure; no I/O.

The only file that imports oauthlib, and inside functions, so that a start which finds its token in the store
does not pay for it. Functions that hold plain secrets return what went wrong instead of raising it, so that
no traceback shows their locals.
"""

from __future__ import annotations

import copy
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from oauth2broker.client import Client
from oauth2broker.errors import BrokerError, ConfigError
from oauth2broker.frozen import FrozenMapping
from oauth2broker.grants import GrantType
from oauth2broker.provider.checks import checked_member
from oauth2broker.provider.descriptor import ProviderDescriptor
from oauth2broker.provider.kinds import BodyFormat, Endpoint
from oauth2broker.provider.strategy import ProviderStrategy, RequestDraft
from oauth2broker.records import TokenRecord
from oauth2broker.scopes import ScopeSet
from oauth2broker.secret import TokenSecret
from oauth2broker.transports.base import HttpRequest
from oauth2broker.urls import checked_endpoint


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
    """Give the URL to send the user to (RFC 6749 section 4.1.1), spaces as ``%20``, which all understand."""
    from oauthlib.common import urlencode

    query = urlencode(list(params.items())).replace("+", "%20")
    return f"{endpoint}{'&' if '?' in endpoint else '?'}{query}"


def format_scope(scope: ScopeSet, delimiter: str) -> dict[str, str]:
    """Give the ``scope`` parameter, or nothing when no scope is asked for."""
    return {"scope": delimiter.join(scope)} if scope else {}


def format_resource(descriptor: ProviderDescriptor, resource: str | None) -> dict[str, str]:
    """Give the parameter that names a resource (RFC 8707 section 2), or nothing when none is asked for."""
    if resource is None:
        return {}
    if descriptor.resource_param is None:
        raise ConfigError(f"provider {descriptor.id} takes no resource")
    return {descriptor.resource_param: resource}


@dataclass(frozen=True, slots=True)
class BuiltRequest:
    """A request ready to be sent, and the secrets in it."""

    request: HttpRequest
    secrets: tuple[TokenSecret, ...] = field(repr=False)


def build_token_request(
    descriptor: ProviderDescriptor,
    strategy: ProviderStrategy,
    client: Client,
    grant: GrantType,
    params: Mapping[str, str | TokenSecret],
    extra: Mapping[str, Any],
    now: datetime,
) -> BuiltRequest | BrokerError:
    """Give the request that presents ``params`` (RFC 6749 sections 4.1.3, 4.4.2 and 6), or what is wrong.

    ``extra`` is what is kept with the record, or what the callback brought.
    """
    form = {"grant_type": str(grant), **descriptor.token_params, **descriptor.grant_params.get(grant, {})}
    form.update((name, _plain(value)) for name, value in params.items())
    error = call_hook("augment_token_request", lambda: strategy.augment_token_request(grant, form))
    if error is None and not is_form(form):
        error = ConfigError("the strategy's augment_token_request left what cannot be sent")
    if error is not None:
        return error
    renews = grant is GrantType.REFRESH_TOKEN
    endpoint = Endpoint.REFRESH if renews else Endpoint.TOKEN
    url = (descriptor.refresh_endpoint if renews else None) or descriptor.token_endpoint
    draft = RequestDraft(endpoint, grant, extra, url, form, _headers(descriptor), descriptor.body_format)
    single_use = grant is not GrantType.CLIENT_CREDENTIALS
    return _finished(descriptor, strategy, client, draft, params.values(), now, single_use=single_use)


def build_revocation_request(
    descriptor: ProviderDescriptor,
    strategy: ProviderStrategy,
    client: Client,
    url: str,
    record: TokenRecord,
    now: datetime,
) -> BuiltRequest | BrokerError | None:
    """Give the request that revokes ``record`` (RFC 7009 section 2.1), or what is wrong.

    None: no token is left in it.
    """
    token, hint = record.refresh_token, "refresh_token"
    if not token or descriptor.quirks.revoke_access_token:
        token, hint = record.access_token, "access_token"
    if not token:
        return None
    form = {"token": token.expose(), "token_type_hint": hint}
    headers, body_format = _headers(descriptor), descriptor.body_format
    draft = RequestDraft(Endpoint.REVOCATION, record.grant, record.extra, url, form, headers, body_format)
    return _finished(descriptor, strategy, client, draft, [token], now, single_use=False)


def call_hook(name: str, hook: Callable[[], object]) -> BrokerError | None:
    """Call a hook that changes something in place, and give what came of it as an error. Never raises."""
    try:
        hook()
    except BrokerError as raised:
        return copy.copy(raised)  # without its traceback, whose frames hold the form
    except Exception as raised:  # noqa: BLE001 - a hook may raise anything
        return ConfigError(f"the strategy's {name} failed ({type(raised).__name__})")
    return None


def rename_params(descriptor: ProviderDescriptor, params: dict[str, str]) -> None:
    """Give RFC parameters the names that they have at this provider, in place."""
    names = descriptor.quirks.param_names
    given = [(names.get(name, name), value) for name, value in params.items()]
    params.clear()
    params.update((name, value) for name, value in given if name is not None)


def is_form(params: Mapping[Any, Any]) -> bool:
    """Whether names and values are text that has an encoding (surrogates have none)."""
    try:
        "".join(part for pair in params.items() for part in pair).encode()
    except (TypeError, UnicodeEncodeError):
        return False
    return True


def _plain(value: str | TokenSecret) -> str:
    return value.expose() if isinstance(value, TokenSecret) else value


def _headers(descriptor: ProviderDescriptor) -> dict[str, str]:
    ours = {"Accept": "application/json"}
    given = {name.title() for name in descriptor.token_headers}
    return {name: value for name, value in ours.items() if name not in given} | {**descriptor.token_headers}


def _finished(
    descriptor: ProviderDescriptor,
    strategy: ProviderStrategy,
    client: Client,
    draft: RequestDraft,
    presented: Iterable[str | TokenSecret],
    now: datetime,
    *,
    single_use: bool,
) -> BuiltRequest | BrokerError:
    """Authenticate, rename, let the strategy have the last word, and encode."""
    added = client.authenticate(draft, now)
    if isinstance(added, BrokerError):
        return added
    rename_params(descriptor, draft.form)
    error = call_hook("shape_request", lambda: strategy.shape_request(draft)) or _unsendable(draft)
    if error is not None:
        return error
    held = [value for value in presented if isinstance(value, TokenSecret)]
    if "Authorization" in draft.headers:  # also one that the strategy made
        held.append(TokenSecret(draft.headers["Authorization"].rpartition(" ")[2]))
    return BuiltRequest(_encoded(draft, single_use=single_use), (*held, *added))


def _unsendable(draft: RequestDraft) -> ConfigError | None:
    """Give what keeps ``draft`` from being sent, as code of the caller's may have left it."""
    try:
        checked_endpoint("the request's URL", draft.url)
        draft.body_format = checked_member("body_format", BodyFormat, draft.body_format)
        fits = is_form(draft.form) and is_form(draft.headers) and draft.method.isalpha()
    except ConfigError as error:
        return ConfigError(f"the strategy's shape_request: {error}")
    except AttributeError:
        fits = False
    if fits and all(v.isascii() and v.isprintable() for pair in draft.headers.items() for v in pair):
        return None
    return ConfigError("the strategy's shape_request or the client_auth left what cannot be sent")


def _encoded(draft: RequestDraft, *, single_use: bool) -> HttpRequest:
    from oauthlib.common import urlencode

    url, headers = draft.url, dict(draft.headers)
    if draft.body_format is BodyFormat.JSON:
        headers["Content-Type"] = "application/json"
    elif draft.body_format is BodyFormat.FORM:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    elif draft.form:
        url += f"{'&' if '?' in url else '?'}{urlencode(list(draft.form.items()))}"
    return HttpRequest(draft.method, url, FrozenMapping(headers), draft.body, single_use)
