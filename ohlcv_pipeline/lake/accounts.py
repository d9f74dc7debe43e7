"""The manifest as columns, for questions about all series of a table at once, and when to ask them again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ohlcv_pipeline.frames import Micros, micros
from ohlcv_pipeline.lake.reader import Reader
from ohlcv_pipeline.markets import Interval

NEVER = -(2**63)
"""Stands for no bucket."""


@dataclass(frozen=True)
class Accounts:
    """The manifest of one table, a row a cell, sorted by symbol and partition.

    `symbols` and `partitions` are the distinct ones, sorted; `symbol` and `partition` tell each cell's place in them.
    `first` and `last` are bucket starts in µs, NEVER for a cell without bars.
    """

    symbols: list[str]
    partitions: list[str]
    symbol: npt.NDArray[np.int64]
    partition: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    no_trades: npt.NDArray[np.int64]
    first: Micros
    last: Micros
    checksum: pa.Array

    @classmethod
    def empty(cls) -> Accounts:
        """Return the manifest of a table that was never published to."""
        none = np.empty(0, np.int64)
        return cls([], [], none, none, none, none, none, none, pa.array([], pa.string()))


def accounts(reader: Reader, market: str, interval: Interval) -> Accounts:
    """Return the manifest of one table. Raises LakeError."""
    table = reader.query(
        "SELECT symbol, partition, rows, no_trades_rows, first_bucket, last_bucket, checksum FROM lake.manifest"
        " WHERE market = ? AND interval = ? ORDER BY symbol, partition",
        [market, interval],
    )
    symbols, symbol = np.unique(np.asarray(table["symbol"], dtype=object), return_inverse=True)
    partitions, partition = np.unique(np.asarray(table["partition"], dtype=object), return_inverse=True)
    first, last = (
        micros(table[name].fill_null(pa.scalar(NEVER, pa.int64()).cast(table[name].type)))
        for name in ("first_bucket", "last_bucket")
    )
    return Accounts(
        symbols.tolist(),
        partitions.tolist(),
        symbol,
        partition,
        np.asarray(table["rows"]),
        np.asarray(table["no_trades_rows"]),
        first,
        last,
        table["checksum"].combine_chunks(),
    )


def heads(reader: Reader) -> Mapping[tuple[str, str], int]:
    """Return how often each bars table was published to, by market and interval; of no lake, nothing."""
    if not reader.catalog.exists:
        return {}
    rows = reader.query("SELECT market, interval, version FROM lake.heads").to_pylist()
    return {(row["market"], row["interval"]): row["version"] for row in rows}


def undecided(reader: Reader) -> Mapping[tuple[str, ...], int]:
    """Return (market, interval) → unpublished rows of the quarantine that wait for a decision. Raises LakeError."""
    found = reader.query(
        "SELECT market, interval, count(*) AS n FROM lake.quarantine WHERE decision IS NULL AND NOT published"
        " GROUP BY ALL ORDER BY ALL"
    )
    return {(row["market"], row["interval"]): row["n"] for row in found.to_pylist()}
