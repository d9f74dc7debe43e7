"""Lineage: for each stored bar its run, vendor, fetch time, own checksum and that of its partition.

Read from bars and manifest of one lake snapshot, in blocks that end with a partition.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
import pyarrow as pa

from ohlcv_pipeline.bars.checksum import header, records
from ohlcv_pipeline.frames import Micros, micros
from ohlcv_pipeline.lake.snapshots import Snapshot
from ohlcv_pipeline.markets import Interval, Market

COLUMNS = (
    "asset_symbol", "market", "bucket_start", "interval", "run_id", "source_vendor", "fetched_at", "checksum_sha256",
    "checksum_version", "partition_checksum",
)  # fmt: skip

Row = dict[str, str | int]
"""One bar: a value for each of `COLUMNS`, in their order; times are RFC 3339 in UTC."""

FIRST_BLOCK, BLOCK = 1_500, 20_000
"""At least so many bars are read together, in the first block and in the others, where there are so many."""


@dataclass(frozen=True)
class Series:
    """One series of bars."""

    market: Market
    interval: Interval
    symbol: str


@dataclass(frozen=True)
class Cells:
    """The partitions of one series that hold bars, oldest first: bounds [start, end) in µs, rows, checksums."""

    starts: Micros
    ends: Micros
    rows: Micros
    checksums: Sequence[str]
    versions: Sequence[int]


@dataclass
class CellCache:
    """The cells of series that were read last; what a snapshot holds never changes."""

    size: int = 256
    _kept: OrderedDict[tuple[int, str, str, str], Cells] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    def of(self, snapshot: Snapshot, series: Series) -> Cells:
        """Return the cells of a series. Raises LakeError."""
        key = (snapshot.number, series.market.name, str(series.interval), series.symbol)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        found = _cells(snapshot, series)
        with self._lock:
            self._kept[key] = found
            while len(self._kept) > self.size:
                self._kept.popitem(last=False)
        return found


def _cells(snapshot: Snapshot, series: Series) -> Cells:
    table = snapshot.cells(series.market.name, series.interval, series.symbol)
    bounds = [series.market.partition_bounds(series.interval, key) for key in table["partition"].to_pylist()]
    starts, ends = np.array(bounds, np.int64).reshape(-1, 2).T
    return Cells(
        starts,
        ends,
        np.asarray(table["rows"]),
        table["checksum"].to_pylist(),
        table["checksum_version"].to_pylist(),
    )


@dataclass(frozen=True)
class Page:
    """Some bars; `next_us` is the bucket that the following page begins with, None after the last one."""

    rows: list[Row]
    next_us: int | None


def page(snapshot: Snapshot, cells: Cells, series: Series, start_us: int, end_us: int, limit: int) -> Page:
    """Return the first `limit` bars of [start, end) in a snapshot. Raises LakeError."""
    reach = _reach(cells, start_us, end_us, limit + 1)
    if reach is None:
        return Page([], None)
    bars = snapshot.bars(series.market.name, series.interval, series.symbol, start_us, min(end_us, reach))
    rest = micros(bars.slice(limit, 1)["bucket_start"]).tolist()
    return Page(_rows(bars.slice(0, limit), cells, series), rest[0] if rest else None)


def blocks(snapshot: Snapshot, cells: Cells, series: Series, start_us: int, end_us: int) -> Iterator[list[Row]]:
    """Yield all bars of [start, end) in a snapshot, some at a time. Raises LakeError."""
    least = FIRST_BLOCK
    while (reach := _reach(cells, start_us, end_us, least)) is not None:
        bars = snapshot.bars(series.market.name, series.interval, series.symbol, start_us, min(end_us, reach))
        if len(bars):
            yield _rows(bars, cells, series)
        start_us, least = reach, BLOCK


def _reach(cells: Cells, start_us: int, end_us: int, least: int) -> int | None:
    """Return the end of the partition up to which [start, …) holds at least so many bars, or all; None for no bar."""
    first = int(np.searchsorted(cells.ends, start_us, side="right"))
    last = int(np.searchsorted(cells.starts, end_us))
    if first >= last:
        return None
    # How much of the first partition lies before the start is not known.
    sure = np.cumsum(cells.rows[first + 1 : last])
    return int(cells.ends[min(first + 1 + int(np.searchsorted(sure, least)), last - 1)])


def _rows(bars: pa.Table, cells: Cells, series: Series) -> list[Row]:
    starts = micros(bars["bucket_start"])
    home = (np.searchsorted(cells.starts, starts, side="right") - 1).tolist()
    symbol, market, interval = series.symbol, series.market.name, str(series.interval)
    return [
        {
            "asset_symbol": symbol,
            "market": market,
            "bucket_start": begin,
            "interval": interval,
            "run_id": run,
            "source_vendor": vendor,
            "fetched_at": fetched,
            "checksum_sha256": own,
            "checksum_version": cells.versions[cell],
            "partition_checksum": cells.checksums[cell],
        }
        for begin, run, vendor, fetched, own, cell in zip(
            _texts(starts),
            bars["run_id"].to_pylist(),
            bars["source_vendor"].to_pylist(),
            _texts(micros(bars["fetched_at"])),
            bar_checksums(symbol, series.interval, bars),
            home,
            strict=True,
        )
    ]


def _texts(instants: Micros) -> list[str]:
    """Return instants as RFC 3339 to the second."""
    seconds = (instants // 1_000_000).astype("datetime64[s]")
    return [f"{text}Z" for text in np.datetime_as_string(seconds).tolist()]


def bar_checksums(symbol: str, interval: Interval, bars: pa.Table) -> list[str]:
    """Return each bar's own checksum."""
    packed = records(bars)
    begun, raw, width = hashlib.sha256(header(symbol, interval)), packed.tobytes(), packed.itemsize * packed.shape[1]
    digests = []
    for at in range(0, len(raw), width):
        digest = begun.copy()
        digest.update(raw[at : at + width])
        digests.append(digest.hexdigest())
    return digests
