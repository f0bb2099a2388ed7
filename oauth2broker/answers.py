"""OAuth on the wire, inbound: what a provider's answer says, whatever it is. Pure; no I/O.

Functions that hold plain secrets return what went wrong instead of raising it, so that no traceback shows
their locals.
"""

from __future__ import annotations

import base64
import copy
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

from oauth2broker.errors import (
    AuthorizationError,
    BrokerError,
    ConfigError,
    InsufficientScopeError,
    InvalidClientError,
    InvalidGrantError,
    TransientError,
)
from oauth2broker.frozen import FrozenMapping, freeze
from oauth2broker.grants import GrantType
from oauth2broker.provider.descriptor import ProviderDescriptor
from oauth2broker.provider.strategy import (
    STANDARD_ERRORS,
    ProviderErrorContext,
    ProviderErrorKind,
    ProviderStrategy,
)
from oauth2broker.quoting import safe_text
from oauth2broker.records import StoreKey, TokenRecord
from oauth2broker.scopes import ScopeSet, is_scope_token
from oauth2broker.secret import TokenSecret, usable_secret
from oauth2broker.transports.base import HttpResponse, ResponseMetadata

MAX_EXPIRES_IN = timedelta(days=3650)
_OWN_MEMBERS = frozenset(
    {"access_token", "refresh_token", "id_token", "token_type", "expires_in", "scope", "ok", "error"}
    | {"refresh_token_expires_in", "refresh_expires_in"}
)
_NOTHING_TO_REVOKE = ("unsupported_token_type", "invalid_token", "invalid_grant")
_VSCHAR = re.compile(r"[\x20-\x7e]+")  # RFC 6749 appendix A.12
_REFRESH_MEMBER = re.compile(r'"refresh_token"\s*:\s*("(?:[^"\\]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*")')
_ERROR_CODE = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]{1,64}")  # RFC 6749 appendix A.7, and no novels


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """A successful answer (RFC 6749 section 5.1), checked. Lifetimes are in seconds."""

    access_token: TokenSecret
    refresh_token: TokenSecret | None
    id_token: TokenSecret | None
    token_type: str
    expires_in: float | None
    refresh_expires_in: float | None
    granted_scope: ScopeSet | None
    extra: FrozenMapping


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
) -> TokenAnswer | TokenFailure:
    """Read an answer of the token endpoint, whatever it is. Never raises.

    ``sent`` are the secrets of the request; they are blotted out of the provider's error texts.
    """
    metadata = ResponseMetadata.from_headers(response.status, response.headers)
    if 300 <= response.status < 400:
        return _redirect("token", response.status)
    payload = _parse_body(response)
    if isinstance(payload, str):
        return _unreadable(payload, metadata, _rescue(response))
    if _is_error(response.status, payload):
        return _read_error(payload, metadata, grant, descriptor, strategy, sent)
    return _read_success(payload, metadata, grant, strategy)


def read_revocation_failure(
    response: HttpResponse,
    grant: GrantType,
    descriptor: ProviderDescriptor,
    strategy: ProviderStrategy,
    sent: Iterable[TokenSecret],
) -> TokenFailure | None:
    """Read a refusal of the revocation endpoint (RFC 7009 section 2.2.1); None: nothing is left to revoke."""
    if 300 <= response.status < 400:
        return _redirect("revocation", response.status)
    payload = _parse_body(response)
    if isinstance(payload, dict) and payload.get("error") in _NOTHING_TO_REVOKE:
        return None
    metadata = ResponseMetadata.from_headers(response.status, response.headers)
    if isinstance(payload, str):
        return _unreadable(payload, metadata)
    return _read_error(payload, metadata, grant, descriptor, strategy, sent)


def build_record(
    answer: TokenAnswer,
    key: StoreKey,
    scope: ScopeSet,
    *,
    issued_at: datetime,
    default_expires_in: timedelta | None,
    previous: TokenRecord | None = None,
) -> TokenRecord:
    """Make the record of ``answer``; what did not come is taken from ``previous`` (RFC 6749 section 6)."""
    expires_at = _after(issued_at, answer.expires_in)
    if expires_at is None and default_expires_in is not None:
        expires_at = issued_at + default_expires_in
    refresh_token, id_token = answer.refresh_token, answer.id_token
    refresh_expires_at = _after(issued_at, answer.refresh_expires_in)
    granted_scope, extra = answer.granted_scope, dict(answer.extra)
    if previous is not None:
        if refresh_token is None:
            refresh_token = previous.refresh_token
            refresh_expires_at = refresh_expires_at or previous.refresh_expires_at
        id_token = id_token or previous.id_token
        granted_scope = previous.granted_scope if granted_scope is None else granted_scope
        extra = {**previous.extra, **extra}
    return TokenRecord(
        family=key.family,
        scope=scope,
        granted_scope=granted_scope,
        resource=key.resource,
        grant=key.grant,
        access_token=answer.access_token,
        refresh_token=refresh_token,
        token_type=answer.token_type,
        issued_at=issued_at,
        expires_at=expires_at,
        refresh_expires_at=refresh_expires_at,
        id_token=id_token,
        extra=extra,
    )


def read_subject(id_token: TokenSecret | None) -> str | None:
    """Give the ``sub`` of an id token (OpenID Connect Core section 2) without verifying it, or None."""
    if id_token is None:
        return None
    parts = id_token.expose().split(".")
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (IndexError, ValueError, RecursionError):
        return None
    subject = claims.get("sub") if isinstance(claims, dict) else None
    return subject if isinstance(subject, str) else None


def _parse_body(response: HttpResponse) -> dict[str, Any] | str:
    """Give the answer's JSON object (or form, as some providers answer), or what is wrong with it."""
    if not response.body.strip():
        return "is empty"
    try:
        payload = json.loads(_text(response), parse_int=_integer, strict=False)
    except (ValueError, RecursionError):
        if "application/x-www-form-urlencoded" in response.headers.get("content-type", "").lower():
            return dict(parse_qsl(response.body.decode("utf-8", "replace")))
        return "is HTML, not JSON" if response.body.lstrip()[:1] == b"<" else "is not JSON"
    return payload if isinstance(payload, dict) else "is JSON but no object"


def _text(response: HttpResponse) -> str:
    """Give the body as text; bytes that are none become replacement characters, not an error."""
    return response.body.decode(json.detect_encoding(response.body), "replace")


def _rescue(response: HttpResponse) -> TokenSecret | None:
    """Find the refresh token in a successful answer that cannot be parsed: no other may be alive."""
    found = _REFRESH_MEMBER.search(_text(response)) if 200 <= response.status < 300 else None
    return None if found is None else usable_secret(json.loads(found[1], strict=False))


def _redirect(endpoint: str, status: int) -> TokenFailure:
    message = f"the {endpoint} endpoint redirects, which is refused; configure its final address"
    return TokenFailure(ConfigError(message, status=status), settled=False)


def _integer(digits: str) -> int | float:
    """Read a JSON integer; one of more digits than Python takes is as good as infinite."""
    try:
        return int(digits)
    except ValueError:
        return float(digits)


def _is_error(status: int, payload: Mapping[str, Any]) -> bool:
    if not 200 <= status < 300:
        return True
    if _refresh_token(payload) is not None:
        return False  # an answer that brings a refresh token is no refusal, whatever else it says
    return bool(payload.get("error")) or payload.get("ok") is False


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
) -> TokenFailure:
    code = safe_text(payload.get("error"), limit=64)
    if code is None or not _ERROR_CODE.fullmatch(code):
        return _unreadable("has no error code", metadata)
    code = descriptor.quirks.error_codes.get(code, code)
    if code not in STANDARD_ERRORS:  # one that is cannot be an echo, even if a secret is part of it
        code = safe_text(code, sent) or "unreadable"
    description = safe_text(payload.get("error_description"), sent)
    context = ProviderErrorContext(grant, metadata.status, code, description)
    try:
        kind = ProviderErrorKind(strategy.classify_token_error(context))
    except Exception:  # noqa: BLE001 - a hook may raise anything; what the RFC says then holds
        kind = ProviderStrategy().classify_token_error(context)
    return TokenFailure(_error_of(kind, context, metadata.retry_after), settled=True)


def _error_of(
    kind: ProviderErrorKind, context: ProviderErrorContext, retry_after: float | None
) -> BrokerError:
    message = f"the provider refused the {context.grant} grant: {context.error}"
    if context.description:
        message += f" ({context.description})"
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
    payload: Mapping[str, Any], metadata: ResponseMetadata, grant: GrantType, strategy: ProviderStrategy
) -> TokenAnswer | TokenFailure:
    rescued = _refresh_token(payload)  # before a hook or the parser can choke on the rest
    problem = "has no usable access_token"
    error: BrokerError | None = None
    try:
        members = {"refresh_token": payload.get("refresh_token")}  # a hook drops it by saying None
        members.update(strategy.normalize_token_response(grant, payload))
        rescued = _refresh_token(members) or rescued
        answer = _parse_members(members)
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


def _parse_members(payload: Mapping[str, Any]) -> TokenAnswer | None:
    access_token = payload.get("access_token")
    if not isinstance(access_token, str) or not _VSCHAR.fullmatch(access_token) or payload.get("error"):
        return None
    token_type = payload.get("token_type")
    is_named = isinstance(token_type, str) and _VSCHAR.fullmatch(token_type)
    return TokenAnswer(
        access_token=TokenSecret(access_token),
        refresh_token=_refresh_token(payload),
        id_token=usable_secret(payload.get("id_token")),
        token_type=str(token_type) if is_named else "Bearer",
        expires_in=_seconds(payload.get("expires_in")),
        refresh_expires_in=_seconds(payload.get("refresh_token_expires_in"))
        or _seconds(payload.get("refresh_expires_in")),
        granted_scope=_granted_scope(payload.get("scope")),
        extra=_extra(payload),
    )


def _refresh_token(payload: Mapping[str, Any]) -> TokenSecret | None:
    return usable_secret(payload.get("refresh_token"))


def _seconds(value: object) -> float | None:
    """Give a lifetime, clamped, or None for what is none (missing, not a number, not positive)."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        seconds = float(value)
    except ValueError:
        return None
    except OverflowError:
        seconds = math.inf if value > 0 else 0.0  # type: ignore[operator]
    return min(seconds, MAX_EXPIRES_IN.total_seconds()) if seconds > 0 else None


def _after(instant: datetime, seconds: float | None) -> datetime | None:
    return None if seconds is None else instant + timedelta(seconds=seconds)


def _granted_scope(value: object) -> ScopeSet | None:
    """Give the scope granted, from a string with spaces or commas, or a list; None when it says nothing."""
    if isinstance(value, str):
        value = re.split(r"[\s,]+", value)
    if not isinstance(value, list | tuple):
        return None
    tokens = [token for token in value if is_scope_token(token)]
    return ScopeSet(tokens) if tokens else None


def _extra(payload: Mapping[str, Any]) -> FrozenMapping:
    extra = {}
    for name, value in payload.items():
        if isinstance(name, str) and name not in _OWN_MEMBERS:
            try:
                extra[name] = freeze(value)
            except ConfigError:
                continue  # nested too deep to be meant for us
    return FrozenMapping(extra)
