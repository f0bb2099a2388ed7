"""What is in docs/operating, and what PrometheusObserver exports, to hold one to the other."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

import oauth2broker
from oauth2broker import (
    FlightWait,
    FlowKind,
    FlowSpan,
    LeaseWait,
    Level,
    PrometheusObserver,
    ProviderCall,
    ProviderId,
)
from oauth2broker.provider.kinds import Endpoint
from tests.observers.figures import metrics_page, scrape
from tests.test_docs_pages import DOCS

FOLDER = DOCS / "operating"
PACKAGE = Path(oauth2broker.__file__).parent
FUNCTIONS = {"sum", "rate", "increase", "histogram_quantile", "last_over_time", "max_over_time"}
OPERATORS = {"by", "and", "or", "unless", "offset"}
SELECTOR = re.compile(r"\b(oauth2_broker_\w+|[a-z]\w*(?={))(?:{((?:[^}\"]|\"(?:\\.|[^\"])*\")*)})?")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"((?:\\.|[^"\\])*)"\s*(?:,|$)')

Exported = dict[str, dict[str, set[str]]]
"""Metrics, their labels, and the labels' values."""


@dataclass(frozen=True)
class Selector:
    """Which series an expression reads."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Expression:
    """What a PromQL expression reads, groups by, and is made with."""

    selectors: tuple[Selector, ...]
    grouped_by: frozenset[str]
    words: frozenset[str]


def parse(text: str) -> Expression:
    """Take ``text`` apart, as far as it is of the kinds that are in docs/operating."""
    selectors = []
    for metric, inside in SELECTOR.findall(text):
        matchers = tuple(MATCHER.findall(inside))
        assert not MATCHER.sub("", inside).strip(), inside
        selectors.append(Selector(metric, matchers))
    rest = SELECTOR.sub("", text)
    groups = re.findall(r"\bby \(([^)]*)\)", rest)
    labels = frozenset(label.strip() for group in groups for label in group.split(","))
    rest = re.sub(r"\bby \([^)]*\)|\[[^]]*\]|(?<=\boffset )\d+[mh]", "", rest)
    return Expression(tuple(selectors), labels, frozenset(re.findall(r"[a-zA-Z_]\w*", rest)))


def exported() -> Exported:
    """Scrape a real ``/metrics`` of an observer that has seen one of everything."""
    registry = CollectorRegistry()
    observer = PrometheusObserver(registry)
    for kind in FlowKind:
        with FlowSpan(kind, "stage", observers=[observer], provider="loopback") as span:
            span.expires_in = span.refresh_expires_in = 1.0
            span.add(FlightWait(0.0, 0.1, None))
            span.add(LeaseWait(0.1, 0.1, True))
            for endpoint in (Endpoint.TOKEN, Endpoint.REFRESH):
                span.add(ProviderCall(0.2, 0.1, endpoint, "POST", "127.0.0.1", 80, None, 200, None))
    for level in Level:
        observer.track(level, 1, ProviderId("loopback"))
    found: Exported = defaultdict(lambda: defaultdict(set))
    with metrics_page(registry) as port:
        for name, labels in scrape(port):
            for label, value in labels:
                found[name][label].add(value)
    return found


def require_exported(text: str, metrics: Exported) -> None:
    """Fail unless ``text`` reads only what is exported; each value that it asks for must be there."""
    found = parse(text)
    assert found.selectors, text
    assert found.words <= FUNCTIONS | OPERATORS, text
    for selector in found.selectors:
        labels = metrics.get(selector.metric)
        assert labels, f"{selector.metric} is not exported"
        assert found.grouped_by <= set(labels), (text, selector.metric)
        for label, how, wanted in selector.matchers:
            assert label in labels, (selector.metric, label)
            for one in alternatives(how, wanted):
                assert any(re.fullmatch(one, value) for value in labels[label]), (selector.metric, one)


def alternatives(how: str, wanted: str) -> list[str]:
    """Give, as regular expressions, the values that a matcher speaks of."""
    if wanted in {"$provider", ""}:
        return []
    text = json.loads(f'"{wanted}"')  # PromQL's escapes that are used are JSON's
    return text.split("|") if how in {"=~", "!~"} else [re.escape(text)]


def calls_of(tree: ast.AST, name: str) -> Iterator[ast.Call]:
    """Give the calls of a method."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == name:
            yield node


def stages() -> set[str]:
    """Give the stages of all flows, as the code names them where it opens a span."""
    trees = [ast.parse(path.read_text("utf-8")) for path in (PACKAGE / "flows").glob("*.py")]
    calls = [call for tree in trees for name in ("_span", "_listed") for call in calls_of(tree, name)]
    given = [arg.value for call in calls for arg in call.args if isinstance(arg, ast.Constant)]
    found = {value for value in given if isinstance(value, str)}
    assert {"start_authorization", "revoke", "renew_due", "prune", "lend"} <= found
    return found


def rules() -> dict[str, dict[str, Any]]:
    """Read the alert rules, by their names."""
    [group] = yaml.safe_load((FOLDER / "alerts.yml").read_text("utf-8"))["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def rule_tests() -> list[dict[str, Any]]:
    """Read the tests of the alert rules."""
    found: list[dict[str, Any]] = yaml.safe_load((FOLDER / "alerts_test.yml").read_text("utf-8"))["tests"]
    return found


def dashboard() -> dict[str, Any]:
    """Read the dashboard."""
    found: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text("utf-8"))
    return found


def targets(board: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give what the panels ask for, and their titles."""
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target


def promtool(*arguments: str, folder: Path = FOLDER) -> subprocess.CompletedProcess[str]:
    """Run Prometheus' own checker, or skip the test where there is none."""
    program = shutil.which("promtool")
    if program is None:
        reason = "promtool is not installed (Debian has it in the package prometheus)"
        if os.environ.get("OAUTH2BROKER_PROMTOOL") == "require":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return subprocess.run(
        [program, *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
