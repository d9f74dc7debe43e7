"""Alpaca Market Data v2: raw bars of US equities, any window of the past, page after page by token.

Wire format: docs.alpaca.markets/reference/stockbars and the OpenAPI document behind it. An answer is sorted by
symbol, then time; only `next_page_token` says whether it goes on, never the number of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ohlcv_pipeline.frames import BarColumns, Micros
from ohlcv_pipeline.markets import MINUTE_US, Interval, from_us
from ohlcv_pipeline.vendors.base import Answer, Fetch, Page, Request, Transport
from ohlcv_pipeline.vendors.errors import Code, Remedy, VendorError, bad_symbol, malformed, unusable
from ohlcv_pipeline.vendors.new_york import closed_days, midnight, wall_clock
from ohlcv_pipeline.vendors.paging import closed_part, pages, planned, require_ok
from ohlcv_pipeline.vendors.records import Record, Times, bars_from_records, instants, new_fields
from ohlcv_pipeline.vendors.rows import NOTHING, Parsed, kind, load_json

PAGE_ROWS = 10_000
"""What one answer holds at most, all symbols together."""

WINDOW = {Interval.MINUTE: 14 * 1440, Interval.DAY: 10_000}
"""Buckets of one fetch: ten sessions of at most 960 minutes, early and late trading included, fit into one answer."""

MOST_PAGES = 50
"""Answers of one fetch: far more than its rows can fill, so that a chain without an end is noticed."""

WEIGHT = 6
"""200 requests a minute, what the free plan allows, out of the default 1,200 weight a minute."""

DELAY_US = {"sip": 16 * MINUTE_US, "iex": 0}
"""The free plan may not ask for the newest 15 minutes of the consolidated feed."""

TIMEFRAMES = {Interval.MINUTE: "1Min", Interval.DAY: "1Day"}
BAR = Record(
    "alpaca bars",
    {
        "t": "time", "o": "open", "h": "high", "l": "low", "c": "close", "v": "volume", "n": "trades", "vw": "vwap"
    },
)  # fmt: skip
BODY = frozenset({"bars", "next_page_token", "currency"})


@dataclass(frozen=True)
class Body:
    """One answer: what it holds of each symbol (None: the vendor knows no such symbol) and the token of the next.

    `paged` is whether it said anything about a next one. `drift` is what is new about the format.
    """

    symbols: Mapping[str, Parsed | None]
    token: str | None
    paged: bool
    drift: tuple[str, ...]


def parse(body: bytes, interval: Interval, asked: str = "alpaca bars") -> Body:
    """Read `{"bars":{"AAPL":[{"t","o","h","l","c","v","n","vw"},…],…},"next_page_token":…,"currency"?}`.

    Times are RFC 3339. A day's is midnight in New York and becomes 00:00Z of its date; one that is no midnight
    becomes a stamp off the grid. The bars of a "latest" answer are single objects instead of arrays. Raises
    VendorError (malformed), permanently when prices were converted into another currency than the dollar.
    """
    document = load_json(body, asked)
    if not isinstance(document, dict):
        raise malformed(f"{asked}: expected an object with bars and next_page_token, found {kind(document)}")
    currency = document.get("currency", "USD")
    if currency != "USD":
        raise unusable(f"{asked}: expected prices in USD, found them converted into another currency")
    if "bars" not in document:
        raise malformed(f"{asked}: expected field 'bars', found it missing")
    of_symbols = document["bars"] if document["bars"] is not None else {}
    token = document.get("next_page_token")
    if not isinstance(of_symbols, dict):
        raise malformed(f"{asked}: expected an object in field 'bars', found {kind(of_symbols)}")
    if not isinstance(token, str | None):
        raise malformed(f"{asked}: expected a text or null in field 'next_page_token', found {kind(token)}")
    times: Times = instants if interval is Interval.MINUTE else _session_dates
    symbols = {symbol: _bars(rows, times, asked) for symbol, rows in of_symbols.items()}
    drift = dict.fromkeys(new_fields([document], BODY, "alpaca answer"))
    for parsed in symbols.values():
        drift |= dict.fromkeys(parsed.drift if parsed else ())
    return Body(symbols, token or None, "next_page_token" in document, tuple(drift))


def _bars(rows: object, times: Times, asked: str) -> Parsed | None:
    if rows is None:
        return None
    return bars_from_records([rows] if isinstance(rows, dict) else rows, BAR, times, asked)


def _session_dates(column: Sequence[Any], where: str) -> Micros:
    return wall_clock(instants(column, where))


class _Chain:
    """The answers of one fetch so far, and what the next one has to be like."""

    def __init__(self, fetch: Fetch) -> None:
        self.fetch = fetch
        self.parsed: list[Parsed] = []
        self.answers: list[Answer] = []
        self.drift: dict[str, None] = {}
        self.token: str | None = None
        self._tokens: set[str] = set()
        self._ends: list[tuple[int, int]] = []

    def request(self) -> Request:
        (first,) = self.fetch.requests
        return first if self.token is None else replace(first, params={**first.params, "page_token": self.token})

    def decode(self, answer: Answer) -> Body:
        """Read the next answer of any status. Raises VendorError."""
        _require_bars(answer)
        asked, symbol = answer.url, self.fetch.vendor_symbol
        body = parse(answer.body, self.fetch.interval, asked)
        if not body.paged:
            raise malformed(f"{asked}: expected field 'next_page_token', found it missing")
        if body.symbols.keys() - {symbol}:
            raise malformed(f"{asked}: expected bars of {symbol}, found another symbol's")
        if body.symbols.get(symbol, NOTHING) is None:
            raise bad_symbol(f"{asked}: alpaca has no such symbol")
        if body.token is not None and body.token in self._tokens:
            raise unusable(f"{asked}: expected the token of another page, found one that was followed before")
        if body.token is not None and len(self.answers) + 1 >= MOST_PAGES:
            raise unusable(f"{asked}: expected the last page, found page {MOST_PAGES} and a token")
        ends = _ends(body.symbols.get(symbol))
        if ends and self._ends and ends[1] <= self._ends[-1][1]:
            raise unusable(f"{asked}: expected bars after {from_us(self._ends[-1][1]).isoformat()}, found older ones")
        return body

    def add(self, body: Body, answer: Answer) -> None:
        """Take an answer that was decoded; the chain goes on while it has a token."""
        parsed = body.symbols.get(self.fetch.vendor_symbol)
        self.parsed.append(NOTHING if parsed is None else parsed)
        self.answers.append(answer)
        self.drift |= dict.fromkeys(body.drift)
        if ends := _ends(parsed):
            self._ends.append(ends)
        self.token = body.token
        if body.token is not None:
            self._tokens.add(body.token)

    def page(self) -> Page:
        """Return everything as one page, with the seams between the answers."""
        return Page(
            self.fetch,
            BarColumns.concat([parsed.bars for parsed in self.parsed]),
            tuple(reject for parsed in self.parsed for reject in parsed.rejects),
            tuple(self.answers),
            tuple(self.drift),
            tuple(first for first, _ in self._ends[1:]),
        )


def _ends(parsed: Parsed | None) -> tuple[int, int] | None:
    """Return the oldest and the newest bucket of an answer, those of refused rows included."""
    if parsed is None:
        return None
    refused = [reject.bucket_start for reject in parsed.rejects if reject.bucket_start is not None]
    stamps = np.append(parsed.bars.bucket_start, np.array(refused, np.int64))
    return (int(stamps.min()), int(stamps.max())) if len(stamps) else None


def _require_bars(answer: Answer) -> None:
    """Raise VendorError for any status but 200: a symbol it does not know, a feed the plan does not include."""
    if answer.status != 200 and b"does not permit" in answer.body:
        message = f"{answer.url} answered {answer.status}: the plan does not include this feed or its newest 15 minutes"
        raise VendorError(Code.AUTH_FAILED, Remedy.GIVE_UP, message)
    if answer.status != 200 and b"invalid symbol" in answer.body:
        raise bad_symbol(f"{answer.url}: alpaca has no such symbol")
    require_ok(answer)


@dataclass(frozen=True)
class Alpaca:
    """Bars of `/v2/stocks/bars`, as traded; a minute without an eligible trade is absent.

    `feed`: `sip` is every exchange, 16 minutes late; `iex` is one exchange of some percent of the volume, at once.
    """

    feed: Literal["sip", "iex"] = "sip"
    name = "alpaca"
    version = "1"
    omits_empty_buckets = True
    raw_prices = True

    def serves(self, interval: Interval, start_us: int, end_us: int, now_us: int) -> tuple[int, int] | None:
        """Return the minutes, or the days of sessions, that have closed before the feed's delay, however old."""
        ready_us = now_us - DELAY_US[self.feed]
        if interval is Interval.DAY:
            return closed_days(start_us, end_us, ready_us)
        return closed_part(interval, start_us, end_us, ready_us)

    def plan(self, symbol: str, vendor_symbol: str, interval: Interval, start_us: int, end_us: int) -> list[Fetch]:
        """Cut [start, end) into windows that mostly fit into one answer."""
        windows = pages(interval, start_us, end_us, WINDOW[interval])
        return planned(symbol, vendor_symbol, interval, windows, self._request)

    def _request(self, symbol: str, interval: Interval, start_us: int, end_us: int) -> Request:
        # Both ends are inclusive and are compared with the stamps, which are midnights in New York for days.
        first, last = start_us, end_us - interval.step_us
        if interval is Interval.DAY:
            first, last = midnight(first), midnight(last)
        params: dict[str, str | int] = {
            "symbols": symbol,
            "timeframe": TIMEFRAMES[interval],
            "start": f"{from_us(first):%Y-%m-%dT%H:%M:%SZ}",
            "end": f"{from_us(last):%Y-%m-%dT%H:%M:%SZ}",
            "adjustment": "raw",
            "feed": self.feed,
            "limit": PAGE_ROWS,
            "sort": "asc",
        }
        return Request(self.name, "/v2/stocks/bars", params, WEIGHT)

    async def fetch(self, fetch: Fetch, transport: Transport) -> Page:
        """Deliver one window, following the tokens. Raises VendorError, also for a token that comes again."""
        chain = _Chain(fetch)
        while not chain.answers or chain.token is not None:
            chain.add(*await transport.get(chain.request(), chain.decode))
        return chain.page()
