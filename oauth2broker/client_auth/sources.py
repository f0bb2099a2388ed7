"""Where a client's secret or key comes from. A file or a callable may give another one at any time."""

from __future__ import annotations

import copy
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from oauth2broker.errors import BrokerError, ConfigError
from oauth2broker.secret import TokenSecret, usable_secret

SecretLike: TypeAlias = (
    "str | TokenSecret | os.PathLike[str] | Callable[[], str | TokenSecret] | SecretSource"
)


class SecretSource(ABC):
    """Gives a secret as it is now. Safe to share between threads; its repr shows no secret."""

    __slots__ = ()

    @abstractmethod
    def read(self) -> TokenSecret | BrokerError:
        """Give the secret, or what is wrong. Never raises, so that no traceback shows plain text."""


class _Fixed(SecretSource):
    __slots__ = ("_secret",)

    def __init__(self, secret: TokenSecret) -> None:
        self._secret = secret

    def read(self) -> TokenSecret | BrokerError:
        return self._secret


class _FromCallable(SecretSource):
    __slots__ = ("_give",)

    def __init__(self, give: Callable[[], str | TokenSecret]) -> None:
        self._give = give

    def read(self) -> TokenSecret | BrokerError:
        try:
            found = usable_secret(self._give())
        except BrokerError as error:  # a TransientError, say: the vault is down
            return copy.copy(error)  # without its traceback and causes, which may hold plain text
        except Exception as error:  # noqa: BLE001 - a callable may raise anything
            return ConfigError(f"the callable that gives the client's secret failed ({type(error).__name__})")
        return found or ConfigError("the callable that gives the client's secret gave no usable text")


class _FromFile(SecretSource):
    """Reads the file again for each call to the provider, which costs far more than the file."""

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> TokenSecret | BrokerError:
        try:
            found = usable_secret(self._path.read_text("utf-8-sig").strip("\r\n"))
        except (OSError, ValueError) as error:
            return ConfigError(f"{self._path}: the client's secret cannot be read ({type(error).__name__})")
        return found or ConfigError(f"{self._path}: the client's secret is empty")


def secret_source(value: object) -> SecretSource | ConfigError:
    """Give where to read a secret from, or what is wrong with ``value``. Never raises, as above."""
    if isinstance(value, SecretSource):
        return value
    if isinstance(value, str | TokenSecret):
        secret = usable_secret(value)
        return _Fixed(secret) if secret else ConfigError("the client's secret is empty or has no encoding")
    if isinstance(value, os.PathLike):
        return _FromFile(Path(value).absolute())  # wherever the program's folder is when it is read
    if callable(value):
        return _FromCallable(value)
    return ConfigError(f"a secret is a str, a path or a callable that gives one, not {type(value).__name__}")
