"""Attaching a token to a request."""

from __future__ import annotations

from typing import Protocol, TypeVar

from oauth2broker.records import TokenRecord

Request = TypeVar("Request")


class RequestSigner(Protocol[Request]):
    """Attaches a record's token to a request of any HTTP library."""

    def attach(self, request: Request, record: TokenRecord) -> Request:
        """Give ``request`` with the token of ``record`` on it (RFC 6750 section 2.1 for bearer tokens)."""
        ...
