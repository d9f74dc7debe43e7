"""A run of Dagster from the vendors' HTTP to events, metadata and checks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from ohlcv_pipeline.bars import assets
from ohlcv_pipeline.bars.checksum import run_checksum
from ohlcv_pipeline.bars.inspection import BY_PARTITION, CHECKS
from ohlcv_pipeline.ledger import symbols
from ohlcv_pipeline.markets import Interval
from ohlcv_pipeline_tests.exchange import Exchange
from ohlcv_pipeline_tests.integration.conftest import Install
from ohlcv_pipeline_tests.integration.installation import NOW, Installation, stop_time

DAYS = ["2026-06-08", "2026-06-09", "2026-06-10"]
"""Two whole days and the running one."""


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "RETRY_SECONDS", (0.01, 0.01))


def test_a_range_run_materialises_each_partition_once_with_its_account(crypto: Installation) -> None:
    run = crypto.materialise(DAYS[0], DAYS[-1])
    assert run.success
    assert run.materialised == DAYS
    assert run.green == set(CHECKS)
    manifest = crypto.manifest()
    assert len(manifest) == 9
    for day, expected in zip(DAYS, (1440, 1440, 718), strict=True):
        cells = [manifest[symbol, day] for symbol in ("AAVE", "BTC", "ETH")]
        shown = run.metadata(day)
        assert shown["dagster/partition_row_count"] == sum(cell["rows"] for cell in cells)
        assert shown["expected_rows"] == 3 * expected
        assert shown["no_trades_rows"] == sum(cell["no_trades_rows"] for cell in cells) > 0
        assert shown["coverage_pct"] == 100.0
        assert shown["checksum"] == run_checksum(cell["checksum"] for cell in cells)
        assert shown["symbols"] == 3
        assert {cell["run_id"] for cell in cells} == {run.result.run_id}
        assert all(cell["complete"] == (expected == 1440) for cell in cells)
    assert shown["served"] == {"coinbase": shown["rows_written"] + shown["dropped"].get("outside_window", 0)}
    assert "| 2026-06-10 11:57 |" in shown["preview"]


def test_days_are_materialised_by_month(crypto: Installation) -> None:
    run = crypto.materialise("2026-04", "2026-06", table="crypto/ohlcv_day")
    assert run.success
    assert run.green == set(CHECKS)
    rows = {key: cell["rows"] for (symbol, key), cell in crypto.manifest(Interval.DAY).items() if symbol == "BTC"}
    assert rows == {"2026-04": 30, "2026-05": 31, "2026-06": 9}


def test_a_single_partition_runs_like_a_range_of_one(crypto: Installation) -> None:
    run = crypto.job("crypto_minute_refresh", {"dagster/partition": DAYS[0]})
    assert run.success
    assert run.materialised == DAYS[:1]
    assert run.checks["gaps"].passed
    assert run.checks["gaps"].metadata["expected"].value == 3 * 1440


def test_a_run_may_be_told_some_symbols_only(crypto: Installation) -> None:
    crypto.materialise(DAYS[0], symbols=["ETH"])
    assert {symbol for symbol, _ in crypto.manifest()} == {"ETH"}
    assert all("/ETH-USD/" in path for path in crypto.paths())


def test_a_partition_is_materialised_only_when_all_enabled_symbols_are_accounted_for(crypto: Installation) -> None:
    crypto.materialise(DAYS[0])
    run = crypto.materialise(DAYS[0], DAYS[1], symbols=["ETH"])
    assert run.success
    assert run.materialised == DAYS[:1]
    assert run.metadata(DAYS[0])["symbols"] == 3
    assert crypto.manifest()["ETH", DAYS[1]]["complete"]
    assert {check for (check, key), each in run.verdicts.items() if key == DAYS[1] and each.passed} >= set(BY_PARTITION)
    assert crypto.planned_checks() == []
    rest = crypto.materialise(DAYS[1], symbols=["BTC", "AAVE"])
    assert rest.materialised == DAYS[1:2]


def test_one_poisoned_day_fails_alone_and_is_the_only_red_one(crypto: Installation) -> None:
    days = [f"2026-06-0{day}" for day in range(1, 8)]
    poisoned, good = days[3], days[:3] + days[4:]
    crypto.exchange.fault(
        kind="outage", vendor="coinbase", symbol="ETH", start=at(poisoned), end=at(poisoned) + timedelta(days=1)
    )
    run = crypto.materialise(days[0], days[-1], retry=False)
    assert not run.success
    assert run.materialised == good
    assert run.failed_cells == {(poisoned, "ETH"): "vendor_unavailable"}
    assert {cell for cell, row in crypto.manifest().items() if not row["complete"]} == {("ETH", poisoned)}
    assert crypto.red_checks() == {("gaps", poisoned)}
    assert run.verdicts["gaps", poisoned].severity is dg.AssetCheckSeverity.ERROR
    assert crypto.planned_checks() == []
    crypto.exchange.clear()
    crypto.exchange.reset_requests()
    again = crypto.materialise(poisoned)
    assert again.materialised == [poisoned]
    assert all("/ETH-USD/" in path for path in crypto.paths())
    assert crypto.red_checks() == set()


def test_a_session_that_has_not_opened_fails_alone(crypto: Installation) -> None:
    run = crypto.materialise(DAYS[1], "2026-06-11")
    assert not run.success
    assert run.materialised == DAYS[1:]
    assert run.failure.description == (
        "2026-06-11 opens at 2026-06-11 00:00 UTC; ask for it after that; 2 of 3 partitions were materialised"
    )
    assert crypto.planned_checks() == []


def test_an_empty_answer_for_a_closed_day_is_no_success(crypto: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    crypto.materialise("2026-06-07")
    crypto.exchange.fault(kind="missing", vendor="coinbase", symbol="BTC", start=at(DAYS[0]), end=at(DAYS[1]))
    run = crypto.materialise(DAYS[0], DAYS[1])
    assert not run.success
    assert run.happened(dg.DagsterEventType.STEP_UP_FOR_RETRY) == 0
    assert run.failed_cells == {(DAYS[0], "BTC"): "empty_answer"}
    assert run.materialised == DAYS[1:2]
    assert crypto.red_checks() == {("gaps", DAYS[0])}
    # Asked again after an hour, the vendor has nothing again: that settles it.
    stop_time(monkeypatch, NOW + timedelta(hours=1, minutes=1))
    assert crypto.materialise(DAYS[0]).materialised == DAYS[:1]
    assert crypto.red_checks() == {("gaps", DAYS[0])}


def test_a_run_told_an_unknown_symbol_fails_before_anything_is_fetched(crypto: Installation) -> None:
    run = crypto.materialise(DAYS[0], symbols=["ETH", "NOPE"])
    assert not run.success
    assert run.materialised == []
    assert crypto.paths() == []


def test_a_second_run_of_whole_days_asks_and_writes_nothing(crypto: Installation) -> None:
    crypto.materialise(DAYS[0], DAYS[1])
    before, snapshots = crypto.manifest(), crypto.query("SELECT count(*) AS n FROM ducklake_snapshots('lake')")
    crypto.exchange.reset_requests()
    run = crypto.materialise(DAYS[0], DAYS[1])
    assert run.success
    assert crypto.exchange.requests() == []
    assert crypto.manifest() == before
    assert crypto.query("SELECT count(*) AS n FROM ducklake_snapshots('lake')") == snapshots
    assert run.metadata(DAYS[0])["rows_written"] == 0
    assert run.green >= {"schema", "checksum", "gaps", "duplicates"}


def test_a_second_run_of_the_running_day_asks_for_the_newest_bar_only(
    crypto: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    crypto.materialise(DAYS[2])
    crypto.exchange.reset_requests()
    assert crypto.materialise(DAYS[2]).metadata(DAYS[2])["rows_written"] == 0
    assert len(crypto.paths()) <= 3
    later = NOW + timedelta(minutes=5)
    crypto.exchange.clock(later)
    stop_time(monkeypatch, later)
    crypto.materialise(DAYS[2])
    cell = crypto.manifest()["BTC", DAYS[2]]
    assert (cell["rows"], cell["revision"]) == (723, 2)


def test_a_symbol_that_the_first_vendor_lacks_comes_from_the_next(crypto: Installation) -> None:
    for name, spelling in (("DROPPED", {"coinbase": "NOPE-USD", "kraken": "XBTUSD"}), ("ABSENT", {"kraken": "ETHUSD"})):
        symbols.add(
            crypto.platform.ledger, crypto.market, name, NOW, name=name, base=name, vendor_symbols=spelling
        )  # fmt: skip
    run = crypto.materialise(DAYS[2])
    assert run.success
    assert run.green == set(CHECKS)
    manifest = crypto.manifest()
    assert {symbol: manifest[symbol, DAYS[2]]["vendor"] for symbol in ("BTC", "DROPPED", "ABSENT")} == {
        "BTC": "coinbase",
        "DROPPED": "kraken",
        "ABSENT": "kraken",
    }
    assert manifest["DROPPED", DAYS[2]]["rows"] == 718


def test_a_vendor_down_for_one_symbol_fails_the_run_and_keeps_the_others(crypto: Installation) -> None:
    crypto.materialise(DAYS[0])
    crypto.exchange.fault(kind="outage", vendor="coinbase", symbol="ETH")
    run = crypto.materialise(DAYS[0], DAYS[1], retry=False)
    assert not run.success
    assert run.failed == {"ETH": "vendor_unavailable"}
    assert "ETH (vendor_unavailable)" in run.failure.description
    assert run.failure.description.endswith(
        "could not be accounted for in 2026-06-09; 1 of 2 partitions were materialised"
    )
    assert "503" in run.failure.metadata["details"].value
    manifest = crypto.manifest()
    assert manifest["BTC", DAYS[1]]["complete"]
    assert manifest["AAVE", DAYS[1]]["complete"]
    assert (manifest["ETH", DAYS[1]]["rows"], manifest["ETH", DAYS[1]]["complete"]) == (0, False)
    # The day in which every symbol is accounted for is materialised all the same.
    assert run.materialised == DAYS[:1]
    crypto.exchange.clear()
    assert crypto.materialise(DAYS[0], DAYS[1]).success


@pytest.mark.parametrize("symbol", ["AAVE", "ETH"])
def test_a_symbol_that_fails_takes_no_other_with_it_and_is_soon_let_be(crypto: Installation, symbol: str) -> None:
    crypto.exchange.fault(kind="outage", vendor="coinbase", symbol=symbol)
    run = crypto.materialise("2026-05-11", "2026-05-30", retry=False)
    assert run.failed == {symbol: "vendor_unavailable"}
    assert sum(cell["complete"] for cell in crypto.manifest().values()) == 40
    # Twenty days are 96 pages. Those on the way when the first one fails, and when two days asked for by themselves
    # fail as well, are lost; the others need not be sent.
    assert sum(f"/{symbol}-USD/" in path for path in crypto.paths()) <= 12


@pytest.mark.usefixtures("no_waiting")
def test_a_passing_failure_is_tried_again_by_dagster(crypto: Installation) -> None:
    crypto.exchange.fault(kind="outage", vendor="coinbase", symbol="ETH", times=1)
    run = crypto.materialise(DAYS[0])
    assert run.success
    assert run.happened(dg.DagsterEventType.STEP_UP_FOR_RETRY) == 1
    assert crypto.manifest()["ETH", DAYS[0]]["complete"]


@pytest.mark.usefixtures("no_waiting")
def test_a_failure_that_does_not_pass_is_given_up_after_the_retries(crypto: Installation) -> None:
    crypto.exchange.fault(kind="outage", vendor="coinbase", symbol="ETH")
    run = crypto.materialise(DAYS[0])
    assert not run.success
    assert run.happened(dg.DagsterEventType.STEP_UP_FOR_RETRY) == 2
    assert run.failed == {"ETH": "vendor_unavailable"}


@pytest.mark.usefixtures("no_waiting")
def test_a_symbol_unknown_to_every_vendor_is_not_tried_again(crypto: Installation) -> None:
    spelling = {"coinbase": "NOPE-USD", "kraken": "NOPEUSD"}
    symbols.add(crypto.platform.ledger, crypto.market, "NOPE", NOW, name="No", base="NOPE", vendor_symbols=spelling)
    run = crypto.materialise(DAYS[2])
    assert not run.success
    assert run.happened(dg.DagsterEventType.STEP_UP_FOR_RETRY) == 0
    assert run.failed == {"NOPE": "bad_symbol"}
    assert crypto.manifest()["BTC", DAYS[2]]["rows"] == 718


@pytest.mark.usefixtures("no_waiting")
def test_a_vendor_that_is_down_is_tried_again_though_the_next_lacks_the_symbol(crypto: Installation) -> None:
    spelling = {"coinbase": "BTC-USD", "kraken": "NOPEUSD"}
    symbols.add(crypto.platform.ledger, crypto.market, "ONE", NOW, name="One", base="ONE", vendor_symbols=spelling)
    crypto.exchange.fault(kind="outage", vendor="coinbase", symbol="BTC", times=1)
    run = crypto.materialise(DAYS[2], symbols=["ONE"])
    assert run.success


def test_a_long_silence_turns_the_gaps_check_yellow_with_a_table(
    crypto: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    crypto.exchange.fault(
        kind="missing", vendor="coinbase", symbol="BTC", start=at("2026-06-08T10:00"), end=at("2026-06-08T10:40")
    )
    run = crypto.materialise(DAYS[0], DAYS[2])
    assert run.success
    assert run.green == set(CHECKS) - {"gaps"}
    assert run.checks["gaps"].severity is dg.AssetCheckSeverity.WARN
    (gap,) = run.worst("gaps")
    assert (gap["symbol"], gap["missing"]) == ("BTC", 40)
    assert (gap["first"], gap["last"]) == ("2026-06-08T10:00:00Z", "2026-06-08T10:39:00Z")
    assert run.metadata(DAYS[0])["coverage_pct"] < 100
    # The vendor has found its bars again, and the hour for a second look has passed.
    crypto.exchange.clear()
    stop_time(monkeypatch, NOW + timedelta(hours=1, minutes=1))
    healed = crypto.materialise(DAYS[0])
    assert healed.checks["gaps"].passed
    assert crypto.manifest()["BTC", DAYS[0]]["complete"]


def test_more_than_a_twentieth_missing_turns_the_gaps_check_red(crypto: Installation) -> None:
    crypto.exchange.fault(
        kind="missing", vendor="coinbase", symbol="BTC", start=at("2026-06-08T10:00"), end=at("2026-06-08T11:20")
    )
    run = crypto.materialise(DAYS[0])
    assert run.success
    assert run.checks["gaps"].severity is dg.AssetCheckSeverity.ERROR
    assert not run.checks["gaps"].passed
    assert run.worst("gaps")[0]["coverage_pct"] == 94.44


def test_a_bad_bar_is_quarantined_and_its_neighbours_are_published(crypto: Installation) -> None:
    crypto.exchange.fault(
        kind="bad_bar", vendor="coinbase", symbol="BTC", start=at("2026-06-08T10:00"), defect="high_below_low"
    )
    run = crypto.materialise(DAYS[0])
    assert run.success
    (bad,) = crypto.query("SELECT symbol, reason, published, vendor, raw_id, bucket_start FROM lake.quarantine")
    assert (bad["symbol"], bad["reason"], bad["published"], bad["vendor"]) == ("BTC", "bad_ohlc", False, "coinbase")
    assert bad["bucket_start"] == at("2026-06-08T10:00")
    assert crypto.query("SELECT count(*) AS n FROM lake.raw_objects WHERE id = ?", [bad["raw_id"]]) == [{"n": 1}]
    assert crypto.manifest()["BTC", DAYS[0]]["rows"] == 1439
    assert run.green >= {"schema", "checksum", "duplicates"}
    assert run.worst("gaps")[0]["first"] == run.worst("gaps")[0]["last"] == "2026-06-08T10:00:00Z"


def test_a_late_correction_becomes_revision_two_when_forced(crypto: Installation) -> None:
    first = crypto.materialise(DAYS[0])
    bucket = at("2026-06-08T10:00")
    of_bar = "FROM {} WHERE symbol = 'BTC' AND bucket_start = make_timestamptz(?)"
    where = [int(bucket.timestamp() * 1e6)]
    (old,) = crypto.query(f"SELECT * {of_bar.format('lake.crypto.ohlcv_minute')}", where)
    crypto.exchange.fault(kind="correction", vendor="coinbase", symbol="BTC", start=bucket, factor=1.01)
    crypto.materialise(DAYS[0])
    assert crypto.manifest()["BTC", DAYS[0]]["revision"] == 1
    second = crypto.materialise(DAYS[0], force=True)
    assert second.success
    assert second.green >= {"schema", "checksum", "gaps", "duplicates"}
    manifest = crypto.manifest()
    assert (manifest["BTC", DAYS[0]]["revision"], manifest["ETH", DAYS[0]]["revision"]) == (2, 1)
    (new,) = crypto.query(f"SELECT * {of_bar.format('lake.crypto.ohlcv_minute')}", where)
    assert new["close"] == pytest.approx(old["close"] * 1.01, abs=0.01)
    assert (new["run_id"], old["run_id"]) == (second.result.run_id, first.result.run_id)
    (kept,) = crypto.query(f"SELECT * {of_bar.format('lake.bar_revisions')}", where)
    assert {name: kept[name] for name in old if name != "published_at"} | {"published_at": kept["valid_from"]} == old
    assert (kept["revision"], kept["superseded_by_run"]) == (1, second.result.run_id)
    assert kept["superseded_at"] == new["published_at"] > old["published_at"] >= NOW
    assert kept["cause"] == "late_correction"


def test_archive_files_and_their_tail_by_request_make_one_market_of_its_own(
    install: Install, exchange: Exchange
) -> None:
    both = install(markets=("crypto", "crypto_usdt"))
    for name in both.settings.markets:
        both.enable_only("BTC", "ETH", of=name)
    run = both.materialise(DAYS[1], DAYS[2], table="crypto_usdt/ohlcv_minute")
    assert run.success
    assert run.green == set(CHECKS)
    manifest = both.manifest(of="crypto_usdt")
    assert {key: cell["vendor"] for (symbol, key), cell in manifest.items() if symbol == "BTC"} == {
        DAYS[1]: "binance_archive",
        DAYS[2]: "binance",
    }
    assert manifest["BTC", DAYS[2]]["rows"] == 718
    asked = exchange.counts()
    assert asked["binance_archive"] == {"200": 4}
    assert set(asked) == {"binance_archive", "binance"}
    both.materialise(DAYS[1], DAYS[2])
    # The same minutes of the same symbols, but each market in its own currency and from its own vendors.
    (joined,) = both.query(
        "SELECT count(*) AS n, count(*) FILTER (u.close = t.close) AS equal,"
        " list_sort(list(DISTINCT u.source_vendor)) AS dollars, list_sort(list(DISTINCT t.source_vendor)) AS tethers"
        " FROM lake.crypto.ohlcv_minute u JOIN lake.crypto_usdt.ohlcv_minute t USING (symbol, bucket_start)"
    )
    assert joined["n"] == 2 * (1440 + 718)
    assert joined["equal"] < joined["n"] / 20
    assert joined["dollars"] == ["coinbase"]
    assert joined["tethers"] == ["binance", "binance_archive"]
