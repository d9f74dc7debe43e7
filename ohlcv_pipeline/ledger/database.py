"""Opens the ledger and hands out transactions. It knows engines, pragmas and locks, but no table.

What is read and written lives in one module per aggregate, how tables come into being in `migrations`.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

from ohlcv_pipeline.ledger import migrations
from ohlcv_pipeline.ledger.errors import LedgerOpenError
from ohlcv_pipeline.ledger.models import Base

BUSY_SECONDS = 30.0
"""How long a writer on SQLite waits for the others before it gives up."""

_WRITES = "ledger_writes"

_VISIBLE = "SELECT pg_current_snapshot()::text"


class Ledger:
    """An open ledger, safe to share between threads; a forked process must open its own."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._readers = sessionmaker(engine)
        self._writers = sessionmaker(engine.execution_options(**{_WRITES: True}))
        self._marking = threading.Lock()
        self._marker: Connection | None = None

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a transaction that sees one state and is rolled back at the end."""
        with self._readers() as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a transaction that commits at the end, or rolls back on an exception.

        On SQLite it holds the only write lock from its first statement on (BEGIN IMMEDIATE): keep it short.
        Raises sqlalchemy.exc.OperationalError when that lock is not free within BUSY_SECONDS.
        """
        with self._writers.begin() as session:
            yield session

    def insert(self, model: type[Base]) -> sqlite.Insert | postgresql.Insert:
        """Return an INSERT of this engine's dialect, which has `on_conflict_do_nothing`."""
        return sqlite.insert(model) if self.engine.dialect.name == "sqlite" else postgresql.insert(model)

    def mark(self) -> str:
        """Return something that differs after any transaction has been committed since.

        On SQLite the file's data version as one connection sees it, on Postgres which transactions are visible.
        """
        with self._marking:
            if self._marker is None:
                self._marker = self.engine.connect()
            statement = "PRAGMA data_version" if self.engine.dialect.name == "sqlite" else _VISIBLE
            mark = str(self._marker.exec_driver_sql(statement).scalar())
            self._marker.rollback()
            return mark

    def close(self) -> None:
        """Close the pooled connections."""
        if self._marker is not None:
            self._marker.close()
            self._marker = None
        self.engine.dispose()


def open_ledger(url: str) -> Ledger:
    """Open the ledger at a SQLAlchemy URL, `sqlite:///path` or `postgresql://…`, and migrate it if it is old.

    Creates the folder of a SQLite file. When the schema is current this costs two short queries. Raises
    LedgerOpenError for a URL that cannot be used, MigrationError when a revision fails or is unknown.
    """
    target = _parsed(url)
    with ExitStack() as undo:
        try:
            if target.get_backend_name() == "sqlite":
                Path(str(target.database)).parent.mkdir(parents=True, exist_ok=True)
            engine = _engine(target)
            undo.callback(engine.dispose)
            ledger = Ledger(engine)
            with engine.connect() as connection:
                found = migrations.revision(connection)
            if found != migrations.HEAD:
                with ledger.write() as session:
                    migrations.upgrade(session.connection())
        except (DBAPIError, OSError) as error:
            raise LedgerOpenError(f"the ledger at {target!r} could not be opened: {error}") from error
        undo.pop_all()
    return ledger


def _parsed(url: str) -> URL:
    try:
        target = make_url(url)
    except ArgumentError as error:
        # The text is not repeated: it may hold a password.
        raise LedgerOpenError("that is no SQLAlchemy URL; write sqlite:///path or postgresql://…") from error
    backend = target.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise LedgerOpenError(f"the ledger runs on sqlite or postgresql, not on {backend}")
    if backend == "sqlite" and target.database in (None, "", ":memory:"):
        raise LedgerOpenError("the ledger needs a SQLite file that all processes share; write sqlite:///path")
    return target


def _engine(target: URL) -> Engine:
    if target.get_backend_name() == "postgresql":
        return create_engine(target, pool_pre_ping=True)
    engine = create_engine(target, connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    # The driver would begin transactions by itself, always deferred; `_begin_sqlite` decides instead.
    connection.isolation_level = None
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    _enter_wal(connection)


def _enter_wal(connection: sqlite3.Connection) -> None:
    # Two processes that turn a new file to WAL at once deadlock, which SQLite answers with "locked"
    # without waiting for the busy timeout.
    give_up = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(0.01)
        else:
            break
    if mode != "wal":
        raise sqlite3.OperationalError(f"this file system allows journal mode {mode} only, the ledger needs wal")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
