"""Records hold what was issued, keys keep them apart, and nothing that goes wrong shows a secret."""

import contextlib
import copy
import dataclasses
import json
import logging
import pickle
import string
import traceback
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone
from types import TracebackType
from typing import Any

import pytest
from hypothesis import given, strategies as st

from oauth2broker import (
    Broker,
    CachedTokenRequest,
    ConfigError,
    GrantType,
    InsufficientScopeError,
    PrincipalId,
    ProviderDescriptor,
    ProviderId,
    ScopeSet,
    SerializationError,
    StoreKey,
    TenantId,
    TokenFamily,
    TokenRecord,
    TokenSecret,
    TokenStatus,
)
from oauth2broker.frozen import MAX_DEPTH, FrozenMapping

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
TICK = timedelta(microseconds=1)
FAMILY = TokenFamily("tenant-acme", "user-1", "demo-provider", "demo-client")
SCOPE = "openid profile"
SECRETS = ["s3cr3t-access", "s3cr3t-refresh", "s3cr3t-identity", "s3cr3t-extra"]
ACCESS, REFRESH, IDENTITY, EXTRA = SECRETS
MARK = "s3cr3t"  # every secret of this file holds it
TIMES = ["issued_at", "expires_at", "refresh_expires_at", "revoked_at", "attempted_at", "retry_at"]
FIELDS = [spec.name for spec in fields(TokenRecord) if not spec.name.startswith("serves_")]

KeyParts = tuple[str, str, str, str, str, str | None, GrantType]


def make(**changes: Any) -> TokenRecord:
    """Give a record in which every field has a value of its own."""
    values: dict[str, Any] = {
        "family": FAMILY,
        "scope": SCOPE,
        "granted_scope": "openid",
        "resource": "https://api.example.com/",
        "access_token": ACCESS,
        "refresh_token": REFRESH,
        "token_type": "DPoP",
        "issued_at": NOW,
        "expires_at": NOW + HOUR,
        "refresh_expires_at": NOW + 24 * HOUR,
        "attempted_at": NOW + TICK,
        "retry_at": NOW + 2 * TICK,
        "failures": 3,
        "id_token": IDENTITY,
        "extra": {"instance_url": EXTRA, "nested": {"list": [1, {"deep": EXTRA}]}},
    }
    return TokenRecord(**{**values, **changes})


def make_bare(**changes: Any) -> TokenRecord:
    """Give a record of which only the required fields were given."""
    return TokenRecord(**{"family": FAMILY, "access_token": ACCESS, "issued_at": NOW, **changes})


def key_of(parts: KeyParts) -> StoreKey:
    tenant, principal, provider, client_id, scope, resource, grant = parts
    family = TokenFamily(tenant, principal, provider, client_id)
    return StoreKey(family, ScopeSet(scope).fingerprint, resource, grant)


def everything_told_by(error: BaseException) -> str:
    """Give what a crash reporter finds: the error, its chain, and all frames' locals but this file's."""
    told: list[str] = []
    pending: list[BaseException | None] = [error]
    while pending:
        found = pending.pop()
        if found is None:
            continue
        pending += [found.__cause__, found.__context__]
        report = traceback.TracebackException.from_exception(found, capture_locals=True)
        told += report.format_exception_only()
        told += [repr(found), repr(vars(found))]
        told += [f"{frame.name} {frame.locals}" for frame in report.stack if frame.filename != __file__]
    return "\n".join(told)


def locals_of_frames(tb: TracebackType | None) -> str:
    """Give the locals of all frames but this file's; what cannot be shown tells nothing."""
    told: list[str] = []
    for frame, _ in traceback.walk_tb(tb):
        if frame.f_code.co_filename == __file__:
            continue
        for name, value in frame.f_locals.items():
            with contextlib.suppress(AttributeError):
                told.append(f"{name}={value!r}")
    return "\n".join(told)


# Strategies: whatever may be in a record, with a liking for what breaks naive encodings.

SEPARATORS = "|:,;/.\"'[]{}\\%&=-_"
LOOK_ALIKES = ["acme", "Acme", "\u0430cme", "\uff41cme", "acme\u200b", "acm\u00e9", "acme\u0301"]
HOSTILE = [
    *LOOK_ALIKES,
    "../../etc/passwd",
    "..",
    "/",
    "C:\\x",
    "%2F",
    "null",
    "None",
    "true",
    "[]",
    '","',
    '"',
    '\\"',
    "\\u0061",
    '["a","b"]',
    '{"a":1}',
    "\U0001f600",
    "x" * 128,
]
identifiers = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(st.sampled_from("a" + SEPARATORS), min_size=1, max_size=4),
    st.text(st.characters(exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"]), min_size=1, max_size=128),
)
printable = st.one_of(
    st.sampled_from([*HOSTILE, "two words", " "]).filter(str.isprintable),
    st.text(st.sampled_from("a " + SEPARATORS), min_size=1, max_size=4),
    st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "), min_size=1),
)
scopes = st.lists(
    st.text(st.sampled_from(sorted({*string.printable[:94]} - {'"', "\\"})), min_size=1, max_size=5)
).map(" ".join)
grants = st.sampled_from([GrantType.AUTHORIZATION_CODE, GrantType.CLIENT_CREDENTIALS])
key_parts = st.tuples(identifiers, identifiers, identifiers, printable, scopes, st.none() | printable, grants)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from(HOSTILE),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)
times = st.datetimes(timezones=st.just(UTC))
maybe_times = st.none() | times
records = st.builds(
    TokenRecord,
    family=st.builds(TokenFamily, identifiers, identifiers, identifiers, printable),
    scope=scopes,
    granted_scope=st.none() | scopes,
    resource=st.none() | printable,
    grant=st.sampled_from(GrantType),
    access_token=st.text(),
    refresh_token=st.none() | st.text(),
    token_type=printable,
    issued_at=times,
    expires_at=maybe_times,
    refresh_expires_at=maybe_times,
    revoked_at=maybe_times,
    attempted_at=maybe_times,
    retry_at=maybe_times,
    failures=st.integers(min_value=0),
    id_token=st.none() | st.text(),
    extra=st.none() | st.dictionaries(st.text(), json_values, max_size=4),
)


# Construction


def test_plain_values_are_coerced_to_their_types() -> None:
    """Where a record takes an id, a scope set, a secret or a grant, a plain string does."""
    record = make(grant="client_credentials")
    assert type(record.family.tenant) is TenantId
    assert type(record.family.principal) is PrincipalId
    assert type(record.family.provider) is ProviderId
    assert record.scope == ScopeSet("profile openid")
    assert record.granted_scope == ScopeSet("openid")
    assert record.grant is GrantType.CLIENT_CREDENTIALS
    assert record.access_token == TokenSecret(ACCESS)
    assert record.refresh_token == TokenSecret(REFRESH)
    assert record.id_token == TokenSecret(IDENTITY)
    assert record.extra == FrozenMapping({"instance_url": EXTRA, "nested": {"list": [1, {"deep": EXTRA}]}})


def test_what_is_not_given_has_the_meaning_of_the_rfc() -> None:
    """A scope that the answer does not name was granted as asked; the rest is absent."""
    record = make_bare(scope=SCOPE)
    assert record.granted_scope == record.scope
    assert record.token_type == "Bearer"
    assert record.grant is GrantType.AUTHORIZATION_CODE
    assert record.failures == 0
    assert dict(record.extra) == {}
    absent = {"resource", "refresh_token", "id_token", *TIMES} - {"issued_at"}
    assert {getattr(record, name) for name in absent} == {None}


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("value", [datetime(2026, 1, 1), 1767225600, "2026-01-01T00:00:00Z", NOW.date()])
def test_a_time_is_an_aware_datetime(name: str, value: object) -> None:
    """A naive time, a number, a text and a date are refused by an error that names the field."""
    with pytest.raises(ConfigError, match=name):
        make(**{name: value})


@pytest.mark.parametrize("name", TIMES)
def test_a_time_in_another_zone_is_kept_as_utc(name: str) -> None:
    """The instant stays, the zone becomes UTC, so that two stores write the same text."""
    given_time = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=5, minutes=45)))
    kept = getattr(make(**{name: given_time}), name)
    assert kept == given_time
    assert kept.tzinfo is UTC


def test_a_time_that_has_no_utc_is_refused() -> None:
    """An aware time at the edge of the calendar is a ConfigError like every other value that cannot be."""
    with pytest.raises(ConfigError, match="issued_at"):
        make(issued_at=datetime.min.replace(tzinfo=timezone(HOUR)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("family", ("tenant-acme", "user-1", "demo-provider", "demo-client")),
        ("scope", 'a"b'),
        ("granted_scope", "a\nb"),
        ("resource", ""),
        ("resource", "https://api.example.com/\n"),
        ("resource", 5),
        ("grant", "password"),
        ("grant", None),
        ("access_token", None),
        ("access_token", b"bytes"),
        ("refresh_token", 5),
        ("id_token", ["x"]),
        ("token_type", ""),
        ("token_type", "Bearer\r\n"),
        ("failures", -1),
        ("failures", True),
        ("failures", 1.0),
        ("extra", {5: "x"}),
        ("extra", {"x": object()}),
        ("extra", {"x": {"y": {b"z"}}}),
    ],
)
def test_a_value_that_cannot_be_is_refused(name: str, value: object) -> None:
    """Parsed at the edge: no record holds what its type does not promise."""
    with pytest.raises(ConfigError):
        make(**{name: value})


@pytest.mark.parametrize("client_id", ["", "a\nb", "a\tb", "\x00", "\ud800", "a\u2028b", None, 5])
def test_a_client_id_is_printable_text(client_id: Any) -> None:
    """Newlines, controls and surrogates are refused by an error that names the field."""
    with pytest.raises(ConfigError, match="client_id"):
        TokenFamily("tenant-acme", "user-1", "demo-provider", client_id)


@pytest.mark.parametrize("name", FIELDS)
def test_a_record_cannot_be_changed(name: str) -> None:
    """Every field is frozen, and no new one can be set."""
    record = make()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, name, None)
    with pytest.raises(TypeError):
        vars(record)


def test_equal_records_are_equal_and_hash_alike() -> None:
    """Records are values: made twice from the same, they are one; any other field makes another."""
    assert make() == make()
    assert hash(make()) == hash(make())
    assert len({make(), make(), make(failures=4)}) == 2


def test_replacing_one_field_keeps_the_others_and_rebuilds_the_key() -> None:
    """``dataclasses.replace`` is how records change; a key never stays behind."""
    record = make()
    changed = replace(record, resource=None, failures=0)
    assert changed.key.resource is None
    assert changed.key != record.key
    assert replace(changed, resource=record.resource, failures=record.failures) == record


# Status and scope


def test_status_changes_at_the_very_instants() -> None:
    """Active from the instant of issue until just before the instant of expiry."""
    record = make()
    assert record.status_at(NOW - TICK) is TokenStatus.PENDING
    assert record.status_at(NOW) is TokenStatus.ACTIVE
    assert record.status_at(NOW + HOUR - TICK) is TokenStatus.ACTIVE
    assert record.status_at(NOW + HOUR) is TokenStatus.EXPIRED


def test_a_record_without_expiry_stays_active() -> None:
    """A provider that does not say when a token ends has not said that it ends."""
    record = make_bare()
    assert record.status_at(datetime.max.replace(tzinfo=UTC)) is TokenStatus.ACTIVE


def test_a_tombstone_is_revoked_at_any_time() -> None:
    """Before issue, before the revocation and after expiry alike."""
    dead = make().tombstone(NOW + HOUR)
    for now in (NOW - HOUR, NOW, NOW + HOUR, NOW + 48 * HOUR):
        assert dead.status_at(now) is TokenStatus.REVOKED


def test_status_takes_a_time_of_any_zone() -> None:
    """It compares instants, not clock faces."""
    elsewhere = NOW.astimezone(timezone(timedelta(hours=-8)))
    assert make().status_at(elsewhere) is TokenStatus.ACTIVE


def test_a_tombstone_keeps_no_secret_and_nothing_of_the_answer() -> None:
    """No field is a secret any more, extra is empty, and neither repr nor JSON holds a word of them."""
    dead = make().tombstone(NOW + HOUR)
    assert not any(getattr(dead, name) for name in FIELDS if isinstance(getattr(dead, name), TokenSecret))
    assert dead.access_token == TokenSecret("")
    assert dead.refresh_token is None
    assert dead.id_token is None
    assert dict(dead.extra) == {}
    assert MARK not in dead.to_json() + repr(dead)


@given(records, times)
def test_any_record_makes_a_tombstone_without_secrets(record: TokenRecord, instant: datetime) -> None:
    """Whatever was in it, only what names the grant and its times stays."""
    dead = record.tombstone(instant)
    assert dead.revoked_at == instant
    assert dead.key == record.key
    assert (dead.access_token.expose(), dead.refresh_token, dead.id_token) == ("", None, None)
    assert len(dead.extra) == 0
    kept = ["family", "scope", "granted_scope", "resource", "grant", "token_type"]
    kept += ["issued_at", "expires_at", "refresh_expires_at"]
    assert all(getattr(dead, name) == getattr(record, name) for name in kept)
    assert (dead.attempted_at, dead.retry_at, dead.failures) == (None, None, 0)


def test_require_scope_gives_the_record_when_all_was_granted() -> None:
    """It chains, for what was asked for as for any part of what was granted."""
    record = make(scope="a b", granted_scope="a b c")
    assert record.require_scope() is record
    assert record.require_scope("c a") is record
    assert record.require_scope(["b"]) is record
    assert record.require_scope("") is record


def test_require_scope_names_what_is_missing() -> None:
    """A narrower grant is an error only here, and the error says which tokens are missing."""
    record = make(scope="a b c", granted_scope="b")
    with pytest.raises(InsufficientScopeError, match=r": a c$"):
        record.require_scope()
    with pytest.raises(InsufficientScopeError, match=r": d$"):
        record.require_scope("b d")


# Extra


def test_extra_is_frozen_all_the_way_down() -> None:
    """Neither the record nor anybody who gave or got the mapping can change it."""
    given_extra: dict[str, Any] = {"a": {"b": [1, {"c": 2}]}}
    record = make(extra=given_extra)
    given_extra["a"]["b"][1]["c"] = 3
    given_extra["z"] = 1
    extra: Any = record.extra
    assert extra["a"]["b"] == (1, FrozenMapping({"c": 2}))
    assert "z" not in extra
    for mapping in (extra, extra["a"], extra["a"]["b"][1]):
        with pytest.raises(TypeError):
            mapping["c"] = 3
        with pytest.raises(TypeError):
            del mapping["c"]
        with pytest.raises(AttributeError):
            mapping.c = 3
        with pytest.raises(AttributeError):
            del mapping._items


def test_extra_is_a_mapping_that_equals_a_plain_one() -> None:
    """It reads like a dict, and hashes, copies and pickles as a value."""
    extra = FrozenMapping({"a": {"b": [1]}, "c": None})
    assert extra == {"a": {"b": (1,)}, "c": None}
    assert list(extra) == ["a", "c"]
    assert hash(extra) == hash(FrozenMapping({"c": None, "a": {"b": [1]}}))
    assert copy.copy(extra) is extra
    assert copy.deepcopy(extra) is extra
    assert pickle.loads(pickle.dumps(extra)) == extra


def test_extra_nests_up_to_a_depth_that_can_be_read_back() -> None:
    """The deepest that is accepted survives the codec; one deeper is refused, never stored."""
    deepest: object = 1
    for _ in range(MAX_DEPTH):
        deepest = [deepest]
    record = make(extra={"x": deepest})
    assert TokenRecord.from_json(record.to_json()) == record
    with pytest.raises(ConfigError, match="deep"):
        make(extra={"x": [deepest]})


def test_extra_made_of_frozen_parts_nests_no_deeper() -> None:
    """What a hook builds of frozen mappings is refused like plain nesting, or can be read back."""
    inner: Any = FrozenMapping({"x": 1})
    try:
        for _ in range(MAX_DEPTH + 1):
            inner = FrozenMapping({"x": inner})
        record = make(extra=inner)
    except ConfigError:
        return
    assert TokenRecord.from_json(record.to_json()) == record


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_written_is_strict_json(value: float) -> None:
    """A number that JSON does not have is refused, or written as what a strict reader (PostgreSQL) takes."""

    def refuse(constant: str) -> object:
        raise AssertionError(f"not JSON: {constant}")

    try:
        record = make(extra={"x": value})
    except ConfigError:
        return
    json.loads(record.to_json(), parse_constant=refuse)


# What a record shows


def test_the_repr_of_a_record_shows_names_of_extra_only() -> None:
    """A reader of a log learns which members came, and no value and no token."""
    shown = repr(make())
    assert "FrozenMapping('instance_url', 'nested')" in shown
    assert "demo-provider" in shown
    assert MARK not in shown


def test_no_way_of_printing_a_record_shows_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    """str, format, asdict, JSON with default=str, logging and a frame's locals are all redacted."""
    record = make()
    plain = dataclasses.asdict(record)
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("tests.records").debug("%s %r", record, plain)
    shown = f"{record} {plain} {json.dumps(plain, default=str)} {dataclasses.astuple(record)}"
    assert MARK not in shown + caplog.text


def test_a_record_refuses_to_be_pickled() -> None:
    """Its secrets do; ``to_json`` is the way to keep one."""
    with pytest.raises(TypeError, match="pickled") as caught:
        pickle.dumps(make())
    assert MARK not in str(caught.value)


def test_copies_of_a_record_are_equal_and_share_its_secrets() -> None:
    """copy and deepcopy work and make no second text."""
    record = make()
    for twin in (copy.copy(record), copy.deepcopy(record)):
        assert twin == record
        assert twin.key == record.key
        assert twin.access_token is record.access_token


@pytest.mark.parametrize("name", ["access_token", "refresh_token", "id_token"])
def test_a_token_that_cannot_be_one_leaves_the_others_out_of_a_traceback(name: str) -> None:
    """One secret that is no text must not show the two beside it in a frame's locals."""
    plain = {"access_token": ACCESS, "refresh_token": REFRESH, "id_token": IDENTITY, name: 5}
    with pytest.raises(ConfigError) as caught:
        make_bare(**plain)
    assert MARK not in str(caught.value) + locals_of_frames(caught.tb)


@pytest.mark.parametrize(
    "change",
    [
        {"family": None},
        {"failures": -1},
        {"grant": "password"},
        {"token_type": ""},
        {"retry_at": 5},
        {"extra": {"x": object()}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_record_that_cannot_be_made_leaves_no_plain_token_in_a_traceback(change: dict[str, Any]) -> None:
    """The constructor's frames, which a crash reporter sends away with their locals, hold no plain token."""
    plain = {"refresh_token": REFRESH, "id_token": IDENTITY, **change}
    with pytest.raises(ConfigError) as caught:
        make_bare(**plain)
    assert MARK not in str(caught.value) + locals_of_frames(caught.tb)


def test_a_record_that_cannot_be_made_leaves_no_value_of_extra_in_a_traceback() -> None:
    """Other members of an answer may be secrets too; a frame's locals show their names at most."""
    with pytest.raises(ConfigError) as caught:
        make_bare(access_token="", extra={"api_key": EXTRA}, expires_at=datetime(2026, 1, 1))
    assert MARK not in str(caught.value) + locals_of_frames(caught.tb)


def test_a_record_that_cannot_be_made_does_not_break_a_crash_reporter() -> None:
    """A half-made record is a local of the constructor's frame, so its repr must work."""
    with pytest.raises(ConfigError) as caught:
        make_bare(token_type="")
    assert MARK not in everything_told_by(caught.value)


# The codec


@given(records)
def test_a_record_survives_its_json(record: TokenRecord) -> None:
    """Every field, hostile identifiers and nested extras come back; text and bytes read alike."""
    text = record.to_json()
    for found in (TokenRecord.from_json(text), TokenRecord.from_json(text.encode())):
        assert found == record
        assert found.key == record.key
        assert found.key.digest == record.key.digest
        assert found.to_json() == text  # also what == does not tell apart: 1, 1.0 and True


def test_the_json_of_a_record_holds_every_field_under_its_name_and_a_version() -> None:
    """What one release wrote, the next must read: the members are pinned."""
    members = json.loads(make().to_json())
    assert members == {
        "version": 1,
        "family": {
            "tenant": "tenant-acme",
            "principal": "user-1",
            "provider": "demo-provider",
            "client_id": "demo-client",
        },
        "scope": "openid profile",
        "granted_scope": "openid",
        "resource": "https://api.example.com/",
        "grant": "authorization_code",
        "access_token": ACCESS,
        "refresh_token": REFRESH,
        "token_type": "DPoP",
        "issued_at": "2026-01-01T12:00:00+00:00",
        "expires_at": "2026-01-01T13:00:00+00:00",
        "refresh_expires_at": "2026-01-02T12:00:00+00:00",
        "revoked_at": None,
        "attempted_at": "2026-01-01T12:00:00.000001+00:00",
        "retry_at": "2026-01-01T12:00:00.000002+00:00",
        "failures": 3,
        "id_token": IDENTITY,
        "extra": {"instance_url": EXTRA, "nested": {"list": [1, {"deep": EXTRA}]}},
    }
    assert set(members) == {*FIELDS, "version"} - {"key"}


def test_the_json_of_a_record_is_ascii_on_one_line() -> None:
    """It survives any file encoding and any line-based store."""
    text = make(extra={"\u2028\n\u00e4\U0001f600": "\u2029\r"}).to_json()
    assert text.isascii()
    assert text.isprintable()


def refused(text: str | bytes) -> str:
    """Read what cannot be read, check what the error tells, and give its message."""
    with pytest.raises(SerializationError) as caught:
        TokenRecord.from_json(text)
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None
    assert MARK not in everything_told_by(error)
    return str(error)


def stored(**changes: Any) -> str:
    """Give a stored record with some members changed."""
    return json.dumps({**json.loads(make().to_json()), **changes})


def nested(depth: int) -> Callable[[str], str]:
    """Give what puts so many brackets into a stored record's extra."""
    return lambda text: text.replace('"extra":{', f'"extra":{{"x":{"[" * depth}{"]" * depth},', 1)


@pytest.mark.parametrize("version", [0, 2, -1, "1", None, [1], {"a": MARK}])
def test_a_record_of_an_unknown_version_is_refused(version: object) -> None:
    """What a later release wrote is not guessed at."""
    assert "version" in refused(stored(version=version))


@pytest.mark.parametrize("version", [True, 1.0])
def test_a_version_is_an_integer(version: object) -> None:
    """What no release ever wrote is not ours."""
    refused(stored(version=version))


def test_a_truncated_record_is_refused_wherever_it_ends() -> None:
    """A half-written file is an error at every length, and shows no secret."""
    text = make().to_json()
    for length in range(len(text)):
        refused(text[:length])
        refused(text[:length].encode())


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\x00" * 512,
        "null",
        "true",
        "5",
        f'"{ACCESS}"',
        f'["{ACCESS}"]',
        "{}",
        "<html>s3cr3t</html>",
        f'{{"access_token": "{ACCESS}"}}',
        f'{{"version": 1, "access_token": "{ACCESS}"}}',
        f'{{"version": 1}} {ACCESS}',
        f"access_token={ACCESS}",
        "[" * 200_000,
        '{"a":' * 200_000,
        "[" * 200_000 + ACCESS + "]" * 200_000,
        f'{{"version": 1, "x": {"9" * 5000}}}',
        b"\xff\xfe\x00s3cr3t",
        b"\x80s3cr3t",
        ACCESS.encode("utf-16"),
    ],
    ids=lambda text: repr(text[:24]),
)
def test_what_is_not_a_record_is_refused(text: str | bytes) -> None:
    """Foreign JSON, other files and bombs are one kind of error, which quotes nothing."""
    refused(text)


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 500, 5_000, 200_000])
def test_nesting_without_end_is_refused(depth: int) -> None:
    """A record of ours with a hostile extra neither exhausts the stack nor is taken."""
    refused(nested(depth)(make().to_json()))


@pytest.mark.parametrize("name", ["version", *(name for name in FIELDS if name != "key")])
def test_a_record_with_a_missing_member_is_refused(name: str) -> None:
    """Nothing is filled in: a record that lost its revoked_at must not come back to life."""
    members = json.loads(make().to_json())
    del members[name]
    refused(json.dumps(members))


@pytest.mark.parametrize("name", ["key", "extra_", "self", ACCESS])
def test_a_record_with_an_unknown_member_is_refused(name: str) -> None:
    """What is not understood is not dropped on the next write."""
    refused(stored(**{name: ACCESS}))


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("value", ["", "soon", ACCESS, 5, [], {}, True, "2026-01-01T00:00:00", "2026-13-01"])
def test_a_stored_time_that_is_none_is_refused(name: str, value: object) -> None:
    """A time is what ``isoformat`` gives for an aware datetime."""
    refused(stored(**{name: value}))


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("value", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_a_stored_time_that_has_no_utc_is_refused(name: str, value: str) -> None:
    """A corrupt offset is a SerializationError like any other corruption, and shows no secret."""
    refused(stored(**{name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("family", None),
        ("family", []),
        ("family", ACCESS),
        ("family", {}),
        ("family", {"tenant": "t", "principal": "p", "provider": "x", "client_id": "c", ACCESS: "y"}),
        ("family", {"tenant": f"{ACCESS}\n", "principal": "p", "provider": "x", "client_id": "c"}),
        ("family", {"tenant": "t", "principal": "p", "provider": "x", "client_id": [ACCESS]}),
        ("scope", f"{ACCESS}\n"),
        ("scope", 5),
        ("scope", None),
        ("granted_scope", [f"{ACCESS} "]),
        ("granted_scope", 5),
        ("resource", f"{ACCESS}\n"),
        ("resource", [ACCESS]),
        ("grant", ACCESS),
        ("grant", None),
        ("grant", [ACCESS]),
        ("grant", {ACCESS: 1}),
        ("access_token", None),
        ("access_token", [ACCESS]),
        ("access_token", 5),
        ("refresh_token", [REFRESH]),
        ("refresh_token", False),
        ("id_token", {"a": IDENTITY}),
        ("token_type", None),
        ("token_type", f"{ACCESS}\n"),
        ("failures", None),
        ("failures", -1),
        ("failures", True),
        ("failures", "1"),
        ("failures", 1.0),
        ("extra", ACCESS),
        ("extra", [ACCESS]),
        ("extra", [[ACCESS, 1]]),
        ("extra", 5),
    ],
)
def test_a_member_of_the_wrong_kind_is_refused(name: str, value: object) -> None:
    """Each is an error that quotes neither the value nor what stands beside it."""
    refused(stored(**{name: value}))


@pytest.mark.parametrize(("name", "value"), [("granted_scope", None), ("extra", None), ("extra", [])])
def test_a_null_where_none_is_ever_written_is_refused(name: str, value: object) -> None:
    """A granted scope that was lost must not be read as all that was asked for."""
    refused(stored(**{name: value}))


@given(st.one_of(st.text(), st.binary(), json_values.map(json.dumps)))
def test_reading_anything_raises_a_serialization_error_only(text: str | bytes) -> None:
    """No input makes the codec fail in another way."""
    with pytest.raises(SerializationError):
        TokenRecord.from_json(text)


# Keys


@pytest.mark.parametrize(
    ("parts", "digest"),
    [
        (
            ("tenant-acme", "user-1", "demo-provider", "demo-client", SCOPE, None, "authorization_code"),
            "38aeb89618127846b400b9c821fe10021b49d2545dc8f5dc7edc9128b59564da",
        ),
        (
            ("tenant-acme", "user-1", "demo-provider", "demo-client", SCOPE, None, "client_credentials"),
            "cb78c52120fadfafb3b7dd546429c078a71a654ae925562231343f570ee8d6a0",
        ),
        (
            (
                "tenant-acme",
                "user-1",
                "demo-provider",
                "demo-client",
                "",
                "https://api.example.com/",
                "authorization_code",
            ),
            "8b92ccebe3457a7d5bd4bf5a3bd5e22243687ebc989a8ed50221dbf0df8cf71c",
        ),
        (
            ("tenant-\u00e4", 'user"\\|,:1', "okta:acme", "client id", "", None, "authorization_code"),
            "091c3077cffcd59518cfd688d222023743df0f40ff40a60b260097de1d14aecb",
        ),
        (
            ("\U0001f600", "../..", "null", "[]", "", "null", "client_credentials"),
            "baab8628edd7173564393f77d7cea8c03b6285cff5a56b08d07bf53a343f3ff1",
        ),
    ],
    ids=["user", "service", "resource", "separators", "names that look like JSON"],
)
def test_the_digest_is_the_one_that_stores_already_hold(parts: tuple[Any, ...], digest: str) -> None:
    """The values were made with sha256sum; a change of the formula would orphan every stored token."""
    assert key_of((*parts[:6], GrantType(parts[6]))).digest == digest


@given(key_parts)
def test_a_digest_is_a_safe_name_that_depends_on_nothing_else(parts: KeyParts) -> None:
    """64 hex digits, the same whenever it is computed, whatever is in the identifiers."""
    key = key_of(parts)
    assert len(key.digest) == 64
    assert set(key.digest) <= set("0123456789abcdef")
    assert key == key_of(parts)
    assert key.digest == key_of(parts).digest
    assert 0 <= key.spread < 1


@given(key_parts, key_parts)
def test_two_different_keys_never_share_a_digest(one: KeyParts, other: KeyParts) -> None:
    """Hostile identifiers are keyed injectively: equal digests exactly for equal parts (FAULTS 28)."""

    def normal(parts: KeyParts) -> tuple[object, ...]:
        return (*parts[:4], ScopeSet(parts[4]), *parts[5:])

    assert (key_of(one).digest == key_of(other).digest) is (normal(one) == normal(other))
    assert (key_of(one) == key_of(other)) is (normal(one) == normal(other))


@given(
    key_parts,
    st.integers(0, 6),
    st.sampled_from([*HOSTILE, "a", "a,b", 'a","b', "a:b"]),
    st.sampled_from(HOSTILE),
)
def test_changing_any_one_part_changes_the_digest(
    parts: KeyParts, position: int, value: str, resource: str
) -> None:
    """Tenant, principal, provider, client, scope, resource and grant all count."""
    changed: list[Any] = list(parts)
    if position == 4:
        changed[4] = f"{parts[4]} one-more-token"
    elif position == 5:
        changed[5] = None if parts[5] is not None else resource.replace("\u200b", "") or "r"
    elif position == 6:
        changed[6] = next(grant for grant in GrantType if grant is not parts[6])
    else:
        changed[position] = value.replace("\u200b", "") if value != parts[position] else "another"
    differs = changed[position] != parts[position]
    assert (key_of(parts).digest != key_of(tuple(changed)).digest) is differs


@given(
    st.lists(st.text(st.sampled_from("ab" + SEPARATORS), min_size=1, max_size=3), min_size=3, max_size=8),
    st.sampled_from([*SEPARATORS, '","', "::", "\\"]),
    st.data(),
)
def test_moving_the_boundary_between_two_identifiers_changes_the_digest(
    pieces: list[str], separator: str, data: st.DataObject
) -> None:
    """(a:b, c) and (a, b:c) are two tenants, with any separator; a joined key would make them one."""
    first = data.draw(st.integers(1, len(pieces) - 2))
    second = data.draw(st.integers(first + 1, len(pieces) - 1))
    keys = [
        key_of(
            (
                separator.join(pieces[:cut]),
                separator.join(pieces[cut:]),
                "demo-provider",
                "demo-client",
                "",
                None,
                GrantType.AUTHORIZATION_CODE,
            )
        )
        for cut in (first, second)
    ]
    assert keys[0].digest != keys[1].digest


def test_look_alike_tenants_have_different_keys() -> None:
    """What no operator can tell apart in a log, the store does."""
    digests = {
        make_bare(family=TokenFamily(name, "user-1", "demo-provider", "demo-client")).key.digest
        for name in LOOK_ALIKES
    }
    assert len(digests) == len(LOOK_ALIKES)


@pytest.mark.parametrize("character", ["\n", "\r", "\t", " ", "\x00", "\x7f", "\u2028", "\ud800"])
def test_a_name_with_a_newline_or_its_like_never_reaches_a_key(character: str) -> None:
    """Log lines and line-based stores cannot be forged through a tenant's name (FAULTS 28)."""
    for position in range(3):
        names = ["tenant-acme", "user-1", "demo-provider"]
        names[position] += character + "x"
        with pytest.raises(ConfigError):
            TokenFamily(names[0], names[1], names[2], "demo-client")


@pytest.mark.parametrize("resource", ["", "a\nb", "\ud83d\ude00"])
def test_a_key_made_by_hand_takes_no_resource_that_a_record_would_not(resource: str) -> None:
    """Two surrogates are encoded like the character they stand for: two unequal keys, one digest."""
    with pytest.raises(ConfigError, match="resource"):
        StoreKey(FAMILY, ScopeSet(SCOPE).fingerprint, resource, GrantType.AUTHORIZATION_CODE)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_key_survives_pickle_with_its_digest(protocol: int) -> None:
    """Keys travel between processes."""
    key = make().key
    twin = pickle.loads(pickle.dumps(key, protocol))
    assert twin == key
    assert (twin.digest, twin.spread, hash(twin)) == (key.digest, key.spread, hash(key))
    assert pickle.loads(pickle.dumps(FAMILY, protocol)) == FAMILY


def test_a_key_cannot_be_changed() -> None:
    """A digest always belongs to the parts beside it."""
    key: Any = make().key
    for name in ("family", "scope_fingerprint", "resource", "grant", "digest", "spread"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(key, name, None)
    for name in ("tenant", "principal", "provider", "client_id"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(key.family, name, "other")


def test_a_record_and_a_request_for_it_have_one_key() -> None:
    """What a broker looks for is where the record is, whatever the order of the scope."""
    request = CachedTokenRequest(
        "tenant-acme", "user-1", "profile openid", resource="https://api.example.com/"
    )
    assert demo_broker().key_for(request) == make().key
    assert demo_broker().key_for(request).digest == make().key.digest


def demo_broker(client_id: str = "demo-client", provider: str = "demo-provider") -> Broker:
    descriptor = ProviderDescriptor(
        provider,
        "https://provider.example.com/token",
        list(GrantType),
        authorization_endpoint="https://provider.example.com/authorize",
    )
    return Broker(descriptor, client_id, "demo-secret")


def test_a_user_and_a_service_never_share_a_key() -> None:
    """A grant of a user and a token of the client itself are two, though all else is the same (FAULTS 29)."""
    request = CachedTokenRequest("tenant-acme", "user-1", SCOPE)
    broker = demo_broker()
    user, service = broker.key_for(request), broker.key_for(request, GrantType.CLIENT_CREDENTIALS)
    assert user != service
    assert user.digest != service.digest


def test_clients_audiences_and_providers_have_keys_of_their_own() -> None:
    """Two client ids, two audiences, two registrations at one provider: six keys (FAULTS 29)."""
    plain = CachedTokenRequest("tenant-acme", "user-1", SCOPE)
    brokers = [demo_broker(), demo_broker("other-client"), demo_broker(provider="demo-provider:2")]
    requests = [
        plain,
        CachedTokenRequest("tenant-acme", "user-1", SCOPE, resource="https://api.example.com/"),
    ]
    digests = {broker.key_for(request).digest for broker in brokers for request in requests}
    assert len(digests) == 6


def test_no_key_is_made_for_the_refresh_grant() -> None:
    """A refreshed token replaces the one it came from; a key of its own would be a second grant."""
    with pytest.raises(ConfigError):
        demo_broker().key_for(CachedTokenRequest("tenant-acme", "user-1"), GrantType.REFRESH_TOKEN)
