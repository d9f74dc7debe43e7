"""Binance spot klines over REST: 1,000 buckets a page, any window of the past.

Wire format: developers.binance.com/docs/binance-spot-api-docs/rest-api/market-data-endpoints. The same klines as
files are `binance_archive`.
"""

from __future__ import annotations

import orjson

from ohlcv_pipeline.markets import Interval
from ohlcv_pipeline.vendors.base import Answer, Fetch, Page, Request, Transport
from ohlcv_pipeline.vendors.errors import Code, Remedy, VendorError, bad_symbol
from ohlcv_pipeline.vendors.paging import closed_part, fetch_page, pages, planned, require_ok
from ohlcv_pipeline.vendors.rows import Layout, Parsed, bars_from_rows, load_json

PAGE_ROWS = 1000
WEIGHT = 2
INTERVALS = {Interval.MINUTE: "1m", Interval.DAY: "1d"}
KLINE = Layout(
    (
        "time",
        "open",
        "high",
        "low",
        "close",
        "volume",
        "close_time",
        "quote_volume",
        "trades",
        "taker_base",
        "taker_quote",
        "ignore",
    )
)
TRANSIENT = frozenset({-1000, -1001, -1008})


def parse(body: bytes, asked: str = "binance klines") -> Parsed:
    """Read `[[openTime, "o","h","l","c","volume", closeTime, "quoteVolume", trades, …3 more], …]`, oldest first.

    Stamps are ms, or µs where the vendor switched. vwap = quoteVolume ÷ volume, null without volume. The last
    row may be the running bucket. Raises VendorError (malformed).
    """
    return bars_from_rows(load_json(body, asked), KLINE, asked)


def decode(answer: Answer) -> Parsed:
    """Read an answer of any status. Raises VendorError by the code of `{"code":-1121,"msg":…}`.

    Codes: developers.binance.com/docs/binance-spot-api-docs/errors.
    """
    code = error_code(answer.body)
    if code is None:
        require_ok(answer)
        return parse(answer.body, answer.url)
    message = f"{answer.url} answered {answer.status} with code {code}"
    if code == -1121:
        raise bad_symbol(f"{message}: binance has no such symbol")
    if code == -1003:
        raise VendorError(Code.RATE_LIMITED, Remedy.WAIT, message)
    if code in TRANSIENT:
        raise VendorError(Code.VENDOR_UNAVAILABLE, Remedy.BACK_OFF, message)
    raise VendorError(Code.BAD_REQUEST, Remedy.GIVE_UP, message)


def error_code(body: bytes) -> int | None:
    """Return the code of an error body, None when the body is not one."""
    if not body.startswith(b"{"):
        return None
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    code = document.get("code")
    return code if isinstance(code, int) else None


class Binance:
    """Klines of `/api/v3/klines`; a bucket without trades is a row of zero volume."""

    name = "binance"
    version = "1"
    days_sum_minutes = True
    omits_empty_buckets = False
    raw_prices = True

    def serves(self, interval: Interval, start_us: int, end_us: int, now_us: int) -> tuple[int, int] | None:
        """Return the closed buckets of [start, end), however old."""
        return closed_part(interval, start_us, end_us, now_us)

    def plan(self, symbol: str, vendor_symbol: str, interval: Interval, start_us: int, end_us: int) -> list[Fetch]:
        """Cut [start, end) into requests of at most 1,000 buckets."""
        return planned(symbol, vendor_symbol, interval, pages(interval, start_us, end_us, PAGE_ROWS), _request)

    async def fetch(self, fetch: Fetch, transport: Transport) -> Page:
        """Deliver one page. Raises VendorError."""
        return await fetch_page(fetch, transport, decode)


def _request(symbol: str, interval: Interval, start_us: int, end_us: int) -> Request:
    params: dict[str, str | int] = {
        "symbol": symbol,
        "interval": INTERVALS[interval],
        "startTime": start_us // 1_000,
        "endTime": (end_us - interval.step_us) // 1_000,
        "limit": PAGE_ROWS,
    }
    return Request("binance", "/api/v3/klines", params, WEIGHT)
