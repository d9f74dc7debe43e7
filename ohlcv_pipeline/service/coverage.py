"""How much of each partition is there: the cells of the heat map, and those that lack bars.

From the manifest, which also knows how much must be there; a partition that was never written is counted by the
calendar. Computed when the lake has changed, not for each request.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from ohlcv_pipeline.bars.planning import PENDING_TAIL
from ohlcv_pipeline.bars.report import coverage_pct
from ohlcv_pipeline.lake.reader import Reader
from ohlcv_pipeline.markets import MINUTE_US, Instrument, Interval, Market, span_us, to_us

_COLUMNS = [
    "symbol", "partition", "rows", "expected_rows", "no_trades_rows", "unfillable_rows", "last_bucket", "fetched_at"
]  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One symbol of one partition: bars stored, bars due (those without trades aside), and why some are missing."""

    market: str
    asset: str
    interval: str
    partition: str
    stored: int
    due: int
    unfillable: int

    @property
    def missing(self) -> int:
        """How many bars are not there."""
        return max(0, self.due - self.stored)

    @property
    def coverage_pct(self) -> float | None:
        """The share that is there, rounded down."""
        return coverage_pct(self.stored, self.due, 0)

    @property
    def cause(self) -> str:
        """Why bars are missing, as far as the manifest knows."""
        if self.missing <= self.unfillable:
            return "No vendor has them"
        return "Open gap" if self.stored else "Not fetched yet"


@dataclass(frozen=True)
class Grid:
    """The partitions of the target window of one interval, and of each series the cells by partition."""

    interval: str
    partitions: Sequence[str]
    series: Mapping[tuple[str, str], Mapping[str, Cell]]

    def exceptions(self) -> list[Cell]:
        """Return the cells that lack bars, newest partition first."""
        short = [cell for cells in self.series.values() for cell in cells.values() if cell.missing]
        return sorted(short, key=lambda cell: (cell.partition, cell.missing), reverse=True)

    def as_json(self) -> dict[str, Any]:
        """Return the grid as arrays along `partitions`, null where nothing is due."""
        return {
            "interval": self.interval,
            "partitions": list(self.partitions),
            "series": [
                {
                    "market": market,
                    "asset": asset,
                    "stored": [cells[key].stored if key in cells else None for key in self.partitions],
                    "due": [cells[key].due if key in cells else None for key in self.partitions],
                }
                for (market, asset), cells in self.series.items()
            ],
        }


def grid(
    reader: Reader, enabled: Sequence[tuple[Market, Sequence[Instrument]]], interval: Interval, now: datetime
) -> Grid:
    """Return the grid of one interval over the enabled instruments of each market. Raises LakeError."""
    keys: set[str] = set()
    series: dict[tuple[str, str], Mapping[str, Cell]] = {}
    for market, instruments in enabled:
        wanted = market.partition_keys(interval, *market.target_window(interval, now))
        keys.update(wanted)
        held: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        table = reader.manifest(market.name, interval, [each.symbol for each in instruments], wanted).select(_COLUMNS)
        for row in table.to_pylist():
            held[row["symbol"]][row["partition"]] = row
        due = _Due(market, interval, wanted, now)
        for instrument in instruments:
            cells = {}
            for i, key in enumerate(wanted):
                row = held[instrument.symbol].get(key)
                stored, unfillable = (row["rows"], row["unfillable_rows"]) if row else (0, 0)
                expected = row["expected_rows"] - row["no_trades_rows"] if row else due.of(instrument, i)
                if row and expected > stored:
                    expected -= min(
                        expected - stored, due.pending(instrument, i, row["last_bucket"], row["fetched_at"])
                    )
                if expected:
                    cells[key] = Cell(market.name, instrument.symbol, str(interval), key, stored, expected, unfillable)
            series[market.name, instrument.symbol] = cells
    return Grid(str(interval), sorted(keys), series)


class _Due:
    """How many bars the calendar expects of a partition, counted once for instruments with the same listing."""

    def __init__(self, market: Market, interval: Interval, keys: Sequence[str], now: datetime) -> None:
        self._market, self._interval, self._now_us = market, interval, to_us(now)
        self._bounds = np.array([market.partition_bounds(interval, key) for key in keys], np.int64).reshape(-1, 2)
        self._known: dict[tuple[datetime | None, datetime | None], np.ndarray[Any, np.dtype[np.int64]]] = {}

    def of(self, instrument: Instrument, i: int) -> int:
        listing = instrument.listing_start, instrument.delisted_at
        if listing not in self._known:
            start, end = (int(self._bounds[0, 0]), int(self._bounds[-1, 1])) if len(self._bounds) else (0, 0)
            buckets = self._market.expected(self._interval, instrument, start, end, self._now_us)
            edges = np.searchsorted(buckets, self._bounds)
            self._known[listing] = edges[:, 1] - edges[:, 0]
        return int(self._known[listing][i])

    def pending(self, instrument: Instrument, i: int, last: datetime | None, fetched: datetime | None) -> int:
        """Return how many minutes after the newest bar were due when it was fetched, and are too young for a gap."""
        if self._interval is not Interval.MINUTE or fetched is None:
            return 0
        start, end = (int(bound) for bound in self._bounds[i])
        after = start if last is None else to_us(last) + MINUTE_US
        young = max(after, self._now_us - span_us(PENDING_TAIL))
        return len(self._market.expected(self._interval, instrument, young, end, to_us(fetched))) if young < end else 0


def undecided(reader: Reader) -> dict[tuple[str, str, str], int]:
    """Return how many rows of the quarantine wait for a decision, by market, interval and symbol. Raises LakeError."""
    rows = reader.query(
        "SELECT market, interval, symbol, count(*) AS n FROM lake.quarantine"
        " WHERE decision IS NULL AND NOT published GROUP BY ALL ORDER BY ALL"
    ).to_pylist()
    return {(row["market"], row["interval"], row["symbol"]): row["n"] for row in rows}
