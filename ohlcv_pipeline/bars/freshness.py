"""How far a series is behind, in the time of its market: nights, weekends and holidays add nothing.

Pure arithmetic on the calendar. Who is told about it, and when, is decided elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ohlcv_pipeline.markets import DAY_US, MINUTE_US, Calendar, Instrument, Interval, Market, from_us, to_us

GRACE_MINUTES = 60.0
"""For how long after it was enabled a series is not called stale: its history is only being fetched."""


@dataclass(frozen=True)
class Freshness:
    """The lag of one series in minutes, and whether that is too much. No lag without anything to measure from."""

    lag_minutes: float | None
    stale: bool


def open_minutes(calendar: Calendar, start_us: int, end_us: int) -> float:
    """Return how many minutes of [start, end) lie inside sessions."""
    part = calendar.sessions(start_us, end_us)
    opens = np.maximum(calendar.opens[part], start_us)
    closes = np.minimum(calendar.closes[part], end_us)
    return float(np.maximum(closes - opens, 0).sum() / MINUTE_US)


def freshness(
    market: Market,
    interval: Interval,
    instrument: Instrument,
    newest_us: int | None,
    now_us: int,
    threshold_minutes: float,
) -> Freshness:
    """Judge a series by its newest stored bucket.

    Minutes: the open minutes between the close of the newest bar and now. Days: the minutes since the close
    of the first expected bar that follows the newest one, 0 when there is none. Stale when that is more than
    the threshold; exactly the threshold is fresh. A series without bars is stale once one is expected, and its lag
    counts from when it was enabled. None is stale within `GRACE_MINUTES` of that. After a delisting no lag grows.
    """
    enabled = _minutes_enabled(instrument, now_us)
    if instrument.delisted_at is not None:
        now_us = min(now_us, to_us(instrument.delisted_at))
    grace = enabled is not None and enabled <= GRACE_MINUTES
    if newest_us is None:
        start, _ = market.target_window(interval, from_us(now_us))
        due = len(market.expected(interval, instrument, start, now_us, now_us)) > 0
        return Freshness(enabled, stale=due and not grace)
    if interval is Interval.MINUTE:
        lag = open_minutes(market.calendar, newest_us + MINUTE_US, now_us)
    else:
        lag = _day_lag(market, newest_us, now_us)
    return Freshness(lag, stale=lag > threshold_minutes and not grace)


def stale_from(
    market: Market,
    interval: Interval,
    instrument: Instrument,
    newest_us: int | None,
    now_us: int,
    threshold_minutes: float,
) -> int | None:
    """Return the instant in µs after which a series is stale, if nothing more is stored: `freshness`, inverted.

    It is of a series that is not stale now. None where that never happens, as after a delisting, or where nothing
    tells: without bars, of a symbol for which it is not known when it was enabled.
    """
    calendar, threshold = market.calendar, round(threshold_minutes * MINUTE_US)
    enabled = None if instrument.enabled_at is None else to_us(instrument.enabled_at)
    graceful = None if enabled is None else enabled + round(GRACE_MINUTES * MINUTE_US)
    if newest_us is None:
        return graceful
    if interval is Interval.DAY:
        following = int(np.searchsorted(calendar.labels, newest_us, side="right"))
        if following == len(calendar.labels):
            return None
        instant = int(calendar.closes[following]) + threshold
    else:
        start = newest_us + MINUTE_US
        part = calendar.sessions(start, int(calendar.closes[-1]))
        opens = np.maximum(calendar.opens[part], start)
        open_before = np.cumsum(calendar.closes[part] - opens)
        session = int(np.searchsorted(open_before, threshold, side="right"))
        if session == len(opens):
            return None
        instant = int(opens[session]) + threshold - (int(open_before[session - 1]) if session else 0)
    if enabled is not None and graceful is not None and enabled <= max(instant, now_us):
        instant = max(instant, graceful)
    ended = instrument.delisted_at is not None and instant >= to_us(instrument.delisted_at)
    return None if ended else instant


def _minutes_enabled(instrument: Instrument, now_us: int) -> float | None:
    """Return since how many minutes a symbol is enabled; None when that is unknown, or to come."""
    if instrument.enabled_at is None or to_us(instrument.enabled_at) > now_us:
        return None
    return (now_us - to_us(instrument.enabled_at)) / MINUTE_US


def _day_lag(market: Market, newest_us: int, now_us: int) -> float:
    following = market.buckets(Interval.DAY, newest_us + DAY_US, now_us)
    if not len(following):
        return 0.0
    close = int(market.bucket_closes(Interval.DAY, following[:1])[0])
    return max(0.0, (now_us - close) / MINUTE_US)
