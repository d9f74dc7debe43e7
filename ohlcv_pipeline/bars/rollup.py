"""Bars of longer intervals, computed from minutes when they are read; nothing rolled up is stored.

Buckets are aligned to 1970-01-01T00:00Z, weeks to Monday, as spec'd for markets that never close.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from ohlcv_pipeline.frames import EMPTY_BARS, Micros, bars_from_columns, floats, micros
from ohlcv_pipeline.markets import DAY_US, MINUTE_US, Calendar

WIDTHS: Mapping[str, int] = {
    "5m": 5 * MINUTE_US,
    "15m": 15 * MINUTE_US,
    "30m": 30 * MINUTE_US,
    "1h": 60 * MINUTE_US,
    "4h": 240 * MINUTE_US,
    "1d": DAY_US,
    "1w": 7 * DAY_US,
}
"""Interval code → width in microseconds."""

_MONDAY = 4 * DAY_US  # 1970-01-05


def bucket_of(us: int, code: str) -> int:
    """Return the start of the bucket that holds an instant, both in µs. Raises ValueError for an unknown code."""
    if code not in WIDTHS:
        raise ValueError(f"interval {code!r} is not one of {', '.join(WIDTHS)}")
    origin = _MONDAY if code == "1w" else 0
    return (us - origin) // WIDTHS[code] * WIDTHS[code] + origin


def roll_up(minutes: pa.Table, code: str) -> pa.Table:
    """Return one bar of `BAR_SCHEMA` for each bucket that holds a minute.

    Open is the first minute's, close the last one's, high and low the extremes, volume the sum in minute
    order. `trade_count` is null unless all minutes have one; `vwap` is the volume-weighted mean of the
    minutes' vwap, null unless every minute with volume has one.

    Args:
        minutes: minute bars of one symbol, sorted by `bucket_start`.
        code: an interval of `WIDTHS`.
    """
    width = WIDTHS[code]
    origin = _MONDAY if code == "1w" else 0
    return _fold(minutes, (micros(minutes["bucket_start"]) - origin) // width * width + origin)


def roll_up_sessions(minutes: pa.Table, calendar: Calendar) -> pa.Table:
    """Return one bar for each session that holds a minute, as `roll_up` does, labelled as day bars are.

    `minutes` are bars of one symbol, sorted, all of them in a session.
    """
    session = np.searchsorted(calendar.opens, micros(minutes["bucket_start"]), side="right") - 1
    return _fold(minutes, calendar.labels[session])


def _fold(minutes: pa.Table, starts: Micros) -> pa.Table:
    """Return one bar for each run of equal `starts`, the bucket that each minute belongs to."""
    if not minutes.num_rows:
        return EMPTY_BARS
    first = np.flatnonzero(np.diff(starts, prepend=starts[0] - 1))
    last = np.append(first[1:], len(starts)) - 1
    open_, high, low, close, volume = (floats(minutes[c]) for c in ("open", "high", "low", "close", "volume"))
    summed = np.add.reduceat(volume, first)
    vwap = floats(minutes["vwap"])
    traded = np.add.reduceat(np.where(volume > 0, vwap * volume, 0.0), first)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = traded / summed
    counts = minutes["trade_count"]
    return bars_from_columns(
        starts[first],
        np.vstack(
            [
                open_[first],
                np.maximum.reduceat(high, first),
                np.minimum.reduceat(low, first),
                close[last],
                summed,
            ]
        ),
        trade_count=None if counts.null_count else np.add.reduceat(counts.to_numpy(), first),
        vwap=mean,
    )
