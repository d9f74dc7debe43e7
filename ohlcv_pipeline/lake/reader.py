"""Reading: one snapshot a call, safe beside any number of writers.

A read never sees half a publication. What the values mean (roll-ups, coverage) is computed above, in `bars/`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from ohlcv_pipeline.frames import BAR_SCHEMA, TIMESTAMP, VALUE_COLUMNS, micros
from ohlcv_pipeline.lake.catalog import Catalog, LakeError, retry_conflicts
from ohlcv_pipeline.lake.files import DataFile, data_files, newest_snapshot
from ohlcv_pipeline.lake.scan import Window, scan
from ohlcv_pipeline.lake.tables import (
    ABSENT_BUCKETS,
    ACTION_COVERAGE,
    CORPORATE_ACTIONS,
    LOOKS,
    MANIFEST,
    QUARANTINE,
    STORED_BARS,
    bars_table,
)
from ohlcv_pipeline.markets import Interval

DATED_BARS = pa.schema([*BAR_SCHEMA, *(STORED_BARS.field(name) for name in ("fetched_at", "published_at"))])
"""Bars of one symbol with when each was fetched and since when the lake holds it."""


@dataclass
class Reader:
    """Reads one lake. Each call takes a connection of its own, so that threads may share a reader."""

    catalog: Catalog
    _plan: tuple[int, Sequence[DataFile]] = field(default=(-1, ()), repr=False)

    def query(
        self, sql: str, parameters: Sequence[object] = (), views: Mapping[str, pa.Table] | None = None
    ) -> pa.Table:
        """Return what a SELECT over `lake.…` and the named `views` gives, from one snapshot. Raises LakeError."""
        with self._connection() as connection:
            for name, view in (views or {}).items():
                connection.register(name, view)
            return _in_utc(retry_conflicts(lambda: connection.execute(sql, parameters).to_arrow_table()))

    @contextmanager
    def _connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Lend a connection. Raises LakeError where there is no lake, and for what DuckDB raises in the block."""
        if not self.catalog.exists:
            raise LakeError(f"there is no lake at {self.catalog.catalog}; `ohlcv backfill` makes one")
        with closing(self.catalog.cursor()) as connection:
            try:
                yield connection
            except duckdb.Error as error:
                raise LakeError(f"the lake cannot be read: {error}") from error

    def bars(self, market: str, interval: Interval, symbol: str, start_us: int, end_us: int) -> pa.Table:
        """Return one symbol's bars of `BAR_SCHEMA` with start <= `bucket_start` < end, sorted."""
        return self.series(market, interval, symbol, start_us, end_us, BAR_SCHEMA)

    def dated_bars(self, market: str, interval: Interval, symbol: str, start_us: int, end_us: int) -> pa.Table:
        """Return the same with `fetched_at` and `published_at`, the latter null in bars of a lake of version 1."""
        return self.series(market, interval, symbol, start_us, end_us, DATED_BARS)

    def series(
        self, market: str, interval: Interval, symbol: str, start_us: int, end_us: int, schema: pa.Schema
    ) -> pa.Table:
        """Return the same with the columns of a schema, which are among those of `STORED_BARS`."""
        table = bars_table(market, interval)
        window = Window(symbol, start_us, end_us)
        files = [file for file in self.files(market, interval) if window.overlaps(file)]
        if not files:
            return schema.empty_table()
        # DuckLake asks its catalog a dozen questions a scan; files of this machine can be read as they are.
        if all("://" not in file.path for file in files):
            bars = scan(files, window, schema)
        else:
            bars = self.query(
                f"SELECT {', '.join(schema.names)} FROM {table} WHERE symbol = ?"
                " AND bucket_start >= make_timestamptz(?) AND bucket_start < make_timestamptz(?)",
                [symbol, start_us, end_us],
            ).cast(schema)
        starts = micros(bars["bucket_start"])
        # Bars come file by file, each sorted by itself, which this sort of runs makes use of.
        return bars if (np.diff(starts) > 0).all() else bars.take(pa.array(np.argsort(starts, kind="stable")))

    def files(self, market: str, interval: Interval) -> list[DataFile]:
        """Return the files of a bars table, oldest bars first."""
        table = bars_table(market, interval)
        return [file for file in self._files() if file.table == table]

    def _files(self) -> Sequence[DataFile]:
        """Return the lake's files; the catalog is asked for them once a snapshot, for a snapshot never changes."""
        with self._connection() as connection:
            snapshot = newest_snapshot(connection)
            if self._plan[0] != snapshot:
                # The files may already be those of a newer snapshot; the next call then asks for them once more.
                self._plan = snapshot, retry_conflicts(lambda: data_files(connection))
            return self._plan[1]

    def _paths(self) -> set[str]:
        """Return the paths of all files that the lake consists of now, marks of deletion among them."""
        return {path for file in self._files() for path in (file.path, file.marks) if path is not None}

    def buckets(self, market: str, interval: Interval, cells: pa.Table) -> pa.Table:
        """Return `symbol` and `bucket_start` of what is stored of some cells, sorted.

        `cells` has the columns `symbol`, `start_us`, `end_us`.
        """
        return self.query(
            f"SELECT b.symbol, b.bucket_start FROM {bars_table(market, interval)} b JOIN cells c ON b.symbol = c.symbol"
            " AND b.bucket_start >= make_timestamptz(c.start_us) AND b.bucket_start < make_timestamptz(c.end_us)"
            " ORDER BY ALL",
            views={"cells": cells},
        )

    def values(self, market: str, interval: Interval, start_us: int, end_us: int, symbols: Sequence[str]) -> pa.Table:
        """Return `symbol`, `bucket_start` and the five values of a window, sorted by symbol and bucket."""
        bars = self.query(
            f"SELECT symbol, {', '.join(('bucket_start', *VALUE_COLUMNS))} FROM {bars_table(market, interval)}"
            " WHERE bucket_start >= make_timestamptz(?) AND bucket_start < make_timestamptz(?)"
            " AND list_contains(?, symbol)",
            [start_us, end_us, list(symbols)],
        )
        # A file is in order by itself, and a window is often of one file; to sort it again would double the read.
        return bars if _in_order(bars) else bars.sort_by([("symbol", "ascending"), ("bucket_start", "ascending")])

    def stored(self, market: str, interval: Interval, start_us: int, end_us: int) -> pa.Table:
        """Return all columns of the bars of a window, sorted by symbol and bucket."""
        return self.query(
            f"SELECT * FROM {bars_table(market, interval)}"
            " WHERE bucket_start >= make_timestamptz(?) AND bucket_start < make_timestamptz(?)"
            " ORDER BY symbol, bucket_start",
            [start_us, end_us],
        ).cast(STORED_BARS)

    def packs_of(self, raw_ids: Sequence[str]) -> list[str]:
        """Return the raw packs that hold some answers."""
        sql = "SELECT DISTINCT pack FROM lake.raw_objects SEMI JOIN wanted USING (id) ORDER BY pack"
        return list(
            self.query(sql, views={"wanted": pa.table({"id": pa.array(raw_ids, pa.string())})})["pack"].to_pylist()
        )

    def newest(self, market: str, interval: Interval | None, symbol: str) -> int:
        """Return the newest stored bucket of a symbol in µs, of any interval if none is named; -1 without one."""
        rows = self.query(
            "SELECT epoch_us(max(last_bucket)) AS newest FROM lake.manifest"
            " WHERE market = ? AND symbol = ? AND (? IS NULL OR interval = ?)",
            [market, symbol, interval, interval],
        ).to_pylist()
        newest = rows[0]["newest"]
        return -1 if newest is None else int(newest)

    def newest_of_each(self, market: str, interval: Interval) -> dict[str, int]:
        """Return the newest stored bucket of each symbol in µs."""
        rows = self.query(
            "SELECT symbol, epoch_us(max(last_bucket)) AS newest FROM lake.manifest"
            " WHERE market = ? AND interval = ? AND last_bucket IS NOT NULL GROUP BY symbol",
            [market, interval],
        ).to_pylist()
        return {row["symbol"]: row["newest"] for row in rows}

    def newest_of_all(self) -> dict[tuple[str, str, str], int]:
        """Return the newest stored bucket in µs of each (market, symbol, interval) that has one."""
        rows = self.query(
            "SELECT market, symbol, interval, epoch_us(max(last_bucket)) AS newest FROM lake.manifest"
            " WHERE last_bucket IS NOT NULL GROUP BY ALL"
        )
        columns = [rows[name].to_pylist() for name in ("market", "symbol", "interval", "newest")]
        return {(market, symbol, interval): newest for market, symbol, interval, newest in zip(*columns, strict=True)}

    def newest_bars(self, market: str, interval: Interval, start_us: int, end_us: int, limit: int) -> pa.Table:
        """Return the newest bars of a window over all symbols, with who delivered them."""
        return self.query(
            "SELECT symbol, strftime(make_timestamp(epoch_us(bucket_start)), '%Y-%m-%d %H:%M') AS bucket_start,"
            f" {', '.join(VALUE_COLUMNS)}, source_vendor FROM {bars_table(market, interval)}"
            " WHERE bucket_start >= make_timestamptz(?) AND bucket_start < make_timestamptz(?)"
            " ORDER BY 2 DESC, symbol LIMIT ?",
            [start_us, end_us, limit],
        )

    def columns(self, market: str, interval: Interval) -> dict[str, str]:
        """Return the SQL type of each column of a bars table."""
        rows = self.query(f"DESCRIBE {bars_table(market, interval)}").to_pylist()
        return {row["column_name"]: row["column_type"] for row in rows}

    def counts(self, market: str, interval: Interval) -> pa.Table:
        """Return `symbol`, the number of `rows` stored of it, and of distinct `buckets`."""
        return self.query(
            "SELECT symbol, count(*) AS rows, count(DISTINCT bucket_start) AS buckets"
            f" FROM {bars_table(market, interval)} GROUP BY symbol"
        )

    def repeated(self, market: str, interval: Interval, start_us: int, end_us: int) -> pa.Table:
        """Return `symbol`, `bucket_start` and `copies` of the buckets of a window that are stored more than once."""
        return self.query(
            f"SELECT symbol, bucket_start, count(*) AS copies FROM {bars_table(market, interval)}"
            " WHERE bucket_start >= make_timestamptz(?) AND bucket_start < make_timestamptz(?)"
            " GROUP BY symbol, bucket_start HAVING count(*) > 1 ORDER BY symbol, bucket_start",
            [start_us, end_us],
        )

    def accounts(self, market: str, interval: Interval) -> pa.Table:
        """Return `symbol`, the number of `rows` stored of it, and how many the `manifest` accounts for."""
        return self.query(
            "SELECT symbol, coalesce(b.n, 0) AS rows, coalesce(m.n, 0) AS manifest"
            f" FROM (SELECT symbol, count(*) AS n FROM {bars_table(market, interval)} GROUP BY symbol) b"
            " FULL JOIN (SELECT symbol, sum(rows)::BIGINT AS n FROM lake.manifest"
            " WHERE market = ? AND interval = ? GROUP BY symbol) m USING (symbol) ORDER BY symbol",
            [market, interval],
        )

    def seals(self) -> list[tuple[str, int, str]]:
        """Return path, size and SHA-256 of every sealed file that the lake consists of now."""
        current = self._paths()
        rows = self.query("SELECT DISTINCT path, bytes, sha256 FROM lake.file_seals").to_pylist()
        return [(row["path"], row["bytes"], row["sha256"]) for row in rows if row["path"] in current]

    def unsealed(self) -> list[str]:
        """Return the paths on this machine of the files that have no seal."""
        sealed = {path for path, _, _ in self.seals()}
        return sorted(path for path in self._paths() - sealed if "://" not in path)

    def manifest(
        self,
        market: str,
        interval: Interval,
        symbols: Sequence[str] | None = None,
        partitions: Sequence[str] | None = None,
    ) -> pa.Table:
        """Return manifest rows, sorted by symbol and partition."""
        return self._cells("manifest", MANIFEST, market, interval, symbols, partitions)

    def absent(
        self,
        market: str,
        interval: Interval,
        symbols: Sequence[str] | None = None,
        partitions: Sequence[str] | None = None,
    ) -> pa.Table:
        """Return the settled absent buckets, sorted by symbol and partition."""
        return self._cells("absent_buckets", ABSENT_BUCKETS, market, interval, symbols, partitions)

    def quarantine(
        self,
        market: str,
        interval: Interval,
        symbols: Sequence[str] | None = None,
        partitions: Sequence[str] | None = None,
    ) -> pa.Table:
        """Return the quarantined and flagged rows, sorted by symbol and partition."""
        return self._cells("quarantine", QUARANTINE, market, interval, symbols, partitions)

    def looks(self, market: str, interval: Interval, symbols: Sequence[str], start_us: int, end_us: int) -> pa.Table:
        """Return the answers on which marks of absent buckets in [start, end) rest, oldest first."""
        return self.query(
            "SELECT * FROM lake.looks WHERE market = ? AND interval = ? AND list_contains(?, symbol)"
            " AND window_end > make_timestamptz(?) AND window_start < make_timestamptz(?) ORDER BY looked_at, vendor",
            [market, interval, list(symbols), start_us, end_us],
        ).cast(LOOKS)

    def actions(self, market: str, symbols: Sequence[str] | None = None) -> pa.Table:
        """Return the corporate actions in force, of `CORPORATE_ACTIONS`, sorted by symbol, ex-date and kind."""
        return self._of_symbols("corporate_actions", CORPORATE_ACTIONS, market, symbols, "superseded_at IS NULL")

    def action_coverage(self, market: str, symbols: Sequence[str] | None = None) -> pa.Table:
        """Return over which sessions corporate actions are known, a row of `ACTION_COVERAGE` a symbol."""
        return self._of_symbols("action_coverage", ACTION_COVERAGE, market, symbols)

    def _of_symbols(
        self, name: str, schema: pa.Schema, market: str, symbols: Sequence[str] | None, condition: str = "true"
    ) -> pa.Table:
        return self.query(
            f"SELECT * FROM lake.{name} WHERE market = ? AND (? IS NULL OR list_contains(?, symbol)) AND {condition}"
            " ORDER BY ALL",
            [market, symbols, symbols],
        ).cast(schema)

    def _cells(
        self,
        name: str,
        schema: pa.Schema,
        market: str,
        interval: Interval,
        symbols: Sequence[str] | None,
        partitions: Sequence[str] | None,
    ) -> pa.Table:
        conditions: list[str] = ["market = ?", "interval = ?"]
        parameters: list[Any] = [market, interval]
        for column, values in (("symbol", symbols), ("partition", partitions)):
            if values is not None:
                conditions.append(f"list_contains(?, {column})")
                parameters.append(list(values))
        where = " AND ".join(conditions)
        return self.query(f"SELECT * FROM lake.{name} WHERE {where} ORDER BY symbol, partition", parameters).cast(
            schema
        )


def _in_order(bars: pa.Table) -> bool:
    """Return whether bars are sorted by symbol and bucket."""
    symbols = bars["symbol"].combine_chunks().dictionary_encode()
    names = symbols.dictionary.to_pylist()
    steps = np.diff(symbols.indices.to_numpy())
    within = np.diff(micros(bars["bucket_start"]))[steps == 0]
    return names == sorted(names) and bool((steps >= 0).all() and (within >= 0).all())


def _in_utc(table: pa.Table) -> pa.Table:
    """Label timestamps with UTC; DuckDB labels them with the zone of the machine, whatever was stored."""
    for i, column in enumerate(table.schema):
        if pa.types.is_timestamp(column.type) and column.type.tz not in (None, "UTC"):
            table = table.set_column(i, column.with_type(TIMESTAMP), table.column(i).cast(TIMESTAMP))
    return table
