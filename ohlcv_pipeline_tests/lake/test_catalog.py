"""Opening a lake, its version, and what follows when another transaction comes first."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from ohlcv_pipeline.lake import tables
from ohlcv_pipeline.lake.catalog import (
    COMMIT_ATTEMPTS,
    Catalog,
    LakeConflictError,
    LakeError,
    retry_conflicts,
    transaction,
)
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline.markets import Interval
from ohlcv_pipeline.platform import Platform
from ohlcv_pipeline.settings import Settings
from ohlcv_pipeline_tests.bars.vendor import change, count, new_store, snapshots
from ohlcv_pipeline_tests.lake.first_release import FIRST_RELEASE
from ohlcv_pipeline_tests.lake.processes import at_once, create

NEWEST = 1 + len(tables.MIGRATIONS)


def test_preparing_a_lake_twice_changes_nothing(store: Store, tmp_path: Path) -> None:
    newest = snapshots(store)
    again = new_store(tmp_path)
    assert (snapshots(again), count(again, "lake_version")) == (newest, 1)
    again.catalog.close()


def test_a_market_switched_on_later_gets_its_tables(store: Store, tmp_path: Path) -> None:
    both = new_store(tmp_path, "crypto", "crypto_usdt")
    for market in ("crypto", "crypto_usdt"):
        for interval in Interval:
            assert both.reader.columns(market, interval) == tables.sql_types(tables.STORED_BARS)
    assert count(both, "heads") == 4
    both.catalog.close()


def test_a_lake_of_a_newer_release_is_refused(store: Store, tmp_path: Path) -> None:
    change(store, "INSERT INTO lake.lake_version VALUES (99)")
    with pytest.raises(LakeError, match=f"of version 99, this release knows {NEWEST}; upgrade"):
        new_store(tmp_path)


def test_an_older_lake_is_migrated_step_by_step_and_once(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = (("CREATE TABLE lake.one (a INTEGER)",), ("ALTER TABLE lake.one ADD COLUMN b INTEGER",))
    monkeypatch.setattr(tables, "MIGRATIONS", (*tables.MIGRATIONS, *new))
    for _ in range(2):
        migrated = new_store(tmp_path)
        names = migrated.reader.query("SELECT * FROM lake.one").column_names
        versions = migrated.reader.query("SELECT max(version) AS v FROM lake.lake_version")["v"].to_pylist()
        assert (names, versions, count(migrated, "lake_version")) == (["a", "b"], [NEWEST + 2], 2)
        migrated.catalog.close()


def limited(store: Store) -> int:
    """How many of the lake's tables keep small inserts in the catalog."""
    rows = store.reader.query(
        "SELECT count(*) AS n FROM __ducklake_metadata_lake.ducklake_metadata o"
        " JOIN __ducklake_metadata_lake.ducklake_table t ON t.table_id = o.scope_id AND t.end_snapshot IS NULL"
        " WHERE o.key = 'data_inlining_row_limit' AND o.scope = 'table'"
    )
    return int(rows["n"].to_pylist()[0])


def test_a_migration_that_fails_leaves_the_lake_at_its_version(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = ("CREATE TABLE lake.one (a INTEGER)", "DROP TABLE lake.nothing")
    monkeypatch.setattr(tables, "MIGRATIONS", (*tables.MIGRATIONS, broken))
    with pytest.raises(duckdb.Error):
        new_store(tmp_path)
    assert count(store, "lake_version") == 1
    with pytest.raises(LakeError):
        store.reader.query("SELECT * FROM lake.one")


def make_version_1(home: Path) -> None:
    """Create a lake as the first release did, with a row in its quarantine."""
    old = new_store(home)
    change(old, *FIRST_RELEASE)
    change(old, "INSERT INTO lake.quarantine (market, symbol, reason) VALUES ('crypto', 'BTC', 'negative')")
    old.catalog.close()


def test_a_lake_of_the_first_release_becomes_what_a_new_one_is(tmp_path: Path) -> None:
    make_version_1(tmp_path)
    migrated = new_store(tmp_path)
    for name, schema in tables._SHARED.items():
        described = migrated.reader.query(f"DESCRIBE lake.{name}").to_pylist()
        assert {row["column_name"]: row["column_type"] for row in described} == tables.sql_types(schema), name
    (row,) = migrated.reader.query("SELECT * FROM lake.quarantine").to_pylist()
    assert (row["symbol"], row["decision"]) == ("BTC", None)
    assert limited(migrated) == len(tables._SHARED)
    migrated.catalog.close()


def test_reading_migrates_a_lake_of_the_first_release_and_makes_none(tmp_path: Path) -> None:
    chosen = Settings(_env_file=None, home=tmp_path)
    Platform(chosen).reading.catalog.close()
    assert not (chosen.root / "lake").exists()
    make_version_1(chosen.root)
    reading = Platform(chosen).reading
    assert reading.reader.quarantine("crypto", Interval.MINUTE).num_rows == 0
    assert reading.reader.query("SELECT max(version) AS v FROM lake.lake_version")["v"].to_pylist() == [NEWEST]
    reading.catalog.close()


def test_processes_that_prepare_a_lake_at_once_make_one(tmp_path: Path) -> None:
    shared = 2 + len(tables._SHARED)
    assert at_once(*[(create, tmp_path)] * 3) == [shared + 1] * 3
    store = new_store(tmp_path)
    assert (count(store, "lake_version"), count(store, "heads")) == (1, 2)
    options = store.reader.query(
        "SELECT count(*) AS n FROM __ducklake_metadata_lake.ducklake_metadata WHERE key = 'data_inlining_row_limit'"
        " AND scope = 'table'"
    )
    assert options["n"].to_pylist() == [len(tables._SHARED)]
    store.catalog.close()


def insert_versions(connection: duckdb.DuckDBPyConnection, values: list[str]) -> None:
    """Insert one by one in a transaction; an empty value is somebody pressing Ctrl-C."""
    with transaction(connection):
        for value in values:
            if not value:
                raise KeyboardInterrupt
            connection.execute(f"INSERT INTO lake.lake_version VALUES ({value})")


def test_a_transaction_commits_whole_or_not_at_all(store: Store) -> None:
    connection = store.catalog.cursor()
    with transaction(connection):
        connection.execute("INSERT INTO lake.lake_version VALUES (1)")
    for values, error in [(["'two'"], duckdb.Error), (["1", "'two'"], duckdb.Error), (["1", ""], KeyboardInterrupt)]:
        with pytest.raises(error):
            insert_versions(connection, values)
    assert count(store, "lake_version") == 2
    with transaction(connection):
        connection.execute("INSERT INTO lake.lake_version VALUES (1)")
    assert count(store, "lake_version") == 3
    connection.close()


def test_a_conflict_is_tried_again_with_growing_jittered_waits() -> None:
    waits: list[float] = []

    def action() -> str:
        if len(waits) < 3:
            raise duckdb.TransactionException("TransactionContext Error: Transaction conflict - …")
        return "done"

    assert retry_conflicts(action, sleep=waits.append, jitter=lambda: 1.0) == "done"
    assert waits == [0.1, 0.2, 0.4]


def test_conflicts_without_end_are_reported_after_ten_attempts() -> None:
    attempts = 0

    def action() -> None:
        nonlocal attempts
        attempts += 1
        raise duckdb.TransactionException("database is locked")

    with pytest.raises(LakeConflictError, match="10 times in a row"):
        retry_conflicts(action, sleep=lambda seconds: None)
    assert attempts == COMMIT_ATTEMPTS == 10


def test_any_other_error_is_raised_at_once() -> None:
    attempts = 0

    def action() -> None:
        nonlocal attempts
        attempts += 1
        raise duckdb.CatalogException("Table does not exist")

    with pytest.raises(duckdb.CatalogException):
        retry_conflicts(action, sleep=lambda seconds: None)
    assert attempts == 1


def test_a_catalog_that_is_no_catalog_is_a_lake_error(tmp_path: Path) -> None:
    file = tmp_path / "catalog.sqlite"
    file.write_bytes(b"this is no database, however long one looks at it" * 100)
    with pytest.raises(LakeError, match="cannot be opened"):
        Catalog(f"sqlite:{file}", str(tmp_path / "data")).cursor()


def test_an_open_lake_loads_no_extension_that_nobody_signed(store: Store) -> None:
    with closing(store.catalog.cursor()) as connection:
        assert connection.execute("SELECT current_setting('allow_unsigned_extensions')").fetchall() == [(False,)]
        with pytest.raises(duckdb.InvalidInputException, match="allow_unsigned_extensions"):
            connection.execute("SET allow_unsigned_extensions = true")


def test_a_closed_catalog_opens_again(store: Store) -> None:
    store.catalog.close()
    assert count(store, "lake_version") == 1
