"""Housekeeping makes fewer files of the same bars, and proves it before anything is let go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ohlcv_pipeline.bars.checksum import run_checksum
from ohlcv_pipeline.bars.verify import actual_checksums, verify, verify_files
from ohlcv_pipeline.lake.catalog import LakeError
from ohlcv_pipeline.lake.maintenance import Maintenance, maintain
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline_tests.bars.vendor import (
    BTC,
    CRYPTO,
    ETH,
    MINUTE,
    Rows,
    Vendor,
    bars_of,
    count,
    fill,
    offer,
    publish_one,
    snapshots,
    step,
    us,
    utc,
)
from ohlcv_pipeline_tests.kept import Kept

THEN = utc("2025-11-21 12:00")
DAYS = ["2025-11-17", "2025-11-18", "2025-11-19", "2025-11-20"]
WEEK, MONTH = timedelta(days=7), timedelta(days=30)


def wear(store: Store) -> None:
    def spoil(symbol: str, rows: Rows) -> Rows:
        return [[*row[:3], -1.0, *row[4:]] if row[0] == us("2025-11-18 03:00") else row for row in rows]

    fill(store, DAYS, [Vendor(edit=spoil)], THEN, instruments=[BTC, ETH], batch_rows=1500)
    corrected = bars_of("BTC", MINUTE, step(DAYS[3], 10), 1.001)
    publish_one(store, offer(step(DAYS[3], 10), THEN, bars=corrected), THEN, [DAYS[3]])


@pytest.fixture
def worn(kept: Kept) -> Iterator[Store]:
    """A lake of many small files, with replaced rows and a quarantined bar."""
    with kept.store(wear) as store:
        yield store


def fingerprint(store: Store) -> str:
    return run_checksum(actual_checksums(store.reader, CRYPTO, MINUTE))


def tidy(store: Store, now: datetime | None = None) -> Maintenance:
    """Maintain as if it were eight days later, so that all that is there is past its retention."""
    later = datetime.now(UTC) + timedelta(days=8) if now is None else now
    return maintain(store, lambda: fingerprint(store), later, WEEK, MONTH)


def parquet_files(store: Store) -> set[Path]:
    return set(Path(store.catalog.data).rglob("*.parquet"))


def test_the_bars_are_the_same_in_fewer_files(worn: Store) -> None:
    before = fingerprint(worn)
    bars = worn.reader.bars("crypto", MINUTE, "BTC", us(DAYS[0]), us("2025-11-21"))
    on_disk = parquet_files(worn)
    done = tidy(worn)
    assert done.files_after < done.files_before
    assert (done.fingerprint, fingerprint(worn)) == (before, before)
    assert worn.reader.bars("crypto", MINUTE, "BTC", us(DAYS[0]), us("2025-11-21")).equals(bars)
    assert len(parquet_files(worn)) < len(on_disk)
    assert done.deleted_files >= len(on_disk - parquet_files(worn)) > 0
    assert verify(worn.reader, CRYPTO, MINUTE).passed
    assert verify_files(worn.reader).passed


def test_no_row_marked_as_deleted_is_left(worn: Store) -> None:
    assert any(file.marks for file in worn.reader._files())
    tidy(worn)
    assert not any(file.marks for file in worn.reader._files())


def test_all_files_are_sealed_afterwards(worn: Store) -> None:
    tidy(worn)
    assert {path for path, _, _ in worn.reader.seals()} >= {file.path for file in worn.reader._files()}


def test_snapshots_past_their_retention_expire_and_younger_ones_stay(worn: Store) -> None:
    sql = "SELECT count(*) AS n FROM __ducklake_metadata_lake.ducklake_snapshot"
    before = worn.reader.query(sql)["n"][0].as_py()
    assert tidy(worn, now=datetime.now(UTC)).expired_snapshots == 0
    assert worn.reader.query(sql)["n"][0].as_py() >= before
    assert tidy(worn).expired_snapshots >= before
    assert worn.reader.query(sql)["n"][0].as_py() == 1


def test_a_file_that_no_snapshot_knows_is_removed_once_it_is_old(worn: Store) -> None:
    orphan = Path(worn.catalog.data) / "crypto" / "ohlcv_minute" / "ducklake-orphan.parquet"
    orphan.write_bytes(next(iter(parquet_files(worn))).read_bytes())
    tidy(worn, now=datetime.now(UTC))
    assert orphan.exists()
    old = datetime.now(UTC).timestamp() - 86_400
    os.utime(orphan, (old, old))
    tidy(worn)
    assert not orphan.exists()


def test_a_proof_that_fails_lets_nothing_go(worn: Store) -> None:
    on_disk, readings = parquet_files(worn), iter(["a" * 64, "b" * 64])
    packs = count(worn, "raw_objects")
    with pytest.raises(LakeError, match=r"maintenance changed what is stored .* nothing was deleted"):
        maintain(worn, lambda: next(readings), datetime.now(UTC) + timedelta(days=400), WEEK, MONTH)
    assert on_disk <= parquet_files(worn)
    assert count(worn, "raw_objects") == packs
    sql = "SELECT count(*) AS n FROM __ducklake_metadata_lake.ducklake_snapshot"
    assert worn.reader.query(sql)["n"][0].as_py() > 1
    assert verify(worn.reader, CRYPTO, MINUTE).passed


def test_raw_answers_past_their_retention_go_but_those_a_rejected_row_points_to_stay(worn: Store) -> None:
    pointed_to = set(worn.reader.quarantine("crypto", MINUTE)["raw_id"].to_pylist())
    sql = "SELECT pack FROM lake.raw_objects WHERE list_contains(?, id)"
    kept = set(worn.reader.query(sql, [sorted(pointed_to)])["pack"].to_pylist())
    everything = set(worn.reader.query("SELECT pack FROM lake.raw_objects")["pack"].to_pylist())
    done = tidy(worn, now=datetime.now(UTC) + timedelta(days=31))
    assert done.deleted_packs == len(everything) - len(kept) > 0
    assert set(worn.reader.query("SELECT pack FROM lake.raw_objects")["pack"].to_pylist()) == kept
    for row in worn.reader.query("SELECT id, pack FROM lake.raw_objects").to_pylist():
        worn.raw.read(row["pack"], row["id"])


def test_maintaining_twice_finds_nothing_more_to_merge(worn: Store) -> None:
    first = tidy(worn)
    again = tidy(worn)
    assert (again.files_before, again.files_after) == (first.files_after, first.files_after)
    assert again.fingerprint == first.fingerprint


def test_an_empty_lake_can_be_maintained(store: Store) -> None:
    done = tidy(store)
    assert done.files_after <= done.files_before
    assert (done.deleted_packs, done.fingerprint) == (0, run_checksum([]))


def test_a_tidied_lake_takes_new_bars(worn: Store) -> None:
    tidy(worn)
    newest = snapshots(worn)
    assert fill(worn, ["2025-11-16"], [Vendor()], THEN).rows == 1440
    assert snapshots(worn) > newest
    assert verify(worn.reader, CRYPTO, MINUTE).passed


@pytest.fixture(autouse=True)
def _no_leftovers(tmp_path: Path) -> Iterator[None]:
    yield
    assert not list(tmp_path.rglob("*.partial"))
