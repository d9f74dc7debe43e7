from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ohlcv_pipeline.platform import Platform
from ohlcv_pipeline.settings import Settings
from ohlcv_pipeline_tests.contract.line import MARKET_OF, NOW, TODAY, YESTERDAY, Line, alone
from ohlcv_pipeline_tests.exchange import Exchange, running_exchange
from ohlcv_pipeline_tests.kept import put_empty_lake

MARKETS = ("crypto", "crypto_usdt")


@pytest.fixture(scope="session")
def running() -> Iterator[Exchange]:
    with running_exchange(now=NOW) as exchange:
        yield exchange


@pytest.fixture
def exchange(running: Exchange) -> Iterator[Exchange]:
    running.reset_requests()
    yield running
    running.clear()
    for vendor in ("coinbase", "kraken", "binance"):
        running.limits(vendor, enabled=False)
    running.clock(NOW)


MakeLine = Callable[..., Line]


@pytest.fixture
def make_line(tmp_path: Path, exchange: Exchange) -> Iterator[MakeLine]:
    """Make a platform with a lake of its own; keyword arguments are settings."""
    made: list[Line] = []

    def make(**given: Any) -> Line:
        chosen = {"home": tmp_path / f"home{len(made)}", "sandbox_url": exchange.url, "markets": MARKETS, **given}
        settings = Settings(_env_file=None, **chosen)  # type: ignore[arg-type]
        put_empty_lake(settings.root / "lake", settings.markets)
        made.append(Line(Platform(settings), exchange))
        return made[-1]

    yield make
    for each in made:
        each.platform.store.catalog.close()


@pytest.fixture
def line(make_line: MakeLine) -> Line:
    return make_line()


Undisturbed = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="session")
def undisturbed(running: Exchange, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Give the bars of BTC that a vendor delivers when nothing is wrong; ask before a fault is switched on."""
    known: dict[str, list[dict[str, Any]]] = {}

    def bars(vendor: str) -> list[dict[str, Any]]:
        if vendor not in known:
            home = tmp_path_factory.mktemp(f"undisturbed-{vendor}")
            settings = Settings(_env_file=None, home=home, markets=(MARKET_OF[vendor],), sandbox_url=running.url)  # type: ignore[call-arg]
            line = Line(Platform(settings), running)
            day = YESTERDAY if vendor == "binance_archive" else TODAY
            known[vendor] = line.deliver("BTC", day, **alone(vendor)).bars
            line.platform.store.catalog.close()
        return known[vendor]

    return bars
