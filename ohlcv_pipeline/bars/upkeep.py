"""The platform's nightly and weekly duties as Dagster jobs: verify everything, keep the lake tidy."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from ohlcv_pipeline.bars.checksum import run_checksum
from ohlcv_pipeline.bars.verify import Verification, actual_checksums, verify, verify_files
from ohlcv_pipeline.lake.maintenance import Maintenance, maintain
from ohlcv_pipeline.markets import Interval
from ohlcv_pipeline.platform import Platform
from ohlcv_pipeline.resources import PlatformResource


def verify_all(home: Platform) -> Verification:
    """Hash every bar and every file of the lake again."""
    total = verify_files(home.reading.reader)
    for market in home.markets:
        for interval in Interval:
            part = verify(home.reading.reader, market, interval)
            total.cells += part.cells
            total.rows += part.rows
            total.mismatched += part.mismatched
            total.unaccounted += part.unaccounted
            total.unreadable += part.unreadable
    return total


def maintain_all(home: Platform, now: datetime) -> Maintenance:
    """Tidy the lake and prove that no bar changed. Raises LakeError."""

    def fingerprint() -> str:
        return run_checksum(
            checksum
            for market in home.markets
            for interval in Interval
            for checksum in actual_checksums(home.store.reader, market, interval)
        )

    s = home.settings
    return maintain(
        home.store, fingerprint, now, timedelta(days=s.snapshot_retention_days), timedelta(days=s.raw_retention_days)
    )


def problems(result: Verification) -> list[dict[str, str]]:
    """Return what is wrong as rows for a table, cells first."""
    rows = [
        {"what": "checksum", "where": f"{r['market']} {r['interval']} {r['symbol']} {r['partition']}"}
        for r in result.mismatched
    ]
    rows += [
        {"what": "unaccounted", "where": f"{r['market']} {r['interval']} {r['symbol']}"} for r in result.unaccounted
    ]
    rows += [{"what": "damaged file", "where": path.rsplit("/", 1)[-1]} for path in result.damaged_files]
    return rows + [{"what": "unreadable", "where": text} for text in result.unreadable]


@dg.op
def verify_everything(context: dg.OpExecutionContext, platform: dg.ResourceParam[PlatformResource]) -> None:
    """Hash every stored bar and file again; fail with a table of what no longer agrees."""
    result = verify_all(platform.platform)
    context.add_output_metadata({"rows": result.rows, "cells": result.cells, "files": result.files})
    if not result.passed:
        wrong = problems(result)
        raise dg.Failure(
            description=f"{len(wrong)} parts of the lake are not what was published",
            metadata={"worst": dg.MetadataValue.table([dg.TableRecord(row) for row in wrong[:50]])},
            allow_retries=False,
        )


@dg.op
def tidy_lake(context: dg.OpExecutionContext, platform: dg.ResourceParam[PlatformResource]) -> None:
    """Merge small files, let go of old snapshots and raw answers, and prove that no bar changed."""
    done = maintain_all(platform.platform, datetime.now(UTC))
    context.add_output_metadata(vars(done))


@dg.job(description="Every stored bar and file is hashed again and held against manifest and seal.")
def verify_lake() -> None:
    """Verify the lake."""
    verify_everything()


@dg.job(
    description="Files merged, snapshots and raw answers past their retention deleted; rows and hashes proven equal."
)
def lake_maintenance() -> None:
    """Keep the lake tidy."""
    tidy_lake()


def upkeep_schedules(status: dg.DefaultScheduleStatus) -> Sequence[dg.ScheduleDefinition]:
    """Return the schedules of both jobs: verify at 02:30 each night, maintenance on Sundays at 04:30, UTC."""
    return [
        dg.ScheduleDefinition(name="verify", job=verify_lake, cron_schedule="30 2 * * *", default_status=status),
        dg.ScheduleDefinition(
            name="lake_maintenance", job=lake_maintenance, cron_schedule="30 4 * * 0", default_status=status
        ),
    ]
