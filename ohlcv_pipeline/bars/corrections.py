"""Finding late corrections: sessions are read again one, three and seven sessions after they ended.

What has not changed costs one small request where the vendor allows it, see docs/adr/0012-correction-rereads.md. A
vendor of a lower rank replaces nothing here. The job around this is in `rereading`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from ohlcv_pipeline.bars.ingest import Outcome, ingest
from ohlcv_pipeline.bars.planning import Order
from ohlcv_pipeline.bars.rollup import roll_up
from ohlcv_pipeline.frames import VALUE_COLUMNS, floats, micros
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline.markets import DAY_US, Instrument, Interval, Market, from_us, span_us, to_us
from ohlcv_pipeline.vendors.base import Announces, SumsMinutes
from ohlcv_pipeline.vendors.errors import VendorError
from ohlcv_pipeline.vendors.failover import Source, together

LOOKS = (1, 3, 7)
"""How many sessions after its end a session is read again; the last time all of it, whatever seems unchanged."""

FRESH = timedelta(hours=24)
"""A day on which no session has ended is no day of re-reading."""

VOLUME_TOLERANCE = 1e-9
"""Relative: a day's volume may be summed in another order by the vendor. One late trade is far more."""

Cell = tuple[str, str]
"""Symbol and partition."""

Rows = Mapping[Cell, dict[str, Any]]


@dataclass(frozen=True)
class Due:
    """The sessions to read again at an instant, by their partition keys; `whole` ones without looking first."""

    look: Sequence[str]
    whole: Sequence[str]

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.look or self.whole)


def due(market: Market, now: datetime) -> Due:
    """Return the sessions of a market to read again at `now`: nothing when none has ended within the last day."""
    cal = market.calendar
    ready = to_us(now - market.publish_delay[Interval.MINUTE])
    ended = int(np.searchsorted(cal.closes, ready, side="right"))
    if not ended or ready - int(cal.closes[ended - 1]) >= span_us(FRESH):
        return Due((), ())
    first = market.history_start[Interval.MINUTE]
    keys = [
        str(from_us(int(cal.labels[ended - look])).date())
        for look in LOOKS
        if ended >= look and from_us(int(cal.labels[ended - look])).date() >= first
    ]
    return Due(keys[: len(LOOKS) - 1], keys[len(LOOKS) - 1 :])


@dataclass(frozen=True)
class Reread:
    """What one round of re-reading is about."""

    market: Market
    instruments: Sequence[Instrument]
    due: Due
    run_id: str


@dataclass
class Found:
    """What a round did: stored cells of minutes that it looked at, and how many of them it read again in full.

    `changed` are the manifest rows of the cells of minutes and of days that changed; `failed` names the symbols of
    which something could not be read, and why.
    """

    cells: int = 0
    reread: int = 0
    requests: int = 0
    changed: list[dict[str, Any]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Round:
    """One round of re-reading: which sessions of which symbols, in which lake, from whom."""

    market: Market
    instruments: Sequence[Instrument]
    due: Due
    run_id: str
    store: Store
    sources: Mapping[str, Source]
    clock: Callable[[], datetime]
    batch_rows: int
    found: Found = field(default_factory=Found)

    async def run(self) -> Found:
        """Read sessions again, as little of them as proves that nothing has changed, and publish what has.

        Day bars come first: of a vendor whose days sum up its minutes they are the proof for the minutes. Only what
        the lake holds is looked at; filling gaps is the refresh's business. Raises LakeError when the lake fails.
        """
        keys = sorted({*self.due.look, *self.due.whole})
        months = sorted({key[:7] for key in keys})
        days, minutes = self._manifest(Interval.DAY, months), self._manifest(Interval.MINUTE, keys)
        answered = await self._read_days(days, months)
        doubtful = {cell for cell in minutes if cell[1] in self.due.whole}
        looked_at = {cell: row for cell, row in minutes.items() if cell not in doubtful}
        doubtful |= looked_at.keys() - self._summed(looked_at, answered) - await self._as_announced(looked_at)
        self.found.cells, self.found.reread = len(minutes), len(doubtful)
        for key in keys:
            if again := [i for i in self.instruments if (i.symbol, key) in doubtful]:
                await self._read(Interval.MINUTE, again, [key], self.sources)
        self._note_changes(days, self._manifest(Interval.DAY, months))
        self._note_changes(minutes, self._manifest(Interval.MINUTE, keys))
        return self.found

    def _manifest(self, interval: Interval, partitions: Sequence[str]) -> Rows:
        """Return the manifest rows of the cells that hold bars."""
        symbols = [instrument.symbol for instrument in self.instruments]
        rows = self.store.reader.manifest(self.market.name, interval, symbols, partitions).to_pylist()
        return {(row["symbol"], row["partition"]): row for row in rows if row["rows"]}

    def _note_changes(self, before: Rows, after: Rows) -> None:
        self.found.changed += [
            row for cell, row in after.items() if cell not in before or row["revision"] != before[cell]["revision"]
        ]

    def _first(self, instrument: Instrument) -> str | None:
        """Return the vendor that is asked first for a symbol."""
        names = (name for name in self.market.vendors if name in self.sources and name in instrument.vendor_symbols)
        return next(names, None)

    def _sums_minutes(self, vendor: str | None) -> bool:
        return (
            vendor is not None
            and self.market.always_open
            and isinstance(adapter := self.sources[vendor].adapter, SumsMinutes)
            and adapter.days_sum_minutes
        )

    async def _read(
        self, interval: Interval, of: Sequence[Instrument], partitions: Sequence[str], sources: Mapping[str, Source]
    ) -> Outcome:
        order = Order(self.market, interval, of, partitions, self.run_id, again=True)
        outcome = await ingest(order, self.store, sources, self.clock, self.batch_rows)
        self.found.requests += outcome.requests
        self.found.failed |= outcome.failed
        return outcome

    async def _read_days(self, stored: Rows, months: Sequence[str]) -> set[str]:
        """Read the stored months of days again; return the symbols whose days are now what their first vendor says."""
        symbols = {symbol for symbol, _ in stored}
        answered: set[str] = set()
        for vendor in dict.fromkeys(map(self._first, self.instruments)):
            of = [i for i in self.instruments if i.symbol in symbols and self._first(i) == vendor]
            if vendor is None or not of:
                continue
            proves = self._sums_minutes(vendor)
            # Only the vendor's own days speak of its minutes: for those nobody may stand in for it.
            outcome = await self._read(
                Interval.DAY, of, months, {vendor: self.sources[vendor]} if proves else self.sources
            )
            if proves:
                answered |= {i.symbol for i in of} - outcome.failed.keys()
        return answered

    def _summed(self, cells: Rows, answered: set[str]) -> set[Cell]:
        """Return the cells whose stored minutes sum up to the day bar that their vendor has just sent."""
        reader, name = self.store.reader, self.market.name
        unchanged: set[Cell] = set()
        for instrument in self.instruments:
            symbol, vendor = instrument.symbol, self._first(instrument)
            of = [key for (each, key), row in cells.items() if each == symbol and row["vendor"] == vendor]
            if symbol not in answered or not of:
                continue
            bounds = {self.market.partition_bounds(Interval.MINUTE, key)[0]: key for key in of}
            window = symbol, min(bounds), max(bounds) + DAY_US
            alike = same_days(reader.bars(name, Interval.DAY, *window), reader.bars(name, Interval.MINUTE, *window))
            unchanged |= {(symbol, key) for start, key in bounds.items() if start in alike}
        return unchanged

    async def _as_announced(self, cells: Rows) -> set[Cell]:
        """Return the cells whose files are, as their vendor announces them, those that the stored bars came from."""
        asked = [(i, key) for i in self.instruments for key in self._keys_of(i, cells)]
        same = await together(self._is_as_announced(i, key, cells[i.symbol, key]["raw_ids"]) for i, key in asked)
        return {(i.symbol, key) for (i, key), unchanged in zip(asked, same, strict=True) if unchanged}

    def _keys_of(self, instrument: Instrument, cells: Rows) -> list[str]:
        vendor = self._first(instrument)
        if vendor is None or not isinstance(self.sources[vendor].adapter, Announces):
            return []
        return [key for symbol, key in cells if symbol == instrument.symbol]

    async def _is_as_announced(self, instrument: Instrument, key: str, raw_ids: Sequence[str]) -> bool:
        vendor = self._first(instrument) or ""
        adapter, transport = self.sources[vendor].adapter, self.sources[vendor].transport
        bounds = self.market.partition_bounds(Interval.MINUTE, key)
        if not isinstance(adapter, Announces):
            return False
        if adapter.serves(Interval.MINUTE, *bounds, to_us(self.clock())) != bounds:
            return False
        for fetch in adapter.plan(instrument.symbol, instrument.vendor_symbols[vendor], Interval.MINUTE, *bounds):
            self.found.requests += 1
            try:
                if await adapter.announced(fetch, transport) not in raw_ids:
                    return False
            except VendorError:
                # Whether that matters shows when the cell is read in full.
                return False
        return True


def same_days(days: pa.Table, minutes: pa.Table) -> set[int]:
    """Return the starts (µs) of the UTC days whose bar is the roll-up of their minutes, but for how volume was summed.

    Both tables are of `BAR_SCHEMA`, of one symbol, and sorted.
    """
    rolled = roll_up(minutes, "1d")
    starts, own = micros(days["bucket_start"]), micros(rolled["bucket_start"])
    both, left, right = np.intersect1d(starts, own, assume_unique=True, return_indices=True)
    same = np.ones(len(both), bool)
    for name in VALUE_COLUMNS:
        one, other = floats(days[name])[left], floats(rolled[name])[right]
        same &= np.isclose(one, other, rtol=VOLUME_TOLERANCE, atol=0) if name == "volume" else one == other
    return set(both[same].tolist())
