"""The words that a provider is described with."""

from __future__ import annotations

from enum import StrEnum


class ClientAuthMethod(StrEnum):
    """How the client authenticates (RFC 6749 section 2.3; names as in RFC 7591 section 2 and RFC 8705)."""

    CLIENT_SECRET_BASIC = "client_secret_basic"
    CLIENT_SECRET_POST = "client_secret_post"
    CLIENT_SECRET_JWT = "client_secret_jwt"
    PRIVATE_KEY_JWT = "private_key_jwt"
    TLS_CLIENT_AUTH = "tls_client_auth"
    SELF_SIGNED_TLS_CLIENT_AUTH = "self_signed_tls_client_auth"
    NONE = "none"


class RotationPolicy(StrEnum):
    """Whether a refresh answer brings another refresh token and spends the one presented."""

    ALWAYS = "always"
    SOMETIMES = "sometimes"
    NEVER = "never"


class PkceSupport(StrEnum):
    """Where a provider stands on PKCE (RFC 7636). Only where it is unsupported, none is sent."""

    REQUIRED = "required"
    SUPPORTED = "supported"
    UNKNOWN = "unknown"
    UNSUPPORTED = "unsupported"


class BodyFormat(StrEnum):
    """Where the parameters of a token request go: a form as in RFC 6749, a JSON object, the URL's query."""

    FORM = "form"
    JSON = "json"
    QUERY = "query"


class Endpoint(StrEnum):
    """The endpoints that the client authenticates at. Renewing has one of its own at some providers."""

    TOKEN = "token"
    REFRESH = "refresh"
    REVOCATION = "revocation"
    INTROSPECTION = "introspection"
    DEVICE_AUTHORIZATION = "device_authorization"
