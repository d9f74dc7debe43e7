"""Housekeeping of the lake: fewer, larger files and no forgotten ones, with proof that no bar changed.

What is stored is hashed before and after; only when both agree are the old files let go. Nothing here judges a bar.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import duckdb

from ohlcv_pipeline.lake.catalog import Catalog, LakeError, retry_conflicts
from ohlcv_pipeline.lake.files import data_files
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline.lake.tables import ROW_GROUP

Fingerprint = Callable[[], str]

MERGED_ROW_GROUP = 122_880
"""Sorted files of many days hold a symbol in one piece: longer row groups then read a quarter faster."""


@dataclass(frozen=True)
class Maintenance:
    """What was done: files before and after, snapshots and files let go, raw packs deleted."""

    files_before: int
    files_after: int
    flushed_rows: int
    expired_snapshots: int
    deleted_files: int
    deleted_packs: int
    fingerprint: str


def maintain(
    store: Store, fingerprint: Fingerprint, now: datetime, keep_snapshots: timedelta, keep_raw: timedelta
) -> Maintenance:
    """Flush, merge, expire and clean up.

    Args:
        store: the lake.
        fingerprint: hashes everything that is stored; it must give the same before and after.
        now: the current instant.
        keep_snapshots: how long old snapshots stay readable.
        keep_raw: how long raw answers are kept; those that a rejected row points to stay.

    Raises:
        LakeError: the stored bars differ afterwards. Nothing has been deleted then.
    """
    with store.writer.turn():
        before = fingerprint()
        connection = store.catalog.cursor()
        try:
            files_before = len(data_files(connection))
            flushed = retry_conflicts(lambda: _flush(connection))
            _compact(connection)
            files_after = len(data_files(connection))
        finally:
            connection.close()
        after = fingerprint()
    if after != before:
        raise LakeError(f"maintenance changed what is stored ({before[:12]} became {after[:12]}); nothing was deleted")
    store.writer.seal(now)
    with store.writer.turn():
        expired, deleted = _expire(store.catalog, now - keep_snapshots)
        _sweep(store, now)
    return Maintenance(
        files_before=files_before,
        files_after=files_after,
        flushed_rows=flushed,
        expired_snapshots=expired,
        deleted_files=deleted,
        deleted_packs=len(_prune_raw(store, now - keep_raw)),
        fingerprint=after,
    )


def _flush(connection: duckdb.DuckDBPyConnection) -> int:
    return sum(row[-1] for row in connection.execute("CALL ducklake_flush_inlined_data('lake')").fetchall())


def _compact(connection: duckdb.DuckDBPyConnection) -> None:
    """Rewrite files that have rows marked as deleted, then merge small neighbours, sorted by symbol and time.

    The order is declared for the while of it only: publications are sorted already, and would be sorted again.
    """
    tables = {file.table for file in data_files(connection) if file.holds_bars}

    def each(statement: str) -> None:
        for table in sorted(tables):
            retry_conflicts(lambda name=table: connection.execute(f"ALTER TABLE {name} {statement}"))  # type: ignore[misc]

    each("SET SORTED BY (symbol, bucket_start)")
    _row_groups(connection, MERGED_ROW_GROUP)
    try:
        retry_conflicts(lambda: connection.execute("CALL ducklake_rewrite_data_files('lake', delete_threshold => 0)"))
        retry_conflicts(lambda: connection.execute("CALL ducklake_merge_adjacent_files('lake')"))
    finally:
        _row_groups(connection, ROW_GROUP)
        each("RESET SORTED BY")


def _row_groups(connection: duckdb.DuckDBPyConnection, rows: int) -> None:
    """Set how many rows the row groups of files have that are written from now on."""
    connection.execute("CALL lake.set_option('parquet_row_group_size', ?)", [rows])


def _expire(catalog: Catalog, before: datetime) -> tuple[int, int]:
    """Let go of snapshots older than an instant, of files no snapshot needs, and of files nobody knows."""
    connection = catalog.cursor()
    instant = before.strftime("%Y-%m-%d %H:%M:%S+00")

    def call(sql: str) -> int:
        return len(retry_conflicts(lambda: connection.execute(sql).fetchall()))

    try:
        expired = call(f"CALL ducklake_expire_snapshots('lake', older_than => TIMESTAMPTZ '{instant}')")
        deleted = call(f"CALL ducklake_cleanup_old_files('lake', older_than => TIMESTAMPTZ '{instant}')")
        deleted += call(f"CALL ducklake_delete_orphaned_files('lake', older_than => TIMESTAMPTZ '{instant}')")
        return expired, deleted
    finally:
        connection.close()


def _prune_raw(store: Store, before: datetime) -> list[str]:
    """Delete raw packs older than an instant that no rejected row points to, and their index rows."""
    kept = store.reader.query(
        "SELECT DISTINCT r.pack FROM lake.raw_objects r SEMI JOIN lake.quarantine q ON q.raw_id = r.id"
    )
    deleted = store.raw.prune(before, set(kept["pack"].to_pylist()))
    store.writer.forget_packs(deleted)
    return deleted


def _sweep(store: Store, now: datetime) -> None:
    """Delete packs that a killed process left unfinished, and the copies of files that are gone."""
    store.raw.sweep(now)
    store.writer.copies.prune(path.name for path in Path(store.catalog.data).rglob("*.parquet"))
