"""Ingestion of a market with sessions: what is complete and when, and what is never asked for."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ohlcv_pipeline.bars.planning import unopened
from ohlcv_pipeline.bars.report import report
from ohlcv_pipeline.bars.verify import verify
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline_tests.bars.vendor import (
    AAPL,
    CRYPTO,
    DAY,
    MINUTE,
    NEW_YORK,
    Rows,
    Vendor,
    fill,
    new_store,
    us,
    utc,
)

HALF_DAY, CLOSE = "2025-11-28", utc("2025-11-28 18:00")
AROUND = ["2025-11-26", HALF_DAY, "2025-12-01"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = new_store(tmp_path, NEW_YORK.name)
    yield made
    made.catalog.close()


def ingest(store: Store, partitions: list[str], now: str, vendor: Vendor | None = None, **options: Any) -> Vendor:
    vendor = vendor or Vendor("alpaca", page_rows=10_000, market=NEW_YORK)
    fill(store, partitions, [vendor], utc(now), market=NEW_YORK, instruments=[AAPL], **options)
    return vendor


def cells(store: Store) -> dict[str, tuple[int, int, bool]]:
    rows = store.reader.manifest(NEW_YORK.name, MINUTE).to_pylist()
    return {row["partition"]: (row["rows"], row["expected_rows"], row["complete"]) for row in rows}


def test_sessions_are_complete_with_390_minutes_and_a_half_day_with_210(store: Store) -> None:
    ingest(store, AROUND, "2025-12-02")
    assert cells(store) == {key: (n, n, True) for key, n in zip(AROUND, (390, 210, 390), strict=True)}
    (entry,) = report(store.reader, NEW_YORK, MINUTE, [AAPL], us("2025-11-26"), us("2025-12-02"), utc("2025-12-02"))
    assert (entry.expected_rows, entry.coverage_pct, entry.gaps) == (990, 100.0, [])
    assert verify(store.reader, NEW_YORK, MINUTE).passed


@pytest.mark.parametrize(
    ("now", "rows", "complete"),
    [
        ("2025-11-28 15:00", 14, False),
        ("2025-11-28 18:00", 194, False),
        ("2025-11-28 18:15:59", 209, False),
        ("2025-11-28 18:16", 210, True),
    ],
)
def test_a_session_is_complete_only_when_its_close_is_older_than_the_publish_delay(
    store: Store, now: str, rows: int, complete: bool
) -> None:
    ingest(store, [HALF_DAY], now)
    assert cells(store) == {HALF_DAY: (rows, rows, complete)}


def test_a_session_is_continued_from_its_newest_bar(store: Store) -> None:
    ingest(store, [HALF_DAY], "2025-11-28 15:00")
    asked = ingest(store, [HALF_DAY], "2025-11-28 18:16").asked
    assert asked == [("AAPL", us("2025-11-28 14:43"), us("2025-11-28 18:00"))]
    assert cells(store) == {HALF_DAY: (210, 210, True)}


def test_a_complete_session_is_not_asked_for_again(store: Store) -> None:
    ingest(store, AROUND, "2025-12-02")
    assert ingest(store, AROUND, "2025-12-02 15:00").asked == []


def test_a_session_that_has_not_opened_has_nothing_to_fetch(store: Store) -> None:
    assert ingest(store, [HALF_DAY], "2025-11-27 15:00").asked == []
    assert cells(store) == {}
    assert unopened(NEW_YORK, MINUTE, AROUND, utc("2025-11-27 15:00")) == {
        HALF_DAY: utc("2025-11-28 14:30"),
        "2025-12-01": utc("2025-12-01 14:30"),
    }
    assert unopened(NEW_YORK, MINUTE, [HALF_DAY], utc("2025-11-28 14:30")) == {}
    assert unopened(CRYPTO, MINUTE, ["2025-11-28"], utc("2025-11-27 23:59")) == {"2025-11-28": utc("2025-11-28")}


def test_part_c_49_minutes_stamped_at_their_close_never_pass_for_a_whole_session(store: Store) -> None:
    def closing(symbol: str, rows: Rows) -> Rows:
        return [[row[0] + MINUTE.step_us, *row[1:]] for row in rows]

    vendor = Vendor("alpaca", page_rows=10_000, market=NEW_YORK, edit=closing)
    outcome = fill(store, AROUND, [vendor], utc("2025-12-02"), market=NEW_YORK, instruments=[AAPL])
    # The last minute seems to begin when the session ends, and the minute of the opening auction is not there.
    assert outcome.dropped["out_of_session"] == len(AROUND)
    assert cells(store) == {key: (n - 1, n, False) for key, n in zip(AROUND, (390, 210, 390), strict=True)}
    (entry,) = report(store.reader, NEW_YORK, MINUTE, [AAPL], us("2025-11-26"), us("2025-12-02"), utc("2025-12-02"))
    assert [(gap.first_us, gap.missing) for gap in entry.gaps] == [(us(f"{day} 14:30"), 1) for day in AROUND]


def test_an_order_for_a_holiday_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="2025-11-27 is not a session of calendar XNYS"):
        ingest(store, ["2025-11-27"], "2025-12-02")


def test_a_month_of_days_is_complete_an_hour_after_its_last_close(store: Store) -> None:
    for now, rows, complete in [(CLOSE + timedelta(minutes=59), 18, False), (CLOSE + timedelta(minutes=60), 19, True)]:
        vendor = Vendor("alpaca", market=NEW_YORK)
        fill(store, ["2025-11"], [vendor], now, market=NEW_YORK, instruments=[AAPL], interval=DAY)
        (row,) = store.reader.manifest(NEW_YORK.name, DAY).to_pylist()
        assert (row["rows"], row["expected_rows"], row["complete"]) == (rows, rows, complete)
    assert row["last_bucket"] == utc(HALF_DAY)


def test_minutes_lost_around_a_night_are_one_gap_of_the_buckets_that_were_due(store: Store) -> None:
    lost = {("AAPL", us("2025-11-26 20:00") + k * 60_000_000) for k in range(60)}
    lost |= {("AAPL", us("2025-11-28 14:30") + k * 60_000_000) for k in range(5)}
    vendor = Vendor("alpaca", page_rows=10_000, market=NEW_YORK, silent=lost)
    ingest(store, AROUND, "2025-12-02", vendor)
    (entry,) = report(store.reader, NEW_YORK, MINUTE, [AAPL], us("2025-11-26"), us("2025-12-02"), utc("2025-12-02"))
    (gap,) = entry.gaps
    assert (gap.first_us, gap.last_us, gap.missing) == (us("2025-11-26 20:00"), us("2025-11-28 14:34"), 65)
    assert entry.coverage_pct == 93.43
