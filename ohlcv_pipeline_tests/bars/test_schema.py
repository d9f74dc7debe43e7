"""The rules a delivered row passes before it may be stored: bad rows are named, their neighbours kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ohlcv_pipeline.bars.schema import Delivery, Judged, judge
from ohlcv_pipeline.frames import BarColumns, Micros, bars_from_columns, floats, micros
from ohlcv_pipeline.markets import Interval, Market, to_us
from ohlcv_pipeline_tests.bars.vendor import (
    CRYPTO,
    DAY,
    MINUTE,
    NEW_YORK,
    Floats,
    bars_of,
    series,
    step,
    us,
    utc,
)

NOW = utc("2025-11-21 12:00")
START, END = us("2025-11-20"), us("2025-11-21")
AT = 20
"""Where the bad bar stands among forty."""


def delivery(buckets: Micros, values: Floats, start: int = START, end: int = END, **changes: Any) -> Delivery:
    given = {"vendor": "coinbase", "raw_id": "9f21", "fetched_at": NOW, **changes}
    return Delivery(BarColumns.of(buckets, values), start, end, **given)


def judged(*deliveries: Delivery, market: Market = CRYPTO, interval: Interval = MINUTE, now: int = 0) -> Judged:
    return judge(deliveries, market, interval, now or to_us(NOW))


def forty() -> tuple[Micros, Floats]:
    buckets = step("2025-11-20 10:00", 40)
    return buckets, series("BTC", MINUTE, buckets)


def set_value(row: int, value: float) -> Callable[[Micros, Floats], None]:
    def spoil(buckets: Micros, values: Floats) -> None:
        values[row, AT] = value

    return spoil


def high_below_low(buckets: Micros, values: Floats) -> None:
    values[[1, 2], AT] = values[[2, 1], AT]


def off_the_grid(buckets: Micros, values: Floats) -> None:
    buckets[AT] += 7_000_000


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        pytest.param(high_below_low, "bad_ohlc", id="high below low"),
        pytest.param(set_value(2, -1.0), "negative", id="negative low"),
        pytest.param(set_value(2, 0.0), "negative", id="price of nothing"),
        pytest.param(set_value(3, 1e6), "bad_ohlc", id="close above high"),
        pytest.param(set_value(0, 1e-6), "bad_ohlc", id="open below low"),
        pytest.param(set_value(3, np.nan), "not_finite", id="close is no number"),
        pytest.param(set_value(4, np.inf), "not_finite", id="infinite volume"),
        pytest.param(set_value(4, -0.5), "negative", id="negative volume"),
        pytest.param(off_the_grid, "not_aligned", id="seven seconds late"),
    ],
)
def test_a_bad_bar_is_quarantined_and_its_neighbours_are_kept(
    spoil: Callable[[Micros, Floats], None], reason: str
) -> None:
    buckets, values = forty()
    whole = buckets.copy()
    spoil(buckets, values)
    result = judged(delivery(buckets, values))
    assert micros(result.bars["bucket_start"]).tolist() == np.delete(whole, AT).tolist()
    (finding,) = result.findings
    assert (finding.reason, finding.published, finding.bucket_start) == (reason, False, int(buckets[AT]))
    assert (finding.vendor, finding.raw_id) == ("coinbase", "9f21")
    assert json.loads(finding.raw)["open"] == values[0, AT]


@pytest.mark.parametrize("factor", [100.0, 0.01])
def test_a_price_spike_is_stored_and_flagged(factor: float) -> None:
    buckets, values = forty()
    values[:4, AT] *= factor
    result = judged(delivery(buckets, values))
    assert result.bars.num_rows == 40
    (finding,) = result.findings
    assert (finding.reason, finding.published, finding.bucket_start) == ("price_spike", True, int(buckets[AT]))


@pytest.mark.parametrize("at", [0, 39])
def test_a_price_spike_at_the_edge_of_an_answer_is_flagged(at: int) -> None:
    buckets, values = forty()
    values[:4, at] *= 100
    assert [f.bucket_start for f in judged(delivery(buckets, values)).findings] == [int(buckets[at])]


def test_a_lasting_move_is_no_spike() -> None:
    buckets, values = forty()
    values[:4, AT:] *= 100
    assert judged(delivery(buckets, values)).findings == []


def test_an_absurd_volume_is_stored_and_flagged() -> None:
    buckets, values = forty()
    values[4, AT] = 1e9
    result = judged(delivery(buckets, values))
    assert result.bars.num_rows == 40
    assert [(f.reason, f.published) for f in result.findings] == [("volume_spike", True)]


def test_rows_in_any_order_are_sorted() -> None:
    buckets, values = forty()
    shuffled = np.random.default_rng(1).permutation(40)
    result = judged(delivery(buckets[shuffled], values[:, shuffled]))
    assert result.bars.equals(bars_from_columns(buckets, values))
    assert result.findings == []


def test_the_same_bucket_with_other_values_keeps_the_last_and_quarantines_the_others() -> None:
    buckets, values = forty()
    twice = np.append(buckets, buckets[AT])
    late = series("ETH", MINUTE, buckets[AT : AT + 1])
    result = judged(delivery(twice, np.hstack([values, late])))
    assert result.bars.num_rows == 40
    assert floats(result.bars["open"])[AT] == late[0, 0]
    (finding,) = result.findings
    assert (finding.reason, json.loads(finding.raw)["open"]) == ("duplicate_conflict", values[0, AT])
    assert result.duplicates.tolist() == [int(buckets[AT])]


def test_the_same_bucket_with_the_same_values_collapses_and_is_told() -> None:
    buckets, values = forty()
    again = np.append(np.arange(40), [AT, AT])
    result = judged(delivery(buckets[again], values[:, again]))
    assert result.bars.equals(bars_from_columns(buckets, values))
    assert (list(result.findings), result.duplicates.tolist()) == ([], [int(buckets[AT])])


def test_the_later_of_two_answers_wins_without_a_word() -> None:
    buckets, values = forty()
    first, second = delivery(buckets, values, raw_id="one"), delivery(buckets, values * 1.001, raw_id="two")
    result = judged(first, second)
    assert result.bars.equals(second.bars.table())
    assert set(result.source.tolist()) == {1}
    assert (list(result.findings), len(result.duplicates)) == ([], 0)


def test_bars_know_the_answer_they_came_from() -> None:
    buckets, values = forty()
    result = judged(delivery(buckets[:25], values[:, :25]), delivery(buckets[25:], values[:, 25:]))
    assert result.source.tolist() == [0] * 25 + [1] * 15


def test_the_forming_bar_and_one_younger_than_the_publish_delay_are_dropped() -> None:
    buckets = step("2025-11-21 11:55", 6)
    window = {"start": us("2025-11-21"), "end": us("2025-11-22")}
    result = judged(delivery(buckets, series("BTC", MINUTE, buckets), **window))
    assert micros(result.bars["bucket_start"])[-1] == us("2025-11-21 11:57")
    assert (result.dropped, list(result.findings)) == ({"forming": 3}, [])


def test_a_bar_stamped_in_the_future_is_quarantined() -> None:
    buckets = np.array([us("2025-11-20 10:00"), us("2025-11-21 12:01"), us("2031-01-01")])
    result = judged(delivery(buckets, series("BTC", MINUTE, buckets), end=us("2040-01-01")))
    assert result.bars.num_rows == 1
    assert [f.reason for f in result.findings] == ["future_bucket"] * 2


def test_rows_outside_the_window_that_was_asked_for_are_dropped_and_counted() -> None:
    buckets, values = forty()
    result = judged(delivery(buckets, values, start=int(buckets[5]), end=int(buckets[30])))
    assert micros(result.bars["bucket_start"]).tolist() == buckets[5:30].tolist()
    assert result.dropped == {"outside_window": 15}


def test_a_half_day_delivered_with_390_rows_keeps_210() -> None:
    buckets = step("2025-11-28 14:30", 390)
    window = {"start": us("2025-11-28"), "end": us("2025-11-29")}
    now = us("2025-12-01")
    result = judged(delivery(buckets, series("AAPL", MINUTE, buckets), **window), market=NEW_YORK, now=now)
    assert (result.bars.num_rows, result.dropped) == (210, {"out_of_session": 180})


def test_pre_market_and_the_closing_print_are_out_of_session() -> None:
    buckets = np.array([us("2025-11-20 14:29"), us("2025-11-20 14:30"), us("2025-11-20 20:59"), us("2025-11-20 21:00")])
    result = judged(delivery(buckets, series("AAPL", MINUTE, buckets)), market=NEW_YORK)
    assert micros(result.bars["bucket_start"]).tolist() == buckets[1:3].tolist()
    assert result.dropped == {"out_of_session": 2}


@pytest.mark.parametrize(
    ("day", "opens", "closes"),
    [
        ("2025-03-07", "14:30", "21:00"),
        ("2025-03-10", "13:30", "20:00"),
        ("2025-07-03", "13:30", "17:00"),
        ("2025-12-24", "14:30", "18:00"),
    ],
)
def test_only_the_session_is_kept_of_a_vendors_whole_day(day: str, opens: str, closes: str) -> None:
    first, close = us(f"{day} {opens}"), us(f"{day} {closes}")
    buckets = step(f"{day} 09:00", 15 * 60)
    asked = delivery(buckets, series("AAPL", MINUTE, buckets), start=first, end=close)
    result = judged(asked, market=NEW_YORK, now=us("2026-01-02"))
    kept = micros(result.bars["bucket_start"])
    assert (int(kept[0]), int(kept[-1]) + MINUTE.step_us) == (first, close)
    # Counted as what they are, though none of them was asked for.
    assert result.dropped == {"out_of_session": 900 - len(kept)}
    assert not result.findings


def test_a_session_minute_that_was_not_asked_for_is_outside_the_window() -> None:
    buckets = step("2025-11-20 14:28", 10)
    asked = delivery(buckets, series("AAPL", MINUTE, buckets), start=us("2025-11-20 14:33"), end=us("2025-11-20 21:00"))
    assert judged(asked, market=NEW_YORK).dropped == {"out_of_session": 2, "outside_window": 3}


def test_a_bar_of_a_session_that_is_not_on_the_minute_is_quarantined() -> None:
    buckets = np.array([us("2025-11-20 14:31"), us("2025-11-20 14:31:30"), us("2025-11-20 14:33")])
    result = judged(delivery(buckets, series("AAPL", MINUTE, buckets)), market=NEW_YORK)
    assert (result.bars.num_rows, [f.reason for f in result.findings]) == (2, ["not_aligned"])


def test_a_day_bar_of_a_holiday_is_dropped_and_one_stamped_at_local_midnight_quarantined() -> None:
    buckets = np.array([us("2025-11-26"), us("2025-11-27"), us("2025-11-28 05:00")])
    result = judged(
        delivery(buckets, series("AAPL", DAY, buckets), start=us("2025-11-01"), end=us("2025-12-01")),
        market=NEW_YORK, interval=DAY, now=us("2025-12-02"),
    )  # fmt: skip
    assert micros(result.bars["bucket_start"]).tolist() == [us("2025-11-26")]
    assert (result.dropped, [f.reason for f in result.findings]) == ({"out_of_session": 1}, ["not_aligned"])


def test_a_day_bar_of_a_session_is_final_an_hour_after_the_scheduled_close() -> None:
    buckets = step("2025-11-28", 1, DAY)
    bar = delivery(buckets, series("AAPL", DAY, buckets), start=us("2025-11-01"), end=us("2025-12-01"))
    for now, rows in [("2025-11-28 18:59", 0), ("2025-11-28 19:00", 1)]:
        assert judged(bar, market=NEW_YORK, interval=DAY, now=us(now)).bars.num_rows == rows


def test_a_bar_without_trades_is_stored_as_it_was_delivered() -> None:
    buckets, values = forty()
    values[4, AT] = 0.0
    result = judged(delivery(buckets, values))
    assert result.bars.num_rows == 40
    assert floats(result.bars["volume"])[AT] == 0.0


def test_what_the_adapter_could_not_read_is_a_finding_too() -> None:
    buckets, values = forty()
    result = judged(delivery(buckets, values, rejects=[(None, "naive_time", "2025-11-02 01:30")]))
    assert [(f.bucket_start, f.reason, f.raw) for f in result.findings] == [(None, "naive_time", "2025-11-02 01:30")]


def test_no_rows_make_no_bars() -> None:
    assert judged().bars.num_rows == 0
    assert judged(delivery(step("2025-11-20", 0), np.empty((5, 0)))).bars.num_rows == 0


@given(st.permutations(range(12)), st.lists(st.integers(0, 11), max_size=6), st.sets(st.integers(0, 11), max_size=3))
def test_good_bars_come_out_whole_whatever_stands_between_them(
    order: list[int], repeated: list[int], spoilt: set[int]
) -> None:
    buckets = step("2025-11-20 10:00", 12)
    values = series("BTC", MINUTE, buckets)
    values[1, sorted(spoilt)] = -1.0
    rows = np.array([*order, *repeated])
    result = judged(delivery(buckets[rows], values[:, rows]))
    good = np.setdiff1d(np.arange(12), sorted(spoilt))
    expected: pa.Table = bars_of("BTC", MINUTE, buckets[good])
    assert result.bars.equals(expected)
    assert len(result.findings) == sum(int(r in spoilt) for r in rows)
