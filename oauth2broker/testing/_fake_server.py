"""The authorization server behind `FakeProvider`: who may have which token, and what an answer looks like.

Without HTTP, and not thread-safe: `FakeProvider` has the lock.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from oauth2broker.errors import ConfigError
from oauth2broker.grants import GrantType
from oauth2broker.provider.descriptor import ProviderDescriptor
from oauth2broker.provider.kinds import PkceSupport, RotationPolicy
from oauth2broker.provider.quirks import TimeUnit
from oauth2broker.provider.strategy import CallbackContext
from oauth2broker.secret import TokenSecret
from oauth2broker.testing._fake_calls import FakeCall, given_names
from oauth2broker.testing._ledger import Family, Ledger

_CODE_LIFETIME = timedelta(minutes=10)
_BASE = "https://provider.example.com"
_FOR_GOOD = timedelta(days=36500)


class Refused(Exception):  # noqa: N818 - it is an answer
    """The request gets this error (RFC 6749 section 5.2)."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(error)
        self.error = error
        self.description = description


class _Books(Ledger):
    """Knows secrets as they are, for they are invented."""

    def owner_of(self, token: str) -> Family | None:
        found = self._refresh.get(token) or self._access.get(token)
        return None if found is None else found.family

    def client_of(self, code: str) -> str:
        found = self._codes.get(code)
        return "" if found is None else found.family.client_id

    def subjects(self) -> set[str]:
        return {family.subject for family in self._families}

    def end_access_tokens(self) -> None:
        for token in self._access.values():
            token.revoked = True

    def revoke_all(self) -> None:
        for family in self._families:
            family.revoked = True


class FakeServer:
    """Grants and revokes as ``descriptor`` says: rotation, grace, PKCE, names and units of members."""

    def __init__(
        self,
        descriptor: ProviderDescriptor,
        clock: Callable[[], datetime],
        lifetime: timedelta | None,
        client_secret: TokenSecret,
    ) -> None:
        self.descriptor = descriptor
        self._client_secret = client_secret
        self.books = _Books(clock, _CODE_LIFETIME, descriptor.reuse_grace)
        self._clock = clock
        self._lifetime = lifetime
        self._codes = itertools.count(1)
        self._tokens = itertools.count(1)

    # The user.

    def authorize(
        self, url: str, user: str, granted: str | None, *, approve: bool, more: Mapping[str, str]
    ) -> str:
        """Give the URL that the user is sent back to (RFC 6749 section 4.1.2); ``more`` joins its parameters.

        Raises :class:`ConfigError` for an authorization request that a provider would not redirect from.
        """
        endpoint = self.descriptor.authorization_endpoint
        if endpoint is None or url.partition("?")[0] != endpoint.partition("?")[0]:
            raise ConfigError("this is no authorization request to the provider's authorization_endpoint")
        params = given_names(self.descriptor, dict(parse_qsl(urlsplit(url).query)))
        self._check_authorization(params)
        callback = {name: params[name] for name in ("state",) if name in params}
        if self.descriptor.issuer is not None:
            callback["iss"] = self.descriptor.issuer
        if not approve:
            return _callback_url(params["redirect_uri"], {"error": "access_denied", **callback, **more})
        scope = self._scope(params.get("scope", "") if granted is None else granted)
        code = f"code-{next(self._codes)}"
        family = self.books.open_family(params["client_id"], user, scope)
        self.books.add_code(code, family, params["redirect_uri"], params.get("code_challenge", ""))
        return _callback_url(params["redirect_uri"], self._signed({"code": code, **callback, **more}))

    def _signed(self, callback: dict[str, str]) -> dict[str, str]:
        """Add what the provider's own callbacks have besides; what is there stays."""
        if self.descriptor.strategy is None:
            return callback
        context = CallbackContext(callback, self.descriptor.token_endpoint, self._client_secret)
        return {**self.descriptor.strategy.sign_callback(context), **callback}

    def _check_authorization(self, params: Mapping[str, str]) -> None:
        for name in ("client_id", "redirect_uri"):
            if not params.get(name):
                raise ConfigError(f"the authorization request has no {name}")
        if params.get("response_type", "code") != "code":
            raise ConfigError("the authorization request wants another response_type than code")
        has_pkce = bool(params.get("code_challenge"))
        if self.descriptor.pkce is PkceSupport.REQUIRED and not has_pkce:
            raise ConfigError("the authorization request has no code_challenge, which this provider requires")
        if has_pkce and params.get("code_challenge_method") != "S256":
            raise ConfigError("the authorization request's code_challenge_method is not S256")

    # The endpoints.

    def grant(self, call: FakeCall, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Give the answer to a token request, in this provider's shape; ``wanted`` are members that it has.

        Raises :class:`Refused`; then nothing was issued.
        """
        grants: dict[str, Callable[[FakeCall, Mapping[str, Any]], dict[str, Any]]] = {
            GrantType.AUTHORIZATION_CODE: self._exchange,
            GrantType.REFRESH_TOKEN: self._renew,
            GrantType.CLIENT_CREDENTIALS: self._serve_client,
        }
        serve = grants.get(self._grant_of(call))
        if serve is None:
            raise Refused(
                "unsupported_grant_type", f"{call.grant_type!r:.80} is not what this provider grants"
            )
        return self._shaped(serve(call, wanted))

    def revoke(self, call: FakeCall) -> None:
        """Revoke a token (RFC 7009); a refresh token takes all that came of its grant with it."""
        tokens = [call.params["token"]] if "token" in call.params else list(call.params.values())
        bearer = str(call.request.headers.get("Authorization", "")).partition(" ")[2]
        for token in (*tokens, bearer):
            family = self.books.owner_of(token)
            if family is not None and not self.books.revoke(token, call.client_id or family.client_id):
                raise Refused("invalid_request", "the token is another client's")
            if family is not None and self.descriptor.quirks.revoke_access_token:
                family.revoked = True

    def _grant_of(self, call: FakeCall) -> str:
        if call.grant_type in self.descriptor.grants or self.descriptor.strategy is None:
            return call.grant_type if call.grant_type in self.descriptor.grants else ""
        return GrantType.REFRESH_TOKEN if self._presented(call) else call.grant_type

    def _exchange(self, call: FakeCall, wanted: Mapping[str, Any]) -> dict[str, Any]:
        params, handle = call.params, call.params.get("code", "")
        code = self.books.find_code(handle, call.client_id or self.books.client_of(handle))
        if code is None:
            raise Refused("invalid_grant", "the code is unknown, spent, expired or another client's")
        if params.get("redirect_uri", code.redirect_uri) != code.redirect_uri:
            raise Refused("invalid_grant", "the redirect_uri is not the one that the code was given for")
        if code.challenge and _challenge(params.get("code_verifier", "")) != code.challenge:
            raise Refused("invalid_grant", "the code_verifier does not fit the code_challenge")
        code.used = True
        return self._issue(code.family, code.family.scope, wanted, renewable=True)

    def _renew(self, call: FakeCall, wanted: Mapping[str, Any]) -> dict[str, Any]:
        handle = self._presented(call)
        family = self.books.owner_of(handle) if handle else None
        if handle is None or family is None:
            raise Refused("invalid_grant", "the refresh token is unknown")
        scope = self._scope(call.scope) or family.scope
        if not set(scope) <= set(family.scope):
            raise Refused("invalid_scope", "more was asked for than the user granted")
        is_renewed_by_itself = self.descriptor.strategy is not None
        if is_renewed_by_itself and self.books.live_access(handle) is not None:
            return self._issue(family, scope, wanted, renewable=False)
        token = self.books.present_refresh(handle, call.client_id or family.client_id)
        if token is None:
            raise Refused("invalid_grant", "the refresh token is spent, revoked or another client's")
        rotates = self.descriptor.rotation is not RotationPolicy.NEVER
        members = self._issue(family, scope, wanted, renewable=rotates)
        if members.get("refresh_token") not in (None, handle):
            self.books.spend_refresh(token, {})
        return members

    def _serve_client(self, call: FakeCall, wanted: Mapping[str, Any]) -> dict[str, Any]:
        scope = self._scope(call.scope)
        family = self.books.open_family(call.client_id, call.client_id, scope)
        return self._issue(family, scope, wanted, renewable=False)

    def _presented(self, call: FakeCall) -> str | None:
        """Give the token that is to be renewed, also where it goes by another name."""
        named = call.params.get("refresh_token")
        if named is not None or self.descriptor.strategy is None:
            return named
        known = (value for value in call.params.values() if self.books.owner_of(value) is not None)
        return next(known, None)

    # Tokens.

    def _issue(
        self, family: Family, scope: tuple[str, ...], wanted: Mapping[str, Any], *, renewable: bool
    ) -> dict[str, Any]:
        """Make tokens, remember them, and give the members of the answer by their names in the RFC."""
        number = next(self._tokens)
        members: dict[str, Any] = {"access_token": f"access-token-{number}", "token_type": "Bearer"}
        if self._lifetime is not None:
            members["expires_in"] = int(self._lifetime.total_seconds())
        if renewable and GrantType.REFRESH_TOKEN in self.descriptor.grants:
            members["refresh_token"] = f"refresh-token-{number}"
        if scope:
            members["scope"] = scope
        members.update(wanted)
        members = {name: value for name, value in members.items() if value is not None}
        self._remember(family, members)
        return members

    def _remember(self, family: Family, members: Mapping[str, Any]) -> None:
        lifetime, scope = members.get("expires_in"), self._scope(members.get("scope", ()))
        access, refresh = members.get("access_token"), members.get("refresh_token")
        lasts = timedelta(seconds=lifetime) if isinstance(lifetime, int | float) else _FOR_GOOD
        if isinstance(access, str):
            self.books.add_access(access, family, scope or family.scope, lasts)
        if isinstance(refresh, str) and refresh != access:
            self.books.add_refresh(refresh, family)

    def _scope(self, value: Any) -> tuple[str, ...]:
        if isinstance(value, str):
            value = value.replace(self.descriptor.scope_delimiter, " ").split()
        return tuple(str(token) for token in value)

    def _shaped(self, members: dict[str, Any]) -> dict[str, Any]:
        """Put the members of an answer where this provider has them."""
        quirks, rule = self.descriptor.quirks, self.descriptor.quirks.expiry
        lifetime, scope = members.pop("expires_in", None), members.pop("scope", None)
        if lifetime is not None:
            members[rule.member] = self._stated(lifetime)
        if scope is not None:
            is_list = isinstance(scope, tuple | list)
            members[quirks.scope_member] = self.descriptor.scope_delimiter.join(scope) if is_list else scope
        shaped: Any = members
        for step in reversed((quirks.token_path or "").split(".") if quirks.token_path else []):
            shaped = [shaped] if step.isdecimal() else {step: shaped}
        return shaped if isinstance(shaped, dict) else members

    def _stated(self, lifetime: Any) -> Any:
        rule = self.descriptor.quirks.expiry
        if not _is_number(lifetime):
            return lifetime
        seconds = lifetime + (self._clock().timestamp() if rule.absolute else 0)
        return int(seconds * 1000) if rule.unit is TimeUnit.MILLISECONDS else int(seconds)


def default_descriptor() -> ProviderDescriptor:
    """Describe a provider that has everything and keeps to the RFCs."""
    return ProviderDescriptor(
        "fake-provider",
        f"{_BASE}/token",
        {GrantType.AUTHORIZATION_CODE, GrantType.REFRESH_TOKEN, GrantType.CLIENT_CREDENTIALS},
        authorization_endpoint=f"{_BASE}/authorize",
        revocation_endpoint=f"{_BASE}/revoke",
        issuer=_BASE,
        iss_required=True,
        pkce=PkceSupport.REQUIRED,
        rotation=RotationPolicy.ALWAYS,
    )


def _callback_url(redirect_uri: str, params: Mapping[str, str]) -> str:
    return f"{redirect_uri}{'&' if '?' in redirect_uri else '?'}{urlencode(params)}"


def _challenge(verifier: str) -> str:
    """Give the S256 challenge of a verifier (RFC 7636 section 4.2)."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
