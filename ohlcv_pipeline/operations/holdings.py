"""What one table holds of every symbol in its target window, counted from the manifest alone.

Only cells that the window's start cuts through are looked at bar by bar. The result is that of `bars.report`, for all
symbols at once and without its gaps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ohlcv_pipeline.frames import Micros, micros
from ohlcv_pipeline.lake.accounts import NEVER, Accounts
from ohlcv_pipeline.lake.reader import Reader
from ohlcv_pipeline.markets import Instrument, Interval, Market, span_us, to_us


@dataclass(frozen=True)
class Held:
    """What is held of one symbol: buckets in µs, counts of those inside the window."""

    newest: int | None
    first_inside: int | None
    last_inside: int | None
    present: int
    no_trades: int
    checksum: str | None


NOTHING = Held(None, None, None, 0, 0, None)
"""What is held of a symbol of which nobody has accounted for anything."""


@dataclass(frozen=True)
class Holdings:
    """What one table holds at one instant. `due` are the buckets of the window that must be stored by then."""

    due: Micros
    held: Mapping[str, Held]

    def of(self, symbol: str) -> Held | None:
        """Return what is held of a symbol, None when nobody has accounted for any of it."""
        return self.held.get(symbol)

    def expected(self, instrument: Instrument) -> int:
        """Return how many bars are due of an instrument."""
        listed, gone = instrument.listing_start, instrument.delisted_at
        first = 0 if listed is None else int(np.searchsorted(self.due, to_us(listed)))
        last = len(self.due) if gone is None else int(np.searchsorted(self.due, to_us(gone)))
        return max(0, last - first)


Cut = Mapping[str, Micros]
"""Symbol → the stored buckets of the cell that the window's start cuts through."""


def cut_partition(market: Market, interval: Interval, start_us: int) -> str | None:
    """Return the partition that begins before the window and reaches into it."""
    keys = market.partition_keys(interval, start_us, start_us + interval.step_us)
    return keys[0] if keys and market.partition_bounds(interval, keys[0])[0] < start_us else None


def cut_cells(reader: Reader, market: Market, interval: Interval, symbols: list[str], start_us: int) -> Cut:
    """Return the stored buckets from the window's start on to the end of the partition that it cuts through."""
    key = cut_partition(market, interval, start_us)
    if key is None or not symbols:
        return {}
    _, end_us = market.partition_bounds(interval, key)
    cells = pa.table({"symbol": symbols, "start_us": [start_us] * len(symbols), "end_us": [end_us] * len(symbols)})
    table = reader.buckets(market.name, interval, cells)
    names, buckets = np.asarray(table["symbol"], dtype=object), micros(table["bucket_start"])
    bounds = np.searchsorted(names, symbols), np.searchsorted(names, symbols, side="right")
    return {symbol: buckets[lo:hi] for symbol, lo, hi in zip(symbols, *bounds, strict=True)}


def holdings(market: Market, interval: Interval, accounts: Accounts, cut: Cut, now: datetime) -> Holdings:
    """Count what a table holds of its target window at `now`."""
    start, end = market.target_window(interval, now)
    buckets = market.buckets(interval, start, end)
    ready = to_us(now) - span_us(market.publish_delay[interval])
    due = buckets[: int(np.searchsorted(market.bucket_closes(interval, buckets), ready, "right"))]
    edge = cut_partition(market, interval, start)
    first_whole = next(iter(market.partition_keys(interval, start, end)), "")
    inside = np.array([key >= first_whole and key != edge for key in accounts.partitions], bool)[accounts.partition]
    n = len(accounts.symbols)
    present = _sums(accounts.symbol[inside], accounts.rows[inside], n)
    no_trades = _sums(accounts.symbol[inside], accounts.no_trades[inside], n)
    stored = accounts.rows > 0
    first = np.full(n, np.iinfo(np.int64).max)
    np.minimum.at(first, accounts.symbol[inside & stored], accounts.first[inside & stored])
    newest = np.full(n, NEVER)
    np.maximum.at(newest, accounts.symbol, accounts.last)
    last_cell = np.searchsorted(accounts.symbol, np.arange(n), side="right") - 1
    checksums = accounts.checksum.take(pa.array(last_cell)).to_pylist() if n else []
    held = {}
    for i, symbol in enumerate(accounts.symbols):
        at_edge = cut.get(symbol)
        count, begin, last = int(present[i]), int(first[i]), int(newest[i])
        if at_edge is not None and len(at_edge):
            count, begin = count + len(at_edge), int(at_edge[0])
        has_inside = last >= start
        held[symbol] = Held(
            newest=None if last == NEVER else last,
            first_inside=begin if has_inside else None,
            last_inside=last if has_inside else None,
            present=count,
            no_trades=int(no_trades[i]),
            checksum=checksums[i],
        )
    return Holdings(due, held)


def _sums(codes: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
    """Return the exact sum of the counts of each code."""
    out = np.zeros(length, np.int64)
    np.add.at(out, codes, counts)
    return out
