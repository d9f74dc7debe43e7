"""What is told to an outside monitor: every name of the contract, values from the ledger, and nothing in public."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from ohlcv_pipeline.cli.processes import free_port
from ohlcv_pipeline.ledger import outcomes, runs, vendor_status
from ohlcv_pipeline.ledger.models import Incident, Message, Monitor
from ohlcv_pipeline.ledger.runs import Account, Begun
from ohlcv_pipeline.ledger.vendor_status import Found
from ohlcv_pipeline_tests.bars.vendor import Vendor, fill
from ohlcv_pipeline_tests.ledger.test_outcomes import Attempt
from ohlcv_pipeline_tests.service.conftest import NOW, Home, new_home

NAMES: Mapping[str, tuple[str, ...]] = {
    "ohlcv_ingestion_runs_total": ("market", "interval", "status", "trigger"),
    "ohlcv_ingestion_run_duration_seconds_count": ("market", "interval"),
    "ohlcv_ingestion_rows_total": ("market", "interval"),
    "ohlcv_ingestion_retries_total": ("vendor", "reason"),
    "ohlcv_freshness_lag_minutes": ("market", "symbol", "interval"),
    "ohlcv_coverage_ratio": ("market", "symbol", "interval"),
    "ohlcv_open_gaps": ("market", "symbol", "interval"),
    "ohlcv_incidents_opened_total": ("kind",),
    "ohlcv_incidents_cleared_total": ("kind",),
    "ohlcv_incidents_open": ("kind",),
    "ohlcv_outbox_pending": ("channel",),
    "ohlcv_outbox_oldest_seconds": (),
    "ohlcv_run_success_ratio_30d": (),
    "ohlcv_vendor_status": ("vendor", "status"),
    "ohlcv_vendor_request_seconds_count": ("vendor", "outcome"),
    "ohlcv_vendor_data_age_seconds": ("vendor",),
    "ohlcv_monitor_last_evaluation_timestamp_seconds": (),
    "http_request_duration_seconds_count": ("route", "method", "status"),
}
"""Every metric of the contract with its labels."""


def samples(home: Home) -> list[Sample]:
    text = generate_latest(home.app.state.monitoring.registry).decode()
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def values(home: Home, name: str) -> dict[tuple[str, ...], float]:
    """Return the values of a metric by its labels, in the order that the contract names them in."""
    names = NAMES[name.removesuffix("_sum") + "_count" if name.endswith("_sum") else name]
    return {
        tuple(sample.labels[label] for label in names): sample.value for sample in samples(home) if sample.name == name
    }


def run(home: Home, status: str = "success", rows: int = 1_440, seconds: float = 42.0) -> None:
    """Begin and end one run of one symbol."""
    ledger, now = home.platform.ledger, home.clock.now
    begun = Begun(uuid4(), "crypto", "minute", ["BTC"], NOW, NOW, "scheduled", 1)
    runs.begin(ledger, begun, now - timedelta(seconds=seconds))
    code = None if status == "success" else "internal"
    runs.end(ledger, begun.id, [Account("BTC", status, rows, "0" * 64, code, 0, {})], "0" * 64, now)


def incident(home: Home, kind: str, **given: object) -> None:
    with home.platform.ledger.write() as session:
        session.add(
            Incident(market="*", symbol="*", interval="*", kind=kind, first_breach_at=NOW, **{"state": "open", **given})
        )


@pytest.fixture
def busy(home: Home) -> Home:
    """An installation of which everything can be told."""
    ledger = home.platform.ledger
    fill(home.platform.store, ["2025-11-20"], [Vendor()], NOW)
    assert samples(home)  # counters count from the first look on
    home.clock.turn(minutes=1)
    outcomes.append(ledger, [Attempt(code="vendor_unavailable"), Attempt(attempt=2, seconds=0.3)])
    run(home)
    incident(home, "freshness", opened_at=home.clock.now)
    vendor_status.record(ledger, [Found("kraken", "up", 61.0, 0, "")], home.clock.now)
    with ledger.write() as session:
        session.add(Monitor(name="freshness", sequence=1, evaluated_at=NOW))
        session.add(
            Message(
                channel="email",
                kind="open",
                incident_ids=[],
                message_id="<1@x>",
                payload={},
                created_at=NOW,
                next_attempt_at=NOW,
            )
        )
    home.refresh()
    home.get("/status/summary")
    return home


def test_every_metric_of_the_contract_is_told_with_its_labels(busy: Home) -> None:
    told = {sample.name: set(sample.labels) for sample in samples(busy)}
    assert {name: told.get(name) for name in NAMES} == {name: set(labels) for name, labels in NAMES.items()}


def test_values_are_those_of_the_ledger(busy: Home) -> None:
    assert values(busy, "ohlcv_ingestion_runs_total") == {("crypto", "minute", "success", "scheduled"): 1}
    assert values(busy, "ohlcv_ingestion_rows_total") == {("crypto", "minute"): 1_440}
    assert values(busy, "ohlcv_ingestion_run_duration_seconds_sum") == {("crypto", "minute"): 42}
    assert values(busy, "ohlcv_ingestion_retries_total") == {("kraken", "vendor_unavailable"): 1}
    assert values(busy, "ohlcv_vendor_request_seconds_count") == {
        ("kraken", "ok"): 1,
        ("kraken", "vendor_unavailable"): 1,
    }
    assert values(busy, "ohlcv_vendor_request_seconds_sum")["kraken", "ok"] == pytest.approx(0.3)
    assert values(busy, "ohlcv_vendor_data_age_seconds") == {("kraken",): 61}
    assert values(busy, "ohlcv_vendor_status") == {
        ("kraken", status): float(status == "up") for status in ("down", "rate_limited", "degraded", "up")
    }
    assert values(busy, "ohlcv_incidents_open")["freshness",] == 1
    assert values(busy, "ohlcv_incidents_opened_total")["freshness",] == 1
    assert values(busy, "ohlcv_incidents_cleared_total")["freshness",] == 0
    assert values(busy, "ohlcv_outbox_pending") == {("email",): 1}
    assert values(busy, "ohlcv_outbox_oldest_seconds") == {(): 60}
    assert values(busy, "ohlcv_monitor_last_evaluation_timestamp_seconds") == {(): NOW.timestamp()}
    assert values(busy, "ohlcv_run_success_ratio_30d") == {(): 1}
    row = busy.rows(asset="BTC", interval="minute")[0]
    assert values(busy, "ohlcv_coverage_ratio")["crypto", "BTC", "minute"] == row["coverage_pct"] / 100
    assert values(busy, "ohlcv_freshness_lag_minutes")["crypto", "BTC", "minute"] == row["freshness_minutes"]
    assert values(busy, "http_request_duration_seconds_count")["/status/summary", "GET", "200"] == 2


def test_buckets_are_cumulative_and_hold_every_request(home: Home) -> None:
    samples(home)
    seconds = [0.01, 0.05, 0.051, 5.0, 9.9, 10.1, 60.0]
    outcomes.append(home.platform.ledger, [Attempt(seconds=each) for each in seconds])
    buckets = {
        sample.labels["le"]: sample.value for sample in samples(home)
        if sample.name == "ohlcv_vendor_request_seconds_bucket"
    }  # fmt: skip
    expected = {bound: sum(each <= bound for each in seconds) for bound in map(float, buckets)}
    assert {float(bound): count for bound, count in buckets.items()} == expected
    assert expected[float("inf")] == 7


def test_nothing_is_counted_twice_and_nothing_from_before(home: Home) -> None:
    run(home)
    incident(home, "run_failed", opened_at=NOW - timedelta(minutes=1))
    outcomes.append(home.platform.ledger, [Attempt()])
    home.clock.turn(seconds=1)
    first = new_service(home)
    assert values(first, "ohlcv_ingestion_runs_total") == {}
    assert values(first, "ohlcv_incidents_opened_total")["run_failed",] == 0
    assert values(first, "ohlcv_vendor_request_seconds_count") == {}
    for expected in range(1, 4):
        home.clock.turn(minutes=7)
        run(home, "failed")
        outcomes.append(home.platform.ledger, [Attempt()])
        for _ in range(2):
            assert values(first, "ohlcv_ingestion_runs_total") == {
                ("crypto", "minute", "failed", "scheduled"): expected
            }
            assert values(first, "ohlcv_vendor_request_seconds_count") == {("kraken", "ok"): expected}


def new_service(home: Home) -> Home:
    """Return the installation as a service sees it that has started now."""
    return Home(home.platform, home.clock)


def test_a_run_that_is_recorded_late_is_counted_all_the_same(home: Home) -> None:
    samples(home)
    home.clock.turn(minutes=5)
    samples(home)
    late = replace(home.clock, now=NOW + timedelta(minutes=3))
    run(Home(home.platform, late))
    assert values(home, "ohlcv_ingestion_runs_total") == {("crypto", "minute", "success", "scheduled"): 1}


def test_an_incident_that_clears_is_counted_once_and_is_not_open(home: Home) -> None:
    samples(home)
    incident(home, "freshness", state="cleared", opened_at=NOW, cleared_at=NOW)
    for _ in range(2):
        assert values(home, "ohlcv_incidents_cleared_total")["freshness",] == 1
        assert values(home, "ohlcv_incidents_open")["freshness",] == 0


def test_old_statuses_of_vendors_are_told_as_degraded(home: Home) -> None:
    vendor_status.record(home.platform.ledger, [Found("kraken", "up", None, 0, "")], NOW)
    home.clock.turn(minutes=16)
    shown = {labels[1]: value for labels, value in values(home, "ohlcv_vendor_status").items()}
    assert shown == {"up": 0, "degraded": 1, "down": 0, "rate_limited": 0}
    assert values(home, "ohlcv_vendor_data_age_seconds") == {}


def test_a_monitor_that_never_evaluated_is_told_as_long_ago(home: Home) -> None:
    assert values(home, "ohlcv_monitor_last_evaluation_timestamp_seconds") == {(): 0}


def scraped(home: Home, headers: Mapping[str, str]) -> tuple[httpx.Response, httpx.Response]:
    """Return what the service answers at `/metrics`, and what its other listener does."""
    port = free_port()

    async def serve() -> tuple[httpx.Response, httpx.Response]:
        listening = Home(
            new_home(home.platform.settings.home, metrics_address=f"127.0.0.1:{port}").platform, home.clock
        )
        async with listening.app.router.lifespan_context(listening.app):
            async with httpx.AsyncClient(trust_env=False) as client:
                private = await client.get(f"http://127.0.0.1:{port}/metrics", headers=headers)
            transport = httpx.ASGITransport(listening.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://status.test") as client:
                return await client.get("/metrics"), private

    return asyncio.run(serve())


def test_the_metrics_have_a_listener_of_their_own(home: Home) -> None:
    public, private = scraped(home, {"Accept": "application/openmetrics-text"})
    assert public.status_code == 404
    assert private.status_code == 200
    assert private.headers["content-type"].startswith("application/openmetrics-text")
    assert private.text.endswith("# EOF\n")
    names = {family.name for family in text_string_to_metric_families(private.text)}
    assert {"ohlcv_ingestion_runs", "ohlcv_quarantined_rows", "http_request_duration_seconds"} <= names


def test_a_port_that_is_taken_is_said_and_leaves_the_service_running(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        home = new_home(tmp_path, metrics_address=f"127.0.0.1:{taken.getsockname()[1]}")
        with home.app.state.monitoring.listening() as port:
            assert port is None
    assert "OHLCV_METRICS_ADDRESS" in caplog.text


def test_healthz_answers_whatever_is_broken_and_readyz_follows_lake_and_ledger(home: Home) -> None:
    assert home.get("/healthz").json() == {"status": "ok"}
    assert home.get("/readyz").status_code == 503
    home.refresh()
    assert (home.get("/readyz").status_code, home.get("/readyz").json()) == (200, {"status": "ready"})
    home.platform.ledger.close()
    Path(home.platform.settings.root / "ledger.sqlite").rename(home.platform.settings.root / "away.sqlite")
    Path(home.platform.settings.root / "ledger.sqlite").mkdir()
    home.clock.turn(seconds=31)
    with pytest.raises(Exception, match="unable to open"):
        home.refresh()
    assert home.get("/healthz").status_code == 200
    problem = home.get("/readyz")
    assert (problem.status_code, problem.json()["type"]) == (503, "urn:ohlcv-pipeline:problem:unavailable")
