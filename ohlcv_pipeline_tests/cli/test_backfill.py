"""`ohlcv backfill`: one Dagster run a table, then nothing to do; failures told in a sentence."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import dagster as dg
import pytest

from ohlcv_pipeline_tests.cli.conftest import END, START, Cli
from ohlcv_pipeline_tests.exchange import Exchange

MINUTES = ("--interval", "minute", "--symbols", "BTC,USDT", "--start", START, "--end", END)
OLD_DAYS = ("--interval", "day", "--symbols", "BTC,ETH", "--start", "2020-01-01", "--end", "2020-02-01")


@pytest.fixture(scope="module")
def minutes(filled: Cli) -> Any:
    """A day of minutes, fetched once; the document that the command printed."""
    ended = filled("backfill", *MINUTES, "--json")
    assert ended.code == 0, ended.err
    return ended.json()


def test_report_counts_every_expected_minute_and_knows_the_declared_outage(minutes: Any) -> None:
    assert [entry["symbol"] for entry in minutes["report"]] == ["BTC", "USDT"]
    for entry in minutes["report"]:
        assert entry["expected_rows"] == 1440
        assert entry["actual_rows"] + entry["no_trades_rows"] + entry["missing_rows"] == 1440
        assert [gap["declared_outage"] for gap in entry["gaps"]] == [True]
        assert len(entry["checksum_sha256"]) == 64
    assert "but for the sandbox's declared outage (90 bars)" in minutes["verdict"]


def test_run_of_some_symbols_is_recorded_in_dagster_with_its_checks(
    filled: Cli, minutes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = minutes["runs"][0]["run_id"]
    key = dg.AssetKey(["crypto", "ohlcv_minute"])
    monkeypatch.setenv("DAGSTER_HOME", str(filled.home / "sandbox" / "dagster"))
    with dg.DagsterInstance.get() as instance:
        run = instance.get_run_by_id(run_id)
        assert run is not None
        assert (run.status, run.job_name) == (dg.DagsterRunStatus.SUCCESS, "crypto_minute_refresh")
        # The other symbols of the day are not accounted for.
        assert instance.get_materialized_partitions(key) == set()
        history = instance.event_log_storage.get_asset_check_execution_history
        for name in ("schema", "checksum", "gaps", "duplicates", "freshness"):
            found = history(dg.AssetCheckKey(key, name), limit=10)
            assert any(record.run_id == run_id and record.evaluation is not None for record in found), name


def test_second_backfill_asks_no_vendor_and_starts_no_run(filled: Cli, minutes: Any) -> None:
    requests, runs = filled.requests(), filled.runs()
    ended = filled.here("backfill", *MINUTES, "--json")
    assert ended.code == 0
    assert ended.json()["runs"] == []
    assert ended.json()["report"] == minutes["report"]
    assert "no run was started" in ended.err
    assert (filled.requests(), filled.runs()) == (requests, runs)


def test_force_fetches_everything_again_and_changes_nothing(filled: Cli, minutes: Any) -> None:
    requests = filled.requests()
    ended = filled.here("backfill", *MINUTES, "--force", "--json")
    assert ended.code == 0
    assert filled.requests() > requests
    assert ended.json()["report"] == minutes["report"]


def test_dry_run_sends_nothing_and_starts_no_run(cli: Cli) -> None:
    requests = cli.requests()
    ended = cli.here("backfill", "--dry-run", "--json")
    assert ended.code == 0
    plans = {plan["asset"]: plan for plan in ended.json()["plans"]}
    minutes, sessions = plans["crypto/ohlcv_minute"], plans["us_equities/ohlcv_minute"]
    assert plans["crypto/ohlcv_day"]["symbols"] == minutes["symbols"]
    assert minutes["partitions"] == 91
    assert 60 <= sessions["partitions"] <= 65
    # 300 bars a page: 90 days of minutes are at least 432 pages a symbol.
    assert minutes["vendors"][0]["requests"] >= 4320
    assert minutes["vendors"][0]["seconds_at_limit"] is None
    assert cli.requests() == requests
    assert cli.runs() == []


def test_dry_run_estimates_the_time_under_a_limit(cli: Cli) -> None:
    limited = cli.using(OHLCV_VENDORS__COINBASE__REQUESTS_PER_SECOND="5", OHLCV_VENDORS__COINBASE__BURST="5")
    ended = limited.here("backfill", "--dry-run", "--interval", "day", "--symbols", "BTC,ETH", "--json")
    (vendor,) = ended.json()["plans"][0]["vendors"]
    assert vendor["seconds_at_limit"] == round((vendor["requests"] - 5) / 5, 1)


def test_all_symbols_failing_exits_1_and_some_exits_2(cli: Cli, faulty: Exchange) -> None:
    once = cli.using(OHLCV_VENDORS__COINBASE__ATTEMPTS="1", OHLCV_VENDORS__KRAKEN__ATTEMPTS="1")
    faulty.fault(kind="outage", vendor="coinbase", symbol="BTC")
    some = once.here("backfill", *OLD_DAYS)
    assert some.code == 2, some.err
    assert "BTC (vendor_unavailable) could not be accounted for" in some.err
    faulty.fault(kind="outage", vendor="coinbase", symbol="ETH")
    every = once.here("backfill", *OLD_DAYS, "--force", "--json")
    assert every.code == 1
    assert every.json()["runs"][0]["failed"] == {"BTC": "vendor_unavailable", "ETH": "vendor_unavailable"}
    assert "Traceback" not in some.err + every.err


def test_sandbox_that_is_away_is_told_in_one_sentence(cli: Cli) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        away = cli.using(OHLCV_SANDBOX_URL=f"http://127.0.0.1:{taken.getsockname()[1]}")
        ended = away.here("backfill", *OLD_DAYS)
    assert ended.code == 1
    assert ended.out == ""
    assert "no sandbox answers" in ended.err
    assert "Traceback" not in ended.err
    assert cli.runs() == []


def test_dagster_home_of_the_user_keeps_its_own_configuration(cli: Cli) -> None:
    own = cli.home / "own"
    own.mkdir(parents=True)
    (own / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    ended = cli.using(DAGSTER_HOME=str(own))("backfill", *OLD_DAYS)
    assert ended.code == 0, ended.err
    assert (own / "dagster.yaml").read_text() == "telemetry:\n  enabled: false\n"
    assert (own / "history" / "runs.db").exists() or any(os.scandir(own))


def test_interrupted_it_says_so_and_stops(cli: Cli) -> None:
    command = [sys.executable, "-m", "ohlcv_pipeline.cli", "backfill", "--interval", "minute"]
    process = subprocess.Popen(command, env=cli.environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    before = cli.requests()
    while cli.requests() == before and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode != 0, err
    assert out == ""
    assert "interrupted" in err
    assert "Traceback" not in err
