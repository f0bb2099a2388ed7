"""The tests of flask_app.py, with the fixtures of ``oauth2broker.testing.pytest_plugin``.

Run with ``pytest examples/test_flask_app.py`` or ``python examples/test_flask_app.py``. No network.
"""

from __future__ import annotations

import sys

import pytest
from flask.testing import FlaskClient
from flask_app import API, create_app

from oauth2broker import Broker
from oauth2broker.testing import FakeProvider, FrozenClock
from oauth2broker.testing.fake_provider import FakeApi

pytest_plugins = ["oauth2broker.testing.pytest_plugin"]


@pytest.fixture
def api(oauth2_provider: FakeProvider) -> FakeApi:
    """The API that the page calls."""
    return oauth2_provider.api("GET", API, json={"sub": "Alice"}, scope="profile.read")


@pytest.fixture
def browser(oauth2_broker: Broker, api: FakeApi) -> FlaskClient:
    """A browser that shows the application."""
    return create_app(oauth2_broker).test_client()


def log_in(browser: FlaskClient, provider: FakeProvider, *, approve: bool = True) -> int:
    """Do what a user does; give the status of the last page."""
    to_provider = browser.get("/login").location
    assert to_provider is not None
    callback = provider.browse(to_provider, approve=approve)
    return browser.get(callback, follow_redirects=True).status_code


def test_a_user_logs_in_and_sees_the_page(browser: FlaskClient, oauth2_provider: FakeProvider) -> None:
    """Through the real flow: a redirect, a code, a token, an API call with it."""
    assert browser.get("/").location == "/login"
    assert log_in(browser, oauth2_provider) == 200
    assert browser.get("/").text == "Hello, Alice!"
    assert [call.grant_type for call in oauth2_provider.calls] == ["authorization_code"]


def test_an_expired_token_is_renewed(
    browser: FlaskClient, oauth2_provider: FakeProvider, oauth2_clock: FrozenClock
) -> None:
    """The user notices nothing."""
    log_in(browser, oauth2_provider)
    oauth2_clock.advance(3600)
    assert browser.get("/").text == "Hello, Alice!"
    assert oauth2_provider.calls[-1].grant_type == "refresh_token"


def test_one_401_of_the_api_is_no_matter(
    browser: FlaskClient, oauth2_provider: FakeProvider, api: FakeApi
) -> None:
    """Another token is obtained, and the call is made again."""
    log_in(browser, oauth2_provider)
    api.will_refuse()
    assert browser.get("/").text == "Hello, Alice!"
    assert [call.status for call in api.calls] == [200, 401, 200]


def test_who_withdrew_consent_is_sent_to_the_login(
    browser: FlaskClient, oauth2_provider: FakeProvider
) -> None:
    """And can come back."""
    log_in(browser, oauth2_provider)
    oauth2_provider.revoke_grant()
    assert browser.get("/").location == "/login"
    assert log_in(browser, oauth2_provider) == 200


def test_without_the_provider_the_page_says_when_to_come_back(
    browser: FlaskClient, oauth2_provider: FakeProvider, oauth2_clock: FrozenClock
) -> None:
    """503 with Retry-After; the login is not lost."""
    log_in(browser, oauth2_provider)
    oauth2_clock.advance(3600)
    with oauth2_provider.outage(503, headers={"Retry-After": "30"}):
        answer = browser.get("/")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "30")
    oauth2_clock.advance(30)
    assert browser.get("/").text == "Hello, Alice!"


def test_a_user_who_says_no_is_not_logged_in(browser: FlaskClient, oauth2_provider: FakeProvider) -> None:
    """The provider is not asked for a token."""
    assert log_in(browser, oauth2_provider, approve=False) == 403
    assert oauth2_provider.calls == ()


def test_a_callback_that_this_browser_did_not_start_is_refused(
    browser: FlaskClient, oauth2_broker: Broker, oauth2_provider: FakeProvider
) -> None:
    """A link from an attacker logs nobody in (RFC 6749 section 10.12)."""
    attacker = create_app(oauth2_broker).test_client()
    callback = oauth2_provider.browse(attacker.get("/login").location or "")
    assert browser.get(callback).status_code == 400


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
