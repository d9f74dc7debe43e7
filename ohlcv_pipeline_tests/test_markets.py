"""Which bars must exist: calendars, windows, partitions."""

from __future__ import annotations

import csv
import os
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ohlcv_pipeline.markets import DAY_US, MARKETS, MINUTE_US, Interval, Market, calendar, from_us, market, to_us
from ohlcv_pipeline_tests.bars.vendor import AAPL, BTC, CRYPTO, DAY, MINUTE, NEW_YORK, listed, us, utc

FIXTURES = Path(os.environ.get("OHLCV_FIXTURES", Path(__file__).parents[1] / ".." / "shared" / "fixtures"))
NOW = utc("2025-11-21 12:00")
DAYS = st.dates(date(2021, 1, 1), date(2026, 6, 30))
BOTH = pytest.mark.parametrize("home", [CRYPTO, NEW_YORK], ids=["crypto", "us_equities"])


def minutes_of(home: Market, day: str) -> np.ndarray:
    return home.buckets(MINUTE, us(day), us(day) + 86_400_000_000)


@pytest.mark.parametrize("day", ["2025-03-09", "2025-11-02", "2024-02-29"])
def test_a_crypto_day_has_1440_minutes_and_one_day_bar_whatever_the_clocks_do(day: str) -> None:
    assert len(minutes_of(CRYPTO, day)) == 1440
    assert CRYPTO.buckets(DAY, us(day), us(day) + 86_400_000_000).tolist() == [us(day)]


@pytest.mark.parametrize(
    ("day", "open_", "close"),
    [
        ("2025-03-07", "14:30", "21:00"),
        ("2025-03-10", "13:30", "20:00"),
        ("2025-10-31", "13:30", "20:00"),
        ("2025-11-03", "14:30", "21:00"),
    ],
)
def test_a_new_york_session_has_390_minutes_on_either_side_of_a_clock_change(day: str, open_: str, close: str) -> None:
    minutes = minutes_of(NEW_YORK, day)
    assert len(minutes) == 390
    assert (int(minutes[0]), int(minutes[-1]) + MINUTE_US) == (us(f"{day} {open_}"), us(f"{day} {close}"))
    assert NEW_YORK.bucket_closes(DAY, np.array([us(day)])).tolist() == [us(f"{day} {close}")]


@pytest.mark.parametrize(("day", "close"), [("2025-07-03", "17:00"), ("2025-11-28", "18:00"), ("2025-12-24", "18:00")])
def test_a_half_day_expects_210_minutes(day: str, close: str) -> None:
    minutes = minutes_of(NEW_YORK, day)
    assert len(minutes) == 210
    assert int(minutes[-1]) + MINUTE_US == us(f"{day} {close}")


@pytest.mark.parametrize("day", ["2025-01-09", "2025-11-27", "2025-12-25", "2025-11-22"])
def test_a_closed_day_expects_nothing_and_is_no_partition(day: str) -> None:
    assert not len(minutes_of(NEW_YORK, day))
    assert not len(NEW_YORK.buckets(DAY, us(day), us(day) + 86_400_000_000))
    with pytest.raises(ValueError, match="is not a session"):
        NEW_YORK.partition_bounds(MINUTE, day)


def test_new_york_2025_has_250_sessions_3_half_days_and_96960_minutes() -> None:
    start, end = us("2025-01-01"), us("2026-01-01")
    days = NEW_YORK.buckets(DAY, start, end)
    minutes = NEW_YORK.buckets(MINUTE, start, end)
    _, counts = np.unique(minutes // 86_400_000_000, return_counts=True)
    assert (len(days), int((counts == 210).sum()), len(minutes)) == (250, 3, 96_960)


def test_new_york_sessions_equal_the_recorded_ones() -> None:
    file = FIXTURES / "exchange_calendars" / "xnys.csv"
    if not file.exists():
        pytest.skip(f"recorded sessions are not at {file}; set OHLCV_FIXTURES")
    with file.open() as lines:
        rows = [(to_us(datetime.fromisoformat(row[""])), row["open"], row["close"]) for row in csv.DictReader(lines)]
    recorded = np.array([(label, *(to_us(datetime.fromisoformat(t)) for t in times)) for label, *times in rows])
    cal = NEW_YORK.calendar
    known = cal.labels <= recorded[-1, 0]
    assert known.sum() == 8_324
    assert np.array_equal(np.column_stack([cal.labels, cal.opens, cal.closes])[known], recorded)


def test_the_worked_numbers_of_a_target_window() -> None:
    now_us = to_us(NOW)
    start, end = CRYPTO.target_window(MINUTE, NOW)
    assert (start, end) == (us("2025-08-23"), now_us)
    assert len(CRYPTO.expected(MINUTE, BTC, start, us("2025-11-21"), now_us)) == 129_600
    assert (
        sum(len(CRYPTO.expected(MINUTE, i, start, us("2025-11-21"), now_us)) for i in CRYPTO.instruments) == 1_296_000
    )
    assert len(CRYPTO.expected(DAY, BTC, *CRYPTO.target_window(DAY, NOW), now_us)) == 1_096
    minutes = NEW_YORK.expected(MINUTE, AAPL, *NEW_YORK.target_window(MINUTE, NOW), now_us)
    assert (len(np.unique(minutes // 86_400_000_000)), len(minutes)) == (63, 24_570)
    assert len(NEW_YORK.expected(DAY, AAPL, *NEW_YORK.target_window(DAY, NOW), now_us)) == 753


def test_29_february_looks_back_to_28_february() -> None:
    assert CRYPTO.target_window(DAY, utc("2024-02-29 08:00")) == (us("2021-02-28"), us("2024-02-29 08:00"))
    assert CRYPTO.target_window(DAY, utc("2027-02-28 08:00"))[0] == us("2024-02-28")


def test_today_is_the_utc_date_wherever_now_was_written() -> None:
    east = utc("2025-11-20 22:00").astimezone(timezone(timedelta(hours=5)))
    assert CRYPTO.target_window(MINUTE, east) == CRYPTO.target_window(MINUTE, utc("2025-11-20 22:00"))


def test_a_bar_is_expected_once_it_is_closed_for_the_publish_delay_and_not_a_moment_before() -> None:
    last = us("2025-11-21 11:57")
    assert CRYPTO.expected(MINUTE, BTC, us("2025-11-21"), to_us(NOW), to_us(NOW))[-1] == last
    assert CRYPTO.expected(MINUTE, BTC, us("2025-11-21"), to_us(NOW), to_us(NOW) - 1)[-1] == last - MINUTE_US
    for now, newest in [("2025-11-21 01:00", "2025-11-20"), ("2025-11-21 00:59", "2025-11-19")]:
        assert CRYPTO.expected(DAY, BTC, us("2025-11-01"), us("2025-12-01"), us(now))[-1] == us(newest)
    for now, newest in [("2025-11-28 19:00", "2025-11-28"), ("2025-11-28 18:59", "2025-11-26")]:
        assert NEW_YORK.expected(DAY, AAPL, us("2025-11-01"), us("2025-12-01"), us(now))[-1] == us(newest)


def test_nothing_is_expected_before_the_listing_or_from_the_delisting_on() -> None:
    coin = listed(BTC, listing_start=utc("2025-11-20 10:30"), delisted_at=utc("2025-11-20 10:35"))
    minutes = CRYPTO.expected(MINUTE, coin, us("2025-11-20"), us("2025-11-21"), to_us(NOW))
    assert minutes.tolist() == [us("2025-11-20 10:30") + k * MINUTE_US for k in range(5)]
    assert not len(CRYPTO.expected(MINUTE, coin, us("2025-11-01"), us("2025-11-02"), to_us(NOW)))


def test_a_time_without_a_zone_is_refused() -> None:
    naive = datetime(2025, 11, 2, 1, 30)
    with pytest.raises(ValueError, match="no time zone"):
        to_us(naive)
    with pytest.raises(ValueError, match="no time zone"):
        CRYPTO.expected(MINUTE, listed(BTC, listing_start=naive), us("2025-11-01"), us("2025-11-03"), to_us(NOW))


@given(st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1)), st.integers(-14, 14))
def test_microseconds_round_trip_from_any_zone(naive: datetime, hours: int) -> None:
    instant = naive.replace(tzinfo=timezone(timedelta(hours=hours)))
    assert from_us(to_us(instant)) == instant
    assert from_us(to_us(instant)).tzinfo is UTC


@BOTH
@pytest.mark.parametrize("interval", list(Interval))
@given(first=DAYS, length=st.integers(1, 100), offset=st.integers(0, 1439))
def test_every_bucket_of_a_window_lies_in_exactly_one_of_its_partitions(
    home: Market, interval: Interval, first: date, length: int, offset: int
) -> None:
    start = us(first.isoformat()) + offset * MINUTE_US
    end = start + length * 7_200 * 1_000_000 * (12 if interval is DAY else 1)
    keys = home.partition_keys(interval, start, end)
    assert keys == sorted(set(keys))
    inside = [home.buckets(interval, *home.partition_bounds(interval, key)) for key in keys]
    together = np.concatenate([np.empty(0, np.int64), *inside])
    assert (np.diff(together) > 0).all()
    wanted = home.buckets(interval, start, end)
    assert np.array_equal(together[(together >= start) & (together < end)], wanted)


@BOTH
@given(day=DAYS)
def test_the_bounds_of_a_partition_give_its_key_again(home: Market, day: date) -> None:
    month = f"{day:%Y-%m}"
    assert home.partition_keys(DAY, *home.partition_bounds(DAY, month)) == [month]
    try:
        bounds = home.partition_bounds(MINUTE, day.isoformat())
    except ValueError:
        assert not len(minutes_of(home, day.isoformat()))
    else:
        assert home.partition_keys(MINUTE, *bounds) == [day.isoformat()]


@pytest.mark.parametrize("key", ["2025-13-01", "20251120", "2025-W47-4", "2025-11", "yesterday", ""])
def test_a_partition_of_minutes_has_one_spelling(key: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        CRYPTO.partition_bounds(MINUTE, key)


@pytest.mark.parametrize("key", ["2025-13", "202511", "2025", "2025-11-20", "2025-W47", ""])
def test_a_partition_of_days_has_one_spelling(key: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        CRYPTO.partition_bounds(DAY, key)


def test_a_partition_ends_with_the_close_of_its_last_bucket() -> None:
    assert CRYPTO.partition_end(MINUTE, "2025-11-20") == us("2025-11-21")
    assert CRYPTO.partition_end(DAY, "2025-11") == us("2025-12-01")
    assert NEW_YORK.partition_end(MINUTE, "2025-11-28") == us("2025-11-28 18:00")
    assert NEW_YORK.partition_end(DAY, "2025-11") == us("2025-11-28 18:00")


def test_an_empty_window_has_no_buckets_and_no_partitions() -> None:
    for interval in Interval:
        assert not len(CRYPTO.buckets(interval, us("2025-11-20"), us("2025-11-20")))
        assert CRYPTO.partition_keys(interval, us("2025-11-20"), us("2025-11-19")) == []


@pytest.mark.parametrize(("text", "interval"), [("1m", MINUTE), ("minute", MINUTE), ("1d", DAY), ("day", DAY)])
def test_an_interval_may_be_written_in_two_ways(text: str, interval: Interval) -> None:
    assert Interval.parse(text) is interval


@pytest.mark.parametrize("home", MARKETS.values(), ids=MARKETS)
def test_a_process_that_has_outlived_its_calendar_is_told_so_and_misses_nothing_in_silence(home: Market) -> None:
    last = home.calendar.closes[-1]
    later = from_us(int(last) + 3 * DAY_US)
    bounds = int(last) - 30 * DAY_US, to_us(later)
    assert len(home.expected(Interval.DAY, home.instruments[0], *bounds, int(last)))
    with pytest.raises(ValueError, match=f"{home.calendar_name} was loaded up to .* start the process again"):
        home.expected(Interval.DAY, home.instruments[0], *bounds, to_us(later))
    with pytest.raises(ValueError, match=f"later than calendar {home.calendar_name} reaches"):
        home.partition_bounds(Interval.MINUTE, f"{later:%Y-%m-%d}")


def test_unknown_names_are_refused_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match="minute, day, 1m, 1d"):
        Interval.parse("5m")
    with pytest.raises(ValueError, match="crypto_usdt"):
        market("stocks")
    with pytest.raises(ValueError, match="not a configured symbol"):
        CRYPTO.instrument("PEPE")


@pytest.mark.parametrize("home", MARKETS.values(), ids=MARKETS)
def test_a_market_quotes_all_its_symbols_in_one_currency(home: Market) -> None:
    assert {instrument.quote for instrument in home.instruments} == {home.quote}
    assert all(set(home.vendors) == set(instrument.vendor_symbols) for instrument in home.instruments)
    assert len({instrument.symbol for instrument in home.instruments}) == len(home.instruments)


def test_the_ten_stocks_in_their_order_and_spellings() -> None:
    symbols = [instrument.symbol for instrument in NEW_YORK.instruments]
    assert symbols == ["AAPL", "MSFT", "NVDA", "AMZN", "GOOGL", "META", "TSLA", "SPY", "QQQ", "BRK.B"]
    assert NEW_YORK.instrument("BRK.B").vendor_symbols == {"alpaca": "BRK.B", "tiingo": "BRK-B"}
    assert (NEW_YORK.calendar.name, NEW_YORK.calendar.time_zone) == ("XNYS", "America/New_York")


def test_new_york_is_closed_on_eleven_weekdays_of_2025() -> None:
    of_2025 = [day for day in NEW_YORK.calendar.holidays(date(2025, 1, 1)) if day.year == 2025]
    assert [f"{day:%m-%d}" for day in of_2025] == [
        "01-01", "01-09", "01-20", "02-17", "04-18", "05-26", "06-19", "07-04", "09-01", "11-27", "12-25",
    ]  # fmt: skip


def test_an_exchange_may_open_on_a_sunday_and_a_market_that_never_closes_has_no_holiday() -> None:
    assert calendar("XSAU").weekdays(date(2022, 1, 1)) == [1, 2, 3, 4, 7]
    assert NEW_YORK.calendar.weekdays(date(2022, 1, 1)) == [1, 2, 3, 4, 5]
    assert CRYPTO.calendar.holidays(date(2022, 1, 1)) == []
    assert CRYPTO.calendar.longest_closure(date(2022, 1, 1)) == timedelta(0)


def test_the_longest_closure_of_new_york_followed_a_half_day_on_a_thursday() -> None:
    closed = NEW_YORK.calendar.longest_closure(date(2016, 1, 1))
    assert closed == utc("2020-12-28 14:30") - utc("2020-12-24 18:00")


@pytest.mark.parametrize(("name", "told"), [("XHKG", "have a pause"), ("CMES", "the evening before")])
def test_a_calendar_that_buckets_cannot_follow_is_refused(name: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        calendar(name)


@pytest.mark.parametrize(
    ("interval", "instant", "inside"),
    [
        (MINUTE, "2025-11-28 14:29:59", False),
        (MINUTE, "2025-11-28 14:30", True),
        (MINUTE, "2025-11-28 17:59:59", True),
        (MINUTE, "2025-11-28 18:00", False),
        (MINUTE, "2025-11-27 15:00", False),
        (MINUTE, "1969-07-21 15:00", False),
        (DAY, "2025-11-28", True),
        (DAY, "2025-11-28 05:00", True),
        (DAY, "2025-11-27", False),
        (DAY, "2025-11-29", False),
    ],
)
def test_a_session_holds_its_open_and_not_its_close(interval: Interval, instant: str, inside: bool) -> None:
    assert NEW_YORK.in_session(interval, np.array([us(instant)])).tolist() == [inside]


@given(st.integers(us("2015-01-01") // MINUTE_US, us("2026-06-01") // MINUTE_US))
def test_a_minute_is_in_session_exactly_when_it_is_a_bucket(minute: int) -> None:
    start = minute * MINUTE_US
    is_bucket = len(NEW_YORK.buckets(MINUTE, start, start + MINUTE_US)) == 1
    assert NEW_YORK.in_session(MINUTE, np.array([start])).tolist() == [is_bucket]


def test_the_ten_coins_in_their_order() -> None:
    symbols = [instrument.symbol for instrument in CRYPTO.instruments]
    assert symbols == ["BTC", "ETH", "SOL", "USDC", "USDT", "AAVE", "LINK", "DOGE", "BNB", "XRP"]
    assert CRYPTO.instrument("BTC").vendor_symbols == {"coinbase": "BTC-USD", "kraken": "XBTUSD"}
