"""Requests of the ledger become runs of Dagster: a sensor launches each once, and ends what will never begin.

A tick looks at what is queued and does whatever is left to do, so a crash at any point costs one tick. That no
request is launched twice is Dagster's: the run key is the request's id.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from ohlcv_pipeline.bars.recording import REQUEST_TAG
from ohlcv_pipeline.bars.schedules import range_tags
from ohlcv_pipeline.ledger import requests, runs
from ohlcv_pipeline.ledger.models import IngestionRun
from ohlcv_pipeline.markets import Interval, market, to_us
from ohlcv_pipeline.resources import PlatformResource

TICK_SECONDS = 5
UNSEEN_FOR = timedelta(minutes=10)
"""After so long a request that was said to be launched, and of which Dagster knows nothing, is given up."""


def partitions_of(row: IngestionRun) -> list[str]:
    """Return the partitions that the window of a request touches, oldest first."""
    start, end = to_us(row.backfill_window_start), to_us(row.backfill_window_end)
    return market(row.market).partition_keys(Interval(row.interval), start, end)


def job_name(row: IngestionRun) -> str:
    """Return the job that does what a request asks for."""
    return f"{row.market}_{row.interval}_refresh"


def run_config(row: IngestionRun) -> dict[str, Any]:
    """Return what the asset of a request's run is told; only what people asked for is tried again by Dagster."""
    config = {"symbols": row.symbols or [], "force": row.force, "retry": row.trigger == runs.MANUAL}
    return {"ops": {f"{row.market}__ohlcv_{row.interval}": {"config": config}}}


def tags(row: IngestionRun) -> dict[str, str]:
    """Return the tags of a request's run: its partitions, and which request it does."""
    return {**range_tags(partitions_of(row)), REQUEST_TAG: str(row.id)}


def request_sensor(jobs: Sequence[UnresolvedAssetJobDefinition], status: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    """Return the sensor that launches what is requested, and ends the runs that no longer show signs of life."""

    @dg.sensor(
        name="launch_requests",
        jobs=list(jobs),
        minimum_interval_seconds=TICK_SECONDS,
        default_status=status,
        description="Launches the backfills that people, the service and remediation have requested, each once.",
    )
    def launch_requests(
        context: dg.SensorEvaluationContext, platform: dg.ResourceParam[PlatformResource]
    ) -> Iterator[dg.RunRequest | dg.SkipReason]:
        ledger, now = platform.platform.ledger, datetime.now(UTC)
        for id_ in runs.abandon(ledger, now):
            context.log.warning(f"run {id_} gave no sign of life for ten minutes and has been ended")
        quiet = True
        for row in requests.queued(ledger):
            found = context.instance.get_runs(dg.RunsFilter(tags={REQUEST_TAG: str(row.id)}), limit=1)
            if found:
                _follow(platform, row, found[0], now)
            elif row.launched_at is None:
                quiet = False
                yield dg.RunRequest(
                    run_key=str(row.id), job_name=job_name(row), tags=tags(row), run_config=run_config(row)
                )
            elif row.launched_at < now - UNSEEN_FOR:
                runs.fail(ledger, row.id, "abandoned", now)
        if quiet:
            yield dg.SkipReason("nothing is requested that has not been launched")

    return launch_requests


def _follow(platform: PlatformResource, row: IngestionRun, run: dg.DagsterRun, now: datetime) -> None:
    """Note what has become of a launched request that has not begun."""
    ledger = platform.platform.ledger
    if row.dagster_run_id != run.run_id:
        requests.launched(ledger, row.id, run.run_id, now)
    if run.is_finished:
        cancelled = run.status is dg.DagsterRunStatus.CANCELED
        runs.fail(ledger, row.id, "cancelled" if cancelled else "internal", now)
