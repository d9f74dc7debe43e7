"""Coinbase Exchange: `/products/{id}/candles` and `/time`.

Rows are JSON numbers `[time s, LOW, HIGH, open, close, volume]`, newest first. Format and errors after
https://docs.cdp.coinbase.com/exchange (product candles) and the ccxt recordings.
"""

from __future__ import annotations

import orjson

from ohlcv_pipeline.sandbox.listing import spellings, stable_hash
from ohlcv_pipeline.sandbox.messages import DAY, MINUTE, Ask, Reply, Request, iso, json_reply, parse_instant
from ohlcv_pipeline.sandbox.series import CLOSE, HIGH, LOW, OPEN, VOLUME, Series

NAME = "coinbase"
MAX_BUCKETS = 300
EARLY_EVERY = 16
"""One answer in so many brings the bar before `start`, as the real service does now and then."""

PRODUCTS = spellings(NAME)
_STEPS = {"60": MINUTE, "86400": DAY}
_GRANULARITIES = ("60", "300", "900", "3600", "21600", "86400")


def _refuse(status: int, message: str, **known: object) -> Ask:
    return Ask(NAME, refusal=json_reply(status, {"message": message}), **known)  # type: ignore[arg-type]


def parse(request: Request, now: float) -> Ask:
    """Return what is asked for. Both bounds are inclusive; without both, the newest 300 buckets."""
    if not request.headers.get(b"user-agent"):
        return _refuse(400, "User-Agent header is required.")
    if request.path == "/time":
        return Ask(NAME, form="time")
    parts = request.path.split("/")
    if len(parts) != 4 or parts[1] != "products" or parts[3] != "candles" or parts[2] not in PRODUCTS:
        return _refuse(404, "NotFound")
    symbol = PRODUCTS[parts[2]]
    granularity = request.query.get("granularity", "60")
    if granularity not in _GRANULARITIES:
        return _refuse(400, "Unsupported granularity", symbols=(symbol,))
    if granularity not in _STEPS:
        return _refuse(400, "The sandbox keeps bars of 60 and 86400 seconds only", symbols=(symbol,))
    step = _STEPS[granularity]
    newest = int(now) // step * step
    start, end = newest - (MAX_BUCKETS - 1) * step, newest
    if "start" in request.query and "end" in request.query:
        bounds = [parse_instant(request.query[name]) for name in ("start", "end")]
        for name, bound in zip(("start", "end"), bounds, strict=True):
            if bound is None:
                return _refuse(400, f"{name} must be a valid ISO8601 date or unix timestamp", symbols=(symbol,))
        start, end = (bound or 0 for bound in bounds)
        if start > end:
            return _refuse(400, "end must be after start", symbols=(symbol,))
        start, end = -(-start // step) * step, end // step * step
        if (end - start) // step + 1 > MAX_BUCKETS:
            return _refuse(
                400,
                "granularity too small for the requested time range. "
                f"Count of aggregations requested exceeds {MAX_BUCKETS}",
                symbols=(symbol,),
            )
    return Ask(NAME, (symbol,), step, start, end + step)


def answer(ask: Ask, series: Series, now: float) -> Reply:
    """Return the candles, newest first. A bucket without trades is absent."""
    if ask.form == "time":
        return json_reply(200, {"iso": iso(round(now, 3)), "epoch": round(now, 3)})
    start = ask.start
    if stable_hash(series.seed, ask.symbol, ask.step, start) % EARLY_EVERY == 0:
        start -= ask.step
    bars = series.bars(NAME, ask.symbol, ask.step, start, ask.end, now)
    time, columns = bars.time, bars.columns
    traded = columns[VOLUME] > 0
    if not traded.all():
        time, columns = time[traded], columns[:, traded]
    prices = columns[[LOW, HIGH, OPEN, CLOSE], ::-1] / 10.0**bars.decimals
    rows = zip(time[::-1].tolist(), *prices.tolist(), (columns[VOLUME, ::-1] / 1e8).tolist(), strict=True)
    return Reply(200, orjson.dumps(list(rows)))
