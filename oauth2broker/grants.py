"""The grants that the broker carries."""

from __future__ import annotations

from enum import StrEnum


class GrantType(StrEnum):
    """The ``grant_type`` values of RFC 6749 that a provider may support."""

    AUTHORIZATION_CODE = "authorization_code"
    REFRESH_TOKEN = "refresh_token"
    CLIENT_CREDENTIALS = "client_credentials"
