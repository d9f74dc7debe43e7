"""Kraken OHLC: always the newest 720 closed buckets and the running one, whatever was asked.

Wire format: docs.kraken.com/api/docs/rest-api/get-ohlc-data. Errors come with HTTP 200. Older minutes are only
to be had as trades, which this adapter does not read.
"""

from __future__ import annotations

from ohlcv_pipeline.markets import Interval
from ohlcv_pipeline.vendors.base import Answer, Fetch, Page, Request, Transport
from ohlcv_pipeline.vendors.errors import Code, Remedy, VendorError, malformed
from ohlcv_pipeline.vendors.paging import closed_part, fetch_page, require_ok
from ohlcv_pipeline.vendors.rows import Layout, Parsed, bars_from_rows, kind, load_json

NEWEST_ROWS = 720
MINUTES = {Interval.MINUTE: 1, Interval.DAY: 1440}
ROW = Layout(("time", "open", "high", "low", "close", "vwap", "volume", "trades"))
CODES = {"BTC": "XBT", "DOGE": "XDG"}

ERRORS = (
    ("Unknown asset pair", Code.BAD_SYMBOL, Remedy.GIVE_UP, "an unknown pair"),
    ("Too many requests", Code.RATE_LIMITED, Remedy.WAIT, "its rate limit"),
    ("Rate limit exceeded", Code.RATE_LIMITED, Remedy.WAIT, "its rate limit"),
    ("Temporary lockout", Code.RATE_LIMITED, Remedy.STOP_VENDOR, "a temporary lockout"),
    ("EService:", Code.VENDOR_UNAVAILABLE, Remedy.BACK_OFF, "a service outage"),
    ("EGeneral:Internal error", Code.VENDOR_UNAVAILABLE, Remedy.BACK_OFF, "an internal error"),
)
"""Text in the error array → what follows (docs.kraken.com/api/docs/guides/spot-errors)."""

LOCKOUT_SECONDS = 900.0


def parse(body: bytes, pair: str, asked: str = "kraken OHLC") -> Parsed:
    """Read `{"error":[],"result":{"<key>":[[time s UTC, "o","h","l","c","vwap","volume", count], …],"last":…}}`.

    The last row is the running bucket. The key is not the asked pair but must be one of its spellings. A bar
    without volume has no vwap (sent as "0.0"). Raises VendorError by the error array, or malformed.
    """
    document = load_json(body, asked)
    if not isinstance(document, dict):
        raise malformed(f"{asked}: expected an object with error and result, found {kind(document)}")
    _raise_error(document.get("error"), asked)
    result = document.get("result")
    keys = [key for key in result if key != "last"] if isinstance(result, dict) else []
    if not isinstance(result, dict) or len(keys) != 1:
        raise malformed(f"{asked}: expected a result with one pair and last, found {len(keys)} pairs")
    if keys[0] not in spellings(pair):
        raise malformed(f"{asked}: expected rows of {pair}, found another pair's")
    return bars_from_rows(result[keys[0]], ROW, asked)


def spellings(pair: str) -> frozenset[str]:
    """Return the keys of an answer for a pair: XBTUSD → XXBTZUSD, USDTUSD → USDTZUSD, BTC/USDT → XBTUSDT."""
    joined = pair.replace("/", "")
    base, quote = pair.split("/") if "/" in pair else (joined[:-3], joined[-3:])
    base = CODES.get(base, base)
    return frozenset(
        {joined, base + quote, f"X{base}Z{quote}", f"{base}Z{quote}", f"X{base}{quote}", f"X{base}X{quote}"}
    )


def _raise_error(errors: object, asked: str) -> None:
    if not isinstance(errors, list):
        raise malformed(f"{asked}: expected an error array, found {kind(errors)}")
    # Kraken puts warnings (W…) into the same array beside a good result.
    texts = [str(text) for text in errors if str(text).startswith("E")]
    for text in texts:
        for part, code, remedy, meaning in ERRORS:
            if part in text:
                wait = LOCKOUT_SECONDS if remedy is Remedy.STOP_VENDOR else None
                raise VendorError(code, remedy, f"{asked}: kraken reports {meaning}", wait)
    if texts:
        raise VendorError(Code.BAD_REQUEST, Remedy.GIVE_UP, f"{asked}: kraken refuses the request")


class Kraken:
    """Rows of `/0/public/OHLC`; a bucket without trades is a row with count 0."""

    name = "kraken"
    version = "1"
    omits_empty_buckets = False
    raw_prices = True

    def serves(self, interval: Interval, start_us: int, end_us: int, now_us: int) -> tuple[int, int] | None:
        """Return the part of [start, end) within the newest 720 closed buckets."""
        running = now_us - now_us % interval.step_us
        return closed_part(interval, max(start_us, running - NEWEST_ROWS * interval.step_us), end_us, now_us)

    def plan(self, symbol: str, vendor_symbol: str, interval: Interval, start_us: int, end_us: int) -> list[Fetch]:
        """Plan the one request that delivers everything Kraken has."""
        # `since` is exclusive at times, hence one bucket earlier.
        since = (-(-start_us // interval.step_us) - 1) * interval.step_us // 1_000_000
        request = Request(
            self.name,
            "/0/public/OHLC",
            {"pair": vendor_symbol, "interval": MINUTES[interval], "since": since},
        )
        return [Fetch(self.name, symbol, vendor_symbol, interval, start_us, end_us, (request,))]

    async def fetch(self, fetch: Fetch, transport: Transport) -> Page:
        """Deliver the fetch; rows outside its window and the running bar are in it too. Raises VendorError."""

        def decode(answer: Answer) -> Parsed:
            require_ok(answer)
            return parse(answer.body, fetch.vendor_symbol, answer.url)

        return await fetch_page(fetch, transport, decode)
