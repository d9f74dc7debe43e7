"""Opening the lake: one DuckDB instance a process, DuckLake attached to it as `lake`.

Extensions are loaded from the installed packages, never downloaded. Tables are in `tables`, writes in `writer`.
"""

from __future__ import annotations

import importlib.resources
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import duckdb
import pyarrow as pa

T = TypeVar("T")

BUSY_TIMEOUT_MS = 30_000
COMMIT_ATTEMPTS = 10
CONFLICTS = (
    "database is locked",
    "Transaction conflict",
    "another transaction",
    "could not serialize",
    "conflict",
)

DAMAGE = (OSError, ArithmeticError, LookupError, TypeError, ValueError, pa.ArrowException)
"""What reading a Parquet file raises when bits of it are wrong: a name, a time or a text may be what cannot be read."""


class LakeError(Exception):
    """The lake could not be opened, read or written: an infrastructure failure, never bad data."""


class LakeConflictError(LakeError):
    """Other writers kept committing first until the attempts were spent."""


@dataclass
class Catalog:
    """Where a lake is. `catalog` is DuckLake's spelling (`sqlite:path` or `postgres:…`), `data` a folder or URL."""

    catalog: str
    data: str
    threads: int = 2
    _root: duckdb.DuckDBPyConnection | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def sqlite_path(self) -> Path | None:
        """The catalog's file, None when it is a server."""
        return Path(self.catalog.removeprefix("sqlite:")) if self.catalog.startswith("sqlite:") else None

    @property
    def exists(self) -> bool:
        """Whether there is a catalog to read; a server's is assumed to be there."""
        return self.sqlite_path is None or self.sqlite_path.exists()

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return a connection of its own to the shared instance, to be closed by the caller.

        Raises LakeError when the lake cannot be attached.
        """
        with self._lock:
            if self._root is None:
                self._root = self._attach()
            return self._root.cursor()

    def close(self) -> None:
        """Detach; a later `cursor` attaches again."""
        with self._lock:
            if self._root is not None:
                self._root.close()
                self._root = None

    def _attach(self) -> duckdb.DuckDBPyConnection:
        backend = self.catalog.split(":", 1)[0]
        if self.sqlite_path is not None:
            self.sqlite_path.parent.mkdir(parents=True, exist_ok=True)
            Path(self.data).mkdir(parents=True, exist_ok=True)
        # DuckDB would hash 70 MB to see who signed what the installer has already held against the pinned hashes.
        connection = duckdb.connect(config={"threads": self.threads, "allow_unsigned_extensions": True})
        for extension in ("ducklake", f"{backend}_scanner"):
            connection.execute(f"LOAD '{_extension_file(extension)}'")
        connection.execute("SET allow_unsigned_extensions = false")
        options = f"DATA_PATH '{self.data}'"
        if backend == "sqlite":
            options += f", META_JOURNAL_MODE 'WAL', META_BUSY_TIMEOUT {BUSY_TIMEOUT_MS}"
            # Else each scan of a table has a SQLite connection and an instant of its own, but ends at the last row id
            # its transaction knew: a row that DuckLake replaces in between, as that of a file's marks, is not seen.
            connection.execute("SET GLOBAL sqlite_disable_multithreaded_scans = true")

        def attach() -> None:
            connection.execute(f"ATTACH IF NOT EXISTS 'ducklake:{self.catalog}' AS lake ({options})")

        try:
            retry_conflicts(attach)
        except duckdb.Error as error:
            connection.close()
            raise LakeError(f"the lake's {backend} catalog cannot be opened: {error}") from error
        return connection


def _extension_file(name: str) -> Path:
    package = importlib.resources.files(f"duckdb_extension_{name}")
    path = Path(str(package)) / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
    if not path.exists():
        raise LakeError(
            f"DuckDB {duckdb.__version__} needs duckdb-extension-{name.replace('_', '-')} of the same version"
        )
    return path


def is_conflict(error: duckdb.Error) -> bool:
    """Return whether another transaction came first, so that the same work may succeed on the new state."""
    return any(mark in str(error) for mark in CONFLICTS)


def retry_conflicts(
    action: Callable[[], T],
    attempts: int = COMMIT_ATTEMPTS,
    sleep: Callable[[float], None] = time.sleep,
    jitter: Callable[[], float] = random.random,
) -> T:
    """Run `action` until no other transaction gets in its way, at most `attempts` times.

    Raises LakeConflictError when the attempts are spent, and any other error at once.
    """
    for attempt in range(1, attempts + 1):
        try:
            return action()
        except duckdb.Error as error:
            if not is_conflict(error):
                raise
            if attempt == attempts:
                raise LakeConflictError(f"another writer came first {attempts} times in a row") from error
            sleep(jitter() * min(2.0, 0.05 * 2**attempt))
    raise AssertionError("unreachable")


@contextmanager
def transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[duckdb.DuckDBPyConnection]:
    """Commit what the block did, or leave nothing of it."""
    connection.execute("BEGIN TRANSACTION")
    with ExitStack() as undo:
        undo.callback(_roll_back, connection)
        yield connection
        connection.execute("COMMIT")
        undo.pop_all()


def _roll_back(connection: duckdb.DuckDBPyConnection) -> None:
    # A failed commit has already rolled back; DuckDB then has no transaction left to end.
    with suppress(duckdb.TransactionException):
        connection.execute("ROLLBACK")
