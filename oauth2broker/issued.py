"""Records made of what a provider issued. Pure."""

from __future__ import annotations

import base64
import json
from datetime import datetime, timedelta

from oauth2broker.payloads import TokenAnswer
from oauth2broker.provider.checks import LONGEST
from oauth2broker.provider.descriptor import ProviderDescriptor
from oauth2broker.records import StoreKey, TokenRecord
from oauth2broker.scopes import ScopeSet
from oauth2broker.secret import TokenSecret


def build_record(
    answer: TokenAnswer,
    key: StoreKey,
    scope: ScopeSet,
    *,
    issued_at: datetime,
    descriptor: ProviderDescriptor,
    previous: TokenRecord | None = None,
) -> TokenRecord:
    """Make the record of ``answer``; what did not come is taken from ``previous`` (RFC 6749 section 6)."""
    expires_at = answer.expires_at
    if expires_at is None or expires_at <= issued_at:  # no more use than a lifetime that is not positive
        expires_at = _after(issued_at, answer.expires_in)
    if expires_at is None and descriptor.default_expires_in is not None and not answer.never_expires:
        expires_at = issued_at + descriptor.default_expires_in
    if expires_at is not None:
        expires_at = min(expires_at, issued_at + LONGEST)
    refresh_token, id_token = answer.refresh_token, answer.id_token
    granted_scope, extra = answer.granted_scope, dict(answer.extra)
    if previous is not None:
        refresh_token = refresh_token or previous.refresh_token
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
        refresh_expires_at=_refresh_expiry(answer, issued_at, descriptor, previous),
        id_token=id_token,
        extra=extra,
    )


def _refresh_expiry(
    answer: TokenAnswer, issued_at: datetime, descriptor: ProviderDescriptor, previous: TokenRecord | None
) -> datetime | None:
    said = _after(issued_at, answer.refresh_expires_in)
    known = None if previous is None else previous.refresh_expires_at
    if descriptor.quirks.refresh_lifetime_is_absolute and known is not None:
        return known if said is None else min(said, known)
    if said is not None:
        return said
    if previous is not None and answer.refresh_token in {None, previous.refresh_token}:
        return known
    lifetime = descriptor.default_refresh_expires_in
    return None if answer.refresh_token is None or lifetime is None else issued_at + lifetime


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


def _after(instant: datetime, seconds: float | None) -> datetime | None:
    return None if seconds is None else instant + timedelta(seconds=seconds)
