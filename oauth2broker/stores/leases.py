"""Leases in a backend that other hosts share: an owner's name, with an expiry by the backend's clock.

A holder that lives prolongs its lease. One that lapsed may be of a holder that died, or of one that is cut
off from the backend with a token in hand that nobody else has. So a lapsed lease is not taken at once: who
wants it watches it for a while, in which a holder that is back would have prolonged it.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from oauth2broker.errors import BackendError, StoreError
from oauth2broker.forking import forget_in_children
from oauth2broker.obs import logger


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """In seconds. ``duration`` is more than any call to a provider takes (30), and together with ``watch``
    less than others wait for a lease (35). A lease is prolonged every ``beat``, and after a failure every
    ``retry``; both are less than ``watch``. Who watches looks at least every ``blink``, or begins anew: what
    it did not see, an outage, say, may have kept the holder away. Between two tries to get a lease is
    ``first_poll`` to ``longest_poll``.
    """

    duration: float = 31.0
    watch: float = 3.0
    blink: float = 1.0
    beat: float = 1.0
    retry: float = 0.5
    first_poll: float = 0.02
    longest_poll: float = 0.25


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease that was not to be had, and whether it has lapsed."""

    owner: str
    has_lapsed: bool


@dataclass(frozen=True, slots=True)
class _Held:
    """A lease that is ours, surely ``until`` then: by the monotonic clock, from before it was asked for."""

    digest: str
    until: float


@dataclass(frozen=True, slots=True)
class _Lapsed:
    """A lease that was seen lapsed in the hands of ``owner``, again and again from ``since`` to ``last``."""

    owner: str
    since: float
    last: float


class LeaseBackend(Protocol):
    """Where the leases are. Every method is atomic for a key, and raises :class:`StoreError`."""

    def take_lease(self, digest: str, owner: str, seconds: float, abandoned: str | None) -> Holder | None:
        """Give the lease to ``owner`` for that long; else give its holder.

        It is to be had if nobody has it, if ``owner`` has it already, and if it lapsed in the hands of
        ``abandoned``.
        """
        ...

    def prolong_leases(self, owners: Mapping[str, str], seconds: float) -> bool:
        """Prolong the leases that these owners still have, lapsed or not; say whether all of them do.

        ``owners`` are digests by owner.
        """
        ...

    def release_lease(self, digest: str, owner: str) -> None:
        """Free the lease if ``owner`` has it."""
        ...


class Leases:
    """The leases that this process holds, and those that it watches. Safe to share between threads."""

    def __init__(self, backend: LeaseBackend, times: LeaseTimes) -> None:
        self._backend = backend
        self._times = times
        self._held: dict[str, _Held] = {}  # by owner
        self._owed: dict[str, tuple[str, float]] = {}  # to release: digests, and until when, by owner
        self._lapsed: dict[str, _Lapsed] = {}  # by digest
        self._lock = threading.Lock()
        self._heart: threading.Thread | None = None
        forget_in_children(self)

    @contextmanager
    def hold(self, digest: str, timeout: float) -> Iterator[bool]:
        """Hold a lease, waiting for it up to ``timeout`` seconds; False when another holder kept it."""
        owner = secrets.token_hex(16)
        try:
            yield self._take(digest, owner, timeout)
        finally:
            with self._lock:
                held = self._held.pop(owner, None)
            if held is not None:
                self._release(digest, owner)

    def forget_after_fork(self) -> None:
        """The leases are the parent's, to prolong and to release."""
        self._held = {}
        self._owed = {}
        self._lock = threading.Lock()
        self._heart = None

    def is_held(self, digest: str) -> bool:
        """Whether a thread of this process has that lease, and it cannot have lapsed."""
        now = time.monotonic()
        return any(held.digest == digest and now < held.until for held in list(self._held.values()))

    def _take(self, digest: str, owner: str, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        pause = self._times.first_poll
        while (holder := self._try(digest, owner)) is not None:
            self._watch(digest, holder)
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(pause, left))
            pause = min(2 * pause, self._times.longest_poll)
        self._lapsed.pop(digest, None)
        self._require_heart()
        return True

    def _try(self, digest: str, owner: str) -> Holder | None:
        """Take the lease, and note that it is held, or give its holder."""
        asked_at = time.monotonic()
        abandoned = self._abandoned(digest, asked_at)
        try:
            holder = self._backend.take_lease(digest, owner, self._times.duration, abandoned)
        except BaseException:  # it may be ours, though we were not told
            self._lapsed.pop(digest, None)  # and who holds it may not reach the backend either
            self._release(digest, owner)
            raise
        if holder is not None:
            return holder
        longest = self._times.duration / 2 if abandoned is None else self._times.blink
        if time.monotonic() - asked_at > longest:
            self._release(digest, owner)
            raise BackendError("the store gave a lease too late")
        self._held[owner] = _Held(digest, asked_at + self._times.duration)
        return None

    def _abandoned(self, digest: str, now: float) -> str | None:
        """Give who has let the lease lapse for long enough, in looks that left no room for its return."""
        lapsed = self._lapsed.get(digest)
        if lapsed is None or now - lapsed.last > self._times.blink:
            return None
        return lapsed.owner if now - lapsed.since >= self._times.watch else None

    def _watch(self, digest: str, holder: Holder) -> None:
        now, before = time.monotonic(), self._lapsed.get(digest)
        if not holder.has_lapsed:
            self._lapsed.pop(digest, None)
        elif before is None or before.owner != holder.owner or now - before.last > self._times.blink:
            self._lapsed[digest] = _Lapsed(holder.owner, now, now)
        else:
            self._lapsed[digest] = _Lapsed(holder.owner, before.since, now)

    def _release(self, digest: str, owner: str) -> None:
        """Let go; that it fails must not hide what was done under the lease. Then it is tried again."""
        try:
            self._backend.release_lease(digest, owner)
        except StoreError as error:
            logger.warning("a lease could not be released (%s) and will be later", type(error).__name__)
            self._owed[owner] = digest, time.monotonic() + self._times.duration
            self._require_heart()

    def _require_heart(self) -> None:
        with self._lock:
            if self._heart is not None:
                return
            self._heart = threading.Thread(target=self._beat, name="oauth2broker-leases", daemon=True)
            try:
                self._heart.start()
            except RuntimeError:
                self._heart = None
                logger.warning("no thread could be started to prolong leases")

    def _beat(self) -> None:
        """Prolong what is held, and release what is owed, while there is anything."""
        pause = self._times.beat
        while True:
            time.sleep(pause)
            with self._lock:
                if not self._held and not self._owed:
                    self._heart = None
                    return
            pause = self._times.beat if self._keep_up() else self._times.retry

    def _keep_up(self) -> bool:
        try:
            self._prolong()
            self._release_owed()
        except Exception as error:  # noqa: BLE001 - whatever it is, the thread must go on
            logger.warning("leases could not be prolonged or released (%s)", type(error).__name__)
            return False
        return True

    def _prolong(self) -> None:
        began = time.monotonic()
        owners = {owner: lease.digest for owner, lease in list(self._held.items())}
        if not owners or not self._backend.prolong_leases(owners, self._times.duration):
            return
        until = began + self._times.duration
        with self._lock:  # those that were let go meanwhile stay away
            self._held |= {
                owner: _Held(digest, until) for owner, digest in owners.items() if owner in self._held
            }

    def _release_owed(self) -> None:
        for owner, (digest, lapses_at) in list(self._owed.items()):
            if time.monotonic() < lapses_at:
                self._backend.release_lease(digest, owner)
            self._owed.pop(owner, None)
