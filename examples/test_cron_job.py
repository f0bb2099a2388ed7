"""The tests of cron_job.py, with the fixtures of ``oauth2broker.testing.pytest_plugin``.

Run with ``pytest examples/test_cron_job.py`` or ``python examples/test_cron_job.py``. No network.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cron_job import main

from oauth2broker.testing import FakeProvider

pytest_plugins = ["oauth2broker.testing.pytest_plugin"]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, oauth2_provider: FakeProvider) -> None:
    """What the script reads its provider from."""
    monkeypatch.setenv("PROVIDER_TOKEN_ENDPOINT", oauth2_provider.descriptor.token_endpoint)
    monkeypatch.setenv("CLIENT_ID", "nightly")
    monkeypatch.setenv("CLIENT_SECRET", "nightly-secret")


def test_two_runs_share_one_token(oauth2_provider: FakeProvider, tmp_path: Path) -> None:
    """The second one finds it in the folder."""
    assert [main(str(tmp_path)), main(str(tmp_path))] == [0, 0]
    (call,) = oauth2_provider.calls
    assert (call.grant_type, call.client_id, call.scope) == ("client_credentials", "nightly", "reports.read")


def test_an_outage_is_for_cron_to_try_again(
    oauth2_provider: FakeProvider, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """EX_TEMPFAIL, and a line that says why."""
    with oauth2_provider.outage(503, headers={"Retry-After": "60"}):
        assert main(str(tmp_path)) == 75
    assert "TransientError" in capsys.readouterr().err


def test_a_wrong_secret_is_for_somebody_to_mend(
    oauth2_provider: FakeProvider, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another exit code, and no secret in the log."""
    oauth2_provider.will_refuse("invalid_client")
    assert main(str(tmp_path)) == 1
    said = capsys.readouterr().err
    assert "InvalidClientError" in said
    assert "nightly-secret" not in said


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
