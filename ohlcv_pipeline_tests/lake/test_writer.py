"""A publication commits whole or leaves no trace, alone and beside other writers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ohlcv_pipeline.bars.verify import verify
from ohlcv_pipeline.lake import writer
from ohlcv_pipeline.lake.catalog import LakeConflictError, LakeError, retry_conflicts
from ohlcv_pipeline.lake.reader import Reader
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline.lake.tables import MANIFEST, STORED_BARS
from ohlcv_pipeline.lake.writer import Changes, Scope, Stored, Writer, file_sha256
from ohlcv_pipeline_tests.bars.vendor import (
    BTC,
    CRYPTO,
    ETH,
    MINUTE,
    RUN,
    Vendor,
    bars_of,
    count,
    fill,
    manifest_row,
    offer,
    publish_one,
    snapshots,
    step,
    us,
    utc,
)
from ohlcv_pipeline_tests.lake.processes import NOW, PARTITION, at_once, no_queue, publish_at_once

SCOPE = Scope(CRYPTO.name, MINUTE, ["BTC"], [PARTITION], us(PARTITION), us("2025-11-21"))
ALL = step(PARTITION, 1440)


def rows(n: int, symbol: str = "BTC") -> pa.Table:
    bars = bars_of(symbol, MINUTE, ALL[:n])
    return pa.Table.from_arrays(
        [pa.repeat(symbol, n), *bars.columns, pa.repeat("coinbase", n), pa.array([NOW] * n), pa.repeat(RUN, n)]
        + [pa.array([NOW] * n)],
        names=STORED_BARS.names,
    ).cast(STORED_BARS)


def test_nothing_is_left_of_a_publication_whose_decision_fails(store: Store) -> None:
    newest = snapshots(store)

    def decide(stored: Stored) -> Changes:
        raise RuntimeError("no idea")

    with pytest.raises(RuntimeError, match="no idea"):
        store.writer.publish(SCOPE, decide, [], NOW)
    assert snapshots(store) == newest
    publish_one(store, offer(ALL, NOW), NOW, [PARTITION])


def test_nothing_is_left_of_a_publication_whose_last_insert_fails(store: Store) -> None:
    publish_one(store, offer(ALL[:100], NOW), NOW, [PARTITION])
    before, newest = manifest_row(store, PARTITION), snapshots(store)
    torn = pa.table({name: ["no number"] for name in MANIFEST.names})
    with pytest.raises(LakeError, match="publishing crypto minute bars failed"):
        store.writer.publish(SCOPE, lambda stored: Changes(inserted=rows(50, "ETH"), manifest=torn), [], NOW)
    assert (manifest_row(store, PARTITION), snapshots(store)) == (before, newest)
    assert count(store, "crypto.ohlcv_minute") == 100
    assert verify(store.reader, CRYPTO, MINUTE).passed


def test_a_writer_can_publish_again_after_a_failure(store: Store) -> None:
    torn = pa.table({name: ["no number"] for name in MANIFEST.names})
    with pytest.raises(LakeError):
        store.writer.publish(SCOPE, lambda stored: Changes(manifest=torn), [], NOW)
    assert publish_one(store, offer(ALL, NOW), NOW, [PARTITION]).rows == 1440


def test_no_changes_make_no_snapshot(store: Store) -> None:
    newest = snapshots(store)
    assert not store.writer.publish(SCOPE, lambda stored: Changes(), [], NOW)
    assert snapshots(store) == newest


def test_a_decision_sees_the_scope_and_nothing_beside_it(store: Store) -> None:
    fill(store, ["2025-11-19", PARTITION], [Vendor()], utc("2025-11-21 12:00"), instruments=[BTC, ETH])
    seen: list[Stored] = []

    def decide(stored: Stored) -> Changes:
        seen.append(stored)
        return Changes()

    store.writer.publish(SCOPE, decide, [], NOW)
    (stored,) = seen
    assert (stored.bars.num_rows, stored.manifest.num_rows) == (1440, 1)
    assert set(stored.bars["symbol"].to_pylist()) == {"BTC"}
    assert stored.bars["bucket_start"].to_pylist() == sorted(stored.bars["bucket_start"].to_pylist())


def test_the_loser_of_a_race_decides_again_on_the_winners_state(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Writer, "turn", lambda self: no_queue())
    seen: list[int] = []

    def decide(stored: Stored) -> Changes:
        seen.append(stored.manifest.num_rows)
        if len(seen) == 1:
            assert publish_one(store, offer(ALL, NOW), NOW, [PARTITION]).rows == 1440
        return Changes() if stored.manifest.num_rows else Changes(inserted=rows(1440))

    assert not store.writer.publish(SCOPE, decide, [], NOW)
    assert seen == [0, 1]
    assert count(store, "crypto.ohlcv_minute") == 1440


def test_a_race_lost_too_often_is_given_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Writer, "turn", lambda self: no_queue())
    monkeypatch.setattr(writer, "retry_conflicts", partial(retry_conflicts, attempts=3, sleep=lambda seconds: None))
    lost = 0

    def decide(stored: Stored) -> Changes:
        nonlocal lost
        publish_one(store, offer(ALL[lost : lost + 1], NOW), NOW, [PARTITION])
        lost += 1
        return Changes(manifest=MANIFEST.empty_table(), inserted=rows(1, "ETH"))

    with pytest.raises(LakeConflictError, match="3 times in a row"):
        store.writer.publish(SCOPE, decide, [], NOW)
    assert (lost, count(store, "crypto.ohlcv_minute")) == (3, 3)


@pytest.mark.parametrize("queue", [True, False], ids=["queueing", "colliding"])
def test_of_two_processes_that_publish_the_same_cell_one_writes_and_the_other_finds_nothing_to_do(
    store: Store, tmp_path: Path, queue: bool
) -> None:
    runs = [RUN, "5d0e4a3b-0b1d-4a72-9c53-7d0e6a1f0b8e"]
    outcomes = at_once(*((publish_at_once, tmp_path, run, queue) for run in runs))
    assert sorted(outcomes) == [(0, 1440), (1440, 1440)]
    assert store.reader.counts("crypto", MINUTE).to_pylist() == [{"symbol": "BTC", "rows": 1440, "buckets": 1440}]
    assert (manifest_row(store, PARTITION)["revision"], count(store, "bar_revisions")) == (1, 0)
    assert verify(store.reader, CRYPTO, MINUTE).passed


def test_a_cell_that_another_writer_replaces_before_it_is_read_back_is_no_failure(store: Store) -> None:
    class Overtaken(Reader):
        def values(self, *args: Any) -> pa.Table:
            winner.extend([] if winner else [publish_one(store, theirs, NOW, [PARTITION]).rows])
            return super().values(*args)

    winner: list[int] = []
    theirs = offer(ALL[:9], NOW, bars=bars_of("BTC", MINUTE, ALL[:9], 1.001))
    overtaken = Store(store.catalog, store.raw)
    overtaken.__dict__["reader"] = Overtaken(store.catalog)
    assert publish_one(overtaken, offer(ALL, NOW), NOW, [PARTITION]).rows == 1440
    assert winner == [9]
    assert verify(store.reader, CRYPTO, MINUTE).passed


def test_every_file_of_a_run_is_sealed(store: Store) -> None:
    fill(store, [PARTITION], [Vendor()], NOW)
    seals = store.reader.seals()
    assert {path for path, _, _ in seals} == {file.path for file in store.reader._files()}
    assert all(Path(path).stat().st_size == size and file_sha256(path) == sha256 for path, size, sha256 in seals)
    assert store.writer.seal(NOW) == 0


def test_a_file_that_marks_rows_as_deleted_is_sealed_too(store: Store) -> None:
    publish_one(store, offer(ALL, NOW), NOW, [PARTITION])
    publish_one(store, offer(ALL[:9], NOW, bars=bars_of("BTC", MINUTE, ALL[:9], 1.001)), NOW, [PARTITION])
    assert store.writer.seal(NOW) > 0
    marks = {file.marks for file in store.reader._files()} - {None}
    assert marks
    assert marks <= {path for path, _, _ in store.reader.seals()}
