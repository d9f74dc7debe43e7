"""What the processes of these tests do: publish, read and check, ingest."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from ohlcv_pipeline.bars.checksum import run_checksum
from ohlcv_pipeline.bars.publication import publish
from ohlcv_pipeline.bars.verify import actual_checksums, hash_cells
from ohlcv_pipeline.frames import VALUE_COLUMNS, bars_from_columns, floats, micros
from ohlcv_pipeline.lake.maintenance import maintain
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline.markets import Instrument
from ohlcv_pipeline_tests.bars.vendor import (
    BTC,
    CRYPTO,
    ETH,
    MINUTE,
    Vendor,
    fill,
    new_store,
    offer,
    order,
    step,
    us,
    utc,
)
from ohlcv_pipeline_tests.lake.processes import wait_for_the_others

NOW = utc("2025-11-21 12:00")
DAYS = ["2025-11-19", "2025-11-20"]
COINS = (BTC, ETH)
"""These are always published together."""
THREE = (*COINS, CRYPTO.instrument("SOL"))
ROWS = 200
"""Bars of one cell in these tests."""

KILLED_DAYS = ["2025-11-17", "2025-11-18", "2025-11-19", "2025-11-20"]


@contextmanager
def opened(home: Path) -> Iterator[Store]:
    store = new_store(home)
    try:
        yield store
    finally:
        store.catalog.close()


def publish_day(store: Store, day: str, value: float, coins: Sequence[Instrument]) -> None:
    """Replace all bars of a day of these symbols by bars of one value, in one publication."""
    buckets = step(day, ROWS)
    bars = bars_from_columns(buckets, np.full((5, ROWS), value))
    offers = [offer(buckets, NOW, instrument=coin, bars=bars) for coin in coins]
    publish(order([day], instruments=coins, force=True), store, [day], offers, [], NOW)
    store.writer.seal(NOW)


def write(home: Path, seconds: float, seed: int) -> int:
    """Publish whole days for a while, each time with a value of its own; return how often."""
    random = np.random.default_rng(seed)
    with opened(home) as store:
        wait_for_the_others()
        end, done = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            done += 1
            # Without the third symbol, its old rows stay in a file where the others' are marked as deleted.
            coins = THREE if random.integers(2) else COINS
            publish_day(store, DAYS[random.integers(len(DAYS))], 1.0 + seed * 1_000_000 + done, coins)
        return done


def tidy(home: Path, seconds: float) -> int:
    """Maintain the lake again and again; return how often."""
    with opened(home) as store:
        wait_for_the_others()
        end, done = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            maintain(store, lambda: fingerprint(store), datetime.now(UTC), timedelta(days=7), timedelta(days=30))
            done += 1
            time.sleep(0.5)
        return done


def read(home: Path, seconds: float, seed: int) -> int:
    """Read for a while in every way there is and check that no read is torn; return how often."""
    random = np.random.default_rng(seed)
    checks = [whole_series, whole_day, manifest_beside_bars]
    with opened(home) as store:
        wait_for_the_others()
        end, done = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            checks[random.integers(len(checks))](store)
            done += 1
        return done


def whole_series(store: Store) -> None:
    """A series has each bucket once, and each of its days one value."""
    for coin in THREE:
        bars = store.reader.bars(CRYPTO.name, MINUTE, coin.symbol, us(DAYS[0]), us("2025-11-21"))
        assert bars.num_rows == ROWS * len(DAYS), f"{bars.num_rows} bars of {coin.symbol}"
        assert np.array_equal(micros(bars["bucket_start"]), np.concatenate([step(day, ROWS) for day in DAYS]))
        for half in (bars.slice(0, ROWS), bars.slice(ROWS)):
            assert_one_value(half)


def whole_day(store: Store) -> None:
    """A day was published of all symbols at once, and is read so."""
    for day in DAYS:
        bars = store.reader.values(CRYPTO.name, MINUTE, us(day), us(day) + 86_400_000_000, [c.symbol for c in COINS])
        assert bars.num_rows == ROWS * len(COINS)
        assert_one_value(bars)


def manifest_beside_bars(store: Store) -> None:
    """The bars of a cell hash to the checksum that the same query finds in the manifest."""
    joined = store.reader.query(
        f"SELECT b.symbol, b.bucket_start, {', '.join(VALUE_COLUMNS)}, m.partition, m.checksum, m.rows"
        " FROM lake.crypto.ohlcv_minute b JOIN lake.manifest m ON m.symbol = b.symbol"
        " AND m.market = 'crypto' AND m.interval = 'minute'"
        " AND m.partition = strftime(make_timestamp(epoch_us(b.bucket_start)), '%Y-%m-%d')"
        " ORDER BY b.symbol, b.bucket_start"
    )
    claims = joined.group_by(["symbol", "partition", "checksum", "rows"]).aggregate([("open", "count")]).to_pylist()
    cells = sorted((row["symbol"], row["partition"]) for row in claims)
    assert cells == sorted((coin.symbol, day) for coin in THREE for day in DAYS)
    assert {(row["rows"], row["open_count"]) for row in claims} == {(ROWS, ROWS)}
    for row in claims:
        (found,) = hash_cells(joined, CRYPTO, MINUTE, [(row["symbol"], row["partition"])])
        assert found == row["checksum"], f"a read saw other bars of {row['symbol']} {row['partition']} than it claims"


def assert_one_value(bars: pa.Table) -> None:
    seen = {value for name in VALUE_COLUMNS for value in np.unique(floats(bars[name])).tolist()}
    assert len(seen) == 1, f"a read saw the revisions {sorted(seen)} side by side"


def ingest_all(home: Path) -> None:
    """Fill eight cells in eight batches from a vendor that always tells the same."""
    with opened(home) as store:
        fill(store, KILLED_DAYS, [Vendor()], NOW, instruments=COINS, batch_rows=1440)


def fingerprint(store: Store) -> str:
    return run_checksum(actual_checksums(store.reader, CRYPTO, MINUTE))
