"""The authorization server without HTTP: oauthlib's endpoints over the ledger, behind one lock."""

import json
import threading
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from oauthlib.oauth2 import (
    AuthorizationCodeGrant,
    AuthorizationEndpoint,
    BearerToken,
    ClientCredentialsGrant,
    RefreshTokenGrant,
    RevocationEndpoint,
    TokenEndpoint,
)
from oauthlib.oauth2.rfc6749 import errors

from oauth2broker.testing._answer import Answer
from oauth2broker.testing._ledger import Clock, Ledger, Vault
from oauth2broker.testing._pages import consent_page, error_page
from oauth2broker.testing._parameters import Parameters, read_form, read_parameters
from oauth2broker.testing._server import Request
from oauth2broker.testing._validator import Client, Validator, require_s256, require_verifier

CODE_LIFETIME = timedelta(seconds=60)

# oauthlib insists on https. What reaches this server came over loopback, which counts as secure
# (RFC 8252 section 8.3); saying so here spares a process-wide environment variable.
_URI = "https://127.0.0.1/"

_AUTHORIZATION = frozenset(
    {"response_type", "client_id", "redirect_uri", "scope", "state"}
    | {"code_challenge", "code_challenge_method"}
)
_TOKEN = frozenset(
    {"grant_type", "client_id", "client_secret", "scope", "refresh_token"}
    | {"code", "redirect_uri", "code_verifier"}
)
_REVOCATION = frozenset({"client_id", "client_secret", "token", "token_type_hint"})
_SECRETS = frozenset({"client_secret", "code", "refresh_token", "token"})
_ISSUED = frozenset({"access_token", "refresh_token"})
_CHALLENGE = (("WWW-Authenticate", 'Basic realm="loopback"'),)

_Endpoint = Callable[[str, str, Parameters, dict[str, str]], tuple[dict[str, str], str, int]]
_Act = Callable[[str, Parameters], Answer]


@dataclass(frozen=True, slots=True)
class Policy:
    """How this authorization server behaves."""

    clients: Mapping[str, str | None] = field(repr=False)  # the secrets are in it
    access_token_lifetime: timedelta
    rotate: bool
    reuse_grace: timedelta | None
    clock: Clock


class Authority:
    """Answers authorization, token, revocation and resource requests. Thread-safe.

    Each request is processed under one lock from start to end: of two that present the same
    refresh token one is first, and the other presents a spent one.
    """

    def __init__(self, policy: Policy) -> None:
        self._lock = threading.Lock()
        self._vault = Vault()
        self._ledger = Ledger(policy.clock, CODE_LIFETIME, policy.reuse_grace)
        validator = Validator(self._ledger, self._register(policy.clients), policy.access_token_lifetime)
        lifetime = int(policy.access_token_lifetime.total_seconds())
        bearer = BearerToken(validator, lambda _: self._vault.mint(), lambda _: lifetime)
        codes = _build_code_grant(validator, self._vault)
        self._authorization = AuthorizationEndpoint("code", bearer, {"code": codes})
        self._tokens = TokenEndpoint(
            "authorization_code",
            bearer,
            {
                "authorization_code": codes,
                "refresh_token": RefreshTokenGrant(validator, policy.rotate),
                "client_credentials": ClientCredentialsGrant(validator),
            },
        )
        self._revocation = RevocationEndpoint(validator)

    # What the endpoints answer.

    def grant_tokens(self, request: Request) -> Answer:
        """Answer a token request (RFC 6749 section 3.2)."""
        return self._ask(self._tokens.create_token_response, request, _TOKEN)

    def revoke_token(self, request: Request) -> Answer:
        """Answer a revocation request (RFC 7009); a refresh token goes with its family."""
        return self._ask(self._revocation.create_revocation_response, request, _REVOCATION)

    def show_consent(self, request: Request, issuer: str) -> Answer:
        """Answer an authorization request with the page that asks the user."""

        def ask_user(uri: str, parameters: Parameters) -> Answer:
            self._authorization.validate_authorization_request(uri)
            return consent_page(request.path, parameters)

        return self._lead(request.query, ask_user, issuer)

    def take_decision(self, request: Request, issuer: str) -> Answer:
        """Answer the form of that page with a redirection that carries a code or an error."""
        encoded = request.body.decode("latin-1")
        form = dict(parse_qsl(encoded))
        decision, user = form.get("decision"), form.get("user")
        if not user or decision not in {"approve", "deny"}:
            return error_page("invalid_request", "The form is incomplete.")

        def decide(uri: str, _: Parameters) -> Answer:
            return self._approve(uri, user, issuer) if decision == "approve" else self._deny(uri)

        return self._lead(encoded, decide, issuer)

    def show_resource(self, request: Request) -> Answer:
        """Answer whoever brings a live Bearer token (RFC 6750)."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return Answer(401, (("WWW-Authenticate", 'Bearer realm="loopback"'),))
        with self._lock:
            found = self._ledger.live_access(self._vault.handle(token.strip()))
        if found is None:
            challenge = 'Bearer realm="loopback", error="invalid_token"'
            return Answer.of_json(401, {"error": "invalid_token"}, (("WWW-Authenticate", challenge),))
        return Answer.of_json(200, {"sub": found.family.subject, "scope": " ".join(found.scope)})

    # What tests want to know or to happen.

    def is_live(self, access_token: str) -> bool:
        """Whether the resource would accept this token now."""
        with self._lock:
            return self._ledger.live_access(self._vault.handle(access_token)) is not None

    def revoke_user(self, user: str) -> None:
        """Revoke everything that this user consented to."""
        with self._lock:
            self._ledger.revoke_subject(user)

    @property
    def reuses(self) -> int:
        """How often a spent refresh token came again outside the grace."""
        with self._lock:
            return self._ledger.reuses

    def clear_reuses(self) -> None:
        """Count them from zero again."""
        with self._lock:
            self._ledger.reuses = 0

    # How they come to it.

    def _register(self, clients: Mapping[str, str | None]) -> dict[str, Client]:
        return {
            client_id: Client(client_id, None if secret is None else self._vault.handle(secret))
            for client_id, secret in clients.items()
        }

    def _ask(self, endpoint: _Endpoint, request: Request, known: Set[str]) -> Answer:
        try:
            form = read_form(request, known)
            sealed = {k: self._vault.handle(v) if k in _SECRETS else v for k, v in form.items()}
            with self._lock:
                _, body, status = endpoint(_URI, request.method, sealed, {})
        except errors.OAuth2Error as error:
            body, status = error.json, error.status_code
        if not body:
            return Answer(status)
        payload = {
            name: self._vault.reveal(value) if name in _ISSUED else value
            for name, value in json.loads(body).items()
        }
        return Answer.of_json(status, payload, _CHALLENGE if status == 401 else ())

    def _lead(self, encoded: str, act: _Act, issuer: str) -> Answer:
        try:
            parameters = read_parameters(encoded, _AUTHORIZATION)
            with self._lock:
                return act(f"{_URI}?{urlencode(parameters)}", parameters)
        except errors.FatalClientError as error:
            return error_page(error.error, error.description)
        except errors.OAuth2Error as error:
            if not error.redirect_uri:
                return error_page(error.error, error.description)
            return self._send_back(error.in_uri(error.redirect_uri), issuer)

    def _approve(self, uri: str, user: str, issuer: str) -> Answer:
        headers, _, _ = self._authorization.create_authorization_response(
            uri, headers={}, credentials={"user": user}
        )
        return self._send_back(headers["Location"], issuer)

    def _deny(self, uri: str) -> Answer:
        _, info = self._authorization.validate_authorization_request(uri)
        raise errors.AccessDeniedError(request=info["request"])

    def _send_back(self, location: str, issuer: str) -> Answer:
        """Redirect with the issuer (RFC 9207) and the code itself where oauthlib has its handle."""
        parts = urlsplit(location)
        pairs = parse_qsl(parts.query, keep_blank_values=True)
        query = [(k, self._vault.reveal(v) if k == "code" else v) for k, v in pairs]
        query.append(("iss", issuer))
        return Answer.of_redirect(urlunsplit(parts._replace(query=urlencode(query))))


def _build_code_grant(validator: Validator, vault: Vault) -> Any:
    grant = AuthorizationCodeGrant(validator, post_auth=[require_s256], post_token=[require_verifier])
    # oauthlib logs the code it makes before anyone can touch it; so it is not the one that is used.
    grant.register_code_modifier(lambda made, *_: {**made, "code": vault.mint()})
    return grant


def describe_token_request(request: Request) -> tuple[str, str]:
    """Give grant type and client id of a token request; empty strings when it is unreadable."""
    try:
        form = read_form(request, _TOKEN)
    except errors.OAuth2Error:
        return "", ""
    return form.get("grant_type", ""), form.get("client_id", "")
