"""A program written for requests-oauthlib, moved over by one line.

Run with ``python examples/moved_from_requests_oauthlib.py``. The authorization server is in this process, and
a scripted browser stands for the user. ``log_in``, ``come_back`` and ``show_profile`` are what a web program
has in its three views; each makes its session anew, as it does there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import requests

from oauth2broker import Broker, BrokerSession, CachedTokenRequest, StateMismatchError
from oauth2broker.testing import LoopbackProvider

REDIRECT_URI = "https://app.example.com/callback"
USER = CachedTokenRequest("tenant-acme", "user-1", "openid profile")

WebSession = dict[str, Any]
MakeSession = Callable[..., Any]


# The program, as it was written for OAuth2Session.


def log_in(make_session: MakeSession, web_session: WebSession, provider: LoopbackProvider) -> str:
    session = make_session(redirect_uri=REDIRECT_URI)
    url, state = session.authorization_url(provider.authorization_endpoint, prompt="select_account")
    web_session["oauth_state"] = state
    return str(url)


def come_back(
    make_session: MakeSession, web_session: WebSession, provider: LoopbackProvider, callback: str
) -> None:
    session = make_session(state=web_session["oauth_state"], redirect_uri=REDIRECT_URI)
    session.register_compliance_hook("access_token_response", fix_token_type)
    web_session["oauth_token"] = session.fetch_token(
        provider.token_endpoint, client_secret="demo-secret", authorization_response=callback
    )


def show_profile(make_session: MakeSession, web_session: WebSession, provider: LoopbackProvider) -> str:
    def save(token: dict[str, Any]) -> None:
        print("  token_updater: the web session has the new token")
        web_session["oauth_token"] = token

    session = make_session(token=web_session["oauth_token"], token_updater=save)
    return str(session.get(provider.resource_endpoint).json()["sub"])


def fix_token_type(response: requests.Response) -> requests.Response:
    """A compliance hook: this provider might say "bearer"."""
    members = json.loads(response.text)
    members["token_type"] = str(members["token_type"]).title()
    response._content = json.dumps(members).encode()
    return response


# What is new: the broker, and the line that makes a session.


def main() -> None:
    with (
        LoopbackProvider() as provider,
        Broker(provider.descriptor(), "demo-client", "demo-secret") as broker,
    ):

        def make_session(**options: Any) -> BrokerSession:
            return BrokerSession(broker, USER, **options)

        web_session: WebSession = {}
        print("The user logs in")
        callback = provider.browse(log_in(make_session, web_session, provider), user="alice")
        come_back(make_session, web_session, provider, callback)
        print(f"  the profile of {show_profile(make_session, web_session, provider)}")

        print("A cron job has renewed the token meanwhile; the web session holds the old one")
        broker.refresh_access_token(USER.force_refresh())
        print(f"  the profile of {show_profile(make_session, web_session, provider)}")
        print(f"  and again, of {show_profile(make_session, web_session, provider)}")

        print("The callback comes a second time")
        try:
            come_back(make_session, web_session, provider, callback)
        except StateMismatchError as error:
            print(f"  {type(error).__name__}: {error}")

        print("The user logs out")
        broker.revoke(USER)
        session = make_session(token=web_session["oauth_token"])
        print(f"  authorized: {session.authorized}; the old token in the web session changes nothing")
        print(f"token calls: {provider.token_calls}; spent refresh tokens presented: {provider.reuses}")


if __name__ == "__main__":
    main()
