"""Attaching a token to a request."""

from __future__ import annotations

import copy
from collections.abc import MutableMapping
from typing import Any, Protocol, TypeVar

from oauth2broker.errors import BrokerError, ConfigError
from oauth2broker.provider.checks import checked_token
from oauth2broker.provider.descriptor import ProviderDescriptor
from oauth2broker.provider.strategy import ProviderStrategy
from oauth2broker.records import TokenRecord

Request = TypeVar("Request")
_BEARER = "bearer"


class RequestSigner(Protocol[Request]):
    """Attaches a record's token to a request of any HTTP library.

    Put it into headers or the URL: a body goes along with redirects, so those elsewhere are not followed. A
    request is signed again, with another record, when the API refused the first.
    """

    def attach(self, request: Request, record: TokenRecord) -> Request:
        """Give ``request`` with the token of ``record`` on it (RFC 6750 section 2.1 for bearer tokens)."""
        ...


class HeaderSigner:
    """A :class:`RequestSigner` that puts the token in a header, as the API of one provider wants it.

    Serves requests whose ``headers`` can be assigned to (requests, httpx, ``urllib.request`` ...), and plain
    mappings of headers. Which header and scheme is a matter of ``descriptor.quirks`` (``api_header``,
    ``api_scheme``) and of ``strategy`` (None: the descriptor's). Immutable, safe to share between threads.
    """

    def __init__(self, descriptor: ProviderDescriptor, strategy: ProviderStrategy | None = None) -> None:
        self._header = descriptor.quirks.api_header
        self._scheme = descriptor.quirks.api_scheme
        self._strategy = strategy or descriptor.strategy

    def headers(self, record: TokenRecord) -> dict[str, str]:
        """Give the headers that carry the token of ``record``; they hold it in plain.

        Raises :class:`ConfigError` for a token type that is no bearer token (RFC 6749 section 7.1: one must
        not use it), unless the provider's ``api_scheme`` says how it is sent, and for what fits in no
        header. What the strategy raises becomes one, too, if it is no :class:`BrokerError`.
        """
        found = self._carried(record)
        if isinstance(found, BrokerError):
            raise found
        return found

    def attach(self, request: Any, record: TokenRecord) -> Any:
        """Put the token of ``record`` on ``request``, in place of one that is there, and give ``request``.

        A ``urllib.request.Request`` takes it as a header that does not travel with redirects. Raises what
        :meth:`headers` raises, and :class:`ConfigError` for what takes no headers.
        """
        error = self._attach(request, record)
        if error is not None:
            raise error
        return request

    def _attach(self, request: Any, record: TokenRecord) -> BrokerError | None:
        """Never raises, as every function here that holds the token in plain: a traceback would show it."""
        found = self._carried(record)
        if isinstance(found, BrokerError):
            return found
        try:
            for name, value in found.items():
                _put(request, name, value)
        except Exception:  # noqa: BLE001 - a request of any library
            return ConfigError(f"the headers of a {type(request).__name__} cannot be assigned to")
        return None

    def _carried(self, record: TokenRecord) -> dict[str, str] | BrokerError:
        scheme = self._scheme
        if scheme is None:
            if record.token_type.lower() != _BEARER:
                return ConfigError(
                    f"the token's type is {record.token_type!r:.80}: say in quirks.api_scheme how it is sent"
                )
            scheme = "Bearer"
        token = record.access_token.expose()
        if not _is_printable(token) or " " in token:
            return ConfigError("the token cannot be sent in a header")
        carried = {self._header: f"{scheme} {token}" if scheme else token}
        return self._augmented(record, carried) or carried

    def _augmented(self, record: TokenRecord, carried: dict[str, str]) -> BrokerError | None:
        """Let the strategy change ``carried`` in place; give what is wrong with that."""
        if self._strategy is None:
            return None
        try:
            self._strategy.augment_api_headers(record, carried)
            fits = all(
                _is_printable(value) and checked_token("a header", name) for name, value in carried.items()
            )
        except BrokerError as raised:
            return copy.copy(raised)  # without its traceback, whose frames hold the token
        except Exception as raised:  # noqa: BLE001 - a hook may raise anything
            return ConfigError(f"the strategy's augment_api_headers failed ({type(raised).__name__})")
        return None if fits else ConfigError("the strategy's augment_api_headers left what cannot be sent")


def _is_printable(value: object) -> bool:
    return isinstance(value, str) and value != "" and value.isascii() and value.isprintable()


def _put(request: Any, name: str, value: str) -> None:
    headers: MutableMapping[str, str] = request if isinstance(request, MutableMapping) else request.headers
    places = [headers]
    if hasattr(request, "add_unredirected_header"):  # of urllib, which sends others along to any host
        places.append(request.unredirected_hdrs)
    for place in places:
        for there in [there for there in place if there.lower() == name.lower()]:
            del place[there]
    if len(places) > 1:
        request.add_unredirected_header(name, value)
    else:
        headers[name] = value
