"""One publication: bars, manifest, revisions, absences and quarantine of a cell, and the proof after it."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from ohlcv_pipeline.bars.checksum import partition_checksum
from ohlcv_pipeline.bars.schema import Delivery, judge
from ohlcv_pipeline.bars.verify import verify
from ohlcv_pipeline.frames import Micros, bars_from_columns, micros
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline.markets import to_us
from ohlcv_pipeline_tests.bars.vendor import (
    BTC,
    CRYPTO,
    DAY,
    ETH,
    MINUTE,
    RUN,
    bars_of,
    columns_of,
    count,
    listed,
    manifest_row,
    offer,
    publish_one,
    series,
    snapshots,
    step,
    us,
    utc,
)

PARTITION = "2025-11-20"
NOW = utc("2025-11-21 00:10")
ALL = step(PARTITION, 1440)
OTHER_RUN = "5d0e4a3b-0b1d-4a72-9c53-7d0e6a1f0b8e"


def bars_with_volume(extra: float, rows: slice = slice(None)) -> pa.Table:
    values = series("BTC", MINUTE, ALL)
    values[4, rows] += extra
    return bars_from_columns(ALL, values)


def scaled(factor: float, rows: int) -> pa.Table:
    values = series("BTC", MINUTE, ALL)
    values[:4, :rows] *= factor
    return bars_from_columns(ALL, values)


def test_a_cell_is_accounted_for_by_its_manifest_row(store: Store) -> None:
    published = publish_one(store, offer(ALL, NOW), NOW, [PARTITION])
    assert (published.rows, published.shifted) == (1440, [])
    assert manifest_row(store, PARTITION) == {
        "market": "crypto",
        "interval": "minute",
        "symbol": "BTC",
        "partition": PARTITION,
        "rows": 1440,
        "expected_rows": 1440,
        "no_trades_rows": 0,
        "unfillable_rows": 0,
        "first_bucket": utc("2025-11-20"),
        "last_bucket": utc("2025-11-20 23:59"),
        "checksum": partition_checksum("BTC", MINUTE, bars_of("BTC", MINUTE, ALL)),
        "checksum_version": 1,
        "vendor": "coinbase",
        "raw_ids": ["9f21"],
        "run_id": RUN,
        "revision": 1,
        "fetched_at": NOW,
        "complete": True,
    }
    assert store.reader.bars("crypto", MINUTE, "BTC", us(PARTITION), us("2025-11-21")).equals(
        bars_of("BTC", MINUTE, ALL)
    )


def test_unchanged_bars_published_again_write_nothing(store: Store) -> None:
    publish_one(store, offer(ALL, NOW), NOW, [PARTITION])
    before, newest = manifest_row(store, PARTITION), snapshots(store)
    later = NOW + timedelta(hours=5)
    again = publish_one(store, offer(ALL, later, raw_id="another"), later, [PARTITION], run_id=OTHER_RUN)
    assert again.rows == 0
    assert snapshots(store) == newest
    assert manifest_row(store, PARTITION) == before


def test_a_corrected_bar_is_replaced_and_the_old_one_kept_with_both_times(store: Store) -> None:
    publish_one(store, offer(ALL, NOW), NOW, [PARTITION])
    later = NOW + timedelta(days=1)
    corrected = bars_with_volume(1.5, slice(7, 9))
    published = publish_one(store, offer(ALL, later, bars=corrected), later, [PARTITION], run_id=OTHER_RUN)
    assert published.rows == 2
    assert store.reader.bars("crypto", MINUTE, "BTC", us(PARTITION), us("2025-11-21")).equals(corrected)
    row = manifest_row(store, PARTITION)
    assert (row["revision"], row["run_id"], row["fetched_at"], row["rows"]) == (2, OTHER_RUN, later, 1440)
    old = store.reader.query("SELECT * FROM lake.bar_revisions ORDER BY bucket_start").to_pylist()
    assert [micros_of(each["bucket_start"]) for each in old] == ALL[7:9].tolist()
    assert {(r["revision"], r["valid_from"], r["superseded_at"], r["superseded_by_run"], r["run_id"]) for r in old} == {
        (1, NOW, later, OTHER_RUN, RUN)
    }
    assert [r["volume"] for r in old] == series("BTC", MINUTE, ALL)[4, 7:9].tolist()
    runs = store.reader.query("SELECT run_id, count(*) AS n FROM lake.crypto.ohlcv_minute GROUP BY ALL").to_pylist()
    assert {r["run_id"]: r["n"] for r in runs} == {RUN: 1438, OTHER_RUN: 2}


def micros_of(instant: object) -> int:
    return to_us(instant)  # type: ignore[arg-type]


def test_the_revision_grows_by_one_with_each_change(store: Store) -> None:
    for extra in range(4):
        now = NOW + timedelta(hours=extra)
        publish_one(store, offer(ALL, now, bars=bars_with_volume(float(extra), slice(0, 3))), now, [PARTITION])
        assert manifest_row(store, PARTITION)["revision"] == extra + 1
    revisions = store.reader.query("SELECT DISTINCT revision FROM lake.bar_revisions ORDER BY 1").to_pylist()
    assert [r["revision"] for r in revisions] == [1, 2, 3]


@pytest.mark.parametrize(
    ("first", "second", "force", "rows"),
    [
        ("coinbase", "coinbase", False, 5),
        ("kraken", "coinbase", False, 5),
        ("coinbase", "kraken", False, 0),
        ("coinbase", "kraken", True, 5),
    ],
    ids=["same rank", "higher rank", "lower rank", "lower rank by force"],
)
def test_who_may_replace_a_bar(store: Store, first: str, second: str, force: bool, rows: int) -> None:
    publish_one(store, offer(ALL, NOW, vendor=first), NOW, [PARTITION])
    other = offer(ALL, NOW, vendor=second, bars=bars_with_volume(1.0, slice(0, 5)))
    assert publish_one(store, other, NOW, [PARTITION], force=force).rows == rows
    row = manifest_row(store, PARTITION)
    assert row["revision"] == (2 if rows else 1)
    assert row["vendor"] == ("mixed" if rows and first != second else first)


@pytest.mark.parametrize(("rows", "shifted"), [(20, []), (21, ["BTC"])])
def test_a_constant_price_factor_on_more_than_20_bars_is_not_published(
    store: Store, rows: int, shifted: list[str]
) -> None:
    publish_one(store, offer(ALL, NOW), NOW, [PARTITION])
    newest = manifest_row(store, PARTITION)
    published = publish_one(store, offer(ALL, NOW, bars=scaled(10.0, rows)), NOW, [PARTITION])
    assert published.shifted == shifted
    assert published.rows == (0 if shifted else rows)
    quarantined = store.reader.quarantine("crypto", MINUTE)
    assert set(quarantined["reason"].to_pylist()) >= ({"ratio_shift"} if shifted else set())
    if shifted:
        assert manifest_row(store, PARTITION) == newest
        assert not any(
            quarantined.filter(pa.compute.equal(quarantined["reason"], "ratio_shift"))["published"].to_pylist()
        )


def test_force_publishes_a_constant_price_factor(store: Store) -> None:
    publish_one(store, offer(ALL, NOW), NOW, [PARTITION])
    published = publish_one(store, offer(ALL, NOW, bars=scaled(10.0, 1440)), NOW, [PARTITION], force=True)
    assert (published.rows, published.shifted) == (1440, [])


@pytest.mark.parametrize("delivered", [ALL[:0], ALL[:700], ALL[720:]], ids=["nothing", "the first half", "the rest"])
def test_damage_is_not_published_while_some_of_it_is_not_delivered_again(store: Store, delivered: Micros) -> None:
    publish_one(store, offer(ALL, NOW), NOW, [PARTITION])
    published = manifest_row(store, PARTITION)
    bars = store.catalog.cursor()
    bars.execute("UPDATE lake.crypto.ohlcv_minute SET close = high")
    bars.close()
    later = NOW + timedelta(hours=1)
    silent = ALL[~np.isin(ALL, delivered)]
    partly = offer(delivered, later, unanswered=silent)
    publish_one(store, partly, later, [PARTITION], run_id=OTHER_RUN, force=True)
    assert {**manifest_row(store, PARTITION), "raw_ids": ()} == {**published, "raw_ids": ()}
    assert len(verify(store.reader, CRYPTO, MINUTE).mismatched) == 1
    publish_one(store, offer(ALL, later), later, [PARTITION], run_id=OTHER_RUN, force=True)
    assert {**manifest_row(store, PARTITION), "raw_ids": ()} == {**published, "raw_ids": ()}
    assert verify(store.reader, CRYPTO, MINUTE).passed


def test_a_bad_bar_reported_twice_is_quarantined_once(store: Store) -> None:
    values = series("BTC", MINUTE, ALL)
    values[2, 100] = -1.0
    bad = bars_from_columns(ALL, values)
    publish_one(store, offer(ALL, NOW, bars=bad), NOW, [PARTITION])
    newest = snapshots(store)
    publish_one(store, offer(ALL, NOW, bars=bad), NOW, [PARTITION])
    assert snapshots(store) == newest
    (row,) = store.reader.quarantine("crypto", MINUTE).to_pylist()
    assert (row["reason"], row["partition"], row["bucket_start"]) == ("negative", PARTITION, utc("2025-11-20 01:40"))
    assert (row["raw_id"], row["vendor"], row["run_id"], row["published"]) == ("9f21", "coinbase", RUN, False)


def test_a_cell_without_any_bar_has_a_manifest_row_of_its_own(store: Store) -> None:
    publish_one(store, offer(ALL[:0], NOW, unanswered=ALL), NOW, [PARTITION])
    row = manifest_row(store, PARTITION)
    assert (row["rows"], row["expected_rows"], row["complete"], row["vendor"]) == (0, 1440, False, None)
    assert (row["first_bucket"], row["last_bucket"]) == (None, None)
    assert row["checksum"] == partition_checksum("BTC", MINUTE, bars_of("BTC", MINUTE, ALL[:0]))


def absences(store: Store) -> dict[int, str]:
    table = store.reader.absent("crypto", MINUTE)
    assert table.num_rows == len(set(micros(table["bucket_start"]).tolist()))
    return dict(zip(micros(table["bucket_start"]).tolist(), table["cause"].to_pylist(), strict=True))


def test_minutes_proven_without_trades_complete_a_cell(store: Store) -> None:
    publish_one(store, offer(np.delete(ALL, [5, 6]), NOW, no_trades=ALL[5:7]), NOW, [PARTITION])
    row = manifest_row(store, PARTITION)
    assert (row["rows"], row["no_trades_rows"], row["complete"]) == (1438, 2, True)
    assert absences(store) == dict.fromkeys(ALL[5:7].tolist(), "no_trades")


def test_what_was_asked_in_vain_is_unanswered_and_after_an_hour_unfillable(store: Store) -> None:
    silent = offer(np.delete(ALL, [5]), NOW, unanswered=ALL[5:6])
    publish_one(store, silent, NOW, [PARTITION])
    assert absences(store) == {int(ALL[5]): "unanswered"}
    assert manifest_row(store, PARTITION)["unfillable_rows"] == 0
    too_soon = NOW + timedelta(minutes=59)
    publish_one(store, silent, too_soon, [PARTITION])
    assert absences(store) == {int(ALL[5]): "unanswered"}
    an_hour_later = NOW + timedelta(hours=1)
    publish_one(store, silent, an_hour_later, [PARTITION])
    assert absences(store) == {int(ALL[5]): "unfillable"}
    row = manifest_row(store, PARTITION)
    assert (row["unfillable_rows"], row["complete"], row["revision"]) == (1, False, 1)


@pytest.mark.parametrize("hours", [0, 2], ids=["unanswered", "unfillable"])
def test_a_later_delivery_removes_the_mark(store: Store, hours: int) -> None:
    silent = offer(np.delete(ALL, [5]), NOW, unanswered=ALL[5:6])
    publish_one(store, silent, NOW, [PARTITION])
    later = NOW + timedelta(hours=2)
    if hours:
        publish_one(store, silent, later, [PARTITION])
    assert len(absences(store)) == 1
    publish_one(store, offer(ALL[5:6], later), later, [PARTITION], run_id=OTHER_RUN)
    assert absences(store) == {}
    row = manifest_row(store, PARTITION)
    assert (row["rows"], row["unfillable_rows"], row["complete"], row["revision"]) == (1440, 0, True, 2)


def test_a_minute_without_trades_that_a_vendor_delivers_after_all_is_stored(store: Store) -> None:
    publish_one(store, offer(np.delete(ALL, [5]), NOW, no_trades=ALL[5:6]), NOW, [PARTITION])
    publish_one(store, offer(ALL[4:7], NOW), NOW, [PARTITION])
    row = manifest_row(store, PARTITION)
    assert (row["rows"], row["no_trades_rows"], row["complete"]) == (1440, 0, True)
    assert absences(store) == {}


def test_the_newest_quarter_of_an_hour_may_be_late_without_a_mark(store: Store) -> None:
    now = utc("2025-11-20 12:00")
    due = ALL[us("2025-11-20 11:57") >= ALL]
    publish_one(store, offer(due[:-20], now, unanswered=due[-20:]), now, [PARTITION])
    assert set(absences(store)) == {int(b) for b in due[-20:] if b <= us("2025-11-20 11:45")}


def test_a_cell_is_complete_only_after_its_partition_ended(store: Store) -> None:
    for now, complete in [
        (utc("2025-11-20 12:00"), False),
        (utc("2025-11-21 00:01"), False),
        (utc("2025-11-21 00:02"), True),
    ]:
        due = CRYPTO.expected(MINUTE, BTC, us(PARTITION), us("2025-11-21"), to_us(now))
        publish_one(store, offer(due, now), now, [PARTITION])
        row = manifest_row(store, PARTITION)
        assert (row["rows"], row["expected_rows"], row["complete"]) == (len(due), len(due), complete)


def test_a_listing_inside_the_partition_expects_only_what_follows_it(store: Store) -> None:
    young = listed(BTC, listing_start=utc("2025-11-20 18:00"))
    publish_one(store, offer(ALL[us("2025-11-20 18:00") <= ALL], NOW, instrument=young), NOW, [PARTITION])
    row = manifest_row(store, PARTITION)
    assert (row["rows"], row["expected_rows"], row["complete"]) == (360, 360, True)


def test_the_raw_ids_of_all_deliveries_are_kept_sorted(store: Store) -> None:
    publish_one(store, offer(ALL[:700], NOW, raw_id="b"), NOW, [PARTITION])
    publish_one(store, offer(ALL[700:], NOW, raw_id="a"), NOW, [PARTITION])
    assert manifest_row(store, PARTITION)["raw_ids"] == ["a", "b"]


def test_day_bars_are_partitioned_by_month(store: Store) -> None:
    now = utc("2025-11-21 12:00")
    days = CRYPTO.buckets(DAY, us("2025-10-01"), us("2025-11-21"))
    publish_one(store, offer(days, now, interval=DAY), now, ["2025-10", "2025-11"], interval=DAY)
    october, november = (manifest_row(store, key, DAY) for key in ("2025-10", "2025-11"))
    assert (october["rows"], october["complete"]) == (31, True)
    assert (november["rows"], november["complete"]) == (20, False)


def test_a_correction_over_two_partitions_keeps_each_ones_revision(store: Store) -> None:
    two = ["2025-11-19", "2025-11-20"]
    buckets = step(two[0], 2880)
    publish_one(store, offer(buckets, NOW), NOW, two)
    values = series("BTC", MINUTE, buckets)
    values[4, [10, 2000]] += 1
    publish_one(store, offer(buckets, NOW, bars=bars_from_columns(buckets, values)), NOW, two)
    assert [manifest_row(store, key)["revision"] for key in two] == [2, 2]
    assert count(store, "bar_revisions") == 2


def test_bars_beyond_the_partitions_that_are_published_are_left_out(store: Store) -> None:
    eve, night = "2025-11-19", step("2025-11-19 23:30", 30)
    publish_one(store, offer(step(eve, 1440), NOW), NOW, [eve])
    wide = np.concatenate([night, ALL])
    delivery = Delivery(
        columns_of(bars_of("BTC", MINUTE, wide)), int(wide[0]), int(wide[-1]) + 1, "coinbase", "9f21", NOW
    )
    judged = judge([delivery], CRYPTO, MINUTE, to_us(NOW))
    published = publish_one(store, type(offer(ALL, NOW))(BTC, judged, [delivery], ALL[:0], ALL[:0]), NOW, [PARTITION])
    assert published.rows == 1440
    assert count(store, "crypto.ohlcv_minute") == 2880


def test_symbols_do_not_meet(store: Store) -> None:
    publish_one(store, offer(ALL, NOW), NOW, [PARTITION])
    before = manifest_row(store, PARTITION)
    publish_one(store, offer(ALL[:10], NOW, instrument=ETH), NOW, [PARTITION])
    assert manifest_row(store, PARTITION) == before
    assert manifest_row(store, PARTITION, symbol="ETH")["rows"] == 10
