"""Walking a store: renewing what is due, and removing what is long dead."""

from __future__ import annotations

import heapq
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice

from oauth2broker.errors import BrokerError, ConfigError, DelayedError, StoreError
from oauth2broker.flows.cached import CachedTokenFlow
from oauth2broker.flows.request import CachedTokenRequest
from oauth2broker.flows.tools import Tools
from oauth2broker.grants import GrantType
from oauth2broker.obs import FlowKind, logger
from oauth2broker.provider.checks import LONGEST
from oauth2broker.provider.descriptor import ProviderDescriptor
from oauth2broker.records import StoreKey, TokenRecord
from oauth2broker.stores.base import dead_at

MOST_AT_ONCE = 16
_SHUFFLED = 1024
_LONGEST_PAUSE = 1.0  # seconds between two looks at the clock
_NOTHING = timedelta()
_order = itertools.count()  # so that a heap compares no records


@dataclass(frozen=True, slots=True)
class RenewalProgress:
    """One token that was due is done with. ``done`` counts those so far.

    ``renewed``: by this call. When it is not and there is no ``error``, somebody else has renewed it or is
    at it.
    """

    key: StoreKey
    renewed: bool
    error: BrokerError | None
    done: int


@dataclass(frozen=True, slots=True)
class RenewalReport:
    """What came of :meth:`Broker.renew_due`.

    ``seen`` records of users were looked at, ``due`` were due; of these ``renewed`` were renewed by this
    call, ``elsewhere`` by somebody else (or somebody was at it), and ``errors`` says by key what kept the
    others. A record that is listed but cannot be read is in ``errors``, too, though nobody knows whether it
    is due. (A FileStore does not list what it cannot read; it logs it.)
    """

    seen: int
    due: int
    renewed: int
    elsewhere: int
    errors: Mapping[StoreKey, BrokerError]


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What came of :meth:`Broker.prune`.

    ``keys`` are those that were long dead, removed unless it was a ``dry_run``; ``errors`` says by key what
    could not be read or removed.
    """

    keys: tuple[StoreKey, ...]
    dry_run: bool
    errors: Mapping[StoreKey, BrokerError]


class Upkeep:
    """Keeps the records of one client at one provider."""

    def __init__(self, tools: Tools, flow: CachedTokenFlow, client_id: str) -> None:
        self._tools = tools
        self._flow = flow
        self._client_id = client_id

    def renew_due(
        self,
        within: timedelta,
        parallelism: int,
        jitter: timedelta,
        patience: timedelta,
        progress: Callable[[RenewalProgress], object] | None,
    ) -> RenewalReport:
        """Renew the users' tokens that are due. The calling thread walks, ``parallelism`` others renew.

        What a budget delays is tried again after the walk, when it says so.
        """
        for name, value in (("within", within), ("jitter", jitter), ("patience", patience)):
            _require_duration(name, value)
        if type(parallelism) is not int or not 1 <= parallelism <= MOST_AT_ONCE:
            raise ConfigError(f"parallelism is a number from 1 to {MOST_AT_ONCE}")
        run = _Run(progress, time.monotonic() + patience.total_seconds())
        stop = threading.Event()
        under_way: set[Future[_Ended]] = set()

        def renew(record: TokenRecord) -> _Ended:
            if stop.wait(random.uniform(0.0, jitter.total_seconds())):  # noqa: S311 - it spreads load, no more
                raise CancelledError
            return self._renew(record)

        def submit(record: TokenRecord) -> Future[_Ended]:
            """Have it renewed in a copy of our context, so that it shows in the caller's trace."""
            return workers.submit(copy_context().run, renew, record)

        with ThreadPoolExecutor(parallelism, thread_name_prefix="oauth2broker-renew") as workers:
            try:
                for record in self._due(within, run):
                    if len(under_way) >= 2 * parallelism:
                        under_way = run.collect(under_way)
                    under_way.add(submit(record))
                while under_way or run.delayed:
                    under_way = run.collect(under_way)
                    while len(under_way) < 2 * parallelism and (ready := run.next_ready()) is not None:
                        under_way.add(submit(ready))
            except BaseException:
                stop.set()
                workers.shutdown(wait=False, cancel_futures=True)
                raise
        return run.report()

    def prune(self, older_than: timedelta, *, dry_run: bool) -> PruneReport:
        """Find what has been dead for ``older_than``, and remove it unless it is a ``dry_run``."""
        _require_duration("older_than", older_than)
        found: list[StoreKey] = []
        errors: dict[StoreKey, BrokerError] = {}
        list_dead, provider = self._tools.store.keys_dead, self._tools.endpoint.descriptor.id
        before = self._tools.clock() - older_than
        for key in self._listed("prune", lambda: list_dead(provider, self._client_id, before)):
            try:
                if self._is_long_dead(key, older_than) and (dry_run or self._remove(key, older_than)):
                    found.append(key)
            except BrokerError as error:
                errors[key] = error
        return PruneReport(tuple(found), dry_run, errors)

    def _due(self, within: timedelta, run: _Run) -> Iterator[TokenRecord]:
        """Give the users' records that are due, shuffled: walkers elsewhere then begin with others."""
        descriptor = self._tools.endpoint.descriptor
        if GrantType.REFRESH_TOKEN not in descriptor.grants:
            raise ConfigError(f"provider {descriptor.id} renews no tokens")
        before = self._tools.clock() + within
        list_due = self._tools.store.keys_due
        keys = self._listed("renew_due", lambda: list_due(descriptor.id, self._client_id, before))
        for key in _shuffled(key for key in keys if key.grant is GrantType.AUTHORIZATION_CODE):
            run.seen += 1
            try:
                record = self._tools.keeper.fetch(key)
            except BrokerError as error:
                run.errors[key] = error
                with suppress(BrokerError), self._span("renew_due", key.family.tenant):
                    raise
                continue
            if record is not None and is_due(record, within, descriptor, self._tools.clock()):
                run.due += 1
                yield record

    def _renew(self, record: TokenRecord) -> _Ended:
        request = CachedTokenRequest(
            record.family.tenant, record.family.principal, record.scope, resource=record.resource
        )
        try:
            with self._span("renew_due", record.family.tenant):
                renewed = self._flow.renew_seen(request, record.key, record)
        except BrokerError as error:
            return _Ended(record, False, error)
        return _Ended(record, renewed, None)

    def _listed(self, stage: str, list_keys: Callable[[], Iterable[StoreKey]]) -> Iterator[StoreKey]:
        """Give the keys. That the store cannot list them is told as a flow: there may be no other."""
        try:
            yield from list_keys()
        except StoreError:
            with self._span(stage, None):
                raise

    def _span(self, stage: str, tenant: str | None) -> AbstractContextManager[object]:
        return self._tools.telemetry.span(FlowKind.REFRESH, stage, tenant)

    def _is_long_dead(self, key: StoreKey, older_than: timedelta) -> bool:
        record = self._tools.store.fetch(key)
        since = None if record is None else dead_since(record, self._tools.endpoint.descriptor)
        return since is not None and self._tools.clock() - since >= older_than

    def _remove(self, key: StoreKey, older_than: timedelta) -> bool:
        """Remove ``key`` if it is dead still; nobody logs in meanwhile, because that needs the lease, too."""
        with self._tools.store.refresh_lease(key, timeout=0) as is_ours:
            return is_ours and self._is_long_dead(key, older_than) and self._tools.store.delete(key)


def is_due(record: TokenRecord, within: timedelta, descriptor: ProviderDescriptor, now: datetime) -> bool:
    """Whether ``record`` must be renewed for its grant to be alive, with a token, after ``within``. Pure.

    A refresh token that lapses is presented before it does. Where a renewal does not prolong its life, that
    is done once: for a last access token. One that has lapsed is not presented while the access token works:
    a provider that refuses it ends the grant.
    """
    if record.revoked_at is not None or record.refresh_token is None:
        return False
    ends, lapses = record.expires_at, record.refresh_expires_at
    if lapses is not None and lapses <= now:
        return ends is not None and ends <= now
    if ends is not None and _nears(ends, record, within, now):
        return True
    if lapses is None:
        return False
    if descriptor.quirks.refresh_lifetime_is_absolute:
        return lapses - now <= within < lapses - record.issued_at
    return _nears(lapses, record, within, now)


def _nears(end: datetime, record: TokenRecord, within: timedelta, now: datetime) -> bool:
    """Whether ``end`` is near. Not in the first quarter of a life: renewing would bring next to nothing, and
    who walks at the same time, or again, would renew it again."""
    return end - now <= min(within, (end - record.issued_at) * 0.75)


def dead_since(record: TokenRecord, descriptor: ProviderDescriptor) -> datetime | None:
    """Since (or from) when nothing can come of ``record`` any more; None when nobody knows. Pure.

    A lifetime of refresh tokens that the descriptor supposes, or that a later token has outlived, tells
    nothing.
    """
    supposed = descriptor.default_refresh_expires_in is not None
    if supposed and record.refresh_token is not None:
        return None
    return dead_at(record)


@dataclass(frozen=True, slots=True)
class _Ended:
    """How the renewal of ``record`` ended: ``renewed`` by us or, with no ``error``, elsewhere."""

    record: TokenRecord
    renewed: bool
    error: BrokerError | None


@dataclass(slots=True)
class _Run:
    """The state of one walk; only the thread that walks touches it.

    ``delayed`` is a heap of what is to be tried again, by when; not after ``patient_until``. Times are of the
    monotonic clock.
    """

    progress: Callable[[RenewalProgress], object] | None
    patient_until: float
    delayed: list[tuple[float, int, TokenRecord]] = field(default_factory=list)
    seen: int = 0
    due: int = 0
    renewed: int = 0
    elsewhere: int = 0
    done: int = 0
    errors: dict[StoreKey, BrokerError] = field(default_factory=dict)

    def collect(self, under_way: set[Future[_Ended]]) -> set[Future[_Ended]]:
        """Wait until something has ended, or can be tried again; give what is under way still."""
        seconds = _LONGEST_PAUSE
        if self.delayed:
            seconds = min(max(self.delayed[0][0] - time.monotonic(), 0.0), seconds)
        if not under_way:
            time.sleep(seconds)
        ended, left = wait(under_way, seconds if self.delayed else None, return_when=FIRST_COMPLETED)
        for future in ended:
            self._take_in(future.result())
        return left

    def next_ready(self) -> TokenRecord | None:
        """Give a record whose delay is over."""
        if not self.delayed or self.delayed[0][0] > time.monotonic():
            return None
        return heapq.heappop(self.delayed)[-1]

    def report(self) -> RenewalReport:
        return RenewalReport(self.seen, self.due, self.renewed, self.elsewhere, self.errors)

    def _take_in(self, ended: _Ended) -> None:
        error = ended.error
        if isinstance(error, DelayedError) and error.retry_after is not None:
            again_at = time.monotonic() + error.retry_after
            if again_at <= self.patient_until:
                heapq.heappush(self.delayed, (again_at, next(_order), ended.record))
                return
        self._note(ended.record.key, ended)

    def _note(self, key: StoreKey, ended: _Ended) -> None:
        self.done += 1
        if ended.error is not None:
            self.errors[key] = ended.error
        elif ended.renewed:
            self.renewed += 1
        else:
            self.elsewhere += 1
        if self.progress is None:
            return
        try:
            self.progress(RenewalProgress(key, ended.renewed, ended.error, self.done))
        except Exception as raised:  # noqa: BLE001 - a callback may raise anything, and must not end the walk
            logger.warning("the progress callback failed: %s", type(raised).__name__)


def _shuffled(keys: Iterable[StoreKey]) -> Iterator[StoreKey]:
    """Give ``keys`` in an order of our own, without holding all of them."""
    rest = iter(keys)
    while some := list(islice(rest, _SHUFFLED)):
        random.shuffle(some)
        yield from some


def _require_duration(name: str, value: timedelta) -> None:
    if not isinstance(value, timedelta) or not _NOTHING <= value <= LONGEST:
        raise ConfigError(f"{name} is a timedelta from 0 to {LONGEST.days} days")
