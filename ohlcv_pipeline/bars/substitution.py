"""What takes the place of damaged bars: values of `repair`, and the difference between a cell's bars and sound ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ohlcv_pipeline.bars.verify import row_ranges
from ohlcv_pipeline.frames import VALUE_COLUMNS, Floats, floats, micros
from ohlcv_pipeline.lake.files import DataFile

Cell = dict[str, Any]
"""A manifest row: symbol, partition, checksum, raw_ids and the rest."""


@dataclass(frozen=True)
class Wound:
    """The sound and the damaged files of a table, and the manifest rows that may have bars in the damaged ones."""

    sound: list[DataFile]
    ended: list[DataFile]
    cells: list[Cell]


@dataclass
class Plan:
    """What to end, what to insert for it, and which wrong bars of other files to replace by right ones.

    `evidence` are ended files of which not every bar is proven: they are kept aside.
    """

    ended: list[DataFile] = field(default_factory=list)
    evidence: list[DataFile] = field(default_factory=list)
    missing: list[pa.Table] = field(default_factory=list)
    wrong: list[pa.Table] = field(default_factory=list)
    right: list[pa.Table] = field(default_factory=list)
    proven: list[tuple[Cell, str]] = field(default_factory=list)
    unproven: list[tuple[Cell, str]] = field(default_factory=list)

    def replace(self, before: pa.Table, bars: pa.Table) -> None:
        """Take a cell from the bars that sound files hold of it to those it should have; equal ones stay."""
        had, wanted = micros(before["bucket_start"]), micros(bars["bucket_start"])
        once = np.isin(had, had[1:][had[1:] == had[:-1]], invert=True)
        at = np.minimum(np.searchsorted(wanted, had), max(len(wanted) - 1, 0))
        stays = once & np.isin(had, wanted)
        if stays.any():
            stays[stays] = (_values(before)[:, stays] == _values(bars)[:, at[stays]]).all(axis=0)
        comes = bars.filter(pa.array(np.isin(wanted, had[stays], invert=True)))
        if stays.all():
            self.missing.append(comes)
        else:
            self.wrong.append(before.filter(pa.array(~stays)))
            self.right.append(comes)


def _values(bars: pa.Table) -> Floats:
    return np.vstack([floats(bars[name]) for name in VALUE_COLUMNS])


def overlaps(file: DataFile, start_us: int, end_us: int) -> bool:
    """Return whether a file may hold bars of [start, end)."""
    if file.first_us is None or file.last_us is None:
        return True
    return file.first_us < end_us and file.last_us >= start_us


class StoredBars:
    """Stored bars sorted by symbol and bucket, from which cells are cut without a copy."""

    def __init__(self, bars: pa.Table) -> None:
        self.bars = bars.combine_chunks()
        self._buckets = micros(bars["bucket_start"])
        self._series = row_ranges(bars["symbol"])

    def of(self, symbol: str, start: int, end: int) -> pa.Table:
        """Return the bars of one cell."""
        lo, hi = self._series.get(symbol, (0, 0))
        first, last = np.searchsorted(self._buckets[lo:hi], [start, end]).tolist()
        return self.bars.slice(lo + first, last - first)
