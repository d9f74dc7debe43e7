"""The lake's tables: their columns as Arrow schemas, and the migrations that create them.

Bars have one pair of tables a market (`<market>.ohlcv_minute`, `<market>.ohlcv_day`); the rest are shared.
"""

from __future__ import annotations

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

CORPORATE_ACTIONS = pa.schema(
    [
        pa.field("market", TEXT),
        pa.field("symbol", TEXT),
        pa.field("ex_date", TIMESTAMP),
        pa.field("kind", TEXT),
        pa.field("value", pa.float64()),
        pa.field("vendor", TEXT),
        pa.field("raw_id", TEXT),
        pa.field("fetched_at", TIMESTAMP),
        pa.field("run_id", TEXT),
        pa.field("superseded_at", TIMESTAMP),
        pa.field("superseded_by_run", TEXT),
    ]
)
"""Splits and dividends. One that the vendor changed or withdrew stays, with when; without that it is in force."""

ACTION_COVERAGE = pa.schema(
    [
        pa.field("market", TEXT),
        pa.field("symbol", TEXT),
        pa.field("first_session", TIMESTAMP),
        pa.field("last_session", TIMESTAMP),
        pa.field("vendor", TEXT),
        pa.field("raw_id", TEXT),
        pa.field("fetched_at", TIMESTAMP),
        pa.field("run_id", TEXT),
    ]
)
"""The sessions over which a symbol's corporate actions are known: only there does no row mean no action."""

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
    "corporate_actions": CORPORATE_ACTIONS,
    "action_coverage": ACTION_COVERAGE,
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
    (
        "CREATE TABLE lake.corporate_actions (market VARCHAR, symbol VARCHAR, ex_date TIMESTAMPTZ, kind VARCHAR,"
        " value DOUBLE, vendor VARCHAR, raw_id VARCHAR, fetched_at TIMESTAMPTZ, run_id VARCHAR,"
        " superseded_at TIMESTAMPTZ, superseded_by_run VARCHAR)",
        "CREATE TABLE lake.action_coverage (market VARCHAR, symbol VARCHAR, first_session TIMESTAMPTZ,"
        " last_session TIMESTAMPTZ, vendor VARCHAR, raw_id VARCHAR, fetched_at TIMESTAMPTZ, run_id VARCHAR)",
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
                connection.execute("INSERT INTO lake.heads VALUES (?, ?, 0, NULL)", [market, interval])
    if version < newest:
        # DuckLake sets no option of a table that the same transaction has made.
        with transaction(connection):
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
