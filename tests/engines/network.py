"""The network between one host and a server, which a test can cut."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from .base import HOST, free_port

BYTES_PER_READ = 65_536
SECONDS_TO_END = 10


class Cut:
    """A relay on loopback in front of a server's port: what goes through `port` can be cut and mended.

    What was sent during a cut is held back and arrives after `mend`, also from a client that gave up
    meanwhile, as TCP does it when a cable is plugged in again. Use it from one thread at a time.
    """

    def __init__(self, server_port: int) -> None:
        """Listen on a port of its own, for connections to `server_port`."""
        self.port = free_port()
        self._server_port = server_port
        self._through = threading.Event()
        self._closed = False
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._silent: list[socket.socket] = []
        self._listen()

    def __enter__(self) -> Self:
        """Give the relay."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def url(self, server_url: str) -> str:
        """Return the URL by which a client goes through here instead of to the server's port."""
        return server_url.replace(f":{self._server_port}/", f":{self.port}/")

    def cut(self, *, refuse: bool = False) -> None:
        """Forward nothing more. New connects hang; with `refuse` they are refused."""
        self._through.clear()
        self._stop_listening()
        if not refuse:
            self._silent = _listen_silently(self.port)

    def mend(self) -> None:
        """Forward what was held back, and all from now on."""
        self._stop_listening()
        self._listen()

    def close(self) -> None:
        """Close all connections and end the threads."""
        self._closed = True
        self._stop_listening()
        for each in list(self._sockets):
            _shut(each)
        self._through.set()
        for thread in self._threads:
            thread.join(SECONDS_TO_END)
            assert not thread.is_alive()

    def _listen(self) -> None:
        self._listener = socket.create_server((HOST, self.port))
        self._through.set()
        self._run(self._accept, self._listener)

    def _stop_listening(self) -> None:
        """Close whatever listens; once more is no harm."""
        for each in (self._listener, *self._silent):
            _shut(each)  # wakes the thread in `accept`, which `close` alone does not
            each.close()
        self._silent = []

    def _run(self, target: Callable[[socket.socket], None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):  # closed by a cut
            while True:
                client, _ = listener.accept()
                self._run(self._relay, client)

    def _relay(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection((HOST, self._server_port)) as server:
            both = {client, server}
            self._sockets |= both
            if self._closed:
                return
            back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
            back.start()
            self._pump(client, server)
            back.join()
            self._sockets -= both

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(BYTES_PER_READ):
                self._pass(data, sink)
            self._pass(b"", sink)
        except OSError:
            _shut(source)
            _shut(sink)

    def _pass(self, data: bytes, sink: socket.socket) -> None:
        self._through.wait()
        if self._closed:
            return
        if data:
            sink.sendall(data)
        else:
            sink.shutdown(socket.SHUT_WR)


def _listen_silently(port: int) -> list[socket.socket]:
    """Listen without accepting, with a full queue: the system drops further attempts to connect (Linux)."""
    listener = socket.create_server((HOST, port), backlog=0)
    return [listener, socket.create_connection((HOST, port))]


def _shut(each: socket.socket) -> None:
    with suppress(OSError):  # not connected any more
        each.shutdown(socket.SHUT_RDWR)
