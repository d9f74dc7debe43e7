"""Proof: no single flipped bit of a stored file goes unnoticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ohlcv_pipeline.bars.verify import verify, verify_files
from ohlcv_pipeline.frames import VALUE_COLUMNS
from ohlcv_pipeline.lake.catalog import LakeError
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline_tests.bars.vendor import (
    BTC,
    CRYPTO,
    DAY,
    ETH,
    MINUTE,
    Vendor,
    bars_of,
    fill,
    offer,
    publish_one,
    step,
    us,
    utc,
)

NOW = utc("2025-11-21 12:00")
DAYS = ["2025-11-18", "2025-11-19", "2025-11-20"]
COLUMNS = ["bucket_start", *VALUE_COLUMNS]


@pytest.fixture
def lake(store: Store) -> Store:
    """A lake with bars of both intervals and a file that marks rows as deleted."""
    fill(store, DAYS, [Vendor()], NOW, instruments=[BTC, ETH])
    fill(store, ["2025-10", "2025-11"], [Vendor()], NOW, instruments=[BTC, ETH], interval=DAY)
    corrected = bars_of("BTC", MINUTE, step(DAYS[2], 10), 1.001)
    publish_one(store, offer(step(DAYS[2], 10), NOW, bars=corrected), NOW, [DAYS[2]])
    store.writer.seal(NOW)
    return store


def values(store: Store) -> list[pa.Table]:
    """Return what a user reads: whole series, and a day of each."""
    windows = [(DAYS[0], "2025-11-21"), (DAYS[1], DAYS[2])]
    reads = [
        store.reader.bars("crypto", MINUTE, symbol, us(start), us(end)).select(COLUMNS)
        for symbol in ("BTC", "ETH")
        for start, end in windows
    ]
    return [*reads, store.reader.values("crypto", DAY, us("2025-10-01"), us("2025-12-01"), ["BTC", "ETH"])]


def passes_verify(store: Store) -> bool:
    return all(verify(store.reader, CRYPTO, interval).passed for interval in (MINUTE, DAY))


def test_every_flipped_bit_is_reported(lake: Store) -> None:
    files = sorted({Path(path) for file in lake.reader._files() for path in (file.path, file.marks) if path})
    edges = np.cumsum([0, *(8 * path.stat().st_size for path in files)])
    sound = values(lake)
    assert passes_verify(lake)
    assert verify_files(lake.reader).passed
    altered = unreadable = 0
    for bit in np.random.default_rng(20_251_121).choice(edges[-1], 200, replace=False).tolist():
        which = int(np.searchsorted(edges, bit, side="right")) - 1
        path, at = files[which], bit - int(edges[which])
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[at // 8] ^= 1 << at % 8
        path.write_bytes(damaged)
        assert verify_files(lake.reader).damaged_files == [str(path)], f"bit {at} of {path.name}"
        try:
            differs = values(lake) != sound
        except LakeError:
            unreadable += 1
        else:
            altered += differs
            assert not differs or not passes_verify(lake), f"bit {at} of {path.name} changed a bar in silence"
        path.write_bytes(whole)
    assert passes_verify(lake)
    assert altered > 100
    assert altered + unreadable < 200


def test_a_file_cut_short_is_reported_as_unreadable_and_the_rest_is_still_verified(lake: Store) -> None:
    for file in lake.reader._files():
        if file.table.endswith("ohlcv_minute"):
            whole = Path(file.path).read_bytes()
            Path(file.path).write_bytes(whole[:-1])
    result = verify(lake.reader, CRYPTO, MINUTE)
    assert result.unreadable
    assert verify(lake.reader, CRYPTO, DAY).passed
