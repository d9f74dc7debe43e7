"""The report: expected, stored and missing bars of a window, computed from the lake."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from ohlcv_pipeline.bars.checksum import partition_checksum, run_checksum
from ohlcv_pipeline.bars.report import Entry, coverage_pct, report
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline.markets import Interval
from ohlcv_pipeline_tests.bars.vendor import (
    BTC,
    CRYPTO,
    DAY,
    ETH,
    MINUTE,
    Vendor,
    bars_of,
    fill,
    listed,
    offer,
    publish_one,
    step,
    us,
    utc,
)

NOW = utc("2025-11-21 12:00")
PARTITION = "2025-11-20"
ALL = step(PARTITION, 1440)


def entry(
    store: Store, start: str = PARTITION, end: str = "2025-11-21", interval: Interval = MINUTE, **changes: object
) -> Entry:
    (only,) = report(store.reader, CRYPTO, interval, [listed(BTC, **changes)], us(start), us(end), NOW)
    return only


@pytest.mark.parametrize(
    ("stored", "expected", "no_trades", "coverage"),
    [
        (129_599, 129_600, 0, 99.99),
        (129_600, 129_600, 0, 100.0),
        (1_439, 1_440, 1, 100.0),
        (2, 3, 0, 66.66),
        (0, 1_440, 0, 0.0),
        (0, 0, 0, None),
        (0, 5, 5, None),
        (7, 100, 0, 7.0),
        (29, 100, 0, 29.0),
    ],
)
def test_coverage_is_rounded_down_and_null_when_nothing_is_expected(
    stored: int, expected: int, no_trades: int, coverage: float | None
) -> None:
    assert coverage_pct(stored, expected, no_trades) == coverage


def test_a_complete_partition_is_reported_whole(store: Store) -> None:
    fill(store, [PARTITION], [Vendor()], NOW)
    found = entry(store)
    assert (found.expected_rows, found.actual_rows, found.missing_rows, found.pending_tail_rows) == (1440, 1440, 0, 0)
    assert (found.coverage_pct, found.complete, list(found.gaps), found.partitions) == (100.0, True, [], 1)
    assert (found.vendor, found.newest_bucket) == ("coinbase", utc("2025-11-20 23:59"))
    assert found.checksum_sha256 == run_checksum([partition_checksum("BTC", MINUTE, bars_of("BTC", MINUTE, ALL))])


def test_a_series_without_rows_is_one_gap_over_the_whole_window(store: Store) -> None:
    found = entry(store)
    assert found.as_json()["gaps"] == [
        {"range_start": "2025-11-20T00:00:00Z", "range_end": "2025-11-20T23:59:00Z", "missing": 1440}
    ]
    assert (found.coverage_pct, found.vendor, found.newest_bucket, found.partitions) == (0.0, None, None, 0)


def test_gaps_are_ranges_of_inclusive_bucket_starts(store: Store) -> None:
    lost = [0, 1, 500, 1439]
    publish_one(store, offer(np.delete(ALL, lost), NOW), NOW, [PARTITION])
    found = entry(store)
    assert [
        (gap["range_start"][11:16], gap["range_end"][11:16], gap["missing"]) for gap in found.as_json()["gaps"]
    ] == [
        ("00:00", "00:01", 2),
        ("08:20", "08:20", 1),
        ("23:59", "23:59", 1),
    ]
    assert (found.missing_rows, found.coverage_pct) == (4, 99.72)


def test_a_hole_between_two_runs_is_seen(store: Store) -> None:
    publish_one(store, offer(ALL[:600], NOW), NOW, [PARTITION])
    publish_one(store, offer(ALL[700:], NOW), NOW, [PARTITION])
    assert [(gap.first_us, gap.missing) for gap in entry(store).gaps] == [(int(ALL[600]), 100)]


def test_the_newest_quarter_of_an_hour_is_pending_and_no_gap(store: Store) -> None:
    today = CRYPTO.expected(MINUTE, BTC, us("2025-11-21"), us("2025-11-22"), us("2025-11-21 12:00"))
    publish_one(store, offer(today[:-20], NOW), NOW, ["2025-11-21"])
    found = entry(store, "2025-11-21", "2025-11-22")
    assert (found.pending_tail_rows, found.missing_rows) == (13, 7)
    assert [gap.missing for gap in found.gaps] == [7]


def test_day_bars_have_no_pending_tail(store: Store) -> None:
    found = entry(store, "2025-11-20", "2025-11-22", DAY)
    assert (found.expected_rows, found.pending_tail_rows, found.missing_rows) == (1, 0, 1)


def test_minutes_without_trades_are_not_missing_and_unfillable_ones_are(store: Store) -> None:
    held, empty, lost = np.delete(ALL, [5, 6, 7]), ALL[5:7], ALL[7:8]
    silent = offer(held, NOW, no_trades=empty, unanswered=lost)
    publish_one(store, silent, NOW, [PARTITION])
    publish_one(store, silent, NOW + timedelta(hours=2), [PARTITION])
    found = entry(store)
    assert (found.actual_rows, found.no_trades_rows, found.unfillable_rows, found.missing_rows) == (1437, 2, 1, 1)
    assert (found.coverage_pct, found.complete, [gap.missing for gap in found.gaps]) == (99.93, False, [1])


def test_minutes_without_trades_of_a_complete_partition_are_not_counted_as_stored(store: Store) -> None:
    publish_one(store, offer(np.delete(ALL, [5]), NOW, no_trades=ALL[5:6]), NOW, [PARTITION])
    found = entry(store)
    assert (found.actual_rows, found.no_trades_rows, found.coverage_pct, found.complete) == (1439, 1, 100.0, True)


def test_a_window_may_begin_and_end_inside_a_partition(store: Store) -> None:
    fill(store, [PARTITION], [Vendor()], NOW)
    found = entry(store, "2025-11-20 10:00", "2025-11-20 11:00")
    assert (found.expected_rows, found.actual_rows, found.coverage_pct) == (60, 60, 100.0)


def test_nothing_is_expected_before_the_listing(store: Store) -> None:
    found = entry(store, listing_start=utc("2025-11-21"))
    assert (found.expected_rows, found.coverage_pct, list(found.gaps)) == (0, None, [])


def test_quarantined_rows_are_counted_and_flagged_ones_are_not(store: Store) -> None:
    def spoil(symbol: str, rows: list[list[float]]) -> list[list[float]]:
        for row in rows:
            if row[0] == us("2025-11-20 03:00"):
                row[1:5] = [value * 100 for value in row[1:5]]
            if row[0] == us("2025-11-20 04:00"):
                row[2] = -1.0
        return rows

    fill(store, [PARTITION], [Vendor(edit=spoil)], NOW)
    reasons = store.reader.quarantine("crypto", MINUTE)["reason"].to_pylist()
    assert sorted(set(reasons)) == ["negative", "price_spike"]
    assert entry(store).quarantined_rows == reasons.count("negative")


def test_each_symbol_has_an_entry_of_its_own(store: Store) -> None:
    fill(store, [PARTITION], [Vendor()], NOW)
    entries = report(store.reader, CRYPTO, MINUTE, [BTC, ETH], us(PARTITION), us("2025-11-21"), NOW)
    assert [(each.symbol, each.actual_rows) for each in entries] == [("BTC", 1440), ("ETH", 0)]


def test_a_vendor_for_each_partition_makes_a_mixed_entry(store: Store) -> None:
    fill(store, ["2025-11-19"], [Vendor()], NOW)
    fill(store, [PARTITION], [Vendor("kraken", omits_empty_buckets=False)], NOW)
    assert entry(store, "2025-11-19").vendor == "mixed"
