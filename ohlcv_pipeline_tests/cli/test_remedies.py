"""`ohlcv backfill plan | run | status` and `ohlcv report`: the plan of remediation, seen and driven by hand."""

from __future__ import annotations

from typing import Any

import pytest

from ohlcv_pipeline_tests.cli.conftest import Cli, Exchange

DAYS = ("--market", "crypto", "--interval", "day")
FEW = {"OHLCV_VENDORS__COINBASE__ATTEMPTS": "1", "OHLCV_VENDORS__KRAKEN__ATTEMPTS": "1"}


@pytest.fixture
def small(cli: Cli) -> Cli:
    """A market of two symbols."""
    for symbol in ("SOL", "USDC", "USDT", "AAVE", "LINK", "DOGE", "BNB", "XRP"):
        assert cli.here("symbols", "disable", symbol, "--market", "crypto").code == 0
    return cli.using(**FEW)


def plan_of(cli: Cli) -> Any:
    ended = cli.here("backfill", "plan", *DAYS, "--json")
    assert ended.code == 0, ended.err
    (plan,) = ended.json()["plans"]
    return plan


def test_what_plan_shows_run_does_and_report_tells(small: Cli) -> None:
    sent = small.requests()
    plan = plan_of(small)
    (request,) = plan["requests"]
    assert (request["symbols"], request["force"], plan["holes"]) == (["BTC", "ETH"], False, 2)
    assert small.here("backfill", "run", *DAYS, "--dry-run", "--json").json()["plans"] == [plan]
    assert (small.requests(), small.runs()) == (sent, [])
    ended = small("backfill", "run", *DAYS, "--json")
    assert ended.code == 0, ended.err
    document = ended.json()
    assert (document["status"], document["resolved"], document["holes_left"], document["busy"]) == ("success", 2, 0, [])
    (run,) = document["runs"]
    assert (run["trigger"], run["attempt"], len(run["report"])) == ("manual", 1, 2)
    assert len(small.runs()) == 1
    assert plan_of(small)["requests"] == []
    again = small.here("backfill", "run", *DAYS)
    assert (again.code, len(small.runs())) == (0, 1)
    assert "0 entries resolved, 0 gaps left." in again.out
    reported = small.here("report", run["id"], "--json")
    assert (reported.code, reported.json()) == (0, run)
    assert "BTC" in small.here("report", run["id"]).out
    status = small.here("backfill", "status", "--json").json()
    assert [each["id"] for each in status["ended"]] == [run["id"]]
    assert (status["running"], status["open"], status["success_rate"], status["runs"]) == ([], [], 1.0, 2)
    assert run["id"] in small.here("backfill", "status", *DAYS).out


def test_what_stays_away_is_partial_and_listed(small: Cli, faulty: Exchange) -> None:
    faulty.fault(kind="outage", vendor="coinbase", symbol="ETH")
    ended = small("backfill", "run", *DAYS, "--json")
    assert ended.code == 2, ended.err
    (run,) = ended.json()["runs"]
    assert [each["status"] for each in run["report"]] == ["success", "partial"]
    assert small.here("report", run["id"]).code == 2
    told = small.here("backfill", "status", *DAYS)
    assert "ETH" in told.out
    assert "vendor_unavailable" in told.out
    faulty.clear()
    (request,) = plan_of(small)["requests"]
    assert request["symbols"] == ["ETH"]
    assert request["entries"]


def test_every_backfill_of_the_command_line_leaves_its_run(small: Cli) -> None:
    window = ("--start", "2026-10-01", "--end", "2026-11-01")
    ended = small("backfill", *DAYS, *window, "--json")
    assert ended.code == 0, ended.err
    dagster_run = ended.json()["runs"][0]["run_id"]
    told = small.here("report", dagster_run, "--json").json()
    assert (told["id"], told["status"], told["trigger"]) == (dagster_run, "success", "manual")
    assert told["row_count"] == sum(entry["actual_rows"] for entry in ended.json()["report"])
