"""Proof: writers, readers and maintenance at once see neither an error nor half a publication."""

from __future__ import annotations

from pathlib import Path

import pytest

from ohlcv_pipeline.bars.verify import verify, verify_files
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline_tests.bars.vendor import CRYPTO, MINUTE
from ohlcv_pipeline_tests.faults.workers import (
    COINS,
    DAYS,
    ROWS,
    THREE,
    manifest_beside_bars,
    publish_day,
    read,
    tidy,
    whole_day,
    whole_series,
    write,
)
from ohlcv_pipeline_tests.lake.processes import at_once


@pytest.mark.parametrize(
    ("seconds", "maintained"),
    [
        pytest.param(5.0, True, id="five seconds with maintenance"),
        pytest.param(60.0, False, id="a minute", marks=pytest.mark.long),
        pytest.param(60.0, True, id="a minute with maintenance", marks=pytest.mark.slow),
    ],
)
def test_two_writers_and_three_readers_at_once(store: Store, tmp_path: Path, seconds: float, maintained: bool) -> None:
    for day in DAYS:
        publish_day(store, day, 1.0, THREE)
    writers = [(write, tmp_path, seconds, seed) for seed in (1, 2)]
    readers = [(read, tmp_path, seconds, seed) for seed in (3, 4, 5)]
    done = at_once(*writers, *readers, *([(tidy, tmp_path, seconds)] if maintained else []))
    assert all(times > 0 for times in done)

    for check in (whole_series, whole_day, manifest_beside_bars):
        check(store)
    assert verify(store.reader, CRYPTO, MINUTE).passed
    assert verify_files(store.reader).passed
    published = len(DAYS) + sum(done[: len(writers)])
    symbols = [coin.symbol for coin in COINS]
    cells = store.reader.manifest(CRYPTO.name, MINUTE, symbols).to_pylist()
    assert sum(row["revision"] for row in cells) == published * len(COINS)
    revisions = store.reader.query(
        "SELECT count(*) AS n FROM lake.bar_revisions WHERE list_contains(?, symbol)", [symbols]
    )
    assert revisions["n"].to_pylist() == [(published - len(DAYS)) * len(COINS) * ROWS]
