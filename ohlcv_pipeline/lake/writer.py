"""Publishing: rows, manifest, revisions, quarantine and raw index of a set of cells commit together or not at all.

The writer knows tables and transactions. What changes is decided by the function it is given, which sees the state
inside the transaction and is asked again whenever another writer committed first.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow as pa

from ohlcv_pipeline.lake.catalog import Catalog, LakeError, retry_conflicts, transaction
from ohlcv_pipeline.lake.copies import Copies, file_sha256
from ohlcv_pipeline.lake.files import CATALOG, data_files
from ohlcv_pipeline.lake.raw import RawObject, RawStore
from ohlcv_pipeline.lake.tables import (
    ABSENT_BUCKETS,
    ACTION_COVERAGE,
    BAR_REVISIONS,
    CORPORATE_ACTIONS,
    FILE_SEALS,
    LOOKS,
    MANIFEST,
    QUARANTINE,
    QUARANTINE_KEY,
    RAW_OBJECTS,
    STORED_BARS,
    bars_table,
)
from ohlcv_pipeline.markets import Interval, from_us, to_us

_SERVER_TURN = f"""
FROM postgres_query('{CATALOG}', $$SELECT pg_advisory_xact_lock(hashtext('ohlcv_pipeline writer'))::text$$)
"""
"""Held until the transaction ends, also by the death of its process."""


@dataclass(frozen=True)
class Scope:
    """The cells of one publication: symbols × partitions of one table, and the buckets [start, end) they span."""

    market: str
    interval: Interval
    symbols: Sequence[str]
    partitions: Sequence[str]
    start_us: int
    end_us: int


@dataclass(frozen=True)
class Stored:
    """What the lake holds of a scope, sorted by symbol and bucket, in one snapshot.

    `next_at` is the instant of the publication that follows: now, or just after the newest one of the table when the
    clock went back, so that the instants of a table's publications grow with their order.
    """

    bars: pa.Table
    manifest: pa.Table
    absent: pa.Table
    next_at: datetime
    released: pa.Table = field(default_factory=QUARANTINE.empty_table)


@dataclass(frozen=True)
class Changes:
    """What a publication does.

    `inserted` is sorted by symbol and bucket, and so written; `superseded` goes out of the table and into revisions.
    `manifest` replaces the rows of the same cells; `present` holds absent buckets whose mark is removed; `decided`
    replaces the same rows of the quarantine.
    """

    inserted: pa.Table = field(default_factory=STORED_BARS.empty_table)
    superseded: pa.Table = field(default_factory=BAR_REVISIONS.empty_table)
    manifest: pa.Table = field(default_factory=MANIFEST.empty_table)
    absent: pa.Table = field(default_factory=ABSENT_BUCKETS.empty_table)
    present: pa.Table = field(default_factory=ABSENT_BUCKETS.empty_table)
    looks: pa.Table = field(default_factory=LOOKS.empty_table)
    quarantine: pa.Table = field(default_factory=QUARANTINE.empty_table)
    decided: pa.Table = field(default_factory=QUARANTINE.empty_table)

    def __bool__(self) -> bool:
        """Whether there is anything to write."""
        return any(getattr(self, each.name).num_rows for each in fields(self))


Decide = Callable[[Stored], Changes]


@dataclass(frozen=True)
class ActionChanges:
    """What a publication of corporate actions does.

    `superseded` are rows in force, with when and by which run they cease to be; `inserted` are new ones. `coverage`
    replaces the rows of the same symbols.
    """

    inserted: pa.Table = field(default_factory=CORPORATE_ACTIONS.empty_table)
    superseded: pa.Table = field(default_factory=CORPORATE_ACTIONS.empty_table)
    coverage: pa.Table = field(default_factory=ACTION_COVERAGE.empty_table)

    def __bool__(self) -> bool:
        """Whether there is anything to write."""
        return any(table.num_rows for table in (self.inserted, self.superseded, self.coverage))


@dataclass(frozen=True)
class Writer:
    """Writes to one lake."""

    catalog: Catalog
    raw: RawStore
    _sealed: set[str] = field(default_factory=set, repr=False)

    def publish(self, scope: Scope, decide: Decide, answers: Sequence[RawObject], now: datetime) -> Changes:
        """Commit what `decide` makes of the stored state, and return it. Nothing to change: nothing is written.

        `answers` are made durable in the raw store before the rows that name them are committed.
        Raises LakeConflictError when other writers came first too often, LakeError when the lake fails.
        """
        connection = self.catalog.cursor()
        try:
            with self.turn():
                return retry_conflicts(lambda: self._publish(connection, scope, decide, answers, now))
        except duckdb.Error as error:
            raise LakeError(f"publishing {scope.market} {scope.interval} bars failed: {error}") from error
        finally:
            connection.close()

    def _publish(
        self,
        connection: duckdb.DuckDBPyConnection,
        scope: Scope,
        decide: Decide,
        answers: Sequence[RawObject],
        now: datetime,
    ) -> Changes:
        with transaction(connection):
            stored = read_stored(connection, scope, now)
            changes = decide(stored)
            changes = replace(changes, quarantine=_unseen(connection, changes.quarantine))
            if changes:
                with ThreadPoolExecutor(1) as beside:
                    packing = beside.submit(self.raw.write, answers)
                    raise_head(connection, scope.market, scope.interval, stored.next_at)
                    _apply(connection, scope, stored, changes)
                    _index_raw(connection, answers, packing.result())
        return changes

    def publish_actions(
        self, market: str, decide: Callable[[pa.Table, pa.Table], ActionChanges], answers: Sequence[RawObject]
    ) -> ActionChanges:
        """Commit what `decide` makes of a market's corporate actions in force and their coverage, and return it.

        Nothing to change: nothing is written. Raises LakeError as `publish` does.
        """

        def attempt() -> ActionChanges:
            with transaction(connection):
                in_force = "SELECT * FROM lake.corporate_actions WHERE market = ? AND superseded_at IS NULL"
                known = "SELECT * FROM lake.action_coverage WHERE market = ?"
                changes = decide(
                    _table(connection, in_force, [market], CORPORATE_ACTIONS),
                    _table(connection, known, [market], ACTION_COVERAGE),
                )
                if changes:
                    packs = self.raw.write(answers)
                    delete_rows(
                        connection,
                        "lake.corporate_actions",
                        changes.superseded,
                        ("market", "symbol", "ex_date", "kind", "fetched_at"),
                    )
                    insert_rows(connection, "corporate_actions", changes.superseded)
                    insert_rows(connection, "corporate_actions", changes.inserted)
                    delete_rows(connection, "lake.action_coverage", changes.coverage, ("market", "symbol"))
                    insert_rows(connection, "action_coverage", changes.coverage)
                    _index_raw(connection, answers, packs)
            return changes

        connection = self.catalog.cursor()
        try:
            # One publication at a time: of the two states no table's head would tell.
            with self.turn():
                return retry_conflicts(attempt)
        except duckdb.Error as error:
            raise LakeError(f"publishing the corporate actions of {market} failed: {error}") from error
        finally:
            connection.close()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for one's turn: a file's lock beside a SQLite catalog, a lock of the server with Postgres.

        Queueing beats colliding, and maintenance must know that whatever changes meanwhile is its own doing.
        """
        path = self.catalog.sqlite_path
        if path is not None:
            with path.with_name("writer.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        else:
            with closing(self.catalog.cursor()) as connection, transaction(connection):
                connection.execute(_SERVER_TURN)
                yield

    def seal(self, now: datetime) -> int:
        """Record size and SHA-256 of the lake's files that have no seal yet; return how many.

        A run seals when its publications are done: what they wrote has been read back by then.
        """
        connection = self.catalog.cursor()
        try:
            with self.turn():
                return self._seal(connection, now)
        finally:
            connection.close()

    def _seal(self, connection: duckdb.DuckDBPyConnection, now: datetime) -> int:
        if not self._sealed:
            self._sealed.update(path for (path,) in connection.execute("SELECT path FROM lake.file_seals").fetchall())
        sealed = 0
        # What records the seals may be a file itself, to be sealed in turn.
        while fresh := self._unsealed(connection):
            seals = pa.Table.from_pydict(
                {
                    "path": list(fresh),
                    "bytes": [Path(path).stat().st_size for path in fresh],
                    "sha256": [file_sha256(path) for path in fresh],
                    "sealed_at": [now] * len(fresh),
                },
                FILE_SEALS,
            )
            for path, sha256 in zip(fresh, seals["sha256"].to_pylist(), strict=True):
                if not fresh[path]:
                    self.copies.keep(Path(path), sha256)
            retry_conflicts(lambda seals=seals: insert_rows(connection, "file_seals", seals))  # type: ignore[misc]
            self._sealed.update(fresh)
            sealed += len(fresh)
        return sealed

    def _unsealed(self, connection: duckdb.DuckDBPyConnection) -> dict[str, bool]:
        """Return the files of this machine without a seal, and whether each holds bars."""
        files = data_files(connection)
        holds_bars = {file.path: file.holds_bars for file in files}
        holds_bars |= {file.marks: False for file in files if file.marks is not None}
        return {path: bars for path, bars in holds_bars.items() if path not in self._sealed and "://" not in path}

    @property
    def copies(self) -> Copies:
        """The second copies of everything but the bars, which the raw answers can make again."""
        return Copies(self.raw.path / "copies")

    def forget_packs(self, packs: Sequence[str]) -> None:
        """Take the objects of deleted packs out of the raw index."""
        if not packs:
            return
        connection = self.catalog.cursor()
        try:
            with self.turn():
                sql = "DELETE FROM lake.raw_objects WHERE list_contains(?, pack)"
                retry_conflicts(lambda: connection.execute(sql, [list(packs)]))
        finally:
            connection.close()


def read_stored(connection: duckdb.DuckDBPyConnection, scope: Scope, now: datetime) -> Stored:
    """Return what the lake holds of a scope, as this connection's transaction sees it."""
    next_at = _next_instant(connection, scope, now)
    cells = [scope.market, scope.interval, list(scope.symbols), list(scope.partitions)]
    where = "market = ? AND interval = ? AND list_contains(?, symbol) AND list_contains(?, partition)"
    # Most cells of a backfill are new; to learn that, the lists of raw ids need not be read.
    if not connection.execute(f"SELECT symbol FROM lake.manifest WHERE {where} LIMIT 1", cells).fetchall():
        return Stored(STORED_BARS.empty_table(), MANIFEST.empty_table(), ABSENT_BUCKETS.empty_table(), next_at)
    manifest = _table(connection, f"SELECT * FROM lake.manifest WHERE {where}", cells, MANIFEST)
    absent = _table(connection, f"SELECT * FROM lake.absent_buckets WHERE {where}", cells, ABSENT_BUCKETS)
    bars = _table(
        connection,
        f"SELECT * FROM {bars_table(scope.market, scope.interval)} WHERE list_contains(?, symbol)"
        " AND bucket_start >= make_timestamptz(?) AND bucket_start < make_timestamptz(?)"
        " ORDER BY symbol, bucket_start",
        [list(scope.symbols), scope.start_us, scope.end_us],
        STORED_BARS,
    )
    released = _table(
        connection,
        "SELECT * FROM lake.quarantine WHERE market = ? AND interval = ? AND list_contains(?, symbol)"
        " AND decision = 'released' AND bucket_start >= make_timestamptz(?) AND bucket_start < make_timestamptz(?)",
        [scope.market, scope.interval, list(scope.symbols), scope.start_us, scope.end_us],
        QUARANTINE,
    )
    return Stored(bars, manifest, absent, next_at, released)


def _next_instant(connection: duckdb.DuckDBPyConnection, scope: Scope, now: datetime) -> datetime:
    """Return the instant of a publication to a table: now, but later than the newest one there is."""
    ((newest,),) = connection.execute(
        "SELECT epoch_us(published_at) FROM lake.heads WHERE market = ? AND interval = ?",
        [scope.market, scope.interval],
    ).fetchall()
    return now if newest is None else max(now, from_us(newest + 1))


def raise_head(
    connection: duckdb.DuckDBPyConnection, market: str, interval: Interval, at: datetime | None = None
) -> None:
    """Make two publications to one table conflict, so that the later one decides on the earlier one's state.

    `at` is the instant of the publication, None for a change that publishes nothing.
    """
    connection.execute(
        "UPDATE lake.heads SET version = version + 1, published_at = coalesce(make_timestamptz(?), published_at)"
        " WHERE market = ? AND interval = ?",
        [None if at is None else to_us(at), market, interval],
    )


def _table(
    connection: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[object], schema: pa.Schema
) -> pa.Table:
    return connection.execute(sql, parameters).to_arrow_table().cast(schema)


def insert_rows(connection: duckdb.DuckDBPyConnection, name: str, rows: pa.Table) -> None:
    """Insert rows, which have the table's columns in its order, into a table of the lake; a file has them in theirs."""
    if rows.num_rows:
        # DuckDB writes the chunks of a table side by side, so that they end up in any order.
        connection.register("incoming", rows.combine_chunks())
        connection.execute(f"INSERT INTO lake.{name} SELECT * FROM incoming")
        connection.unregister("incoming")


def _apply(connection: duckdb.DuckDBPyConnection, scope: Scope, stored: Stored, changes: Changes) -> None:
    table = bars_table(scope.market, scope.interval)
    delete_rows(connection, table, changes.superseded, ("symbol", "bucket_start"))
    insert_rows(connection, "bar_revisions", changes.superseded)
    insert_rows(connection, table.removeprefix("lake."), changes.inserted)
    if stored.manifest.num_rows:
        delete_rows(connection, "lake.manifest", changes.manifest, ("market", "interval", "symbol", "partition"))
    insert_rows(connection, "manifest", changes.manifest)
    delete_rows(connection, "lake.absent_buckets", changes.present, ("market", "interval", "symbol", "bucket_start"))
    insert_rows(connection, "absent_buckets", changes.absent)
    insert_rows(connection, "looks", changes.looks)
    insert_rows(connection, "quarantine", changes.quarantine)
    delete_rows(connection, "lake.quarantine", changes.decided, QUARANTINE_KEY, "IS NOT DISTINCT FROM")
    insert_rows(connection, "quarantine", changes.decided)


def delete_rows(
    connection: duckdb.DuckDBPyConnection, table: str, rows: pa.Table, key: tuple[str, ...], equal: str = "="
) -> None:
    """Delete from a table what has the keys of these rows; `equal` compares them, in SQL."""
    if rows.num_rows:
        connection.register("outgoing", rows.select(list(key)))
        match = " AND ".join(f"t.{name} {equal} o.{name}" for name in key)
        connection.execute(f"DELETE FROM {table} t USING outgoing o WHERE {match}")
        connection.unregister("outgoing")


def _unseen(connection: duckdb.DuckDBPyConnection, rows: pa.Table) -> pa.Table:
    """Return the quarantine rows that an earlier fetch of the same bad bar has not left already."""
    if not rows.num_rows:
        return rows
    connection.register("candidates", rows)
    match = " AND ".join(f"q.{name} IS NOT DISTINCT FROM c.{name}" for name in QUARANTINE_KEY)
    fresh = _table(
        connection,
        f"SELECT DISTINCT ON ({', '.join('c.' + name for name in QUARANTINE_KEY)}) c.*"
        f" FROM candidates c ANTI JOIN lake.quarantine q ON {match}",
        [],
        QUARANTINE,
    )
    connection.unregister("candidates")
    return fresh


def _index_raw(connection: duckdb.DuckDBPyConnection, answers: Sequence[RawObject], packs: Mapping[str, str]) -> None:
    unique = list({answer.id: answer for answer in answers}.values())
    columns = {
        "id": [a.id for a in unique],
        "pack": [packs[a.id] for a in unique],
        "vendor": [a.vendor for a in unique],
        "url": [a.url for a in unique],
        "status": [a.status for a in unique],
        "bytes": [len(a.body) for a in unique],
        "fetched_at": [a.fetched_at for a in unique],
    }
    insert_rows(connection, "raw_objects", pa.Table.from_pydict(columns, RAW_OBJECTS))
