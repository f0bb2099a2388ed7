"""What the servers of all engines share: a folder, a port and processes of their own."""

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from abc import ABC, abstractmethod
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Self

from .processes import SECONDS_TO_OBEY, family, running, send, stop_all, wait_until

HOST = "127.0.0.1"
SECONDS_TO_START = 60
SECONDS_TO_ANSWER = 5
# Below the ports that the system hands out: while a server is down nobody else gets its port, and a client
# that tries to connect cannot meet itself there. The bus of a Redis cluster has the port 10,000 above.
PORTS = range(15_000, 22_000)
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])


class Server(ABC):
    """A server on loopback, as a child process, with data that survive `kill` and end with `stop`.

    What a killed process has written stays in the page cache, so no server here waits for the disk. When the
    tests run as root it runs as `nobody`: PostgreSQL refuses root. Use it from one thread at a time.
    """

    modules: ClassVar[tuple[str, ...]]

    def __init__(self) -> None:
        """Reserve a folder and a port; nothing runs yet."""
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="o2b-"))
        self.data = self.folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        if account := _account():
            os.chown(self.folder, account["user"], account["group"])

    @classmethod
    def missing(cls) -> list[str]:
        """Return the names of what is not installed here: binaries and Python modules."""
        binaries = [name for name, path in cls.binaries().items() if path is None]
        modules = [f"Python's {name}" for name in cls.modules if find_spec(name) is None]
        return binaries + modules

    @classmethod
    @abstractmethod
    def binaries(cls) -> dict[str, str | None]:
        """Return the path of each binary that is needed, None for one that is not there."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Return where a client finds the server itself, without a database for a test."""

    @abstractmethod
    def new_database(self) -> str:
        """Create an empty database and return its URL."""

    @abstractmethod
    def drop_database(self, url: str) -> None:
        """Remove what `new_database` created, whoever is connected to it."""

    @abstractmethod
    def _command(self) -> list[str]:
        """Return the command that runs the server in the foreground."""

    @abstractmethod
    def _ask(self) -> None:
        """Raise whatever the client raises while the server does not answer."""

    @abstractmethod
    def _flush(self) -> bytes:
        """Make the server write all it holds into files; return what cannot be read there as it is."""

    def _create(self) -> None:
        """Fill the folder for data before the first start."""
        self.run("mkdir", str(self.data))

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop and remove the data."""
        self.stop()

    def start(self) -> None:
        """Start it, on the same data and port as before, and return when it answers."""
        if not self.data.exists():
            self._create()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self._surroundings()
            )
        try:
            wait_until(self._answers, "the server answers", SECONDS_TO_START)
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL it and all its children, also if it is paused; they are gone on return."""
        if self._process is None:
            return
        pids = stop_all(self._process.pid)
        send(signal.SIGKILL, pids)
        self._process.wait(SECONDS_TO_OBEY)
        wait_until(lambda: not running(pids), f"processes {pids} ended")
        self._process = None

    def pause(self) -> None:
        """Let it hang: connections stay open and new ones are taken by the system, but nobody answers."""
        assert self._process is not None
        stop_all(self._process.pid)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        send(signal.SIGCONT, self.pids())

    def stop(self) -> None:
        """End it and remove its data; there is no start after that."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def pids(self) -> list[int]:
        """Return the processes that it has now."""
        return [] if self._process is None else running(family(self._process.pid))

    def dump(self) -> bytes:
        """Return everything that the running server has at rest, its log too, to search for secrets.

        What other tests left may be in it: ask a server of the test's own.
        """
        logical = self._flush()
        return b"\0".join([logical, *(_read(path) for path in sorted(self.folder.rglob("*")))])

    def run(self, *command: str) -> None:
        """Run one of the engine's tools to its end, as the user that the server runs as."""
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SECONDS_TO_START,
            check=False,
            **self._surroundings(),
        )
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]} failed: {done.stdout.decode(errors='replace')}")

    @property
    def _log(self) -> Path:
        return self.folder / "server.log"

    def _surroundings(self) -> dict[str, Any]:
        env = {"PATH": SEARCH_PATH, "LC_ALL": "C.UTF-8", "TMPDIR": str(self.folder)}
        return {"cwd": self.folder, "env": env, "start_new_session": True, **_account()}

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            log = self._log.read_text(encoding="utf-8", errors="replace")
            raise RuntimeError(f"the server ended before it answered: {log[-2000:]}")
        try:
            self._ask()
        except Exception:  # each client has errors of its own for a server that is not up yet
            return False
        return True


def free_port() -> int:
    """Return a loopback port on which nobody listens."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port


def find(*names: str) -> str | None:
    """Return the path of the first of these programs that is installed."""
    return next((path for name in names if (path := shutil.which(name, path=SEARCH_PATH))), None)


def found(path: str | None) -> str:
    """Return a path that `missing` has been asked about."""
    assert path is not None
    return path


def _account() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _read(path: Path) -> bytes:
    with suppress(FileNotFoundError):  # a running server renames and removes files of its own
        return path.read_bytes() if path.is_file() else b""
    return b""
