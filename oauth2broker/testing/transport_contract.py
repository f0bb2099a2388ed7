"""What every transport must do, as tests over real sockets: for authors of transports.

Subclass :class:`TransportContract` in a test module, say how to make a transport and its mapper, and run
pytest::

    class TestMyTransport(TransportContract):
        total_timeout = 0.5

        def make_client(self):
            return MyTransport(seconds=0.5)

        def make_mapper(self):
            return MyMapper()

With ``unittest.TestCase`` as a second base it runs under unittest as well.
"""

# ruff: noqa: S101 - these are tests

from __future__ import annotations

import contextlib
import gzip
import itertools
import os
import socket
import tempfile
import threading
import time
import unittest
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from oauth2broker.errors import BrokerError, ConfigError, TransientError, TransportError
from oauth2broker.grants import GrantType
from oauth2broker.provider.strategy import DefaultProviderStrategy
from oauth2broker.testing._wire import (
    PATIENCE,
    Line,
    Script,
    WireServer,
    answer,
    answering,
    closed_port,
    everything_logged,
    hang_up,
    once,
)
from oauth2broker.transports.base import (
    HttpRequest,
    HttpResponse,
    ResponseMetadata,
    ResponseMetadataSlot,
    TokenHttpClient,
    TransportErrorMapper,
)

THREADS = 16
MEBIBYTE = 1024 * 1024
_MARGIN = 2.0  # seconds that a busy machine may take on top
_SECRETS = ("s3cret-in-query", "s3cret-in-header", "s3cret-in-body")
_CHUNKED = {"Transfer-Encoding": "chunked"}


def make_request(url: str, body: bytes = b"grant_type=client_credentials", **changes: Any) -> HttpRequest:
    """Give a token request; ``changes`` are :class:`HttpRequest`'s keywords."""
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    return HttpRequest(**{"method": "POST", "url": url, "headers": headers, "body": body, **changes})


class TransportContract(ABC):
    """The tests. A subclass is named ``Test...`` and makes transport and mapper, new ones for each test.

    ``total_timeout`` is how many seconds a send of these transports may take at most; make it short, some
    tests wait for it. ``body_limit`` is the largest body that they read, in bytes. ``resolves`` is False for
    a transport behind a proxy that resolves names: then ``public_only`` and unknown names are not tested.
    A transport with a ``close`` method is closed after its test.
    """

    total_timeout = 30.0
    body_limit = MEBIBYTE
    resolves = True

    @abstractmethod
    def make_client(self) -> TokenHttpClient:
        """Make the transport."""

    @abstractmethod
    def make_mapper(self) -> TransportErrorMapper:
        """Make the mapper of its errors."""

    # The slot.

    def test_the_slot_is_empty_when_nothing_came(self) -> None:
        """What an earlier answer left there is gone, whatever keeps this one from coming."""
        with self._client() as client, WireServer(once(then=hang_up)) as server:
            for url in (server.url(), f"http://127.0.0.1:{closed_port()}/token"):
                slot = ResponseMetadataSlot()
                slot.store(ResponseMetadata(429, 60.0))
                self._failure(client, make_request(url), slot)
                assert slot.take() is None, "the metadata of an earlier answer passes for this one's"

    def test_the_slot_is_filled_as_soon_as_the_headers_are_there(self) -> None:
        """Before the body has come."""
        noticed = threading.Event()

        def script(line: Line) -> None:
            line.receive()
            line.send(answer(503, b"", {"Content-Length": "2", "Retry-After": "7"}))
            came_first.append(noticed.wait(min(self.total_timeout / 2, PATIENCE)))
            line.send(b"{}")

        came_first: list[bool] = []
        slot = _NoticedSlot(noticed)
        with self._client() as client, WireServer(script) as server:
            client.send(make_request(server.url()), slot)
        assert came_first == [True], "the slot was still empty when the body was about to come"
        assert slot.take() == ResponseMetadata(503, 7.0)

    def test_metadata_is_there_although_the_body_broke(self) -> None:
        """And the error that the mapper gives tells status and Retry-After."""
        head = answer(503, b"{", {"Content-Length": "99", "Retry-After": "7"})
        slot = ResponseMetadataSlot()
        with self._client() as client, WireServer(once(head, then=hang_up)) as server:
            error = self._failure(client, make_request(server.url()), slot, keep=True)
        assert slot.take() == ResponseMetadata(503, 7.0)
        assert (error.status, error.retry_after) == (503, 7.0)
        assert isinstance(error, TransientError | TransportError)

    # Answers.

    def test_an_answer_is_given_whole_whatever_its_status(self) -> None:
        """Status, headers and body; nothing is raised for a 4xx or 5xx, and nothing sent a second time."""
        single_use = False
        for status in (200, 201, 400, 401, 403, 404, 429, 500, 503) * 2:
            single_use = not single_use
            body = f'{{"status": {status}}}'.encode()
            headers = {"X-Own": "kept", "WWW-Authenticate": 'Basic realm="x"', "Retry-After": "0"}
            with self._client() as client, WireServer(answering(answer(status, body, headers))) as server:
                response = self._send(client, make_request(server.url(), single_use=single_use))
            assert (response.status, response.body) == (status, body)
            assert response.headers["x-own"] == "kept"
            assert len(server.requests) == 1

    def test_no_redirect_is_followed(self) -> None:
        """A redirect is an answer like another; where it points learns nothing."""
        for status in (301, 302, 303, 307, 308):
            with WireServer(answering(answer())) as other:
                redirect = answer(status, b"moved", {"Location": other.url()})
                with self._client() as client, WireServer(answering(redirect)) as server:
                    response = self._send(client, make_request(server.url()))
                assert (response.status, response.body) == (status, b"moved")
                assert (len(server.requests), other.connections) == (1, 0)

    def test_answers_without_a_body_and_interim_answers_disturb_nothing(self) -> None:
        """Each request gets its own answer: after a 204, and after 100 and 103."""
        interim = b"HTTP/1.1 103 Early\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
        answers = (answer(204, b""), interim + answer(200, b"first"), answer(200, b""), answer(200, b"last"))
        with self._client() as client, WireServer(answering(*answers)) as server:
            found = [self._send(client, make_request(server.url())) for _ in answers]
        assert [(each.status, each.body) for each in found] == [
            (204, b""),
            (200, b"first"),
            (200, b""),
            (200, b"last"),
        ]

    def test_a_body_may_come_in_chunks_or_until_the_end(self) -> None:
        """However it is framed; a trailer is no part of it."""
        chunks = b"3;x=y\r\nabc\r\n4\r\ndefg\r\n0\r\nX-Trailer: t\r\n\r\n"
        for sent in (answer(200, chunks, _CHUNKED), answer(200, b"abcdefg", {"Connection": "close"})):
            with self._client() as client, WireServer(once(sent, then=hang_up)) as server:
                assert self._send(client, make_request(server.url())).body == b"abcdefg"

    def test_a_body_is_given_as_it_was_meant(self) -> None:
        """A server that is told that gzip is welcome sends it; then it is undone."""

        def script(line: Line) -> None:
            while request := line.receive():
                welcome = "gzip" in ",".join(request.all("Accept-Encoding")).lower()
                zipped = answer(200, gzip.compress(b"plain"), {"Content-Encoding": "gzip"})
                line.send(zipped if welcome else answer(200, b"plain"))

        with self._client() as client, WireServer(script) as server:
            assert self._send(client, make_request(server.url())).body == b"plain"

    def test_a_body_that_breaks_off_is_an_error(self) -> None:
        """Half an answer must not pass for a whole one."""
        cuts = (answer(200, b"{}", {"Content-Length": "9"}), answer(200, b"5\r\n{}", _CHUNKED))
        for cut in cuts:
            with self._client() as client, WireServer(once(cut, then=hang_up)) as server:
                self._failure(client, make_request(server.url()))

    # What goes out.

    def test_a_request_arrives_as_it_was_given(self) -> None:
        """Method, path, query, headers and body, byte for byte."""
        path = "/a%2Fb/token?x=a%20b&x=c+d&y=&z=%E2%82%AC~"
        for method, body in (("POST", bytes(range(256)) * 40), ("POST", b"a=b"), ("GET", b"")):
            headers = {"X-One": 'a, b;c="d"', "Authorization": "Basic eDp5"}
            with self._client() as client, WireServer(answering(answer())) as server:
                self._send(client, HttpRequest(method, server.url(path), headers, body))
            [request] = server.requests
            assert request.line == f"{method} {path} HTTP/1.1"
            assert request.body == body
            assert {name: request.all(name) for name in headers} == {
                name: [value] for name, value in headers.items()
            }
            assert request.all("Host") == [f"127.0.0.1:{server.port}"]

    def test_nothing_is_sent_twice(self) -> None:
        """A connection that dies without an answer may have spent a refresh token: no second try."""
        for single_use in (True, False):
            with self._client() as client, WireServer(once(then=hang_up)) as server:
                self._failure(client, make_request(server.url(), single_use=single_use))
            assert (len(server.requests), server.connections) == (1, 1)

    def test_cookies_are_not_sent_back(self) -> None:
        """What one tenant's answer sets is not in the next one's request."""
        cookie = answer(headers={"Set-Cookie": "sid=tenant-1; Path=/"})
        with self._client() as client, WireServer(answering(cookie)) as server:
            for _ in range(3):
                self._send(client, make_request(server.url()))
        assert [request.all("Cookie") for request in server.requests] == [[], [], []]

    def test_a_netrc_adds_nothing(self) -> None:
        """A password that a file holds for the host is not ours to send."""
        with tempfile.TemporaryDirectory() as folder, self._client() as client:
            for name in (".netrc", "_netrc"):
                Path(folder, name).write_text("machine 127.0.0.1 login l password p\n", "utf-8")
                Path(folder, name).chmod(0o600)
            home = {"HOME": folder, "USERPROFILE": folder, "NETRC": str(Path(folder, ".netrc"))}
            with mock.patch.dict(os.environ, home), WireServer(answering(answer())) as server:
                self._send(client, make_request(server.url()))
        assert server.requests[0].all("Authorization") == []

    def test_what_goes_to_this_machine_goes_through_no_proxy(self) -> None:
        """A proxy that the environment names would read it: http is in plain."""
        with WireServer(answering(answer(599))) as proxy, WireServer(answering(answer())) as server:
            names = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
            environment = dict.fromkeys(names, proxy.url(""))
            with mock.patch.dict(os.environ, {**environment, "no_proxy": "", "NO_PROXY": ""}):
                with self._client() as client:
                    assert self._send(client, make_request(server.url())).status == 200
            assert proxy.connections == 0

    def test_http_to_another_host_is_refused(self) -> None:
        """ConfigError before the host is connected to; loopback hosts are the exception."""
        with self._client() as client, WireServer(answering(answer())) as server:
            with _resolving("127.0.0.1"):
                url = server.url(host="provider.example.com")
                assert isinstance(self._failure(client, make_request(url)), ConfigError)
            assert server.connections == 0

    def test_a_request_for_public_addresses_goes_to_no_other(self) -> None:
        """ConfigError for this machine, whether an address or a name leads there; nothing is sent."""
        self._require_resolving()
        with self._client() as client, WireServer(answering(answer())) as server:
            for host in ("127.0.0.1", "localhost"):
                request = make_request(server.url(host=host), public_only=True)
                assert isinstance(self._failure(client, request), ConfigError)
            with _resolving("127.0.0.1"):
                url = server.url(host="provider.example.com", scheme="https")
                request = make_request(url, public_only=True)
                assert isinstance(self._failure(client, request), ConfigError)
            assert server.requests == []

    # Bounds.

    def test_a_drip_is_cut_at_the_total_timeout(self) -> None:
        """Of header bytes, whole headers, interim answers, or of a body: no byte starts the time anew."""
        drips: list[tuple[bytes, bytes]] = [
            (b"HTTP/1.1 200 OK\r\nX-Drip: ", b"."),
            (b"HTTP/1.1 200 OK\r\n", b"X-Drip: .\r\n"),
            (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
            (answer(200, b"", {"Content-Length": "99999"}), b" "),
            (answer(200, b"", _CHUNKED), b"1\r\n \r\n"),
            (answer(200, b"", {"Connection": "close"}), b" "),
        ]
        for head, piece in drips:
            script = once(head, then=_dripping(piece))
            with self._client() as client, self._patient(script) as server, self._in_time():
                error = self._failure(client, make_request(server.url()))
                assert error.retryable
                assert not _says_never_sent(error)

    def test_silence_is_cut_at_the_total_timeout(self) -> None:
        """After the request, and before: in the TLS handshake, where nothing has been sent."""
        with self._client() as client, self._patient(once()) as server, self._in_time():
            assert not _says_never_sent(self._failure(client, make_request(server.url())))
        with self._client() as client, self._patient(Line.wait) as server, self._in_time():
            error = self._failure(client, make_request(server.url(scheme="https")))
            assert _says_never_sent(error)

    def test_a_peer_that_does_not_read_is_given_up_at_the_total_timeout(self) -> None:
        """A request that cannot be sent to its end has been sent in part."""
        script: Script = lambda line: line.server.closing.wait(line.server.patience)  # noqa: E731
        with self._client() as client, self._patient(script) as server, self._in_time():
            error = self._failure(client, make_request(server.url(), bytes(32 * MEBIBYTE)))
            assert not _says_never_sent(error)

    def test_a_body_over_the_limit_is_an_error(self) -> None:
        """Announced, in chunks, or until the end; one that keeps the limit is given whole."""
        piece, times = b" " * 65536, 4 * self.body_limit // 65536 + 1
        floods = [
            (answer(200, b"", {"Content-Length": str(65536 * times)}), piece, b""),
            (answer(200, b"", _CHUNKED), b"10000\r\n" + piece + b"\r\n", b"0\r\n\r\n"),
            (answer(200, b"", {"Connection": "close"}), piece, b""),
        ]
        with self._client() as client:
            for head, again, last in floods:
                script = once(head, *[again] * times, last, then=hang_up)
                with WireServer(script) as server:
                    assert self._failure(client, make_request(server.url())).retryable
            with WireServer(answering(answer(200, b"x" * (self.body_limit // 2)))) as server:
                assert len(self._send(client, make_request(server.url())).body) == self.body_limit // 2

    # Errors.

    def test_an_error_after_the_request_says_that_it_was_sent(self) -> None:
        """Closed without an answer, or answered with nonsense: a refresh token may have been spent."""
        for data in (b"", b"HTTP/1.1 2", b"nonsense\r\n\r\n"):
            with self._client() as client, WireServer(once(data, then=hang_up)) as server:
                error = self._failure(client, make_request(server.url()))
            assert isinstance(error, TransportError | TransientError)
            assert not _says_never_sent(error)

    def test_a_request_that_never_went_out_is_known_as_such(self) -> None:
        """A port that nobody listens on, and a TLS handshake that fails: the token can be presented again."""
        with self._client() as client:
            refused = make_request(f"http://127.0.0.1:{closed_port()}/token")
            assert _says_never_sent(self._failure(client, refused))

            def no_tls(line: Line) -> None:
                line.read_more()
                line.send(answer(400))

            for script in (no_tls, hang_up):
                with WireServer(script) as server:
                    error = self._failure(client, make_request(server.url(scheme="https")))
                assert _says_never_sent(error)

    def test_a_name_that_nobody_knows_was_not_sent_to(self) -> None:
        """Where no name resolves, nothing went out."""
        self._require_resolving()
        with self._client() as client, _resolving(None):
            assert _says_never_sent(self._failure(client, make_request("https://provider.example.com/token")))

    def test_errors_and_logs_hold_nothing_of_a_request(self) -> None:
        """Whatever goes wrong, even where the answer repeats what was sent."""

        def echo(line: Line) -> None:
            if request := line.receive():
                line.send(f"HTTP/1.1 {request.line} {request.headers} {request.body!r}\r\n\r\n".encode())

        broken = once(answer(200, b"{", {"Content-Length": "9"}), then=hang_up)
        with everything_logged() as said, self._client() as client:
            for script in (once(then=hang_up), broken, echo):
                with WireServer(script) as server:
                    self._failure_without_secrets(client, server.url())
            self._failure_without_secrets(client, f"http://127.0.0.1:{closed_port()}/token")
            self._failure_without_secrets(client, "http://provider.example.com/token")
            with WireServer(answering(answer())) as server:
                self._send(client, _secret_request(server.url()))
        assert [secret for secret in _SECRETS if secret in "".join(said)] == []

    def test_a_header_that_cannot_be_read_is_not_logged(self) -> None:
        """It may be read past or be an error; what it says is nobody's business."""

        def echo(line: Line) -> None:
            if request := line.receive():
                line.send(f"HTTP/1.1 200 OK\r\n{request.line}{request.body!r}\r\n\r\n".encode())
                line.hang_up()

        with everything_logged() as said, self._client() as client, WireServer(echo) as server:
            self._failure_without_secrets(client, server.url(), may_succeed=True)
        assert [secret for secret in _SECRETS if secret in "".join(said)] == []

    def test_the_mapper_hands_on_errors_of_this_library(self) -> None:
        """A ConfigError is a mistake in the program, not an outage."""
        assert isinstance(self._mapped(ConfigError("as it is"), None), ConfigError)

    def test_the_mapper_gives_an_error_for_whatever_it_is_given(self) -> None:
        """An exception that it does not know is an outage, and no proof that nothing went out."""
        for metadata in (None, ResponseMetadata(503, 7.0)):
            for unknown in (RuntimeError("x"), OSError("x"), TimeoutError("x"), ConnectionRefusedError("x")):
                found = self._mapped(unknown, metadata)
                assert isinstance(found, BrokerError)
                assert not _says_never_sent(found)

    # Threads.

    def test_threads_share_it_and_keep_their_answers_apart(self) -> None:
        """16 requests under way at the same moment: each gets its own answer and its own metadata."""
        everybody, answers = threading.Barrier(THREADS), list[tuple[int, HttpResponse, object]]()

        def script(line: Line) -> None:
            while request := line.receive():
                try:
                    everybody.wait(min(self.total_timeout / 2, PATIENCE))
                except threading.BrokenBarrierError:
                    return line.hang_up()
                number = request.body.decode()
                line.send(answer(200, request.body, {"Retry-After": number, "X-Number": number}))
            return None

        with self._client() as client, WireServer(script) as server:

            def work(number: int) -> None:
                slot = ResponseMetadataSlot()
                response = client.send(make_request(server.url(), str(number).encode()), slot)
                answers.append((number, response, slot.take()))

            _in_threads(THREADS, work)
        assert len(answers) == THREADS, "the sends did not run at the same time"
        for number, response, metadata in answers:
            assert (response.body, response.headers["x-number"]) == (str(number).encode(), str(number))
            assert metadata == ResponseMetadata(200, float(number))

    # Helpers.

    @contextlib.contextmanager
    def _client(self) -> Iterator[TokenHttpClient]:
        made = self.make_client()
        try:
            yield made
        finally:
            close = getattr(made, "close", None)
            if close is not None:
                close()

    @staticmethod
    def _send(client: TokenHttpClient, request: HttpRequest) -> HttpResponse:
        response = client.send(request, ResponseMetadataSlot())
        assert isinstance(response, HttpResponse)
        assert type(response.body) is bytes
        return response

    def _failure(
        self,
        client: TokenHttpClient,
        request: HttpRequest,
        slot: ResponseMetadataSlot | None = None,
        *,
        keep: bool = False,
    ) -> BrokerError:
        """Give what the mapper makes of the error that sending ends in; ``keep`` leaves ``slot`` as it is."""
        used = slot or ResponseMetadataSlot()
        try:
            client.send(request, used)
        except Exception as raised:  # noqa: BLE001 - a transport may raise anything
            metadata = used.take() if slot is None or keep else None
            if keep and metadata is not None:
                used.store(metadata)
            return self._mapped(raised, metadata)
        raise AssertionError("the send gave an answer where it had to fail")

    def _mapped(self, raised: Exception, metadata: ResponseMetadata | None) -> BrokerError:
        error = self.make_mapper().map_transport_error(
            DefaultProviderStrategy(), GrantType.REFRESH_TOKEN, metadata, raised
        )
        assert isinstance(error, BrokerError), "a mapper gives a BrokerError"
        return error

    def _failure_without_secrets(
        self, client: TokenHttpClient, url: str, *, may_succeed: bool = False
    ) -> None:
        slot = ResponseMetadataSlot()
        try:
            client.send(_secret_request(url), slot)
        except Exception as raised:  # noqa: BLE001 - a transport may raise anything
            failed = self._mapped(raised, slot.take())
        else:
            assert may_succeed, "the send gave an answer where it had to fail"
            return
        chain = (failed, failed.__cause__, failed.__context__)
        seen = " ".join(f"{each!r} {each} {vars(each) if each else ''}" for each in chain)
        assert [secret for secret in _SECRETS if secret in seen] == []

    def _patient(self, script: Script) -> WireServer:
        """Give a server that a transport without a deadline waits for in vain."""
        return WireServer(script, self.total_timeout + 2 * _MARGIN)

    @contextlib.contextmanager
    def _in_time(self) -> Iterator[None]:
        started = time.monotonic()
        yield
        assert time.monotonic() - started < self.total_timeout + _MARGIN, "it took too long"

    def _require_resolving(self) -> None:
        if not self.resolves:
            raise unittest.SkipTest("this transport does not resolve names")


class _NoticedSlot(ResponseMetadataSlot):
    def __init__(self, noticed: threading.Event) -> None:
        super().__init__()
        self._noticed = noticed

    def store(self, metadata: ResponseMetadata) -> None:
        super().store(metadata)
        self._noticed.set()


def _says_never_sent(error: BrokerError) -> bool:
    return isinstance(error, TransportError) and not error.sent


def _secret_request(url: str) -> HttpRequest:
    query, header, body = _SECRETS
    return make_request(f"{url}?code={query}", f"secret={body}".encode(), headers={"Authorization": header})


def _dripping(piece: bytes) -> Callable[[Line], object]:
    return lambda line: line.drip(itertools.repeat(piece))


@contextlib.contextmanager
def _resolving(address: str | None) -> Iterator[None]:
    """Have ``*.example.com`` lead to ``address``, None: nowhere."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        if not str(host).endswith("example.com"):
            return resolve(host, *args, **options)
        if address is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve(address, *args, **options)

    with mock.patch.object(socket, "getaddrinfo", getaddrinfo):
        yield


def _in_threads(count: int, work: Callable[[int], None]) -> None:
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001 - it is raised below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE * 2)
    if errors:
        raise errors[0]
