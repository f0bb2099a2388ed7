"""Methods that prove a certificate's key in the TLS handshake (RFC 8705 section 2)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from oauth2broker.client_auth.base import ClientAuthentication, ClientIdentity
from oauth2broker.errors import BrokerError, ConfigError
from oauth2broker.provider.checks import is_path
from oauth2broker.provider.kinds import ClientAuthMethod
from oauth2broker.provider.strategy import RequestDraft
from oauth2broker.secret import TokenSecret


class TlsClientAuth(ClientAuthentication):
    """A client certificate, of a CA or self-signed, and the ``client_id`` among the parameters.

    ``certificate`` is the path of a PEM file with the certificate (and its chain); ``key`` that of its
    private key, not encrypted, if it is in a file of its own. Both are read for each connection, so that they
    can be replaced at any time. The broker's default transport presents them; another transport must do so
    itself. Raises :class:`ConfigError` for files that do not serve.
    """

    methods: ClassVar[tuple[ClientAuthMethod, ...]] = (
        ClientAuthMethod.TLS_CLIENT_AUTH,
        ClientAuthMethod.SELF_SIGNED_TLS_CLIENT_AUTH,
    )

    def __init__(
        self, certificate: str | os.PathLike[str], key: str | os.PathLike[str] | None = None
    ) -> None:
        if not is_path(certificate) or not (key is None or is_path(key)):
            del certificate, key  # they may be the plain key
            raise ConfigError("certificate is the path of a PEM file; key is one, or None")
        paths = [str(Path(path).absolute()) for path in (certificate, key) if path is not None]
        self.cert: str | tuple[str, str] = paths[0] if key is None else (paths[0], paths[1])
        problem = self._problem()
        if problem is not None:
            raise problem

    def authenticate(
        self, draft: RequestDraft, identity: ClientIdentity
    ) -> Iterable[TokenSecret] | BrokerError:
        draft.form["client_id"] = identity.client_id
        return self._problem() or ()

    def _problem(self) -> ConfigError | None:
        """Give what would only show in the handshake, after the attempt is written down."""
        import ssl

        certificate, key = (self.cert, None) if isinstance(self.cert, str) else self.cert
        try:  # a password, so that nothing waits for one at a terminal
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password="")
        except (OSError, ValueError) as error:  # an SSLError is an OSError
            what = getattr(error, "reason", None) or type(error).__name__
            return ConfigError(f"the client certificate and its key cannot be used ({what}): {self.cert}")
        return None
