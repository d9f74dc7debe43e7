"""Partitions that are red in Dagster though nothing is missing of them: a run died over them, or a check failed.

Another run settles both: what is complete costs no request, and its checks judge it again. What does not hash to its
manifest is fetched again by force.
"""

from collections.abc import Set

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.partition_status_cache import AssetPartitionStatus

from ohlcv_pipeline.bars.assets import asset_key, partitions_of
from ohlcv_pipeline.bars.inspection import BY_PARTITION
from ohlcv_pipeline.bars.verify import verify
from ohlcv_pipeline.markets import Interval, Market, from_us
from ohlcv_pipeline.operations.remediation import Need, Series
from ohlcv_pipeline.platform import Platform


def needs(instance: dg.DagsterInstance, home: Platform, market: Market, interval: Interval, end_us: int) -> list[Need]:
    """Return what runs are to look at because it is red: of what may still grow, damage alone."""
    wrong = damaged(instance, home, market, interval, end_us)
    settled = {key for key in _window(home, market, interval, end_us) if market.partition_end(interval, key) < end_us}
    red = failed(instance, market, interval, settled) | set(red_checks(instance, market, interval))
    again = sorted((red & settled) - {need.partition for need in wrong})
    symbols = [instrument.symbol for instrument in home.instruments(market)]
    return [Need(Series(market.name, interval, symbol), key) for key in again for symbol in symbols] + wrong


def damaged(
    instance: dg.DagsterInstance, home: Platform, market: Market, interval: Interval, end_us: int
) -> list[Need]:
    """Return what is to be fetched by force: where the check `checksum` is red, the bars are hashed once more."""
    red = red_checks(instance, market, interval)
    suspect = [key for key in _window(home, market, interval, end_us) if "checksum" in red.get(key, ())]
    wrong = verify(home.store.reader, market, interval, partitions=suspect).mismatched if suspect else []
    return [Need(Series(market.name, interval, row["symbol"]), row["partition"], force=True) for row in wrong]


def _window(home: Platform, market: Market, interval: Interval, end_us: int) -> list[str]:
    """Return the partitions of the target window; none of a table that was never begun."""
    if not home.store.reader.manifest(market.name, interval).num_rows:
        return []
    start, _ = market.target_window(interval, from_us(end_us))
    return market.partition_keys(interval, start, end_us)


def failed(instance: dg.DagsterInstance, market: Market, interval: Interval, keys: Set[str]) -> set[str]:
    """Return the partitions whose last run failed."""
    of = asset_key(market, interval)
    if not keys:
        return set()
    statuses = instance.get_status_by_partition(of, sorted(keys), partitions_of(market, interval)) or {}
    return {key for key, status in statuses.items() if status is AssetPartitionStatus.FAILED}


def red_checks(instance: dg.DagsterInstance, market: Market, interval: Interval) -> dict[str, set[str]]:
    """Return the checks that are red for the newest bars of each partition; gaps are the log's."""
    of = asset_key(market, interval)
    checks = [dg.AssetCheckKey(of, name) for name in BY_PARTITION if name != "gaps"]
    found: dict[str, set[str]] = {}
    for info in instance.event_log_storage.get_asset_check_partition_info(checks):
        is_red = info.latest_execution_status is AssetCheckExecutionRecordStatus.FAILED and info.is_current
        if is_red and info.partition_key is not None:
            found.setdefault(info.partition_key, set()).add(info.check_key.name)
    return found
