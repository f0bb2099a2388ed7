"""What a store writes of a record, and reads again: JSON, or JSON that a cipher has sealed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from oauth2broker.errors import BackendError, ConfigError, SerializationError, StoreError
from oauth2broker.records import TokenRecord
from oauth2broker.secret import TokenSecret

_SEALED = "oauth2broker:sealed:1:"
_PLACE = "oauth2broker/record/1:"

Result = TypeVar("Result")
Version = TypeVar("Version")


class RecordCipher(Protocol):
    """Encrypts records at rest, authenticated. Safe to share between threads.

    Raises :class:`SerializationError` for text that it cannot open, :class:`BackendError` when it has no keys
    for now. Anything else that it raises is made a :class:`BackendError`.
    """

    def seal(self, plain: TokenSecret, place: str) -> str:
        """Give ASCII text without white space that only :meth:`open` with the same ``place`` opens."""
        ...

    def open(self, sealed: str, place: str) -> TokenSecret:
        """Give what was sealed."""
        ...

    def is_current(self, sealed: str) -> bool:
        """Whether it was sealed with the key that :meth:`seal` uses now."""
        ...


@dataclass(frozen=True, slots=True)
class RewrapReport:
    """What came of a store's ``rewrap``.

    ``rewritten`` records are sealed with the newest key now, ``current`` ones were already. ``errors`` says
    by the digest of its key why a record could not be opened; it is left as it was.
    """

    rewritten: int
    current: int
    errors: Mapping[str, StoreError]


class RecordCodec:
    """Writes records, sealed if there is a ``cipher``, bound to the digest of their key.

    Gives what is wrong instead of raising it, so that no traceback holds the text. With a cipher, plain
    records are refused: whoever can write to the store could put them there.
    """

    def __init__(self, cipher: RecordCipher | None) -> None:
        for method in ("seal", "open", "is_current"):
            if cipher is not None and not callable(getattr(cipher, method, None)):
                raise ConfigError(f"cipher has a method {method}: {type(cipher).__name__} has none")
        self._cipher = cipher

    def encode(self, record: TokenRecord) -> str | StoreError:
        """Give the text of ``record``."""
        return self._seal(TokenSecret(record.to_json()), record.key.digest)

    def decode(
        self, digest: str, text: str | bytes, *, accept_plain: bool = False
    ) -> TokenRecord | StoreError:
        """Give the record that ``text`` is, which was found under ``digest``."""
        plain = self._plain(digest, text, accept_plain=accept_plain)
        record = plain if isinstance(plain, StoreError) else _parse(plain)
        if isinstance(record, TokenRecord) and record.key.digest != digest:
            return SerializationError("a record of another key")
        return record

    def is_current(self, text: str) -> bool:
        """Whether ``text`` is sealed with the newest key. Raises :class:`StoreError` when there is none."""
        cipher = self._cipher
        if cipher is None:
            raise ConfigError("the store has no cipher")
        if not text.startswith(_SEALED):
            return False
        found = _tried(lambda: cipher.is_current(text.removeprefix(_SEALED)))
        if isinstance(found, StoreError):
            raise found
        return found

    def _seal(self, plain: TokenSecret, digest: str) -> str | StoreError:
        cipher = self._cipher
        if cipher is None:
            return plain.expose()
        found = _tried(lambda: _SEALED + cipher.seal(plain, _PLACE + digest))
        return found if isinstance(found, StoreError) else str(found)

    def _plain(self, digest: str, text: str | bytes, *, accept_plain: bool) -> TokenSecret | StoreError:
        try:
            text = text if isinstance(text, str) else text.decode()
        except UnicodeDecodeError:
            return SerializationError("not JSON")
        cipher = self._cipher
        if not text.startswith(_SEALED):
            if cipher is not None and not accept_plain:
                return SerializationError("not encrypted; rewrap(accept_plain=True) encrypts older records")
            return TokenSecret(text)
        if cipher is None:
            return SerializationError("encrypted, and the store has no cipher")
        sealed = text.removeprefix(_SEALED)
        return _tried(lambda: cipher.open(sealed, _PLACE + digest))


def rewrap(
    codec: RecordCodec,
    found: Iterable[tuple[str, str, Version]],
    replace: Callable[[TokenRecord, Version], bool],
    *,
    accept_plain: bool,
) -> RewrapReport:
    """Seal anew what another key than the newest has sealed. For stores.

    ``found`` are digests, texts and versions. ``replace`` writes a record if its version is still the one
    that is there, and says whether it did: who changed it meanwhile has sealed it with the newest key.
    """
    rewritten, current, errors = 0, 0, dict[str, StoreError]()
    for digest, text, version in found:
        if codec.is_current(text):
            current += 1
            continue
        record = codec.decode(digest, text, accept_plain=accept_plain)
        if isinstance(record, StoreError):
            errors[digest] = record
        elif replace(record, version):
            rewritten += 1
    return RewrapReport(rewritten, current, errors)


def _parse(plain: TokenSecret) -> TokenRecord | StoreError:
    try:
        return TokenRecord.from_json(plain.expose())
    except SerializationError as error:
        return SerializationError(str(error))


def _tried(call: Callable[[], Result]) -> Result | StoreError:
    try:
        return call()
    except StoreError as error:
        return copy.copy(error)  # without its traceback, which may hold plain text
    except Exception as error:  # noqa: BLE001 - a cipher of somebody else's may raise anything
        return BackendError(f"the cipher failed ({type(error).__name__})")
