"""Any answer of any provider that can be described: an error of ours or a usable record, nothing lost."""

from __future__ import annotations

import json
import pickle
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote_plus, urlencode, urlsplit

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from oauth2broker import (
    AuthorizationSession,
    BodyFormat,
    Broker,
    BrokerError,
    BrokerStore,
    ExpiryRule,
    FileStore,
    GrantType,
    HttpRequest,
    HttpResponse,
    InvalidGrantError,
    MemoryStore,
    PkceSupport,
    ProviderDescriptor,
    ProviderQuirks,
    ResponseMetadata,
    ResponseMetadataSlot,
    RotationPolicy,
    TimeUnit,
    TokenRecord,
)
from tests.support import REDIRECT_URI, SCOPE, SERVICE_REQUEST, TENANT, USER, USER_REQUEST, ManualClock

CLIENT_SECRET, CODE = "s3cr3t of the/client+1", "c0de-of-the-callback"
OLD_REFRESH, NEW_REFRESH = "old-r3fresh-token", "new-r3fresh-token"
TEN_YEARS = timedelta(days=3650)
FORM = "application/x-www-form-urlencoded"


# The provider, as described and as it answers.


@dataclass
class Provider:
    """A transport that answers from memory; ``sent`` are the parameters that came."""

    response: HttpResponse
    sent: list[dict[str, str]] = field(default_factory=list)

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        """Answer as told."""
        metadata.take()
        is_json = request.headers.get("Content-Type") == "application/json"
        text = request.body.decode() or urlsplit(request.url).query
        self.sent.append(json.loads(text) if is_json else dict(parse_qsl(text)))
        metadata.store(ResponseMetadata.from_headers(self.response.status, self.response.headers))
        return self.response


@dataclass(frozen=True)
class Case:
    """A provider, one answer of its token endpoint, and what a callback brings beside state and code."""

    descriptor: ProviderDescriptor
    response: HttpResponse
    callback: Mapping[str, str]


@dataclass
class World:
    """A broker whose store holds a user's expired token with a refresh token, before one odd answer."""

    case: Case
    store: BrokerStore
    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        self.provider = Provider(self.case.response)
        self.broker = Broker(
            self.case.descriptor,
            "client",
            CLIENT_SECRET,
            store=self.store,
            http_client=self.provider,
            clock=self.clock,
        )
        self.key = self.broker.key_for(USER_REQUEST)
        self.old = TokenRecord(
            family=self.key.family,
            scope=SCOPE,
            access_token="old-acc3ss-token",
            refresh_token=OLD_REFRESH,
            issued_at=self.clock.now - timedelta(hours=2),
            expires_at=self.clock.now - timedelta(hours=1),
        )
        self.broker.store.save(self.old)

    def stored(self) -> TokenRecord:
        """Give the user's record."""
        record = self.store.fetch(self.key)
        assert record is not None
        return record

    def session(self) -> AuthorizationSession:
        """Start an authorization of the user."""
        return self.broker.start_authorization(TENANT, USER, SCOPE, REDIRECT_URI)


# What an answer says, read independently of the library.


def parsed(response: HttpResponse) -> dict[str, Any] | None:
    """Give the JSON object or form; None for what is neither."""
    text = response.body.decode(json.detect_encoding(response.body), "replace").strip()
    try:
        found = json.loads(text, strict=False, parse_int=lambda digits: float(digits))
    except (ValueError, RecursionError):
        return form_in(text, response)
    if isinstance(found, list) and (len(found) == 1 or not 200 <= response.status < 300):
        found = next(iter(found), None)
    return found if isinstance(found, dict) else None


def form_in(text: str, response: HttpResponse) -> dict[str, Any] | None:
    """Give a form: one that is called so, or that has a member of a token or an error."""
    is_cut_json_or_page = text.startswith(("{", "[", '"', "<"))
    found = {} if is_cut_json_or_page else dict(parse_qsl(text))
    is_called_so = response.headers.get("content-type", "").lower().startswith(FORM)
    is_one = is_called_so or {"access_token", "refresh_token", "error"} & found.keys()
    return found or None if is_one else None


def at(value: Any, path: str) -> Any:
    """Follow a path that leads through objects and lists."""
    for step in path.split("."):
        try:
            value = value[int(step)] if isinstance(value, list) else value[step]
        except (KeyError, IndexError, ValueError, TypeError):
            return None
    return value


def members(case: Case) -> dict[str, Any]:
    """Give the members of the token."""
    payload = parsed(case.response) or {}
    path = case.descriptor.quirks.token_path
    inner = None if path is None else at(payload, path)
    if not isinstance(inner, dict):
        return payload
    tokens = {"access_token", "refresh_token"}
    return payload if tokens & payload.keys() and not tokens & inner.keys() else inner


def usable(token: object) -> str:
    """Give what the store holds after this was said: the token if it is text that can be sent."""
    is_text = isinstance(token, str) and token and re.search("[\ud800-\udfff]", token) is None
    return str(token) if is_text else OLD_REFRESH


def refresh_tokens_that_count(case: Case) -> set[str]:
    """Give what the store may hold after this answer to whoever presented the old one."""
    if not 200 <= case.response.status < 300:
        return {OLD_REFRESH}
    if parsed(case.response) is not None:
        return {usable(members(case).get("refresh_token"))}
    text = case.response.body.decode(json.detect_encoding(case.response.body), "replace")
    return {usable(token) for token in tokens_in(text)} or {OLD_REFRESH}


def tokens_in(text: str) -> Iterator[object]:
    """Give each whole ``refresh_token`` in a text that is not JSON."""
    for quoted in re.findall(r'"refresh_token"\s*:\s*("(?:[^"\\]|\\.)*")', text, re.DOTALL):
        try:
            yield json.loads(quoted, strict=False)
        except ValueError:
            yield None


def says_dead_grant(case: Case) -> bool:
    """Whether the answer is a refusal with a code that means invalid_grant to this descriptor."""
    quirks, payload = case.descriptor.quirks, parsed(case.response)
    if case.response.status == 429 or case.response.status >= 500 or 300 <= case.response.status < 400:
        return False
    codes = {code_of(at(payload, path)) for path in (*quirks.error_paths, "error", "error_code", "code")}
    is_dead = "invalid_grant" in {quirks.error_codes.get(code, code) for code in codes}
    return is_dead or any(dead in text.lower() for dead in quirks.dead_refresh_texts for text in words(case))


def words(case: Case) -> list[str]:
    """Give what an answer says to people, at the top and beside its codes."""
    payload = parsed(case.response)
    beside = [path.rpartition(".")[0] for path in case.descriptor.quirks.error_paths if "." in path]
    places = [payload, *(at(payload, path) for path in ("error", *beside))]
    names = ("error_description", "error_message", "message", "msg", "detail")
    found = [place.get(name) for place in places if isinstance(place, dict) for name in names]
    return [text for text in found if isinstance(text, str)]


def code_of(value: object) -> str:
    """Give a code as one reads it: a number without its fraction, a text without what cannot be seen."""
    if isinstance(value, float) and abs(value) < 1e308:
        return f"{value:.0f}"
    return "".join(c if c.isprintable() else " " for c in value).strip() if isinstance(value, str) else ""


# What must hold after it.


def require_usable(record: TokenRecord, case: Case, store: BrokerStore) -> None:
    """A record that callers can work with, that came from the answer, and that a store gives back."""
    token = record.access_token.expose()
    assert token == members(case)["access_token"]
    assert token.isascii()
    assert token.isprintable()
    assert record.token_type.isprintable()
    assert record.revoked_at is None
    for instant in (record.issued_at, record.expires_at, record.refresh_expires_at):
        assert instant is None or instant.utcoffset() == timedelta()
    assert record.expires_at is None or record.expires_at <= record.issued_at + TEN_YEARS
    assert not {"access_token", "refresh_token", "id_token"} & record.extra.keys()
    kept = case.descriptor.quirks.extra_members
    assert kept is None or record.extra.keys() <= {*kept, *case.descriptor.quirks.callback_members}
    text = record.to_json()
    assert TokenRecord.from_json(text).to_json() == text
    assert store.fetch(record.key) == record


def require_harmless(error: BrokerError, world: World, *secrets: str) -> None:
    """An error without secrets and baggage, that can be pickled, and that waits at most an hour."""
    assert error.__cause__ is None
    assert error.__context__ is None
    again = pickle.loads(pickle.dumps(error))
    shown = f"{error} {again!r} {vars(again)!r} {error.args!r}"
    for secret in (CLIENT_SECRET, OLD_REFRESH, NEW_REFRESH, *secrets):
        for form in {secret, quote_plus(secret), json.dumps(secret)[1:-1]}:
            assert form not in shown
    assert error.retry_after is None or 0 <= error.retry_after <= 3600
    assert error.status in {None, world.case.response.status}


def require_refresh_token_kept(world: World) -> None:
    """Where the grant lives on, the store holds the newest refresh token that was issued."""
    left = world.stored()
    assert left.refresh_token is not None
    assert left.refresh_token.expose() in refresh_tokens_that_count(world.case)


def check_renewal(world: World) -> None:
    """Renew the user's token; if that fails, renew it once more when the provider is well again."""
    try:
        record = world.broker.refresh_access_token(USER_REQUEST)
    except BrokerError as error:
        require_harmless(error, world)
        if isinstance(error, InvalidGrantError):
            assert says_dead_grant(world.case)
            assert refresh_tokens_that_count(world.case) == {OLD_REFRESH}
            assert world.stored() == world.old.tombstone(world.clock.now)
        else:
            require_refresh_token_kept(world)
            require_recovery(world)
    else:
        require_usable(record, world.case, world.store)
        require_refresh_token_kept(world)
        assert len(world.provider.sent) == 1


def require_recovery(world: World) -> None:
    """An hour later one call presents what is stored, and a good answer ends the matter."""
    held = world.stored().refresh_token
    assert held is not None
    world.clock.advance(3600)
    good = wrapped({"access_token": "final", "refresh_token": "final"}, world.case.descriptor.quirks)
    world.provider.response = HttpResponse(200, {}, json.dumps(good).encode())
    record = world.broker.refresh_access_token(USER_REQUEST)
    assert (record.access_token.expose(), record.attempted_at, record.retry_at) == ("final", None, None)
    assert len(world.provider.sent) == 2
    assert world.provider.sent[-1][name_of(world, "refresh_token")] == held.expose()


def name_of(world: World, name: str) -> str:
    """Give the name that a parameter is sent by."""
    return world.case.descriptor.quirks.param_names.get(name) or name


def check_login(world: World) -> None:
    """Complete an authorization whose code is exchanged for this answer."""
    session = world.session()
    callback = {**world.case.callback, "state": session.state, "code": CODE}
    try:
        record = world.broker.complete_authorization(session, callback)
    except BrokerError as error:
        verifier = [session.code_verifier.expose()] if session.code_verifier else []  # none without PKCE
        require_harmless(error, world, CODE, *verifier)
    else:
        require_usable(record, world.case, world.store)
        for name in set(world.case.descriptor.quirks.callback_members) & record.extra.keys():
            said = parsed(world.case.response) or {}
            assert name in {*said, *members(world.case)} or record.extra[name] == callback[name]
    if callback.get("error"):
        assert (world.stored(), world.provider.sent) == (world.old, [])
        return
    require_refresh_token_kept(world)
    assert world.stored().revoked_at is None
    assert len(world.provider.sent) == 1


def check_service_token(world: World) -> None:
    """Obtain a service token."""
    try:
        record = world.broker.client_credentials(SERVICE_REQUEST)
    except BrokerError as error:
        require_harmless(error, world)
    else:
        require_usable(record, world.case, world.store)
        assert record.refresh_token is None
    assert world.stored() == world.old
    assert len(world.provider.sent) == 1


def check_revocation(world: World) -> None:
    """Revoke the user's grant: there is a tombstone, or the record is as it was."""
    try:
        left = world.broker.revoke(USER_REQUEST)
    except BrokerError as error:
        require_harmless(error, world)
        assert world.stored() == world.old
    else:
        assert left == world.stored()
        assert world.stored().revoked_at is not None
    assert len(world.provider.sent) == 1


CHECKS = (check_renewal, check_login, check_service_token, check_revocation)


# How providers are described, and what they answer.


def described(quirks: ProviderQuirks, **fields: Any) -> ProviderDescriptor:
    """Describe a provider that has all endpoints and these quirks."""
    return ProviderDescriptor(
        "odd",
        "https://odd.example.com/token",
        set(GrantType),
        authorization_endpoint="https://odd.example.com/authorize",
        revocation_endpoint="https://odd.example.com/revoke",
        quirks=quirks,
        **fields,
    )


TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
CODES = ["invalid_grant", "invalid_client", "access_denied", "temporarily_unavailable", "slow_down"]
THEIR_CODES = ["bad_refresh_token", "190", "40001", "user_denied", "Invalid refresh token", "1e400"]
DEAD_WORDS = "The token IS dead."
REFUSALS = [*["invalid_grant"] * 6, *CODES, *THEIR_CODES, 190, 40001]
ERROR_PLACES = [
    "error",
    "error.code",
    "errors.0.errorType",
    "errcode",
    "status",
    "data.error_code",
    "message",
]
TOKEN_PATHS = [None, None, None, "data", "body.token", "authed_user", "tokens.0"]
EXPIRY_MEMBERS = ["expires_in", "expires_at", "expires", "ttl"]
BROUGHT = ["realmId", "scope", "location", "expires_at", "ok", "data"]
ODD_NUMBERS = [0, -1, 0.5, 1e-320, 1e308, 2**53 + 1, 10**40, 10**400, *map(float, ("nan", "inf", "-inf"))]
ODD_TIMES = ["2026-01-01T01:00:00Z", "9999-12-31T23:59:59-23:59", "0001-01-01", "20260101T01", "12:00"]
LIFETIMES = st.none() | st.timedeltas(timedelta(seconds=1), TEN_YEARS)
QUIRKS = st.builds(
    ProviderQuirks,
    param_names=st.sampled_from([{}, {"client_id": "client_key"}, {"refresh_token": "rt", "scope": None}]),
    plain_basic=st.booleans(),
    revoke_access_token=st.booleans(),
    error_codes=st.dictionaries(
        st.sampled_from(THEIR_CODES) | st.from_regex(r"[!#-\[\]-~]{2,12}", fullmatch=True),
        st.sampled_from(CODES),
        max_size=3,
    ),
    error_paths=st.lists(st.sampled_from(ERROR_PLACES), max_size=3),
    dead_refresh_texts=st.lists(st.just("is dead"), max_size=1),
    token_path=st.sampled_from(TOKEN_PATHS),
    expiry=st.builds(
        ExpiryRule,
        st.sampled_from(EXPIRY_MEMBERS),
        unit=st.sampled_from(TimeUnit),
        absolute=st.booleans(),
        zero_is_never=st.booleans(),
    ),
    scope_member=st.sampled_from(["scope", "scopes", "granted.scope"]),
    token_type=st.sampled_from([None, None, "Bearer", "Zoho-oauthtoken"]),
    callback_members=st.lists(st.sampled_from(BROUGHT), max_size=3),
    extra_members=st.none() | st.lists(st.sampled_from([*BROUGHT, "extra"]), max_size=3),
)
DESCRIPTORS = st.builds(
    described,
    QUIRKS,
    refresh_endpoint=st.none() | st.just("https://odd.example.com/refresh"),
    client_auth=st.sampled_from([None, "client_secret_basic", "client_secret_post"]),
    pkce=st.sampled_from(PkceSupport),
    scope_delimiter=st.sampled_from(" ,+"),
    body_format=st.sampled_from(BodyFormat),
    rotation=st.sampled_from(RotationPolicy),
    reuse_grace=st.none() | st.timedeltas(timedelta(seconds=1), timedelta(seconds=1800)),
    default_expires_in=LIFETIMES,
    default_refresh_expires_in=LIFETIMES,
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(
        [*ODD_NUMBERS, *ODD_TIMES, *CODES, *THEIR_CODES, DEAD_WORDS, "", "0", "\r\nX: 1", "a,b+c d"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
GOOD: dict[str, Any] = {
    "access_token": "new-acc3ss-token",
    "refresh_token": NEW_REFRESH,
    "token_type": "Bearer",
    "expires_in": 3600,
    "scope": SCOPE,
}
LEAN = {"access_token": "new-acc3ss-token"}
MEMBERS = st.sampled_from(
    [*GOOD, "id_token", "error", "ok", "scopes", "extra", *EXPIRY_MEMBERS, *BROUGHT]
) | (
    st.sampled_from(["refresh_token_expires_in", "refresh_expires_in", "error_description", "message"])
    | st.sampled_from(["data", "body", "authed_user", "tokens", "errors", "errcode", "status"])
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "Content-Type": st.sampled_from(["application/json", "text/html", FORM, "text/plain;charset=x", ""])
        | TEXTS,
        "Retry-After": TEXTS | st.integers().map(str) | st.floats().map(str),
        "Date": TEXTS | st.datetimes().map(lambda moment: moment.strftime("%a, %d %b %Y %H:%M:%S GMT")),
        "WWW-Authenticate": st.sampled_from(["Basic", 'Bearer error="invalid_token"', "", "\x00"]) | TEXTS,
        "Location": st.just("https://evil.example.com/"),
    },
)
STATUSES = st.sampled_from([200, 200, 200, 200, 201, 204, 302, 400, 400, 401, 403, 429, 500, 503])
JUNK = st.sampled_from(
    [b"", b" ", b"<html>", b"\xff\xfe", b"null", b"[]", b"[" * 100_000, b'{"a":' * 100_000]
)


def placed(path: str, value: object) -> Any:
    """Give an object that holds ``value`` where ``path`` leads."""
    for step in reversed(path.split(".")):
        value = [value] if step.isdecimal() else {step: value}
    return value


def wrapped(token: dict[str, Any], quirks: ProviderQuirks) -> dict[str, Any]:
    """Put the members of a token where this provider has them."""
    found: dict[str, Any] = token if quirks.token_path is None else placed(quirks.token_path, token)
    return found


@st.composite
def payloads(draw: st.DrawFn, quirks: ProviderQuirks) -> dict[str, Any]:
    """A token or none where this provider has it, an error or none, and odd values in any members."""
    changes = st.dictionaries(MEMBERS, VALUES, max_size=3)
    place = draw(st.sampled_from(["error", *quirks.error_paths]))
    if draw(st.integers(0, 2)) == 0:  # a plain refusal, more likely than not of the grant
        words = draw(st.sampled_from([{}, {}, {"message": DEAD_WORDS}]))
        return {**draw(st.just({}) | changes), **words, **placed(place, draw(st.sampled_from(REFUSALS)))}
    token = {**draw(st.sampled_from([GOOD, GOOD, LEAN, {}])), **draw(changes)}
    outer = wrapped(token, quirks) if draw(st.integers(0, 4)) else token
    if draw(st.booleans()):
        outer = {**outer, **placed(place, draw(st.sampled_from(REFUSALS) | VALUES))}
    return {**outer, **draw(st.just({}) | changes)}


@st.composite
def bodies(draw: st.DrawFn, quirks: ProviderQuirks) -> bytes:
    """JSON, whole or cut, in some encoding, members twice, digits without end; a form; or anything."""
    kind = draw(st.integers(0, 11))
    if kind == 0:
        return draw(JUNK | st.binary(max_size=60))
    payload = draw(payloads(quirks))
    if kind == 1:
        flat = {name: value for name, value in payload.items() if isinstance(value, str | int | float)}
        return urlencode(flat, errors="replace").encode()
    text = json.dumps(payload, ensure_ascii=draw(st.booleans()))
    if kind == 2:
        return text.encode("utf-8", "replace")[: draw(st.integers(0, 200))]
    if kind == 3:
        return text.encode(draw(st.sampled_from(["utf-16", "utf-32-le", "utf-8-sig", "cp1252"])), "replace")
    if kind == 4:
        twice = draw(st.dictionaries(MEMBERS, VALUES, min_size=1, max_size=2))
        text = json.dumps(twice)[:-1] + "," + text[1:] if payload else text
    if kind == 5:
        text = text.replace("3600", "9" * draw(st.sampled_from([400, 4300, 5000])))
    if kind == 6:
        text = text.replace("3600", "[" * 1500 + "]" * 1500)
    if kind == 7:
        text = f"[{text}]" if draw(st.booleans()) else f"[{text}, {json.dumps(draw(VALUES))}]"
    return text.encode("utf-8", "surrogatepass")


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any provider with any answer, and any callback with the right state and a code."""
    descriptor = draw(DESCRIPTORS)
    status = draw(STATUSES | STATUSES | st.integers(100, 999))
    response = HttpResponse(status, draw(HEADERS), draw(bodies(descriptor.quirks)))
    callback = draw(st.dictionaries(st.sampled_from([*BROUGHT, "other"]) | TEXTS, TEXTS, max_size=3))
    denied = draw(st.sampled_from([{}] * 9 + [{"error": "user_denied", "error_description": "no"}]))
    return Case(descriptor, response, {**callback, **denied})


def check_in_memory(case: Case) -> None:
    """Give this answer to every flow, each in a world of its own."""
    for check in CHECKS:
        check(World(case, MemoryStore()))


def check_in_files(case: Case) -> None:
    """The same in a folder each, which is read anew afterwards."""
    for check in CHECKS:
        with tempfile.TemporaryDirectory() as folder:
            world = World(case, FileStore(Path(folder) / "tokens"))
            check(world)
            assert FileStore(Path(folder) / "tokens").fetch(world.key) == world.stored()


def bounded(max_examples: int) -> settings:
    """The same examples in every run, in as much time as they take."""
    return settings(
        max_examples=max_examples,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


CUT = b'{"access_token": "new-acc3ss-token", "refresh_token": "new-r3fresh-token"'


@bounded(400)
@given(cases())
@example(Case(described(ProviderQuirks()), HttpResponse(200, {"Content-Type": FORM}, CUT), {}))
def test_any_answer_of_any_provider_is_survived_by_every_flow(case: Case) -> None:
    """Nothing but a BrokerError or a usable record leaves any flow, and no refresh token is lost.

    Precisely: a 2xx answer that is a JSON object, a list of one, or a form, and holds usable text as
    ``refresh_token`` among the members of its token (after ``token_path``), leaves the store with that
    refresh token, whatever else it says and whether or not the rest can be used. So does one that cannot be
    parsed, if that member is whole. After any other answer the store holds the old refresh token, and it is
    presented again an hour later; but a renewal that is refused with a code, or in words, that mean
    ``invalid_grant`` here, at a status that is neither a redirect nor an outage, leaves a tombstone. No other
    error leaves one, and no login, service token or revocation that failed changes the stored grant. Errors
    show no secret, and can be pickled.
    """
    check_in_memory(case)


@bounded(40)
@given(cases())
def test_any_answer_of_any_provider_is_survived_on_disk(case: Case) -> None:
    """The same holds for records that are written to files and read from them."""
    check_in_files(case)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("code", [10**400, -(10**400), 10**40, 1e308, -1, 0.5, 2**53 + 1])
def test_a_number_of_any_size_as_a_code_is_survived(check: Callable[[World], None], code: float) -> None:
    """No flow raises what is no BrokerError over a code that is no number of an error."""
    response = HttpResponse(400, {}, json.dumps({"errcode": code}).encode())
    descriptor = described(ProviderQuirks(error_paths=["errcode"]))
    check(World(Case(descriptor, response, {}), MemoryStore()))
