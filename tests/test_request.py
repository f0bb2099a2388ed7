"""A request says what it asks for, and when a record no longer answers it."""

import copy
import dataclasses
import pickle
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import assume, given, strategies as st

from oauth2broker import (
    CachedTokenRequest,
    ConfigError,
    PrincipalId,
    ScopeSet,
    TenantId,
    TokenFamily,
    TokenRecord,
)
from oauth2broker.flows.request import Need

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
TICK = timedelta(microseconds=1)
REQUEST = CachedTokenRequest("tenant-acme", "user-1", "openid profile")

lifetimes = st.timedeltas(SECOND, timedelta(days=3650))
windows = st.timedeltas(timedelta(0), timedelta(days=400))
principals = st.integers(0, 10**9).map("user-{}".format)


def issued(lifetime: timedelta | None, *, principal: str = "user-1", **changes: Any) -> TokenRecord:
    """Give a record issued at NOW that lasts ``lifetime``."""
    values: dict[str, Any] = {
        "family": TokenFamily("tenant-acme", principal, "demo-provider", "demo-client"),
        "scope": "openid profile",
        "access_token": "s3cr3t-access",
        "refresh_token": "s3cr3t-refresh",
        "issued_at": NOW,
        "expires_at": None if lifetime is None else NOW + lifetime,
    }
    return TokenRecord(**{**values, **changes})


def need_when_left(request: CachedTokenRequest, record: TokenRecord, left: timedelta) -> Need:
    """Say what ``request`` needs when so much is left of ``record``."""
    assert record.expires_at is not None
    return request.need_at(record, record.expires_at - left)


def width(request: CachedTokenRequest, record: TokenRecord) -> timedelta:
    """Give how much is left of ``record`` when ``request`` begins to renew it, to the microsecond."""
    assert record.expires_at is not None
    due, early = 0, (record.expires_at - record.issued_at) // TICK
    while early - due > 1:
        middle = (due + early) // 2
        if need_when_left(request, record, middle * TICK) is Need.NONE:
            early = middle
        else:
            due = middle
    return early * TICK


# What it asks for


def test_a_request_coerces_plain_strings() -> None:
    """Ids and scopes are parsed once, at the edge."""
    request = CachedTokenRequest(
        "tenant-acme", "user-1", ["profile", "openid"], resource="https://api.example/"
    )
    assert type(request.tenant) is TenantId
    assert type(request.principal) is PrincipalId
    assert request.scope == ScopeSet("openid profile")
    assert request.resource == "https://api.example/"


def test_a_request_has_the_windows_of_the_design() -> None:
    """60 s ahead, 5 s at least, no force, nothing rejected, no scope, no resource."""
    request = CachedTokenRequest("tenant-acme", "user-1")
    assert request.preemptive_window == timedelta(seconds=60)
    assert request.minimum_ttl == timedelta(seconds=5)
    assert request.force is False
    assert request.resource is None
    assert not request.scope


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("preemptive_window", timedelta(seconds=-1)),
        ("preemptive_window", 60),
        ("preemptive_window", None),
        ("minimum_ttl", timedelta(microseconds=-1)),
        ("minimum_ttl", 5.0),
        ("resource", ""),
        ("resource", "a\nb"),
        ("resource", 5),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(name: str, value: object) -> None:
    """The error says which argument to change."""
    with pytest.raises(ConfigError, match=name):
        CachedTokenRequest("tenant-acme", "user-1", **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments",
    [("", "user-1"), ("tenant acme", "user-1"), ("tenant-acme", "a\nb"), ("t", "p", 'a"'), ("t", None)],
)
def test_hostile_identifiers_and_scopes_are_refused(arguments: tuple[Any, ...]) -> None:
    """They get no further than the request."""
    with pytest.raises(ConfigError):
        CachedTokenRequest(*arguments)


def test_a_window_that_cannot_be_is_refused_when_it_is_replaced() -> None:
    """``with_preemptive_window`` checks like the constructor does."""
    with pytest.raises(ConfigError, match="preemptive_window"):
        REQUEST.with_preemptive_window(-SECOND)
    with pytest.raises(ConfigError, match="preemptive_window"):
        REQUEST.with_preemptive_window(60)  # type: ignore[arg-type]


def test_with_preemptive_window_changes_the_window_only() -> None:
    """Everything else, force and rejection included, stays; the first request is untouched."""
    first = REQUEST.rejecting(issued(HOUR)).force_refresh()
    changed = first.with_preemptive_window(5 * MINUTE)
    assert changed.preemptive_window == 5 * MINUTE
    assert changed.with_preemptive_window(first.preemptive_window) == first
    assert first.preemptive_window == MINUTE


@pytest.mark.parametrize("name", ["tenant", "scope", "force", "preemptive_window", "rejected", "note"])
def test_a_request_cannot_be_changed(name: str) -> None:
    """Threads share and reuse it."""
    with pytest.raises((AttributeError, TypeError)):
        setattr(REQUEST, name, None)


def test_a_request_survives_pickle_and_copy() -> None:
    """It is sent to workers with its force, its windows and what it rejects, and holds no token."""
    request = REQUEST.rejecting(issued(HOUR)).force_refresh().with_preemptive_window(MINUTE * 2)
    for twin in (pickle.loads(pickle.dumps(request)), copy.copy(request), copy.deepcopy(request)):
        assert twin == request
        assert hash(twin) == hash(request)
        assert twin.rejects(issued(HOUR))
    assert b"s3cr3t" not in pickle.dumps(request)
    assert "s3cr3t" not in repr(request) + repr(dataclasses.asdict(request))


# The windows


@pytest.mark.parametrize("minimum_ttl", [5 * SECOND, 20 * SECOND, MINUTE, 2 * MINUTE])
def test_less_than_the_minimum_is_never_served(minimum_ttl: timedelta) -> None:
    """The mandatory window is exact, without jitter, and also where it is wider than the advisory one."""
    request = CachedTokenRequest("tenant-acme", "user-1", "openid profile", minimum_ttl=minimum_ttl)
    record = issued(HOUR)
    assert need_when_left(request, record, minimum_ttl - TICK) is Need.MANDATORY
    assert need_when_left(request, record, minimum_ttl) is not Need.MANDATORY
    for left in (timedelta(0), -TICK, -HOUR):
        assert need_when_left(request, record, left) is Need.MANDATORY


def test_an_expired_token_is_mandatory_even_without_a_minimum() -> None:
    """A caller that asks for no remaining life still gets no expired token."""
    request = CachedTokenRequest(
        "tenant-acme", "user-1", preemptive_window=timedelta(0), minimum_ttl=timedelta(0)
    )
    record = issued(HOUR)
    assert need_when_left(request, record, TICK) is Need.NONE
    assert need_when_left(request, record, timedelta(0)) is Need.MANDATORY


@given(principals, st.timedeltas(20 * SECOND, timedelta(days=30)))
def test_the_advisory_window_lies_between_three_quarters_and_all_of_it(
    principal: str, window: timedelta
) -> None:
    """The jitter only ever shortens it, by a quarter at most."""
    request = CachedTokenRequest("tenant-acme", principal, "openid profile", preemptive_window=window)
    record = issued(8 * window, principal=principal)
    assert need_when_left(request, record, window) is Need.NONE
    assert need_when_left(request, record, window * 0.75 - TICK) is Need.ADVISORY
    assert window * 0.75 - TICK <= width(request, record) <= window


@given(principals)
def test_the_jitter_of_a_key_is_the_same_for_every_token_and_caller(principal: str) -> None:
    """It follows the key: another token, another moment, another copy of the request change nothing."""
    requests = [CachedTokenRequest("tenant-acme", principal, "openid profile") for _ in range(2)]
    first = issued(HOUR, principal=principal)
    second = issued(30 * HOUR, principal=principal, access_token="another")
    assert len({width(request, record) for request in requests for record in (first, second)}) == 1


def test_the_jitter_is_the_same_in_every_process() -> None:
    """It is drawn from the key's digest, whose value is pinned: two hosts begin at the same moment."""
    expected = MINUTE * (1 - int("38aeb896", 16) / 2**32 / 4)
    assert issued(HOUR).key.digest.startswith("38aeb896")
    assert abs(width(REQUEST, issued(HOUR)) - expected) <= TICK


def test_the_jitter_spreads_keys_over_the_window() -> None:
    """A thousand users who logged in together are not renewed together."""
    widths = sorted(width(REQUEST, issued(HOUR, principal=f"user-{number}")) for number in range(1000))
    assert widths[0] < 46 * SECOND
    assert widths[-1] > 59 * SECOND
    assert len(set(widths)) > 990


@given(lifetimes, windows, windows, principals)
def test_both_windows_are_capped_at_a_quarter_of_the_lifetime(
    lifetime: timedelta, preemptive: timedelta, minimum: timedelta, principal: str
) -> None:
    """However wide a caller asks, three quarters of a token's life are never spent renewing it."""
    request = CachedTokenRequest(
        "tenant-acme", principal, "openid profile", preemptive_window=preemptive, minimum_ttl=minimum
    )
    record = issued(lifetime, principal=principal)
    assert need_when_left(request, record, lifetime / 4 + TICK) is Need.NONE
    if minimum >= lifetime / 4:
        assert need_when_left(request, record, lifetime / 4 - 2 * TICK) is Need.MANDATORY
    elif preemptive * 0.75 >= lifetime / 4:
        assert need_when_left(request, record, lifetime / 4 - 2 * TICK) is not Need.NONE


@given(lifetimes, windows, windows, st.lists(st.floats(-0.5, 1), min_size=2, max_size=6))
def test_the_need_only_grows_as_time_passes(
    lifetime: timedelta, preemptive: timedelta, minimum: timedelta, shares: list[float]
) -> None:
    """From none to advisory to mandatory, never back."""
    request = CachedTokenRequest("t", "p", preemptive_window=preemptive, minimum_ttl=minimum)
    record = issued(lifetime)
    order = [Need.NONE, Need.ADVISORY, Need.MANDATORY]
    needs = [need_when_left(request, record, lifetime * share) for share in sorted(shares, reverse=True)]
    assert needs == sorted(needs, key=order.index)


@given(lifetimes, windows, windows, principals)
def test_a_token_is_not_due_right_after_it_was_issued(
    lifetime: timedelta, preemptive: timedelta, minimum: timedelta, principal: str
) -> None:
    """A token of any lifetime from a second on serves most of its life, whatever the windows (FAULTS 30)."""
    request = CachedTokenRequest(
        "tenant-acme", principal, "openid profile", preemptive_window=preemptive, minimum_ttl=minimum
    )
    record = issued(lifetime, principal=principal)
    for share in (0.0, 0.01, 0.5, 0.74):
        assert request.need_at(record, NOW + lifetime * share) is Need.NONE
        assert not request.should_refresh(record, NOW + lifetime * share)


@pytest.mark.parametrize("seconds", [1, 2, 5, 20, 59, 60, 61, 240, 300, 3600])
def test_should_refresh_is_false_for_a_token_just_issued(seconds: int) -> None:
    """With the default windows too, shorter-lived tokens than the window included (FAULTS 30)."""
    record = issued(seconds * SECOND)
    assert not REQUEST.should_refresh(record, NOW)
    assert REQUEST.should_refresh(record, NOW + seconds * SECOND)


def test_should_refresh_is_true_in_either_window() -> None:
    """Advisory or mandatory, it is time to renew."""
    record = issued(HOUR)
    assert not REQUEST.should_refresh(record, NOW + HOUR - MINUTE)
    assert REQUEST.should_refresh(record, NOW + HOUR - 44 * SECOND)
    assert REQUEST.should_refresh(record, NOW + HOUR - SECOND)


def test_a_wider_window_is_renewed_earlier() -> None:
    """A caller with a long job asks for more and gets it."""
    record, halfway = issued(8 * HOUR), NOW + 7 * HOUR
    assert not REQUEST.should_refresh(record, halfway)
    assert REQUEST.with_preemptive_window(2 * HOUR).should_refresh(record, halfway)
    assert not REQUEST.with_preemptive_window(timedelta(0)).should_refresh(record, NOW + 8 * HOUR - MINUTE)


def test_a_record_without_expiry_is_never_due() -> None:
    """Where the provider does not say, only a refusal by the API tells."""
    record = issued(None)
    for now in (NOW, NOW + 100_000 * HOUR):
        assert REQUEST.need_at(record, now) is Need.NONE


def test_a_token_that_lasts_no_time_is_due_at_once() -> None:
    """expires_in 0 is no lifetime; neither is an expiry before the issue."""
    for lifetime in (timedelta(0), -HOUR):
        assert REQUEST.need_at(issued(lifetime), NOW) is Need.MANDATORY


@given(st.timedeltas(TICK, timedelta(days=10_000)), st.none() | lifetimes)
def test_a_record_from_the_future_is_believed_up_to_300_seconds(
    ahead: timedelta, lifetime: timedelta | None
) -> None:
    """Clocks of hosts differ a little; one that was put back by more makes a lifetime worthless."""
    record = issued(lifetime, issued_at=NOW, expires_at=None if lifetime is None else NOW + lifetime)
    now = NOW - ahead
    expected = Need.MANDATORY if ahead > 300 * SECOND else Need.NONE
    assert REQUEST.need_at(record, now) is expected


def test_the_300_seconds_are_exact() -> None:
    """At the limit a record is believed, one microsecond beyond it is not, without expiry too."""
    for record in (issued(HOUR), issued(None)):
        assert REQUEST.need_at(record, NOW - 300 * SECOND) is Need.NONE
        assert REQUEST.need_at(record, NOW - 300 * SECOND - TICK) is Need.MANDATORY


def test_a_tombstone_answers_nothing() -> None:
    """Whatever its times say, it has no token to serve."""
    for record in (issued(HOUR).tombstone(NOW), issued(None).tombstone(NOW)):
        assert REQUEST.need_at(record, NOW) is Need.MANDATORY


def test_the_time_may_be_of_any_zone() -> None:
    """Instants are compared, not clock faces."""
    elsewhere = (NOW + HOUR - 44 * SECOND).astimezone(timezone(timedelta(hours=9)))
    assert REQUEST.need_at(issued(HOUR), elsewhere) is Need.ADVISORY


# Force and rejection


def test_a_forced_request_is_content_with_no_stored_token() -> None:
    """Fresh or without expiry, it must be obtained anew; the windows themselves do not change."""
    forced = REQUEST.force_refresh()
    assert forced.force is True
    assert forced == CachedTokenRequest("tenant-acme", "user-1", "openid profile", force=True)
    for record in (issued(HOUR), issued(None)):
        assert forced.need_at(record, NOW) is Need.MANDATORY
        assert forced.window_at(record, NOW) is Need.NONE
    assert REQUEST.force is False


def test_a_rejecting_request_is_content_with_any_token_but_that_one() -> None:
    """A hundred 401s for one token are answered by one renewal: the successor serves them all."""
    refused, successor = issued(HOUR), issued(HOUR, access_token="s3cr3t-successor")
    request = REQUEST.rejecting(refused)
    assert request.rejects(refused)
    assert request.need_at(refused, NOW) is Need.MANDATORY
    assert request.window_at(refused, NOW) is Need.NONE
    assert not request.rejects(successor)
    assert request.need_at(successor, NOW) is Need.NONE
    assert not REQUEST.rejects(refused)


def test_a_rejection_is_of_the_token_and_not_of_the_record() -> None:
    """The same token, read back from a store with other notes on it, is still the one refused."""
    request = REQUEST.rejecting(issued(HOUR))
    assert request.rejects(TokenRecord.from_json(issued(HOUR, failures=2, attempted_at=NOW).to_json()))


def test_the_latest_rejection_counts() -> None:
    """A caller whose second token was refused as well rejects that one."""
    first, second = issued(HOUR), issued(HOUR, access_token="second")
    request = REQUEST.rejecting(first).rejecting(second)
    assert request.rejects(second)
    assert not request.rejects(first)


@given(st.text(), st.text())
def test_a_request_rejects_exactly_the_token_it_was_given(one: str, other: str) -> None:
    """No two tokens are taken for each other, and the request holds neither."""
    assume(one != other)
    request = REQUEST.rejecting(issued(HOUR, access_token=one))
    assert request.rejects(issued(HOUR, access_token=one))
    assert not request.rejects(issued(HOUR, access_token=other))


def test_replacing_a_field_of_a_request_keeps_what_it_rejects() -> None:
    """``dataclasses.replace`` changes what it names, and refuses or keeps the rest."""
    request = REQUEST.rejecting(issued(HOUR))
    assert dataclasses.replace(request, minimum_ttl=SECOND).rejects(issued(HOUR))


def test_what_an_api_refused_is_told_by_its_record() -> None:
    """Not by the token, which would stay in the traceback's locals."""
    with pytest.raises(ConfigError, match="the TokenRecord that was refused, not str") as caught:
        REQUEST.rejecting("s3cr3t-access")  # type: ignore[arg-type]
    assert "record" not in caught.traceback[-1].locals
