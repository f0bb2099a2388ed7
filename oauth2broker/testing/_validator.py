"""The rules of the loopback provider, as the RequestValidator that oauthlib's endpoints ask.

oauthlib only ever sees handles of codes, tokens and client secrets (see `Vault`).
"""

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from oauthlib.oauth2 import RequestValidator
from oauthlib.oauth2.rfc6749 import errors

from oauth2broker.testing._ledger import Family, Ledger, RefreshToken

_SCOPE_TOKEN = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
_S256_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


@dataclass(frozen=True, slots=True)
class Client:
    """A registered client; without a secret it is a public one."""

    client_id: str
    secret_handle: str | None


class Validator(RequestValidator):  # type: ignore[misc]
    """Answers oauthlib's questions from the ledger, and books what oauthlib issues.

    oauthlib passes its own, untyped Request everywhere; parameters have the names it gives them.
    Not thread-safe.
    """

    def __init__(self, ledger: Ledger, clients: Mapping[str, Client], lifetime: timedelta) -> None:
        super().__init__()
        self._ledger = ledger
        self._clients = clients
        self._lifetime = lifetime

    # Clients (RFC 6749 section 2.3).

    def client_authentication_required(self, request: Any, *_: Any, **__: Any) -> bool:
        """Everyone must authenticate but a public client that presents no secret."""
        client = self._clients.get(request.client_id)
        return client is None or client.secret_handle is not None or bool(request.client_secret)

    def authenticate_client(self, request: Any, *_: Any, **__: Any) -> bool:
        """Check a confidential client's secret."""
        client = self._clients.get(request.client_id)
        request.client = client
        if client is None or client.secret_handle is None or request.client_secret is None:
            return False
        return hmac.compare_digest(client.secret_handle, request.client_secret)

    def authenticate_client_id(self, client_id: str, request: Any, *_: Any, **__: Any) -> bool:
        """Check that a client is a public one."""
        request.client = self._clients.get(client_id)
        return request.client is not None and request.client.secret_handle is None

    def validate_client_id(self, client_id: str, request: Any, *_: Any, **__: Any) -> bool:
        """Check that a client exists."""
        request.client = self._clients.get(client_id)
        return request.client is not None

    def validate_grant_type(self, *_: Any, **__: Any) -> bool:
        """Every client may use every grant that its kind of client can use."""
        return True

    # The authorization request (RFC 6749 section 4.1.1, RFC 7636).

    def validate_redirect_uri(self, client_id: str, redirect_uri: str, *_: Any, **__: Any) -> bool:
        """Accept any https URI and any http URI of this machine."""
        try:
            parts = urlsplit(redirect_uri)
        except ValueError:
            return False
        here = parts.scheme == "http" and parts.hostname in _LOOPBACK
        return (here or parts.scheme == "https") and bool(parts.hostname) and not parts.fragment

    def get_default_redirect_uri(self, *_: Any, **__: Any) -> None:
        """There is none: a request must name its redirection URI."""

    def validate_response_type(self, client_id: str, response_type: str, *_: Any, **__: Any) -> bool:
        """Only codes are issued."""
        return response_type == "code"

    def get_default_scopes(self, *_: Any, **__: Any) -> list[str]:
        """Nothing is granted that was not asked for."""
        return []

    def validate_scopes(self, client_id: str, scopes: list[str], *_: Any, **__: Any) -> bool:
        """Accept every scope that is well-formed (RFC 6749 section 3.3)."""
        return all(_SCOPE_TOKEN.fullmatch(scope) for scope in scopes)

    def is_pkce_required(self, *_: Any, **__: Any) -> bool:
        """Every client must use PKCE."""
        return True

    # Codes.

    def save_authorization_code(
        self, client_id: str, code: Mapping[str, str], request: Any, *_: Any, **__: Any
    ) -> None:
        """Book a code that is about to be issued."""
        family = self._ledger.open_family(client_id, request.user, tuple(request.scopes))
        self._ledger.add_code(code["code"], family, request.redirect_uri, request.code_challenge)

    def validate_code(
        self, client_id: str, code: str, client: Client, request: Any, *_: Any, **__: Any
    ) -> bool:
        """Check that a code is known, this client's, fresh and unused."""
        found = self._ledger.find_code(code, client_id)
        if found is None:
            return False
        request.scopes = list(found.family.scope)
        request.found_code = found
        return True

    def get_code_challenge(self, code: str, request: Any) -> str:
        """Give the challenge that the verifier must match."""
        challenge: str = request.found_code.challenge
        return challenge

    def get_code_challenge_method(self, code: str, request: Any) -> str:
        """Only S256 is accepted (see `require_s256`)."""
        return "S256"

    def confirm_redirect_uri(
        self,
        client_id: str,
        code: str,
        redirect_uri: str,
        client: Client,
        request: Any,
        *_: Any,
        **__: Any,
    ) -> bool:
        """Check for the redirection URI of the authorization request, to the letter."""
        if redirect_uri != request.found_code.redirect_uri:
            # oauthlib would say invalid_request; RFC 6749 section 5.2 says invalid_grant.
            raise errors.InvalidGrantError(description="Another redirect_uri.", request=request)
        return True

    def invalidate_authorization_code(
        self, client_id: str, code: str, request: Any, *_: Any, **__: Any
    ) -> None:
        """Use a code up."""
        request.found_code.used = True

    # Tokens.

    def validate_refresh_token(
        self, refresh_token: str, client: Client, request: Any, *_: Any, **__: Any
    ) -> bool:
        """Check a refresh token; one that was spent takes its family with it."""
        found = self._ledger.present_refresh(refresh_token, client.client_id)
        request.found_refresh = found
        return found is not None

    def get_original_scopes(self, refresh_token: str, request: Any, *_: Any, **__: Any) -> list[str]:
        """Give what the user consented to, which a narrower refresh leaves as it is."""
        return list(request.found_refresh.family.scope)

    def save_bearer_token(self, token: dict[str, Any], request: Any, *_: Any, **__: Any) -> None:
        """Book what is about to be issued. oauthlib sends `token` as it is after this."""
        if not token["scope"]:
            del token["scope"]  # RFC 6749 has no empty scope
        scope = tuple(request.scopes)
        if request.grant_type == "refresh_token":
            self._save_refreshed(token, request.found_refresh, scope)
        elif request.grant_type == "authorization_code":
            self._save_issued(token, request.found_code.family)
        else:
            client_id = request.client_id
            self._save_issued(token, self._ledger.open_family(client_id, client_id, scope))

    def revoke_token(self, token: str, hint: str | None, request: Any, *_: Any, **__: Any) -> None:
        """Revoke a token of this client (RFC 7009 section 2.1)."""
        if not self._ledger.revoke(token, request.client_id):
            raise errors.UnauthorizedClientError(description="Another client's token.")

    def _save_issued(self, token: dict[str, Any], family: Family) -> None:
        self._ledger.add_access(token["access_token"], family, family.scope, self._lifetime)
        if "refresh_token" in token:
            self._ledger.add_refresh(token["refresh_token"], family)

    def _save_refreshed(self, token: dict[str, Any], presented: RefreshToken, scope: tuple[str, ...]) -> None:
        if presented.spent_at is not None:  # within the grace
            token.clear()
            token.update(presented.answer)
            return
        self._ledger.add_access(token["access_token"], presented.family, scope, self._lifetime)
        if "refresh_token" in token:
            self._ledger.add_refresh(token["refresh_token"], presented.family)
            self._ledger.spend_refresh(presented, dict(token))


def require_s256(request: Any) -> dict[str, str]:
    """Refuse authorization requests with any other challenge (RFC 7636 section 4.2)."""
    if request.code_challenge_method != "S256":
        raise errors.UnsupportedCodeChallengeMethodError(request=request)
    if not _S256_CHALLENGE.fullmatch(request.code_challenge):
        raise errors.InvalidRequestError(description="Malformed code_challenge.", request=request)
    return {}


def require_verifier(request: Any) -> None:
    """Refuse verifiers that are too short, too long or use other characters (section 4.1)."""
    if not _VERIFIER.fullmatch(request.code_verifier):
        raise errors.InvalidGrantError(description="Malformed code_verifier.", request=request)
