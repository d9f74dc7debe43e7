"""How far a series is behind, in the time of its market."""

from __future__ import annotations

import pytest

from ohlcv_pipeline.bars.freshness import Freshness, freshness, open_minutes
from ohlcv_pipeline.markets import Instrument, Interval, Market
from ohlcv_pipeline_tests.bars.vendor import AAPL, BTC, CRYPTO, DAY, MINUTE, NEW_YORK, listed, us, utc

THRESHOLD = 60.0


def judged(home: Market, interval: Interval, newest: str | None, now: str, instrument: Instrument) -> Freshness:
    return freshness(home, interval, instrument, None if newest is None else us(newest), us(now), THRESHOLD)


@pytest.mark.parametrize(
    ("home", "interval", "newest", "now", "lag", "stale"),
    [
        pytest.param(
            CRYPTO, MINUTE, "2025-11-20 09:59", "2025-11-20 11:00:00", 60.0, False, id="60 minutes are healthy"
        ),
        pytest.param(CRYPTO, MINUTE, "2025-11-20 09:59", "2025-11-20 11:00:01", 60.02, True, id="a second more is not"),
        pytest.param(NEW_YORK, MINUTE, "2025-11-21 20:59", "2025-11-23 12:00", 0, False, id="a weekend adds nothing"),
        pytest.param(NEW_YORK, MINUTE, "2025-11-26 20:59", "2025-11-28 15:31", 61, True, id="nor does a holiday"),
        pytest.param(NEW_YORK, MINUTE, "2025-11-28 17:59", "2025-11-28 20:00", 0, False, id="a half day is over"),
        pytest.param(CRYPTO, DAY, "2025-11-20", "2025-11-22 00:59", 59, False, id="59 minutes after midnight"),
        pytest.param(CRYPTO, DAY, "2025-11-20", "2025-11-22 01:01", 61, True, id="61 minutes after midnight"),
        pytest.param(NEW_YORK, DAY, "2025-11-20", "2025-11-21 22:01", 61, True, id="61 minutes after the close"),
    ],
)
def test_the_table_of_cases(home: Market, interval: Interval, newest: str, now: str, lag: float, stale: bool) -> None:
    found = judged(home, interval, newest, now, BTC if home is CRYPTO else AAPL)
    assert found.lag_minutes is not None
    assert (round(found.lag_minutes, 2), found.stale) == (lag, stale)


def test_a_series_that_is_ahead_of_the_clock_is_not_behind() -> None:
    assert judged(CRYPTO, MINUTE, "2025-11-20 12:00", "2025-11-20 11:00", BTC) == Freshness(0.0, stale=False)


def test_a_series_without_bars_is_stale_once_one_is_expected() -> None:
    assert judged(CRYPTO, MINUTE, None, "2025-11-20 12:00", BTC) == Freshness(None, stale=True)
    unlisted = listed(BTC, listing_start=utc("2025-11-20 11:59"))
    assert judged(CRYPTO, MINUTE, None, "2025-11-20 12:00", unlisted) == Freshness(None, stale=False)


def test_a_day_bar_is_late_from_its_session_close_on_and_not_over_the_weekend_that_follows() -> None:
    assert judged(NEW_YORK, DAY, "2025-11-21", "2025-11-23 12:00", AAPL) == Freshness(0.0, stale=False)
    friday_missing = judged(NEW_YORK, DAY, "2025-11-20", "2025-11-21 20:30", AAPL)
    assert friday_missing == Freshness(0.0, stale=False)


def test_open_minutes_are_those_inside_sessions() -> None:
    calendar = NEW_YORK.calendar
    assert open_minutes(calendar, us("2025-11-24"), us("2025-12-01")) == 390 * 3 + 210
    assert open_minutes(calendar, us("2025-11-20 15:00"), us("2025-11-20 15:30")) == 30
    assert open_minutes(calendar, us("2025-11-22"), us("2025-11-23")) == 0
    assert open_minutes(CRYPTO.calendar, us("2025-11-20"), us("2025-11-22")) == 2880
