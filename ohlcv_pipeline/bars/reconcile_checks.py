"""The asset checks that hold bars against another telling of them, and the nightly job that runs both.

They are apart from the checks of an ingestion run: one reads months, the other asks a vendor. Thin: what is compared is
`comparing`.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_START_TAG, PARTITION_NAME_TAG

from ohlcv_pipeline import interrupts
from ohlcv_pipeline.bars.assets import asset_key
from ohlcv_pipeline.bars.comparing import Reconciliation, compare_rollups, compare_vendors
from ohlcv_pipeline.bars.partition_events import check_result
from ohlcv_pipeline.markets import Instrument, Interval, Market
from ohlcv_pipeline.platform import Platform
from ohlcv_pipeline.resources import PlatformResource

AT = "30 3 * * *"
"""After `verify` and before the lake is tidied, UTC."""


def reconcile_keys(market: Market) -> list[dg.AssetCheckKey]:
    """Return the checks of a market: of days against minutes, and of both against a second vendor if there is one."""
    tables = [asset_key(market, interval) for interval in Interval]
    second = [dg.AssetCheckKey(key, "cross_vendor") for key in tables] if len(market.vendors) > 1 else []
    return [dg.AssetCheckKey(asset_key(market, Interval.DAY), "rollup"), *second]


def reconcile_definitions(market: Market, status: dg.DefaultScheduleStatus) -> dg.Definitions:
    """Return the checks of a market, and their job and schedule."""
    job = _job(market)
    checks = [_rollup_check(market)]
    if len(market.vendors) > 1:
        checks += [_vendor_check(market, interval) for interval in Interval]
    return dg.Definitions(
        asset_checks=checks,
        jobs=[job],
        schedules=[dg.ScheduleDefinition(name=job.name, job=job, cron_schedule=AT, default_status=status)],
    )


def _job(market: Market) -> UnresolvedAssetJobDefinition:
    return dg.define_asset_job(
        name=f"{market.name}_reconcile",
        selection=dg.AssetSelection.checks(*reconcile_keys(market)),
        description=f"The bars of {market.name} against the minutes they are made of, and against a second vendor.",
    )


def _rollup_check(market: Market) -> dg.AssetChecksDefinition:
    key = asset_key(market, Interval.DAY)
    spec = dg.AssetCheckSpec(
        "rollup", asset=key, description="Every day is what its minutes make of it, within stated tolerances."
    )

    @dg.multi_asset_check(name=f"{market.name}_rollup", specs=[spec], can_subset=True)
    def rollup(
        context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[PlatformResource]
    ) -> Iterator[dg.AssetCheckResult]:
        if _materialises(context):
            return
        home, now = platform.platform, datetime.now(UTC)
        window = market.target_window(Interval.MINUTE, now)
        found = compare_rollups(home.store.reader, market, home.instruments(market), *window)
        yield check_result(found.verdict(), key)

    return rollup


def _vendor_check(market: Market, interval: Interval) -> dg.AssetChecksDefinition:
    key = asset_key(market, interval)
    spec = dg.AssetCheckSpec(
        "cross_vendor",
        asset=key,
        description=f"A second vendor tells the same of a daily sample of {interval} bars, within stated tolerances.",
    )

    @dg.multi_asset_check(
        name=f"{market.name}_{interval}_cross_vendor",
        specs=[spec],
        can_subset=True,
        pool=f"vendor_{market.vendors[1]}",
    )
    def cross_vendor(
        context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[PlatformResource]
    ) -> Iterator[dg.AssetCheckResult]:
        if _materialises(context):
            return
        home, now = platform.platform, datetime.now(UTC)
        found = interrupts.run(_ask(home, market, interval, home.instruments(market), now))
        if found.unanswered and not found.compared:
            codes = ", ".join(sorted({f"{each['vendor']} {each['code']}" for each in found.unanswered}))
            raise dg.Failure(description=f"nothing could be compared: {codes}", allow_retries=False)
        yield check_result(found.verdict(), key)

    return cross_vendor


def _materialises(context: dg.AssetCheckExecutionContext) -> bool:
    """Return whether a run is about partitions: Dagster adds every check of an asset to its backfills.

    Only a check that may be left out (`can_subset`) may then end without a verdict.
    """
    return not {ASSET_PARTITION_RANGE_START_TAG, PARTITION_NAME_TAG}.isdisjoint(context.run.tags)


async def _ask(
    home: Platform, market: Market, interval: Interval, instruments: Sequence[Instrument], now: datetime
) -> Reconciliation:
    async with home.sources(market) as sources:
        window = market.target_window(interval, now)
        return await compare_vendors(home.store.reader, market, interval, instruments, *window, sources, now)
