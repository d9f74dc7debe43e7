"""The law: replay = original, also after corrections, two vendors, rejected rows and duplicates; nothing is sent."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ohlcv_pipeline.bars.rebuild import Rebuilt, rebuild
from ohlcv_pipeline.bars.verify import verify, verify_files
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline_tests.bars.vendor import (
    BTC,
    CRYPTO,
    ETH,
    MINUTE,
    Rows,
    Vendor,
    change,
    fill,
    new_store,
    refuse,
    step,
    us,
    utc,
)

NOW = utc("2025-11-21 12:00")
DAYS = ["2025-11-19", "2025-11-20"]
INSTANTS = "COLUMNS(c -> c NOT IN ('published_at', 'valid_from', 'superseded_at'))"
"""The clock of these tests stands still: batches of one instant are told apart by microseconds, their replay is one."""
TABLES = {"crypto.ohlcv_minute": INSTANTS, "bar_revisions": INSTANTS, "quarantine": "*"}


def at(hours: int) -> datetime:
    return NOW + timedelta(hours=hours)


def spoilt(symbol: str, rows: Rows) -> Rows:
    """Bring what vendors bring: a bar twice, one that contradicts itself, one without a price, one off the grid."""
    if not rows:
        return rows
    first, second, third = rows[0], rows[len(rows) // 2], rows[-1]
    return [
        *rows,
        list(first),
        [second[0], *(value * 1.02 for value in second[1:5]), second[5]],
        [third[0] + 1_000, *third[1:]],
    ]


def moved(every: int) -> Any:
    """Return an edit that tells other values of every so-many-th minute."""
    return lambda symbol, rows: [
        [r[0], *(v * (1 + every / 1000 + r[0] // 60_000_000 % 5 / 100) for v in r[1:5]), r[5]]
        if r[0] // 60_000_000 % every == 0
        else r
        for r in rows
    ]


def contents(store: Store) -> dict[str, Any]:
    """Return bars with their provenance, revisions, quarantine, and the manifest but for buckets asked for in vain."""
    found = {name: store.reader.query(f"SELECT {of} FROM lake.{name} ORDER BY ALL") for name, of in TABLES.items()}
    return found | {"manifest": store.reader.manifest("crypto", MINUTE).drop_columns(["unfillable_rows"])}


def replay(store: Store, **options: Any) -> Rebuilt:
    adapters: Any = {"coinbase": Vendor(), "kraken": Vendor("kraken", omits_empty_buckets=False)}
    return rebuild(store, CRYPTO, MINUTE, [BTC, ETH], DAYS, at(99), adapters=adapters, **options)


def history(store: Store) -> None:
    """Publish, correct, lose a vendor, and let another fill the hole."""
    silent = {("BTC", int(bucket)) for bucket in step("2025-11-20 10:00", 45)}

    def outage(symbol: str, start: int, end: int) -> None:
        if start < us("2025-11-20 12:00") and end > us("2025-11-20 10:00"):
            raise refuse()

    both = {"instruments": [BTC, ETH]}
    kraken = Vendor("kraken", omits_empty_buckets=False, edit=moved(3), received_at=at(0))
    fill(store, DAYS, [Vendor(edit=spoilt, fail=outage), kraken], at(0), run_id="first", **both)
    again = Vendor("kraken", omits_empty_buckets=False, edit=moved(2), received_at=at(1))
    fill(
        store,
        DAYS,
        [Vendor(silent=silent, edit=moved(7), received_at=at(1)), again],
        at(1),
        run_id="second",
        force=True,
        **both,
    )
    fill(
        store,
        DAYS[1:],
        [Vendor(edit=moved(11), received_at=at(2))],
        at(2),
        run_id="third",
        force=True,
        instruments=[ETH],
    )


def test_replay_proves_every_cell_and_changes_nothing(store: Store) -> None:
    history(store)
    before = contents(store)
    done = replay(store)
    assert (done.proven, done.restored, done.unproven) == (4, [], [])
    assert done.complete
    assert contents(store) == before


def test_a_lake_made_from_raw_packs_alone_equals_the_one_that_was_lost(store: Store, tmp_path: Path) -> None:
    history(store)
    before = contents(store)
    shutil.copytree(tmp_path / "raw", tmp_path / "new" / "raw")
    shutil.rmtree(tmp_path / "new" / "raw" / "copies")
    fresh = new_store(tmp_path / "new")
    try:
        done = replay(fresh)
        assert len(done.restored) == 4
        assert contents(fresh) == before
        assert verify(fresh.reader, CRYPTO, MINUTE).passed
        assert verify_files(fresh.reader).passed
        assert replay(fresh).proven == 4
    finally:
        fresh.catalog.close()


def test_cells_lost_from_table_and_manifest_come_back_and_the_others_stay(store: Store) -> None:
    history(store)
    before = contents(store)
    for table in ("manifest", "bar_revisions", "quarantine", "absent_buckets"):
        change(store, f"DELETE FROM lake.{table} WHERE symbol = 'BTC'")
    change(store, "DELETE FROM lake.crypto.ohlcv_minute WHERE symbol = 'BTC'")
    done = replay(store)
    assert {cell["symbol"] for cell in done.restored} == {"BTC"}
    assert contents(store) == before


def test_a_dry_run_names_what_would_come_back_and_writes_nothing(store: Store) -> None:
    fill(store, DAYS, [Vendor()], NOW, instruments=[BTC, ETH])
    change(store, "DELETE FROM lake.manifest", "DELETE FROM lake.crypto.ohlcv_minute")
    done = replay(store, apply=False)
    assert len(done.restored) == 4
    assert store.reader.manifest("crypto", MINUTE).num_rows == 0


def test_a_cell_without_raw_answers_is_named(store: Store, tmp_path: Path) -> None:
    fill(store, DAYS[:1], [Vendor()], NOW, instruments=[BTC, ETH])
    shutil.rmtree(tmp_path / "raw" / "coinbase")
    done = replay(store)
    assert {cell["symbol"] for cell in done.unproven} == {"BTC", "ETH"}
    assert not done.complete


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    runs=st.lists(
        st.tuples(
            st.sampled_from(["coinbase", "kraken"]),
            st.sampled_from([(0,), (1,), (0, 1)]),
            st.integers(1, 9),
            st.booleans(),
            st.sampled_from([300, 720]),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_history_of_publications_is_replayed(tmp_path_factory: pytest.TempPathFactory, runs: Any) -> None:
    home = tmp_path_factory.mktemp("lake")
    store = new_store(home)
    try:
        for hour, (name, days, every, force, page) in enumerate(runs):
            keys = [DAYS[i] for i in days]
            vendor = Vendor(name, page_rows=page, edit=moved(every), received_at=at(hour))
            fill(store, keys, [vendor], at(hour), run_id=f"run {hour}", force=force, instruments=[BTC])
        before = contents(store)
        done = replay(store)
        assert done.complete
        change(store, *(f"DELETE FROM lake.{table}" for table in (*TABLES, "manifest", "absent_buckets")))
        replay(store)
        assert contents(store) == before
    finally:
        store.catalog.close()
