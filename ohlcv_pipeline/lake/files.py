"""The files that the lake consists of, read from its catalog: which there are, of which table, from when to when."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb


@dataclass(frozen=True)
class DataFile:
    """One Parquet file of the newest snapshot. First and last bucket in µs where the table has buckets.

    `id` is its number in the catalog, `marks` the file that lists deleted rows of it, None when it has all its rows.
    """

    id: int
    table: str
    path: str
    first_us: int | None
    last_us: int | None
    marks: str | None

    @property
    def holds_bars(self) -> bool:
        """Whether it is a file of a bars table, and not of one of the accounts."""
        return ".ohlcv_" in self.table


CATALOG = "__ducklake_metadata_lake"
"""The name DuckDB gives to the catalog of `lake`, by which its own tables can be read."""

_FILES = f"""
WITH home AS (
    SELECT t.table_id, 'lake."' || s.schema_name || '".' || t.table_name AS name,
        CASE WHEN s.path_is_relative THEN m.value || s.path ELSE s.path END AS schema_path, t.path, t.path_is_relative
    FROM {CATALOG}.ducklake_table t
    JOIN {CATALOG}.ducklake_schema s ON s.schema_id = t.schema_id AND s.end_snapshot IS NULL
    JOIN {CATALOG}.ducklake_metadata m ON m.key = 'data_path'
    WHERE t.end_snapshot IS NULL
)
SELECT h.name, CASE WHEN h.path_is_relative THEN h.schema_path || h.path ELSE h.path END AS folder,
    f.path, f.path_is_relative, d.path, d.path_is_relative,
    epoch_us(v.min_value::TIMESTAMPTZ), epoch_us(v.max_value::TIMESTAMPTZ), f.data_file_id
FROM {CATALOG}.ducklake_data_file f
JOIN home h ON h.table_id = f.table_id
LEFT JOIN {CATALOG}.ducklake_column k
    ON k.table_id = f.table_id AND k.column_name = 'bucket_start' AND k.end_snapshot IS NULL
LEFT JOIN {CATALOG}.ducklake_file_column_stats v
    ON v.data_file_id = f.data_file_id AND v.column_id = k.column_id
LEFT JOIN {CATALOG}.ducklake_delete_file d ON d.data_file_id = f.data_file_id AND d.end_snapshot IS NULL
WHERE coalesce(f.end_snapshot > (SELECT max(snapshot_id) FROM {CATALOG}.ducklake_snapshot), true)
"""
"""A file may have been told to end with a snapshot that is still to come: see `lake.mending`."""


def newest_snapshot(connection: duckdb.DuckDBPyConnection) -> int:
    """Return the number of the newest snapshot."""
    ((snapshot,),) = connection.execute(f"SELECT max(snapshot_id) FROM {CATALOG}.ducklake_snapshot").fetchall()
    return int(snapshot)


def data_files(connection: duckdb.DuckDBPyConnection) -> list[DataFile]:
    """Return the files that the newest snapshot consists of, by table and time.

    Read from the catalog as the DuckLake 1.0 specification lays it out: a path may be relative to its
    table's, its schema's and the lake's own. One statement, so that the catalog is read at one instant: maintenance
    rewrites what the catalog says of older snapshots.
    """
    rows = connection.execute(_FILES).fetchall()
    files = [
        DataFile(
            id=number,
            table=name,
            path=folder + path if relative else path,
            first_us=first,
            last_us=last,
            marks=None if marks is None else folder + marks if marks_relative else marks,
        )
        for name, folder, path, relative, marks, marks_relative, first, last, number in rows
    ]
    return sorted(files, key=lambda file: (file.table, file.first_us or 0, file.path))
