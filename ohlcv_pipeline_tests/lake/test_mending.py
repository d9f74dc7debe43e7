"""Damaged files are exchanged for sound rows in one snapshot, or nothing is changed."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from ohlcv_pipeline.lake.catalog import LakeError
from ohlcv_pipeline.lake.files import DataFile, data_files
from ohlcv_pipeline.lake.mending import _ending, exchange, rows_of
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline.lake.tables import STORED_BARS
from ohlcv_pipeline_tests.bars.vendor import MINUTE, offer, publish_one, step, us, utc

NOW = utc("2025-11-21 12:00")
DAY = "2025-11-20"
WINDOW = us(DAY), us("2025-11-21")


@pytest.fixture
def file(store: Store) -> DataFile:
    """The only file of bars, of one day."""
    publish_one(store, offer(step(DAY, 1440), NOW), NOW, [DAY])
    (only,) = store.reader.files("crypto", MINUTE)
    return only


def listed(store: Store) -> list[DataFile]:
    with closing(store.catalog.cursor()) as connection:
        return [file for file in data_files(connection) if file.holds_bars]


def test_a_file_is_exchanged_for_rows(store: Store, file: DataFile) -> None:
    rows = rows_of(store, [file], *WINDOW)
    exchange(store, "crypto", MINUTE, [file], STORED_BARS.empty_table(), rows)
    (other,) = listed(store)
    assert other.path != file.path
    assert rows_of(store, [other], *WINDOW) == rows
    assert store.reader.bars("crypto", MINUTE, "BTC", *WINDOW).num_rows == 1440


def test_an_exchange_that_fails_ends_no_file(store: Store, file: DataFile) -> None:
    with pytest.raises(LakeError, match="could not be replaced"):
        exchange(store, "crypto", MINUTE, [file], STORED_BARS.empty_table(), pa.table({"symbol": ["BTC"]}))
    assert listed(store) == [file]
    # Nor does it with the snapshot that follows.
    publish_one(store, offer(step("2025-11-21", 9), NOW), NOW, ["2025-11-21"])
    assert file in listed(store)


class Failing:
    """A connection that cannot end marks of deletion."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def execute(self, sql: str, parameters: Any = None) -> duckdb.DuckDBPyConnection:
        if "ducklake_delete_file" in sql and parameters[0] is not None:
            raise duckdb.IOException("disk full")
        return self._connection.execute(sql, parameters)


def test_files_that_were_ended_without_their_marks_are_kept(store: Store, file: DataFile) -> None:
    with (
        closing(store.catalog.cursor()) as connection,
        pytest.raises(duckdb.IOException),
        _ending(Failing(connection), [file.id]),  # type: ignore[arg-type]
    ):
        pytest.fail("the block was entered")
    publish_one(store, offer(step("2025-11-21", 9), NOW), NOW, ["2025-11-21"])
    assert file in listed(store)
