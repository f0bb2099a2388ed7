"""LoggingObserver: a line per event, at a level that fits, and no flood of them."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import re
import threading
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given, strategies as some

from oauth2broker import (
    Broker,
    BrokerError,
    ConfigError,
    FlightWait,
    FlowEvent,
    FlowKind,
    FlowOutcome,
    LeaseWait,
    LoggingObserver,
    ProviderCall,
    ProviderId,
    RefreshResult,
    TenantId,
)
from oauth2broker.provider.kinds import Endpoint
from oauth2broker.testing import Fault, LoopbackProvider
from tests.observers.sight import Lines
from tests.support import USER_REQUEST, Crowd, ManualClock, log_in

DEBUG, INFO, WARNING, ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR
LEVELS: dict[RefreshResult | None, int] = {
    **dict.fromkeys([RefreshResult.HIT, RefreshResult.JOINED, RefreshResult.SERVED_CURRENT], DEBUG),
    **dict.fromkeys([None, RefreshResult.RENEWED, RefreshResult.ADOPTED], INFO),
    **dict.fromkeys([RefreshResult.CAS_LOST, RefreshResult.TRANSIENT, RefreshResult.UNKNOWN], WARNING),
    **dict.fromkeys([RefreshResult.BACKED_OFF, RefreshResult.TIMED_OUT], WARNING),
    **dict.fromkeys([RefreshResult.DELAYED, RefreshResult.TOMBSTONED, RefreshResult.REAUTHORIZE], WARNING),
    **dict.fromkeys([RefreshResult.PERSIST_FAILED, RefreshResult.STORE_FAILED, RefreshResult.REFUSED], ERROR),
}


class Log:
    """An observer, the time that it goes by, and what it wrote."""

    def __init__(self, **arguments: Any) -> None:
        self.now, self.kept = 0.0, Lines()
        self.logger = logging.Logger("a program's", logging.DEBUG)
        self.logger.addHandler(self.kept)
        self.observer = LoggingObserver(self.logger, clock=lambda: self.now, **arguments)

    def tell(self, outcome: FlowOutcome = FlowOutcome.SUCCESS, **more: Any) -> None:
        self.observer.observe(FlowEvent(FlowKind.REFRESH, "stage", outcome, **more))

    def fail(self, **more: Any) -> None:
        self.tell(FlowOutcome.FAILURE, result=RefreshResult.TRANSIENT, **more)

    def lines(self) -> list[str]:
        return [record.getMessage() for record in self.kept.records]

    def levels(self) -> list[int]:
        return [record.levelno for record in self.kept.records]


@pytest.mark.parametrize("result", LEVELS)
def test_a_result_has_its_level_and_a_failure_is_a_warning_at_least(result: RefreshResult | None) -> None:
    """So that a level can be chosen by what it costs to miss a line."""
    log = Log()
    for outcome in FlowOutcome:
        log.tell(outcome, result=result)
    assert log.levels() == [DEBUG, LEVELS[result], max(LEVELS[result], WARNING)]


def test_every_result_has_a_level() -> None:
    """None is forgotten here."""
    assert set(LEVELS) == {None, *RefreshResult}


def test_a_line_says_what_is_known_and_its_fields_are_in_extra() -> None:
    """In both, the same, in an order that can be read; what is not known is left out."""
    log = Log()
    call = ProviderCall(0.1, 0.2, Endpoint.REFRESH, "POST", "h", 443, None, 503, "TransientError")
    log.fail(
        provider=ProviderId("acme"),
        tenant=TenantId("t-1"),
        seconds=1.25,
        error="TransientError",
        expires_in=12.0,
        refresh_expires_in=86400.0,
        steps=(LeaseWait(0.0, 0.5, True), FlightWait(0.5, 0.25, None), call),
    )
    log.tell(FlowOutcome.ATTEMPT)
    assert log.lines() == [
        "flow=refresh stage=stage outcome=failure result=transient error=TransientError provider=acme "
        "tenant=t-1 seconds=1.25 calls=1 status=503 waited=0.75 expires_in=12 refresh_expires_in=86400",
        "flow=refresh stage=stage outcome=attempt",
    ]
    full, bare = (
        {name: value for name, value in vars(record).items() if name.startswith("oauth2_")}
        for record in log.kept.records
    )
    assert bare == {"oauth2_flow": "refresh", "oauth2_stage": "stage", "oauth2_outcome": "attempt"}
    assert [f"oauth2_{pair.partition('=')[0]}" for pair in log.lines()[0].split()] == list(full)
    assert (full["oauth2_waited"], full["oauth2_status"], full["oauth2_tenant"]) == (0.75, 503, "t-1")
    assert json.loads(json.dumps(full)) == full  # plain values, for handlers that write JSON


@given(some.text(max_size=30))
@example("result=hit")
@example('"')
@example("\\")
def test_a_line_is_one_line_and_can_be_taken_apart(stage: str) -> None:
    """Whatever an adapter calls its stage: neither a line feed nor a forged field gets in."""
    log = Log()
    log.observer.observe(FlowEvent(FlowKind.REFRESH, stage, FlowOutcome.ATTEMPT))
    [line] = log.lines()
    assert line.isprintable()
    pairs = re.findall(r'(\w+)=("(?:\\.|[^"\\])*"|[^ "=]*)(?: |$)', line)
    assert " ".join(f"{name}={value}" for name, value in pairs) == line
    found = dict(pairs)
    assert set(found) == {"flow", "outcome"} | ({"stage"} if stage else set())
    told = found.get("stage", "")
    assert (json.loads(told) if told.startswith('"') else told) == stage


def test_repeats_are_held_back_and_counted() -> None:
    """Five a minute; the first line of a later minute says how many there were besides."""
    log = Log()
    for _ in range(12):
        log.fail()
    assert len(log.lines()) == 5
    log.now = 59.9
    log.fail()
    assert len(log.lines()) == 5
    log.now = 60.0
    log.fail()
    assert log.lines()[-1].endswith(" held_back=8")
    assert vars(log.kept.records[-1])["oauth2_held_back"] == 8
    log.fail()
    assert len(log.lines()) == 7
    assert "held_back" not in log.lines()[-1]


def test_what_differs_is_no_repeat_and_tenants_and_times_do_not_differ() -> None:
    """An outage of one provider does not hide another's, nor another error, nor a thousand tenants."""
    log = Log(repeats=1, per=timedelta(seconds=10))
    for number in range(1000):
        log.fail(provider=ProviderId("a"), tenant=TenantId(f"t{number}"), seconds=float(number))
    assert len(log.lines()) == 1
    log.fail(provider=ProviderId("b"))
    log.fail(provider=ProviderId("a"), error="TransportError")
    log.tell(FlowOutcome.FAILURE, result=RefreshResult.UNKNOWN, provider=ProviderId("a"))
    assert len(log.lines()) == 4


def test_lines_below_a_warning_are_not_held_back() -> None:
    """Who wants them has asked for them."""
    log = Log(repeats=1)
    for _ in range(20):
        log.tell(result=RefreshResult.RENEWED)
    assert log.levels() == [INFO] * 20


def test_what_the_logger_does_not_take_is_not_written_and_not_counted() -> None:
    """A line that nobody wants takes no turn from one that somebody wants."""
    log = Log(repeats=1)
    log.logger.disabled = True
    for _ in range(3):
        log.fail()
    assert not log.lines()
    log.logger.disabled = False
    log.fail()
    log.now = 61.0
    log.fail()
    assert len(log.lines()) == 2
    assert "held_back" not in log.lines()[1]


def test_kinds_without_end_take_no_memory_without_end() -> None:
    """A stage made up anew for each event is an adapter's mistake, and only costs it its limit."""
    log = Log(repeats=1)
    for number in range(3000):
        log.observer.observe(
            FlowEvent(FlowKind.REFRESH, f"{number}", FlowOutcome.FAILURE, result=RefreshResult.UNKNOWN)
        )
    assert len(log.observer._windows) <= 1024
    assert len(log.lines()) == 3000


def test_threads_share_one_limit() -> None:
    """No line too many, and none that is held back goes uncounted."""
    log = Log(repeats=5)
    start = threading.Barrier(8)

    def fail() -> None:
        start.wait(30)
        for _ in range(200):
            log.fail()

    assert not Crowd(8, fail).start().join().errors
    assert len(log.lines()) == 5
    log.now = 61.0
    log.fail()
    assert log.lines()[-1].endswith(f" held_back={8 * 200 - 5}")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_the_parents_lock() -> None:
    """One that another thread held at that moment stays held in the copy for ever."""
    log = Log()
    child = multiprocessing.get_context("fork").Process(target=log.fail)
    with log.observer._lock:
        child.start()
    child.join(20)
    ended = child.exitcode
    child.kill()
    child.join()
    assert ended == 0


def test_a_brokers_flows_are_lines_of_the_logger_by_default(
    provider: LoopbackProvider, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """``oauth2broker.flows``: a login, a hit and an outage, each with its beginning."""
    caplog.set_level(logging.DEBUG, logger="oauth2broker.flows")
    broker = Broker(
        provider.descriptor(), "demo-client", "demo-secret", clock=clock, observers=[LoggingObserver()]
    )
    log_in(broker, provider)
    broker.refresh_access_token(USER_REQUEST)
    clock.advance(3700)
    provider.inject(Fault.answer(503))
    with pytest.raises(BrokerError):
        broker.refresh_access_token(USER_REQUEST)
    ours = [record for record in caplog.records if record.name == "oauth2broker.flows"]
    assert [record.levelno for record in ours] == [DEBUG, INFO, DEBUG, INFO, DEBUG, DEBUG, DEBUG, WARNING]
    assert {vars(record)["oauth2_tenant"] for record in ours} == {USER_REQUEST.tenant}
    assert "result=transient" in ours[-1].getMessage()
    assert "status=503" in ours[-1].getMessage()


@pytest.mark.parametrize(
    "arguments",
    [
        {"logger": "oauth2broker"},
        {"repeats": 0},
        {"repeats": True},
        {"repeats": 2.5},
        {"per": timedelta()},
        {"per": 60},
        {"clock": 7},
    ],
    ids=str,
)
def test_arguments_that_cannot_be_are_refused(arguments: dict[str, Any]) -> None:
    """When it is made, not when the first thing goes wrong."""
    with pytest.raises(ConfigError):
        LoggingObserver(**arguments)


def test_a_logger_adapter_will_do() -> None:
    """With which programs put their own words in front, and fields beside ours; one upon another."""
    kept = Lines()
    logger = logging.Logger("a program's", logging.DEBUG)
    logger.addHandler(kept)

    class Prefix(logging.LoggerAdapter[Any]):
        def process(self, msg: Any, kwargs: Any) -> Any:
            return f"[100%] {msg}", kwargs

    adapter: Any = Prefix(logging.LoggerAdapter(logger, {"service": "billing"}), None)
    LoggingObserver(adapter).observe(FlowEvent(FlowKind.REFRESH, "", FlowOutcome.ATTEMPT))
    [record] = kept.records
    assert record.getMessage() == "[100%] flow=refresh outcome=attempt"
    found = {name: value for name, value in vars(record).items() if name.startswith(("oauth2_", "serv"))}
    assert found == {"service": "billing", "oauth2_flow": "refresh", "oauth2_outcome": "attempt"}
