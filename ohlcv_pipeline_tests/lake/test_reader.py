"""Reads see one snapshot, whichever way the rows lie in files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ohlcv_pipeline.bars.verify import verify_files
from ohlcv_pipeline.lake.catalog import LakeError, transaction
from ohlcv_pipeline.lake.files import data_files, newest_snapshot
from ohlcv_pipeline.lake.reader import DATED_BARS
from ohlcv_pipeline.lake.store import Store, open_store
from ohlcv_pipeline_tests.bars.vendor import (
    BTC,
    CRYPTO,
    ETH,
    MINUTE,
    Vendor,
    bars_of,
    change,
    fill,
    new_store,
    offer,
    publish_one,
    step,
    us,
    utc,
)
from ohlcv_pipeline_tests.lake.first_release import FIRST_RELEASE

NOW = utc("2025-11-21 12:00")
DAYS = ["2025-11-19", "2025-11-20"]


def btc(store: Store, start: str = DAYS[0], end: str = "2025-11-21") -> object:
    return store.reader.bars(CRYPTO.name, MINUTE, "BTC", us(start), us(end))


def test_a_window_is_half_open(store: Store) -> None:
    fill(store, DAYS, [Vendor()], NOW, instruments=[BTC, ETH])
    assert btc(store, "2025-11-20 10:00", "2025-11-20 10:03") == bars_of("BTC", MINUTE, step("2025-11-20 10:00", 3))


def test_replaced_bars_are_read_in_place_of_the_old_ones(store: Store) -> None:
    publish_one(store, offer(step(DAYS[1], 1440), NOW), NOW, [DAYS[1]])
    corrected = bars_of("BTC", MINUTE, step(DAYS[1], 10), 1.001)
    publish_one(store, offer(step(DAYS[1], 10), NOW, bars=corrected), NOW, [DAYS[1]])
    read = btc(store)
    assert read.num_rows == 1440  # type: ignore[attr-defined]
    assert read.slice(0, 10) == corrected  # type: ignore[attr-defined]


def test_a_reader_sees_what_another_connection_published_meanwhile(store: Store) -> None:
    other = open_store(store.catalog.catalog, store.catalog.data, store.raw.path)
    for day in DAYS:
        publish_one(store, offer(step(day, 1440), NOW), NOW, [day])
        assert btc(other) == btc(store)
    other.catalog.close()


def test_bars_lie_in_time_order_though_they_were_published_in_another(store: Store) -> None:
    for day in DAYS[::-1]:
        publish_one(store, offer(step(day, 1440), NOW), NOW, [day])
    assert btc(store) == bars_of("BTC", MINUTE, step(DAYS[0], 2880))


def test_the_list_of_files_is_what_ducklake_itself_reads(store: Store) -> None:
    fill(store, DAYS, [Vendor()], NOW, instruments=[BTC, ETH], batch_rows=1500)
    publish_one(store, offer(step(DAYS[1], 9), NOW, bars=bars_of("BTC", MINUTE, step(DAYS[1], 9), 1.001)), NOW, DAYS)
    listed = store.reader.query(
        "SELECT data_file, delete_file FROM ducklake_list_files('lake', 'ohlcv_minute', schema => 'crypto')"
    ).to_pylist()
    ours = [file for file in store.reader._files() if file.table == 'lake."crypto".ohlcv_minute']
    assert {(row["data_file"], row["delete_file"]) for row in listed} == {(file.path, file.marks) for file in ours}
    assert any(file.marks for file in ours)


def test_a_file_knows_the_first_and_last_bucket_in_it(store: Store) -> None:
    publish_one(store, offer(step(DAYS[1], 1440), NOW), NOW, [DAYS[1]])
    (file,) = [f for f in store.reader._files() if f.table.endswith("ohlcv_minute")]
    assert (file.first_us, file.last_us) == (us(DAYS[1]), us("2025-11-20 23:59"))


def test_small_sets_of_bars_are_never_kept_in_the_catalog(store: Store) -> None:
    publish_one(store, offer(step(DAYS[1], 1), NOW), NOW, [DAYS[1]])
    assert btc(store) == bars_of("BTC", MINUTE, step(DAYS[1], 1))
    assert len([f for f in store.reader._files() if f.table.endswith("ohlcv_minute")]) == 1


def test_the_newest_bucket_is_read_from_the_manifest(store: Store) -> None:
    assert store.reader.newest("crypto", MINUTE, "BTC") == -1
    assert store.reader.newest_of_each("crypto", MINUTE) == {}
    fill(store, DAYS, [Vendor()], NOW)
    assert store.reader.newest("crypto", MINUTE, "BTC") == us("2025-11-20 23:59")
    assert store.reader.newest("crypto", None, "BTC") == us("2025-11-20 23:59")
    assert store.reader.newest_of_each("crypto", MINUTE) == {"BTC": us("2025-11-20 23:59")}


def test_a_lake_that_is_not_there_is_said_so_and_not_created(tmp_path: Path) -> None:
    nowhere = open_store(f"sqlite:{tmp_path / 'lake' / 'catalog.sqlite'}", str(tmp_path / "data"), tmp_path / "raw")
    for read in (lambda: nowhere.reader.query("SELECT 1"), lambda: btc(nowhere)):
        with pytest.raises(LakeError, match="there is no lake"):
            read()
    assert list(tmp_path.iterdir()) == []


def test_a_query_that_makes_no_sense_is_a_lake_error(store: Store) -> None:
    with pytest.raises(LakeError, match="cannot be read"):
        store.reader.query("SELECT * FROM lake.nothing")


def test_a_lost_file_is_an_error_and_no_empty_answer(store: Store) -> None:
    fill(store, DAYS, [Vendor()], NOW)
    (file,) = [f for f in store.reader._files() if f.table.endswith("ohlcv_minute")]
    Path(file.path).unlink()
    with pytest.raises(LakeError, match="cannot be read"):
        btc(store)
    assert verify_files(store.reader).damaged_files == [file.path]


def test_a_transaction_reads_the_catalog_at_one_instant(store: Store) -> None:
    """Also where a row of it is replaced meanwhile: marks that grow are a new file in place of the old one."""
    fill(store, DAYS, [Vendor()], NOW)
    change(store, "DELETE FROM lake.crypto.ohlcv_minute WHERE minute(bucket_start) = 1")
    other = open_store(store.catalog.catalog, store.catalog.data, store.raw.path)
    connection = other.catalog.cursor()
    with transaction(connection):
        snapshot, files = newest_snapshot(connection), data_files(connection)
        change(store, "DELETE FROM lake.crypto.ohlcv_minute WHERE minute(bucket_start) = 2")
        publish_one(store, offer(step("2025-11-18", 9), NOW), NOW, ["2025-11-18"])
        assert (newest_snapshot(connection), data_files(connection)) == (snapshot, files)
    (marked,) = [file for file in data_files(connection) if file.marks and file.table.endswith("ohlcv_minute")]
    assert marked not in files
    other.catalog.close()


def test_rows_marked_as_deleted_are_not_read(store: Store) -> None:
    fill(store, DAYS, [Vendor()], NOW)
    change(store, "DELETE FROM lake.crypto.ohlcv_minute WHERE minute(bucket_start) <> 0")
    assert btc(store) == bars_of("BTC", MINUTE, us(DAYS[0]) + np.arange(48) * 60 * MINUTE.step_us)


@pytest.mark.parametrize(
    ("start", "end"),
    [("2025-11-17", "2025-11-21"), ("2025-11-18 23:00", "2025-11-19 02:00"), ("2025-11-20 23:58", "2025-11-22")],
)
@pytest.mark.parametrize("symbol", ["BTC", "ETH", "SOL"])
def test_of_a_file_with_marks_is_read_what_ducklake_reads(store: Store, symbol: str, start: str, end: str) -> None:
    """Though by itself, group by group of its rows, which are of one symbol or of two."""
    change(store, "CALL lake.set_option('parquet_row_group_size', 2048)")
    fill(store, ["2025-11-17", "2025-11-18", *DAYS], [Vendor()], NOW, instruments=[BTC, ETH])
    change(store, "DELETE FROM lake.crypto.ohlcv_minute WHERE epoch(bucket_start) % 420 = 60")
    (file,) = store.reader.files(CRYPTO.name, MINUTE)
    assert file.marks
    assert pq.read_metadata(file.path).num_row_groups > 3
    columns = ", ".join(DATED_BARS.names)
    stored = store.reader.query(
        f"SELECT {columns} FROM lake.crypto.ohlcv_minute WHERE symbol = ? AND bucket_start >= make_timestamptz(?)"
        " AND bucket_start < make_timestamptz(?) ORDER BY bucket_start",
        [symbol, us(start), us(end)],
    )
    read = store.reader.dated_bars(CRYPTO.name, MINUTE, symbol, us(start), us(end))
    assert read == stored.cast(DATED_BARS)
    assert bool(read.num_rows) is (symbol != "SOL")


def test_a_file_with_marks_may_lack_a_column_of_this_release(store: Store, tmp_path: Path) -> None:
    fill(store, DAYS, [Vendor()], NOW)
    change(store, *FIRST_RELEASE, "DELETE FROM lake.crypto.ohlcv_minute WHERE minute(bucket_start) <> 0")
    store.catalog.close()
    migrated = new_store(tmp_path)
    (file,) = migrated.reader.files(CRYPTO.name, MINUTE)
    assert "published_at" not in pq.read_schema(file.path).names
    read = migrated.reader.dated_bars(CRYPTO.name, MINUTE, "BTC", us(DAYS[0]), us("2025-11-21"))
    assert (read.num_rows, read["published_at"].null_count) == (48, 48)
    migrated.catalog.close()


def test_a_published_file_is_in_the_order_of_its_table(store: Store) -> None:
    """Whichever order the symbols came in; nothing sorts the rows on their way into the file."""
    fill(store, DAYS, [Vendor()], NOW, instruments=[ETH, BTC])
    (file,) = store.reader.files(CRYPTO.name, MINUTE)
    stored = pq.read_table(file.path, columns=["symbol", "bucket_start"])
    assert stored.num_rows == 4 * 1440
    assert stored.equals(stored.sort_by([("symbol", "ascending"), ("bucket_start", "ascending")]))
