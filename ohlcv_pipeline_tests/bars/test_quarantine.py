"""Decisions about quarantined rows: released as bars, discarded as evidence, and what a later fetch makes of them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from ohlcv_pipeline.bars.inquiry import inquire
from ohlcv_pipeline.bars.quarantine import Decision, RefusedError, Row, discard, release, row_of, rows
from ohlcv_pipeline.bars.verify import verify, verify_files
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline_tests.bars.vendor import (
    BTC,
    CRYPTO,
    DAY,
    MINUTE,
    RUN,
    Rows,
    Vendor,
    change,
    count,
    fill,
    manifest_row,
    snapshots,
    us,
    utc,
)

NOW = utc("2025-11-21 12:00")
LATER = NOW + timedelta(hours=3)
PARTITION = "2025-11-20"
BUCKET = us("2025-11-20 03:00")
RELEASE = "7d0e6a1f-5d0e-4a3b-9c53-0b1d4a720b8e"


def doubled(symbol: str, delivered: Rows) -> Rows:
    """Send one bar twice, the first time with a larger volume."""
    return [each for row in delivered for each in ([[*row[:5], row[5] + 7.0], row] if row[0] == BUCKET else [row])]


def spoilt(at: int, value: Any) -> Any:
    def edit(symbol: str, delivered: Rows) -> Rows:
        return [[*row[:at], value, *row[at + 1 :]] if row[0] == BUCKET else row for row in delivered]

    return edit


def only(store: Store) -> Row:
    (row,) = rows(store.reader, CRYPTO, MINUTE)
    return row


def let_out(store: Store, row: Row) -> int:
    return release(store, CRYPTO, MINUTE, BTC, row, LATER, run_id=RELEASE, by="ann", note="seen").rows


def stored(store: Store) -> dict[str, Any]:
    (row,) = store.reader.query(
        "SELECT * FROM lake.crypto.ohlcv_minute WHERE bucket_start = make_timestamptz(?)", [BUCKET]
    ).to_pylist()
    return dict(row)


def test_a_row_keeps_its_id_however_it_is_decided(store: Store) -> None:
    fill(store, [PARTITION], [Vendor(edit=doubled)], NOW)
    before = only(store)
    discard(store, CRYPTO, MINUTE, before, LATER, by="ann")
    after = only(store)
    assert (before.id, before.state) == (after.id, Decision.OPEN)
    assert (after.state, after["decided_by"], after["decided_at"]) == (Decision.DISCARDED, "ann", LATER)
    assert row_of({**before.columns, "raw": "{}"}).id != before.id


def test_a_released_row_is_published_with_where_it_came_from(store: Store) -> None:
    fill(store, [PARTITION], [Vendor(edit=doubled)], NOW)
    volume, row = stored(store)["volume"], only(store)
    before = snapshots(store)
    assert let_out(store, row) == 1
    bar = stored(store)
    assert bar["volume"] == volume + 7.0
    assert (bar["source_vendor"], bar["run_id"], bar["fetched_at"]) == ("coinbase", RELEASE, utc("2025-11-21 12:00"))
    manifest = manifest_row(store, PARTITION)
    assert (manifest["revision"], manifest["run_id"], row["raw_id"] in manifest["raw_ids"]) == (2, RELEASE, True)
    (old,) = store.reader.query("SELECT volume, run_id, superseded_by_run FROM lake.bar_revisions").to_pylist()
    assert old == {"volume": volume, "run_id": RUN, "superseded_by_run": RELEASE}
    decided = only(store)
    assert (decided.state, decided["note"], decided["decision_run_id"]) == (Decision.RELEASED, "seen", RELEASE)
    # Bar and decision in one transaction, then the seal of the file.
    assert snapshots(store) == before + 2
    assert verify_files(store.reader).unsealed == []
    assert verify(store.reader, CRYPTO, MINUTE).passed


@pytest.mark.parametrize("force", [False, True])
def test_a_released_row_stands_when_the_vendor_says_both_again(store: Store, force: bool) -> None:
    fill(store, [PARTITION], [Vendor(edit=doubled)], NOW)
    let_out(store, only(store))
    released, newest = stored(store), snapshots(store)
    fill(store, [PARTITION], [Vendor(edit=doubled)], LATER, force=force, run_id="again")
    assert stored(store) == released
    assert snapshots(store) == newest


def test_a_released_row_gives_way_to_what_the_vendor_says_newly(store: Store) -> None:
    fill(store, [PARTITION], [Vendor(edit=doubled)], NOW)
    let_out(store, only(store))
    fill(store, [PARTITION], [Vendor(edit=spoilt(5, 99.0))], LATER, force=True, run_id="again")
    assert stored(store)["volume"] == 99.0


@pytest.mark.parametrize(
    ("edit", "rule"),
    [
        (spoilt(2, -1.0), "negative"),
        (spoilt(3, 1e9), "bad_ohlc"),
        (spoilt(1, None), "null_value"),
    ],
    ids=["negative", "bad_ohlc", "null_value"],
)
def test_a_row_that_breaks_a_rule_is_refused_and_the_rule_named(store: Store, edit: Any, rule: str) -> None:
    fill(store, [PARTITION], [Vendor(edit=edit)], NOW)
    newest = snapshots(store)
    with pytest.raises(RefusedError, match=rule):
        let_out(store, only(store))
    assert snapshots(store) == newest
    assert only(store).state is Decision.OPEN


def test_a_bar_from_the_future_may_be_released_once_it_is_past(store: Store) -> None:
    ahead = us("2025-11-21 13:00")

    def eager(symbol: str, delivered: Rows) -> Rows:
        return [*delivered, [ahead, *delivered[-1][1:]]]

    fill(store, [PARTITION], [Vendor(edit=eager)], NOW)
    row = next(each for each in rows(store.reader, CRYPTO, MINUTE))
    assert (row["reason"], row["partition"]) == ("future_bucket", "2025-11-21")
    with pytest.raises(RefusedError, match="future_bucket"):
        release(store, CRYPTO, MINUTE, BTC, row, NOW, run_id=RELEASE, by="ann")
    assert let_out(store, row) == 1
    assert manifest_row(store, "2025-11-21")["rows"] == 1


def test_a_flagged_row_is_confirmed_without_a_change_of_its_bar(store: Store) -> None:
    def spike(symbol: str, delivered: Rows) -> Rows:
        return [[row[0], *(v * 100 for v in row[1:5]), row[5]] if row[0] == BUCKET else row for row in delivered]

    fill(store, [PARTITION], [Vendor(edit=spike)], NOW)
    row, bar = next(each for each in rows(store.reader, CRYPTO, MINUTE) if each["published"]), stored(store)
    assert let_out(store, row) == 0
    assert stored(store) == bar
    assert Decision.RELEASED in {each.state for each in rows(store.reader, CRYPTO, MINUTE)}


def test_a_discarded_row_no_longer_explains_a_gap_and_is_kept(store: Store) -> None:
    fill(store, [PARTITION], [Vendor(edit=spoilt(2, -1.0))], NOW)

    def cause() -> str:
        (absence,) = inquire(store.reader, CRYPTO, MINUTE, [BTC], us(PARTITION), us("2025-11-21"), NOW)
        return absence.cause

    assert cause() == "quarantined"
    discard(store, CRYPTO, MINUTE, only(store), LATER, by="ann", note="a test print")
    assert cause() != "quarantined"
    fill(store, [PARTITION], [Vendor(edit=spoilt(2, -1.0))], LATER, force=True)
    assert (only(store).state, count(store, "quarantine")) == (Decision.DISCARDED, 1)


def test_a_released_row_cannot_be_discarded(store: Store) -> None:
    fill(store, [PARTITION], [Vendor(edit=doubled)], NOW)
    let_out(store, only(store))
    with pytest.raises(RefusedError, match="--force"):
        discard(store, CRYPTO, MINUTE, only(store), LATER, by="ann")


def test_a_row_without_a_readable_time_can_be_discarded_and_not_released(store: Store) -> None:
    change(
        store,
        "INSERT INTO lake.quarantine (market, interval, symbol, reason, published, raw, quarantined_at)"
        " VALUES ('crypto', 'minute', 'BTC', 'naive_time', false, '{\"open\": 1}', now())",
    )
    with pytest.raises(RefusedError, match="naive_time"):
        let_out(store, only(store))
    discard(store, CRYPTO, MINUTE, only(store), LATER, by="ann")
    assert only(store).state is Decision.DISCARDED
    assert rows(store.reader, CRYPTO, DAY) == []
