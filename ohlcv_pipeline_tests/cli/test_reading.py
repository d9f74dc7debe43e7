"""The commands that read: verify, gaps, status, export, checks, maintain, doctor."""

from __future__ import annotations

import csv
import io
import json
import shutil
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from sqlalchemy import update

from ohlcv_pipeline.ledger.database import open_ledger
from ohlcv_pipeline.ledger.models import Symbol
from ohlcv_pipeline_tests.cli.conftest import END, START, Cli

DAYS = ("--start", "2026-10-01", "--end", "2026-11-01")


@pytest.fixture(scope="module")
def stocked(filled: Cli) -> Cli:
    """The filled lake with a day of minutes of BTC."""
    ended = filled.here("backfill", "--interval", "minute", "--symbols", "BTC", "--start", START, "--end", END)
    assert ended.code == 0, ended.err
    return filled


def test_verify_hashes_every_bar_and_file(stocked: Cli) -> None:
    ended = stocked.here("verify", "--json")
    document = ended.json()
    assert ended.code == 0
    assert document["passed"] is True
    assert document["files"] > 0
    assert document["rows"] >= 2 * 31 + 1395


@pytest.mark.parametrize("where", [0.1, 0.5])
def test_one_damaged_byte_makes_verify_exit_1(stocked: Cli, tmp_path: Path, where: float) -> None:
    # The catalog holds the path of its files: the damage is done in place, and undone.
    files = sorted((stocked.home / "sandbox" / "lake" / "data" / "crypto").rglob("*.parquet"))
    whole = tmp_path / "whole.parquet"
    shutil.copyfile(files[0], whole)
    damaged = bytearray(whole.read_bytes())
    damaged[int(len(damaged) * where)] ^= 0xFF
    try:
        files[0].write_bytes(damaged)
        ended, shown = stocked.here("verify", "--json"), stocked.here("verify")
    finally:
        shutil.copyfile(whole, files[0])
    assert ended.code == 1
    assert ended.json()["damaged_files"] == [str(files[0])]
    assert shown.code == 1
    assert files[0].name in shown.out
    assert "Traceback" not in shown.err


def test_status_has_one_row_for_each_symbol_and_interval(stocked: Cli) -> None:
    ended = stocked.here("status", "--symbols", "BTC,ETH", "--json")
    series = {(row["symbol"], row["interval"]): row for row in ended.json()["series"]}
    assert set(series) == {(symbol, interval) for symbol in ("BTC", "ETH") for interval in ("minute", "day")}
    assert series["BTC", "day"]["newest"] == "2026-10-31T00:00:00Z"
    assert series["BTC", "day"]["state"] == "fresh", "nobody is late in the hour after a symbol was enabled"
    assert series["BTC", "day"]["vendor"] == "coinbase"
    assert len(list(csv.DictReader(io.StringIO(stocked.here("status", "--symbols", "BTC", "--csv").out)))) == 2


def test_status_calls_stale_what_is_behind_an_hour_after_it_was_enabled(stocked: Cli) -> None:
    url = f"sqlite:///{stocked.home / 'sandbox' / 'ledger.sqlite'}"
    with closing(open_ledger(url)) as ledger, ledger.write() as session:
        session.execute(update(Symbol).values(enabled_at=datetime(2026, 1, 1, tzinfo=UTC)))
    series = stocked.here("status", "--symbols", "BTC", "--json").json()["series"]
    assert {row["interval"]: row["state"] for row in series} == {"minute": "stale", "day": "stale"}


def test_export_gives_the_same_bars_as_csv_parquet_and_json(stocked: Cli, tmp_path: Path) -> None:
    asked = ("export", "--symbol", "BTC", "--interval", "1h", "--start", START, "--end", END)
    text = stocked.here(*asked)
    assert text.code == 0, text.err
    rows = list(csv.DictReader(io.StringIO(text.out)))
    file = tmp_path / "btc.parquet"
    assert stocked.here(*asked, "--output", str(file)).code == 0
    parquet = pq.read_table(file)
    document = json.loads(stocked.here(*asked, "--format", "json").out)
    assert len(rows) == parquet.num_rows == len(document) == 24
    assert rows[0]["bucket_start"] == document[0]["bucket_start"] == "2026-10-11T00:00:00Z"
    closes = parquet["close"].to_pylist()
    assert [float(row["close"]) for row in rows] == [row["close"] for row in document] == closes


def test_export_of_an_unknown_symbol_is_a_usage_error(stocked: Cli) -> None:
    ended = stocked.here("export", "--symbol", "NOPE", *DAYS)
    assert ended.code == 64
    assert ended.out == ""
    assert "NOPE" in ended.err


def test_checks_go_red_where_coverage_is_below_the_limit(stocked: Cli) -> None:
    ended = stocked.here("checks", "--interval", "day", "--json")
    verdicts = {check["check"]: check for check in ended.json()["tables"][0]["checks"]}
    assert ended.code == 1
    assert verdicts["checksum"]["passed"] is True
    assert (verdicts["gaps"]["passed"], verdicts["gaps"]["severity"]) == (False, "ERROR")


def test_maintain_shows_sizes_then_files_before_and_after(stocked: Cli) -> None:
    sizes = stocked.here("maintain", "--dry-run", "--json")
    assert sizes.code == 0, sizes.err
    assert sizes.json()["parquet_files"] > 0
    done = stocked.here("maintain", "--json")
    assert done.code == 0, done.err
    assert {"files_before", "files_after", "deleted_files", "fingerprint"} <= set(done.json())
    assert stocked.here("verify").code == 0


def test_a_home_without_a_lake_is_told_in_one_sentence(cli: Cli) -> None:
    for command in ("verify", "status", "gaps", "maintain"):
        ended = cli.here(command)
        assert ended.code == 1, command
        assert ended.out == ""
        assert "`ohlcv backfill` makes one" in ended.err
        assert "Traceback" not in ended.err


def test_doctor_is_content_with_a_filled_installation(stocked: Cli) -> None:
    ended = stocked.here("doctor", "--json")
    findings = {finding["what"]: finding for finding in ended.json()["findings"]}
    assert ended.code == 0, findings
    assert {findings[what]["state"] for what in ("lake", "ledger", "sandbox", "dagster.yaml", "Dagster")} == {"ok"}


def test_doctor_fails_and_says_what_to_do_when_the_sandbox_is_away(stocked: Cli) -> None:
    ended = stocked.using(OHLCV_SANDBOX_URL="http://127.0.0.1:9").here("doctor")
    assert ended.code == 1
    assert "ohlcv up" in ended.out
