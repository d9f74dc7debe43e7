"""Finnhub stock candles: adjusted for splits, and therefore only something to compare with.

Wire format: finnhub.io/docs/api/stock-candles; its peculiarities are those of the issues of finnhubio/Finnhub-API.
No market names it: stored prices are as traded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ohlcv_pipeline.frames import Micros
from ohlcv_pipeline.markets import DAY_US, Interval
from ohlcv_pipeline.vendors.base import Answer, Fetch, Page, Request, Transport
from ohlcv_pipeline.vendors.errors import malformed
from ohlcv_pipeline.vendors.new_york import closed_days, midnight, wall_clock, weeks
from ohlcv_pipeline.vendors.paging import closed_part, fetch_page, planned, require_ok
from ohlcv_pipeline.vendors.records import Record, bars_from_arrays, unix_seconds
from ohlcv_pipeline.vendors.rows import NOTHING, Parsed, kind, load_json

WEIGHT = 20
"""60 requests a minute out of the default 1,200 weight a minute."""

RESOLUTIONS = {Interval.MINUTE: "1", Interval.DAY: "D"}
CANDLES = Record(
    "finnhub candles", {"t": "time", "o": "open", "h": "high", "l": "low", "c": "close", "v": "volume"}
)  # fmt: skip


def parse(body: bytes, interval: Interval, asked: str = "finnhub candles") -> Parsed:
    """Read `{"s":"ok","t":[s UTC],"o":[],"h":[],"l":[],"c":[],"v":[]}`, or `{"s":"no_data"}`, which is empty.

    A day's stamp is 00:00Z of its date or some instant of it in New York, both in one answer at times, and
    becomes 00:00Z of the date. Raises VendorError (malformed).
    """
    document = load_json(body, asked)
    if not isinstance(document, dict):
        raise malformed(f"{asked}: expected an object with s and arrays, found {kind(document)}")
    arrays = {name: values for name, values in document.items() if name != "s"}
    status = document.get("s")
    if status == "no_data":
        return NOTHING
    if status != "ok":
        raise malformed(f"{asked}: expected ok or no_data in field 's', found neither")
    return bars_from_arrays(arrays, CANDLES, unix_seconds if interval is Interval.MINUTE else _dates, asked)


def _dates(column: Sequence[Any], where: str) -> Micros:
    stamps = unix_seconds(column, where)
    return np.where(stamps % DAY_US == 0, stamps, wall_clock(stamps) // DAY_US * DAY_US)


class Finnhub:
    """Candles of `/stock/candle`; minutes without trades are absent."""

    name = "finnhub"
    version = "1"
    omits_empty_buckets = True
    raw_prices = False

    def serves(self, interval: Interval, start_us: int, end_us: int, now_us: int) -> tuple[int, int] | None:
        """Return the minutes, or the days of sessions, that have closed."""
        if interval is Interval.DAY:
            return closed_days(start_us, end_us, now_us)
        return closed_part(interval, start_us, end_us, now_us)

    def plan(self, symbol: str, vendor_symbol: str, interval: Interval, start_us: int, end_us: int) -> list[Fetch]:
        """Plan one request for all days, one for each week of minutes: about 5,000 rows come at most."""
        windows = [(start_us, end_us)] if interval is Interval.DAY else weeks(start_us, end_us)
        return planned(symbol, vendor_symbol, interval, windows, _request)

    async def fetch(self, fetch: Fetch, transport: Transport) -> Page:
        """Deliver one request; rows before its window may be in it. Raises VendorError."""

        def decode(answer: Answer) -> Parsed:
            require_ok(answer)
            return parse(answer.body, fetch.interval, answer.url)

        return await fetch_page(fetch, transport, decode)


def _request(symbol: str, interval: Interval, start_us: int, end_us: int) -> Request:
    # A day is stamped anywhere between its 00:00Z and its session in New York.
    last = end_us - interval.step_us if interval is Interval.MINUTE else midnight(end_us) - 1_000_000
    params: dict[str, str | int] = {
        "symbol": symbol,
        "resolution": RESOLUTIONS[interval],
        "from": start_us // 1_000_000,
        "to": last // 1_000_000,
    }
    return Request("finnhub", "/stock/candle", params, WEIGHT)
