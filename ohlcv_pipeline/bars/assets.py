"""The bar assets: one factory makes a market's tables from its declaration.

Thin: context becomes an order, the outcome becomes metadata. Fetching and publishing is `ingest`.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from pydantic import Field

from ohlcv_pipeline import interrupts
from ohlcv_pipeline.bars import partition_events
from ohlcv_pipeline.bars.ingest import Outcome, ingest
from ohlcv_pipeline.bars.inspection import inspect
from ohlcv_pipeline.bars.listing import listings
from ohlcv_pipeline.bars.planning import Order, unopened
from ohlcv_pipeline.bars.recording import Recording, execution, recorded
from ohlcv_pipeline.bars.summary import PartitionSummary, column_schema, preview, summarise
from ohlcv_pipeline.lake.catalog import LakeError
from ohlcv_pipeline.lake.tables import bars_table
from ohlcv_pipeline.markets import Interval, Market
from ohlcv_pipeline.platform import Platform
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
_NAMED = 5
"""How many partitions the sentence of a failure names; its table has them all."""


class IngestConfig(dg.Config):
    """What a run may be told: some symbols only, everything again, or no retries by Dagster."""

    symbols: list[str] = Field(default_factory=list)
    force: bool = False
    retry: bool = True


def partitions_of(market: Market, interval: Interval) -> dg.TimeWindowPartitionsDefinition:
    """Return the partitions of a table: sessions of minutes, calendar months of days; the running one included.

    A session is a UTC day, or a date on which the exchange opens, from midnight to midnight in its time zone. On
    a holiday the session after it is shown before it opens: the asset refuses it alone (`unopened`).
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
        # A run over a range that cannot fill all of it materialises partition by partition, and has no output.
        output_required=False,
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
    ) -> Iterator[dg.MaterializeResult[None]]:
        home = platform.platform
        early = unopened(market, interval, context.partition_keys, datetime.now(UTC))
        if config.symbols:
            context.instance.add_run_tags(context.run.run_id, {SYMBOLS_TAG: ",".join(config.symbols)})
        order = Order(
            market=market,
            interval=interval,
            instruments=home.instruments(market, config.symbols),
            partitions=[key for key in context.partition_keys if key not in early],
            run_id=context.run.run_id,
            force=config.force,
        )
        may_retry = config.retry and context.retry_number < len(RETRY_SECONDS)
        again = dg.RetryRequested(len(RETRY_SECONDS), RETRY_SECONDS[min(context.retry_number, 1)])
        with recorded(home, order, execution(context.run), lambda: datetime.now(UTC)) as recording:
            try:
                outcome = interrupts.run(_ingest(order, platform, _tagger(context, platform, key, recording)))
            except LakeError as error:
                if may_retry:
                    raise again from error
                raise
            if may_retry and _transient(outcome):
                raise again
            now = datetime.now(UTC)
            home.record_listings(market, _listings(order, platform, outcome, now), now)
            summaries = summarise(home.store.reader, order, outcome.failed_cells, home.instruments(market), now)
            recording.end(outcome, {symbol: code for each in summaries for symbol, code in each.failed.items()})
        filled = [summary for summary in summaries if summary.accounted]
        if len(filled) == len(context.partition_keys):
            for summary in filled:
                context.add_asset_metadata(summary.metadata(), partition_key=summary.partition)
            yield dg.MaterializeResult(metadata=_run_metadata(order, outcome, platform))
            return
        partition_events.materialise(context, key, filled)
        _judge(context, key, order, home, now)
        if failure := _failure(summaries, outcome, early):
            raise failure
        missing = sorted({symbol for summary in summaries for symbol in summary.missing})
        context.log.info(f"not materialised, for {', '.join(missing)} are not accounted for: run it for all symbols")

    return bars


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
    context: dg.AssetExecutionContext, platform: PlatformResource, key: dg.AssetKey, recording: Recording
) -> Callable[[Progress], None]:
    """Return a listener that records the progress and shows it on the run, there at most every two seconds."""
    last = time.monotonic()

    def tell(progress: Progress) -> None:
        nonlocal last
        recording.heard(progress)
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


def _judge(context: dg.AssetExecutionContext, key: dg.AssetKey, order: Order, home: Platform, now: datetime) -> None:
    """Report the checks in the asset's own step: after a failure, or without an output, Dagster skips theirs."""
    judgement = inspect(
        home.store.reader,
        order.market,
        order.interval,
        order.instruments,
        context.partition_keys,
        now,
        home.settings.freshness_threshold(order.market.name, order.interval),
        home.settings.coverage_error_pct,
    )
    for tell in (partition_events.evaluations, partition_events.whole_table):
        for evaluation in tell(context.instance, key, judgement, context.partition_keys):
            context.log_event(evaluation)


def _transient(outcome: Outcome) -> bool:
    """Return whether something failed for a passing reason, and nothing for good."""
    errors = outcome.failures.values()
    return bool(errors) and not outcome.shifted and all(error.remedy is not Remedy.GIVE_UP for error in errors)


def _failure(
    summaries: Sequence[PartitionSummary], outcome: Outcome, early: Mapping[str, datetime]
) -> dg.Failure | None:
    """Return what a run fails with, naming the partitions and their symbols; None if nothing has failed."""
    failed = [(each.partition, symbol, code) for each in summaries for symbol, code in each.failed.items()]
    told = []
    if failed:
        named = ", ".join(f"{symbol} ({code})" for symbol, code in sorted({(s, c) for _, s, c in failed}))
        told.append(f"{named} could not be accounted for in {_some(sorted({key for key, _, _ in failed}))}")
    if early:
        opens = [f"{key} opens at {instant:%Y-%m-%d %H:%M} UTC" for key, instant in sorted(early.items())]
        told.append(f"{_some(opens)}; ask for it after that")
    if not told:
        return None
    filled = sum(summary.accounted for summary in summaries)
    told.append(f"{filled} of {len(summaries) + len(early)} partitions were materialised")
    rows = [dg.TableRecord({"partition": key, "symbol": symbol, "code": code}) for key, symbol, code in failed]
    details = [f"- {key} {symbol}: {error}" for (symbol, key), error in sorted(outcome.failures.items())]
    return dg.Failure(
        description="; ".join(told),
        metadata={"failed": dg.MetadataValue.table(rows), "details": dg.MetadataValue.md("\n".join(details))}
        if rows
        else {},
        allow_retries=False,
    )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"
