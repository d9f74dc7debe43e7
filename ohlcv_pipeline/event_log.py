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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import dagster as dg

_INDEX = "index"
"""Dagster's name for the database of what concerns all runs; the others are named after their run."""


@contextmanager
def kept_open(instance: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """Keep the databases that a run reports to open while the block lasts. On Postgres there is nothing to do."""
    with ExitStack() as connections:
        for shard in (_INDEX, run_id):
            path = database(instance, shard)
            if path is not None:
                # Dagster makes the database of a run that has reported nothing yet when it connects to it.
                with instance.event_log_storage.run_connection(shard):  # type: ignore[attr-defined]
                    pass
                connections.enter_context(closing(_reader(path)))
        yield


def database(instance: dg.DagsterInstance, run_id: str) -> Path | None:
    """Return the file that holds a run's events, None when they are not in SQLite."""
    # It comes with Alembic, for which nobody who only loads definitions should wait.
    from dagster._core.storage.event_log.sqlite import SqliteEventLogStorage

    storage = instance.event_log_storage
    return Path(storage.path_for_shard(run_id)) if isinstance(storage, SqliteEventLogStorage) else None


def _reader(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False)
    # SQLite opens the file with the first statement; reading one table's name takes no lock that outlives it.
    connection.execute("SELECT name FROM sqlite_master LIMIT 1").fetchall()
    return connection
