"""Processes that tests steer, and what runs in them.

A :class:`Worker` is a process with a broker of its own on the shared folder. The parent sends it functions of
this module, which are called with the child's :class:`Actor`, and gets back what they return. Nothing that
crosses is a secret: a token is reported by its SHA-256.
"""

from __future__ import annotations

import atexit
import functools
import gc
import io
import itertools
import json
import logging
import multiprocessing
import os
import random
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier, Event
from types import MethodType
from typing import Any, Concatenate, Generic, NoReturn, ParamSpec, TypeVar

import oauth2broker.flows.late  # noqa: F401 - now: workers give up the right to read it, and are interrupted
from oauth2broker import (
    Broker,
    BrokerError,
    BrokerStore,
    CachedTokenRequest,
    GrantType,
    HttpRequest,
    HttpResponse,
    ProviderDescriptor,
    ProviderErrorContext,
    ProviderErrorKind,
    ProviderStrategy,
    RequestsHttpClient,
    ResponseMetadataSlot,
    StoreKey,
    TokenRecord,
)
from oauth2broker.flows import broker as broker_module
from oauth2broker.flows.bounds import Bounds
from oauth2broker.testing import LoopbackProvider
from tests.places import AnnouncingStore, Place
from tests.support import REDIRECT_URI, SCOPE, SERVICE_REQUEST, TENANT, USER, USER_REQUEST

PATIENCE = 30.0  # seconds; far more than anything here takes
CLIENT = ("demo-client", "demo-secret")
NOBODY = 65534
QUICK = Bounds(store=0.2)

P = ParamSpec("P")
R = TypeVar("R")


# --- what both sides use -----------------------------------------------------------------------------------


def now() -> datetime:
    """The wall clock's time."""
    return datetime.now(UTC)


def wait_for(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Wait until something outside has got there, by looking."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.005)


def log_in(broker: Broker, provider: LoopbackProvider, principal: str = USER) -> TokenRecord:
    """Take a principal through a whole authorization."""
    session = broker.start_authorization(TENANT, principal, SCOPE, REDIRECT_URI)
    return broker.complete_authorization(session, provider.browse(session.authorize_url))


def stored(store: BrokerStore, key: StoreKey) -> TokenRecord:
    """The record of ``key``, which must be there."""
    record = store.fetch(key)
    assert record is not None
    return record


def age(store: BrokerStore, key: StoreKey, *, seconds_left: float) -> TokenRecord:
    """Let the token of ``key`` have been issued two hours ago and last that much longer."""
    issued_at, expires_at = now() - timedelta(hours=2), now() + timedelta(seconds=seconds_left)
    record = replace(stored(store, key), issued_at=issued_at, expires_at=expires_at)
    store.save(record)
    return record


@dataclass(frozen=True, slots=True)
class Answer:
    """How one call of a broker ended: the SHA-256 of a token, or the name of an error."""

    token: str | None
    error: str | None = None
    message: str = ""
    retry_after: float | None = None
    seconds: float = 0.0


def answer_of(call: Callable[[], TokenRecord | None]) -> Answer:
    """Call a broker and report what came."""
    began = time.monotonic()
    try:
        record = call()
    except BrokerError as error:
        seconds = time.monotonic() - began
        return Answer(None, type(error).__name__, str(error), error.retry_after, seconds)
    token = None if record is None else record.access_token.fingerprint()
    return Answer(token, seconds=time.monotonic() - began)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a worker is to be. Picklable; holds no secret but the demo client's.

    ``pause_at`` names a point where it stops once, says so (``reached``) and waits (``proceed``): ``lease``
    is before the lease is asked for, ``augment`` before the attempt is written down, ``send`` before the
    request goes out, ``normalize`` and ``classify`` after its answer came. ``announce_lease``: say so before
    waiting for a lease.
    ``limit_at_answer``: from the moment an answer comes, no file may grow (RLIMIT_FSIZE).
    ``bounds`` are the library's, but that tests need not wait two seconds for each store that is down.
    """

    place: Place
    descriptor: ProviderDescriptor
    timeout: float = 30.0
    ahead: float = 0.0
    pause_at: str = ""
    announce_lease: bool = False
    limit_at_answer: bool = False
    bounds: Bounds = QUICK
    user_id: int | None = None


# --- the child's side --------------------------------------------------------------------------------------


@dataclass(slots=True)
class OffsetClock:
    """The wall clock, some seconds ahead."""

    ahead: float

    def __call__(self) -> datetime:
        return now() + timedelta(seconds=self.ahead)


@dataclass(slots=True)
class Pause:
    """A point where the child stops once, until told to go on."""

    point: str
    reached: Event
    proceed: Event
    announces: bool = True

    def at(self, point: str) -> None:
        """Stop if this is the point."""
        if point == self.point:
            self.point = ""
            if self.announces:
                self.reached.set()
            assert self.proceed.wait(PATIENCE), "nobody said to go on"


class PausingStrategy(ProviderStrategy):
    """Hooks as points to stop at, and as the moment when an answer is there."""

    def __init__(self, pause: Pause, at_answer: Callable[[], None]) -> None:
        self._pause = pause
        self._at_answer = at_answer

    def augment_token_request(self, grant: GrantType, form: dict[str, str]) -> None:
        self._pause.at("augment")

    def normalize_token_response(self, grant: GrantType, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        self._at_answer()
        self._pause.at("normalize")
        return payload

    def classify_token_error(self, context: ProviderErrorContext) -> ProviderErrorKind:
        self._pause.at("classify")
        return super().classify_token_error(context)


class PausingHttpClient:
    """Stops between the decision to send and the sending."""

    def __init__(self, client: RequestsHttpClient, pause: Pause) -> None:
        self._client = client
        self._pause = pause

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        self._pause.at("send")
        return self._client.send(request, metadata)


class Actor:
    """A broker in a child process, and all that its tests want to touch."""

    def __init__(self, plan: Plan, reached: Event, proceed: Event, barrier: Barrier | None) -> None:
        self.reached, self.barrier = reached, barrier
        self.pause = Pause(plan.pause_at, reached, proceed)
        self.clock = OffsetClock(plan.ahead)
        self.announces_lease = plan.announce_lease
        self.store = AnnouncingStore(plan.place.open(), self._before_lease)
        self.log = io.StringIO()
        _log_everything_to(self.log)
        vars(broker_module)["Bounds"] = lambda: plan.bounds
        self.broker = Broker(
            plan.descriptor,
            *CLIENT,
            store=self.store,
            strategy=PausingStrategy(self.pause, forbid_growth if plan.limit_at_answer else lambda: None),
            http_client=self._http_client(plan),
            clock=self.clock,
        )

    def _before_lease(self) -> None:
        if self.announces_lease:
            self.reached.set()
        self.pause.at("lease")

    def _http_client(self, plan: Plan) -> PausingHttpClient | None:
        """None, where the broker can use what it makes itself."""
        if plan.timeout == 30.0 and plan.pause_at != "send":
            return None
        return PausingHttpClient(RequestsHttpClient(total_timeout=plan.timeout), self.pause)


def obey(plan: Plan, pipe: Connection, reached: Event, proceed: Event, barrier: Barrier | None) -> None:
    """Do what comes through the pipe until it says to leave. The target of a worker's process."""
    with suppress(EOFError):  # the parent has gone
        import filelock  # noqa: F401 - while we may still read where it is installed

        if plan.user_id is not None:
            os.setuid(plan.user_id)
        warnings.filterwarnings("ignore", ".*multi-threaded", DeprecationWarning)  # forking is what we test
        actor = Actor(plan, reached, proceed, barrier)
        while (order := pipe.recv()) is not None:
            work, args, kwargs = order
            try:
                done = (True, work(actor, *args, **kwargs))
            except BaseException:
                done = (False, traceback.format_exc())
            pipe.send(done)


def forbid_growth() -> None:
    """From now on this process cannot make a file larger: EFBIG, as a full disk has ENOSPC."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))


def allow_growth() -> None:
    """Take that back."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def _log_everything_to(stream: io.StringIO) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.DEBUG, handlers=[handler], force=True)


# --- orders ------------------------------------------------------------------------------------------------


def ask(
    actor: Actor, request: CachedTokenRequest = USER_REQUEST, *, threads: int = 1, meet: bool = False
) -> list[Answer]:
    """Ask for a user's token in so many threads; ``meet``: start when all processes are there."""
    return _in_threads(
        threads, functools.partial(actor.broker.refresh_access_token, request), actor, meet=meet
    )


def ask_until_served(actor: Actor) -> list[Answer]:
    """Ask for a user's token again and again until one comes; give all answers."""
    found: list[Answer] = []

    def is_served() -> bool:
        found.append(answer_of(functools.partial(actor.broker.refresh_access_token, USER_REQUEST)))
        return found[-1].token is not None

    wait_for(is_served)
    return found


def renew_for(actor: Actor, names: list[str], seconds: float, seed: int) -> int:
    """Renew tokens of these principals for so long, whatever comes of it; give how often one came."""
    dice, renewed, deadline = random.Random(seed), 0, time.monotonic() + seconds
    while time.monotonic() < deadline:
        request = CachedTokenRequest(TENANT, dice.choice(names), SCOPE).force_refresh()
        renewed += answer_of(functools.partial(actor.broker.refresh_access_token, request)).error is None
    return renewed


def renew_each(actor: Actor, names: list[str]) -> list[str]:
    """Renew a token of each of these principals; give the messages of what goes wrong."""
    requests = [CachedTokenRequest(TENANT, name, SCOPE).force_refresh() for name in names]
    answers = [answer_of(functools.partial(actor.broker.refresh_access_token, each)) for each in requests]
    return [answer.message for answer in answers if answer.error]


def ask_service(actor: Actor, *, threads: int = 1, meet: bool = False) -> list[Answer]:
    """Ask for the client's own token in so many threads."""
    work = functools.partial(actor.broker.client_credentials, SERVICE_REQUEST)
    return _in_threads(threads, work, actor, meet=meet)


def set_clock(actor: Actor, ahead: float) -> None:
    """Let this process's clock be so many seconds ahead."""
    actor.clock.ahead = ahead


def can_lease(actor: Actor) -> bool:
    """Whether the lease of USER_REQUEST's key is free."""
    with actor.store.refresh_lease(actor.broker.key_for(USER_REQUEST), timeout=0.0) as is_ours:
        return is_ours


def unsaved_tokens(actor: Actor) -> list[str]:
    """The SHA-256 of the tokens in ``broker.unsaved``."""
    return [record.access_token.fingerprint() for record in actor.broker.unsaved.values()]


def secrets_in_log(actor: Actor, *more: str) -> list[str]:
    """Name what the log, at DEBUG, holds of the secrets that this process has seen. Also reads the log."""
    text = actor.log.getvalue()
    assert "oauth2broker" in text, "nothing was logged"
    records = [*actor.broker.unsaved.values(), actor.store.fetch(actor.broker.key_for(USER_REQUEST))]
    found = [name for name in (*more, CLIENT[1]) if name in text]
    for record in filter(None, records):
        for name in ("access_token", "refresh_token"):
            secret = getattr(record, name)
            if secret and secret.expose() in text:
                found.append(name)
    return found


def log_out(actor: Actor, how: str) -> None:
    """End the grant in the store, not under the lease: as a program does whose user must be out at once."""
    key = actor.broker.key_for(USER_REQUEST)
    if how == "delete":
        actor.store.delete(key)
    else:
        actor.store.revoke(key, actor.clock())


def lift_limit(actor: Actor) -> None:
    """Let files grow again."""
    allow_growth()


def close_broker(actor: Actor) -> None:
    """Let files grow again, and close the broker in the same breath."""
    allow_growth()
    actor.broker.close()


def lift_limit_at_exit(actor: Actor) -> None:
    """Let files grow again when the interpreter exits, just before what was registered earlier."""
    atexit.register(allow_growth)


def lead_until_interrupted(actor: Actor, threads: int) -> tuple[bool, list[Answer]]:
    """Lead a flight in the main thread, say so (``reached``) when it has come to its pause, if there is one,
    and all the others wait for it; then go on.

    Gives whether SIGINT ended the leading, and what the others got.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    actor.pause.announces = False
    call = functools.partial(actor.broker.refresh_access_token, USER_REQUEST)
    found: list[Answer] = []
    followers = threading.Thread(target=lambda: found.extend(_in_threads(threads, call, actor, meet=False)))

    def follow() -> None:
        flights = actor.broker._flights
        wait_for(lambda: len(flights) == 1)
        (flight,) = flights._under_way.values()
        followers.start()
        wait_for(lambda: len(flight.ended._cond._waiters) == threads)  # type: ignore[attr-defined]
        wait_for(lambda: not actor.pause.point)  # or another leader would come to the pause
        actor.reached.set()

    starter = threading.Thread(target=follow)
    starter.start()
    interrupted = False
    try:
        call()
    except KeyboardInterrupt:
        interrupted = True
    for thread in (starter, followers):
        thread.join(PATIENCE)
        assert not thread.is_alive(), "a waiter hangs"
    return interrupted, found


class CannedHttpClient:
    """Answers at once, with tokens that it makes up."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        number = next(self._numbers)
        tokens = {"access_token": f"access-{number}", "refresh_token": f"refresh-{number}"}
        return HttpResponse(200, {}, json.dumps({**tokens, "expires_in": 3600}).encode())


def survive_interrupts(actor: Actor, seconds: float) -> tuple[int, list[str]]:
    """Renew in the main thread under one SIGINT per call, at random moments, on a MemoryStore.

    Gives the number of interrupts, and what another thread was told that found no way past what was left.
    """
    signal.signal(signal.SIGALRM, signal.default_int_handler)  # a timer of microseconds in place of a Ctrl-C
    dice, interrupts, stuck = random.Random(1), 0, list[str]()
    vars(broker_module)["Bounds"] = lambda: Bounds(lease=0.1, join=0.1)
    renew = _canned_renewal()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            signal.setitimer(signal.ITIMER_REAL, dice.uniform(1e-6, 6e-4))
            renew()
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            continue
        except KeyboardInterrupt:
            interrupts += 1
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        told = [_ask_elsewhere(renew)]
        if told[0]:
            gc.collect()  # what an interrupt left in a cycle of references may have waited for it
            told.append(_ask_elsewhere(renew))
        if told[-1]:
            stuck.append(told[-1])
            renew = _canned_renewal()
    return interrupts, stuck


def _ask_elsewhere(renew: Callable[[], TokenRecord]) -> str:
    """Give what a caller in another thread is told instead of being served."""
    found: list[Answer] = []
    other = threading.Thread(target=lambda: found.append(answer_of(renew)), daemon=True)
    other.start()
    other.join(1.0)
    return found[0].message if found else "nothing: it hangs"


def _canned_renewal() -> Callable[[], TokenRecord]:
    descriptor = ProviderDescriptor(
        id="canned",
        token_endpoint="https://provider.example.com/token",
        grants={GrantType.REFRESH_TOKEN},
        rotation="never",  # so that an interrupt costs no grant
    )
    broker = Broker(descriptor, *CLIENT, http_client=CannedHttpClient())
    record = TokenRecord(
        family=broker.key_for(USER_REQUEST).family,
        scope=SCOPE,
        access_token="access",
        refresh_token="refresh",
        issued_at=now(),
        expires_at=now() + timedelta(hours=1),
    )
    broker.store.save(record)
    return functools.partial(broker.refresh_access_token, USER_REQUEST.force_refresh())


def _in_threads(count: int, call: Callable[[], TokenRecord | None], actor: Actor, meet: bool) -> list[Answer]:
    start, found = threading.Barrier(count + 1), list[Answer]()

    def run() -> None:
        start.wait(PATIENCE)
        found.append(answer_of(call))

    threads = [threading.Thread(target=run, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    if meet:
        assert actor.barrier is not None
        actor.barrier.wait(PATIENCE)
    start.wait(PATIENCE)
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    return found


# --- forks -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fork:
    """What a forked child reports: how it exited (0: by itself), and what it got."""

    status: int
    answers: list[Answer]


def fork(work: Callable[[], list[Answer]], seconds: int = 20) -> Fork:
    """Fork; have the child do ``work``, within so many seconds; wait for it."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    pid = os.fork()
    if pid == 0:
        _be_the_child(work, seconds, theirs)
    theirs.close()
    answers: list[Answer] = []
    with ours, suppress(EOFError):  # it was killed
        answers = ours.recv() if ours.poll(seconds + 5) else []
    return Fork(os.waitpid(pid, 0)[1], answers)


def fork_under_load(
    actor: Actor, forks: int, requests: list[CachedTokenRequest]
) -> tuple[list[Fork], list[Answer]]:
    """Fork again and again while other threads renew all of ``requests``, and obtain service tokens.

    Each child renews one of them itself. Gives what the children and what the threads got.
    """
    enough = threading.Event()
    loads = [functools.partial(actor.broker.refresh_access_token, each.force_refresh()) for each in requests]
    loads.append(functools.partial(actor.broker.client_credentials, SERVICE_REQUEST.force_refresh()))
    found: list[Answer] = []

    def run(call: Callable[[], TokenRecord]) -> None:
        while not enough.wait(0.005):
            found.append(answer_of(call))

    threads = [threading.Thread(target=run, args=(load,), daemon=True) for load in loads]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(found) >= len(loads))
    children = [
        fork(functools.partial(_errand, actor.broker, requests[n % len(requests)])) for n in range(forks)
    ]
    enough.set()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "a thread of the parent hangs"
    return children, found


def fork_while_all_is_locked(actor: Actor, *, closing: bool = False) -> tuple[list[str], Fork]:
    """Have a child use, and maybe close, a broker whose every lock another thread held at the fork."""
    return fork_holding_locks(actor.broker, USER_REQUEST, closing=closing)


def fork_holding_locks(
    broker: Broker, request: CachedTokenRequest, *, closing: bool
) -> tuple[list[str], Fork]:
    """Fork while another thread holds every lock of the broker and its store; name those locks."""
    locks = find_locks(broker)
    holding, done = threading.Event(), threading.Event()

    def hold() -> None:
        for lock in locks.values():
            assert lock.acquire(timeout=PATIENCE)
        holding.set()
        done.wait(PATIENCE)
        for lock in locks.values():
            lock.release()

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    assert holding.wait(PATIENCE)
    child = fork(functools.partial(_errand, broker, request, closing=closing))
    done.set()
    holder.join(PATIENCE)
    return list(locks), child


def fork_with_unsaved(actor: Actor) -> Fork:
    """Fork while a record is unsaved; the child closes its broker, drops all and ends as interpreters do."""

    def end() -> list[Answer]:
        answers = [Answer(record.access_token.fingerprint()) for record in actor.broker.unsaved.values()]
        actor.broker.close()
        atexit._run_exitfuncs()
        del actor.broker, actor.store
        gc.collect()
        return answers

    return fork(end)


def fork_and_stay(actor: Actor) -> int:
    """Fork while a thread waits for a provider that never answers; give the id of a child that stays."""
    call = functools.partial(actor.broker.refresh_access_token, USER_REQUEST)
    threading.Thread(target=answer_of, args=(call,), daemon=True).start()
    wait_for(lambda: stored(actor.store, actor.broker.key_for(USER_REQUEST)).attempted_at is not None)
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        while True:
            signal.pause()
    return pid


def trade_service_tokens(actor: Actor, rounds: int) -> list[list[str]]:
    """Obtain service tokens in turn with forked children, over connections that are kept alive.

    Gives the texts of the tokens, which are the test server's and no secrets: of the parent, of each child.
    """

    def obtain(name: str) -> str:
        request = CachedTokenRequest(TENANT, name, name)
        return actor.broker.client_credentials(request.force_refresh()).access_token.expose()

    mine, theirs = [obtain("parent") for _ in range(2)], []
    for number in range(rounds):
        name = f"child-{number}"
        child = fork(lambda name=name: [Answer(obtain(name)) for _ in range(3)])  # type: ignore[misc]
        mine.append(obtain("parent"))
        theirs.append([answer.token or "" for answer in child.answers])
    return [mine, *theirs]


def find_locks(root: object) -> dict[str, Any]:
    """Give every lock that ``root`` reaches through objects of the library, by the path to it."""
    found: dict[int, tuple[str, Any]] = {}
    seen: set[int] = set()
    left: list[tuple[str, object]] = [("", root)]
    while left:
        path, item = left.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, _LOCKS):
            found[id(item)] = (path, item)
        elif isinstance(item, threading.Event | threading.Condition | threading.Semaphore):
            left.extend((f"{path}.{name}", value) for name, value in vars(item).items())
        elif isinstance(item, Mapping):
            left.extend((f"{path}[{key}]", value) for key, value in item.items())
        elif isinstance(item, list | tuple | set):
            left.extend((f"{path}[{place}]", value) for place, value in enumerate(item))
        elif isinstance(item, MethodType):
            left.append((path, item.__self__))
        elif type(item).__module__.startswith(("oauth2broker.", "tests.")):
            names = {*getattr(item, "__dict__", ()), *_slots(type(item))}
            left.extend((f"{path}.{name}", getattr(item, name)) for name in names if hasattr(item, name))
    return dict(found.values())


_LOCKS = (type(threading.Lock()), type(threading.RLock()))


def _slots(kind: type) -> Iterator[str]:
    for base in kind.__mro__:
        slots = getattr(base, "__slots__", ())
        yield from [slots] if isinstance(slots, str) else slots


def _errand(broker: Broker, request: CachedTokenRequest, *, closing: bool = False) -> list[Answer]:
    """What a forked child does with the broker it inherited."""
    answers = [
        answer_of(functools.partial(broker.refresh_access_token, request)),
        answer_of(functools.partial(broker.refresh_access_token, request.force_refresh())),
        answer_of(functools.partial(broker.client_credentials, SERVICE_REQUEST.force_refresh())),
    ]
    if closing:
        broker.close()
    return answers


def _be_the_child(work: Callable[[], list[Answer]], seconds: int, pipe: Connection) -> NoReturn:
    try:
        signal.alarm(seconds)  # kills, unless the child is quicker
        pipe.send(work())
    except BaseException:
        pipe.send([Answer(None, "failed", traceback.format_exc())])
    finally:
        os._exit(0)


# --- storms ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FastClock:
    """Starts at ``start`` and runs ``rate`` times as fast as the wall clock, alike in all processes."""

    start: datetime
    rate: float

    def __call__(self) -> datetime:
        return self.start + (now() - self.start) * self.rate

    def real_seconds(self, seconds: float) -> float:
        """How long to wait for so many seconds of this clock."""
        return seconds / self.rate


class TellingHttpClient:
    """Says, in memory that outlives a kill, that a request is going out."""

    def __init__(self, presenting: Any) -> None:
        self._client = RequestsHttpClient()
        self._presenting = presenting

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        self._presenting.value = True
        return self._client.send(request, metadata)


def renew_for_ever(
    plan: Plan, clock: FastClock, requests: list[CachedTokenRequest], seed: int, presenting: Any
) -> NoReturn:
    """Renew one after the other, in one thread, until killed. The target of a storm's process.

    ``presenting`` is true from when a request goes out until its answer is stored.
    """
    dice, http_client = random.Random(seed), TellingHttpClient(presenting)
    broker = Broker(plan.descriptor, *CLIENT, store=plan.place.open(), clock=clock, http_client=http_client)
    while True:
        request = dice.choice(requests)
        with suppress(BrokerError):  # what is left of who was killed; the test judges it afterwards
            broker.refresh_access_token(request.force_refresh() if dice.random() < 0.5 else request)
        presenting.value = False


# --- the parent's side -------------------------------------------------------------------------------------


class Pending(Generic[R]):
    """What a worker is busy with."""

    def __init__(self, worker: Worker, pipe: Connection) -> None:
        self._worker = worker
        self._pipe = pipe

    @property
    def is_done(self) -> bool:
        """Whether it has ended."""
        return self._pipe.poll()

    def result(self, timeout: float = PATIENCE) -> R:
        """Wait for it, and give what came of it."""
        assert self._pipe.poll(timeout), "the worker hangs"
        succeeded, found = self._pipe.recv()
        assert succeeded, f"in the worker:\n{found}"
        return found  # type: ignore[no-any-return]


def context_for(method: str) -> Any:
    """Start processes by that method. The fork server has loaded everything, has no threads, and is quick."""
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["filelock", __name__, "oauth2broker.stores.sql_engine", "redis"])
    return context


class Worker:
    """A child process, as its parent sees it. Belongs to one thread."""

    def __init__(self, plan: Plan, method: str = "forkserver", barrier: Barrier | None = None) -> None:
        context = context_for(method)
        self._barrier = barrier  # it must live until the child has opened its own copy
        self.reached: Event = context.Event()
        self.proceed: Event = context.Event()
        self._pipe, theirs = context.Pipe()
        args = (plan, theirs, self.reached, self.proceed, barrier)
        self._process = context.Process(target=obey, args=args, daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        pid = self._process.pid
        assert pid is not None
        return pid  # type: ignore[no-any-return]

    def begin(
        self, work: Callable[Concatenate[Actor, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> Pending[R]:
        """Have the child do ``work``, and go on."""
        self._pipe.send((work, args, kwargs))
        return Pending(self, self._pipe)

    def do(self, work: Callable[Concatenate[Actor, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Have the child do ``work``, and wait for what comes of it."""
        return self.begin(work, *args, **kwargs).result()

    def ask(self, request: CachedTokenRequest = USER_REQUEST) -> Answer:
        """Have the child ask for a token, in one thread."""
        return self.do(ask, request)[0]

    def await_pause(self) -> None:
        """Wait until the child has reached its point."""
        assert self.reached.wait(PATIENCE), "the worker never got there"

    def kill(self) -> None:
        """End it as the kernel does: SIGKILL."""
        self._process.kill()
        wait_for(lambda: not self._process.is_alive())  # join() would wait for its children, too

    def leave(self) -> None:
        """Have its interpreter exit."""
        self._pipe.send(None)
        self._process.join(PATIENCE)
        assert self._process.exitcode == 0


class Crew:
    """The workers of one test: all have gone when it ends."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.workers: list[Worker] = []

    def hire(self, method: str = "forkserver", **changes: Any) -> Worker:
        """Start one, on the crew's plan but for ``changes``."""
        return self._hire(method, None, changes)

    def hire_many(self, count: int, method: str = "forkserver", **changes: Any) -> list[Worker]:
        """Start so many, which can meet at a barrier."""
        barrier = context_for(method).Barrier(count)
        return [self._hire(method, barrier, changes) for _ in range(count)]

    def dismiss(self) -> None:
        """Kill them all."""
        for worker in self.workers:
            worker.kill()

    def _hire(self, method: str, barrier: Barrier | None, changes: Mapping[str, Any]) -> Worker:
        worker = Worker(replace(self.plan, **changes), method, barrier)
        self.workers.append(worker)
        return worker


def gather(pending: list[Pending[list[Answer]]]) -> list[Answer]:
    """Wait for all of them; give all answers."""
    return [answer for each in pending for answer in each.result()]
