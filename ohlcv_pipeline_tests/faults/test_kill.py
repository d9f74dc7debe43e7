"""Proof: a process that is killed at any moment loses no row and doubles none."""

from __future__ import annotations

import random
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ohlcv_pipeline.bars.verify import verify, verify_files
from ohlcv_pipeline.lake.maintenance import maintain
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline_tests.bars.vendor import CRYPTO, MINUTE, bars_of, count, new_store, step, us
from ohlcv_pipeline_tests.faults.workers import COINS, KILLED_DAYS, fingerprint, ingest_all
from ohlcv_pipeline_tests.lake.processes import PROCESSES

SECONDS = 60.0


def accounts(store: Store) -> list[dict[str, Any]]:
    """Return the manifest without what depends on how the work was cut into requests."""
    return store.reader.manifest(CRYPTO.name, MINUTE).drop_columns(["raw_ids"]).to_pylist()


def kill_until_done(home: Path, kills: int, longest: float, dice: random.Random) -> int:
    """Run the ingestion, kill it at random moments and start it again until it ends; return how often it was killed."""
    killed = 0
    while True:
        child = PROCESSES.Process(target=ingest_all, args=(home,))
        child.start()
        child.join(dice.uniform(0, longest) if killed < kills else SECONDS)
        if not child.is_alive():
            assert child.exitcode == 0
            return killed
        child.kill()
        child.join()
        killed += 1


def assert_whole(store: Store) -> None:
    """Every bar is there once, with the account and the answers it came from."""
    for coin in COINS:
        stored = store.reader.bars(CRYPTO.name, MINUTE, coin.symbol, us(KILLED_DAYS[0]), us("2025-11-21"))
        assert stored.equals(bars_of(coin.symbol, MINUTE, step(KILLED_DAYS[0], 1440 * len(KILLED_DAYS))))
    counts = store.reader.counts(CRYPTO.name, MINUTE).to_pylist()
    assert {(row["rows"], row["buckets"]) for row in counts} == {(5760, 5760)}
    assert verify(store.reader, CRYPTO, MINUTE).passed
    assert verify_files(store.reader).passed
    assert count(store, "bar_revisions") == 0
    packs = {row["id"]: row["pack"] for row in store.reader.query("SELECT id, pack FROM lake.raw_objects").to_pylist()}
    for row in store.reader.manifest(CRYPTO.name, MINUTE).to_pylist():
        for named in row["raw_ids"]:
            store.raw.read(packs[named], named)


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(5, id="five times"),
        pytest.param(30, id="thirty times", marks=pytest.mark.slow),
    ],
)
def test_killed_at_random_moments_the_ingestion_ends_as_if_it_had_not_been(tmp_path: Path, kills: int) -> None:
    undisturbed = tmp_path / "undisturbed"
    begun = time.monotonic()
    ingest_all(undisturbed)
    longest = time.monotonic() - begun
    expected = new_store(undisturbed)
    dice, left, rounds = random.Random(kills), kills, 0
    while left > 0:
        rounds += 1
        home = tmp_path / str(rounds)
        left -= max(1, kill_until_done(home, left, longest, dice))
        store = new_store(home)
        assert_whole(store)
        assert accounts(store) == accounts(expected)
        assert fingerprint(store) == fingerprint(expected)
        store.catalog.close()
        if left > 0:
            shutil.rmtree(home)
    assert_no_litter(tmp_path / str(rounds))
    expected.catalog.close()


def assert_no_litter(home: Path) -> None:
    """Maintenance removes the files of transactions that never committed."""
    store = new_store(home)
    later = datetime.now(UTC) + timedelta(days=8)
    maintain(store, lambda: fingerprint(store), later, timedelta(days=7), timedelta(days=400))
    known = {file.path for file in store.reader._files()} | {file.marks for file in store.reader._files()}
    assert {str(path) for path in Path(store.catalog.data).rglob("*.parquet")} == known - {None}
    assert_whole(store)
    store.catalog.close()
