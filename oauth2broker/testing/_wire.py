"""A server of raw bytes for the transport contract: each connection follows a script."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

PATIENCE = 20.0  # seconds; far more than anything here takes
_TICK = 0.01


@dataclass(frozen=True, slots=True)
class Arrived:
    """One request as it came: its line, its header lines in their order, its body, and the client's port."""

    line: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    port: int

    def all(self, name: str) -> list[str]:
        """Give the values of every header called ``name``."""
        return [value for there, value in self.headers if there.lower() == name.lower()]


class Line:
    """The server's end of one connection. Belongs to its script's thread."""

    def __init__(self, server: WireServer, sock: socket.socket) -> None:
        self.server = server
        self._socket = sock
        sock.settimeout(server.patience)
        self._buffer = b""

    def receive(self) -> Arrived | None:
        """Give the next request, or None when the client has left."""
        while b"\r\n\r\n" not in self._buffer:
            if not self.read_more():
                return None
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        headers = tuple(
            (name.strip(), value.strip()) for name, _, value in (each.partition(":") for each in rest)
        )
        length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
        while len(self._buffer) < length:
            if not self.read_more():
                return None
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        request = Arrived(first, headers, body, self._socket.getpeername()[1])
        self.server.requests.append(request)
        return request

    def send(self, data: bytes) -> None:
        """Send all of it; an OSError, when the client has left, ends the script."""
        self._socket.sendall(data)

    def drip(self, pieces: Iterable[bytes]) -> None:
        """Send one piece after the other, with pauses, until the client leaves or a test must have failed."""
        deadline = time.monotonic() + self.server.patience
        for piece in pieces:
            if self.server.closing.wait(_TICK) or time.monotonic() > deadline:
                return
            self.send(piece)

    def wait(self) -> None:
        """Read until the client leaves, the server closes, or a test must have failed."""
        while self.read_more():
            pass

    def read_more(self) -> bool:
        """Read what there is, waiting for it; give whether the client is still there."""
        data = self._socket.recv(65536)
        self._buffer += data
        return bool(data)

    def hang_up(self) -> None:
        """End the connection, also from another thread."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


Script = Callable[[Line], object]


class WireServer:
    """Listens on 127.0.0.1 and runs ``script`` for each connection, in a thread of its own.

    A script is left, and its connection closed, when nothing happens for ``patience`` seconds.
    """

    def __init__(self, script: Script, patience: float = PATIENCE) -> None:
        self.patience = patience
        self.requests: list[Arrived] = []
        self.connections = 0
        self.closing = threading.Event()
        self._script = script
        self._lines: set[Line] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def url(self, path: str = "/token", host: str = "127.0.0.1", scheme: str = "http") -> str:
        """Give an address of it."""
        return f"{scheme}://{host}:{self.port}{path}"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        self.closing.set()
        with contextlib.suppress(OSError):  # wakes whoever accepts
            socket.create_connection(("127.0.0.1", self.port), PATIENCE).close()
        self._threads[0].join(PATIENCE)
        self._listener.close()
        for line in list(self._lines):
            line.hang_up()
        for thread in self._threads[1:]:
            thread.join(PATIENCE)

    def _accept(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            if self.closing.is_set():
                sock.close()
                return
            self.connections += 1
            line = Line(self, sock)
            self._lines.add(line)
            thread = threading.Thread(target=self._follow, args=(line, sock), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _follow(self, line: Line, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            self._script(line)
        self._lines.discard(line)


def answer(status: int = 200, body: bytes = b"{}", headers: Mapping[str, str] | None = None) -> bytes:
    """Give a whole answer, with its length unless ``headers`` say how the body ends."""
    fields = {"Content-Type": "application/json", **(headers or {})}
    if status != 204 and not {"Content-Length", "Transfer-Encoding", "Connection"} & fields.keys():
        fields["Content-Length"] = str(len(body))
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} Status\r\n{lines}\r\n".encode("latin-1") + body


def answering(*answers: bytes) -> Script:
    """Give a script that answers the requests of all connections: in turn, the last one for ever."""
    left = list(answers)

    def script(line: Line) -> None:
        while line.receive():
            line.send(left.pop(0) if len(left) > 1 else left[0])

    return script


def once(*data: bytes, then: Callable[[Line], object] = Line.wait) -> Script:
    """Give a script that reads one request, sends ``data`` and does ``then``."""

    def script(line: Line) -> None:
        if line.receive():
            for piece in data:
                line.send(piece)
            then(line)

    return script


def hang_up(line: Line) -> None:
    """Close the connection."""
    line.hang_up()


def closed_port() -> int:
    """Give a port of 127.0.0.1 where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def everything_logged() -> Iterator[list[str]]:
    """Have all loggers say everything, and give what they said as texts."""
    said: list[str] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(f"{record.getMessage()} {record.exc_text or ''} {record.__dict__!r}")

    keeper, root = Keeper(logging.DEBUG), logging.getLogger()
    named = [found for found in root.manager.loggerDict.values() if isinstance(found, logging.Logger)]
    levels = [(logger, logger.level) for logger in (root, *named)]
    root.addHandler(keeper)
    try:
        for logger, _ in levels:
            logger.setLevel(logging.DEBUG)
        yield said
    finally:
        root.removeHandler(keeper)
        for logger, level in levels:
            logger.setLevel(level)
