"""Hooks for what a provider does that data cannot say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import urlencode, urlsplit

from oauth2broker.grants import GrantType
from oauth2broker.provider.kinds import BodyFormat, Endpoint
from oauth2broker.records import TokenRecord
from oauth2broker.secret import TokenSecret


class ProviderErrorKind(StrEnum):
    """What an error answer means for the caller."""

    INVALID_GRANT = "invalid_grant"
    INTERACTION_REQUIRED = "interaction_required"
    ACCESS_DENIED = "access_denied"
    INVALID_CLIENT = "invalid_client"
    INSUFFICIENT_SCOPE = "insufficient_scope"
    CONFIG = "config"
    TRANSIENT = "transient"


@dataclass(frozen=True, slots=True)
class ProviderErrorContext:
    """An error answer, as far as it may be known: no bodies, no secrets.

    ``error`` is the code after the descriptor's ``error_codes``; ``description`` is the provider's text with
    every secret of the request blotted out.
    """

    grant: GrantType
    status: int
    error: str
    description: str | None = None


@dataclass(frozen=True, slots=True)
class CallbackContext:
    """A callback whose ``state`` is right, before its code is used.

    ``params`` are all that came; they hold the code, so they are not in the repr. ``client_secret`` is there
    for providers that sign their callbacks with it.
    """

    params: Mapping[str, str] = field(repr=False)
    token_endpoint: str
    client_secret: TokenSecret | None = None


@dataclass(slots=True, repr=False)
class RequestDraft:
    """A request to the provider before it is encoded. A strategy may change all but the first three.

    ``grant`` is the one that the record was or will be obtained by or, when renewing, refresh_token.
    ``extra`` is what is kept with the record (``record.extra``), or what a callback brought. ``form`` holds
    the parameters by the names that they are sent by, client authentication included; ``body`` is what they
    become, byte for byte, for a signature. Holds secrets; its repr shows endpoint and host only.
    """

    endpoint: Endpoint
    grant: GrantType
    extra: Mapping[str, Any]
    url: str
    form: dict[str, str]
    headers: dict[str, str]
    body_format: BodyFormat = BodyFormat.FORM
    method: str = "POST"

    @property
    def body(self) -> bytes:
        """The body that ``form`` is sent as, in ``body_format`` as it is now; empty for a query."""
        match self.body_format:
            case BodyFormat.JSON:
                return json.dumps(dict(self.form)).encode("ascii")  # whatever mapping a hook put there
            case BodyFormat.FORM:
                return urlencode(self.form).encode("ascii")
        return b""

    def __repr__(self) -> str:
        return f"RequestDraft({self.endpoint} {urlsplit(self.url).hostname})"


_KINDS = {
    "invalid_grant": ProviderErrorKind.INVALID_GRANT,
    "invalid_client": ProviderErrorKind.INVALID_CLIENT,
    "unauthorized_client": ProviderErrorKind.INVALID_CLIENT,
    "invalid_scope": ProviderErrorKind.INSUFFICIENT_SCOPE,
    "insufficient_scope": ProviderErrorKind.INSUFFICIENT_SCOPE,
    "access_denied": ProviderErrorKind.ACCESS_DENIED,
    # OpenID Connect Core section 3.1.2.6, which some providers also use at the token endpoint
    "interaction_required": ProviderErrorKind.INTERACTION_REQUIRED,
    "login_required": ProviderErrorKind.INTERACTION_REQUIRED,
    "consent_required": ProviderErrorKind.INTERACTION_REQUIRED,
    "account_selection_required": ProviderErrorKind.INTERACTION_REQUIRED,
    "invalid_request": ProviderErrorKind.CONFIG,
    "unsupported_grant_type": ProviderErrorKind.CONFIG,
    "invalid_target": ProviderErrorKind.CONFIG,  # RFC 8707 section 2
    "server_error": ProviderErrorKind.TRANSIENT,
    "temporarily_unavailable": ProviderErrorKind.TRANSIENT,
    "slow_down": ProviderErrorKind.TRANSIENT,
}
STANDARD_ERRORS = frozenset(_KINDS)


class ProviderStrategy:
    """The hooks, each doing what the RFCs say; override what your provider does otherwise.

    Hooks are called from several threads, with no lock held but possibly inside a renewal: one that calls
    the broker for the same key gets a ConfigError. A hook that raises before anything is sent changes
    nothing; one that raises on an answer loses no refresh token. What a hook raises is reduced to the name
    of its type, except a BrokerError, which goes to the caller as it is: put no secret into one.
    """

    def augment_authorization_request(self, params: dict[str, str]) -> None:
        """Change the parameters of the authorization URL in place (RFC 6749 section 4.1.1)."""

    def check_callback(self, callback: CallbackContext) -> None:
        """Raise :class:`AuthorizationError` for a callback that is not the provider's: a bad signature ..."""

    def sign_callback(self, callback: CallbackContext) -> Mapping[str, str]:
        """Give what the provider adds to a callback with these ``params``: a signature ...

        No broker asks. It is for tests, in which :class:`FakeProvider` makes callbacks.
        """
        return {}

    def augment_token_request(self, grant: GrantType, form: dict[str, str]) -> None:
        """Change the form of a token request in place, before the client authentication joins it."""

    def shape_request(self, draft: RequestDraft) -> None:
        """Change a token, refresh or revocation request in place, last of all, before it is encoded."""

    def normalize_token_response(self, grant: GrantType, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """Give the answer in the shape of RFC 6749 section 5.1.

        ``payload`` is the answer after the descriptor's ``token_path``, with what was kept of the callback. A
        ``refresh_token`` that the result does not mention is taken from ``payload``; None drops it.
        """
        return payload

    def augment_api_headers(self, record: TokenRecord, headers: dict[str, str]) -> None:
        """Change in place the headers that carry the token of ``record`` to an API (RFC 6750 section 2.1)."""

    def classify_token_error(self, context: ProviderErrorContext) -> ProviderErrorKind:
        """Say what an error answer (RFC 6749 section 5.2) means."""
        if context.status == 429 or context.status >= 500:
            return ProviderErrorKind.TRANSIENT  # whatever it says: a provider that is down buries no grant
        unknown = ProviderErrorKind.INVALID_CLIENT if context.status == 401 else ProviderErrorKind.CONFIG
        return _KINDS.get(context.error, unknown)


class DefaultProviderStrategy(ProviderStrategy):
    """For providers that keep to the RFCs."""
