"""Where a provider leaves the RFCs, declared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from oauth2broker.errors import ConfigError
from oauth2broker.frozen import FrozenMapping, KeptByFields
from oauth2broker.provider.checks import (
    checked_mapping,
    checked_member,
    checked_name,
    checked_names,
    checked_path,
    checked_texts,
    checked_token,
    is_error_code,
    is_text,
)
from oauth2broker.provider.strategy import STANDARD_ERRORS
from oauth2broker.records import checked_text

_NOT_FROM_CALLBACKS = frozenset(
    {"access_token", "refresh_token", "id_token", "token_type", "expires_in", "error", "code", "state"}
    | {"refresh_token_expires_in", "refresh_expires_in", "x_refresh_token_expires_in"}
)
_SENT_TOGETHER = (  # RFC 6749 sections 4.1.1, 4.1.3 and 6, RFC 7636 section 4
    {
        "response_type",
        "client_id",
        "redirect_uri",
        "scope",
        "state",
        "code_challenge",
        "code_challenge_method",
    },
    {"grant_type", "client_id", "client_secret", "code", "redirect_uri", "code_verifier"},
    {"grant_type", "client_id", "client_secret", "refresh_token", "scope"},
)
_INDISPENSABLE = ("state", "code", "refresh_token")
_OF_REVOCATION = frozenset({"invalid_token", "unsupported_token_type"})  # RFC 7009 section 2.2.1


class TimeUnit(StrEnum):
    """What a number of time counts."""

    SECONDS = "seconds"
    MILLISECONDS = "milliseconds"


@dataclass(frozen=True, slots=True, init=False, repr=False)
class ExpiryRule(KeptByFields):
    """Where an answer says until when its access token works.

    ``member`` holds a lifetime in ``unit``, or, if ``absolute``, an instant: since 1970 in ``unit``, or in
    ISO 8601; one that has passed says no more than a lifetime that is not positive. ``zero_is_never``: 0
    means that the token does not expire, also where a default is described. An answer without the member is
    read as RFC 6749 section 5.1 says. Raises :class:`ConfigError`.
    """

    member: str
    unit: TimeUnit
    absolute: bool
    zero_is_never: bool

    def __init__(
        self,
        member: str = "expires_in",
        *,
        unit: str = TimeUnit.SECONDS,
        absolute: bool = False,
        zero_is_never: bool = False,
    ) -> None:
        put = object.__setattr__
        put(self, "member", checked_name("member", member))
        put(self, "unit", checked_member("unit", TimeUnit, unit))
        put(self, "absolute", bool(absolute))
        put(self, "zero_is_never", bool(zero_is_never))


@dataclass(frozen=True, slots=True, init=False, repr=False)
class ProviderQuirks(KeptByFields):
    """Where a provider leaves the RFCs, declared. Immutable, picklable, safe to share.

    Requests: ``param_names`` gives RFC parameters the name that they have here, or None to leave them out.
    ``plain_basic``: HTTP Basic carries id and secret as they are, not form-encoded first (RFC 6749 section
    2.3.1). ``assertion_audience`` is the ``aud`` of client assertions instead of the issuer (RFC 7523 section
    3). ``revoke_access_token``: revocation takes the access token and not the refresh token.

    Errors: ``error_codes`` maps the provider's own codes to those of RFC 6749 section 5.2, which decides
    whether an answer means a dead grant, a wrong client or an outage; it also holds for callbacks.
    ``error_paths`` say where a code sits besides ``error``, most telling first; one found in an answer
    without an access token is an error whatever the status. ``dead_refresh_texts`` are pieces of
    descriptions, in any case, by which a renewal that brought no token tells a dead refresh token from what
    else goes by that code, or by none.

    Answers: ``token_path`` leads to the members of the token. ``expiry`` is an :class:`ExpiryRule`.
    ``scope_member`` names the granted scope. ``token_type`` stands for the one that is stated.
    ``refresh_lifetime_is_absolute``: a refresh token that comes of a renewal ends when the first one does.
    ``callback_members`` are kept from the callback as if the answer had brought them. ``extra_members`` are
    what goes into ``record.extra``; None: all that is not OAuth's.

    APIs: a token goes in the header ``api_header``, after ``api_scheme`` and a space. None: the scheme that
    the token's type stands for (RFC 6750); empty: the bare token.

    A path has dots between members and indices, as in ``errors.0.code``. Raises :class:`ConfigError`.
    """

    param_names: Mapping[str, str | None]
    plain_basic: bool
    assertion_audience: str | None
    revoke_access_token: bool
    error_codes: Mapping[str, str]
    error_paths: tuple[str, ...]
    dead_refresh_texts: tuple[str, ...]
    token_path: str | None
    expiry: ExpiryRule
    scope_member: str
    token_type: str | None
    refresh_lifetime_is_absolute: bool
    callback_members: tuple[str, ...]
    extra_members: tuple[str, ...] | None
    api_header: str
    api_scheme: str | None

    def __init__(
        self,
        *,
        param_names: Mapping[str, str | None] | None = None,
        plain_basic: bool = False,
        assertion_audience: str | None = None,
        revoke_access_token: bool = False,
        error_codes: Mapping[str, str] | None = None,
        error_paths: Iterable[str] = (),
        dead_refresh_texts: Iterable[str] = (),
        token_path: str | None = None,
        expiry: ExpiryRule | None = None,
        scope_member: str = "scope",
        token_type: str | None = None,
        refresh_lifetime_is_absolute: bool = False,
        callback_members: Iterable[str] = (),
        extra_members: Iterable[str] | None = None,
        api_header: str = "Authorization",
        api_scheme: str | None = None,
    ) -> None:
        put = object.__setattr__
        put(self, "param_names", _renamed(param_names))
        put(self, "plain_basic", bool(plain_basic))
        if assertion_audience is not None:
            checked_name("assertion_audience", assertion_audience)
        put(self, "assertion_audience", assertion_audience)
        put(self, "revoke_access_token", bool(revoke_access_token))
        put(self, "error_codes", _meant(error_codes))
        paths = checked_names("error_paths", error_paths)
        put(self, "error_paths", tuple(checked_path("error_paths", path) for path in paths))
        texts = checked_names("dead_refresh_texts", dead_refresh_texts)
        put(self, "dead_refresh_texts", tuple(text.lower() for text in texts))
        put(self, "token_path", None if token_path is None else checked_path("token_path", token_path))
        put(self, "expiry", _rule(expiry))
        put(self, "scope_member", checked_name("scope_member", scope_member))
        put(self, "token_type", None if token_type is None else checked_text("token_type", token_type))
        put(self, "refresh_lifetime_is_absolute", bool(refresh_lifetime_is_absolute))
        put(self, "callback_members", _harmless(checked_names("callback_members", callback_members)))
        kept = None if extra_members is None else checked_names("extra_members", extra_members)
        put(self, "extra_members", kept)
        put(self, "api_header", checked_token("api_header", api_header))
        put(self, "api_scheme", checked_token("api_scheme", api_scheme) if api_scheme else api_scheme)


def _renamed(names: Mapping[str, str | None] | None) -> Mapping[str, str | None]:
    found: Mapping[str, Any] = checked_mapping("param_names", names)
    for theirs in found.values():
        if theirs is not None and not (is_text(theirs) and theirs):
            raise ConfigError("param_names maps a parameter to its name here, or to None to leave it out")
    for ours in _INDISPENSABLE:
        if found.get(ours, ours) is None:
            raise ConfigError(f"param_names may not leave out {ours}, without which nothing can be asked for")
    for request in _SENT_TOGETHER:
        sent = [theirs for ours in request if (theirs := found.get(ours, ours)) is not None]
        for name in sent:
            if sent.count(name) > 1:
                raise ConfigError(f"param_names calls two parameters of one request {name!r:.80}")
    return FrozenMapping(names)


def _meant(codes: Mapping[str, str] | None) -> Mapping[str, str]:
    found = checked_texts("error_codes", codes)
    for code, meaning in found.items():
        if not is_error_code(code):
            raise ConfigError(
                f"error_codes: no answer has the code {code!r:.80}; codes are 1 to 64 characters of ASCII, "
                "without quotes, backslashes and spaces around them, and not 0"
            )
        if meaning not in STANDARD_ERRORS | _OF_REVOCATION:
            raise ConfigError(f"error_codes maps to codes of the RFCs, of which {meaning!r:.80} is none")
    return found


def _rule(rule: ExpiryRule | None) -> ExpiryRule:
    if rule is not None and not isinstance(rule, ExpiryRule):
        raise ConfigError(f"expiry is an ExpiryRule, not {type(rule).__name__}")
    return rule or ExpiryRule()


def _harmless(names: tuple[str, ...]) -> tuple[str, ...]:
    """A callback comes through the user's browser, which must not hand us tokens."""
    for name in names:
        if name in _NOT_FROM_CALLBACKS:
            raise ConfigError(f"callback_members may not hold {name}: anyone can write a callback")
    return names
