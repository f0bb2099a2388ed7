"""A descriptor refuses what cannot work, says what to change, and never changes itself."""

import copy
import dataclasses
import pickle
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest

from oauth2broker import (
    BodyFormat,
    ClientAuthMethod,
    ConfigError,
    DefaultProviderStrategy,
    Endpoint,
    ExpiryRule,
    GrantType,
    PkceSupport,
    ProviderDescriptor,
    ProviderErrorContext,
    ProviderErrorKind,
    ProviderId,
    ProviderQuirks,
    ProviderStrategy,
    RotationPolicy,
)
from oauth2broker.urls import checked_redirect_uri, is_loopback

ENDPOINTS = [
    "token_endpoint",
    "authorization_endpoint",
    "refresh_endpoint",
    "revocation_endpoint",
    "introspection_endpoint",
    "device_authorization_endpoint",
]


@dataclasses.dataclass(frozen=True)
class OwnStrategy(ProviderStrategy):
    """Equal to its like, so that equal descriptors are."""


TOKEN_ENDPOINT = "https://provider.example.com/token"
FULL: dict[str, Any] = {
    "id": "demo-provider",
    "token_endpoint": TOKEN_ENDPOINT,
    "grants": {GrantType.AUTHORIZATION_CODE, GrantType.REFRESH_TOKEN},
    "authorization_endpoint": "https://provider.example.com/authorize?audience=api",
    "refresh_endpoint": "https://provider.example.com/refresh",
    "revocation_endpoint": "https://provider.example.com/revoke",
    "introspection_endpoint": "https://provider.example.com/introspect",
    "device_authorization_endpoint": "https://provider.example.com/device",
    "issuer": "https://provider.example.com",
    "client_auth": "client_secret_post",
    "client_auth_also": {"none", "private_key_jwt"},
    "endpoint_client_auth": {"revocation": "client_secret_basic"},
    "pkce": "required",
    "scope_delimiter": ",",
    "resource_param": "audience",
    "authorization_params": {"prompt": "consent"},
    "token_params": {"audience": "api"},
    "grant_params": {"refresh_token": {"type": "refresh"}},
    "token_headers": {"Provider-Version": "2026-11-01"},
    "body_format": "json",
    "rotation": "always",
    "reuse_grace": timedelta(seconds=30),
    "default_expires_in": timedelta(hours=1),
    "default_refresh_expires_in": timedelta(days=60),
    "iss_required": True,
    "quirks": ProviderQuirks(error_codes={"inactive_user": "invalid_grant"}),
    "strategy": OwnStrategy(),
}


def make(**changes: Any) -> ProviderDescriptor:
    """Give a descriptor with every field set, some of them changed."""
    return ProviderDescriptor(**{**FULL, **changes})


# What is accepted


def test_the_least_that_is_needed_is_enough_and_the_rest_has_safe_defaults() -> None:
    """A name, an address and a grant; a refresh token is taken for one that may be spent by use."""
    descriptor = ProviderDescriptor("demo-provider", TOKEN_ENDPOINT, {"client_credentials"})
    assert descriptor.id == "demo-provider"
    assert type(descriptor.id) is ProviderId
    assert descriptor.token_endpoint == TOKEN_ENDPOINT
    assert descriptor.grants == {GrantType.CLIENT_CREDENTIALS}
    assert descriptor.rotation is RotationPolicy.SOMETIMES
    assert descriptor.scope_delimiter == " "
    assert descriptor.iss_required is False
    assert descriptor.quirks == ProviderQuirks()
    assert (dict(descriptor.authorization_params), dict(descriptor.token_params)) == ({}, {})
    assert descriptor.pkce is PkceSupport.UNKNOWN
    assert descriptor.body_format is BodyFormat.FORM
    assert descriptor.resource_param == "resource"
    absent = [*ENDPOINTS[1:], "issuer", "client_auth", "strategy"]
    absent += ["reuse_grace", "default_expires_in", "default_refresh_expires_in"]
    assert [getattr(descriptor, name) for name in absent] == [None] * 11


def test_every_field_is_kept_in_its_own_type() -> None:
    """Plain strings become members of their enumerations; the rest is as given."""
    descriptor = make()
    assert descriptor.client_auth is ClientAuthMethod.CLIENT_SECRET_POST
    assert descriptor.rotation is RotationPolicy.ALWAYS
    assert descriptor.grants == FULL["grants"]
    assert all(type(grant) is GrantType for grant in make(grants=["refresh_token"]).grants)
    assert descriptor.pkce is PkceSupport.REQUIRED
    assert descriptor.body_format is BodyFormat.JSON
    assert descriptor.client_auth_also == {ClientAuthMethod.NONE, ClientAuthMethod.PRIVATE_KEY_JWT}
    assert descriptor.endpoint_client_auth[Endpoint.REVOCATION] is ClientAuthMethod.CLIENT_SECRET_BASIC
    assert descriptor.grant_params[GrantType.REFRESH_TOKEN] == {"type": "refresh"}
    for name in FULL.keys() - {"client_auth", "rotation", "grants"}:
        assert getattr(descriptor, name) == FULL[name], name


@pytest.mark.parametrize(
    "url",
    [
        "https://provider.example.com",
        "https://provider.example.com:8443/token",
        "https://provider.example.com/token?tenant=acme&x=%20",
        "https://xn--e1afmkfd.example/token",
        "https://192.0.2.1/token",
        "https://[2001:db8::1]:8443/token",
        "http://localhost:8080/token",
        "http://LOCALHOST/token",
        "http://127.0.0.1:1/token",
        "http://127.8.9.10/token",
        "http://[::1]:8080/token",
    ],
)
@pytest.mark.parametrize("name", ENDPOINTS)
def test_https_anywhere_and_http_on_loopback_are_endpoints(name: str, url: str) -> None:
    """The address is kept to the letter: providers compare it."""
    assert getattr(make(**{name: url}), name) == url


# What is refused


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://provider.example.com/token", "https"),
        ("http://127.0.0.1.example.com/token", "https"),
        ("http://localhost.example.com/token", "https"),
        ("http://0.0.0.0/token", "https"),
        ("http://10.0.0.1/token", "https"),
        ("http://[2001:db8::1]/token", "https"),
        ("HTTP://provider.example.com/token", "https"),
        ("ftp://provider.example.com/token", "absolute https"),
        ("javascript:alert(1)", "absolute https"),
        ("//provider.example.com/token", "absolute https"),
        ("/token", "absolute https"),
        ("provider.example.com/token", "absolute https"),
        ("", "absolute https"),
        ("https:///token", "no host"),
        ("https://:443/token", "no host"),
        ("https:token", "no host"),
        ("https://provider.example.com/token#", "fragment"),
        ("https://provider.example.com/token#part", "fragment"),
        ("https://user@provider.example.com/token", "user information"),
        ("https://user:s3cr3t@provider.example.com/token", "user information"),
        ("https://@provider.example.com/token", "user information"),
        ("https://localhost:80@provider.example.com/token", "user information"),
        ("https://provider.example.com\\@evil.example/token", "backslash"),
        ("https:\\\\provider.example.com/token", "backslash"),
        ("https://provider.example.com/a b", "space"),
        (" https://provider.example.com/token", "space"),
        ("https://provider.example.com/token\n", "printable"),
        ("https://provider.example.com/to\tken", "printable"),
        ("https://provider.example.com/\x00", "printable"),
        ("https://provider.ex\u0430mple.com/token", "ASCII"),
        ("https://provider.example.com/t\u00f6ken", "ASCII"),
        ("https://provider.example.com:65536/token", "not a URL"),
        ("https://provider.example.com:-1/token", "not a URL"),
        ("https://provider.example.com:https/token", "not a URL"),
        ("https://[::1/token", "not a URL"),
        ("https://[nothing]/token", "not a URL"),
    ],
)
@pytest.mark.parametrize("name", ENDPOINTS)
def test_an_address_that_credentials_must_not_go_to_is_refused(name: str, url: str, said: str) -> None:
    """The error names the endpoint and what is wrong, and quotes no password from the address."""
    with pytest.raises(ConfigError, match=f"{name}.*{said}") as caught:
        make(**{name: url})
    assert "s3cr3t" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("name", ENDPOINTS)
@pytest.mark.parametrize("value", [5, b"https://provider.example.com/token", ["https://a.example/"]])
def test_an_endpoint_is_a_str(name: str, value: object) -> None:
    """Anything else is a ConfigError that names the endpoint."""
    with pytest.raises(ConfigError, match=name):
        make(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("token_endpoint", None),
        ("grants", "authorization_code"),
        ("grants", ""),
        ("grants", []),
        ("grants", frozenset()),
        ("grants", None),
        ("grants", 5),
        ("issuer", ""),
        ("issuer", "https://provider.example.com\n"),
        ("issuer", 5),
        ("scope_delimiter", ""),
        ("scope_delimiter", "  "),
        ("scope_delimiter", ";"),
        ("scope_delimiter", None),
        ("scope_delimiter", [" "]),
        ("authorization_params", [("prompt", "consent")]),
        ("authorization_params", {"prompt": 5}),
        ("authorization_params", {5: "consent"}),
        ("authorization_params", "prompt=consent"),
        *(
            ("authorization_params", {name: "x"})
            for name in (
                *("state", "client_id", "redirect_uri", "resource", "response_type"),
                *("code_challenge", "code_challenge_method"),
            )
        ),
        ("authorization_params", {"scope": "x"}),
        ("authorization_params", {"prompt": "\ud800"}),
        ("token_params", {"p": "\ud800"}),
        ("token_params", {"\udfff": "p"}),
        ("grant_params", {"refresh_token": {"p": "\ud800"}}),
        ("token_endpoint", "https://{shop}.example.com/{v}/t"),
        ("refresh_endpoint", "https://provider.example.com/{"),
        ("issuer", "https://provider.example.com/}"),
        ("token_headers", {"A": "1", "a": "2"}),
        ("token_headers", {"A": "1", "b": "2", "X-A": "3", "x-a": "3"}),
        ("token_params", {"audience": None}),
        ("token_params", ["audience"]),
        ("reuse_grace", 30),
        ("reuse_grace", timedelta(0)),
        ("reuse_grace", timedelta(seconds=-1)),
        ("reuse_grace", timedelta.max),
        ("default_expires_in", 3600),
        ("default_expires_in", timedelta(0)),
        ("default_expires_in", timedelta(seconds=-1)),
        ("client_auth", "client_secret_jws"),
        ("client_auth_also", "none"),
        ("client_auth_also", ["password"]),
        ("client_auth_also", 5),
        ("client_auth", None),  # there is no second choice without a first
        ("endpoint_client_auth", {"userinfo": "none"}),
        ("endpoint_client_auth", {"revocation": "bearer"}),
        ("endpoint_client_auth", "none"),
        ("pkce", "plain"),
        ("pkce", None),
        ("resource_param", ""),
        *(
            ("resource_param", name)
            for name in (
                *("response_type", "client_id", "client_secret", "redirect_uri", "scope", "state", "code"),
                *("grant_type", "code_challenge", "code_challenge_method", "code_verifier", "refresh_token"),
            )
        ),
        ("issuer", "provider"),
        ("token_endpoint", "https://%31%32%37.0.0.1/token"),
        ("issuer", "https://provider.example.com/#a"),
        ("resource_param", 5),
        ("grant_params", {"password": {}}),
        ("grant_params", {"refresh_token": {"type": 5}}),
        ("grant_params", {"refresh_token": "type=refresh"}),
        ("grant_params", "refresh_token"),
        ("token_headers", {"X-Version": "1\r\nX-Evil: 1"}),
        ("token_headers", {"X Version": "1"}),
        ("token_headers", {"X-Version": ""}),
        ("token_headers", {"X-Version": "\u00e9"}),
        ("token_headers", {"authorization": "Bearer x"}),
        ("token_headers", {"Content-Type": "text/plain"}),
        ("token_headers", {"HOST": "evil.example.com"}),
        ("token_headers", {"Content-Length": "0"}),
        ("token_headers", {"Transfer-Encoding": "chunked"}),
        ("body_format", "xml"),
        ("default_refresh_expires_in", 60),
        ("default_refresh_expires_in", timedelta.max),
        ("default_expires_in", timedelta(days=3651)),
        ("strategy", "slack"),
        ("strategy", DefaultProviderStrategy),
        ("client_auth", ["none"]),
        ("client_auth", ""),
        ("rotation", "never ever"),
        ("rotation", None),
        ("quirks", {"error_codes": {}}),
        ("quirks", "inactive_user"),
    ],
)
def test_a_field_that_cannot_be_is_refused_by_name(name: str, value: object) -> None:
    """The operator learns which line of the configuration to change."""
    with pytest.raises(ConfigError) as caught:
        make(**{name: value})
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("param_names", {"client_id": ""}),
        ("param_names", {"client_id": 5}),
        ("param_names", {"client_id": "\ud800"}),
        ("param_names", {"client_id": "k", "client_secret": "k"}),
        ("param_names", {"client_id": "code"}),
        ("param_names", {"client_id": "state"}),
        ("param_names", {"scope": "refresh_token"}),
        ("param_names", {"state": None}),
        ("param_names", {"code": None}),
        ("param_names", {"refresh_token": None}),
        ("param_names", {5: "client_key"}),
        ("param_names", "client_key"),
        ("assertion_audience", ""),
        ("assertion_audience", 5),
        ("error_codes", {"190": 5}),
        *(
            ("error_codes", {code: "invalid_grant"})
            for code in ("", "0", "x" * 65, 'a "b"', "a\\b", "\u00e9")
        ),
        *(("error_codes", {code: "invalid_grant"}) for code in (" gone", "gone ", "go\nne")),
        ("error_paths", "errors.0.code"),
        ("error_paths", ["errors..code"]),
        ("error_paths", [""]),
        ("error_paths", 5),
        ("dead_refresh_texts", "invalid"),
        ("dead_refresh_texts", [""]),
        ("token_path", ""),
        ("token_path", "body."),
        ("token_path", ["body"]),
        ("expiry", "expires_at"),
        ("expiry", {"member": "expires_at"}),
        ("scope_member", ""),
        ("scope_member", None),
        ("token_type", ""),
        ("token_type", "Bear\n"),
        ("token_type", 5),
        ("callback_members", "realmId"),
        *(
            ("callback_members", ["realmId", member])
            for member in (
                *("access_token", "refresh_token", "id_token", "token_type", "expires_in"),
                *("refresh_token_expires_in", "refresh_expires_in", "x_refresh_token_expires_in"),
                *("error", "code", "state"),
            )
        ),
        ("extra_members", "owner"),
        ("extra_members", [5]),
        *(("api_header", header) for header in ("", "X Token", "X-Token:", "X-Token\r\nX", 5)),
        *(("api_scheme", scheme) for scheme in ("Bearer ", "To ken", "Token\r\nX: 1", 5)),
    ],
)
def test_a_quirk_that_cannot_be_is_refused_by_name(name: str, value: Any) -> None:
    """Also what would let a callback, which anyone can write, bring a token of its own."""
    with pytest.raises(ConfigError) as caught:
        ProviderQuirks(**{name: value})
    assert name in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ProviderQuirks(scope_member=["scopes"]),  # type: ignore[arg-type]
        lambda: ProviderQuirks(assertion_audience=5),  # type: ignore[arg-type]
        lambda: ExpiryRule(""),
        lambda: ProviderDescriptor("demo", TOKEN_ENDPOINT, ["client_credentials"], resource_param=""),
    ],
)
def test_where_one_name_goes_the_error_asks_for_one(make: Callable[[], object]) -> None:
    """It asked for "a list of strings", of which the first was given one."""
    with pytest.raises(ConfigError, match=r"is a string, not (list|int|empty)"):
        make()


@pytest.mark.parametrize("change", [{"member": ""}, {"member": None}, {"unit": "minutes"}, {"unit": None}])
def test_an_expiry_rule_that_cannot_be_is_refused_by_name(change: dict[str, Any]) -> None:
    """A unit that is none would make tokens live for years."""
    with pytest.raises(ConfigError, match=next(iter(change))):
        ExpiryRule(**change)


@pytest.mark.parametrize("value", ["", "demo provider", "demo\n", "x" * 129, None])
def test_an_id_is_a_provider_id(value: object) -> None:
    """What joins a key and a metric's label has to be an identifier."""
    with pytest.raises(ConfigError, match="ProviderId"):
        make(id=value)


@pytest.mark.parametrize("grant", ["password", "implicit", "AUTHORIZATION_CODE", "", None, 5, ["x"]])
def test_an_unknown_grant_is_refused(grant: object) -> None:
    """Grants that the broker does not carry are no silent no-ops."""
    with pytest.raises(ConfigError, match="grant"):
        make(grants=[GrantType.REFRESH_TOKEN, grant])


def test_the_authorization_code_grant_needs_somewhere_to_send_the_user() -> None:
    """Found when the descriptor is made, not when the first user logs in."""
    with pytest.raises(ConfigError, match="authorization_endpoint"):
        make(authorization_endpoint=None)
    assert make(authorization_endpoint=None, grants=["refresh_token"]).authorization_endpoint is None


def test_requiring_iss_needs_an_issuer_to_compare_with() -> None:
    """RFC 9207 section 2.4: a check against nothing would pass anything."""
    with pytest.raises(ConfigError, match="issuer"):
        make(issuer=None)
    assert make(issuer=None, iss_required=False).issuer is None


def test_require_grant_refuses_what_the_provider_does_not_support() -> None:
    """The error names the provider and the grant."""
    descriptor = make()
    descriptor.require_grant(GrantType.REFRESH_TOKEN)
    with pytest.raises(ConfigError, match=r"demo-provider.*client_credentials"):
        descriptor.require_grant(GrantType.CLIENT_CREDENTIALS)


# It stays what it is


@pytest.mark.parametrize("name", [*FULL, "note"])
def test_a_descriptor_cannot_be_changed(name: str) -> None:
    """Threads share it without a lock."""
    descriptor = make()
    with pytest.raises((AttributeError, TypeError)):
        setattr(descriptor, name, None)
    assert descriptor == make()


def test_the_mappings_of_a_descriptor_are_copies_that_cannot_be_changed() -> None:
    """Neither the mapping that was passed nor the one that is read is a way in."""
    passed = {"prompt": "consent"}
    descriptor = make(authorization_params=passed, token_params=passed)
    passed["prompt"] = "none"
    params: list[Any] = [descriptor.authorization_params, descriptor.token_params]
    params.append(descriptor.quirks.error_codes)
    for mapping in params:
        with pytest.raises(TypeError):
            mapping["prompt"] = "login"
    assert dict(descriptor.authorization_params) == {"prompt": "consent"}
    assert isinstance(descriptor.grants, frozenset)


def test_a_descriptor_is_pickled_by_the_names_of_its_fields() -> None:
    """One that was kept before there was a field still fits, with the default for it."""
    make_again, (kind, values) = make().__reduce__()
    del values["strategy"], values["token_headers"]
    assert make_again(kind, values) == make(strategy=None, token_headers=None)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_descriptor_survives_pickle_and_copy(protocol: int) -> None:
    """It is sent to worker processes, whole and equal."""
    descriptor = make()
    for twin in (
        pickle.loads(pickle.dumps(descriptor, protocol)),
        copy.copy(descriptor),
        copy.deepcopy(descriptor),
    ):
        assert twin == descriptor
        assert hash(twin) == hash(descriptor)


def test_a_descriptor_is_changed_by_replacing() -> None:
    """``dataclasses.replace`` gives another, checked like the first."""
    assert dataclasses.replace(make(), token_endpoint="https://other.example/token") == make(
        token_endpoint="https://other.example/token"
    )
    with pytest.raises(ConfigError, match="token_endpoint"):
        dataclasses.replace(make(), token_endpoint="http://other.example/token")


def test_the_repr_of_a_descriptor_shows_no_value_of_static_parameters() -> None:
    """An operator may put an API key there."""
    shown = repr(make(token_params={"api_key": "s3cr3t"}, authorization_params={"key": "s3cr3t"}))
    assert "api_key" in shown
    assert "s3cr3t" not in shown


# Quirks


def test_quirks_map_error_codes_and_default_to_none() -> None:
    """A provider that keeps to the RFCs needs none."""
    assert dict(ProviderQuirks().error_codes) == {}
    assert ProviderQuirks(error_codes={"a": "invalid_grant"}).error_codes == {"a": "invalid_grant"}
    assert ProviderQuirks(error_codes={"a": "slow_down"}) == ProviderQuirks(error_codes={"a": "slow_down"})
    assert ProviderQuirks(error_codes={"a": "slow_down"}) != ProviderQuirks()


@pytest.mark.parametrize("codes", [{"a": "invalid_grnt"}, {"a": ""}, {"a": 1}, {1: "a"}, ["a"], "a=b", 5])
def test_quirks_that_cannot_be_are_refused(codes: Any) -> None:
    """The error names the field."""
    with pytest.raises(ConfigError, match="error_codes"):
        ProviderQuirks(error_codes=codes)


def test_quirks_cannot_be_changed_and_survive_pickle() -> None:
    """They are part of a descriptor and as immutable."""
    quirks: Any = ProviderQuirks(error_codes={"a": "invalid_grant"})
    with pytest.raises(dataclasses.FrozenInstanceError):
        quirks.error_codes = {}
    assert pickle.loads(pickle.dumps(quirks)) == quirks


# The strategy's defaults

KIND = ProviderErrorKind
CODES: Mapping[str, ProviderErrorKind] = {
    "invalid_grant": KIND.INVALID_GRANT,
    "invalid_client": KIND.INVALID_CLIENT,
    "unauthorized_client": KIND.INVALID_CLIENT,
    "invalid_scope": KIND.INSUFFICIENT_SCOPE,
    "insufficient_scope": KIND.INSUFFICIENT_SCOPE,
    "access_denied": KIND.ACCESS_DENIED,
    "interaction_required": KIND.INTERACTION_REQUIRED,
    "login_required": KIND.INTERACTION_REQUIRED,
    "consent_required": KIND.INTERACTION_REQUIRED,
    "account_selection_required": KIND.INTERACTION_REQUIRED,
    "server_error": KIND.TRANSIENT,
    "temporarily_unavailable": KIND.TRANSIENT,
    "slow_down": KIND.TRANSIENT,
    "invalid_request": KIND.CONFIG,
    "unsupported_grant_type": KIND.CONFIG,
}
UNKNOWN_CODES = ["never_heard_of", "INVALID_GRANT", ""]


def classify(error: str, status: int) -> ProviderErrorKind:
    context = ProviderErrorContext(GrantType.REFRESH_TOKEN, status, error)
    return DefaultProviderStrategy().classify_token_error(context)


@pytest.mark.parametrize(("error", "kind"), CODES.items())
@pytest.mark.parametrize("status", [200, 400, 401, 403])
def test_an_error_code_has_one_meaning_whatever_the_status(
    error: str, kind: ProviderErrorKind, status: int
) -> None:
    """Providers disagree about the status; the code of RFC 6749 section 5.2 decides."""
    assert classify(error, status) is kind


@pytest.mark.parametrize("error", UNKNOWN_CODES)
def test_an_unknown_code_is_ours_to_look_into_and_no_reason_to_log_in_again(error: str) -> None:
    """With 401 it is the client that was not recognised (RFC 6749 section 5.2)."""
    assert [classify(error, status) for status in (200, 400, 403)] == [KIND.CONFIG] * 3
    assert classify(error, 401) is KIND.INVALID_CLIENT


@pytest.mark.parametrize("error", [*CODES, *UNKNOWN_CODES])
def test_too_many_requests_are_an_outage_whatever_the_code(error: str) -> None:
    """Nobody logs in again because of a rate limit."""
    assert classify(error, 429) is KIND.TRANSIENT


@pytest.mark.parametrize("error", ["never_heard_of", "", "invalid_request"])
@pytest.mark.parametrize("status", [500, 502, 503, 504, 599])
def test_a_server_error_without_a_known_code_is_an_outage(error: str, status: int) -> None:
    """A 5xx with a code that means nothing says nothing about the grant or the configuration."""
    assert classify(error, status) is KIND.TRANSIENT


def test_no_unknown_code_ever_ends_a_grant() -> None:
    """Only the codes that say so make the user log in again."""
    ending = {KIND.INVALID_GRANT, KIND.INTERACTION_REQUIRED}
    for status in (400, 401, 403, 404, 429, 500, 503):
        assert classify("never_heard_of", status) not in ending


def test_the_default_hooks_change_nothing() -> None:
    """A provider that keeps to the RFCs gets the requests of the RFCs."""
    strategy = DefaultProviderStrategy()
    params, form, payload = {"a": "b"}, {"c": "d"}, {"access_token": "x"}
    strategy.augment_authorization_request(params)
    strategy.augment_token_request(GrantType.REFRESH_TOKEN, form)
    assert strategy.normalize_token_response(GrantType.REFRESH_TOKEN, payload) is payload
    assert (params, form, payload) == ({"a": "b"}, {"c": "d"}, {"access_token": "x"})
    assert isinstance(strategy, ProviderStrategy)


# The helpers behind it


@pytest.mark.parametrize("host", ["localhost", "LocalHost", "127.0.0.1", "127.255.255.254", "::1"])
def test_this_machine_is_recognised(host: str) -> None:
    """The names and addresses of the loopback interface."""
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "localhost.", "localhost.example", "127.0.0.1.nip.io", "0.0.0.0", "127.1"]
)
def test_what_merely_looks_like_this_machine_is_not(host: str) -> None:
    """A name that a resolver may send elsewhere gets no credentials in the clear."""
    assert not is_loopback(host)


@pytest.mark.parametrize(
    "uri", ["https://app.example.com/callback", "com.example.app:/callback", "http://a/b"]
)
def test_a_redirect_uri_is_any_absolute_uri(uri: str) -> None:
    """Native applications use schemes of their own (RFC 8252)."""
    assert checked_redirect_uri(uri) == uri


@pytest.mark.parametrize("uri", ["", "/callback", "https://a/b#c", "https://a/b c", "https://a\\b", None, 5])
def test_a_redirect_uri_is_absolute_and_without_a_fragment(uri: Any) -> None:
    """RFC 6749 section 3.1.2; the error names the parameter."""
    with pytest.raises(ConfigError, match="redirect_uri"):
        checked_redirect_uri(uri)


@pytest.mark.parametrize(
    "names",
    [
        {"client_id": "client_key", "client_secret": "client_password"},
        {"client_id": "app", "scope": None, "grant_type": None, "response_type": None},
        {"state": "st", "code": "ticket"},
        {"client_id": "client_secret", "client_secret": "client_id"},
        {"scope": "state", "state": "scope"},
        {"refresh_token": "token"},
        {"refresh_token": "code"},  # never in one request with the other
        {"redirect_uri": None, "state": "redirect_uri"},
    ],
)
def test_names_that_are_told_apart_in_each_request_are_taken(names: dict[str, str | None]) -> None:
    """However odd: what counts is that nothing is sent in the place of something else."""
    assert dict(ProviderQuirks(param_names=names).param_names) == names


@pytest.mark.parametrize("name", ["code_challenge", "code_challenge_method", "code_verifier"])
def test_what_is_required_is_not_left_out(name: str) -> None:
    """PKCE that is required and not sent would fail at the first login."""
    quirks = ProviderQuirks(param_names={name: None})
    with pytest.raises(ConfigError, match="pkce is required"):
        make(pkce="required", quirks=quirks)
    assert make(pkce="supported", quirks=quirks).quirks == quirks


def test_every_code_that_an_answer_can_have_can_be_listed() -> None:
    """Up to 64 characters, words with spaces, numbers below zero, and those of the RFCs."""
    codes = dict.fromkeys(
        ["x" * 64, "Invalid refresh token!", "-1", "00", "{a}", "invalid_request"], "slow_down"
    )
    assert dict(ProviderQuirks(error_codes=codes).error_codes) == codes
