"""Methods that send the client's secret itself, or nothing (RFC 6749 section 2.3.1)."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import ClassVar
from urllib.parse import quote_plus

from oauth2broker.client_auth.base import ClientAuthentication, ClientIdentity
from oauth2broker.client_auth.sources import SecretLike, SecretSource, secret_source
from oauth2broker.errors import BrokerError, ConfigError
from oauth2broker.provider.kinds import ClientAuthMethod
from oauth2broker.provider.strategy import RequestDraft
from oauth2broker.secret import TokenSecret


class _WithSecret(ClientAuthentication):
    """``secret`` is text, a path to a file that holds it, or a callable that gives it."""

    secret: SecretSource

    def __init__(self, secret: SecretLike) -> None:
        source = secret_source(secret)
        del secret  # from here on nothing plain is in this frame
        if isinstance(source, ConfigError):
            raise source
        self.secret = source


class ClientSecretBasic(_WithSecret):
    """HTTP Basic, with both parts form-encoded first unless the provider's quirk is ``plain_basic``."""

    methods: ClassVar[tuple[ClientAuthMethod, ...]] = (ClientAuthMethod.CLIENT_SECRET_BASIC,)

    def authenticate(
        self, draft: RequestDraft, identity: ClientIdentity
    ) -> Iterable[TokenSecret] | BrokerError:
        secret = self.secret.read()
        if isinstance(secret, BrokerError):
            return secret
        pair = basic_credentials(identity.client_id, secret, encoded=not identity.plain_basic)
        draft.headers["Authorization"] = f"Basic {pair.expose()}"
        return secret, pair


class ClientSecretPost(_WithSecret):
    """``client_id`` and ``client_secret`` among the parameters."""

    methods: ClassVar[tuple[ClientAuthMethod, ...]] = (ClientAuthMethod.CLIENT_SECRET_POST,)

    def authenticate(
        self, draft: RequestDraft, identity: ClientIdentity
    ) -> Iterable[TokenSecret] | BrokerError:
        secret = self.secret.read()
        if isinstance(secret, BrokerError):
            return secret
        draft.form["client_id"], draft.form["client_secret"] = identity.client_id, secret.expose()
        return (secret,)


class NoAuthentication(ClientAuthentication):
    """A public client: only its ``client_id`` among the parameters (RFC 6749 section 3.2.1)."""

    methods: ClassVar[tuple[ClientAuthMethod, ...]] = (ClientAuthMethod.NONE,)

    def authenticate(
        self, draft: RequestDraft, identity: ClientIdentity
    ) -> Iterable[TokenSecret] | BrokerError:
        draft.form["client_id"] = identity.client_id
        return ()


def basic_credentials(client_id: str, secret: TokenSecret | str, *, encoded: bool = True) -> TokenSecret:
    """Give the credentials of HTTP Basic (RFC 7617 section 2)."""
    plain = secret.expose() if isinstance(secret, TokenSecret) else secret
    pair = f"{quote_plus(client_id)}:{quote_plus(plain)}" if encoded else f"{client_id}:{plain}"
    return TokenSecret(base64.b64encode(pair.encode()).decode("ascii"))
