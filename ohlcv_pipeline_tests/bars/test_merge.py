"""What changes when delivered bars meet the stored ones."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ohlcv_pipeline.bars.merge import Merged, merge
from ohlcv_pipeline.frames import TIMESTAMP, Micros, bars_from_columns, floats, micros
from ohlcv_pipeline.lake.tables import STORED_BARS
from ohlcv_pipeline_tests.bars.vendor import MINUTE, RUN, Floats, series, step, utc

MINUTES = step("2025-11-20", 60)
RANKS = {"coinbase": 0, "kraken": 1}


def stored(buckets: Micros, values: Floats | None = None, vendor: str = "coinbase") -> pa.Table:
    bars = bars_from_columns(buckets, series("BTC", MINUTE, buckets) if values is None else values)
    n = len(buckets)
    return pa.Table.from_arrays(
        [
            pa.array(["BTC"] * n, pa.string()), *bars.columns, pa.array([vendor] * n, pa.string()),
            pa.array([utc("2025-11-20 02:00")] * n, TIMESTAMP), pa.array([RUN] * n, pa.string()),
            pa.array([utc("2025-11-20 02:01")] * n, TIMESTAMP),
        ],
        schema=STORED_BARS,
    )  # fmt: skip


def scaled(factor: float, count: int) -> Floats:
    """Return the series with the prices of its first bars multiplied."""
    values = series("BTC", MINUTE, MINUTES)
    values[:4, :count] *= factor
    return values


def merged(before: pa.Table, after: pa.Table, *, force: bool = False) -> Merged:
    return merge(before, after, RANKS.__getitem__, force=force)


def counts(result: Merged) -> tuple[int, int, int, int]:
    return result.bars.num_rows, result.inserted.num_rows, result.superseded.num_rows, result.refused


def test_the_first_bars_are_inserted() -> None:
    assert counts(merged(stored(MINUTES[:0]), stored(MINUTES))) == (60, 60, 0, 0)


def test_nothing_offered_changes_nothing() -> None:
    assert counts(merged(stored(MINUTES), stored(MINUTES[:0]))) == (60, 0, 0, 0)


def test_only_what_is_new_is_inserted() -> None:
    result = merged(stored(MINUTES[10:40]), stored(MINUTES))
    assert counts(result) == (60, 30, 0, 0)
    assert micros(result.bars["bucket_start"]).tolist() == MINUTES.tolist()


def test_unchanged_bars_stay_with_the_run_that_delivered_them() -> None:
    assert counts(merged(stored(MINUTES), stored(MINUTES, vendor="kraken"))) == (60, 0, 0, 0)


@pytest.mark.parametrize(("held", "offering"), [("coinbase", "coinbase"), ("kraken", "kraken"), ("kraken", "coinbase")])
def test_the_same_or_a_higher_rank_replaces_a_bar(held: str, offering: str) -> None:
    result = merged(stored(MINUTES, vendor=held), stored(MINUTES, scaled(1.5, 3), vendor=offering))
    assert counts(result) == (60, 3, 3, 0)
    assert result.superseded.equals(stored(MINUTES[:3], vendor=held))
    assert floats(result.bars["open"])[0] == scaled(1.5, 3)[0, 0]


def test_a_lower_rank_is_refused_where_it_disagrees_and_fills_what_is_missing() -> None:
    result = merged(stored(MINUTES[:50]), stored(MINUTES, scaled(1.5, 3), vendor="kraken"))
    assert counts(result) == (60, 10, 0, 3)
    assert result.bars["source_vendor"].to_pylist() == ["coinbase"] * 50 + ["kraken"] * 10


def test_force_lets_any_vendor_replace_any_bar() -> None:
    result = merged(stored(MINUTES), stored(MINUTES, scaled(1.5, 40), vendor="kraken"), force=True)
    assert counts(result) == (60, 40, 40, 0)


@pytest.mark.parametrize("factor", [0.1, 2.0, 1.011])
def test_a_constant_factor_on_20_bars_is_a_correction_and_on_21_is_none(factor: float) -> None:
    assert counts(merged(stored(MINUTES), stored(MINUTES, scaled(factor, 20)))) == (60, 20, 20, 0)
    shifted = merged(stored(MINUTES), stored(MINUTES, scaled(factor, 21)))
    assert shifted.shifted
    assert counts(shifted) == (60, 0, 0, 0)


def test_a_factor_within_a_hundredth_of_one_is_a_correction() -> None:
    assert counts(merged(stored(MINUTES), stored(MINUTES, scaled(1.009, 40)))) == (60, 40, 40, 0)


def test_factors_that_differ_are_a_correction() -> None:
    values = scaled(1.0, 0)
    values[:4, :40] *= np.linspace(1.5, 1.51, 40)
    assert counts(merged(stored(MINUTES), stored(MINUTES, values))) == (60, 40, 40, 0)


def test_a_shift_that_a_lower_rank_reports_is_only_refused() -> None:
    result = merged(stored(MINUTES), stored(MINUTES, scaled(2.0, 40), vendor="kraken"))
    assert (counts(result), result.shifted) == ((60, 0, 0, 40), False)


def test_force_accepts_a_constant_factor() -> None:
    assert counts(merged(stored(MINUTES), stored(MINUTES, scaled(2.0, 60)), force=True)) == (60, 60, 60, 0)


def test_minus_zero_volume_is_no_change() -> None:
    quiet = series("BTC", MINUTE, MINUTES)
    quiet[4] = 0.0
    negative = quiet.copy()
    negative[4] = -0.0
    assert counts(merged(stored(MINUTES, quiet), stored(MINUTES, negative))) == (60, 0, 0, 0)


@given(st.sets(st.integers(0, 59)), st.sets(st.integers(0, 59)), st.sets(st.integers(0, 59), max_size=15))
def test_a_merge_is_the_union_with_the_offered_values_on_top(held: set[int], new: set[int], other: set[int]) -> None:
    values = series("BTC", MINUTE, MINUTES)
    values[4, sorted(other)] += 1
    before, at = stored(MINUTES[sorted(held)]), sorted(new)
    result = merged(before, stored(MINUTES[at], values[:, at]))
    assert micros(result.bars["bucket_start"]).tolist() == MINUTES[sorted(held | new)].tolist()
    assert result.inserted.num_rows == len((new - held) | (new & other))
    assert result.superseded.num_rows == len(new & held & other)
    again = merged(result.bars, stored(MINUTES[at], values[:, at]))
    assert (again.inserted.num_rows, again.superseded.num_rows) == (0, 0)
    assert again.bars.equals(result.bars)
