"""Every preset, in every environment: it builds, it is safe, it is itself, and the page about it is true."""

from __future__ import annotations

import importlib.util
import pickle
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any, get_args
from urllib.parse import parse_qs, urlsplit

import pytest

import oauth2broker
from oauth2broker import Broker, ConfigError, GrantType, ProviderDescriptor, ProviderStrategy
from oauth2broker.provider import presets
from oauth2broker.provider.presets import PresetName
from oauth2broker.provider.strategy import STANDARD_ERRORS

ROOT = Path(__file__).parents[2]
TEXT = resources.files("oauth2broker.provider").joinpath("presets.toml").read_text("utf-8")
FILE: dict[str, dict[str, Any]] = tomllib.loads(TEXT)
ENDPOINTS = [
    *("authorization_endpoint", "token_endpoint", "refresh_endpoint", "revocation_endpoint"),
    *("introspection_endpoint", "device_authorization_endpoint"),
]
TAKE_CREDENTIALS = ENDPOINTS[1:]


def _table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("presets_table", ROOT / "docs" / "presets_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TABLE = _table()


def sample(name: PresetName, environment: str | None = None) -> ProviderDescriptor:
    """Give a preset with some value for each variable that has no default."""
    descriptor: ProviderDescriptor = TABLE.sample(name, environment)
    return descriptor


ALL: list[tuple[PresetName, str | None]] = [
    (name, environment)
    for name in presets.names()
    for environment in (None, *presets.about(name).environments)
]


def texts(value: Any) -> Iterator[str]:
    """Give every text in a descriptor."""
    if isinstance(value, str):
        yield value
    elif hasattr(value, "__dataclass_fields__"):
        for field in value.__dataclass_fields__:
            yield from texts(getattr(value, field))
    elif hasattr(value, "items"):
        yield from (text for pair in value.items() for item in pair for text in texts(item))
    elif isinstance(value, list | tuple | set | frozenset):
        yield from (text for item in value for text in texts(item))


EVERY = pytest.mark.parametrize(("name", "environment"), ALL)
NAMED = pytest.mark.parametrize("name", presets.names())


# The list


def test_the_names_are_those_of_the_file_sorted_and_typed() -> None:
    """A type checker, an editor and the file know the same presets."""
    assert presets.names() == get_args(PresetName) == tuple(sorted(FILE)) == tuple(FILE)
    assert all(name.isidentifier() and name == name.lower() for name in FILE)


def test_there_are_as_many_well_known_providers_as_promised() -> None:
    """Four presets are second faces of a provider: they are not counted."""
    faces = {"okta_org", "slack_user", "stripe_apps", "zoom_server"}
    sure = [name for name in presets.names() if presets.about(name).confidence == "high"]
    assert len(set(sure) - faces) >= 46
    assert {presets.about(name).confidence for name in presets.names()} == {"high", "medium"}
    assert faces < set(FILE)
    assert len(FILE) - len(faces) == 62
    assert "wechat" not in FILE


def test_listing_the_names_reads_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file costs only those who ask for a preset."""
    monkeypatch.setattr(presets, "_entries", lambda: pytest.fail("the file is read"))
    assert "google" in presets.names()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gogle", "is it google"),
        ("GITHUB", "is it github"),
        ("microsoft", "is it microsoft_entra"),
        ("zzz", r"presets.names\(\) lists them"),
        ("", r"presets.names\(\) lists them"),
        ("google\n", "is it google"),
        (None, "no preset None"),
        (["google"], "no preset"),
        ("x" * 10_000, "no preset 'xxx"),
    ],
)
def test_a_name_that_there_is_not_is_told_with_what_is_close(name: Any, said: str) -> None:
    """Whatever it is, it is a ConfigError of one line."""
    for function in (presets.get, presets.about):
        with pytest.raises(ConfigError, match=said) as caught:
            function(name)
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize("environment", ["", "sandobx", "production", 5, ["sandbox"]])
def test_an_environment_that_there_is_not_is_told_with_those_there_are(environment: Any) -> None:
    """Production is what no environment means; it has no name."""
    with pytest.raises(ConfigError, match=r"square has no environment .*; it has sandbox"):
        presets.get("square", environment=environment)
    with pytest.raises(ConfigError, match=r"google has no environment .*; it has none but production"):
        presets.get("google", environment=environment)


def test_variables_are_asked_for_by_name() -> None:
    """The error says what the preset needs, or what it has."""
    with pytest.raises(ConfigError, match=r"okta needs a value for domain \(host\)"):
        presets.get("okta")
    with pytest.raises(
        ConfigError, match="okta has no variable tenant; it has domain, authorization_server_id"
    ):
        presets.get("okta", tenant="acme")
    with pytest.raises(ConfigError, match="google has no variable tenant; it has none"):
        presets.get("google", tenant="acme")


# Each of them


@EVERY
def test_every_preset_is_a_descriptor_without_holes(name: PresetName, environment: str | None) -> None:
    """All addresses are https and complete; no brace of a variable is left anywhere."""
    descriptor = sample(name, environment)
    for field in ENDPOINTS:
        url = getattr(descriptor, field)
        assert url is None or url.startswith("https://"), field
    assert descriptor.issuer is None or descriptor.issuer.startswith("https://")
    assert not [text for text in texts(descriptor) if set("{}") & set(text)]
    assert presets.about(name).docs.startswith("https://")
    assert all(note.endswith(".") for note in presets.about(name).notes)


@EVERY
def test_every_preset_survives_pickle_and_is_the_same_again(
    name: PresetName, environment: str | None
) -> None:
    """Its strategy too: descriptors go to worker processes, and equal ones are interchangeable."""
    descriptor = sample(name, environment)
    assert pickle.loads(pickle.dumps(descriptor)) == descriptor
    assert sample(name, environment) == descriptor
    assert hash(sample(name, environment)) == hash(descriptor)


@EVERY
def test_every_preset_serves_a_client_with_a_secret(name: PresetName, environment: str | None) -> None:
    """A plain secret does, the user is sent to the provider, and parameters have its names."""
    descriptor = sample(name, environment)
    secret = "s3cr3t-" * 8
    with Broker(descriptor, "the-client", secret) as broker:
        if GrantType.AUTHORIZATION_CODE not in descriptor.grants:
            return
        session = broker.start_authorization("acme", "alice", "one two", "https://app.example/callback")
    parts = urlsplit(session.authorize_url)
    query = {key: values[0] for key, values in parse_qs(parts.query).items()}
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == descriptor.authorization_endpoint
    names = descriptor.quirks.param_names
    asked = descriptor.scope_delimiter.join(["one", "two"])
    for ours, value in {"client_id": "the-client", "response_type": "code", "scope": asked}.items():
        theirs = names.get(ours, ours)
        assert query.get(theirs or ours) == (None if theirs is None else value), ours
    assert query["state"] == session.state
    assert descriptor.authorization_params.items() <= query.items()
    assert secret not in repr(broker) + repr(session) + session.authorize_url


@EVERY
def test_what_comes_by_a_callback_has_one_to_come_by(name: PresetName, environment: str | None) -> None:
    """Providers without an authorization endpoint have no callbacks, and the other way round."""
    descriptor = sample(name, environment)
    has_callbacks = GrantType.AUTHORIZATION_CODE in descriptor.grants
    assert has_callbacks == (descriptor.authorization_endpoint is not None)
    assert has_callbacks or not (descriptor.quirks.callback_members or descriptor.authorization_params)
    assert set(descriptor.grant_params) <= descriptor.grants
    if GrantType.REFRESH_TOKEN not in descriptor.grants:
        assert (descriptor.refresh_endpoint, descriptor.reuse_grace) == (None, None)


@EVERY
def test_error_codes_mean_something(name: PresetName, environment: str | None) -> None:
    """A code is mapped to one that the default strategy knows, or to what ends a revocation."""
    codes = sample(name, environment).quirks.error_codes
    assert set(codes.values()) <= {*STANDARD_ERRORS, "invalid_token"}
    assert not [code for code in codes if code in STANDARD_ERRORS]


@EVERY
def test_the_repr_shows_no_value_that_a_user_supplies_as_text(
    name: PresetName, environment: str | None
) -> None:
    """Parameters and headers may hold keys."""
    preset = presets.about(name, environment=environment)
    kinds = preset.variables.items()
    given = {key: TABLE.SAMPLES[kind] for key, kind in kinds if key not in preset.defaults}
    given |= {key: "s3cr3t" for key, kind in kinds if kind == "text"}
    descriptor = presets.get(name, environment=environment, **given)
    assert "s3cr3t" not in repr(descriptor) + repr(preset) + descriptor.id


def test_ids_tell_all_presets_and_environments_apart_and_stay() -> None:
    """An id is part of every store key: a change would orphan the tokens of all users."""
    found = {(name, environment): sample(name, environment).id for name, environment in ALL}
    assert len(set(found.values())) == len(found)
    for (name, environment), id_ in found.items():
        start = name if environment is None else f"{name}-{environment}"
        assert id_ == start or id_.startswith(f"{start}:")
    assert found["google", None] == "google"
    assert found["gitlab", None] == "gitlab"
    assert found["facebook", None] == "facebook"
    assert found["reddit", None] == "reddit"
    assert found["okta", None] == "okta:acme.example.com"
    assert found["keycloak", None] == "keycloak:acme.example.com:acme"
    assert found["square", "sandbox"] == "square-sandbox"
    assert presets.get("microsoft_entra", tenant="common").id == "microsoft_entra"
    assert presets.get("salesforce", login_host="sandbox").id != found["salesforce", "sandbox"]


@NAMED
def test_a_default_spelled_out_is_no_other_registration(name: PresetName) -> None:
    """Otherwise a more explicit configuration would lose its tokens."""
    preset = presets.about(name)
    needed = {
        key: TABLE.SAMPLES[kind] for key, kind in preset.variables.items() if key not in preset.defaults
    }
    assert preset.template.descriptor(**needed, **preset.defaults) == sample(name)


@pytest.mark.parametrize(("name", "environment"), [pair for pair in ALL if pair[1] is not None])
def test_an_environment_sends_nothing_to_production(name: PresetName, environment: str) -> None:
    """Where its tokens come from another host, no credential goes to the production host."""
    real, other = sample(name), sample(name, environment)
    assert other != real
    assert other.id != real.id
    if urlsplit(other.token_endpoint).netloc == urlsplit(real.token_endpoint).netloc:
        return
    home = {urlsplit(getattr(real, field) or "").netloc for field in TAKE_CREDENTIALS} - {""}
    for field in TAKE_CREDENTIALS:
        assert urlsplit(getattr(other, field) or "").netloc not in home, field
    assert other.issuer is None or other.issuer != real.issuer


def test_every_strategy_is_a_strategy_of_its_own() -> None:
    """Two presets share one only where they are faces of the same provider's code."""
    found = {name: sample(name).strategy for name in presets.names()}
    named = {name for name in presets.names() if "strategy" in FILE[name]}
    assert {name for name, strategy in found.items() if strategy is not None} == named
    assert all(isinstance(found[name], ProviderStrategy) for name in named)
    assert len({type(found[name]) for name in named}) == len(named)


def test_the_file_says_nothing_that_is_not_read() -> None:
    """A misspelt key would be a fact that nobody gets."""
    fields = set(ProviderDescriptor.__dataclass_fields__) - {"id"}
    known = {*fields, "name", "docs", "confidence", "notes", "variables", "defaults", "environments"}
    for name, entry in FILE.items():
        assert set(entry) <= known, name
        for changes in entry.get("environments", {}).values():
            assert set(changes) <= known - {"name", "docs", "confidence", "notes", "environments"}, name


# What must not be lost: each line has cost somebody a grant, a credential or an afternoon


def test_graces_and_rotation_are_as_documented() -> None:
    """A grace that is too long burns grants; a rotation that is forgotten does too."""
    graces = {name: sample(name).reuse_grace for name in presets.names() if sample(name).reuse_grace}
    assert {name: grace.total_seconds() for name, grace in graces.items() if grace is not None} == {
        "atlassian": 600,
        "fitbit": 120,
        "linear": 1800,
        "okta": 30,
        "okta_org": 30,
        "shopify": 3600,
        "withings": 28800,
        "xero": 1800,
    }
    never = {name for name in presets.names() if sample(name).rotation == "never"}
    assert {name for name in never if GrantType.REFRESH_TOKEN in sample(name).grants} == {
        *("dropbox", "facebook", "figma", "google", "instagram", "reddit", "stripe_connect", "zoho"),
    }


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("microsoft_entra", "issuer", None),
        ("webex", "issuer", None),
        ("auth0", "issuer", "https://acme.example.com/"),
        ("auth0", "resource_param", "audience"),
        ("aws_cognito", "issuer", "https://cognito-idp.acme.amazonaws.com/acme"),
        ("okta_org", "token_endpoint", "https://acme.example.com/oauth2/v1/token"),
        ("linkedin", "pkce", "unsupported"),
        ("pipedrive", "pkce", "unsupported"),
        ("x", "pkce", "required"),
        ("airtable", "pkce", "required"),
        ("notion", "body_format", "json"),
        ("notion", "token_headers", {"Notion-Version": "2022-06-28"}),
        ("reddit", "token_headers", {"User-Agent": "acme"}),
        ("figma", "refresh_endpoint", "https://api.figma.com/v1/oauth/refresh"),
        ("digitalocean", "refresh_endpoint", "https://cloud.digitalocean.com/v1/oauth/refresh"),
        ("stripe_apps", "default_expires_in", timedelta(hours=1)),
        ("github", "default_expires_in", None),
        ("slack", "default_expires_in", None),
        (
            "basecamp",
            "grant_params",
            {"authorization_code": {"type": "web_server"}, "refresh_token": {"type": "refresh"}},
        ),
        (
            "zoom_server",
            "grant_params",
            {"client_credentials": {"grant_type": "account_credentials", "account_id": "acme"}},
        ),
        ("shopify", "grant_params", {"authorization_code": {"expiring": "1"}}),
        ("snowflake", "grant_params", {}),
        ("tiktok", "authorization_endpoint", "https://www.tiktok.com/v2/auth/authorize/"),
    ],
)
def test_surprises_stay_as_they_are(name: PresetName, field: str, value: Any) -> None:
    """Facts that look like slips of the pen and are none."""
    assert getattr(sample(name), field) == value


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        (
            "microsoft_entra",
            "assertion_audience",
            "https://login.microsoftonline.com/common/oauth2/v2.0/token",
        ),
        ("okta", "assertion_audience", "https://acme.example.com/oauth2/default/v1/token"),
        ("quickbooks", "callback_members", ("realmId",)),
        ("zoho", "callback_members", ("location", "accounts-server")),
        ("strava", "callback_members", ("scope",)),
        ("apple", "callback_members", ("user",)),
        ("slack_user", "token_path", "authed_user"),
        ("withings", "token_path", "body"),
        ("intercom", "extra_members", ()),
        ("tiktok", "param_names", {"client_id": "client_key"}),
        ("slack_user", "param_names", {"scope": "user_scope"}),
    ],
)
def test_quirks_stay_as_they_are(name: PresetName, field: str, value: Any) -> None:
    """Each is a request refused or a fact lost without it."""
    assert getattr(sample(name).quirks, field) == value


def test_an_environment_may_take_fields_and_defaults_away_or_replace_them() -> None:
    """An empty text in the file is no address."""
    v1 = presets.get("hubspot", environment="legacy_v1")
    assert v1.revocation_endpoint is None
    assert v1.grants == {GrantType.AUTHORIZATION_CODE, GrantType.REFRESH_TOKEN}
    assert presets.get("paypal", environment="sandbox").issuer is None
    legacy = presets.get("monday", environment="legacy")
    assert legacy.grants == {GrantType.AUTHORIZATION_CODE}
    assert legacy.pkce == "unknown"
    sandbox = presets.about("salesforce", environment="sandbox")
    assert dict(sandbox.defaults) == {"login_host": "test.salesforce.com"}
    assert sandbox.template.descriptor().issuer == "https://test.salesforce.com"


# The page


def test_the_page_shows_what_the_presets_say() -> None:
    """Run ``python docs/presets_table.py`` after a change."""
    text = TABLE.PAGE.read_text("utf-8")
    assert TABLE.page(text) == text, "docs/presets.rst is behind: run docs/presets_table.py"
    assert all(f"``{name}``: " in text for name in presets.names())


def test_the_file_is_part_of_the_package() -> None:
    """Beside the code that reads it, wherever it is installed."""
    folder = Path(oauth2broker.__file__).parent / "provider"
    assert (folder / "presets.toml").is_file()
