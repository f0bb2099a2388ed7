"""The port that token requests leave through, and transports and mappers that others wrote."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import requests
from hypothesis import given, strategies as st

from oauth2broker import (
    BrokerError,
    GrantType,
    HttpRequest,
    HttpResponse,
    ProviderStrategy,
    RequestsTransportErrorMapper,
    ResponseMetadata,
    ResponseMetadataSlot,
    TransientError,
    TransportError,
)
from oauth2broker.transports.base import parse_retry_after
from tests.transport.sockets import GRANTS, TOKEN_BODY, broker_for, failure_of

ENDPOINT = "https://provider.example.com/token"

# Requests, answers and what their headers say.


def test_the_repr_of_a_request_shows_method_and_host_only() -> None:
    """A request in a traceback or a log line gives away neither its credentials nor its path."""
    request = HttpRequest(
        "POST", "https://login.example.com:8443/t/tenant-1?k=v", {"Authorization": "Basic eHg="}, b"code=abc"
    )
    assert repr(request) == str(request) == f"{request}" == "HttpRequest(POST login.example.com)"


def test_the_repr_of_an_answer_shows_its_status_only() -> None:
    """An answer in a traceback or a log line does not give away its tokens."""
    response = HttpResponse(200, {"Set-Cookie": "sid=1"}, TOKEN_BODY)
    assert repr(response) == str(response) == "HttpResponse(status=200)"
    assert response.headers["set-cookie"] == "sid=1"


NOON, LATER = "Wed, 01 Jan 2025 12:00:00 GMT", "Wed, 01 Jan 2025 12:02:00 GMT"


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        ("120", None, 120.0),
        ("0", None, 0.0),
        (" 7 ", None, 7.0),
        ("1.5", None, 1.5),
        (LATER, NOON, 120.0),
        (NOON, LATER, 0.0),
        (NOON, None, 0.0),
        (NOON, "garbage", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", NOON, 3600.0),
        ("Wed, 01 Jan 2025 14:02:00 +0200", NOON, 120.0),
        ("-5", None, 0.0),
        ("9" * 400, None, 3600.0),
        ("1e400", None, 3600.0),
        ("inf", None, 3600.0),
        ("-inf", None, 0.0),
        ("nan", None, None),
        ("soon", None, None),
        ("5, 7", None, None),
        ("", None, None),
        (None, NOON, None),
    ],
)
def test_retry_after_is_read_as_seconds_of_at_most_an_hour(
    value: str | None, date: str | None, seconds: float | None
) -> None:
    """Seconds or an HTTP date, the latter by the provider's own clock; what says nothing is None."""
    assert parse_retry_after(value, date) == seconds


@given(
    st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{1,6} \d\d:\d\d:\d\d .{0,6}"), st.text()
)
def test_no_retry_after_is_too_odd(value: str, date: str) -> None:
    """Any text gives None or a number of seconds from 0 to 3600, and never an exception."""
    seconds = parse_retry_after(value, date)
    assert seconds is None or (isinstance(seconds, float) and 0.0 <= seconds <= 3600.0)


# Transports and mappers of others.


class Transport:
    """Does what it is told instead of sending."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        return self._act()  # type: ignore[return-value]


class Mapper:
    """Does what it is told instead of mapping."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act

    def map_transport_error(self, *_: object) -> BrokerError:
        return self._act()  # type: ignore[return-value]


class OddError(BrokerError):
    """An error of somebody's transport, with a constructor of its own."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"{host}:{port}")


def raising(error: Exception, cause: Exception | None = None) -> Callable[[], object]:
    def act() -> object:
        raise error from cause

    return act


@pytest.mark.parametrize("grant", GRANTS)
@pytest.mark.parametrize(
    "act",
    [
        raising(ValueError("refresh-token-1")),
        raising(TransientError("down"), ValueError("refresh-token-1")),
        raising(OddError("host", 1)),
        lambda: None,
        lambda: (200, TOKEN_BODY),
    ],
    ids=["raises", "raises from", "raises its own", "gives None", "gives a tuple"],
)
def test_a_broken_transport_ends_in_a_broker_error(act: Callable[[], object], grant: str) -> None:
    """Whatever a transport of one's own does, callers see a BrokerError that holds nothing of it."""
    broker = broker_for(ENDPOINT, Transport(act))
    error = failure_of(lambda: GRANTS[grant](broker))
    assert "refresh-token-1" not in str(error)
    assert not isinstance(error, TransportError) or error.sent, "nothing proves that nothing went out"


@pytest.mark.parametrize("grant", GRANTS)
@pytest.mark.parametrize(
    "act",
    [
        raising(ValueError("refresh-token-1")),
        raising(TransportError("raised, not given", sent=False)),
        lambda: None,
        lambda: ValueError("refresh-token-1"),
        lambda: OddError("host", 1),
    ],
    ids=["raises", "raises what it should give", "gives None", "gives what it got", "gives its own"],
)
def test_a_broken_mapper_ends_in_a_broker_error(act: Callable[[], object], grant: str) -> None:
    """Whatever a mapper of one's own does, callers see a BrokerError; the grant may have been spent."""
    transport = Transport(raising(RuntimeError("refresh-token-1")))
    broker = broker_for(ENDPOINT, transport, error_mapper=Mapper(act))
    error = failure_of(lambda: GRANTS[grant](broker))
    assert "refresh-token-1" not in str(error)
    assert not isinstance(error, TransportError) or error.sent


def test_the_default_mapper_repeats_no_text_of_an_error() -> None:
    """An error's text may hold a URL or a body; only the names of types are told."""
    for error in (ValueError("secret"), requests.ConnectionError("secret"), requests.Timeout("secret")):
        for metadata in (None, ResponseMetadata(500)):
            mapped = RequestsTransportErrorMapper().map_transport_error(
                ProviderStrategy(), GrantType.REFRESH_TOKEN, metadata, error
            )
            assert isinstance(mapped, TransientError | TransportError)
            assert "secret" not in str(mapped)
