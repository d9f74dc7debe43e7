"""Benchmarks of small pieces that are paid often: the ledger's opening, a backfill's outcomes, the sandbox's series."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ohlcv_pipeline.ledger import outcomes
from ohlcv_pipeline.ledger.database import Ledger, open_ledger
from ohlcv_pipeline.sandbox.series import Series
from ohlcv_pipeline.vendors.transport import Outcome
from ohlcv_pipeline_tests.benchmarks.table import Row

NOW = datetime(2025, 11, 21, tzinfo=UTC)
DAY = 86_400


def _median(work: Callable[[], object], times: int = 5) -> float:
    spent = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        spent.append(time.perf_counter() - begun)
    return statistics.median(spent)


def opening(url: str) -> Row:
    """Opening a ledger that is current, its modules being loaded."""
    return Row("opening a current ledger", _median(lambda: open_ledger(url).close()) * 1e3, "ms", must=150, aim=20)


def storing(ledger: Ledger) -> Row:
    """The outcomes of the demo's backfill, in one transaction."""
    batch = [Outcome("kraken", NOW + timedelta(seconds=i), 0.1, 200, "ok", 1 + i % 5, 20_000) for i in range(4_400)]
    spent = _median(lambda: outcomes.append(ledger, batch))
    return Row("storing the outcomes of 4,400 requests", spent * 1e3, "ms", must=200, aim=100)


def imitating() -> Row:
    """A symbol's days of three years, as the sandbox makes them."""
    series, end = Series(7), int(NOW.timestamp())
    series.bars("coinbase", "BTC", DAY, end, end + DAY, NOW.timestamp() + DAY)
    spent = _median(lambda: Series(7).bars("coinbase", "BTC", DAY, end - 3 * 365 * DAY, end, NOW.timestamp()))
    return Row("the sandbox's bar of a symbol and day", spent / (3 * 365) * 1e3, "ms", must=0.5, aim=0.1)


def rows(path: Path) -> list[Row]:
    """All of them."""
    path.mkdir(parents=True)
    url = f"sqlite:///{path / 'ledger.sqlite'}"
    ledger = open_ledger(url)
    try:
        return [opening(url), storing(ledger), imitating()]
    finally:
        ledger.close()
