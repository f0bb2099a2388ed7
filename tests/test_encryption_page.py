"""docs/encryption.rst runs as it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oauth2broker import AesGcmCipher, FileStore
from oauth2broker.testing import LoopbackProvider
from oauth2broker.testing.store_contract import make_record
from tests.support import SERVICE_REQUEST
from tests.test_docs_pages import DOCS, blocks, run


class Kms:
    """Decrypts a data key, and counts."""

    calls = 0

    def decrypt(self, wrapped: bytes) -> bytes:
        self.calls += 1
        return wrapped[::-1]


def test_the_examples_of_the_page_run_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A token is obtained, its key rotated, plain records are taken over and moved; a KMS is asked once."""
    monkeypatch.chdir(tmp_path)
    path, kms, record = DOCS / "encryption.rst", Kms(), make_record()
    namespace: dict[str, Any] = {
        "request": SERVICE_REQUEST,
        "kms": kms,
        "wrapped_key": bytes(range(32)),
        "record": record,
    }
    with LoopbackProvider({"client-id": "client-secret"}) as provider:
        namespace["descriptor"] = provider.descriptor()
        for block in blocks(path.read_text("utf-8"), "python"):
            run(block, path, namespace)
        namespace["broker"].close()
    assert capsys.readouterr().out == "1 rewritten, 0 were current\n"
    (key,) = Path("cipher.keys").read_text().split()
    assert len(list(FileStore("tokens", cipher=AesGcmCipher(key)).keys())) == 1
    assert FileStore("plain-tokens").fetch(record.key) == record
    namespace["kms_store"].save(record)
    assert namespace["kms_store"].fetch(record.key) == record
    assert FileStore("kms-tokens", cipher=AesGcmCipher(bytes(range(32))[::-1])).fetch(record.key) == record
    assert kms.calls == 1
