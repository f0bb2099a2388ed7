"""docs/operating: dashboard and rules read what is exported, and the rules fire when they should."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.observers.operating import (
    Exported,
    dashboard,
    exported,
    parse,
    promtool,
    require_exported,
    rule_tests,
    rules,
    targets,
)

ALERTS = list(rules())
QUESTIONS = {
    "Are tokens being renewed?",
    "How long does it take?",
    "Whose provider is failing?",
    "Did we lose a race, or a token?",
    "Is a grant about to lapse?",
}


@pytest.fixture(scope="module")
def metrics() -> Exported:
    """What a real scrape brings."""
    return exported()


# Expressions.


@pytest.mark.parametrize(
    "text",
    [
        "sum (oauth2_broker_flow)",
        'sum (oauth2_broker_flow_total{result="renewed"})',
        'sum (oauth2_broker_flow_total{outcome="succeeded"})',
        'sum (oauth2_broker_refresh_total{result=~"renewed|lost"})',
        "sum by (tenant) (oauth2_broker_flow_total)",
        'sum (oauth2_broker_token_remaining_seconds_bucket{le="31.0"})',
        'sum (up{provider=~"$provider"})',
        "sum (oauth2_broker_flights) / up",
        "avg (oauth2_broker_flights)",
        "1 > 0",
    ],
)
def test_what_is_not_exported_is_noticed(metrics: Exported, text: str) -> None:
    """A wrong metric, label, value or group, and what nobody has checked."""
    with pytest.raises(AssertionError):
        require_exported(text, metrics)


@pytest.mark.parametrize("alert", ALERTS)
def test_a_rule_reads_only_what_is_exported(metrics: Exported, alert: str) -> None:
    """Metrics, labels and values, as a scrape has them."""
    require_exported(rules()[alert]["expr"], metrics)


def test_the_dashboard_reads_only_what_is_exported(metrics: Exported) -> None:
    """In each panel; and the list of providers is read from a metric and a label that exist."""
    board = dashboard()
    for _, target in targets(board):
        require_exported(target["expr"], metrics)
    [variable] = [one for one in board["templating"]["list"] if one["type"] == "query"]
    assert variable["query"]["query"] == "label_values(oauth2_broker_flow_total, provider)"
    assert "provider" in metrics["oauth2_broker_flow_total"]


def test_the_dashboard_shows_every_metric(metrics: Exported) -> None:
    """Of a histogram, buckets or count are enough."""
    read = {s.metric for _, target in targets(dashboard()) for s in parse(target["expr"]).selectors}
    endings = ("_bucket", "_count", "_sum", "_created")

    def family(name: str) -> str:
        return next((name.removesuffix(end) for end in endings if name.endswith(end)), name)

    counted = {family(name) for name in metrics if not name.endswith("_created")}
    assert counted == {family(name) for name in read}


# The dashboard, as Grafana loads it.


def rows() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Give the panels below each row."""
    title, below = "", []
    for panel in dashboard()["panels"]:
        if panel["type"] != "row":
            below.append(panel)
            continue
        if title:
            yield title, below
        title, below = panel["title"], []
    yield title, below


def test_the_dashboard_answers_the_operators_questions() -> None:
    """A row for each, with panels that ask something, and say what is to be seen."""
    found = dict(rows())
    assert set(found) > QUESTIONS
    for panels in found.values():
        assert panels
        assert all(panel["targets"] and panel["title"] and panel["description"] for panel in panels)


def test_the_dashboard_is_of_any_prometheus_and_provider() -> None:
    """Which ones is asked on top; every panel and every target heeds the answer."""
    board = dashboard()
    assert (board["title"], board["uid"]) == ("OAuth 2.0 token broker", "oauth2broker")
    kinds = {one["name"]: (one["type"], one["query"]) for one in board["templating"]["list"]}
    assert kinds["datasource"] == ("datasource", "prometheus")
    source = {"type": "prometheus", "uid": "${datasource}"}
    for panel in board["panels"]:
        assert panel["type"] == "row" or panel["datasource"] == source
    for title, target in targets(board):
        assert target["datasource"] == source
        for selector in parse(target["expr"]).selectors:
            assert ("provider", "=~", "$provider") in selector.matchers, title


def test_no_panel_covers_another() -> None:
    """All are within Grafana's 24 columns, and have numbers of their own."""
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    for place in places:
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
    for one, other in combinations(places, 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert apart or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


def test_the_letters_of_targets_are_their_own() -> None:
    """Grafana tells a panel's queries apart by them."""
    for panel in dashboard()["panels"]:
        letters = [target["refId"] for target in panel.get("targets", [])]
        assert len(set(letters)) == len(letters)


# The rules.


@pytest.mark.parametrize("alert", ALERTS)
def test_a_rule_says_what_whoever_is_woken_needs(alert: str) -> None:
    """How urgent it is, which provider, and what it means."""
    rule = rules()[alert]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert "{{ $labels.provider }}" in rule["annotations"]["summary"]
    assert rule["annotations"]["description"]


@pytest.mark.parametrize("alert", ALERTS)
def test_a_rule_is_tested_both_ways(metrics: Exported, alert: str) -> None:
    """It fires for some provider, not for another at the same time, and not before nor after."""
    [test] = [one for one in rule_tests() if one["name"] == alert]
    assert {check["alertname"] for check in test["alert_rule_test"]} == {alert}
    before, during, after = ([e["exp_labels"] for e in c["exp_alerts"]] for c in test["alert_rule_test"])
    assert during
    assert not before + after
    read = [parse(one["series"]).selectors[0] for one in test["input_series"]]
    providers = {value for selector in read for label, _, value in selector.matchers if label == "provider"}
    assert providers > {labels["provider"] for labels in during}
    for selector in read:
        assert {label for label, _, _ in selector.matchers} == set(metrics[selector.metric])


def test_promtool_takes_the_rules() -> None:
    """They are rules to Prometheus itself."""
    done = promtool("check", "rules", "alerts.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


def test_promtool_finds_that_the_rules_fire_when_they_should() -> None:
    """And not when they should not."""
    done = promtool("test", "rules", "alerts_test.yml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("expression", ["vector(1) < 0", 'sum by (provider) ({provider!=""}) > -1'])
@pytest.mark.parametrize("alert", ALERTS)
def test_a_rule_that_never_or_always_fires_is_noticed(alert: str, expression: str, tmp_path: Path) -> None:
    """By the test of that rule."""
    rule = {**rules()[alert], "expr": expression}
    [test] = [one for one in rule_tests() if one["name"] == alert]
    alone = {
        "alerts.yml": {"groups": [{"name": "alone", "rules": [rule]}]},
        "alerts_test.yml": {"rule_files": ["alerts.yml"], "evaluation_interval": "1m", "tests": [test]},
    }
    for name, content in alone.items():
        (tmp_path / name).write_text(yaml.safe_dump(content), "utf-8")
    done = promtool("test", "rules", "alerts_test.yml", folder=tmp_path)
    assert done.returncode == 1
    assert f"name: {alert}," in done.stdout + done.stderr
