"""Hooks for what a provider does that data cannot say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from oauth2broker.grants import GrantType


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

    def augment_token_request(self, grant: GrantType, form: dict[str, str]) -> None:
        """Change the form of a token request in place, before the client authentication joins it."""

    def normalize_token_response(self, grant: GrantType, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """Give the answer in the shape of RFC 6749 section 5.1.

        A ``refresh_token`` that the result does not mention is taken from ``payload``; None drops it.
        """
        return payload

    def classify_token_error(self, context: ProviderErrorContext) -> ProviderErrorKind:
        """Say what an error answer (RFC 6749 section 5.2) means."""
        if context.status == 429 or context.status >= 500:
            return ProviderErrorKind.TRANSIENT  # whatever it says: a provider that is down buries no grant
        return _KINDS.get(context.error, ProviderErrorKind.CONFIG)


class DefaultProviderStrategy(ProviderStrategy):
    """For providers that keep to the RFCs."""
