"""The tables of the authorization server: codes, token families, refresh and access tokens.

Keyed by handle, never by the secret itself (see `Vault`). Not thread-safe: `Authority` has the
lock.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

Clock = Callable[[], datetime]


class Vault:
    """Gives secrets handles, so that who only needs to tell them apart never sees them.

    oauthlib prints codes and tokens to its debug log. It gets handles, which are of no use to
    anyone: keyed digests that no endpoint accepts.
    """

    __slots__ = ("_key", "_secrets")

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._secrets: dict[str, str] = {}

    def mint(self) -> str:
        """Make a new secret; give its handle."""
        secret = secrets.token_urlsafe(32)
        handle = self.handle(secret)
        self._secrets[handle] = secret
        return handle

    def handle(self, secret: str) -> str:
        """Give the handle of a secret, whoever made it."""
        digest = hmac.digest(self._key, secret.encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")

    def reveal(self, handle: str) -> str:
        """Give the secret behind a handle that `mint` gave; anything else unchanged."""
        return self._secrets.get(handle, handle)


@dataclass(slots=True)
class Family:
    """All tokens that came from one consent, or from one client credentials grant."""

    client_id: str
    subject: str
    scope: tuple[str, ...]
    revoked: bool = False


@dataclass(slots=True)
class Code:
    """An authorization code, good for one use."""

    family: Family
    redirect_uri: str
    challenge: str
    expires_at: datetime
    used: bool = False


@dataclass(slots=True)
class RefreshToken:
    """A refresh token; `spent_at` and `answer` (in handles) are set when it has been rotated."""

    family: Family
    spent_at: datetime | None = None
    answer: Mapping[str, object] = field(default_factory=dict)


@dataclass(slots=True)
class AccessToken:
    """An access token."""

    family: Family
    scope: tuple[str, ...]
    expires_at: datetime
    revoked: bool = False


class Ledger:
    """Who may do what with which code or token, by the given clock."""

    def __init__(self, clock: Clock, code_lifetime: timedelta, grace: timedelta | None) -> None:
        self.reuses = 0
        self._clock = clock
        self._code_lifetime = code_lifetime
        self._grace = grace
        self._codes: dict[str, Code] = {}
        self._refresh: dict[str, RefreshToken] = {}
        self._access: dict[str, AccessToken] = {}
        self._families: list[Family] = []

    def open_family(self, client_id: str, subject: str, scope: tuple[str, ...]) -> Family:
        """Begin a family without tokens."""
        family = Family(client_id, subject, scope)
        self._families.append(family)
        return family

    def revoke_subject(self, subject: str) -> None:
        """Revoke every family of this user."""
        for family in self._families:
            if family.subject == subject:
                family.revoked = True

    def add_code(self, handle: str, family: Family, redirect_uri: str, challenge: str) -> None:
        """Remember a code, to be used before its lifetime is over."""
        expires_at = self._clock() + self._code_lifetime
        self._codes[handle] = Code(family, redirect_uri, challenge, expires_at)

    def find_code(self, handle: str, client_id: str) -> Code | None:
        """Give a code that this client may use now.

        One that was used before takes the tokens it led to with it (RFC 6749 section 4.1.2).
        """
        code = self._codes.get(handle)
        if code is None or code.family.client_id != client_id:
            return None
        if code.used:
            code.family.revoked = True
        fresh = self._clock() < code.expires_at
        return code if fresh and not code.family.revoked else None

    def add_access(self, handle: str, family: Family, scope: tuple[str, ...], lifetime: timedelta) -> None:
        """Remember an access token."""
        self._access[handle] = AccessToken(family, scope, self._clock() + lifetime)

    def add_refresh(self, handle: str, family: Family) -> None:
        """Remember a refresh token."""
        self._refresh[handle] = RefreshToken(family)

    def live_access(self, handle: str) -> AccessToken | None:
        """Give an access token that works now."""
        token = self._access.get(handle)
        if token is None or token.revoked or token.family.revoked:
            return None
        return token if self._clock() < token.expires_at else None

    def present_refresh(self, handle: str, client_id: str) -> RefreshToken | None:
        """Give a refresh token that this client may use now.

        A spent one, outside the grace, takes its whole family with it (RFC 9700 section 4.14.2).
        """
        token = self._refresh.get(handle)
        if token is None or token.family.client_id != client_id:
            return None
        if token.spent_at is not None and not self._is_in_grace(token.spent_at):
            self.reuses += 1
            token.family.revoked = True
        return None if token.family.revoked else token

    def spend_refresh(self, token: RefreshToken, answer: Mapping[str, object]) -> None:
        """Mark a refresh token as rotated; `answer` is what the grace repeats."""
        token.spent_at = self._clock()
        token.answer = answer

    def revoke(self, handle: str, client_id: str) -> bool:
        """Revoke a token (a refresh token with its family); False if it is another client's."""
        token = self._refresh.get(handle) or self._access.get(handle)
        if token is None:
            return True
        if token.family.client_id != client_id:
            return False
        if isinstance(token, RefreshToken):
            token.family.revoked = True
        else:
            token.revoked = True
        return True

    def _is_in_grace(self, spent_at: datetime) -> bool:
        return self._grace is not None and self._clock() - spent_at <= self._grace
