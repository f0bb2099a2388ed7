"""The default transport's bounds on how long an answer takes and how large it is. Over real sockets."""

from __future__ import annotations

import gzip
import itertools
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pytest

from oauth2broker import (
    ConfigError,
    HttpRequest,
    HttpResponse,
    RequestsHttpClient,
    ResponseMetadataSlot,
    TransientError,
)
from oauth2broker.transports.base import BodyTooLargeError
from oauth2broker.transports.requests import BODY_LIMIT
from tests.support import SERVICE_REQUEST, USER_REQUEST
from tests.transport.sockets import (
    CONNECT,
    TOKEN_BODY,
    TOTAL,
    Certificate,
    Peer,
    Script,
    SocketServer,
    after_request,
    answer,
    answering,
    broker_for,
    failure_of,
    leave,
)

MARGIN = 1.0
CHUNKED, UNTIL_CLOSE = {"Transfer-Encoding": "chunked"}, {"Connection": "close"}
SPACES = b" " * 65536


@contextmanager
def takes(at_least: float, at_most: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert at_least <= time.monotonic() - started < at_most


def send(client: RequestsHttpClient, url: str, slot: ResponseMetadataSlot | None = None) -> HttpResponse:
    request = HttpRequest("POST", url, {}, b"grant_type=client_credentials")
    return client.send(request, slot or ResponseMetadataSlot())


# The total deadline.


def drip(data: bytes, then: bytes = b" ", *, at_once: bytes = b"") -> Script:
    """Give a script that sends ``data`` byte by byte after ``at_once``, then ``then`` for ever."""
    pieces = itertools.chain((data[i : i + 1] for i in range(len(data))), itertools.repeat(then))
    return after_request(at_once, then=lambda peer: peer.drip(pieces, 0.02))


DRIPS: Mapping[str, Callable[[], Script]] = {
    "header bytes": lambda: drip(b"HTTP/1.1 200 OK\r\nX-Drip: ", b"."),
    "whole headers": lambda: drip(b"HTTP/1.1 200 OK\r\n", b"X-Drip: .\r\n"),
    "interim answers": lambda: drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body with a length": lambda: drip(TOKEN_BODY, at_once=answer(200, b"", {"Content-Length": "999999"})),
    "body in chunks": lambda: drip(b"", b"1\r\n{\r\n", at_once=answer(200, b"", CHUNKED)),
    "body until close": lambda: drip(TOKEN_BODY, at_once=answer(200, b"", UNTIL_CLOSE)),
    "trailers": lambda: drip(b"", b"X-Drip: .\r\n", at_once=answer(200, b"0\r\n", CHUNKED)),
    "nothing": lambda: after_request(),
}


@pytest.mark.parametrize("script", DRIPS.values(), ids=DRIPS)
def test_a_drip_is_cut_at_the_total_deadline(hasty: RequestsHttpClient, script: Callable[[], Script]) -> None:
    """However slowly headers or body come, one send takes no longer than total_timeout."""
    with SocketServer(script()) as server, takes(TOTAL * 0.9, TOTAL + MARGIN):
        error = failure_of(lambda: broker_for(server.url, hasty).client_credentials(SERVICE_REQUEST))
    assert isinstance(error, TransientError)
    assert error.retryable


def test_an_answer_that_never_comes_is_a_transient_error(hasty: RequestsHttpClient) -> None:
    """A provider that reads and stays silent is asked once and waited for until total_timeout."""
    with SocketServer(after_request()) as server, takes(TOTAL * 0.9, TOTAL + MARGIN):
        error = failure_of(lambda: broker_for(server.url, hasty).refresh_access_token(USER_REQUEST))
    assert isinstance(error, TransientError)
    assert error.status is None
    assert len(server.requests) == 1


def test_a_drip_over_tls_is_cut_at_the_total_deadline(certificate: Certificate) -> None:
    """The deadline holds inside TLS as well."""
    client = RequestsHttpClient(verify=certificate.path, total_timeout=TOTAL)
    with (
        SocketServer(DRIPS["body until close"](), tls=certificate.context) as server,
        takes(TOTAL * 0.9, TOTAL + MARGIN),
    ):
        error = failure_of(lambda: broker_for(server.url, client).client_credentials(SERVICE_REQUEST))
    client.close()
    assert error.status == 200


@pytest.mark.parametrize("interval", [60.0, 0.02], ids=["silent", "dripping"])
def test_a_handshake_is_cut_at_the_connect_deadline(interval: float) -> None:
    """Time for connecting includes TLS, however slowly the other side shakes hands."""
    client = RequestsHttpClient(connect_timeout=CONNECT, total_timeout=10)
    record = itertools.chain([b"\x16\x03\x03\x40\x00"], itertools.repeat(b"\0"))
    with (
        SocketServer(lambda peer: peer.drip(record, interval)) as server,
        takes(CONNECT * 0.9, CONNECT + MARGIN),
    ):
        url = server.url.replace("http:", "https:")
        assert failure_of(lambda: broker_for(url, client).client_credentials(SERVICE_REQUEST)).retryable


@pytest.mark.parametrize(
    ("at_once", "for_ever"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X-Flood: .\r\n" * 999),
        (b"HTTP/1.1 200 OK\r\nX-Flood: ", SPACES),
        (b"", SPACES),
        (answer(200, b"", CHUNKED), SPACES),
        (answer(200, b"0\r\n", CHUNKED), b"X-Flood: .\r\n" * 999),
    ],
    ids=["headers", "one header", "status line", "chunk size", "trailers"],
)
def test_a_flood_outside_the_body_is_cut_too(
    hasty: RequestsHttpClient, at_once: bytes, for_ever: bytes
) -> None:
    """An endless line, or lines without end, cost no more than total_timeout and no memory."""
    script = after_request(at_once, then=lambda peer: peer.drip(itertools.repeat(for_ever), 0))
    with SocketServer(script) as server, takes(0, TOTAL + MARGIN), little_memory():
        error = failure_of(lambda: broker_for(server.url, hasty).client_credentials(SERVICE_REQUEST))
    assert error.retryable


# The size of a body.


@contextmanager
def little_memory() -> Iterator[None]:
    """Fail when more than 16 MiB are needed at any moment."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (answer(200, b"", {"Content-Length": str(2**40)}), SPACES),
        (answer(200, b"", CHUNKED), chunk(SPACES)),
        (answer(200, b"", UNTIL_CLOSE), SPACES),
    ],
    ids=["with a length", "in chunks", "until close"],
)
def test_a_body_over_one_mebibyte_is_cut(client: RequestsHttpClient, head: bytes, piece: bytes) -> None:
    """An enormous answer is an error that names the status; the next call is not disturbed by its rest."""
    floods = iter([True])

    def script(peer: Peer) -> None:
        while peer.receive():
            if next(floods, False):
                peer.send(head)
                peer.drip(itertools.repeat(piece), 0)
            peer.send(answer())

    with SocketServer(script) as server, little_memory():
        with pytest.raises(BodyTooLargeError):
            send(client, server.url)
        assert send(client, server.url).body == TOKEN_BODY
        client.close()


def test_an_enormous_answer_ends_in_a_transient_error_with_its_status(client: RequestsHttpClient) -> None:
    """The caller learns what the provider answered, not that a body was too large for us."""
    with SocketServer(answering(answer(200, SPACES * 17))) as server:
        error = failure_of(lambda: broker_for(server.url, client).client_credentials(SERVICE_REQUEST))
        client.close()
    assert isinstance(error, TransientError)
    assert error.status == 200


BOMBS: Mapping[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "gzip, gzip": lambda data: gzip.compress(gzip.compress(data)),
}


@pytest.mark.parametrize("encoding", BOMBS)
def test_a_compressed_bomb_is_cut(client: RequestsHttpClient, encoding: str) -> None:
    """A small body that inflates to 64 MiB, though we asked for none, is cut at 1 MiB of what it says."""
    bomb = BOMBS[encoding](bytes(2**26))
    assert len(bomb) < 2**17
    with (
        SocketServer(answering(answer(200, bomb, {"Content-Encoding": encoding}))) as server,
        little_memory(),
    ):
        with pytest.raises(BodyTooLargeError):
            send(client, server.url)
        client.close()


@pytest.mark.parametrize("size", [0, 1, BODY_LIMIT - 1, BODY_LIMIT])
@pytest.mark.parametrize("framing", [{}, CHUNKED, UNTIL_CLOSE], ids=["length", "chunks", "close"])
def test_a_body_of_up_to_one_mebibyte_arrives_whole(
    client: RequestsHttpClient, size: int, framing: dict[str, str]
) -> None:
    """The limit cuts nothing that keeps it."""
    body = b"x" * size
    sent = b"".join([*([chunk(body)] if body else []), b"0\r\n\r\n"]) if framing is CHUNKED else body
    with SocketServer(after_request(answer(200, sent, framing), then=leave)) as server:
        assert send(client, server.url).body == body
        client.close()


# Redirects that bring a body.


def test_the_body_of_a_redirect_is_cut_too(client: RequestsHttpClient) -> None:
    """A redirecting provider cannot fill our memory either."""
    head = answer(302, b"", {"Location": "/elsewhere", "Content-Length": str(2**26)})
    script = after_request(head, *[SPACES] * 1024)
    with SocketServer(script) as server, little_memory():
        with pytest.raises(BodyTooLargeError):
            send(client, server.url)
        client.close()


def test_the_status_of_a_redirect_is_known_though_its_body_never_ends(hasty: RequestsHttpClient) -> None:
    """A 302 whose body stalls is not taken for a broken network."""
    head = answer(302, b"", {"Location": "/elsewhere", "Content-Length": "99"})
    with SocketServer(after_request(head)) as server:
        error = failure_of(lambda: broker_for(server.url, hasty).client_credentials(SERVICE_REQUEST))
    assert error.status == 302


@pytest.mark.parametrize(
    "location",
    [
        "http://[",
        "https://a:b:c/",
        "http://*.example.com",
        "/elsewhere",
        "",
    ],
)
def test_a_redirect_to_nonsense_is_a_config_error(client: RequestsHttpClient, location: str) -> None:
    """Where a redirect points does not matter, for it is refused anyway."""
    with SocketServer(answering(answer(302, b"", {"Location": location}))) as server:
        error = failure_of(lambda: broker_for(server.url, client).client_credentials(SERVICE_REQUEST))
        client.close()
    assert isinstance(error, ConfigError)
    assert error.status == 302
