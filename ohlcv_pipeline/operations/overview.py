"""The status summary: one row for each enabled symbol and interval, from the manifest and the ledger.

It decides what a series shows; lake and ledger are read by `lake.accounts` and `ledger.standing`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import numpy as np

from ohlcv_pipeline.bars.freshness import GRACE_MINUTES, Freshness, freshness
from ohlcv_pipeline.bars.report import coverage_pct
from ohlcv_pipeline.ledger.standing import Standing, Waiting
from ohlcv_pipeline.ledger.vendor_status import UNKNOWN, served
from ohlcv_pipeline.markets import MINUTE_US, Instrument, Interval, Market, from_us, to_us
from ohlcv_pipeline.operations.channels import channels
from ohlcv_pipeline.operations.evaluation import STOPPED_AFTER
from ohlcv_pipeline.operations.holdings import NOTHING, Holdings
from ohlcv_pipeline.settings import Settings

CHANNEL_LIMIT = timedelta(minutes=15)
"""A message that waits for longer means that its channel fails."""


class Status(StrEnum):
    """What a series is; the first that fits."""

    STALE = "stale"
    GAP_DETECTED = "gap_detected"
    HEALTHY = "healthy"


@dataclass(frozen=True)
class SeriesStatus:
    """One row of the summary, as docs/reference/http-api.md has it."""

    asset: str
    market: str
    interval: str
    coverage_start: datetime | None
    coverage_end: datetime | None
    coverage_pct: float | None
    latest_timestamp: datetime | None
    freshness_minutes: float | None
    status: Status
    is_stale: bool
    open_gaps: int
    vendor_status: str
    alert_status: str | None
    last_alerted_at: datetime | None
    last_alert_lag_minutes: float | None
    last_success_at: datetime | None
    last_checksum: str | None


@dataclass(frozen=True)
class AlertChannel:
    """Whether alerts get through."""

    status: str
    pending: int
    oldest_pending_minutes: float | None


@dataclass(frozen=True)
class Overview:
    """The summary at one instant; rows are in order of market, asset and interval."""

    generated_at: datetime
    last_evaluation_at: datetime | None
    monitor_ok: bool
    alert_channel: AlertChannel
    assets: Sequence[SeriesStatus]


def overview(
    markets: Sequence[Market],
    holdings: Mapping[tuple[str, Interval], Holdings],
    standing: Standing,
    now: datetime,
    settings: Settings,
) -> Overview:
    """Return the summary at `now`."""
    judge = _Judge(holdings, standing, now, settings)
    of_market = {market.name: market for market in markets}
    evaluated = standing.evaluated_at
    return Overview(
        generated_at=now,
        last_evaluation_at=evaluated,
        monitor_ok=evaluated is not None and now - evaluated <= STOPPED_AFTER,
        alert_channel=alert_channel(standing.waiting, now, bool(channels(settings))),
        assets=[
            judge.row(of_market[market], interval, instrument)
            for market, instrument in standing.enabled
            for interval in (Interval.DAY, Interval.MINUTE)
        ],
    )


def alert_channel(waiting: Waiting, now: datetime, configured: bool) -> AlertChannel:
    """Return how the alert channels do, from what waits in the outbox and whether any is configured."""
    oldest = None if waiting.oldest is None else now - waiting.oldest
    if not configured:
        status = "off"
    elif waiting.given_up or (oldest is not None and oldest > CHANNEL_LIMIT):
        status = "failing"
    elif waiting.failed:
        status = "retrying"
    else:
        status = "ok"
    minutes = None if oldest is None else round(max(0.0, oldest / timedelta(minutes=1)), 1)
    return AlertChannel(status, waiting.pending, minutes)


class _Judge:
    """Judges series one by one; what series have in common is worked out once."""

    def __init__(
        self,
        holdings: Mapping[tuple[str, Interval], Holdings],
        standing: Standing,
        now: datetime,
        settings: Settings,
    ) -> None:
        self._holdings, self._standing, self._settings = holdings, standing, settings
        self._now, self._now_us = now, to_us(now)
        self._lags: dict[tuple[str, Interval, int], Freshness] = {}

    def row(self, market: Market, interval: Interval, instrument: Instrument) -> SeriesStatus:
        holdings, ledger = self._holdings[market.name, interval], self._standing
        held = holdings.of(instrument.symbol) or NOTHING
        series = (market.name, instrument.symbol, str(interval))
        alert, gaps = ledger.alerts.get(series), ledger.open_gaps.get(series, 0)
        due = holdings.expected(instrument)
        lag = self._lag(market, interval, instrument, held.newest)
        lacking = gaps > 0 or (held.newest is None and due > 0)
        return SeriesStatus(
            asset=instrument.symbol,
            market=market.name,
            interval=str(interval),
            coverage_start=_time(held.first_inside),
            coverage_end=_time(held.last_inside),
            coverage_pct=coverage_pct(min(held.present, due), due, held.no_trades),
            latest_timestamp=_time(held.newest),
            freshness_minutes=self._behind(market, interval, held.newest, lag),
            status=Status.STALE if lag.stale else Status.GAP_DETECTED if lacking else Status.HEALTHY,
            is_stale=lag.stale,
            open_gaps=gaps,
            vendor_status=self._vendor(market, instrument),
            alert_status=None if alert is None else "cleared" if alert.state == "cleared" else "open",
            last_alerted_at=None if alert is None else alert.alerted_at,
            last_alert_lag_minutes=_rounded(None if alert is None else alert.alerted_lag_minutes),
            last_success_at=ledger.last_success.get(series),
            last_checksum=held.checksum,
        )

    def _lag(self, market: Market, interval: Interval, instrument: Instrument, newest: int | None) -> Freshness:
        threshold = self._settings.freshness_threshold(market.name, interval)
        young = instrument.enabled_at is None or self._now - instrument.enabled_at <= timedelta(minutes=GRACE_MINUTES)
        if newest is None or young:
            return freshness(market, interval, instrument, newest, self._now_us, threshold)
        key = (market.name, interval, newest)
        if key not in self._lags:
            self._lags[key] = freshness(market, interval, instrument, newest, self._now_us, threshold)
        return self._lags[key]

    def _behind(self, market: Market, interval: Interval, newest: int | None, lag: Freshness) -> float | None:
        """Return the minutes since the close of the newest bar: open ones for minutes, those of the clock for days."""
        if newest is None:
            return None
        if interval is Interval.MINUTE:
            return _rounded(lag.lag_minutes)
        close = int(market.bucket_closes(interval, np.array([newest]))[0])
        return _rounded(max(0.0, (self._now_us - close) / MINUTE_US))

    def _vendor(self, market: Market, instrument: Instrument) -> str:
        """Return how the first vendor of a symbol does; what is not known any more is not good news."""
        name = next((vendor for vendor in market.vendors if vendor in instrument.vendor_symbols), "")
        status, checked_at = self._standing.vendors.get(name, (UNKNOWN, self._now))
        return served(status, checked_at, self._now)


def _time(us: int | None) -> datetime | None:
    return None if us is None else from_us(us)


def _rounded(minutes: float | None) -> float | None:
    return None if minutes is None else round(minutes, 1)
