"""The HTTP stack of a broker."""

from __future__ import annotations

import threading
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from oauth2broker.forking import forget_in_children

if TYPE_CHECKING:
    from oauth2broker.errors import BrokerError
    from oauth2broker.grants import GrantType
    from oauth2broker.transports.base import (
        HttpRequest,
        HttpResponse,
        TokenHttpClient,
        TransportErrorMapper,
    )


@dataclass(frozen=True, slots=True)
class Transport:
    """An HTTP stack and what its errors mean."""

    client: TokenHttpClient
    mapper: TransportErrorMapper


class CallAmendments(Protocol):
    """Changes the token calls that one thread makes. Both methods must not raise; they may see secrets."""

    def amend_request(self, grant: GrantType, request: HttpRequest) -> HttpRequest | BrokerError:
        """Give the request to send, or why it cannot be."""
        ...

    def amend_response(self, grant: GrantType, response: HttpResponse) -> HttpResponse:
        """Give the answer to read."""
        ...


call_amendments: ContextVar[CallAmendments | None] = ContextVar("oauth2broker_amendments", default=None)
"""Set around a call of a broker, for the token calls that it makes itself, not those that it waits for."""


class LazyTransport:
    """The caller's transport and mapper, or those on requests, made when first needed.

    A start that finds its token in the store never loads requests. ``cert`` is the client certificate that
    the default transport presents.
    """

    def __init__(
        self,
        client: TokenHttpClient | None,
        mapper: TransportErrorMapper | None,
        cert: str | tuple[str, str] | None = None,
    ) -> None:
        self._client = client
        self._mapper = mapper
        self._cert = cert
        self._lock = threading.Lock()
        self._made: Transport | None = None
        forget_in_children(self)

    def get(self) -> Transport:
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    def close(self) -> None:
        with self._lock:
            made, self._made = self._made, None
        if made is not None and self._client is None:
            made.client.close()  # type: ignore[attr-defined]

    def forget_after_fork(self) -> None:
        """The connections are the parent's."""
        self._lock = threading.Lock()
        if self._client is None:
            self._made = None

    def _make(self) -> Transport:
        client, mapper = self._client, self._mapper
        if client is None or mapper is None:
            from oauth2broker.transports import requests as default

            client = default.RequestsHttpClient(cert=self._cert) if client is None else client
            mapper = default.RequestsTransportErrorMapper() if mapper is None else mapper
        return Transport(client, mapper)
