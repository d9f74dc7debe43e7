"""Kraken: `/0/public/OHLC` and `/0/public/Time`.

Rows are `[time s, "o", "h", "l", "c", "vwap", "volume", count]`, oldest first, always the newest 720
closed bars and the running one. Errors come with 200. After https://docs.kraken.com/api and recordings.
"""

from __future__ import annotations

import numpy as np
import orjson

from ohlcv_pipeline.sandbox import digits
from ohlcv_pipeline.sandbox.listing import spellings
from ohlcv_pipeline.sandbox.messages import DAY, MINUTE, Ask, Reply, Request, json_reply
from ohlcv_pipeline.sandbox.series import CLOSE, COUNT, HIGH, LOW, OPEN, QUOTE, VOLUME, Series

NAME = "kraken"
CLOSED_BARS = 720
_STEPS = {"1": MINUTE, "1440": DAY}
_LEGACY_KEYS = {
    "XBTUSD": "XXBTZUSD", "ETHUSD": "XETHZUSD", "XRPUSD": "XXRPZUSD", "USDTUSD": "USDTZUSD",
}  # fmt: skip

PAIRS = spellings(NAME)
KEYS = {pair: _LEGACY_KEYS.get(pair, pair) for pair in PAIRS}
"""The key under which the rows of a pair come back; it often differs from the pair asked for."""
_ACCEPTED = {name: pair for pair, key in KEYS.items() for name in (pair, key)}


def error(*messages: str) -> Reply:
    """Return Kraken's way to refuse: HTTP 200 and an array of errors."""
    return json_reply(200, {"error": list(messages)})


def parse(request: Request, now: float) -> Ask:
    """Return what is asked for. `since` is exclusive, and of no effect before the newest 720 bars."""
    if request.path == "/0/public/Time":
        return Ask(NAME, form="time")
    if request.path != "/0/public/OHLC":
        return Ask(NAME, refusal=error("EGeneral:Unknown method"))
    query = request.query
    if not query.get("pair"):
        return Ask(NAME, refusal=error("EGeneral:Invalid arguments"))
    pair = _ACCEPTED.get(query["pair"].replace("/", ""))
    if pair is None:
        return Ask(NAME, refusal=error("EQuery:Unknown asset pair"))
    symbol = PAIRS[pair]
    since = query.get("since", "0")
    interval = query.get("interval", "1")
    if interval not in _STEPS or not since.isdecimal():
        return Ask(NAME, (symbol,), refusal=error("EGeneral:Invalid arguments"))
    step = _STEPS[interval]
    running = int(now) // step * step
    start = max(running - CLOSED_BARS * step, (int(since) // step + 1) * step)
    return Ask(NAME, (symbol,), step, start, max(start, running + step), form=KEYS[pair])


def answer(ask: Ask, series: Series, now: float) -> Reply:
    """Return the bars; a bucket without trades is a row with vwap "0.0", volume "0.00000000", count 0."""
    if ask.form == "time":
        return json_reply(200, {"error": [], "result": {"unixtime": int(now)}})
    bars = series.bars(NAME, ask.symbol, ask.step, ask.start, ask.end, now)
    last = int(now) // ask.step * ask.step - ask.step
    rows = b""
    if len(bars.time):
        columns, places = bars.columns, bars.decimals
        silent = columns[VOLUME] == 0
        ticks = columns[QUOTE] / np.maximum(columns[VOLUME], 1) * 10.0**places
        # Rounded to the grid, a volume-weighted mean may leave the bar by a tick.
        vwap = np.clip(np.rint(ticks).astype(np.int64), columns[LOW], columns[HIGH])
        means = digits.fixed(vwap, places)
        means[silent] = 0
        means[silent, :3] = np.frombuffer(b"0.0", np.uint8)
        prices = [part for name in (OPEN, HIGH, LOW, CLOSE) for part in (digits.fixed(columns[name], places), b'","')]
        rows = digits.text(
            b"[", digits.fixed(bars.time), b',"', *prices, means, b'","',
            digits.fixed(columns[VOLUME], 8), b'",', digits.fixed(columns[COUNT]), b"],",
        )[:-1]  # fmt: skip
    key = orjson.dumps(ask.form)
    return Reply(200, b'{"error":[],"result":{%b:[%b],"last":%d}}' % (key, rows, last))
