"""docs/operating.rst runs as it stands, and names everything that the code tells."""

from __future__ import annotations

import ast
import io
import logging
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from wsgiref.util import setup_testing_defaults

import prometheus_client
import pytest
import yaml
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from oauth2broker import (
    FlightWait,
    FlowKind,
    FlowOutcome,
    FlowSpan,
    LoggingObserver,
    ProviderCall,
    RefreshResult,
    record_flow_outcome,
)
from oauth2broker.observers import logging as lines, opentelemetry as spans
from oauth2broker.observers.measures import BY_TENANT, COUNTERS, HISTOGRAMS, LEVELS, OTHER_TENANTS
from oauth2broker.provider.kinds import Endpoint
from oauth2broker.testing import LoopbackProvider
from tests.observers.figures import Figures, parsed, scrape, total
from tests.observers.operating import PACKAGE, calls_of, rules, stages
from tests.observers.sight import Lines
from tests.observers.test_prometheus import workers
from tests.support import SERVICE_REQUEST
from tests.test_docs_pages import DOCS, Block, blocks, run

PAGE = DOCS / "operating.rst"
FLOWS = "oauth2_broker_flow_total"
LEVEL_WORDS = {"debug", "info", "warning", "error", "exception", "critical"}


@pytest.fixture(scope="module")
def text() -> str:
    """The page."""
    return PAGE.read_text("utf-8")


# Its examples.


class Page:
    """The page's blocks, run in one namespace with a registry and a port of their own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, provider: LoopbackProvider) -> None:
        self.spans, self.metrics = InMemorySpanExporter(), io.StringIO()
        self.paged: list[tuple[object, ...]] = []
        self._ports: list[int] = []
        self._ending: list[Callable[[], object]] = []
        registry, serve = CollectorRegistry(), prometheus_client.start_http_server

        def serve_anywhere(port: int, addr: str) -> None:
            server, thread = serve(0, addr, registry)
            self._ports.append(server.server_port)
            self._ending += [server.shutdown, server.server_close, thread.join]

        monkeypatch.setattr(prometheus_client, "REGISTRY", registry)
        monkeypatch.setattr(prometheus_client, "start_http_server", serve_anywhere)
        module = ModuleType("page_operating")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        self.names = vars(module)
        self.names |= {
            "descriptor": provider.descriptor(),
            "span_exporter": self.spans,
            "metric_exporter": ConsoleMetricExporter(self.metrics),
            "page_somebody": lambda *who: self.paged.append(who),
        }

    def run(self, block: Block) -> None:
        """Run a block, and obtain a service token by the broker that it leaves."""
        run(block, PAGE, self.names)
        self.names["broker"].client_credentials(SERVICE_REQUEST)

    def scrape(self) -> Figures:
        [port] = self._ports
        return scrape(port)

    def end(self) -> None:
        for end in [*self._ending, self.names["tracers"].shutdown, self.names["meters"].shutdown]:
            end()


def test_the_examples_run_top_to_bottom(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    text: str,
) -> None:
    """Each turns on what it says: it is seen by who looks there."""
    with LoopbackProvider({"client-id": "client-secret"}) as provider:
        page = Page(monkeypatch, provider)
        prometheus, processes, tenants, opentelemetry, logs, own, adapter = blocks(text, "python")
        page.run(prometheus)
        assert total(page.scrape(), "oauth2_broker_client_credentials_total", result="renewed") == 1
        page.run(processes)
        assert total(seen_by_all(page.names, monkeypatch, tmp_path, provider), FLOWS, flow="refresh") == 2
        page.run(tenants)
        page.run(opentelemetry)
        page.names["tracers"].force_flush()
        assert [span.name for span in page.spans.get_finished_spans()] == ["POST", "oauth2_broker.flow"]
        page.run(logs)
        assert any("result=renewed" in message for message in caplog.messages)
        page.run(own)
        for result in (RefreshResult.HIT, RefreshResult.PERSIST_FAILED):
            told = page.names["Pager"]()
            record_flow_outcome(
                FlowKind.REFRESH, FlowOutcome.SUCCESS, observers=[told], provider="p", result=result
            )
        assert page.paged == [("p", None)]
        page.run(adapter)
        found = page.scrape()
        assert total(found, FLOWS, provider="legacy", outcome="success") == 1
        assert total(found, FLOWS, provider="legacy", outcome="failure") == 1
        page.end()
    assert "oauth2_broker.client_credentials" in page.metrics.getvalue()


def seen_by_all(
    names: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, provider: LoopbackProvider
) -> Figures:
    """Let a worker process fail; ask the page's ``/metrics`` for it, and bury the worker by its hook."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    with workers(1, provider, tmp_path / "store", tmp_path) as [worker]:
        worker.begin("nobody")
        assert worker.answer() == "AuthorizationRequiredError"
    names["child_exit"](None, worker)
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    answer = names["metrics"](environ, lambda status, headers: None)
    assert not list(tmp_path.glob("gauge_live*"))
    return parsed(b"".join(answer).decode())


def test_the_collectors_pipelines_are_made_of_what_it_has(text: str) -> None:
    """The configuration is YAML, and what its pipelines name is there."""
    [block] = blocks(text, "yaml")
    config = yaml.safe_load(block.code)
    for pipeline in config["service"]["pipelines"].values():
        for kind, names in pipeline.items():
            assert set(names) <= set(config[kind])


# Its names.


def row(text: str, name: str) -> str:
    """Give the line of a table that begins with ``name``."""
    [found] = re.findall(rf"^``{re.escape(name)}``.*$", text, re.MULTILINE)
    return str(found)


def test_every_metric_is_there_with_its_labels(text: str) -> None:
    """By Prometheus' name, and no other; what a histogram or a gauge is, is said."""
    found = dict(re.findall(r"^``(oauth2_broker_\w+)`` \((.*)\)\n    ", text, re.MULTILINE))
    expected = {}
    for instrument in (*COUNTERS, *HISTOGRAMS, *LEVELS.values()):
        ending = "_seconds" if instrument.buckets else "_total" if instrument in COUNTERS else ""
        expected[instrument.name.replace(".", "_") + ending] = ", ".join(instrument.labels)
    assert found == expected
    assert text.count("    Histogram. ") == len(HISTOGRAMS)
    assert text.count("    Gauge. ") == len(LEVELS)
    assert COUNTERS[:4] == BY_TENANT
    assert f'``tenant="{OTHER_TENANTS}"``' in text


@pytest.mark.parametrize("result", RefreshResult)
def test_every_result_is_there_with_its_level(text: str, result: RefreshResult) -> None:
    """As LoggingObserver has it."""
    assert row(text, result.value).split()[1] == logging.getLevelName(lines._LEVELS[result])


def constants(tree: ast.AST) -> set[str]:
    """Give the strings in ``tree``."""
    found = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {value for value in found if isinstance(value, str)}


def test_every_span_and_attribute_is_there(text: str) -> None:
    """All names with a dot that the observer's code holds."""
    tree = ast.parse(Path(spans.__file__).read_text("utf-8"))
    names = {name for name in constants(tree) if re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)+", name)}
    assert len(names) > 15
    assert {name for name in names if f"``{name}``" not in text} == set()
    attributes = names - {spans.FLOW_SPAN, spans.FLIGHT_WAIT_SPAN, spans.LEASE_WAIT_SPAN}
    assert {name for name in attributes if not re.search(rf"^``{re.escape(name)}`` ", text, re.M)} == set()


def test_every_flow_and_stage_is_there(text: str) -> None:
    """As the broker names them where it opens a span."""
    table = text[text.index("flow                      stage") : text.index("How a call for a token ended")]
    assert {name for name in {*stages(), *FlowKind} if f"``{name}``" not in table} == set()


def test_every_field_of_a_line_is_there(text: str) -> None:
    """Of an event that has all of them, and of one that tells of lines held back."""
    logger, kept = logging.Logger("page", logging.DEBUG), Lines()
    logger.addHandler(kept)
    times = iter((0.0, 1.0, 90.0, 90.0))
    observer = LoggingObserver(logger, repeats=1, clock=lambda: next(times))
    for _ in range(3):
        with FlowSpan(FlowKind.REFRESH, "page", observers=[observer], provider="p", tenant="t") as span:
            span.result, span.expires_in, span.refresh_expires_in = RefreshResult.TRANSIENT, 1.0, 1.0
            span.add(FlightWait(0.0, 0.1, None))
            span.add(ProviderCall(0.1, 0.1, Endpoint.TOKEN, "POST", "h", 1, None, 503, "TransientError"))
    with pytest.raises(KeyError), FlowSpan(FlowKind.REFRESH, "page", observers=[observer]):
        raise KeyError
    found = {name for record in kept.records for name in vars(record) if name.startswith("oauth2_")}
    assert {"oauth2_held_back", "oauth2_error", "oauth2_calls"} <= found
    section = text[text.index("\nLog lines\n") :]
    assert {name for name in found if f"``{name.removeprefix('oauth2_')}``" not in section} == set()


def messages() -> Iterator[str]:
    """Give what the library's own logger is told, with dots for what is filled in."""
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name in {"observers", "testing"}:
            continue
        for level in LEVEL_WORDS:
            for call in calls_of(ast.parse(path.read_text("utf-8")), level):
                if isinstance(call.args[0], ast.Constant):
                    yield re.sub(r"%[sd]", "...", str(call.args[0].value))


def test_every_line_of_the_librarys_own_is_there(text: str) -> None:
    """Whatever the logger ``oauth2broker`` may say; and the page knows of no other."""
    told = set(messages())
    assert len(told) > 20
    table = text[
        text.index("The logger ``oauth2broker`` tells") : text.index("``http.client``'s debug output")
    ]
    known = {line for line in re.findall(r"``(.+?)``(?=[ ,\n])", table) if " " in line}
    assert known == told


def test_every_alert_is_there_with_its_severity(text: str) -> None:
    """And what to do about it."""
    section = text[text.index("\nAlerts\n") :]
    for name, rule in rules().items():
        [line] = [line for line in section.splitlines() if line.startswith("*") and f"*{name}*" in line]
        assert f"({rule['labels']['severity']})" in line.partition(f"*{name}*")[2]
    assert set(re.findall(r"\*(OAuth2\w+)\*", text)) == set(rules())


def test_the_readme_leads_here() -> None:
    """Page, dashboard and rules are found from the first page."""
    assert "``docs/operating.rst``" in (DOCS.parent / "README.rst").read_text("utf-8")
