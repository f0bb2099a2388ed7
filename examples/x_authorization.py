"""Log in at X (Twitter) with authorization code and PKCE, and post a tweet if you like. Interactive.

Register an app with OAuth 2.0 at https://developer.x.com, then::

    X_CLIENT_ID=... X_REDIRECT_URI=https://app.example.com/callback python examples/x_authorization.py

``X_REDIRECT_URI`` is one that you registered; nothing needs to listen there, the address that the browser
ends up at is enough. ``X_CLIENT_SECRET`` is for confidential clients. ``X_AUTHORIZATION_ENDPOINT``,
``X_TOKEN_ENDPOINT`` and ``X_API`` (the API's base URL) replace X by a stand-in.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping

import requests

from oauth2broker import (
    Broker,
    BrokerError,
    CachedTokenRequest,
    GrantType,
    ProviderDescriptor,
    RotationPolicy,
    TokenRecord,
)

# offline.access is what makes X issue a refresh token; tweet.write is for posting.
USER = CachedTokenRequest("tenant-acme", "user-1", "tweet.read tweet.write users.read offline.access")

Ask = Callable[[str], str]


def describe_x(env: Mapping[str, str]) -> ProviderDescriptor:
    return ProviderDescriptor(
        id="x",
        authorization_endpoint=env.get("X_AUTHORIZATION_ENDPOINT", "https://x.com/i/oauth2/authorize"),
        token_endpoint=env.get("X_TOKEN_ENDPOINT", "https://api.x.com/2/oauth2/token"),
        grants={GrantType.AUTHORIZATION_CODE, GrantType.REFRESH_TOKEN},
        rotation=RotationPolicy.ALWAYS,  # each renewal spends the refresh token and brings another
    )


def log_in(broker: Broker, redirect_uri: str, ask: Ask) -> TokenRecord:
    session = broker.start_authorization(USER.tenant, USER.principal, USER.scope, redirect_uri)
    print("Open this address, log in, and allow the access:")
    print(session.authorize_url, flush=True)
    print("The browser then goes to your redirect URI. X wants its code back within 30 seconds.")
    answer = ask("The address it ends up at (or only the state): ").strip()
    callback: str | dict[str, str] = answer
    if "=" not in answer:
        callback = {"state": answer, "code": ask("The code: ").strip()}
    return broker.complete_authorization(session, callback)


def post_tweet(broker: Broker, api: str, text: str) -> requests.Response:
    """Post ``text``. A 401 means that X no longer takes this token, whatever its lifetime: once more."""

    def post(record: TokenRecord) -> requests.Response:
        headers = {"Authorization": f"Bearer {record.access_token.expose()}"}
        return requests.post(f"{api}/2/tweets", json={"text": text}, headers=headers, timeout=30)

    record = broker.refresh_access_token(USER)  # the stored one, or renewed if it must be
    response = post(record)
    if response.status_code == 401:
        response = post(broker.refresh_access_token(USER.rejecting(record)))
    return response


def run(broker: Broker, env: Mapping[str, str], ask: Ask) -> int:
    record = log_in(broker, env["X_REDIRECT_URI"], ask)
    print(f"Granted: {record.granted_scope or record.scope}")
    print(f"Expires: {f'{record.expires_at:%Y-%m-%d %H:%M} UTC' if record.expires_at else 'not said'}")
    print(f"Renewable without the user: {'yes' if record.refresh_token else 'no'}")
    text = ask("A tweet to post (empty for none): ").strip()
    if not text:
        return 0
    response = post_tweet(broker, env.get("X_API", "https://api.x.com"), text)
    print("Posted." if response.ok else f"Not posted: HTTP {response.status_code}")
    return 0 if response.ok else 1


def main(env: Mapping[str, str] = os.environ, ask: Ask = input) -> int:
    """Give the exit code: 0 done, 1 it did not work, 2 something is not configured."""
    missing = [name for name in ("X_CLIENT_ID", "X_REDIRECT_URI") if not env.get(name)]
    if missing:
        print(f"Please set {' and '.join(missing)}.", file=sys.stderr)
        return 2
    try:
        with Broker(describe_x(env), env["X_CLIENT_ID"], env.get("X_CLIENT_SECRET") or None) as broker:
            return run(broker, env, ask)
    except (EOFError, KeyboardInterrupt):
        print("\nGiven up.", file=sys.stderr)
        return 1
    except (BrokerError, requests.RequestException) as error:
        # A BrokerError holds no secrets; of the others only the type is known to hold none.
        reason = f": {error}" if isinstance(error, BrokerError) else ""
        print(f"It did not work: {type(error).__name__}{reason}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
