"""The compliance hooks of requests-oauthlib, on the token calls of a broker.

What holds a plain secret here gives what went wrong instead of raising it, so that no traceback shows it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import requests
from requests.utils import get_encoding_from_headers

from oauth2broker.errors import BrokerError, ConfigError
from oauth2broker.flows.transport import CallAmendments, call_amendments
from oauth2broker.frozen import FrozenMapping
from oauth2broker.grants import GrantType
from oauth2broker.obs import logger
from oauth2broker.transports.base import HttpRequest, HttpResponse
from oauth2broker.urls import checked_endpoint

Hook = Callable[..., Any]
Hooks = Mapping[str, Collection[Hook]]

_AUTHORIZATION, _CONTENT_TYPE = "authorization", "content-type"
_JSON, _FORM = "application/json", "application/x-www-form-urlencoded"
_PREPARED = frozenset({"data", "params", "json", "auth", "cookies"})
_NOT_OURS = frozenset({"timeout"})  # the transport has bounds of its own


@contextmanager
def amended(amendments: CallAmendments | None) -> Iterator[None]:
    """Have ``amendments`` change the token calls that this thread makes in here."""
    token = call_amendments.set(amendments)
    try:
        yield
    finally:
        call_amendments.reset(token)


class ComplianceHooks:
    """Shows the token calls of one call of a broker to ``hooks``, by their names. For one thread.

    The hooks see what requests-oauthlib shows them: URL, headers and either what goes to requests (a dict
    with ``data``) or the body of a renewal; then a :class:`requests.Response`. The ``Authorization`` header
    of the client is not among the headers; a hook that sets one replaces it. ``stopped`` says that a hook
    failed before a request was sent.
    """

    def __init__(self, hooks: Hooks) -> None:
        self.stopped = False
        self._hooks = hooks
        self._method, self._url = "POST", ""

    def amend_request(self, grant: GrantType, request: HttpRequest) -> HttpRequest | BrokerError:
        """Give what the hooks made of ``request``; a :class:`ConfigError` when one of them fails."""
        self._method, self._url = request.method, _without_query(request.url)
        name = f"{_kind(grant)}_token_request"
        hooks = tuple(self._hooks.get(name, ()))
        if not hooks:
            return request
        show = _show_renewal if grant is GrantType.REFRESH_TOKEN else _show_exchange
        found: HttpRequest | ConfigError
        try:
            with amended(None):
                found = show(hooks, request)
        except ConfigError as error:
            found = copy.copy(error)  # without its traceback, whose frames hold the request
        except Exception as raised:  # noqa: BLE001 - a hook may raise anything
            found = ConfigError(f"a {name} hook failed ({type(raised).__name__}); nothing was sent")
        self.stopped = isinstance(found, ConfigError)
        return found

    def amend_response(self, grant: GrantType, response: HttpResponse) -> HttpResponse:
        """Give what the hooks made of ``response``, or ``response`` when one of them fails.

        A refresh token that the hooks do not mention is kept, and an answer that brought one stays a
        success: it may be the only one that still works.
        """
        name = f"{_kind(grant)}_token_response"
        hooks = tuple(self._hooks.get(name, ()))
        if not hooks:
            return response
        try:
            shown = _shown(response, self._method, self._url)
            with amended(None):
                for hook in hooks:
                    shown = hook(shown)
            return _with_refresh_token(_read(shown), response)
        except Exception as raised:  # noqa: BLE001 - and the answer may hold a token
            failed = type(raised).__name__
        logger.warning("a %s hook failed (%s); the answer is read as it came", name, failed)
        return response


def _kind(grant: GrantType) -> str:
    return "refresh" if grant is GrantType.REFRESH_TOKEN else "access"


# Requests. These may raise; their caller lets nothing of it out but the type.


def _show_exchange(hooks: Collection[Hook], request: HttpRequest) -> HttpRequest:
    url, headers, given = request.url, _without_authorization(request), {}
    if not request.body:
        url, given = _without_query(url), {"params": dict(_pairs(urlsplit(url).query))}
    elif _is_json(request):
        given = {"json": json.loads(request.body)}
    else:
        given = {"data": dict(_pairs(request.body.decode()))}
    for hook in hooks:
        url, headers, given = hook(url, headers, given)
    return _prepared(request, url, headers, {k: v for k, v in given.items() if k not in _NOT_OURS})


def _show_renewal(hooks: Collection[Hook], request: HttpRequest) -> HttpRequest:
    in_query = not request.body
    url = _without_query(request.url) if in_query else request.url
    headers = _without_authorization(request)
    body = urlsplit(request.url).query if in_query else request.body.decode()
    for hook in hooks:
        url, headers, body = hook(url, headers, body)
    body = body.decode() if isinstance(body, bytes) else body
    if _is_json(request):
        return _prepared(request, url, headers, {"data": body})
    return _prepared(request, url, headers, {"params" if in_query else "data": dict(_pairs(body))})


def _prepared(
    request: HttpRequest, url: str, headers: Mapping[str, str], given: Mapping[str, Any]
) -> HttpRequest:
    """Encode as requests does; the client's ``Authorization`` stays unless a hook set another."""
    unknown = sorted(given.keys() - _PREPARED)
    if unknown:
        raise ConfigError(f"an access_token_request hook asks for {unknown}: that is up to the http_client")
    found = requests.Request(request.method, url, dict(headers), **given).prepare()
    checked_endpoint("the URL that a hook gave", found.url or "")
    ours = {name: value for name, value in request.headers.items() if name.lower() == _AUTHORIZATION}
    found.headers.update({} if _AUTHORIZATION in found.headers else ours)
    found.headers.pop("Content-Length", None)
    body = found.body or b""
    if not all(part.isascii() and part.isprintable() for pair in found.headers.items() for part in pair):
        raise ConfigError("a hook left headers that cannot be sent")
    return HttpRequest(
        found.method or request.method,
        found.url or "",
        FrozenMapping(dict(found.headers)),
        body if isinstance(body, bytes) else body.encode(),
        request.single_use,
        request.public_only,
    )


def _without_authorization(request: HttpRequest) -> dict[str, str]:
    return {name: value for name, value in request.headers.items() if name.lower() != _AUTHORIZATION}


def _is_json(request: HttpRequest) -> bool:
    types = [value for name, value in request.headers.items() if name.lower() == _CONTENT_TYPE]
    return any(value.startswith(_JSON) for value in types)


def _pairs(encoded: str) -> list[tuple[str, str]]:
    return parse_qsl(encoded, keep_blank_values=True)


def _without_query(url: str) -> str:
    return urlunsplit(urlsplit(url)._replace(query=""))


# Answers.


def _shown(response: HttpResponse, method: str, url: str) -> requests.Response:
    shown = requests.Response()
    shown.status_code, shown.url = response.status, url
    shown.headers.update(response.headers)
    shown.encoding = get_encoding_from_headers(shown.headers)
    shown.request = requests.Request(method, url).prepare() if url else requests.PreparedRequest()
    shown._content = response.body  # as the hooks themselves write it
    return shown


def _read(shown: requests.Response) -> HttpResponse:
    status, body = shown.status_code, shown.content
    if type(status) is not int or type(body) is not bytes:
        raise TypeError
    return HttpResponse(status, dict(shown.headers), body)


def _with_refresh_token(found: HttpResponse, came: HttpResponse) -> HttpResponse:
    """Give ``found`` with the refresh token that came, where it says nothing of one."""
    before = _members(came)
    brought = next((member["refresh_token"] for member in _holding(before, "refresh_token")), None)
    if not isinstance(brought, str) or not brought or not 200 <= came.status < 300:
        return found
    after = _members(found)
    if not isinstance(after, dict):
        raise TypeError
    if any(_holding(after, "refresh_token")):
        return HttpResponse(came.status, found.headers, found.body)
    next(iter(_holding(after, "access_token")), after)["refresh_token"] = brought
    headers = {**found.headers, _CONTENT_TYPE: _JSON}
    return HttpResponse(came.status, headers, json.dumps(after).encode())


def _members(response: HttpResponse) -> Any:
    """Give the JSON value or the form in an answer; None for neither."""
    try:
        return json.loads(response.body)
    except (ValueError, RecursionError):
        is_form = response.headers.get(_CONTENT_TYPE, "").startswith(_FORM)
        return dict(_pairs(response.body.decode("utf-8", "replace"))) if is_form else None


def _holding(value: Any, name: str) -> Iterator[dict[str, Any]]:
    """Give the objects in ``value`` that have a member ``name``, outermost first."""
    if isinstance(value, dict):
        if name in value:
            yield value
        for inner in value.values():
            yield from _holding(inner, name)
