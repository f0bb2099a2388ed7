"""Presets say what is known: nothing but what ``facts.json`` has, or a source that is named here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.presets.test_catalogue import FILE

# What was found out about these providers before there were presets; what is not there was not found out.
FACTS: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("facts.json").read_text("utf-8"))
SAID_BY = {
    ("calendly", "default_expires_in"): "developer.calendly.com, How to access Calendly data: 2 hours",
    ("calendly", "rotation"): "developer.calendly.com, Refresh token rotation guide",
    ("digitalocean", "default_expires_in"): "docs.digitalocean.com, OAuth API, token: in its answer",
    ("digitalocean", "rotation"): "docs.digitalocean.com, OAuth API, refresh: each token serves once",
    ("discord", "client_auth_also"): "discord.com/.well-known/oauth-authorization-server",
    ("dropbox", "revocation_endpoint"): "www.dropbox.com/developers/documentation/http, auth/token/revoke",
    ("facebook", "grants"): "developers.facebook.com, Get long-lived tokens: they are exchanged for others",
    ("facebook", "revocation_endpoint"): "developers.facebook.com, Graph API reference, user/permissions",
    ("github", "revocation_endpoint"): "docs.github.com, REST API, Delete an app token",
    ("hubspot", "grants"): "developers.hubspot.com, Manage OAuth access tokens: client_credentials",
    ("hubspot", "pkce"): "developers.hubspot.com, OAuth token endpoint: code_verifier",
    ("instagram", "grants"): "developers.facebook.com, refresh_access_token: the token renews itself",
    ("linear", "client_auth_also"): "docs.rs, loopflow: a client with PKCE renews with its id alone",
    ("linear", "default_expires_in"): "docs.unified.to, linear-oauth-app: 24 hours",
    (
        "linear",
        "reuse_grace",
    ): "a table of providers in a public repository, after its documentation: 30 minutes",
    ("miro", "revocation_endpoint"): "github.com/miroapp/api-clients, RevokeTokenRequest",
    ("pinterest", "default_expires_in"): "several public repositories, after its guide: 30 days",
    ("pinterest", "default_refresh_expires_in"): "several public repositories, after its guide: 60 days",
    ("pinterest", "grants"): "developers.pinterest.com, Set up authentication: client credentials",
    ("pinterest", "rotation"): "several public repositories, after its guide: a new one each time",
    ("pipedrive", "revocation_endpoint"): "pipedrive.readme.io, Handling user app uninstallation",
    ("reddit", "client_auth_also"): "github.com/reddit-archive, wiki, OAuth2: installed apps have no secret",
    ("shopify", "default_refresh_expires_in"): "shopify.dev, changelog, More resilient refreshes",
    ("shopify", "reuse_grace"): "shopify.dev, changelog, More resilient refreshes: 60 minutes, by now more",
    ("slack", "pkce"): "docs.slack.dev, Using PKCE: for apps that have turned it on only",
    ("slack", "revocation_endpoint"): "docs.slack.dev, method auth.revoke",
    ("strava", "revocation_endpoint"): "developers.strava.com, Authentication, Deauthorization",
    (
        "stripe_connect",
        "pkce",
    ): "docs.stripe.com, Connect OAuth reference: none; changelog 2011-06-21: refused",
    ("stripe_connect", "revocation_endpoint"): "docs.stripe.com, Connect OAuth reference, oauth/deauthorize",
    ("todoist", "authorization_endpoint"): "developer.todoist.com, Todoist API, Authorization",
    ("todoist", "client_auth_also"): "Todoist SDK for TypeScript, refreshAuthToken: public clients",
    ("todoist", "grants"): "Todoist SDK for TypeScript, refreshAuthToken",
    ("todoist", "revocation_endpoint"): "developer.todoist.com, Todoist API, Revoke Token RFC7009 compliant",
    ("todoist", "rotation"): "Todoist SDK for TypeScript, refreshAuthToken: rotates",
    ("todoist", "token_endpoint"): "developer.todoist.com, Todoist API, Authorization",
    ("withings", "default_expires_in"): "developer.withings.com, Access and refresh tokens: 3 hours",
    ("withings", "default_refresh_expires_in"): "developer.withings.com, Access and refresh tokens: 1 year",
    ("withings", "reuse_grace"): "developer.withings.com, Access and refresh tokens: 8 hours",
    ("withings", "rotation"): "developer.withings.com, Access and refresh tokens: a new one each time",
    ("yahoo", "introspection_endpoint"): "api.login.yahoo.com/.well-known/openid-configuration",
    ("yahoo", "revocation_endpoint"): "api.login.yahoo.com/.well-known/openid-configuration",
    ("zendesk", "revocation_endpoint"): "developer.zendesk.com, OAuth Tokens, Revoke Token",
    ("zoom", "client_auth_also"): "developers.zoom.us, Using PKCE: a public client id, no secret",
}
# Known, and left out with care: to say it of every token would be wrong.
LEFT_OUT = {
    ("github", "default_expires_in"): "tokens of OAuth apps do not expire, and say nothing of it",
    ("instagram", "default_expires_in"): "the first token lives for an hour; the strategy says so",
    ("microsoft_entra", "issuer"): "it holds the tenant's id, whatever the tenant is called in the URL",
    ("miro", "default_expires_in"): "those of applications made without expiry do not expire",
    ("shopify", "default_expires_in"): "offline tokens of old do not expire",
    ("slack", "default_expires_in"): "without rotation they do not expire",
    ("square", "default_expires_in"): "answers say it, as an instant",
    ("webex", "issuer"): "it depends on the caller's region",
}
PLAIN = {"pkce": "unknown", "rotation": "unknown", "scope_delimiter": " "}
SETS = {"grants", "client_auth_also"}


def said(entry: dict[str, Any], field: str) -> Any:
    """Give what a preset or the facts say, None where they say nothing."""
    value = entry.get(field, PLAIN.get(field))
    return frozenset(value or ()) if field in SETS else value


def differences() -> Iterator[tuple[str, str]]:
    """Give the provider and the field of all that presets do not say as the facts do."""
    fields = sorted({field for fact in FACTS.values() for field in fact} | PLAIN.keys())
    for name in sorted(FACTS.keys() & FILE.keys()):
        yield from ((name, field) for field in fields if said(FACTS[name], field) != said(FILE[name], field))


def test_what_differs_from_the_facts_is_listed_with_its_source() -> None:
    """A value without one is a guess, and a guess about rotation or PKCE costs grants and logins."""
    assert set(differences()) == SAID_BY.keys() | LEFT_OUT.keys()


@pytest.mark.parametrize(("name", "field"), sorted(LEFT_OUT))
def test_what_is_left_out_is_not_said_otherwise(name: str, field: str) -> None:
    """Left out means open, not another value."""
    assert field in FACTS[name]
    assert FILE[name].get(field) is None


def test_all_providers_of_the_facts_are_there() -> None:
    """But for one, of which too little is known; what is more are second faces of the same providers."""
    assert FACTS.keys() - FILE.keys() == {"wechat"}
    assert FILE.keys() - FACTS.keys() == {"okta_org", "slack_user", "stripe_apps", "zoom_server"}
