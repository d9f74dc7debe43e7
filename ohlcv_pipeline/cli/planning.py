"""What a backfill would do: the cells that lack bars, the partitions of the run, requests and time per vendor.

Which buckets a cell wants is decided by `bars.planning`; here it is turned into one run a table and an estimate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ohlcv_pipeline.bars.ingest import planned_requests
from ohlcv_pipeline.bars.planning import Cells, Order, wanted
from ohlcv_pipeline.cli.options import Selected
from ohlcv_pipeline.markets import from_us, to_us
from ohlcv_pipeline.platform import Platform
from ohlcv_pipeline.settings import VendorSettings
from ohlcv_pipeline.vendors.failover import Source
from ohlcv_pipeline.vendors.registry import adapter, transport
from ohlcv_pipeline.vendors.transport import UnlimitedBudget


@dataclass(frozen=True)
class TablePlan:
    """One table's part of a backfill.

    `partitions` are those the run covers, oldest first and without holes; `cells` what it would fetch of them.
    """

    selected: Selected
    force: bool
    partitions: list[str]
    cells: Cells
    requests: Mapping[str, int]

    @property
    def asset(self) -> str:
        """The asset key as Dagster spells it."""
        return f"{self.selected.market.name}/ohlcv_{self.selected.interval}"

    @property
    def buckets(self) -> int:
        """How many buckets the run would ask for."""
        return sum(len(buckets) for buckets in self.cells.values())

    def as_json(self, settings: Mapping[str, VendorSettings]) -> dict[str, Any]:
        """Return the plan with the seconds that each vendor's limits make of it."""
        return {
            "market": self.selected.market.name,
            "interval": str(self.selected.interval),
            "asset": self.asset,
            "window_start": from_us(self.selected.start_us),
            "window_end": from_us(self.selected.end_us),
            "symbols": [instrument.symbol for instrument in self.selected.instruments],
            "force": self.force,
            "cells": len(self.cells),
            "buckets": self.buckets,
            "partitions": len(self.partitions),
            "first_partition": self.partitions[0] if self.partitions else None,
            "last_partition": self.partitions[-1] if self.partitions else None,
            "vendors": [
                {"vendor": name, "requests": count, "seconds_at_limit": seconds_at_limit(count, settings[name])}
                for name, count in sorted(self.requests.items())
            ],
        }


def plan_table(home: Platform, selected: Selected, force: bool, now: datetime) -> TablePlan:
    """Return what a backfill of one table would do at `now`. Sends nothing."""
    market, interval = selected.market, selected.interval
    keys = market.partition_keys(interval, selected.start_us, selected.end_us)
    order = Order(market, interval, selected.instruments, keys, run_id="", force=force)
    cells = wanted(order, home.store.reader, now)
    lacking = sorted({key for _, key in (cells if force else _lacking(home, order, cells))})
    span = [key for key in keys if lacking and lacking[0] <= key <= lacking[-1]]
    covered = set(span)
    fetched = {cell: buckets for cell, buckets in cells.items() if cell[1] in covered}
    settings = {name: home.settings.vendor(name) for name in market.vendors}
    sources = {
        name: Source(adapter(name, chosen), transport(name, chosen, UnlimitedBudget(), lambda _: None))
        for name, chosen in settings.items()
    }
    requests = planned_requests(order, fetched, sources, home.settings.batch_rows, to_us(now)) if fetched else {}
    return TablePlan(selected, force, span, fetched, requests)


def _lacking(home: Platform, order: Order, cells: Cells) -> Cells:
    """Leave out the cells that want nothing but another look at their newest bar: no reason to start a run."""
    if not cells:
        return cells
    symbols = [instrument.symbol for instrument in order.instruments]
    manifest = home.store.reader.manifest(order.market.name, order.interval, symbols, order.partitions)
    newest = {
        (row["symbol"], row["partition"]): to_us(row["last_bucket"])
        for row in manifest.select(["symbol", "partition", "last_bucket"]).to_pylist()
        if row["last_bucket"] is not None
    }
    return {cell: buckets for cell, buckets in cells.items() if len(buckets) > 1 or int(buckets[0]) != newest.get(cell)}


def seconds_at_limit(requests: int, vendor: VendorSettings) -> float | None:
    """Return how long a vendor's own limits make some requests of weight 1 take; None without a limit."""
    bounds = []
    if vendor.requests_per_second is not None:
        bounds.append(max(0, requests - vendor.burst) / vendor.requests_per_second)
    if vendor.weight_per_minute is not None:
        bounds.append(max(0.0, requests - vendor.weight_per_minute / 10) * 60 / (0.9 * vendor.weight_per_minute))
    return round(max(bounds), 1) if bounds else None
