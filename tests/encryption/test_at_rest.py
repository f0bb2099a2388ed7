"""Nothing at rest tells a token, or whose it is."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from oauth2broker import (
    Broker,
    CachedTokenRequest,
    FileStore,
    HttpRequest,
    HttpResponse,
    RequestsHttpClient,
    ResponseMetadataSlot,
    RevokedError,
)
from oauth2broker.stores.disk import part_of
from oauth2broker.testing import LoopbackProvider
from tests.encryption.support import NEW, OLD, SEALED, records_in, sealing
from tests.support import (
    REDIRECT_URI,
    SCOPE,
    SERVICE_REQUEST,
    TENANT,
    USER,
    USER_REQUEST,
    ManualClock,
    log_in,
)
from tests.test_secrecy import ISSUED, Witness

CLIENT = "demo-client", "demo-secret"


class Dump:
    """Everything in a folder, at every moment when something is put in place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.texts: list[bytes] = []

    def take(self) -> None:
        for path in self.folder.rglob("*"):
            self.texts.append(os.fsencode(str(path.relative_to(self.folder))))
            if path.is_file():
                text = path.read_bytes()
                self.texts += [text, *map(decoded, text.split(b":"))]

    def names(self) -> set[str]:
        return {os.fsdecode(text) for text in self.texts if len(text) < 100}

    def finds(self, secret: str) -> bool:
        forms = [secret.encode(), base64.b64encode(secret.encode()).rstrip(b"=")[:-1]]
        return any(form in text for form in forms for text in self.texts)


def decoded(text: bytes) -> bytes:
    """Give what base64 holds, as far as it is base64."""
    try:
        return base64.b64decode(text)
    except ValueError:
        return b""


class Listening(RequestsHttpClient):
    """Learns the tokens that are issued."""

    def __init__(self, witness: Witness) -> None:
        super().__init__()
        self.witness = witness

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        response = super().send(request, metadata)
        for kind, token in ISSUED.findall(response.body):
            self.witness.learn(kind.decode(), token.decode())
        return response


@pytest.mark.parametrize("is_encrypted", [True, False])
def test_nothing_at_rest_tells_a_token_or_whose_it_is(
    tmp_path: Path,
    provider: LoopbackProvider,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    is_encrypted: bool,
) -> None:
    """No byte of a record, a temporary file, a lock or a name; without a cipher, all of it is found."""
    folder = tmp_path / "tokens"
    witness, dump = Witness(), Dump(folder)
    replaced = os.replace

    def replace_in_sight(source: str, target: str) -> None:
        dump.take()
        replaced(source, target)

    monkeypatch.setattr("oauth2broker.stores.disk.os.replace", replace_in_sight)
    store = sealing(folder, NEW, OLD) if is_encrypted else FileStore(folder)
    transport = Listening(witness)
    broker = Broker(provider.descriptor(), *CLIENT, store=store, clock=clock, http_client=transport)
    log_in(broker, provider)
    for _ in range(3):
        clock.advance(3700)
        broker.refresh_access_token(USER_REQUEST)
        broker.client_credentials(SERVICE_REQUEST)
    other = CachedTokenRequest(TENANT, "user-2", SCOPE)
    session = broker.start_authorization(TENANT, "user-2", SCOPE, REDIRECT_URI)
    broker.complete_authorization(session, provider.browse(session.authorize_url))
    broker.revoke(USER_REQUEST)
    broker.store.delete(broker.key_for(other))
    with pytest.raises(RevokedError):
        broker.refresh_access_token(USER_REQUEST)
    broker.close()
    transport.close()
    dump.take()
    tokens = list(witness.secrets)
    assert len(tokens) >= 12
    people = [TENANT, USER, "user-2", SERVICE_REQUEST.principal, "alice"]
    others = ["email.read", "profile", CLIENT[0], CLIENT[1], provider.descriptor().id, OLD, NEW]
    names = dump.names()
    part = part_of(broker.key_for(USER_REQUEST).digest)
    assert {f"new-{part}.tmp", "locks", f"locks{os.sep}writes-{part}.lock"} <= names
    found = {word for word in (*tokens, *people, *others) if dump.finds(word)}
    if is_encrypted:
        assert found == set()
        assert all(text.startswith(SEALED.encode()) for text in records_in(folder).values())
    else:
        assert {TENANT, USER, "user-2", SERVICE_REQUEST.principal, CLIENT[0], *tokens[:2]} <= found
