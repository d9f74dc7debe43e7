"""When the tables of a market with sessions are refreshed, and what a tick says that has nothing to do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ohlcv_pipeline.bars.schedules import due_partitions
from ohlcv_pipeline.definitions import build_definitions
from ohlcv_pipeline.markets import Interval, from_us, market, to_us
from ohlcv_pipeline.settings import Settings

NEW_YORK = market("us_equities")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "due"),
    [
        # From the open to an hour after the close, whatever that is in UTC.
        ("2025-03-07T14:25", []),
        ("2025-03-07T14:30", ["2025-03-06", "2025-03-07"]),
        ("2025-03-07T22:00", ["2025-03-07"]),
        ("2025-03-07T22:05", []),
        ("2025-03-10T13:25", []),
        ("2025-03-10T13:30", ["2025-03-07", "2025-03-10"]),
        ("2025-03-10T21:00", ["2025-03-10"]),
        ("2025-03-10T21:05", []),
        # The session before for the first four hours.
        ("2025-11-04T18:25", ["2025-11-03", "2025-11-04"]),
        ("2025-11-04T18:30", ["2025-11-04"]),
        # Weekend, holiday, half day: four hours of open market are more than a half day has.
        ("2025-11-22T15:00", []),
        ("2025-11-27T15:00", []),
        ("2025-11-28T14:30", ["2025-11-26", "2025-11-28"]),
        ("2025-11-28T19:00", ["2025-11-26", "2025-11-28"]),
        ("2025-11-28T19:05", []),
        ("2025-12-01T15:00", ["2025-11-28", "2025-12-01"]),
        ("2025-01-09T15:00", []),
        ("2025-01-10T15:00", ["2025-01-08", "2025-01-10"]),
    ],
)
def test_minutes_are_due_from_the_open_to_an_hour_after_the_close(now: str, due: list[str]) -> None:
    assert due_partitions(NEW_YORK, Interval.MINUTE, at(now)) == due


@pytest.mark.parametrize(
    ("now", "due"),
    [
        ("2025-11-28T19:07", ["2025-11"]),
        ("2025-11-30T12:07", ["2025-11"]),
        ("2025-12-01T12:07", ["2025-11", "2025-12"]),
        ("2025-12-04T12:07", ["2025-12"]),
        ("2026-01-01T00:07", ["2025-12", "2026-01"]),
    ],
)
def test_days_are_due_by_month_as_in_any_market(now: str, due: list[str]) -> None:
    assert due_partitions(NEW_YORK, Interval.DAY, at(now)) == due


@given(st.integers(0, 886 * 1440))
def test_a_session_is_due_once_it_is_open_and_never_before(minute: int) -> None:
    now = at("2024-01-05T00:00") + timedelta(minutes=minute)
    due = due_partitions(NEW_YORK, Interval.MINUTE, now)
    calendar = NEW_YORK.calendar
    running = [
        from_us(label).date().isoformat()
        for label, opens, closes in zip(calendar.labels, calendar.opens, calendar.closes, strict=True)
        if opens <= to_us(now) <= closes + 3_600_000_000
    ]
    assert due[-1:] == running
    assert len(due) <= 2


@pytest.fixture
def definitions(tmp_path: Path) -> dg.Definitions:
    return build_definitions(Settings(_env_file=None, home=tmp_path, markets=("us_equities",)))  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ("2025-11-27T15:00", "XNYS is closed; its next session opens at 2025-11-28 14:30 UTC"),
        ("2025-11-28T19:05", "XNYS is closed; its next session opens at 2025-12-01 14:30 UTC"),
        ("2025-03-08T12:00", "XNYS is closed; its next session opens at 2025-03-10 13:30 UTC"),
    ],
)
def test_a_tick_while_the_market_is_closed_says_when_it_opens(definitions: dg.Definitions, now: str, told: str) -> None:
    with dg.instance_for_test() as instance:
        context = dg.build_schedule_context(instance, scheduled_execution_time=at(now))
        ticked = definitions.resolve_schedule_def("us_equities_minute_refresh").evaluate_tick(context)
    assert not ticked.run_requests
    assert ticked.skip_message == told


@pytest.mark.parametrize(
    ("schedule", "now", "first", "last"),
    [
        ("us_equities_minute_refresh", "2025-11-28T15:00", "2025-11-26", "2025-11-28"),
        ("us_equities_minute_refresh", "2025-11-26T21:30", "2025-11-26", "2025-11-26"),
        ("us_equities_day_refresh", "2025-11-27T15:07", "2025-11", "2025-11"),
    ],
)
def test_a_tick_names_the_sessions_it_asks_for(
    definitions: dg.Definitions, schedule: str, now: str, first: str, last: str
) -> None:
    with dg.instance_for_test() as instance:
        context = dg.build_schedule_context(instance, scheduled_execution_time=at(now))
        (asked,) = definitions.resolve_schedule_def(schedule).evaluate_tick(context).run_requests or []
    assert asked.tags["dagster/asset_partition_range_start"] == first
    assert asked.tags["dagster/asset_partition_range_end"] == last
