"""Which expected bars are absent, and what one answer proves about that."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ohlcv_pipeline.bars.gaps import Gap, common, gaps, missing, stamped_at_close, union, windows, without_trades
from ohlcv_pipeline.frames import Micros
from ohlcv_pipeline_tests.bars.holes import END, START, year_with_holes
from ohlcv_pipeline_tests.bars.vendor import AAPL, CRYPTO, DAY, MINUTE, NEW_YORK, NONE, step, us

STEP = MINUTE.step_us
FIRST = us("2025-11-20")
SOME_MINUTES = st.sets(st.integers(0, 60), max_size=40)


def at(*positions: int) -> Micros:
    """Return minutes by their place after 00:00."""
    return FIRST + np.array(sorted(positions), np.int64) * STEP


def naive_gaps(expected: list[int], absent: set[int], gap_multiple: float) -> list[tuple[int, int, int]]:
    """Walk over the expected buckets one by one."""
    runs: list[list[int]] = [[]]
    for bucket in expected:
        if bucket in absent:
            runs[-1].append(bucket)
        else:
            runs.append([])
    return [(run[0], run[-1], len(run)) for run in runs if run and len(run) + 1 > gap_multiple]


@given(SOME_MINUTES, SOME_MINUTES, st.sampled_from([1.0, 1.5, 2.0, 2.5, 3.0]))
def test_gaps_are_what_a_walk_over_the_expected_buckets_finds(
    expected: set[int], present: set[int], gap_multiple: float
) -> None:
    wanted, held = at(*expected), at(*present)
    absent = missing(wanted, held, MINUTE)
    assert set(absent.tolist()) == set(wanted.tolist()) - set(held.tolist())
    assert (np.diff(absent) > 0).all()
    found = [(gap.first_us, gap.last_us, gap.missing) for gap in gaps(wanted, absent, gap_multiple)]
    assert found == naive_gaps(wanted.tolist(), set(absent.tolist()), gap_multiple)


@given(SOME_MINUTES, SOME_MINUTES)
def test_common_and_union_are_those_of_sets(one: set[int], other: set[int]) -> None:
    assert common(at(*one), at(*other)).tolist() == at(*(one & other)).tolist()
    assert union(at(*one), at(*other)).tolist() == at(*(one | other)).tolist()


@given(SOME_MINUTES, st.integers(0, 8))
def test_windows_cover_what_is_wanted_and_leave_wider_holes_out(wanted: set[int], slack: int) -> None:
    found = windows(at(*range(61)), at(*wanted), slack)
    covered = {p for first, last in found for p in range((first - FIRST) // STEP, (last - FIRST) // STEP + 1)}
    assert wanted <= covered
    assert all(first in at(*wanted) and last in at(*wanted) for first, last in found)
    apart = [(b - a) // STEP - 1 for (_, a), (b, _) in itertools.pairwise(found)]
    assert all(distance > slack for distance in apart)


@pytest.mark.parametrize(
    ("present", "first", "last"),
    [
        (range(3, 10), 0, 2),
        (range(7), 7, 9),
        ([0, 1, 2, 6, 7, 8, 9], 3, 5),
        ([], 0, 9),
    ],
    ids=["leading", "trailing", "inner", "nothing stored"],
)
def test_missing_buckets_count_alike_wherever_they_are(present: range | list[int], first: int, last: int) -> None:
    expected = at(*range(10))
    (gap,) = gaps(expected, missing(expected, at(*present), MINUTE))
    assert gap == Gap(FIRST + first * STEP, FIRST + last * STEP, last - first + 1)


def test_a_single_missing_bucket_begins_where_it_ends() -> None:
    expected = at(*range(10))
    assert gaps(expected, at(4)) == [Gap(FIRST + 4 * STEP, FIRST + 4 * STEP, 1)]


def test_gap_multiple_2_5_ignores_one_missing_bucket_and_reports_two() -> None:
    expected = at(*range(10))
    assert gaps(expected, at(4), 2.5) == []
    assert [gap.missing for gap in gaps(expected, at(0, 4, 5, 9), 2.5)] == [2]


def test_nights_weekends_and_holidays_are_no_gap() -> None:
    minutes = NEW_YORK.buckets(MINUTE, us("2025-11-26"), us("2025-12-02"))
    assert gaps(minutes, missing(minutes, minutes, MINUTE)) == []
    over_thanksgiving = minutes[(minutes == us("2025-11-26 20:59")) | (minutes == us("2025-11-28 14:30"))]
    assert gaps(minutes, over_thanksgiving) == [Gap(us("2025-11-26 20:59"), us("2025-11-28 14:30"), 2)]


def test_a_gap_among_buckets_that_were_never_expected_is_refused() -> None:
    with pytest.raises(ValueError, match="must all be expected"):
        gaps(at(0, 1, 2), at(5))


def test_the_gaps_of_a_symbol_year_are_exact() -> None:
    year = CRYPTO.buckets(MINUTE, us("2025-01-01"), us("2026-01-01"))
    assert len(year) == 525_600
    lost = np.zeros(len(year), bool)
    holes = [(0, 3), (1_439, 2), (250_000, 1), (400_000, 45), (525_590, 10)]
    for start, length in holes:
        lost[start : start + length] = True
    found = gaps(year, missing(year, year[~lost], MINUTE))
    assert found == [Gap(int(year[start]), int(year[start + n - 1]), n) for start, n in holes]


def test_the_218_holes_of_a_new_york_year_are_found_and_nothing_else() -> None:
    present, holes = year_with_holes()
    expected = NEW_YORK.expected(MINUTE, AAPL, START, END, us("2026-01-02"))
    assert len(expected) == 96_960
    assert (len(holes), sum(hole.missing for hole in holes)) == (218, 8_298)
    assert (holes[0].first_us, holes[-1].last_us) == (us("2025-01-02 14:30"), us("2025-12-31 20:59"))
    assert any(hole.last_us - hole.first_us > hole.missing * STEP for hole in holes), "none reaches over a night"
    assert gaps(expected, missing(expected, present, MINUTE)) == holes


def test_a_hole_over_a_half_day_and_a_holiday_counts_only_the_minutes_that_were_due() -> None:
    expected = NEW_YORK.buckets(MINUTE, us("2025-11-24"), us("2025-12-06"))
    present = expected[(expected < us("2025-11-26 20:50")) | (expected >= us("2025-12-01 14:35"))]
    assert gaps(expected, missing(expected, present, MINUTE)) == [
        Gap(us("2025-11-26 20:50"), us("2025-12-01 14:34"), 10 + 210 + 5)
    ]


def test_a_silence_inside_one_answer_is_proof_of_no_trades() -> None:
    answer = at(0, 1, 2, 6, 7)
    assert without_trades(at(*range(10)), [answer], MINUTE).tolist() == at(3, 4, 5).tolist()


def test_the_edges_of_an_answer_prove_nothing() -> None:
    expected = at(*range(20))
    pages = [at(*range(3, 8)), at(*range(12, 17))]
    assert not len(without_trades(expected, pages, MINUTE))
    assert not len(without_trades(expected, [at(5)], MINUTE))
    assert not len(without_trades(expected, [NONE], MINUTE))
    assert not len(without_trades(expected, [], MINUTE))


@pytest.mark.parametrize(("silence", "proven"), [(30, 30), (31, 0)])
def test_30_minutes_may_be_without_trades_and_31_are_an_outage(silence: int, proven: int) -> None:
    answer = at(0, silence + 1)
    assert len(without_trades(at(*range(silence + 2)), [answer], MINUTE)) == proven


def test_a_day_is_never_proven_empty() -> None:
    days = step("2025-11-01", 10, DAY)
    assert not len(without_trades(days, [days[[0, 1, 5, 9]]], DAY))


def test_the_night_between_two_sessions_does_not_lengthen_a_silence() -> None:
    minutes = NEW_YORK.buckets(MINUTE, us("2025-11-20"), us("2025-11-22"))
    answer = np.concatenate([minutes[:380], minutes[400:]])
    assert without_trades(minutes, [answer], MINUTE).tolist() == minutes[380:400].tolist()


def test_minutes_labelled_with_their_close_are_told_by_the_edges_of_every_session() -> None:
    of = NEW_YORK.calendar
    found = of.sessions(us("2025-11-26"), us("2025-12-02"))
    opens, closes = of.opens[found], of.closes[found]
    minutes = NEW_YORK.buckets(MINUTE, us("2025-11-26"), us("2025-12-02"))
    assert stamped_at_close(minutes + STEP, opens, closes)
    # Also with its holes, and where only a part of the first session was asked for.
    assert stamped_at_close(np.delete(minutes, [5, 6, 400])[100:] + STEP, opens, closes)
    assert not stamped_at_close(minutes, opens, closes)
    # A closing auction after a session that traded from its first minute on.
    assert not stamped_at_close(np.sort(np.append(minutes, closes)), opens, closes)
    # A thin share without a first minute, and one whose auction prints on one of three days.
    thin = np.setdiff1d(minutes, opens)
    assert not stamped_at_close(thin, opens, closes)
    assert not stamped_at_close(np.sort(np.append(thin, closes[1])), opens, closes)
    assert not stamped_at_close(minutes[:0], opens, closes)
    assert not stamped_at_close(minutes, NONE, NONE)


@given(st.lists(SOME_MINUTES, max_size=4))
def test_what_is_proven_empty_lies_strictly_inside_an_answer_and_in_no_bar_of_it(answers: list[set[int]]) -> None:
    expected = at(*range(61))
    proven = set(without_trades(expected, [at(*answer) for answer in answers], MINUTE).tolist())
    assert proven == {
        bucket
        for answer in answers
        for gap in naive_gaps(expected.tolist(), set(expected.tolist()) - set(at(*answer).tolist()), 1.0)
        if answer and gap[0] > at(*answer)[0] and gap[1] < at(*answer)[-1] and gap[2] <= 30
        for bucket in range(gap[0], gap[1] + 1, STEP)
    }
