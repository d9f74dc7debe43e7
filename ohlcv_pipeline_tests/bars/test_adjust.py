"""Adjusted prices against the vendor's own, against recorded factors, and against arithmetic by hand."""

from __future__ import annotations

import io
import zipfile
from datetime import datetime

import numpy as np
import orjson
import pyarrow as pa
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ohlcv_pipeline.bars.adjust import adjustment, later_product
from ohlcv_pipeline.bars.jumps import Jump, split_like_jumps
from ohlcv_pipeline.frames import Floats, bars_from_columns, floats, micros
from ohlcv_pipeline.markets import from_us
from ohlcv_pipeline.vendors.base import ACTION_SCHEMA
from ohlcv_pipeline.vendors.tiingo import parse_actions, parse_daily
from ohlcv_pipeline_tests.bars.vendor import DAY, MINUTE, NEW_YORK, bars_of, us, utc
from ohlcv_pipeline_tests.vendors.wire import recorded

CALENDAR = NEW_YORK.calendar


def actions(*rows: tuple[str, str, float]) -> pa.Table:
    return pa.Table.from_pylist(
        [{"ex_date": utc(day), "kind": kind, "value": value} for day, kind, value in rows], ACTION_SCHEMA
    )


def flat(start: str, prices: list[float], volume: float = 100.0) -> pa.Table:
    """Days of New York from a date on, each with one price."""
    labels = CALENDAR.labels[np.searchsorted(CALENDAR.labels, us(start)) :][: len(prices)]
    return bars_from_columns(labels, np.vstack([[prices] * 4, [[volume] * len(prices)]]))


SPLIT = ("2025-06-10", "split", 4.0)
CASH = ("2025-06-12", "dividend", 1.0)
WEEK = flat("2025-06-06", [400.0, 400.0, 100.0, 100.0, 99.0])


def closes(mode: str, days: pa.Table = WEEK, *rows: tuple[str, str, float]) -> list[float]:
    known = adjustment(actions(*(rows or (SPLIT, CASH))), days, CALENDAR, mode)  # type: ignore[arg-type]
    return floats(known.apply(days, DAY)["close"]).tolist()


def test_a_split_divides_what_was_before_it() -> None:
    assert closes("raw") == [400, 400, 100, 100, 99]
    assert closes("split") == [100, 100, 100, 100, 99]


def test_a_dividend_takes_its_part_of_the_close_before_it() -> None:
    assert closes("all") == pytest.approx([99, 99, 99, 99, 99], abs=1e-12)


def test_volume_is_multiplied_by_splits_and_never_by_dividends_and_trades_stay() -> None:
    bars = bars_from_columns(micros(WEEK["bucket_start"]), np.vstack([[[400.0] * 5] * 4, [[10.0] * 5]]),
                             trade_count=np.full(5, 7), vwap=np.array([400.0, np.nan, 100, 100, 99]))  # fmt: skip
    done = adjustment(actions(SPLIT, CASH), WEEK, CALENDAR, "split").apply(bars, DAY)
    assert floats(done["volume"]).tolist() == [40, 40, 10, 10, 10]
    assert done["trade_count"].to_pylist() == [7] * 5
    assert done["vwap"].to_pylist() == [100, None, 100, 100, 99]
    assert done.schema == bars.schema


def test_minutes_change_at_the_opening_of_the_ex_date() -> None:
    opens = int(CALENDAR.opens[CALENDAR.session_index(datetime(2025, 6, 10).date())])
    buckets = np.array([us("2025-06-09 19:59"), opens - 60_000_000, opens, us("2025-06-11 14:00")])
    minutes = bars_of("NVDA", MINUTE, buckets)
    done = adjustment(actions(SPLIT), WEEK, CALENDAR, "split").apply(minutes, MINUTE)
    assert np.allclose(floats(minutes["open"]) / floats(done["open"]), [4, 4, 1, 1])


def test_an_action_dated_on_a_holiday_counts_from_the_next_session() -> None:
    days = flat("2025-12-23", [50.0, 50.0, 25.0])
    assert closes("split", days, ("2025-12-25", "split", 2.0)) == [25, 25, 25]


def test_a_dividend_whose_close_is_not_stored_is_refused_with_the_day_and_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"no day bar of the session before, 2025-06-11; fetch the days with `ohlcv"):
        closes("all", WEEK.slice(0, 3))
    assert closes("split", WEEK.slice(0, 3)) == [100, 100, 100]


def test_a_dividend_above_the_close_is_refused() -> None:
    with pytest.raises(ValueError, match="dividend of 120 after 2025-06-11 is not below that day's close of 100"):
        closes("all", WEEK, ("2025-06-12", "dividend", 120.0))


def test_what_happened_before_the_window_needs_no_close() -> None:
    known = adjustment(actions(SPLIT, CASH), WEEK.slice(4), CALENDAR, "all", since_us=us("2025-06-12 14:00"))
    assert len(known.days) == 0


@given(
    st.lists(st.tuples(st.integers(0, 50), st.floats(0.01, 20)), max_size=12),
    st.lists(st.integers(-5, 60), max_size=20),
)
def test_a_factor_is_the_product_of_all_later_steps(steps: list[tuple[int, float]], starts: list[int]) -> None:
    steps.sort()
    ex, factor = np.array([s for s, _ in steps], np.int64), np.array([f for _, f in steps], float)
    found = later_product(np.array(starts, np.int64), ex, factor)
    expected = [float(np.prod([f for s, f in steps if s > start])) for start in starts]
    assert np.allclose(found, expected, rtol=1e-12)


@given(st.permutations([SPLIT, CASH, ("2025-06-11", "split", 0.5), ("2025-06-11", "dividend", 2.0)]))
def test_the_order_of_the_actions_does_not_matter(rows: list[tuple[str, str, float]]) -> None:
    assert closes("all", WEEK, *rows) == pytest.approx(closes("all", WEEK, *sorted(rows)), rel=1e-12)


def cassettes(name: str) -> list[bytes]:
    taken = yaml.safe_load(recorded(f"tiingo/tests/fixtures/{name}.yaml"))
    return [each["response"]["body"]["string"].encode() for each in taken["interactions"]]


@pytest.mark.parametrize("name", ["ticker_price", "ticker_price_with_date", "ticker_price_pandas_single"])
def test_recorded_days_are_adjusted_as_tiingo_adjusts_them_by_what_the_answer_tells(name: str) -> None:
    for body in cassettes(name):
        rows = orjson.loads(body)
        bars, told = parse_daily(body).bars.table(), parse_actions(body).table
        done = adjustment(told, bars, CALENDAR, "all").apply(bars, DAY)
        # The recordings end before the next action of their share: up to that constant factor they are equal.
        theirs = np.array([row["adjClose"] for row in rows])
        ratio = theirs / floats(done["close"])
        assert np.ptp(ratio) / ratio[-1] < 1e-6


def lean_days() -> pa.Table:
    """Apple's days as traded from 1998 to 2021; prices in LEAN's files are in ten-thousandths of a dollar."""
    archive = zipfile.ZipFile(io.BytesIO(recorded("lean/equity_usa_daily/aapl.zip")))
    lines = archive.read(archive.namelist()[0]).decode().splitlines()
    rows = [line.split(",") for line in lines]
    starts = np.array([us(f"{row[0][:4]}-{row[0][4:6]}-{row[0][6:8]}") for row in rows])
    values = np.array([[float(cell) for cell in row[1:6]] for row in rows]).T
    values[:4] /= 10_000
    return bars_from_columns(starts, values)


def lean_factors() -> list[tuple[int, float, float, float]]:
    """Rows of Apple's factor file: last session before an event, price factor, split factor, its raw close."""
    lines = recorded("lean/factor_files/aapl.csv").decode().split()
    found = []
    for line in lines:
        day, price, split, close = line.split(",")
        found.append((us(f"{day[:4]}-{day[4:6]}-{day[6:]}"), float(price), float(split), float(close)))
    return found


def lean_actions() -> pa.Table:
    """Apple's splits and dividends, worked out of the factor file."""
    rows = lean_factors()
    told: list[tuple[str, str, float]] = []
    for (last, price, split, close), (_, later_price, later_split, _) in zip(rows, rows[1:], strict=False):
        ex = int(CALENDAR.labels[np.searchsorted(CALENDAR.labels, last, side="right")])
        day = from_us(ex).date().isoformat()
        if later_price != price:
            told.append((day, "dividend", (1 - price / later_price) * close))
        if later_split != split:
            told.append((day, "split", float(round(later_split / split))))
    return actions(*[row for row in told if row[0] > "1998-01-05" and row[0] < "2050"])


def test_apples_days_are_adjusted_by_leans_factors() -> None:
    days, told = lean_days(), lean_actions()
    assert [row["value"] for row in told.to_pylist() if row["kind"] == "split"] == [2.0, 2.0, 7.0, 4.0]
    done = adjustment(told, days, CALENDAR, "all").apply(days, DAY)
    ours = floats(done["close"]) / floats(days["close"])
    edges = lean_factors()
    after = np.searchsorted([row[0] for row in edges], micros(days["bucket_start"]))
    theirs = np.array([row[1] * row[2] for row in edges])[np.minimum(after, len(edges) - 1)]
    assert np.max(np.abs(ours / theirs - 1)) < 5e-6


def named(jumps: list[Jump]) -> list[tuple[str, float]]:
    return [(f"{from_us(jump.session_us):%Y-%m-%d}", round(jump.split, 4)) for jump in jumps]


def test_part_c_36_without_its_actions_every_split_of_apple_is_flagged_and_its_crash_is_not() -> None:
    days = lean_days()
    assert named(split_like_jumps(days, actions())) == [
        ("2000-06-21", 2.0), ("2005-02-28", 2.0), ("2014-06-09", 7.0), ("2020-08-31", 4.0),
    ]  # fmt: skip


def test_with_its_actions_nothing_of_apple_is_flagged() -> None:
    assert split_like_jumps(lean_days(), lean_actions()) == []


QUIET = [100.0] * 25


def test_a_jump_is_flagged_with_its_date_ratio_and_what_was_told() -> None:
    days = flat("2025-05-05", QUIET + [50.0] * 5)
    (jump,) = split_like_jumps(days, actions())
    session = from_us(int(micros(days["bucket_start"])[25])).date().isoformat()
    assert (named([jump]), jump.ratio, jump.told) == ([(session, 2.0)], 2.0, 1.0)
    assert split_like_jumps(days, actions((session, "split", 2.0))) == []
    assert split_like_jumps(days, actions((session, "dividend", 50.0))) == []
    # An action that tells of another ratio explains nothing.
    (wrong,) = split_like_jumps(days, actions((session, "split", 4.0)))
    assert (wrong.split, wrong.told) == (pytest.approx(0.5), 4.0)


def test_one_share_for_ten_is_flagged_too() -> None:
    few = pa.concat_tables([flat("2025-05-05", QUIET), flat("2025-06-10", [1000.0] * 5, volume=10.0)])
    (jump,) = split_like_jumps(few, actions())
    assert jump.split == pytest.approx(0.1)


def test_a_bad_print_that_does_not_last_is_no_split() -> None:
    """IBM's close of 2002-12-23 was twice as high as the days around it."""
    assert split_like_jumps(flat("2025-05-05", QUIET + [200.0] + QUIET), actions()) == []


def test_part_c_36_half_the_price_in_a_crowd_is_a_crash() -> None:
    days = flat("2025-05-05", QUIET + [50.0] * 5)
    volume: Floats = floats(days["volume"]).copy()
    volume[25] *= 20
    at = days.schema.get_field_index("volume")
    assert split_like_jumps(days.set_column(at, days.schema.field(at), pa.array(volume)), actions()) == []


def test_a_split_of_the_newest_session_is_flagged_at_once() -> None:
    assert len(split_like_jumps(flat("2025-05-05", [*QUIET, 50.0]), actions())) == 1
    assert split_like_jumps(flat("2025-05-05", [100.0]), actions()) == []
