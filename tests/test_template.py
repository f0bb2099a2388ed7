"""A template's variables: no value leaves its place, and each place has one id."""

from __future__ import annotations

import posixpath
import re
from datetime import timedelta
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given, strategies as st

from oauth2broker import ConfigError, ProviderDescriptor, ProviderQuirks, ProviderTemplate, VariableKind

ENDPOINTS = {
    VariableKind.HOST: "https://{place}/oauth2/token",
    VariableKind.LABEL: "https://{place}.example.com/oauth2/token",
    VariableKind.SEGMENT: "https://example.com/oauth2/{place}/token",
    VariableKind.BASE_URL: "{place}/oauth2/token",
    VariableKind.VERSION: "https://example.com/{place}/token",
    VariableKind.TEXT: "https://example.com/token",
}
GOOD = {
    VariableKind.HOST: "acme.example.org",
    VariableKind.LABEL: "acme",
    VariableKind.SEGMENT: "acme",
    VariableKind.BASE_URL: "https://acme.example.org",
    VariableKind.VERSION: "v22.0",
    VariableKind.TEXT: "web:acme:1.0 (by /u/acme)",
}
KINDS = list(ENDPOINTS)


def template(kind: str, **fields: Any) -> ProviderTemplate:
    """Give a template with one variable in its token endpoint and, for a text, in a header."""
    if kind == VariableKind.TEXT:
        fields["token_headers"] = {"User-Agent": "{place}"}
    fields.setdefault("token_endpoint", ENDPOINTS[VariableKind(kind)])
    fields.setdefault("grants", ["client_credentials"])
    return ProviderTemplate("demo", variables={"place": kind}, **fields)


# What is refused


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        ".",
        "acme.example.org.",
        ".acme.example.org",
        "acme..example.org",
        "https://acme.example.org",
        "//acme.example.org",
        "acme.example.org/",
        "acme.example.org/evil",
        "acme.example.org\\evil",
        "evil.example@acme.example.org",
        "user:password@acme.example.org",
        "acme.example.org?x",
        "acme.example.org#x",
        "acme.example.org%2fevil",
        "acme.example.org:",
        "acme.example.org:0",
        "acme.example.org:65536",
        "acme.example.org:-1",
        "acme.example.org:80:80",
        "acme.example.org:80/x",
        "acme.example.org:\u0661",
        "acme.example.org\r\nHost: evil.example",
        "acme.example.org\n",
        "\tacme.example.org",
        "acme .example.org",
        "*.example.org",
        "-acme.example.org",
        "acme-.example.org",
        "acme_1.example.org",
        "\u0430cme.example.org",
        "acme\u3002example.org",
        "acme\uff0eexample.org",
        "acme\u2215example.org",
        "o\u212ata.example.org",
        "acme\u200b.example.org",
        "\ud800.example.org",
        "[::1]",
        "{place}",
        "a" * 64 + ".example.org",
        ".".join(["a" * 60] * 5),
    ],
)
def test_a_host_is_a_host_name_and_nothing_else(value: str) -> None:
    """Neither a path, a user, a query nor a character that merely looks right gets into the address."""
    with pytest.raises(ConfigError, match="place"):
        template("host").descriptor(place=value)


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            "a.b",
            "acme.evil.example/",
            "acme/",
            "acme#",
            "acme?",
            "acme@evil",
            "acme:80",
            "-acme",
            "acme-",
        ),
        *(
            "acme.evil.example#",
            "a\u0441me",
            "o\u212ata",
            "acme\n",
            "acme ",
            "*",
            "%61cme",
            "a" * 64,
            "{place}",
        ),
        *("acme\uff0fevil", "acme\u3002evil", "\u0661", "\ud800"),
    ],
)
def test_a_label_is_one_part_of_a_host_name(value: str) -> None:
    """A shop's name cannot become another host's."""
    with pytest.raises(ConfigError, match="place"):
        template("label").descriptor(place=value)


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", ".", "..", "a/b", "/", "a\\b", "a?b", "a#b", "%2e%2e", "a%2fb", "{place}", "a}", "\u2028"),
        *("a\r\nb", "a\nb", "\x00", "\x7f", "\u200b", "\ud800", "a\tb"),
    ],
)
def test_a_segment_is_one_step_of_a_path(value: str) -> None:
    """It goes neither up nor down, and ends no path."""
    with pytest.raises(ConfigError, match="place"):
        template("segment").descriptor(place=value)


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            "/",
            "acme.example.org",
            "//acme.example.org",
            "https://",
            "https:///x",
            "https:acme.example.org",
        ),
        *(
            "http://acme.example.org",
            "ftp://acme.example.org",
            "javascript:alert(1)",
            "https://user@acme.example",
        ),
        *(
            "https://acme.example?",
            "https://acme.example/?x=",
            "https://acme.example/#",
            "https://acme.example#",
        ),
        *(
            "https://acme.example/a/../b",
            "https://acme.example/..",
            "https://acme.example/.",
            "https://a%2eb/",
        ),
        *("https://acme.example/%2e%2e", "https://acme.example/{place}", "https://acme.example/a b"),
        *(
            "https://acme.example\\evil",
            "https://\u0430cme.example",
            "https://acme.example:x",
            "https://a\r\nb",
        ),
        *(
            "https://acme.example:65536",
            "https://acme\uff0fevil",
            "https://[::1",
            " https://acme.example",
            "https://acme.example//a",
        ),
    ],
)
def test_a_base_url_has_nothing_that_could_swallow_what_is_appended(value: str) -> None:
    """A query or a fragment would make the endpoint's path part of itself."""
    with pytest.raises(ConfigError, match="place"):
        template("base_url").descriptor(place=value)


@pytest.mark.parametrize("value", ["", "v", "22/../x", "v22.", "v22.0\n", "latest", "v22..0", "v\u0661", "."])
def test_a_version_is_made_of_numbers(value: str) -> None:
    """What stands in a path without joining the id can say nothing else."""
    with pytest.raises(ConfigError, match="place"):
        template("version").descriptor(place=value)


@pytest.mark.parametrize(
    "value", ["", " ", " x", "x ", "x\r\nEvil: 1", "x\ny", "\x00", "caf\u00e9", "\ud800"]
)
def test_a_text_is_one_line_of_printable_ascii(value: str) -> None:
    """It may become a header."""
    with pytest.raises(ConfigError, match="place"):
        template("text").descriptor(place=value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [None, 5, b"acme", ["acme"], {"acme": 1}])
def test_a_value_is_a_str(kind: str, value: Any) -> None:
    """Anything else is a ConfigError that names the variable."""
    with pytest.raises(ConfigError, match="place is a str"):
        template(kind).descriptor(place=value)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("segment", "s" * 200),
        ("base_url", "https://acme.example/" + "b" * 200),
        ("host", ".".join("abcdefgh" * 9)),
    ],
)
def test_a_value_that_no_id_can_hold_is_refused(kind: str, value: str) -> None:
    """The id tells registrations apart, so it is never cut."""
    with pytest.raises(ConfigError, match=r"template demo: place must be shorter; they make an id of .* 128"):
        template(kind).descriptor(place=value)


def test_the_longest_id_there_can_be_is_taken() -> None:
    """128 characters, and not one more."""
    longest = "s" * (128 - len("demo:"))
    assert len(template("segment").descriptor(place=longest).id) == 128
    with pytest.raises(ConfigError, match="an id of 129 characters"):
        template("segment").descriptor(place=f"{longest}s")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("grants", {"bogus"}, "grant"),
        ("client_auth", "x", "client_auth"),
        ("scope_delimiter", ";", "scope_delimiter"),
        ("defaults", {"place": "b ad"}, "place is one part"),
        ("defaults", {"place": "x" * 60 + ".evil.example"}, "place is one part"),
        ("authorization_params", {"state": "{place}"}, "authorization_params"),
        ("quirks", "none", "quirks"),
        ("revocation_endpoint", "http://{place}.example.com/revoke", "revocation_endpoint must use https"),
    ],
)
def test_a_template_that_can_make_no_descriptor_is_refused_when_it_is_made(
    field: str, value: Any, said: str
) -> None:
    """Not when the first customer comes."""
    with pytest.raises(ConfigError, match=said):
        template("label", **{field: value})


@pytest.mark.parametrize("field", ["token_endpoint", "grants"])
def test_a_template_without_what_every_descriptor_needs_is_refused(field: str) -> None:
    """By name, and as a ConfigError."""
    fields: dict[str, Any] = {"token_endpoint": "https://{place}.example.com/t", "grants": ["refresh_token"]}
    del fields[field]
    with pytest.raises(ConfigError, match=f"template demo: {field} is missing"):
        ProviderTemplate("demo", variables={"place": "label"}, issuer="https://{place}.example.com", **fields)


def test_a_refused_value_is_shown_in_part_only() -> None:
    """An error does not carry a megabyte into a log."""
    with pytest.raises(ConfigError) as caught:
        template("host").descriptor(place="x/" * 100_000)
    assert len(str(caught.value)) < 300


# What any text does

SPECIAL = st.text("/\\.:@#?%&=;{}[]*-_~ \r\n\t\x00\u3002\uff0e\uff0f\u2215\u212a\u0130aA0v9", max_size=12)
NEAR = st.builds("".join, st.lists(st.one_of(st.sampled_from(list(GOOD.values())), SPECIAL), max_size=4))
ANY_TEXT = st.one_of(st.text(st.characters(), max_size=40), SPECIAL, NEAR)


def made(kind: str, value: str) -> ProviderDescriptor | None:
    """Give the descriptor, or None for a value that is refused as it should be."""
    try:
        return template(kind).descriptor(place=value)
    except ConfigError:
        return None


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_value_is_taken(kind: str) -> None:
    """So that the properties below are about something."""
    assert made(kind, GOOD[VariableKind(kind)]) is not None


@pytest.mark.parametrize("kind", KINDS)
@given(value=ANY_TEXT)
def test_whatever_the_value_the_address_keeps_its_structure(kind: str, value: str) -> None:
    """It is refused, or fills exactly its place."""
    descriptor = made(kind, value)
    if descriptor is None:
        return
    url = descriptor.token_endpoint
    parts = urlsplit(url)
    assert url.isascii()
    assert url.isprintable()
    assert (parts.query, parts.fragment, parts.username) == ("", "", None)
    assert parts.scheme == ("https" if kind != "base_url" else urlsplit(value).scheme)
    assert not set(" \\{}") & set(url)
    assert posixpath.normpath(unquote(parts.path)).count("/") == parts.path.count("/")
    host, path = parts.hostname or "", parts.path
    match VariableKind(kind):
        case VariableKind.HOST:
            assert path == "/oauth2/token"
            assert host == value.lower().partition(":")[0]
        case VariableKind.LABEL:
            assert (parts.netloc, path) == (f"{value.lower()}.example.com", "/oauth2/token")
            assert "." not in value
        case VariableKind.SEGMENT:
            assert parts.netloc == "example.com"
            assert [unquote(step) for step in path.split("/")] == ["", "oauth2", value, "token"]
        case VariableKind.BASE_URL:
            given_parts = urlsplit(value)
            assert host == (given_parts.hostname or "")
            assert path == given_parts.path.rstrip("/") + "/oauth2/token"
        case VariableKind.VERSION:
            assert (parts.netloc, path) == ("example.com", f"/{value}/token")
        case VariableKind.TEXT:
            assert url == ENDPOINTS[VariableKind.TEXT]
            assert dict(descriptor.token_headers) == {"User-Agent": value}
            assert "\r" not in value
            assert "\n" not in value


OKTA = ProviderTemplate(
    "demo",
    variables={"domain": "host", "server": "segment"},
    defaults={"server": "default"},
    token_endpoint="https://{domain}/{server}/token",
    grants=["client_credentials"],
)
SERVERS = st.sampled_from(["default", "8443", "a", "a:b", ":", "%3A", "A", "a.example", "default:"])
DOMAINS = st.sampled_from(["a.example", "a.example:8443", "a.example:80", "b.example", "default", "a"])


@given(first=st.tuples(DOMAINS, SERVERS), second=st.tuples(DOMAINS, SERVERS))
def test_two_places_never_share_an_id(first: tuple[str, str], second: tuple[str, str]) -> None:
    """The id is part of every store key: a host's port is not another host's segment."""
    try:
        one, two = (OKTA.descriptor(domain=domain, server=server) for domain, server in (first, second))
    except ConfigError:
        return
    assert (one.id == two.id) == (one.token_endpoint == two.token_endpoint)


# One place, one id


@pytest.mark.parametrize(
    ("kind", "written", "meant"),
    [
        ("host", "ACME.Example.ORG", "acme.example.org"),
        ("host", "acme.example.org:443", "acme.example.org"),
        ("host", "acme.example.org:08443", "acme.example.org:8443"),
        ("label", "ACME", "acme"),
        ("base_url", "https://acme.example.org/", "https://acme.example.org"),
        ("base_url", "HTTPS://ACME.example.org//", "https://acme.example.org"),
        ("base_url", "https://acme.example.org:443/sso/", "https://acme.example.org/sso"),
        ("base_url", "https://acme.example.org:/sso", "https://acme.example.org/sso"),
    ],
)
def test_one_place_has_one_id_however_it_is_written(kind: str, written: str, meant: str) -> None:
    """Otherwise the same registration would lose its tokens by a change of case in a configuration."""
    assert template(kind).descriptor(place=written) == template(kind).descriptor(place=meant)


@pytest.mark.parametrize(("kind", "one", "other"), [("segment", "acme", "Acme"), ("base_url", "/a", "/A")])
def test_case_counts_where_it_counts_for_the_server(kind: str, one: str, other: str) -> None:
    """Paths are case-sensitive."""
    start = "https://acme.example.org" if kind == "base_url" else ""
    assert template(kind).descriptor(place=start + one) != template(kind).descriptor(place=start + other)


@pytest.mark.parametrize(
    ("kind", "value", "id_"),
    [
        ("host", "acme.example.org", "demo:acme.example.org"),
        ("host", "acme.example.org:8443", "demo:acme.example.org%3A8443"),
        ("host", "acme.example.org:1", "demo:acme.example.org%3A1"),
        ("host", "acme.example.org:65535", "demo:acme.example.org%3A65535"),
        ("label", "acme", "demo:acme"),
        ("segment", "a b:c", "demo:a%20b%3Ac"),
        ("base_url", "https://acme.example.org/sso", "demo:acme.example.org/sso"),
        ("base_url", "http://localhost:8080", "demo:http%3A//localhost%3A8080"),
        ("version", "v22.0", "demo"),
        ("text", "anything", "demo"),
    ],
)
def test_what_names_the_place_joins_the_id(kind: str, value: str, id_: str) -> None:
    """A version or a header is no other registration: its tokens outlive the change."""
    assert template(kind).descriptor(place=value).id == id_


@pytest.mark.parametrize("kind", KINDS)
def test_a_default_adds_nothing_to_the_id(kind: str) -> None:
    """Whether it is left out or spelled out."""
    default = GOOD[VariableKind(kind)]
    described = template(kind, defaults={"place": default})
    assert described.descriptor().id == "demo"
    assert described.descriptor(place=default) == described.descriptor()
    if kind in {VariableKind.HOST, VariableKind.LABEL}:
        assert described.descriptor(place=default.upper()) == described.descriptor()


def test_a_default_that_is_left_out_keeps_its_place_in_the_id() -> None:
    """Else one variable's value could pass for the other's."""
    two = ProviderTemplate(
        "demo",
        variables={"one": "label", "two": "label"},
        defaults={"one": "x", "two": "y"},
        token_endpoint="https://{one}.{two}.example/token",
        grants=["client_credentials"],
    )
    assert [two.descriptor(one="a").id, two.descriptor(two="a").id] == ["demo:a", "demo::a"]


# What is filled


def test_variables_are_filled_wherever_a_text_is() -> None:
    """In endpoints, issuer, parameters by grant, headers and quirks; other values stay as they are."""
    described = ProviderTemplate(
        "demo",
        variables={"host": "host", "account": "segment", "code": "text"},
        token_endpoint="https://{host}/{account}/token",
        authorization_endpoint="https://{host}/authorize",
        issuer="https://{host}",
        grants={"authorization_code"},
        authorization_params={"account": "{account}"},
        grant_params={"authorization_code": {"account_id": "{account}"}},
        token_headers={"X-Account": "id={account}"},
        default_expires_in=timedelta(hours=1),
        quirks=ProviderQuirks(
            assertion_audience="https://{host}/aud",
            param_names={"scope": None},
            error_paths=["errors.{code}"],
        ),
    ).descriptor(host="a.example", account="7", code="0")
    assert described == ProviderDescriptor(
        "demo:a.example:7",
        "https://a.example/7/token",
        {"authorization_code"},
        authorization_endpoint="https://a.example/authorize",
        issuer="https://a.example",
        authorization_params={"account": "7"},
        grant_params={"authorization_code": {"account_id": "7"}},
        token_headers={"X-Account": "id=7"},
        default_expires_in=timedelta(hours=1),
        quirks=ProviderQuirks(
            assertion_audience="https://a.example/aud", param_names={"scope": None}, error_paths=["errors.0"]
        ),
    )


def test_a_value_is_not_filled_again() -> None:
    """A text that looks like a variable stays a text."""
    described = ProviderTemplate(
        "demo",
        variables={"one": "text", "two": "text"},
        token_endpoint="https://example.com/token",
        grants=["client_credentials"],
        token_params={"one": "{one}", "two": "{two}"},
    )
    filled = described.descriptor(one="{two}", two="secret")
    assert dict(filled.token_params) == {"one": "{two}", "two": "secret"}


def test_one_template_makes_many_descriptors() -> None:
    """Filling it changes nothing in it."""
    described = template("host")
    first = described.descriptor(place="a.example")
    assert described.descriptor(place="b.example").token_endpoint == "https://b.example/oauth2/token"
    assert described.descriptor(place="a.example") == first


# What is declared


def test_a_variable_that_is_not_declared_is_refused() -> None:
    """Otherwise its braces would go to the provider."""
    with pytest.raises(ConfigError, match=r"demo: the variable host is used but not declared"):
        ProviderTemplate(
            "demo", variables={}, token_endpoint="https://{host}/token", grants=["refresh_token"]
        )


def test_a_variable_that_nothing_uses_is_refused() -> None:
    """A value that is asked for does something."""
    with pytest.raises(ConfigError, match="other is declared but not used"):
        ProviderTemplate(
            "demo",
            variables={"place": "host", "other": "label"},
            token_endpoint="https://{place}/token",
            grants=["refresh_token"],
        )


@pytest.mark.parametrize("kind", ["", "url", "HOST", None, 5])
def test_a_kind_is_one_of_those_there_are(kind: Any) -> None:
    """The error lists them."""
    with pytest.raises(ConfigError, match=r"kind of place.*base_url|variables maps strings"):
        ProviderTemplate("demo", variables={"place": kind}, token_endpoint="https://{place}/", grants=["x"])


def test_a_default_is_of_a_variable() -> None:
    """A slip of the pen in a name is found when the template is made."""
    with pytest.raises(ConfigError, match="default for plaec"):
        template("host", defaults={"plaec": "a.example"})


def test_a_missing_value_and_one_too_many_are_named() -> None:
    """With the kind that is wanted, and the variables that there are."""
    with pytest.raises(ConfigError, match=r"demo needs a value for place \(host\)"):
        template("host").descriptor()
    with pytest.raises(ConfigError, match="demo has no variable palce; it has place"):
        template("host").descriptor(palce="a.example")


@pytest.mark.parametrize(
    ("kind", "url"),
    [
        ("text", "https://example.com/{place}/token"),
        ("text", "https://{place}/token"),
        ("segment", "https://{place}/token"),
        ("segment", "https://{place}.example.com/token"),
        ("segment", "{place}/token"),
        ("version", "https://{place}.example.com/token"),
        ("host", "https://example.com/{place}/token"),
        ("host", "{place}/token"),
        ("label", "{place}://example.com/token"),
        ("base_url", "https://{place}/token"),
        ("base_url", "https://example.com/{place}/token"),
        ("base_url", "{place}.example.com/token"),
        ("base_url", "{place}oauth/token"),
    ],
)
@pytest.mark.parametrize("field", ["token_endpoint", "refresh_endpoint", "issuer"])
def test_a_kind_that_could_say_more_than_its_place_is_refused(kind: str, url: str, field: str) -> None:
    """A segment may be ``evil.example``, which is no harm in a path and all of it in a host."""
    with pytest.raises(ConfigError, match=rf"{field}: a {kind} such as place does not fit"):
        template(kind, **{"token_endpoint": "https://example.com/token", field: url})


@pytest.mark.parametrize("url", ["https://example.com/{ten-ant}/{place}", "https://example.com/{}/{place}"])
def test_a_brace_of_no_variable_is_refused(url: str) -> None:
    """It would go to the provider as it is."""
    with pytest.raises(ConfigError, match="token_endpoint: a brace"):
        template("segment", token_endpoint=url)


def test_a_template_is_checked_as_a_descriptor_when_it_is_filled() -> None:
    """What a descriptor refuses, a template does not let through."""
    with pytest.raises(ConfigError, match="authorization_endpoint"):
        template("host", grants=["authorization_code"]).descriptor(place="a.example")


def test_the_repr_of_a_template_shows_its_name_only() -> None:
    """Its fields may hold an operator's keys."""
    shown = repr(template("host", token_params={"api_key": "s3cr3t"}))
    assert re.fullmatch(r"ProviderTemplate\('demo'\)", shown)


def test_a_template_cannot_be_changed() -> None:
    """Presets are shared by the whole process."""
    template: Any = ProviderTemplate(
        "idp",
        variables={"host": "host"},
        token_endpoint="https://{host}/token",
        grants=["client_credentials"],
    )
    for name in ("id", "variables", "defaults", "note"):
        with pytest.raises(AttributeError):
            setattr(template, name, "other")
    with pytest.raises(AttributeError):
        del template.id
    assert template.descriptor(host="a.example.com").id == "idp:a.example.com"


def test_a_field_that_there_is_not_is_refused_when_the_template_is_made() -> None:
    """A slip of the pen is a ConfigError that names it, and no TypeError later."""
    with pytest.raises(ConfigError, match="token_endpont"):
        ProviderTemplate("idp", variables={"host": "host"}, token_endpont="https://{host}/token")
