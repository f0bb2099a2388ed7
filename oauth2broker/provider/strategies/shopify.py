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


def _is_signed(params: Mapping[str, str], secret: TokenSecret) -> bool:
    signed = sorted((name, value) for name, value in params.items() if name != "hmac")
    messages = (
        urlencode(signed, errors=_ANY_TEXT),
        "&".join(f"{_escaped(name).replace('=', '%3D')}={_escaped(value)}" for name, value in signed),
    )
    key, given = secret.expose().encode(), params.get("hmac", "").encode(errors=_ANY_TEXT)
    return any(
        hmac.compare_digest(
            hmac.new(key, message.encode(errors=_ANY_TEXT), hashlib.sha256).hexdigest().encode(), given
        )
        for message in messages
    )


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("&", "%26")
