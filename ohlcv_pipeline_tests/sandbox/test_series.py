from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from ohlcv_pipeline.sandbox.listing import OUTAGE_MINUTES, VENUE, outages, spellings
from ohlcv_pipeline.sandbox.messages import DAY, MINUTE
from ohlcv_pipeline.sandbox.series import CLOSE, HIGH, LOW, OPEN, QUOTE, VOLUME, Series
from ohlcv_pipeline_tests.sandbox.asking import at

NOW = float(at("2026-11-20T12:00:30"))
START = at("2026-08-01")
COINS = sorted(spellings("coinbase").values())


@pytest.fixture(scope="module")
def series() -> Series:
    return Series(7)


def longest_run(flags: np.ndarray) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def test_bars_depend_on_the_seed_and_not_on_the_order_of_requests(series: Series) -> None:
    other = Series(7)
    for day in (40, 3, 90, 17):
        other.bars("kraken", "ETH", MINUTE, START + day * DAY, START + (day + 1) * DAY, NOW)
    for start, end in ((START + 5 * DAY, START + 6 * DAY), (START + 4 * DAY + 600, START + 9 * DAY)):
        first = series.bars("coinbase", "ETH", MINUTE, start, end, NOW)
        again = other.bars("coinbase", "ETH", MINUTE, start, end, NOW)
        assert np.array_equal(first.columns, again.columns)
        assert np.array_equal(first.time, again.time)
    assert not np.array_equal(first.columns, Series(8).bars("coinbase", "ETH", MINUTE, start, end, NOW).columns)


@pytest.mark.parametrize("venue", sorted(VENUE))
@pytest.mark.parametrize("symbol", COINS)
def test_every_bar_is_ordered_and_positive(series: Series, venue: str, symbol: str) -> None:
    columns = series.bars(venue, symbol, MINUTE, START, START + 16 * DAY, NOW).columns
    assert (columns[LOW] > 0).all()
    assert (columns[LOW] <= columns[[OPEN, CLOSE]]).all()
    assert (columns[HIGH] >= columns[[OPEN, CLOSE]]).all()
    assert (columns[VOLUME] >= 0).all()


@pytest.mark.parametrize("venue", sorted(VENUE))
def test_day_bar_is_the_roll_up_of_its_minutes(series: Series, venue: str) -> None:
    # Ninety days hold the venue's outage day; AAVE has silent minutes.
    days = series.bars(venue, "AAVE", DAY, START, START + 90 * DAY, NOW)
    for place, day in enumerate(days.time.tolist()):
        minutes = series.bars(venue, "AAVE", MINUTE, day, day + DAY, NOW).columns
        minutes = minutes[:, minutes[VOLUME] > 0]
        expected = [minutes[OPEN, 0], minutes[HIGH].max(), minutes[LOW].min(), minutes[CLOSE, -1]]
        assert days.columns[: CLOSE + 1, place].tolist() == expected
        assert days.columns[VOLUME, place] == minutes[VOLUME].sum()
        assert days.columns[QUOTE, place] == minutes[QUOTE].sum()


def test_running_day_is_the_roll_up_of_the_day_so_far(series: Series) -> None:
    midnight = int(NOW) // DAY * DAY
    day = series.bars("coinbase", "BTC", DAY, midnight, midnight + DAY, NOW).columns[:, 0]
    minutes = series.bars("coinbase", "BTC", MINUTE, midnight, midnight + DAY, NOW).columns
    assert minutes.shape[1] == 12 * 60 + 1
    assert day[[OPEN, HIGH, LOW, CLOSE]].tolist() == [
        minutes[OPEN, 0],
        minutes[HIGH].max(),
        minutes[LOW].min(),
        minutes[CLOSE, -1],
    ]
    assert day[VOLUME] == minutes[VOLUME].sum()


@pytest.mark.parametrize(
    ("symbol", "share"), [("BTC", 0.0), ("ETH", 0.0), ("LINK", 0.005), ("BNB", 0.01), ("AAVE", 0.02), ("USDT", 0.03)]
)
def test_silent_minutes_have_their_share_and_come_in_short_runs(series: Series, symbol: str, share: float) -> None:
    silent = series.bars("coinbase", symbol, MINUTE, START, START + 96 * DAY, NOW).columns[VOLUME] == 0
    assert silent.mean() == pytest.approx(share, rel=0.35)
    assert longest_run(silent) <= 10


@pytest.mark.parametrize("venue", ["coinbase", "binance"])
def test_exactly_one_day_in_ninety_loses_45_minutes_for_all_symbols(series: Series, venue: str) -> None:
    for start in (START, START + 37 * DAY):
        lost = set()
        for symbol in ("BTC", "AAVE", "USDC"):
            end = min(start + 90 * DAY, int(NOW))
            seen = series.bars(venue, symbol, MINUTE, start, end, NOW).time
            missing = np.setdiff1d(np.arange(start, end, MINUTE), seen)
            lost.add((int(missing[0]), int(missing[-1]), len(missing)))
        ((first, last, count),) = lost
        assert count == OUTAGE_MINUTES
        assert last - first == (OUTAGE_MINUTES - 1) * MINUTE
        assert outages(venue, start, end) == [(first, last)]
        assert 6 * 3600 < first % DAY < 18 * 3600


def test_kraken_has_no_outage(series: Series) -> None:
    assert series.bars("kraken", "BTC", MINUTE, START, START + 90 * DAY, NOW).columns.shape[1] == 90 * 1440
    assert outages("kraken", START, START + 90 * DAY) == []


def test_declared_outages_are_those_that_touch_the_range() -> None:
    ((first, last),) = outages("coinbase", START, START + 90 * DAY)
    assert outages("coinbase", last, last + MINUTE) == [(first, last)]
    assert outages("coinbase", last + MINUTE, last + DAY) == []
    assert outages("coinbase", first - DAY, first) == []
    assert outages("coinbase", first, first) == []


def test_venues_differ_by_basis_points_and_stablecoins_stay_at_one(series: Series) -> None:
    closes = {}
    for venue in VENUE:
        bars = series.bars(venue, "BTC", DAY, START, START + 90 * DAY, NOW)
        closes[venue] = bars.columns[CLOSE] / 10.0**bars.decimals
    assert np.abs(closes["kraken"] / closes["coinbase"] - 1).max() < 0.001
    assert np.abs(closes["binance"] / closes["coinbase"] - 1).max() < 0.002
    assert not np.array_equal(closes["binance"], closes["coinbase"])
    for symbol in ("USDC", "USDT"):
        bars = series.bars("coinbase", symbol, DAY, START - 3 * 365 * DAY, START, NOW)
        assert np.abs(bars.columns[: CLOSE + 1] / 10.0**bars.decimals - 1).max() < 0.02


def test_a_day_opens_where_the_day_before_closed(series: Series) -> None:
    days = series.bars("coinbase", "BTC", DAY, START, START + 30 * DAY, NOW).columns.T.tolist()
    assert all(after[OPEN] == before[CLOSE] for before, after in pairwise(days))


def test_series_begins_in_2015_and_ends_now(series: Series) -> None:
    assert series.bars("coinbase", "BTC", DAY, 0, at("2015-01-03"), NOW).time.tolist() == [
        at("2015-01-01"),
        at("2015-01-02"),
    ]
    assert series.bars("coinbase", "BTC", MINUTE, int(NOW) + 60, int(NOW) + 600, NOW).time.tolist() == []
