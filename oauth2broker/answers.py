"""OAuth on the wire, inbound: what a provider's answer says, whatever it is. Pure; no I/O.

Functions that hold plain secrets return what went wrong instead of raising it, so that no traceback shows
their locals.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from oauth2broker.bodies import parse_body, rescue_refresh_token
from oauth2broker.errors import (
    AuthorizationError,
    BrokerError,
    ConfigError,
    InsufficientScopeError,
    InvalidClientError,
    InvalidGrantError,
    TransientError,
)
from oauth2broker.grants import GrantType
from oauth2broker.payloads import OWN_MEMBERS, TokenAnswer, parse_members, read_refresh_token
from oauth2broker.provider.checks import is_error_code
from oauth2broker.provider.descriptor import ProviderDescriptor
from oauth2broker.provider.quirks import ProviderQuirks
from oauth2broker.provider.strategy import (
    STANDARD_ERRORS,
    ProviderErrorContext,
    ProviderErrorKind,
    ProviderStrategy,
)
from oauth2broker.quoting import safe_text
from oauth2broker.secret import TokenSecret
from oauth2broker.transports.base import HttpResponse, ResponseMetadata

_NOTHING_TO_REVOKE = ("unsupported_token_type", "invalid_token", "invalid_grant")
_MOST_CODES = 10**12
_DESCRIPTIONS = ("error_description", "error_message", "message", "msg", "detail")  # the RFC's comes first
_PLACES = ("error", "error_code", "code")  # where a code that is known is found without being told
_TOKENS = frozenset({"access_token", "refresh_token"})


@dataclass(frozen=True, slots=True)
class TokenFailure:
    """A token request that brought no usable token.

    ``settled``: it is known that the credential presented was not spent (nothing was sent, or the provider
    said so). ``refresh_token``: one that came all the same, in an answer that could not be used.
    """

    error: BrokerError
    settled: bool
    refresh_token: TokenSecret | None = None


def read_token_answer(
    response: HttpResponse,
    grant: GrantType,
    descriptor: ProviderDescriptor,
    strategy: ProviderStrategy,
    sent: Iterable[TokenSecret],
    callback: Mapping[str, str],
) -> TokenAnswer | TokenFailure:
    """Read an answer of the token endpoint, whatever it is. Never raises.

    ``sent`` are the secrets of the request; they are blotted out of the provider's error texts. ``callback``
    is what is kept of the callback; it joins what the answer says, and overrides nothing.
    """
    metadata = ResponseMetadata.from_headers(response.status, response.headers)
    if 300 <= response.status < 400:
        return _redirect("token", response.status)
    payload = parse_body(response)
    quirks = descriptor.quirks
    is_dead = _is_dead(payload, response.status, grant, quirks)
    if not is_dead and _is_challenge(response, payload, quirks):
        message = "the provider wants other client authentication"
        return TokenFailure(InvalidClientError(message, status=metadata.status), settled=False)
    if isinstance(payload, str):
        return _unreadable(payload, metadata, rescue_refresh_token(response))
    members = {**callback, **_unwrapped(payload, quirks.token_path)}
    if _is_error(response.status, payload, members):
        return _read_error(payload, metadata, grant, descriptor, strategy, sent)
    answer = _read_success(members, metadata, grant, descriptor, strategy)
    codes = _codes(payload, quirks)
    if (codes or is_dead) and isinstance(answer, TokenFailure) and answer.refresh_token is None:
        failure = _read_error(payload, metadata, grant, descriptor, strategy, sent)
        return replace(failure, settled=is_dead or any(_is_known(code, quirks) for code in codes))
    return answer


def read_revocation_failure(
    response: HttpResponse,
    grant: GrantType,
    descriptor: ProviderDescriptor,
    strategy: ProviderStrategy,
    sent: Iterable[TokenSecret],
) -> TokenFailure | None:
    """Read the revocation endpoint's answer (RFC 7009 section 2.2); None: nothing is left to revoke."""
    if 300 <= response.status < 400:
        return _redirect("revocation", response.status)
    payload, quirks = parse_body(response), descriptor.quirks
    code = _error_code(payload, quirks) if isinstance(payload, dict) else None
    if code is not None and quirks.error_codes.get(code, code) in _NOTHING_TO_REVOKE:
        return None
    if 200 <= response.status < 300:  # an error is known, or stands where the RFC has it
        is_error = isinstance(payload, dict) and _is_error(response.status, payload, payload)
        if not is_error and (code is None or not _is_known(code, quirks)):
            return None
    metadata = ResponseMetadata.from_headers(response.status, response.headers)
    if isinstance(payload, str):
        return _unreadable(payload, metadata)
    return _read_error(payload, metadata, grant, descriptor, strategy, sent, "the revocation")


def _redirect(endpoint: str, status: int) -> TokenFailure:
    message = f"the {endpoint} endpoint redirects, which is refused; configure its final address"
    return TokenFailure(ConfigError(message, status=status), settled=False)


def _is_error(status: int, payload: Mapping[str, Any], members: Mapping[str, Any]) -> bool:
    """Whether ``payload`` is a refusal by what all providers do; ``members`` are those of the token in it."""
    if not 200 <= status < 300:
        return True
    if read_refresh_token(members) is not None:
        return False  # an answer that brings a refresh token is no refusal, whatever else it says
    return bool(payload.get("error")) or payload.get("ok") is False


def _error_code(payload: Mapping[str, Any], quirks: ProviderQuirks) -> str | None:
    """Give the provider's own code: the first that we know, else the first there is."""
    codes = _codes(payload, quirks)
    if isinstance(payload.get("error"), str):
        codes += filter(None, [_code_at(payload, "error")])
    codes += [code for name in _PLACES if (code := _code_at(payload, name)) and _is_known(code, quirks)]
    return next((code for code in codes if _is_known(code, quirks)), next(iter(codes), None))


def _codes(payload: Mapping[str, Any], quirks: ProviderQuirks) -> list[str]:
    """Give the codes at this provider's own places for them."""
    return [code for path in quirks.error_paths if (code := _code_at(payload, path)) is not None]


def _is_known(code: str, quirks: ProviderQuirks) -> bool:
    return code in quirks.error_codes or code in STANDARD_ERRORS


def _code_at(payload: Mapping[str, Any], path: str) -> str | None:
    value = _dig(payload, path)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < abs(value) < _MOST_CODES:
        value = f"{value:.0f}"  # some providers number theirs
    code = safe_text(value, limit=64)
    return code if code is not None and is_error_code(code) else None


def _is_dead(payload: Mapping[str, Any] | str, status: int, grant: GrantType, quirks: ProviderQuirks) -> bool:
    """Whether an answer, if it is a refusal, says in words that the refresh token is dead."""
    if isinstance(payload, str) or grant is not GrantType.REFRESH_TOKEN or status == 429 or status >= 500:
        return False
    said = [text.lower() for text in _descriptions(payload, quirks)]
    return any(dead in text for dead in quirks.dead_refresh_texts for text in said)


def _descriptions(payload: Mapping[str, Any], quirks: ProviderQuirks) -> list[str]:
    """Give the provider's own words, at the top and beside its codes."""
    beside = [_dig(payload, path.rpartition(".")[0]) for path in quirks.error_paths if "." in path]
    places = [place for place in (payload, payload.get("error"), *beside) if isinstance(place, Mapping)]
    found = [place.get(name) for place in places for name in _DESCRIPTIONS]
    return [text for text in found if isinstance(text, str)]


def _dig(value: Any, path: str) -> Any:
    """Follow ``path`` into a JSON value; None where it leads nowhere."""
    for step in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def _unwrapped(payload: Mapping[str, Any], path: str | None) -> Mapping[str, Any]:
    """Give the members of the token, and beside them what else the answer says that is not of a token."""
    inner = None if path is None else _dig(payload, path)
    if path is None or not isinstance(inner, Mapping):
        return payload
    if _TOKENS & payload.keys() and not _TOKENS & inner.keys():
        return payload  # the token is at the top this time
    outer = {name: value for name, value in payload.items() if name not in OWN_MEMBERS}
    outer.pop(path.partition(".")[0], None)
    return {**outer, **inner}


def _is_challenge(response: HttpResponse, payload: dict[str, Any] | str, quirks: ProviderQuirks) -> bool:
    """Whether HTTP alone says that the client is not recognised (RFC 9110 section 15.5.2)."""
    if response.status != 401 or "www-authenticate" not in response.headers:
        return False
    return isinstance(payload, str) or _error_code(payload, quirks) is None


def _unreadable(what: str, metadata: ResponseMetadata, rescued: TokenSecret | None = None) -> TokenFailure:
    message = f"the provider answered {metadata.status} with a body that {what}"
    error = TransientError(message, status=metadata.status, retry_after=metadata.retry_after)
    return TokenFailure(error, metadata.status in {429, 503}, rescued)


def _read_error(
    payload: Mapping[str, Any],
    metadata: ResponseMetadata,
    grant: GrantType,
    descriptor: ProviderDescriptor,
    strategy: ProviderStrategy,
    sent: Iterable[TokenSecret],
    refused: str | None = None,
) -> TokenFailure:
    refused = refused or f"the {grant} grant"
    own, quirks = _error_code(payload, descriptor.quirks), descriptor.quirks
    code = None if own is None else quirks.error_codes.get(own, own)
    if _is_dead(payload, metadata.status, grant, quirks):
        code = "invalid_grant"
    if code is None:
        return _unreadable("has no error code", metadata)
    if code not in STANDARD_ERRORS:  # one that is cannot be an echo, even if a secret is part of it
        code = safe_text(code, sent) or "unreadable"
    texts = (safe_text(text, sent) for text in _descriptions(payload, quirks))
    description = next(filter(None, texts), None)
    context = ProviderErrorContext(grant, metadata.status, code, description)
    try:
        kind = ProviderErrorKind(strategy.classify_token_error(context))
    except Exception:  # noqa: BLE001 - a hook may raise anything; what the RFC says then holds
        kind = ProviderStrategy().classify_token_error(context)
    details = [safe_text(own, sent) if own != context.error else None, description]
    said = "; ".join(dict.fromkeys(filter(None, details)))
    message = f"the provider refused {refused}: {code}" + (f" ({said})" if said else "")
    return TokenFailure(_error_of(kind, message, context, metadata.retry_after), settled=True)


def _error_of(
    kind: ProviderErrorKind, message: str, context: ProviderErrorContext, retry_after: float | None
) -> BrokerError:
    status = context.status
    match kind:
        case ProviderErrorKind.INVALID_GRANT:
            return InvalidGrantError(message, status=status)
        case ProviderErrorKind.INVALID_CLIENT:
            return InvalidClientError(message, status=status)
        case ProviderErrorKind.INSUFFICIENT_SCOPE:
            return InsufficientScopeError(message, status=status)
        case ProviderErrorKind.TRANSIENT:
            return TransientError(message, status=status, retry_after=retry_after)
        case ProviderErrorKind.CONFIG:
            return ConfigError(message, status=status)
        case ProviderErrorKind.ACCESS_DENIED | ProviderErrorKind.INTERACTION_REQUIRED:
            return AuthorizationError(
                message,
                error=context.error,
                description=context.description,
                reauthorize=kind is ProviderErrorKind.INTERACTION_REQUIRED,
                status=status,
            )


def _read_success(
    payload: Mapping[str, Any],
    metadata: ResponseMetadata,
    grant: GrantType,
    descriptor: ProviderDescriptor,
    strategy: ProviderStrategy,
) -> TokenAnswer | TokenFailure:
    rescued = read_refresh_token(payload)  # before a hook or the parser can choke on the rest
    problem = "has no usable access_token"
    error: BrokerError | None = None
    try:
        members = {"refresh_token": payload.get("refresh_token")}  # a hook drops it by saying None
        members.update(strategy.normalize_token_response(grant, payload))
        if members["refresh_token"] is None:
            rescued = None
        rescued = read_refresh_token(members) or rescued
        answer = parse_members(members, descriptor)
        if answer is not None:
            return answer
    except BrokerError as raised:
        error = copy.copy(raised)
    except Exception as raised:  # noqa: BLE001 - a hook may raise anything
        problem = f"the strategy's normalize_token_response choked on ({type(raised).__name__})"
    if error is None:
        message = f"the token endpoint answered {metadata.status} with a body that {problem}"
        error = TransientError(message, status=metadata.status, retry_after=metadata.retry_after)
    return TokenFailure(error, settled=False, refresh_token=rescued)
