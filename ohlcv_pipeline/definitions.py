"""The table of contents: every domain's definitions merged, resources bound. Nothing is opened while this loads."""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from ohlcv_pipeline.bars.actions_assets import actions_definitions
from ohlcv_pipeline.bars.assets import bars_asset
from ohlcv_pipeline.bars.checks import bars_checks
from ohlcv_pipeline.bars.reconcile_checks import reconcile_definitions
from ohlcv_pipeline.bars.rereading import corrections_job, corrections_schedule
from ohlcv_pipeline.bars.schedules import refresh_job, refresh_schedule
from ohlcv_pipeline.bars.upkeep import lake_maintenance, scrub, upkeep_schedules, verify_lake
from ohlcv_pipeline.markets import Interval, Market, market
from ohlcv_pipeline.operations.alert_sensors import alert_definitions
from ohlcv_pipeline.operations.remediation_sensors import remediation_definitions
from ohlcv_pipeline.operations.retention import retention_definitions
from ohlcv_pipeline.operations.vendor_probes import vendor_definitions
from ohlcv_pipeline.progress import OnProgress
from ohlcv_pipeline.resources import LakeDuckDB, platform_resource
from ohlcv_pipeline.settings import Settings, settings

Refreshes = Mapping[Interval, UnresolvedAssetJobDefinition]
"""The job that refreshes each table of a market."""


def market_definitions(of: Market, jobs: Refreshes, status: dg.DefaultScheduleStatus) -> dg.Definitions:
    """Return the tables of one market with their checks, jobs and schedules."""
    rereading = corrections_job(of)
    tables = dg.Definitions(
        assets=[bars_asset(of, interval) for interval in Interval],
        asset_checks=[bars_checks(of, interval) for interval in Interval],
        jobs=[*jobs.values(), rereading],
        schedules=[
            *(refresh_schedule(of, interval, jobs[interval], status) for interval in Interval),
            corrections_schedule(of, rereading, status),
        ],
    )
    return dg.Definitions.merge(tables, actions_definitions(of, status), reconcile_definitions(of, status))


def build_definitions(chosen: Settings, on_progress: OnProgress | None = None) -> dg.Definitions:
    """Return the code location of an installation; the command line and the tests build theirs with it, too."""
    status = dg.DefaultScheduleStatus.RUNNING if chosen.schedules else dg.DefaultScheduleStatus.STOPPED
    jobs = {name: {interval: refresh_job(market(name), interval) for interval in Interval} for name in chosen.markets}
    return dg.Definitions.merge(
        *(market_definitions(market(name), jobs[name], status) for name in chosen.markets),
        remediation_definitions([job for of_market in jobs.values() for job in of_market.values()], status),
        vendor_definitions(status),
        retention_definitions(status),
        alert_definitions(status),
        dg.Definitions(
            assets=[scrub],
            jobs=[verify_lake, lake_maintenance],
            schedules=upkeep_schedules(status),
            resources={"platform": platform_resource(chosen, on_progress), "duckdb": LakeDuckDB()},
            executor=dg.in_process_executor,
        ),
    )


@dg.definitions
def defs() -> dg.Definitions:
    """Return the definitions for the settings of this process."""
    return build_definitions(settings())
