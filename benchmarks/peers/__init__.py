"""The libraries that people use today, one small module each."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from benchmarks.peers.base import Peer

_MODULES = (
    "authlib",
    "requests_oauthlib",
    "requests_oauth2client",
    "requests_auth",
    "google_auth",
    "msal",
    "botocore",
)


def load() -> Sequence[Peer]:
    """Give all peers. Their packages are imported when they are measured, not here."""
    return [import_module(f"benchmarks.peers.{name}").PEER for name in _MODULES]
