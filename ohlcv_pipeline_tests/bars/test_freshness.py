"""How far a series is behind, in the time of its market."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ohlcv_pipeline.bars.freshness import Freshness, freshness, open_minutes, stale_from
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


@pytest.mark.parametrize(
    ("newest", "first", "last"),
    [
        pytest.param("2025-03-07 20:59", "2025-03-07 21:00", "2025-03-10 13:30", id="weekend of the clock change"),
        pytest.param("2025-01-08 20:59", "2025-01-08 21:00", "2025-01-10 14:30", id="day of mourning"),
        pytest.param("2025-07-03 16:59", "2025-07-03 17:00", "2025-07-07 13:30", id="half day, holiday and weekend"),
        pytest.param("2025-12-24 17:59", "2025-12-24 18:00", "2025-12-26 14:30", id="Christmas"),
    ],
)
def test_no_lag_grows_while_the_market_is_closed(newest: str, first: str, last: str) -> None:
    for now_us in range(us(first), us(last) + 1, 1_800_000_000):
        assert freshness(NEW_YORK, MINUTE, AAPL, us(newest), now_us, THRESHOLD) == Freshness(0.0, stale=False)
    after = freshness(NEW_YORK, MINUTE, AAPL, us(newest), us(last) + 61 * MINUTE.step_us, THRESHOLD)
    assert after == Freshness(61.0, stale=True)


def test_what_a_session_lacked_at_its_close_stays_the_lag_until_the_next_one_opens() -> None:
    for now in ("2025-11-26 21:00", "2025-11-27 15:00", "2025-11-28 14:30"):
        assert judged(NEW_YORK, MINUTE, "2025-11-26 18:59", now, AAPL) == Freshness(120.0, stale=True)


@pytest.mark.parametrize("session", ["2025-11-26", "2025-11-28", "2025-12-01"])
def test_a_refresh_every_five_minutes_keeps_a_session_fresh(session: str) -> None:
    opens, closes = NEW_YORK.partition_bounds(MINUTE, session)
    for now_us in range(opens, closes + 1, 5 * MINUTE.step_us):
        due = NEW_YORK.expected(MINUTE, AAPL, opens - 7 * 86_400_000_000, now_us, now_us)
        assert not freshness(NEW_YORK, MINUTE, AAPL, int(due[-1]), now_us, THRESHOLD).stale


def test_open_minutes_are_those_inside_sessions() -> None:
    calendar = NEW_YORK.calendar
    assert open_minutes(calendar, us("2025-11-24"), us("2025-12-01")) == 390 * 3 + 210
    assert open_minutes(calendar, us("2025-11-20 15:00"), us("2025-11-20 15:30")) == 30
    assert open_minutes(calendar, us("2025-11-22"), us("2025-11-23")) == 0
    assert open_minutes(CRYPTO.calendar, us("2025-11-20"), us("2025-11-22")) == 2880


@given(
    st.sampled_from([(CRYPTO, BTC), (NEW_YORK, AAPL)]),
    st.sampled_from([MINUTE, DAY]),
    st.integers(0, 40 * 390),
    st.sampled_from([0.5, 15.0, 60.0, 390.0, 500.0]),
)
@settings(max_examples=150, deadline=None)
def test_a_series_is_stale_right_after_the_instant_that_is_foretold(
    of: tuple[Market, Instrument], interval: Interval, back: int, threshold: float
) -> None:
    home, instrument = of
    buckets = home.buckets(interval, us("2025-10-20"), us("2025-12-01"))
    newest = int(buckets[-1 - back % len(buckets)])
    instant = stale_from(home, interval, instrument, newest, newest, threshold)
    assert instant is not None
    assert not freshness(home, interval, instrument, newest, instant, threshold).stale
    assert freshness(home, interval, instrument, newest, instant + 1, threshold).stale


def test_an_hour_of_grace_is_foretold_as_well() -> None:
    enabled, now = listed(BTC, enabled_at=utc("2025-11-20 11:30")), us("2025-11-20 12:00")
    for newest in (None, us("2025-11-20 09:00")):
        assert stale_from(CRYPTO, MINUTE, enabled, newest, now, THRESHOLD) == us("2025-11-20 12:30")
    assert stale_from(CRYPTO, MINUTE, BTC, None, now, THRESHOLD) is None


def test_there_is_no_grace_before_a_symbol_is_enabled() -> None:
    to_come, newest = listed(BTC, enabled_at=utc("2025-11-20 11:30")), us("2025-11-20 08:59")
    assert stale_from(CRYPTO, MINUTE, to_come, newest, newest, THRESHOLD) == us("2025-11-20 10:00")
    assert judged(CRYPTO, MINUTE, "2025-11-20 08:59", "2025-11-20 10:01", to_come).stale


def test_no_lag_grows_after_a_delisting() -> None:
    delisted = listed(BTC, delisted_at=utc("2025-11-20 12:00"))
    assert judged(CRYPTO, MINUTE, "2025-11-20 11:59", "2025-12-24 12:00", delisted) == Freshness(0.0, stale=False)
    assert judged(CRYPTO, DAY, "2025-11-19", "2025-12-24 12:00", delisted) == Freshness(0.0, stale=False)
    assert stale_from(CRYPTO, MINUTE, delisted, us("2025-11-20 11:59"), us("2025-12-24 12:00"), THRESHOLD) is None
