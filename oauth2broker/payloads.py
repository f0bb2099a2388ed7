"""The members of a token in a provider's answer (RFC 6749 section 5.1), whatever they are. Pure.

Functions that hold plain secrets return what went wrong instead of raising it, so that no traceback shows
their locals.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from oauth2broker.errors import ConfigError
from oauth2broker.frozen import FrozenMapping, freeze
from oauth2broker.provider.checks import LONGEST
from oauth2broker.provider.descriptor import ProviderDescriptor
from oauth2broker.provider.quirks import ProviderQuirks, TimeUnit
from oauth2broker.scopes import ScopeSet, is_scope_token
from oauth2broker.secret import TokenSecret, usable_secret

REFRESH_LIFETIMES = ("refresh_token_expires_in", "refresh_expires_in", "x_refresh_token_expires_in")
OWN_MEMBERS = frozenset(
    {"access_token", "refresh_token", "id_token", "token_type", "expires_in", "scope", "ok", "error"}
    | set(REFRESH_LIFETIMES)
)
_VSCHAR = re.compile(r"[\x20-\x7e]+")  # RFC 6749 appendix A.12


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """A successful answer (RFC 6749 section 5.1), checked. Lifetimes are in seconds.

    ``expires_at`` is there instead of ``expires_in`` where the provider says an instant; ``never_expires``
    where it says so.
    """

    access_token: TokenSecret
    refresh_token: TokenSecret | None
    id_token: TokenSecret | None
    token_type: str
    expires_in: float | None
    expires_at: datetime | None
    never_expires: bool
    refresh_expires_in: float | None
    granted_scope: ScopeSet | None
    extra: FrozenMapping


def parse_members(payload: Mapping[str, Any], descriptor: ProviderDescriptor) -> TokenAnswer | None:
    """Read the members of a successful answer; None when there is no access token to use."""
    access_token = payload.get("access_token")
    if not isinstance(access_token, str) or not _VSCHAR.fullmatch(access_token) or payload.get("error"):
        return None
    token_type = payload.get("token_type")
    is_named = isinstance(token_type, str) and _VSCHAR.fullmatch(token_type)
    quirks, rule = descriptor.quirks, descriptor.quirks.expiry
    stated = payload.get(rule.member)
    expires_at = _instant(stated, rule.unit) if rule.absolute else None
    expires_in = None if rule.absolute else _seconds(stated, rule.unit)
    if expires_in is None and rule.member != "expires_in":  # else it is no lifetime, or an instant
        expires_in = _seconds(payload.get("expires_in"))
    scope = payload.get(quirks.scope_member) or payload.get("scope")
    return TokenAnswer(
        access_token=TokenSecret(access_token),
        refresh_token=read_refresh_token(payload),
        id_token=usable_secret(payload.get("id_token")),
        token_type=quirks.token_type or (str(token_type) if is_named else "Bearer"),
        expires_in=expires_in,
        expires_at=expires_at,
        never_expires=rule.zero_is_never and _number(stated) == 0,
        refresh_expires_in=next(
            filter(None, (_seconds(payload.get(name)) for name in REFRESH_LIFETIMES)), None
        ),
        granted_scope=_granted_scope(scope, descriptor.scope_delimiter),
        extra=read_extra(payload, quirks),
    )


def read_refresh_token(payload: Mapping[str, Any]) -> TokenSecret | None:
    """Give the refresh token, if there is one that can be sent again."""
    return usable_secret(payload.get("refresh_token"))


def read_extra(payload: Mapping[str, Any], quirks: ProviderQuirks) -> FrozenMapping:
    """Give what is kept beside the token (``record.extra``)."""
    extra = {}
    known = {*OWN_MEMBERS, quirks.expiry.member, quirks.scope_member}
    named = quirks.extra_members
    wanted = None if named is None else {*named, *quirks.callback_members}
    for name, value in payload.items():
        is_wanted = wanted is None or name in wanted
        if isinstance(name, str) and name not in known and is_wanted:
            try:
                extra[name] = freeze(value)
            except ConfigError:
                continue  # nested too deep, or too large, to be meant for us
    return FrozenMapping(extra)


def _seconds(value: object, unit: TimeUnit = TimeUnit.SECONDS) -> float | None:
    """Give a lifetime, clamped, or None for what is none (missing, not a number, not positive)."""
    seconds = _number(value, unit)
    return min(seconds, LONGEST.total_seconds()) if seconds is not None and seconds > 0 else None


def _number(value: object, unit: TimeUnit = TimeUnit.SECONDS) -> float | None:
    """Give a number of seconds, also one in text, or None."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    except OverflowError:
        number = math.inf if value > 0 else 0.0  # type: ignore[operator]
    return number / 1000 if unit is TimeUnit.MILLISECONDS else number


def _instant(value: object, unit: TimeUnit) -> datetime | None:
    """Give an instant, from a number since 1970 or from ISO 8601 (in UTC where it does not say)."""
    number = _number(value, unit)
    try:
        if number is not None:
            return datetime.fromtimestamp(number, UTC)
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
        if found is None:
            return None
        return found.replace(tzinfo=UTC) if found.utcoffset() is None else found.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _granted_scope(value: object, delimiter: str) -> ScopeSet | None:
    """Give the scope granted, from a string with spaces or commas, or a list; None when it says nothing."""
    if isinstance(value, str):
        value = re.split(r"[\s,+]+" if delimiter == "+" else r"[\s,]+", value)
    if not isinstance(value, list | tuple):
        return None
    tokens = [token for token in value if is_scope_token(token)]
    return ScopeSet(tokens) if tokens else None
