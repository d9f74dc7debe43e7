"""What Dagster shows of a partition: rows, expected rows, coverage and checksum, read from the manifest."""

from __future__ import annotations

from collections import Counter
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
from ohlcv_pipeline.markets import Instrument, Interval, Market, from_us, to_us

PREVIEW_ROWS = 10
EMPTY_ANSWER = "empty_answer"
"""The code of a cell of which every vendor that was asked has nothing, though bars are expected."""


@dataclass(frozen=True)
class PartitionSummary:
    """One partition over all enabled symbols.

    `failed` maps the symbols of which the order could not account to a code; `missing` names enabled symbols outside
    the order of which nobody has accounted yet. With either, the partition is not materialised.
    """

    partition: str
    rows: int
    expected_rows: int
    no_trades_rows: int
    checksum: str
    symbols: int
    failed: Mapping[str, str]
    missing: Sequence[str]

    @property
    def accounted(self) -> bool:
        """Whether every enabled symbol is accounted for."""
        return not self.failed and not self.missing

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


def summarise(
    reader: Reader,
    order: Order,
    failed: Mapping[tuple[str, str], str],
    enabled: Sequence[Instrument],
    now: datetime,
) -> list[PartitionSummary]:
    """Return a summary of each partition of an order, oldest first.

    Args:
        reader: of the lake, after the run has written to it.
        order: what the run was about.
        failed: (symbol, partition) → code, of the cells that the run could not account for.
        enabled: the market's enabled symbols, those of the order included, with the listings that are known by now.
        now: the current instant.
    """
    market, interval = order.market, order.interval
    ordered = {instrument.symbol for instrument in order.instruments}
    rows = reader.manifest(market.name, interval, [i.symbol for i in enabled], order.partitions)
    cells = {(row["symbol"], row["partition"]): row for row in rows.select(_COLUMNS).to_pylist()}
    due = [
        (instrument, key)
        for key in order.partitions
        for instrument in enabled
        if _short(cells.get((instrument.symbol, key)))
        and len(market.expected(interval, instrument, *market.partition_bounds(interval, key), to_us(now)))
    ]
    outside = [(i.symbol, key) for i, key in due if i.symbol not in ordered]
    missing = _unlooked(reader, order, [cell for cell in outside if cell in cells], cells)
    missing |= {cell for cell in outside if cell not in cells}
    failed = _empty(reader, order, [(i, key) for i, key in due if i.symbol in ordered], cells, now) | dict(failed)
    summaries = []
    for key in sorted(order.partitions):
        held = [row for (_, of), row in cells.items() if of == key]
        summaries.append(
            PartitionSummary(
                partition=key,
                rows=sum(row["rows"] for row in held),
                expected_rows=sum(row["expected_rows"] for row in held),
                no_trades_rows=sum(row["no_trades_rows"] for row in held),
                checksum=run_checksum(row["checksum"] for row in held),
                symbols=len(held),
                failed={symbol: code for (symbol, of), code in sorted(failed.items()) if of == key},
                missing=sorted(symbol for symbol, of in missing if of == key),
            )
        )
    return summaries


_COLUMNS = ["symbol", "partition", "rows", "expected_rows", "no_trades_rows", "unfillable_rows", "checksum"]


def _short(row: Mapping[str, Any] | None) -> bool:
    """Return whether a cell holds less than was expected when it was last written, buckets without trades aside."""
    return row is None or row["rows"] + row["no_trades_rows"] < row["expected_rows"]


def _unlooked(
    reader: Reader, order: Order, cells: Sequence[tuple[str, str]], rows: Mapping[tuple[str, str], Mapping[str, Any]]
) -> set[tuple[str, str]]:
    """Return the cells that lack bars which no vendor was asked for yet."""
    if not cells:
        return set()
    symbols, keys = ([cell[at] for cell in cells] for at in (0, 1))
    absent = reader.absent(order.market.name, order.interval, symbols, keys)
    looked = Counter(zip(absent["symbol"].to_pylist(), absent["partition"].to_pylist(), strict=True))
    return {cell for cell in cells if rows[cell]["rows"] + looked[cell] < rows[cell]["expected_rows"]}


def _empty(
    reader: Reader,
    order: Order,
    cells: Sequence[tuple[Instrument, str]],
    rows: Mapping[tuple[str, str], Mapping[str, Any]],
    now: datetime,
) -> dict[tuple[str, str], str]:
    """Return the cells of closed partitions for which every vendor had an empty answer: that is no success.

    It is one once a second look has settled every bucket, or while the symbol may not have been listed yet.
    """
    market, interval = order.market, order.interval
    closed_by = to_us(now - market.publish_delay[interval])
    closed = {key for key in order.partitions if market.partition_end(interval, key) <= closed_by}
    empty = []
    for instrument, key in cells:
        row = rows.get((instrument.symbol, key))
        settled = row is not None and row["unfillable_rows"] + row["no_trades_rows"] >= row["expected_rows"]
        if key in closed and not settled and not (row and row["rows"]):
            empty.append((instrument, key))
    if not empty:
        return {}
    manifest = reader.manifest(market.name, interval, [instrument.symbol for instrument, _ in empty])
    first: dict[str, datetime] = {}
    for symbol, bucket in zip(manifest["symbol"].to_pylist(), manifest["first_bucket"].to_pylist(), strict=True):
        if bucket is not None:
            first[symbol] = min(bucket, first.get(symbol, bucket))
    held = {key for (_, key), row in rows.items() if row["rows"]}
    found = {}
    for instrument, key in empty:
        begin = from_us(market.partition_bounds(interval, key)[0])
        traded = instrument.listing_start or first.get(instrument.symbol)
        if key not in held or (traded is not None and traded <= begin):
            found[instrument.symbol, key] = EMPTY_ANSWER
    return found


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
