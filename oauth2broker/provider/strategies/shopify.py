"""Shopify signs its callbacks with the client's secret.

See https://shopify.dev/docs/apps/build/authentication-authorization/access-tokens/authorization-code-grant.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from oauth2broker.errors import AuthorizationError, ConfigError
from oauth2broker.provider.strategy import CallbackContext, ProviderStrategy
from oauth2broker.secret import TokenSecret

_ANY_TEXT = "surrogatepass"


@dataclass(frozen=True)
class Shopify(ProviderStrategy):
    """Takes a callback only with Shopify's signature and of the shop that the authorization was started for.

    The signature is an HMAC-SHA256 over all other parameters, sorted. Values with characters that need an
    escape are rare in callbacks, and Shopify's own libraries do not agree on them: escaped as in a form, or
    only those that delimit.
    """

    def check_callback(self, callback: CallbackContext) -> None:
        if callback.client_secret is None:
            raise ConfigError("Shopify signs its callbacks with the client_secret, and this client has none")
        if not _is_signed(callback.params, callback.client_secret):
            raise AuthorizationError("the callback does not have Shopify's signature")
        if callback.params.get("shop", "").lower() != urlsplit(callback.token_endpoint).hostname:
            raise AuthorizationError("the callback is of another shop")

    def sign_callback(self, callback: CallbackContext) -> Mapping[str, str]:
        shop = {"shop": urlsplit(callback.token_endpoint).hostname or ""}
        if callback.client_secret is None:
            return shop
        as_a_form, _ = _messages({**shop, **callback.params})
        return {**shop, "hmac": _signature(as_a_form, callback.client_secret)}


def _is_signed(params: Mapping[str, str], secret: TokenSecret) -> bool:
    given = params.get("hmac", "").encode(errors=_ANY_TEXT)
    return any(
        hmac.compare_digest(_signature(message, secret).encode(), given) for message in _messages(params)
    )


def _messages(params: Mapping[str, str]) -> tuple[str, str]:
    """Give what may be signed: escaped as in a form, or only where a character delimits."""
    signed = sorted((name, value) for name, value in params.items() if name != "hmac")
    return (
        urlencode(signed, errors=_ANY_TEXT),
        "&".join(f"{_escaped(name).replace('=', '%3D')}={_escaped(value)}" for name, value in signed),
    )


def _signature(message: str, secret: TokenSecret) -> str:
    return hmac.new(secret.expose().encode(), message.encode(errors=_ANY_TEXT), hashlib.sha256).hexdigest()


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("&", "%26")
