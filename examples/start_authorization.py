"""A user logs in (authorization code with PKCE), as a web application does it, and what can go wrong.

Run with ``python examples/start_authorization.py``. The authorization server is in this process, and a
scripted browser stands for the user's.
"""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from oauth2broker import (
    AuthorizationError,
    AuthorizationSession,
    Broker,
    CachedTokenRequest,
    StateMismatchError,
    TokenRecord,
)
from oauth2broker.testing import LoopbackProvider

REDIRECT_URI = "https://app.example.com/callback"
USER = CachedTokenRequest("tenant-acme", "user-1", "openid profile")

# Stands for the server-side session of one browser. What is kept holds the PKCE verifier, so it belongs
# where the browser itself cannot read it: not in a cookie that is only signed.
WebSession = dict[str, str]


def show_login_page(broker: Broker, web_session: WebSession) -> str:
    """The first request: remember the authorization under its ``state``; give where to redirect to."""
    session = broker.start_authorization(USER.tenant, USER.principal, USER.scope, REDIRECT_URI)
    web_session[session.state] = session.to_json()
    print(f"  PKCE challenge (S256): {session.code_challenge}")
    print(f"  redirecting to: {session.authorize_url}")
    return session.authorize_url


def take_callback(broker: Broker, web_session: WebSession, callback: str) -> TokenRecord:
    """The second request, perhaps in another process: find what was remembered, once, and finish."""
    states = parse_qs(urlsplit(callback).query).get("state", [])
    saved = web_session.pop(states[0], None) if states else None
    if saved is None:
        raise StateMismatchError("this browser did not start that authorization")
    return broker.complete_authorization(AuthorizationSession.from_json(saved), callback)


def show_login(broker: Broker, provider: LoopbackProvider) -> None:
    print("The user logs in")
    web_session: WebSession = {}
    authorize_url = show_login_page(broker, web_session)
    callback = provider.browse(authorize_url)  # opens the consent page, presses the button
    record = take_callback(broker, web_session, callback)
    print(f"  granted: {record.granted_scope}; refresh token: {record.refresh_token!r}")

    # From now on, wherever a token is needed. It is renewed when it must be, once, whoever else asks.
    current = broker.refresh_access_token(USER)
    print(f"  asked for a token: the stored one: {current.access_token == record.access_token}")
    renewed = broker.refresh_access_token(USER.force_refresh())
    print(f"  forced a renewal: another access token: {renewed.access_token != record.access_token}")
    print(f"  and the refresh token was rotated: {renewed.refresh_token != record.refresh_token}")

    print("The same callback comes a second time")
    try:
        take_callback(broker, web_session, callback)
    except StateMismatchError as error:
        print(f"  {type(error).__name__}: {error}")


def show_denial(broker: Broker, provider: LoopbackProvider) -> None:
    print("The user says no")
    web_session: WebSession = {}
    callback = provider.browse(show_login_page(broker, web_session), approve=False)
    calls = provider.token_calls
    try:
        take_callback(broker, web_session, callback)
    except AuthorizationError as error:
        print(f"  {type(error).__name__}: {error.error}; token calls: {provider.token_calls - calls}")


def show_wrong_state(broker: Broker, provider: LoopbackProvider) -> None:
    """A callback with somebody else's ``state``: accepting it would log the user in as an attacker."""
    print("A callback belongs to another authorization")
    ours = broker.start_authorization(USER.tenant, USER.principal, USER.scope, REDIRECT_URI)
    theirs = broker.start_authorization("tenant-acme", "mallory", USER.scope, REDIRECT_URI)
    calls = provider.token_calls
    try:
        broker.complete_authorization(ours, provider.browse(theirs.authorize_url, user="mallory"))
    except StateMismatchError as error:
        print(f"  {type(error).__name__}: {error}; token calls: {provider.token_calls - calls}")


def main() -> None:
    with (
        LoopbackProvider() as provider,
        Broker(provider.descriptor(), "demo-client", "demo-secret") as broker,
    ):
        show_login(broker, provider)
        show_denial(broker, provider)
        show_wrong_state(broker, provider)


if __name__ == "__main__":
    main()
