"""The Arrow shape of bars as they travel between the floors of the package.

Rules about bars live in `bars/`, their storage in `lake/`, the wire formats in `vendors/`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

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


def floats(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.float64]:
    """Return a float64 column as numpy; null becomes NaN."""
    return np.asarray(column.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.to_numpy())


def bars_from_columns(
    bucket_start: Micros,
    values: npt.NDArray[np.float64],
    trade_count: npt.NDArray[np.int64] | None = None,
    vwap: npt.NDArray[np.float64] | None = None,
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
