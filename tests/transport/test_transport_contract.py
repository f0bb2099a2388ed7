"""The contract for transports: ours and the example keep it, and it notices those that do not."""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from http.client import HTTPResponse
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import requests

from oauth2broker import (
    BrokerError,
    HttpRequest,
    HttpResponse,
    RequestsHttpClient,
    RequestsTransportErrorMapper,
    ResponseMetadata,
    ResponseMetadataSlot,
    TokenHttpClient,
    TransientError,
    TransportError,
    TransportErrorMapper,
)
from oauth2broker.testing.transport_contract import TransportContract
from oauth2broker.transports.httpx import HttpxHttpClient, HttpxTransportErrorMapper

TOTAL = 0.6
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "custom_transport.py"


def load_example() -> Any:
    """Give a fresh copy of the example, with short timeouts."""
    spec = importlib.util.spec_from_file_location("custom_transport", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.CONNECT_SECONDS, module.EXCHANGE_SECONDS = TOTAL / 2, TOTAL
    return module


class TestRequestsTransport(TransportContract):
    """The default transport."""

    total_timeout = TOTAL

    def make_client(self) -> TokenHttpClient:
        return RequestsHttpClient(total_timeout=TOTAL)

    def make_mapper(self) -> TransportErrorMapper:
        return RequestsTransportErrorMapper()


class TestHttpxTransport(TransportContract):
    """The transport of the extra ``httpx``."""

    total_timeout = TOTAL

    def make_client(self) -> TokenHttpClient:
        return HttpxHttpClient(total_timeout=TOTAL)

    def make_mapper(self) -> TransportErrorMapper:
        return HttpxTransportErrorMapper()


class TestExampleTransport(TransportContract):
    """What examples/custom_transport.py shows."""

    total_timeout = TOTAL * 1.5
    example = load_example()

    def make_client(self) -> TokenHttpClient:
        made: TokenHttpClient = self.example.PlainHttpClient()
        return made

    def make_mapper(self) -> TransportErrorMapper:
        made: TransportErrorMapper = self.example.WireErrorMapper()
        return made


# Transports that do not.


class Wrapped:
    """A good transport that something is done to; what it does not do itself, it hands on."""

    def __init__(self) -> None:
        self.inner: Any = HttpxHttpClient(total_timeout=TOTAL)

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        response: HttpResponse = self.inner.send(request, metadata)
        return response

    def close(self) -> None:
        self.inner.close()


class KeepsWhatIsInTheSlot(Wrapped):
    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        own = ResponseMetadataSlot()
        try:
            return super().send(request, own)
        finally:
            if (found := own.take()) is not None:
                metadata.store(found)


class FillsTheSlotWithWholeAnswers(Wrapped):
    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        metadata.take()
        response = super().send(request, ResponseMetadataSlot())
        metadata.store(ResponseMetadata.from_headers(response.status, response.headers))
        return response


class RaisesForStatus(Wrapped):
    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        response = super().send(request, metadata)
        if response.status >= 400:
            raise OSError(response.status)
        return response


class TriesAgain(Wrapped):
    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        try:
            return super().send(request, metadata)
        except Exception:
            return super().send(request, metadata)


class Rewrites(Wrapped):
    def __init__(self, **changes: Callable[[HttpRequest], Any]) -> None:
        super().__init__()
        self._changes = changes

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        given = {name: getattr(request, name) for name in ("method", "url", "headers", "body", "public_only")}
        changed = {name: change(request) for name, change in self._changes.items()}
        return super().send(HttpRequest(**{**given, **changed}), metadata)


class OneAtATime(Wrapped):
    lock = threading.Lock()

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        with self.lock:
            return super().send(request, metadata)


class Logs(Wrapped):
    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        logging.getLogger("somebody").debug("sending %s", request.body)
        return super().send(request, metadata)


class OneSlotForAll(Wrapped):
    def __init__(self) -> None:
        super().__init__()
        self._latest: Any = None

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        response = super().send(request, metadata)
        if self._latest is None:
            self._latest = response
        return self._latest  # type: ignore[no-any-return]


class Naive(Wrapped):
    """What one writes first."""

    def __init__(self) -> None:
        self.inner = requests.Session()

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        found = self.inner.request(
            request.method, request.url, headers=request.headers, data=request.body, timeout=TOTAL
        )
        metadata.store(ResponseMetadata.from_headers(found.status_code, found.headers))
        return HttpResponse(found.status_code, found.headers, found.content)


class Says(HttpxTransportErrorMapper):
    """A mapper with one idea."""

    def __init__(self, say: Callable[[ResponseMetadata | None, Exception], BrokerError]) -> None:
        self._say = say

    def map_transport_error(self, strategy: Any, grant: Any, metadata: Any, error: Exception) -> BrokerError:
        return self._say(metadata, error)


def example_with(**changes: Any) -> Callable[[], Any]:
    """Give a factory of the example's transport, changed."""

    def make() -> Any:
        module = load_example()
        for name, change in changes.items():
            setattr(module, name, change(module) if name == "read_body" else change)
        return module.PlainHttpClient()

    return make


def read_at_most(limit: int | None, module: ModuleType) -> Callable[[HTTPResponse], bytes]:
    def read_body(response: HTTPResponse) -> bytes:
        body = response.read() if limit is None else response.read(limit)
        if limit is not None and len(body) >= limit:
            raise module.WireError("too large", connected=True)
        return body

    return read_body


@contextmanager
def without_end(seconds: float, sock: Any) -> Iterator[None]:
    yield


class AsksForGzip(Wrapped):
    def __init__(self) -> None:
        self.inner = load_example().PlainHttpClient()

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        headers = {**request.headers, "Accept-Encoding": "gzip"}
        return super().send(HttpRequest(request.method, request.url, headers, request.body), metadata)

    def close(self) -> None:
        pass


HTTPX, EXAMPLES = HttpxTransportErrorMapper, lambda: load_example().WireErrorMapper()
MUTANTS: dict[str, tuple[Callable[[], Any], Callable[[], Any], str]] = {
    "keeps what is in the slot": (KeepsWhatIsInTheSlot, HTTPX, "the_slot_is_empty_when_nothing_came"),
    "fills the slot at the end": (FillsTheSlotWithWholeAnswers, HTTPX, "the_slot_is_filled_as_soon"),
    "no metadata of a broken answer": (FillsTheSlotWithWholeAnswers, HTTPX, "metadata_is_there_although"),
    "raises for 4xx": (RaisesForStatus, HTTPX, "an_answer_is_given_whole"),
    "tries again": (TriesAgain, HTTPX, "nothing_is_sent_twice"),
    "loses headers": (lambda: Rewrites(headers=lambda _: {}), HTTPX, "a_request_arrives_as_it_was_given"),
    "loses the query": (
        lambda: Rewrites(url=lambda request: request.url.partition("?")[0]),
        HTTPX,
        "a_request_arrives_as_it_was_given",
    ),
    "changes the body": (
        lambda: Rewrites(body=lambda request: request.body + b"\n"),
        HTTPX,
        "a_request_arrives_as_it_was_given",
    ),
    "sends to any address": (
        lambda: Rewrites(public_only=lambda _: False),
        HTTPX,
        "a_request_for_public_addresses_goes_to_no_other",
    ),
    "one at a time": (OneAtATime, HTTPX, "threads_share_it"),
    "one answer for all": (OneSlotForAll, HTTPX, "threads_share_it"),
    "mixes answers up": (OneSlotForAll, HTTPX, "answers_without_a_body_and_interim"),
    "logs bodies": (Logs, HTTPX, "errors_and_logs_hold_nothing"),
    "follows redirects": (Naive, RequestsTransportErrorMapper, "no_redirect_is_followed"),
    "keeps cookies": (Naive, RequestsTransportErrorMapper, "cookies_are_not_sent_back"),
    "reads netrc": (Naive, RequestsTransportErrorMapper, "a_netrc_adds_nothing"),
    "asks a proxy": (Naive, RequestsTransportErrorMapper, "what_goes_to_this_machine"),
    "speaks http to all": (Naive, RequestsTransportErrorMapper, "http_to_another_host"),
    "is dripped on": (Naive, RequestsTransportErrorMapper, "a_drip_is_cut"),
    "reads any length": (Naive, RequestsTransportErrorMapper, "a_body_over_the_limit"),
    "does not know what was sent": (Naive, RequestsTransportErrorMapper, "a_request_that_never_went_out"),
    "does not know what resolved": (Naive, RequestsTransportErrorMapper, "a_name_that_nobody_knows"),
    "logs a header": (Naive, RequestsTransportErrorMapper, "a_header_that_cannot_be_read"),
    "has no deadline": (example_with(hang_up_after=without_end), EXAMPLES, "a_drip_is_cut"),
    "waits for ever": (
        example_with(EXCHANGE_SECONDS=None, hang_up_after=without_end),
        EXAMPLES,
        "silence_is_cut_at_the_total_timeout",
    ),
    "writes for ever": (
        example_with(EXCHANGE_SECONDS=None, hang_up_after=without_end),
        EXAMPLES,
        "a_peer_that_does_not_read",
    ),
    "reads no limit": (
        example_with(read_body=lambda module: read_at_most(None, module)),
        EXAMPLES,
        "a_body_over_the_limit",
    ),
    "takes half a body": (
        example_with(read_body=lambda module: read_at_most(2**20, module)),
        EXAMPLES,
        "a_body_that_breaks_off",
    ),
    "takes 103 for the answer": (
        example_with(FinalResponse=HTTPResponse),
        EXAMPLES,
        "answers_without_a_body_and_interim",
    ),
    "chunks stay in the body": (
        example_with(read_body=lambda module: lambda response: response.fp.read(7)),
        EXAMPLES,
        "a_body_may_come_in_chunks",
    ),
    "asks for gzip": (AsksForGzip, EXAMPLES, "a_body_is_given_as_it_was_meant"),
    "never sent, says the mapper": (
        Wrapped,
        lambda: Says(lambda metadata, error: TransportError("no", sent=False)),
        "an_error_after_the_request",
    ),
    "all sent, says the mapper": (
        Wrapped,
        lambda: Says(lambda metadata, error: TransportError("no")),
        "a_request_that_never_went_out",
    ),
    "the mapper hides mistakes": (
        Wrapped,
        lambda: Says(lambda metadata, error: TransientError("no")),
        "the_mapper_hands_on_errors",
    ),
    "the mapper believes types": (
        Wrapped,
        lambda: Says(
            lambda metadata, error: TransportError("no", sent=not isinstance(error, ConnectionRefusedError))
        ),
        "the_mapper_gives_an_error_for_whatever",
    ),
    "the mapper repeats texts": (
        Wrapped,
        lambda: Says(lambda metadata, error: TransportError(f"{error!r} {error.__cause__!r}")),
        "errors_and_logs_hold_nothing",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_contract_notices_a_transport_that_breaks_it(name: str) -> None:
    """Each of these does one thing wrong, and the test that is about it fails."""
    client, mapper, about = MUTANTS[name]

    class Contract(TransportContract):
        total_timeout = TOTAL

        def make_client(self) -> TokenHttpClient:
            made: TokenHttpClient = client()
            return made

        def make_mapper(self) -> TransportErrorMapper:
            made: TransportErrorMapper = mapper()
            return made

    [test] = [test for test in contract_tests() if test.startswith(f"test_{about}")]
    expected = (AssertionError, OSError, requests.RequestException, BrokerError, httpx.HTTPError)
    with pytest.raises(expected):
        getattr(Contract(), test)()


def contract_tests() -> list[str]:
    return [name for name in dir(TransportContract) if name.startswith("test_")]


def test_every_test_of_the_contract_has_failed_for_some_transport() -> None:
    """A test that cannot fail is a defect."""
    about = {about for _, _, about in MUTANTS.values()}
    assert [name for name in contract_tests() if not any(name.startswith(f"test_{a}") for a in about)] == []


def test_what_a_transport_cannot_do_is_skipped_by_a_word() -> None:
    """``resolves = False``, for one behind a proxy."""

    class BehindAProxy(TestHttpxTransport):
        resolves = False

    for name in (
        "a_request_for_public_addresses_goes_to_no_other",
        "a_name_that_nobody_knows_was_not_sent_to",
    ):
        with pytest.raises(Exception, match="does not resolve") as caught, nullcontext():
            getattr(BehindAProxy(), f"test_{name}")()
        assert type(caught.value).__name__ == "SkipTest"
