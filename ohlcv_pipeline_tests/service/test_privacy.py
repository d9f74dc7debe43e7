"""Answers hold what the contract lists and nothing else, over every route there is; also those added later.

A route that needs an example which is not here fails, and asks for one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import jsonschema
import pytest
from fastapi.routing import APIRoute

from ohlcv_pipeline.ledger.models import (
    Incident,
    IngestionRun,
    MaintenanceWindow,
    Message,
    RemediationEntry,
    RemediationStep,
    VendorRequest,
    VendorStatus,
)
from ohlcv_pipeline_tests.bars.vendor import Vendor, fill
from ohlcv_pipeline_tests.service.conftest import NOW, TOKEN, Home, new_home

SECRET = "password=hunter2 host=10.1.2.3 /srv/ohlcv/ledger.sqlite Traceback duckdb"
"""Stands in every column that is for operators only."""

RUN, CHILD = UUID(int=1), UUID(int=2)

EXAMPLES = {
    "asset": "BTC", "interval": "minute", "market": "crypto", "start": "2025-11-20T00:00:00Z",
    "end": "2025-11-20T01:00:00Z", "id": str(RUN), "run_id": str(RUN), "symbol": "BTC",
}  # fmt: skip
"""What required parameters are given."""

WORDS = re.compile(
    r"password|secret|token|connection|dsn|internal|host=|traceback|sqlite|postgres|duckdb|hunter2"
    r"|(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])|(?<![\w/.<])/(?:home|root|srv|tmp|usr|var|work)/",
    re.IGNORECASE,
)
DESCRIBING = {"/docs", "/openapi.json"}
"""They tell of the API, and may name its header."""


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """An installation with a row of every kind."""
    home = new_home(tmp_path_factory.mktemp("full"))
    fill(home.platform.store, ["2025-11-20", "2025-11-21"], [Vendor()], NOW)
    then = NOW - timedelta(hours=2)
    with home.platform.ledger.write() as session:
        session.add_all(ledger_rows(then))
    home.refresh()
    yield home
    home.close()


def ledger_rows(then: Any) -> list[Any]:
    run: dict[str, Any] = {
        "market": "crypto", "interval": "minute", "checksum_sha256": "0" * 64, "checksum_version": 1,
        "started_at": then, "ended_at": NOW, "trigger": "manual", "backfill_window_start": then,
        "backfill_window_end": NOW, "phase": "done", "dagster_run_id": SECRET,
    }  # fmt: skip
    entry: dict[str, Any] = {
        "market": "crypto", "asset_symbol": "BTC", "interval": "minute", "issue_type": "gap", "range_start": then,
        "range_end": then, "detected_at": then,
    }  # fmt: skip
    return [
        Incident(
            market="crypto", symbol="BTC", interval="minute", kind="freshness", state="open", first_breach_at=then,
            opened_at=then, lag_minutes=70.0, threshold_minutes=60.0, notified_at=then, subject=SECRET,
        ),
        Message(
            channel="email", kind="incident", incident_ids=[], message_id=SECRET, payload={"text": SECRET},
            created_at=then, next_attempt_at=NOW, attempts=3, last_error=SECRET,
        ),
        MaintenanceWindow(starts_at=then, ends_at=NOW, reason=SECRET),
        RemediationEntry(id=UUID(int=3), **entry),
        RemediationStep(entry_id=UUID(int=3), happened_at=then, step="planned", notes=SECRET),
        VendorStatus(vendor="coinbase", status="degraded", since=then, checked_at=NOW, details=SECRET),
        VendorRequest(vendor="coinbase", requested_at=then, seconds=1.0, code="timeout", attempt=1, bytes=0),
        IngestionRun(id=RUN, asset_symbol="*", status="partial", report=[], **run),
        IngestionRun(
            id=CHILD, parent_id=RUN, asset_symbol="BTC", status="failed",
            error_summary="rate_limited: vendor refused 5 attempts", **run,
        ),
    ]  # fmt: skip


def document(home: Home) -> dict[str, Any]:
    return dict(home.get("/openapi.json").json())


def requests(home: Home) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a request for each GET route: its path and its operation, which is empty for what is no API."""
    described = document(home)["paths"]
    for route in home.app.routes:
        if isinstance(route, APIRoute) and "GET" in (route.methods or ()):
            yield filled_in(route.path, described.get(route.path, {}).get("get", {}))
    for path, methods in described.items():
        if "get" in methods:
            yield filled_in(path, methods["get"])


def filled_in(path: str, operation: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    query = []
    for parameter in operation.get("parameters", ()):
        name = parameter["name"]
        if parameter["in"] == "path":
            path = path.replace(f"{{{name}}}", example(name))
        elif parameter["in"] == "query" and parameter.get("required"):
            query.append(f"{name}={example(name)}")
    path = re.sub(r"{(\w+)}", lambda found: example(found[1]), path)
    return path + ("?" + "&".join(query) if query else ""), operation


def example(name: str) -> str:
    assert name in EXAMPLES, f"a route needs the parameter {name}: give an example of it"
    return EXAMPLES[name]


def test_every_answer_keeps_to_its_schema_and_to_public_words(full: Home) -> None:
    components = document(full)["components"]
    asked = set()
    for path, operation in requests(full):
        answer = full.get(path)
        assert answer.status_code in (200, 307), (path, answer.text)
        if path not in DESCRIBING:
            assert not WORDS.findall(answer.text), path
        asked.add(path)
        schema = operation and operation["responses"]["200"]["content"].get("application/json", {}).get("schema")
        if schema:
            jsonschema.validate(answer.json(), {**schema, "components": components})
    assert {"/status/summary", "/docs"} < asked
    assert len(asked) >= 5


def test_every_format_keeps_to_public_words(full: Home) -> None:
    for path, operation in requests(full):
        for parameter in operation.get("parameters", ()):
            if parameter["name"] == "format":
                for name in parameter["schema"]["enum"]:
                    answer = full.get(f"{path}{'&' if '?' in path else '?'}format={name}")
                    assert answer.status_code == 200
                    assert answer.text
                    assert not WORDS.findall(answer.text), path


def test_problems_keep_to_their_schema_and_to_public_words(full: Home) -> None:
    components = document(full)["components"]
    schema = {"$ref": "#/components/schemas/ProblemBody", "components": components}
    answers = [
        full.get(f"{path.partition('?')[0]}?unlisted={SECRET}") for path, operation in requests(full) if operation
    ]
    answers += [full.get("/nowhere"), full.ask("POST", "/status/summary")]
    answers += [full.get("/status/summary", market="crypto", asset="NOPE"), full.ask("POST", "/alerts/test")]
    for answer in answers:
        assert answer.status_code in (400, 401, 404, 405)
        jsonschema.validate(answer.json(), schema)
        words = WORDS.findall(answer.text.replace("X-Admin-Token", ""))
        assert not words, answer.text


def test_schemas_are_whitelists(full: Home) -> None:
    schemas = document(full)["components"]["schemas"]
    for name, schema in schemas.items():
        if schema.get("type") == "object":
            assert schema.get("additionalProperties") is False, f"{name} allows keys that it does not list"
    for path, methods in document(full)["paths"].items():
        for operation in methods.values():
            for status, answer in operation["responses"].items():
                for media_type, content in answer.get("content", {}).items():
                    if media_type.endswith("json") and not media_type.endswith("ndjson"):
                        assert content.get("schema"), f"{path} {status} says nothing of its {media_type}"


def test_the_summary_holds_exactly_the_fields_of_the_contract(full: Home) -> None:
    body = full.get("/status/summary", asset="BTC", interval="minute").json()
    assert list(body) == ["generated_at", "last_evaluation_at", "monitor_ok", "alert_channel", "assets"]
    assert list(body["alert_channel"]) == ["status", "pending", "oldest_pending_minutes"]
    assert list(body["assets"][0]) == [
        "asset", "market", "interval", "coverage_start", "coverage_end", "coverage_pct", "latest_timestamp",
        "freshness_minutes", "status", "is_stale", "open_gaps", "vendor_status", "alert_status", "last_alerted_at",
        "last_alert_lag_minutes", "last_success_at", "last_checksum",
    ]  # fmt: skip


def test_the_words_would_be_found(tmp_path: Path) -> None:
    for leak in (SECRET, "at 192.168.0.7:5432", f"in {tmp_path}", json.dumps({"dsn": 1}), '"token"'):
        assert WORDS.search(leak), leak
    for fine in ("2025-11-21T12:00:00Z", "/status/summary", "version 1.2.3", "/ingestion/runs/latest", TOKEN):
        assert not WORDS.search(fine), fine
