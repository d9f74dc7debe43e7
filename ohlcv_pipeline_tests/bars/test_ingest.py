"""From expected buckets to bars in the lake, with vendors in memory."""

from __future__ import annotations

import hashlib
import itertools
from datetime import timedelta

import pytest

from ohlcv_pipeline.bars.ingest import Progress
from ohlcv_pipeline.bars.planning import batches, wanted
from ohlcv_pipeline.bars.verify import verify
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline.vendors.errors import Code, Remedy
from ohlcv_pipeline_tests.bars.vendor import (
    BTC,
    CRYPTO,
    DAY,
    ETH,
    MINUTE,
    RUN,
    Vendor,
    bars_of,
    count,
    fill,
    listed,
    manifest_row,
    order,
    refuse,
    snapshots,
    step,
    us,
    utc,
)

NOW = utc("2025-11-21 12:00")
TWO = ["2025-11-19", "2025-11-20"]
LATER = "5d0e4a3b-0b1d-4a72-9c53-7d0e6a1f0b8e"
STEP = MINUTE.step_us


def assert_accounted_for(store: Store) -> None:
    for interval in (MINUTE, DAY):
        assert verify(store.reader, CRYPTO, interval).passed


def never(symbol: str, start: int, end: int) -> None:
    raise refuse()


def test_a_fresh_fill_stores_every_expected_bar(store: Store) -> None:
    coinbase = Vendor()
    outcome = fill(store, TWO, [coinbase], NOW, instruments=[BTC, ETH])
    assert (outcome.cells, outcome.rows, outcome.requests, outcome.failed) == (4, 5760, 20, {})
    assert outcome.served == {"coinbase": 5760}
    for symbol in ("BTC", "ETH"):
        stored = store.reader.bars("crypto", MINUTE, symbol, us(TWO[0]), us("2025-11-21"))
        assert stored.equals(bars_of(symbol, MINUTE, step(TWO[0], 2880)))
    assert all(store.reader.manifest("crypto", MINUTE)["complete"].to_pylist())
    assert_accounted_for(store)


def test_day_bars_end_with_the_last_closed_day(store: Store) -> None:
    outcome = fill(store, ["2025-10", "2025-11"], [Vendor()], NOW, interval=DAY)
    assert outcome.rows == 31 + 20
    assert manifest_row(store, "2025-11", DAY)["last_bucket"] == utc("2025-11-20")


def test_a_finished_fill_asks_for_nothing_and_writes_nothing(store: Store) -> None:
    fill(store, TWO, [Vendor()], NOW)
    newest, again = snapshots(store), Vendor()
    outcome = fill(store, TWO, [again], NOW, run_id=LATER)
    assert (outcome.cells, outcome.rows, again.asked, snapshots(store)) == (0, 0, [], newest)


def test_force_fetches_everything_again_and_still_writes_nothing_unchanged(store: Store) -> None:
    fill(store, TWO, [Vendor()], NOW)
    newest, again = snapshots(store), Vendor()
    outcome = fill(store, TWO, [again], NOW, run_id=LATER, force=True)
    assert (outcome.cells, outcome.rows, len(again.asked), snapshots(store)) == (2, 0, 10, newest)


def test_a_running_partition_asks_only_for_what_is_new_and_the_last_stored_bar(store: Store) -> None:
    fill(store, ["2025-11-21"], [Vendor()], NOW)
    later = Vendor()
    outcome = fill(store, ["2025-11-21"], [later], NOW + timedelta(minutes=10), run_id=LATER)
    assert later.asked == [("BTC", us("2025-11-21 11:57"), us("2025-11-21 12:08"))]
    assert outcome.rows == 10
    runs = store.reader.query("SELECT run_id, count(*) AS n FROM lake.crypto.ohlcv_minute GROUP BY ALL").to_pylist()
    assert {row["run_id"]: row["n"] for row in runs} == {RUN: 718, LATER: 10}


def test_an_interrupted_fill_resumes_with_what_is_missing(store: Store) -> None:
    def breaks_off(symbol: str, start: int, end: int) -> None:
        if start >= us("2025-11-20 05:00"):
            raise refuse()

    first = fill(store, ["2025-11-20"], [Vendor(fail=breaks_off)], NOW)
    assert first.failed == {"BTC": "vendor_unavailable"}
    assert manifest_row(store, "2025-11-20")["rows"] == 300
    second = Vendor()
    outcome = fill(store, ["2025-11-20"], [second], NOW, run_id=LATER)
    assert second.buckets_asked("BTC") == set(step("2025-11-20 04:59", 1141).tolist())
    assert (outcome.rows, outcome.failed) == (1140, {})
    assert manifest_row(store, "2025-11-20")["complete"]
    assert_accounted_for(store)


@pytest.mark.parametrize("page_rows", [300, 10_000])
def test_one_day_that_a_vendor_cannot_deliver_takes_no_other_day_with_it(store: Store, page_rows: int) -> None:
    days = [f"2025-11-{day}" for day in range(15, 21)]

    def poisoned(symbol: str, start: int, end: int) -> None:
        if symbol == "BTC" and start < us("2025-11-18") and end > us("2025-11-17"):
            raise refuse(Code.MALFORMED_RESPONSE)

    outcome = fill(store, days, [Vendor(page_rows=page_rows, fail=poisoned)], NOW, instruments=[BTC, ETH])
    assert outcome.failed_cells == {("BTC", "2025-11-17"): "malformed_response"}
    rows = {(r["symbol"], r["partition"]): r["complete"] for r in store.reader.manifest("crypto", MINUTE).to_pylist()}
    assert [cell for cell, complete in rows.items() if not complete] == [("BTC", "2025-11-17")]
    assert count(store, "absent_buckets") == 0
    assert_accounted_for(store)


@pytest.mark.parametrize(
    ("code", "remedy", "requests"),
    [
        # One answer for all ten days, then two days by themselves, in each of two batches but for the second look.
        (Code.VENDOR_UNAVAILABLE, Remedy.BACK_OFF, 1 + 2 + 1),
        # What is wrong with the symbol, or with the vendor, is wrong with every day of it.
        (Code.BAD_SYMBOL, Remedy.GIVE_UP, 2),
        (Code.VENDOR_UNAVAILABLE, Remedy.STOP_VENDOR, 2),
    ],
)
def test_a_symbol_of_which_nothing_can_be_had_is_soon_let_be(
    store: Store, code: Code, remedy: Remedy, requests: int
) -> None:
    def fails(symbol: str, start: int, end: int) -> None:
        raise refuse(code, remedy)

    days = [f"2025-11-{day}" for day in range(11, 21)]
    vendor = Vendor(page_rows=100_000, fail=fails)
    outcome = fill(store, days, [vendor], NOW, batch_rows=5 * 1440)
    assert outcome.failed_cells == {("BTC", day): str(code) for day in days}
    assert len(vendor.asked) == requests


@pytest.mark.parametrize("reason", ["fails", "lacks the symbol", "has no spelling"])
def test_the_second_vendor_delivers_what_the_first_does_not(store: Store, reason: str) -> None:
    def lacks(symbol: str, start: int, end: int) -> None:
        raise refuse(Code.BAD_SYMBOL, Remedy.GIVE_UP)

    first = Vendor(fail={"fails": never, "lacks the symbol": lacks}.get(reason, lambda *_: None))
    coin = listed(BTC, vendor_symbols={"kraken": "XBTUSD"}) if reason == "has no spelling" else BTC
    kraken = Vendor("kraken", omits_empty_buckets=False)
    outcome = fill(store, ["2025-11-20"], [first, kraken], NOW, instruments=[coin])
    assert (outcome.rows, outcome.failed, outcome.served) == (1440, {}, {"kraken": 1440})
    assert (manifest_row(store, "2025-11-20")["vendor"], len(first.asked) > 0) == ("kraken", coin is BTC)


def test_a_vendor_that_gives_up_half_way_is_completed_by_the_next(store: Store) -> None:
    def breaks_off(symbol: str, start: int, end: int) -> None:
        if start >= us("2025-11-20 05:00"):
            raise refuse()

    kraken = Vendor("kraken", omits_empty_buckets=False)
    outcome = fill(store, ["2025-11-20"], [Vendor(fail=breaks_off), kraken], NOW)
    assert outcome.failed == {}
    assert (manifest_row(store, "2025-11-20")["vendor"], manifest_row(store, "2025-11-20")["rows"]) == ("mixed", 1440)
    rows = store.reader.query(
        "SELECT source_vendor AS vendor, count(*) AS n, min(bucket_start) AS first FROM lake.crypto.ohlcv_minute"
        " GROUP BY ALL ORDER BY 1"
    ).to_pylist()
    assert [(r["vendor"], r["n"], r["first"]) for r in rows] == [
        ("coinbase", 300, utc("2025-11-20")),
        ("kraken", 1140, utc("2025-11-20 05:00")),
    ]


def test_a_vendor_is_never_asked_for_what_it_cannot_reach_back_to(store: Store) -> None:
    kraken = Vendor("kraken", newest_rows=720, page_rows=720)
    outcome = fill(store, ["2025-11-21"], [Vendor(fail=never), kraken], utc("2025-11-21 18:00"))
    assert all(start >= us("2025-11-21 06:00") for _, start, _ in kraken.asked)
    assert outcome.failed == {"BTC": "vendor_unavailable"}
    assert manifest_row(store, "2025-11-21")["rows"] == 718


def test_one_symbol_that_fails_does_not_keep_the_others_from_being_published(store: Store) -> None:
    def fails(symbol: str, start: int, end: int) -> None:
        if symbol == "SOL":
            raise refuse(Code.RATE_LIMITED, Remedy.WAIT)

    outcome = fill(store, ["2025-11-20"], [Vendor(fail=fails)], NOW, instruments=CRYPTO.instruments)
    assert outcome.failed == {"SOL": "rate_limited"}
    assert outcome.rows == 9 * 1440
    assert set(store.reader.counts("crypto", MINUTE)["symbol"].to_pylist()) == {
        i.symbol for i in CRYPTO.instruments
    } - {"SOL"}
    assert_accounted_for(store)


def test_an_empty_answer_is_no_success(store: Store) -> None:
    silent = Vendor(edit=lambda symbol, rows: [])
    fill(store, ["2025-11-20"], [silent], NOW)
    row = manifest_row(store, "2025-11-20")
    assert (row["rows"], row["expected_rows"], row["complete"]) == (0, 1440, False)
    assert set(store.reader.absent("crypto", MINUTE)["cause"].to_pylist()) == {"unanswered"}
    assert len(silent.asked) == 10
    assert_accounted_for(store)
    patient = Vendor()
    fill(store, ["2025-11-20"], [patient], NOW + timedelta(minutes=30))
    assert patient.asked == []
    outcome = fill(store, ["2025-11-20"], [patient], NOW + timedelta(minutes=61))
    assert outcome.rows == 1440
    assert (manifest_row(store, "2025-11-20")["complete"], count(store, "absent_buckets")) == (True, 0)


def test_an_empty_answer_sends_the_run_to_the_next_vendor(store: Store) -> None:
    empty, kraken = Vendor(edit=lambda symbol, rows: []), Vendor("kraken", omits_empty_buckets=False)
    outcome = fill(store, ["2025-11-20"], [empty, kraken], NOW)
    assert (outcome.rows, outcome.served["coinbase"]) == (1440, 0)
    assert (manifest_row(store, "2025-11-20")["complete"], manifest_row(store, "2025-11-20")["vendor"]) == (
        True,
        "kraken",
    )


def test_a_thin_minute_inside_an_answer_needs_no_second_look(store: Store) -> None:
    thin = {("BTC", int(step("2025-11-20", 1440)[100]))}
    vendor = Vendor(silent=thin)
    outcome = fill(store, ["2025-11-20"], [vendor], NOW)
    row = manifest_row(store, "2025-11-20")
    assert (outcome.rows, row["no_trades_rows"], row["complete"], len(vendor.asked)) == (1439, 1, True, 5)


def test_a_hole_at_the_edge_of_a_page_is_asked_for_again_with_room_around(store: Store) -> None:
    minutes = step("2025-11-20", 1440)
    vendor = Vendor(silent={("BTC", int(minutes[299])), ("BTC", int(minutes[300]))})
    fill(store, ["2025-11-20"], [vendor], NOW)
    assert vendor.asked[5:] == [("BTC", int(minutes[269]), int(minutes[330]) + STEP)]
    row = manifest_row(store, "2025-11-20")
    assert (row["rows"], row["no_trades_rows"], row["complete"]) == (1438, 2, True)


def test_a_hole_at_midnight_is_proven_with_the_bars_of_the_day_before_and_these_are_not_stored_twice(
    store: Store,
) -> None:
    midnight = us("2025-11-20")
    fill(store, ["2025-11-19"], [Vendor()], NOW)
    fill(store, ["2025-11-20"], [Vendor(silent={("BTC", midnight)})], NOW, run_id=LATER)
    row = manifest_row(store, "2025-11-20")
    assert (row["rows"], row["no_trades_rows"], row["complete"]) == (1439, 1, True)
    counted = store.reader.counts("crypto", MINUTE).to_pylist()
    assert counted == [{"symbol": "BTC", "rows": 2879, "buckets": 2879}]
    assert_accounted_for(store)


def test_a_hole_at_midnight_stores_no_bars_of_a_day_that_was_not_asked_for(store: Store) -> None:
    fill(store, ["2025-11-20"], [Vendor(silent={("BTC", us("2025-11-20"))})], NOW)
    assert count(store, "crypto.ohlcv_minute") == 1439
    assert_accounted_for(store)


def test_an_outage_confirmed_an_hour_later_is_unfillable_and_no_longer_asked_for(store: Store) -> None:
    outage = {("BTC", int(b)) for b in step("2025-11-20 10:00", 45)}
    fill(store, ["2025-11-20"], [Vendor(silent=outage)], NOW)
    assert manifest_row(store, "2025-11-20")["unfillable_rows"] == 0
    fill(store, ["2025-11-20"], [Vendor(silent=outage)], NOW + timedelta(minutes=61))
    row = manifest_row(store, "2025-11-20")
    assert (row["rows"], row["unfillable_rows"], row["complete"]) == (1395, 45, False)
    third = Vendor()
    fill(store, ["2025-11-20"], [third], NOW + timedelta(days=1))
    assert not third.buckets_asked("BTC") & {b for _, b in outage}


def test_a_failed_vendor_says_nothing_about_what_it_did_not_deliver(store: Store) -> None:
    outcome = fill(store, ["2025-11-20"], [Vendor(fail=never)], NOW)
    assert outcome.failed == {"BTC": "vendor_unavailable"}
    assert (count(store, "absent_buckets"), manifest_row(store, "2025-11-20")["rows"]) == (0, 0)


def test_cells_are_cut_into_batches_in_their_order() -> None:
    cells = {("BTC", str(k)): step("2025-11-20", n) for k, n in enumerate([400, 400, 400, 1500, 10])}
    cut = [list(batch) for batch in batches(cells, 1000)]
    assert [[int(key) for _, key in batch] for batch in cut] == [[0, 1], [2], [3], [4]]
    assert list(batches({}, 1000)) == []


@pytest.mark.parametrize("batch_rows", [1, 2880, 5760, 100_000])
def test_batches_of_any_size_give_the_same_lake(store: Store, batch_rows: int) -> None:
    outcome = fill(store, TWO, [Vendor()], NOW, instruments=[BTC, ETH], batch_rows=batch_rows)
    assert outcome.rows == 5760
    assert [row["rows"] for row in store.reader.manifest("crypto", MINUTE).to_pylist()] == [1440] * 4
    assert_accounted_for(store)


def test_the_newest_partition_is_wanted_first(store: Store) -> None:
    keys = [key for _, key in wanted(order(TWO), store.reader, NOW)]
    assert keys == sorted(TWO, reverse=True)


def test_what_is_wanted_of_two_distant_days_is_asked_in_two_windows(store: Store) -> None:
    vendor = Vendor(page_rows=2_000)
    fill(store, ["2025-11-17", "2025-11-20"], [vendor], NOW)
    assert sorted(vendor.asked) == [("BTC", us(day), us(day) + 1440 * STEP) for day in ("2025-11-17", "2025-11-20")]


def test_progress_never_falls_and_ends_whole(store: Store) -> None:
    heard: list[Progress] = []
    vendor = Vendor(silent={("BTC", us("2025-11-20 05:00"))})
    fill(store, TWO, [vendor], NOW, instruments=[BTC, ETH], batch_rows=1500, progress=heard)
    for earlier, later in itertools.pairwise(heard):
        assert later.requests >= earlier.requests
        assert later.rows >= earlier.rows
    assert all(progress.requests <= progress.planned for progress in heard)
    assert (heard[-1].requests, heard[-1].planned, heard[-1].rows) == (21, 21, 5759)


def test_every_answer_that_the_manifest_names_is_kept_and_hashes_to_its_id(store: Store) -> None:
    fill(store, TWO, [Vendor()], NOW, instruments=[BTC, ETH])
    named = {i for ids in store.reader.manifest("crypto", MINUTE)["raw_ids"].to_pylist() for i in ids}
    index = store.reader.query("SELECT id, pack, bytes, vendor, status FROM lake.raw_objects").to_pylist()
    assert {row["id"] for row in index} == named
    assert len(named) == 20
    for row in index:
        kept = store.raw.read(row["pack"], row["id"])
        assert hashlib.sha256(kept.body).hexdigest() == row["id"]
        assert (len(kept.body), kept.vendor, kept.status) == (row["bytes"], row["vendor"], row["status"])


def test_an_answer_that_could_not_be_read_is_kept_with_the_reason(store: Store) -> None:
    garbled = Vendor(body=lambda symbol, body: body[:-1] if symbol == "ETH" else body)
    outcome = fill(store, ["2025-11-20"], [garbled], NOW, instruments=[BTC, ETH])
    assert outcome.failed == {"ETH": "malformed_response"}
    packs = store.reader.query("SELECT DISTINCT pack FROM lake.raw_objects").to_pylist()
    kept = [item for row in packs for item in store.raw.read_pack(row["pack"])]
    broken = [item for item in kept if item.note == "malformed"]
    assert {item.url.split("?")[0] for item in broken} == {"memory://coinbase/ETH/minute"}
    assert all(not item.body.endswith(b"]]") for item in broken)
