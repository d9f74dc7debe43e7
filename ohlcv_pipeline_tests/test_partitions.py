"""The partitions that Dagster shows of each market, held against snapshots and the recorded sessions of New York."""

from __future__ import annotations

import csv
from dataclasses import replace
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from ohlcv_pipeline.bars.assets import partitions_of
from ohlcv_pipeline.markets import Interval, Market, from_us, market
from ohlcv_pipeline_tests.test_markets import FIXTURES

CRYPTO, NEW_YORK = market("crypto"), market("us_equities")
MINUTE, DAY = Interval.MINUTE, Interval.DAY


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def keys(of: Market, interval: Interval, now: str) -> list[str]:
    with dg.partition_loading_context(effective_dt=at(now)):
        return list(partitions_of(of, interval).get_partition_keys())


def of_calendar(name: str) -> Market:
    return replace(NEW_YORK, calendar_name=name, history_start={MINUTE: date(2021, 1, 1), DAY: date(2021, 1, 1)})


@pytest.mark.parametrize(
    ("first", "last", "sessions"),
    [
        pytest.param("2018-12-03", "2018-12-07", "03 04 06 07", id="mourning for a president"),
        pytest.param("2025-01-06", "2025-01-10", "06 07 08 10", id="and for another"),
        pytest.param("2025-03-05", "2025-03-12", "05 06 07 10 11 12", id="clocks go forward"),
        pytest.param("2025-10-30", "2025-11-05", "30 31 03 04 05", id="clocks go back"),
        pytest.param("2021-06-17", "2021-06-21", "17 18 21", id="Juneteenth before it was a holiday"),
        pytest.param("2022-06-16", "2022-06-21", "16 17 21", id="on a Sunday, observed on Monday"),
        pytest.param("2025-06-18", "2025-06-20", "18 20", id="on a Thursday"),
        pytest.param("2025-07-02", "2025-07-07", "02 03 07", id="half day before Independence Day"),
        pytest.param("2025-11-26", "2025-12-01", "26 28 01", id="half day after Thanksgiving"),
        pytest.param("2025-12-23", "2025-12-29", "23 24 26 29", id="half day before Christmas"),
        pytest.param("2024-02-28", "2024-03-01", "28 29 01", id="leap day"),
        pytest.param("2024-12-30", "2025-01-02", "30 31 02", id="turn of the year"),
    ],
)
def test_new_york_minutes_are_partitioned_by_the_dates_on_which_it_opens(first: str, last: str, sessions: str) -> None:
    found = [key for key in keys(NEW_YORK, MINUTE, "2026-01-15T12:00") if first <= key <= last]
    assert " ".join(key[-2:] for key in found) == sessions


@pytest.mark.parametrize(
    ("first", "last"), [("2018-12-03", "2018-12-07"), ("2025-03-07", "2025-03-11"), ("2025-10-30", "2025-11-05")]
)
def test_crypto_minutes_are_partitioned_by_every_utc_day(first: str, last: str) -> None:
    early = replace(CRYPTO, history_start={MINUTE: date(2018, 1, 1)})
    days = range(date.fromisoformat(first).toordinal(), date.fromisoformat(last).toordinal() + 1)
    found = [key for key in keys(early, MINUTE, "2026-01-15T12:00") if first <= key <= last]
    assert found == [date.fromordinal(day).isoformat() for day in days]


@pytest.mark.parametrize("of", [CRYPTO, NEW_YORK], ids=lambda of: of.name)
def test_days_are_partitioned_by_month_in_every_market(of: Market) -> None:
    found = keys(of, DAY, "2026-01-15T12:00")
    assert found[0] == f"{of.history_start[DAY]:%Y-%m}"
    assert found[-14:] == ["2024-12", *(f"2025-{month:02}" for month in range(1, 13)), "2026-01"]


@pytest.mark.parametrize(
    ("now", "newest"),
    [
        # New York's own midnight begins a partition, five or four hours after that of UTC.
        ("2025-03-07T04:59", "2025-03-06"),
        ("2025-03-07T05:00", "2025-03-07"),
        ("2025-03-08T15:00", "2025-03-07"),
        ("2025-03-10T03:59", "2025-03-07"),
        ("2025-03-10T04:00", "2025-03-10"),
        ("2025-11-03T04:59", "2025-10-31"),
        ("2025-11-03T05:00", "2025-11-03"),
        ("2025-11-28T23:30", "2025-11-28"),
    ],
)
def test_the_newest_partition_is_the_session_of_the_day(now: str, newest: str) -> None:
    assert keys(NEW_YORK, MINUTE, now)[-1] == newest


@pytest.mark.parametrize(("holiday", "next_session"), [("2025-01-09", "2025-01-10"), ("2025-11-27", "2025-11-28")])
def test_on_a_holiday_dagster_shows_the_next_session_early(holiday: str, next_session: str) -> None:
    # Not wanted: a characteristic of Dagster, for which the asset refuses a session that has not opened.
    assert keys(NEW_YORK, MINUTE, f"{holiday}T15:00")[-1] == next_session


def test_the_partitions_of_new_york_are_the_recorded_sessions_since_1990() -> None:
    file = FIXTURES / "exchange_calendars" / "xnys.csv"
    if not file.exists():
        pytest.skip(f"recorded sessions are not at {file}; set OHLCV_FIXTURES")
    with file.open() as lines:
        recorded = [row[""][:10] for row in csv.DictReader(lines)]
    since_1990 = replace(NEW_YORK, history_start={MINUTE: date(1990, 1, 1)})
    assert (recorded[0], len(recorded)) == ("1990-01-02", 8_324)
    assert keys(since_1990, MINUTE, f"{recorded[-1]}T23:00") == recorded


@pytest.mark.parametrize("name", ["XNYS", "XLON", "XASX", "XBOM", "XSAU", "24/7"])
def test_dagster_and_the_calendar_agree_on_the_partitions_of_any_exchange(name: str) -> None:
    # Riyadh trades from Sunday to Thursday, Sydney's sessions begin on the UTC date before, Mumbai's on the half hour.
    of, now = of_calendar(name), "2026-06-17T15:00"
    today = at(now).astimezone(ZoneInfo(of.calendar.time_zone)).date()
    labels = [from_us(label).date() for label in of.calendar.labels]
    assert keys(of, MINUTE, now) == [str(day) for day in labels if date(2021, 1, 1) <= day <= today]


def test_a_range_of_sessions_leaves_out_the_days_between_them() -> None:
    found = partitions_of(NEW_YORK, MINUTE).get_partition_keys_in_range(
        dg.PartitionKeyRange("2025-11-26", "2025-12-01")
    )
    assert found == ["2025-11-26", "2025-11-28", "2025-12-01"]


@pytest.mark.parametrize("closed", ["2025-01-09", "2025-06-19", "2025-11-22", "2025-12-25"])
def test_a_closed_day_is_no_partition_of_dagster(closed: str) -> None:
    assert not partitions_of(NEW_YORK, MINUTE).has_partition_key(closed)
