from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from ohlcv_pipeline.sandbox.listing import OUTAGE_MINUTES, SHARE_VENDORS, spellings
from ohlcv_pipeline.sandbox.messages import DAY, MINUTE
from ohlcv_pipeline.sandbox.series import CLOSE, COUNT, HIGH, LOW, OPEN, QUOTE, VOLUME, Bars
from ohlcv_pipeline.sandbox.sessions import AFTER, BEFORE, DAY_EXTRA, Tape, at_iex, vwap
from ohlcv_pipeline.sandbox.shares import OUTAGE_EVERY_SESSIONS, events, outages, timetable
from ohlcv_pipeline_tests.sandbox.asking import at

NOW = float(at("2026-11-20T19:00:30"))
START, END = at("2026-08-20"), at("2026-11-20")
SYMBOLS = sorted(spellings("alpaca").values())


@pytest.fixture(scope="module")
def tape() -> Tape:
    return Tape(7)


def minutes(tape: Tape, symbol: str, day: str, vendor: str = "tiingo") -> Bars:
    start = at(day)
    return tape.bars(vendor, symbol, MINUTE, start, start + DAY, NOW)


def sessions_of(bars: Bars) -> list[np.ndarray]:
    """Return the columns of each session's minutes."""
    days = bars.time // DAY
    return [bars.columns[:, days == day] for day in np.unique(days)]


def test_bars_depend_on_the_seed_and_not_on_the_order_of_requests(tape: Tape) -> None:
    other = Tape(7)
    for day in (40, 3, 70, 17):
        other.bars("tiingo", "MSFT", MINUTE, START + day * DAY, START + (day + 1) * DAY, NOW)
    for start, end in ((START + 5 * DAY, START + 9 * DAY), (START + 8 * DAY + 15 * 3600, START + 60 * DAY)):
        first = tape.bars("alpaca", "MSFT", MINUTE, start, end, NOW)
        again = other.bars("alpaca", "MSFT", MINUTE, start, end, NOW)
        assert np.array_equal(first.time, again.time)
        assert np.array_equal(first.columns, again.columns)
    assert not np.array_equal(first.columns, Tape(8).bars("alpaca", "MSFT", MINUTE, start, end, NOW).columns)


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_every_bar_is_ordered_positive_and_has_its_mean_inside(tape: Tape, symbol: str) -> None:
    tape_bars = tape.minutes("alpaca", symbol, START, END, NOW, extended=True)
    for bars in (tape_bars, at_iex(tape_bars, 7, symbol), tape.bars("alpaca", symbol, DAY, START, END, NOW)):
        columns = bars.columns
        assert (np.diff(bars.time) > 0).all()
        assert (columns[LOW] > 0).all()
        assert (columns[LOW] <= columns[[OPEN, CLOSE]]).all()
        assert (columns[HIGH] >= columns[[OPEN, CLOSE]]).all()
        assert (columns[[VOLUME, COUNT, QUOTE]] > 0).all()
        mean = vwap(bars)
        assert (columns[LOW] * 10_000 <= mean).all()
        assert (mean <= columns[HIGH] * 10_000).all()


@pytest.mark.parametrize("vendor", SHARE_VENDORS)
@pytest.mark.parametrize("symbol", ["AAPL", "BRK.B"])
def test_day_is_the_roll_up_of_its_session_and_a_little_more_volume(tape: Tape, vendor: str, symbol: str) -> None:
    # The range holds Alpaca's outage; BRK.B has minutes without trades.
    days = tape.bars(vendor, symbol, DAY, START, END, NOW).columns
    sessions = sessions_of(tape.bars(vendor, symbol, MINUTE, START, END, NOW))
    assert days.shape[1] == len(sessions) == 65
    low, high = DAY_EXTRA
    for day, session in zip(days.T, sessions, strict=True):
        assert day[[OPEN, CLOSE]].tolist() == [session[OPEN, 0], session[CLOSE, -1]]
        assert day[[HIGH, LOW]].tolist() == [session[HIGH].max(), session[LOW].min()]
        for name in (VOLUME, COUNT, QUOTE):
            whole = int(session[name].sum())
            assert whole * (1000 + low) // 1000 - high <= day[name] <= whole * (1000 + high) // 1000


@pytest.mark.parametrize(
    ("day", "opens", "count"),
    [
        ("2025-03-07", "14:30", 390), ("2025-03-10", "13:30", 390), ("2025-10-31", "13:30", 390),
        ("2025-11-03", "14:30", 390), ("2025-07-03", "13:30", 210), ("2025-11-28", "14:30", 210),
        ("2025-12-24", "14:30", 210), ("2025-11-27", "", 0), ("2025-01-09", "", 0), ("2025-11-29", "", 0),
    ],
)  # fmt: skip
def test_sessions_follow_the_calendar(tape: Tape, day: str, opens: str, count: int) -> None:
    bars = minutes(tape, "AAPL", day)
    first = [at(f"{day}T{opens}:00")] if opens else []
    assert bars.time[:1].tolist() == first
    assert len(bars.time) == count
    assert set(np.diff(bars.time).tolist()) <= {MINUTE}
    whole = tape.minutes("tiingo", "AAPL", at(day), at(day) + DAY, NOW, extended=True)
    assert len(whole.time) == count + (len(BEFORE) + len(AFTER) if count else 0)


def test_one_session_in_45_loses_45_minutes_at_alpaca_for_all_symbols(tape: Tape) -> None:
    lost = set()
    for symbol in ("AAPL", "SPY", "TSLA"):
        seen = tape.bars("alpaca", symbol, MINUTE, START, END, NOW).time
        whole = tape.bars("tiingo", symbol, MINUTE, START, END, NOW).time
        missing = np.setdiff1d(whole, seen)
        lost.add((int(missing[0]), int(missing[-1]), len(missing)))
    ((first, last, count),) = lost
    assert count == OUTAGE_MINUTES
    assert outages("alpaca", START, END) == [(first, last)] == outages("alpaca", last, last + MINUTE)
    assert outages("alpaca", last + MINUTE, last + DAY) == outages("alpaca", first, first) == []
    assert outages("tiingo", START, END) == []
    days = timetable().labels
    assert len(outages("alpaca", int(days[0]), int(days[OUTAGE_EVERY_SESSIONS * 6]))) == 6


def test_thin_share_has_minutes_without_trades_and_never_the_first_or_last(tape: Tape) -> None:
    bars = tape.bars("tiingo", "BRK.B", MINUTE, START, END, NOW)
    whole = tape.bars("tiingo", "AAPL", MINUTE, START, END, NOW).time
    assert 1 - len(bars.time) / len(whole) == pytest.approx(0.01, rel=0.3)
    assert np.isin(bars.time, whole).all()
    days = np.unique(whole // DAY)
    for side in ("left", "right"):
        ends = np.searchsorted(whole // DAY, days, side=side) - (side == "right")
        assert np.isin(whole[ends], bars.time).all()


def test_volume_and_range_are_high_at_the_open_and_the_close(tape: Tape) -> None:
    grid = np.stack(sessions_of(tape.bars("tiingo", "AAPL", MINUTE, START, END, NOW)))
    volume = grid[:, VOLUME].mean(axis=0)
    ranges = (grid[:, HIGH] - grid[:, LOW]).mean(axis=0)
    for shape in (volume, ranges):
        noon = shape[150:240].mean()
        assert shape[:15].mean() > 1.5 * noon
        assert shape[-15:].mean() > 1.2 * noon


def test_a_session_opens_with_a_gap(tape: Tape) -> None:
    days = tape.bars("tiingo", "MSFT", DAY, START - 3 * 365 * DAY, START, NOW).columns
    gaps = np.log(days[OPEN, 1:] / days[CLOSE, :-1])
    moves = np.log(days[CLOSE] / days[OPEN])
    assert 0.2 < gaps.std() / moves.std() < 1.0
    assert (gaps != 0).mean() > 0.95


def test_a_split_is_a_jump_of_raw_prices_and_of_volume(tape: Tape) -> None:
    ex = at("2025-06-10")
    days = tape.bars("alpaca", "NVDA", DAY, ex - 30 * DAY, ex + 30 * DAY, NOW)
    before, after = (days.columns[:, part] for part in (days.time < ex, days.time >= ex))
    assert before[CLOSE, -1] / after[CLOSE, 0] == pytest.approx(4, rel=0.15)
    assert after[VOLUME].mean() / before[VOLUME].mean() == pytest.approx(4, rel=0.5)
    first = minutes(tape, "NVDA", "2025-06-10").columns[OPEN, 0]
    last = minutes(tape, "NVDA", "2025-06-09").columns[CLOSE, -1]
    assert last / first == pytest.approx(4, rel=0.15)


def test_dividends_come_four_times_a_year_on_sessions() -> None:
    event, labels = events("AAPL"), timetable().labels
    paid = labels[event.cents > 0]
    dates = [datetime.fromtimestamp(label, UTC).date() for label in paid.tolist()]
    assert [day.month for day in dates if day.year == 2025] == [2, 5, 8, 11]
    assert not events("BRK.B").cents.any()
    # The cash is that of a share as it was: four times as much before the share was split in four.
    nvidia = events("NVDA")
    assert set(nvidia.cents[labels < at("2025-06-10")].tolist()) == {0, 4}
    assert set(nvidia.cents[labels > at("2025-06-10")].tolist()) == {0, 1}


def test_one_venue_sees_a_few_percent_whatever_is_asked_with_it(tape: Tape) -> None:
    whole = minutes(tape, "AAPL", "2026-11-18")
    part = at_iex(whole, 7, "AAPL")
    assert part.columns[VOLUME].sum() / whole.columns[VOLUME].sum() == pytest.approx(0.03, abs=0.01)
    one = at_iex(Bars(whole.time[100:101], whole.columns[:, 100:101], whole.decimals), 7, "AAPL")
    assert np.array_equal(one.columns, part.columns[:, 100:101])


def test_series_begins_in_2015_and_ends_in_the_running_minute(tape: Tape) -> None:
    assert tape.bars("alpaca", "SPY", DAY, 0, at("2015-01-06"), NOW).time.tolist() == [
        at("2015-01-02"),
        at("2015-01-05"),
    ]
    today = minutes(tape, "SPY", "2026-11-20")
    assert today.time[-1] == at("2026-11-20T19:00:00")
    assert len(today.time) == 271
    assert tape.bars("alpaca", "SPY", DAY, at("2026-11-21"), at("2026-12-01"), NOW).time.tolist() == []


def test_running_day_is_the_roll_up_of_the_session_so_far(tape: Tape) -> None:
    today = minutes(tape, "SPY", "2026-11-20").columns
    day = tape.bars("tiingo", "SPY", DAY, at("2026-11-20"), at("2026-11-21"), NOW).columns[:, 0]
    assert day[: CLOSE + 1].tolist() == [today[OPEN, 0], today[HIGH].max(), today[LOW].min(), today[CLOSE, -1]]
    assert today[VOLUME].sum() < day[VOLUME] < today[VOLUME].sum() * 1.08
