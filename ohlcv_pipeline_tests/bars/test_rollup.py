"""Longer intervals, computed from minutes as they are read."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ohlcv_pipeline.bars.access import Lake
from ohlcv_pipeline.bars.rollup import WIDTHS, bucket_of, roll_up
from ohlcv_pipeline.frames import EMPTY_BARS, bars_from_columns, micros
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline.markets import from_us
from ohlcv_pipeline_tests.bars.vendor import CRYPTO, MINUTE, Vendor, fill, offer, publish_one, series, step, us, utc

NOW = utc("2025-11-21 12:00")
RULES = {"5m": "5min", "15m": "15min", "30m": "30min", "1h": "1h", "4h": "4h", "1d": "1D"}


def minutes(positions: set[int], start: str = "2025-11-20") -> pa.Table:
    buckets = us(start) + np.array(sorted(positions), np.int64) * MINUTE.step_us
    values = series("BTC", MINUTE, buckets)
    counts = np.arange(1, len(buckets) + 1)
    return bars_from_columns(buckets, values, trade_count=counts, vwap=(values[0] + values[3]) / 2)


def by_pandas(bars: pa.Table, rule: str, **options: str) -> pd.DataFrame:
    frame = bars.to_pandas().set_index("bucket_start")
    frame["turnover"] = frame["vwap"] * frame["volume"]
    grouped = frame.resample(rule, **options)
    rolled = grouped.agg(
        {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum", "trade_count": "sum",
         "turnover": "sum"}
    )[grouped["open"].count() > 0]  # fmt: skip
    rolled["vwap"] = rolled["turnover"] / rolled["volume"]
    return rolled.drop(columns="turnover")


def assert_same(rolled: pa.Table, frame: pd.DataFrame) -> None:
    ours = rolled.to_pandas().set_index("bucket_start")
    pd.testing.assert_frame_equal(ours, frame, check_dtype=False, check_freq=False, check_index_type=False, rtol=1e-12)
    for column in ("open", "high", "low", "close"):
        assert ours[column].tolist() == frame[column].tolist()


@pytest.mark.parametrize("code", RULES)
@settings(max_examples=25)
@given(positions=st.sets(st.integers(0, 3_000), min_size=1, max_size=200))
def test_a_roll_up_is_what_pandas_resamples(code: str, positions: set[int]) -> None:
    bars = minutes(positions)
    assert_same(roll_up(bars, code), by_pandas(bars, RULES[code]))


@settings(max_examples=50)
@given(st.sets(st.integers(0, 40_000), min_size=1, max_size=100))
def test_weeks_begin_on_monday(positions: set[int]) -> None:
    bars = minutes(positions)
    rolled = roll_up(bars, "1w")
    assert all(from_us(int(start)).weekday() == 0 for start in micros(rolled["bucket_start"]))
    assert_same(rolled, by_pandas(bars, "W-MON", label="left", closed="left"))


@pytest.mark.parametrize(
    ("code", "start"),
    [("5m", "2025-11-20 14:35"), ("1h", "2025-11-20 14:00"), ("4h", "2025-11-20 12:00"), ("1w", "2025-11-17")],
)
def test_a_bucket_is_aligned_to_the_epoch_and_a_week_to_its_monday(code: str, start: str) -> None:
    assert bucket_of(us("2025-11-20 14:37"), code) == us(start)
    assert bucket_of(us(start), code) == us(start)


def test_the_bucket_of_an_instant_before_the_epoch_begins_before_it() -> None:
    assert bucket_of(us("1969-12-31 23:59"), "1h") == us("1969-12-31 23:00")


def test_counts_and_vwap_are_null_where_a_minute_has_none() -> None:
    buckets = step("2025-11-20", 10)
    rolled = roll_up(bars_from_columns(buckets, series("BTC", MINUTE, buckets)), "5m")
    assert rolled["trade_count"].null_count == rolled["vwap"].null_count == 2


def test_a_bucket_without_volume_has_no_vwap() -> None:
    buckets = step("2025-11-20", 5)
    values = series("BTC", MINUTE, buckets)
    values[4] = 0.0
    rolled = roll_up(bars_from_columns(buckets, values, vwap=np.full(5, np.nan)), "5m")
    assert rolled["vwap"].to_pylist() == [None]
    assert rolled["volume"].to_pylist() == [0.0]


def test_nothing_rolls_up_to_nothing() -> None:
    assert roll_up(EMPTY_BARS, "1h").equals(EMPTY_BARS)


def test_an_unknown_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="5m, 15m, 30m"):
        bucket_of(0, "2h")


def lake(store: Store) -> Lake:
    return Lake(store.reader, [CRYPTO])


def test_a_roll_up_whose_last_minute_is_not_stored_yet_is_left_out(store: Store) -> None:
    fill(store, ["2025-11-21"], [Vendor()], utc("2025-11-21 11:00"))
    read = lake(store).bars("BTC", "1h", "2025-11-21", "2025-11-22")
    assert read.index[-1] == pd.Timestamp("2025-11-21 09:00", tz="UTC")
    fill(store, ["2025-11-21"], [Vendor()], utc("2025-11-21 11:01"))
    assert lake(store).bars("BTC", "1h", "2025-11-21", "2025-11-22").index[-1].hour == 9
    fill(store, ["2025-11-21"], [Vendor()], utc("2025-11-21 11:02"))
    assert lake(store).bars("BTC", "1h", "2025-11-21", "2025-11-22").index[-1].hour == 10


def test_a_roll_up_whose_last_minute_had_no_trades_is_kept_once_a_later_bar_is_stored(store: Store) -> None:
    buckets = np.delete(step("2025-11-20", 180), 119)
    publish_one(store, offer(buckets, NOW), NOW, ["2025-11-20"])
    read = lake(store).bars("BTC", "1h", "2025-11-20", "2025-11-20T02:00:00Z")
    assert read.index.hour.tolist() == [0, 1]


@pytest.mark.parametrize("code", WIDTHS)
def test_a_window_holds_whole_roll_ups_that_begin_in_it(store: Store, code: str) -> None:
    days = ["2025-11-17", "2025-11-18", "2025-11-19", "2025-11-20"]
    fill(store, days, [Vendor()], NOW)
    start, end = utc("2025-11-18 00:01"), utc("2025-11-19 12:01")
    read = lake(store).bars("BTC", code, start, end)
    assert all(start <= moment < end for moment in read.index)
    stored = store.reader.bars("crypto", MINUTE, "BTC", us(days[0]), us("2025-11-21"))
    whole = roll_up(stored, code).to_pandas().set_index("bucket_start")
    inside = whole[(whole.index >= start) & (whole.index < end)]
    pd.testing.assert_frame_equal(pd.DataFrame(read), inside, check_dtype=False)


def test_minutes_and_days_are_read_as_they_are_stored(store: Store) -> None:
    fill(store, ["2025-11-20"], [Vendor()], NOW)
    read = lake(store).bars("BTC", "1m", "2025-11-20", "2025-11-21")
    assert (len(read), read.index.name, str(read.index.tz)) == (1440, "bucket_start", "UTC")
    assert lake(store).bars("BTC", "day", "2025-11-20", "2025-11-21").empty


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("BTC", "7m", "2025-11-20", "2025-11-21"), "7m"),
        (("BTC", "1h", "2025-11-20T00:00:00", "2025-11-21"), "no time zone"),
        (("BTC", "1h", "2025-11-21", "2025-11-20"), "must be after"),
        (("PEPE", "1h", "2025-11-20", "2025-11-21"), "no bars of PEPE"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(
    store: Store, arguments: tuple[str, str, str, str], message: str
) -> None:
    fill(store, ["2025-11-20"], [Vendor()], NOW)
    with pytest.raises(ValueError, match=message):
        lake(store).bars(*arguments)
