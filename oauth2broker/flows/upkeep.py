"""Walking a store: renewing what is due, and removing what is long dead."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice

from oauth2broker.errors import BrokerError, ConfigError
from oauth2broker.flows.cached import CachedTokenFlow
from oauth2broker.flows.request import CachedTokenRequest
from oauth2broker.flows.tools import Tools
from oauth2broker.grants import GrantType
from oauth2broker.obs import logger
from oauth2broker.provider.descriptor import ProviderDescriptor
from oauth2broker.records import StoreKey, TokenRecord

MOST_AT_ONCE = 64
_SHUFFLED = 1024
_NOTHING = timedelta()


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
    others. A record that cannot be read is in ``errors``, too, though nobody knows whether it is due.
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

    def __init__(
        self,
        tools: Tools,
        flow: CachedTokenFlow,
        is_ours: Callable[[StoreKey], bool],
        span: Callable[[str], AbstractContextManager[object]],
    ) -> None:
        self._tools = tools
        self._flow = flow
        self._is_ours = is_ours
        self._span = span

    def renew_due(
        self,
        within: timedelta,
        parallelism: int,
        jitter: timedelta,
        progress: Callable[[RenewalProgress], object] | None,
    ) -> RenewalReport:
        """Renew the users' tokens that are due. The calling thread walks, ``parallelism`` others renew."""
        _require_duration("within", within)
        _require_duration("jitter", jitter)
        if type(parallelism) is not int or not 1 <= parallelism <= MOST_AT_ONCE:
            raise ConfigError(f"parallelism is a number from 1 to {MOST_AT_ONCE}")
        run = _Run(progress)
        stop = threading.Event()
        under_way: set[Future[_Ended]] = set()

        def renew(record: TokenRecord) -> _Ended:
            if stop.wait(random.uniform(0.0, jitter.total_seconds())):  # noqa: S311 - it spreads load, no more
                raise CancelledError
            return self._renew(record)

        with ThreadPoolExecutor(parallelism, thread_name_prefix="oauth2broker-renew") as workers:
            try:
                for record in self._due(within, run):
                    if len(under_way) >= 2 * parallelism:
                        under_way = run.collect(under_way)
                    under_way.add(workers.submit(renew, record))
                while under_way:
                    under_way = run.collect(under_way)
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
        for key in self._keys():
            try:
                if self._is_long_dead(key, older_than) and (dry_run or self._remove(key, older_than)):
                    found.append(key)
            except BrokerError as error:
                errors[key] = error
        return PruneReport(tuple(found), dry_run, errors)

    def _keys(self) -> Iterator[StoreKey]:
        return filter(self._is_ours, self._tools.store.keys())

    def _due(self, within: timedelta, run: _Run) -> Iterator[TokenRecord]:
        """Give the users' records that are due, shuffled: walkers elsewhere then begin with others."""
        descriptor = self._tools.endpoint.descriptor
        if GrantType.REFRESH_TOKEN not in descriptor.grants:
            raise ConfigError(f"provider {descriptor.id} renews no tokens")
        for key in _shuffled(key for key in self._keys() if key.grant is GrantType.AUTHORIZATION_CODE):
            run.seen += 1
            try:
                record = self._tools.keeper.fetch(key)
            except BrokerError as error:
                run.errors[key] = error
                continue
            if record is not None and is_due(record, within, descriptor, self._tools.clock()):
                run.due += 1
                yield record

    def _renew(self, record: TokenRecord) -> _Ended:
        request = CachedTokenRequest(
            record.family.tenant, record.family.principal, record.scope, resource=record.resource
        )
        try:
            with self._span(record.family.tenant):
                renewed = self._flow.renew_seen(request, record.key, record)
        except BrokerError as error:
            return _Ended(record.key, False, error)
        return _Ended(record.key, renewed, None)

    def _is_long_dead(self, key: StoreKey, older_than: timedelta) -> bool:
        record = self._tools.store.fetch(key)
        since = None if record is None else dead_since(record)
        now = self._tools.clock()
        return since is not None and since <= now and now - since >= older_than

    def _remove(self, key: StoreKey, older_than: timedelta) -> bool:
        """Remove ``key`` if it is dead still; nobody logs in meanwhile, because that needs the lease, too."""
        with self._tools.store.refresh_lease(key, timeout=0) as is_ours:
            return is_ours and self._is_long_dead(key, older_than) and self._tools.store.delete(key)


def is_due(record: TokenRecord, within: timedelta, descriptor: ProviderDescriptor, now: datetime) -> bool:
    """Whether ``record`` must be renewed for its grant to be alive, with a token, after ``within``. Pure.

    A refresh token that lapses is presented before it does. Where a renewal does not prolong its life, that
    is done once: for a last access token.
    """
    if record.revoked_at is not None or record.refresh_token is None:
        return False
    if record.expires_at is not None and record.expires_at - now <= within:
        return True
    lapses = record.refresh_expires_at
    if lapses is None or lapses - now > within:
        return False
    return not descriptor.quirks.refresh_lifetime_is_absolute or lapses - record.issued_at > within


def dead_since(record: TokenRecord) -> datetime | None:
    """Since (or from) when nothing can come of ``record`` any more; None when nobody knows. Pure."""
    if record.revoked_at is not None:
        return record.revoked_at
    if record.expires_at is None:
        return None
    if record.refresh_token is None:
        return max(record.issued_at, record.expires_at)
    if record.refresh_expires_at is None:
        return None
    return max(record.issued_at, record.expires_at, record.refresh_expires_at)


@dataclass(frozen=True, slots=True)
class _Ended:
    """How one renewal ended: ``renewed`` by us or, with no ``error``, elsewhere."""

    key: StoreKey
    renewed: bool
    error: BrokerError | None


@dataclass(slots=True)
class _Run:
    """The counts of one walk; only the thread that walks touches them."""

    progress: Callable[[RenewalProgress], object] | None
    seen: int = 0
    due: int = 0
    renewed: int = 0
    elsewhere: int = 0
    done: int = 0
    errors: dict[StoreKey, BrokerError] = field(default_factory=dict)

    def collect(self, under_way: set[Future[_Ended]]) -> set[Future[_Ended]]:
        """Take in what has ended, at least one; give what is still under way."""
        ended, left = wait(under_way, return_when=FIRST_COMPLETED)
        for future in ended:
            self._note(future.result())
        return left

    def report(self) -> RenewalReport:
        return RenewalReport(self.seen, self.due, self.renewed, self.elsewhere, self.errors)

    def _note(self, ended: _Ended) -> None:
        self.done += 1
        if ended.error is not None:
            self.errors[ended.key] = ended.error
        elif ended.renewed:
            self.renewed += 1
        else:
            self.elsewhere += 1
        if self.progress is None:
            return
        try:
            self.progress(RenewalProgress(ended.key, ended.renewed, ended.error, self.done))
        except Exception as raised:  # noqa: BLE001 - a callback may raise anything, and must not end the walk
            logger.warning("the progress callback failed: %s", type(raised).__name__)


def _shuffled(keys: Iterable[StoreKey]) -> Iterator[StoreKey]:
    """Give ``keys`` in an order of our own, without holding all of them."""
    rest = iter(keys)
    while some := list(islice(rest, _SHUFFLED)):
        random.shuffle(some)
        yield from some


def _require_duration(name: str, value: timedelta) -> None:
    if not isinstance(value, timedelta) or value < _NOTHING:
        raise ConfigError(f"{name} is a timedelta, not negative")
