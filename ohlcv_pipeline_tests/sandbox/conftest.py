from __future__ import annotations

from collections.abc import Iterator

import pytest

from ohlcv_pipeline_tests.exchange import Exchange, running_exchange

NOW = "2026-11-20T12:00:30Z"


@pytest.fixture(scope="session")
def process() -> Iterator[Exchange]:
    with running_exchange(seed=7, now=NOW) as exchange:
        yield exchange


@pytest.fixture
def exchange(process: Exchange) -> Iterator[Exchange]:
    yield process
    process.clear()
    process.clock(NOW)
    process.reset_requests()
    for vendor in ("coinbase", "kraken", "binance", "alpaca", "tiingo"):
        process.limits(vendor, enabled=False)
