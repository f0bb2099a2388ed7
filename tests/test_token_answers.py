"""Rows 11 to 17a of what must be survived: everything odd that a token endpoint may answer."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, cast
from urllib.parse import urlencode

import pytest

from oauth2broker import (
    AuthorizationError,
    Broker,
    BrokerError,
    CachedTokenRequest,
    ConfigError,
    GrantType,
    InsufficientScopeError,
    InvalidClientError,
    InvalidGrantError,
    MemoryStore,
    ProviderQuirks,
    ProviderStrategy,
    ScopeSet,
    TokenRecord,
    TokenStatus,
    TransientError,
)
from oauth2broker.testing import Fault, LoopbackProvider
from tests.support import (
    REDIRECT_URI,
    SCOPE,
    SERVICE_REQUEST,
    TENANT,
    USER,
    USER_REQUEST,
    Crowd,
    ManualClock,
    log_in,
)

TEN_YEARS = timedelta(days=3650)
SETTLED = 35  # seconds after which no answer can still arrive
Flow = Callable[[Broker, LoopbackProvider, ManualClock, Fault], TokenRecord]


def stored(broker: Broker) -> TokenRecord:
    """Give what the store holds for ``USER_REQUEST``."""
    record = broker.store.fetch(broker.key_for(USER_REQUEST))
    assert record is not None
    return record


def refresh_token_of(record: TokenRecord) -> str:
    """Give the plain refresh token."""
    assert record.refresh_token is not None
    return record.refresh_token.expose()


@contextmanager
def client_of(
    provider: LoopbackProvider,
    clock: ManualClock,
    *,
    strategy: ProviderStrategy | None = None,
    **described: Any,
) -> Iterator[Broker]:
    """Make a broker whose descriptor says more than the usual one."""
    descriptor = provider.descriptor(**described)
    with Broker(descriptor, "demo-client", "demo-secret", strategy=strategy, clock=clock) as made:
        yield made


def refresh_with(broker: Broker, provider: LoopbackProvider, clock: ManualClock, fault: Fault) -> TokenRecord:
    """Log in, let the token expire, and renew it under ``fault``."""
    log_in(broker, provider)
    clock.advance(3601)
    provider.clear()
    provider.inject(fault)
    return broker.refresh_access_token(USER_REQUEST)


def exchange_with(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock, fault: Fault
) -> TokenRecord:
    """Log in under ``fault``."""
    provider.clear()
    provider.inject(fault)
    return log_in(broker, provider)


def obtain_with(broker: Broker, provider: LoopbackProvider, clock: ManualClock, fault: Fault) -> TokenRecord:
    """Obtain a service token under ``fault``."""
    provider.clear()
    provider.inject(fault)
    return broker.client_credentials(SERVICE_REQUEST)


FLOWS = [
    pytest.param(refresh_with, id="refresh"),
    pytest.param(exchange_with, id="exchange"),
    pytest.param(obtain_with, id="client_credentials"),
]


class Noting:
    """A change to a payload that takes note of the refresh token in it."""

    def __init__(self, **changes: object) -> None:
        self.changes = changes
        self.tokens: list[str] = []

    def __call__(self, payload: dict[str, object]) -> dict[str, object]:
        self.tokens.append(str(payload.get("refresh_token")))
        return {**payload, **self.changes}


def changed(**changes: object) -> Fault:
    """Process, then answer with these members changed."""
    return Fault.rewrite(lambda payload: {**payload, **changes})


def without(*names: str) -> Fault:
    """Process, then answer without these members."""
    return Fault.rewrite(lambda payload: {k: v for k, v in payload.items() if k not in names})


# Row 11: 429 and 503.

RETRY_AFTER = [
    pytest.param("7", 7.0, id="seconds"),
    pytest.param("0", 1.0, id="zero"),
    pytest.param("-40", 1.0, id="negative"),
    pytest.param("999999999999", 3600.0, id="huge"),
    pytest.param("1e999", 3600.0, id="infinite"),
    pytest.param("nan", 1.0, id="nan"),
    pytest.param("soon", 1.0, id="words"),
    pytest.param("", 1.0, id="empty"),
    pytest.param(None, 1.0, id="missing"),
    pytest.param("Thu, 01 Jan 2026 00:02:00 GMT", 120.0, id="date"),
    pytest.param("Thu, 01 Jan 1970 00:00:00 GMT", 1.0, id="past date"),
    pytest.param("Fri, 31 Dec 9999 23:59:59 GMT", 3600.0, id="absurd date"),
    pytest.param("Thu, 99 Jan 2026 00:00:00 GMT", 1.0, id="impossible date"),
]


def turned_away(status: int, retry_after: str | None) -> Fault:
    """Answer without processing, with a Date that Retry-After may be relative to."""
    headers = {"Date": "Thu, 01 Jan 2026 00:00:00 GMT"}
    if retry_after is not None:
        headers["Retry-After"] = retry_after
    return Fault.answer(status, headers, b'{"error": "temporarily_unavailable"}')


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("header", "seconds"), RETRY_AFTER)
def test_retry_after_is_clamped_and_nobody_calls_before_it_has_passed(
    provider: LoopbackProvider,
    broker: Broker,
    clock: ManualClock,
    status: int,
    header: str | None,
    seconds: float,
) -> None:
    """An expired token meets 429 or 503: one error with the wait, no call during it, one call after it."""
    with pytest.raises(TransientError) as caught:
        refresh_with(broker, provider, clock, turned_away(status, header))
    assert (caught.value.status, caught.value.retry_after) == (status, seconds)
    assert caught.value.retryable
    assert not caught.value.reauthorize

    clock.advance(seconds - 0.25)
    for request in (USER_REQUEST, USER_REQUEST.force_refresh(), USER_REQUEST.rejecting(stored(broker))):
        with pytest.raises(TransientError) as caught:
            broker.refresh_access_token(request)
        assert caught.value.retry_after == pytest.approx(0.25)
    assert provider.token_calls == 1

    clock.advance(0.25)
    crowd = Crowd(8, lambda: broker.refresh_access_token(USER_REQUEST)).start().join()
    assert not crowd.errors
    assert len({record.access_token for record in crowd.results}) == 1
    assert provider.token_calls == 2
    assert provider.reuses == 0


@pytest.mark.parametrize("status", [429, 503])
def test_a_valid_token_is_served_while_the_provider_wants_to_be_left_alone(
    provider: LoopbackProvider, broker: Broker, clock: ManualClock, status: int
) -> None:
    """In the advisory window a refused renewal costs one call until retry_at; the token is served."""
    record = log_in(broker, provider)
    clock.advance(3600 - 30)
    provider.clear()
    provider.inject(turned_away(status, "20"))
    for _ in range(5):
        assert broker.refresh_access_token(USER_REQUEST).access_token == record.access_token
    clock.advance(19)
    assert broker.refresh_access_token(USER_REQUEST).access_token == record.access_token
    assert provider.token_calls == 1
    clock.advance(1)
    assert broker.refresh_access_token(USER_REQUEST).access_token != record.access_token
    assert provider.token_calls == 2


def test_a_forced_renewal_that_is_turned_away_leaves_the_valid_token_to_everyone_else(
    provider: LoopbackProvider, broker: Broker, clock: ManualClock
) -> None:
    """Who insists gets the error, also the second time and without a call; others get the record."""
    record = log_in(broker, provider)
    provider.clear()
    provider.inject(turned_away(429, "60"))
    for _ in range(3):
        with pytest.raises(TransientError):
            broker.refresh_access_token(USER_REQUEST.force_refresh())
        assert broker.refresh_access_token(USER_REQUEST).access_token == record.access_token
    assert provider.token_calls == 1
    clock.advance(60)
    forced = broker.refresh_access_token(USER_REQUEST.force_refresh())
    assert forced.access_token != record.access_token


def test_another_broker_on_the_same_store_waits_too(provider: LoopbackProvider, clock: ManualClock) -> None:
    """What 429 said is in the store: a second broker does not call either."""
    store = MemoryStore()
    first, second = (
        Broker(provider.descriptor(), "demo-client", "demo-secret", store=store, clock=clock)
        for _ in range(2)
    )
    with first, second:
        with pytest.raises(TransientError):
            refresh_with(first, provider, clock, turned_away(429, "60"))
        with pytest.raises(TransientError) as caught:
            second.refresh_access_token(USER_REQUEST)
        assert caught.value.retry_after == 60
        assert provider.token_calls == 1


def test_a_service_token_waits_for_retry_after_too(
    provider: LoopbackProvider, broker: Broker, clock: ManualClock
) -> None:
    """Client credentials with nothing stored remember the wait and call once after it."""
    with pytest.raises(TransientError) as caught:
        obtain_with(broker, provider, clock, turned_away(503, "7"))
    assert (caught.value.status, caught.value.retry_after) == (503, 7.0)
    clock.advance(6)
    with pytest.raises(TransientError) as caught:
        broker.client_credentials(SERVICE_REQUEST)
    assert caught.value.retry_after == 1.0
    assert provider.token_calls == 1
    clock.advance(1)
    assert broker.client_credentials(SERVICE_REQUEST).access_token
    assert provider.token_calls == 2


def test_a_retry_after_date_without_a_date_header_counts_from_the_wall_clock(
    provider: LoopbackProvider, broker: Broker, clock: ManualClock
) -> None:
    """Where the answer has no Date, an HTTP date is a time of the real world, whatever our clock says."""
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=300), usegmt=True)
    fault = Fault.answer(503, {"Retry-After": until}, b"{}")
    with pytest.raises(TransientError) as caught:
        refresh_with(broker, provider, clock, fault)
    assert caught.value.retry_after is not None
    assert 200 < caught.value.retry_after <= 300


def test_back_off_grows_and_is_forgotten_after_a_success(
    provider: LoopbackProvider, broker: Broker, clock: ManualClock
) -> None:
    """Without Retry-After each failure doubles the wait; a renewal that works starts over."""
    log_in(broker, provider)
    clock.advance(3601)
    for expected in (1.0, 2.0, 4.0, 8.0):
        provider.inject(Fault.answer(503))
        with pytest.raises(TransientError) as caught:
            broker.refresh_access_token(USER_REQUEST)
        assert caught.value.retry_after == expected
        clock.advance(expected)
    record = broker.refresh_access_token(USER_REQUEST)
    assert (record.failures, record.retry_at, record.attempted_at) == (0, None, None)


# Row 12: bodies that are no answer.

DEEP = b'{"a":' * 50_000 + b"1" + b"}" * 50_000
UNREADABLE = [
    pytest.param(200, "text/html", b"<html>hello</html>", "HTML", id="html"),
    pytest.param(502, "text/html", b"<html>Bad Gateway</html>", "HTML", id="502 html"),
    pytest.param(500, "text/plain", b"oops", "not JSON", id="500 text"),
    pytest.param(504, "application/json", b"", "empty", id="504 empty"),
    pytest.param(200, "application/json", b"", "empty", id="empty"),
    pytest.param(200, "application/json", b" \r\n\t", "empty", id="white"),
    pytest.param(200, "application/json", b'{"access_token": "a', "not JSON", id="truncated"),
    pytest.param(200, "application/json", b"[]", "no object", id="list"),
    pytest.param(200, "application/json", b'"abc"', "no object", id="string"),
    pytest.param(200, "application/json", b"null", "no object", id="null"),
    pytest.param(200, "application/json", b"42", "no object", id="number"),
    pytest.param(200, "application/json", b"true", "no object", id="true"),
    pytest.param(
        200, "application/json", b'{"access_token": "\xff\xfe"}', "no usable access_token", id="not utf-8"
    ),
    pytest.param(200, "application/json", b"\xff\xfe\x00", "not JSON", id="half utf-16"),
    pytest.param(200, "application/json", b"\xef\xbb\xbf", "empty", id="only a BOM"),
    pytest.param(200, "application/json", b"\x00" * 64, "not JSON", id="zeros"),
    pytest.param(200, "application/json", DEEP, "not JSON", id="deep"),
    pytest.param(200, "application/json", b"[" * 100_000, "not JSON", id="deep list"),
    pytest.param(200, "application/json", b"{}", "access_token", id="empty object"),
    pytest.param(200, "application/x-www-form-urlencoded", b"%%%=&&&;", "not JSON", id="odd form"),
    pytest.param(204, "application/json", b"", "empty", id="204"),
    pytest.param(404, "application/json", b'{"detail": "no such page"}', "no error code", id="404 json"),
    pytest.param(400, "application/json", b'{"error": {"code": 190}}', "no error code", id="error object"),
    pytest.param(400, "application/json", b'{"error": 7}', "no error code", id="error number"),
    pytest.param(400, "application/json", b'{"error": ""}', "no error code", id="error empty"),
]


@pytest.mark.parametrize(("status", "content_type", "body", "words"), UNREADABLE)
def test_an_answer_that_is_none_is_a_transient_error_that_says_what_was_wrong(
    provider: LoopbackProvider,
    broker: Broker,
    clock: ManualClock,
    status: int,
    content_type: str,
    body: bytes,
    words: str,
) -> None:
    """Status and fault are named in every flow; no ValueError, TypeError or KeyError comes out."""
    for flow in (refresh_with, exchange_with, obtain_with):
        with pytest.raises(TransientError) as caught:
            flow(broker, provider, clock, Fault.answer(status, body=body, content_type=content_type))
        assert caught.value.status == status
        assert words in str(caught.value)
        assert str(status) in str(caught.value)
        assert provider.token_calls == 1


@pytest.mark.parametrize("body", [b"<html></html>", b"", b'{"access_token": "a'])
def test_an_unreadable_answer_leaves_the_grant_and_it_is_presented_once_when_it_is_safe(
    provider: LoopbackProvider, broker: Broker, clock: ManualClock, body: bytes
) -> None:
    """The refresh token stays, is not presented while an answer may still arrive, and then works."""
    with pytest.raises(TransientError):
        refresh_with(broker, provider, clock, Fault.answer(200, body=body))
    record = stored(broker)
    assert record.refresh_token is not None
    assert record.attempted_at == clock.now
    clock.advance(SETTLED - 1)
    with pytest.raises(TransientError):
        broker.refresh_access_token(USER_REQUEST)
    assert provider.token_calls == 1
    clock.advance(1)
    assert broker.refresh_access_token(USER_REQUEST).refresh_token != record.refresh_token
    assert provider.token_calls == 2


def test_an_unreadable_answer_does_not_take_a_valid_token_away(
    provider: LoopbackProvider, broker: Broker, clock: ManualClock
) -> None:
    """In the advisory window an HTML page costs one call; the token is served to its end."""
    record = log_in(broker, provider)
    clock.advance(3600 - 40)
    provider.clear()
    provider.inject(Fault.html(502), times=10)
    for _ in range(20):
        assert broker.refresh_access_token(USER_REQUEST).access_token == record.access_token
        clock.advance(1.5)
    assert provider.token_calls == 1


@pytest.mark.parametrize("flow", FLOWS)
def test_a_byte_order_mark_does_no_harm(
    provider: LoopbackProvider, broker: Broker, clock: ManualClock, flow: Flow
) -> None:
    """JSON behind a BOM is read."""
    fault = Fault(edit=lambda answer: replace(answer, body=b"\xef\xbb\xbf" + answer.body))
    record = flow(broker, provider, clock, fault)
    assert provider.is_live(record.access_token.expose())


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize(
    "content_type",
    [
        "application/x-www-form-urlencoded",
        "application/x-www-form-urlencoded; charset=utf-8",
        "Application/X-WWW-Form-URLencoded",
        "text/plain",
        "text/html; charset=utf-8",
        "application/json",
        "",
    ],
)
def test_a_form_encoded_answer_is_read(
    provider: LoopbackProvider, broker: Broker, clock: ManualClock, flow: Flow, content_type: str
) -> None:
    """Some providers answer as they were asked, whatever they call it; all that they say is there."""

    def as_form(answer: Any) -> Any:
        body = urlencode(answer.payload).encode()
        return replace(answer, headers=(("Content-Type", content_type),), body=body)

    record = flow(broker, provider, clock, Fault(edit=as_form))
    assert provider.is_live(record.access_token.expose())
    assert record.expires_at == clock.now + timedelta(hours=1)
    assert (record.refresh_token is None) == (flow is obtain_with)


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize(
    "content_type",
    [
        "text/html",
        "text/plain",
        "",
        "application/x-www-form-urlencoded",
    ],
)
def test_json_under_another_content_type_is_read(
    provider: LoopbackProvider, broker: Broker, clock: ManualClock, flow: Flow, content_type: str
) -> None:
    """A token in JSON counts, whatever the Content-Type says: the old refresh token may be spent."""
    fault = Fault(edit=lambda answer: replace(answer, headers=(("Content-Type", content_type),)))
    record = flow(broker, provider, clock, fault)
    assert provider.is_live(record.access_token.expose())


def test_members_nested_too_deep_are_left_out_and_the_rest_is_kept(
    provider: LoopbackProvider, broker: Broker, clock: ManualClock
) -> None:
    """What no program can want is not a reason to lose a token."""
    nested: object = "bottom"
    for _ in range(200):
        nested = [nested]
    record = refresh_with(broker, provider, clock, changed(odd=nested, instance_url="https://i.example.com"))
    assert dict(record.extra) == {"instance_url": "https://i.example.com"}
    assert TokenRecord.from_json(stored(broker).to_json()) == record


# Row 13: an error under 200.


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        ({"error": "invalid_grant"}, InvalidGrantError),
        ({"ok": False, "error": "invalid_grant"}, InvalidGrantError),
        ({"error": "invalid_client"}, InvalidClientError),
        ({"ok": False, "error": "unauthorized_client"}, InvalidClientError),
        ({"error": "invalid_scope"}, InsufficientScopeError),
        ({"error": "access_denied"}, AuthorizationError),
        ({"error": "interaction_required"}, AuthorizationError),
        ({"error": "temporarily_unavailable"}, TransientError),
        ({"error": "server_error"}, TransientError),
        ({"error": "unsupported_grant_type"}, ConfigError),
        ({"ok": False, "error": "something_else"}, ConfigError),
        ({"ok": False}, TransientError),
        ({"ok": False, "access_token": "not-a-token"}, TransientError),
        ({"error": "invalid_client", "access_token": "not-a-token"}, InvalidClientError),
    ],
)
@pytest.mark.parametrize("flow", FLOWS)
def test_an_error_is_classified_by_its_code_whatever_the_status(
    provider: LoopbackProvider,
    broker: Broker,
    clock: ManualClock,
    flow: Flow,
    status: int,
    payload: Mapping[str, object],
    kind: type[BrokerError],
) -> None:
    """200 with an error inside is that error; the right type comes out, with the status."""
    with pytest.raises(BrokerError) as caught:
        flow(broker, provider, clock, Fault.json(status, payload))
    assert type(caught.value) is kind
    assert caught.value.status == status
    assert provider.token_calls == 1


def test_only_invalid_grant_buries_a_grant_that_is_told_of_under_200(
    provider: LoopbackProvider, broker: Broker, clock: ManualClock
) -> None:
    """invalid_grant inside 200 leaves a tombstone that answers without a call."""
    with pytest.raises(InvalidGrantError):
        refresh_with(broker, provider, clock, Fault.json(200, {"ok": False, "error": "invalid_grant"}))
    assert stored(broker).revoked_at == clock.now
    with pytest.raises(InvalidGrantError):
        broker.refresh_access_token(USER_REQUEST)
    assert provider.token_calls == 1


@pytest.mark.parametrize(
    "error", ["invalid_client", "invalid_scope", "access_denied", "server_error", "slow_down", "odd"]
)
def test_other_errors_leave_the_grant_as_it_was(
    provider: LoopbackProvider, broker: Broker, clock: ManualClock, error: str
) -> None:
    """The refresh token stays and is presented again once it is time."""
    with pytest.raises(BrokerError):
        refresh_with(broker, provider, clock, Fault.json(400, {"error": error}))
    record = stored(broker)
    assert (record.revoked_at, record.attempted_at) == (None, None)
    clock.advance(1)
    assert broker.refresh_access_token(USER_REQUEST).refresh_token != record.refresh_token


def test_the_descriptor_translates_a_providers_own_codes(
    provider: LoopbackProvider, clock: ManualClock
) -> None:
    """A quirk makes the provider's code an RFC one, and it is treated as that."""
    quirks = ProviderQuirks(error_codes={"token_revoked": "invalid_grant"})
    with client_of(provider, clock, quirks=quirks) as broker:
        fault = Fault.json(200, {"ok": False, "error": "token_revoked"})
        with pytest.raises(InvalidGrantError):
            refresh_with(broker, provider, clock, fault)
        assert stored(broker).revoked_at is not None


@pytest.mark.parametrize("secret", ["grant", "i", "invalid_grant"])
def test_a_client_secret_that_occurs_in_an_error_code_does_not_hide_it(
    provider: LoopbackProvider, clock: ManualClock, secret: str
) -> None:
    """Blotting secrets out of the provider's words must not change what the error means."""
    with (
        LoopbackProvider({"short": secret}, clock=clock) as weak,
        Broker(weak.descriptor(), "short", secret, clock=clock) as broker,
        pytest.raises(InvalidGrantError),
    ):
        refresh_with(broker, weak, clock, Fault.json(400, {"error": "invalid_grant"}))


# Row 14: lifetimes.

NOTHING = None
LIFETIMES: list[tuple[str, object, float | None]] = [
    ("string", "3600", 3600),
    ("float", 3600.5, 3600.5),
    ("string float", "3600.5", 3600.5),
    ("zero", 0, NOTHING),
    ("string zero", "0", NOTHING),
    ("negative", -1, NOTHING),
    ("very negative", -(10**30), NOTHING),
    ("huge", 10**30, TEN_YEARS.total_seconds()),
    ("beyond a float", 10**400, TEN_YEARS.total_seconds()),
    ("negative beyond a float", -(10**400), NOTHING),
    ("huge float", 1e308, TEN_YEARS.total_seconds()),
    ("NaN", float("nan"), NOTHING),
    ("string NaN", "NaN", NOTHING),
    ("Infinity", float("inf"), TEN_YEARS.total_seconds()),
    ("-Infinity", float("-inf"), NOTHING),
    ("string infinity", "1e400", TEN_YEARS.total_seconds()),
    ("null", None, NOTHING),
    ("list", [], NOTHING),
    ("list of number", [3600], NOTHING),
    ("object", {}, NOTHING),
    ("true", True, NOTHING),
    ("false", False, NOTHING),
    ("word", "abc", NOTHING),
    ("empty", "", NOTHING),
    ("date", "2026-01-01T01:00:00Z", NOTHING),
    ("surrogate", "\ud800", NOTHING),
]


TELLING = {"string", "float", "zero", "huge", "NaN", "null", "list", "word"}


@pytest.mark.parametrize(
    ("flow", "value", "seconds"),
    [
        pytest.param(flow, value, seconds, id=f"{flow.__name__}-{name}")
        for flow in (refresh_with, exchange_with, obtain_with)
        for name, value, seconds in LIFETIMES
        if flow is refresh_with or name in TELLING
    ],
)
def test_any_expires_in_gives_a_usable_record(
    provider: LoopbackProvider,
    broker: Broker,
    clock: ManualClock,
    flow: Flow,
    value: object,
    seconds: float | None,
) -> None:
    """A lifetime is taken, clamped to ten years or unknown; the token and the new refresh token stay."""
    noting = Noting(expires_in=value)
    record = flow(broker, provider, clock, Fault.rewrite(noting))
    assert record.expires_at == (None if seconds is None else clock.now + timedelta(seconds=seconds))
    assert provider.is_live(record.access_token.expose())
    assert record.status_at(clock.now) is TokenStatus.ACTIVE
    if flow is not obtain_with:
        assert stored(broker) == record
        assert refresh_token_of(record) == noting.tokens[0]
    assert TokenRecord.from_json(record.to_json()) == record


@pytest.mark.parametrize("flow", FLOWS)
def test_a_lifetime_counts_from_when_the_request_was_sent(
    provider: LoopbackProvider, broker: Broker, clock: ManualClock, flow: Flow
) -> None:
    """The provider may have counted from then: after a slow answer no token is served that has expired."""
    sent: list[datetime] = []

    def slowly(payload: dict[str, object]) -> dict[str, object]:
        sent.append(clock.now)
        clock.advance(20)
        return payload

    record = flow(broker, provider, clock, Fault.rewrite(slowly))
    assert (record.issued_at, record.expires_at) == (sent[0], sent[0] + timedelta(hours=1))


@pytest.mark.parametrize("flow", FLOWS)
def test_a_missing_expires_in_is_unknown(
    provider: LoopbackProvider, broker: Broker, clock: ManualClock, flow: Flow
) -> None:
    """Nothing said, nothing made up."""
    assert flow(broker, provider, clock, without("expires_in")).expires_at is None


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("value", [None, -1, "abc"])
def test_the_descriptors_default_stands_for_a_lifetime_that_is_none(
    provider: LoopbackProvider, clock: ManualClock, flow: Flow, value: object
) -> None:
    """A default in the descriptor is used where the answer says nothing usable."""
    default = timedelta(minutes=20)
    with client_of(provider, clock, default_expires_in=default) as broker:
        assert flow(broker, provider, clock, changed(expires_in=value)).expires_at == clock.now + default


@pytest.mark.parametrize("flow", FLOWS)
def test_a_lifetime_of_more_digits_than_python_reads_loses_nothing(
    provider: LoopbackProvider, broker: Broker, clock: ManualClock, flow: Flow
) -> None:
    """json refuses integers of more than 4300 digits; the provider has rotated all the same."""

    def lengthen(answer: Any) -> Any:
        digits = b'"expires_in": ' + b"9" * 5000
        return replace(answer, body=answer.body.replace(b'"expires_in": 3600', digits))

    record = flow(broker, provider, clock, Fault(edit=lengthen))
    assert record.expires_at == clock.now + TEN_YEARS
    assert provider.is_live(record.access_token.expose())


# Row 15: scopes.

SCOPES = [
    pytest.param("openid", "openid", id="narrower"),
    pytest.param("openid profile email", "email openid profile", id="wider"),
    pytest.param("other", "other", id="another"),
    pytest.param("openid,profile", "openid profile", id="commas"),
    pytest.param("openid, email", "email openid", id="commas and spaces"),
    pytest.param(["openid", "email"], "email openid", id="list"),
    pytest.param([], SCOPE, id="empty list"),
    pytest.param("", SCOPE, id="empty"),
    pytest.param("  ", SCOPE, id="white"),
    pytest.param(None, SCOPE, id="null"),
    pytest.param(7, SCOPE, id="number"),
    pytest.param({"openid": True}, SCOPE, id="object"),
    pytest.param([None, 3, "openid", {"a": 1}], "openid", id="list of anything"),
    pytest.param('openid "quoted" \x07bell \ud800 pröfile', "openid", id="garbage"),
]


@pytest.mark.parametrize("flow", [refresh_with, exchange_with])
@pytest.mark.parametrize(("value", "granted"), SCOPES)
def test_a_scope_that_differs_is_data_and_no_error(
    provider: LoopbackProvider,
    broker: Broker,
    clock: ManualClock,
    flow: Flow,
    value: object,
    granted: str,
) -> None:
    """granted_scope says what came; only require_scope, when asked, raises."""
    record = flow(broker, provider, clock, changed(scope=value))
    assert record.scope == ScopeSet(SCOPE)
    assert record.granted_scope == ScopeSet(granted)
    assert record.key == broker.key_for(USER_REQUEST)
    assert stored(broker) == record
    assert broker.refresh_access_token(USER_REQUEST) == record
    missing = set(record.scope) - set(record.granted_scope)
    if missing:
        with pytest.raises(InsufficientScopeError, match=missing.pop()):
            record.require_scope()
    else:
        assert record.require_scope() is record


def test_a_scope_once_narrowed_stays_so_when_a_later_answer_says_nothing(
    provider: LoopbackProvider, broker: Broker, clock: ManualClock
) -> None:
    """RFC 6749 section 6: without a scope the refreshed token has that of the one before."""
    provider.inject(changed(scope="openid"))
    log_in(broker, provider)
    clock.advance(3601)
    provider.inject(without("scope"))
    record = broker.refresh_access_token(USER_REQUEST)
    assert record.granted_scope == ScopeSet("openid")
    with pytest.raises(InsufficientScopeError):
        record.require_scope("profile")
    assert record.require_scope("openid") is record


def test_a_service_tokens_scope_may_differ_too(
    provider: LoopbackProvider, broker: Broker, clock: ManualClock
) -> None:
    """A narrower service token is recorded as such."""
    record = obtain_with(broker, provider, clock, changed(scope="email.read"))
    assert record.granted_scope == ScopeSet("email.read")
    with pytest.raises(InsufficientScopeError):
        record.require_scope()


# Row 16: answers without a refresh token.

NO_REFRESH_TOKEN = [
    pytest.param(without("refresh_token"), id="missing"),
    pytest.param(changed(refresh_token=None), id="null"),
    pytest.param(changed(refresh_token=""), id="empty"),
    pytest.param(changed(refresh_token=7), id="number"),
    pytest.param(changed(refresh_token=["a"]), id="list"),
    pytest.param(changed(refresh_token="\ud800"), id="surrogate"),
]


@pytest.fixture
def constant(clock: ManualClock) -> Iterator[LoopbackProvider]:
    """A provider that does not rotate."""
    with LoopbackProvider(clock=clock, rotate=False) as running:
        yield running


@pytest.mark.parametrize("fault", NO_REFRESH_TOKEN)
def test_a_refresh_answer_without_refresh_token_keeps_the_old_one(
    constant: LoopbackProvider, clock: ManualClock, fault: Fault
) -> None:
    """The old refresh token stays and works the next time."""
    with client_of(constant, clock) as broker:
        first = log_in(broker, constant)
        clock.advance(3601)
        constant.inject(fault)
        second = broker.refresh_access_token(USER_REQUEST)
        assert second.access_token != first.access_token
        assert second.refresh_token == first.refresh_token
        assert stored(broker) == second
        clock.advance(3601)
        assert broker.refresh_access_token(USER_REQUEST).access_token != second.access_token


@pytest.mark.parametrize("fault", NO_REFRESH_TOKEN)
def test_a_later_code_exchange_without_refresh_token_keeps_the_old_one(
    provider: LoopbackProvider, broker: Broker, clock: ManualClock, fault: Fault
) -> None:
    """A provider that sends the refresh token on first consent only does not lose us ours."""
    first = log_in(broker, provider)
    provider.inject(fault)
    second = log_in(broker, provider)
    assert second.access_token != first.access_token
    assert second.refresh_token == first.refresh_token
    clock.advance(3601)
    assert broker.refresh_access_token(USER_REQUEST).refresh_token != first.refresh_token


def test_a_refresh_token_that_a_login_keeps_is_as_old_and_as_uncertain_as_before(
    provider: LoopbackProvider, broker: Broker, clock: ManualClock
) -> None:
    """FAULTS 10: it lapses when it would have, and after a lost answer it still waits its time."""
    first = replace(
        log_in(broker, provider), attempted_at=clock.now, refresh_expires_at=clock.now + timedelta(days=1)
    )
    broker.store.save(first)
    provider.inject(without("refresh_token"))
    second = log_in(broker, provider)
    kept = ("refresh_token", "attempted_at", "refresh_expires_at")
    assert [getattr(second, name) for name in kept] == [getattr(first, name) for name in kept]


def forged_id_token(subject: object) -> str:
    """Give an unsigned JWT that names ``subject``."""
    parts = [{"alg": "none"}, {"sub": subject}]
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*encoded, ""])


def issuing(id_token: object, *, refresh_token: bool = True) -> Fault:
    """Process, then answer with this id token (none for None), and with no refresh token if so told."""
    dropped = set() if refresh_token else {"refresh_token"}
    added = {} if id_token is None else {"id_token": id_token}
    return Fault.rewrite(lambda payload: {k: v for k, v in payload.items() if k not in dropped} | added)


ALICE, BOB = forged_id_token("alice"), forged_id_token("bob")


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        pytest.param(ALICE, ALICE, True, id="same"),
        pytest.param(ALICE, BOB, False, id="another"),
        pytest.param(None, BOB, True, id="unknown before"),
        pytest.param(ALICE, None, True, id="unknown now"),
        pytest.param(ALICE, "no.jwt.at.all", True, id="garbage now"),
        pytest.param("\x00", BOB, True, id="garbage before"),
        pytest.param(ALICE, forged_id_token(None), True, id="null subject"),
        pytest.param(ALICE, forged_id_token(["bob"]), True, id="list subject"),
        pytest.param(ALICE, 7, True, id="number for an id token"),
        pytest.param(forged_id_token("älice"), forged_id_token("alice"), False, id="look-alike"),
    ],
)
def test_a_refresh_token_is_not_kept_for_another_subject(
    provider: LoopbackProvider, broker: Broker, first: object, second: object, kept: bool
) -> None:
    """When both id tokens name a user and not the same one, the old grant is not theirs."""
    provider.inject(issuing(first))
    old = log_in(broker, provider)
    provider.inject(issuing(second, refresh_token=False))
    new = log_in(broker, provider)
    assert (new.refresh_token == old.refresh_token) == kept
    assert (new.refresh_token is None) == (not kept)
    assert stored(broker) == new


def test_a_refresh_answer_may_carry_any_id_token(
    provider: LoopbackProvider, broker: Broker, clock: ManualClock
) -> None:
    """A renewal keeps the id token when none came, and takes the one that did."""
    provider.inject(issuing(ALICE))
    log_in(broker, provider)
    clock.advance(3601)
    kept = broker.refresh_access_token(USER_REQUEST)
    assert kept.id_token is not None
    assert kept.id_token.expose() == ALICE
    provider.inject(issuing(BOB))
    clock.advance(3601)
    taken = broker.refresh_access_token(USER_REQUEST)
    assert taken.id_token is not None
    assert taken.id_token.expose() == BOB


# Row 17: the client's credentials are refused.


@pytest.mark.parametrize("status", [400, 401, 403, 200])
@pytest.mark.parametrize("error", ["invalid_client", "unauthorized_client"])
def test_a_refused_client_touches_no_users_grant(
    provider: LoopbackProvider, broker: Broker, clock: ManualClock, error: str, status: int
) -> None:
    """InvalidClientError each time; the record is as it was to the last field, and works once it is fixed."""
    log_in(broker, provider)
    before = stored(broker)
    clock.advance(3601)
    provider.clear()
    provider.inject(Fault.json(status, {"error": error}), times=2)
    for _ in range(2):
        with pytest.raises(InvalidClientError) as caught:
            broker.refresh_access_token(USER_REQUEST)
        assert (caught.value.retryable, caught.value.reauthorize) == (False, False)
        assert stored(broker) == before
        assert stored(broker).attempted_at is None
    after = broker.refresh_access_token(USER_REQUEST)
    assert after.access_token != before.access_token
    assert provider.token_calls == 3


def test_a_refused_client_does_not_take_a_valid_token_away(
    provider: LoopbackProvider, broker: Broker, clock: ManualClock
) -> None:
    """In the advisory window the record is served although the client is refused."""
    record = log_in(broker, provider)
    clock.advance(3600 - 30)
    provider.inject(Fault.json(401, {"error": "invalid_client"}))
    assert broker.refresh_access_token(USER_REQUEST) == record


def test_a_wrong_client_secret_is_told_and_the_right_one_goes_on_with_the_same_grant(
    provider: LoopbackProvider, clock: ManualClock
) -> None:
    """Without any fault: a program with a stale secret leaves the grant to the one with the new secret."""
    store = MemoryStore()
    right, wrong = (
        Broker(provider.descriptor(), "demo-client", secret, store=store, clock=clock)
        for secret in ("demo-secret", "stale-secret")
    )
    with right, wrong:
        before = log_in(right, provider)
        clock.advance(3601)
        with pytest.raises(InvalidClientError):
            wrong.refresh_access_token(USER_REQUEST)
        assert stored(right) == before
        with pytest.raises(InvalidClientError):
            wrong.client_credentials(SERVICE_REQUEST)
        assert right.refresh_access_token(USER_REQUEST).access_token != before.access_token
        assert right.client_credentials(SERVICE_REQUEST).access_token


def test_a_client_refused_at_a_code_exchange_leaves_the_grant_that_is_stored(
    provider: LoopbackProvider, broker: Broker
) -> None:
    """A second login that fails for the client's sake changes nothing."""
    before = log_in(broker, provider)
    provider.inject(Fault.json(401, {"error": "invalid_client"}))
    with pytest.raises(InvalidClientError):
        log_in(broker, provider)
    assert stored(broker) == before


# Row 17a: a 2xx answer with a new refresh token that cannot be used.


class Choking(ProviderStrategy):
    """Does something odd with each answer as long as ``odd`` is set."""

    def __init__(self, act: Callable[[dict[str, Any]], Any]) -> None:
        self.act = act
        self.odd = False

    def normalize_token_response(self, grant: GrantType, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """Spoil the answer."""
        return self.act(dict(payload)) if self.odd else payload


class StubbornError(BrokerError):
    """An error of a hook's own that can only be made with two arguments."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{place}: {reason}")


def raising(error: BaseException) -> Callable[[dict[str, Any]], Any]:
    """Give a hook that raises."""

    def act(payload: dict[str, Any]) -> Any:
        raise error

    return act


HOOKS = [
    pytest.param(raising(ValueError("odd")), id="ValueError"),
    pytest.param(raising(KeyError("odd")), id="KeyError"),
    pytest.param(raising(RecursionError()), id="RecursionError"),
    pytest.param(raising(TransientError("odd")), id="TransientError"),
    pytest.param(raising(TransientError("odd", retry_after=cast(float, "7"))), id="a time that is text"),
    pytest.param(raising(TransientError("odd", retry_after=math.nan)), id="a time that is no number"),
    pytest.param(raising(TransientError("odd", retry_after=math.inf)), id="a time without end"),
    pytest.param(lambda payload: None, id="None"),
    pytest.param(lambda payload: "garbage", id="text"),
    pytest.param(lambda payload: [payload], id="list"),
    pytest.param(lambda payload: 7, id="number"),
    pytest.param(lambda payload: {}, id="empty"),
    pytest.param(lambda payload: {**payload, "access_token": None}, id="null token"),
    pytest.param(lambda payload: {**payload, "access_token": object()}, id="object token"),
    pytest.param(lambda payload: {7: payload}, id="number for a name"),
    pytest.param(lambda payload: {"error": "odd", **payload}, id="error"),
]
PARSER = [
    pytest.param(without("access_token"), id="missing"),
    pytest.param(changed(access_token=None), id="null"),
    pytest.param(changed(access_token=7), id="number"),
    pytest.param(changed(access_token=""), id="empty"),
    pytest.param(changed(access_token=["a"]), id="list"),
    pytest.param(changed(access_token={"value": "a"}), id="object"),
    pytest.param(changed(access_token="two\r\nlines"), id="line break"),
    pytest.param(changed(access_token="nul\x00"), id="nul"),
    pytest.param(changed(access_token="töken"), id="not ASCII"),
    pytest.param(changed(access_token="\ud800"), id="surrogate"),
    pytest.param(changed(error="invalid_grant"), id="error beside the token"),
    pytest.param(changed(ok=False, access_token=None), id="not ok"),
]


def tapped(fault: Fault, tokens: list[str]) -> Fault:
    """Give ``fault`` with a tap on the refresh tokens that the provider really issued."""
    edit = fault.edit

    def apply(answer: Any) -> Any:
        tokens.append(answer.payload["refresh_token"])
        return edit(answer) if edit is not None else answer

    return Fault(edit=apply)


def assert_rescued(broker: Broker, provider: LoopbackProvider, clock: ManualClock, issued: str) -> None:
    """The store holds the new refresh token behind an expired access token, and it works, once."""
    record = stored(broker)
    assert refresh_token_of(record) == issued
    assert record.status_at(clock.now) is TokenStatus.EXPIRED
    assert record.attempted_at is None
    if record.retry_at is not None:
        with pytest.raises(TransientError):
            broker.refresh_access_token(USER_REQUEST)
        clock.now = record.retry_at
    assert provider.token_calls == 1
    crowd = Crowd(4, lambda: broker.refresh_access_token(USER_REQUEST)).start().join()
    assert not crowd.errors
    assert provider.token_calls == 2
    assert provider.reuses == 0
    assert provider.is_live(crowd.results[0].access_token.expose())


@pytest.mark.parametrize("flow", [refresh_with, exchange_with])
@pytest.mark.parametrize("act", HOOKS)
def test_a_hook_that_chokes_on_an_answer_loses_no_refresh_token(
    provider: LoopbackProvider, clock: ManualClock, flow: Flow, act: Callable[[dict[str, Any]], Any]
) -> None:
    """TransientError, the new refresh token is stored, and the next renewal is one call that works."""
    choking, tokens = Choking(act), list[str]()
    with client_of(provider, clock, strategy=choking) as broker:
        with pytest.raises(TransientError):
            _with_odd_last_answer(choking, flow, broker, provider, clock, tapped(Fault(), tokens))
        choking.odd = False
        assert_rescued(broker, provider, clock, tokens[-1])


def _with_odd_last_answer(
    choking: Choking,
    flow: Flow,
    broker: Broker,
    provider: LoopbackProvider,
    clock: ManualClock,
    fault: Fault,
) -> TokenRecord:
    if flow is refresh_with:
        log_in(broker, provider)
        clock.advance(3601)
        provider.clear()
        choking.odd = True
        provider.inject(fault)
        return broker.refresh_access_token(USER_REQUEST)
    choking.odd = True
    return flow(broker, provider, clock, fault)


@pytest.mark.parametrize("flow", [refresh_with, exchange_with])
@pytest.mark.parametrize("fault", PARSER)
def test_an_answer_without_a_usable_access_token_loses_no_refresh_token(
    provider: LoopbackProvider, broker: Broker, clock: ManualClock, flow: Flow, fault: Fault
) -> None:
    """TransientError, the new refresh token is stored, and the next renewal is one call that works."""
    tokens: list[str] = []
    with pytest.raises(TransientError) as caught:
        flow(broker, provider, clock, tapped(fault, tokens))
    assert caught.value.status == 200
    assert_rescued(broker, provider, clock, tokens[-1])


def test_an_unusable_answer_with_the_same_refresh_token_costs_no_token_that_works(
    provider: LoopbackProvider, broker: Broker, clock: ManualClock
) -> None:
    """Nothing was rotated: what is stored is served until it expires."""
    old = log_in(broker, provider)
    clock.advance(3570)
    provider.inject(changed(access_token=None, refresh_token=refresh_token_of(old)))
    for _ in range(2):
        assert broker.refresh_access_token(USER_REQUEST).access_token == old.access_token
    assert (stored(broker).expires_at, stored(broker).failures) == (old.expires_at, 1)


def test_a_rescued_refresh_token_does_not_lapse_with_the_one_it_replaced(
    provider: LoopbackProvider, broker: Broker, clock: ManualClock
) -> None:
    """How long it works was not said, and what is taken for dead is removed one day."""
    record = replace(log_in(broker, provider), refresh_expires_at=clock.now + timedelta(days=1))
    broker.store.save(record)
    clock.advance(3601)
    provider.inject(without("access_token"))
    with pytest.raises(TransientError):
        broker.refresh_access_token(USER_REQUEST)
    assert refresh_token_of(stored(broker)) != refresh_token_of(record)
    assert stored(broker).refresh_expires_at is None


@pytest.mark.parametrize("flow", [refresh_with, exchange_with])
def test_a_hook_with_an_error_class_of_its_own_loses_no_refresh_token(
    provider: LoopbackProvider, clock: ManualClock, flow: Flow
) -> None:
    """A BrokerError subclass that cannot be copied by calling it with its args is an error like others."""
    choking, tokens = Choking(raising(StubbornError("hook", "odd"))), list[str]()
    with client_of(provider, clock, strategy=choking) as broker:
        with pytest.raises(BrokerError):
            _with_odd_last_answer(choking, flow, broker, provider, clock, tapped(Fault(), tokens))
        choking.odd = False
        assert_rescued(broker, provider, clock, tokens[-1])


def test_a_hook_that_cries_invalid_grant_at_a_new_refresh_token_does_not_bury_it(
    provider: LoopbackProvider, clock: ManualClock
) -> None:
    """The answer brought a refresh token, so the grant lives, whatever the hook thinks of the rest."""
    choking, tokens = Choking(raising(InvalidGrantError("odd"))), list[str]()
    with client_of(provider, clock, strategy=choking) as broker:
        with pytest.raises(BrokerError):
            _with_odd_last_answer(choking, refresh_with, broker, provider, clock, tapped(Fault(), tokens))
        choking.odd = False
        assert stored(broker).revoked_at is None
        assert_rescued(broker, provider, clock, tokens[-1])


@pytest.mark.parametrize("flow", [refresh_with, exchange_with])
def test_a_refresh_token_that_only_the_hook_found_is_kept_too(
    provider: LoopbackProvider, clock: ManualClock, flow: Flow
) -> None:
    """Where a provider nests its answer, what the hook lifted out counts when the rest is unusable."""

    def lift(payload: dict[str, Any]) -> Any:
        return {**payload["user"], "access_token": None}

    def nest(answer: Any) -> Any:
        tokens.append(answer.payload["refresh_token"])
        return replace(answer, body=json.dumps({"ok": True, "user": answer.payload}).encode())

    choking, tokens = Choking(lift), list[str]()
    with client_of(provider, clock, strategy=choking) as broker:
        with pytest.raises(TransientError):
            _with_odd_last_answer(choking, flow, broker, provider, clock, Fault(edit=nest))
        choking.odd = False
        assert_rescued(broker, provider, clock, tokens[-1])


@pytest.mark.parametrize("flow", [refresh_with, exchange_with])
def test_a_hook_that_forgets_the_refresh_token_does_not_lose_it(
    provider: LoopbackProvider, clock: ManualClock, flow: Flow
) -> None:
    """A hook that passes on only what it knows must not make us present the spent token again."""
    forgetting, tokens = Choking(lambda payload: {"access_token": payload["access_token"]}), list[str]()
    with client_of(provider, clock, strategy=forgetting) as broker:
        _with_odd_last_answer(forgetting, flow, broker, provider, clock, tapped(Fault(), tokens))
        assert refresh_token_of(stored(broker)) == tokens[-1]


def test_a_hook_may_empty_the_payload_it_is_given(provider: LoopbackProvider, clock: ManualClock) -> None:
    """What the hook does to its argument does not touch what was rescued from it."""

    class Emptying(Choking):
        def normalize_token_response(self, grant: GrantType, payload: Mapping[str, Any]) -> Mapping[str, Any]:
            """Empty it in place."""
            if self.odd and isinstance(payload, dict):
                payload.clear()
            return payload

    emptying, tokens = Emptying(lambda payload: payload), list[str]()
    with client_of(provider, clock, strategy=emptying) as broker:
        with pytest.raises(TransientError):
            _with_odd_last_answer(emptying, refresh_with, broker, provider, clock, tapped(Fault(), tokens))
        emptying.odd = False
        assert_rescued(broker, provider, clock, tokens[-1])


def test_a_service_token_that_cannot_be_read_is_asked_for_again(
    provider: LoopbackProvider, broker: Broker, clock: ManualClock
) -> None:
    """Nothing single-use is lost: one error, then, after the back-off, a token."""
    with pytest.raises(TransientError):
        obtain_with(broker, provider, clock, without("access_token"))
    clock.advance(1)
    assert broker.client_credentials(SERVICE_REQUEST).refresh_token is None
    assert provider.token_calls == 2


@pytest.mark.parametrize("resource", [None, "https://api.example.com/"])
def test_a_refresh_token_rescued_from_a_login_serves_the_same_request(
    provider: LoopbackProvider, broker: Broker, clock: ManualClock, resource: str | None
) -> None:
    """A login whose answer could not be used is finished by the next renewal, without the user."""
    session = broker.start_authorization(TENANT, USER, SCOPE, REDIRECT_URI, resource=resource)
    provider.inject(without("access_token"))
    with pytest.raises(TransientError):
        broker.complete_authorization(session, provider.browse(session.authorize_url))
    record = broker.refresh_access_token(CachedTokenRequest(TENANT, USER, SCOPE, resource=resource))
    assert (record.scope, record.resource) == (ScopeSet(SCOPE), resource)
    assert provider.is_live(record.access_token.expose())


@pytest.mark.parametrize(
    "body",
    [
        b'{"access_token":"a-1","refresh_token":"new-1","name":"Jos\xe9"}',
        b'{"access_token":"a-1","refresh_token":"new-1","name":"a\tb"}',
    ],
    ids=["a latin-1 byte", "a raw tab"],
)
def test_json_that_is_not_quite_is_read(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock, body: bytes
) -> None:
    """What one careless member spoils is that member, not the token."""
    log_in(broker, provider)
    provider.inject(Fault.garble(body))
    record = broker.refresh_access_token(USER_REQUEST.force_refresh())
    assert record.access_token.expose() == "a-1"
    assert record.refresh_token is not None
    assert record.refresh_token.expose() == "new-1"


@pytest.mark.parametrize(
    "body",
    [
        b'{"access_token":"a-1","refresh_token":"new-1"}\x00',
        b')]}\',\n{"access_token":"a-1","refresh_token":"new-1"}',
        b'<br>Notice: x {"access_token":"a-1","refresh_token" : "new-1"}',
        b'{"refresh_token":"new-1","a":' + b"[" * 3000 + b"]" * 3000 + b"}",
    ],
    ids=["a trailing NUL", "a guard before it", "a notice before it", "very deep"],
)
def test_a_refresh_token_in_an_answer_that_cannot_be_parsed_is_kept(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock, body: bytes
) -> None:
    """FAULTS 17a: the provider has rotated; the only token that lives is in that text."""
    log_in(broker, provider)
    clock.advance(7200)
    provider.inject(Fault.garble(body))
    with pytest.raises(TransientError):
        broker.refresh_access_token(USER_REQUEST)
    stored = broker.store.fetch(broker.key_for(USER_REQUEST))
    assert stored is not None
    assert stored.refresh_token is not None
    assert (stored.refresh_token.expose(), stored.attempted_at) == ("new-1", None)
