"""When bars are refreshed: minutes every five minutes while the market is open, days every hour.

Which partitions are due is computed from the calendar and named in the request, never taken from Dagster's idea of
the newest one.
"""

from datetime import datetime, timedelta

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from ohlcv_pipeline.bars.assets import asset_key
from ohlcv_pipeline.bars.freshness import open_minutes
from ohlcv_pipeline.bars.inspection import CHECKS
from ohlcv_pipeline.markets import Interval, Market, from_us, span_us, to_us

CRON = {Interval.MINUTE: "*/5 * * * *", Interval.DAY: "7 * * * *"}
LOOK_BACK = {Interval.MINUTE: timedelta(hours=4), Interval.DAY: timedelta(days=3)}
"""For how long after its end a partition is refreshed beside the running one: late bars arrive within it. Minutes
count while the market is open, so that what a session lacked at its end is asked for during the next one."""
AFTER_CLOSE = timedelta(minutes=60)
"""For how long after its close a session is refreshed although none is open."""


def refresh_job(market: Market, interval: Interval) -> UnresolvedAssetJobDefinition:
    """Return the job that refreshes one table and checks it; reconciling it is a job of its own."""
    key = asset_key(market, interval)
    own = [dg.AssetCheckKey(key, name) for name in CHECKS]
    return dg.define_asset_job(
        name=f"{market.name}_{interval}_refresh",
        selection=dg.AssetSelection.assets(key).without_checks() | dg.AssetSelection.checks(*own),
        description=f"The running partition of {market.name} {interval} bars, and the one before while it may change.",
    )


def due_partitions(market: Market, interval: Interval, now: datetime) -> list[str]:
    """Return the partitions to refresh at an instant, oldest first.

    Minutes: the session that is open or closed at most an hour ago, and the one before it while it may still lack
    bars; none between sessions. Days: the running month, and the one before for its first three days.
    """
    now_us = to_us(now)
    if interval is Interval.DAY:
        return market.partition_keys(interval, to_us(now - LOOK_BACK[interval]), now_us + 1)
    cal = market.calendar
    running = cal.sessions(now_us - span_us(AFTER_CLOSE) - 1, now_us + 1)
    first = running.start
    if first == running.stop:
        return []
    if first and open_minutes(cal, int(cal.closes[first - 1]), now_us) < LOOK_BACK[interval] / timedelta(minutes=1):
        first -= 1
    return market.partition_keys(interval, int(cal.opens[first]), now_us + 1)


def between_sessions(market: Market, now: datetime) -> str:
    """Return the sentence that says why there is nothing to refresh."""
    cal = market.calendar
    following = int(cal.opens[cal.sessions(to_us(now), to_us(now)).stop])
    return f"{cal.name} is closed; its next session opens at {from_us(following):%Y-%m-%d %H:%M} UTC"


def refresh_schedule(
    market: Market, interval: Interval, job: UnresolvedAssetJobDefinition, status: dg.DefaultScheduleStatus
) -> dg.ScheduleDefinition:
    """Return the schedule of one table's refresh."""

    @dg.schedule(
        name=f"{market.name}_{interval}_refresh",
        job=job,
        cron_schedule=CRON[interval],
        execution_timezone="UTC",
        default_status=status,
    )
    def refresh(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        keys = due_partitions(market, interval, context.scheduled_execution_time)
        if not keys:
            return dg.SkipReason(between_sessions(market, context.scheduled_execution_time))
        return dg.RunRequest(run_key=None, tags=range_tags(keys))

    return refresh


def range_tags(keys: list[str]) -> dict[str, str]:
    """Return the tags that make one run cover these consecutive partitions, given in order."""
    return {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
