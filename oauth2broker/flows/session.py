"""What must be remembered between sending a user away and their coming back."""

from __future__ import annotations

import hmac
import json
import re
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from oauth2broker.errors import (
    AuthorizationError,
    BrokerError,
    ConfigError,
    SerializationError,
    StateMismatchError,
)
from oauth2broker.grants import GrantType
from oauth2broker.ids import PrincipalId, ProviderId, TenantId
from oauth2broker.records import StoreKey, TokenFamily, checked_text
from oauth2broker.scopes import ScopeSet
from oauth2broker.secret import TokenSecret

SESSION_VERSION = 1
_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")  # RFC 7636 section 4.1


class _SingleUse:
    """A right that can be taken once, by one thread, and given back. One list operation is atomic."""

    __slots__ = ("_right",)

    def __init__(self) -> None:
        self._right = [True]

    def take(self) -> bool:
        try:
            return self._right.pop()
        except IndexError:
            return False

    def give_back(self) -> None:
        self._right.append(True)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class AuthorizationSession:
    """One authorization under way (RFC 6749 section 4.1, RFC 7636).

    Send the user to ``authorize_url``; keep the session under its ``state`` until the callback comes. Its
    ``to_json`` holds the code verifier, so keep it where the user's browser cannot read it. Serves once, and
    until ``expires_at`` (an aware UTC datetime). At a provider that refuses PKCE, code verifier and challenge
    are empty. Safe to share between threads.
    """

    tenant: TenantId
    principal: PrincipalId
    provider: ProviderId
    client_id: str
    scope: ScopeSet
    redirect_uri: str
    resource: str | None
    state: str
    code_verifier: TokenSecret
    code_challenge: str
    authorize_url: str
    expires_at: datetime
    _use: _SingleUse = field(default_factory=_SingleUse, init=False)

    def __repr__(self) -> str:
        return f"AuthorizationSession({self.tenant!r}, {self.principal!r}, {self.provider!r})"

    @property
    def key(self) -> StoreKey:
        """Where the token will be kept."""
        family = TokenFamily(self.tenant, self.principal, self.provider, self.client_id)
        return StoreKey(family, self.scope.fingerprint, self.resource, GrantType.AUTHORIZATION_CODE)

    def to_json(self) -> str:
        """Give the session as JSON, with a version. The text holds the plain code verifier.

        Take it out of where it is kept, in one step, when the callback comes: each session that is read from
        it serves once, and a code that is presented twice can end the grant (RFC 6749 section 4.1.2).
        """
        members: dict[str, Any] = {name: getattr(self, name) for name in _STORED_FIELDS}
        members.update(
            version=SESSION_VERSION,
            scope=self.scope.normalized,
            code_verifier=self.code_verifier.expose(),
            expires_at=self.expires_at.isoformat(),
        )
        return json.dumps(members)

    @classmethod
    def from_json(cls, text: str | bytes) -> AuthorizationSession:
        """Read what :meth:`to_json` wrote.

        Raises :class:`SerializationError` for anything else, without a word of the text in the message.
        """
        found = _decoded(text)
        del text
        if isinstance(found, str):
            raise SerializationError(f"not an authorization session: {found}")
        return found

    def require_state(self, state: str | None) -> None:
        """Raise :class:`StateMismatchError` unless equal, in constant time (RFC 6749 section 10.12)."""
        if state is None:
            raise StateMismatchError("the callback carries no state")
        if not hmac.compare_digest(state.encode("utf-8", "surrogatepass"), self.state.encode()):
            raise StateMismatchError("the callback's state is not the one of this session")

    def claim(self, now: datetime) -> None:
        """Take the one use of this session; raise when it has served already, or expired."""
        if now >= self.expires_at:
            raise AuthorizationError("this session has expired; start again", reauthorize=True)
        if not self._use.take():
            raise StateMismatchError("this session has served already")

    def release(self) -> None:
        """Give the use back, after nothing was sent."""
        self._use.give_back()


def mistaken_session(session: object) -> ConfigError | None:
    """Give what is wrong with what should be a session. Never raises: its JSON holds the code verifier."""
    if isinstance(session, AuthorizationSession):
        return None
    kind = type(session).__name__
    return ConfigError(f"session is an AuthorizationSession, not {kind}; from_json reads what to_json wrote")


_STORED_FIELDS = tuple(spec.name for spec in fields(AuthorizationSession) if spec.init)


def _decoded(text: str | bytes) -> AuthorizationSession | str:
    """Give the session, or what is wrong. Never raises, so that no traceback holds the text."""
    try:
        members = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return "no JSON"
    if not isinstance(members, dict) or members.pop("version", None) != SESSION_VERSION:
        return "no JSON object of a known version"
    try:
        expires_at = datetime.fromisoformat(members.pop("expires_at"))
        if expires_at.utcoffset() is None:
            return "expires_at has no time zone"
        verifier, challenge = members.pop("code_verifier"), members.pop("code_challenge")
        has_pkce = (verifier, challenge) != ("", "")  # a provider may refuse it
        if has_pkce and not _VERIFIER.fullmatch(verifier):
            return "the code_verifier cannot be one"
        return AuthorizationSession(
            tenant=TenantId(members.pop("tenant")),
            principal=PrincipalId(members.pop("principal")),
            provider=ProviderId(members.pop("provider")),
            scope=ScopeSet(members.pop("scope")),
            code_verifier=TokenSecret(verifier),
            code_challenge=checked_text("code_challenge", challenge) if has_pkce else "",
            resource=_optional(members.pop("resource")),
            expires_at=expires_at.astimezone(UTC),
            **{name: checked_text(name, value) for name, value in members.items()},
        )
    except (BrokerError, TypeError, ValueError, KeyError, OverflowError) as error:
        return f"a member is missing, unknown or cannot be ({type(error).__name__})"


def _optional(resource: Any) -> str | None:
    return None if resource is None else checked_text("resource", resource)
