"""Any answer of the token endpoint gives an error of ours or a usable record, and loses no refresh token."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, quote_plus

import pytest
from hypothesis import given, settings, strategies as st

from oauth2broker import (
    AuthorizationSession,
    Broker,
    BrokerError,
    GrantType,
    HttpRequest,
    HttpResponse,
    InvalidGrantError,
    ProviderDescriptor,
    ResponseMetadata,
    ResponseMetadataSlot,
    TokenRecord,
)
from tests.support import REDIRECT_URI, SCOPE, SERVICE_REQUEST, TENANT, USER, USER_REQUEST, ManualClock

CLIENT_SECRET = "s3cr3t of the/client+1"
CODE = "c0de-of-the-callback"
OLD_ACCESS, OLD_REFRESH = "old-acc3ss-token", "old-r3fresh-token"
NEW_ACCESS, NEW_REFRESH = "new-acc3ss-token", "new-r3fresh-token"
TEN_YEARS = timedelta(days=3650)
DESCRIPTOR = ProviderDescriptor(
    id="stub",
    authorization_endpoint="https://stub.example.com/authorize",
    token_endpoint="https://stub.example.com/token",
    grants=set(GrantType),
)


@dataclass
class Stub:
    """A transport that answers from memory, and counts. ``forms`` are the forms that were sent."""

    response: HttpResponse
    forms: list[dict[str, str]] = field(default_factory=list)

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        """Answer as told."""
        metadata.take()
        self.forms.append(dict(parse_qsl(request.body.decode())))
        metadata.store(ResponseMetadata.from_headers(self.response.status, self.response.headers))
        return self.response


@dataclass
class World:
    """A broker whose store holds a user's expired token with a refresh token, before one odd answer."""

    response: HttpResponse
    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        self.stub = Stub(self.response)
        self.broker = Broker(DESCRIPTOR, "client", CLIENT_SECRET, http_client=self.stub, clock=self.clock)
        key = self.broker.key_for(USER_REQUEST)
        self.clock.advance(7200)
        old = TokenRecord(
            family=key.family,
            scope=SCOPE,
            access_token=OLD_ACCESS,
            refresh_token=OLD_REFRESH,
            issued_at=self.clock.now - timedelta(hours=2),
            expires_at=self.clock.now - timedelta(hours=1),
        )
        self.broker.store.save(old)

    def stored(self) -> TokenRecord:
        """Give the user's record."""
        record = self.broker.store.fetch(self.broker.key_for(USER_REQUEST))
        assert record is not None
        return record

    def session(self) -> AuthorizationSession:
        """Start an authorization of the user."""
        return self.broker.start_authorization(TENANT, USER, SCOPE, REDIRECT_URI)


def answer(
    body: object, status: int = 200, content_type: str = "application/json", **headers: str
) -> HttpResponse:
    """Make an answer; what is not bytes becomes JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HttpResponse(status, {"Content-Type": content_type, **headers}, raw)


# What must hold after each answer.


def issued_refresh_token(response: HttpResponse) -> str | None:
    """Give the usable refresh token in a 2xx answer that can be parsed."""
    members = parsed(response)
    token = members.get("refresh_token")
    if not 200 <= response.status < 300 or not isinstance(token, str) or not token:
        return None
    return token if re.search("[\ud800-\udfff]", token) is None else None


def error_code(response: HttpResponse) -> str | None:
    """Give the error code of an answer as one reads it: without what cannot be seen around it."""
    code = parsed(response).get("error")
    return "".join(c if c.isprintable() else " " for c in code).strip() if isinstance(code, str) else None


def parsed(response: HttpResponse) -> Mapping[str, Any]:
    """Read a JSON object or a form, independently of the library; else give nothing."""
    text = response.body.decode(json.detect_encoding(response.body), "replace")
    try:
        found = json.loads(text, strict=False)
        if isinstance(found, list) and (len(found) == 1 or not 200 <= response.status < 300):
            found = found[0]
        members = dict(found.items())
    except (ValueError, RecursionError, AttributeError, IndexError):
        found = re.search(r'"refresh_token"\s*:\s*"([^"\\]*)"', text)
        if found is not None and 200 <= response.status < 300:
            return {"refresh_token": found[1]}
        return {} if text[:1] in {"{", "[", "<"} else dict(parse_qsl(text.strip()))
    return members


def assert_usable(record: TokenRecord, clock: ManualClock) -> None:
    """A record that callers can work with, and that a store can write down and read."""
    assert record.access_token.expose()
    assert record.access_token.expose().isascii()
    assert record.revoked_at is None
    assert record.expires_at is None or clock.now <= record.expires_at <= clock.now + TEN_YEARS
    text = record.to_json()
    assert TokenRecord.from_json(text).to_json() == text


def assert_brings_a_token(response: HttpResponse) -> None:
    """What was taken for a token is a 2xx answer with one, and no refusal."""
    members = parsed(response)
    assert 200 <= response.status < 300
    assert members.get("access_token")
    assert not members.get("error")
    assert members.get("ok") is not False or issued_refresh_token(response)


def assert_nothing_shows(error: BaseException, *secrets: str) -> None:
    """No secret in the error's texts, and nothing rides along."""
    assert error.__cause__ is None
    assert error.__context__ is None
    shown = f"{error} {error!r} {vars(error)!r} {error.args!r}"
    for secret in secrets:
        for form in {secret, quote_plus(secret), json.dumps(secret)[1:-1]}:
            assert form not in shown


def check_refresh(response: HttpResponse) -> None:
    """Renew the user's token with this answer."""
    world = World(response)
    issued, code = issued_refresh_token(response), error_code(response)
    try:
        record = world.broker.refresh_access_token(USER_REQUEST)
    except BrokerError as error:
        assert_nothing_shows(error, OLD_REFRESH, CLIENT_SECRET)
        if isinstance(error, InvalidGrantError):
            assert code == "invalid_grant"
    else:
        assert_brings_a_token(response)
        assert_usable(record, world.clock)
        assert record == world.stored()
    left = world.stored()
    if left.revoked_at is not None:
        assert code == "invalid_grant"
        assert issued is None
    else:
        assert left.refresh_token is not None
        assert left.refresh_token.expose() == (issued or OLD_REFRESH)
    assert len(world.stub.forms) == 1


def check_exchange(response: HttpResponse) -> None:
    """Exchange a code with this answer."""
    world = World(response)
    session = world.session()
    try:
        record = world.broker.exchange_code(session, CODE)
    except BrokerError as error:
        assert_nothing_shows(error, CODE, CLIENT_SECRET, session.code_verifier.expose())
    else:
        assert_brings_a_token(response)
        assert_usable(record, world.clock)
        assert record == world.stored()
    left = world.stored()
    assert left.revoked_at is None
    assert left.refresh_token is not None
    assert left.refresh_token.expose() == (issued_refresh_token(response) or OLD_REFRESH)
    assert len(world.stub.forms) == 1


def check_client_credentials(response: HttpResponse) -> None:
    """Obtain a service token with this answer."""
    world = World(response)
    try:
        record = world.broker.client_credentials(SERVICE_REQUEST)
    except BrokerError as error:
        assert_nothing_shows(error, CLIENT_SECRET)
    else:
        assert_brings_a_token(response)
        assert_usable(record, world.clock)
        assert record.refresh_token is None
    assert world.stored().refresh_token is not None
    assert len(world.stub.forms) == 1


def check_all(response: HttpResponse) -> None:
    """Give this answer to every flow."""
    check_refresh(response)
    check_exchange(response)
    check_client_credentials(response)


# Answers picked by hand.

GOOD: dict[str, object] = {
    "access_token": NEW_ACCESS,
    "refresh_token": NEW_REFRESH,
    "token_type": "Bearer",
    "expires_in": 3600,
    "scope": SCOPE,
}
ODD_VALUES: list[object] = [
    None,
    True,
    False,
    0,
    -1,
    1e308,
    10**40,
    float("nan"),
    float("inf"),
    "",
    " ",
    "\x00",
    "\r\nX-Injected: 1",
    "\ud800",
    "ö\u202e\U0001f600",
    "x" * 5000,
    [],
    ["a", None, {}],
    {},
    {"a": {"b": []}},
]
FORM = "application/x-www-form-urlencoded"
ODD_ANSWERS: list[HttpResponse] = [
    answer(GOOD),
    answer(GOOD, 201),
    answer(GOOD, 299),
    answer(GOOD, 199),
    answer(GOOD, 304),
    answer(GOOD, 400),
    answer(GOOD, 500),
    answer(GOOD, 0),
    answer(GOOD, 999),
    answer(GOOD, content_type="text/html"),
    answer(GOOD, content_type=""),
    answer(GOOD, content_type="application/json; charset=utf-16"),
    HttpResponse(200, {}, json.dumps(GOOD).encode()),
    answer(json.dumps(GOOD).encode("utf-16")),
    answer(json.dumps(GOOD).encode("utf-32-le")),
    answer(b"\xef\xbb\xbf" + json.dumps(GOOD).encode()),
    answer(json.dumps(GOOD).encode() + b"trailing"),
    answer(json.dumps(GOOD).encode() * 2),
    answer(json.dumps(GOOD).encode()[:-1]),
    answer(b" \n" + json.dumps(GOOD).encode() + b"\n "),
    answer([GOOD]),
    answer([GOOD, GOOD]),
    answer([GOOD], 400),
    answer([{"error": "invalid_grant"}], 400),
    answer([{"error": "invalid_grant"}, None], 400),
    answer([{"error": "invalid_grant"}], 200),
    answer([], 400),
    answer([[{"error": "invalid_grant"}]], 400),
    answer({"data": GOOD}),
    answer(json.dumps(json.dumps(GOOD)).encode()),
    answer(b'{"access_token":"a","access_token":"new-acc3ss-token","refresh_token":null}'),
    answer(b'{"refresh_token":"new-r3fresh-token","refresh_token":"newer"}'),
    answer({"ACCESS_TOKEN": "a", "Refresh_Token": "b"}),
    answer(b""),
    answer(b" "),
    answer(b"\x00"),
    answer(b"\xff\xfe"),
    answer(b"\xed\xa0\x80"),
    answer(b"<html>"),
    answer(b"<?xml version='1.0'?>", content_type="text/xml"),
    answer(b"access_token=a&refresh_token=new-r3fresh-token", content_type=FORM),
    answer(b"access_token=a&refresh_token=new-r3fresh-token", content_type="text/plain"),
    answer(b"access_token=a&refresh_token=new-r3fresh-token\r\n", content_type="text/html"),
    answer(b"\xef\xbb\xbfrefresh_token=new-r3fresh-token&scope=a b", content_type=""),
    answer(b"refresh_token=new-r3fresh-token", content_type=FORM),
    answer(b"access_token=%00&refresh_token=%ff%fe", content_type=FORM),
    answer(b"error=invalid_grant", 400, content_type=FORM),
    answer(b"error=invalid_grant", 200, content_type=FORM),
    answer(b"error=invalid_grant", 400, content_type="text/plain"),
    answer(b"<p>error=invalid_grant&error=invalid_grant", 400, content_type="text/html"),
    answer(b"errors=invalid_grant", 400, content_type="text/plain"),
    answer(b"&&==;;%", content_type=FORM),
    answer(b"access_token", content_type=FORM),
    answer(b"[" * 100_000),
    answer(b'{"a":' * 100_000),
    answer(b'{"access_token":"a","x":' + b"[" * 500 + b"]" * 500 + b"}"),
    answer(b"9" * 5000),
    answer(b"-Infinity"),
    answer({"error": "invalid_grant"}, 400),
    answer({"error": "invalid_grant"}, 200),
    answer({"error": "invalid_grant"}, 429, **{"Retry-After": "7"}),
    answer({"error": "invalid_grant"}, 503),
    answer({"error": " invalid_grant\n"}, 400),
    answer({"error": "INVALID_GRANT"}, 400),
    answer({"error": ["invalid_grant"]}, 400),
    answer({"error": {"code": "invalid_grant"}}, 400),
    answer({"error": "invalid_grant\u200b"}, 400),
    answer({"error": "x" * 5000}, 400),
    answer({"error": "\ud800"}, 400),
    answer({"error": None, **GOOD}),
    answer({"error": "", **GOOD}),
    answer({"error": 0, **GOOD}),
    answer({"error": [], **GOOD}),
    answer({"error": {}, **GOOD}),
    answer({"error": "invalid_grant", **GOOD}),
    answer({"error": {"message": "odd"}, **GOOD}),
    answer({"ok": False, **GOOD}),
    answer({"ok": False}),
    answer({"ok": 0, **GOOD}),
    answer({"ok": None, **GOOD}),
    answer({"errors": ["odd"], "detail": "x"}, 422),
    answer({"error_description": "no code"}, 400),
    answer({"error": "server_error", "error_description": ["a"]}, 500),
    answer({"error": "access_denied", "error_uri": "javascript:alert(1)"}, 403),
    answer({"error": "interaction_required", "error_description": "\x1b[31m\r\nforged: line"}, 400),
    answer({"": "", "\x00": 1, **GOOD}),
    answer({"x" * 5000: "y" * 5000, **GOOD}),
    answer({"extra": {"a": float("nan")}, **GOOD}),
    answer({"key": 1, "family": 2, "version": 3, "revoked_at": "now", **GOOD}),
    answer({"refresh_token_expires_in": -1, "refresh_expires_in": "x", **GOOD}),
    answer({"refresh_token_expires_in": 10**40, **GOOD}),
    answer({"refresh_token_expires_in": 1e-320, **GOOD}),
    answer({**GOOD, "expires_in": 1e-320}),
    answer({**GOOD, "expires_in": "1_000"}),
    answer({**GOOD, "expires_in": "\u0663\u0666"}),
    answer({**GOOD, "scope": "a,b c\td\ne"}),
    answer({**GOOD, "token_type": "mac\r\nX: 1"}),
    answer({**GOOD, "id_token": ".."}),
    answer({**GOOD, "id_token": "a." + "_" * 40 + ".b"}),
    answer({**GOOD, "refresh_token": "spaces and\r\nlines \x00 & = + %"}),
    answer({**GOOD, "refresh_token": "ünïcödé"}),
    answer({**GOOD, "refresh_token": OLD_REFRESH}),
    answer({**GOOD, "access_token": OLD_REFRESH}),
    answer({**GOOD, "access_token": OLD_ACCESS}),
    answer(GOOD, 429, **{"Retry-After": "x" * 5000}),
    answer({}, 429, **{"Retry-After": "1e999"}),
    answer({}, 429, **{"Retry-After": "-1e999"}),
    answer({}, 503, **{"Retry-After": "\u0663"}),
    answer({}, 503, **{"Retry-After": "Mon, 99 Foo 99999 99:99:99 +9999"}),
    answer({}, 503, **{"Retry-After": "Fri, 31 Dec 9999 23:59:59 -2359", "Date": "1 Jan 0001 00:00 +2359"}),
    answer({}, 503, **{"Retry-After": ", , ,", "Date": "("}),
    answer({}, 307, Location="https://evil.example.com/"),
]
ODD_MEMBERS = [
    pytest.param({**GOOD, name: value}, id=f"{name}={value!r:.20}")
    for name in ("access_token", "refresh_token", "error", "ok", "extra", "error_description")
    for value in ODD_VALUES
] + [
    pytest.param({**GOOD, name: value}, id=f"{name}={value!r:.20}")
    for name in ("token_type", "id_token", "scope", "expires_in", "refresh_token_expires_in")
    for value in ODD_VALUES[::3]
]


@pytest.mark.parametrize("response", ODD_ANSWERS, ids=range(len(ODD_ANSWERS)))
def test_an_odd_answer_is_survived_by_every_flow(response: HttpResponse) -> None:
    """Each answer picked by hand gives an error of ours or a usable record, and loses no refresh token."""
    check_all(response)


@pytest.mark.parametrize("payload", ODD_MEMBERS)
def test_an_odd_value_in_a_member_is_survived_by_every_flow(payload: Mapping[str, object]) -> None:
    """Each odd value in each member gives an error of ours or a usable record, and loses no refresh token."""
    check_all(answer(payload))


def test_an_answer_with_more_digits_than_python_reads_loses_no_refresh_token() -> None:
    """An integer that json refuses, next to a new refresh token, is no reason to lose it."""
    world = World(answer(json.dumps(GOOD).encode().replace(b": 3600", b": " + b"9" * 5000)))
    world.broker.refresh_access_token(USER_REQUEST)
    left = world.stored().refresh_token
    assert left is not None
    assert left.expose() == NEW_REFRESH


# Answers that repeat our own secrets to us.

ECHOES = {
    "plain": "{}",
    "inside": "token '{}' is unknown",
    "twice": "{0}{0} {0}",
    "late": "x" * 190 + "{}",
    "with a line break": "bad\r\n{}\x00",
}


@pytest.mark.parametrize("encode", [str, quote_plus])
@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("member", ["error", "error_description", "error_uri", "detail"])
@pytest.mark.parametrize("status", [200, 400, 500])
def test_a_provider_that_repeats_our_secrets_does_not_get_them_into_errors(
    encode: Callable[[str], str], echo: str, member: str, status: int
) -> None:
    """Refresh token, client secret, code and verifier are blotted out of what an error says."""
    for call, presented in FLOWS.items():
        for number in range(3):
            world = World(answer(b""))
            session = world.session()
            named = {"verifier": session.code_verifier.expose(), "code": CODE, "refresh": OLD_REFRESH}
            secrets = [CLIENT_SECRET, *(named[name] for name in presented)]
            said = ECHOES[echo].format(encode(secrets[number % len(secrets)]))
            world.stub.response = answer({"error": "invalid_request", member: said}, status)
            with pytest.raises(BrokerError) as caught:
                call(world, session)
            assert_nothing_shows(caught.value, *secrets)


def renew(world: World, session: AuthorizationSession) -> TokenRecord:
    """Renew the user's token."""
    return world.broker.refresh_access_token(USER_REQUEST)


def exchange(world: World, session: AuthorizationSession) -> TokenRecord:
    """Exchange a code."""
    return world.broker.exchange_code(session, CODE)


def obtain(world: World, session: AuthorizationSession) -> TokenRecord:
    """Obtain a service token."""
    return world.broker.client_credentials(SERVICE_REQUEST)


FLOWS = {renew: ["refresh"], exchange: ["code", "verifier"], obtain: []}


@pytest.mark.parametrize("call", FLOWS)
def test_a_provider_that_repeats_our_authorization_header_does_not_get_it_into_errors(
    call: Callable[[World, AuthorizationSession], TokenRecord],
) -> None:
    """The Basic credentials are the client secret in another dress."""
    pair = f"client:{quote_plus(CLIENT_SECRET)}"
    basic = base64.b64encode(pair.encode()).decode()
    for member in ("error", "error_description"):
        world = World(answer({"error": "invalid_request", member: basic}, 401))
        with pytest.raises(BrokerError) as caught:
            call(world, world.session())
        assert_nothing_shows(caught.value, basic)


# Answers that nobody picked.

NAMES = st.sampled_from([*GOOD, "error", "error_description", "ok", "id_token", "refresh_token_expires_in"])
TEXTS = st.one_of(
    st.text(st.characters(), max_size=40),
    st.sampled_from([NEW_REFRESH, OLD_REFRESH, "invalid_grant", "invalid_client", CLIENT_SECRET, CODE]),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
PAYLOADS = st.dictionaries(NAMES | TEXTS, VALUES, max_size=4).flatmap(
    lambda changes: st.sampled_from([{**GOOD, **changes}, changes])
)
BODIES = st.one_of(
    PAYLOADS.map(lambda payload: json.dumps(payload).encode()),
    VALUES.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=60),
    PAYLOADS.map(lambda payload: json.dumps(payload, ensure_ascii=False).encode("utf-8", "surrogatepass")),
    st.tuples(PAYLOADS, st.integers(0, 200)).map(lambda cut: json.dumps(cut[0]).encode()[: cut[1]]),
    st.lists(st.tuples(NAMES, st.text(st.characters(codec="utf-8"), max_size=10)), max_size=4).map(
        lambda pairs: "&".join(f"{name}={quote_plus(value)}" for name, value in pairs).encode()
    ),
)
HEADERS = st.fixed_dictionaries(
    {
        "Content-Type": st.sampled_from(["application/json", "text/html", FORM, "", "\x00"])
        | st.text(max_size=10)
    },
    optional={
        "Retry-After": st.text(max_size=30)
        | st.integers().map(str)
        | st.floats().map(str)
        | st.datetimes().map(lambda moment: moment.strftime("%a, %d %b %Y %H:%M:%S GMT")),
        "Date": st.text(max_size=30),
        "Location": st.just("https://evil.example.com/"),
    },
)
STATUSES = st.sampled_from(
    [200, 200, 200, 201, 204, 301, 400, 400, 401, 403, 429, 500, 502, 503]
) | st.integers(100, 599)
ANSWERS = st.builds(HttpResponse, STATUSES, HEADERS, BODIES)
MANY = settings(max_examples=300, derandomize=True, database=None)


@MANY
@given(ANSWERS)
def test_any_answer_to_a_refresh_is_survived(response: HttpResponse) -> None:
    """Only BrokerErrors or a usable record; a tombstone only for invalid_grant; no refresh token lost."""
    check_refresh(response)


@MANY
@given(ANSWERS)
def test_any_answer_to_a_code_exchange_is_survived(response: HttpResponse) -> None:
    """Only BrokerErrors or a usable record; the stored grant is replaced by a newer one or stays."""
    check_exchange(response)


@MANY
@given(ANSWERS)
def test_any_answer_to_client_credentials_is_survived(response: HttpResponse) -> None:
    """Only BrokerErrors or a usable record without refresh token; the user's grant is not touched."""
    check_client_credentials(response)


@MANY
@given(st.lists(ANSWERS, min_size=2, max_size=5))
def test_any_series_of_answers_leaves_the_last_refresh_token_that_was_issued(
    responses: list[HttpResponse],
) -> None:
    """Each renewal presents the newest refresh token that the provider gave, until the grant is dead."""
    world = World(responses[0])
    newest = OLD_REFRESH
    for response in responses:
        world.stub.response = response
        calls = len(world.stub.forms)
        try:
            record = world.broker.refresh_access_token(USER_REQUEST.rejecting(world.stored()))
        except BrokerError:
            pass
        else:
            assert_usable(record, world.clock)
        following = issued_refresh_token(response) or newest
        presented = [form["refresh_token"] for form in world.stub.forms[calls:]]
        assert presented in ([newest], [newest, following])  # two when the rejected token came again
        newest = following
        left = world.stored()
        if left.revoked_at is not None:
            return
        assert left.refresh_token is not None
        assert left.refresh_token.expose() == newest
        world.clock.advance(3600)


@pytest.mark.parametrize("status", [200, 400, 429, 500, 503])
@pytest.mark.parametrize("body", ["", "<html>", "{}", "[]", '{"error":"odd"}'])
def test_a_failed_renewal_never_leaves_a_forever_blocked_grant(status: int, body: str) -> None:
    """Whatever came, after an hour the next renewal makes one call, and a good answer ends the matter."""
    world = World(answer(body.encode(), status, **{"Retry-After": "99999999"}))
    with pytest.raises(BrokerError):
        world.broker.refresh_access_token(USER_REQUEST)
    world.clock.advance(3600)
    world.stub.response = answer(GOOD)
    record = world.broker.refresh_access_token(USER_REQUEST)
    assert record.access_token.expose() == NEW_ACCESS
    assert (record.attempted_at, record.retry_at, record.failures) == (None, None, 0)
    assert len(world.stub.forms) == 2
