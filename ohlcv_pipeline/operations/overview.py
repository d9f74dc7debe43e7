"""The status summary: one row for each enabled symbol and interval, from the manifest and the ledger.

It decides what a series shows; lake and ledger are read by `lake.accounts` and `ledger.standing`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import numpy as np

from ohlcv_pipeline.bars.freshness import Freshness, freshness
from ohlcv_pipeline.bars.report import coverage_pct
from ohlcv_pipeline.ledger.standing import Listed, Standing, Waiting
from ohlcv_pipeline.markets import MINUTE_US, Interval, Market, from_us, to_us
from ohlcv_pipeline.operations.holdings import Held, Holdings

MONITOR = "freshness"
"""The monitor whose evaluations the summary speaks of."""

MONITOR_LIMIT = timedelta(minutes=20)
VENDOR_LIMIT = timedelta(minutes=15)
CHANNEL_LIMIT = timedelta(minutes=15)
GRACE = timedelta(minutes=60)
"""How long an enabled symbol may be without any bar before it is stale."""


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
    threshold_minutes: float,
    channels: bool,
) -> Overview:
    """Return the summary at `now`; `channels` tells whether any alert channel is configured."""
    judge = _Judge(holdings, standing, now, threshold_minutes)
    of_market = {market.name: market for market in markets}
    evaluated = standing.evaluated_at
    return Overview(
        generated_at=now,
        last_evaluation_at=evaluated,
        monitor_ok=evaluated is not None and now - evaluated <= MONITOR_LIMIT,
        alert_channel=alert_channel(standing.waiting, now, channels),
        assets=[
            judge.row(of_market[listed.market], interval, listed)
            for listed in standing.listed
            for interval in (Interval.DAY, Interval.MINUTE)
        ],
    )


def alert_channel(waiting: Waiting, now: datetime, channels: bool) -> AlertChannel:
    """Return how the alert channels do, from what waits in the outbox."""
    oldest = None if waiting.oldest is None else now - waiting.oldest
    if not channels:
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
        threshold_minutes: float,
    ) -> None:
        self._holdings, self._standing = holdings, standing
        self._now, self._now_us, self._threshold = now, to_us(now), threshold_minutes
        self._lags: dict[tuple[str, Interval, int], Freshness] = {}

    def row(self, market: Market, interval: Interval, listed: Listed) -> SeriesStatus:
        holdings, ledger = self._holdings[market.name, interval], self._standing
        held = holdings.of(listed.symbol)
        series = (market.name, listed.symbol, str(interval))
        alert, gaps = ledger.alerts.get(series), ledger.open_gaps.get(series, 0)
        if held is None or held.newest is None:
            grace = listed.enabled_at is not None and self._now - listed.enabled_at <= GRACE
            stale, behind = not grace, None
            status = Status.STALE if stale else Status.GAP_DETECTED
        else:
            lag = self._lag(market, interval, held.newest)
            stale, behind = lag.stale, self._behind(market, interval, held.newest, lag)
            status = Status.STALE if stale else Status.GAP_DETECTED if gaps else Status.HEALTHY
        return SeriesStatus(
            asset=listed.symbol,
            market=market.name,
            interval=str(interval),
            coverage_start=None if held is None else _time(held.first_inside),
            coverage_end=None if held is None else _time(held.last_inside),
            coverage_pct=_coverage(holdings, listed, held),
            latest_timestamp=None if held is None else _time(held.newest),
            freshness_minutes=behind,
            status=status,
            is_stale=stale,
            open_gaps=gaps,
            vendor_status=self._vendor(market, listed),
            alert_status=None if alert is None else "cleared" if alert.state == "cleared" else "open",
            last_alerted_at=None if alert is None else alert.alerted_at,
            last_alert_lag_minutes=_rounded(None if alert is None else alert.alerted_lag_minutes),
            last_success_at=ledger.last_success.get(series),
            last_checksum=None if held is None else held.checksum,
        )

    def _lag(self, market: Market, interval: Interval, newest: int) -> Freshness:
        key = (market.name, interval, newest)
        if key not in self._lags:
            anyone = market.instruments[0]
            self._lags[key] = freshness(market, interval, anyone, newest, self._now_us, self._threshold)
        return self._lags[key]

    def _behind(self, market: Market, interval: Interval, newest: int, lag: Freshness) -> float | None:
        """Return the minutes since the close of the newest bar: open ones for minutes, those of the clock for days."""
        if interval is Interval.MINUTE:
            return _rounded(lag.lag_minutes)
        close = int(market.bucket_closes(interval, np.array([newest]))[0])
        return _rounded(max(0.0, (self._now_us - close) / MINUTE_US))

    def _vendor(self, market: Market, listed: Listed) -> str:
        """Return how the first vendor of a symbol does; what is not known any more is not good news."""
        name = next((vendor for vendor in market.vendors if vendor in listed.vendors), market.vendors[0])
        status, checked_at = self._standing.vendors.get(name, ("degraded", self._now))
        return status if self._now - checked_at <= VENDOR_LIMIT else "degraded"


def _coverage(holdings: Holdings, listed: Listed, held: Held | None) -> float | None:
    expected = holdings.expected(listed.listing_start, listed.delisted_at)
    if held is None:
        return 0.0 if expected else None
    return coverage_pct(min(held.present, expected), expected, held.no_trades)


def _time(us: int | None) -> datetime | None:
    return None if us is None else from_us(us)


def _rounded(minutes: float | None) -> float | None:
    return None if minutes is None else round(minutes, 1)
