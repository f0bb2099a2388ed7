"""Records encrypted with AES-256-GCM. Needs the extra ``crypto``; alone imports cryptography."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from oauth2broker.errors import BackendError, ConfigError, SerializationError, StoreError
from oauth2broker.secret import TokenSecret
from oauth2broker.stores.sealing import RecordCipher

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

Key: TypeAlias = str | bytes | TokenSecret
Keys: TypeAlias = "Key | Sequence[Key] | os.PathLike[str] | Callable[[], Key | Sequence[Key]]"

_KEY_BYTES = 32
_NONCE_BYTES = 12  # at random, which is safe for 2**32 records under one key (NIST SP 800-38D section 8.3)
_ID_LABEL = b"oauth2broker/key-id/1"
_NO_KEY = (
    "a cipher's key is 32 bytes, or base64 of them (AesGcmCipher.generate_key() gives one); "
    "a file of keys is given as pathlib.Path"
)


@dataclass(frozen=True, slots=True)
class _Key:
    """A key, and the name by which sealed text tells it."""

    name: str
    aead: AESGCM = field(repr=False)


_Ring = tuple[_Key, ...]
_Read = Callable[[], "_Ring | StoreError"]


class AesGcmCipher(RecordCipher):
    """Seals with the newest of its keys and opens with any.

    ``keys`` are given newest first: a key or a sequence of keys; the path of a file that holds them, one per
    line; or a callable that gives them. File and callable are asked at each use, so that keys can change
    while the program runs. A key is 32 random bytes, or base64 of them (:meth:`generate_key`).
    Sealed text names its key by a part of a hash, and opens only in the place of the record that it is.
    Safe to share between threads. Raises :class:`ConfigError` for keys that are none, and when cryptography
    is not installed.
    """

    def __init__(self, keys: Keys) -> None:
        read = _reader(keys) if _is_installed() else None
        asks_later = callable(keys)
        del keys  # from here on nothing plain is in this frame
        if read is None:
            raise ConfigError('cryptography is not installed: pip install "oauth2broker[crypto]"')
        wrong = read if isinstance(read, StoreError) else None if asks_later else read()
        if isinstance(wrong, StoreError):
            raise ConfigError(str(wrong))
        self._read: _Read = read  # type: ignore[assignment] # raised above if it is an error

    def __repr__(self) -> str:
        return "AesGcmCipher(***)"

    @staticmethod
    def generate_key() -> str:
        """Give a new key, as base64."""
        return base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode("ascii")

    def seal(self, plain: TokenSecret, place: str) -> str:
        newest = self._ring()[0]
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = nonce + newest.aead.encrypt(nonce, plain.expose().encode(), place.encode())
        return f"{newest.name}:{base64.b64encode(sealed).decode('ascii')}"

    def open(self, sealed: str, place: str) -> TokenSecret:
        name, _, text = sealed.partition(":")
        known = [key for key in self._ring() if key.name == name]
        if not known:
            raise SerializationError("encrypted with a key that the cipher does not have")
        found = _opened(known[0], text, place)
        if found is None:
            raise SerializationError("encrypted text that was changed, or put in another record's place")
        return found

    def is_current(self, sealed: str) -> bool:
        return sealed.partition(":")[0] == self._ring()[0].name

    def _ring(self) -> _Ring:
        ring = self._read()
        if isinstance(ring, StoreError):
            raise ring
        return ring


def _is_installed() -> bool:
    try:
        import cryptography  # noqa: F401
    except ImportError:
        return False
    return True


# What follows holds plain keys, and returns what is wrong instead of raising it.


def _reader(keys: Keys) -> _Read | StoreError:
    """Give what reads the keys, each time it is called if they are not given here and now."""
    if isinstance(keys, os.PathLike):
        path = Path(keys).absolute()  # wherever the program's folder is when it is read
        return lambda: _from_file(path)
    if callable(keys):
        return lambda: _from_callable(keys)
    ring = _ring_of(keys)
    return ring if isinstance(ring, StoreError) else lambda: ring


def _from_file(path: Path) -> _Ring | StoreError:
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        return BackendError(f"{path}: the cipher's keys cannot be read ({type(error).__name__})")
    ring = _ring_of(text.split())
    return BackendError(f"{path}: {ring}") if isinstance(ring, StoreError) else ring


def _from_callable(give: Callable[[], Key | Sequence[Key]]) -> _Ring | StoreError:
    try:
        return _ring_of(give())
    except StoreError as error:
        return BackendError(str(error), retry_after=error.retry_after)  # whatever kind: no record is at fault
    except Exception as error:  # noqa: BLE001 - a callable may raise anything
        return BackendError(f"the callable that gives the cipher's keys failed ({type(error).__name__})")


def _ring_of(keys: Key | Sequence[Key]) -> _Ring | StoreError:
    several = [keys] if isinstance(keys, str | bytes | TokenSecret) else keys
    if not isinstance(several, Sequence) or not several:
        return BackendError("a cipher has one key, or a sequence of them")
    made = [_key_of(key) for key in several]
    if None in made:
        return BackendError(_NO_KEY)
    return tuple(key for key in made if key is not None)


def _key_of(key: Key) -> _Key | None:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    plain = key if isinstance(key, bytes) and len(key) == _KEY_BYTES else _decoded(key)
    if plain is None or len(plain) != _KEY_BYTES:
        return None
    return _Key(hashlib.sha256(_ID_LABEL + plain).hexdigest()[:16], AESGCM(plain))


def _decoded(key: object) -> bytes | None:
    text = key.expose() if isinstance(key, TokenSecret) else key
    text = text.decode("latin-1") if isinstance(text, bytes) else text  # some secret managers give those
    if not isinstance(text, str):
        return None
    try:
        return base64.b64decode(text.strip().translate(str.maketrans("-_", "+/")), validate=True)
    except ValueError:
        return None


def _opened(key: _Key, text: str, place: str) -> TokenSecret | None:
    from cryptography.exceptions import InvalidTag

    try:
        sealed = base64.b64decode(text)
        if base64.b64encode(sealed).decode("ascii") != text:  # b64decode skips what is none, and last bits
            return None
        plain = key.aead.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place.encode())
        return TokenSecret(plain.decode())
    except (InvalidTag, ValueError):
        return None
