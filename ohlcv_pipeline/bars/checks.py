"""The asset checks of a bar table: all five in one step, so that the bars are read once.

A run's checks speak of the partitions of that run; started by themselves, of the whole target window. The verdicts
come from `quality`; a lake that cannot be read fails the step and leaves no verdict.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)

from ohlcv_pipeline.bars.assets import SYMBOLS_TAG, asset_key, partitions_of
from ohlcv_pipeline.bars.inspection import CHECKS, inspect
from ohlcv_pipeline.bars.quality import Verdict
from ohlcv_pipeline.markets import Interval, Market
from ohlcv_pipeline.resources import PlatformResource

_MEANING = {
    "schema": "The table has its columns, and every bar keeps the rules: positive prices, low and high bound the bar.",
    "checksum": "The stored bars of every cell hash to the checksum in the manifest.",
    "gaps": "Every bar that the calendar expects is stored, or known to be without trades.",
    "duplicates": "No bucket of a symbol is stored more than once.",
    "freshness": "No symbol is further behind, in market time, than the threshold.",
}


def bars_checks(market: Market, interval: Interval) -> dg.AssetChecksDefinition:
    """Make the checks of one table."""
    key = asset_key(market, interval)

    @dg.multi_asset_check(
        name=f"{market.name}_{interval}_checks",
        specs=[dg.AssetCheckSpec(name, asset=key, description=_MEANING[name]) for name in CHECKS],
        can_subset=True,
    )
    def checks(
        context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[PlatformResource]
    ) -> Iterator[dg.AssetCheckResult]:
        home, now = platform.platform, datetime.now(UTC)
        run = context.instance.get_run_by_id(context.run.run_id)
        tags = run.tags if run is not None else {}
        verdicts = inspect(
            home.store.reader,
            market,
            interval,
            home.instruments(market, [symbol for symbol in tags.get(SYMBOLS_TAG, "").split(",") if symbol]),
            _partitions(tags, market, interval, now),
            now,
            home.settings.freshness_threshold_minutes,
            home.settings.coverage_error_pct,
            [check.name for check in context.selected_asset_check_keys],
        )
        yield from (check_result(verdict, key) for verdict in verdicts)

    return checks


def _partitions(tags: Mapping[str, str], market: Market, interval: Interval, now: datetime) -> list[str]:
    """Return the partitions a run is about, else those of the target window."""
    first = tags.get(ASSET_PARTITION_RANGE_START_TAG) or tags.get(PARTITION_NAME_TAG)
    last = tags.get(ASSET_PARTITION_RANGE_END_TAG) or tags.get(PARTITION_NAME_TAG)
    if first is None or last is None:
        return market.partition_keys(interval, *market.target_window(interval, now))
    return list(partitions_of(market, interval).get_partition_keys_in_range(dg.PartitionKeyRange(first, last)))


def check_result(verdict: Verdict, key: dg.AssetKey) -> dg.AssetCheckResult:
    """Return a verdict as Dagster shows it, with its worst offenders as a table."""
    metadata: dict[str, Any] = dict(verdict.numbers)
    if verdict.offenders:
        metadata["worst"] = dg.MetadataValue.table(
            [dg.TableRecord({k: _cell(v) for k, v in row.items()}) for row in verdict.offenders]
        )
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=verdict.check,
        passed=verdict.passed,
        severity=dg.AssetCheckSeverity[verdict.severity],
        description=verdict.summary,
        metadata=metadata,
    )


def _cell(value: Any) -> str | int | float | bool:
    return value if isinstance(value, str | int | float | bool) else "" if value is None else str(value)
