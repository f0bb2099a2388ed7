"""A cipher of somebody else's works, and whatever else it does is no more than an error of the store."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from oauth2broker import (
    AesGcmCipher,
    BackendError,
    BrokerStore,
    ConfigError,
    FileStore,
    SerializationError,
    TokenSecret,
)
from oauth2broker.testing import StoreContract
from oauth2broker.testing.store_contract import make_record
from tests.encryption.support import OLD, SECRETS, Shelf, fail, file_of, records_in, sealing
from tests.test_secrecy import Witness

FIRST, SECOND = (base64.urlsafe_b64encode(bytes([number]) * 32) for number in (1, 2))


class FernetCipher:
    """As in docs/encryption.rst, without a class of ours above it."""

    def __init__(self, *keys: bytes) -> None:
        self.newest, self.all = Fernet(keys[0]), MultiFernet([Fernet(key) for key in keys])

    def seal(self, plain: TokenSecret, place: str) -> str:
        return self.newest.encrypt(f"{place}\n{plain.expose()}".encode()).decode()

    def open(self, sealed: str, place: str) -> TokenSecret:
        try:
            found, _, plain = self.all.decrypt(sealed).decode().partition("\n")
        except InvalidToken:
            raise SerializationError("no Fernet of ours") from None
        if found != place:
            raise SerializationError("put in another record's place")
        return TokenSecret(plain)

    def is_current(self, sealed: str) -> bool:
        try:
            self.newest.decrypt(sealed)
        except InvalidToken:
            return False
        return True


class TestFernetStore(StoreContract):
    """A FileStore with it is a store like any other."""

    def open_store(self, place: Path) -> BrokerStore:
        return FileStore(place / "tokens", cipher=FernetCipher(FIRST))


def test_a_cipher_of_ones_own_rotates_and_keeps_records_in_their_places(tmp_path: Path) -> None:
    """All that is asked of it is the three methods."""
    alice, bob = make_record("alice"), make_record("bob")
    FileStore(tmp_path / "tokens", cipher=FernetCipher(FIRST)).save(alice)
    store = FileStore(tmp_path / "tokens", cipher=FernetCipher(SECOND, FIRST))
    assert store.rewrap().rewritten == 1
    assert store.rewrap().current == 1
    alone = FileStore(tmp_path / "tokens", cipher=FernetCipher(SECOND))
    assert alone.fetch(alice.key) == alice
    file_of(tmp_path / "tokens", bob).write_bytes(file_of(tmp_path / "tokens", alice).read_bytes())
    for other in (alone, FileStore(tmp_path / "tokens", cipher=FernetCipher(FIRST))):
        with pytest.raises(SerializationError, match=bob.key.digest):
            other.fetch(bob.key)


class Trusting(FernetCipher):
    """Looks at nothing: there was never more than one key."""

    def is_current(self, sealed: str) -> bool:
        return True


def test_a_cipher_is_not_asked_about_what_it_has_not_sealed(tmp_path: Path) -> None:
    """A plain record is sealed by a rewrap, whatever the cipher would say of it."""
    record = make_record()
    FileStore(tmp_path / "tokens").save(record)
    store = FileStore(tmp_path / "tokens", cipher=Trusting(FIRST))
    report = store.rewrap(accept_plain=True)
    assert (report.rewritten, report.current, dict(report.errors)) == (1, 0, {})
    assert store.fetch(record.key) == record


@pytest.mark.parametrize("part", [AesGcmCipher, FernetCipher, Fernet(FIRST), OLD, object(), 5])
def test_what_is_no_cipher_is_a_mistake_at_once(part: Any, tmp_path: Path) -> None:
    """Also a class where an object belongs, and a key where a cipher does; no folder is made."""
    for make in (lambda: FileStore(tmp_path / "tokens", cipher=part), lambda: Shelf({}, part)):
        with pytest.raises(ConfigError, match="seal, open and is_current") as refused:
            make()
        assert OLD not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


class Odd:
    """Works, until it is told what to do instead."""

    def __init__(self) -> None:
        self.inner = AesGcmCipher(OLD)
        self.acts: dict[str, Callable[[], Any]] = {}

    def seal(self, plain: TokenSecret, place: str) -> Any:
        return self.acts.get("seal", lambda: self.inner.seal(plain, place))()

    def open(self, sealed: str, place: str) -> Any:
        return self.acts.get("open", lambda: self.inner.open(sealed, place))()

    def is_current(self, sealed: str) -> Any:
        return self.acts.get("is_current", lambda: self.inner.is_current(sealed))()


class PickyError(SerializationError):
    """Cannot be made of a message."""

    def __init__(self, *, reason: int) -> None:
        super().__init__(f"reason {reason}")


def always(value: object) -> Callable[[], Any]:
    """Give what gives ``value``."""
    return lambda: value


class NoTruth:
    """Neither true nor false."""

    def __bool__(self) -> bool:
        raise ValueError(SECRETS[0])


RAISED: dict[str, Callable[[], Any]] = {
    "an error": lambda: fail(RuntimeError(SECRETS[0]), SECRETS[0]),
    "an error without words": lambda: fail(KeyError(), SECRETS[0]),
    "no memory": lambda: fail(MemoryError(), SECRETS[0]),
    "an outage": lambda: fail(BackendError("the vault is closed"), SECRETS[0]),
    "a mistake": lambda: fail(ConfigError("no vault"), SECRETS[0]),
    "the end of a generator": lambda: fail(StopIteration(), SECRETS[0]),
}
FAILURES: dict[str, tuple[str, Callable[[], Any]]] = {
    **{
        f"{name} in {method}": (method, act)
        for name, act in RAISED.items()
        for method in ("seal", "open", "is_current")
    },
    **{
        f"sealed to {value!r}": ("seal", always(value))
        for value in (
            None,
            b"sealed",
            "",
            "two words",
            "a line\n",
            "sealéd",
            "\x7f",
            5,
            TokenSecret("sealed"),
        )
    },
    **{
        f"opened to {name}": ("open", always(value))
        for name, value in {
            "text": make_record().to_json(),
            "bytes": make_record().to_json().encode(),
            "a record": make_record(),
            "None": None,
            "true": True,
        }.items()
    },
    "current or not": ("is_current", NoTruth),
}


@pytest.mark.parametrize(("method", "act"), FAILURES.values(), ids=FAILURES)
def test_a_cipher_that_fails_is_a_backend_error(method: str, act: Callable[[], Any], tmp_path: Path) -> None:
    """Nothing is written, nothing shows, and when it works again all is as it was."""
    witness, cipher, record = Witness(), Odd(), make_record()
    for secret in SECRETS:
        witness.learn("token", secret)
    store = FileStore(tmp_path / "tokens", cipher=cipher)
    store.save(record)
    before = records_in(tmp_path / "tokens")
    calls: dict[str, Callable[[], object]] = {
        "seal": lambda: store.save(record),
        "open": lambda: store.fetch(record.key),
        "is_current": store.rewrap,
    }
    cipher.acts[method] = act
    with pytest.raises(BackendError) as failed:
        calls[method]()
    assert type(failed.value) is BackendError
    assert failed.value.retryable
    witness.see_error(failed.value)
    if method != "is_current":
        with pytest.raises(BackendError) as failed:
            store.compare_and_swap_refresh(record.key, "refresh-0", record)
        witness.see_error(failed.value)
    witness.assert_silence()
    assert records_in(tmp_path / "tokens") == before
    cipher.acts.clear()
    assert store.fetch(record.key) == record


@pytest.mark.parametrize("text", ["", "{}", "not JSON", "[" * 100_000, "\ud800"])
def test_what_opens_to_no_record_is_an_error(text: str, tmp_path: Path) -> None:
    """Authentic and yet not ours: a SerializationError that names the file."""
    cipher, record = Odd(), make_record()
    store = FileStore(tmp_path / "tokens", cipher=cipher)
    store.save(record)
    cipher.acts["open"] = lambda: TokenSecret(text)
    with pytest.raises(SerializationError, match=record.key.digest):
        store.fetch(record.key)


def test_an_error_of_its_own_becomes_ours(tmp_path: Path) -> None:
    """With its words, in a class that every program knows; in engines as in files."""
    cipher, record = Odd(), make_record()
    for store in (FileStore(tmp_path / "tokens", cipher=cipher), Shelf({}, cipher)):
        cipher.acts.clear()
        store.save(record)
        cipher.acts["open"] = lambda: fail(PickyError(reason=7), SECRETS[0])
        with pytest.raises(SerializationError, match=f"{record.key.digest}.*reason 7") as failed:
            store.fetch(record.key)
        assert type(failed.value) is SerializationError


def test_ctrl_c_in_a_cipher_ends_the_program(tmp_path: Path) -> None:
    """And leaves the folder free for the next."""
    cipher, record = Odd(), make_record()
    store = FileStore(tmp_path / "tokens", cipher=cipher)
    store.save(record)
    cipher.acts["seal"] = lambda: fail(KeyboardInterrupt(), SECRETS[0])
    with pytest.raises(KeyboardInterrupt):
        store.save(record)
    assert sealing(tmp_path / "tokens", OLD).fetch(record.key) == record
    sealing(tmp_path / "tokens", OLD).save(record)
