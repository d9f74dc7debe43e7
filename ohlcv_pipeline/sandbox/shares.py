"""How shares trade: sessions, typical prices and volumes, splits, dividends and declared outages.

The instruments and the calendar come from `markets`; a share that has no profile here gets one derived from
its name. How the bars are made of it is `sessions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache

import numpy as np

from ohlcv_pipeline.frames import Micros
from ohlcv_pipeline.markets import MARKETS
from ohlcv_pipeline.sandbox.listing import FIRST_DAY, OUTAGE_MINUTES, SHARE_VENDORS, stable_hash
from ohlcv_pipeline.sandbox.messages import DAY, MINUTE

OUTAGE_EVERY_SESSIONS = 45
OUTAGE_SESSION = 31
OUTAGE_FROM = 97
"""In every 45th session Alpaca loses the 45 minutes from the 98th on; Tiingo loses none."""
_WITH_OUTAGES = "alpaca"


@dataclass(frozen=True)
class Timetable:
    """The sessions from 2015 on: label (00:00Z of the date), open and close, all (n,) unix seconds."""

    labels: Micros
    opens: Micros
    closes: Micros

    def spanning(self, start: int, end: int) -> range:
        """Return the sessions whose date, as a UTC day, touches [start, end)."""
        first = int(np.searchsorted(self.labels, start - DAY, side="right"))
        return range(first, max(first, int(np.searchsorted(self.labels, end))))


@lru_cache(maxsize=1)
def timetable() -> Timetable:
    """Return the sessions of the market whose vendors are imitated here."""
    home = next(market for market in MARKETS.values() if SHARE_VENDORS[0] in market.vendors)
    calendar = home.calendar
    known = slice(int(np.searchsorted(calendar.labels, FIRST_DAY * DAY * 1_000_000)), None)
    seconds = (times[known] // 1_000_000 for times in (calendar.labels, calendar.opens, calendar.closes))
    return Timetable(*seconds)


@dataclass(frozen=True)
class Dividend:
    """Cash a quarter, in cents per share as they are today; ex from the first session on or after a day on."""

    cents: int
    months: tuple[int, ...] = (3, 6, 9, 12)
    day: int = 15


@dataclass(frozen=True)
class Share:
    """How a share trades: a typical price in dollars, daily volatility, shares per minute, and events.

    `silent` is the share of minutes without a trade; `splits` maps an ex-date to new shares for one old.
    """

    price: float
    volatility: float
    volume: float
    silent: float = 0.0
    dividend: Dividend | None = None
    splits: Mapping[date, int] | None = None


_SHARES: Mapping[str, Share] = {
    "AAPL": Share(225, 0.016, 128_000, dividend=Dividend(26, (2, 5, 8, 11), 10)),
    "MSFT": Share(430, 0.015, 51_000, dividend=Dividend(83, (2, 5, 8, 11), 20)),
    "NVDA": Share(130, 0.029, 510_000, dividend=Dividend(1), splits={date(2025, 6, 10): 4}),
    "AMZN": Share(185, 0.019, 103_000),
    "GOOGL": Share(165, 0.017, 72_000, dividend=Dividend(20, day=9), splits={date(2022, 7, 18): 20}),
    "META": Share(560, 0.021, 36_000, dividend=Dividend(50, day=14)),
    "TSLA": Share(240, 0.034, 230_000),
    "SPY": Share(580, 0.010, 154_000, dividend=Dividend(176, day=20)),
    "QQQ": Share(490, 0.013, 103_000, dividend=Dividend(71, day=22)),
    "BRK.B": Share(460, 0.010, 9_000, silent=0.01),
}


@lru_cache(maxsize=256)
def share(symbol: str) -> Share:
    """Return the profile of a share."""
    if symbol in _SHARES:
        return _SHARES[symbol]
    price = 20.0 * (1 + stable_hash("share", symbol) % 10)
    return Share(price, 0.02, 2_000_000.0 / price, 0.01)


@dataclass(frozen=True)
class Events:
    """What happens to a share before each session opens, (n,) int64 like the sessions.

    `factors` are new shares for one old (1: no split), `cents` the cash per share as it was then, and
    `shares` how many shares of today one share was then.
    """

    factors: Micros
    cents: Micros
    shares: Micros


@lru_cache(maxsize=256)
def events(symbol: str) -> Events:
    """Return the splits and dividends of a share."""
    profile, labels = share(symbol), timetable().labels
    factors, cents = np.ones(len(labels), np.int64), np.zeros(len(labels), np.int64)
    for day, factor in (profile.splits or {}).items():
        if (ex := _first_session(labels, day)) < len(labels):
            factors[ex] = factor
    # A split counts for the sessions before its ex-date.
    shares = np.append(np.cumprod(factors[:0:-1])[::-1], 1)
    if profile.dividend is not None:
        first, last = (datetime.fromtimestamp(int(labels[at]), UTC).year for at in (0, -1))
        for year in range(first, last + 1):
            for month in profile.dividend.months:
                ex = _first_session(labels, date(year, month, profile.dividend.day))
                if ex < len(labels):
                    cents[ex] = profile.dividend.cents * shares[ex]
    return Events(factors, cents, shares)


def _first_session(labels: Micros, day: date) -> int:
    return int(np.searchsorted(labels, int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())))


def outages(vendor: str, start: int, end: int) -> list[tuple[int, int]]:
    """Return the declared outages that touch [start, end): first and last missing minute, unix seconds."""
    if vendor != _WITH_OUTAGES or end <= start:
        return []
    found = []
    for session in timetable().spanning(start, end):
        if has_outage(vendor, session):
            begin = int(timetable().opens[session]) + OUTAGE_FROM * MINUTE
            last = begin + (OUTAGE_MINUTES - 1) * MINUTE
            if begin < end and last + MINUTE > start:
                found.append((begin, last))
    return found


def has_outage(vendor: str, session: int) -> bool:
    """Whether a vendor has its outage in the session of that number."""
    return vendor == _WITH_OUTAGES and session % OUTAGE_EVERY_SESSIONS == OUTAGE_SESSION
