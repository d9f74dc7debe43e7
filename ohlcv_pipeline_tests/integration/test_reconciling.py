"""Corporate actions, adjusted prices and reconciliation, through Dagster and the command line, against the sandbox."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import dagster as dg
import httpx
import numpy as np
import pandas as pd
import pytest

from ohlcv_pipeline.bars.access import Lake
from ohlcv_pipeline.bars.actions_assets import jumps_verdict
from ohlcv_pipeline.markets import Interval
from ohlcv_pipeline.settings import VendorSettings
from ohlcv_pipeline_tests.bars.vendor import change
from ohlcv_pipeline_tests.integration.conftest import Install, install_kept
from ohlcv_pipeline_tests.integration.installation import NOW, Installation, Run
from ohlcv_pipeline_tests.kept import Kept

DAYS, MINUTES = "us_equities/ohlcv_day", "us_equities/ohlcv_minute"
SPLIT = "2025-06-10"
EQUITIES: dict[str, Any] = {
    "markets": ("us_equities",),
    "vendors": {name: VendorSettings(attempts=1) for name in ("alpaca", "tiingo")},
}


@pytest.fixture
def equities(install: Install) -> Installation:
    made = install(**EQUITIES)
    made.enable_only("NVDA", "AAPL")
    return made


@pytest.fixture
def history(install: Install, kept: Kept) -> Installation:
    """A year and a half of days, to the newest, and the corporate actions."""

    def fill(made: Installation) -> None:
        made.enable_only("NVDA", "AAPL")
        assert made.materialise("2025-01", "2026-06", table=DAYS).success
        run = made.job("us_equities_actions_refresh")
        assert run.success, run
        assert run.green == {"unexplained_jumps"}

    return install_kept(kept, install, fill, **EQUITIES)


def lake(of: Installation) -> Lake:
    return Lake(of.platform.reading.reader, [of.market])


def tiingo(of: Installation, symbol: str, start: str, end: str) -> pd.DataFrame:
    answer = httpx.get(
        f"{of.exchange.url}/tiingo/tiingo/daily/{symbol}/prices",
        params={"startDate": start, "endDate": end},
        headers={"Authorization": "Token sandbox"},
        trust_env=False,
    )
    frame = pd.DataFrame(answer.json())
    return frame.set_index(pd.to_datetime(frame["date"]))


def all_actions(of: Installation) -> list[dict[str, Any]]:
    return of.query("SELECT * FROM lake.corporate_actions ORDER BY symbol, ex_date, kind, fetched_at")


def test_actions_are_stored_with_their_provenance_and_again_changes_nothing(history: Installation) -> None:
    stored = all_actions(history)
    (split,) = [row for row in stored if row["kind"] == "split"]
    assert (split["symbol"], split["ex_date"], split["value"]) == ("NVDA", datetime(2025, 6, 10, tzinfo=UTC), 4.0)
    assert (split["vendor"], split["superseded_at"]) == ("tiingo", None)
    packs = history.query("SELECT pack FROM lake.raw_objects WHERE id = ?", [split["raw_id"]])
    raw = history.platform.store.raw.read(packs[0]["pack"], split["raw_id"])
    assert b'"splitFactor":4.0' in raw.body
    snapshot = history.query("SELECT max(snapshot_id) AS id FROM __ducklake_metadata_lake.ducklake_snapshot")
    assert history.job("us_equities_actions_refresh").success
    assert all_actions(history) == stored
    assert snapshot == history.query("SELECT max(snapshot_id) AS id FROM __ducklake_metadata_lake.ducklake_snapshot")
    assert "columns=divCash%2CsplitFactor" in history.paths()[-1] or "divCash,splitFactor" in history.paths()[-1]


def test_an_action_that_changes_keeps_its_old_row_and_one_that_is_withdrawn_too(history: Installation) -> None:
    change(history.platform.store, "UPDATE lake.corporate_actions SET value = 5 WHERE kind = 'split'")
    change(
        history.platform.store,
        "INSERT INTO lake.corporate_actions SELECT market, symbol, '2025-06-11 00:00:00+00', 'split', 2, vendor,"
        " raw_id, fetched_at, run_id, NULL, NULL FROM lake.corporate_actions WHERE kind = 'split'",
    )
    run = history.job("us_equities_actions_refresh")
    assert run.success, run
    rows = [row for row in all_actions(history) if row["kind"] == "split"]
    assert [(f"{r['ex_date']:%d}", r["value"], r["superseded_by_run"]) for r in rows] == [
        ("10", 5.0, run.result.run_id), ("10", 4.0, None), ("11", 2.0, run.result.run_id),
    ]  # fmt: skip
    assert rows[0]["superseded_at"] == NOW
    (in_force,) = [
        row for row in history.platform.reading.reader.actions("us_equities", ["NVDA"]).to_pylist()
        if row["kind"] == "split"
    ]  # fmt: skip
    assert in_force["value"] == 4.0


def test_a_symbol_that_cannot_be_had_fails_the_run_and_the_others_are_published(equities: Installation) -> None:
    equities.exchange.fault(kind="outage", vendor="tiingo", symbol="AAPL")
    run = equities.job("us_equities_actions_refresh")
    assert not run.success
    assert run.failure.description.startswith("the corporate actions of AAPL (vendor_unavailable) could not be had")
    assert {row["symbol"] for row in all_actions(equities)} == {"NVDA"}
    with pytest.raises(ValueError, match="corporate actions of AAPL have never been fetched; `ohlcv actions fetch"):
        equities.materialise("2026-06", table=DAYS)
        lake(equities).bars("AAPL", "day", "2026-06-01", "2026-06-09", adjust="all")


@pytest.mark.parametrize("symbol", ["NVDA", "AAPL"])
def test_our_prices_are_those_that_tiingo_adjusts(history: Installation, symbol: str) -> None:
    theirs = tiingo(history, symbol, "2025-03-03", "2026-05-29")
    ours = lake(history).bars(symbol, "day", "2025-03-03", "2026-05-30", adjust="all")
    assert len(ours) == len(theirs) == 313
    raw = lake(history).bars(symbol, "day", "2025-03-03", "2026-05-30")
    for column in ("open", "high", "low", "close"):
        # In the minutes that Alpaca lost may have been the high or the low of a day.
        same = raw[column].to_numpy() == theirs[column].to_numpy()
        assert same.sum() >= 313 - 7
        assert np.allclose(ours[column][same], theirs[f"adj{column.title()}"][same], rtol=1e-6, atol=0)
    factor = np.where(ours.index < pd.Timestamp(SPLIT, tz="UTC"), 4.0 if symbol == "NVDA" else 1.0, 1.0)
    assert np.allclose(theirs["adjVolume"], theirs["volume"] * factor)
    assert np.array_equal(ours["volume"], raw["volume"] * factor)


def test_minutes_and_their_roll_ups_are_adjusted_alike(history: Installation) -> None:
    assert history.materialise("2025-06-09", SPLIT, table=MINUTES).success
    of = lake(history)
    window = ("NVDA", "1h", "2025-06-09", "2025-06-11")
    raw, split = of.bars(*window), of.bars(*window, adjust="split")
    before = raw.index < pd.Timestamp(SPLIT, tz="UTC")
    assert before.sum() == (~before).sum() == 7
    for column in ("open", "high", "low", "close", "vwap"):
        assert np.allclose(raw[column] / split[column], np.where(before, 4.0, 1.0))
    assert np.allclose(split["volume"] / raw["volume"], np.where(before, 4.0, 1.0))
    assert raw["trade_count"].equals(split["trade_count"])
    minutes = of.bars("NVDA", "minute", "2025-06-09", "2025-06-11", adjust="all")
    jump = minutes["close"].iloc[389] / minutes["open"].iloc[390]
    assert 0.9 < jump < 1.1


def test_a_split_of_which_nobody_tells_is_flagged_and_not_applied(history: Installation) -> None:
    change(history.platform.store, "DELETE FROM lake.corporate_actions WHERE kind = 'split'")
    history.exchange.fault(kind="empty", vendor="tiingo")
    run = history.job("us_equities_actions_refresh")
    assert not run.success
    home = history.platform
    verdict = jumps_verdict(home.reading.reader, history.market, home.instruments(history.market), NOW)
    assert (verdict.passed, verdict.severity) == (False, "WARN")
    ((flagged),) = verdict.offenders
    assert (flagged["symbol"], flagged["session"], flagged["near"], flagged["told"]) == ("NVDA", SPLIT, 4.0, 1.0)
    of = lake(history)
    window = ("NVDA", "day", "2025-06-02", "2025-06-20")
    assert of.bars(*window, adjust="split")["close"].equals(of.bars(*window)["close"])


@pytest.fixture(scope="module")
def kept_quarter(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return Kept(tmp_path_factory.mktemp("quarter"))


@pytest.fixture
def stored(install: Install, kept_quarter: Kept) -> Installation:
    """The days of a quarter and four sessions of minutes."""

    def fill(made: Installation) -> None:
        made.enable_only("NVDA", "AAPL")
        assert made.materialise("2026-04", "2026-06", table=DAYS).success
        assert made.materialise("2026-06-03", "2026-06-08", table=MINUTES).success

    return install_kept(kept_quarter, install, fill, **EQUITIES)


def reconcile(of: Installation) -> tuple[Run, dict[str, dg.AssetCheckEvaluation]]:
    of.exchange.reset_requests()
    run = of.job("us_equities_reconcile")
    assert run.success, run
    found = {f"{e.asset_key.path[-1]}:{e.check_name}": e for e in run.result.get_asset_check_evaluations()}
    return run, found


def judged(check: dg.AssetCheckEvaluation) -> tuple[bool, str, set[tuple[str, str, int]]]:
    shown: Any = check.metadata.get("worst")
    rows = [row.data for row in shown.records] if shown is not None else []
    return check.passed, check.severity.value, {(r["symbol"], r["verdict"], r["bars"]) for r in rows}


def test_an_ingestion_run_asks_no_second_vendor(equities: Installation) -> None:
    assert equities.materialise("2026-04", "2026-06", table=DAYS).success
    assert equities.materialise("2026-06-03", "2026-06-08", table=MINUTES).success
    assert set(equities.exchange.counts()["alpaca"]) == {"200"}
    assert equities.exchange.counts().get("tiingo", {}) == {}


def test_the_sandbox_agrees_with_itself(stored: Installation) -> None:
    _, found = reconcile(stored)
    assert set(found) == {"ohlcv_day:rollup", "ohlcv_day:cross_vendor", "ohlcv_minute:cross_vendor"}
    assert {name: judged(check) for name, check in found.items()} == {name: (True, "WARN", set()) for name in found}
    numbers = {name: {k: v.value for k, v in check.metadata.items()} for name, check in found.items()}
    assert numbers["ohlcv_day:rollup"]["bars"] == 2 * 4
    assert numbers["ohlcv_day:cross_vendor"]["agreement"] == 2 * 2
    assert numbers["ohlcv_minute:cross_vendor"]["agreement"] == 2 * 4
    # Four cells of days, eight of minutes, one request each, and none of the vendor whose bars are stored.
    assert stored.exchange.counts() == {"tiingo": {"200": 12}}


def test_a_changed_minute_turns_the_roll_up_red(stored: Installation) -> None:
    change(
        stored.platform.store,
        "UPDATE lake.us_equities.ohlcv_minute SET high = high * 2"
        " WHERE symbol = 'NVDA' AND bucket_start = '2026-06-04 15:00:00+00'",
    )
    _, found = reconcile(stored)
    assert judged(found["ohlcv_day:rollup"]) == (False, "WARN", {("NVDA", "one_off_print", 1)})
    assert judged(found["ohlcv_minute:cross_vendor"]) == (False, "WARN", {("NVDA", "one_off_print", 1)})
    assert judged(found["ohlcv_day:cross_vendor"])[0]


def test_a_lost_day_is_missing_and_a_day_of_another_basis_is_an_error(stored: Installation) -> None:
    days = "lake.us_equities.ohlcv_day"
    change(
        stored.platform.store,
        f"DELETE FROM {days} WHERE symbol = 'AAPL' AND bucket_start = '2026-06-04 00:00:00+00'",
        f"UPDATE {days} SET open = open / 4, high = high / 4, low = low / 4, close = close / 4"
        " WHERE symbol = 'NVDA' AND bucket_start < '2026-06-05 00:00:00+00'",
    )
    _, found = reconcile(stored)
    # Two of the four sessions have the other basis: too few to call it one.
    assert judged(found["ohlcv_day:rollup"])[2] == {("AAPL", "missing", 1), ("NVDA", "revision", 2)}
    passed, severity, rows = judged(found["ohlcv_day:cross_vendor"])
    assert (passed, severity) == (False, "ERROR")
    assert {(symbol, verdict) for symbol, verdict, _ in rows} == {("NVDA", "adjustment_basis")}


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (
            {"kind": "stale", "interval": "minute", "start": "2026-06-04T15:00:00Z", "end": "2026-06-04T16:00:00Z"},
            ("WARN", {("AAPL", "stale", 60), ("NVDA", "stale", 60)}),
        ),
        (
            {"kind": "split", "symbol": "NVDA", "end": "2026-06-06T00:00:00Z", "factor": 0.01},
            ("ERROR", {("NVDA", "unit", 390)}),
        ),
        (
            {"kind": "split", "symbol": "NVDA", "end": "2026-06-06T00:00:00Z", "factor": 0.25},
            ("ERROR", {("NVDA", "adjustment_basis", 390)}),
        ),
        (
            {"kind": "correction", "symbol": "AAPL", "interval": "minute", "start": "2026-06-04T15:00:00Z",
             "factor": 1.02},
            ("WARN", {("AAPL", "revision", 1)}),
        ),
    ],
)  # fmt: skip
def test_a_fault_of_the_second_vendor_has_its_verdict(
    stored: Installation, fault: dict[str, Any], expected: tuple[str, set[tuple[str, str, int]]]
) -> None:
    stored.exchange.fault(vendor="tiingo", **fault)
    _, found = reconcile(stored)
    assert judged(found["ohlcv_minute:cross_vendor"]) == (False, *expected)


def test_a_vendor_that_does_not_answer_is_no_bad_data(stored: Installation) -> None:
    stored.exchange.fault(kind="outage", vendor="tiingo")
    run = stored.job("us_equities_reconcile")
    assert not run.success
    checks = run.result.get_asset_check_evaluations()
    assert [(each.check_name, each.passed) for each in checks] == [("rollup", True)]


def test_minutes_that_we_lack_and_the_second_vendor_has_are_missing(stored: Installation) -> None:
    change(
        stored.platform.store,
        "DELETE FROM lake.us_equities.ohlcv_minute WHERE symbol = 'AAPL'"
        " AND bucket_start >= '2026-06-04 15:00:00+00' AND bucket_start < '2026-06-04 15:10:00+00'",
    )
    _, found = reconcile(stored)
    assert judged(found["ohlcv_minute:cross_vendor"])[2] == {("AAPL", "missing", 10)}


def test_nothing_of_it_is_stored(stored: Installation) -> None:
    before = stored.manifest(Interval.MINUTE), stored.manifest(Interval.DAY)
    stored.exchange.fault(kind="split", vendor="tiingo", symbol="NVDA", end="2026-06-06T00:00:00Z", factor=0.25)
    reconcile(stored)
    assert (stored.manifest(Interval.MINUTE), stored.manifest(Interval.DAY)) == before
