"""What the vendors of US equities share: New York's clock, its sessions, and weeks of them.

Conversions go by the zone at each instant, never by a fixed offset. The sessions of a market are in `markets`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC
from zoneinfo import ZoneInfo

import numpy as np

from ohlcv_pipeline.frames import Micros
from ohlcv_pipeline.markets import DAY_US, calendar, from_us, to_us

NEW_YORK = ZoneInfo("America/New_York")
CALENDAR = "XNYS"
WEEK_US = 7 * DAY_US
MONDAY_US = 4 * DAY_US
"""1970-01-05T00:00Z, a Monday. No regular session holds a UTC midnight, so weeks may be cut there."""


def wall_clock(stamps: Micros) -> Micros:
    """Return what clocks in New York show at each instant (µs UTC), read as if it were UTC.

    Midnight in New York becomes 00:00Z of the same date, which is how a session date is written.
    """
    shown = (to_us(from_us(stamp).astimezone(NEW_YORK).replace(tzinfo=UTC)) for stamp in stamps.tolist())
    return np.fromiter(shown, np.int64, len(stamps))


def midnight(date_us: int) -> int:
    """Return the instant (µs UTC) of midnight in New York on the date that `date_us` is 00:00Z of."""
    return to_us(from_us(date_us).replace(tzinfo=NEW_YORK))


def closed_days(start_us: int, end_us: int, ready_us: int) -> tuple[int, int] | None:
    """Return the part of [start, end) of session dates whose sessions have closed at `ready_us`, else None."""
    sessions = calendar(CALENDAR)
    closed = int(np.searchsorted(sessions.closes, ready_us, side="right"))
    if closed == 0:
        return None
    end_us = min(end_us, int(sessions.labels[closed - 1]) + DAY_US)
    return (start_us, end_us) if start_us < end_us else None


def weeks(start_us: int, end_us: int) -> Iterator[tuple[int, int]]:
    """Yield windows that cover [start, end), each within one week from Monday to Sunday, oldest first. µs UTC."""
    while start_us < end_us:
        following = start_us - (start_us - MONDAY_US) % WEEK_US + WEEK_US
        yield start_us, min(following, end_us)
        start_us = following
