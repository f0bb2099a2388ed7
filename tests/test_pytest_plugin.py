"""The pytest plugin, in projects of its own: its fixtures, and that nothing is there without opting in."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parent.parent
OPT_IN = 'pytest_plugins = ["oauth2broker.testing.pytest_plugin"]\n'
FIXTURES = ["oauth2_broker", "oauth2_clock", "oauth2_descriptor", "oauth2_provider", "loopback_provider"]


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """An empty project that sees the library, under warnings as errors."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makeini("[pytest]\nfilterwarnings = error\n")
    return pytester


def run(project: pytest.Pytester, *options: str) -> pytest.RunResult:
    return project.runpytest_subprocess("-p", "no:cacheprovider", *options)


def test_the_fixtures_are_one_provider_one_broker_and_one_clock(project: pytest.Pytester) -> None:
    """A user logs in, an hour passes, the token is renewed."""
    project.makeconftest(OPT_IN)
    project.makepyfile(
        """
        from oauth2broker import CachedTokenRequest, MemoryStore

        def test_renewal(oauth2_provider, oauth2_broker, oauth2_clock):
            assert isinstance(oauth2_broker.store, MemoryStore)
            oauth2_provider.log_in(oauth2_broker, "tenant", "user", "mail")
            oauth2_clock.advance(3600)
            record = oauth2_broker.refresh_access_token(CachedTokenRequest("tenant", "user", "mail"))
            assert record.access_token.expose() == "access-token-2"
            assert record.issued_at == oauth2_clock.now

        def test_each_test_starts_anew(oauth2_provider, oauth2_broker):
            assert oauth2_provider.calls == ()
            assert list(oauth2_broker.unsaved) == []
        """
    )
    run(project).assert_outcomes(passed=2)


def test_a_descriptor_of_ones_own_is_the_provider(project: pytest.Pytester) -> None:
    """In a conftest for all tests, in a module for its own."""
    project.makeconftest(
        OPT_IN
        + """
import pytest
from oauth2broker.provider import presets

@pytest.fixture
def oauth2_descriptor():
    return presets.get("slack_user")
"""
    )
    project.makepyfile(
        test_all="""
        def test_slack(oauth2_provider, oauth2_broker):
            assert oauth2_broker.descriptor.id == oauth2_provider.descriptor.id == "slack_user"
            oauth2_provider.log_in(oauth2_broker, "tenant", "user", "channels:read")
        """,
        test_own="""
        import pytest
        from oauth2broker.provider import presets

        @pytest.fixture
        def oauth2_descriptor():
            return presets.get("dropbox")

        def test_dropbox(oauth2_broker):
            assert oauth2_broker.descriptor.id == "dropbox"
        """,
    )
    run(project).assert_outcomes(passed=2)


def test_a_broker_of_ones_own_takes_the_place_of_the_fixture(project: pytest.Pytester) -> None:
    """Built on the fixtures below it."""
    project.makeconftest(OPT_IN)
    project.makepyfile(
        """
        import pytest
        from oauth2broker import Broker, CachedTokenRequest

        @pytest.fixture
        def oauth2_broker(oauth2_provider, oauth2_clock):
            return Broker(oauth2_provider.descriptor, "our-app", "s", clock=oauth2_clock)

        def test_it(oauth2_broker, oauth2_provider):
            oauth2_broker.client_credentials(CachedTokenRequest("tenant", "svc"))
            assert oauth2_provider.calls[0].client_id == "our-app"
        """
    )
    run(project).assert_outcomes(passed=1)


def test_the_loopback_provider_serves_real_sockets(project: pytest.Pytester) -> None:
    """By the same clock."""
    project.makeconftest(OPT_IN)
    project.makepyfile(
        """
        from oauth2broker import Broker, CachedTokenRequest

        def test_it(loopback_provider, oauth2_clock):
            broker = Broker(loopback_provider.descriptor(), "demo-client", "demo-secret", clock=oauth2_clock)
            with broker:
                record = broker.client_credentials(CachedTokenRequest("tenant", "svc"))
            assert loopback_provider.is_live(record.access_token.expose())
            oauth2_clock.advance(3600)
            assert not loopback_provider.is_live(record.access_token.expose())
        """
    )
    run(project).assert_outcomes(passed=1)


def test_what_a_test_left_undone_is_an_error_of_that_test(project: pytest.Pytester) -> None:
    """Scripted answers that no call asked for, and calls that nobody prepared, by name."""
    project.makeconftest(OPT_IN)
    project.makepyfile(
        """
        import requests

        def test_unused(oauth2_provider):
            oauth2_provider.will_refuse("invalid_scope")

        def test_stray(oauth2_provider):
            try:
                requests.get("https://elsewhere.example.com/path")
            except requests.ConnectionError:
                pass
        """
    )
    result = run(project)
    result.assert_outcomes(passed=2, errors=2)
    result.stdout.fnmatch_lines_random(
        [
            "*no call asked for will_refuse('invalid_scope')*",
            "*nobody prepared an answer to GET https://elsewhere.example.com/path*",
        ]
    )


def test_every_fixture_says_what_it_is(project: pytest.Pytester) -> None:
    """``pytest --fixtures`` shows each with a line of its own."""
    project.makeconftest(OPT_IN)
    shown = run(project, "--fixtures").stdout.str()
    for name in FIXTURES:
        assert re.search(rf"^{name} -- .*\n    \w.+", shown, re.MULTILINE), name
    assert "no docstring" not in "".join(re.findall(r"^(?:oauth2|loopback)_\w+.*\n.*", shown, re.MULTILINE))


def test_nothing_is_there_without_opting_in(project: pytest.Pytester) -> None:
    """No fixture, no entry point, no import."""
    project.makepyfile(
        """
        import sys

        def test_no_import():
            assert not [name for name in sys.modules if name.startswith("oauth2broker")]

        def test_no_fixture(oauth2_provider):
            pass
        """
    )
    result = run(project)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*fixture 'oauth2_provider' not found*"])
    shown = run(project, "--fixtures").stdout.str()
    assert not [name for name in FIXTURES if name in shown]
    assert not [point for point in entry_points(group="pytest11") if "oauth2broker" in point.value]


def test_opting_in_loads_no_more_than_the_fixtures_that_are_used(project: pytest.Pytester) -> None:
    """A suite of which few tests use a provider pays for it only there."""
    project.makeconftest(OPT_IN)
    project.makepyfile(
        """
        import sys

        def test_early(oauth2_clock):
            assert "responses" not in sys.modules
            assert "oauth2broker.flows.broker" not in sys.modules
        """
    )
    run(project).assert_outcomes(passed=1)
