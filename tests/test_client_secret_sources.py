"""Secrets and keys from files and callables: rotated while the program runs, and refused when they fail."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from oauth2broker import (
    Broker,
    BrokerError,
    ClientAuthentication,
    ClientSecretBasic,
    ClientSecretJwt,
    ClientSecretPost,
    ConfigError,
    MemoryStore,
    PrivateKeyJwt,
    TokenSecret,
    TransientError,
)
from tests.support import REDIRECT_URI, SCOPE, SERVICE_REQUEST, TENANT, USER_REQUEST, Crowd
from tests.test_client_auth import (
    CLIENT_ID,
    LONG_SECRET,
    SECRET,
    Provider,
    basic_of,
    describe,
    jwk_of,
    key_for,
    log_in,
    open_broker,
    opened,
    pem_of,
)
from tests.test_secrecy import Witness

FIRST, SECOND = f"first-{LONG_SECRET}", f"second-{LONG_SECRET}"


def obtain(broker: Broker) -> None:
    """Call the provider once."""
    broker.client_credentials(SERVICE_REQUEST.force_refresh())


# Another one between two calls


def test_a_secret_in_a_file_is_read_for_each_call(tmp_path: Path) -> None:
    """What is there when the provider is called is sent; its last newline, and a BOM, are no part of it."""
    path, provider = tmp_path / "secret", Provider()
    broker = open_broker(provider, path)
    for content in (f"{FIRST}\n", f"{SECOND}\r\n", f"\ufeff{FIRST}", f"  {SECOND}  "):
        path.write_text(content, "utf-8", newline="")
        obtain(broker)
    sent = [basic_of(request).partition("%3A1:")[2] for request in provider.requests]
    assert sent == [FIRST, SECOND, FIRST, f"++{SECOND}++"]


def test_a_secret_by_a_callable_is_asked_for_with_each_call() -> None:
    """Once for each, as text or as a TokenSecret; making the broker and cache hits ask for none."""
    asked: list[str] = []
    given: Iterator[str | TokenSecret] = iter([FIRST, TokenSecret(SECOND), FIRST])

    def give() -> str | TokenSecret:
        asked.append("!")
        return next(given)

    provider = Provider()
    broker = open_broker(provider, client_auth=ClientSecretPost(give))
    assert asked == []
    log_in(broker)
    assert broker.refresh_access_token(USER_REQUEST).access_token
    broker.refresh_access_token(USER_REQUEST.force_refresh())
    broker.revoke(USER_REQUEST)
    assert [form["client_secret"] for form in provider.forms] == [FIRST, SECOND, FIRST]
    assert len(asked) == 3


@pytest.mark.parametrize(
    "make",
    [ClientSecretBasic, ClientSecretPost, ClientSecretJwt, None],
    ids=["basic", "post", "jwt", "plain"],
)
def test_every_method_with_a_secret_takes_each_kind_of_source(
    make: Callable[[Any], ClientAuthentication] | None, tmp_path: Path
) -> None:
    """Text, TokenSecret, path and callable send the same, but for what is fresh in an assertion."""
    path = tmp_path / "secret"
    path.write_text(LONG_SECRET)
    sent = set()
    for source in (LONG_SECRET, TokenSecret(LONG_SECRET), path, lambda: LONG_SECRET):
        provider = Provider()
        broker = (
            open_broker(provider, source) if make is None else open_broker(provider, client_auth=make(source))
        )
        obtain(broker)
        form = provider.forms[0]
        if "client_assertion" in form:
            opened(form.pop("client_assertion"), LONG_SECRET, "HS256")
        sent.add((json.dumps(form), provider.requests[0].headers.get("Authorization")))
    assert len(sent) == 1


def test_a_shared_secret_that_is_rotated_signs_the_next_assertion() -> None:
    """The first assertion verifies with the first only, the second with the second only."""
    secrets, provider = [SECOND, FIRST], Provider()
    broker = open_broker(provider, client_auth=ClientSecretJwt(secrets.pop))
    obtain(broker)
    obtain(broker)
    for form, right, wrong in zip(provider.forms, (FIRST, SECOND), (SECOND, FIRST), strict=True):
        opened(form["client_assertion"], right, "HS256")
        with pytest.raises(jwt.InvalidSignatureError):
            opened(form["client_assertion"], wrong, "HS256")


def test_a_key_that_is_rotated_takes_its_key_id_along(tmp_path: Path) -> None:
    """A JSON Web Key in a file names itself: replacing the file is all there is to do."""
    path, provider = tmp_path / "key.json", Provider()
    broker = open_broker(provider, client_auth=PrivateKeyJwt(path, algorithm="RS256"))
    keys = {"2026-01": key_for("RS256"), "2026-02": key_for("3072")}
    for name, key in keys.items():
        path.write_text(jwk_of(key, kid=name))
        obtain(broker)
    for form, (name, key) in zip(provider.forms, keys.items(), strict=True):
        header, _ = opened(form["client_assertion"], key.public_key(), "RS256")
        assert header["kid"] == name


def test_a_key_by_a_callable_may_come_out_of_an_encrypted_file(tmp_path: Path) -> None:
    """The program decrypts; the library never sees the password."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    path, provider = tmp_path / "key.pem", Provider()
    path.write_text(pem_of(key_for("ES256"), password="pw"))
    key = PrivateKeyJwt(lambda: pem_of(load_pem_private_key(path.read_bytes(), b"pw")), algorithm="ES256")
    obtain(open_broker(provider, client_auth=key))
    opened(provider.forms[0]["client_assertion"], key_for("ES256").public_key(), "ES256")


def test_a_relative_path_means_the_folder_in_which_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that changes to / still finds its secret."""
    (tmp_path / "secret").write_text(SECRET)
    monkeypatch.chdir(tmp_path)
    provider = Provider()
    broker = open_broker(provider, client_auth=ClientSecretPost(Path("secret")))
    monkeypatch.chdir("/")
    obtain(broker)
    assert provider.forms[0]["client_secret"] == SECRET


def test_a_file_may_come_to_be_after_the_broker(tmp_path: Path) -> None:
    """Until then calls are ConfigErrors, and the first one after it goes."""
    path, provider = tmp_path / "secret", Provider()
    broker = open_broker(provider, path)
    with pytest.raises(ConfigError, match="FileNotFoundError"):
        obtain(broker)
    path.write_text(SECRET)
    obtain(broker)
    assert len(provider.requests) == 1


def test_threads_see_a_whole_secret_while_it_is_rotated(tmp_path: Path) -> None:
    """A file that is replaced, not rewritten, is one secret or the other to each of them."""
    path, provider = tmp_path / "secret", Provider()
    path.write_text(FIRST)
    broker = open_broker(provider, client_auth=ClientSecretPost(path))

    def rotate_and_call() -> None:
        for number, secret in enumerate([FIRST, SECOND] * 5):
            new = tmp_path / f"new-{os.urandom(8).hex()}-{number}"
            new.write_text(secret)
            new.replace(path)
            obtain(broker)

    crowd = Crowd(8, rotate_and_call).start().join()
    assert crowd.errors == []
    assert {form["client_secret"] for form in provider.forms} == {FIRST, SECOND}


# Sources that fail


def fail() -> str:
    """Raise with a secret."""
    raise KeyError(FIRST)


def fail_as_ours() -> str:
    """Raise an error of the library's own, with a secret in its cause."""
    raise TransientError("the vault is down", retry_after=7.0) from KeyError(FIRST)


SOURCES: dict[str, tuple[Callable[[Path], Any], type[BrokerError], str]] = {
    "missing": (
        lambda folder: folder / "none",
        ConfigError,
        r"none: .* cannot be read \(FileNotFoundError\)",
    ),
    "folder": (lambda folder: folder, ConfigError, "cannot be read"),
    "NUL": (lambda folder: folder / "\0", ConfigError, r"cannot be read \(ValueError\)"),
    "empty": (lambda folder: written(folder, b""), ConfigError, "secret is empty"),
    "newline": (lambda folder: written(folder, b"\n"), ConfigError, "secret is empty"),
    "no text": (
        lambda folder: written(folder, FIRST.encode() + b"\xff"),
        ConfigError,
        r"cannot be read \(UnicodeDecodeError\)",
    ),
    "raises": (lambda folder: fail, ConfigError, r"callable .* failed \(KeyError\)"),
    "None": (lambda folder: lambda: None, ConfigError, "gave no usable text"),
    "nothing": (lambda folder: lambda: "", ConfigError, "gave no usable text"),
    "bytes": (lambda folder: lambda: FIRST.encode(), ConfigError, "gave no usable text"),
    "surrogate": (lambda folder: lambda: f"{FIRST}\ud800", ConfigError, "gave no usable text"),
    "removed": (lambda folder: lambda: TokenSecret(""), ConfigError, "gave no usable text"),
    "with arguments": (lambda folder: lambda name: FIRST, ConfigError, r"failed \(TypeError\)"),
    "our error": (lambda folder: fail_as_ours, TransientError, "the vault is down"),
}
METHODS: dict[str, Callable[[Any], ClientAuthentication]] = {
    "basic": ClientSecretBasic,
    "post": ClientSecretPost,
    "secret jwt": ClientSecretJwt,
    "key jwt": lambda source: PrivateKeyJwt(source, algorithm="ES256"),
}


def written(folder: Path, content: bytes) -> Path:
    """Write a file."""
    path = folder / "secret"
    path.write_bytes(content)
    return path


@pytest.fixture
def witness(caplog: pytest.LogCaptureFixture) -> Iterator[Witness]:
    """A witness who knows the secret, the user's token and the code, and sees every log; asked at the end."""
    caplog.set_level(logging.DEBUG)
    made = Witness()
    made.learn("secret", FIRST[:12])
    made.learn("refresh token", "refresh-1")
    made.learn("code", "code-1234")
    yield made
    for record in caplog.get_records("call"):
        made.see_log(record)
    made.assert_silence()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SOURCES)
def test_a_source_that_fails_keeps_everything_as_it_was(
    name: str, method: str, tmp_path: Path, witness: Witness
) -> None:
    """Nothing is sent, no attempt is written down, no code is spent, and nothing plain shows."""
    make, kind, said = SOURCES[name]
    store, provider = MemoryStore(), Provider()
    before = log_in(open_broker(Provider(), SECRET, store=store))
    broker = open_broker(provider, client_auth=METHODS[method](make(tmp_path)), store=store)
    session = broker.start_authorization(TENANT, "another", SCOPE, REDIRECT_URI)
    calls: list[Callable[[], object]] = [
        lambda: broker.refresh_access_token(USER_REQUEST.force_refresh()),
        lambda: obtain(broker),
        lambda: broker.exchange_code(session, "code-1234"),
        lambda: broker.complete_authorization(session, {"state": session.state, "code": "code-1234"}),
        lambda: broker.revoke(USER_REQUEST),
    ]
    for call in calls:
        with pytest.raises(BrokerError, match=said) as caught:
            call()
        assert type(caught.value) is kind
        witness.see_error(caught.value)
    assert provider.requests == []
    assert [store.fetch(key) for key in store.keys()] == [before]  # noqa: SIM118 - a store is no dict
    assert open_broker(Provider(), SECRET, store=store).exchange_code(session, "code-1234").access_token


def test_a_stored_token_is_served_while_its_source_fails(tmp_path: Path) -> None:
    """A hit needs no secret."""
    store = MemoryStore()
    before = log_in(open_broker(Provider(), SECRET, store=store))
    broker = open_broker(Provider(), tmp_path / "none", store=store)
    assert broker.refresh_access_token(USER_REQUEST) is before


def test_a_source_may_say_that_it_fails_for_now_only() -> None:
    """Its TransientError reaches the caller as such: a copy without what it was raised from."""
    with pytest.raises(TransientError, match="the vault is down") as caught:
        obtain(open_broker(Provider(), fail_as_ours))
    assert (caught.value.retryable, caught.value.retry_after) == (True, 7.0)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("wrong", ["", b"bytes", 7, {"k": "v"}, "\ud800", TokenSecret("")])
def test_what_is_no_source_is_refused_at_once(wrong: Any) -> None:
    """By the broker and by every method, without showing it."""
    makes: list[Callable[[Any], object]] = [
        *METHODS.values(),
        lambda each: Broker(describe(), CLIENT_ID, each),
    ]
    for make in makes:
        with pytest.raises(ConfigError, match=r"secret is (a str, a path|empty)") as refused:
            make(wrong)
        assert "v" not in str(refused.value).rpartition("not ")[2]


def test_an_open_file_is_no_source(tmp_path: Path) -> None:
    """It would give the secret once and then nothing."""
    written(tmp_path, b"secret")
    with (tmp_path / "secret").open() as file, pytest.raises(ConfigError, match="not TextIOWrapper"):
        ClientSecretPost(file)  # type: ignore[arg-type]
