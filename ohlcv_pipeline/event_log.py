"""Dagster's event log on SQLite, made fit for runs that report hundreds of partitions.

Its storage opens a connection for each event and closes it again. The last connection to leave a database in WAL mode
writes the whole log back and syncs it (https://sqlite.org/wal.html#ckpt), so each event pays for that up to three
times. One idle connection that stays makes it the exception: SQLite checkpoints every 1,000 pages, as it does anyway.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import dagster as dg
from dagster._core.storage.event_log.sqlite import SqliteEventLogStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME


@contextmanager
def kept_open(instance: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """Keep the databases that a run reports to open while the block lasts. On Postgres there is nothing to do."""
    storage = instance.event_log_storage
    with ExitStack() as connections:
        if isinstance(storage, SqliteEventLogStorage):
            for shard in (INDEX_SHARD_NAME, run_id):
                with storage.run_connection(shard):
                    """Dagster makes the database of a run that has reported nothing yet."""
                connections.enter_context(closing(_reader(Path(storage.path_for_shard(shard)))))
        yield


def _reader(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False)
    # SQLite opens the file with the first statement; reading one table's name takes no lock that outlives it.
    connection.execute("SELECT name FROM sqlite_master LIMIT 1").fetchall()
    return connection
