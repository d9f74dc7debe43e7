"""The lake's tables: their columns as Arrow schemas, and the migrations that create them.

Bars have one pair of tables a market (`<market>.ohlcv_minute`, `<market>.ohlcv_day`); the rest are shared.
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from ohlcv_pipeline.frames import BAR_SCHEMA, TIMESTAMP
from ohlcv_pipeline.lake.catalog import Catalog, LakeError, retry_conflicts, transaction
from ohlcv_pipeline.markets import Interval

TEXT = pa.string()

STORED_BARS = pa.schema(
    [
        pa.field("symbol", TEXT),
        *BAR_SCHEMA,
        pa.field("source_vendor", TEXT),
        pa.field("fetched_at", TIMESTAMP),
        pa.field("run_id", TEXT),
        pa.field("published_at", TIMESTAMP),
    ]
)
"""`published_at` is the instant of the publication since which the lake holds the bar: one for all its rows, and
later than that of any publication to the same table before it. Null in bars of a lake of version 1 (`VALID_FROM`)."""

CELL = [pa.field(name, TEXT) for name in ("market", "interval", "symbol", "partition")]
"""A cell is what one manifest row speaks of: one symbol of one partition of one table."""

MANIFEST = pa.schema(
    [
        *CELL,
        pa.field("rows", pa.int64()),
        pa.field("expected_rows", pa.int64()),
        pa.field("no_trades_rows", pa.int64()),
        pa.field("unfillable_rows", pa.int64()),
        pa.field("first_bucket", TIMESTAMP),
        pa.field("last_bucket", TIMESTAMP),
        pa.field("checksum", TEXT),
        pa.field("checksum_version", pa.int32()),
        pa.field("vendor", TEXT),
        pa.field("raw_ids", pa.list_(TEXT)),
        pa.field("run_id", TEXT),
        pa.field("revision", pa.int64()),
        pa.field("fetched_at", TIMESTAMP),
        pa.field("complete", pa.bool_()),
    ]
)

ABSENT_BUCKETS = pa.schema(
    [
        *CELL,
        pa.field("bucket_start", TIMESTAMP),
        pa.field("cause", TEXT),
        pa.field("looked_at", TIMESTAMP),
    ]
)
"""Expected buckets that were asked for in vain, what that is held to mean, and when it was last looked at."""

LOOKS = pa.schema(
    [
        pa.field("market", TEXT),
        pa.field("interval", TEXT),
        pa.field("symbol", TEXT),
        pa.field("vendor", TEXT),
        pa.field("window_start", TIMESTAMP),
        pa.field("window_end", TIMESTAMP),
        pa.field("rows", pa.int64()),
        pa.field("raw_id", TEXT),
        pa.field("run_id", TEXT),
        pa.field("looked_at", TIMESTAMP),
    ]
)
"""The answers on which marks of absent buckets rest: asked for [window_start, window_end), they held so many rows."""

BAR_REVISIONS = pa.schema(
    [
        pa.field("market", TEXT),
        pa.field("interval", TEXT),
        *(column for column in STORED_BARS if column.name != "published_at"),
        pa.field("revision", pa.int64()),
        pa.field("valid_from", TIMESTAMP),
        pa.field("superseded_at", TIMESTAMP),
        pa.field("superseded_by_run", TEXT),
        pa.field("cause", TEXT),
    ]
)
"""Bars that were replaced: the lake held one from `valid_from` up to, and without, `superseded_at`."""

QUARANTINE = pa.schema(
    [
        *CELL,
        pa.field("bucket_start", TIMESTAMP),
        pa.field("reason", TEXT),
        pa.field("published", pa.bool_()),
        pa.field("raw", TEXT),
        pa.field("vendor", TEXT),
        pa.field("raw_id", TEXT),
        pa.field("run_id", TEXT),
        pa.field("quarantined_at", TIMESTAMP),
        pa.field("decision", TEXT),
        pa.field("decided_at", TIMESTAMP),
        pa.field("decided_by", TEXT),
        pa.field("note", TEXT),
        pa.field("decision_run_id", TEXT),
    ]
)
"""Rows that broke a rule. `decision` is null until a person has released or discarded the row."""

QUARANTINE_KEY = ("market", "interval", "symbol", "bucket_start", "reason", "raw")
"""What makes two rows of the quarantine the same bad bar, however often it was fetched."""

RAW_OBJECTS = pa.schema(
    [
        pa.field("id", TEXT),
        pa.field("pack", TEXT),
        pa.field("vendor", TEXT),
        pa.field("url", TEXT),
        pa.field("status", pa.int32()),
        pa.field("bytes", pa.int64()),
        pa.field("fetched_at", TIMESTAMP),
    ]
)

FILE_SEALS = pa.schema(
    [
        pa.field("path", TEXT),
        pa.field("bytes", pa.int64()),
        pa.field("sha256", TEXT),
        pa.field("sealed_at", TIMESTAMP),
    ]
)
"""Size and hash of every file of the lake: the checksum covers five values of a bar, the seal every byte."""

HEADS = pa.schema(
    [
        pa.field("market", TEXT),
        pa.field("interval", TEXT),
        pa.field("version", pa.int64()),
        pa.field("published_at", TIMESTAMP),
    ]
)
"""How often a bars table was published to, and the instant of the newest publication."""

_SQL_TYPES = {
    TEXT: "VARCHAR",
    TIMESTAMP: "TIMESTAMP WITH TIME ZONE",
    pa.float64(): "DOUBLE",
    pa.int64(): "BIGINT",
    pa.int32(): "INTEGER",
    pa.bool_(): "BOOLEAN",
    pa.list_(TEXT): "VARCHAR[]",
}

ROW_GROUP = 20_480
"""Rows of a row group of a published file, which holds a symbol in a short piece: a read skips the others."""

_INLINED_ROWS = 100
"""Smaller inserts into the shared tables stay in the catalog until maintenance flushes them. Bars never do: a
reader may then take the list of a table's files for the whole of it."""

_SHARED = {
    "manifest": MANIFEST,
    "absent_buckets": ABSENT_BUCKETS,
    "looks": LOOKS,
    "bar_revisions": BAR_REVISIONS,
    "quarantine": QUARANTINE,
    "raw_objects": RAW_OBJECTS,
    "file_seals": FILE_SEALS,
    "heads": HEADS,
}

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "ALTER TABLE {bars} ADD COLUMN published_at TIMESTAMP WITH TIME ZONE",
        "ALTER TABLE lake.bar_revisions ADD COLUMN cause VARCHAR",
        "ALTER TABLE lake.heads ADD COLUMN published_at TIMESTAMP WITH TIME ZONE",
    ),
    (
        "CREATE TABLE lake.looks (market VARCHAR, interval VARCHAR, symbol VARCHAR, vendor VARCHAR,"
        " window_start TIMESTAMP WITH TIME ZONE, window_end TIMESTAMP WITH TIME ZONE, rows BIGINT, raw_id VARCHAR,"
        " run_id VARCHAR, looked_at TIMESTAMP WITH TIME ZONE)",
        "ALTER TABLE lake.quarantine ADD COLUMN decision VARCHAR",
        "ALTER TABLE lake.quarantine ADD COLUMN decided_at TIMESTAMP WITH TIME ZONE",
        "ALTER TABLE lake.quarantine ADD COLUMN decided_by VARCHAR",
        "ALTER TABLE lake.quarantine ADD COLUMN note VARCHAR",
        "ALTER TABLE lake.quarantine ADD COLUMN decision_run_id VARCHAR",
    ),
)
"""What takes a lake of version n to n + 1, from 1 on; entries are only ever added. A new lake is made whole.

A statement about `{bars}` is executed for each bars table that there is.
"""

VALID_FROM = "coalesce(published_at, fetched_at)"
"""SQL for the instant since which the lake holds a bar. A lake of version 1 did not keep it: there the answer's stands
in, which came seconds before."""


def valid_from(bars: pa.Table) -> pa.ChunkedArray:
    """Return the same of bars that have been read, with the columns `published_at` and `fetched_at`."""
    published = bars["published_at"]
    return pc.coalesce(published, bars["fetched_at"]) if published.null_count else published


def bars_table(market: str, interval: Interval | str) -> str:
    """Return the qualified name of a market's bars, for use in SQL."""
    return f'lake."{market}".ohlcv_{interval}'


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


def sql_types(schema: pa.Schema) -> dict[str, str]:
    """Return each column's SQL type by name."""
    return {field.name: _SQL_TYPES[field.type] for field in schema}


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f'"{name}" {kind}' for name, kind in sql_types(schema).items())


def ensure(catalog: Catalog, markets: tuple[str, ...]) -> None:
    """Bring the lake to the newest version and give each market its tables. Repeating it changes nothing."""
    connection = catalog.cursor()
    try:
        retry_conflicts(lambda: _ensure(connection, markets))
    finally:
        connection.close()


def migrate(catalog: Catalog) -> None:
    """Bring a lake of an older release to the newest version; where there is none, none is made. Raises LakeError."""
    if not catalog.exists:
        return
    connection = catalog.cursor()
    try:
        version, _, _ = _state(connection, ())
        if 0 < version < 1 + len(MIGRATIONS):
            retry_conflicts(lambda: _ensure(connection, ()))
    except duckdb.Error as error:
        raise LakeError(f"the lake cannot be brought to the version of this release: {error}") from error
    finally:
        connection.close()


def _ensure(connection: duckdb.DuckDBPyConnection, markets: tuple[str, ...]) -> None:
    newest = 1 + len(MIGRATIONS)
    # Looking and creating share a transaction: of two processes that find no lake, one conflicts and looks again.
    with transaction(connection):
        version, bars, missing = _state(connection, markets)
        if version > newest:
            raise LakeError(f"the lake is of version {version}, this release knows {newest}; upgrade the package")
        if version == 0:
            _create(connection)
        elif version < newest:
            for statement in (line for step in MIGRATIONS[version - 1 :] for line in step):
                for table in bars if "{bars}" in statement else [""]:
                    connection.execute(statement.replace("{bars}", table))
        if version < newest:
            connection.execute("INSERT INTO lake.lake_version VALUES (?)", [newest])
        for market in missing:
            connection.execute(f'CREATE SCHEMA lake."{market}"')
            for interval in Interval:
                table = bars_table(market, interval)
                connection.execute(f"CREATE TABLE {table} ({_columns(STORED_BARS)})")
                connection.execute(f"ALTER TABLE {table} SET SORTED BY (symbol, bucket_start)")
                connection.execute("INSERT INTO lake.heads VALUES (?, ?, 0, NULL)", [market, interval])
    if version < newest:
        for name in _SHARED:
            connection.execute(
                "CALL lake.set_option('data_inlining_row_limit', ?, table_name => ?)", [_INLINED_ROWS, name]
            )


def _state(connection: duckdb.DuckDBPyConnection, markets: tuple[str, ...]) -> tuple[int, list[str], list[str]]:
    """Return the lake's version, 0 when there is none yet, the bars tables there are, and the markets without."""
    have = {
        (schema, name)
        for schema, name in connection.execute(
            "SELECT table_schema, table_name FROM information_schema.tables WHERE table_catalog = 'lake'"
        ).fetchall()
    }
    version = 0
    if ("main", "lake_version") in have:
        ((version,),) = connection.execute("SELECT max(version) FROM lake.lake_version").fetchall()
    tables = [
        bars_table(schema, interval)
        for schema, name in sorted(have)
        for interval in Interval
        if name == f"ohlcv_{interval}"
    ]
    return version, tables, [m for m in markets if (m, "ohlcv_day") not in have]


def _create(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("CREATE TABLE lake.lake_version (version INTEGER)")
    for name, schema in _SHARED.items():
        connection.execute(f"CREATE TABLE lake.{name} ({_columns(schema)})")
    # Version 2 of Parquet encodes times and prices a third smaller; compressing them again would save another sixth
    # and slow every read by a third. Short row groups let a read skip other symbols.
    for option, value in (
        ("parquet_version", "2"),
        ("parquet_compression", "uncompressed"),
        ("parquet_row_group_size", str(ROW_GROUP)),
        ("data_inlining_row_limit", "0"),
    ):
        connection.execute(f"CALL lake.set_option('{option}', '{value}')")
