"""Answers of the documented shapes, with values of our own, and what must come of them.

``LOGINS`` are whole stories: what is asked, sent, answered and kept, from consent to revocation. ``REFUSALS``
are answers that say no, ``DENIALS`` callbacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import ANY
from urllib.parse import quote_plus

from oauth2broker import (
    AuthorizationError,
    BrokerError,
    ConfigError,
    InvalidClientError,
    InvalidGrantError,
    TransientError,
)
from tests.presets.support import CLIENT_ID, CLIENT_SECRET, CODE, Answer
from tests.support import REDIRECT_URI

A1, R1, A2, R2 = "access-example-1", "refresh-example-1", "access-example-2", "refresh-example-2"
DAY = 86400
POST = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
BASIC = f"Basic {quote_plus(CLIENT_ID)}:{quote_plus(CLIENT_SECRET)}"
Members = Mapping[str, Any]
Headers = Mapping[str, str] | None


@dataclass(frozen=True)
class Want:
    """A request that must have been sent, with these parameters and no others."""

    url: str
    params: Members
    client: str | None = None
    place: str | None = "form"
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Kept:
    """What must be in the record.

    ``lasts`` and ``refresh_lasts`` are seconds, None for ever; ``scope`` None is what was asked for.
    """

    access: str = A1
    refresh: str | None = R1
    lasts: float | None = None
    refresh_lasts: float | None = None
    scope: str | None = None
    extra: Members = field(default_factory=dict)
    token_type: str | None = None


@dataclass(frozen=True)
class Login:
    """One user's story. Without ``renewal`` the token cannot be renewed; without ``revoked`` nothing is sent.

    ``asks`` are parameters of the authorization URL, None for one that must be missing. ``answers`` are those
    to the code, to a renewal and to a revocation.
    """

    preset: str
    code: Want
    answer: Any
    kept: Kept
    renewal: Want | None = None
    renewal_answer: Any = None
    renewed: Kept | None = None
    revoked: Want | None = None
    revoked_answer: Answer = field(default_factory=Answer)
    variables: Mapping[str, str] = field(default_factory=dict)
    environment: str | None = None
    scope: str = ""
    asks: Mapping[str, str | None] = field(default_factory=dict)
    callback: Mapping[str, str] = field(default_factory=dict)
    secret: str | None = CLIENT_SECRET


@dataclass(frozen=True)
class Refusal:
    """An answer that says no, at ``stage`` (code, renewal or revocation), and the error that it must become.

    ``dead``: the grant is over.
    """

    login: str
    stage: str
    answer: Answer
    error: type[BrokerError]
    dead: bool = False


def code(
    url: str, more: Members | None = None, *, pkce: bool = True, place: str = "form", headers: Headers = None
) -> Want:
    """Want the code exchanged by a client that authenticates with HTTP Basic."""
    params: dict[str, Any] = {"grant_type": "authorization_code", "code": CODE, "redirect_uri": REDIRECT_URI}
    params |= {"code_verifier": ANY} if pkce else {}
    return Want(url, params | dict(more or {}), BASIC, place, headers=headers or {})


def code_post(
    url: str, more: Members | None = None, *, pkce: bool = True, place: str = "form", headers: Headers = None
) -> Want:
    """Want the code exchanged with the client's secret among the parameters."""
    want = code(url, more, pkce=pkce, place=place)
    return Want(url, {**want.params, **POST}, None, place, headers=headers or {})


def refresh(
    url: str, more: Members | None = None, *, token: str = R1, place: str = "form", headers: Headers = None
) -> Want:
    """Want the token renewed, with HTTP Basic."""
    params = {"grant_type": "refresh_token", "refresh_token": token, **(more or {})}
    return Want(url, params, BASIC, place, headers=headers or {})


def refresh_post(
    url: str, more: Members | None = None, *, token: str = R1, place: str = "form", headers: Headers = None
) -> Want:
    """Want the token renewed, with the client's secret among the parameters."""
    want = refresh(url, more, token=token)
    return Want(url, {**want.params, **POST}, None, place, headers=headers or {})


def revoke(url: str, token: str, hint: str = "refresh_token", *, place: str = "form") -> Want:
    """Want ``token`` revoked as in RFC 7009, with HTTP Basic."""
    return Want(url, {"token": token, "token_type_hint": hint}, BASIC, place)


def revoke_post(url: str, token: str, hint: str = "refresh_token", *, place: str = "form") -> Want:
    """Want ``token`` revoked as in RFC 7009, with the client's secret among the parameters."""
    return Want(url, {"token": token, "token_type_hint": hint, **POST}, None, place)


def bearer(url: str, token: str, method: str = "POST") -> Want:
    """Want a call without a body that the token itself authorizes."""
    return Want(url, {}, f"Bearer {token}", None, method)


def first(**members: Any) -> dict[str, Any]:
    """Give the answer to a code: a pair of tokens, with ``members`` besides or instead."""
    return {"access_token": A1, "token_type": "Bearer", "refresh_token": R1, **members}


def alone(token: str = A1, /, **members: Any) -> dict[str, Any]:
    """Give an answer without a refresh token."""
    return {"access_token": token, "token_type": "Bearer", **members}


def second(**members: Any) -> dict[str, Any]:
    """Give the answer to a renewal: another pair of tokens."""
    return {"access_token": A2, "token_type": "Bearer", "refresh_token": R2, **members}


SLACK, SLACK_REVOKE = "https://slack.com/api/oauth.v2.access", "https://slack.com/api/auth.revoke"
META = "https://graph.facebook.com/v22.0"
GITHUB = "https://github.com/login/oauth/access_token"
IG = "https://graph.instagram.com"
ZOHO = "https://accounts.zoho.eu/oauth/v2/token"
SQUARE = "https://connect.squareup.com/oauth2"
REDDIT = "https://www.reddit.com/api/v1"
CONNECT = "https://connect.stripe.com/oauth"
ENTRA = "https://login.microsoftonline.com/common/oauth2/v2.0/token"
CALLER = {"User-Agent": "linux:example:1 (by /u/example)"}
BOT_ID = {"team": {"id": "T1", "name": "Acme"}, "bot_user_id": "U0", "is_enterprise_install": False}

LOGINS: dict[str, Login] = {
    "google": Login(
        "google",
        code_post("https://oauth2.googleapis.com/token"),
        first(expires_in=3599, scope="email openid", refresh_token_expires_in=604799),
        Kept(lasts=3599, refresh_lasts=604799, scope="email openid"),
        refresh_post("https://oauth2.googleapis.com/token"),
        alone(A2, expires_in=3599, scope="email openid"),
        Kept(A2, R1, 3599, 604799, "email openid"),
        revoke_post("https://oauth2.googleapis.com/revoke", R1),
        Answer({}),
        scope="openid email",
        asks={"access_type": "offline", "prompt": "consent", "scope": "email openid"},
    ),
    "microsoft_entra": Login(
        "microsoft_entra",
        code_post(ENTRA),
        first(expires_in=4000, ext_expires_in=4000, scope="User.Read"),
        Kept(lasts=4000, refresh_lasts=90 * DAY, scope="User.Read", extra={"ext_expires_in": 4000}),
        refresh_post(ENTRA),
        second(expires_in=4000, ext_expires_in=4000, scope="User.Read"),
        Kept(A2, R2, 4000, 90 * DAY, "User.Read", {"ext_expires_in": 4000}),
        asks={"response_mode": "query"},
    ),
    "github_app": Login(
        "github",
        code_post(GITHUB, headers={"Accept": "application/json"}),
        first(expires_in="28800", refresh_token_expires_in=15897600, scope="", token_type="bearer"),
        Kept(lasts=28800, refresh_lasts=15897600),
        refresh_post(GITHUB, headers={"Accept": "application/json"}),
        second(expires_in=28800, refresh_token_expires_in=15811200, scope="", token_type="bearer"),
        Kept(A2, R2, 28800, 15811200),
        Want(
            "https://api.github.com/applications/client%20id%2Fexample/token",
            {"access_token": A2},
            f"Basic {CLIENT_ID}:{CLIENT_SECRET}",
            "json",
            "DELETE",
        ),
        Answer(status=204),
    ),
    "github_oauth_app": Login(
        "github",
        code_post(GITHUB),
        alone(scope="repo,gist", token_type="bearer"),
        Kept(refresh=None, scope="gist repo"),
        revoked=Want(
            "https://api.github.com/applications/client%20id%2Fexample/token",
            {"access_token": A1},
            f"Basic {CLIENT_ID}:{CLIENT_SECRET}",
            "json",
            "DELETE",
        ),
        revoked_answer=Answer(status=204),
        scope="repo gist",
        asks={"scope": "gist repo"},
    ),
    "github_form": Login(
        "github",
        code_post(GITHUB),
        Answer(
            f"access_token={A1}&scope=repo%2Cgist&token_type=bearer",
            content_type="application/x-www-form-urlencoded; charset=utf-8",
        ),
        Kept(refresh=None, scope="gist repo"),
    ),
    "gitlab": Login(
        "gitlab",
        code_post("https://gitlab.com/oauth/token"),
        first(expires_in=7200, created_at=1767225600),
        Kept(lasts=7200, extra={"created_at": 1767225600}),
        refresh_post("https://gitlab.com/oauth/token"),
        second(expires_in=7200, created_at=1767232800),
        Kept(A2, R2, 7200, extra={"created_at": 1767232800}),
        revoke_post("https://gitlab.com/oauth/revoke", R2),
        Answer({}),
    ),
    "basecamp": Login(
        "basecamp",
        Want(
            "https://launchpad.37signals.com/authorization/token",
            {
                "type": "web_server",
                "code": CODE,
                "redirect_uri": REDIRECT_URI,
                "code_verifier": ANY,
                **POST,
            },
        ),
        first(expires_in=1209600),
        Kept(lasts=1209600),
        Want(
            "https://launchpad.37signals.com/authorization/token",
            {"type": "refresh", "refresh_token": R1, **POST},
        ),
        alone(A2, expires_in=1209600),
        Kept(A2, R1, 1209600),
        asks={"type": "web_server", "response_type": None},
    ),
    "bitbucket": Login(
        "bitbucket",
        code("https://bitbucket.org/site/oauth2/access_token"),
        first(expires_in=7200, scopes="account repository", state="authorization_code"),
        Kept(lasts=7200, scope="account repository", extra={"state": "authorization_code"}),
        refresh("https://bitbucket.org/site/oauth2/access_token"),
        alone(A2, expires_in=7200, scopes="account"),
        Kept(A2, R1, 7200, scope="account", extra={"state": "authorization_code"}),
        scope="account",
        asks={"scope": None},
    ),
    "slack": Login(
        "slack",
        code(SLACK, pkce=False),
        {
            **first(ok=True, token_type="bot", expires_in=43200, scope="chat:write,users:read"),
            **BOT_ID,
            "authed_user": {"id": "U1"},
        },
        Kept(
            lasts=43200,
            scope="chat:write users:read",
            extra={**BOT_ID, "authed_user": {"id": "U1"}},
            token_type="Bearer",
        ),
        refresh(SLACK),
        second(ok=True, token_type="bot", expires_in=43200, scope="chat:write", team={"id": "T1"}),
        Kept(
            A2,
            R2,
            43200,
            scope="chat:write",
            extra={**BOT_ID, "team": {"id": "T1"}, "authed_user": {"id": "U1"}},
            token_type="Bearer",
        ),
        bearer(SLACK_REVOKE, A2),
        Answer({"ok": True, "revoked": True}),
        scope="chat:write users:read",
        asks={"scope": "chat:write,users:read", "user_scope": None},
    ),
    "slack_without_rotation": Login(
        "slack",
        code(SLACK, pkce=False),
        {**alone(ok=True, token_type="bot", scope="chat:write"), **BOT_ID},
        Kept(refresh=None, scope="chat:write", extra=BOT_ID, token_type="Bearer"),
        revoked=bearer(SLACK_REVOKE, A1),
        revoked_answer=Answer({"ok": False, "error": "token_revoked"}),
    ),
    "slack_user": Login(
        "slack_user",
        code(SLACK, pkce=False),
        {
            "ok": True,
            "team": {"id": "T1"},
            "authed_user": {
                "id": "U1",
                **first(token_type="user", expires_in=43200, scope="search:read,users:read"),
            },
        },
        Kept(
            lasts=43200,
            scope="search:read users:read",
            extra={"team": {"id": "T1"}, "id": "U1"},
            token_type="Bearer",
        ),
        refresh(SLACK),
        second(ok=True, token_type="user", expires_in=43200, scope="search:read"),
        Kept(
            A2,
            R2,
            43200,
            scope="search:read",
            extra={"team": {"id": "T1"}, "id": "U1"},
            token_type="Bearer",
        ),
        bearer(SLACK_REVOKE, A2),
        Answer({"ok": True, "revoked": True}),
        scope="search:read users:read",
        asks={"user_scope": "search:read,users:read", "scope": None},
    ),
    "x": Login(
        "x",
        code("https://api.x.com/2/oauth2/token"),
        first(expires_in=7200, scope="offline.access tweet.read", token_type="bearer"),
        Kept(lasts=7200, scope="offline.access tweet.read"),
        refresh("https://api.x.com/2/oauth2/token"),
        second(expires_in=7200),
        Kept(A2, R2, 7200, scope="offline.access tweet.read"),
        revoke("https://api.x.com/2/oauth2/revoke", R2),
        Answer({"revoked": True}),
    ),
    "linkedin": Login(
        "linkedin",
        code_post("https://www.linkedin.com/oauth/v2/accessToken", pkce=False),
        first(expires_in=5184000, refresh_token_expires_in=31536000, scope="email,profile"),
        Kept(lasts=5184000, refresh_lasts=31536000, scope="email profile"),
        refresh_post("https://www.linkedin.com/oauth/v2/accessToken"),
        alone(A2, refresh_token=R1, expires_in=1000, refresh_token_expires_in=26352000),
        Kept(A2, R1, 1000, 26352000, "email profile"),
        asks={"code_challenge": None},
    ),
    "facebook": Login(
        "facebook",
        code_post(f"{META}/oauth/access_token"),
        alone(token_type="bearer", expires_in=5000),
        Kept(refresh=A1, lasts=5000),
        Want(
            f"{META}/oauth/access_token",
            {"grant_type": "fb_exchange_token", "fb_exchange_token": A1, **POST},
        ),
        alone(A2, token_type="bearer", expires_in=60 * DAY),
        Kept(A2, A2, 60 * DAY),
        Want(f"{META}/me/permissions", {"access_token": A2}, None, "query", "DELETE"),
        Answer({"success": True}),
        scope="email public_profile",
        asks={"scope": "email,public_profile"},
    ),
    "facebook_of_old": Login(
        "facebook",
        code_post(f"{META}/oauth/access_token"),
        Answer(f"access_token={A1}&expires=5180000", content_type="text/plain; charset=UTF-8"),
        Kept(refresh=A1, lasts=5180000),
        Want(
            f"{META}/oauth/access_token",
            {"grant_type": "fb_exchange_token", "fb_exchange_token": A1, **POST},
        ),
        alone(A2, expires_in=60 * DAY),
        Kept(A2, A2, 60 * DAY),
        Want(f"{META}/me/permissions", {"access_token": A2}, None, "query", "DELETE"),
    ),
    "facebook_without_expiry": Login(
        "facebook",
        code_post(f"{META}/oauth/access_token"),
        Answer(f"access_token={A1}&token_type=bearer", content_type="application/x-www-form-urlencoded"),
        Kept(refresh=A1),
        revoked=Want(f"{META}/me/permissions", {"access_token": A1}, None, "query", "DELETE"),
        revoked_answer=Answer("true"),
        renewal=Want(
            f"{META}/oauth/access_token",
            {"grant_type": "fb_exchange_token", "fb_exchange_token": A1, **POST},
        ),
        renewal_answer=alone(A1),
        renewed=Kept(refresh=A1),
    ),
    "instagram": Login(
        "instagram",
        code_post("https://api.instagram.com/oauth/access_token"),
        {"access_token": A1, "user_id": 17841},
        Kept(refresh=A1, lasts=3600, extra={"user_id": 17841, "lived": "short"}),
        Want(
            f"{IG}/access_token",
            {"grant_type": "ig_exchange_token", "client_secret": CLIENT_SECRET, "access_token": A1},
            None,
            "query",
            "GET",
        ),
        alone(A2, token_type="bearer", expires_in=5183944),
        Kept(A2, A2, 5183944, extra={"user_id": 17841, "lived": "long"}),
        scope="instagram_business_basic",
    ),
    "instagram_in_a_list": Login(
        "instagram",
        code_post("https://api.instagram.com/oauth/access_token"),
        {"data": [{"access_token": A1, "user_id": "17841", "permissions": "basic,comments"}]},
        Kept(refresh=A1, lasts=3600, scope="basic comments", extra={"user_id": "17841", "lived": "short"}),
        Want(
            f"{IG}/access_token",
            {"grant_type": "ig_exchange_token", "client_secret": CLIENT_SECRET, "access_token": A1},
            None,
            "query",
            "GET",
        ),
        alone(A2, token_type="bearer", expires_in=5183944, permissions="basic"),
        Kept(A2, A2, 5183944, scope="basic", extra={"user_id": "17841", "lived": "long"}),
    ),
    "salesforce": Login(
        "salesforce",
        code_post("https://login.salesforce.com/services/oauth2/token"),
        first(
            instance_url="https://acme.my.salesforce.com",
            id="https://login.salesforce.com/id/O/U",
            issued_at="1767225600000",
            signature="signature-example",
            scope="api refresh_token",
        ),
        Kept(
            scope="api refresh_token",
            extra={
                "instance_url": "https://acme.my.salesforce.com",
                "id": "https://login.salesforce.com/id/O/U",
                "issued_at": "1767225600000",
                "signature": "signature-example",
            },
        ),
        refresh_post("https://login.salesforce.com/services/oauth2/token"),
        alone(A2, instance_url="https://moved.my.salesforce.com", issued_at="1767229200000"),
        Kept(
            A2,
            R1,
            scope="api refresh_token",
            extra={
                "instance_url": "https://moved.my.salesforce.com",
                "id": "https://login.salesforce.com/id/O/U",
                "issued_at": "1767229200000",
                "signature": "signature-example",
            },
        ),
        revoke_post("https://login.salesforce.com/services/oauth2/revoke", R1),
    ),
    "okta": Login(
        "okta",
        code("https://acme.okta.com/oauth2/default/v1/token"),
        first(expires_in=3600, scope="offline_access openid"),
        Kept(lasts=3600, scope="offline_access openid"),
        refresh("https://acme.okta.com/oauth2/default/v1/token"),
        second(expires_in=3600, scope="offline_access openid"),
        Kept(A2, R2, 3600, scope="offline_access openid"),
        revoke("https://acme.okta.com/oauth2/default/v1/revoke", R2),
        variables={"domain": "acme.okta.com"},
    ),
    "auth0": Login(
        "auth0",
        code_post("https://acme.auth0.com/oauth/token"),
        first(expires_in=86400),
        Kept(lasts=86400, refresh_lasts=30 * DAY),
        refresh_post("https://acme.auth0.com/oauth/token"),
        alone(A2, expires_in=86400),
        Kept(A2, R1, 86400, 30 * DAY),
        revoke_post("https://acme.auth0.com/oauth/revoke", R1),
        variables={"domain": "acme.auth0.com"},
    ),
    "keycloak_offline": Login(
        "keycloak",
        code("https://id.example.com/realms/acme/protocol/openid-connect/token"),
        first(
            expires_in=300,
            refresh_expires_in=0,
            scope="offline_access",
            session_state="s1",
            **{"not-before-policy": 0},
        ),
        Kept(lasts=300, scope="offline_access", extra={"session_state": "s1", "not-before-policy": 0}),
        refresh("https://id.example.com/realms/acme/protocol/openid-connect/token"),
        second(expires_in=300, refresh_expires_in=1800),
        Kept(A2, R2, 300, 1800, "offline_access", {"session_state": "s1", "not-before-policy": 0}),
        revoke("https://id.example.com/realms/acme/protocol/openid-connect/revoke", R2),
        variables={"base_url": "https://id.example.com", "realm": "acme"},
    ),
    "aws_cognito": Login(
        "aws_cognito",
        code("https://acme.auth.eu-west-1.amazoncognito.com/oauth2/token"),
        first(expires_in=3600),
        Kept(lasts=3600, refresh_lasts=30 * DAY),
        refresh("https://acme.auth.eu-west-1.amazoncognito.com/oauth2/token"),
        alone(A2, expires_in=3600),
        Kept(A2, R1, 3600, 30 * DAY),
        revoke("https://acme.auth.eu-west-1.amazoncognito.com/oauth2/revoke", R1),
        variables={
            "user_pool_domain": "acme.auth.eu-west-1.amazoncognito.com",
            "region": "eu-west-1",
            "user_pool_id": "eu-west-1_Example",
        },
    ),
    "zoom": Login(
        "zoom",
        code("https://zoom.us/oauth/token"),
        first(expires_in=3599, scope="user:read", api_url="https://api-eu.zoom.us"),
        Kept(lasts=3599, scope="user:read", extra={"api_url": "https://api-eu.zoom.us"}),
        refresh("https://zoom.us/oauth/token"),
        second(expires_in=3599, scope="user:read"),
        Kept(A2, R2, 3599, scope="user:read", extra={"api_url": "https://api-eu.zoom.us"}),
        revoke("https://zoom.us/oauth/revoke", A2, "access_token"),
        Answer({"status": "success"}),
    ),
    "zoom_pkce": Login(
        "zoom",
        Want(
            "https://zoom.us/oauth/token",
            {
                "grant_type": "authorization_code",
                "code": CODE,
                "redirect_uri": REDIRECT_URI,
                "code_verifier": ANY,
                "client_id": CLIENT_ID,
            },
        ),
        first(expires_in=3599, scope="user:read"),
        Kept(lasts=3599, scope="user:read"),
        Want(
            "https://zoom.us/oauth/token",
            {"grant_type": "refresh_token", "refresh_token": R1, "client_id": CLIENT_ID},
        ),
        second(expires_in=3599, scope="user:read"),
        Kept(A2, R2, 3599, scope="user:read"),
        secret=None,
    ),
    "atlassian": Login(
        "atlassian",
        code_post("https://auth.atlassian.com/oauth/token"),
        first(expires_in=3600, scope="offline_access read:jira-work"),
        Kept(lasts=3600, refresh_lasts=90 * DAY, scope="offline_access read:jira-work"),
        refresh_post("https://auth.atlassian.com/oauth/token"),
        second(expires_in=3600),
        Kept(A2, R2, 3600, 90 * DAY, "offline_access read:jira-work"),
        revoke_post("https://auth.atlassian.com/oauth/revoke", R2),
        asks={"audience": "api.atlassian.com", "prompt": "consent"},
    ),
    "dropbox": Login(
        "dropbox",
        code_post("https://api.dropboxapi.com/oauth2/token"),
        first(expires_in=14400, scope="files.read", uid="12", account_id="dbid:A1", token_type="bearer"),
        Kept(lasts=14400, scope="files.read", extra={"uid": "12", "account_id": "dbid:A1"}),
        refresh_post("https://api.dropboxapi.com/oauth2/token"),
        alone(A2, expires_in=14400, token_type="bearer"),
        Kept(A2, R1, 14400, scope="files.read", extra={"uid": "12", "account_id": "dbid:A1"}),
        bearer("https://api.dropboxapi.com/2/auth/token/revoke", A2),
        Answer("null"),
        asks={"token_access_type": "offline"},
    ),
    "box": Login(
        "box",
        code_post("https://api.box.com/oauth2/token"),
        first(expires_in=3600, restricted_to=[], token_type="bearer"),
        Kept(lasts=3600, refresh_lasts=60 * DAY, extra={"restricted_to": []}),
        refresh_post("https://api.box.com/oauth2/token"),
        second(expires_in=3600, restricted_to=[], token_type="bearer"),
        Kept(A2, R2, 3600, 60 * DAY, extra={"restricted_to": []}),
        revoke_post("https://api.box.com/oauth2/revoke", R2),
    ),
    "spotify": Login(
        "spotify",
        code("https://accounts.spotify.com/api/token"),
        first(expires_in=3600, scope="user-read-email"),
        Kept(lasts=3600, refresh_lasts=15778800, scope="user-read-email"),
        refresh("https://accounts.spotify.com/api/token"),
        alone(A2, expires_in=3600, scope="user-read-email"),
        Kept(A2, R1, 3600, 15778800, "user-read-email"),
    ),
    "discord": Login(
        "discord",
        code("https://discord.com/api/oauth2/token"),
        first(expires_in=604800, scope="bot identify", guild={"id": "1"}),
        Kept(lasts=604800, scope="bot identify", extra={"guild": {"id": "1"}}),
        refresh("https://discord.com/api/oauth2/token"),
        second(expires_in=604800, scope="bot identify"),
        Kept(A2, R2, 604800, scope="bot identify", extra={"guild": {"id": "1"}}),
        revoke("https://discord.com/api/oauth2/token/revoke", R2),
        Answer({}),
    ),
    "twitch": Login(
        "twitch",
        code_post("https://id.twitch.tv/oauth2/token"),
        first(expires_in=14124, scope=["chat:read", "user:read:email"], token_type="bearer"),
        Kept(lasts=14124, scope="chat:read user:read:email"),
        refresh_post("https://id.twitch.tv/oauth2/token"),
        second(expires_in=14124, scope=["chat:read"], token_type="bearer"),
        Kept(A2, R2, 14124, scope="chat:read"),
        revoke_post("https://id.twitch.tv/oauth2/revoke", A2, "access_token"),
    ),
    "twitch_without_expiry": Login(
        "twitch",
        code_post("https://id.twitch.tv/oauth2/token"),
        first(expires_in=None, scope=["chat:read"], token_type="bearer"),
        Kept(scope="chat:read"),
        refresh_post("https://id.twitch.tv/oauth2/token"),
        alone(A2, refresh_token=R1, scope=["chat:read"], token_type="bearer"),
        Kept(A2, R1, scope="chat:read"),
        revoke_post("https://id.twitch.tv/oauth2/revoke", A2, "access_token"),
        Answer({"status": 400, "message": "Invalid token"}, 400),
    ),
    "reddit": Login(
        "reddit",
        code(f"{REDDIT}/access_token", headers=CALLER),
        first(expires_in=86400, scope="identity", token_type="bearer"),
        Kept(lasts=86400, scope="identity"),
        refresh(f"{REDDIT}/access_token", headers=CALLER),
        alone(A2, expires_in=86400, scope="identity", token_type="bearer"),
        Kept(A2, R1, 86400, scope="identity"),
        revoke(f"{REDDIT}/revoke_token", R1),
        Answer(""),
        variables={"user_agent": CALLER["User-Agent"]},
        asks={"duration": "permanent"},
    ),
    "reddit_installed": Login(
        "reddit",
        Want(
            f"{REDDIT}/access_token",
            {
                "grant_type": "authorization_code",
                "code": CODE,
                "redirect_uri": REDIRECT_URI,
                "code_verifier": ANY,
            },
            f"Basic {CLIENT_ID}:",
        ),
        first(expires_in=86400, device_id="device-1"),
        Kept(lasts=86400, extra={"device_id": "device-1"}),
        Want(
            f"{REDDIT}/access_token",
            {"grant_type": "refresh_token", "refresh_token": R1},
            f"Basic {CLIENT_ID}:",
        ),
        alone(A2, refresh_token=R1, expires_in=86400),
        Kept(A2, R1, 86400, extra={"device_id": "device-1"}),
        Want(
            f"{REDDIT}/revoke_token",
            {"token": R1, "token_type_hint": "refresh_token"},
            f"Basic {CLIENT_ID}:",
        ),
        variables={"user_agent": CALLER["User-Agent"]},
        secret=None,
    ),
    "notion": Login(
        "notion",
        code("https://api.notion.com/v1/oauth/token", place="json", headers={"Notion-Version": "2022-06-28"}),
        first(
            token_type="bearer",
            bot_id="b1",
            workspace_id="w1",
            workspace_name="Acme",
            owner={"type": "user", "user": {"id": "u1"}},
            duplicated_template_id=None,
            request_id="r1",
        ),
        Kept(
            extra={
                "bot_id": "b1",
                "workspace_id": "w1",
                "workspace_name": "Acme",
                "owner": {"type": "user", "user": {"id": "u1"}},
                "duplicated_template_id": None,
                "request_id": "r1",
            }
        ),
        refresh("https://api.notion.com/v1/oauth/token", place="json"),
        second(token_type="bearer", bot_id="b1", request_id="r2"),
        Kept(
            A2,
            R2,
            extra={
                "bot_id": "b1",
                "workspace_id": "w1",
                "workspace_name": "Acme",
                "owner": {"type": "user", "user": {"id": "u1"}},
                "duplicated_template_id": None,
                "request_id": "r2",
            },
        ),
        revoke("https://api.notion.com/v1/oauth/revoke", A2, "access_token", place="json"),
        Answer({}),
        scope="ignored",
        asks={"owner": "user", "scope": None},
    ),
    "notion_of_old": Login(
        "notion",
        code("https://api.notion.com/v1/oauth/token", place="json"),
        alone(refresh_token=None, token_type="bearer", bot_id="b1"),
        Kept(refresh=None, extra={"bot_id": "b1"}),
    ),
    "hubspot": Login(
        "hubspot",
        code_post("https://api.hubapi.com/oauth/2026-03/token"),
        first(expires_in=1800, hub_id=62515, scopes=["crm.objects.contacts.read", "oauth"]),
        Kept(lasts=1800, scope="crm.objects.contacts.read oauth", extra={"hub_id": 62515}),
        refresh_post("https://api.hubapi.com/oauth/2026-03/token"),
        alone(A2, refresh_token=R1, expires_in=1800, hub_id=62515, scopes=["oauth"]),
        Kept(A2, R1, 1800, scope="oauth", extra={"hub_id": 62515}),
        revoke_post("https://api.hubapi.com/oauth/2026-03/token/revoke", R1),
    ),
    "intercom": Login(
        "intercom",
        code_post("https://api.intercom.io/auth/eagle/token"),
        {**alone(), "token": A1},
        Kept(refresh=None),
        scope="ignored",
        asks={"scope": None},
    ),
    "zendesk": Login(
        "zendesk",
        code_post("https://acme.zendesk.com/oauth/tokens", {"expires_in": "1800"}, place="json"),
        first(expires_in=1800, refresh_token_expires_in=7776000, scope="read", token_type="bearer"),
        Kept(lasts=1800, refresh_lasts=90 * DAY, scope="read"),
        refresh_post("https://acme.zendesk.com/oauth/tokens", {"expires_in": "1800"}, place="json"),
        second(expires_in=1800, refresh_token_expires_in=7776000, scope="read", token_type="bearer"),
        Kept(A2, R2, 1800, 90 * DAY, "read"),
        bearer("https://acme.zendesk.com/api/v2/oauth/tokens/current.json", A2, "DELETE"),
        Answer(status=204),
        variables={"subdomain": "acme"},
    ),
    "zendesk_without_expiry": Login(
        "zendesk",
        code_post("https://acme.zendesk.com/oauth/tokens", {"expires_in": "1800"}, place="json"),
        alone(scope="read", token_type="bearer"),
        Kept(refresh=None, scope="read"),
        variables={"subdomain": "acme"},
        revoked=bearer("https://acme.zendesk.com/api/v2/oauth/tokens/current.json", A1, "DELETE"),
        revoked_answer=Answer(status=204),
    ),
    "asana": Login(
        "asana",
        code_post("https://app.asana.com/-/oauth_token"),
        first(expires_in=3600, token_type="bearer", data={"id": 1, "gid": "1", "name": "Ann"}),
        Kept(lasts=3600, extra={"data": {"id": 1, "gid": "1", "name": "Ann"}}),
        refresh_post("https://app.asana.com/-/oauth_token"),
        alone(A2, expires_in=3600, token_type="bearer"),
        Kept(A2, R1, 3600, extra={"data": {"id": 1, "gid": "1", "name": "Ann"}}),
        revoke_post("https://app.asana.com/-/oauth_revoke", R1),
        Answer({}),
    ),
    "monday": Login(
        "monday",
        code_post("https://auth.monday.com/oauth_ms/oauth/token", place="json"),
        first(scope="me:read"),
        Kept(scope="me:read"),
        refresh_post("https://auth.monday.com/oauth_ms/oauth/token", place="json"),
        second(scope="me:read"),
        Kept(A2, R2, scope="me:read"),
        revoke_post("https://auth.monday.com/oauth_ms/oauth/revoke", R2, place="json"),
        asks={"force_install_if_needed": "true"},
    ),
    "monday_legacy": Login(
        "monday",
        code_post("https://auth.monday.com/oauth2/token", place="json"),
        alone(scope="me:read"),
        Kept(refresh=None, scope="me:read"),
        environment="legacy",
    ),
    "shopify": Login(
        "shopify",
        code_post("https://acme.myshopify.com/admin/oauth/access_token", {"expiring": "1"}),
        {
            "access_token": A1,
            "refresh_token": R1,
            "expires_in": 3600,
            "refresh_token_expires_in": 7776000,
            "scope": "write_orders,read_customers",
        },
        Kept(
            lasts=3600,
            refresh_lasts=90 * DAY,
            scope="read_customers write_orders",
            extra={"shop": "acme.myshopify.com"},
        ),
        refresh_post("https://acme.myshopify.com/admin/oauth/access_token"),
        second(expires_in=3600, scope="write_orders"),
        Kept(A2, R2, 3600, scope="write_orders", extra={"shop": "acme.myshopify.com"}),
        variables={"shop": "acme"},
        scope="read_orders write_orders",
        asks={"scope": "read_orders,write_orders"},
        callback={"shop": "acme.myshopify.com", "timestamp": "1767225600", "host": "YWNtZQ"},
    ),
    "shopify_without_expiry": Login(
        "shopify",
        code_post("https://acme.myshopify.com/admin/oauth/access_token", {"expiring": "1"}),
        {"access_token": A1, "scope": "write_orders"},
        Kept(refresh=None, scope="write_orders", extra={"shop": "acme.myshopify.com"}, token_type="Bearer"),
        variables={"shop": "acme"},
        callback={"shop": "acme.myshopify.com", "timestamp": "1767225600"},
    ),
    "shopify_online": Login(
        "shopify",
        code_post("https://acme.myshopify.com/admin/oauth/access_token", {"expiring": "1"}),
        {
            "access_token": A1,
            "scope": "write_orders",
            "expires_in": 86399,
            "associated_user_scope": "write_orders",
            "associated_user": {"id": 9, "email": "ann@example.com"},
            "session": "s1",
        },
        Kept(
            refresh=None,
            lasts=86399,
            scope="write_orders",
            extra={
                "shop": "acme.myshopify.com",
                "associated_user_scope": "write_orders",
                "associated_user": {"id": 9, "email": "ann@example.com"},
                "session": "s1",
            },
        ),
        variables={"shop": "acme"},
        callback={"shop": "acme.myshopify.com", "timestamp": "1767225600"},
    ),
    "stripe_connect": Login(
        "stripe_connect",
        Want(
            f"{CONNECT}/token",
            {
                "grant_type": "authorization_code",
                "code": CODE,
                "redirect_uri": REDIRECT_URI,
                "client_secret": CLIENT_SECRET,
            },
        ),
        first(
            token_type="bearer",
            scope="read_write",
            livemode=False,
            stripe_user_id="acct_1",
            stripe_publishable_key="pk_test_example",
        ),
        Kept(
            scope="read_write",
            extra={
                "livemode": False,
                "stripe_user_id": "acct_1",
                "stripe_publishable_key": "pk_test_example",
            },
        ),
        Want(
            f"{CONNECT}/token",
            {"grant_type": "refresh_token", "refresh_token": R1, "client_secret": CLIENT_SECRET},
        ),
        alone(A2, refresh_token=R1, scope="read_write", stripe_user_id="acct_1"),
        Kept(
            A2,
            R1,
            scope="read_write",
            extra={
                "livemode": False,
                "stripe_user_id": "acct_1",
                "stripe_publishable_key": "pk_test_example",
            },
        ),
        Want(
            f"{CONNECT}/deauthorize",
            {"client_id": CLIENT_ID, "stripe_user_id": "acct_1"},
            f"Bearer {CLIENT_SECRET}",
        ),
        Answer({"stripe_user_id": "acct_1"}),
        scope="read_write",
    ),
    "stripe_apps": Login(
        "stripe_apps",
        Want(
            "https://api.stripe.com/v1/oauth/token",
            {
                "grant_type": "authorization_code",
                "code": CODE,
                "redirect_uri": REDIRECT_URI,
            },
            f"Basic {CLIENT_SECRET}:",
        ),
        first(token_type="bearer", scope="stripe_apps", livemode=True, stripe_user_id="acct_1"),
        Kept(lasts=3600, scope="stripe_apps", extra={"livemode": True, "stripe_user_id": "acct_1"}),
        Want(
            "https://api.stripe.com/v1/oauth/token",
            {"grant_type": "refresh_token", "refresh_token": R1},
            f"Basic {CLIENT_SECRET}:",
        ),
        second(token_type="bearer", scope="stripe_apps"),
        Kept(A2, R2, 3600, scope="stripe_apps", extra={"livemode": True, "stripe_user_id": "acct_1"}),
    ),
    "square": Login(
        "square",
        code_post(f"{SQUARE}/token", place="json"),
        first(expires_at="2026-01-31T00:00:00Z", merchant_id="M1", short_lived=False, token_type="bearer"),
        Kept(lasts=30 * DAY, extra={"merchant_id": "M1", "short_lived": False}),
        refresh_post(f"{SQUARE}/token", place="json"),
        alone(A2, refresh_token=R1, expires_at="2026-03-02T00:00:01Z", merchant_id="M1"),
        Kept(A2, R1, 30 * DAY, extra={"merchant_id": "M1", "short_lived": False}),
        Want(
            f"{SQUARE}/revoke",
            {"client_id": CLIENT_ID, "access_token": A2},
            f"Client {CLIENT_SECRET}",
            "json",
        ),
        Answer({"success": True}),
        asks={"session": "false"},
    ),
    "square_pkce": Login(
        "square",
        Want(
            f"{SQUARE}/token",
            {
                "grant_type": "authorization_code",
                "code": CODE,
                "redirect_uri": REDIRECT_URI,
                "code_verifier": ANY,
                "client_id": CLIENT_ID,
            },
            place="json",
        ),
        first(expires_at="2026-01-31T00:00:00Z", merchant_id="M1"),
        Kept(lasts=30 * DAY, extra={"merchant_id": "M1"}),
        Want(
            f"{SQUARE}/token",
            {"grant_type": "refresh_token", "refresh_token": R1, "client_id": CLIENT_ID},
            place="json",
        ),
        second(expires_at="2026-03-02T00:00:01Z", merchant_id="M1"),
        Kept(A2, R2, 30 * DAY, extra={"merchant_id": "M1"}),
        secret=None,
    ),
    "paypal": Login(
        "paypal",
        code("https://api-m.paypal.com/v1/oauth2/token"),
        first(expires_in=28800, scope="openid", nonce="n1", app_id="APP-1"),
        Kept(lasts=28800, scope="openid", extra={"nonce": "n1", "app_id": "APP-1"}),
        refresh("https://api-m.paypal.com/v1/oauth2/token"),
        alone(A2, expires_in=28800, nonce="n2"),
        Kept(A2, R1, 28800, scope="openid", extra={"nonce": "n2", "app_id": "APP-1"}),
        revoke("https://api-m.paypal.com/v1/oauth2/revoke", R1),
    ),
    "quickbooks": Login(
        "quickbooks",
        code("https://oauth.platform.intuit.com/oauth2/v1/tokens/bearer"),
        first(expires_in=3600, x_refresh_token_expires_in=8726400, token_type="bearer"),
        Kept(lasts=3600, refresh_lasts=8726400, extra={"realmId": "4620816365"}),
        refresh("https://oauth.platform.intuit.com/oauth2/v1/tokens/bearer"),
        second(expires_in=3600, x_refresh_token_expires_in=8726000, token_type="bearer"),
        Kept(A2, R2, 3600, 8726000, extra={"realmId": "4620816365"}),
        revoke("https://developer.api.intuit.com/v2/oauth2/tokens/revoke", R2),
        callback={"realmId": "4620816365"},
    ),
    "xero": Login(
        "xero",
        code("https://identity.xero.com/connect/token"),
        first(expires_in=1800, scope="accounting.transactions offline_access"),
        Kept(lasts=1800, refresh_lasts=60 * DAY, scope="accounting.transactions offline_access"),
        refresh("https://identity.xero.com/connect/token"),
        second(expires_in=1800),
        Kept(A2, R2, 1800, 60 * DAY, "accounting.transactions offline_access"),
        revoke("https://identity.xero.com/connect/revocation", R2),
    ),
    "docusign": Login(
        "docusign",
        code("https://account.docusign.com/oauth/token"),
        first(expires_in=28800, scope="extended signature"),
        Kept(lasts=28800, refresh_lasts=30 * DAY, scope="extended signature"),
        refresh("https://account.docusign.com/oauth/token"),
        second(expires_in=28800),
        Kept(A2, R2, 28800, 30 * DAY, "extended signature"),
        revoke("https://account.docusign.com/oauth/revoke", R2),
    ),
    "mailchimp": Login(
        "mailchimp",
        code_post("https://login.mailchimp.com/oauth2/token"),
        alone(expires_in=0, scope=None),
        Kept(refresh=None),
        scope="ignored",
        asks={"scope": None},
    ),
    "strava": Login(
        "strava",
        code_post("https://www.strava.com/oauth/token"),
        first(expires_at=1767247200, expires_in=21600, athlete={"id": 7, "firstname": "Ann"}),
        Kept(
            lasts=21600,
            scope="activity:read read",
            extra={"expires_at": 1767247200, "athlete": {"id": 7, "firstname": "Ann"}},
        ),
        refresh_post("https://www.strava.com/oauth/token"),
        second(expires_at=1767268801, expires_in=21600),
        Kept(
            A2,
            R2,
            21600,
            scope="activity:read read",
            extra={"expires_at": 1767268801, "athlete": {"id": 7, "firstname": "Ann"}},
        ),
        Want("https://www.strava.com/oauth/deauthorize", {"access_token": A2}),
        Answer({"access_token": A2}),
        scope="read activity:read activity:write",
        asks={"scope": "activity:read,activity:write,read", "approval_prompt": "auto"},
        callback={"scope": "read,activity:read"},
    ),
    "fitbit": Login(
        "fitbit",
        code("https://api.fitbit.com/oauth2/token"),
        first(expires_in=28800, scope="profile", user_id="26FWFL"),
        Kept(lasts=28800, scope="profile", extra={"user_id": "26FWFL"}),
        refresh("https://api.fitbit.com/oauth2/token"),
        second(expires_in=28800, scope="profile", user_id="26FWFL"),
        Kept(A2, R2, 28800, scope="profile", extra={"user_id": "26FWFL"}),
        revoke("https://api.fitbit.com/oauth2/revoke", R2),
        scope="profile sleep",
    ),
    "linear": Login(
        "linear",
        code_post("https://api.linear.app/oauth/token"),
        first(expires_in=86399, scope=["read", "write"]),
        Kept(lasts=86399, scope="read write"),
        refresh_post("https://api.linear.app/oauth/token"),
        second(expires_in=86399, scope="read,issues:create"),
        Kept(A2, R2, 86399, scope="issues:create read"),
        revoke_post("https://api.linear.app/oauth/revoke", R2),
        scope="read write",
        asks={"scope": "read,write"},
    ),
    "figma": Login(
        "figma",
        code("https://api.figma.com/v1/oauth/token"),
        first(expires_in=7776000, user_id=12, user_id_string="12", token_type="bearer"),
        Kept(lasts=7776000, extra={"user_id": 12, "user_id_string": "12"}),
        Want("https://api.figma.com/v1/oauth/refresh", {"refresh_token": R1}, BASIC),
        alone(A2, expires_in=7776000, token_type="bearer"),
        Kept(A2, R1, 7776000, extra={"user_id": 12, "user_id_string": "12"}),
    ),
    "airtable": Login(
        "airtable",
        code("https://airtable.com/oauth2/v1/token"),
        first(expires_in=3600, refresh_expires_in=5184000, scope="data.records:read"),
        Kept(lasts=3600, refresh_lasts=60 * DAY, scope="data.records:read"),
        refresh("https://airtable.com/oauth2/v1/token"),
        second(expires_in=3600, refresh_expires_in=5184000, scope="data.records:read"),
        Kept(A2, R2, 3600, 60 * DAY, "data.records:read"),
    ),
    "digitalocean": Login(
        "digitalocean",
        code_post("https://cloud.digitalocean.com/v1/oauth/token"),
        first(expires_in=2592000, scope="read write", info={"name": "Ann", "uuid": "u1"}),
        Kept(lasts=2592000, scope="read write", extra={"info": {"name": "Ann", "uuid": "u1"}}),
        refresh_post("https://cloud.digitalocean.com/v1/oauth/refresh"),
        second(expires_in=2592000, info={"name": "Ann", "uuid": "u1"}),
        Kept(A2, R2, 2592000, scope="read write", extra={"info": {"name": "Ann", "uuid": "u1"}}),
        Want("https://cloud.digitalocean.com/v1/oauth/revoke", {"token": A2}, f"Bearer {A2}"),
        Answer({}),
    ),
    "heroku": Login(
        "heroku",
        code_post("https://id.heroku.com/oauth/token"),
        first(expires_in=28799, user_id="u1", session_nonce="s1"),
        Kept(lasts=28799, extra={"user_id": "u1", "session_nonce": "s1"}),
        refresh_post("https://id.heroku.com/oauth/token"),
        alone(A2, refresh_token=R1, expires_in=28799, session_nonce=None),
        Kept(A2, R1, 28799, extra={"user_id": "u1", "session_nonce": None}),
    ),
    "apple": Login(
        "apple",
        code_post("https://appleid.apple.com/auth/token"),
        first(expires_in=3600),
        Kept(lasts=3600, extra={"user": '{"name": {"firstName": "Ann"}}'}),
        refresh_post("https://appleid.apple.com/auth/token"),
        alone(A2, expires_in=3600),
        Kept(A2, R1, 3600, extra={"user": '{"name": {"firstName": "Ann"}}'}),
        revoke_post("https://appleid.apple.com/auth/revoke", R1),
        callback={"user": '{"name": {"firstName": "Ann"}}'},
        asks={"response_mode": "form_post"},
    ),
    "yahoo": Login(
        "yahoo",
        code("https://api.login.yahoo.com/oauth2/get_token"),
        first(expires_in="3600", xoauth_yahoo_guid="GUID1", token_type="bearer"),
        Kept(lasts=3600, extra={"xoauth_yahoo_guid": "GUID1"}),
        refresh("https://api.login.yahoo.com/oauth2/get_token"),
        alone(A2, refresh_token=R1, expires_in="3600", token_type="bearer"),
        Kept(A2, R1, 3600, extra={"xoauth_yahoo_guid": "GUID1"}),
    ),
    "tiktok": Login(
        "tiktok",
        Want(
            "https://open.tiktokapis.com/v2/oauth/token/",
            {
                "grant_type": "authorization_code",
                "code": CODE,
                "redirect_uri": REDIRECT_URI,
                "code_verifier": ANY,
                "client_key": CLIENT_ID,
                "client_secret": CLIENT_SECRET,
            },
        ),
        first(
            expires_in=86400, refresh_expires_in=31536000, open_id="o1", scope="user.info.basic,video.list"
        ),
        Kept(
            lasts=86400,
            refresh_lasts=31536000,
            scope="user.info.basic video.list",
            extra={"open_id": "o1"},
        ),
        Want(
            "https://open.tiktokapis.com/v2/oauth/token/",
            {
                "grant_type": "refresh_token",
                "refresh_token": R1,
                "client_key": CLIENT_ID,
                "client_secret": CLIENT_SECRET,
            },
        ),
        second(expires_in=86400, refresh_expires_in=31530000, open_id="o1", scope="user.info.basic"),
        Kept(A2, R2, 86400, 31530000, "user.info.basic", {"open_id": "o1"}),
        Want(
            "https://open.tiktokapis.com/v2/oauth/revoke/",
            {
                "token": A2,
                "token_type_hint": "access_token",
                "client_key": CLIENT_ID,
                "client_secret": CLIENT_SECRET,
            },
        ),
        scope="user.info.basic video.list",
        asks={"client_key": CLIENT_ID, "client_id": None, "scope": "user.info.basic,video.list"},
    ),
    "servicenow": Login(
        "servicenow",
        code_post("https://acme.service-now.com/oauth_token.do"),
        first(expires_in=1799, scope="useraccount"),
        Kept(lasts=1799, refresh_lasts=100 * DAY, scope="useraccount"),
        refresh_post("https://acme.service-now.com/oauth_token.do"),
        alone(A1, refresh_token=R1, expires_in=600, scope="useraccount"),
        Kept(A1, R1, 600, 100 * DAY, "useraccount"),
        revoke_post("https://acme.service-now.com/oauth_revoke_token.do", R1),
        variables={"instance": "acme"},
    ),
    "snowflake": Login(
        "snowflake",
        code("https://acme-prod.snowflakecomputing.com/oauth/token-request"),
        first(expires_in=600, username="ann", idpInitiated=False, scope="refresh_token"),
        Kept(
            lasts=600,
            refresh_lasts=90 * DAY,
            scope="refresh_token",
            extra={"username": "ann", "idpInitiated": False},
        ),
        refresh("https://acme-prod.snowflakecomputing.com/oauth/token-request"),
        alone(A2, expires_in=600),
        Kept(A2, R1, 600, 90 * DAY, "refresh_token", {"username": "ann", "idpInitiated": False}),
        variables={"account_url": "acme-prod.snowflakecomputing.com"},
    ),
    "zoho": Login(
        "zoho",
        code_post(ZOHO),
        first(expires_in=3600, api_domain="https://www.zohoapis.eu"),
        Kept(
            lasts=3600,
            extra={
                "api_domain": "https://www.zohoapis.eu",
                "location": "eu",
                "accounts-server": "https://accounts.zoho.eu",
            },
        ),
        refresh_post(ZOHO),
        alone(A2, expires_in=3600, api_domain="https://www.zohoapis.eu"),
        Kept(
            A2,
            R1,
            3600,
            extra={
                "api_domain": "https://www.zohoapis.eu",
                "location": "eu",
                "accounts-server": "https://accounts.zoho.eu",
            },
        ),
        revoke_post(f"{ZOHO}/revoke", R1),
        Answer({"status": "success"}),
        scope="ZohoCRM.users.READ ZohoCRM.modules.READ",
        asks={
            "scope": "ZohoCRM.modules.READ,ZohoCRM.users.READ",
            "access_type": "offline",
            "prompt": "consent",
        },
        callback={"location": "eu", "accounts-server": "https://accounts.zoho.eu"},
    ),
    "pipedrive": Login(
        "pipedrive",
        code("https://oauth.pipedrive.com/oauth/token", pkce=False),
        first(expires_in=3599, scope="base,deals:read", api_domain="https://acme.pipedrive.com"),
        Kept(lasts=3599, scope="base deals:read", extra={"api_domain": "https://acme.pipedrive.com"}),
        refresh("https://oauth.pipedrive.com/oauth/token"),
        alone(A2, refresh_token=R1, expires_in=3599, api_domain="https://acme.pipedrive.com"),
        Kept(A2, R1, 3599, scope="base deals:read", extra={"api_domain": "https://acme.pipedrive.com"}),
    ),
    "calendly": Login(
        "calendly",
        code_post("https://auth.calendly.com/oauth/token"),
        first(expires_in=7200, owner="https://api.calendly.com/users/U", organization="https://o.example"),
        Kept(
            lasts=7200,
            extra={"owner": "https://api.calendly.com/users/U", "organization": "https://o.example"},
        ),
        refresh_post("https://auth.calendly.com/oauth/token"),
        second(expires_in=7200),
        Kept(
            A2,
            R2,
            7200,
            extra={"owner": "https://api.calendly.com/users/U", "organization": "https://o.example"},
        ),
        revoke_post("https://auth.calendly.com/oauth/revoke", R2),
        Answer({}),
    ),
    "miro": Login(
        "miro",
        code_post("https://api.miro.com/v1/oauth/token"),
        first(expires_in=3599, team_id="1", user_id="2", scope="boards:read"),
        Kept(lasts=3599, refresh_lasts=60 * DAY, scope="boards:read", extra={"team_id": "1", "user_id": "2"}),
        refresh_post("https://api.miro.com/v1/oauth/token"),
        second(expires_in=3599, team_id="1", user_id="2"),
        Kept(A2, R2, 3599, 60 * DAY, "boards:read", {"team_id": "1", "user_id": "2"}),
        Want(
            "https://api.miro.com/v2/oauth/revoke",
            {"accessToken": A2, "clientId": CLIENT_ID, "clientSecret": CLIENT_SECRET},
            place="json",
        ),
        Answer(status=204),
    ),
    "miro_without_expiry": Login(
        "miro",
        code_post("https://api.miro.com/v1/oauth/token"),
        alone(team_id="1", user_id="2", scope="boards:read"),
        Kept(refresh=None, scope="boards:read", extra={"team_id": "1", "user_id": "2"}),
    ),
    "ebay": Login(
        "ebay",
        code("https://api.ebay.com/identity/v1/oauth2/token"),
        first(expires_in=7200, refresh_token_expires_in=47304000, token_type="User Access Token"),
        Kept(lasts=7200, refresh_lasts=47304000, token_type="Bearer"),
        refresh("https://api.ebay.com/identity/v1/oauth2/token"),
        alone(A2, expires_in=7200, token_type="User Access Token"),
        Kept(A2, R1, 7200, 47304000, token_type="Bearer"),
    ),
    "withings": Login(
        "withings",
        code_post("https://wbsapi.withings.net/v2/oauth2", {"action": "requesttoken"}),
        {"status": 0, "body": first(userid="363", expires_in=10800, scope="user.info,user.metrics")},
        Kept(
            lasts=10800,
            refresh_lasts=365 * DAY,
            scope="user.info user.metrics",
            extra={"status": 0, "userid": "363"},
        ),
        refresh_post("https://wbsapi.withings.net/v2/oauth2", {"action": "requesttoken"}),
        {"status": 0, "body": second(userid="363", expires_in=10800, scope="user.info")},
        Kept(A2, R2, 10800, 365 * DAY, "user.info", {"status": 0, "userid": "363"}),
        scope="user.info user.metrics",
        asks={"scope": "user.info,user.metrics"},
    ),
    "todoist": Login(
        "todoist",
        code_post("https://api.todoist.com/oauth/access_token"),
        first(expires_in=3600),
        Kept(lasts=3600),
        refresh_post("https://api.todoist.com/oauth/access_token"),
        second(expires_in=3600),
        Kept(A2, R2, 3600),
        revoke("https://api.todoist.com/api/v1/revoke", A2, "access_token"),
        scope="data:read task:add",
        asks={"scope": "data:read,task:add"},
    ),
    "todoist_without_expiry": Login(
        "todoist",
        code_post("https://api.todoist.com/oauth/access_token"),
        alone(),
        Kept(refresh=None),
    ),
    "webex": Login(
        "webex",
        code_post("https://webexapis.com/v1/access_token"),
        first(expires_in=1209599, refresh_token_expires_in=7775999),
        Kept(lasts=1209599, refresh_lasts=7775999),
        refresh_post("https://webexapis.com/v1/access_token"),
        alone(A2, refresh_token=R1, expires_in=1209599, refresh_token_expires_in=7000000),
        Kept(A2, R1, 1209599, 7000000),
    ),
    "pinterest": Login(
        "pinterest",
        code("https://api.pinterest.com/v5/oauth/token"),
        first(expires_in=2592000, refresh_token_expires_in=5184000, response_type="authorization_code"),
        Kept(lasts=2592000, refresh_lasts=60 * DAY, extra={"response_type": "authorization_code"}),
        refresh("https://api.pinterest.com/v5/oauth/token"),
        second(expires_in=2592000, refresh_token_expires_in=5184000, response_type="refresh_token"),
        Kept(A2, R2, 2592000, 60 * DAY, extra={"response_type": "refresh_token"}),
        scope="boards:read pins:read",
        asks={"scope": "boards:read,pins:read"},
    ),
    "clickup": Login(
        "clickup",
        code_post("https://api.clickup.com/api/v2/oauth/token"),
        {"access_token": A1},
        Kept(refresh=None, token_type="Bearer"),
        scope="ignored",
        asks={"scope": None},
    ),
}


def said(body: Any, status: int = 400, **headers: str) -> Answer:
    """Give an answer that says no."""
    return Answer(body, status, headers=headers or {})


def page(status: int) -> Answer:
    """Give a page for people."""
    return Answer("<html><body>Oops</body></html>", status, "text/html")


def graph(number: int) -> dict[str, Any]:
    """Give an error of Meta's Graph API."""
    return {"error": {"message": "Words.", "type": "OAuthException", "code": number, "fbtrace_id": "F1"}}


def twitch(status: int, message: str) -> Answer:
    """Give an error of Twitch."""
    return said({"status": status, "message": message}, status)


def strava(resource: str, member: str, status: int) -> Answer:
    """Give an error of Strava."""
    error = {"resource": resource, "field": member, "code": "invalid"}
    return said({"message": "Bad Request", "errors": [error]}, status)


def fitbit(kind: str, status: int = 400) -> Answer:
    """Give an error of Fitbit."""
    return said({"success": False, "errors": [{"errorType": kind, "message": "Words."}]}, status)


def entra(error: str, number: int) -> Answer:
    """Give an error of Microsoft Entra."""
    return said(
        {
            "error": error,
            "error_description": f"AADSTS{number}: Words. Trace ID: t1",
            "error_codes": [number],
            "timestamp": "2026-01-01 00:00:00Z",
            "trace_id": "t1",
            "correlation_id": "c1",
        }
    )


def not_ok(error: str) -> Answer:
    """Give an error of Slack."""
    return said({"ok": False, "error": error}, 200)


NOT_ACTIVE = "requires an active refresh_token"
NOT_VALID = "authorization grant or refresh token is invalid, expired or revoked"
UNKNOWN_TOKEN = "Unknown or invalid refresh token."
CHALLENGE = {"WWW-Authenticate": 'Basic realm="reddit"'}
REFUSALS = [
    Refusal("google", "renewal", said({"error": "invalid_grant"}), InvalidGrantError, dead=True),
    Refusal("microsoft_entra", "renewal", entra("invalid_grant", 70008), InvalidGrantError, dead=True),
    Refusal("microsoft_entra", "renewal", entra("interaction_required", 50076), AuthorizationError),
    Refusal("microsoft_entra", "renewal", entra("invalid_client", 7000215), InvalidClientError),
    Refusal("microsoft_entra", "code", entra("invalid_request", 9002327), ConfigError),
    Refusal("github_app", "code", said({"error": "bad_verification_code"}, 200), InvalidGrantError),
    Refusal("github_app", "renewal", said({"error": "bad_refresh_token"}, 200), InvalidGrantError, dead=True),
    Refusal("github_app", "renewal", said({"error": "bad_refresh_token"}), InvalidGrantError, dead=True),
    Refusal(
        "github_app", "renewal", said({"error": "incorrect_client_credentials"}, 200), InvalidClientError
    ),
    Refusal(
        "github_app",
        "code",
        Answer("error=bad_verification_code", content_type="application/x-www-form-urlencoded"),
        InvalidGrantError,
    ),
    Refusal("slack", "code", not_ok("invalid_code"), InvalidGrantError),
    Refusal("slack", "renewal", not_ok("invalid_refresh_token"), InvalidGrantError, dead=True),
    Refusal("slack", "renewal", not_ok("bad_client_secret"), InvalidClientError),
    Refusal("slack", "renewal", not_ok("ratelimited"), TransientError),
    Refusal("slack", "revocation", not_ok("internal_error"), TransientError),
    Refusal("slack_user", "renewal", not_ok("invalid_refresh_token"), InvalidGrantError, dead=True),
    Refusal("facebook", "renewal", said(graph(190)), InvalidGrantError, dead=True),
    *(Refusal("facebook", "renewal", said(graph(number)), TransientError) for number in (2, 4, 17)),
    Refusal("facebook", "renewal", said(graph(1)), ConfigError),
    Refusal("facebook", "renewal", said(graph(101)), InvalidClientError),
    Refusal("facebook", "code", said(graph(100)), ConfigError),
    Refusal(
        "instagram",
        "code",
        said({"error_type": "OAuthException", "code": 400, "error_message": "Words."}),
        ConfigError,
    ),
    Refusal("instagram", "renewal", said(graph(190)), InvalidGrantError, dead=True),
    Refusal("instagram", "renewal", said(graph(2)), TransientError),
    Refusal("instagram", "renewal", said(graph(4)), TransientError),
    Refusal("okta", "renewal", said({"error": "invalid_grant"}), InvalidGrantError, dead=True),
    Refusal("auth0", "renewal", said({"error": "invalid_grant"}, 403), InvalidGrantError, dead=True),
    Refusal(
        "zoom",
        "renewal",
        said({"reason": "Invalid Token!", "error": "invalid_request"}),
        InvalidGrantError,
        dead=True,
    ),
    Refusal("atlassian", "renewal", said({"error": "invalid_grant"}, 403), InvalidGrantError, dead=True),
    Refusal(
        "atlassian",
        "renewal",
        said({"error": "unauthorized_client", "error_description": UNKNOWN_TOKEN}, 403),
        InvalidGrantError,
        dead=True,
    ),
    Refusal(
        "atlassian",
        "renewal",
        said({"error": "unauthorized_client", "error_description": "refresh_token is invalid"}, 403),
        InvalidGrantError,
        dead=True,
    ),
    Refusal("atlassian", "renewal", said({"error": "unauthorized_client"}, 403), InvalidClientError),
    Refusal(
        "shopify",
        "renewal",
        said({"error": "invalid_request", "error_description": f"This request {NOT_ACTIVE}"}, 401),
        InvalidGrantError,
        dead=True,
    ),
    Refusal(
        "linkedin",
        "renewal",
        said({"error": "invalid_request", "error_description": f"The provided {NOT_VALID}"}),
        InvalidGrantError,
        dead=True,
    ),
    Refusal("basecamp", "renewal", said({"error": "authorization_expired"}), InvalidGrantError, dead=True),
    Refusal("twitch", "renewal", twitch(400, "Invalid refresh token"), InvalidGrantError, dead=True),
    Refusal("twitch", "renewal", twitch(403, "invalid client secret"), InvalidClientError),
    Refusal(
        "twitch",
        "renewal",
        said({"error": "Bad Request", "status": 400, "message": "Invalid refresh token"}),
        InvalidGrantError,
        dead=True,
    ),
    Refusal("reddit", "code", said({"error": "invalid_grant"}, 200), InvalidGrantError),
    Refusal("reddit", "renewal", said({"error": "invalid_grant"}), InvalidGrantError, dead=True),
    Refusal("reddit", "renewal", said({"error": "invalid_request"}), InvalidGrantError, dead=True),
    Refusal("reddit", "renewal", said("Unauthorized", 401, **CHALLENGE), InvalidClientError),
    Refusal(
        "reddit",
        "renewal",
        said({"message": "Unauthorized", "error": 401}, 401, **CHALLENGE),
        InvalidClientError,
    ),
    Refusal("reddit", "renewal", page(429), TransientError),
    Refusal(
        "x",
        "renewal",
        said({"error": "invalid_request", "error_description": "Value passed for the token was invalid."}),
        InvalidGrantError,
        dead=True,
    ),
    Refusal(
        "x",
        "renewal",
        said({"error": "invalid_request", "error_description": "Missing required parameter."}),
        ConfigError,
    ),
    Refusal(
        "servicenow",
        "renewal",
        said({"error": "server_error", "error_description": "access_denied"}, 401),
        InvalidClientError,
    ),
    Refusal("servicenow", "renewal", said({"error": "server_error"}, 500), TransientError),
    Refusal("notion", "code", said({"error": "invalid_grant"}), InvalidGrantError),
    Refusal("notion", "renewal", said({"error": "invalid_grant"}), InvalidGrantError, dead=True),
    Refusal(
        "notion",
        "renewal",
        said({"object": "error", "status": 400, "code": "validation_error", "message": "Words."}),
        ConfigError,
    ),
    Refusal(
        "notion",
        "renewal",
        said({"object": "error", "status": 429, "code": "rate_limited", "message": "Words."}, 429),
        TransientError,
    ),
    Refusal(
        "hubspot",
        "renewal",
        said({"status": "BAD_REFRESH_TOKEN", "message": "Words."}),
        InvalidGrantError,
        dead=True,
    ),
    Refusal("shopify", "code", page(400), TransientError),
    Refusal("shopify", "renewal", page(400), TransientError),
    Refusal(
        "shopify",
        "renewal",
        said({"error": "invalid_grant", "error_description": "Words."}),
        InvalidGrantError,
        dead=True,
    ),
    Refusal("stripe_connect", "renewal", said({"error": "invalid_grant"}), InvalidGrantError, dead=True),
    Refusal("stripe_connect", "revocation", said({"error": "invalid_client"}, 401), InvalidClientError),
    Refusal(
        "square",
        "renewal",
        said({"errors": [{"category": "AUTHENTICATION_ERROR", "code": "UNAUTHORIZED"}]}, 401),
        InvalidClientError,
    ),
    Refusal(
        "square",
        "renewal",
        said({"message": "Words.", "type": "service.not_authorized"}, 401),
        InvalidClientError,
    ),
    Refusal(
        "square",
        "renewal",
        said({"errors": [{"category": "API_ERROR", "code": "INTERNAL_SERVER_ERROR"}]}, 500),
        TransientError,
    ),
    Refusal("strava", "renewal", strava("RefreshToken", "refresh_token", 400), InvalidGrantError, dead=True),
    Refusal("strava", "renewal", strava("Application", "client_id", 401), InvalidClientError),
    Refusal("fitbit", "renewal", fitbit("invalid_grant"), InvalidGrantError, dead=True),
    Refusal("fitbit", "renewal", fitbit("invalid_client", 401), InvalidClientError),
    Refusal("airtable", "renewal", said({"error": "invalid_grant"}), InvalidGrantError, dead=True),
    Refusal("snowflake", "renewal", said({"error": "invalid_grant"}), InvalidGrantError, dead=True),
    Refusal(
        "tiktok",
        "renewal",
        said({"error": "invalid_grant", "error_description": "Words.", "log_id": "2026"}, 200),
        InvalidGrantError,
        dead=True,
    ),
    Refusal("zoho", "code", said({"error": "invalid_code"}, 200), InvalidGrantError),
    Refusal("zoho", "renewal", said({"error": "invalid_code"}, 200), InvalidGrantError, dead=True),
    Refusal(
        "withings",
        "renewal",
        said({"status": 503, "body": {}, "error": "Invalid Params: invalid refresh_token"}, 200),
        InvalidGrantError,
        dead=True,
    ),
    Refusal("withings", "renewal", said({"status": 601, "body": {}}, 200), TransientError),
    Refusal("todoist", "code", said({"error": "bad_authorization_code"}), InvalidGrantError),
    Refusal("todoist", "renewal", said({"error": "incorrect_application_credentials"}), InvalidClientError),
]
DENIALS = {
    "linkedin at login": ("linkedin", "user_cancelled_login"),
    "linkedin at consent": ("linkedin", "user_cancelled_authorize"),
    "pipedrive": ("pipedrive", "user_denied"),
    "google": ("google", "access_denied"),
}
