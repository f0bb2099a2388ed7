"""A web application: users log in at a provider, and a page calls an API with their token.

``python examples/flask_app.py`` serves it, with a loopback provider; its tests are in test_flask_app.py.
Needs Flask.
"""

from __future__ import annotations

import secrets

import requests
from flask import Flask, redirect, request, session, url_for
from flask.typing import ResponseReturnValue

from oauth2broker import AuthorizationSession, Broker, BrokerAuth, BrokerError, CachedTokenRequest

TENANT, SCOPE = "tenant-acme", "profile.read"
API = "https://api.example.com/me"


def create_app(broker: Broker, api: str = API) -> Flask:
    """Build the application."""
    app = Flask(__name__)
    app.secret_key = secrets.token_bytes(32)
    started: dict[str, AuthorizationSession] = {}  # with several processes: where all of them find it

    @app.get("/login")
    def login() -> ResponseReturnValue:
        user = session.setdefault("user", secrets.token_urlsafe(16))
        callback_url = url_for("callback", _external=True)
        authorization = broker.start_authorization(TENANT, user, SCOPE, callback_url)
        started[authorization.state] = authorization
        session["state"] = authorization.state
        return redirect(authorization.authorize_url)

    @app.get("/callback")
    def callback() -> ResponseReturnValue:
        authorization = started.pop(session.pop("state", ""), None)
        if authorization is None:
            return "This browser did not start to log in.", 400
        broker.complete_authorization(authorization, request.url)
        return redirect(url_for("profile"))

    @app.get("/")
    def profile() -> ResponseReturnValue:
        if "user" not in session:
            return redirect(url_for("login"))
        wanted = CachedTokenRequest(TENANT, session["user"], SCOPE)
        answer = requests.get(api, auth=BrokerAuth(broker, wanted), timeout=10)
        answer.raise_for_status()
        return f"Hello, {answer.json()['sub']}!"

    @app.errorhandler(BrokerError)
    def explain(error: BrokerError) -> ResponseReturnValue:
        if error.reauthorize and request.endpoint == "profile":
            return redirect(url_for("login"))
        if error.retryable:
            headers = {"Retry-After": f"{error.retry_after or 10:.0f}"}
            return "The provider is not there. Please try again.", 503, headers
        app.logger.error("%s: %s", type(error).__name__, error)
        return "You are not logged in.", 403

    return app


if __name__ == "__main__":
    from oauth2broker.testing import LoopbackProvider

    with LoopbackProvider() as provider, Broker(provider.descriptor(), "demo-client", "demo-secret") as demo:
        create_app(demo, provider.resource_endpoint).run()
