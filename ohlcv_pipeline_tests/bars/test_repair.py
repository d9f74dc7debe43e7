"""Repair: what the raw answers no longer give comes from what can still be read, and else from the vendors."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ohlcv_pipeline.bars.ingest import ingest
from ohlcv_pipeline.bars.repair import Repair, repair
from ohlcv_pipeline.bars.verify import Verification, verify, verify_files
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline.markets import Interval, Market
from ohlcv_pipeline_tests.bars.vendor import (
    BTC,
    CRYPTO,
    ETH,
    MINUTE,
    Rows,
    Vendor,
    bars_of,
    change,
    count,
    fill,
    offer,
    order,
    publish_one,
    snapshots,
    step,
    utc,
)
from ohlcv_pipeline_tests.kept import Kept

NOW = utc("2025-11-21 12:00")
LATER = NOW + timedelta(hours=2)
DAYS = ["2025-11-19", "2025-11-20"]
TABLE = "lake.crypto.ohlcv_minute"
BARS = f"SELECT * FROM {TABLE} ORDER BY ALL"


def check(store: Store) -> Verification:
    total = verify_files(store.reader)
    total.add(verify(store.reader, CRYPTO, MINUTE))
    return total


def heal(store: Store, vendor: Vendor | None = None, **options: Any) -> tuple[Verification, Repair, Verification]:
    """Repair; with a vendor, it may be asked."""

    def ask(into: Store, market: Market, interval: Interval, wanted: Mapping[str, Sequence[str]]) -> None:
        assert vendor is not None
        for symbol, keys in wanted.items():
            again = order(keys, instruments=[CRYPTO.instrument(symbol)], run_id="again", force=True)
            asyncio.run(ingest(again, into, {vendor.name: vendor.source}, lambda: LATER, 100_000))

    return repair(
        store,
        [(CRYPTO, MINUTE)],
        lambda: check(store),
        LATER,
        adapters={"coinbase": Vendor()},  # type: ignore[dict-item]
        ask=ask if vendor else None,
        **options,
    )


def damage(store: Store, where: float = 0.5) -> Path:
    """Flip a byte of the oldest file of minutes."""
    path = Path(store.reader.files("crypto", MINUTE)[0].path)
    content = bytearray(path.read_bytes())
    content[int(len(content) * where) - 1] ^= 0x40
    path.write_bytes(content)
    return path


def footer(store: Store) -> Path:
    """Make the oldest file of minutes unreadable."""
    return damage(store, 1.0)


def forget_answers(store: Store) -> None:
    shutil.rmtree(store.raw.path / "coinbase")


@pytest.fixture
def filled(kept: Kept) -> Iterator[Store]:
    with kept.store(lambda empty: fill(empty, DAYS, [Vendor()], NOW, instruments=[BTC, ETH])) as store:
        yield store


def test_a_sound_lake_is_left_alone(filled: Store) -> None:
    before = snapshots(filled)
    found, done, left = heal(filled)
    assert found.passed
    assert left.passed
    assert not done
    assert snapshots(filled) == before


@pytest.mark.parametrize(
    "statement",
    [
        f"UPDATE {TABLE} SET close = close * 1.0001 WHERE symbol = 'BTC'",
        f"DELETE FROM {TABLE} WHERE symbol = 'ETH' AND epoch_us(bucket_start) % 3600000000 = 0",
        f"INSERT INTO {TABLE} SELECT * FROM {TABLE} WHERE symbol = 'ETH' ORDER BY bucket_start LIMIT 5",
        f"DELETE FROM {TABLE}",
    ],
    ids=["changed values", "lost bars", "doubled bars", "an emptied table"],
)
def test_bars_altered_through_sql_come_back_as_they_were(filled: Store, statement: str) -> None:
    sound = filled.reader.query(BARS)
    manifest = filled.reader.manifest("crypto", MINUTE)
    change(filled, statement)
    found, done, left = heal(filled)
    assert not found.passed
    assert left.passed
    assert {cell["how"] for cell in done.healed} == {"raw answers"}
    assert filled.reader.query(BARS).equals(sound)
    assert filled.reader.manifest("crypto", MINUTE).equals(manifest)
    assert count(filled, "bar_revisions") == 0


def test_a_deleted_file_comes_back_and_the_other_is_not_touched(filled: Store) -> None:
    fill(filled, ["2025-11-18"], [Vendor()], NOW, instruments=[BTC, ETH])
    first, second = filled.reader.files("crypto", MINUTE)
    Path(first.path).unlink()
    _, done, left = heal(filled)
    assert left.passed
    assert done.replaced == [first.path]
    assert {cell["partition"] for cell in done.healed} == {"2025-11-18"}
    assert second.path in {file.path for file in filled.reader.files("crypto", MINUTE)}


def test_a_dry_run_says_what_would_be_done_and_does_nothing(filled: Store) -> None:
    path, before = damage(filled), snapshots(filled)
    damaged = path.read_bytes()
    _, done, left = heal(filled, apply=False)
    assert done.replaced == [str(path)]
    assert len(done.healed) == 4
    assert not left.passed
    assert path.read_bytes() == damaged
    assert snapshots(filled) == before


def test_without_raw_answers_what_can_still_be_read_is_proven_by_the_checksum(filled: Store) -> None:
    forget_answers(filled)
    path = Path(filled.reader.files("crypto", MINUTE)[0].path)
    path.write_bytes(path.read_bytes().replace(b"DuckDB version", b"DuckDB versiom"))
    _, done, left = heal(filled)
    assert left.passed
    assert {cell["how"] for cell in done.healed} == {"stored bars"}


def test_a_file_that_cannot_be_read_stays_while_nobody_else_has_its_bars(filled: Store) -> None:
    path = footer(filled)
    forget_answers(filled)
    _, done, left = heal(filled)
    assert not left.passed
    assert len(done.unhealed) == 4
    assert not done.replaced
    assert str(path) in {file.path for file in filled.reader.files("crypto", MINUTE)}


def test_without_raw_answers_the_vendor_is_asked_and_proven(filled: Store) -> None:
    sound = filled.reader.query(
        "SELECT symbol, bucket_start, open, high, low, close, volume FROM " + TABLE + " ORDER BY ALL"
    )
    manifest = filled.reader.manifest("crypto", MINUTE)
    path = footer(filled)
    forget_answers(filled)
    vendor = Vendor()
    _, done, left = heal(filled, vendor)
    assert left.passed
    assert vendor.asked
    assert {cell["how"] for cell in done.healed} == {"vendors"}
    assert not done.revised
    assert filled.reader.manifest("crypto", MINUTE).equals(manifest)
    again = filled.reader.query(
        "SELECT symbol, bucket_start, open, high, low, close, volume FROM " + TABLE + " ORDER BY ALL"
    )
    assert again.equals(sound)
    assert (filled.raw.path / "damaged" / path.name).exists()


def test_a_vendor_that_tells_other_values_now_makes_a_revision_that_is_named(filled: Store) -> None:
    footer(filled)
    forget_answers(filled)

    def other(symbol: str, rows: Rows) -> Rows:
        return [[row[0], *(v * 1.01 for v in row[1:5]), row[5]] for row in rows] if symbol == "ETH" else rows

    _, done, left = heal(filled, Vendor(edit=other))
    assert left.passed
    assert {cell["symbol"] for cell in done.revised} == {"ETH"}
    assert {cell["symbol"] for cell in done.healed} == {"BTC"}
    rows = {row["symbol"]: row["revision"] for row in filled.reader.manifest("crypto", MINUTE).to_pylist()}
    assert rows == {"BTC": 1, "ETH": 2}


def test_a_damaged_pack_is_named_and_takes_only_its_own_cells_with_it(filled: Store) -> None:
    fill(filled, ["2025-11-18"], [Vendor()], NOW, instruments=[BTC, ETH])
    for file in filled.reader.files("crypto", MINUTE):
        Path(file.path).unlink()
    newest = max(filled.raw.path.glob("coinbase/*/*.parquet"), key=lambda path: path.stat().st_mtime_ns)
    newest.write_bytes(newest.read_bytes()[:-1])
    _, done, left = heal(filled)
    assert not left.passed
    assert {cell["partition"] for cell in done.unhealed} == {"2025-11-18"}
    assert {cell["partition"] for cell in done.healed} == set(DAYS)


def test_a_file_that_was_never_sealed_is_reported_and_sealed_once_its_bars_are_proven(store: Store) -> None:
    published = offer(step(DAYS[0], 600), NOW, bars=bars_of("BTC", MINUTE, step(DAYS[0], 600)))
    publish_one(store, published, NOW, [DAYS[0]])
    (file,) = store.reader.files("crypto", MINUTE)
    found = check(store)
    assert found.passed
    assert file.path in found.unsealed
    _, done, left = heal(store)
    assert done.sealed
    assert not left.unsealed
    assert not check(store).unsealed
    damage(store)
    assert check(store).damaged_files == [file.path]


def test_a_vendor_that_does_not_deliver_costs_neither_bars_nor_their_account(filled: Store) -> None:
    path, manifest = footer(filled), filled.reader.manifest("crypto", MINUTE)
    forget_answers(filled)
    half = {("BTC", int(bucket)) for bucket in step(DAYS[0], 700)}
    _, done, left = heal(filled, Vendor(silent=half))
    assert not left.passed
    assert not done.revised
    said = {(cell["symbol"], cell["partition"]): cell["why"] for cell in done.unhealed}
    assert [cell for cell, why in said.items() if "the vendors do not deliver it" in why] == [("BTC", DAYS[0])]
    assert len(said) == 4, "the others are in the same file, which stays"
    assert filled.reader.manifest("crypto", MINUTE).equals(manifest)
    assert str(path) in {file.path for file in filled.reader.files("crypto", MINUTE)}
