"""Benchmark of healing: from a gap that is there to its entry resolved, by the daemon and its runs alone."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ohlcv_pipeline.ledger import remediation as log
from ohlcv_pipeline_tests.benchmarks.table import Row
from ohlcv_pipeline_tests.integration.services import running_services

LONGEST_SECONDS = 600.0
ONE_TRY = {"OHLCV_VENDORS__COINBASE__ATTEMPTS": "1", "OHLCV_VENDORS__KRAKEN__ATTEMPTS": "1"}


def gap(path: Path) -> Row:
    """From the end of a run to which a vendor did not deliver two hours, to these filled, verified and resolved.

    They are due at once, for they are of yesterday. Everything that `ohlcv up` schedules is switched on.
    """
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    yesterday = today - timedelta(days=1)
    first, end = yesterday + timedelta(hours=6), yesterday + timedelta(hours=8)
    with running_services(path, OHLCV_MARKETS="crypto", OHLCV_SCHEDULES="true", **ONE_TRY) as services:
        services.exchange.fault(kind="outage", vendor="coinbase", symbol="BTC", start=first, end=end)
        days = [yesterday.date().isoformat(), today.date().isoformat()]
        services.launch("crypto_minute_refresh", days, {"retry": False})
        services.exchange.clear()
        due, deadline, healed = datetime.now(UTC), time.monotonic() + LONGEST_SECONDS, None
        while healed is None:
            assert time.monotonic() < deadline, "the gap was not healed"
            time.sleep(0.2)
            entries = log.page(services.platform.ledger, symbol="BTC", interval="minute", issue_type="gap")
            of_gap = (each for each in entries if each.range_start <= first and end <= each.range_end)
            healed = next((each.resolved_at for each in of_gap if each.resolution == "filled"), None)
    return Row("gap injected → refilled, verified, resolved", (healed - due).total_seconds(), "s", must=120, aim=30,
               note="a real daemon with every schedule and sensor; due as the run ends")  # fmt: skip
