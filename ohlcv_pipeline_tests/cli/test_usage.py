"""What a user sees who asks for help, or for something that does not exist."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ohlcv_pipeline_tests.cli.conftest import Cli

COMMANDS = (
    "backfill", "checks", "demo", "doctor", "down", "export", "gaps", "maintain", "report", "sandbox", "serve",
    "status", "up", "verify",
)  # fmt: skip


def test_help_waits_for_no_library_that_it_does_not_need() -> None:
    look = "import sys; import ohlcv_pipeline.cli as cli; cli.run(['--help']); print(*sys.modules, sep='\\n')"
    ended = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert "Usage: ohlcv" in ended.stdout
    assert not {"dagster", "pandas", "duckdb", "pyarrow", "sqlalchemy", "fastapi"} & set(ended.stdout.splitlines())


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_by_example(cli: Cli, command: str) -> None:
    ended = cli.here(command, "--help")
    assert ended.code == 0
    assert f"ohlcv {command}" in ended.out.replace("Usage: ohlcv", "", 1)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nonsense"], "nonsense"),
        (["backfill", "--nonsense"], "--nonsense"),
        (["backfill", "--market", "tulips"], "crypto"),
        (["backfill", "--market", "crypto_usdt"], "OHLCV_MARKETS"),
        (["backfill", "--interval", "5m"], "minute, day"),
        (["backfill", "--symbols", "NOPE"], "NOPE"),
        (["backfill", "--start", "2026-10-01T00:00:00"], "time zone"),
        (["backfill", "--start", "soon"], "soon"),
        (["backfill", "--start", "2026-10-02", "--end", "2026-10-01"], "empty"),
        (["backfill", "--interval", "minute", "--start", "2001-01-01"], "2024-01-01"),
        (["backfill", "--market", "crypto", "plan"], "behind plan"),
        (["backfill", "plan", "--market", "tulips"], "crypto"),
        (["report", "nonsense"], "backfill status"),
        (["report", "00000000-0000-0000-0000-000000000000"], "backfill status"),
        (["gaps", "--min-missing", "0"], "min-missing"),
        (["symbols", "enable", "NOPE"], "NOPE"),
        (["checks", "--fault", "{}"], "--ci"),
        (["sandbox", "--limits", "maybe"], "on or off"),
    ],
)
def test_usage_errors_exit_64_with_one_sentence(cli: Cli, arguments: list[str], told: str) -> None:
    ended = cli.here(*arguments)
    assert ended.code == 64, ended.err
    assert ended.out == ""
    assert told in ended.err
    assert "Traceback" not in ended.err


def test_wrong_settings_name_their_variable(cli: Cli) -> None:
    ended = cli.using(OHLCV_MARKETS="tulips").here("status")
    assert ended.code == 64
    assert "OHLCV_MARKETS" in ended.err


def test_symbols_are_added_enabled_and_disabled(cli: Cli) -> None:
    added = cli.here(
        "symbols", "add", "--symbol", "SHIB", "--name", "Shiba Inu", "--vendor", "coinbase=SHIB-USD", "--json"
    )
    assert added.code == 0, added.err
    assert added.json()["symbols"][0]["vendor_symbols"] == {"coinbase": "SHIB-USD"}
    again = cli.here("symbols", "add", "--symbol", "SHIB", "--vendor", "coinbase=SHIB-USD")
    assert (again.code, again.out) == (1, "")
    assert cli.here("symbols", "disable", "SHIB").code == 0
    listed = {row["symbol"]: row for row in cli.here("symbols", "list", "--json").json()["symbols"]}
    assert (listed["SHIB"]["enabled"], listed["BTC"]["enabled"]) == (False, True)
    assert cli.here("symbols", "enable", "SHIB", "--json").json()["symbols"][0]["enabled"] is True
    assert cli.here("symbols", "add", "--symbol", "PEPE", "--vendor", "nyse=PEPE").code == 64


def test_sandbox_faults_are_switched_on_and_off(cli: Cli) -> None:
    fault = '{"kind":"latency","vendor":"kraken","seconds":0}'
    assert cli.here("sandbox", "faults", "--add", fault, "--json").json()["faults"][0]["kind"] == "latency"
    assert cli.here("sandbox", "faults", "--clear").out == "No faults are on.\n"
    assert cli.here("sandbox", "faults", "--add", '{"kind":"no such"}').code == 64
