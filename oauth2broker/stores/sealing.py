"""What a store writes of a record, and reads again: JSON, or JSON that a cipher has sealed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from oauth2broker.errors import BackendError, ConfigError, SerializationError, StoreError
from oauth2broker.records import TokenRecord
from oauth2broker.secret import TokenSecret

_SEALED = "oauth2broker:sealed:1:"
_PLACE = "oauth2broker/record/1:"
_STORABLE = re.compile("[!-~]+")

Result = TypeVar("Result")
Version = TypeVar("Version")


class RecordCipher(Protocol):
    """Encrypts records at rest, authenticated. Safe to share between threads.

    Raises :class:`SerializationError` for text that it cannot open, :class:`BackendError` when it has no keys
    for now. Anything else that it raises is made a :class:`BackendError`.
    """

    def seal(self, plain: TokenSecret, place: str) -> str:
        """Give printable ASCII without spaces that only :meth:`open` with the same ``place`` opens."""
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
    by the digest of its key why a record could not be read or opened; it is left as it was. When there are
    none, nothing needs an older key any more, if nobody goes on to write with one.
    """

    rewritten: int
    current: int
    errors: Mapping[str, StoreError]


@dataclass(frozen=True, slots=True)
class Stored(Generic[Version]):
    """A record's text as it is in a store, and what tells whether it is still the one that is there."""

    text: TokenSecret
    version: Version


class RecordCodec:
    """Writes records, sealed if there is a ``cipher``, bound to the digest of their key.

    Gives what is wrong instead of raising it, so that no traceback holds the text. With a cipher, plain
    records are refused: whoever can write to the store could put them there.
    """

    def __init__(self, cipher: RecordCipher | None) -> None:
        if cipher is not None and not _is_cipher(cipher):
            raise ConfigError("a cipher is an object with the methods seal, open and is_current")
        self._cipher = cipher

    @property
    def seals(self) -> bool:
        """Whether there is a cipher."""
        return self._cipher is not None

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

    def require_cipher(self) -> RecordCipher:
        """Give the cipher. Raises :class:`ConfigError` when there is none."""
        if self._cipher is None:
            raise ConfigError("the store has no cipher")
        return self._cipher

    def is_current(self, text: TokenSecret) -> bool | StoreError:
        """Whether ``text`` is sealed with the newest key of the cipher, which there must be."""
        cipher, sealed = self.require_cipher(), text.expose()
        if not sealed.startswith(_SEALED):
            return False
        return _tried(lambda: bool(cipher.is_current(sealed.removeprefix(_SEALED))))

    def _seal(self, plain: TokenSecret, digest: str) -> str | StoreError:
        cipher = self._cipher
        if cipher is None:
            return plain.expose()
        sealed = _tried(lambda: cipher.seal(plain, _PLACE + digest))
        if isinstance(sealed, StoreError):
            return sealed
        if not isinstance(sealed, str) or not _STORABLE.fullmatch(sealed):
            return BackendError("the cipher sealed to what is not printable ASCII without spaces")
        return _SEALED + sealed

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
        plain = _tried(lambda: cipher.open(sealed, _PLACE + digest))
        if isinstance(plain, TokenSecret | StoreError):
            return plain
        return BackendError(f"the cipher opened to a {type(plain).__name__}, not to a TokenSecret")


def _is_cipher(part: object) -> bool:
    methods = (getattr(part, name, None) for name in ("seal", "open", "is_current"))
    return not isinstance(part, type) and all(map(callable, methods))


def located(error: StoreError, where: str) -> StoreError:
    """Give ``error``, which a codec gave, with the place where the record is."""
    return type(error)(f"{where}: {error}", retry_after=error.retry_after)


def rewrap(
    codec: RecordCodec,
    found: Iterable[tuple[str, Stored[Version] | StoreError | None]],
    read: Callable[[str], Stored[Version] | StoreError | None],
    replace: Callable[[TokenRecord, Version], bool],
    *,
    accept_plain: bool,
) -> RewrapReport:
    """Seal anew what another key than the newest has sealed. For stores.

    ``found`` is what there is by digest, and ``read`` gives what there is now (None: nothing any more).
    ``replace`` writes a record if its version is still the one that is there, and says whether it did. What
    somebody else has changed meanwhile is read again, for it may have been sealed with an older key.
    """
    codec.require_cipher()
    counts, errors = {True: 0, False: 0}, dict[str, StoreError]()
    for digest, stored in found:
        was_current = _make_current(codec, digest, stored, read, replace, accept_plain=accept_plain)
        if isinstance(was_current, StoreError):
            errors[digest] = was_current
        elif was_current is not None:
            counts[was_current] += 1
    return RewrapReport(rewritten=counts[False], current=counts[True], errors=errors)


def _make_current(
    codec: RecordCodec,
    digest: str,
    stored: Stored[Version] | StoreError | None,
    read: Callable[[str], Stored[Version] | StoreError | None],
    replace: Callable[[TokenRecord, Version], bool],
    *,
    accept_plain: bool,
) -> bool | StoreError | None:
    """Say whether a record was sealed with the newest key already, and see that it is.

    Or give why it cannot be, or None when it is gone.
    """
    while isinstance(stored, Stored):
        is_current = codec.is_current(stored.text)
        if isinstance(is_current, StoreError):
            raise is_current
        if is_current:
            return True
        record = codec.decode(digest, stored.text.expose(), accept_plain=accept_plain)
        if isinstance(record, StoreError):
            return record
        if replace(record, stored.version):
            return False
        stored = read(digest)
    return stored


def _parse(plain: TokenSecret) -> TokenRecord | StoreError:
    try:
        return TokenRecord.from_json(plain.expose())
    except SerializationError as error:
        return SerializationError(str(error))


def _tried(call: Callable[[], Result]) -> Result | StoreError:
    try:
        return call()
    except SerializationError as error:
        return SerializationError(str(error))  # without its traceback, which may hold plain text
    except StoreError as error:
        return BackendError(str(error), retry_after=error.retry_after)
    except Exception as error:  # noqa: BLE001 - a cipher of somebody else's may raise anything
        return BackendError(f"the cipher failed ({type(error).__name__})")
