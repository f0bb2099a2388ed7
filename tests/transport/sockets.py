"""A server of raw bytes, for what no well-behaved provider does: each connection follows a script."""

from __future__ import annotations

import contextlib
import shutil
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl

import pytest

from oauth2broker import (
    Broker,
    BrokerError,
    GrantType,
    ProviderDescriptor,
    TokenFamily,
    TokenHttpClient,
    TokenRecord,
    TransportErrorMapper,
)
from tests.support import REDIRECT_URI, SCOPE, SERVICE_REQUEST, TENANT, USER, USER_REQUEST

CLIENT_ID, CLIENT_SECRET, REFRESH_TOKEN = "client-1", "client-secret", "refresh-token-1"
TOKEN_BODY = b'{"access_token": "at-1", "token_type": "Bearer", "expires_in": 3600}'
CODE = "authorization-code-1"
CONNECT, TOTAL = 0.3, 0.6  # the hasty transport's deadlines, in seconds
GRANTS: Mapping[str, Callable[[Broker], TokenRecord]] = {
    "client_credentials": lambda broker: broker.client_credentials(SERVICE_REQUEST),
    "refresh_token": lambda broker: broker.refresh_access_token(USER_REQUEST),
    "authorization_code": lambda broker: broker.exchange_code(
        broker.start_authorization(TENANT, "user-2", SCOPE, REDIRECT_URI), CODE
    ),
}
_LINGER_NOT = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
_PATIENCE = 5.0  # seconds


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came. ``port`` is the client's, so it tells connections apart."""

    line: str
    headers: Message
    body: bytes
    port: int

    @property
    def form(self) -> dict[str, str]:
        """The parameters of a form body."""
        return dict(parse_qsl(self.body.decode("ascii"), keep_blank_values=True, strict_parsing=True))


class Peer:
    """The server's end of one connection. Belongs to its script's thread."""

    def __init__(self, server: SocketServer, sock: socket.socket) -> None:
        self._server = server
        self._sock = sock
        self._buffer = b""

    def receive(self) -> Received | None:
        """Give the next request, or None when the client has left."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._read_more():
                return None
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        line, _, fields = head.partition(b"\r\n")
        headers: Message = BytesParser().parsebytes(fields)
        length = int(headers.get("Content-Length", "0"))
        while len(self._buffer) < length:
            if not self._read_more():
                return None
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        request = Received(line.decode(), headers, body, self._sock.getpeername()[1])
        self._server.requests.append(request)
        return request

    def send(self, data: bytes) -> None:
        """Send all of it; raises OSError, which ends the script, when the client has left."""
        self._sock.sendall(data)

    def drip(self, data: Iterable[bytes], interval: float) -> None:
        """Send the pieces ``interval`` seconds apart, until the client leaves or a test must have failed."""
        deadline = time.monotonic() + _PATIENCE
        for piece in data:
            if self._server.closing.wait(interval) or time.monotonic() > deadline:
                return
            self.send(piece)

    def await_departure(self) -> None:
        """Block until the client leaves or the server closes."""
        while self._read_more():
            pass

    def reset(self) -> None:
        """Have the connection reset, not closed, when the script ends."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Go on in TLS; raises OSError when the client does not trust us."""
        self._sock = context.wrap_socket(self._sock, server_side=True)

    def wake(self) -> None:
        """End the connection under the script, from another thread."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection, without the farewell that would spoil a reset."""
        self._sock.close()

    def _read_more(self) -> bool:
        data = self._sock.recv(65536)
        self._server.bytes_received += len(data)
        self._buffer += data
        return bool(data)


Script = Callable[[Peer], None]


class SocketServer(socketserver.ThreadingTCPServer):
    """Listens on 127.0.0.1 and runs ``script`` for each connection, in a thread of its own.

    ``requests`` are those read by the scripts. With ``tls`` a connection begins with a handshake.
    """

    request_queue_size = 128
    daemon_threads = False  # so that closing waits for the scripts

    def __init__(self, script: Script, *, tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.tls = tls
        self.requests: list[Received] = []
        self.bytes_received = 0
        self.closing = threading.Event()
        self.connections = 0
        self._ended = 0
        self._peers: set[Peer] = set()
        self._change = threading.Condition()
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self._loop = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        """Its token endpoint."""
        return f"{'http' if self.tls is None else 'https'}://127.0.0.1:{self.port}/token"

    def settle(self) -> None:
        """Wait until at least one connection has come and the scripts of all have ended."""
        with self._change:
            settled = self._change.wait_for(lambda: self.connections == self._ended > 0, _PATIENCE)
        assert settled, "a connection is still open"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Count the connection before its thread starts."""
        with self._change:
            self.connections += 1
        super().process_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Run the script; a client that leaves ends it."""
        peer = Peer(self, request)
        with self._change:
            self._peers.add(peer)
        with contextlib.suppress(OSError):
            self._follow_script(peer)
        with self._change:
            self._peers.discard(peer)
        with contextlib.suppress(OSError):
            peer.close()

    def shutdown_request(self, request: Any) -> None:
        """Close what is left of a connection."""
        request.close()
        with self._change:
            self._ended += 1
            self._change.notify_all()

    def _follow_script(self, peer: Peer) -> None:
        if self.closing.is_set():
            return
        if self.tls is not None:
            peer.start_tls(self.tls)
        self.script(peer)

    def __enter__(self) -> Self:
        self._loop.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self.closing.set()
        self.shutdown()
        self._loop.join()
        with self._change:
            for peer in self._peers:
                peer.wake()
        self.server_close()


def answer(status: int = 200, body: bytes = TOKEN_BODY, headers: Mapping[str, str] | None = None) -> bytes:
    """Give a whole answer, with its length unless ``headers`` say how the body ends."""
    fields = {"Content-Type": "application/json", **(headers or {})}
    if not {"Content-Length", "Transfer-Encoding", "Connection"} & fields.keys():
        fields["Content-Length"] = str(len(body))
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} Status\r\n{lines}\r\n".encode() + body


def answering(*answers: bytes) -> Script:
    """Give a script that answers every request of a connection: in turn, the last one for ever."""

    def script(peer: Peer) -> None:
        left = list(answers)
        while peer.receive():
            peer.send(left.pop(0) if len(left) > 1 else left[0])

    return script


def leave(peer: Peer) -> None:
    """Close the connection."""


def after_request(*data: bytes, then: Callable[[Peer], object] = Peer.await_departure) -> Script:
    """Give a script that reads one request, sends ``data`` and does ``then``."""

    def script(peer: Peer) -> None:
        if peer.receive():
            for piece in data:
                peer.send(piece)
            then(peer)

    return script


def closed_port() -> int:
    """Give a port of 127.0.0.1 where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Certificate:
    """A self-signed certificate for 127.0.0.1: the file that clients may trust, and a server's context."""

    path: str
    context: ssl.SSLContext


def make_certificate(folder: Path) -> Certificate:
    """Make one with the ``openssl`` command; skips the test where there is none."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command")
    cert, key = folder / "cert.pem", folder / "key.pem"
    extensions = ("subjectAltName=IP:127.0.0.1", "keyUsage=critical,digitalSignature,keyCertSign")
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
    command += [part for extension in extensions for part in ("-addext", extension)]
    subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return Certificate(str(cert), context)


def broker_for(
    token_endpoint: str,
    http_client: TokenHttpClient,
    *,
    client_secret: str | None = CLIENT_SECRET,
    error_mapper: TransportErrorMapper | None = None,
    **descriptor: Any,
) -> Broker:
    """Give a broker of ``token_endpoint`` whose store holds ``USER_REQUEST``'s expired record."""
    described = ProviderDescriptor(
        id="scripted",
        authorization_endpoint="https://provider.example.com/authorize",
        token_endpoint=token_endpoint,
        grants=set(GrantType),
        **descriptor,
    )
    broker = Broker(described, CLIENT_ID, client_secret, http_client=http_client, error_mapper=error_mapper)
    issued_at = datetime.now(UTC) - timedelta(hours=2)
    record = TokenRecord(
        family=TokenFamily(TENANT, USER, described.id, CLIENT_ID),
        scope=SCOPE,
        access_token="expired",
        refresh_token=REFRESH_TOKEN,
        issued_at=issued_at,
        expires_at=issued_at + timedelta(hours=1),
    )
    broker.store.save(record)
    return broker


def failure_of(call: Callable[[], object]) -> BrokerError:
    """Give the BrokerError that ``call`` ends in; no other error may ride along with it."""
    with pytest.raises(BrokerError) as caught:
        call()
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    return caught.value
