"""A backfill as a user starts it: webserver, daemon, queue, launcher, lake. Everything real but the exchange."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ohlcv_pipeline.markets import Interval
from ohlcv_pipeline_tests.integration.services import Services, partition_counts, running_services

pytestmark = pytest.mark.slow

TABLE = "crypto/ohlcv_minute"
JUNE = [f"2026-06-{day:02}" for day in range(1, 6)]
GREEN = dict.fromkeys(("schema", "checksum", "gaps", "duplicates", "freshness"), "SUCCEEDED")


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with running_services(tmp_path_factory.mktemp("services")) as found:
        yield found


def test_a_backfill_of_days_is_one_run_that_fills_the_lake_and_checks_it(services: Services) -> None:
    ended = services.backfill(TABLE, JUNE)
    assert ended["status"] == "COMPLETED_SUCCESS"
    assert partition_counts(ended) == {"Materialized": 5, "Failed": 0, "Targeted": 5}
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
