"""When bars are refreshed: minutes every five minutes, days every hour, each with explicit partition keys.

Which partitions are due is computed from the calendar, never taken from Dagster's idea of the newest one.
"""

from datetime import datetime, timedelta

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from ohlcv_pipeline.bars.assets import asset_key
from ohlcv_pipeline.markets import Interval, Market, to_us

CRON = {Interval.MINUTE: "*/5 * * * *", Interval.DAY: "7 * * * *"}
LOOK_BACK = {Interval.MINUTE: timedelta(hours=4), Interval.DAY: timedelta(days=3)}
"""For how long after its end a partition is refreshed beside the running one: late bars arrive within it."""


def refresh_job(market: Market, interval: Interval) -> UnresolvedAssetJobDefinition:
    """Return the job that refreshes one table and checks it."""
    return dg.define_asset_job(
        name=f"{market.name}_{interval}_refresh",
        selection=dg.AssetSelection.assets(asset_key(market, interval)),
        description=f"The running partition of {market.name} {interval} bars, and the one before while it may change.",
    )


def due_partitions(market: Market, interval: Interval, now: datetime) -> list[str]:
    """Return the partitions to refresh at an instant, oldest first."""
    return market.partition_keys(interval, to_us(now - LOOK_BACK[interval]), to_us(now) + 1)


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
            return dg.SkipReason("no session is open or has just closed")
        return dg.RunRequest(run_key=None, tags=range_tags(keys))

    return refresh


def range_tags(keys: list[str]) -> dict[str, str]:
    """Return the tags that make one run cover these consecutive partitions, given in order."""
    return {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
