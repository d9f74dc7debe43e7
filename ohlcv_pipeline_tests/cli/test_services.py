"""Commands that start processes: up, down, checks --ci, demo."""

from __future__ import annotations

import socket
from pathlib import Path

import httpx
import pytest

from ohlcv_pipeline.cli import processes
from ohlcv_pipeline.cli.processes import free_port, is_free
from ohlcv_pipeline.settings import MAIL_PORT_OFFSET
from ohlcv_pipeline_tests.cli.conftest import Cli


def test_a_port_is_chosen_that_is_free_with_the_one_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert max(processes._PORTS) < 32_768, "from there on, systems take ports for outgoing connections"
    first = free_port(1, 2, 3, 4)
    monkeypatch.setattr(processes, "_PORTS", range(first, first + 3))
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", first))
        other.bind(("127.0.0.1", first + 3))
        assert not is_free(first)
        # The first is taken, and of the second the one beside it.
        assert {free_port(2) for _ in range(20)} == {first + 2}


def test_checks_ci_is_green_without_a_fault(cli: Cli) -> None:
    ended = cli("checks", "--ci", "--json")
    assert ended.code == 0, ended.out + ended.err
    tables = {table["table"]: table for table in ended.json()["tables"]}
    assert set(tables) == {f"{m}/ohlcv_{i}" for m in ("crypto", "us_equities") for i in ("minute", "day")}
    assert all(len(table["checks"]) == 5 for table in tables.values())
    # It has a home and a sandbox of its own.
    assert not cli.home.exists()


@pytest.mark.parametrize(
    "fault",
    [
        '{"kind":"empty","vendor":"coinbase","interval":"minute"}',
        '{"kind":"outage","vendor":"coinbase","interval":"minute","symbol":"BTC"}',
    ],
)
def test_checks_ci_is_red_with_a_fault(cli: Cli, fault: str) -> None:
    ended = cli("checks", "--ci", "--market", "crypto", "--interval", "minute", "--fault", fault)
    assert ended.code == 1, ended.out + ended.err
    assert "ERROR" in ended.out
    assert "Traceback" not in ended.err


@pytest.mark.slow
def test_up_starts_everything_once_and_down_stops_it(tmp_path: Path) -> None:
    sandbox, ui, page = free_port(MAIL_PORT_OFFSET), free_port(), free_port()
    ports = ("--port", str(ui), "--status-port", str(page))
    cli = Cli(tmp_path / "home", f"http://127.0.0.1:{sandbox}").using(OHLCV_SCHEDULES="false")
    try:
        first = cli("up", *ports, "--json")
        assert first.code == 0, first.err
        assert [service["state"] for service in first.json()["services"]] == ["started"] * 3
        assert httpx.get(f"http://127.0.0.1:{ui}/server_info", trust_env=False).is_success
        assert httpx.get(f"http://127.0.0.1:{page}/status/summary", trust_env=False).is_success
        second = cli("up", *ports, "--json")
        assert [service["state"] for service in second.json()["services"]] == ["already running"] * 3
    finally:
        stopped = cli("down", "--json")
    assert stopped.json()["stopped"] == ["status", "dagster", "sandbox"]
    for port in (ui, page):
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}/", trust_env=False)
    assert cli("down").out == "Nothing was running.\n"


def test_a_port_that_is_taken_is_told_in_one_sentence(cli: Cli) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = cli("up", "--port", str(taken.getsockname()[1]))
    assert ended.code == 1
    assert "is taken" in ended.err


@pytest.mark.slow
def test_demo_ends_with_a_full_lake(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "home", f"http://127.0.0.1:{free_port(MAIL_PORT_OFFSET)}")
    try:
        ended = cli("demo", "--no-up")
        assert ended.code == 0, ended.err
        assert "100 % of the" in ended.out
        assert "declared outage" in ended.out
    finally:
        cli("down")
