"""Leases that lapse: who may take one over, and who can be sure of one. By a clock of the tests' own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack

import pytest

from oauth2broker import BackendError
from oauth2broker.stores import leases as leases_module
from oauth2broker.stores.leases import Holder, Leases, LeaseTimes

PATIENCE = 30.0
TIMES = LeaseTimes(beat=1000.0)  # nothing is prolonged but by the test


class Clock:
    """Monotonic time that passes when the test, or a call of the backend, says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Backend:
    """Says what it is told to, and notes who was taken for abandoned."""

    def __init__(self) -> None:
        self.holder: Holder | None = Holder("dead", has_lapsed=True)
        self.act: Callable[[str], None] = lambda digest: None
        self.abandoned: list[str | None] = []
        self.released: list[str] = []
        self.error: BaseException | None = None
        self.all_prolonged = True

    def take_lease(self, digest: str, owner: str, seconds: float, abandoned: str | None) -> Holder | None:
        self.abandoned.append(abandoned)
        self.act(digest)
        if self.error is not None:
            raise self.error
        return (
            None
            if abandoned is not None and abandoned == getattr(self.holder, "owner", None)
            else self.holder
        )

    def prolong_leases(self, owners: Mapping[str, str], seconds: float) -> bool:
        self.act("all")
        return self.all_prolonged

    def release_lease(self, digest: str, owner: str) -> None:
        if isinstance(self.error, BackendError):
            raise self.error
        self.released.append(digest)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time that the leases see."""
    made = Clock()
    monkeypatch.setattr(leases_module, "time", made)
    monkeypatch.setattr(Leases, "_require_heart", lambda self: None)
    return made


@pytest.fixture
def backend() -> Backend:
    """Where somebody else's lease has lapsed."""
    return Backend()


@pytest.fixture
def leases(backend: Backend, clock: Clock) -> Leases:
    """Of a process that has seen nothing yet."""
    return Leases(backend, TIMES)


def take(leases: Leases, digest: str = "key", timeout: float = 0.0) -> bool:
    with leases.hold(digest, timeout) as is_ours:
        return is_ours


def test_a_lapsed_lease_is_taken_when_it_was_watched_for_long_enough(leases: Leases, clock: Clock) -> None:
    """Three seconds, and not a look earlier."""
    began = clock.now
    assert take(leases, timeout=60.0)
    assert TIMES.watch <= clock.now - began <= TIMES.watch + 2 * TIMES.longest_poll
    assert leases._lapsed == {}


def test_a_look_and_a_later_look_are_no_watch(leases: Leases, clock: Clock) -> None:
    """What was between them, an outage, say, may have kept the holder away."""
    assert not take(leases)
    clock.now += 10.0
    assert not take(leases)
    assert not take(leases, timeout=TIMES.watch - 0.5)
    assert take(leases, timeout=60.0)


def test_a_holder_that_came_back_is_watched_anew(leases: Leases, backend: Backend, clock: Clock) -> None:
    """Also when it lapses again, and when another has it by then."""
    assert not take(leases, timeout=TIMES.watch - 0.5)
    backend.holder = Holder("dead", has_lapsed=False)
    assert not take(leases)
    backend.holder = Holder("dead", has_lapsed=True)
    assert not take(leases, timeout=TIMES.watch - 0.5)
    backend.holder = Holder("another", has_lapsed=True)
    assert not take(leases, timeout=TIMES.watch - 0.5)


def test_a_failure_ends_the_watch_however_short_it_was(
    leases: Leases, backend: Backend, clock: Clock
) -> None:
    """The holder may not have reached the backend for longer than the one who looks."""
    assert not take(leases, timeout=TIMES.watch - 0.5)
    backend.error = BackendError("down")
    with pytest.raises(BackendError):
        take(leases)
    backend.error = None
    assert not take(leases, timeout=TIMES.watch - 0.5)
    assert take(leases, timeout=60.0)


def test_a_failure_ends_the_watch_of_its_key_and_of_no_other(
    leases: Leases, backend: Backend, clock: Clock
) -> None:
    """Of a cluster, one node may be down; the leases on the others go on to be watched."""

    def fail(digest: str) -> None:
        if digest == "other":
            raise BackendError("down")

    backend.act = fail
    for _ in range(10):
        clock.now += 0.4
        with pytest.raises(BackendError):
            take(leases, "other")
        if take(leases):
            break
    assert backend.abandoned[-1] == "dead"


def test_a_lease_that_came_after_a_hang_is_given_back(leases: Leases, backend: Backend, clock: Clock) -> None:
    """While nobody was answered, its holder was not, either."""
    assert not take(leases, timeout=TIMES.watch - 0.1)
    clock.now += 0.2

    def hang(digest: str) -> None:
        clock.now += 5.0

    backend.act = hang
    with pytest.raises(BackendError, match="too late"):
        take(leases)
    assert backend.released == ["key"]


@pytest.mark.parametrize("error", [BackendError, KeyboardInterrupt, SystemExit])
def test_what_ended_the_asking_leaves_no_lease(
    leases: Leases, backend: Backend, error: type[BaseException]
) -> None:
    """It may have been given by then: it is let go, also later, when nothing can be said for now."""
    backend.error = error("the answer was lost")
    with pytest.raises(error):
        take(leases)
    backend.error = None
    leases._release_owed()
    leases._release_owed()
    assert backend.released == ["key"]


def test_what_could_not_be_let_go_and_has_lapsed_is_forgotten(
    leases: Leases, backend: Backend, clock: Clock
) -> None:
    """The row, or what is in its place, may be somebody else's by then; nobody is asked about it for ever."""
    backend.error = BackendError("down")
    with pytest.raises(BackendError):
        take(leases)
    with pytest.raises(BackendError):
        leases._release_owed()
    assert len(leases._owed) == 1
    clock.now += TIMES.duration
    leases._release_owed()
    assert leases._owed == {}


def test_a_lease_that_is_let_go_while_it_is_prolonged_stays_away(leases: Leases, backend: Backend) -> None:
    """Else it would be asked for with the others for ever, and nobody could be sure of his."""
    backend.holder = None
    with ExitStack() as held:
        assert held.enter_context(leases.hold("key", 0.0))
        backend.act = lambda _: held.close()
        leases._prolong()
    assert leases._held == {}


@pytest.mark.parametrize("error", [BackendError("down"), ValueError("a bug")])
def test_what_could_not_be_prolonged_is_tried_again_sooner(
    leases: Leases, backend: Backend, clock: Clock, error: Exception
) -> None:
    """Whatever it failed of; it ends when nothing is held."""
    backend.holder = None
    moments, began = list[float](), clock.now
    with ExitStack() as held:
        held.enter_context(leases.hold("key", 0.0))

        def fail_once(_: str) -> None:
            moments.append(clock.now)
            if len(moments) == 1:
                raise error
            held.close()

        backend.act = fail_once
        leases._beat()
    assert moments == [began + TIMES.beat, began + TIMES.beat + TIMES.retry]


def test_a_lease_is_prolonged_also_after_there_was_none(backend: Backend) -> None:
    """The thread ends when nothing is held, and the next lease starts another."""
    prolonged = threading.Event()
    backend.holder, backend.act = None, lambda what: prolonged.set() if what == "all" else None
    leases = Leases(backend, LeaseTimes(beat=0.001))
    for _ in range(2):
        with leases.hold("key", 0.0):
            prolonged.clear()
            assert prolonged.wait(PATIENCE)
            heart = leases._heart
        assert heart is not None
        heart.join(PATIENCE)
        assert not heart.is_alive()


def test_without_a_thread_to_prolong_it_a_lease_is_held_all_the_same(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For as long as it lasts; and the next one tries to start a thread again."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    backend.holder, leases = None, Leases(backend, TIMES)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    for _ in range(2):
        assert take(leases)
    monkeypatch.undo()
    assert take(leases)
    assert leases._heart is not None
    assert leases._heart.is_alive()
    assert backend.released == ["key"] * 3


def test_a_child_after_a_fork_knows_nothing_of_its_parents_leases(leases: Leases, backend: Backend) -> None:
    """It has none of them, lets none go, and waits for no lock that a thread of its parent's held."""
    backend.holder, backend.error = None, BackendError("down")
    with pytest.raises(BackendError):
        take(leases, "owed")
    backend.error = None
    with leases.hold("held", 0.0):
        with leases._lock:
            leases.forget_after_fork()
            assert not leases._lock.locked()
        assert not leases.is_held("held")
    leases._release_owed()
    assert backend.released == []


def test_one_thread_prolongs_all_leases(backend: Backend) -> None:
    """However many are held, one after the other or at once."""
    backend.holder, beats = None, "oauth2broker-leases"
    leases = Leases(backend, LeaseTimes(beat=0.01))
    before = {thread for thread in threading.enumerate() if thread.name == beats}
    with leases.hold("a", 0.0), leases.hold("b", 0.0):
        [heart] = {thread for thread in threading.enumerate() if thread.name == beats} - before
    heart.join(PATIENCE)
    assert not heart.is_alive()


def test_a_holder_is_sure_of_its_lease_for_as_long_as_it_was_given(
    leases: Leases, backend: Backend, clock: Clock
) -> None:
    """Counted from before it was asked for, or prolonged, and only if the backend said so of all."""
    backend.holder = None

    def answer_slowly(_: str) -> None:
        clock.now += 5.0

    backend.act = answer_slowly
    with leases.hold("key", 0.0):
        assert leases.is_held("key")
        assert not leases.is_held("other")
        clock.now += TIMES.duration - 6.0
        assert leases.is_held("key")
        clock.now += 1.0
        assert not leases.is_held("key")
        leases._prolong()
        clock.now += TIMES.duration - 6.0
        assert leases.is_held("key")
        clock.now += 1.0
        assert not leases.is_held("key")
        leases._prolong()
        assert leases.is_held("key")
        backend.all_prolonged = False
        leases._prolong()
        clock.now += TIMES.duration - 10.0
        assert not leases.is_held("key")
    assert not leases.is_held("key")
