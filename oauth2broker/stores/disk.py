"""Files as a store keeps them: written through to the disk, and replaced whole.

What holds the text of a file gives what went wrong instead of raising it, so that no traceback shows it.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from oauth2broker.errors import BackendError, ConfigError, StoreError

POLL_SECONDS = 0.01
PARTS = "0123456789abcdef"
_SETTLED_NS = 2_000_000_000  # a file younger than this may change without looking different
_REPLACE_TRIES = 50
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)

Identity = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class FileText:
    """What a file holds, and its identity if a change of the file is sure to show in it."""

    text: bytes = field(repr=False)
    identity: Identity | None


def require_own_folder(path: str) -> None:
    """Have a folder there that nobody else can enter. Raises :class:`ConfigError`, :class:`BackendError`."""
    try:
        make_folder(path, os.makedirs)
        found = os.stat(path)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"{path} is not a folder") from None
    except OSError as error:
        raise backend_error("make", path, error) from None
    if os.name == "posix":
        if found.st_uid != os.geteuid():
            raise ConfigError(f"{path} belongs to another user")
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise ConfigError(f"{path} can be entered by others: chmod 700")


def make_folder(path: str, make: Callable[[str, int], None]) -> None:
    """Make ``path`` for its owner alone, whatever the umask says; leave one that is there as it is."""
    if os.path.isdir(path):
        return
    try:
        make(path, 0o700)
        os.chmod(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise  # else another process was faster


def read_file(path: str) -> FileText | StoreError | None:
    """Give a file's text, None when it is not there, or what is wrong."""
    try:
        with open(os.open(path, os.O_RDONLY | _NO_LINKS), "rb") as file:
            found = os.fstat(file.fileno())
            text = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        return backend_error("read", path, error)
    is_settled = time.time_ns() - found.st_mtime_ns >= _SETTLED_NS
    return FileText(text, identify(found) if is_settled else None)


def identify(found: os.stat_result) -> Identity:
    """Give what changes when a file does."""
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size


def part_of(name: str) -> str:
    """Give which of ``PARTS`` of a folder a file belongs to, by the digest that its name begins with."""
    return name[0]


def new_file(path: str) -> str:
    """Name the file in which a new text for ``path`` is written: one per part, whose lock its writer has."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f"new-{part_of(name)}.tmp")


def replace_file(path: str, text: str) -> StoreError | None:
    """Put ``text`` in the place of a file, so that a crash leaves the old one or the new one.

    Gives what went wrong. The caller holds the lock of the file's part.
    """
    folder, new = os.path.dirname(path), new_file(path)
    error = _write(new, text) or _rename(new, path, folder)
    return None if error is None else backend_error("write a record to", folder, error)


def remove_file(path: str) -> bool:
    """Remove a file; say whether it was there. Raises :class:`BackendError`."""
    folder = os.path.dirname(path)
    try:
        _patiently(partial(os.unlink, path))
        _sync_folder(folder)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise backend_error("delete a record in", folder, error) from None
    return True


def list_files(folder: str, suffix: str) -> list[str]:
    """Give the names that end so. Raises :class:`BackendError`."""
    try:
        return [entry.name for entry in os.scandir(folder) if entry.name.endswith(suffix)]
    except OSError as error:
        raise backend_error("list", folder, error) from None


def backend_error(action: str, path: str, error: OSError) -> BackendError:
    """Say what could not be done, and why."""
    return BackendError(f"cannot {action} {path}: {error.strerror or type(error).__name__}")


def _write(path: str, text: str) -> OSError | None:
    """Write ``text`` through to the disk."""
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _NO_LINKS, 0o600), "wb") as file:
            if os.name == "posix":
                os.fchmod(file.fileno(), 0o600)  # whatever the umask, or a left-over file, says
            file.write(text.encode("ascii"))
            file.flush()
            _sync(file.fileno())
    except OSError as error:
        return error.with_traceback(None)
    return None


def _rename(new: str, path: str, folder: str) -> OSError | None:
    try:
        _patiently(partial(os.replace, new, path))
        _sync_folder(folder)
    except OSError as error:
        return error
    return None


def _patiently(act: Callable[[], None]) -> None:
    """Replace or remove a file; Windows refuses for the moment while somebody reads it."""
    for left in reversed(range(_REPLACE_TRIES)):
        try:
            act()
            break
        except PermissionError:
            if os.name != "nt" or not left:
                raise
        time.sleep(POLL_SECONDS)


def _sync_folder(folder: str) -> None:
    if os.name == "nt":
        return  # a folder cannot be opened there; NTFS journals the rename
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    """Flush to the medium; on macOS fsync stops at the drive's cache and F_FULLFSYNC does not."""
    try:
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # type: ignore[attr-defined, unused-ignore]
    except (ImportError, AttributeError, OSError):
        os.fsync(descriptor)
