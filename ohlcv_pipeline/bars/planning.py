"""What a run has to fetch: the buckets each cell still wants, in batches, and the windows to ask a vendor for.

Read from the manifest, so that a run continues where another ended. Sending the requests is `ingest`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from itertools import groupby

import numpy as np
import pyarrow as pa

from ohlcv_pipeline.bars.causes import Mark
from ohlcv_pipeline.bars.gaps import common, missing, stamped_at_close, union, windows, without_trades
from ohlcv_pipeline.frames import Micros, micros
from ohlcv_pipeline.lake.reader import Reader
from ohlcv_pipeline.markets import Instrument, Interval, Market, from_us, to_us
from ohlcv_pipeline.vendors.base import Page

EDGE = 30
"""How many buckets around a hole are asked for again, so that one answer holds both of its sides."""

SECOND_LOOK = timedelta(hours=1)
"""How long after a vain look the same bucket may be asked for again."""

PENDING_TAIL = timedelta(minutes=15)
"""A vendor may be this late with its newest minutes before their absence says anything."""

_NONE = np.empty(0, np.int64)


@dataclass(frozen=True)
class Order:
    """What one run is to account for: these symbols of these partitions of one table.

    `again` fetches everything again, what is complete included; `force` does too, and lets any vendor replace any bar.
    """

    market: Market
    interval: Interval
    instruments: Sequence[Instrument]
    partitions: Sequence[str]
    run_id: str
    force: bool = False
    again: bool = False

    @property
    def everything(self) -> bool:
        """Whether what is stored is fetched like what is not."""
        return self.force or self.again


def unopened(market: Market, interval: Interval, partitions: Sequence[str], now: datetime) -> dict[str, datetime]:
    """Return those partitions that have not begun at `now`, with the instant at which they do."""
    begins = {key: from_us(market.partition_bounds(interval, key)[0]) for key in partitions}
    return {key: begin for key, begin in begins.items() if begin > now}


Cells = Mapping[tuple[str, str], Micros]
"""(symbol, partition) → the buckets that are wanted of it."""


def wanted(order: Order, reader: Reader, now: datetime) -> Cells:
    """Return the buckets to fetch of each cell that is not complete, newest partition first.

    A cell that holds bars asks for what is missing and, once more, for its newest bar; buckets without
    trades, and those that were asked for in vain within the hour, are left out. `again` and `force` ask for everything.
    """
    market, interval = order.market, order.interval
    bounds = {key: market.partition_bounds(interval, key) for key in sorted(order.partitions, reverse=True)}
    manifest = reader.manifest(market.name, interval, [i.symbol for i in order.instruments], order.partitions)
    rows = {(row["symbol"], row["partition"]): row for row in manifest.select(_CELL_STATE).to_pylist()}
    cells: dict[tuple[str, str], Micros] = {}
    for key, (start, end) in bounds.items():
        for instrument in order.instruments:
            row = rows.get((instrument.symbol, key))
            if row is None or order.everything or not row["complete"]:
                expected = market.expected(interval, instrument, start, end, to_us(now))
                if len(expected):
                    cells[instrument.symbol, key] = expected
    if order.everything:
        return cells
    begun = _begun(order, reader, {cell: bounds[cell[1]] for cell in cells if cell in rows}, now)
    remaining = {cell: _remaining(buckets, begun.get(cell), interval) for cell, buckets in cells.items()}
    return {cell: buckets for cell, buckets in remaining.items() if len(buckets)}


@dataclass(frozen=True)
class _Begun:
    """What a cell that is not complete has: stored buckets, and those that need no asking now."""

    stored: Micros
    idle: Micros


def _remaining(expected: Micros, begun: _Begun | None, interval: Interval) -> Micros:
    """Return the buckets to ask for: what is missing, and then the newest stored one once more."""
    if begun is None:
        return expected
    lacking = missing(expected, union(begun.stored, begun.idle), interval)
    return union(lacking, begun.stored[-1:]) if len(lacking) else lacking


_CELL_STATE = ["symbol", "partition", "complete"]


def _begun(
    order: Order, reader: Reader, cells: Mapping[tuple[str, str], tuple[int, int]], now: datetime
) -> dict[tuple[str, str], _Begun]:
    """Return what each cell has."""
    if not cells:
        return {}
    market, interval = order.market.name, order.interval
    windows_of = pa.table(
        {
            "symbol": [symbol for symbol, _ in cells],
            "start_us": [start for start, _ in cells.values()],
            "end_us": [end for _, end in cells.values()],
        }
    )
    stored = _by_symbol(reader.buckets(market, interval, windows_of))
    absent = reader.absent(market, interval, [s for s, _ in cells], [p for _, p in cells])
    again = to_us(now - SECOND_LOOK)
    waiting = (np.asarray(absent["cause"]) != Mark.UNANSWERED) | (micros(absent["looked_at"]) > again)
    idle = _by_symbol(absent.filter(pa.array(waiting)).select(["symbol", "bucket_start"]))
    return {
        (symbol, key): _Begun(
            _within(stored.get(symbol, _NONE), start, end), _within(idle.get(symbol, _NONE), start, end)
        )
        for (symbol, key), (start, end) in cells.items()
    }


def _by_symbol(table: pa.Table) -> dict[str, Micros]:
    symbols, buckets = np.asarray(table["symbol"]), micros(table["bucket_start"])
    return {symbol: np.sort(buckets[symbols == symbol]) for symbol in np.unique(symbols)}


def _within(buckets: Micros, start: int, end: int) -> Micros:
    lo, hi = np.searchsorted(buckets, [start, end])
    return buckets[lo:hi]


def batches(cells: Cells, batch_rows: int) -> Iterator[Cells]:
    """Cut cells, which come partition by partition, into batches of about `batch_rows` buckets.

    A partition is cut only where it is larger than a batch by itself: cells of one partition that are
    published together meet no manifest rows of one another.
    """
    batch: dict[tuple[str, str], Micros] = {}
    rows = 0
    for _, group in groupby(cells.items(), key=lambda item: item[0][1]):
        partition = list(group)
        size = sum(len(buckets) for _, buckets in partition)
        if batch and rows + size > batch_rows:
            yield batch
            batch, rows = {}, 0
        for cell, buckets in partition:
            if batch and rows + len(buckets) > batch_rows:
                yield batch
                batch, rows = {}, 0
            batch[cell] = buckets
            rows += len(buckets)
    if batch:
        yield batch


@dataclass(frozen=True)
class Quest:
    """What is wanted of one symbol, and what the answers so far leave of that.

    `calendar` holds the calendar's buckets around the wanted ones; `omitting` names the vendors that leave
    out buckets without trades.
    """

    market: Market
    instrument: Instrument
    interval: Interval
    calendar: Micros
    buckets: Micros
    omitting: frozenset[str]

    def windows(self, pages: Sequence[Page]) -> list[tuple[int, int]]:
        """Return the windows [start, end) to ask for next: all of it at first, then the holes with room around."""
        step = self.interval.step_us
        if not pages:
            return [(first, last + step) for first, last in windows(self.calendar, self.buckets, slack=EDGE)]
        latest = int(self.buckets[-1]) + step
        return [
            (max(first - EDGE * step, int(self.calendar[0])), min(last + (EDGE + 1) * step, latest))
            for first, last in windows(self.calendar, self.missing(pages), slack=2 * EDGE)
        ]

    def missing(self, pages: Sequence[Page]) -> Micros:
        """Return the wanted buckets that no page holds or proves to be without trades."""
        present = common(union(_NONE, *(page.buckets for page in pages)), self.calendar)
        left = missing(self.buckets, present, self.interval)
        return missing(left, self.no_trades(pages), self.interval) if len(left) else left

    def no_trades(self, pages: Sequence[Page]) -> Micros:
        """Return the buckets that a vendor which omits empty ones has shown to be without trades.

        Not the opening minutes of an answer whose bars may all be labelled a minute late: those are what it lacks.
        """
        proven = [_NONE]
        for page in pages:
            for buckets in page.answered if page.fetch.vendor in self.omitting else ():
                empty = without_trades(self.calendar, [common(buckets, self.calendar)], self.interval)
                if len(empty) and stamped_at_close(buckets, *self._sessions):
                    empty = missing(empty, common(self._sessions[0], empty), self.interval)
                proven.append(empty)
        return union(*proven)

    @cached_property
    def _sessions(self) -> tuple[Micros, Micros]:
        """When the sessions of these buckets open and close; nothing of a market that never does."""
        if self.market.always_open:
            return _NONE, _NONE
        of = self.market.calendar
        found = of.sessions(int(self.calendar[0]), int(self.calendar[-1]) + 1)
        return of.opens[found], of.closes[found]


def quests(order: Order, batch: Cells, omitting: frozenset[str]) -> Iterator[Quest]:
    """Return one quest for each symbol of a batch."""
    wanted_of: dict[str, list[Micros]] = {}
    for (symbol, _), buckets in batch.items():
        wanted_of.setdefault(symbol, []).append(buckets)
    margin = EDGE * order.interval.step_us
    for instrument in order.instruments:
        if instrument.symbol in wanted_of:
            buckets = np.sort(np.concatenate(wanted_of[instrument.symbol]))
            calendar = order.market.buckets(order.interval, int(buckets[0]) - margin, int(buckets[-1]) + margin + 1)
            yield Quest(order.market, instrument, order.interval, calendar, buckets, omitting)
