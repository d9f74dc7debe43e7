"""Why a bucket has no bar: the rules by themselves, and the inquiry on a real lake."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ohlcv_pipeline.bars.causes import NO_GAP, Cause, Facts, State, runs, unexpected, why
from ohlcv_pipeline.bars.inquiry import Absence, inquire
from ohlcv_pipeline.bars.planning import PENDING_TAIL, SECOND_LOOK
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline.ledger.outcomes import Trouble
from ohlcv_pipeline_tests.bars.vendor import (
    AAPL,
    BTC,
    CRYPTO,
    DAY,
    ETH,
    MINUTE,
    NEW_YORK,
    Rows,
    Vendor,
    fill,
    listed,
    new_store,
    offer,
    publish_one,
    refuse,
    step,
    us,
    utc,
)

PARTITION = "2025-11-20"
NOW = utc("2025-11-21 12:00")
ALL = step(PARTITION, 1440)
FAILING = Trouble("coinbase", 3, ["vendor_unavailable"], failing=True)
PASSED = Trouble("coinbase", 1, ["rate_limited"], failing=False)


def facts(state: State, **known: object) -> Facts:
    return Facts(**{"interval": MINUTE, "always_open": True, "missing": 1, "state": state, **known})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("known", "cause", "told"),
    [
        (facts(State.NO_TRADES), Cause.NO_TRADES, "nobody traded"),
        (facts(State.QUARANTINED, reasons=["bad_ohlc"]), Cause.QUARANTINED, "bad_ohlc"),
        (facts(State.TAIL), Cause.NOT_DUE, "newest minutes"),
        (facts(State.UNASKED), Cause.NOT_FETCHED, "nobody has asked"),
        (facts(State.UNASKED, failures=[PASSED]), Cause.NOT_FETCHED, "nobody has asked"),
        (facts(State.UNASKED, failures=[FAILING]), Cause.VENDOR_OUTAGE, "3 requests to coinbase failed"),
        (facts(State.FAILED, failures=[PASSED]), Cause.VENDOR_OUTAGE, "1 request to coinbase failed (rate_limited)"),
        (facts(State.FAILED), Cause.UNKNOWN, "no failure is on record"),
        (facts(State.UNANSWERED), Cause.PAGE_BOUNDARY, "edge of every answer"),
        (facts(State.UNANSWERED, bracketed=True), Cause.UNKNOWN, "short silence"),
        (facts(State.UNANSWERED, missing=30, bracketed=True), Cause.UNKNOWN, "short silence"),
        (facts(State.UNANSWERED, missing=31, bracketed=True), Cause.VENDOR_OUTAGE, "one long silence of 31"),
        (facts(State.UNANSWERED, peers=9, silent=9), Cause.VENDOR_OUTAGE, "all 9 other symbols"),
        (facts(State.UNANSWERED, peers=9, silent=8, bracketed=True), Cause.UNKNOWN, "short silence"),
        (facts(State.UNANSWERED, missing=31, peers=9, silent=1, always_open=False), Cause.HALTED, "8 of 9 other"),
        (facts(State.UNANSWERED, missing=31, always_open=False), Cause.VENDOR_OUTAGE, "one long silence"),
        (facts(State.UNANSWERED, interval=DAY, peers=9, always_open=False), Cause.HALTED, "9 of 9 other"),
        (facts(State.UNFILLABLE, missing=45), Cause.UNFILLABLE, "one long silence of 45 minutes"),
        (facts(State.UNFILLABLE, peers=9, silent=9), Cause.UNFILLABLE, "all 9 other symbols are silent"),
    ],
)
def test_each_state_of_affairs_has_one_cause(known: Facts, cause: Cause, told: str) -> None:
    found, because = why(known)
    assert found is cause
    assert told in because


@given(
    count=st.integers(1, 120),
    absent=st.sets(st.integers(0, 119)),
    states=st.lists(st.sampled_from(list(State)), min_size=120, max_size=120),
)
def test_every_absent_bucket_is_in_exactly_one_run_of_its_state(
    count: int, absent: set[int], states: list[State]
) -> None:
    expected = ALL[:count]
    at = np.array(sorted(each for each in absent if each < count), np.int64)
    found = runs(expected, expected[at], np.array([states[i] for i in at], "U16"))
    again = [(bucket, run.state) for run in found for bucket in range(run.first_us, run.last_us + 1, MINUTE.step_us)]
    assert again == [(int(expected[i]), states[i]) for i in at]
    assert all(run.missing == (run.last_us - run.first_us) // MINUTE.step_us + 1 for run in found)


@pytest.mark.parametrize(
    ("bucket", "now", "cause"),
    [
        ("2025-11-20 15:00", "2025-11-20 15:16", Cause.NOT_DUE),
        ("2025-11-20 15:00", "2025-11-20 15:17", None),
        ("2025-11-20 21:00", "2025-11-21 12:00", Cause.CLOSED_SESSION),
        ("2025-11-20 14:29", "2025-11-21 12:00", Cause.CLOSED_SESSION),
        ("2025-11-27 15:00", "2025-11-28 12:00", Cause.CLOSED_SESSION),
        ("2025-11-28 18:00", "2025-11-29 12:00", Cause.CLOSED_SESSION),
        ("2025-11-18 15:00", "2025-11-21 12:00", Cause.LISTING),
        ("2025-12-03 15:00", "2025-12-04 12:00", Cause.LISTING),
    ],
)
def test_why_nothing_is_expected(bucket: str, now: str, cause: Cause | None) -> None:
    share = listed(AAPL, listing_start=utc("2025-11-19"), delisted_at=utc("2025-12-02"))
    assert unexpected(NEW_YORK, MINUTE, share, us(bucket), us(now)) is cause


def inquired(
    store: Store, *symbols: str, now: datetime = NOW, start: str = PARTITION, end: str = "2025-11-21",
    failures: list[Trouble] | None = None,
) -> list[Absence]:  # fmt: skip
    found = inquire(
        store.reader,
        CRYPTO,
        MINUTE,
        [BTC, ETH],
        us(start),
        us(end),
        now,
        lambda since: failures or (),
        symbols or ["BTC"],
    )
    for each in found:
        assert (each.last_us - each.first_us) // MINUTE.step_us + 1 == each.missing
    return found


def test_a_window_never_asked_for_is_not_fetched(store: Store) -> None:
    (absence,) = inquired(store)
    assert (absence.cause, absence.missing, absence.attempts, absence.next_look) == (Cause.NOT_FETCHED, 1440, 0, None)


def test_a_proven_silence_is_no_gap_and_names_its_answer(store: Store) -> None:
    publish_one(store, offer(np.delete(ALL, [5, 6]), NOW, no_trades=ALL[5:7]), NOW, [PARTITION])
    (absence,) = inquired(store)
    assert (absence.cause, absence.missing, absence.attempts, absence.is_gap) == (Cause.NO_TRADES, 2, 1, False)
    (look,) = absence.evidence
    assert (look.vendor, look.rows, look.raw_id, look.looked_at) == ("coinbase", 1438, "9f21", NOW)
    assert (look.window_start, look.window_end) == (utc(PARTITION), utc("2025-11-20 23:59") + timedelta(microseconds=1))


def test_an_outage_is_suspected_then_settled_with_both_answers_as_evidence(store: Store) -> None:
    silent = {("BTC", int(bucket)) for bucket in ALL[600:645]}
    vendors = [Vendor(silent=silent)]
    fill(store, [PARTITION], vendors, NOW)
    (once,) = inquired(store)
    assert (once.cause, once.missing, once.attempts) == (Cause.VENDOR_OUTAGE, 45, 1)
    assert once.next_look == NOW + SECOND_LOOK
    fill(store, [PARTITION], vendors, NOW + SECOND_LOOK, run_id="another")
    (twice,) = inquired(store, now=NOW + SECOND_LOOK)
    assert (twice.cause, twice.missing, twice.attempts, twice.next_look) == (Cause.UNFILLABLE, 45, 2, None)
    assert len(twice.evidence) > len(once.evidence) > 0
    ids = set(store.reader.query("SELECT id FROM lake.raw_objects")["id"].to_pylist())
    assert {look.raw_id for look in once.evidence} <= ids


def test_part_c_40_silence_of_all_symbols_at_once_is_the_vendors(store: Store) -> None:
    silent = {(symbol, int(bucket)) for symbol in ("BTC", "ETH") for bucket in ALL[600:610]}
    kraken = Vendor(omits_empty_buckets=False, silent=silent)
    fill(store, [PARTITION], [kraken], NOW, instruments=[BTC, ETH])
    assert {(each.symbol, each.cause, each.missing) for each in inquired(store, "BTC", "ETH")} == {
        ("BTC", Cause.VENDOR_OUTAGE, 10), ("ETH", Cause.VENDOR_OUTAGE, 10),
    }  # fmt: skip


def test_part_c_40_a_scattered_single_of_one_symbol_is_not_called_an_outage(store: Store) -> None:
    kraken = Vendor(omits_empty_buckets=False, silent={("BTC", int(ALL[600]))})
    fill(store, [PARTITION], [kraken], NOW, instruments=[BTC, ETH])
    (absence,) = inquired(store)
    assert (absence.cause, absence.missing) == (Cause.UNKNOWN, 1)


def test_a_gap_at_the_edge_of_every_answer_is_a_suspect_of_paging(store: Store) -> None:
    publish_one(store, offer(ALL[:700], NOW, unanswered=ALL[700:705]), NOW, [PARTITION])
    publish_one(store, offer(ALL[705:], NOW), NOW, [PARTITION])
    (absence,) = inquired(store)
    assert (absence.cause, absence.missing) == (Cause.PAGE_BOUNDARY, 5)


def test_part_c_41_a_bar_that_the_vendor_no_longer_shows_stays(store: Store) -> None:
    fill(store, [PARTITION], [Vendor()], NOW)
    vanished = Vendor(silent={("BTC", int(ALL[600]))})
    fill(store, [PARTITION], [vanished], NOW, force=True)
    assert inquired(store) == []
    bars = store.reader.bars("crypto", MINUTE, "BTC", us(PARTITION), us("2025-11-21"))
    assert bars.num_rows == 1440


def test_a_refused_row_is_why_its_bar_is_missing(store: Store) -> None:
    def spoil(symbol: str, rows: Rows) -> Rows:
        return [[*row[:2], -1.0, *row[3:]] if row[0] == int(ALL[600]) else row for row in rows]

    fill(store, [PARTITION], [Vendor(edit=spoil)], NOW)
    (absence,) = inquired(store)
    assert (absence.cause, absence.first_us, absence.missing) == (Cause.QUARANTINED, int(ALL[600]), 1)
    assert "negative" in absence.because


def test_a_vendor_that_failed_is_told_from_one_that_had_nothing(store: Store) -> None:
    def broken(symbol: str, start: int, end: int) -> None:
        if start >= us("2025-11-20 20:00"):
            raise refuse()

    fill(store, [PARTITION], [Vendor(fail=broken)], NOW)
    (absence,) = inquired(store, failures=[FAILING])
    assert (absence.cause, absence.missing, absence.attempts) == (Cause.VENDOR_OUTAGE, 240, 0)
    assert "vendor_unavailable" in absence.because
    (unrecorded,) = inquired(store)
    assert unrecorded.cause is Cause.UNKNOWN


def test_the_newest_minutes_are_not_due_and_the_older_ones_are_missing(store: Store) -> None:
    now = utc("2025-11-20 12:00")
    due = ALL[us("2025-11-20 11:57") >= ALL]
    publish_one(store, offer(due[:-20], now), now, [PARTITION])
    older, tail = inquired(store, now=now)
    assert (older.missing, tail.cause) == (7, Cause.NOT_DUE)
    assert tail.next_look == utc("2025-11-20 11:57") + PENDING_TAIL
    assert older.missing + tail.missing == 20


def test_expected_is_present_plus_runs_for_any_mixture(store: Store) -> None:
    random = np.random.default_rng(40)
    kinds = random.choice(4, len(ALL), p=[0.7, 0.1, 0.1, 0.1])
    present, empty, silent = (ALL[kinds == kind] for kind in (0, 1, 2))
    publish_one(store, offer(present, NOW, no_trades=empty, unanswered=silent), NOW, [PARTITION])
    found = inquired(store)
    of_runs = [b for each in found for b in range(each.first_us, each.last_us + 1, MINUTE.step_us)]
    assert sorted([*present.tolist(), *of_runs]) == ALL.tolist()
    lost = {b for each in found if each.is_gap for b in range(each.first_us, each.last_us + 1, MINUTE.step_us)}
    assert lost == set(ALL.tolist()) - set(present.tolist()) - set(empty.tolist())
    assert {each.cause for each in found if not each.is_gap} <= NO_GAP


def test_a_long_silence_of_one_share_while_others_traded_looks_like_a_halt(tmp_path: Path) -> None:
    store = new_store(tmp_path, NEW_YORK.name)
    msft = NEW_YORK.instrument("MSFT")
    session = NEW_YORK.buckets(MINUTE, us(PARTITION), us("2025-11-21"))
    halted = {("AAPL", int(bucket)) for bucket in session[100:160]}
    alpaca = Vendor("alpaca", market=NEW_YORK, silent=halted)
    fill(store, [PARTITION], [alpaca], NOW, market=NEW_YORK, instruments=[AAPL, msft])
    found = inquire(store.reader, NEW_YORK, MINUTE, [AAPL, msft], us(PARTITION), us("2025-11-21"), NOW)
    assert [(each.symbol, each.cause, each.missing) for each in found] == [("AAPL", Cause.HALTED, 60)]
    store.catalog.close()


def test_part_c_45_a_half_day_has_no_gap_after_its_close(tmp_path: Path) -> None:
    store = new_store(tmp_path, NEW_YORK.name)
    alpaca = Vendor("alpaca", market=NEW_YORK)
    now = datetime(2025, 11, 29, tzinfo=UTC)
    fill(store, ["2025-11-28"], [alpaca], now, market=NEW_YORK, instruments=[AAPL])
    assert inquire(store.reader, NEW_YORK, MINUTE, [AAPL], us("2025-11-27"), us("2025-11-29"), now) == []
    store.catalog.close()
