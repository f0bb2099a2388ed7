"""How an answer leaves: whole, late, in drips, or not at all.

Nothing here sleeps. Every wait ends when the server closes, and every write to a client that has
left raises an OSError, which the server takes for what it is.
"""

import itertools
import socket
import threading
from collections.abc import Iterable, Iterator

from oauth2broker.testing._answer import Answer
from oauth2broker.testing.faults import Delivery, Fault

_CHUNK = b" " * 65536


class Outlet:
    """The way back to one client, for one request. Belongs to one thread."""

    __slots__ = ("_closing", "_connection", "aborted", "reusable")

    def __init__(self, connection: socket.socket, closing: threading.Event) -> None:
        self._connection = connection
        self._closing = closing
        self.reusable = True  # may the next request ride this connection?
        self.aborted = False  # is it to be reset instead of closed?

    def wait(self, seconds: float) -> bool:
        """Wait; False says that the server closed meanwhile and nothing should be sent."""
        return not self._closing.wait(seconds)

    def send(self, data: bytes) -> None:
        """Send all of it; raise OSError when the client has left."""
        self._connection.sendall(data)

    def hang_up(self, *, reset: bool = False) -> None:
        """Ask for the connection to be closed, or reset, when this request is done with."""
        self.reusable = False
        self.aborted = reset

    def await_departure(self) -> None:
        """Block until the client leaves or the server closes (it shuts its connections down)."""
        if self._connection.recv(1, socket.MSG_PEEK):
            # A client that pipelines cannot be seen leaving behind what it has sent.
            self._closing.wait()


def deliver(answer: Answer, fault: Fault, outlet: Outlet) -> None:
    """Send `answer` the way `fault` wants it. Raise OSError when the client has left."""
    if fault.delivery is Delivery.WHOLE:
        outlet.send(answer.render())
        return
    outlet.hang_up(reset=fault.delivery is Delivery.RESET)
    if fault.delivery is Delivery.SILENCE:
        outlet.await_departure()
    elif fault.delivery is Delivery.FLOOD:
        _send_all(_flood(answer, fault.size), outlet)
    elif fault.delivery.answers:
        _send_all(_pieces(answer, fault), outlet, fault.interval)


def _send_all(pieces: Iterable[bytes], outlet: Outlet, interval: float = 0.0) -> None:
    for piece in pieces:
        if not outlet.wait(interval):
            return
        outlet.send(piece)


def _pieces(answer: Answer, fault: Fault) -> Iterator[bytes]:
    if fault.delivery is Delivery.CUT:
        head, _, body = answer.render().partition(b"\r\n\r\n")
        yield head + b"\r\n\r\n" + body[: fault.size]
    elif fault.delivery is Delivery.DRIP_HEADERS:
        yield from _bytes_of(answer.render_head() + b"X-Drip: ")
        yield from itertools.repeat(b".")
    else:
        yield answer.render_head(("Connection", "close")) + b"\r\n"
        yield from _bytes_of(answer.body)
        yield from itertools.repeat(b" ")


def _bytes_of(data: bytes) -> Iterator[bytes]:
    return (data[i : i + 1] for i in range(len(data)))


def _flood(answer: Answer, size: int | None) -> Iterator[bytes]:
    return _endless_flood(answer) if size is None else _sized_flood(answer, size)


def _sized_flood(answer: Answer, size: int) -> Iterator[bytes]:
    yield answer.render_head(("Content-Length", str(size))) + b"\r\n" + answer.body[:size]
    left = size - len(answer.body)
    while left > 0:
        yield _CHUNK[:left]
        left -= len(_CHUNK)


def _endless_flood(answer: Answer) -> Iterator[bytes]:
    yield answer.render_head(("Transfer-Encoding", "chunked")) + b"\r\n"
    for piece in itertools.chain([answer.body or b" "], itertools.repeat(_CHUNK)):
        yield b"%x\r\n%s\r\n" % (len(piece), piece)
