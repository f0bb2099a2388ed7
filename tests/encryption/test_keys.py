"""Where a cipher's keys come from, and that they never show."""

from __future__ import annotations

import base64
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from oauth2broker import (
    AesGcmCipher,
    BackendError,
    ConfigError,
    FileStore,
    SerializationError,
    StoreError,
    TokenSecret,
)
from oauth2broker.testing.store_contract import make_record
from tests.encryption.support import NEW, OLD, OTHER, SECRETS, fail, file_of, records_in
from tests.test_secrecy import Witness

RAW = base64.b64decode(OLD)
SEALED = AesGcmCipher(OLD).seal(TokenSecret("plain"), "place")


def forms_of(key: str) -> list[str]:
    """Give the forms in which a key could show."""
    raw = base64.b64decode(key)
    return [key, raw.hex(), repr(raw)[2:-1], raw.decode("latin-1"), base64.urlsafe_b64encode(raw).decode()]


@pytest.fixture
def witness() -> Iterator[Witness]:
    """Knows the keys and the tokens; asked at the end."""
    made = Witness()
    for key in (OLD, NEW, OTHER):
        for form in forms_of(key):
            made.learn("key", form)
    for secret in SECRETS:
        made.learn("token", secret)
    yield made
    made.assert_silence()


def file_with(path: Path, text: str | bytes) -> Path:
    """Write a file of keys, whole."""
    new = path.with_name("new")
    new.write_bytes(text if isinstance(text, bytes) else text.encode())
    return new.replace(path)


URLSAFE = base64.urlsafe_b64encode(RAW).decode()
FORMS: dict[str, Callable[[Path], Any]] = {
    "text": lambda path: OLD,
    "text with white space": lambda path: f" {OLD}\n",
    "the alphabet for URLs": lambda path: URLSAFE,
    "bytes": lambda path: RAW,
    "base64 as bytes": lambda path: OLD.encode(),
    "the key of a Fernet": lambda path: URLSAFE.encode(),
    "a secret": lambda path: TokenSecret(OLD),
    "a list": lambda path: [OLD],
    "all kinds": lambda path: (TokenSecret(OLD), base64.b64decode(NEW), OTHER),
    "a file": lambda path: file_with(path, OLD),
    "a file as editors leave it": lambda path: file_with(path, f"\ufeff{OLD}\r\n\r\n{NEW}\r\n"),
    "a callable that gives text": lambda path: lambda: OLD,
    "a callable that gives bytes": lambda path: lambda: RAW,
    "a callable that gives a secret": lambda path: lambda: TokenSecret(OLD),
    "a callable that gives several": lambda path: lambda: [OLD, RAW, TokenSecret(NEW)],
}


@pytest.mark.parametrize("make", FORMS.values(), ids=FORMS)
def test_a_key_is_the_same_in_every_form(make: Callable[[Path], Any], tmp_path: Path) -> None:
    """What one has sealed the other opens, and is current to it."""
    cipher = AesGcmCipher(make(tmp_path / "keys"))
    assert cipher.open(SEALED, "place").expose() == "plain"
    assert cipher.is_current(SEALED)
    assert AesGcmCipher(OLD).open(cipher.seal(TokenSecret("again"), "place"), "place").expose() == "again"


def test_the_newest_key_comes_first(tmp_path: Path) -> None:
    """In a sequence, in a file and from a callable."""
    keys = [NEW, OLD]
    for given in (keys, file_with(tmp_path / "keys", "\n".join(keys)), lambda: keys):
        cipher = AesGcmCipher(given)
        assert not cipher.is_current(SEALED)
        assert cipher.open(SEALED, "place").expose() == "plain"
        sealed = cipher.seal(TokenSecret("new"), "place")
        assert AesGcmCipher(NEW).open(sealed, "place").expose() == "new"


def test_generated_keys_are_keys() -> None:
    """Of 256 bits, and another each time."""
    keys = {AesGcmCipher.generate_key() for _ in range(100)}
    assert len(keys) == 100
    assert {len(base64.b64decode(key)) for key in keys} == {32}
    AesGcmCipher(sorted(keys))


@pytest.mark.parametrize("kind", ["file", "callable"])
def test_keys_may_change_while_the_program_runs(kind: str, tmp_path: Path) -> None:
    """The very next record is written with the new one, and the old ones are read as long as their key is."""
    path, given = tmp_path / "keys", [OLD]

    def rotate(*keys: str) -> None:
        given[:] = keys
        file_with(path, "\n".join(keys))

    rotate(OLD)
    store = FileStore(tmp_path / "tokens", cipher=AesGcmCipher(path if kind == "file" else lambda: given))
    first, second = make_record("first"), make_record("second")
    store.save(first)
    rotate(NEW, OLD)
    store.save(second)
    assert store.fetch(first.key) == first
    assert FileStore(tmp_path / "tokens", cipher=AesGcmCipher(NEW)).fetch(second.key) == second
    assert store.rewrap().rewritten == 1
    rotate(NEW)
    assert [store.fetch(record.key) for record in (first, second)] == [first, second]
    rotate(OTHER)
    with pytest.raises(SerializationError):
        store.fetch(first.key)


def test_a_file_of_keys_is_found_from_wherever_the_program_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that changes its folder reads the same file."""
    monkeypatch.chdir(tmp_path)
    file_with(tmp_path / "keys", OLD)
    cipher = AesGcmCipher(Path("keys"))
    monkeypatch.chdir("/")
    assert cipher.open(SEALED, "place").expose() == "plain"


NO_KEYS: dict[str, Any] = {
    "nothing": "",
    "None": None,
    "a number": 5,
    "an object": object(),
    "no keys": [],
    "too short": OLD[:-4],
    "too long": OLD + OLD,
    "31 bytes": RAW[:-1],
    "33 bytes": RAW + b"x",
    "base64 of 31 bytes": base64.b64encode(RAW[:-1]).decode(),
    "hex": RAW.hex(),
    "a key and a slip": f"{OLD[:8]}*{OLD[8:]}",
    "another language": "ключ" * 11,
    "half a surrogate": OLD[:-1] + "\ud800",
    "a secret that is none": TokenSecret(OLD[:-4]),
    "an empty secret": TokenSecret(""),
    "one that is none": [OLD, OLD[:-4]],
    "one that is nothing": [OLD, None],
    "a sequence in a sequence": [[OLD]],
    "a set": {OLD},
    "a mapping": {"key": OLD},
    "a bytearray": bytearray(RAW),
    "a generator": (key for key in [OLD]),
}


@pytest.mark.parametrize("keys", NO_KEYS.values(), ids=NO_KEYS)
def test_keys_that_are_none_are_a_mistake_at_once(keys: Any, witness: Witness) -> None:
    """A ConfigError when the cipher is made, that does not repeat them."""
    with pytest.raises(ConfigError, match="key") as refused:
        AesGcmCipher(keys)
    witness.see_error(refused.value)


def test_a_path_in_a_text_is_told_from_a_key() -> None:
    """The error says how a file is given."""
    with pytest.raises(ConfigError, match=r"given as pathlib\.Path"):
        AesGcmCipher("cipher.keys")


@pytest.mark.parametrize(
    "text", [None, b"", b"\n", b"\xff\xfe", OLD[:-4].encode(), f"{OLD}\nrubbish".encode(), RAW]
)
def test_a_file_that_holds_no_keys_is_a_mistake_at_once(
    text: bytes | None, tmp_path: Path, witness: Witness
) -> None:
    """A ConfigError that names the file; later a BackendError, and what was written stays."""
    path, record = tmp_path / "keys", make_record()
    store = FileStore(tmp_path / "tokens", cipher=AesGcmCipher(file_with(path, OLD)))
    store.save(record)
    before = records_in(tmp_path / "tokens")
    path.unlink() if text is None else file_with(path, text)
    with pytest.raises(ConfigError, match=str(path)) as mistaken:
        AesGcmCipher(path)
    witness.see_error(mistaken.value)
    for call in (lambda: store.fetch(record.key), lambda: store.save(record), store.rewrap):
        with pytest.raises(BackendError, match=str(path)) as failed:
            call()
        witness.see_error(failed.value)
    assert records_in(tmp_path / "tokens") == before
    file_with(path, OLD)
    assert store.fetch(record.key) == record


class OwnError(BackendError):
    """A secret manager's, that cannot be made of a message alone."""

    def __init__(self, region: str, code: int) -> None:
        super().__init__(f"{region} says {code}", retry_after=7)


class Source:
    """Gives keys, or does what it is told."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act = act

    def __call__(self) -> Any:
        return self.act()


def always(value: object) -> Callable[[], Any]:
    """Give what gives ``value``."""
    return lambda: value


FAILURES: dict[str, Callable[[], Any]] = {
    "any error": lambda: fail(RuntimeError(OLD), OLD),
    "an outage": lambda: fail(OSError(110, "timed out"), OLD),
    "a mistake": lambda: fail(ConfigError("no vault"), OLD),
    "our own error": lambda: fail(BackendError("the vault is closed", retry_after=7), OLD),
    "an error of another kind": lambda: fail(SerializationError("what is this"), OLD),
    "an error of its own": lambda: fail(OwnError("eu", 503), OLD),
    **{name: always(value) for name, value in NO_KEYS.items()},
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_a_callable_that_gives_no_keys_is_an_outage(
    failure: Callable[[], Any], tmp_path: Path, witness: Witness
) -> None:
    """Not asked before it is needed; then a BackendError, nothing is changed, and later all is well."""
    source, record = Source(lambda: pytest.fail("asked too early")), make_record()
    store = FileStore(tmp_path / "tokens", cipher=AesGcmCipher(source))
    source.act = lambda: [OLD]
    store.save(record)
    before = records_in(tmp_path / "tokens")
    source.act = failure
    swap = store.compare_and_swap_refresh
    calls: list[Callable[[], object]] = [
        lambda: store.fetch(record.key),
        lambda: store.save(record),
        lambda: swap(record.key, "refresh-0", record),
        lambda: store.revoke(record.key, record.issued_at, "refresh-0"),
        store.rewrap,
    ]
    for call in calls:
        with pytest.raises(BackendError) as failed:
            call()
        assert failed.value.retryable
        assert type(failed.value) is BackendError
        witness.see_error(failed.value)
    assert list(store.keys()) == []
    assert records_in(tmp_path / "tokens") == before
    source.act = lambda: OLD
    assert store.fetch(record.key) == record


def test_what_a_secret_manager_says_is_handed_on(tmp_path: Path) -> None:
    """With the file that was meant, and when to try again."""
    source = Source(always(OLD))
    store, record = FileStore(tmp_path / "tokens", cipher=AesGcmCipher(source)), make_record()
    store.save(record)
    source.act = lambda: fail(OwnError("eu", 503), OLD)
    with pytest.raises(BackendError, match=f"{record.key.digest}.*eu says 503") as failed:
        store.fetch(record.key)
    assert failed.value.retry_after == 7


def test_a_wrong_key_is_an_error_that_names_the_file(tmp_path: Path, witness: Witness) -> None:
    """And neither the key that is there nor the one that is missing."""
    record = make_record()
    FileStore(tmp_path / "tokens", cipher=AesGcmCipher(OLD)).save(record)
    store = FileStore(tmp_path / "tokens", cipher=AesGcmCipher([NEW, OTHER]))
    file = file_of(tmp_path / "tokens", record)
    with pytest.raises(SerializationError, match=rf"{file.name}: encrypted with a key") as failed:
        store.fetch(record.key)
    assert (failed.value.retryable, failed.value.reauthorize) == (False, False)
    witness.see_error(failed.value)


def test_a_cipher_shows_no_key(tmp_path: Path, witness: Witness) -> None:
    """In no repr of it, of a store with it, of their fields, or in an attempt to pickle them."""
    path = file_with(tmp_path / "keys", OLD)
    for keys in (OLD, RAW, [OLD, NEW], TokenSecret(OLD), path, lambda: OLD):
        cipher = AesGcmCipher(keys)
        store = FileStore(tmp_path / "tokens", cipher=cipher)
        store.save(make_record())
        store.fetch(make_record().key)
        for part in (cipher, store):
            witness.see("it", part)
            witness.look("vars", repr(vars(part)))
            with pytest.raises((TypeError, AttributeError, pickle.PicklingError)) as refused:
                pickle.dumps(part)
            witness.see_error(refused.value)
        witness.look("keys read", repr(cipher._read()))
    assert repr(AesGcmCipher(OLD)) == "AesGcmCipher(***)"


@pytest.mark.parametrize("keys", [OLD, [RAW], lambda: OLD])
def test_without_cryptography_its_extra_is_named(
    keys: Any, monkeypatch: pytest.MonkeyPatch, witness: Witness
) -> None:
    """Before any key is looked at, which the traceback would show."""
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ConfigError, match=r'pip install "oauth2broker\[crypto\]"') as refused:
        AesGcmCipher(keys)
    witness.see_error(refused.value)


def test_a_store_without_a_cipher_loads_no_cryptography(tmp_path: Path) -> None:
    """The extra costs nothing where it is not used."""
    script = (
        "import sys, oauth2broker as o\n"
        "o.FileStore(sys.argv[1])\n"
        "print({'cryptography'} & sys.modules.keys())\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "tokens")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_failure_is_a_store_error(tmp_path: Path) -> None:
    """An interrupt is not one: Ctrl-C in a callable ends the program."""
    cipher = AesGcmCipher(lambda: fail(KeyboardInterrupt(), OLD))
    with pytest.raises(KeyboardInterrupt):
        FileStore(tmp_path / "tokens", cipher=cipher).save(make_record())
    assert not issubclass(KeyboardInterrupt, StoreError)
