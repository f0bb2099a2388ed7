"""Descriptions of providers that people use, read from ``presets.toml`` beside this file.

.. code-block:: python

    from oauth2broker.provider import presets

    descriptor = presets.get("okta", domain="acme.okta.com")
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from importlib import import_module, resources
from typing import Any, Literal, get_args

from oauth2broker.errors import ConfigError
from oauth2broker.provider.descriptor import ProviderDescriptor
from oauth2broker.provider.quirks import ExpiryRule, ProviderQuirks
from oauth2broker.provider.strategy import ProviderStrategy
from oauth2broker.provider.template import ProviderTemplate, VariableKind

PresetName = Literal[
    "airtable",
    "amazon",
    "apple",
    "asana",
    "atlassian",
    "auth0",
    "aws_cognito",
    "basecamp",
    "bitbucket",
    "box",
    "calendly",
    "clickup",
    "digitalocean",
    "discord",
    "docusign",
    "dropbox",
    "ebay",
    "facebook",
    "figma",
    "fitbit",
    "github",
    "gitlab",
    "google",
    "heroku",
    "hubspot",
    "instagram",
    "intercom",
    "keycloak",
    "linear",
    "linkedin",
    "mailchimp",
    "microsoft_entra",
    "miro",
    "monday",
    "notion",
    "okta",
    "okta_org",
    "patreon",
    "paypal",
    "pinterest",
    "pipedrive",
    "quickbooks",
    "reddit",
    "salesforce",
    "servicenow",
    "shopify",
    "slack",
    "slack_user",
    "snowflake",
    "spotify",
    "square",
    "strava",
    "stripe_apps",
    "stripe_connect",
    "tiktok",
    "todoist",
    "twitch",
    "webex",
    "withings",
    "x",
    "xero",
    "yahoo",
    "zendesk",
    "zoho",
    "zoom",
    "zoom_server",
]
_NAMES: tuple[PresetName, ...] = get_args(PresetName)
_ABOUT = frozenset(
    {"name", "docs", "confidence", "notes", "variables", "defaults", "environments", "quirks", "strategy"}
)
_DURATIONS = frozenset({"reuse_grace", "default_expires_in", "default_refresh_expires_in"})


@dataclass(frozen=True, slots=True)
class Preset:
    """What is known about one provider.

    ``confidence`` is how well: ``high`` or ``medium``. ``docs`` is the provider's own documentation.
    ``notes`` are what a user should know that no field says. ``environments`` are the names of others than
    production.
    """

    id: PresetName
    name: str
    docs: str
    confidence: str
    notes: tuple[str, ...]
    environments: tuple[str, ...]
    template: ProviderTemplate

    @property
    def variables(self) -> Mapping[str, VariableKind]:
        """The values that it needs, but for those in ``defaults``."""
        return self.template.variables

    @property
    def defaults(self) -> Mapping[str, str]:
        """The values that stand for a variable that is not given."""
        return self.template.defaults


def names() -> tuple[PresetName, ...]:
    """Give the names of all presets, sorted."""
    return _NAMES


def get(name: PresetName, /, *, environment: str | None = None, **variables: str) -> ProviderDescriptor:
    """Describe a provider by name, such as ``get("okta", domain="acme.okta.com")``.

    ``environment`` is another than production, such as ``sandbox``; it joins the descriptor's id, as
    variables that name a place do. What your registration needs otherwise, change with
    :func:`dataclasses.replace`. Raises :class:`ConfigError` for a name, an environment or a value that
    does not fit.
    """
    return about(name, environment=environment).template.descriptor(**variables)


def about(name: PresetName, *, environment: str | None = None) -> Preset:
    """Give what is known about a provider, with its variables. Raises :class:`ConfigError`."""
    if name not in _NAMES:
        close = difflib.get_close_matches(str(name).lower(), _NAMES, n=3)
        hint = f"; is it {' or '.join(close)}?" if close else "; presets.names() lists them"
        raise ConfigError(f"there is no preset {name!r:.80}{hint}")
    environments = _entries()[name].get("environments", {})
    if environment is not None and environment not in tuple(environments):
        known = ", ".join(environments) or "none but production"
        raise ConfigError(f"preset {name} has no environment {environment!r:.80}; it has {known}")
    return _preset(name, environment)


@cache
def _preset(name: PresetName, environment: str | None) -> Preset:
    entry = _entries()[name]
    environments = entry.get("environments", {})
    merged = {**entry, **environments.get(environment, {})}
    template = ProviderTemplate(
        name if environment is None else f"{name}-{environment}",
        variables=merged.get("variables", {}),
        defaults=merged.get("defaults"),
        quirks=_quirks(merged.get("quirks", {})),
        strategy=_strategy(merged.get("strategy")),
        **_fields(merged),
    )
    return Preset(
        name,
        entry["name"],
        entry["docs"],
        entry["confidence"],
        tuple(entry.get("notes", ())),
        tuple(environments),
        template,
    )


@cache
def _entries() -> dict[str, dict[str, Any]]:
    return tomllib.loads(resources.files(__package__).joinpath("presets.toml").read_text("utf-8"))


def _fields(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Give the plain arguments of a descriptor; an empty text stands for None, and seconds for a duration."""
    return {
        name: timedelta(seconds=value) if name in _DURATIONS else (None if value == "" else value)
        for name, value in entry.items()
        if name not in _ABOUT
    }


def _quirks(entry: Mapping[str, Any]) -> ProviderQuirks:
    found = dict(entry)
    if "expiry" in found:
        found["expiry"] = ExpiryRule(**found["expiry"])
    if "param_names" in found:  # TOML has no null
        found["param_names"] = {ours: theirs or None for ours, theirs in found["param_names"].items()}
    return ProviderQuirks(**found)


def _strategy(place: str | None) -> ProviderStrategy | None:
    if place is None:
        return None
    module, _, name = place.partition(":")
    found: ProviderStrategy = getattr(import_module(f"oauth2broker.provider.strategies.{module}"), name)()
    return found
