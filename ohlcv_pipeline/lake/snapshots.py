"""Reading one snapshot of the lake again and again, while others publish: what pages and long streams need.

A snapshot can be read until maintenance expires it. The lake at an instant of the past is `history`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from ohlcv_pipeline.frames import VALUE_COLUMNS
from ohlcv_pipeline.lake.catalog import LakeError
from ohlcv_pipeline.lake.files import CATALOG
from ohlcv_pipeline.lake.reader import Reader
from ohlcv_pipeline.lake.tables import MANIFEST, STORED_BARS, bars_table
from ohlcv_pipeline.markets import Interval

TRACED_BARS = pa.schema(
    [STORED_BARS.field(name) for name in ("bucket_start", *VALUE_COLUMNS, "source_vendor", "fetched_at", "run_id")]
)
"""What the checksum of a bar covers, and who brought it."""

CELLS = pa.schema([MANIFEST.field(name) for name in ("partition", "rows", "checksum", "checksum_version")])

NO_LAKE = -1
"""The number of the snapshot, without anything in it, before the lake's first."""


class SnapshotExpiredError(LakeError):
    """The snapshot cannot be read any more."""


@dataclass(frozen=True)
class Snapshot:
    """One snapshot of a lake, by its number."""

    reader: Reader
    number: int

    def cells(self, market: str, interval: Interval, symbol: str) -> pa.Table:
        """Return the cells of one series that hold bars, of `CELLS`, sorted by partition. Raises LakeError."""
        if self.number == NO_LAKE:
            return CELLS.empty_table()
        return self._ask(
            f"SELECT {', '.join(CELLS.names)} FROM lake.manifest AT (VERSION => {self.number})"
            " WHERE market = ? AND interval = ? AND symbol = ? AND rows > 0 ORDER BY partition",
            [market, interval, symbol],
        ).cast(CELLS)

    def bars(self, market: str, interval: Interval, symbol: str, start_us: int, end_us: int) -> pa.Table:
        """Return one symbol's bars of `TRACED_BARS` with start <= `bucket_start` < end, sorted. Raises LakeError."""
        if self._is_newest():
            bars = self.reader.series(market, interval, symbol, start_us, end_us, TRACED_BARS)
            # Numbers only grow: with no newer snapshot after the read there was none during it.
            if self._is_newest():
                return bars
        return self._ask(
            f"SELECT {', '.join(TRACED_BARS.names)} FROM {bars_table(market, interval)} AT (VERSION => {self.number})"
            " WHERE symbol = ? AND bucket_start >= make_timestamptz(?) AND bucket_start < make_timestamptz(?)"
            " ORDER BY bucket_start",
            [symbol, start_us, end_us],
        ).cast(TRACED_BARS)

    def _is_newest(self) -> bool:
        return newest_number(self.reader) == self.number

    def _ask(self, sql: str, parameters: list[object]) -> pa.Table:
        try:
            return self.reader.query(sql, parameters)
        except LakeError:
            require(self.reader, self.number)
            raise


def newest_number(reader: Reader) -> int:
    """Return the number of the newest snapshot, NO_LAKE where there is no lake yet. Raises LakeError."""
    if not reader.catalog.exists:
        return NO_LAKE
    (row,) = reader.query(f"SELECT max(snapshot_id) AS number FROM {CATALOG}.ducklake_snapshot").to_pylist()
    return int(row["number"])


def newest(reader: Reader) -> Snapshot:
    """Return the newest snapshot. Raises LakeError."""
    return Snapshot(reader, newest_number(reader))


def require(reader: Reader, number: int) -> Snapshot:
    """Return a snapshot by its number. Raises SnapshotExpiredError, or another LakeError."""
    found = reader.query(f"SELECT 1 FROM {CATALOG}.ducklake_snapshot WHERE snapshot_id = ?", [number])
    if not found.num_rows:
        raise SnapshotExpiredError(f"snapshot {number} of the lake has expired")
    return Snapshot(reader, number)
