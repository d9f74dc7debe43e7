"""The report: what is expected of each symbol, what is there, what is missing, and the hash of it all.

Computed from the manifest after the write, never from what was fetched; only cells that are not complete, or not
wholly inside the window, are looked at bar by bar.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from ohlcv_pipeline.bars.causes import Mark
from ohlcv_pipeline.bars.checksum import run_checksum
from ohlcv_pipeline.bars.gaps import Gap, common, gaps, missing, union
from ohlcv_pipeline.bars.planning import PENDING_TAIL
from ohlcv_pipeline.frames import Micros, micros
from ohlcv_pipeline.lake.reader import Reader
from ohlcv_pipeline.markets import Instrument, Interval, Market, from_us, span_us, to_us

_NONE = np.empty(0, np.int64)

LISTED = 100
"""How many ranges of each kind the report of a run names; it counts them all."""


@dataclass(frozen=True)
class Entry:
    """One symbol of one interval. Counts are buckets of the window; `gaps` leave out the pending tail.

    `duplicates` are the buckets that are stored more than once.
    """

    market: str
    symbol: str
    interval: str
    expected_rows: int
    actual_rows: int
    no_trades_rows: int
    missing_rows: int
    pending_tail_rows: int
    unfillable_rows: int
    quarantined_rows: int
    duplicate_rows: int
    coverage_pct: float | None
    gaps: Sequence[Gap]
    duplicates: Sequence[Gap]
    partitions: int
    checksum_sha256: str
    vendor: str | None
    newest_bucket: datetime | None

    @property
    def complete(self) -> bool:
        """Whether every expected bucket is stored or known to be without trades."""
        return self.missing_rows == 0

    def as_json(self) -> dict[str, Any]:
        """Return the entry with gaps as ranges of inclusive bucket starts."""
        gaps = [{**_range(gap), "missing": gap.missing} for gap in self.gaps]
        duplicates = [_range(each) for each in self.duplicates]
        newest = None if self.newest_bucket is None else self.newest_bucket.strftime("%Y-%m-%dT%H:%M:%SZ")
        return {**asdict(self), "gaps": gaps, "duplicates": duplicates, "newest_bucket": newest}

    def as_fact(self, status: str) -> dict[str, Any]:
        """Return the entry as a run's report tells it, with at most `LISTED` gaps and duplicates each."""
        told = self.as_json()
        return {
            "asset_symbol": self.symbol,
            "interval": self.interval,
            "status": status,
            "expected_rows": self.expected_rows,
            "actual_rows": self.actual_rows,
            "missing_rows": self.missing_rows,
            "pending_tail_rows": self.pending_tail_rows,
            "coverage_pct": self.coverage_pct,
            "partitions": self.partitions,
            "vendor": self.vendor,
            "checksum_sha256": self.checksum_sha256,
            "gaps": told["gaps"][:LISTED],
            "gaps_total": len(self.gaps),
            "duplicates": told["duplicates"][:LISTED],
            "duplicates_total": len(self.duplicates),
        }


def _range(gap: Gap) -> dict[str, str]:
    return {"range_start": _iso(gap.first_us), "range_end": _iso(gap.last_us)}


def _iso(us: int) -> str:
    return from_us(us).strftime("%Y-%m-%dT%H:%M:%SZ")


def coverage_pct(stored: int, expected: int, no_trades: int) -> float | None:
    """Return the share of expected buckets that are stored, rounded down to two decimals; None if none is expected.

    Buckets without trades are not expected to be stored; unfillable ones are.
    """
    due = expected - no_trades
    return math.floor(10_000 * stored / due) / 100 if due > 0 else None


def neighbours(market: Market, interval: Interval, buckets: Micros) -> list[Gap]:
    """Return sorted buckets as ranges in which one follows the other in the calendar."""
    if not len(buckets):
        return []
    calendar = market.buckets(interval, int(buckets[0]), int(buckets[-1]) + 1)
    return gaps(calendar, common(buckets, calendar))


@dataclass(frozen=True)
class Holding:
    """What is held of one symbol in a window: its manifest rows by partition, and buckets in µs, sorted.

    `expected` buckets are `present`, or bear a mark in `marked` (which is not yet cut to the window), or neither.
    """

    instrument: Instrument
    cells: Mapping[str, dict[str, Any]]
    expected: Micros
    present: Micros
    marked: Mapping[str, Micros]

    def bearing(self, mark: Mark) -> Micros:
        """Return the expected buckets that bear a mark."""
        return common(self.marked.get(mark, _NONE), self.expected)


def holdings(
    reader: Reader,
    market: Market,
    interval: Interval,
    instruments: Sequence[Instrument],
    start_us: int,
    end_us: int,
    now: datetime,
) -> list[Holding]:
    """Return what is held of each instrument among the buckets in [start, end)."""
    keys = market.partition_keys(interval, start_us, end_us)
    symbols = [instrument.symbol for instrument in instruments]
    manifest: dict[str, dict[str, dict[str, Any]]] = {symbol: {} for symbol in symbols}
    for row in reader.manifest(market.name, interval, symbols, keys).to_pylist():
        manifest[row["symbol"]][row["partition"]] = row
    bounds = {key: market.partition_bounds(interval, key) for key in keys}
    examined = {
        (symbol, key): bounds[key]
        for symbol in symbols
        for key in keys
        if key in manifest[symbol] and not _whole(manifest[symbol][key], bounds[key], start_us, end_us)
    }
    stored = _buckets_of(reader, market, interval, examined)
    absent = _absent(reader, market, interval, symbols, keys)
    held = []
    for instrument in instruments:
        symbol = instrument.symbol
        expected = market.expected(interval, instrument, start_us, end_us, to_us(now))
        marked = absent.get(symbol, {})
        present = union(
            _NONE,
            *(
                stored.get((symbol, key), _NONE)
                if (symbol, key) in examined
                else missing(_slice(expected, *bounds[key]), marked.get(Mark.NO_TRADES, _NONE), interval)
                for key in manifest[symbol]
            ),
        )
        held.append(Holding(instrument, manifest[symbol], expected, common(present, expected), marked))
    return held


def report(
    reader: Reader,
    market: Market,
    interval: Interval,
    instruments: Sequence[Instrument],
    start_us: int,
    end_us: int,
    now: datetime,
) -> list[Entry]:
    """Return one entry for each instrument over the buckets in [start, end)."""
    keys = market.partition_keys(interval, start_us, end_us)
    quarantined = reader.quarantine(market.name, interval, [each.symbol for each in instruments], keys)
    repeated = reader.repeated(market.name, interval, start_us, end_us)
    repeaters = np.asarray(repeated["symbol"])
    entries = []
    for holding in holdings(reader, market, interval, instruments, start_us, end_us, now):
        symbol, cells = holding.instrument.symbol, holding.cells
        expected, present = holding.expected, holding.present
        no_trades, unfillable = holding.bearing(Mark.NO_TRADES), holding.bearing(Mark.UNFILLABLE)
        without = missing(expected, union(present, no_trades), interval)
        young = without >= to_us(now) - span_us(PENDING_TAIL)
        tail = without[young] if interval is Interval.MINUTE else _NONE
        holes = gaps(expected, missing(without, tail, interval))
        twice = repeated.filter(pa.array(repeaters == symbol))
        vendors = {row["vendor"] for row in cells.values() if row["vendor"]}
        entries.append(
            Entry(
                market=market.name,
                symbol=symbol,
                interval=str(interval),
                expected_rows=len(expected),
                actual_rows=len(present),
                no_trades_rows=len(no_trades),
                missing_rows=len(without) - len(tail),
                pending_tail_rows=len(tail),
                unfillable_rows=len(unfillable),
                quarantined_rows=_rejected(quarantined, symbol),
                duplicate_rows=sum(twice["copies"].to_pylist()) - twice.num_rows,
                coverage_pct=coverage_pct(len(present), len(expected), len(no_trades)),
                gaps=holes,
                duplicates=neighbours(market, interval, micros(twice["bucket_start"])),
                partitions=len(cells),
                checksum_sha256=run_checksum(row["checksum"] for row in cells.values()),
                vendor=vendors.pop() if len(vendors) == 1 else "mixed" if vendors else None,
                newest_bucket=max((r["last_bucket"] for r in cells.values() if r["last_bucket"]), default=None),
            )
        )
    return entries


def _whole(row: dict[str, Any], bounds: tuple[int, int], start_us: int, end_us: int) -> bool:
    return bool(row["complete"]) and bounds[0] >= start_us and bounds[1] <= end_us


def _slice(buckets: Micros, start: int, end: int) -> Micros:
    lo, hi = np.searchsorted(buckets, [start, end])
    return buckets[lo:hi]


def _buckets_of(
    reader: Reader, market: Market, interval: Interval, cells: dict[tuple[str, str], tuple[int, int]]
) -> dict[tuple[str, str], Micros]:
    if not cells:
        return {}
    table = reader.buckets(
        market.name,
        interval,
        pa.table(
            {
                "symbol": [symbol for symbol, _ in cells],
                "start_us": [start for start, _ in cells.values()],
                "end_us": [end for _, end in cells.values()],
            }
        ),
    )
    symbols, starts = np.asarray(table["symbol"]), micros(table["bucket_start"])
    of_symbol = {symbol: union(starts[symbols == symbol]) for symbol in np.unique(symbols)}
    return {
        (symbol, key): _slice(of_symbol.get(symbol, _NONE), start, end) for (symbol, key), (start, end) in cells.items()
    }


def _absent(
    reader: Reader, market: Market, interval: Interval, symbols: Sequence[str], keys: Sequence[str]
) -> dict[str, dict[str, Micros]]:
    """Return the marked buckets by symbol and mark."""
    table = reader.absent(market.name, interval, symbols, keys)
    names, causes, starts = np.asarray(table["symbol"]), np.asarray(table["cause"]), micros(table["bucket_start"])
    return {
        symbol: {cause: union(starts[(names == symbol) & (causes == cause)]) for cause in np.unique(causes)}
        for symbol in np.unique(names)
    }


def _rejected(quarantine: pa.Table, symbol: str) -> int:
    return sum(
        1
        for name, published in zip(quarantine["symbol"].to_pylist(), quarantine["published"].to_pylist(), strict=True)
        if name == symbol and not published
    )
