"""When tables are healed: soon after they change or something in their log is due, and all of them once a day.

Thin: what is looked at and what follows is `healing`.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from ohlcv_pipeline.lake.accounts import heads
from ohlcv_pipeline.markets import Interval, Market, to_us
from ohlcv_pipeline.operations import distress, healing
from ohlcv_pipeline.operations.remediation import Need
from ohlcv_pipeline.operations.requests import request_sensor
from ohlcv_pipeline.platform import Platform
from ohlcv_pipeline.resources import PlatformResource

TICK_SECONDS = 10
OLDEST = timedelta(minutes=15)
"""A table that does not change is looked at this often all the same: with time, more bars are due."""

SWEEP_CRON = "0 3 * * *"


def to_look_at(home: Platform, seen: dict[str, Any], now: datetime) -> list[healing.Table]:
    """Return the tables that are worth a look: published to since the last one, due by the log, or not seen for long.

    `seen` maps a table to its version and the instant of its next look, as `looked` notes it. A table without bars is
    not begun by a sensor.
    """
    versions = heads(home.reading.reader)
    found = []
    for market, interval in healing.tables(home):
        version = versions.get((market.name, str(interval)))
        last = seen.get(f"{market.name}/{interval}")
        if version is None or healing.busy(home, market, interval):
            continue
        if last is None or last["version"] != version or datetime.fromisoformat(last["next_at"]) <= now:
            found.append((market, interval))
    return found


def looked(home: Platform, table: healing.Table, done: healing.Healed, now: datetime) -> dict[str, Any]:
    """Return what is noted of a table that was looked at."""
    market, interval = table
    next_at = min(now + OLDEST, done.next_at or now + OLDEST)
    return {"version": heads(home.reading.reader).get((market.name, str(interval))), "next_at": next_at.isoformat()}


def told(done: healing.Healed) -> dict[str, int]:
    """Return what was found and done in numbers."""
    return {
        "holes": done.holes,
        "requests": len(done.requests),
        "resolved": len(done.resolved),
        "escalated": len(done.escalated),
    }


def remediation_definitions(
    jobs: Sequence[UnresolvedAssetJobDefinition], status: dg.DefaultScheduleStatus
) -> dg.Definitions:
    """Return the sensors and the sweep that heal tables; `jobs` are those that refresh one table each."""
    running = status is dg.DefaultScheduleStatus.RUNNING
    sensor_status = dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED

    @dg.op
    def sweep_tables(context: dg.OpExecutionContext, platform: dg.ResourceParam[PlatformResource]) -> None:
        """Look at every table, at those that nobody has begun, too, and request what is missing or red."""
        home, now = platform.platform, datetime.now(UTC)

        def red(market: Market, interval: Interval) -> list[Need]:
            return distress.needs(context.instance, home, market, interval, to_us(now))

        context.add_output_metadata(told(healing.heal(home, healing.tables(home), now, sweep=True, more=red)))

    @dg.job(description="Everything that is missing in the target windows, planned into the fewest runs and requested.")
    def remediation_sweep() -> None:
        sweep_tables()

    @dg.sensor(
        name="remediation",
        minimum_interval_seconds=TICK_SECONDS,
        default_status=sensor_status,
        description="Keeps the remediation log, and requests runs for gaps and damage as they become due.",
    )
    def remediation(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[PlatformResource]) -> dg.SkipReason:
        home, now = platform.platform, datetime.now(UTC)

        def damaged(market: Market, interval: Interval) -> list[Need]:
            return distress.damaged(context.instance, home, market, interval, to_us(now))

        seen = json.loads(context.cursor) if context.cursor else {}
        tally = {"holes": 0, "requests": 0, "resolved": 0, "escalated": 0}
        for table in to_look_at(home, seen, now):
            done = healing.heal(home, [table], now, more=damaged)
            market, interval = table
            seen[f"{market.name}/{interval}"] = looked(home, table, done, now)
            tally = {name: count + told(done)[name] for name, count in tally.items()}
        context.update_cursor(json.dumps(seen))
        return dg.SkipReason(", ".join(f"{count} {name}" for name, count in tally.items()))

    schedule = dg.ScheduleDefinition(
        name="remediation_sweep", job=remediation_sweep, cron_schedule=SWEEP_CRON, default_status=status
    )
    return dg.Definitions(
        jobs=[remediation_sweep], schedules=[schedule], sensors=[request_sensor(jobs, sensor_status), remediation]
    )
