"""The status summary: what a row says, what can be left out, and when it is worked out again."""

from __future__ import annotations

from pathlib import Path

from ohlcv_pipeline.bars.report import report
from ohlcv_pipeline.markets import Interval
from ohlcv_pipeline_tests.bars.vendor import BTC, CRYPTO, Vendor, fill, us
from ohlcv_pipeline_tests.service.conftest import NOW, Home, new_home


def test_a_new_installation_has_a_row_for_each_enabled_symbol_and_interval(tmp_path: Path) -> None:
    home = new_home(tmp_path, enabled_at=NOW)
    rows = home.rows()
    assert len(rows) == 40
    keys = [(row["market"], row["asset"], row["interval"]) for row in rows]
    assert keys == sorted(keys)
    assert {row["status"] for row in rows} == {"gap_detected"}
    assert {row["coverage_pct"] for row in rows} == {0.0}
    assert {row["freshness_minutes"] for row in rows} == {None}
    home.clock.turn(minutes=60)
    assert {row["status"] for row in home.rows()} == {"gap_detected"}
    home.clock.turn(seconds=15)
    assert {row["status"] for row in home.rows()} == {"stale"}


def test_coverage_is_that_of_the_report(home: Home) -> None:
    silent = {("BTC", bucket) for bucket in range(us("2025-11-20 03:00"), us("2025-11-20 05:00"), 60_000_000)}
    keys = ["2025-11-19", "2025-11-20", "2025-11-21"]
    fill(home.platform.store, keys, [Vendor(silent=silent)], NOW)
    (row,) = home.rows(asset="BTC", interval="minute")
    start, end = CRYPTO.target_window(Interval.MINUTE, NOW)
    (entry,) = report(home.platform.store.reader, CRYPTO, Interval.MINUTE, [BTC], start, end, NOW)
    assert row["coverage_pct"] == entry.coverage_pct
    assert row["coverage_start"] == "2025-11-19T00:00:00Z"
    assert row["coverage_end"] == row["latest_timestamp"] == "2025-11-21T11:57:00Z"
    assert row["freshness_minutes"] == 2.0
    assert (row["status"], row["is_stale"]) == ("healthy", False)


def test_days_are_counted_from_the_day_the_window_begins(home: Home) -> None:
    keys = CRYPTO.partition_keys(Interval.DAY, *CRYPTO.target_window(Interval.DAY, NOW))
    fill(home.platform.store, keys, [Vendor()], NOW, interval=Interval.DAY)
    (row,) = home.rows(asset="BTC", interval="day")
    assert row["coverage_pct"] == 100.0
    assert row["coverage_start"] == "2022-11-21T00:00:00Z"
    assert row["freshness_minutes"] == 720.0


def test_nothing_new_is_not_modified_and_a_publication_is(home: Home) -> None:
    assert home.refresh()
    assert not home.refresh()
    tag = home.get("/status/summary").headers["etag"]
    unchanged = home.ask("GET", "/status/summary", headers={"If-None-Match": tag})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    fill(home.platform.store, ["2025-11-20"], [Vendor()], NOW)
    assert home.refresh()
    assert home.ask("GET", "/status/summary", headers={"If-None-Match": tag}).status_code == 200
