"""Reading one symbol's bars from the Parquet files that a snapshot lists, without asking DuckLake.

Safe because listed files are immutable and bars are never inlined into the catalog. Which there are is in `files`.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from os import cpu_count

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ohlcv_pipeline.frames import Mask, micros
from ohlcv_pipeline.lake.catalog import DAMAGE, LakeError
from ohlcv_pipeline.lake.files import DataFile

_FILES_AT_ONCE = min(8, cpu_count() or 2)


@dataclass(frozen=True)
class Window:
    """The buckets [start, end) of one symbol, in µs."""

    symbol: str
    start_us: int
    end_us: int

    def overlaps(self, file: DataFile) -> bool:
        """Return whether a file may hold bars of the window."""
        if file.first_us is None or file.last_us is None:
            return True
        return file.first_us < self.end_us and file.last_us >= self.start_us

    def may_be_in(self, symbols: pq.Statistics | None, buckets: pq.Statistics | None) -> bool:
        """Return whether a row group may hold bars of the window, by the least and greatest values of two columns."""
        if symbols is not None and symbols.has_min_max and not symbols.min <= self.symbol <= symbols.max:
            return False
        if buckets is None or not buckets.has_min_max:
            return True
        return bool(buckets.min_raw < self.end_us and buckets.max_raw >= self.start_us)


def scan(files: Sequence[DataFile], window: Window, schema: pa.Schema) -> pa.Table:
    """Return the bars of a window, in the order of the files and of their rows, without rows marked as deleted.

    `schema` names the columns. The files are on this machine. Raises LakeError.
    """
    # Files side by side; of a single one, its columns.
    read = partial(_read, window=window, schema=schema, use_threads=len(files) == 1)
    try:
        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
            return pa.concat_tables([schema.empty_table(), *pool.map(read, files)])
    except DAMAGE as error:
        raise LakeError(f"the lake cannot be read: {error}") from error


def _read(file: DataFile, window: Window, schema: pa.Schema, *, use_threads: bool) -> pa.Table:
    """Return a file's rows of a window. Row groups are read whole, and of symbols their numbers in a list, if any."""
    of_file = pq.read_metadata(file.path)
    names = of_file.schema.names
    symbol, bucket = names.index("symbol"), names.index("bucket_start")
    groups = [of_file.row_group(i) for i in range(of_file.num_row_groups)]
    read = [
        i
        for i, group in enumerate(groups)
        if window.may_be_in(group.column(symbol).statistics, group.column(bucket).statistics)
    ]
    listed = all("RLE_DICTIONARY" in groups[i].column(symbol).encodings for i in read)
    wanted = dict.fromkeys(["symbol", "bucket_start", *(name for name in schema.names if name in names)])
    with pq.ParquetFile(
        file.path, metadata=of_file, pre_buffer=False, read_dictionary=["symbol"] if listed else None
    ) as opened:
        rows = opened.read_row_groups(read, columns=list(wanted), use_threads=use_threads)
    buckets = micros(rows["bucket_start"])
    kept = _equal(rows["symbol"], window.symbol) & (buckets >= window.start_us) & (buckets < window.end_us)
    if file.marks is not None:
        stays = np.ones(of_file.num_rows, bool)
        stays[pq.read_table(file.marks, columns=["pos"], use_threads=False)["pos"].to_numpy()] = False
        ends = np.cumsum([group.num_rows for group in groups]).tolist()
        kept &= np.concatenate([stays[:0], *(stays[ends[i] - groups[i].num_rows : ends[i]] for i in read)])
    return _formed(_only(rows, kept), window.symbol, schema)


def _equal(symbols: pa.ChunkedArray, symbol: str) -> Mask:
    """Return where a column is a symbol; of numbers in a list only the list is compared."""
    if not pa.types.is_dictionary(symbols.type):
        return np.asarray(pc.equal(symbols, symbol))
    none = np.empty(0, bool)
    return np.concatenate(
        [none, *(chunk.indices.to_numpy() == chunk.dictionary.index(symbol).as_py() for chunk in symbols.chunks)]
    )


def _only(rows: pa.Table, kept: Mask) -> pa.Table:
    """Return the rows to keep; of a sorted file they are neighbours, and need no copy."""
    at = np.flatnonzero(kept)
    if len(at) and at[-1] - at[0] + 1 == len(at):
        return rows.slice(at[0], len(at))
    return rows.filter(pa.array(kept))


def _formed(rows: pa.Table, symbol: str, schema: pa.Schema) -> pa.Table:
    """Return rows of one symbol with the columns of a schema; what a file does not have is null."""
    n = rows.num_rows
    columns = [
        pa.repeat(pa.scalar(symbol, field.type), n)
        if field.name == "symbol"
        else rows[field.name].cast(field.type)
        if field.name in rows.column_names
        else pa.nulls(n, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)
