"""What is sealed opens again, where it was put and as it was written, and in no other way."""

from __future__ import annotations

import base64
import hashlib
import string
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, strategies as st

from oauth2broker import (
    AesGcmCipher,
    BrokerStore,
    ConfigError,
    FileStore,
    SerializationError,
    StoreError,
    TokenRecord,
    TokenSecret,
)
from oauth2broker.stores.disk import new_file
from oauth2broker.stores.sealing import RecordCodec
from oauth2broker.testing import StoreContract
from oauth2broker.testing.store_contract import make_record
from tests.encryption.support import NEW, OLD, OTHER, SEALED, SECRETS, file_of, records_in, sealing
from tests.test_records import records
from tests.test_secrecy import Witness

CODEC = RecordCodec(AesGcmCipher(OLD))
BASE64 = string.ascii_letters + string.digits + "+/"


class TestFileStore(StoreContract):
    """FileStore with a cipher is a store like without one."""

    def open_store(self, place: Path) -> BrokerStore:
        return sealing(place / "tokens", OLD)


def sealed(record: TokenRecord) -> str:
    """Give the text that a store would write."""
    text = CODEC.encode(record)
    assert isinstance(text, str)
    return text


def is_refused(digest: str, text: str | bytes) -> bool:
    """Whether a store would call that no record of ours."""
    return isinstance(CODEC.decode(digest, text), SerializationError)


@given(record=records)
def test_any_record_opens_again(record: TokenRecord) -> None:
    """Whatever is in it; the text is of one line, and of another each time."""
    text = sealed(record)
    assert CODEC.decode(record.key.digest, text) == record
    assert CODEC.decode(record.key.digest, text.encode()) == record
    assert text.isascii()
    assert text.isprintable()
    assert text != sealed(record)


@given(record=records, other=records, data=st.data())
def test_no_record_opens_in_another_place_or_changed(
    record: TokenRecord, other: TokenRecord, data: st.DataObject
) -> None:
    """Under another digest, with any byte changed, or cut anywhere."""
    digest, text = record.key.digest, sealed(record).encode()
    position = data.draw(st.integers(0, len(text) - 1))
    changed = bytearray(text)
    changed[position] ^= data.draw(st.integers(1, 255))
    assert is_refused(digest, bytes(changed))
    assert is_refused(digest, text[:position])
    assert is_refused(digest, text[:position] + text[position + 1 :])
    if other.key != record.key:
        assert is_refused(other.key.digest, text)


def test_the_place_is_sealed_and_not_only_looked_at() -> None:
    """The cipher itself refuses another place, whatever the record in it says of its key."""
    cipher = AesGcmCipher(OLD)
    text = cipher.seal(TokenSecret("plain"), "here")
    assert cipher.open(text, "here").expose() == "plain"
    with pytest.raises(SerializationError, match="another record's place"):
        cipher.open(text, "there")


@pytest.mark.parametrize("length", [1, 2, 3])
def test_no_bit_of_the_text_can_be_changed_unnoticed(length: int) -> None:
    """Nor those bits of the last character of base64 that its decoder does not read."""
    record = make_record("u" * length)
    text = sealed(record)
    body = text.rstrip("=")
    assert CODEC.decode(record.key.digest, text) == record
    for position in range(len(body) - 3, len(body)):
        for character in set(BASE64) - {body[position]}:
            changed = body[:position] + character + text[position + 1 :]
            assert is_refused(record.key.digest, changed)
    for position in range(len(text)):
        flipped = text[:position] + chr(ord(text[position]) ^ 1) + text[position + 1 :]
        assert is_refused(record.key.digest, flipped)


def test_the_lengths_above_reach_every_padding() -> None:
    """One, two and three bytes in the last group of base64."""
    paddings = {
        len(text) - len(text.rstrip("=")) for n in (1, 2, 3) if (text := sealed(make_record("u" * n)))
    }
    assert paddings == {0, 1, 2}


NAME = sealed(make_record()).removeprefix(SEALED).partition(":")[0]
HOSTILE = {
    "nothing": "",
    "no name": ":",
    "no text": f"{NAME}:",
    "only a name": NAME,
    "only padding": f"{NAME}:====",
    "too short for a nonce": f"{NAME}:{base64.b64encode(bytes(7)).decode()}",
    "a short nonce": f"{NAME}:{base64.b64encode(bytes(8)).decode()}",
    "only a nonce": f"{NAME}:{base64.b64encode(bytes(12)).decode()}",
    "zeros": f"{NAME}:{base64.b64encode(bytes(100)).decode()}",
    "huge": f"{NAME}:{base64.b64encode(bytes(16_000_000)).decode()}",
    "a huge name": "f" * 16_000_000 + ":QUJD",
    "no base64": f"{NAME}:!!!!",
    "another alphabet": f"{NAME}:{'-_' * 50}",
    "letters of others": f"{NAME}:äöü",
    "white space": f"{NAME}: \n\t ",
    "an unknown key": f"{'f' * 16}:{base64.b64encode(bytes(100)).decode()}",
    "a name that is a path": "../../etc/passwd:QUJD",
    "a name with a null": "\0:QUJD",
    "colons": ":" * 1000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_an_error_that_names_the_file(tmp_path: Path, text: str) -> None:
    """Whoever can write to the folder gets no more than a SerializationError."""
    store, record = sealing(tmp_path / "tokens", OLD), make_record()
    file = file_of(tmp_path / "tokens", record)
    file.write_text(SEALED + text, "utf-8")
    with pytest.raises(SerializationError, match=file.name) as refused:
        store.fetch(record.key)
    assert not refused.value.retryable
    assert len(str(refused.value)) < 500
    assert list(store.keys()) == []


@pytest.mark.parametrize("change", [("sealed:1:", "sealed:2:"), ("sealed", "SEALED"), ("oauth2", " oauth2")])
def test_another_format_is_an_error(change: tuple[str, str]) -> None:
    """What a later version writes is not taken for anything else."""
    record = make_record()
    assert is_refused(record.key.digest, sealed(record).replace(*change))


def test_a_record_copied_over_another_is_refused(tmp_path: Path) -> None:
    """Who can write to the folder cannot make one user out of another, and nothing is overwritten."""
    store, alice, bob = sealing(tmp_path / "tokens", OLD), make_record("alice"), make_record("bob")
    store.save(alice)
    store.save(bob)
    file = file_of(tmp_path / "tokens", bob)
    file.write_bytes(file_of(tmp_path / "tokens", alice).read_bytes())
    before = records_in(tmp_path / "tokens")
    with pytest.raises(SerializationError, match=file.name):
        store.fetch(bob.key)
    with pytest.raises(SerializationError, match=file.name):
        store.compare_and_swap_refresh(bob.key, "refresh-0", bob)
    with pytest.raises(SerializationError, match=file.name):
        store.revoke(bob.key, bob.issued_at)
    assert list(store.keys()) == [alice.key]
    assert records_in(tmp_path / "tokens") == before


def test_a_plain_record_is_refused_and_taken_over_on_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever can write could have planted it, so that only the operator's word makes it ours."""
    folder, record = tmp_path / "tokens", make_record()
    FileStore(folder).save(record)
    before = records_in(folder)
    store = sealing(folder, OLD)
    for call in (store.fetch, lambda key: store.compare_and_swap_refresh(key, "refresh-0", record)):
        with pytest.raises(SerializationError, match=rf"{record.key.digest}.*not encrypted.*accept_plain"):
            call(record.key)
    assert list(store.keys()) == []
    assert "not encrypted" in caplog.text
    report = store.rewrap()
    assert (report.rewritten, report.current, list(report.errors)) == (0, 0, [record.key.digest])
    assert records_in(folder) == before
    report = store.rewrap(accept_plain=True)
    assert (report.rewritten, report.current, report.errors) == (1, 0, {})
    assert store.fetch(record.key) == record
    (text,) = records_in(folder).values()
    assert text.startswith(SEALED.encode())


def test_taking_over_does_not_take_what_is_no_record(tmp_path: Path) -> None:
    """Nor another key's, in plain or sealed."""
    folder, alice, bob, carol = tmp_path / "tokens", *map(make_record, ("alice", "bob", "carol"))
    store = sealing(folder, OLD)
    store.save(alice)
    file_of(folder, alice).rename(file_of(folder, bob))
    file_of(folder, alice).write_text("{}")
    file_of(folder, carol).write_bytes(make_record("dave").to_json().encode() + b"\xff")
    (folder / f"{'0' * 64}.json").write_text(make_record("dave").to_json())
    before = records_in(folder)
    report = store.rewrap(accept_plain=True)
    assert report.rewritten == 0
    assert len(report.errors) + report.current == 4
    assert records_in(folder) == before


def test_a_sealed_record_in_a_store_without_a_cipher_is_an_error(tmp_path: Path) -> None:
    """That says so, and the record is left; it cannot be rewrapped, even if there is nothing to rewrap."""
    folder, record = tmp_path / "tokens", make_record()
    plain = FileStore(folder)
    with pytest.raises(ConfigError, match="no cipher"):
        plain.rewrap()
    sealing(folder, OLD).save(record)
    before = records_in(folder)
    with pytest.raises(SerializationError, match=rf"{record.key.digest}.*no cipher"):
        plain.fetch(record.key)
    with pytest.raises(SerializationError, match="no cipher"):
        plain.compare_and_swap_refresh(record.key, "refresh-0", record)
    with pytest.raises(ConfigError, match="no cipher"):
        plain.rewrap()
    assert records_in(folder) == before


def test_a_failing_take_over_shows_no_plain_text(tmp_path: Path) -> None:
    """In the locals of no frame of ours: not without a cipher, without keys, nor with a disk that fails."""
    folder, witness = tmp_path / "tokens", Witness()
    for secret in SECRETS:
        witness.learn("token", secret)
    plain = FileStore(folder)
    record = make_record()
    plain.save(record)
    keyless = FileStore(folder, cipher=AesGcmCipher(list[str]().pop))
    Path(new_file(str(file_of(folder, record)))).mkdir()
    for store in (plain, keyless, sealing(folder, OLD)):
        with pytest.raises((StoreError, ConfigError)) as failed:
            store.rewrap(accept_plain=True)
        witness.see_error(failed.value)
    witness.assert_silence()


def test_many_threads_share_a_cipher() -> None:
    """Each gets what it sealed, and no two texts have a nonce in common."""
    cipher = AesGcmCipher([NEW, OLD, OTHER])

    def work(number: int) -> set[str]:
        nonces = set()
        for turn in range(200):
            text = cipher.seal(TokenSecret(f"{number}/{turn}"), str(number))
            assert cipher.open(text, str(number)).expose() == f"{number}/{turn}"
            nonces.add(text.partition(":")[2][:16])
        return nonces

    with ThreadPoolExecutor(8) as pool:
        nonces = set[str]().union(*pool.map(work, range(8)))
    assert len(nonces) == 8 * 200


def test_what_other_versions_seal_is_read() -> None:
    """The form of what is written stays: else nobody could read the records of before an upgrade."""
    key, nonce, record = base64.b64decode(OLD), bytes(12), make_record()
    name = hashlib.sha256(b"oauth2broker/key-id/1" + key).hexdigest()[:16]
    place = f"oauth2broker/record/1:{record.key.digest}".encode()
    sealed = nonce + AESGCM(key).encrypt(nonce, record.to_json().encode(), place)
    text = f"oauth2broker:sealed:1:{name}:{base64.b64encode(sealed).decode()}"
    assert RecordCodec(AesGcmCipher([NEW, OLD])).decode(record.key.digest, text) == record
