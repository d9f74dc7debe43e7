"""The shapes of bars as they travel between the floors of the package: columns of Arrow, and before that of numpy.

Rules about bars live in `bars/`, their storage in `lake/`, the wire formats in `vendors/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Floats = npt.NDArray[np.float64]

Mask = npt.NDArray[np.bool_]

Micros = npt.NDArray[np.int64]
"""Instants as int64 microseconds since 1970-01-01T00:00:00Z."""

TIMESTAMP = pa.timestamp("us", tz="UTC")

BAR_SCHEMA = pa.schema(
    [
        pa.field("bucket_start", TIMESTAMP, nullable=False),
        pa.field("open", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("low", pa.float64()),
        pa.field("close", pa.float64()),
        pa.field("volume", pa.float64()),
        pa.field("trade_count", pa.int64()),
        pa.field("vwap", pa.float64()),
    ]
)
"""One series of bars of one symbol. `bucket_start` labels the bar (UTC); prices in the market's quote
currency; volume in units of the base. `trade_count` and `vwap` are null where the vendor gives none."""

VALUE_COLUMNS = ("open", "high", "low", "close", "volume")
"""The five columns that the checksum covers, in its order."""

EMPTY_BARS = BAR_SCHEMA.empty_table()


def micros(column: pa.ChunkedArray | pa.Array) -> Micros:
    """Return a timestamp column as int64 microseconds since the epoch, without a copy where possible."""
    return np.asarray(column.cast(pa.int64()))


def floats(column: pa.ChunkedArray | pa.Array) -> Floats:
    """Return a float64 column as numpy; null becomes NaN."""
    return np.asarray(column.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.to_numpy())


def bars_from_columns(
    bucket_start: Micros,
    values: Floats,
    trade_count: npt.NDArray[np.int64] | None = None,
    vwap: Floats | None = None,
) -> pa.Table:
    """Build a table of `BAR_SCHEMA`.

    `values` has shape (5, n): open, high, low, close, volume. NaN is kept as NaN there, so that a rule
    can name it; NaN in `vwap` becomes null.
    """
    n = len(bucket_start)
    return pa.Table.from_arrays(
        [
            pa.array(bucket_start, pa.int64()).view(TIMESTAMP),
            *(pa.array(values[i], pa.float64()) for i in range(5)),
            pa.nulls(n, pa.int64()) if trade_count is None else pa.array(trade_count, pa.int64()),
            pa.nulls(n, pa.float64()) if vwap is None else pa.array(vwap, pa.float64(), from_pandas=True),
        ],
        schema=BAR_SCHEMA,
    )


@dataclass(frozen=True)
class BarColumns:
    """Bars as numpy columns: what a page of an answer becomes, since small Arrow tables cost more than their rows.

    `bucket_start` has n instants, `numbers` the shape (7, n): open, high, low, close, volume, trade_count, vwap. NaN
    stands for null in the last two, and for NaN in the others.
    """

    bucket_start: Micros
    numbers: Floats

    @classmethod
    def of(
        cls, bucket_start: Micros, values: Floats, trade_count: Floats | None = None, vwap: Floats | None = None
    ) -> BarColumns:
        """Build from values of shape (5, n) and the optional columns."""
        numbers = np.empty((7, len(bucket_start)))
        numbers[:5] = values
        numbers[5] = np.nan if trade_count is None else trade_count
        numbers[6] = np.nan if vwap is None else vwap
        return cls(bucket_start, numbers)

    @classmethod
    def concat(cls, parts: Sequence[BarColumns]) -> BarColumns:
        """Return the bars of all parts, one after the other."""
        return cls(
            np.concatenate([np.empty(0, np.int64), *(part.bucket_start for part in parts)]),
            np.concatenate([np.empty((7, 0)), *(part.numbers for part in parts)], axis=1),
        )

    def __len__(self) -> int:
        return len(self.bucket_start)

    def take(self, positions: npt.NDArray[np.int64]) -> BarColumns:
        """Return the bars at some positions, in their order."""
        return BarColumns(self.bucket_start[positions], self.numbers[:, positions])

    def table(self) -> pa.Table:
        """Return the bars as a table of `BAR_SCHEMA`."""
        counts = self.numbers[5]
        known = ~np.isnan(counts)
        bars = bars_from_columns(self.bucket_start, self.numbers[:5], vwap=self.numbers[6])
        if not known.any():
            return bars
        at = BAR_SCHEMA.get_field_index("trade_count")
        column = pa.array(np.where(known, counts, 0).astype(np.int64), mask=~known)
        return bars.set_column(at, BAR_SCHEMA.field(at), column)


NO_BARS = BarColumns.concat(())
