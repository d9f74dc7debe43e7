"""One mutant for each kind of difference between two tellings: it gives that verdict and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ohlcv_pipeline.bars.comparing import rollup_tolerances, sampled, vendor_tolerances
from ohlcv_pipeline.bars.reconcile import GRAVE, Comparison, Judgement, Tolerances, compare
from ohlcv_pipeline.frames import VALUE_COLUMNS, Floats, bars_from_columns, floats, micros
from ohlcv_pipeline.markets import Interval
from ohlcv_pipeline_tests.bars.vendor import CRYPTO, DAY, MINUTE, NEW_YORK, bars_of, us

SESSION = NEW_YORK.buckets(MINUTE, *NEW_YORK.partition_bounds(MINUTE, "2025-11-20"))
MONTH = NEW_YORK.buckets(DAY, *NEW_YORK.partition_bounds(DAY, "2025-10"))
MINUTES, DAYS = (bars_of("AAPL", interval, buckets) for interval, buckets in ((MINUTE, SESSION), (DAY, MONTH)))
EXACT = Tolerances(0, 0, 0, 0, volume=(0.75, 1.0))


def values_of(bars: pa.Table) -> Floats:
    return np.vstack([floats(bars[name]) for name in VALUE_COLUMNS])


def mutant(bars: pa.Table, change: Callable[[Floats], None]) -> pa.Table:
    values = values_of(bars).copy()
    change(values)
    return bars_from_columns(micros(bars["bucket_start"]), values)


def times(first: int, last: int, factor: float) -> Callable[[Floats], None]:
    def change(values: Floats) -> None:
        values[:4, first:last] *= factor

    return change


def standing(first: int, last: int) -> Callable[[Floats], None]:
    def change(values: Floats) -> None:
        values[:4, first:last] = values[3, first - 1]

    return change


def spike(at: int, factor: float) -> Callable[[Floats], None]:
    def change(values: Floats) -> None:
        values[1, at] *= factor

    return change


def correct(at: int, factor: float) -> Callable[[Floats], None]:
    def change(values: Floats) -> None:
        values[3, at] *= factor
        values[1, at] = max(values[1, at], values[3, at])
        values[2, at] = min(values[2, at], values[3, at])

    return change


BY_MINUTE = vendor_tolerances(NEW_YORK, MINUTE)
BY_DAY = vendor_tolerances(NEW_YORK, DAY)

MUTANTS = {
    "split in the days before": (DAYS, times(0, 12, 0.25), BY_DAY, Judgement.ADJUSTMENT_BASIS, 12, "0.25"),
    "dividend in the days before": (DAYS, times(0, 9, 0.994), BY_DAY, Judgement.ADJUSTMENT_BASIS, 9, "0.994"),
    "split in a whole session": (MINUTES, times(0, 390, 0.1), BY_MINUTE, Judgement.ADJUSTMENT_BASIS, 390, "0.1"),
    "pence for pounds": (DAYS, times(0, 23, 100.0), BY_DAY, Judgement.UNIT, 23, "100"),
    "pounds for pence, one day": (DAYS, times(7, 8, 0.01), BY_DAY, Judgement.UNIT, 1, "0.01"),
    "an hour stands still": (MINUTES, standing(100, 160), BY_MINUTE, Judgement.STALE, 60, None),
    "four days stand still": (DAYS, standing(5, 9), BY_DAY, Judgement.STALE, 4, None),
    "one high twice as high": (DAYS, spike(9, 2.0), BY_DAY, Judgement.ONE_OFF_PRINT, 1, None),
    "one day twice as high": (DAYS, times(9, 10, 2.0), BY_DAY, Judgement.ONE_OFF_PRINT, 1, None),
    "the last minute ten percent off": (MINUTES, correct(389, 1.1), BY_MINUTE, Judgement.ONE_OFF_PRINT, 1, None),
    "a close corrected": (DAYS, correct(9, 1.004), BY_DAY, Judgement.REVISION, 1, None),
}  # fmt: skip


def only(comparison: Comparison) -> tuple[Judgement, int, str | None]:
    (finding,) = comparison.findings
    assert comparison.judgement is finding.judgement
    assert finding.severity == ("ERROR" if finding.judgement in GRAVE else "WARN")
    return finding.judgement, finding.bars, None if finding.factor is None else f"{finding.factor:.6g}"


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_gives_its_verdict_and_nothing_else(name: str) -> None:
    bars, change, tolerances, judgement, count, factor = MUTANTS[name]
    assert compare(bars, bars, tolerances) == Comparison(bars.num_rows)
    assert only(compare(bars, mutant(bars, change), tolerances)) == (judgement, count, factor)


@pytest.mark.parametrize(
    "name", [name for name in MUTANTS if MUTANTS[name][3] in (Judgement.STALE, Judgement.ONE_OFF_PRINT)]
)
def test_the_side_that_is_wrong_is_named(name: str) -> None:
    bars, change, tolerances, *_ = MUTANTS[name]
    wrong = mutant(bars, change)
    assert [each.side for each in compare(bars, wrong, tolerances).findings] == ["theirs"]
    assert [each.side for each in compare(wrong, bars, tolerances).findings] == ["ours"]


def test_bars_that_one_side_lacks_are_missing_there() -> None:
    assert only(compare(DAYS, DAYS.slice(0, 20), BY_DAY)) == (Judgement.MISSING, 3, None)
    assert [f.side for f in compare(DAYS, DAYS.slice(0, 20), BY_DAY).findings] == ["theirs"]
    (lacking,) = compare(DAYS.slice(1), DAYS, BY_DAY).findings
    assert (lacking.side, lacking.first_us, lacking.last_us) == ("ours", us("2025-10-01"), us("2025-10-01"))


def test_minutes_that_only_we_have_prove_nothing_about_a_vendor_that_leaves_them_out() -> None:
    assert compare(MINUTES, MINUTES.slice(30), BY_MINUTE).judgement is Judgement.AGREEMENT
    assert only(compare(MINUTES.slice(30), MINUTES, BY_MINUTE)) == (Judgement.MISSING, 30, None)


def test_nothing_in_common_is_missing_on_both_sides() -> None:
    comparison = compare(DAYS.slice(0, 5), DAYS.slice(5, 4), BY_DAY)
    assert comparison.compared == 0
    assert {(f.judgement, f.side, f.bars) for f in comparison.findings} == {
        (Judgement.MISSING, "ours", 4), (Judgement.MISSING, "theirs", 5),
    }  # fmt: skip


def test_two_splits_of_one_month_are_two_findings() -> None:
    def change(values: Floats) -> None:
        values[:4, :6] /= 8
        values[:4, 6:14] /= 2

    findings = compare(DAYS, mutant(DAYS, change), BY_DAY).findings
    assert {(f.judgement, f.bars, round(f.factor or 0, 6)) for f in findings} == {
        (Judgement.ADJUSTMENT_BASIS, 6, 0.125), (Judgement.ADJUSTMENT_BASIS, 8, 0.5),
    }  # fmt: skip


def test_what_differs_beside_another_basis_is_found_too() -> None:
    def change(values: Floats) -> None:
        values[:4, :9] /= 4
        correct(15, 1.01)(values)

    found = {(f.judgement, f.bars) for f in compare(DAYS, mutant(DAYS, change), BY_DAY).findings}
    assert found == {(Judgement.ADJUSTMENT_BASIS, 9), (Judgement.REVISION, 1)}


def volumes(factor: float) -> pa.Table:
    def change(values: Floats) -> None:
        values[4] *= factor

    return mutant(DAYS, change)


@pytest.mark.parametrize(
    ("factor", "judgement"),
    [
        (1.0, Judgement.AGREEMENT),
        (1.08, Judgement.AGREEMENT),
        (1.33, Judgement.AGREEMENT),
        (1.34, Judgement.REVISION),
        (0.99, Judgement.REVISION),
        (100.0, Judgement.UNIT),
    ],
)
def test_part_c_55_a_day_may_have_more_volume_than_its_minutes_and_never_less(
    factor: float, judgement: Judgement
) -> None:
    assert compare(DAYS, volumes(factor), rollup_tolerances(NEW_YORK)).judgement is judgement


@pytest.mark.parametrize("interval", list(Interval))
def test_part_c_54_the_volumes_of_two_vendors_are_not_compared(interval: Interval) -> None:
    for market in (CRYPTO, NEW_YORK):
        assert vendor_tolerances(market, interval).volume is None
    assert compare(DAYS, volumes(0.03), BY_DAY).judgement is Judgement.AGREEMENT


def test_a_close_of_the_auction_is_excused_and_counted_only_where_the_day_has_its_volume() -> None:
    def auction(volume: float) -> Callable[[Floats], None]:
        def change(values: Floats) -> None:
            values[3, 4] *= 1.0005
            values[1, 4] = max(values[1, 4], values[3, 4])
            values[4] *= volume

        return change

    tolerances = rollup_tolerances(NEW_YORK)
    excused = compare(DAYS, mutant(DAYS, auction(1.05)), tolerances)
    assert (excused.judgement, excused.auctions) == (Judgement.AGREEMENT, 1)
    assert only(compare(DAYS, mutant(DAYS, auction(1.0)), tolerances)) == (Judgement.REVISION, 1, None)
    assert only(compare(DAYS, mutant(DAYS, auction(1.0)), rollup_tolerances(CRYPTO))) == (Judgement.REVISION, 1, None)


@pytest.mark.parametrize("field", range(4))
@given(st.integers(0, 22), st.sampled_from([1 + 1e-7, 1 - 1e-7]))
def test_without_tolerance_no_price_may_differ(field: int, at: int, factor: float) -> None:
    def change(values: Floats) -> None:
        values[field, at] *= factor

    assert compare(DAYS, mutant(DAYS, change), EXACT).judgement is not Judgement.AGREEMENT


@given(st.integers(0, 40), st.text("abc", max_size=3))
def test_a_sample_is_the_same_for_the_same_salt_in_whatever_order_the_cells_come(most: int, salt: str) -> None:
    cells = [{"symbol": s, "partition": p} for s in ("AAPL", "NVDA", "SPY") for p in ("2025-10", "2025-11", "2025-12")]
    drawn = sampled(cells, salt, most)
    assert drawn == sampled(cells[::-1], salt, most)
    assert len(drawn) == min(most, 9)


def test_another_day_draws_another_sample() -> None:
    cells = [{"symbol": "AAPL", "partition": f"2025-{m:02}"} for m in range(1, 13)]
    assert len({str(sampled(cells, f"2026-06-{day:02}", 3)) for day in range(1, 29)}) > 10
