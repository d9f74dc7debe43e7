"""Binance spot: `/api/v3/klines`, `/api/v3/time`, `/api/v3/exchangeInfo`, and the lines both sources share.

Rows of twelve fields, oldest first, numbers as strings, the running bar last. After
https://github.com/binance/binance-spot-api-docs. The files of data.binance.vision are `archive`'s.
"""

from __future__ import annotations

import re

import numpy as np

from ohlcv_pipeline.sandbox import digits
from ohlcv_pipeline.sandbox.listing import coin, spellings
from ohlcv_pipeline.sandbox.messages import DAY, MINUTE, Ask, Reply, Request, json_reply
from ohlcv_pipeline.sandbox.series import (
    CLOSE,
    COUNT,
    HIGH,
    LOW,
    OPEN,
    QUOTE,
    TAKER,
    TAKER_QUOTE,
    VOLUME,
    Bars,
    Series,
)

NAME = "binance"
MAX_LIMIT = 1000
WEIGHT_PER_MINUTE = 6000
_STEPS = {"1m": MINUTE, "1d": DAY}
_PARAMETERS = {"symbol", "interval", "startTime", "endTime", "timeZone", "limit"}
_MICROSECONDS_FROM = 10**14

SYMBOLS = spellings(NAME)


def error(status: int, code: int, message: str) -> Reply:
    """Return Binance's error body."""
    return json_reply(status, {"code": code, "msg": message})


def _refuse(code: int, message: str, weight: int = 2) -> Ask:
    return Ask(NAME, weight=weight, refusal=error(400, code, message))


def parse(request: Request, now: float) -> Ask:
    """Return what is asked for. `startTime` and `endTime` are inclusive on the open time, ms or µs."""
    form = "us" if request.headers.get(b"x-mbx-time-unit", b"").upper() == b"MICROSECOND" else "ms"
    if request.path == "/api/v3/time":
        return Ask(NAME, form="time")
    if request.path == "/api/v3/exchangeInfo":
        return Ask(NAME, weight=20, form="exchangeInfo")
    if request.path != "/api/v3/klines":
        return Ask(NAME, refusal=Reply(404, b"<html><body><h2>404 Not found</h2></body></html>", b"text/html"))
    query = request.query
    for name in ("symbol", "interval"):
        if not query.get(name):
            return _refuse(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
    if unread := set(query) - _PARAMETERS:
        read = len(query) - len(unread)
        return _refuse(
            -1104, f"Not all sent parameters were read; read '{read}' parameter(s) but was sent '{len(query)}'."
        )
    for name in ("startTime", "endTime", "limit"):
        if name in query and not re.fullmatch(r"[0-9]{1,20}", query[name]):
            return _refuse(-1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'.")
    if query["symbol"] not in SYMBOLS:
        return _refuse(-1121, "Invalid symbol.")
    if query["interval"] not in _STEPS:
        return _refuse(-1120, "Invalid interval.")
    limit = min(int(query.get("limit", 500)), MAX_LIMIT)
    if not limit:
        return _refuse(-1128, "Combination of optional parameters invalid.")
    step = _STEPS[query["interval"]]
    end = _seconds(query["endTime"], round_up=False) if "endTime" in query else int(now)
    end = min(end, int(now)) // step * step + step
    start = _seconds(query["startTime"], round_up=True) if "startTime" in query else end - limit * step
    start = -(-start // step) * step
    return Ask(NAME, (SYMBOLS[query["symbol"]],), step, start, max(start, end), weight=2, form=f"{form} {limit}")


def _seconds(text: str, *, round_up: bool) -> int:
    unit = 1_000_000 if int(text) >= _MICROSECONDS_FROM else 1_000
    return -(-int(text) // unit) if round_up else int(text) // unit


def answer(ask: Ask, series: Series, now: float) -> Reply:
    """Return the klines; minutes without trades are rows with volume 0, the last row may still be running."""
    if ask.form == "time":
        return json_reply(200, {"serverTime": int(now * 1000)})
    if ask.form == "exchangeInfo":
        return json_reply(200, _exchange_info(now))
    unit, limit = ask.form.split()
    # An outage leaves holes, and the limit counts rows: look further than `limit` buckets.
    end = min(ask.end, ask.start + (int(limit) + 64) * ask.step)
    bars = series.bars(NAME, ask.symbol, ask.step, ask.start, end, now)
    bars = Bars(bars.time[: int(limit)], bars.columns[:, : int(limit)], bars.decimals)
    if not len(bars.time):
        return Reply(200, b"[]")
    fields = lines(bars, ask.step, 1_000_000 if unit == "us" else 1_000)
    quoted = {1, 2, 3, 4, 5, 7, 9, 10}
    parts: list[digits.Bytes | bytes] = [b"["]
    for place, column in enumerate(fields):
        parts += [b'"', column, b'",'] if place in quoted else [column, b","]
    return Reply(200, b"[%b]" % digits.text(*parts, b'"0"],')[:-1])


def lines(bars: Bars, step: int, unit: int) -> list[digits.Bytes]:
    """Return the first eleven fields of each row as text columns; `unit` is ticks of time per second.

    Open time, open, high, low, close, volume, close time, quote volume, trades, taker base, taker quote.
    """
    columns, time = bars.columns, bars.time * unit
    decimal = columns[[OPEN, HIGH, LOW, CLOSE, VOLUME, QUOTE, TAKER, TAKER_QUOTE]]
    decimal[: CLOSE + 1] *= 10 ** (8 - bars.decimals)
    # One call for eight columns: for short files the calls cost more than the digits.
    texts = list(digits.fixed(decimal.reshape(-1), 8).reshape(8, len(time), -1))
    opens, closes = digits.fixed(np.concatenate([time, time + (step * unit - 1)])).reshape(2, len(time), -1)
    return [opens, *texts[:5], closes, texts[5], digits.fixed(columns[COUNT]), *texts[6:]]


def _exchange_info(now: float) -> dict[str, object]:
    return {
        "timezone": "UTC",
        "serverTime": int(now * 1000),
        "rateLimits": [
            {
                "rateLimitType": "REQUEST_WEIGHT",
                "interval": "MINUTE",
                "intervalNum": 1,
                "limit": WEIGHT_PER_MINUTE,
            }
        ],
        "exchangeFilters": [],
        "symbols": [
            {
                "symbol": symbol,
                "status": "TRADING",
                "baseAsset": base,
                "quoteAsset": symbol.removeprefix(base),
                "filters": [
                    {
                        "filterType": "PRICE_FILTER",
                        "tickSize": np.format_float_positional(10.0 ** -coin(base).decimals[NAME], trim="-"),
                    }
                ],
            }
            for symbol, base in SYMBOLS.items()
        ],
    }
