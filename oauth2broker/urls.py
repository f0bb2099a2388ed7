"""Which URLs may receive credentials."""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit

from oauth2broker.errors import ConfigError


def checked_endpoint(name: str, url: str) -> str:
    """Give ``url`` if credentials may be sent there, else raise :class:`ConfigError` that names ``name``.

    An endpoint is an absolute https URL (http for loopback hosts only) of printable ASCII, without
    user information, braces and a fragment (RFC 6749 sections 3.1 and 3.2).
    """
    if isinstance(url, str) and {"{", "}"} & set(url):
        raise ConfigError(f"{name} must not hold braces; to leave a value open, make a ProviderTemplate")
    parts = _split(name, url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ConfigError(f"{name} must use https (http is for loopback hosts only)")
    if parts.scheme not in {"http", "https"}:
        raise ConfigError(f"{name} must be an absolute https URL")
    if not parts.hostname:
        raise ConfigError(f"{name} has no host")
    if "%" in parts.netloc:  # what is checked must be what is connected to
        raise ConfigError(f"{name} must not hold escapes in its host")
    if "@" in parts.netloc:
        raise ConfigError(f"{name} must not hold user information")
    return url


def checked_redirect_uri(url: str) -> str:
    """Give ``url`` if it is an absolute URI without a fragment (RFC 6749 section 3.1.2)."""
    if not _split("redirect_uri", url).scheme:
        raise ConfigError("redirect_uri must be an absolute URI")
    return url


def is_loopback(host: str) -> bool:
    """Whether ``host`` names this machine: ``localhost``, 127.0.0.0/8 or ``::1``."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _split(name: str, url: str) -> SplitResult:
    if not isinstance(url, str):
        raise ConfigError(f"{name} is a str, not {type(url).__name__}")
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise ConfigError(f"{name} must be printable ASCII without spaces or backslashes")
    if "#" in url:
        raise ConfigError(f"{name} must not hold a fragment")
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for a port that is none
    except ValueError:
        parts = None
    if parts is None:
        raise ConfigError(f"{name} is not a URL")
    return parts
