"""The vendors' request limits, enforced by the sandbox in real seconds and kept by the platform's own sources."""

from __future__ import annotations

import asyncio
from datetime import datetime

import pytest

from ohlcv_pipeline.bars.ingest import Outcome, ingest
from ohlcv_pipeline.bars.planning import Order
from ohlcv_pipeline.markets import Interval, market
from ohlcv_pipeline.settings import VendorSettings
from ohlcv_pipeline_tests.contract.conftest import MakeLine
from ohlcv_pipeline_tests.contract.line import NOW, Line
from ohlcv_pipeline_tests.exchange import Exchange

DAYS = [f"2026-06-{day:02}" for day in range(1, 7)]
RETRY_AFTER = 1.0
"""What the sandbox tells Binance's client, in whole seconds, when half a second would do."""


def deliver(line: Line, name: str, vendor: str, days: list[str] = DAYS) -> Outcome:
    """Ingest some days of one symbol from one vendor, through the platform's own sources and in real time."""
    home = market(name)
    order = Order(home, Interval.MINUTE, [home.instrument("BTC")], days, "00000000-0000-0000-0000-000000000001")

    async def run() -> Outcome:
        async with line.platform.sources(home) as sources:
            return await ingest(order, line.platform.store, {vendor: sources[vendor]}, lambda: NOW, 216_000)

    return asyncio.run(run())


def moments(exchange: Exchange, vendor: str) -> list[tuple[float, int]]:
    """When each request came in, in unix seconds, and how it was answered."""
    return [(datetime.fromisoformat(each["time"]).timestamp(), each["status"]) for each in exchange.requests(vendor)]


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("metered", [False, True], ids=["no_budget", "shared_budget"])
def test_after_a_429_the_vendor_is_left_alone_for_as_long_as_it_asked(
    make_line: MakeLine, exchange: Exchange, concurrency: int, metered: bool
) -> None:
    # Three requests at once and two a second are let through; nine are wanted.
    exchange.wall_clock()
    exchange.limits("binance", rate=4, burst=6)
    budget = {"requests_per_second": 1000.0 if metered else None, "burst": 100, "weight_per_minute": None}
    line = make_line(vendors={"binance": VendorSettings(concurrency=concurrency, **budget)})
    outcome = deliver(line, "crypto_usdt", "binance")
    assert outcome.failed == {}
    assert outcome.rows == 6 * 1440
    came = moments(exchange, "binance")
    refused = [moment for moment, status in came if status == 429]
    assert refused
    for moment in refused:
        # Nothing but what was on its way when the refusal was spoken.
        meanwhile = [other for other, _ in came if moment < other < moment + RETRY_AFTER]
        assert len(meanwhile) < concurrency


def test_our_default_requests_a_second_keep_within_coinbases(make_line: MakeLine, exchange: Exchange) -> None:
    # Burst and rate leave room for requests that the network has held up and delivers together.
    exchange.wall_clock()
    exchange.limits("coinbase", rate=10, burst=15)
    line = make_line(vendors={"coinbase": VendorSettings(requests_per_second=5, burst=5, weight_per_minute=1200)})
    assert deliver(line, "crypto", "coinbase", DAYS[:4]).rows == 4 * 1440
    came = moments(exchange, "coinbase")
    assert [status for _, status in came] == [200] * 20
    assert came[-1][0] - came[0][0] > (20 - 5) / 5 * 0.9


def test_our_weight_a_minute_keeps_within_binances(make_line: MakeLine, exchange: Exchange) -> None:
    exchange.wall_clock()
    exchange.limits("binance", rate=3, burst=20)
    line = make_line(vendors={"binance": VendorSettings(requests_per_second=None, weight_per_minute=110)})
    assert deliver(line, "crypto_usdt", "binance").rows == 6 * 1440
    assert exchange.counts()["binance"] == {"200": 9}


def test_krakens_refusal_inside_a_200_is_waited_out_too(line: Line, exchange: Exchange) -> None:
    exchange.limits("kraken", rate=0.001, burst=1)
    first = line.deliver("ETH", vendors=["kraken"])
    assert first.codes("kraken") == ["ok"]
    told = line.deliver("BTC", vendors=["kraken"])
    assert told.codes("kraken") == ["rate_limited"] * 5
    assert told.failed == {"BTC": "rate_limited"}
    assert told.bars == []
    # To the next whole minute each time, on a clock that only moves with the waits.
    assert told.waits[0] == pytest.approx(30.0, abs=0.01)
    assert all(wait == pytest.approx(60.0, abs=0.01) for wait in told.waits[1:4])
