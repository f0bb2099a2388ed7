"""Who asks: the client, as it is registered at a provider."""

from __future__ import annotations

from dataclasses import dataclass

from oauth2broker.errors import ConfigError
from oauth2broker.provider.descriptor import ClientAuthMethod, ProviderDescriptor
from oauth2broker.records import checked_text
from oauth2broker.secret import TokenSecret, usable_secret


@dataclass(frozen=True, slots=True)
class Client:
    """The client's own credentials at one provider."""

    client_id: str
    secret: TokenSecret | None
    method: ClientAuthMethod

    @classmethod
    def checked(cls, descriptor: ProviderDescriptor, client_id: str, secret: TokenSecret | None) -> Client:
        """Give the client if it can authenticate at the provider, else raise :class:`ConfigError`."""
        method = descriptor.client_auth
        if method is None:
            method = ClientAuthMethod.NONE if secret is None else ClientAuthMethod.CLIENT_SECRET_BASIC
        if method is ClientAuthMethod.NONE and secret is not None:
            raise ConfigError("the descriptor says that this client does not authenticate: no client_secret")
        if method is not ClientAuthMethod.NONE and (secret is None or not usable_secret(secret)):
            raise ConfigError(f"{method} needs a client_secret")
        return cls(checked_text("client_id", client_id), secret, method)
