"""How a client proves who it is: what each method sends, and what keeps it from being sent."""

from __future__ import annotations

import base64
import json
import logging
import pickle
import ssl
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote_plus, urlsplit

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

from oauth2broker import (
    Broker,
    BrokerError,
    CachedTokenRequest,
    ClientAuthentication,
    ClientAuthMethod,
    ClientIdentity,
    ClientSecretBasic,
    ClientSecretJwt,
    ClientSecretPost,
    ConfigError,
    GrantType,
    HttpRequest,
    HttpResponse,
    InvalidClientError,
    MemoryStore,
    NoAuthentication,
    PrivateKeyJwt,
    ProviderDescriptor,
    ProviderQuirks,
    RequestDraft,
    RequestsHttpClient,
    ResponseMetadataSlot,
    TlsClientAuth,
    TokenHttpClient,
    TokenRecord,
    TokenSecret,
    TransientError,
)
from oauth2broker.client_auth.apple import AppleClientSecret
from tests.support import REDIRECT_URI, SCOPE, SERVICE_REQUEST, TENANT, USER, USER_REQUEST, Crowd, ManualClock
from tests.test_secrecy import Witness

ISSUER = "https://provider.example.com"
CLIENT_ID, SECRET = "my client:1", "s3cr%t+/: &=?~%41"
LONG_SECRET = "a-shared-secret-of-sixty-four-bytes-" + "x" * 28
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


def describe(**fields: Any) -> ProviderDescriptor:
    """Describe a provider with all endpoints; ``fields`` override."""
    standard: dict[str, Any] = {
        "authorization_endpoint": f"{ISSUER}/authorize",
        "token_endpoint": f"{ISSUER}/token",
        "revocation_endpoint": f"{ISSUER}/revoke",
        "issuer": ISSUER,
    }
    return ProviderDescriptor("example", grants=set(GrantType), **{**standard, **fields})


class Provider:
    """An HTTP stack that answers every token request, or does as told instead, and keeps what it was sent."""

    def __init__(self, *answers: HttpResponse | Exception) -> None:
        self.requests: list[HttpRequest] = []
        self._answers = list(answers)
        self._lock = threading.Lock()

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        """Answer with tokens that no other request got."""
        with self._lock:
            self.requests.append(request)
            number = len(self.requests)
            answer = self._answers.pop(0) if self._answers else None
        if isinstance(answer, Exception):
            raise answer
        return answer or token_answer(number)

    @property
    def forms(self) -> list[dict[str, str]]:
        """The parameters of each request."""
        return [form_of(request) for request in self.requests]


def token_answer(number: int = 0) -> HttpResponse:
    """Make a successful answer."""
    tokens = {"access_token": f"access-{number}", "refresh_token": f"refresh-{number}"}
    return HttpResponse(200, {}, json.dumps({**tokens, "token_type": "Bearer", "expires_in": 3600}).encode())


def error_answer(status: int, code: str, description: str = "") -> HttpResponse:
    """Make a refusal."""
    return HttpResponse(status, {}, json.dumps({"error": code, "error_description": description}).encode())


def form_of(request: HttpRequest) -> dict[str, str]:
    """Give a request's parameters, wherever they are."""
    if request.body.startswith(b"{"):
        return dict(json.loads(request.body))
    return dict(parse_qsl(request.body.decode() or urlsplit(request.url).query, keep_blank_values=True))


def basic_of(request: HttpRequest) -> str:
    """Give the decoded credentials of HTTP Basic."""
    scheme, credentials = request.headers["Authorization"].split(" ")
    assert scheme == "Basic"
    return base64.b64decode(credentials).decode()


def open_broker(provider: TokenHttpClient | None, secret: Any = None, **arguments: Any) -> Broker:
    """Make a broker of ``provider`` on a clock that stands still."""
    arguments = {"clock": ManualClock(), "http_client": provider, **arguments}
    descriptor = arguments.pop("descriptor", None) or describe()
    return Broker(descriptor, arguments.pop("client_id", CLIENT_ID), secret, **arguments)


def log_in(broker: Broker) -> TokenRecord:
    """Obtain the user's token."""
    return broker.exchange_code(broker.start_authorization(TENANT, USER, SCOPE, REDIRECT_URI), "code-1234")


def call_everything(broker: Broker) -> None:
    """Call the provider by every flow: code, refresh, client credentials, revocation."""
    log_in(broker)
    broker.refresh_access_token(USER_REQUEST.force_refresh())
    broker.client_credentials(SERVICE_REQUEST)
    broker.revoke(USER_REQUEST)


# Keys


@cache
def key_for(algorithm: str) -> Any:
    """Make a private key for ``algorithm``, once."""
    curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
    if algorithm in curves:
        return ec.generate_private_key(curves[algorithm])
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, int(algorithm) if algorithm.isdecimal() else 2048)


def pem_of(key: Any, format: PrivateFormat = PrivateFormat.PKCS8, password: str | None = None) -> str:  # noqa: A002
    """Write a private key as PEM."""
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password.encode())
    return str(key.private_bytes(Encoding.PEM, format, encryption).decode())


def jwk_of(key: Any, **members: Any) -> str:
    """Write a private key as a JSON Web Key."""
    kinds = {
        rsa.RSAPrivateKey: "RS256",
        ec.EllipticCurvePrivateKey: "ES256",
        ed25519.Ed25519PrivateKey: "EdDSA",
    }
    algorithm = next(name for kind, name in kinds.items() if isinstance(key, kind))
    found = json.loads(jwt.get_algorithm_by_name(algorithm).to_jwk(key))
    return json.dumps({**found, **members})


def public_pem(key: Any) -> str:
    """Write the public half as PEM."""
    return str(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def opened(assertion: str, key: Any, algorithm: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Verify an assertion's signature; give its header and claims."""
    unchecked = {"verify_aud": False, "verify_exp": False, "verify_iat": False}
    claims = jwt.decode(assertion, key, algorithms=[algorithm], options=unchecked)  # type: ignore[arg-type]
    return jwt.get_unverified_header(assertion), claims


def assertion_by(authentication: ClientAuthentication, **arguments: Any) -> str:
    """Give the assertion that a broker sends for a service token."""
    provider = Provider()
    open_broker(provider, client_auth=authentication, **arguments).client_credentials(SERVICE_REQUEST)
    return provider.forms[0]["client_assertion"]


# Secrets sent as they are


def test_basic_form_encodes_both_parts_in_every_flow() -> None:
    """RFC 6749 section 2.3.1: a colon in the id and a percent sign in the secret survive."""
    provider = Provider()
    call_everything(open_broker(provider, SECRET))
    expected = f"{quote_plus(CLIENT_ID)}:{quote_plus(SECRET)}"
    assert [basic_of(request) for request in provider.requests] == [expected] * 4
    assert not any({"client_id", "client_secret"} & form.keys() for form in provider.forms)


def test_plain_basic_sends_both_parts_as_they_are() -> None:
    """The quirk of providers that do not decode; text outside ASCII goes as UTF-8."""
    provider = Provider()
    descriptor = describe(quirks=ProviderQuirks(plain_basic=True))
    open_broker(provider, f"{SECRET}é", descriptor=descriptor, client_id="a b").client_credentials(
        SERVICE_REQUEST
    )
    assert basic_of(provider.requests[0]) == f"a b:{SECRET}é"


def test_post_sends_both_among_the_parameters_in_every_flow() -> None:
    """And no Authorization header."""
    provider = Provider()
    call_everything(open_broker(provider, client_auth=ClientSecretPost(SECRET)))
    assert [(form["client_id"], form["client_secret"]) for form in provider.forms] == [
        (CLIENT_ID, SECRET)
    ] * 4
    assert not any("Authorization" in request.headers for request in provider.requests)


def test_a_public_client_sends_its_id_only() -> None:
    """RFC 6749 section 3.2.1, by leaving the secret out or by saying so."""
    provider = Provider()
    call_everything(open_broker(provider))
    call_everything(open_broker(provider, client_auth=NoAuthentication()))
    assert [form["client_id"] for form in provider.forms] == [CLIENT_ID] * 8
    assert not any("client_secret" in form for form in provider.forms)
    assert not any("Authorization" in request.headers for request in provider.requests)


@pytest.mark.parametrize("body_format", ["form", "json", "query"])
def test_post_goes_with_renamed_parameters_in_every_body_format(body_format: str) -> None:
    """A provider that calls the id client_key and wants JSON gets both; one left out is not sent."""
    provider = Provider()
    names = {"client_id": "client_key", "token_type_hint": None}
    descriptor = describe(
        client_auth="client_secret_post", body_format=body_format, quirks=ProviderQuirks(param_names=names)
    )
    call_everything(open_broker(provider, SECRET, descriptor=descriptor))
    assert [(form["client_key"], form["client_secret"]) for form in provider.forms] == [
        (CLIENT_ID, SECRET)
    ] * 4
    assert not any({"client_id", "token_type_hint"} & form.keys() for form in provider.forms)


@pytest.mark.parametrize("body_format", ["form", "json"])
def test_an_assertion_goes_in_every_body_format(body_format: str) -> None:
    """RFC 7521 section 4.2 parameters are parameters like others."""
    provider = Provider()
    authentication = PrivateKeyJwt(pem_of(key_for("ES256")), algorithm="ES256")
    call_everything(
        open_broker(provider, client_auth=authentication, descriptor=describe(body_format=body_format))
    )
    for form in provider.forms:
        assert (form["client_id"], form["client_assertion_type"]) == (CLIENT_ID, ASSERTION_TYPE)
        opened(form["client_assertion"], key_for("ES256").public_key(), "ES256")


# Which method


def method_of(request: HttpRequest) -> str:
    """Tell by which method a request is authenticated."""
    form = form_of(request)
    if "Authorization" in request.headers:
        return "client_secret_basic"
    if "client_assertion" in form:
        algorithm = str(jwt.get_unverified_header(form["client_assertion"])["alg"])
        return "client_secret_jwt" if algorithm.startswith("HS") else "private_key_jwt"
    return "client_secret_post" if "client_secret" in form else "none"


@pytest.mark.parametrize(
    ("preferred", "also", "secret", "expected"),
    [
        (None, (), LONG_SECRET, "client_secret_basic"),
        (None, (), None, "none"),
        ("client_secret_post", (), LONG_SECRET, "client_secret_post"),
        ("client_secret_post", ("client_secret_basic",), LONG_SECRET, "client_secret_post"),
        ("client_secret_jwt", ("client_secret_post",), LONG_SECRET, "client_secret_jwt"),
        ("private_key_jwt", ("client_secret_post",), LONG_SECRET, "client_secret_post"),
        ("tls_client_auth", ("client_secret_jwt",), LONG_SECRET, "client_secret_jwt"),
        ("none", ("client_secret_post", "client_secret_basic"), LONG_SECRET, "client_secret_basic"),
        ("client_secret_basic", ("none",), None, "none"),
        ("none", (), None, "none"),
    ],
)
def test_a_plain_secret_goes_by_the_method_that_the_provider_prefers(
    preferred: str | None, also: Iterable[str], secret: str | None, expected: str
) -> None:
    """The preferred method if a secret does for it, else another that the provider takes."""
    provider = Provider()
    descriptor = describe(client_auth=preferred, client_auth_also=also)
    open_broker(provider, secret, descriptor=descriptor).client_credentials(SERVICE_REQUEST)
    assert method_of(provider.requests[0]) == expected


@pytest.mark.parametrize(
    ("preferred", "also", "secret", "said"),
    [
        ("client_secret_post", (), None, "takes client_secret_post; this client has no credentials"),
        ("private_key_jwt", ("tls_client_auth",), None, "private_key_jwt, tls_client_auth"),
        ("private_key_jwt", (), SECRET, "no client_secret but private_key_jwt"),
        ("none", (), SECRET, "no client_secret but none"),
    ],
)
def test_credentials_that_the_provider_does_not_take_are_refused_at_once(
    preferred: str, also: Iterable[str], secret: str | None, said: str
) -> None:
    """The error names what it takes."""
    descriptor = describe(client_auth=preferred, client_auth_also=also)
    with pytest.raises(ConfigError, match=said):
        open_broker(Provider(), secret, descriptor=descriptor)


def test_a_method_that_the_provider_does_not_take_is_refused_at_once() -> None:
    """Named by its class; one that is among the others goes."""
    refused = ClientSecretPost(SECRET)
    with pytest.raises(ConfigError, match=r"takes client_secret_basic; this client has ClientSecretPost\(\)"):
        open_broker(Provider(), client_auth=refused, descriptor=describe(client_auth="client_secret_basic"))
    also = describe(client_auth="client_secret_basic", client_auth_also=["client_secret_post"])
    provider = Provider()
    open_broker(provider, client_auth=refused, descriptor=also).client_credentials(SERVICE_REQUEST)
    assert method_of(provider.requests[0]) == "client_secret_post"


@pytest.mark.parametrize(
    ("secret", "client_auth", "said"),
    [
        (SECRET, NoAuthentication(), "not both"),
        (None, NoAuthentication, "not ABCMeta"),
        (None, SECRET, "not str"),
    ],
)
def test_client_auth_is_one_method_and_instead_of_a_secret(secret: Any, client_auth: Any, said: str) -> None:
    """Mistakes in arguments say what is wrong, and not what was given."""
    with pytest.raises(ConfigError, match=said) as refused:
        open_broker(Provider(), secret, client_auth=client_auth)
    assert SECRET not in str(refused.value)


def test_endpoints_that_want_another_method_get_it() -> None:
    """Of one secret: basic for tokens and their renewal, post to revoke."""
    provider = Provider()
    descriptor = describe(
        client_auth="client_secret_basic", endpoint_client_auth={"revocation": "client_secret_post"}
    )
    call_everything(open_broker(provider, SECRET, descriptor=descriptor))
    methods = [method_of(request) for request in provider.requests]
    assert methods == [*["client_secret_basic"] * 3, "client_secret_post"]


def test_renewing_goes_by_the_method_of_the_token_endpoint_unless_it_has_its_own() -> None:
    """A method for the token endpoint is also that for renewing; one for renewing is for nothing else."""
    methods = []
    for differing in ({"token": "client_secret_post"}, {"refresh": "client_secret_post"}):
        provider = Provider()
        call_everything(open_broker(provider, SECRET, descriptor=describe(endpoint_client_auth=differing)))
        methods.append([method_of(request).removeprefix("client_secret_") for request in provider.requests])
    assert methods == [["post", "post", "post", "basic"], ["basic", "post", "basic", "basic"]]


def test_a_client_without_a_secret_keeps_its_method_where_another_is_wanted() -> None:
    """A key does not make a secret; but to send the id only, no client needs anything."""
    provider = Provider()
    descriptor = describe(endpoint_client_auth={"refresh": "client_secret_post", "revocation": "none"})
    authentication = PrivateKeyJwt(pem_of(key_for("ES256")), algorithm="ES256")
    call_everything(open_broker(provider, client_auth=authentication, descriptor=descriptor))
    assert [method_of(request) for request in provider.requests] == [*["private_key_jwt"] * 3, "none"]


def test_one_secret_signs_at_one_endpoint_and_is_sent_to_another() -> None:
    """A client_secret_jwt client at a provider that revokes by basic."""
    provider = Provider()
    descriptor = describe(endpoint_client_auth={"revocation": "client_secret_basic"})
    call_everything(open_broker(provider, client_auth=ClientSecretJwt(LONG_SECRET), descriptor=descriptor))
    methods = [method_of(request) for request in provider.requests]
    assert methods == [*["client_secret_jwt"] * 3, "client_secret_basic"]
    assert basic_of(provider.requests[3]).endswith(f":{LONG_SECRET}")


# Assertions

ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_private_key_signs_what_its_public_half_verifies(algorithm: str) -> None:
    """PEM and JSON Web Key alike, by every algorithm of RFC 7518 section 3.1 for keys, and EdDSA."""
    key = key_for("RS256" if algorithm[1] == "S" and algorithm[0] in "RP" else algorithm)
    for written in (pem_of(key), jwk_of(key), TokenSecret(pem_of(key))):
        assertion = assertion_by(PrivateKeyJwt(written, algorithm=algorithm))
        header, _ = opened(assertion, key.public_key(), algorithm)
        assert header == {"alg": algorithm, "typ": "JWT"}


@pytest.mark.parametrize(
    ("algorithm", "key", "form"),
    [
        ("RS256", key_for("RS256"), PrivateFormat.TraditionalOpenSSL),
        ("ES256", key_for("ES256"), PrivateFormat.TraditionalOpenSSL),
        ("EdDSA", ed448.Ed448PrivateKey.generate(), PrivateFormat.PKCS8),
    ],
    ids=["PKCS #1", "SEC 1", "Ed448"],
)
def test_older_and_rarer_keys_sign_as_well(algorithm: str, key: Any, form: PrivateFormat) -> None:
    """As openssl writes them."""
    assertion = assertion_by(PrivateKeyJwt(f"\n{pem_of(key, form)}\n", algorithm=algorithm))
    opened(assertion, key.public_key(), algorithm)


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_shared_secret_signs(algorithm: str) -> None:
    """client_secret_jwt; and the secret itself is not sent."""
    provider = Provider()
    authentication = ClientSecretJwt(LONG_SECRET, algorithm=algorithm)
    open_broker(provider, client_auth=authentication).client_credentials(SERVICE_REQUEST)
    header, _ = opened(provider.forms[0]["client_assertion"], LONG_SECRET, algorithm)
    assert header == {"alg": algorithm, "typ": "JWT"}
    assert LONG_SECRET.encode() not in provider.requests[0].body


def test_a_shared_secret_that_looks_like_json_is_no_key() -> None:
    """Its bytes are the key, whatever they spell."""
    odd = "{" + LONG_SECRET
    opened(assertion_by(ClientSecretJwt(odd)), odd, "HS256")


def test_the_claims_are_those_of_rfc_7523(clock: ManualClock) -> None:
    """iss and sub are the client, iat and exp by the broker's clock in whole seconds, and nothing else."""
    clock.now = datetime(2031, 5, 6, 7, 8, 9, 999_999, UTC)
    assertion = assertion_by(PrivateKeyJwt(pem_of(key_for("ES256")), algorithm="ES256"), clock=clock)
    _, claims = opened(assertion, key_for("ES256").public_key(), "ES256")
    assert len(claims.pop("jti")) >= 32
    issued = int(datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC).timestamp())
    assert claims == {"iss": CLIENT_ID, "sub": CLIENT_ID, "aud": ISSUER, "iat": issued, "exp": issued + 120}


@pytest.mark.parametrize(
    ("fields", "audience"),
    [
        ({}, ISSUER),
        ({"issuer": None}, f"{ISSUER}/token"),
        (
            {"quirks": ProviderQuirks(assertion_audience="https://other.example.com/")},
            "https://other.example.com/",
        ),
    ],
)
def test_the_audience_is_the_issuer_unless_the_provider_wants_another(
    fields: dict[str, Any], audience: str
) -> None:
    """One string at every endpoint, also where tokens are revoked."""
    provider = Provider()
    call_everything(
        open_broker(provider, client_auth=ClientSecretJwt(LONG_SECRET), descriptor=describe(**fields))
    )
    claims = [opened(form["client_assertion"], LONG_SECRET, "HS256")[1] for form in provider.forms]
    assert [each["aud"] for each in claims] == [audience] * 4


def test_the_key_id_comes_from_the_argument_or_from_the_json_web_key() -> None:
    """The argument wins; PEM says none."""
    key = key_for("ES256")
    named = jwk_of(key, kid="from-jwk")
    found = [
        jwt.get_unverified_header(assertion_by(PrivateKeyJwt(written, algorithm="ES256", key_id=key_id))).get(
            "kid"
        )
        for written, key_id in [(named, None), (named, "mine"), (pem_of(key), "mine"), (pem_of(key), None)]
    ]
    assert found == ["from-jwk", "mine", "mine", None]


def test_further_members_join_the_header() -> None:
    """A thumbprint, a chain, another type; what we set is ours."""
    pem = pem_of(key_for("ES256"))
    headers = {"x5t#S256": "abc", "x5c": ["MII", "MIJ"], "typ": "client-authentication+jwt"}
    signed = assertion_by(PrivateKeyJwt(pem, algorithm="ES256", key_id="k", headers=headers))
    assert jwt.get_unverified_header(signed) == {"alg": "ES256", "kid": "k", **headers}
    for name in ("alg", "kid", "crit", "b64"):
        with pytest.raises(ConfigError, match=f"headers may not set {name}"):
            PrivateKeyJwt(pem, algorithm="ES256", headers={name: "none"})


@pytest.mark.parametrize(
    "make",
    [
        lambda: PrivateKeyJwt("key", algorithm="HS256"),
        lambda: PrivateKeyJwt("key", algorithm="none"),
        lambda: PrivateKeyJwt("key", algorithm=[]),  # type: ignore[arg-type]
        lambda: ClientSecretJwt(LONG_SECRET, algorithm="RS256"),
        lambda: PrivateKeyJwt("key", algorithm="RS256", key_id=7),  # type: ignore[arg-type]
        lambda: PrivateKeyJwt("key", algorithm="RS256", headers=[]),  # type: ignore[arg-type]
        lambda: PrivateKeyJwt("key", algorithm="RS256", headers={"x": object()}),
        lambda: PrivateKeyJwt(b"key", algorithm="RS256"),  # type: ignore[arg-type]
        lambda: ClientSecretJwt({"k": LONG_SECRET}),  # type: ignore[arg-type]
        lambda: ClientSecretPost(""),
        lambda: ClientSecretBasic(None),  # type: ignore[arg-type]
    ],
)
def test_mistakes_in_a_methods_arguments_are_refused_at_once(make: Callable[[], object]) -> None:
    """Before a broker is made of them, and without showing them."""
    with pytest.raises(ConfigError) as refused:
        make()
    assert LONG_SECRET not in str(refused.value)


def test_no_assertion_is_sent_twice(clock: ManualClock) -> None:
    """A fresh jti for each call, also for the second try after a lost answer, by the clock of that moment."""

    class Slow(Provider):
        def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
            clock.advance(7)
            return super().send(request, metadata)

    provider = Slow(ConnectionError())
    broker = open_broker(provider, client_auth=ClientSecretJwt(LONG_SECRET), clock=clock)
    broker.client_credentials(SERVICE_REQUEST)
    assert len(provider.requests) == 2
    call_everything(broker)
    claims = [opened(form["client_assertion"], LONG_SECRET, "HS256")[1] for form in provider.forms]
    assert len({each["jti"] for each in claims}) == len(claims) == 5
    assert claims[1]["iat"] == claims[0]["iat"] + 7


def test_threads_that_share_a_broker_send_assertions_of_their_own() -> None:
    """Sixteen principals at once, one key: sixteen assertions that verify, each for one request."""
    provider = Provider()
    key = key_for("ES256")
    broker = open_broker(provider, client_auth=PrivateKeyJwt(pem_of(key), algorithm="ES256"))
    names = iter(range(16))

    def obtain() -> TokenRecord:
        return broker.client_credentials(CachedTokenRequest(TENANT, f"svc-{next(names)}", "a"))

    crowd = Crowd(16, obtain).start().join()
    assert (crowd.errors, len(crowd.results)) == ([], 16)
    claims = [opened(form["client_assertion"], key.public_key(), "ES256")[1] for form in provider.forms]
    assert len({each["jti"] for each in claims}) == 16


# What does not serve is a ConfigError before anything is changed or sent


def assert_nothing_happens(authentication: ClientAuthentication, said: str) -> None:
    """Check that no flow sends anything or changes the store, and that a login can be completed later."""
    store, good = MemoryStore(), Provider()
    before = log_in(open_broker(good, SECRET, store=store))
    provider = Provider()
    broker = open_broker(provider, client_auth=authentication, store=store)
    session = broker.start_authorization(TENANT, "another", SCOPE, REDIRECT_URI)
    calls: list[Callable[[], object]] = [
        lambda: broker.refresh_access_token(USER_REQUEST.force_refresh()),
        lambda: broker.client_credentials(SERVICE_REQUEST),
        lambda: broker.revoke(USER_REQUEST),
        lambda: broker.exchange_code(session, "code-1234"),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match=said) as refused:
            call()
        assert (type(refused.value), refused.value.retryable) == (ConfigError, False)
    assert provider.requests == []
    assert [store.fetch(key) for key in store.keys()] == [before]  # noqa: SIM118 - a store is no dict
    assert open_broker(Provider(), SECRET, store=store).exchange_code(session, "code-1234").access_token


def bad_keys() -> Iterator[Any]:
    """Give algorithm, key and what the error says."""
    rsa_key, p256, p384 = key_for("RS256"), key_for("ES256"), key_for("ES384")
    yield pytest.param("RS256", "not a key", "neither PEM nor", id="no key")
    yield pytest.param("RS256", "keys/client.pem", "given as pathlib.Path", id="a path as text")
    yield pytest.param("RS256", pem_of(rsa_key)[:-90], "cannot sign with RS256", id="cut PEM")
    yield pytest.param("RS256", pem_of(rsa_key, password="pw"), "is encrypted", id="encrypted")
    yield pytest.param(
        "RS256",
        pem_of(rsa_key, PrivateFormat.TraditionalOpenSSL, "pw"),
        "is encrypted",
        id="encrypted as of old",
    )
    yield pytest.param("RS256", public_pem(rsa_key), "RS256 needs the private half", id="public PEM")
    certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"
    yield pytest.param("ES256", certificate, "ES256 needs the private half", id="a certificate")
    ssh = pem_of(p256, PrivateFormat.OpenSSH)
    yield pytest.param("ES256", ssh, "OpenSSH's own format; give it as PEM", id="OpenSSH")
    yield pytest.param("RS256", pem_of(key_for("1024")), "at least 2048 bits", id="short RSA")
    yield pytest.param("PS256", jwk_of(key_for("1024")), "at least 2048 bits", id="short RSA JWK")
    yield pytest.param("RS256", pem_of(p256), "private half of an RSA key, not EC", id="EC for RS256")
    yield pytest.param("ES256", pem_of(rsa_key), "elliptic curve key, not RSA", id="RSA for ES256")
    yield pytest.param("EdDSA", pem_of(p256), "Ed25519 or Ed448 key, not EC", id="EC for EdDSA")
    yield pytest.param("ES256", pem_of(p384), "on secp256r1, not secp384r1", id="P-384 for ES256")
    yield pytest.param("ES512", pem_of(p256), "on secp521r1, not secp256r1", id="P-256 for ES512")
    yield pytest.param("ES256", jwk_of(p384), "on secp256r1, not secp384r1", id="P-384 JWK for ES256")
    yield pytest.param("ES256", jwk_of(rsa_key), "cannot sign with ES256", id="RSA JWK for ES256")
    public = json.loads(jwk_of(p256))
    del public["d"]
    yield pytest.param("ES256", json.dumps(public), "private half of an ell", id="public JWK")
    yield pytest.param("ES256", json.dumps({"keys": [public]}), "cannot sign with ES256", id="a JWK set")
    yield pytest.param("ES256", '{"kty": "EC"', "cannot sign with ES256", id="cut JWK")
    yield pytest.param("ES256", '{"kty": "oct", "k": "c2VjcmV0"}', "cannot sign", id="symmetric JWK")
    yield pytest.param("RS256", "-----BEGIN PRIVATE KEY-----é", "cannot sign with RS256", id="odd PEM")


@pytest.mark.parametrize(("algorithm", "key", "said"), list(bad_keys()))
def test_a_key_that_cannot_sign_is_said_before_anything_happens(algorithm: str, key: str, said: str) -> None:
    """The kind, the curve, the size, encryption: no attempt is written down, no code is spent."""
    assert_nothing_happens(PrivateKeyJwt(key, algorithm=algorithm), said)


@pytest.mark.parametrize(("algorithm", "length"), [("HS256", 31), ("HS384", 47), ("HS512", 63)])
def test_a_secret_that_is_too_short_to_sign_is_said_before_anything_happens(
    algorithm: str, length: int
) -> None:
    """RFC 7518 section 3.2: as long as the hash, in bytes, at least; one byte more goes."""
    short = "é" + "s" * (length - 2)
    assert_nothing_happens(ClientSecretJwt(short, algorithm=algorithm), f"at least {length + 1} bytes")
    assertion_by(ClientSecretJwt(f"{short}s", algorithm=algorithm))


def test_a_short_key_is_refused_also_where_warnings_are_not_errors() -> None:
    """What the libraries only warn of."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert_nothing_happens(PrivateKeyJwt(pem_of(key_for("1024")), algorithm="RS256"), "2048 bits")
    assert warned == []


@pytest.mark.parametrize("hidden", ["jwt", "cryptography"])
def test_a_client_without_the_extra_is_told_its_name(
    hidden: str, monkeypatch: pytest.MonkeyPatch, witness: Witness
) -> None:
    """When the method is made, or chosen by the provider; all other methods go without."""
    monkeypatch.setitem(sys.modules, hidden, None)
    makes: list[Callable[[], object]] = [
        lambda: ClientSecretJwt(LONG_SECRET),
        lambda: PrivateKeyJwt(Path("key.pem"), algorithm="RS256"),
        lambda: AppleClientSecret("TEAM", CLIENT_ID, "KEY", LONG_SECRET),
        lambda: open_broker(Provider(), LONG_SECRET, descriptor=describe(client_auth="client_secret_jwt")),
    ]
    for make in makes:
        with pytest.raises(ConfigError, match=r"pip install 'oauth2broker\[jwt\]'") as refused:
            make()
        witness.see_error(refused.value)
    open_broker(Provider(), SECRET).client_credentials(SERVICE_REQUEST)


def test_signing_loads_its_libraries_with_the_first_signature() -> None:
    """A start that finds its token in the store does not pay for them."""
    script = (
        "import sys, oauth2broker as o\n"
        "d = o.ProviderDescriptor('p', 'https://p.example.com/token', ['client_credentials'])\n"
        "o.Broker(d, 'c', client_auth=o.PrivateKeyJwt('k', algorithm='RS256'))\n"
        "o.Broker(d, 'c', client_auth=o.ClientSecretJwt('k'))\n"
        "print({'jwt', 'cryptography', 'ssl'} & set(sys.modules))\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


# Methods of one's own


class SecretAsBearer(ClientSecretPost):
    """Sends the secret as a bearer token."""

    methods = ()

    def authenticate(
        self, draft: RequestDraft, identity: ClientIdentity
    ) -> Iterable[TokenSecret] | BrokerError:
        secret = self.secret.read()
        if isinstance(secret, BrokerError):
            return secret
        draft.headers["Authorization"] = f"Bearer {secret.expose()}"
        return [secret]


class Own(ClientAuthentication):
    """Does what it is told."""

    def __init__(self, act: Callable[[RequestDraft], Any]) -> None:
        self.act = act

    def authenticate(self, draft: RequestDraft, identity: ClientIdentity) -> Any:
        """Act."""
        return self.act(draft)


def test_a_method_of_ones_own_goes_with_every_provider() -> None:
    """It has no name that a provider could know it by; its secrets are blotted out like others."""
    echo = error_answer(400, "invalid_request", "bad header: Bearer a-bearer-secret")
    provider = Provider(echo)
    broker = open_broker(
        provider,
        client_auth=SecretAsBearer(lambda: "a-bearer-secret"),
        descriptor=describe(client_auth="private_key_jwt"),
    )
    with pytest.raises(ConfigError) as refused:
        broker.client_credentials(SERVICE_REQUEST)
    assert provider.requests[0].headers["Authorization"] == "Bearer a-bearer-secret"
    assert "bearer-secret" not in str(refused.value)


def fail(draft: RequestDraft) -> None:
    """Raise with all that is known."""
    raise KeyError(draft.form, "a-secret")


def fail_as_ours(draft: RequestDraft) -> None:
    """Raise a BrokerError over another."""
    raise TransientError("the vault is down", retry_after=3.0) from KeyError(draft.form)


def give_an_error(draft: RequestDraft) -> BrokerError:
    """Give what is wrong."""
    return TransientError("the vault is down", retry_after=3.0)


@pytest.mark.parametrize(
    ("act", "kind", "said"),
    [
        (fail, ConfigError, r"Own failed \(KeyError\)"),
        (lambda draft: None, ConfigError, r"Own failed \(TypeError\)"),
        (lambda draft: ["a-secret"], ConfigError, "no TokenSecret"),
        (lambda draft: "a-secret", ConfigError, "no TokenSecret"),
        (lambda draft: draft.form.update(client_id=None) or (), ConfigError, "cannot be sent"),
        (fail_as_ours, TransientError, "the vault is down"),
        (give_an_error, TransientError, "the vault is down"),
    ],
)
def test_whatever_a_method_of_ones_own_does_is_an_error_of_ours(
    act: Callable[[RequestDraft], Any], kind: type[BrokerError], said: str
) -> None:
    """Nothing is sent, nothing is changed, and the form is in no traceback and no cause."""
    store, witness = MemoryStore(), Witness()
    record = log_in(open_broker(Provider(), SECRET, store=store))
    provider = Provider()
    broker = open_broker(provider, client_auth=Own(act), store=store)
    witness.learn("refresh token", "refresh-1")
    witness.learn("code", "code-1234")
    witness.learn("secret", "a-secret")
    session = broker.start_authorization(TENANT, "another", SCOPE, REDIRECT_URI)
    calls: list[Callable[[], object]] = [
        lambda: broker.refresh_access_token(USER_REQUEST.force_refresh()),
        lambda: broker.exchange_code(session, "code-1234"),
        lambda: broker.revoke(USER_REQUEST),
    ]
    for call in calls:
        with pytest.raises(BrokerError, match=said) as caught:
            call()
        assert type(caught.value) is kind
        witness.see_error(caught.value)
    assert provider.requests == []
    assert store.fetch(record.key) == record
    witness.assert_silence()


def test_a_method_whose_secret_is_no_source_is_refused_at_once() -> None:
    """A secret kept as text would show in the broker's errors later."""
    own = Own(lambda draft: ())
    own.secret = SECRET  # type: ignore[assignment]
    with pytest.raises(ConfigError, match=r"Own\(\).secret") as refused:
        open_broker(Provider(), client_auth=own)
    assert SECRET not in str(refused.value)


# Certificates


def certify(
    folder: Path, name: str, issuer: tuple[x509.Certificate, Any] | None = None, *, ca: bool = False
) -> tuple[x509.Certificate, Any]:
    """Write ``name``.pem and ``name``.key of a certificate for 127.0.0.1; self-signed unless ``issuer``."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    loopback = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    signer, signer_key = (subject, key) if issuer is None else (issuer[0].subject, issuer[1])
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer_key.public_key())
    usage = dict.fromkeys(
        ["content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"],
        False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True, key_cert_sign=ca, crl_sign=ca, decipher_only=False, **usage
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(authority, critical=False)
        .add_extension(loopback, critical=False)
        .sign(signer_key, hashes.SHA256())
    )
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / f"{name}.key").write_text(pem_of(key))
    return certificate, key


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A folder with ca, server, client and other, each .pem and .key."""
    authority = certify(tmp_path, "ca", ca=True)
    for name in ("server", "client", "other"):
        certify(tmp_path, name, authority)
    return tmp_path


@contextmanager
def tls_provider(folder: Path) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Serve tokens to clients that show a certificate; give the origin and (common name, client_id) seen."""
    seen: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = dict(parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
            subject = self.connection.getpeercert()["subject"]
            seen.append((dict(pair for (pair,) in subject)["commonName"], form["client_id"]))
            body = token_answer(len(seen)).body
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield f"https://localhost:{server.server_port}", seen
        server.shutdown()
        thread.join()


def at_origin(origin: str, method: str = "tls_client_auth") -> ProviderDescriptor:
    """Describe the server of :func:`tls_provider`."""
    return describe(
        token_endpoint=f"{origin}/token", revocation_endpoint=f"{origin}/revoke", client_auth=method
    )


@pytest.mark.parametrize("method", ["tls_client_auth", "self_signed_tls_client_auth"])
def test_the_default_transport_presents_the_certificate(
    certificates: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """In every flow, with the client_id among the parameters (RFC 8705 section 2) and no secret."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates / "ca.pem"))
    authentication = TlsClientAuth(certificates / "client.pem", certificates / "client.key")
    with tls_provider(certificates) as (origin, seen):
        descriptor = at_origin(origin, method)
        with open_broker(None, client_auth=authentication, descriptor=descriptor) as broker:
            call_everything(broker)
    assert seen == [("client", CLIENT_ID)] * 4


def test_another_transport_presents_its_own_certificate(certificates: Path) -> None:
    """One made with a CA of one's own; certificate and key may be in one file."""
    both = certificates / "both.pem"
    both.write_text((certificates / "client.key").read_text() + (certificates / "client.pem").read_text())
    http_client = RequestsHttpClient(verify=str(certificates / "ca.pem"), cert=str(both))
    with tls_provider(certificates) as (origin, seen):
        broker = open_broker(
            http_client,
            client_auth=TlsClientAuth(str(both)),
            descriptor=at_origin(origin),
        )
        broker.client_credentials(SERVICE_REQUEST)
        http_client.close()
    assert seen == [("client", CLIENT_ID)]


def test_a_transport_that_would_present_no_certificate_is_refused(certificates: Path) -> None:
    """Found when the broker is made, and not as a client that the provider does not recognise."""
    authentication = TlsClientAuth(certificates / "client.pem", certificates / "client.key")
    with pytest.raises(ConfigError, match="cert"):
        open_broker(RequestsHttpClient(), client_auth=authentication, descriptor=at_origin("https://x.test"))


def test_a_certificate_can_be_replaced_while_the_program_runs(
    certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next connection presents the new one."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates / "ca.pem"))
    authentication = TlsClientAuth(certificates / "client.pem", certificates / "client.key")
    with tls_provider(certificates) as (origin, seen):
        descriptor = at_origin(origin)
        with open_broker(None, client_auth=authentication, descriptor=descriptor) as broker:
            log_in(broker)
            for kind in ("pem", "key"):
                (certificates / f"other.{kind}").replace(certificates / f"client.{kind}")
            broker.refresh_access_token(USER_REQUEST.force_refresh())
    assert [name for name, _ in seen] == ["client", "other"]


def test_a_certificate_is_found_from_wherever_the_program_goes(
    certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that changes its folder presents the same files."""
    monkeypatch.chdir(certificates)
    authentication = TlsClientAuth("client.pem", "client.key")
    monkeypatch.chdir("/")
    assert authentication.cert == (str(certificates / "client.pem"), str(certificates / "client.key"))


def test_a_path_that_no_file_can_have_is_a_mistake_at_once() -> None:
    """A zero byte, which the system refuses with a ValueError."""
    with pytest.raises(ConfigError, match=r"cannot be used \(ValueError\)"):
        TlsClientAuth("client\0.pem")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "client.key").unlink(),
        lambda folder: (folder / "client.pem").write_text(""),
        lambda folder: (folder / "client.pem").write_text("no certificate"),
        lambda folder: (folder / "other.key").replace(folder / "client.key"),
        lambda folder: (folder / "client.key").write_text(pem_of(key_for("ES256"), password="pw")),
    ],
    ids=["missing", "empty", "no certificate", "another's key", "encrypted"],
)
def test_a_certificate_that_does_not_serve_is_said_before_anything_happens(
    certificates: Path, spoil: Callable[[Path], object]
) -> None:
    """When the method is made, and later when the files have changed; nothing waits for a password."""
    make = partial(TlsClientAuth, certificates / "client.pem", certificates / "client.key")
    authentication = make()
    spoil(certificates)
    with pytest.raises(ConfigError, match=r"client certificate and its key cannot be used"):
        make()
    assert_nothing_happens(authentication, "client certificate and its key cannot be used")


@pytest.mark.parametrize("paths", [(None,), (5,), ("",), (None, "client.key"), ("client.pem", 5)])
def test_what_is_no_path_is_no_certificate(paths: tuple[Any, ...]) -> None:
    """Such as what the environment has nothing for; it was an IndexError."""
    with pytest.raises(ConfigError, match="certificate is the path of a PEM file"):
        TlsClientAuth(*paths)


# Refusals


@pytest.mark.parametrize(
    "authentication",
    [ClientSecretJwt(LONG_SECRET), PrivateKeyJwt(pem_of(key_for("ES256")), algorithm="ES256")],
)
def test_a_refused_assertion_is_an_invalid_client_and_costs_no_grant(
    authentication: ClientAuthentication,
) -> None:
    """The provider's words are passed on; the user's grant is as it was, and is renewed when it is mended."""
    store = MemoryStore()
    record = log_in(open_broker(Provider(), SECRET, store=store))
    refusal = error_answer(401, "invalid_client", "the private key is not registered")
    broker = open_broker(Provider(refusal), client_auth=authentication, store=store)
    with pytest.raises(InvalidClientError, match="the private key is not registered"):
        broker.refresh_access_token(USER_REQUEST.force_refresh())
    assert store.fetch(record.key) == record
    assert broker.refresh_access_token(USER_REQUEST.force_refresh()) != record


class Echo(Provider):
    """Answers with an error that repeats the assertion, or a piece of it."""

    def __init__(self, cut: slice) -> None:
        super().__init__()
        self.cut = cut

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        """Repeat it."""
        super().send(request, metadata)
        return error_answer(
            401, "invalid_client", f"cannot verify {form_of(request)['client_assertion'][self.cut]}"
        )


@pytest.mark.parametrize("cut", [slice(None), slice(0, 40), slice(-20, None)])
@pytest.mark.parametrize(
    "authentication",
    [ClientSecretJwt(LONG_SECRET), PrivateKeyJwt(pem_of(key_for("ES256")), algorithm="ES256")],
)
def test_an_assertion_that_the_provider_repeats_does_not_show(
    authentication: ClientAuthentication, cut: slice
) -> None:
    """Whole or in pieces: the code is told, the description is not."""
    provider = Echo(cut)
    with pytest.raises(InvalidClientError) as refused:
        open_broker(provider, client_auth=authentication).client_credentials(SERVICE_REQUEST)
    assert provider.forms[0]["client_assertion"][cut] not in repr(refused.value)
    assert str(refused.value).endswith("invalid_client")


def test_a_shared_secret_that_the_provider_repeats_does_not_show() -> None:
    """It knows the secret that we sign with."""
    echo = error_answer(401, "invalid_client", f"expected {LONG_SECRET}")
    with pytest.raises(InvalidClientError) as refused:
        open_broker(Provider(echo), client_auth=ClientSecretJwt(LONG_SECRET)).client_credentials(
            SERVICE_REQUEST
        )
    assert "shared-secret" not in repr(refused.value)


# No secret shows

AUTHENTICATIONS: dict[str, Callable[[], ClientAuthentication]] = {
    "basic": lambda: ClientSecretBasic(LONG_SECRET),
    "post": lambda: ClientSecretPost(TokenSecret(LONG_SECRET)),
    "secret jwt": lambda: ClientSecretJwt(lambda: LONG_SECRET),
    "key jwt": lambda: PrivateKeyJwt(pem_of(key_for("ES256")), algorithm="ES256"),
    "short": lambda: ClientSecretJwt(LONG_SECRET, algorithm="HS512"),
    "wrong key": lambda: PrivateKeyJwt(pem_of(key_for("ES256")), algorithm="ES384"),
    "no key": lambda: PrivateKeyJwt(LONG_SECRET, algorithm="ES384"),
    "wrong JWK": lambda: PrivateKeyJwt(jwk_of(key_for("ES256"), kty=""), algorithm="ES256"),
}
MISTAKES: list[Callable[[], object]] = [
    lambda: ClientSecretJwt(LONG_SECRET, algorithm="none"),
    lambda: ClientSecretJwt(f"{LONG_SECRET}\ud800"),
    lambda: ClientSecretPost(LONG_SECRET.encode()),  # type: ignore[arg-type]
    lambda: ClientSecretBasic(f"{LONG_SECRET}\ud800"),
    lambda: PrivateKeyJwt(LONG_SECRET, algorithm="none"),
    lambda: PrivateKeyJwt(f"{LONG_SECRET}\ud800", algorithm="RS256"),
    lambda: PrivateKeyJwt(LONG_SECRET, algorithm="RS256", key_id=""),
    lambda: PrivateKeyJwt(LONG_SECRET, algorithm="RS256", headers={"alg": "none"}),
    lambda: AppleClientSecret("TEAM", CLIENT_ID, "KEY", f"{LONG_SECRET}\ud800"),
    lambda: TlsClientAuth("client.pem", f"-----BEGIN PRIVATE KEY-----\n{LONG_SECRET}"),
    lambda: open_broker(Provider(), LONG_SECRET, descriptor=describe(client_auth="private_key_jwt")),
    lambda: open_broker(Provider(), LONG_SECRET, client_auth=ClientSecretPost(LONG_SECRET)),
]


@pytest.fixture
def witness(caplog: pytest.LogCaptureFixture) -> Iterator[Witness]:
    """A witness who knows the secrets and sees every log; asked at the end."""
    caplog.set_level(logging.DEBUG)
    made = Witness()
    made.learn("secret", LONG_SECRET[:20])
    body = pem_of(key_for("ES256")).splitlines()[1]
    made.learn("key", body[40:60])
    made.learn("JWK", json.loads(jwk_of(key_for("ES256")))["d"])
    yield made
    for record in caplog.get_records("call"):
        made.see_log(record)
    made.assert_silence()


def see_call(witness: Witness, call: Callable[[], object]) -> None:
    """Call, and see what comes of it."""
    try:
        witness.see("result", call())
    except BrokerError as error:
        witness.see_error(error)


@pytest.mark.parametrize("name", AUTHENTICATIONS)
def test_no_secret_key_or_assertion_shows(witness: Witness, name: str) -> None:
    """Neither when all goes well nor when the provider, the key or the transport fails."""
    authentication = AUTHENTICATIONS[name]()
    failures: list[Any] = [
        error_answer(401, "invalid_client"),
        ConnectionError(),
        ConnectionError(),
        HttpResponse(500, {}, b"<html>"),
    ]
    provider = Provider(*failures)
    broker = open_broker(provider, client_auth=authentication)
    for shown in (authentication, broker, broker._client, vars(authentication), vars(broker)):
        witness.see("object", repr(shown))
        with pytest.raises((TypeError, AttributeError)) as refused:  # the latter: a lambda
            pickle.dumps(shown)
        witness.see_error(refused.value)
    for _ in range(3):
        see_call(witness, lambda: broker.client_credentials(SERVICE_REQUEST))
        see_call(witness, lambda: log_in(broker))
        see_call(witness, lambda: broker.refresh_access_token(USER_REQUEST.force_refresh()))
        see_call(witness, lambda: broker.revoke(USER_REQUEST))
    for number, request in enumerate(provider.requests):
        witness.look("request", f"{request} {request!r}")
        witness.learn("assertion", form_of(request).get("client_assertion", f"none-{number}-was-sent"))


@pytest.mark.parametrize("make", MISTAKES)
def test_no_secret_shows_when_a_methods_arguments_are_mistakes(
    witness: Witness, make: Callable[[], object]
) -> None:
    """Our frames in the traceback have let go of what is plain."""
    with pytest.raises(ConfigError) as refused:
        make()
    witness.see_error(refused.value)


def test_every_method_has_been_tested() -> None:
    """The classes here know all the names that a provider may use."""
    classes = (
        ClientSecretBasic,
        ClientSecretPost,
        ClientSecretJwt,
        PrivateKeyJwt,
        TlsClientAuth,
        NoAuthentication,
    )
    assert {method for each in classes for method in each.methods} == set(ClientAuthMethod)
