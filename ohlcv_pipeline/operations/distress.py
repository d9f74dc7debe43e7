"""Partitions that are red in Dagster though nothing is missing of them: a run died over them, or a check failed.

Another run settles both: what is complete costs no request, and its checks judge it again. What does not hash to its
manifest is fetched again by force.
"""

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
    """Return what runs are to look at because it is red: partitions of the target window that have ended."""
    start, _ = market.target_window(interval, from_us(end_us))
    window = market.partition_keys(interval, start, end_us)
    keys = [key for key in window if market.partition_end(interval, key) < end_us]
    if not keys or not home.store.reader.manifest(market.name, interval).num_rows:
        return []
    symbols = [instrument.symbol for instrument in home.instruments(market)]
    red = red_checks(instance, market, interval)
    suspect = sorted(key for key, names in red.items() if "checksum" in names and key in keys)
    wrong = verify(home.store.reader, market, interval, partitions=suspect).mismatched if suspect else []
    forced = {row["partition"] for row in wrong}
    again = ((failed(instance, market, interval, keys) | set(red)) & set(keys)) - forced
    found = [Need(Series(market.name, interval, symbol), key) for key in sorted(again) for symbol in symbols]
    return found + [Need(Series(market.name, interval, row["symbol"]), row["partition"], force=True) for row in wrong]


def failed(instance: dg.DagsterInstance, market: Market, interval: Interval, keys: list[str]) -> set[str]:
    """Return the partitions whose last run failed."""
    of = asset_key(market, interval)
    statuses = instance.get_status_by_partition(of, keys, partitions_of(market, interval)) or {}
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
