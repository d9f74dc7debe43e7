"""A late correction end to end: the vendor changes history, the job finds it, the command and `as_of` tell of it."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from ohlcv_pipeline.bars.access import Lake
from ohlcv_pipeline_tests.cli.conftest import Cli
from ohlcv_pipeline_tests.integration.conftest import Install
from ohlcv_pipeline_tests.integration.installation import NOW, Installation, stop_time

SESSION = "2026-06-08"
BUCKET = "2026-06-08T10:00:00Z"
LATER = NOW + timedelta(hours=18)


def asked_by_schedule(of: Installation, name: str, at: datetime) -> dict[str, Any]:
    """Return the run configuration that a tick asks for."""
    found = of.definitions.resolve_schedule_def(name)
    (request,) = (
        found.evaluate_tick(dg.build_schedule_context(of.instance, scheduled_execution_time=at)).run_requests or []
    )
    return dict(request.run_config)


def sessions_of(name: str, config: dict[str, Any]) -> dict[str, list[str]]:
    return dict(config["ops"][f"reread_{name}"]["config"])


def test_the_schedule_names_the_sessions_to_read_again(crypto: Installation) -> None:
    config = asked_by_schedule(crypto, "crypto_corrections", datetime.fromisoformat("2026-06-11T05:30:00+00:00"))
    assert sessions_of("crypto", config) == {"look": ["2026-06-10", "2026-06-08"], "whole": ["2026-06-04"]}


def test_a_correction_is_found_by_the_next_run_and_told_with_both_versions(
    crypto: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    crypto.materialise(SESSION, "2026-06-09")
    crypto.materialise("2026-06", table="crypto/ohlcv_day")
    lake = Lake(crypto.platform.reading.reader, [crypto.market])
    window = ("BTC", "1m", SESSION, "2026-06-09")
    before = lake.bars(*window)

    crypto.exchange.fault(kind="correction", vendor="coinbase", symbol="BTC", start=BUCKET, factor=1.01)
    crypto.exchange.clock(LATER)
    stop_time(monkeypatch, LATER)
    config = asked_by_schedule(crypto, "crypto_corrections", datetime.fromisoformat("2026-06-11T05:30:00+00:00"))
    crypto.exchange.reset_requests()
    run = crypto.job("crypto_corrections", config=config)
    assert run.success
    # One request a symbol for all days, and the one session of the one symbol that changed.
    assert len(crypto.paths()) == 3 + 5
    assert run.materialised == ["2026-06", SESSION]

    cli = Cli(crypto.settings.home, crypto.exchange.url)
    ended = cli.here("revisions", "BTC", "--interval", "minute", "--start", SESSION, "--json")
    assert ended.code == 0, ended.err
    (told,) = ended.json()["revisions"]
    assert (told["symbol"], told["bucket_start"], told["cause"]) == ("BTC", BUCKET, "late_correction")
    assert (told["old_vendor"], told["new_vendor"], told["superseded_by_run"]) == (
        "coinbase", "coinbase", run.result.run_id,
    )  # fmt: skip
    now = lake.bars(*window)
    assert told["old_close"] == before.loc[BUCKET, "close"]
    assert told["new_close"] == now.loc[BUCKET, "close"] == pytest.approx(told["old_close"] * 1.01, abs=0.01)
    assert told["superseded_at"].startswith("2026-06-11T06:00:00")
    assert lake.bars(*window, as_of=LATER - timedelta(seconds=1)).equals(before)
    assert lake.bars(*window, as_of=LATER + timedelta(days=1)).equals(now)

    shown = cli.here("revisions", "BTC", "--interval", "minute", "--start", SESSION)
    assert "late_correction" in shown.out
    assert "1 revision." in shown.out
    assert cli.here("revisions", "--since", "2026-06-12", "--start", SESSION).out == "No bar was replaced.\n"
    rows = cli.here("revisions", "--interval", "day", "--start", SESSION, "--csv").out.splitlines()
    assert rows[0].startswith("market,interval,symbol,bucket_start,old_open,new_open")
    assert json.dumps(rows[1:]).count("2026-06-08T00:00:00Z") == 1


def test_an_archive_is_asked_for_the_checksum_of_an_unchanged_file_only(install: Install) -> None:
    usdt = install(markets=("crypto_usdt",))
    usdt.enable_only("BTC", "ETH")
    usdt.materialise(SESSION, table="crypto_usdt/ohlcv_minute")
    usdt.exchange.reset_requests()
    look = {"ops": {"reread_crypto_usdt": {"config": {"look": [SESSION]}}}}
    assert usdt.job("crypto_usdt_corrections", config=look).success
    assert [path.rpartition(".")[2] for path in usdt.paths()] == ["CHECKSUM"] * 2
    usdt.exchange.fault(kind="correction", vendor="binance_archive", symbol="ETH", start=BUCKET, factor=1.01)
    usdt.exchange.reset_requests()
    run = usdt.job("crypto_usdt_corrections", config=look)
    assert run.success
    assert len(usdt.paths()) == 2 + 2
    assert run.materialised == [SESSION]
    (kept,) = usdt.query("SELECT symbol, cause FROM lake.bar_revisions")
    assert kept == {"symbol": "ETH", "cause": "late_correction"}


def test_a_session_that_has_not_ended_is_not_read_again(crypto: Installation) -> None:
    run = crypto.job("crypto_corrections", config={"ops": {"reread_crypto": {"config": {"look": ["2026-06-10"]}}}})
    assert not run.success
    assert "2026-06-10 has not ended yet" in run.failure.description
