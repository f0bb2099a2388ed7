"""What observers are told, and that they can break nothing."""

from __future__ import annotations

import logging
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest

from oauth2broker import (
    AuthorizationRequiredError,
    Broker,
    BrokerError,
    CachedTokenRequest,
    ConfigError,
    Delay,
    FlowEvent,
    FlowKind,
    FlowOutcome,
    FlowSpan,
    LeaseWait,
    Level,
    ProviderCall,
    ProviderId,
    ProviderStrategy,
    RateLimitContext,
    RateLimitDecision,
    RequestDraft,
    RetryDirective,
    TransientError,
    record_flow_outcome,
)
from oauth2broker.flows.telemetry import Telemetry
from oauth2broker.testing import LoopbackProvider
from tests.support import (
    REDIRECT_URI,
    SCOPE,
    SERVICE_REQUEST,
    TENANT,
    USER,
    USER_REQUEST,
    ManualClock,
    log_in,
)


class Listener:
    """Keeps every event."""

    def __init__(self) -> None:
        self.events: list[FlowEvent] = []

    def observe(self, event: FlowEvent) -> None:
        self.events.append(event)


LISTENER = Listener()


class Breaker:
    """Fails on every event."""

    def observe(self, event: FlowEvent) -> None:
        raise ValueError("observer")


def test_every_flow_tells_of_its_attempt_and_its_end(provider: LoopbackProvider) -> None:
    """Attempt, then success or failure, with provider and tenant and the class of the error."""
    listener = Listener()
    with Broker(provider.descriptor(), "demo-client", "demo-secret", observers=[listener]) as broker:
        with pytest.raises(AuthorizationRequiredError):
            broker.refresh_access_token(USER_REQUEST)
        log_in(broker, provider)
        broker.client_credentials(SERVICE_REQUEST)
    told = [(event.flow, event.stage, event.outcome, event.error) for event in listener.events]
    code, attempt, success = FlowKind.AUTHORIZATION_CODE, FlowOutcome.ATTEMPT, FlowOutcome.SUCCESS
    assert told == [
        (FlowKind.REFRESH, "refresh_access_token", attempt, None),
        (FlowKind.REFRESH, "refresh_access_token", FlowOutcome.FAILURE, "AuthorizationRequiredError"),
        (code, "start_authorization", attempt, None),
        (code, "start_authorization", success, None),
        (code, "complete_authorization", attempt, None),
        (code, "complete_authorization", success, None),
        (FlowKind.CLIENT_CREDENTIALS, "client_credentials", attempt, None),
        (FlowKind.CLIENT_CREDENTIALS, "client_credentials", success, None),
    ]
    assert {(event.provider, event.tenant) for event in listener.events} == {("loopback", "tenant-acme")}


@pytest.mark.parametrize("observers", [7, [7], [Listener], [LISTENER, Breaker(), LISTENER]])
def test_what_does_not_observe_or_would_be_told_twice_is_refused(
    provider: LoopbackProvider, observers: Any
) -> None:
    """When the broker is made: later it would be a warning at each event, or each count would double."""
    with pytest.raises(ConfigError, match="observer"):
        Broker(provider.descriptor(), "demo-client", "demo-secret", observers=observers)


def test_an_observer_that_fails_is_logged_and_breaks_nothing(
    provider: LoopbackProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """The flow goes on, and so do the other observers."""
    listener = Listener()
    with (
        Broker(
            provider.descriptor(), "demo-client", "demo-secret", observers=[Breaker(), listener]
        ) as broker,
        caplog.at_level(logging.WARNING),
    ):
        broker.client_credentials(SERVICE_REQUEST)
    assert len(listener.events) == 2
    assert "observer Breaker failed: ValueError" in caplog.text


def test_adapters_may_open_spans_of_their_own() -> None:
    """FlowSpan and record_flow_outcome work without a broker."""
    listener = Listener()
    with FlowSpan(FlowKind.AUTHORIZATION_CODE, "my_adapter", observers=[listener]):
        record_flow_outcome(FlowKind.CLIENT_CREDENTIALS, FlowOutcome.ATTEMPT, observers=[listener])
    assert [event.outcome for event in listener.events] == [
        FlowOutcome.ATTEMPT,
        FlowOutcome.ATTEMPT,
        FlowOutcome.SUCCESS,
    ]
    assert listener.events[-1].seconds is not None


class Stingy:
    """Has no budget for anyone."""

    def __init__(self) -> None:
        self.contexts: list[RateLimitContext] = []

    def evaluate(self, context: RateLimitContext) -> RateLimitDecision:
        self.contexts.append(context)
        return Delay(RetryDirective(12.0, "budget spent"))


def test_a_budget_that_is_spent_serves_what_works_and_else_says_when(
    broker: Broker, provider: LoopbackProvider, clock: ManualClock
) -> None:
    """A Delay becomes the current token, or a TransientError with retry_after; no call is made."""
    record = log_in(broker, provider)
    provider.clear()
    policy = Stingy()
    with Broker(
        provider.descriptor(),
        "demo-client",
        "demo-secret",
        store=broker.store,
        rate_limit=policy,
        clock=clock,
    ) as limited:
        clock.advance(3600 - 30)
        assert limited.refresh_access_token(USER_REQUEST) is record
        clock.advance(3600)
        with pytest.raises(TransientError) as spent:
            limited.refresh_access_token(USER_REQUEST)
    assert spent.value.retry_after == 12.0
    assert provider.token_calls == 0
    assert (policy.contexts[0].tenant, policy.contexts[0].provider) == ("tenant-acme", "loopback")


class Interrupted:
    """Is interrupted when a flow ends, and adds up the flights."""

    def __init__(self) -> None:
        self.flights = 0

    def observe(self, event: FlowEvent) -> None:
        if event.outcome is not FlowOutcome.ATTEMPT:
            raise KeyboardInterrupt

    def track(self, level: Level, change: int, provider: ProviderId) -> None:
        self.flights += change


def test_an_interrupt_of_an_observer_leaves_no_flight_in_the_air(provider: LoopbackProvider) -> None:
    """That it ended is told all the same."""
    observer = Interrupted()
    with Broker(provider.descriptor(), "demo-client", "demo-secret", observers=[observer]) as broker:
        with pytest.raises(KeyboardInterrupt):
            broker.client_credentials(SERVICE_REQUEST)
    assert observer.flights == 0


class Caller:
    """Calls its own broker whenever it is told of something."""

    def __init__(self) -> None:
        self.broker: Broker | None = None
        self.told = Counter[str]()

    def observe(self, event: FlowEvent) -> None:
        self.told[event.stage] += 1
        if self.broker is not None:
            self.broker.start_authorization(TENANT, USER, SCOPE, REDIRECT_URI)

    def track(self, level: Level, change: int, provider: ProviderId) -> None:
        self.told[level] += change
        if self.broker is not None:
            self.broker.client_credentials(CachedTokenRequest(TENANT, "another", "email.read"))


def test_an_observer_that_calls_its_broker_hears_nothing_of_that(provider: LoopbackProvider) -> None:
    """Else it would call without end; another observer hears of it all."""
    caller, listener = Caller(), Listener()
    with Broker(provider.descriptor(), "demo-client", "demo-secret", observers=[caller, listener]) as broker:
        caller.broker = broker
        broker.client_credentials(SERVICE_REQUEST)
        caller.broker = None
    assert caller.told["client_credentials"] == 2
    heard = Counter(event.stage for event in listener.events)
    assert heard["start_authorization"] > 0
    assert caller.told["start_authorization"] == 0


@pytest.mark.parametrize(
    ("suffix", "is_told"), [("", True), ("?client_secret=hush", True), ("/hush", False), ("-hush", False)]
)
def test_of_an_address_only_what_the_descriptor_says_is_told(
    provider: LoopbackProvider, suffix: str, is_told: bool
) -> None:
    """A strategy may put a secret into the query or the path: then the host is all that is told."""

    class Shape(ProviderStrategy):
        def shape_request(self, draft: RequestDraft) -> None:
            draft.url += suffix

    listener, descriptor = Listener(), provider.descriptor(strategy=Shape())
    with Broker(descriptor, "demo-client", "demo-secret", observers=[listener]) as broker:
        with suppress(BrokerError):
            broker.client_credentials(SERVICE_REQUEST)
    [call] = [step for event in listener.events for step in event.steps if isinstance(step, ProviderCall)]
    assert (call.host, call.url) == ("127.0.0.1", provider.token_endpoint if is_told else None)
    assert "hush" not in repr(listener.events)


def test_the_times_of_a_flow_lie_within_it(provider: LoopbackProvider) -> None:
    """It took no longer than its caller waited, and nothing in it began before it or ended after it."""
    listener = Listener()
    with Broker(provider.descriptor(), "demo-client", "demo-secret", observers=[listener]) as broker:
        log_in(broker, provider)
        began = time.monotonic()
        broker.refresh_access_token(USER_REQUEST.force_refresh())
        took = time.monotonic() - began
    end = listener.events[-1]
    assert end.seconds is not None
    assert 0 < end.seconds <= took
    assert [type(step) for step in end.steps] == [LeaseWait, ProviderCall]
    assert all(step.after >= 0 and step.after + step.seconds <= end.seconds + 1e-6 for step in end.steps)
    assert all(step.seconds > 0 for step in end.steps)


def test_a_span_is_the_current_one_of_its_own_broker_only() -> None:
    """What another broker does in our flow, closing for example, says nothing of our flow."""
    ours, theirs = (Telemetry((), ProviderId(name), float) for name in ("ours", "theirs"))
    with ours.span(FlowKind.REFRESH, "renew", None) as span:
        assert (ours.current(), theirs.current()) == (span, None)
    assert ours.current() is None
