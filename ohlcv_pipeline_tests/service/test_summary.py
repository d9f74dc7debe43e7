"""The status summary: what a row says, what can be left out, and when it is worked out again."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ohlcv_pipeline.bars.report import report
from ohlcv_pipeline.ledger import symbols
from ohlcv_pipeline.ledger.models import Monitor, RemediationEntry, VendorStatus
from ohlcv_pipeline.ledger.standing import Waiting
from ohlcv_pipeline.markets import Interval
from ohlcv_pipeline.operations.overview import AlertChannel, alert_channel
from ohlcv_pipeline_tests.bars.vendor import AAPL, BTC, CRYPTO, ETH, NEW_YORK, Vendor, change, fill, us, utc
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


def store(home: Home, *rows: Any) -> None:
    with home.platform.ledger.write() as session:
        session.add_all(rows)


def gap(**changes: Any) -> RemediationEntry:
    values = {
        "market": "crypto", "asset_symbol": "BTC", "interval": "minute", "issue_type": "gap", "range_start": NOW,
        "range_end": NOW, "detected_at": NOW,
    }  # fmt: skip
    return RemediationEntry(**{**values, **changes})


def test_a_series_is_stale_above_sixty_minutes_and_a_gap_does_not_hide_that(home: Home) -> None:
    fill(home.platform.store, ["2025-11-21"], [Vendor()], NOW)
    store(home, gap())

    def told() -> tuple[str, bool, int, float]:
        (row,) = home.rows(asset="BTC", interval="minute")
        return row["status"], row["is_stale"], row["open_gaps"], row["freshness_minutes"]

    # The newest bar closed at 11:58.
    assert told() == ("gap_detected", False, 1, 2.0)
    home.clock.turn(minutes=58)
    assert told() == ("gap_detected", False, 1, 60.0)
    home.clock.turn(seconds=15)
    assert told() == ("stale", True, 1, 60.2)


def test_nights_and_weekends_make_no_share_stale(home: Home) -> None:
    home.clock.now = utc("2025-11-23 12:00")
    shares = {"market": NEW_YORK, "instruments": [AAPL]}
    vendor = Vendor("alpaca", market=NEW_YORK, received_at=home.clock.now)
    fill(home.platform.store, ["2025-11-21"], [vendor], home.clock.now, **shares)
    (row,) = home.rows(asset="AAPL", interval="minute")
    assert (row["latest_timestamp"], row["freshness_minutes"]) == ("2025-11-21T20:59:00Z", 0.0)
    assert (row["status"], row["is_stale"]) == ("healthy", False)


def test_only_what_is_not_healthy_is_kept_on_request(home: Home) -> None:
    fill(home.platform.store, ["2025-11-21"], [Vendor()], NOW, instruments=[BTC, ETH])
    store(home, gap())
    found = {(row["asset"], row["interval"]): row["status"] for row in home.rows(only_stale=True, market="crypto")}
    assert len(found) == 19
    assert found["BTC", "minute"] == "gap_detected"
    assert ("ETH", "minute") not in found
    assert len(home.rows(only_stale="false")) == 40


def test_a_symbol_of_two_markets_needs_its_market(tmp_path: Path) -> None:
    home = new_home(tmp_path, markets="crypto,crypto_usdt")
    assert len(home.rows(asset="USDT")) == 2
    answer = home.get("/status/summary", asset="btc")
    assert (answer.status_code, answer.json()["errors"]) == (400, [{"field": "asset", "code": "ambiguous_symbol"}])
    assert "crypto, crypto_usdt" in answer.json()["detail"]
    assert {row["market"] for row in home.rows(asset="btc", market="crypto_usdt")} == {"crypto_usdt"}
    for path in ("/lineage", "/alerts/incidents"):
        window = {"interval": "day", "start": "2025-01-01T00:00:00Z", "end": "2025-02-01T00:00:00Z"}
        query = {"asset": "BTC", **(window if path == "/lineage" else {})}
        assert home.get(path, **query).json()["errors"] == [{"field": "asset", "code": "ambiguous_symbol"}]


def test_a_disabled_symbol_is_not_shown(home: Home) -> None:
    symbols.disable(home.platform.ledger, CRYPTO, "BTC", NOW)
    assert len(home.rows()) == 38
    assert home.get("/status/summary", asset="BTC").status_code == 404


def test_the_badge_is_that_of_the_first_vendor_and_grows_old(home: Home) -> None:
    def badges(asset: str) -> set[str]:
        return {row["vendor_status"] for row in home.rows(asset=asset)}

    assert badges("BTC") == {"degraded"}
    store(
        home,
        VendorStatus(vendor="coinbase", status="rate_limited", since=NOW, checked_at=NOW),
        VendorStatus(vendor="kraken", status="down", since=NOW, checked_at=NOW),
        VendorStatus(vendor="alpaca", status="up", since=NOW, checked_at=NOW),
    )
    assert (badges("BTC"), badges("AAPL")) == ({"rate_limited"}, {"up"})
    home.clock.turn(minutes=15)
    assert badges("AAPL") == {"up"}
    home.clock.turn(seconds=15)
    assert badges("AAPL") == {"degraded"}


def test_a_monitor_that_stopped_is_told(home: Home) -> None:
    store(home, Monitor(name="freshness", sequence=1, evaluated_at=NOW))

    def told() -> tuple[bool, str]:
        home.refresh()
        body = home.get("/status/summary").json()
        return body["monitor_ok"], body["last_evaluation_at"]

    assert told() == (True, "2025-11-21T12:00:00Z")
    home.clock.turn(minutes=20, seconds=1)
    assert told() == (False, "2025-11-21T12:00:00Z")


@pytest.mark.parametrize(
    ("waiting", "told"),
    [
        (Waiting(0, None, False, False), AlertChannel("ok", 0, None)),
        (Waiting(1, NOW, False, False), AlertChannel("ok", 1, 0.0)),
        (Waiting(2, NOW - timedelta(minutes=4), True, False), AlertChannel("retrying", 2, 4.0)),
        (Waiting(1, NOW - timedelta(minutes=15), True, False), AlertChannel("retrying", 1, 15.0)),
        (Waiting(1, NOW - timedelta(minutes=15, seconds=6), False, False), AlertChannel("failing", 1, 15.1)),
        (Waiting(0, None, False, True), AlertChannel("failing", 0, None)),
    ],
)
def test_the_channel_is_judged_by_what_waits(waiting: Waiting, told: AlertChannel) -> None:
    assert alert_channel(waiting, NOW, configured=True) == told
    assert alert_channel(waiting, NOW, configured=False).status == "off"


def test_the_summary_stays_while_the_lake_is_maintained(home: Home) -> None:
    fill(home.platform.store, ["2025-11-20", "2025-11-21"], [Vendor()], NOW)
    before = home.rows(asset="BTC")
    change(
        home.platform.store,
        "CALL ducklake_merge_adjacent_files('lake')",
        "CALL ducklake_expire_snapshots('lake', older_than => now() + INTERVAL 1 DAY)",
    )
    assert home.rows(asset="BTC") == before
