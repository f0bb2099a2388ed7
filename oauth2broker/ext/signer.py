"""Attaching a token to a request."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, Protocol, TypeVar

from oauth2broker.errors import ConfigError
from oauth2broker.provider.descriptor import ProviderDescriptor
from oauth2broker.provider.strategy import ProviderStrategy
from oauth2broker.records import TokenRecord

Request = TypeVar("Request")
_BEARER = "bearer"


class RequestSigner(Protocol[Request]):
    """Attaches a record's token to a request of any HTTP library."""

    def attach(self, request: Request, record: TokenRecord) -> Request:
        """Give ``request`` with the token of ``record`` on it (RFC 6750 section 2.1 for bearer tokens)."""
        ...


class HeaderSigner:
    """A :class:`RequestSigner` that puts the token in a header, as the API of one provider wants it.

    Serves requests whose ``headers`` can be assigned to (requests, httpx, ``urllib.request`` ...), and plain
    dicts of headers. Which header and scheme is a matter of ``descriptor.quirks`` (``api_header``,
    ``api_scheme``) and of ``strategy`` (None: the descriptor's). Immutable, safe to share between threads.
    """

    def __init__(self, descriptor: ProviderDescriptor, strategy: ProviderStrategy | None = None) -> None:
        self._header = descriptor.quirks.api_header
        self._scheme = descriptor.quirks.api_scheme
        self._strategy = strategy or descriptor.strategy

    def headers(self, record: TokenRecord) -> dict[str, str]:
        """Give the headers that carry the token of ``record``; they hold it in plain.

        Raises :class:`ConfigError` for a token type that is no bearer token (RFC 6749 section 7.1: one must
        not use it), unless the provider's ``api_scheme`` says how it is sent, and for a token that fits in
        no header.
        """
        scheme = self._scheme
        if scheme is None:
            if record.token_type.lower() != _BEARER:
                raise ConfigError(
                    f"the token's type is {record.token_type!r:.80}: say in quirks.api_scheme how it is sent"
                )
            scheme = "Bearer"
        token = record.access_token.expose()
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            del token
            raise ConfigError("the token cannot be sent in a header")
        carried = {self._header: f"{scheme} {token}" if scheme else token}
        if self._strategy is not None:
            self._strategy.augment_api_headers(record, carried)
        return carried

    def attach(self, request: Any, record: TokenRecord) -> Any:
        """Put the token of ``record`` on ``request``, in place of one that is there, and give ``request``."""
        headers: MutableMapping[str, str] = request if isinstance(request, dict) else request.headers
        for name, value in self.headers(record).items():
            for there in [there for there in headers if there.lower() == name.lower()]:
                del headers[there]
            headers[name] = value
        return request
