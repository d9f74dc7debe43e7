"""Exchanging damaged files of a bars table for sound rows, in one snapshot.

A file that cannot be read cannot be deleted from. Its catalog row is told instead to end with the next snapshot, and
the next snapshot brings its rows: readers see the one or the other. Which rows are sound is decided in `bars.repair`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ohlcv_pipeline.lake.catalog import DAMAGE, LakeError, retry_conflicts, transaction
from ohlcv_pipeline.lake.files import CATALOG, DataFile, data_files, newest_snapshot
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline.lake.tables import STORED_BARS, bars_table
from ohlcv_pipeline.lake.writer import delete_rows, insert_rows, raise_head
from ohlcv_pipeline.markets import Interval


def rows_of(store: Store, files: Sequence[DataFile], start_us: int, end_us: int) -> pa.Table:
    """Return the stored bars of some files with start <= `bucket_start` < end, without those marked as deleted.

    Sorted by symbol and bucket. Raises LakeError when a file cannot be read.
    """
    parts = [STORED_BARS.empty_table()]
    with closing(store.catalog.cursor()) as connection:
        try:
            for file in files:
                parts.append(connection.execute(_select(file), [start_us, end_us]).to_arrow_table().cast(STORED_BARS))
                # Text that is no longer UTF-8 is found only when it is looked at.
                parts[-1].validate(full=True)
        except (duckdb.Error, *DAMAGE) as error:
            raise LakeError(f"a file of {files[0].table} cannot be read: {error}") from error
    return pa.concat_tables(parts).sort_by([("symbol", "ascending"), ("bucket_start", "ascending")])


def _select(file: DataFile) -> str:
    have = set(pq.read_schema(file.path).names)
    columns = ", ".join(name if name in have else f"NULL AS {name}" for name in STORED_BARS.names)
    sql = (
        f"SELECT {columns} FROM read_parquet({_quoted(file.path)}, file_row_number => true) f"
        " WHERE bucket_start >= make_timestamptz(?) AND bucket_start < make_timestamptz(?)"
    )
    if file.marks is not None:
        sql += f" AND file_row_number NOT IN (SELECT pos FROM read_parquet({_quoted(file.marks)}))"
    return sql


def _quoted(path: str) -> str:
    return "'" + path.replace("'", "''") + "'"


def exchange(
    store: Store, market: str, interval: Interval, ended: Sequence[DataFile], deleted: pa.Table, inserted: pa.Table
) -> None:
    """End files, or delete the bars of these symbols and buckets, and insert sound ones: one snapshot.

    Deleting reads the table, so files that cannot be read are ended first. The caller has the writer's turn, so that
    no other snapshot comes in between. Raises LakeError; everything is then as it was.
    """
    with closing(store.catalog.cursor()) as connection:
        try:
            with _ending(connection, [file.id for file in ended]), transaction(connection):
                # What changes no row makes no snapshot; and whoever publishes beside this must conflict with it.
                raise_head(connection, market, interval)
                table = bars_table(market, interval)
                delete_rows(connection, table, deleted, ("symbol", "bucket_start"))
                insert_rows(connection, table.removeprefix("lake."), inserted)
        except duckdb.Error as error:
            raise LakeError(f"damaged bars of {market} {interval} could not be replaced: {error}") from error


@contextmanager
def _ending(connection: duckdb.DuckDBPyConnection, files: Sequence[int]) -> Iterator[None]:
    """Let files, and their marks of deletion, end with the snapshot that the block commits."""
    following = newest_snapshot(connection) + 1

    def end(snapshot: int | None) -> None:
        for kind in ("data", "delete"):
            connection.execute(
                f"UPDATE {CATALOG}.ducklake_{kind}_file SET end_snapshot = ?"
                " WHERE list_contains(?, data_file_id) AND (end_snapshot IS NULL OR end_snapshot = ?)",
                [snapshot, list(files), following],
            )

    with ExitStack() as undo:
        if files:
            undo.callback(retry_conflicts, lambda: end(None))
            retry_conflicts(lambda: end(following))
        yield
        undo.pop_all()


def keep_evidence(store: Store, file: DataFile) -> None:
    """Keep a file that is let go though not all of its bars could be proven: maintenance would delete it."""
    if Path(file.path).exists():
        folder = store.raw.path / "damaged"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.path, folder / Path(file.path).name)


def account_files(store: Store) -> list[Path]:
    """Return the lake's files on this machine that hold no bars: accounts, and marks of deletion."""
    with closing(store.catalog.cursor()) as connection:
        files = data_files(connection)
    paths = [file.path for file in files if not file.holds_bars] + [f.marks for f in files if f.marks is not None]
    return [Path(path) for path in paths if "://" not in path]
