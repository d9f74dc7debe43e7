from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import httpx
import pytest

from ohlcv_pipeline.sandbox.app import Config, create_app
from ohlcv_pipeline.sandbox.faults import KINDS
from ohlcv_pipeline_tests.exchange import Exchange
from ohlcv_pipeline_tests.sandbox.asking import at, candles


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"kind": "earthquake", "vendor": "coinbase"}, "kind"),
        ({"kind": "outage"}, "vendor"),
        ({"kind": "outage", "vendor": "bitstamp"}, "vendor"),
        ({"kind": "wrong_pair", "vendor": "coinbase"}, "vendor"),
        ({"kind": "outage", "vendor": "coinbase", "status": 404}, "status"),
        ({"kind": "outage", "vendor": "coinbase", "symbol": "FOO"}, "symbol"),
        ({"kind": "outage", "vendor": "coinbase", "interval": "hour"}, "interval"),
        ({"kind": "outage", "vendor": "coinbase", "times": 0}, "times"),
        ({"kind": "outage", "vendor": "coinbase", "factor": 2}, "factor"),
        ({"kind": "latency", "vendor": "coinbase"}, "seconds"),
        ({"kind": "missing", "vendor": "coinbase", "start": "2026-11-18T10:00:00Z"}, "end"),
        ({"kind": "missing", "vendor": "coinbase", "start": "2026-11-18T10:00", "end": "x"}, "start"),
        ({"kind": "bad_bar", "vendor": "coinbase", "start": "2026-11-18T10:00:00Z", "defect": "odd"}, "defect"),
        ({"kind": "correction", "vendor": "coinbase", "start": "2026-11-18T10:00:00Z", "factor": 2}, "symbol"),
        (
            {
                "kind": "correction",
                "vendor": "coinbase",
                "symbol": "BTC",
                "start": "2026-11-18T10:00:30Z",
                "factor": 2,
            },
            "start",
        ),
        (
            {"kind": "split", "vendor": "coinbase", "symbol": "BTC", "end": "2026-11-18T10:00:00Z", "factor": 0},
            "factor",
        ),
    ],
)
def test_a_wrong_fault_is_refused_with_the_field_and_the_kinds(
    exchange: Exchange, fields: dict[str, object], field: str
) -> None:
    with pytest.raises(ValueError, match=f"^{field}: ") as refusal:
        exchange.fault(**fields)
    assert all(kind in str(refusal.value) for kind in KINDS)
    assert exchange.faults() == []


def test_correction_of_a_minute_without_trades_is_refused(exchange: Exchange) -> None:
    (outage,) = exchange.outages("coinbase", "2026-08-23T00:00:00Z", "2026-11-20T00:00:00Z")
    with pytest.raises(ValueError, match="no trade"):
        exchange.fault(kind="correction", vendor="coinbase", symbol="BTC", start=outage["start"], factor=1.01)


def test_faults_come_alone_or_as_a_list_and_all_or_none(exchange: Exchange) -> None:
    outage = {"kind": "outage", "vendor": "kraken"}
    added = exchange.http.post("/admin/faults", json=[outage, {"kind": "html", "vendor": "coinbase", "times": 2}])
    assert added.status_code == 201
    assert [fault["kind"] for fault in exchange.faults()] == ["outage", "html"]
    assert exchange.http.post("/admin/faults", json=[outage, {"kind": "no"}]).status_code == 400
    assert len(exchange.faults()) == 2
    assert exchange.http.delete("/admin/faults").json() == {"cleared": 2}


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "faults", b"{", 400),
        ("POST", "faults", b"3", 400),
        ("PUT", "limits", b'{"vendor":"binance_archive"}', 400),
        ("PUT", "limits", b'{"vendor":"kraken","rate":0}', 400),
        ("PUT", "limits", b'{"vendor":"kraken","speed":1}', 400),
        ("PUT", "clock", b"{}", 400),
        ("PUT", "clock", b'{"now":"2026-11-20"}', 400),
        ("PUT", "clock", b'{"advance_seconds":"a"}', 400),
        ("GET", "outages", b"", 400),
        ("GET", "requests?vendor=x", b"", 400),
        ("PATCH", "faults", b"", 405),
        ("GET", "weather", b"", 404),
    ],
)
def test_wrong_admin_requests_are_told_why(
    exchange: Exchange, method: str, path: str, body: bytes, status: int
) -> None:
    answer = exchange.http.request(method, f"/admin/{path}", content=body)
    assert answer.status_code == status
    assert len(answer.json()["error"]) > 20


def test_journal_counts_by_vendor_and_status_and_forgets_on_demand(exchange: Exchange) -> None:
    candles(exchange, start=1, end=2)
    candles(exchange, "FOO-USD")
    assert exchange.counts() == {"coinbase": {"200": 1, "404": 1}}
    assert exchange.requests("coinbase")[0] == {
        "time": "2026-11-20T12:00:30Z",
        "vendor": "coinbase",
        "path": "/products/BTC-USD/candles?granularity=60&start=1&end=2",
        "status": 200,
    }
    assert exchange.requests("kraken") == []
    exchange.reset_requests()
    assert exchange.requests() == []


def test_outages_name_vendor_and_inclusive_minutes(exchange: Exchange) -> None:
    found = exchange.outages(None, "2026-08-23T00:00:00Z", "2026-11-21T00:00:00Z")
    assert {outage["vendor"] for outage in found} == {"coinbase", "binance", "binance_archive", "alpaca"}
    for outage in found:
        assert at(outage["end"].removesuffix("Z")) - at(outage["start"].removesuffix("Z")) == 44 * 60


def test_clock_stands_moves_and_returns_to_the_wall(exchange: Exchange) -> None:
    assert exchange.clock() == "2026-11-20T12:00:30Z"
    newest = candles(exchange).json()[0][0]
    assert exchange.clock(advance_seconds=120) == "2026-11-20T12:02:30Z"
    assert candles(exchange).json()[0][0] == newest + 120
    assert exchange.wall_clock() != exchange.clock("2026-11-20T12:00:30Z")


def test_running_bar_grows_into_the_closed_one(exchange: Exchange) -> None:
    start = at("2026-11-20T12:00:00")

    def newest() -> list[Any]:
        return list(candles(exchange, start=start, end=start).json()[0])

    exchange.clock("2026-11-20T12:00:20Z")
    early = newest()
    exchange.clock("2026-11-20T12:00:50Z")
    late = newest()
    exchange.clock("2026-11-20T12:01:00Z")
    closed = newest()
    assert early[3] == late[3] == closed[3]
    assert early[5] < late[5] < closed[5]
    assert closed[1] <= late[1] <= early[1] <= early[2] <= late[2] <= closed[2]


def test_app_serves_in_process() -> None:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(Config(seed=7, now=at("2026-11-20T12:00:30"))))
        async with httpx.AsyncClient(transport=transport, base_url="http://sandbox") as client:
            return await client.get("/admin/health")

    assert asyncio.run(ask()).json() == {"status": "ok", "seed": 7, "now": "2026-11-20T12:00:30Z", "faults": 0}


@pytest.mark.parametrize("arguments", [["--host", "0.0.0.0"], ["--now", "noon"], ["--limits", "maybe"]])
def test_command_line_refuses_what_it_cannot_mean(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ohlcv_pipeline.sandbox", *arguments], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2
    assert arguments[0] in done.stderr
