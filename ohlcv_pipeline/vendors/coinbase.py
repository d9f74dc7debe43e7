"""Coinbase Exchange candles: 300 buckets a page, any window of the past.

Wire format: docs.cdp.coinbase.com/exchange/reference/exchangerestapi_getproductcandles. The Advanced Trade API of
the same vendor is another format and is not spoken here.
"""

from __future__ import annotations

from ohlcv_pipeline.markets import Interval
from ohlcv_pipeline.vendors.base import Answer, Fetch, Page, Request, Transport
from ohlcv_pipeline.vendors.errors import bad_symbol
from ohlcv_pipeline.vendors.paging import closed_part, fetch_page, pages, planned, require_ok
from ohlcv_pipeline.vendors.rows import Layout, Parsed, bars_from_rows, load_json

PAGE_ROWS = 300
GRANULARITY = {Interval.MINUTE: 60, Interval.DAY: 86_400}
CANDLE = Layout(("time", "low", "high", "open", "close", "volume"))


def parse(body: bytes, asked: str = "coinbase candles") -> Parsed:
    """Read `[[time s UTC, LOW, HIGH, open, close, volume], …]`, newest first, JSON numbers, no vwap, no count.

    Raises VendorError (malformed).
    """
    return bars_from_rows(load_json(body, asked), CANDLE, asked)


def decode(answer: Answer) -> Parsed:
    """Read an answer of any status. Raises VendorError: 404 `{"message":"NotFound"}` is a bad symbol."""
    if answer.status == 404 and b"NotFound" in answer.body:
        raise bad_symbol(f"{answer.url}: coinbase has no such product")
    require_ok(answer)
    return parse(answer.body, answer.url)


class Coinbase:
    """Candles of `/products/<id>/candles`; buckets without trades are absent."""

    name = "coinbase"
    version = "1"
    days_sum_minutes = True
    omits_empty_buckets = True
    raw_prices = True

    def serves(self, interval: Interval, start_us: int, end_us: int, now_us: int) -> tuple[int, int] | None:
        """Return the closed buckets of [start, end), however old."""
        return closed_part(interval, start_us, end_us, now_us)

    def plan(self, symbol: str, vendor_symbol: str, interval: Interval, start_us: int, end_us: int) -> list[Fetch]:
        """Cut [start, end) into requests of at most 300 buckets; a wider request is answered 400."""
        return planned(symbol, vendor_symbol, interval, pages(interval, start_us, end_us, PAGE_ROWS), _request)

    async def fetch(self, fetch: Fetch, transport: Transport) -> Page:
        """Deliver one page. Raises VendorError."""
        return await fetch_page(fetch, transport, decode)


def _request(product: str, interval: Interval, start_us: int, end_us: int) -> Request:
    # `end` is inclusive: it names the last wanted bucket, so that a page of 300 never counts as 301.
    params: dict[str, str | int] = {
        "granularity": GRANULARITY[interval],
        "start": start_us // 1_000_000,
        "end": (end_us - interval.step_us) // 1_000_000,
    }
    return Request("coinbase", f"/products/{product}/candles", params)
