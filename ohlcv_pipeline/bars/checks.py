"""The asset checks of a bar table: all five in one step, so that the bars are read once.

A run's checks speak of the partitions of that run, one by one and together; started by themselves, of the whole
target window. The verdicts come from `quality`; a lake that cannot be reached fails the step and leaves none.
"""

import warnings
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import dagster as dg
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)

from ohlcv_pipeline.bars import partition_events
from ohlcv_pipeline.bars.assets import SYMBOLS_TAG, asset_key, partitions_of
from ohlcv_pipeline.bars.inspection import BY_PARTITION, CHECKS, inspect
from ohlcv_pipeline.markets import Interval, Market
from ohlcv_pipeline.resources import PlatformResource

# Checks by partition are a preview; the behaviour is pinned by characterization tests, the release by the lock file.
warnings.filterwarnings("ignore", message=".*partitions_def.*", category=dg.PreviewWarning)

_MEANING = {
    "schema": "The table has its columns, and every bar keeps the rules: positive prices, low and high bound the bar.",
    "checksum": "The stored bars of every cell can be read, and hash to the checksum in the manifest.",
    "gaps": "Every bar that the calendar expects is stored, or known to be without trades.",
    "duplicates": "No bucket of a symbol is stored more than once.",
    "freshness": "No symbol is further behind, in market time, than the threshold.",
}


def bars_checks(market: Market, interval: Interval) -> dg.AssetChecksDefinition:
    """Make the checks of one table."""
    key = asset_key(market, interval)
    partitions = partitions_of(market, interval)

    @dg.multi_asset_check(
        name=f"{market.name}_{interval}_checks",
        specs=[
            dg.AssetCheckSpec(
                name,
                asset=key,
                description=_MEANING[name],
                partitions_def=partitions if name in BY_PARTITION else None,
            )
            for name in CHECKS
        ],
        can_subset=True,
    )
    def checks(
        context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[PlatformResource]
    ) -> Iterator[dg.AssetCheckEvaluation | dg.AssetCheckResult]:
        home, now = platform.platform, datetime.now(UTC)
        run = context.instance.get_run_by_id(context.run.run_id)
        tags = run.tags if run is not None else {}
        planned = _planned(tags, partitions)
        judgement = inspect(
            home.store.reader,
            market,
            interval,
            home.instruments(market, [symbol for symbol in tags.get(SYMBOLS_TAG, "").split(",") if symbol]),
            planned or market.partition_keys(interval, *market.target_window(interval, now)),
            now,
            home.settings.freshness_threshold(market.name, interval),
            home.settings.coverage_error_pct,
            [check.name for check in context.selected_asset_check_keys],
        )
        yield from partition_events.evaluations(context.instance, key, judgement, planned)
        yield from (partition_events.check_result(verdict, key) for verdict in judgement.table)

    return checks


def _planned(tags: Mapping[str, str], partitions: dg.TimeWindowPartitionsDefinition) -> list[str]:
    """Return the partitions that a run is about; none of a run of the checks alone."""
    first = tags.get(ASSET_PARTITION_RANGE_START_TAG) or tags.get(PARTITION_NAME_TAG)
    last = tags.get(ASSET_PARTITION_RANGE_END_TAG) or tags.get(PARTITION_NAME_TAG)
    if first is None or last is None:
        return []
    return list(partitions.get_partition_keys_in_range(dg.PartitionKeyRange(first, last)))
