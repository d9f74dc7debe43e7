"""Verification: what is stored is hashed again and held against the manifest, and every file against its seal.

It reads and reports; repair is a fetch of the cells it names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ohlcv_pipeline.bars.checksum import checksum, pack
from ohlcv_pipeline.frames import VALUE_COLUMNS, floats, micros
from ohlcv_pipeline.lake.catalog import LakeError
from ohlcv_pipeline.lake.copies import file_sha256
from ohlcv_pipeline.lake.reader import Reader
from ohlcv_pipeline.markets import Interval, Market

CHUNK_ROWS = 300_000


@dataclass
class Verification:
    """What was verified, and what is wrong.

    `mismatched` are manifest rows whose stored bars hash to something else, `unaccounted` bars of no
    manifest row, `damaged_files` files that no longer have the bytes they were sealed with. `unsealed` files have no
    seal to be held against: a run is not done with them, or was killed before it was. Only their cells speak for them.
    """

    cells: int = 0
    rows: int = 0
    files: int = 0
    mismatched: list[dict[str, Any]] = field(default_factory=list)
    unaccounted: list[dict[str, Any]] = field(default_factory=list)
    damaged_files: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    unsealed: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.mismatched or self.unaccounted or self.damaged_files or self.unreadable)

    def add(self, part: Verification) -> None:
        """Take in what was verified elsewhere."""
        self.cells += part.cells
        self.rows += part.rows
        self.files += part.files
        self.mismatched += part.mismatched
        self.unaccounted += part.unaccounted
        self.damaged_files += part.damaged_files
        self.unreadable += part.unreadable
        self.unsealed += part.unsealed


def read_cells(reader: Reader, market: Market, interval: Interval, manifest: pa.Table) -> pa.Table:
    """Return symbol, bucket and values of the bars in the partitions and symbols of some manifest rows."""
    keys = manifest["partition"].unique().to_pylist()
    bounds = [market.partition_bounds(interval, key) for key in keys]
    symbols = sorted(manifest["symbol"].unique().to_pylist())
    return reader.values(
        market.name, interval, min(start for start, _ in bounds), max(end for _, end in bounds), symbols
    )


def mismatches(bars: pa.Table, market: Market, interval: Interval, manifest: pa.Table) -> list[dict[str, Any]]:
    """Return the manifest rows whose bars, among those given, do not hash to their checksum.

    `bars` is what `read_cells` gives. Each row comes back with the `actual` checksum beside its own.
    """
    rows = manifest.select(["symbol", "partition", "rows", "checksum"]).to_pylist()
    actual = hash_cells(bars, market, interval, [(row["symbol"], row["partition"]) for row in rows])
    return [
        {**row, "market": market.name, "interval": str(interval), "actual": found}
        for row, found in zip(rows, actual, strict=True)
        if found != row["checksum"]
    ]


def still_claimed(
    reader: Reader, market: Market, interval: Interval, damaged: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the mismatches without cells that were published again between reading their manifest and their bars."""
    if not damaged:
        return []
    symbols, keys = ([row[name] for row in damaged] for name in ("symbol", "partition"))
    manifest = reader.manifest(market.name, interval, symbols, keys).select(["symbol", "partition", "checksum"])
    claimed = {(row["symbol"], row["partition"]): row["checksum"] for row in manifest.to_pylist()}
    return [row for row in damaged if claimed.get((row["symbol"], row["partition"])) == row["checksum"]]


def hash_cells(bars: pa.Table, market: Market, interval: Interval, cells: Sequence[tuple[str, str]]) -> list[str]:
    """Return the checksum of each (symbol, partition) among bars sorted by symbol and bucket."""
    bounds = {key: market.partition_bounds(interval, key) for key in {key for _, key in cells}}
    starts = micros(bars["bucket_start"])
    records = pack(starts, [floats(bars[name]) for name in VALUE_COLUMNS])
    series = row_ranges(bars["symbol"])
    hashes = []
    for symbol, key in cells:
        lo, hi = series.get(symbol, (0, 0))
        first, last = lo + np.searchsorted(starts[lo:hi], bounds[key])
        hashes.append(checksum(symbol, interval, records[first:last]))
    return hashes


def actual_checksums(reader: Reader, market: Market, interval: Interval) -> list[str]:
    """Return the checksum of every cell as it is stored now, whatever the manifest says."""
    manifest = reader.manifest(market.name, interval)
    hashes = []
    for chunk in _chunks(manifest.sort_by([("partition", "ascending"), ("symbol", "ascending")])):
        cells = list(zip(chunk["symbol"].to_pylist(), chunk["partition"].to_pylist(), strict=True))
        hashes += hash_cells(read_cells(reader, market, interval, chunk), market, interval, cells)
    return hashes


def row_ranges(symbols: pa.ChunkedArray) -> dict[str, tuple[int, int]]:
    """Return where each symbol's rows begin and end in a sorted column."""
    encoded = symbols.combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy()
    first = np.flatnonzero(np.diff(codes, prepend=-1))
    last = np.append(first, len(codes))[1:]
    names = encoded.dictionary.to_pylist()
    return {names[codes[i]]: (int(i), int(j)) for i, j in zip(first, last, strict=True)}


def verify(
    reader: Reader,
    market: Market,
    interval: Interval,
    symbols: Sequence[str] | None = None,
    partitions: Sequence[str] | None = None,
    on_chunk: Callable[[pa.Table, int], None] = lambda bars, total: None,
) -> Verification:
    """Hash every cell again, chunk by chunk, and compare it with its manifest row.

    A partition that cannot be read is reported as such, and the others are still verified. `on_chunk` sees the
    bars of each chunk and the number of bars in all.
    """
    manifest = reader.manifest(market.name, interval, symbols, partitions)
    result = Verification(cells=manifest.num_rows)
    total = sum(manifest["rows"].to_pylist())
    for rows, bars in readings(reader, market, interval, manifest):
        result.rows += sum(rows["rows"].to_pylist())
        if isinstance(bars, LakeError):
            result.unreadable.append(f"{market.name} {interval} {rows['partition'][0]}: {bars}")
        else:
            result.mismatched += still_claimed(reader, market, interval, mismatches(bars, market, interval, rows))
            on_chunk(bars, total)
    if symbols is None and partitions is None:
        try:
            result.unaccounted = unaccounted(reader, market, interval)
        except LakeError as error:
            result.unreadable.append(f"{market.name} {interval}: {error}")
    return result


def readings(
    reader: Reader, market: Market, interval: Interval, manifest: pa.Table
) -> Iterator[tuple[pa.Table, pa.Table | LakeError]]:
    """Read the bars of manifest rows once, chunk by chunk, oldest partition first: rows with what `read_cells` gives.

    A chunk that cannot be read is read partition by partition; the rows of one that still cannot come with the error.
    """
    for chunk in _chunks(manifest.sort_by([("partition", "ascending"), ("symbol", "ascending")])):
        bars = _attempt(reader, market, interval, chunk)
        keys = chunk["partition"].unique()
        if isinstance(bars, LakeError) and len(keys) > 1:
            for key in keys:
                part = chunk.filter(pc.equal(chunk["partition"], key))
                yield part, _attempt(reader, market, interval, part)
        else:
            yield chunk, bars


def _attempt(reader: Reader, market: Market, interval: Interval, manifest: pa.Table) -> pa.Table | LakeError:
    try:
        return read_cells(reader, market, interval, manifest)
    except LakeError as error:
        return error


def _chunks(manifest: pa.Table) -> Iterator[pa.Table]:
    """Cut a manifest sorted by partition where a partition ends, at about `CHUNK_ROWS` bars a piece."""
    partitions = manifest["partition"].to_numpy()
    total = np.cumsum(manifest["rows"].to_numpy())
    start = 0
    for i in range(1, manifest.num_rows + 1):
        full = i < manifest.num_rows and total[i - 1] - (total[start - 1] if start else 0) >= CHUNK_ROWS
        if i == manifest.num_rows or (full and partitions[i] != partitions[i - 1]):
            yield manifest.slice(start, i - start)
            start = i


def unaccounted(reader: Reader, market: Market, interval: Interval) -> list[dict[str, Any]]:
    """Return symbols of which the table holds another number of bars than the manifest accounts for."""
    return [
        {"market": market.name, "interval": str(interval), **row}
        for row in reader.accounts(market.name, interval).to_pylist()
        if row["rows"] != row["manifest"]
    ]


def verify_files(reader: Reader) -> Verification:
    """Hash every file of the lake and compare it with its seal."""
    result = Verification(unsealed=reader.unsealed())
    for path, size, sha256 in reader.seals():
        result.files += 1
        file = Path(path)
        if not file.exists() or file.stat().st_size != size or file_sha256(path) != sha256:
            result.damaged_files.append(path)
    return result
