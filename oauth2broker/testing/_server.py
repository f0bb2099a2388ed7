"""A threaded HTTP/1.1 server on 127.0.0.1 that ends promptly and survives a fork."""

import contextlib
import os
import socket
import socketserver
import struct
import sys
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from oauth2broker.testing._answer import Answer
from oauth2broker.testing._delivery import Outlet

_LARGEST_BODY = 64 * 1024
_CLOSE_DEADLINE = 5.0  # seconds
_LINGER_NOT = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. Query, headers and body may hold secrets, so repr shows none of them."""

    method: str
    path: str
    query: str = field(repr=False)
    headers: Message = field(repr=False)
    body: bytes = field(repr=False)


Route = Callable[[Request, Outlet], None]


class LoopbackServer(ThreadingHTTPServer):
    """Hands every request to `route`, each connection in a daemon thread of its own.

    `start` and `stop` belong to one owner. In a forked child the server is not there: the child's
    copies of its sockets are closed at once, so that a connection that ends in the parent ends.
    """

    daemon_threads = True
    request_queue_size = 512  # 128 threads that connect at the same moment must all get in

    def __init__(self, port: int, route: Route) -> None:
        self.route = route
        self.closing = threading.Event()
        self._pid = os.getpid()
        self._connections: set[socket.socket] = set()
        self._aborted: set[socket.socket] = set()
        self._idle = threading.Condition()
        self._loop = threading.Thread(
            target=self.serve_forever, args=(0.005,), name="loopback-provider", daemon=True
        )
        super().__init__(("127.0.0.1", port), _Handler)

    def server_bind(self) -> None:
        """Bind without HTTPServer's reverse DNS lookup, which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def start(self) -> None:
        """Begin to serve, in a daemon thread."""
        _forget_after_fork(self)
        self._loop.start()

    def stop(self) -> None:
        """End every exchange under way and free the port. Does nothing in a forked child."""
        if os.getpid() != self._pid:
            return
        self.closing.set()
        self.shutdown()
        self.server_close()
        self._loop.join()
        self._end_connections()

    def abandon(self) -> None:
        """Close a forked child's copies of the sockets. Takes no lock: its holder is gone."""
        for inherited in (self.socket, *self._connections):
            # close() would wait for the handlers' files, whose threads do not exist here.
            with contextlib.suppress(OSError):
                os.close(inherited.detach())

    def abort(self, connection: socket.socket) -> None:
        """Have this connection reset, not closed, when its thread is done with it."""
        self._aborted.add(connection)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection before its thread starts."""
        with self._idle:
            self._connections.add(request)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection and forget it."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._idle:
                self._connections.discard(request)
                self._aborted.discard(request)
                self._idle.notify_all()

    def shutdown_request(self, request: Any) -> None:
        """Close a connection; one to be reset is closed without the farewell of a shutdown."""
        if request not in self._aborted:
            super().shutdown_request(request)
            return
        with contextlib.suppress(OSError):
            request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        self.close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent about clients that left; anything else is a defect and is printed."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def _end_connections(self) -> None:
        deadline = time.monotonic() + _CLOSE_DEADLINE
        with self._idle:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            while self._connections and self._idle.wait(deadline - time.monotonic()):
                pass


def _forget_after_fork(server: LoopbackServer) -> None:
    if not hasattr(os, "register_at_fork"):
        return
    abandon = weakref.WeakMethod(server.abandon)

    def run() -> None:
        if (method := abandon()) is not None:
            method()

    os.register_at_fork(after_in_child=run)


class _Handler(BaseHTTPRequestHandler):
    """Reads one request after the other from one connection."""

    server: LoopbackServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer_request(b"")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            self._refuse(411)
        elif len(length) > 9 or int(length) > _LARGEST_BODY:
            self._refuse(413)
        elif len(body := self.rfile.read(int(length))) < int(length):
            self.close_connection = True  # the client left before it had asked
        else:
            self._answer_request(body)

    def log_message(self, *_: object) -> None:
        """Log nothing: request lines hold codes and states."""

    def _answer_request(self, body: bytes) -> None:
        target = urlsplit(self.path)
        request = Request(self.command, target.path, target.query, self.headers, body)
        outlet = Outlet(self.connection, self.server.closing)
        self.server.route(request, outlet)
        if not outlet.reusable:
            self.close_connection = True
        if outlet.aborted:
            self.server.abort(self.connection)

    def _refuse(self, status: int) -> None:
        self.close_connection = True
        self.connection.sendall(Answer(status, (("Connection", "close"),)).render())
