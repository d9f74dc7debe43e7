"""A backfill as a user starts it: webserver, daemon, queue, launcher, lake. Everything real but the exchange."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from ohlcv_pipeline.bars.inspection import BY_PARTITION
from ohlcv_pipeline.markets import Interval, market, to_us
from ohlcv_pipeline_tests.integration.services import Services, running_services

pytestmark = pytest.mark.slow

TABLE = "crypto/ohlcv_minute"
WINTER = to_us(datetime(2026, 1, 2, tzinfo=UTC)), to_us(datetime(2026, 6, 1, tzinfo=UTC))
JUNE = [f"2026-06-{day:02}" for day in range(1, 6)]
GREEN = dict.fromkeys(("schema", "checksum", "gaps", "duplicates", "freshness"), "SUCCEEDED")


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with running_services(tmp_path_factory.mktemp("services")) as found:
        yield found


def counts(backfill: dict[str, object]) -> dict[str, int]:
    (of_table,) = backfill["assetBackfillData"]["assetBackfillStatuses"]  # type: ignore[index]
    return {name.removeprefix("numPartitions"): n for name, n in of_table.items()}


def test_a_backfill_of_days_is_one_run_that_fills_the_lake_and_checks_it(services: Services) -> None:
    ended = services.backfill(TABLE, JUNE)
    assert ended["status"] == "COMPLETED_SUCCESS"
    assert counts(ended) == {"Materialized": 5, "Failed": 0, "Targeted": 5}
    (run,) = ended["runs"]
    manifest = services.platform.store.reader.manifest("crypto", Interval.MINUTE).to_pylist()
    assert len(manifest) == 50
    assert all(cell["complete"] for cell in manifest)
    assert {cell["run_id"] for cell in manifest} == {run["runId"]}
    assert sum(cell["rows"] + cell["no_trades_rows"] for cell in manifest) == 50 * 1440
    stored = services.platform.store.reader.query("SELECT count(*) AS n FROM lake.crypto.ohlcv_minute").to_pylist()
    assert stored == [{"n": sum(cell["rows"] for cell in manifest)}]
    # A second vendor is asked once a night, not by every backfill.
    assert services.checks(TABLE) == {**GREEN, "cross_vendor": "SKIPPED"}


def test_a_queued_run_over_a_filled_range_asks_no_vendor(services: Services) -> None:
    days = JUNE[:2]
    assert services.launch("crypto_minute_refresh", days, {})["status"] == "SUCCESS"
    services.exchange.reset_requests()
    assert services.launch("crypto_minute_refresh", days, {})["status"] == "SUCCESS"
    assert services.exchange.requests() == []


def test_a_queued_run_with_range_tags_is_one_run_over_all_of_them(services: Services) -> None:
    ended = services.launch("crypto_day_refresh", ["2026-04", "2026-05"], {"retry": False})
    assert ended["status"] == "SUCCESS"
    manifest = services.platform.store.reader.manifest("crypto", Interval.DAY).to_pylist()
    assert len(manifest) == 20
    assert {cell["run_id"] for cell in manifest} == {ended["runId"]}
    assert services.checks("crypto/ohlcv_day") == {**GREEN, "cross_vendor": "NEVER", "rollup": "NEVER"}


def test_a_queued_run_that_fails_for_one_symbol_keeps_the_others(services: Services) -> None:
    services.exchange.fault(
        kind="bad_gzip", vendor="coinbase", symbol="ETH", start="2026-06-08T00:00:00Z", end="2026-06-09T00:00:00Z"
    )
    try:
        ended = services.launch("crypto_minute_refresh", ["2026-06-08"], {"retry": False, "symbols": ["BTC", "ETH"]})
    finally:
        services.exchange.clear()
    assert ended["status"] == "FAILURE"
    rows = services.platform.store.reader.manifest("crypto", Interval.MINUTE, None, ["2026-06-08"]).to_pylist()
    assert {cell["symbol"] for cell in rows if cell["complete"]} == {"BTC"}


@pytest.mark.parametrize("sessions", [9, pytest.param(90, marks=pytest.mark.long)])
def test_one_poisoned_session_fails_alone_and_is_repaired_alone(services: Services, sessions: int) -> None:
    table, symbols = "us_equities/ohlcv_minute", 10
    keys = market("us_equities").partition_keys(Interval.MINUTE, *WINTER)[:sessions]
    poisoned = keys[sessions // 2]
    for vendor in ("alpaca", "tiingo"):
        services.exchange.fault(
            kind="bad_gzip",
            vendor=vendor,
            symbol="NVDA",
            start=f"{poisoned}T00:00:00Z",
            end=f"{poisoned}T23:59:00Z",
        )
    try:
        ended = services.backfill(table, keys, retry=False)
    finally:
        services.exchange.clear()
    assert counts(ended) == {"Materialized": sessions - 1, "Failed": 1, "Targeted": sessions}
    green: dict[str, list[tuple[str, str]]] = {name: [] for name in BY_PARTITION}
    assert services.red_partitions(table) == {**green, "gaps": [(poisoned, poisoned)]}
    services.exchange.reset_requests()
    again = services.reexecute(ended["id"])
    assert counts(again) == {"Materialized": 1, "Failed": 0, "Targeted": 1}
    asked = [request["path"] for request in services.exchange.requests()]
    assert asked
    assert all("symbols=NVDA&" in path or "/iex/NVDA/" in path for path in asked)
    assert services.red_partitions(table) == green
    manifest = services.platform.store.reader.manifest("us_equities", Interval.MINUTE, None, keys).to_pylist()
    assert len(manifest) == sessions * symbols
    assert all(cell["complete"] for cell in manifest)
