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

from ohlcv_pipeline.bars.checksum import checksum, pack
from ohlcv_pipeline.frames import VALUE_COLUMNS, floats, micros
from ohlcv_pipeline.lake.catalog import LakeError
from ohlcv_pipeline.lake.reader import Reader
from ohlcv_pipeline.lake.writer import file_sha256
from ohlcv_pipeline.markets import Interval, Market

CHUNK_ROWS = 300_000


@dataclass
class Verification:
    """What was verified, and what is wrong.

    `mismatched` are manifest rows whose stored bars hash to something else, `unaccounted` bars of no
    manifest row, `damaged_files` files that no longer have the bytes they were sealed with.
    """

    cells: int = 0
    rows: int = 0
    files: int = 0
    mismatched: list[dict[str, Any]] = field(default_factory=list)
    unaccounted: list[dict[str, Any]] = field(default_factory=list)
    damaged_files: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.mismatched or self.unaccounted or self.damaged_files or self.unreadable)


def mismatches(reader: Reader, market: Market, interval: Interval, manifest: pa.Table) -> list[dict[str, Any]]:
    """Return the manifest rows whose stored bars do not hash to their checksum, with the `actual` one."""
    rows = manifest.select(["symbol", "partition", "rows", "checksum"]).to_pylist()
    if not rows:
        return []
    bounds = {key: market.partition_bounds(interval, key) for key in {row["partition"] for row in rows}}
    bars = reader.values(
        market.name,
        interval,
        min(start for start, _ in bounds.values()),
        max(end for _, end in bounds.values()),
        sorted({row["symbol"] for row in rows}),
    )
    starts = micros(bars["bucket_start"])
    records = pack(starts, [floats(bars[name]) for name in VALUE_COLUMNS])
    series = _series(bars["symbol"])
    wrong = []
    for row in rows:
        lo, hi = series.get(row["symbol"], (0, 0))
        first, last = lo + np.searchsorted(starts[lo:hi], bounds[row["partition"]])
        actual = checksum(row["symbol"], interval, records[first:last])
        if actual != row["checksum"]:
            wrong.append({**row, "market": market.name, "interval": str(interval), "actual": actual})
    return wrong


def _series(symbols: pa.ChunkedArray) -> dict[str, tuple[int, int]]:
    """Return where each symbol's rows begin and end in a sorted column."""
    encoded = symbols.combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy()
    first = np.flatnonzero(np.diff(codes, prepend=-1))
    last = np.append(first[1:], len(codes))
    names = encoded.dictionary.to_pylist()
    return {names[codes[i]]: (int(i), int(j)) for i, j in zip(first, last, strict=True)}


def verify(
    reader: Reader,
    market: Market,
    interval: Interval,
    symbols: Sequence[str] | None = None,
    partitions: Sequence[str] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Verification:
    """Hash every cell again, chunk by chunk, and compare it with its manifest row.

    A chunk that cannot be read is reported as such, and the others are still verified.
    """
    manifest = reader.manifest(market.name, interval, symbols, partitions)
    result = Verification(cells=manifest.num_rows)
    for chunk in _chunks(manifest.sort_by([("partition", "ascending"), ("symbol", "ascending")])):
        try:
            result.mismatched += mismatches(reader, market, interval, chunk)
        except LakeError as error:
            keys = chunk["partition"].to_pylist()
            result.unreadable.append(f"{market.name} {interval} {keys[0]} … {keys[-1]}: {error}")
        result.rows += sum(chunk["rows"].to_pylist())
        on_progress(result.rows, sum(manifest["rows"].to_pylist()))
    if symbols is None and partitions is None:
        result.unaccounted = unaccounted(reader, market, interval, manifest)
    return result


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


def unaccounted(reader: Reader, market: Market, interval: Interval, manifest: pa.Table) -> list[dict[str, Any]]:
    """Return symbols of which the table holds another number of bars than the manifest accounts for."""
    counted = {row["symbol"]: row["rows"] for row in reader.counts(market.name, interval).to_pylist()}
    claimed: dict[str, int] = dict.fromkeys(counted, 0)
    for row in manifest.select(["symbol", "rows"]).to_pylist():
        claimed[row["symbol"]] = claimed.get(row["symbol"], 0) + row["rows"]
    return [
        {"market": market.name, "interval": str(interval), "symbol": s, "rows": counted.get(s, 0), "manifest": n}
        for s, n in claimed.items()
        if counted.get(s, 0) != n
    ]


def verify_files(reader: Reader) -> Verification:
    """Hash every file of the lake and compare it with its seal."""
    result = Verification()
    for path, size, sha256 in reader.seals():
        result.files += 1
        file = Path(path)
        if not file.exists() or file.stat().st_size != size or file_sha256(path) != sha256:
            result.damaged_files.append(path)
    return result
