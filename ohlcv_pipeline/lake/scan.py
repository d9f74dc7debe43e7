"""Reading one symbol's bars from the Parquet files that a snapshot lists, without asking DuckLake.

Safe because listed files are immutable and bars are never inlined into the catalog. Which there are is in `files`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import dataset

from ohlcv_pipeline.frames import TIMESTAMP, micros
from ohlcv_pipeline.lake.catalog import DAMAGE, LakeError
from ohlcv_pipeline.lake.files import DataFile
from ohlcv_pipeline.lake.tables import STORED_BARS

# Local files gain nothing from being read ahead.
_PARQUET = dataset.ParquetFileFormat(pre_buffer=False)


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

    @property
    def rows(self) -> pc.Expression:
        """Which rows are of the window."""
        bucket = pc.field("bucket_start")
        start, end = (pa.scalar(us, pa.int64()).cast(TIMESTAMP) for us in (self.start_us, self.end_us))
        return (pc.field("symbol") == self.symbol) & (bucket >= start) & (bucket < end)


def scan(files: Sequence[DataFile], window: Window, schema: pa.Schema) -> pa.Table:
    """Return the bars of a window, in the order of the files and of their rows, without rows marked as deleted.

    `schema` names the columns. The files are on this machine. Raises LakeError.
    """
    parts = [schema.empty_table()]
    try:
        for marked, alike in groupby(files, key=lambda file: file.marks is not None):
            if marked:
                parts += [_unmarked(file, window, schema) for file in alike]
            else:
                # One scan of many files reads them side by side; what statistics have answered no row is asked.
                opened = dataset.dataset([file.path for file in alike], schema=STORED_BARS, format=_PARQUET)
                parts.append(opened.to_table(columns=schema.names, filter=window.rows))
        return pa.concat_tables(part.cast(schema) for part in parts)
    except DAMAGE as error:
        raise LakeError(f"the lake cannot be read: {error}") from error


def _unmarked(file: DataFile, window: Window, schema: pa.Schema) -> pa.Table:
    """Return the rows of a window in a file, but for those whose positions its marks list.

    Row groups are read whole, for a filter would lose which row stands where.
    """
    with pq.ParquetFile(file.path, pre_buffer=False) as opened, pq.ParquetFile(file.marks) as marks:
        stays = np.ones(opened.metadata.num_rows, bool)
        stays[marks.read(["pos"], use_threads=False)["pos"].to_numpy()] = False
        groups = [opened.metadata.row_group(i) for i in range(opened.metadata.num_row_groups)]
        ends = np.cumsum([group.num_rows for group in groups]).tolist()
        keys = [opened.metadata.schema.names.index(name) for name in ("symbol", "bucket_start")]
        read = [
            i for i, group in enumerate(groups) if window.may_be_in(*(group.column(key).statistics for key in keys))
        ]
        rows = opened.read_row_groups(read, columns=["symbol", *schema.names])
    kept = np.concatenate([stays[:0], *(stays[ends[i] - groups[i].num_rows : ends[i]] for i in read)])
    buckets = micros(rows["bucket_start"])
    kept &= (buckets >= window.start_us) & (buckets < window.end_us)
    kept &= np.asarray(pc.equal(rows["symbol"], window.symbol))
    for name in set(schema.names) - set(rows.column_names):
        rows = rows.append_column(schema.field(name), pa.nulls(len(rows), schema.field(name).type))
    return rows.select(schema.names).filter(pa.array(kept))
