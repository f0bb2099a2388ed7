"""Tokens as oauthlib keeps them (dicts), made from records and made into records.

What holds a plain secret here gives what went wrong instead of raising it, so that no traceback shows it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from oauth2broker.errors import ConfigError
from oauth2broker.frozen import thaw
from oauth2broker.grants import GrantType
from oauth2broker.issued import build_record
from oauth2broker.payloads import parse_members, read_extra
from oauth2broker.provider.checks import LONGEST
from oauth2broker.provider.descriptor import ProviderDescriptor
from oauth2broker.records import EPOCH, LONG_AGO, StoreKey, TokenRecord
from oauth2broker.scopes import ScopeSet
from oauth2broker.secret import usable_secret

_SECRETS = ("access_token", "refresh_token", "id_token")


def token_members(record: TokenRecord, now: datetime) -> dict[str, Any]:
    """Give the members that oauthlib's token of ``record`` has at ``now``; none when it holds no token.

    ``expires_in`` is what is left, in whole seconds, ``expires_at`` is in POSIX seconds, ``scope`` a list.
    What else the provider answered is there, too. All of it is plain, and JSON.
    """
    secrets = {name: getattr(record, name) for name in _SECRETS}
    members: dict[str, Any] = {name: secret.expose() for name, secret in secrets.items() if secret}
    if members.keys().isdisjoint({"access_token", "refresh_token"}):
        return {}
    members["token_type"] = record.token_type
    if record.granted_scope:
        members["scope"] = list(record.granted_scope)
    if record.expires_at is not None:
        members["expires_in"] = max(0, math.ceil((record.expires_at - now).total_seconds()))
        members["expires_at"] = int(record.expires_at.timestamp())
    return {**thaw(record.extra), **members}


class GivenToken:
    """A token that was kept elsewhere. Plain inside; its repr shows nothing of it. False when empty."""

    __slots__ = ("_members",)

    def __init__(self, members: Any) -> None:
        self._members = members

    def __bool__(self) -> bool:
        return bool(self._members)

    def record(
        self, key: StoreKey, scope: ScopeSet, descriptor: ProviderDescriptor, now: datetime
    ) -> TokenRecord | ConfigError:
        """Give the record of it, or what is wrong. Never raises.

        Without ``expires_at`` (POSIX seconds), ``expires_in`` counts from ``now``; without either it is taken
        for one that works until it is refused.
        """
        try:
            return _record(dict(self._members), key, scope, descriptor, now)
        except Exception as raised:  # noqa: BLE001 - whatever the mapping and what is in it raise
            return ConfigError(
                f"this is no token that can be imported ({type(raised).__name__}): "
                "give a dict like fetch_token's, with expires_at and expires_in in seconds"
            )


def _record(
    members: dict[str, Any], key: StoreKey, scope: ScopeSet, descriptor: ProviderDescriptor, now: datetime
) -> TokenRecord | ConfigError:
    for name in _SECRETS:
        if members.get(name) in (None, ""):
            members.pop(name, None)
        elif usable_secret(members[name]) is None:
            return ConfigError(f"the {name} of a token is text")
    if not isinstance(members.get("scope"), str | list | tuple | None):
        return ConfigError("the scope of a token is text or a list")
    expires_at = _take_expiry(members, descriptor, now)
    if "access_token" in members:
        answer = parse_members(members, descriptor)
        if answer is None:
            return ConfigError("the access_token cannot be used, or the token says of an error")
        record = build_record(answer, key, scope, issued_at=now, descriptor=descriptor)
        record = record if expires_at is None else replace(record, expires_at=expires_at)
    elif "refresh_token" in members:
        record = TokenRecord(
            family=key.family,
            scope=scope,
            resource=key.resource,
            grant=key.grant,
            access_token="",
            refresh_token=members["refresh_token"],
            issued_at=now,
            expires_at=LONG_AGO,
            extra=read_extra(members, descriptor.quirks),
        )
    else:
        return ConfigError("a token has an access_token")
    if key.grant is GrantType.CLIENT_CREDENTIALS:
        return replace(record, refresh_token=None, refresh_expires_at=None)  # RFC 6749 section 4.4.3
    return record


def _take_expiry(members: dict[str, Any], descriptor: ProviderDescriptor, now: datetime) -> datetime | None:
    """Take out when the token ends; what only this provider says of it is left in."""
    lifetime, rule = members.pop("expires_in", None), descriptor.quirks.expiry
    instant = None if rule.absolute and rule.member == "expires_at" else members.pop("expires_at", None)
    if instant is not None:
        return min(EPOCH + timedelta(seconds=_number(instant)), now + LONGEST)
    if lifetime is None or (rule.zero_is_never and _number(lifetime) == 0):
        return None
    return min(now + timedelta(seconds=_number(lifetime)), now + LONGEST)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError
    return float(value)
