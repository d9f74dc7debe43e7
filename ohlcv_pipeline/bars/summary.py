"""What Dagster shows of a partition: rows, expected rows, coverage and checksum, read from the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import dagster as dg

from ohlcv_pipeline.bars.checksum import run_checksum
from ohlcv_pipeline.bars.planning import Order
from ohlcv_pipeline.bars.report import coverage_pct
from ohlcv_pipeline.lake.reader import Reader
from ohlcv_pipeline.lake.tables import STORED_BARS, sql_types
from ohlcv_pipeline.markets import Interval, Market, to_us

PREVIEW_ROWS = 10


@dataclass(frozen=True)
class PartitionSummary:
    """One partition over all symbols of an order. `unaccounted` names the symbols with missing bars."""

    partition: str
    rows: int
    expected_rows: int
    no_trades_rows: int
    checksum: str
    symbols: int
    unaccounted: Sequence[str]

    def metadata(self) -> Mapping[str, Any]:
        """Return the summary as Dagster metadata; the coverage is plotted over partitions in the UI."""
        coverage = coverage_pct(self.rows, self.expected_rows, self.no_trades_rows)
        return {
            "dagster/partition_row_count": self.rows,
            "expected_rows": self.expected_rows,
            "no_trades_rows": self.no_trades_rows,
            "coverage_pct": 100.0 if coverage is None else coverage,
            "checksum": self.checksum,
            "symbols": self.symbols,
        }


def summarise(reader: Reader, order: Order, now: datetime) -> list[PartitionSummary]:
    """Return a summary of each partition of an order, oldest first."""
    market, interval = order.market, order.interval
    cells: dict[str, list[dict[str, Any]]] = {key: [] for key in sorted(order.partitions)}
    symbols = [instrument.symbol for instrument in order.instruments]
    columns = ["symbol", "partition", "rows", "expected_rows", "no_trades_rows", "checksum"]
    for row in reader.manifest(market.name, interval, symbols, order.partitions).select(columns).to_pylist():
        cells[row["partition"]].append(row)
    summaries = []
    for key, rows in cells.items():
        start, end = market.partition_bounds(interval, key)
        held = {row["symbol"]: row for row in rows}
        lacking = [
            i.symbol
            for i in order.instruments
            if _missing(held.get(i.symbol), len(market.expected(interval, i, start, end, to_us(now))))
        ]
        summaries.append(
            PartitionSummary(
                partition=key,
                rows=sum(row["rows"] for row in rows),
                expected_rows=sum(row["expected_rows"] for row in rows),
                no_trades_rows=sum(row["no_trades_rows"] for row in rows),
                checksum=run_checksum(row["checksum"] for row in rows),
                symbols=len(rows),
                unaccounted=lacking,
            )
        )
    return summaries


def _missing(row: Mapping[str, Any] | None, expected: int) -> bool:
    return expected > 0 if row is None else row["rows"] + row["no_trades_rows"] < row["expected_rows"]


def column_schema(quote: str) -> dg.TableSchema:
    """Return the columns of a bars table with what they hold."""
    meaning = {
        "symbol": "as the platform spells it",
        "bucket_start": "labels the bar; UTC",
        **dict.fromkeys(("open", "high", "low", "close"), f"price in {quote}"),
        "volume": "units of the base",
        "trade_count": "null where the vendor gives none",
        "vwap": f"volume-weighted mean price in {quote}; null where the vendor gives none",
        "source_vendor": "who delivered the bar",
        "fetched_at": "when; UTC",
        "run_id": "of the run that stored it",
        "published_at": "since when the lake holds it; UTC",
    }
    return dg.TableSchema(
        columns=[dg.TableColumn(n, t.lower(), description=meaning[n]) for n, t in sql_types(STORED_BARS).items()]
    )


def preview(reader: Reader, market: Market, interval: Interval, partition: str) -> dg.MarkdownMetadataValue:
    """Return the newest bars of a partition as a Markdown table."""
    start, end = market.partition_bounds(interval, partition)
    rows = reader.newest_bars(market.name, interval, start, end, PREVIEW_ROWS)
    return dg.MetadataValue.md(rows.to_pandas().to_markdown(index=False) if rows.num_rows else "no bars")
