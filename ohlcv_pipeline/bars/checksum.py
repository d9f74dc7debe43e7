"""Checksum v1: SHA-256 over fixed-width little-endian records that any language can rebuild.

The format is fixed by `docs/explanation/checksum.md`; changing any rule of it raises `CHECKSUM_VERSION`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ohlcv_pipeline.frames import VALUE_COLUMNS, Micros, floats, micros
from ohlcv_pipeline.markets import Interval

CHECKSUM_VERSION = 1
RECORD_BYTES = 48

Records = npt.NDArray[np.float64]


def header(symbol: str, interval: Interval) -> bytes:
    """Return the bytes that every hash of a series begins with."""
    return f"ohlcv1|{symbol}|{interval}\n".encode()


def records(bars: pa.Table) -> Records:
    """Return one 48-byte record a bar as an array of shape (n, 6), in the order of the table.

    Each row holds the int64 `bucket_start` in microseconds (its bits, seen as float64), then open, high,
    low, close and volume, little-endian; `-0.0` becomes `0.0`.
    """
    return pack(micros(bars["bucket_start"]), [floats(bars[name]) for name in VALUE_COLUMNS])


def pack(bucket_start: Micros, values: Iterable[npt.NDArray[np.float64]]) -> Records:
    """Return the records of bars given as columns; see `records`."""
    out = np.empty((len(bucket_start), 6), "<f8")
    out.view("<i8")[:, 0] = bucket_start
    for i, column in enumerate(values, start=1):
        np.add(column, 0.0, out=out[:, i])
    return out


def checksum(symbol: str, interval: Interval, rows: Records) -> str:
    """Return the checksum of bars given as records, which must be sorted by `bucket_start`."""
    digest = hashlib.sha256(header(symbol, interval))
    digest.update(rows.data if rows.flags.c_contiguous else rows.tobytes())
    return digest.hexdigest()


def partition_checksum(symbol: str, interval: Interval, bars: pa.Table) -> str:
    """Return the checksum of one symbol's bars, sorted by `bucket_start`; of none, the hash of the header."""
    return checksum(symbol, interval, records(bars))


def run_checksum(partition_checksums: Iterable[str]) -> str:
    """Return the checksum of a run or a report: over its sorted partition checksums joined by newlines."""
    return hashlib.sha256("\n".join(sorted(partition_checksums)).encode()).hexdigest()
