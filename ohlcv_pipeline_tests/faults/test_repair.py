"""Proof: fetching damaged cells again with force leaves exactly what had been published."""

from __future__ import annotations

import pytest

from ohlcv_pipeline.bars.verify import verify, verify_files
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline_tests.bars.vendor import BTC, CRYPTO, ETH, MINUTE, Vendor, change, count, fill, utc

NOW = utc("2025-11-21 12:00")
DAYS = ["2025-11-18", "2025-11-19", "2025-11-20"]
EVERY_HOUR = "epoch_us(bucket_start) % 3600000000 = 0"
TABLE = "lake.crypto.ohlcv_minute"


@pytest.mark.parametrize(
    "damage",
    [
        f"UPDATE {TABLE} SET close = close * 1.0001 WHERE symbol = 'BTC' AND {EVERY_HOUR}",
        f"DELETE FROM {TABLE} WHERE symbol = 'ETH' AND {EVERY_HOUR}",
        f"INSERT INTO {TABLE} SELECT * FROM {TABLE} WHERE symbol = 'ETH' ORDER BY bucket_start LIMIT 5",
        f"UPDATE {TABLE} SET bucket_start = make_timestamptz(epoch_us(bucket_start) + 60000000)"
        f" WHERE symbol = 'BTC' AND {EVERY_HOUR}",
    ],
    ids=["changed values", "lost bars", "doubled bars", "moved bars"],
)
def test_forced_backfill_restores_damaged_bars_exactly(store: Store, damage: str) -> None:
    fill(store, DAYS, [Vendor()], NOW, instruments=[BTC, ETH])
    bars = count(store, "crypto.ohlcv_minute")
    manifest = store.reader.manifest("crypto", MINUTE)
    change(store, damage)
    assert not verify(store.reader, CRYPTO, MINUTE).passed

    fill(store, DAYS, [Vendor()], NOW, instruments=[BTC, ETH], force=True)

    assert verify(store.reader, CRYPTO, MINUTE).passed
    assert verify_files(store.reader).passed
    assert count(store, "crypto.ohlcv_minute") == bars
    assert store.reader.manifest("crypto", MINUTE).equals(manifest)
