"""Stripe authenticates the platform by its secret API key, the ``client_secret`` here.

See https://docs.stripe.com/connect/oauth-reference and
https://docs.stripe.com/stripe-apps/api-authentication/oauth. Both strategies want client_secret_post, and
put the key where Stripe looks for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from oauth2broker.errors import ConfigError
from oauth2broker.provider.kinds import Endpoint
from oauth2broker.provider.strategies.bearer import basic_header
from oauth2broker.provider.strategy import ProviderStrategy, RequestDraft


@dataclass(frozen=True)
class StripeConnect(ProviderStrategy):
    """Connect: no ``client_id`` for tokens; an account, not a token, is what is disconnected."""

    def shape_request(self, draft: RequestDraft) -> None:
        client_id = draft.form.pop("client_id", None)
        if draft.endpoint is not Endpoint.REVOCATION:
            return
        key, account = draft.form.pop("client_secret", None), draft.extra.get("stripe_user_id")
        if client_id is None or key is None or not isinstance(account, str):
            raise ConfigError("Stripe revokes by the secret key and the record's extra['stripe_user_id']")
        draft.headers["Authorization"] = f"Bearer {key}"
        draft.form = {"client_id": client_id, "stripe_user_id": account}


@dataclass(frozen=True)
class StripeApps(ProviderStrategy):
    """Stripe Apps: the secret key is the user of HTTP Basic, without a password and without ``client_id``."""

    def shape_request(self, draft: RequestDraft) -> None:
        draft.form.pop("client_id", None)
        key = draft.form.pop("client_secret", None)
        if key is not None:
            draft.headers["Authorization"] = basic_header(key)
