"""Who asks: the client, as it is registered at a provider."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from datetime import datetime

from oauth2broker.client_auth.base import ClientAuthentication, ClientIdentity
from oauth2broker.client_auth.secrets import ClientSecretBasic, ClientSecretPost, NoAuthentication
from oauth2broker.client_auth.sources import SecretSource
from oauth2broker.errors import BrokerError, ConfigError
from oauth2broker.provider.descriptor import ProviderDescriptor
from oauth2broker.provider.kinds import ClientAuthMethod, Endpoint
from oauth2broker.provider.strategy import RequestDraft
from oauth2broker.records import checked_text
from oauth2broker.secret import TokenSecret


@dataclass(frozen=True, slots=True)
class Client:
    """The client at one provider, and how it authenticates at each endpoint."""

    client_id: str
    by_default: ClientAuthentication
    by_endpoint: dict[Endpoint, ClientAuthentication]
    audience: str
    plain_basic: bool

    @classmethod
    def checked(
        cls,
        descriptor: ProviderDescriptor,
        client_id: str,
        secret: SecretSource | None,
        authentication: ClientAuthentication | None,
    ) -> Client:
        """Give the client if it can authenticate at the provider, else raise :class:`ConfigError`."""
        if authentication is None:
            authentication = _chosen(descriptor, secret)
        elif secret is not None:
            raise ConfigError("give a client_secret or a client_auth, not both")
        elif not isinstance(authentication, ClientAuthentication):
            raise ConfigError(f"client_auth is a ClientAuthentication, not {type(authentication).__name__}")
        if not isinstance(authentication.secret, SecretSource | None):
            raise ConfigError(f"{authentication!r}.secret is as ClientSecretPost makes it, or None")
        _require_taken(descriptor, authentication)
        quirks = descriptor.quirks
        return cls(
            checked_text("client_id", client_id),
            authentication,
            _differing(descriptor, authentication),
            quirks.assertion_audience or descriptor.issuer or descriptor.token_endpoint,
            quirks.plain_basic,
        )

    @property
    def secret(self) -> SecretSource | None:
        """Where the client's secret comes from, if it has one."""
        return self.by_default.secret

    def authenticate(self, draft: RequestDraft, now: datetime) -> tuple[TokenSecret, ...] | BrokerError:
        """Add to ``draft`` what proves the client, and give the secrets in it; or give what is wrong.

        Never raises, whatever a method of the caller's own does: our callers' frames hold plain secrets.
        """
        identity = ClientIdentity(self.client_id, self.audience, now, self.plain_basic)
        method = self.by_endpoint.get(draft.endpoint, self.by_default)
        try:
            given = method.authenticate(draft, identity)
            added = () if isinstance(given, BrokerError) else tuple(given)
        except BrokerError as raised:
            given = raised
        except Exception as raised:  # noqa: BLE001 - a method may raise anything
            return ConfigError(f"{type(method).__name__} failed ({type(raised).__name__})")
        if isinstance(given, BrokerError):
            return copy.copy(given)  # without its traceback, whose frames hold the form
        if all(isinstance(each, TokenSecret) for each in added):
            return added
        return ConfigError(f"{type(method).__name__} gave what is no TokenSecret")


def _chosen(descriptor: ProviderDescriptor, secret: SecretSource | None) -> ClientAuthentication:
    """Take the provider's preferred method that does with what we have."""
    if secret is None:
        return NoAuthentication()
    taken = [descriptor.client_auth or ClientAuthMethod.CLIENT_SECRET_BASIC]
    taken += [method for method in ClientAuthMethod if method in descriptor.client_auth_also]
    for method in taken:
        found = _with_secret(method, secret)
        if found is not None:
            return found
    raise ConfigError(f"provider {descriptor.id} takes no client_secret but {_listed(descriptor)}")


def _with_secret(method: ClientAuthMethod, secret: SecretSource) -> ClientAuthentication | None:
    match method:
        case ClientAuthMethod.CLIENT_SECRET_BASIC:
            return ClientSecretBasic(secret)
        case ClientAuthMethod.CLIENT_SECRET_POST:
            return ClientSecretPost(secret)
        case ClientAuthMethod.CLIENT_SECRET_JWT:
            from oauth2broker.client_auth.assertions import ClientSecretJwt

            return ClientSecretJwt(secret)
    return None


def _require_taken(descriptor: ProviderDescriptor, authentication: ClientAuthentication) -> None:
    if descriptor.client_auth is None or not authentication.methods:
        return
    if not {descriptor.client_auth, *descriptor.client_auth_also} & set(authentication.methods):
        has = "no credentials" if isinstance(authentication, NoAuthentication) else repr(authentication)
        raise ConfigError(f"provider {descriptor.id} takes {_listed(descriptor)}; this client has {has}")


def _listed(descriptor: ProviderDescriptor) -> str:
    return ", ".join(filter(None, [descriptor.client_auth, *sorted(descriptor.client_auth_also)]))


def _differing(
    descriptor: ProviderDescriptor, authentication: ClientAuthentication
) -> dict[Endpoint, ClientAuthentication]:
    """Give the endpoints that want another method than ours, as far as our secret does for it.

    Without one there is no choice, and the provider decides.
    """
    methods = dict(descriptor.endpoint_client_auth)
    if Endpoint.TOKEN in methods:
        methods.setdefault(Endpoint.REFRESH, methods[Endpoint.TOKEN])
    found: dict[Endpoint, ClientAuthentication] = {}
    for endpoint, method in methods.items():
        if method in authentication.methods:
            continue
        other: ClientAuthentication | None = None
        if method is ClientAuthMethod.NONE:
            other = NoAuthentication()
        elif authentication.secret is not None:
            other = _with_secret(method, authentication.secret)
        if other is not None:
            found[Endpoint(endpoint)] = other
    return found
