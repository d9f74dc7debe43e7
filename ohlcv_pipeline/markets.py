"""Markets, instruments and the buckets that a calendar expects of them.

Pure values and arithmetic: which bars must exist, and which partition they belong to. What was stored is the
lake's business, which symbols are enabled right now is the ledger's. Adding a market is one entry in `MARKETS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import cached_property, lru_cache

import exchange_calendars
import numpy as np

from ohlcv_pipeline.frames import Mask, Micros

MINUTE_US = 60_000_000
DAY_US = 86_400_000_000
CALENDAR_START = "1990-01-01"


class Interval(StrEnum):
    """The two stored base intervals."""

    MINUTE = "minute"
    DAY = "day"

    @classmethod
    def parse(cls, text: str) -> Interval:
        """Return the interval for `minute`, `day` or the aliases `1m`, `1d`. Raises ValueError."""
        aliases = {"1m": cls.MINUTE, "1d": cls.DAY}
        if text in aliases:
            return aliases[text]
        try:
            return cls(text)
        except ValueError:
            raise ValueError(f"interval {text!r} is not one of minute, day, 1m, 1d") from None

    @property
    def step_us(self) -> int:
        """The nominal length of a bucket in microseconds."""
        return MINUTE_US if self is Interval.MINUTE else DAY_US


def to_us(instant: datetime) -> int:
    """Return an aware datetime as microseconds since the epoch. Raises ValueError for a naive one."""
    if instant.tzinfo is None or instant.utcoffset() is None:
        raise ValueError(f"{instant.isoformat()} has no time zone; write it as UTC, e.g. {instant.isoformat()}Z")
    delta = instant - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def span_us(span: timedelta) -> int:
    """Return a duration in microseconds."""
    return span // timedelta(microseconds=1)


def from_us(us: int) -> datetime:
    """Return microseconds since the epoch as an aware UTC datetime."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(us))


def _date_us(day: date) -> int:
    return to_us(datetime(day.year, day.month, day.day, tzinfo=UTC))


def _us_date(us: int) -> date:
    return from_us(us).date()


@dataclass(frozen=True)
class Calendar:
    """The sessions of one exchange calendar as arrays: session label (00:00Z of its date), open, close.

    `time_zone` is the exchange's, an IANA name; the arrays are UTC.
    """

    name: str
    version: str
    time_zone: str
    labels: Micros
    opens: Micros
    closes: Micros

    def session_index(self, day: date) -> int:
        """Return the position of a session date. Raises ValueError when the date is not a session."""
        label = _date_us(day)
        if label > self.labels[-1]:
            raise ValueError(f"{day} is later than calendar {self.name} reaches, {_us_date(self.labels[-1])}")
        i = int(np.searchsorted(self.labels, label))
        if i == len(self.labels) or self.labels[i] != label:
            raise ValueError(f"{day} is not a session of calendar {self.name}")
        return i

    def sessions(self, start_us: int, end_us: int) -> slice:
        """Return the sessions of which some part lies in [start, end)."""
        first = int(np.searchsorted(self.closes, start_us, side="right"))
        last = int(np.searchsorted(self.opens, end_us, side="left"))
        return slice(first, max(first, last))

    def weekdays(self, start: date) -> list[int]:
        """Return the days of the week on which a session has been held since a date; Monday is 1, Sunday 7."""
        return [int(day) for day in np.unique(_weekday(self.labels[self.labels >= _date_us(start)]))]

    def holidays(self, start: date) -> list[date]:
        """Return the dates from `start` on that are no session though their day of the week has some."""
        days = np.arange(_date_us(start), int(self.labels[-1]) + 1, DAY_US)
        usual = days[np.isin(_weekday(days), self.weekdays(start))]
        return [_us_date(day) for day in np.setdiff1d(usual, self.labels, assume_unique=True)]

    def longest_closure(self, start: date) -> timedelta:
        """Return the longest time since a date in which no session was open."""
        since = self.labels >= _date_us(start)
        return timedelta(microseconds=int(np.max(self.opens[since][1:] - self.closes[since][:-1], initial=0)))


def _weekday(labels: Micros) -> Micros:
    return (labels // DAY_US + 3) % 7 + 1  # 1970-01-01 was a Thursday


@lru_cache(maxsize=32)
def calendar(name: str) -> Calendar:
    """Load a calendar of `exchange_calendars` from 1990 (or its own first day) to a year from today.

    Raises ValueError for a calendar whose sessions pause or open on the evening before their date: buckets and
    partitions follow sessions that do neither.
    """
    try:
        source = exchange_calendars.get_calendar(name, start=CALENDAR_START, side="left")
    except ValueError:
        own_start = exchange_calendars.get_calendar(name).bound_min()
        source = exchange_calendars.get_calendar(name, start=own_start, side="left")
    schedule = source.schedule
    if schedule["break_start"].notna().any():
        raise ValueError(f"the sessions of calendar {name} have a pause; a market cannot follow it")
    opened_on = schedule["open"].dt.tz_convert(source.tz).dt.tz_localize(None).dt.normalize()
    if (opened_on != schedule.index).any():
        raise ValueError(f"sessions of calendar {name} open on the evening before; a market cannot follow it")

    def micros(values: object) -> Micros:
        return np.asarray(values, dtype="datetime64[us]").astype(np.int64)

    return Calendar(
        name=name,
        version=f"exchange_calendars {exchange_calendars.__version__}",
        time_zone=source.tz.key,
        labels=micros(schedule.index.tz_localize(None)),
        opens=micros(schedule["open"].dt.tz_localize(None)),
        closes=micros(schedule["close"].dt.tz_localize(None)),
    )


@dataclass(frozen=True)
class Instrument:
    """One symbol of a market. `vendor_symbols` maps a vendor's name to its spelling of the symbol.

    `enabled_at` is since when it is fetched; two that differ in that alone are the same.
    """

    symbol: str
    name: str
    base: str
    quote: str
    vendor_symbols: Mapping[str, str]
    enabled: bool = True
    listing_start: datetime | None = None
    delisted_at: datetime | None = None
    enabled_at: datetime | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Market:
    """A calendar, a quote currency, vendors in order of preference, and the symbols to begin with.

    `actions_vendor` is who tells of splits and dividends, None where there are none.
    """

    name: str
    title: str
    calendar_name: str
    quote: str
    vendors: tuple[str, ...]
    instruments: tuple[Instrument, ...]
    publish_delay: Mapping[Interval, timedelta]
    history_start: Mapping[Interval, date]
    actions_vendor: str | None = None

    @cached_property
    def calendar(self) -> Calendar:
        """The market's sessions."""
        return calendar(self.calendar_name)

    @property
    def always_open(self) -> bool:
        """Whether every UTC day is a session of 1,440 minutes."""
        return self.calendar_name == "24/7"

    def buckets(self, interval: Interval, start_us: int, end_us: int) -> Micros:
        """Return all bucket starts of the calendar in [start, end), sorted."""
        if end_us <= start_us:
            return np.empty(0, np.int64)
        cal = self.calendar
        if interval is Interval.DAY:
            lo, hi = np.searchsorted(cal.labels, [start_us, end_us])
            return cal.labels[lo:hi]
        part = cal.sessions(start_us, end_us)
        opens, closes = cal.opens[part], cal.closes[part]
        if not len(opens):
            return np.empty(0, np.int64)
        counts = (closes - opens) // MINUTE_US
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        minutes: Micros = np.repeat(opens, counts) + offsets * MINUTE_US
        lo, hi = np.searchsorted(minutes, [start_us, end_us])
        return minutes[lo:hi]

    def bucket_closes(self, interval: Interval, buckets: Micros) -> Micros:
        """Return when each bucket closes: start + 1 minute, or the scheduled close of the session."""
        if interval is Interval.MINUTE:
            return buckets + MINUTE_US
        return self.calendar.closes[np.searchsorted(self.calendar.labels, buckets)]

    def in_session(self, interval: Interval, instants: Micros) -> Mask:
        """Return which instants lie in a session: from its open to before its close, for days on its date."""
        cal = self.calendar
        starts = cal.labels if interval is Interval.DAY else cal.opens
        ends = cal.labels + DAY_US if interval is Interval.DAY else cal.closes
        session = np.searchsorted(starts, instants, side="right") - 1
        return (session >= 0) & (instants < ends[session])

    def expected(self, interval: Interval, instrument: Instrument, start_us: int, end_us: int, now_us: int) -> Micros:
        """Return the buckets in [start, end) that must exist at `now`.

        They follow the calendar, begin at the instrument's listing, end before its delisting, and are
        closed for at least the market's publish delay. Raises ValueError when `now` is later than the calendar
        reaches: nothing would be expected any more, and nothing missed.
        """
        if now_us > self.calendar.closes[-1]:
            raise ValueError(
                f"calendar {self.calendar_name} was loaded up to {_us_date(self.calendar.labels[-1])}, and it is"
                f" {_us_date(now_us)}; start the process again"
            )
        if instrument.listing_start is not None:
            start_us = max(start_us, to_us(instrument.listing_start))
        if instrument.delisted_at is not None:
            end_us = min(end_us, to_us(instrument.delisted_at))
        buckets = self.buckets(interval, start_us, end_us)
        ready_us = now_us - span_us(self.publish_delay[interval])
        return buckets[: int(np.searchsorted(self.bucket_closes(interval, buckets), ready_us, "right"))]

    def target_window(self, interval: Interval, now: datetime) -> tuple[int, int]:
        """Return [start, end) that coverage speaks of: 90 days of minutes, three years of days."""
        today = now.astimezone(UTC).date()
        if interval is Interval.MINUTE:
            return _date_us(today - timedelta(days=90)), to_us(now)
        day = 28 if (today.month, today.day) == (2, 29) else today.day
        return _date_us(today.replace(year=today.year - 3, day=day)), to_us(now)

    def partition_bounds(self, interval: Interval, key: str) -> tuple[int, int]:
        """Return [start, end) of the bucket starts that belong to a partition.

        Minute bars: `YYYY-MM-DD`, a session date. Day bars: `YYYY-MM`. Raises ValueError for any other
        key, and for a date that is not a session.
        """
        if interval is Interval.DAY:
            first = date.fromisoformat(f"{key}-01")
            return _date_us(first), _date_us((first + timedelta(days=32)).replace(day=1))
        day = date.fromisoformat(key)
        if day.isoformat() != key:
            raise ValueError(f"a partition of minutes is spelt {day}, not {key}")
        i = self.calendar.session_index(day)
        return int(self.calendar.opens[i]), int(self.calendar.closes[i])

    def partition_end(self, interval: Interval, key: str) -> int:
        """Return when the last bucket of a partition closes."""
        start, end = self.partition_bounds(interval, key)
        buckets = self.buckets(interval, start, end)
        return int(self.bucket_closes(interval, buckets)[-1]) if len(buckets) else end

    def partition_keys(self, interval: Interval, start_us: int, end_us: int) -> list[str]:
        """Return the keys of the partitions that hold a bucket of [start, end), oldest first."""
        if end_us <= start_us:
            return []
        if interval is Interval.MINUTE:
            labels = self.calendar.labels[self.calendar.sessions(start_us, end_us)]
            return [_us_date(label).isoformat() for label in labels]
        first, last = _us_date(start_us).replace(day=1), _us_date(end_us - 1)
        keys = []
        while first <= last:
            keys.append(f"{first:%Y-%m}")
            first = (first + timedelta(days=32)).replace(day=1)
        return keys

    def instrument(self, symbol: str) -> Instrument:
        """Return the configured instrument. Raises ValueError for an unknown symbol."""
        for instrument in self.instruments:
            if instrument.symbol == symbol:
                return instrument
        raise ValueError(f"{symbol} is not a configured symbol of market {self.name}")


def _coins(quote: str, spelling: Mapping[str, str], skip: Sequence[str] = ()) -> tuple[Instrument, ...]:
    """Build the instruments of a crypto market; `spelling` maps a vendor to the pattern of its symbols."""
    names = {
        "BTC": "Bitcoin", "ETH": "Ether", "SOL": "Solana", "USDC": "USD Coin", "USDT": "Tether",
        "AAVE": "Aave", "LINK": "Chainlink", "DOGE": "Dogecoin", "BNB": "BNB", "XRP": "XRP",
    }  # fmt: skip
    kraken_codes = {"BTC": "XBT", "DOGE": "XDG"}
    return tuple(
        Instrument(
            symbol=base,
            name=name,
            base=base,
            quote=quote,
            vendor_symbols={
                vendor: pattern.format(base=base, kraken=kraken_codes.get(base, base), quote=quote)
                for vendor, pattern in spelling.items()
            },
        )
        for base, name in names.items()
        if base not in skip
    )


def _stocks(quote: str) -> tuple[Instrument, ...]:
    """Build the instruments of US equities. Tiingo writes the class of a share with a dash."""
    names = {
        "AAPL": "Apple", "MSFT": "Microsoft", "NVDA": "NVIDIA", "AMZN": "Amazon", "GOOGL": "Alphabet A",
        "META": "Meta Platforms", "TSLA": "Tesla", "SPY": "SPDR S&P 500 ETF", "QQQ": "Invesco QQQ ETF",
        "BRK.B": "Berkshire Hathaway B",
    }  # fmt: skip
    return tuple(
        Instrument(symbol, name, symbol, quote, {"alpaca": symbol, "tiingo": symbol.replace(".", "-")})
        for symbol, name in names.items()
    )


_CRYPTO_DELAY = {Interval.MINUTE: timedelta(minutes=2), Interval.DAY: timedelta(minutes=60)}
_CRYPTO_HISTORY = {Interval.MINUTE: date(2024, 1, 1), Interval.DAY: date(2017, 1, 1)}

MARKETS: Mapping[str, Market] = {
    market.name: market
    for market in (
        Market(
            name="crypto",
            title="Crypto in US dollars",
            calendar_name="24/7",
            quote="USD",
            vendors=("coinbase", "kraken"),
            instruments=_coins("USD", {"coinbase": "{base}-{quote}", "kraken": "{kraken}{quote}"}),
            publish_delay=_CRYPTO_DELAY,
            history_start=_CRYPTO_HISTORY,
        ),
        Market(
            name="crypto_usdt",
            title="Crypto in Tether",
            calendar_name="24/7",
            quote="USDT",
            vendors=("binance_archive", "binance"),
            instruments=_coins("USDT", {"binance_archive": "{base}{quote}", "binance": "{base}{quote}"}, skip=["USDT"]),
            publish_delay=_CRYPTO_DELAY,
            history_start=_CRYPTO_HISTORY,
        ),
        Market(
            name="us_equities",
            title="US equities",
            calendar_name="XNYS",
            quote="USD",
            vendors=("alpaca", "tiingo"),
            instruments=_stocks("USD"),
            # What may be read without a subscription of the consolidated feed is 15 minutes old.
            publish_delay={Interval.MINUTE: timedelta(minutes=16), Interval.DAY: timedelta(minutes=60)},
            history_start={Interval.MINUTE: date(2016, 1, 1), Interval.DAY: date(2000, 1, 1)},
            actions_vendor="tiingo",
        ),
    )
}
"""Every market that ships. Which of them are switched on is a setting (`OHLCV_MARKETS`)."""


def market(name: str) -> Market:
    """Return a configured market. Raises ValueError for an unknown name."""
    try:
        return MARKETS[name]
    except KeyError:
        raise ValueError(f"market {name!r} is not one of {', '.join(MARKETS)}") from None
