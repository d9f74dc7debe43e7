"""The asset of a market's corporate actions, its check for jumps that nobody explains, and when both run.

Thin: asking and publishing is `actions`, finding jumps `jumps`.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from ohlcv_pipeline import interrupts
from ohlcv_pipeline.bars.actions import Gathered, gather, publish_actions
from ohlcv_pipeline.bars.assets import OWNER
from ohlcv_pipeline.bars.jumps import split_like_jumps
from ohlcv_pipeline.bars.partition_events import check_result
from ohlcv_pipeline.bars.quality import WORST, Verdict
from ohlcv_pipeline.lake.reader import Reader
from ohlcv_pipeline.markets import Instrument, Interval, Market, from_us, to_us
from ohlcv_pipeline.platform import Platform
from ohlcv_pipeline.resources import PlatformResource

AT = "0 18 * * *"
"""By the exchange's clock: half an hour after the vendor has the day, long before the next session opens."""


def actions_key(market: Market) -> dg.AssetKey:
    """Return the key of a market's corporate actions."""
    return dg.AssetKey([market.name, "corporate_actions"])


def actions_definitions(market: Market, status: dg.DefaultScheduleStatus) -> dg.Definitions:
    """Return the asset of a market's corporate actions with its check and schedule; nothing for one without any."""
    if market.actions_vendor is None:
        return dg.Definitions()
    job = _job(market)
    return dg.Definitions(
        assets=[_asset(market, market.actions_vendor)],
        asset_checks=[_jumps_check(market)],
        jobs=[job],
        schedules=[
            dg.ScheduleDefinition(
                name=job.name, job=job, cron_schedule=AT, execution_timezone=market.calendar.time_zone,
                default_status=status,
            )
        ],
    )  # fmt: skip


def _job(market: Market) -> UnresolvedAssetJobDefinition:
    return dg.define_asset_job(
        name=f"{market.name}_actions_refresh",
        selection=dg.AssetSelection.assets(actions_key(market)),
        description=f"All splits and dividends of {market.name}, asked for again.",
    )


def _asset(market: Market, vendor: str) -> dg.AssetsDefinition:
    @dg.asset(
        key=actions_key(market),
        group_name=market.name,
        kinds={"ducklake"},
        owners=[OWNER],
        code_version="1",
        pool=f"vendor_{vendor}",
        description=(
            f"Splits and dividends of {market.title}, from {vendor}. Bars are stored as traded and adjusted by these "
            "when they are read. One that the vendor changed or withdrew stays, with when it was superseded."
        ),
        metadata={"dagster/table_name": "lake.corporate_actions", "vendor": vendor},
    )
    def corporate_actions(
        context: dg.AssetExecutionContext, platform: dg.ResourceParam[PlatformResource]
    ) -> dg.MaterializeResult[None]:
        home, now = platform.platform, datetime.now(UTC)
        instruments = home.instruments(market)
        gathered = interrupts.run(_gather(market, vendor, instruments, home, now))
        changes = publish_actions(home.store, market, gathered.told, context.run.run_id, now)
        if gathered.failed:
            raise _failure(gathered)
        return dg.MaterializeResult(
            metadata={
                "symbols": len(gathered.told),
                "in_force": home.store.reader.actions(market.name).num_rows,
                "inserted": changes.inserted.num_rows,
                "superseded": changes.superseded.num_rows,
            }
        )

    return corporate_actions


async def _gather(
    market: Market, vendor: str, instruments: list[Instrument], home: Platform, now: datetime
) -> Gathered:
    async with home.sources(market) as sources:
        return await gather(market, instruments, sources[vendor], now)


def _failure(gathered: Gathered) -> dg.Failure:
    failed = sorted(gathered.failed.items())
    named = ", ".join(f"{symbol} ({code})" for symbol, code in failed)
    return dg.Failure(
        description=f"the corporate actions of {named} could not be had; those of {len(gathered.told)} symbols were",
        metadata={
            "failed": dg.MetadataValue.table([dg.TableRecord({"symbol": s, "code": code}) for s, code in failed]),
            "details": dg.MetadataValue.md("\n".join(f"- {s}: {e}" for s, e in sorted(gathered.failures.items()))),
        },
        allow_retries=False,
    )


def _jumps_check(market: Market) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=actions_key(market),
        name="unexplained_jumps",
        description="No share opened near a whole ratio of its close before without a split that says so.",
    )
    def unexplained_jumps(platform: dg.ResourceParam[PlatformResource]) -> dg.AssetCheckResult:
        home = platform.platform
        verdict = jumps_verdict(home.store.reader, market, home.instruments(market), datetime.now(UTC))
        return check_result(verdict, actions_key(market))

    return unexplained_jumps


def jumps_verdict(reader: Reader, market: Market, instruments: list[Instrument], now: datetime) -> Verdict:
    """Judge every stored day of these symbols. Raises LakeError."""
    start = market.history_start[Interval.DAY]
    start_us = to_us(datetime(start.year, start.month, start.day, tzinfo=UTC))
    offenders: list[Mapping[str, Any]] = []
    days = 0
    for instrument in instruments:
        bars = reader.bars(market.name, Interval.DAY, instrument.symbol, start_us, to_us(now))
        days += bars.num_rows
        offenders += [
            {
                "symbol": instrument.symbol,
                "session": f"{from_us(jump.session_us):%Y-%m-%d}",
                "ratio": round(jump.ratio, 4),
                "near": round(jump.split, 4),
                "told": round(jump.told, 4),
            }
            for jump in split_like_jumps(bars, reader.actions(market.name, [instrument.symbol]))
        ]
    return Verdict(
        check="unexplained_jumps",
        passed=not offenders,
        summary=f"{len(offenders)} sessions opened like after a split of which nobody told"
        if offenders
        else f"no jump like a split is unexplained among {days:,} days",
        severity="WARN",
        numbers={"days": days, "offenders": len(offenders)},
        offenders=offenders[:WORST],
    )
