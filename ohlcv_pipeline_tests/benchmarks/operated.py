"""Benchmarks of alerting: an evaluation of many series, and from a vendor that is cut off to the mail."""

from __future__ import annotations

import statistics
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import update

from ohlcv_pipeline.bars.freshness import GRACE_MINUTES, stale_from
from ohlcv_pipeline.ledger.models import Symbol
from ohlcv_pipeline.markets import Interval, from_us, market, to_us
from ohlcv_pipeline.operations.freshness import monitor
from ohlcv_pipeline.platform import Platform
from ohlcv_pipeline_tests.benchmarks.served import many_series
from ohlcv_pipeline_tests.benchmarks.table import Row
from ohlcv_pipeline_tests.integration.services import running_services

THRESHOLD_MINUTES = 5.0
"""Instead of an hour, so that the benchmark ends; what is measured begins where the threshold is passed."""

LONGEST_SECONDS = 900.0


def evaluating(path: Path) -> Row:
    """One evaluation of 2,000 series, from the manifest to the incidents in the ledger; beside the manifest alone."""
    platform, now = many_series(path, 1_000), datetime.now(UTC)
    monitor(platform, now)
    spent, raw = [], []
    for minutes in range(5):
        begun = time.perf_counter()
        monitor(platform, now + timedelta(minutes=minutes))
        spent.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        platform.reading.reader.newest_of_all()
        raw.append(time.perf_counter() - begun)
    return Row("evaluation of 2,000 series", statistics.median(spent), "s", must=5, aim=1,
               baseline=statistics.median(raw), note="baseline: the manifest's newest buckets alone")  # fmt: skip


def _first_late(platform: Platform) -> datetime:
    """Return when the first series of minutes passes its threshold."""
    crypto = market("crypto")
    newest, enabled = platform.reading.reader.newest_of_each("crypto", Interval.MINUTE), platform.instruments(crypto)
    now = to_us(datetime.now(UTC))
    late = [stale_from(crypto, Interval.MINUTE, i, newest[i.symbol], now, THRESHOLD_MINUTES) for i in enabled]
    return from_us(min(instant for instant in late if instant is not None))


def cut_off(path: Path) -> Row:
    """From the instant at which the first series is too late to its mail, with a real daemon and mail server."""
    threshold = {"OHLCV_FRESHNESS_THRESHOLDS": f"crypto/minute={THRESHOLD_MINUTES:g}"}
    with running_services(path, OHLCV_MARKETS="crypto", OHLCV_SCHEDULES="true", **threshold) as services:
        with services.platform.ledger.write() as session:
            # Of a new symbol nobody is told within the hour; this one is over when the bars are there.
            now = datetime.now(UTC)
            session.execute(update(Symbol).values(enabled_at=now - timedelta(minutes=GRACE_MINUTES - 3)))
        services.launch("crypto_day_refresh", [f"{now:%Y-%m}"], {})
        services.launch("crypto_minute_refresh", [f"{now:%Y-%m-%d}"], {})
        for vendor in ("coinbase", "kraken"):
            services.exchange.fault(kind="outage", vendor=vendor)
        passed, deadline = _first_late(services.platform), time.monotonic() + LONGEST_SECONDS
        while not (mails := services.exchange.mails()):
            assert time.monotonic() < deadline, "no mail was sent"
            time.sleep(0.2)
    seconds = (datetime.fromisoformat(mails[0]["received_at"]) - passed).total_seconds()
    assert seconds > 0, "nothing was late when the mail was sent"
    return Row("vendor cut off → mail in the sink, after the threshold", seconds, "s", must=600, aim=60,
               note=f"a real daemon; the mail: {mails[0]['subject']}")  # fmt: skip
