"""The bar assets: one factory makes a market's tables from its declaration.

Thin: context becomes an order, the outcome becomes metadata. Fetching and publishing is `ingest`.
"""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from pydantic import Field

from ohlcv_pipeline import interrupts
from ohlcv_pipeline.bars.ingest import Outcome, ingest
from ohlcv_pipeline.bars.listing import listings
from ohlcv_pipeline.bars.planning import Order, unopened
from ohlcv_pipeline.bars.summary import PartitionSummary, column_schema, preview, summarise
from ohlcv_pipeline.lake.catalog import LakeError
from ohlcv_pipeline.lake.tables import bars_table
from ohlcv_pipeline.markets import Interval, Market
from ohlcv_pipeline.progress import Progress
from ohlcv_pipeline.resources import PlatformResource
from ohlcv_pipeline.vendors.errors import Remedy

# The parameter is in beta, the behaviour pinned by a characterization test, the release by the lock file.
warnings.filterwarnings("ignore", message=".*backfill_policy.*", category=dg.BetaWarning)

OWNER = "team:market-data"
RETRY_SECONDS = (30, 120)
"""How long a run waits before it asks again for the symbols that failed for a passing reason."""
PROGRESS_TAG = "ohlcv/progress"
SYMBOLS_TAG = "ohlcv/symbols"
"""Set on a run that is about some symbols only, so that its checks judge those."""
_SECONDS_BETWEEN_TAGS = 2.0


class IngestConfig(dg.Config):
    """What a run may be told: some symbols only, everything again, or no retries by Dagster."""

    symbols: list[str] = Field(default_factory=list)
    force: bool = False
    retry: bool = True


def partitions_of(market: Market, interval: Interval) -> dg.TimeWindowPartitionsDefinition:
    """Return the partitions of a table: sessions of minutes, calendar months of days; the running one included.

    A session is a UTC day, or a date on which the exchange opens, from midnight to midnight in its time zone. On
    a holiday the session after it is shown before it opens: the asset refuses it (`unopened`).
    """
    start = market.history_start[interval]
    if interval is Interval.DAY:
        return dg.MonthlyPartitionsDefinition(start_date=f"{start:%Y-%m}", fmt="%Y-%m", end_offset=1)
    if market.always_open:
        return dg.DailyPartitionsDefinition(start_date=start.isoformat(), end_offset=1)
    calendar = market.calendar
    return dg.TimeWindowPartitionsDefinition(
        cron_schedule=f"0 0 * * {','.join(str(day % 7) for day in calendar.weekdays(start))}",
        start=start.isoformat(),
        fmt="%Y-%m-%d",
        timezone=calendar.time_zone,
        end_offset=1,
        exclusions=[datetime(day.year, day.month, day.day) for day in calendar.holidays(start)],  # noqa: DTZ001
    )


def asset_key(market: Market, interval: Interval) -> dg.AssetKey:
    """Return the key of a market's table."""
    return dg.AssetKey([market.name, f"ohlcv_{interval}"])


def bars_asset(market: Market, interval: Interval) -> dg.AssetsDefinition:
    """Make the asset of one table."""
    key = asset_key(market, interval)
    described = {Interval.MINUTE: "Minute", Interval.DAY: "Day"}[interval]

    @dg.asset(
        key=key,
        partitions_def=partitions_of(market, interval),
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=market.name,
        kinds={"ducklake", "parquet"},
        owners=[OWNER],
        tags={"interval": str(interval), "quote": market.quote},
        code_version="1",
        pool=f"vendor_{market.vendors[0]}",
        freshness_policy=dg.FreshnessPolicy.time_window(
            fail_window=timedelta(hours=26)
            if interval is Interval.DAY
            else timedelta(hours=1) + market.calendar.longest_closure(market.history_start[interval])
        ),
        description=(
            f"{described} bars. {market.title}: open, high, low, close and volume of every enabled symbol, "
            f"from {', then '.join(market.vendors)}. Partitioned by time; symbols are rows. Each symbol of each "
            "partition has a manifest row with its expected rows, its checksum and the answers it came from."
        ),
        metadata={
            "dagster/table_name": bars_table(market.name, interval).replace('"', ""),
            "dagster/column_schema": column_schema(market.quote),
            "calendar": market.calendar_name,
            "vendors": list(market.vendors),
        },
    )
    def bars(
        context: dg.AssetExecutionContext, config: IngestConfig, platform: dg.ResourceParam[PlatformResource]
    ) -> dg.MaterializeResult[None]:
        home = platform.platform
        _refuse_unopened(market, interval, context.partition_keys)
        if config.symbols:
            context.instance.add_run_tags(context.run.run_id, {SYMBOLS_TAG: ",".join(config.symbols)})
        order = Order(
            market=market,
            interval=interval,
            instruments=home.instruments(market, config.symbols),
            partitions=context.partition_keys,
            run_id=context.run.run_id,
            force=config.force,
        )
        may_retry = config.retry and context.retry_number < len(RETRY_SECONDS)
        again = dg.RetryRequested(len(RETRY_SECONDS), RETRY_SECONDS[min(context.retry_number, 1)])
        try:
            outcome = interrupts.run(_ingest(order, platform, _tagger(context, platform, key)))
        except LakeError as error:
            if may_retry:
                raise again from error
            raise
        now = datetime.now(UTC)
        home.record_listings(market, _listings(order, platform, outcome, now), now)
        summaries = summarise(home.store.reader, order, now)
        if outcome.failed:
            _publish_partial(context, key, summaries, outcome)
            if may_retry and _transient(outcome):
                raise again
            raise _failure(order, outcome)
        for summary in summaries:
            context.add_asset_metadata(summary.metadata(), partition_key=summary.partition)
        return dg.MaterializeResult(metadata=_run_metadata(order, outcome, platform))

    return bars


def _refuse_unopened(market: Market, interval: Interval, partitions: Sequence[str]) -> None:
    """Raise a Failure for good when a partition has not begun: on a holiday Dagster shows the next session."""
    early = unopened(market, interval, partitions, datetime.now(UTC))
    if early:
        opens = ", ".join(f"{key} opens at {instant:%Y-%m-%d %H:%M} UTC" for key, instant in early.items())
        raise dg.Failure(description=f"nothing was fetched: {opens}; ask for it after that", allow_retries=False)


async def _ingest(order: Order, platform: PlatformResource, on_progress: Callable[[Progress], None]) -> Outcome:
    home = platform.platform
    async with home.sources(order.market) as sources:
        return await ingest(
            order, home.store, sources, lambda: datetime.now(UTC), home.settings.batch_rows, on_progress
        )


def _listings(order: Order, platform: PlatformResource, outcome: Outcome, now: datetime) -> Mapping[str, datetime]:
    """Return the listings that this run has shown; a symbol that failed shows nothing."""
    market, interval = order.market, order.interval
    unlisted = [i.symbol for i in order.instruments if i.listing_start is None and i.symbol not in outcome.failed]
    window = market.partition_keys(interval, *market.target_window(interval, now))
    if not unlisted or not set(window) <= set(order.partitions):
        return {}
    manifest = platform.platform.store.reader.manifest(market.name, interval, unlisted, window)
    return listings(
        manifest.select(["symbol", "partition", "rows", "expected_rows", "first_bucket"]).to_pylist(), window, unlisted
    )


def _tagger(
    context: dg.AssetExecutionContext, platform: PlatformResource, key: dg.AssetKey
) -> Callable[[Progress], None]:
    """Return a listener that shows the progress on the run, at most every two seconds."""
    last = time.monotonic()

    def tell(progress: Progress) -> None:
        nonlocal last
        platform.report(key.to_user_string(), progress)
        if time.monotonic() - last >= _SECONDS_BETWEEN_TAGS:
            last = time.monotonic()
            text = f"{progress.requests}/{progress.planned} requests"
            context.instance.add_run_tags(context.run.run_id, {PROGRESS_TAG: text})

    return tell


def _run_metadata(order: Order, outcome: Outcome, platform: PlatformResource) -> Mapping[str, Any]:
    newest = max(order.partitions)
    return {
        "rows_written": outcome.rows,
        "requests": outcome.requests,
        "served": dict(outcome.served),
        "dropped": dict(outcome.dropped),
        "preview": preview(platform.platform.store.reader, order.market, order.interval, newest),
    }


def _publish_partial(
    context: dg.AssetExecutionContext, key: dg.AssetKey, summaries: Sequence[PartitionSummary], outcome: Outcome
) -> None:
    """Materialise the partitions in which every symbol is accounted for, though the run as a whole fails."""
    for summary in summaries:
        if not set(summary.unaccounted) & set(outcome.failed):
            context.log_event(
                dg.AssetMaterialization(asset_key=key, partition=summary.partition, metadata=summary.metadata())
            )


def _transient(outcome: Outcome) -> bool:
    """Return whether trying again may help: no symbol failed for good."""
    return not outcome.shifted and all(e.remedy is not Remedy.GIVE_UP for e in outcome.failures.values())


def _failure(order: Order, outcome: Outcome) -> dg.Failure:
    named = ", ".join(f"{symbol} ({code})" for symbol, code in sorted(outcome.failed.items()))
    published = len(order.instruments) - len(outcome.failed)
    others = f"; the other {published} symbols were published" if published else ""
    details = [f"- {symbol}: {error}" for symbol, error in sorted(outcome.failures.items())]
    return dg.Failure(
        description=f"{named} could not be accounted for{others}",
        metadata={
            "failed": dg.MetadataValue.table(
                [dg.TableRecord({"symbol": s, "code": c}) for s, c in sorted(outcome.failed.items())]
            ),
            "details": dg.MetadataValue.md("\n".join(details)),
        },
        allow_retries=False,
    )
