"""Cutting a window into pages, and the fetch that is one request: what the REST adapters share.

Pages are planned from the window alone, never from an answer: a short page ends nothing and no cursor can stand
still. The files of `binance_archive` follow other rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ohlcv_pipeline.markets import Interval
from ohlcv_pipeline.vendors.base import Answer, Fetch, Page, Request, Transport
from ohlcv_pipeline.vendors.errors import Code, Remedy, VendorError
from ohlcv_pipeline.vendors.rows import Parsed


def closed_part(interval: Interval, start_us: int, end_us: int, now_us: int) -> tuple[int, int] | None:
    """Return the part of [start, end) whose buckets have closed at `now`, None if there is none. UTC µs."""
    end_us = min(end_us, now_us - now_us % interval.step_us)
    return (start_us, end_us) if start_us < end_us else None


def pages(interval: Interval, start_us: int, end_us: int, rows: int) -> Iterator[tuple[int, int]]:
    """Yield windows of at most `rows` buckets that cover the bucket starts in [start, end), oldest first.

    Edges lie on the grid of the interval, in µs.
    """
    step = interval.step_us
    first, end = -(-start_us // step) * step, -(-end_us // step) * step
    for start in range(first, end, rows * step):
        yield start, min(start + rows * step, end)


def planned(
    symbol: str,
    vendor_symbol: str,
    interval: Interval,
    windows: Iterable[tuple[int, int]],
    request: Callable[[str, Interval, int, int], Request],
) -> list[Fetch]:
    """Plan a fetch for each window, of the one request that `request(vendor_symbol, interval, start, end)` returns."""
    fetches = []
    for start, end in windows:
        one = request(vendor_symbol, interval, start, end)
        fetches.append(Fetch(one.vendor, symbol, vendor_symbol, interval, start, end, (one,)))
    return fetches


async def fetch_page(fetch: Fetch, transport: Transport, decode: Callable[[Answer], Parsed]) -> Page:
    """Deliver a fetch that is one request. Raises VendorError."""
    (request,) = fetch.requests
    parsed, answer = await transport.get(request, decode)
    return Page(fetch, parsed.bars, parsed.rejects, (answer,), parsed.drift)


def require_ok(answer: Answer) -> None:
    """Raise VendorError (bad request, permanent) for any status but 200."""
    if answer.status != 200:
        raise VendorError(Code.BAD_REQUEST, Remedy.GIVE_UP, f"{answer.url} answered {answer.status}")
