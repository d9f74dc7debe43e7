"""What is shipped for monitors and for CI, held against the metrics, commands and pages there are."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from ohlcv_pipeline.operations.incidents import Kind
from ohlcv_pipeline.platform import Platform
from ohlcv_pipeline.service.app import create_app
from ohlcv_pipeline.settings import Settings
from ohlcv_pipeline_tests.pages import COMMANDS, DOCS, ROOT
from ohlcv_pipeline_tests.service.test_metrics import NAMES

DEPLOY = ROOT / "deploy"
BOARD = json.loads((DEPLOY / "grafana/ohlcv.json").read_text())
RULES = yaml.safe_load((DEPLOY / "prometheus/alerts.yaml").read_text())["groups"][0]["rules"]
SCRAPE = yaml.safe_load((DEPLOY / "prometheus/prometheus.yaml").read_text())
WORKFLOW = yaml.safe_load((DEPLOY / "github/ohlcv-checks.yml").read_text())
NAME = re.compile(r"\b(?:ohlcv|http)_[a-z0-9_]+\b")
LABELS = re.compile(r"(\b(?:ohlcv|http)_[a-z0-9_]+)\{([^}]*)\}")
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Every metric that can be asked for, with what it is."""
    platform = Platform(Settings(home=tmp_path_factory.mktemp("home"), _env_file=None))
    registry = create_app(platform).state.monitoring.registry
    families = text_string_to_metric_families(generate_latest(registry).decode())
    found = {family.name + suffix: family.type for family in families for suffix in SUFFIXES[family.type]}
    platform.ledger.close()
    return found


def panels() -> list[dict[str, Any]]:
    return [panel for panel in BOARD["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    """Yield each PromQL expression with where it stands."""
    for rule in RULES:
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in BOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["definition"]


EXPRESSIONS = [pytest.param(expression, id=where) for where, expression in expressions()]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expressions_name_metrics_that_are_exported(exported: Mapping[str, str], expression: str) -> None:
    names = set(NAME.findall(re.sub(r'"[^"]*"', '""', expression)))
    assert names or expression == 'up{job="ohlcv"} == 0'
    assert names <= set(exported)
    for opening, closing in ("()", "{}", "[]"):
        assert expression.count(opening) == expression.count(closing)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_only_what_grows_is_rated(exported: Mapping[str, str], expression: str) -> None:
    for name in re.findall(r"(?:rate|increase)\(([a-z0-9_]+)", expression):
        assert exported[name] in ("counter", "histogram"), name


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_labels_are_those_of_the_contract(expression: str) -> None:
    contract = {**NAMES, "ohlcv_quarantined_rows": ("market", "interval")}
    for name, inside in LABELS.findall(expression):
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", inside))
        assert labels <= set(contract[name.replace("_bucket", "_count")]), name


def test_every_incident_is_seen_by_a_rule() -> None:
    watched = {kind for rule in RULES for kind in re.findall(r'kind="(\w+)"', rule["expr"])}
    watched |= {"monitor_stopped" for rule in RULES if "last_evaluation" in rule["expr"]}
    assert watched == {str(kind) for kind in Kind}


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_every_alert_has_its_page(rule: dict[str, Any]) -> None:
    page = ROOT / rule["annotations"]["runbook_url"]
    assert page.parent == DOCS / "runbooks"
    text = page.read_text()
    assert f"`{rule['alert']}`" in text
    assert {"## Look", "## Over"} <= set(text.splitlines())
    assert f"`{rule['alert']}`" in (DOCS / "how-to/monitor.md").read_text()
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"]


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_of_incident_has_its_page(kind: Kind) -> None:
    page = DOCS / "runbooks" / f"{kind}.md"
    assert f"`{kind}`" in page.read_text()


def test_every_page_belongs_to_an_alert() -> None:
    pages = {path.name for path in (DOCS / "runbooks").iterdir()}
    assert pages == {Path(rule["annotations"]["runbook_url"]).name for rule in RULES}


def test_prometheus_asks_where_the_service_listens_and_reads_the_rules() -> None:
    (job,) = SCRAPE["scrape_configs"]
    assert job["static_configs"] == [{"targets": [Settings.model_fields["metrics_address"].default]}]
    assert [DEPLOY / "prometheus" / name for name in SCRAPE["rule_files"]] == [DEPLOY / "prometheus/alerts.yaml"]
    assert {name for rule in RULES for name in re.findall(r'job="(\w+)"', rule["expr"])} == {job["job_name"]}


def test_the_dashboard_can_be_imported_and_nothing_overlaps() -> None:
    assert {"uid", "title", "schemaVersion", "panels", "templating"} <= set(BOARD)
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert {panel["datasource"]["uid"] for panel in panels()} == {"${datasource}"}


def steps() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = WORKFLOW["jobs"]["checks"]["steps"]
    return found


def test_the_workflow_is_one_that_github_takes() -> None:
    # YAML 1.1 reads the key `on` as true.
    assert {"push", "pull_request", "schedule"} == set(WORKFLOW[True])
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert WORKFLOW["jobs"]["checks"]["timeout-minutes"] <= 30
    for step in steps():
        assert ("uses" in step) != ("run" in step)
        assert re.fullmatch(r"actions/[a-z-]+@v\d+", step.get("uses", "actions/checkout@v4"))


def commands() -> list[str]:
    lines = "\n".join(step["run"] for step in steps() if "run" in step).splitlines()
    return [found[0] for line in lines if (found := re.search(r"\bohlcv [^;>]*", line))]


def test_the_workflow_fails_with_the_checks_and_proves_that_they_can() -> None:
    assert len(commands()) == 2
    assert "--fault" in commands()[1]


@pytest.mark.parametrize("line", commands())
def test_commands_of_the_workflow_are_understood(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    # Parses the options, and runs nothing.
    COMMANDS.commands[name].make_context(name, arguments)  # type: ignore[attr-defined]
