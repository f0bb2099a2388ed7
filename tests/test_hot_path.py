"""What a hit does, and that doing so little is enough."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, strategies as st

from oauth2broker import (
    Broker,
    CachedTokenRequest,
    ConfigError,
    GrantType,
    MemoryStore,
    ProviderDescriptor,
    ScopeSet,
    StoreKey,
    TokenFamily,
    TokenRecord,
)
from oauth2broker.flows.request import Need
from tests.support import SCOPE, TENANT, USER

CLIENT = "demo-client", "demo-secret"
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
DESCRIPTOR = ProviderDescriptor(
    "demo-provider", "https://provider.example.com/token", {"refresh_token", "client_credentials"}
)
FAMILY = TokenFamily(TENANT, USER, "demo-provider", "demo-client")

spans = st.timedeltas(timedelta(), timedelta(hours=2))
instants = st.datetimes(datetime(2025, 12, 31), datetime(2026, 1, 3), timezones=st.just(UTC))


def record_of(**changes: object) -> TokenRecord:
    fields: dict[str, object] = {
        "family": FAMILY,
        "scope": SCOPE,
        "access_token": "token",
        "refresh_token": "refresh",
        "issued_at": NOW,
        "expires_at": NOW + timedelta(hours=1),
    }
    return TokenRecord(**{**fields, **changes})  # type: ignore[arg-type]


class CountingStore(MemoryStore):
    """Counts what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.fetches = 0

    def fetch(self, key: StoreKey) -> TokenRecord | None:
        self.fetches += 1
        return super().fetch(key)


class Clock:
    """Counts how often it is looked at."""

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self) -> datetime:
        self.looks += 1
        return NOW


# One look


@given(
    window=spans,
    minimum=spans,
    issued=instants,
    lifetime=st.none() | st.timedeltas(timedelta(hours=-1), timedelta(days=1)),
    revoked=st.booleans(),
    now=instants,
)
def test_what_is_served_at_a_glance_needs_no_renewal(
    window: timedelta,
    minimum: timedelta,
    issued: datetime,
    lifetime: timedelta | None,
    revoked: bool,
    now: datetime,
) -> None:
    """The two floats say yes only where the rules do: the record is in neither window."""
    request = CachedTokenRequest(TENANT, USER, SCOPE, preemptive_window=window, minimum_ttl=minimum)
    record = record_of(issued_at=issued, expires_at=None if lifetime is None else issued + lifetime)
    if revoked:
        record = record.tombstone(now)
    if record.serves_from <= now.timestamp() < record.serves_until - request.ahead:
        # in these years a float of POSIX seconds is good to a fraction of a microsecond, a clock's tick
        tick = timedelta(microseconds=1)
        assert Need.NONE in {request.need_at(record, now - tick), request.need_at(record, now)}
        assert Need.NONE in {request.need_at(record, now + tick), request.need_at(record, now)}


def test_a_fresh_record_is_served_at_a_glance() -> None:
    """The glance is not there in vain."""
    record, request = record_of(), CachedTokenRequest(TENANT, USER, SCOPE)
    for now in (NOW, NOW + timedelta(minutes=58), NOW - timedelta(minutes=4)):
        assert record.serves_from <= now.timestamp() < record.serves_until - request.ahead
    endless = record_of(expires_at=None)
    assert endless.serves_from <= NOW.timestamp() < endless.serves_until - request.ahead


@pytest.mark.parametrize("insisting", ["force", "rejecting"])
def test_who_insists_on_another_token_is_never_served_at_a_glance(insisting: str) -> None:
    """Whatever the record says of itself, also one that never expires."""
    request = CachedTokenRequest(TENANT, USER, SCOPE)
    request = request.force_refresh() if insisting == "force" else request.rejecting(record_of())
    for record in (record_of(), record_of(expires_at=None)):
        assert not NOW.timestamp() < record.serves_until - request.ahead


@pytest.mark.parametrize("grant", [GrantType.AUTHORIZATION_CODE, GrantType.CLIENT_CREDENTIALS])
def test_a_hit_reads_the_store_once_and_the_clock_once(grant: GrantType) -> None:
    """And gives the very record that is stored."""
    store, clock = CountingStore(), Clock()
    with Broker(DESCRIPTOR, *CLIENT, store=store, clock=clock) as broker:
        record = record_of(grant=grant)
        store.save(record)
        serve = broker.client_credentials if record.grant is not GrantType.AUTHORIZATION_CODE else None
        serve = serve or broker.refresh_access_token
        request = CachedTokenRequest(TENANT, USER, SCOPE)
        clock.looks = 0
        assert all(serve(request) is record for _ in range(100))
        assert (store.fetches, clock.looks) == (100, 100)


def test_a_clock_that_a_test_replaces_later_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tools that freeze time put another function where ``time.time`` was, also after the broker was made."""
    with Broker(DESCRIPTOR, *CLIENT) as broker:
        record = record_of(issued_at=datetime.now(UTC), expires_at=datetime.now(UTC) + timedelta(hours=1))
        broker.store.save(record)
        request = CachedTokenRequest(TENANT, USER, SCOPE)
        assert broker.refresh_access_token(request) is record
        later = time.time() + 7200
        monkeypatch.setattr(time, "time", lambda: later)
        asked: list[StoreKey] = []
        monkeypatch.setattr(broker._users_tokens, "_serve_with_care", lambda *given: asked.append(given[1]))
        broker.refresh_access_token(request)
        assert asked == [record.key]


# Requests that are remembered


def test_requests_built_alike_are_one_object() -> None:
    """However their scope is written, as long as the parts are the same."""
    one = CachedTokenRequest(TENANT, USER, ["b", "a"], resource="https://api.example.com")
    assert CachedTokenRequest(TENANT, USER, ["b", "a"], resource="https://api.example.com") is one
    other = CachedTokenRequest(TENANT, USER, "a b", resource="https://api.example.com")
    assert other == one
    assert other.names == one.names


def test_a_request_survives_copying_and_pickling() -> None:
    """It goes to workers as it is."""
    request = CachedTokenRequest(TENANT, USER, SCOPE, force=True, minimum_ttl=timedelta(seconds=7))
    for again in (copy.copy(request), copy.deepcopy(request), pickle.loads(pickle.dumps(request))):
        assert again == request
        assert (again.names, again.ahead) == (request.names, request.ahead)


class Folding(str):
    """Text that calls itself equal to text that it is not."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and self.lower() == other.lower()

    def __hash__(self) -> int:
        return hash(self.lower())


def test_text_that_equals_other_text_names_no_other_tenant() -> None:
    """Requests are remembered by their characters, not by what a subclass of str says of them."""
    CachedTokenRequest("acme", "user", resource="https://a.example")
    request = CachedTokenRequest(Folding("ACME"), Folding("USER"), resource=Folding("https://A.example"))
    assert (str.__str__(request.tenant), str.__str__(request.principal)) == ("ACME", "USER")
    assert request.names[3] == "https://A.example"
    assert CachedTokenRequest(Folding("acme"), "user").tenant == "acme"


def test_a_scope_that_equals_another_asks_for_itself() -> None:
    """Also in a list, and for a plain caller who comes later."""
    one = CachedTokenRequest(TENANT, USER, [Folding("ADMIN"), Folding("READ")])
    other = CachedTokenRequest(TENANT, USER, ["admin", "read"])
    assert (str(one.scope), str(other.scope)) == ("ADMIN READ", "admin read")
    assert str(CachedTokenRequest(TENANT, USER, Folding("ADMIN")).scope) == "ADMIN"


@pytest.mark.parametrize("scope", [["a b"], ["a\nb"], ["a", "b\nc"], ["a", ""], ["a\n"]])
def test_a_token_with_a_separator_in_it_is_refused_whatever_was_asked_before(scope: list[str]) -> None:
    """How lists are looked up must not make one list of another."""
    for good in ("a b", ["a", "b"], ["a", "b", "c"], ["a"], "a"):
        CachedTokenRequest(TENANT, USER, good)
    with pytest.raises(ConfigError):
        CachedTokenRequest(TENANT, USER, scope)


def test_long_requests_and_rejected_tokens_are_not_remembered() -> None:
    """What is remembered is bounded in size, too."""
    long = "https://api.example.com/" + "x" * 5000
    one, other = (CachedTokenRequest(TENANT, USER, resource=long) for _ in range(2))
    assert one == other
    assert one is not other
    repeated = ["a"] * 5000
    assert CachedTokenRequest(TENANT, USER, repeated) is not CachedTokenRequest(TENANT, USER, repeated)
    rejecting = CachedTokenRequest(TENANT, USER, SCOPE).rejecting(record_of())
    assert CachedTokenRequest(TENANT, USER, SCOPE).rejecting(record_of()) is not rejecting


@pytest.mark.parametrize("scope", [[["a"]], [{}], None, 7, [None], [7], {"a": 1}.items()])
def test_a_scope_that_cannot_be_is_a_config_error_every_time(scope: object) -> None:
    """What cannot be looked up is refused like what cannot be at all; nothing bad is remembered."""
    for _ in range(2):
        with pytest.raises(ConfigError):
            CachedTokenRequest(TENANT, USER, scope)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["preemptive_window", "minimum_ttl", "rejected", "resource"])
@pytest.mark.parametrize("value", [[], {}, 5, -1.5, timedelta(seconds=-1)])
def test_an_option_that_cannot_be_is_a_config_error_every_time(name: str, value: object) -> None:
    """As before requests were remembered."""
    for _ in range(2):
        with pytest.raises(ConfigError):
            CachedTokenRequest(TENANT, USER, **{name: value})  # type: ignore[arg-type]


def test_a_scope_is_taken_from_anything_that_gives_strings() -> None:
    """A generator is read once."""
    expected = ScopeSet("a b")
    for scope in (["a", "b"], {"a", "b"}, iter(["b", "a"]), ScopeSet("b a"), (t for t in "ab"), "b  a"):
        assert CachedTokenRequest(TENANT, USER, scope).scope == expected


# Nothing is left behind


def test_many_keys_leave_nothing_that_grows() -> None:
    """Served and dropped: what is remembered of them has a bound, and flights and the rest have ended."""
    with Broker(DESCRIPTOR, *CLIENT) as broker:
        for number in range(20_000):
            request = CachedTokenRequest(TENANT, f"user-{number}", SCOPE)
            key = broker.key_for(request)
            broker.store.save(record_of(family=key.family, issued_at=datetime.now(UTC), expires_at=None))
            broker.refresh_access_token(request)
            broker.store.delete(key)
        gc.collect()
        left = [found for found in gc.get_objects() if isinstance(found, StoreKey)]
        assert len(left) <= 4096 + 1000  # and those of other tests
        assert list(broker.store.keys()) == []
        assert broker.unsaved == {}
        assert len(broker._flights) == 0


def test_many_threads_hit_while_keys_are_forgotten() -> None:
    """More keys than are remembered, from eight threads: each gets its own record, always."""
    with Broker(DESCRIPTOR, *CLIENT) as broker:
        requests = [CachedTokenRequest(TENANT, f"user-{number}", SCOPE) for number in range(5000)]
        for request in requests:
            family = broker.key_for(request).family
            broker.store.save(record_of(family=family, issued_at=datetime.now(UTC), expires_at=None))
        wrong: list[str] = []

        def ask(first: int) -> None:
            for number in range(5000):
                request = requests[(first + number) % 5000]
                if broker.refresh_access_token(request).family.principal != request.principal:
                    wrong.append(request.principal)

        threads = [threading.Thread(target=ask, args=(600 * number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
