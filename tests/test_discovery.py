"""Describing a provider by its own metadata (RFC 8414, OpenID Connect Discovery 1.0)."""

from __future__ import annotations

import itertools
import json
import pickle
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
from hypothesis import example, given, settings, strategies as st

from oauth2broker import (
    Broker,
    BrokerError,
    ClientAuthMethod,
    ConfigError,
    GrantType,
    HttpRequest,
    HttpResponse,
    PkceSupport,
    ProviderDescriptor,
    RequestsHttpClient,
    ResponseMetadata,
    ResponseMetadataSlot,
    RotationPolicy,
    TransientError,
    TransportError,
)
from oauth2broker.testing import LoopbackProvider
from tests.support import USER_REQUEST, ManualClock, log_in
from tests.transport.sockets import (
    CONNECT,
    TOTAL,
    Peer,
    Script,
    SocketServer,
    after_request,
    answer,
    answering,
    closed_port,
    failure_of,
    make_certificate,
)

ISSUER = "https://id.example.com"
RFC8414 = f"{ISSUER}/.well-known/oauth-authorization-server"
OPENID = f"{ISSUER}/.well-known/openid-configuration"
BASIC, POST, JWT = "client_secret_basic", "client_secret_post", "private_key_jwt"
MINIMAL = {
    "issuer": ISSUER,
    "authorization_endpoint": f"{ISSUER}/authorize",
    "token_endpoint": f"{ISSUER}/token",
}
ENDPOINTS = [
    "authorization_endpoint",
    "token_endpoint",
    "revocation_endpoint",
    "introspection_endpoint",
    "device_authorization_endpoint",
]


@dataclass
class Web:
    """A transport over ``pages``: by URL, a document to give with 200, or a whole answer. 404 elsewhere."""

    pages: Mapping[str, Any]
    asked: list[HttpRequest] = field(default_factory=list)

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        """Answer from the pages."""
        self.asked.append(request)
        page = self.pages.get(request.url, HttpResponse(404, {}, b"no such page"))
        return page if isinstance(page, HttpResponse) else HttpResponse(200, {}, json.dumps(page).encode())

    @property
    def urls(self) -> list[str]:
        """What was asked for."""
        return [request.url for request in self.asked]


def described(members: Mapping[str, Any], **options: Any) -> ProviderDescriptor:
    """Discover ``ISSUER``, whose document is the minimal one with ``members``."""
    return ProviderDescriptor.discover(ISSUER, http_client=Web({RFC8414: {**MINIMAL, **members}}), **options)


def refused(members: Mapping[str, Any], **options: Any) -> str:
    """Give why a document cannot be used."""
    error = failure_of(lambda: described(members, **options))
    assert isinstance(error, ConfigError)
    return str(error)


# What a document says.


def test_a_document_describes_the_provider() -> None:
    """Endpoints, grants, client authentication, PKCE and issuer are taken; what we do not know is ignored."""
    found = described(
        {
            "revocation_endpoint": f"{ISSUER}/revoke",
            "introspection_endpoint": f"{ISSUER}/introspect",
            "device_authorization_endpoint": f"{ISSUER}/device",
            "jwks_uri": 5,
            "response_types_supported": None,
            "grant_types_supported": ["authorization_code", "implicit", "client_credentials", "urn:x"],
            "token_endpoint_auth_methods_supported": [POST, BASIC, "session_cookie", JWT],
            "code_challenge_methods_supported": ["plain", "S256"],
            "authorization_response_iss_parameter_supported": True,
        }
    )
    assert found == ProviderDescriptor(
        "id.example.com",
        f"{ISSUER}/token",
        {GrantType.AUTHORIZATION_CODE, GrantType.REFRESH_TOKEN, GrantType.CLIENT_CREDENTIALS},
        authorization_endpoint=f"{ISSUER}/authorize",
        revocation_endpoint=f"{ISSUER}/revoke",
        introspection_endpoint=f"{ISSUER}/introspect",
        device_authorization_endpoint=f"{ISSUER}/device",
        issuer=ISSUER,
        client_auth=BASIC,
        client_auth_also={POST, JWT},
        pkce=PkceSupport.SUPPORTED,
        iss_required=True,
    )
    assert pickle.loads(pickle.dumps(found)) == found


def test_a_document_of_three_members_is_read_by_the_rfcs_defaults() -> None:
    """RFC 8414 section 2: grant authorization_code, method client_secret_basic; of PKCE nothing is known."""
    assert described({}) == ProviderDescriptor(
        "id.example.com",
        f"{ISSUER}/token",
        {GrantType.AUTHORIZATION_CODE, GrantType.REFRESH_TOKEN},
        authorization_endpoint=f"{ISSUER}/authorize",
        issuer=ISSUER,
        client_auth=BASIC,
    )


def test_null_says_nothing() -> None:
    """A member that is null counts as absent, which is how some documents put it."""
    unsaid = dict.fromkeys(
        [
            "revocation_endpoint",
            "grant_types_supported",
            "token_endpoint_auth_methods_supported",
            "code_challenge_methods_supported",
            "authorization_response_iss_parameter_supported",
        ]
    )
    assert described(unsaid) == described({})


@pytest.mark.parametrize(
    ("issuer", "id"),
    [
        ("https://id.example.com", "id.example.com"),
        ("https://acme.example.com/", "acme.example.com"),
        ("https://id.example.com:8443/realms/acme", "id.example.com:8443/realms/acme"),
    ],
)
def test_the_id_is_the_issuer_without_its_scheme(issuer: str, id: str) -> None:  # noqa: A002
    """Two realms of one host are two registrations; an id of one's own goes before."""
    web = Web({OPENID: {**MINIMAL, "issuer": issuer}})
    found = ProviderDescriptor.discover(issuer, metadata_url=OPENID, http_client=web)
    assert (found.id, found.issuer) == (id, issuer)
    assert ProviderDescriptor.discover(issuer, id="mine", metadata_url=OPENID, http_client=web).id == "mine"


CODE, REFRESH, SERVICE = GrantType


@pytest.mark.parametrize(
    ("listed", "browser", "grants"),
    [
        (None, True, {CODE, REFRESH}),
        (["authorization_code"], True, {CODE, REFRESH}),
        (["implicit", "client_credentials"], True, {SERVICE}),
        (["authorization_code", "client_credentials"], False, {SERVICE}),
        (["authorization_code", "refresh_token"], False, {REFRESH}),
        ([5, None, [], {}, "client_credentials"], True, {SERVICE}),
    ],
)
def test_grants_are_those_we_know(listed: Any, browser: bool, grants: set[GrantType]) -> None:
    """refresh_token comes with authorization_code, which needs a place to send the user to."""
    members = {"grant_types_supported": listed} if browser else {"authorization_endpoint": None}
    assert described({**members, "grant_types_supported": listed}).grants == grants


@pytest.mark.parametrize("listed", [[], ["implicit"], [None], None])
def test_a_document_without_a_grant_for_us_says_what_to_override(listed: Any) -> None:
    """Where nothing is left that the broker can do, grants must be given."""
    members = {"grant_types_supported": listed, "authorization_endpoint": None}
    assert "give grants" in refused(members)
    assert described(members, grants={"client_credentials"}).grants == {SERVICE}


@pytest.mark.parametrize(
    ("listed", "preferred", "also"),
    [
        (None, BASIC, set()),
        ([BASIC], BASIC, set()),
        ([JWT, POST, BASIC], BASIC, {JWT, POST}),
        ([POST, JWT], POST, {JWT}),
        (["none", POST], POST, {"none"}),
        (["none"], "none", set()),
        (["client_secret_basic ", "CLIENT_SECRET_POST", JWT, JWT], JWT, set()),
        (["tls_client_auth", 5, None, {}], "tls_client_auth", set()),
        (["kerberos"], None, set()),
        ([], None, set()),
    ],
)
def test_client_authentication_is_the_first_method_we_know(
    listed: Any, preferred: str | None, also: set[str]
) -> None:
    """client_secret_basic where it is listed, else the first; where none is known, any credential goes."""
    found = described({"token_endpoint_auth_methods_supported": listed})
    assert found.client_auth == preferred
    assert found.client_auth_also == also


@pytest.mark.parametrize("endpoint", ["revocation", "introspection"])
@pytest.mark.parametrize(
    ("listed", "method"),
    [
        (None, None),
        ([BASIC, POST], None),
        ([POST], POST),
        (["kerberos", JWT, POST], JWT),
        (["none", POST], POST),
        (["kerberos"], None),
        ([], None),
    ],
)
def test_an_endpoint_that_takes_other_methods_is_noted(
    endpoint: str, listed: Any, method: str | None
) -> None:
    """Where the preferred method does not do, the endpoint gets one that does."""
    found = described({f"{endpoint}_endpoint_auth_methods_supported": listed})
    assert found.endpoint_client_auth == ({} if method is None else {endpoint: method})


def test_the_method_that_endpoints_differ_from_may_be_an_override() -> None:
    """An overridden client_auth is what the other endpoints are compared with."""
    members = {"revocation_endpoint_auth_methods_supported": [POST]}
    assert described(members, client_auth=POST).endpoint_client_auth == {}
    assert described(members, client_auth=None).endpoint_client_auth == {"revocation": POST}


@pytest.mark.parametrize(
    ("listed", "pkce"),
    [
        (None, PkceSupport.UNKNOWN),
        (["S256"], PkceSupport.SUPPORTED),
        (["plain"], PkceSupport.UNSUPPORTED),
        ([], PkceSupport.UNSUPPORTED),
        ([["S256"]], PkceSupport.UNSUPPORTED),
    ],
)
def test_pkce_is_what_the_document_says(listed: Any, pkce: PkceSupport) -> None:
    """We send S256; where a document is silent it is sent all the same."""
    assert described({"code_challenge_methods_supported": listed}).pkce is pkce


def test_client_certificates_have_endpoints_of_their_own() -> None:
    """RFC 8705 section 5: aliases replace what they name, but not where the browser goes."""
    members = {
        "revocation_endpoint": f"{ISSUER}/revoke",
        "mtls_endpoint_aliases": {
            "token_endpoint": "https://mtls.example.com/token",
            "authorization_endpoint": "https://mtls.example.com/authorize",
            "revocation_endpoint": None,
        },
    }
    found = described(members, mutual_tls=True)
    assert found.token_endpoint == "https://mtls.example.com/token"
    assert (found.authorization_endpoint, found.revocation_endpoint) == (
        f"{ISSUER}/authorize",
        f"{ISSUER}/revoke",
    )
    assert described(members).token_endpoint == f"{ISSUER}/token"
    assert described({}, mutual_tls=True) == described({})


# Where it is looked for.


@pytest.mark.parametrize(
    ("issuer", "urls"),
    [
        (ISSUER, [RFC8414, OPENID]),
        (f"{ISSUER}/", [RFC8414, OPENID]),
        (
            f"{ISSUER}:8443/realms/acme/",
            [
                f"{ISSUER}:8443/.well-known/oauth-authorization-server/realms/acme",
                f"{ISSUER}:8443/realms/acme/.well-known/openid-configuration",
            ],
        ),
    ],
)
@pytest.mark.parametrize(
    "missing",
    [
        HttpResponse(404, {}, b""),
        HttpResponse(403, {}, json.dumps(MINIMAL).encode()),
        HttpResponse(204, {}, b""),
        HttpResponse(200, {}, b"<!doctype html>"),
        HttpResponse(200, {}, b"[]"),
        HttpResponse(200, {}, b"\xff\xfe\xff"),
        HttpResponse(200, {}, b"[" * 100_000),
        HttpResponse(200, {}, b'{"issuer": ' + b"9" * 10_000),
    ],
    ids=["404", "403", "204", "HTML", "list", "no text", "deep", "long number"],
)
def test_the_rfc_8414_place_is_tried_first_then_openid(
    issuer: str, urls: list[str], missing: HttpResponse
) -> None:
    """Where the first place has no document, the second is asked; a slash at the end is in neither."""
    web = Web({urls[0]: missing, urls[1]: {**MINIMAL, "issuer": issuer}})
    assert ProviderDescriptor.discover(issuer, http_client=web).issuer == issuer
    assert web.urls == urls
    first = Web({urls[0]: {**MINIMAL, "issuer": issuer}})
    assert ProviderDescriptor.discover(issuer, http_client=first).issuer == issuer
    assert first.urls == urls[:1]


def test_a_document_that_is_nowhere_is_an_error_that_names_the_places() -> None:
    """The operator sees both URLs and what each answered, and how to name another."""
    web = Web({RFC8414: HttpResponse(410, {}, b""), OPENID: HttpResponse(200, {}, b"hello")})
    error = failure_of(lambda: ProviderDescriptor.discover(ISSUER, http_client=web))
    assert isinstance(error, ConfigError)
    for part in (f"{RFC8414} gave HTTP 410", f"{OPENID} gave no JSON object", "metadata_url"):
        assert part in str(error)


def test_a_metadata_url_is_the_only_place_asked() -> None:
    """With metadata_url neither well-known place is tried, found or not."""
    place = "https://cdn.example.com/meta?tenant=acme"
    web = Web({place: MINIMAL})
    assert ProviderDescriptor.discover(ISSUER, metadata_url=place, http_client=web) == described({})
    lost = Web({RFC8414: MINIMAL})
    with pytest.raises(ConfigError, match=r"cdn\.example\.com.* gave HTTP 404"):
        ProviderDescriptor.discover(ISSUER, metadata_url=place, http_client=lost)
    assert web.urls == lost.urls == [place]


def test_the_document_is_asked_for_plainly() -> None:
    """One GET without credentials, to public addresses only unless private ones are allowed."""
    for allow_private in (False, True):
        web = Web({RFC8414: MINIMAL})
        ProviderDescriptor.discover(ISSUER, http_client=web, allow_private=allow_private)
        [request] = web.asked
        assert (request.method, request.headers, request.body) == ("GET", {"Accept": "application/json"}, b"")
        assert request.public_only is not allow_private


@pytest.mark.parametrize("status", [429, 500, 503, 599])
def test_a_provider_in_trouble_is_a_transient_error(status: int) -> None:
    """The second place is not asked: the first may have a document when it is well again."""
    web = Web({RFC8414: HttpResponse(status, {"Retry-After": "7"}, b""), OPENID: MINIMAL})
    error = failure_of(lambda: ProviderDescriptor.discover(ISSUER, http_client=web))
    assert isinstance(error, TransientError)
    assert (error.status, error.retry_after, web.urls) == (status, 7.0, [RFC8414])


# Whose document it is.


@pytest.mark.parametrize(
    "stated",
    [
        "https://id.example.com/",
        "https://ID.example.com",
        "http://id.example.com",
        "https://evil.example.com",
        "",
        None,
        5,
        [ISSUER],
    ],
)
def test_a_document_of_another_issuer_is_refused(stated: Any) -> None:
    """RFC 8414 section 3.3: identical, not alike; the error shows both."""
    problem = refused({"issuer": stated})
    assert f"the issuer {ISSUER}, " in problem
    assert f"names {stated if isinstance(stated, str) and stated else 'none'};" in problem


def test_what_a_document_calls_itself_is_shown_safely() -> None:
    """A hostile issuer fills no log and breaks no line."""
    problem = refused({"issuer": "evil\r\nINFO all is well\x1b[2J\ud800" + "x" * 5000})
    assert problem.isprintable()
    assert len(problem) < 500


def test_a_known_misstatement_is_named_exactly() -> None:
    """stated_issuer replaces what the document must say, not what the provider is called."""
    stated = "https://login.example.com/{tenantid}"
    assert described({"issuer": stated}, stated_issuer=stated) == described({})
    assert stated in refused({}, stated_issuer=stated)
    assert refused({"issuer": "https://evil.example.com"}, stated_issuer=stated)


@pytest.mark.parametrize(
    "issuer",
    [
        "http://id.example.com",
        "https://id.example.com?tenant=acme",
        "https://id.example.com/?",
        "https://id.example.com#here",
        "https://bob:hunter2@id.example.com",
        "https://",
        "id.example.com",
        "",
        None,
        5,
    ],
)
def test_an_issuer_that_cannot_be_one_is_refused_before_anything_is_sent(issuer: Any) -> None:
    """RFC 8414 section 2: https, no query, no fragment."""
    web = Web({})
    error = failure_of(lambda: ProviderDescriptor.discover(issuer, http_client=web, allow_private=True))
    assert isinstance(error, ConfigError)
    assert web.asked == []
    assert "hunter2" not in str(error)


# Private addresses.

PRIVATE_HOSTS = [
    "localhost",
    "LOCALHOST",
    "localhost.",
    "idp.localhost",
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "2130706433",
    "0x7f.0.0.1",
    "017700000001",
    "10.1.2.3",
    "100.64.0.1",
    "169.254.169.254",
    "224.0.0.1",
    "0.0.0.0",
    "[::1]",
    "[::]",
    "[::ffff:10.0.0.1]",
    "[64:ff9b::a00:1]",
    "[fd00::1]",
]


@pytest.mark.parametrize("host", PRIVATE_HOSTS)
def test_a_private_address_is_refused_wherever_it_is_written(host: str) -> None:
    """In the issuer, the metadata_url and the document's endpoints, however it is spelled."""
    inside = f"https://{host}/x"
    web = Web({inside: MINIMAL})
    for issuer, place in ((inside, None), (ISSUER, inside)):
        with pytest.raises(ConfigError, match="allow_private"):
            ProviderDescriptor.discover(issuer, metadata_url=place, http_client=web)
    assert web.asked == []
    for name in ENDPOINTS:
        assert f"metadata's {name}" in refused({name: inside})


@pytest.mark.parametrize("host", [host for host in PRIVATE_HOSTS if "%" not in host])
def test_private_addresses_can_be_allowed(host: str) -> None:
    """For a provider of one's own, in one's own network."""
    inside = f"https://{host}/x"
    assert described({"token_endpoint": inside}, allow_private=True).token_endpoint == inside
    web = Web({inside: {**MINIMAL, "issuer": inside}})
    found = ProviderDescriptor.discover(inside, metadata_url=inside, http_client=web, allow_private=True)
    assert found.issuer == inside


@pytest.mark.parametrize("host", ["8.8.8.8", "[2606:4700::1111]", "10.example.com", "localhost.example.com"])
def test_public_addresses_and_names_are_taken(host: str) -> None:
    """A name is judged by the address it has when it is connected to."""
    assert described({"token_endpoint": f"https://{host}/x"}).token_endpoint == f"https://{host}/x"


def test_what_is_overridden_or_not_used_may_be_private() -> None:
    """Overrides are the operator's words; an alias counts only where it is asked for."""
    inside = "https://10.0.0.1/token"
    aliases = {"mtls_endpoint_aliases": {"token_endpoint": inside}}
    assert described({"token_endpoint": inside}, token_endpoint=f"{ISSUER}/t").token_endpoint == f"{ISSUER}/t"
    assert described({}, token_endpoint=inside).token_endpoint == inside
    assert described(aliases) == described({})
    assert "mtls_endpoint_aliases.token_endpoint" in refused(aliases, mutual_tls=True)


# Documents that are wrong, and what mends them.


@pytest.mark.parametrize("name", ENDPOINTS)
@pytest.mark.parametrize(
    "value", ["http://id.example.com/x", "/x", "", "https://id.example.com/x#y", "https://[", 5, [], {}, True]
)
def test_an_endpoint_that_is_wrong_is_named_and_can_be_overridden(name: str, value: Any) -> None:
    """Silently ignored it would be missed later; overridden it does not matter."""
    assert f"metadata's {name}" in refused({name: value})
    mended = described({name: value}, **{name: f"{ISSUER}/mended"})
    assert getattr(mended, name) == f"{ISSUER}/mended"
    if name not in {"token_endpoint", "authorization_endpoint"}:
        assert getattr(described({name: value}, **{name: None}), name) is None


MENDS: Mapping[str, tuple[dict[str, Any], Mapping[str, Any]]] = {
    "grant_types_supported": ({"grants": {"client_credentials"}}, {"grants": {SERVICE}}),
    "token_endpoint_auth_methods_supported": ({"client_auth": POST}, {"client_auth": POST}),
    "revocation_endpoint_auth_methods_supported": ({"endpoint_client_auth": None}, {}),
    "introspection_endpoint_auth_methods_supported": ({"endpoint_client_auth": None}, {}),
    "code_challenge_methods_supported": ({"pkce": "required"}, {"pkce": PkceSupport.REQUIRED}),
    "authorization_response_iss_parameter_supported": ({"iss_required": True}, {"iss_required": True}),
}


@pytest.mark.parametrize("name", MENDS)
@pytest.mark.parametrize("value", ["S256", 5, {"client_secret_basic": 1}, 1.5])
def test_a_member_of_the_wrong_type_is_named_and_can_be_overridden(name: str, value: Any) -> None:
    """What is read from it can be said by hand, and then it is not read."""
    assert f"metadata's {name} is not" in refused({name: value})
    overrides, expected = MENDS[name]
    mended = described({name: value}, **overrides)
    assert {field: getattr(mended, field) for field in expected} == expected


def test_aliases_of_the_wrong_type_are_named() -> None:
    """They matter only where they are asked for."""
    values: list[Any] = [[], "https://id.example.com/token", 5]
    for value in values:
        assert "mtls_endpoint_aliases is not" in refused({"mtls_endpoint_aliases": value}, mutual_tls=True)
        assert described({"mtls_endpoint_aliases": value}) == described({})


def test_a_document_without_a_token_endpoint_says_so() -> None:
    """It is the one endpoint that no provider can be without."""
    assert "no token_endpoint" in refused({"token_endpoint": None})


def test_an_override_of_the_preferred_method_does_away_with_the_list() -> None:
    """Whoever knows the method better than the document does not want its other methods either."""
    members = {"token_endpoint_auth_methods_supported": [BASIC, JWT]}
    found = described(members, client_auth=POST)
    assert (found.client_auth, found.client_auth_also) == (POST, frozenset())
    both = described(members, client_auth=POST, client_auth_also=[JWT])
    assert both.client_auth_also == {ClientAuthMethod.PRIVATE_KEY_JWT}
    assert described(members, client_auth_also=[]).client_auth == BASIC


def test_an_override_names_a_field() -> None:
    """A misspelled override is refused before anything is sent, and any real field can be overridden."""
    web = Web({RFC8414: MINIMAL})
    with pytest.raises(ConfigError, match="'token_url'"):
        ProviderDescriptor.discover(ISSUER, http_client=web, token_url=f"{ISSUER}/token")
    assert web.asked == []
    found = described({}, scope_delimiter=",", rotation="always", token_headers={"Accept": "text/plain"})
    assert (found.scope_delimiter, found.rotation) == (",", RotationPolicy.ALWAYS)
    assert found.token_headers == {"Accept": "text/plain"}


@pytest.mark.parametrize("wrong", [{"grants": 5}, {"client_auth": []}, {"pkce": None}, {"strategy": "x"}])
def test_an_override_is_checked_like_the_field(wrong: dict[str, Any]) -> None:
    """An override of the wrong type is a ConfigError, whatever it would have replaced."""
    assert refused({}, **wrong)


@dataclass(frozen=True)
class Defect:
    """A document of a known shape, what is asked of ``discover``, and what comes out of it."""

    issuer: str
    document: Mapping[str, Any]
    options: Mapping[str, Any]
    expected: Mapping[str, Any]
    place: str | None = None
    fails_without: bool = True


def entra(tenant: str) -> dict[str, str]:
    base = f"https://login.microsoftonline.com/{tenant}"
    return {
        "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
        "token_endpoint": f"{base}/oauth2/v2.0/token",
    }


PAYPAL = {
    "authorization_endpoint": "https://www.paypal.com/signin/authorize",
    "token_endpoint": "https://api-m.paypal.com/v1/oauth2/token",
    "revocation_endpoint": "https://api-m.paypal.com/v1/oauth2/revoke",
}
PAYPAL_SANDBOX = {
    "authorization_endpoint": "https://www.sandbox.paypal.com/signin/authorize",
    "token_endpoint": "https://api-m.sandbox.paypal.com/v1/oauth2/token",
    "revocation_endpoint": "https://api-m.sandbox.paypal.com/v1/oauth2/revoke",
}
QUICKBOOKS_PLACE = "https://developer.api.intuit.com/.well-known/openid_configuration"
WEBEX_PLACE = "https://webexapis.com/v1/.well-known/openid-configuration"
DEFECTS = {
    "microsoft: a placeholder in the issuer, and no PKCE": Defect(
        "https://login.microsoftonline.com/common/v2.0",
        {"issuer": "https://login.microsoftonline.com/{tenantid}/v2.0", **entra("common")},
        {"stated_issuer": "https://login.microsoftonline.com/{tenantid}/v2.0", "pkce": "supported"},
        {**entra("common"), "pkce": "supported", "issuer": "https://login.microsoftonline.com/common/v2.0"},
    ),
    "webex: the issuer of a region": Defect(
        "https://www.webex.com/",
        {
            "issuer": "https://region.example.com/idb",
            "authorization_endpoint": "https://webexapis.com/v1/authorize",
            "token_endpoint": "https://webexapis.com/v1/access_token",
        },
        {
            "metadata_url": WEBEX_PLACE,
            "stated_issuer": "https://region.example.com/idb",
            "client_auth": POST,
        },
        {"token_endpoint": "https://webexapis.com/v1/access_token", "client_auth": POST},
        WEBEX_PLACE,
    ),
    "quickbooks: a path of its own": Defect(
        "https://oauth.platform.intuit.com/op/v1",
        {
            "issuer": "https://oauth.platform.intuit.com/op/v1",
            "authorization_endpoint": "https://appcenter.intuit.com/connect/oauth2",
            "token_endpoint": "https://oauth.platform.intuit.com/oauth2/v1/tokens/bearer",
            "token_endpoint_auth_methods_supported": [POST, BASIC],
        },
        {"metadata_url": QUICKBOOKS_PLACE},
        {"grants": {CODE, REFRESH}, "client_auth": BASIC, "client_auth_also": {POST}},
        QUICKBOOKS_PLACE,
    ),
    "paypal's sandbox: the URLs of production": Defect(
        "https://www.sandbox.paypal.com",
        {"issuer": "https://www.paypal.com", **PAYPAL},
        {"stated_issuer": "https://www.paypal.com", **PAYPAL_SANDBOX},
        {**PAYPAL_SANDBOX, "issuer": "https://www.sandbox.paypal.com"},
    ),
    "docusign: scopes in their own case, no refresh_token, no PKCE": Defect(
        "https://account.docusign.com/",
        {
            "issuer": "https://account.docusign.com/",
            "authorization_endpoint": "https://account.docusign.com/oauth/auth",
            "token_endpoint": "https://account.docusign.com/oauth/token",
            "scopes_supported": ["signature", "OpenId"],
            "grant_types_supported": ["authorization_code"],
        },
        {"pkce": "supported"},
        {"grants": {CODE, REFRESH}, "pkce": "supported"},
        fails_without=False,
    ),
    "linkedin: no methods, where the default would be wrong": Defect(
        "https://www.linkedin.com/oauth",
        {
            "issuer": "https://www.linkedin.com/oauth",
            "authorization_endpoint": "https://www.linkedin.com/oauth/v2/authorization",
            "token_endpoint": "https://www.linkedin.com/oauth/v2/accessToken",
        },
        {"client_auth": POST, "pkce": "unsupported"},
        {"client_auth": POST, "client_auth_also": set(), "pkce": "unsupported"},
        fails_without=False,
    ),
    "apple: no methods, grants or PKCE": Defect(
        "https://appleid.apple.com",
        {
            "issuer": "https://appleid.apple.com",
            "authorization_endpoint": "https://appleid.apple.com/auth/authorize",
            "token_endpoint": "https://appleid.apple.com/auth/token",
            "revocation_endpoint": "https://appleid.apple.com/auth/revoke",
        },
        {"client_auth": POST, "pkce": "supported"},
        {"client_auth": POST, "client_auth_also": set(), "pkce": "supported", "grants": {CODE, REFRESH}},
        fails_without=False,
    ),
    "auth0: a slash at the end of the issuer": Defect(
        "https://acme.auth0.com/",
        {
            "issuer": "https://acme.auth0.com/",
            "authorization_endpoint": "https://acme.auth0.com/authorize",
            "token_endpoint": "https://acme.auth0.com/oauth/token",
        },
        {},
        {"issuer": "https://acme.auth0.com/", "id": "acme.auth0.com"},
        fails_without=False,
    ),
    "atlassian: methods that are wrong": Defect(
        "https://auth.atlassian.com",
        {
            "issuer": "https://auth.atlassian.com",
            "authorization_endpoint": "https://auth.atlassian.com/authorize",
            "token_endpoint": "https://auth.atlassian.com/oauth/token",
            "token_endpoint_auth_methods_supported": [BASIC],
            "scopes_supported": ["openid"],
        },
        {"client_auth": POST, "resource_param": "audience", "rotation": "always"},
        {"client_auth": POST, "client_auth_also": set(), "resource_param": "audience"},
        fails_without=False,
    ),
}


@pytest.mark.parametrize("defect", DEFECTS.values(), ids=DEFECTS)
def test_known_defects_of_documents_can_be_mended(defect: Defect) -> None:
    """A document of the shape that is known of a provider, with what mends it, describes the provider."""
    place = defect.place or f"{defect.issuer.rstrip('/')}/.well-known/openid-configuration"
    web = Web({place: defect.document})
    found = ProviderDescriptor.discover(defect.issuer, http_client=web, **defect.options)
    assert {name: getattr(found, name) for name in defect.expected} == defect.expected
    if defect.fails_without:
        with pytest.raises(ConfigError):
            ProviderDescriptor.discover(defect.issuer, http_client=web)


def test_an_issuer_without_its_slash_is_refused_with_both_forms() -> None:
    """Where a provider's issuer ends in a slash, the error of one without it says so."""
    web = Web(
        {"https://acme.auth0.com/.well-known/openid-configuration": {"issuer": "https://acme.auth0.com/"}}
    )
    with pytest.raises(ConfigError, match=r"issuer https://acme\.auth0\.com, .* https://acme\.auth0\.com/;"):
        ProviderDescriptor.discover("https://acme.auth0.com", http_client=web)


# Transports and documents of any kind.


class OddError(BrokerError):
    """An error of somebody's transport, with a constructor of its own."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"{host}:{port}")


class LiarError(Exception):
    """An error that cannot even be looked at."""

    @property
    def reason(self) -> object:
        raise RuntimeError("no reason")


def raising(error: Exception, cause: Exception | None = None) -> Callable[..., Any]:
    def act(slot: ResponseMetadataSlot) -> object:
        raise error from cause

    return act


def storing(metadata: Any, error: Exception) -> Callable[..., Any]:
    def act(slot: ResponseMetadataSlot) -> object:
        slot.store(metadata)
        raise error

    return act


@dataclass
class Puppet:
    """A transport that does what it is told."""

    act: Callable[[ResponseMetadataSlot], Any]

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        """Do it."""
        response: HttpResponse = self.act(metadata)
        return response


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (raising(ValueError("sec-ret")), TransportError),
        (raising(RecursionError("sec-ret")), TransportError),
        (raising(requests.Timeout("sec-ret")), TransientError),
        (raising(TransientError("down"), ValueError("sec-ret")), TransientError),
        (raising(OddError("host", 1)), OddError),
        (raising(LiarError("sec-ret")), TransportError),
        (storing(ResponseMetadata(503, 7.0), ValueError("sec-ret")), TransientError),
        (storing("nonsense", ValueError("sec-ret")), TransportError),
        (lambda slot: None, TransportError),
        (lambda slot: (200, b"{}"), TransportError),
        (lambda slot: HttpResponse(200, {}, "{}"), TransportError),  # type: ignore[arg-type]
        (lambda slot: HttpResponse("200", {}, b"{}"), TransportError),  # type: ignore[arg-type]
        (lambda slot: HttpResponse(10**5000, {}, b"{}"), TransportError),
        (lambda slot: HttpResponse(-1, {}, b"{}"), TransportError),
        (lambda slot: HttpResponse(302, {"Location": "http://10.0.0.1/"}, b""), ConfigError),
        (lambda slot: HttpResponse(200, {}, json.dumps(MINIMAL).encode().ljust(2**20 + 1)), ConfigError),
    ],
)
def test_whatever_a_transport_does_ends_in_a_broker_error(act: Callable[..., Any], kind: type) -> None:
    """It holds nothing of what the transport raised, neither text nor cause."""
    error = failure_of(lambda: ProviderDescriptor.discover(ISSUER, http_client=Puppet(act)))
    assert type(error) is kind
    assert "sec-ret" not in str(error)


def test_a_document_of_one_mebibyte_is_read() -> None:
    """The bound cuts nothing that keeps it."""
    body = json.dumps(MINIMAL).encode()
    web = Web({RFC8414: HttpResponse(200, {}, body.ljust(2**20))})
    assert ProviderDescriptor.discover(ISSUER, http_client=web) == described({})


URLS = st.sampled_from(
    ["https://id.example.com/x", "https://10.0.0.1", "http://[::1", "https://a:b", "//", "#"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | URLS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
WORDS = st.lists(JSON | st.sampled_from([BASIC, POST, "none", "S256", "authorization_code"]), max_size=4)
DOCUMENTS = JSON | st.fixed_dictionaries(
    {"issuer": st.just(ISSUER)},
    optional={
        **dict.fromkeys(ENDPOINTS, JSON | URLS),
        **dict.fromkeys(MENDS, JSON | WORDS),
        "mtls_endpoint_aliases": JSON | st.dictionaries(st.sampled_from(ENDPOINTS), JSON | URLS),
    },
)


def outcome(body: bytes, status: int = 200, **options: Any) -> ProviderDescriptor | BrokerError:
    try:
        web = Web(dict.fromkeys([RFC8414, OPENID], HttpResponse(status, {}, body)))
        return ProviderDescriptor.discover(ISSUER, http_client=web, **options)
    except BrokerError as error:
        return error


@settings(max_examples=300)
@given(DOCUMENTS, st.booleans(), st.booleans())
@example({**MINIMAL, "token_endpoint": "\ud800"}, False, False)
@example(MINIMAL, False, False)
def test_any_document_gives_a_descriptor_or_a_broker_error(
    document: Any, mutual_tls: bool, allow_private: bool
) -> None:
    """Any JSON value in any place: never another exception, and never an endpoint that may not be called."""
    body = json.dumps(document).encode()
    found = outcome(body, mutual_tls=mutual_tls, allow_private=allow_private)
    if isinstance(found, ProviderDescriptor):
        assert document["issuer"] == ISSUER
        urls = [url for url in (getattr(found, name) for name in ENDPOINTS) if url is not None]
        assert all(url.startswith("https://") for url in urls)
        assert allow_private or not any("10.0.0.1" in url for url in urls)


@given(st.binary() | st.text().map(str.encode), st.integers(100, 999))
def test_any_body_with_any_status_ends_in_a_broker_error(body: bytes, status: int) -> None:
    """What is no document is an error of ours."""
    assert isinstance(outcome(body, status), BrokerError)


# Over real sockets, with the default transport.


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def base_of(server: SocketServer) -> str:
    """Give the issuer that the server is."""
    return server.url.removesuffix("/token")


def metadata_of(issuer: str) -> bytes:
    return json.dumps({"issuer": issuer, "token_endpoint": f"{issuer}/token"}).encode()


def serving(documents: Mapping[str, Callable[[str], bytes]]) -> Script:
    """Give a script that answers by path; the Host header says who it is."""

    def script(peer: Peer) -> None:
        while request := peer.receive():
            make = documents.get(request.line.split()[1])
            issuer = f"http://{request.headers['Host']}"
            peer.send(answer(404, b"") if make is None else answer(200, make(issuer)))

    return script


def find(server: SocketServer, **options: Any) -> ProviderDescriptor:
    given = {"allow_private": True, "grants": {"client_credentials"}, **options}
    return ProviderDescriptor.discover(base_of(server), **given)


def test_the_default_transport_reads_a_document_and_leaves_no_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One GET to each place without credentials or cookies; the connection ends with the call."""
    made: list[RequestsHttpClient] = []  # so that none is closed by being forgotten

    class Remembered(RequestsHttpClient):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    monkeypatch.setattr("oauth2broker.transports.requests.RequestsHttpClient", Remembered)
    script = serving({"/.well-known/openid-configuration": metadata_of})
    with SocketServer(script) as server:
        assert find(server).token_endpoint == server.url
        server.settle()
    assert len(made) == server.connections == 1
    assert [request.line for request in server.requests] == [
        "GET /.well-known/oauth-authorization-server HTTP/1.1",
        "GET /.well-known/openid-configuration HTTP/1.1",
    ]
    for request in server.requests:
        assert request.headers["Accept"] == "application/json"
        assert not {"Authorization", "Cookie", "Content-Length"} & set(request.headers)


def test_a_transport_of_ones_own_trust_reads_a_document_over_tls(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """A private provider with a private CA: verify is the transport's; without it nothing is sent."""
    certificate = make_certificate(tmp_path_factory.mktemp("tls"))
    with SocketServer(Peer.await_departure, tls=certificate.context) as server:
        server.script = answering(answer(200, metadata_of(base_of(server))))
        client = RequestsHttpClient(verify=certificate.path)
        assert find(server, http_client=client).token_endpoint == server.url
        client.close()
        count = len(server.requests)
        error = failure_of(lambda: find(server))
    assert isinstance(error, TransportError)
    assert not error.sent
    assert len(server.requests) == count == 1


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    """Where it points is not asked; the other place is, and the error says what to do."""
    with SocketServer(answering(answer(200, b"{}"))) as elsewhere:
        redirect = answer(status, b"", {"Location": elsewhere.url})
        with SocketServer(answering(redirect)) as server:
            error = failure_of(lambda: find(server))
        assert elsewhere.connections == 0
    assert isinstance(error, ConfigError)
    assert f"gave a redirect (HTTP {status})" in str(error)
    assert "metadata_url" in str(error)
    assert len(server.requests) == 2


def test_a_network_failure_is_a_transport_error() -> None:
    """Where nobody listens nothing went out; a connection that dies is retryable as well."""
    issuer = f"http://127.0.0.1:{closed_port()}"
    error = failure_of(lambda: ProviderDescriptor.discover(issuer, allow_private=True))
    assert isinstance(error, TransportError)
    assert not error.sent
    with SocketServer(after_request(then=Peer.reset)) as server:
        assert isinstance(failure_of(lambda: find(server)), TransportError)


def test_a_document_without_end_is_cut() -> None:
    """An answer that goes over 1 MiB is read no further, and no retry would help."""
    head = answer(200, b"", {"Connection": "close"})
    flood = after_request(head, then=lambda peer: peer.drip(itertools.repeat(b" " * 65536), 0))
    with SocketServer(flood) as server:
        error = failure_of(lambda: find(server))
    assert isinstance(error, ConfigError)
    assert "1 MiB" in str(error)


@pytest.mark.parametrize("at_once", [b"", answer(200, b"{", {"Content-Length": "999"})], ids=["head", "body"])
def test_a_document_that_drips_is_cut_at_the_deadline(at_once: bytes) -> None:
    """The transport's total deadline holds for documents as well."""
    client = RequestsHttpClient(connect_timeout=CONNECT, total_timeout=TOTAL)
    drip = after_request(at_once, then=lambda peer: peer.drip(itertools.repeat(b" "), 0.02))
    with SocketServer(drip) as server:
        error = failure_of(lambda: find(server, http_client=client))
        client.close()
    assert isinstance(error, TransientError | TransportError)
    assert error.retryable


def test_a_name_that_leads_inside_is_refused_when_it_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """No DNS rebinding: the default transport checks the address that it connects to, and sends nothing."""
    resolve = socket.getaddrinfo
    asked: list[str] = []

    def rebound(host: str, port: int, *args: Any, **options: Any) -> Any:
        asked.append(host)
        return resolve("127.0.0.1", port, *args, **options)

    with SocketServer(answering(answer(200, b"{}"))) as server:
        monkeypatch.setattr(socket, "getaddrinfo", rebound)
        issuer = f"https://id.example.com:{server.port}"
        error = failure_of(lambda: ProviderDescriptor.discover(issuer))
        assert (server.connections, asked) == (0, ["id.example.com"])
    assert isinstance(error, ConfigError)
    assert "id.example.com" in str(error)
    assert "127.0.0.1" in str(error)


def test_loopback_is_private_too() -> None:
    """A document of this machine is not read unless that is allowed."""
    with SocketServer(serving({"/.well-known/openid-configuration": metadata_of})) as server:
        assert isinstance(failure_of(lambda: find(server, allow_private=False)), ConfigError)
        assert server.connections == 0


def test_a_user_logs_in_at_a_discovered_provider(provider: LoopbackProvider, clock: ManualClock) -> None:
    """What was discovered is all that a broker needs, from the login to the renewal."""
    document = {
        "issuer": provider.issuer,
        "authorization_endpoint": provider.authorization_endpoint,
        "token_endpoint": provider.token_endpoint,
        "revocation_endpoint": provider.revocation_endpoint,
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": True,
    }
    with SocketServer(answering(answer(200, json.dumps(document).encode()))) as server:
        found = ProviderDescriptor.discover(provider.issuer, metadata_url=server.url, allow_private=True)
    with Broker(found, "demo-client", "demo-secret", clock=clock) as broker:
        assert log_in(broker, provider).refresh_token is not None
        clock.advance(3600)
        broker.refresh_access_token(USER_REQUEST)
    assert [call.grant_type for call in provider.calls] == ["authorization_code", "refresh_token"]
