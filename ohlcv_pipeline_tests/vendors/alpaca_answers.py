"""Answers as Alpaca sends them, and a fetch that is given them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import orjson

from ohlcv_pipeline.markets import MINUTE_US, Interval, to_us
from ohlcv_pipeline_tests.vendors.wire import Heard, Reply, fetch, utc

FIRST = utc(2025, 11, 20, 14, 30)
OPEN = to_us(FIRST)
PLAN = ("BRK.B", "BRK.B", Interval.MINUTE, OPEN, OPEN + 60 * MINUTE_US)
KEYS = {"key_id": "PKTEST", "key": "hush-hush"}


def bar(minute: int = 0, **other: Any) -> dict[str, Any]:
    at = FIRST + timedelta(minutes=minute)
    row = {
        "t": f"{at:%Y-%m-%dT%H:%M:%SZ}",
        "o": 500.5,
        "h": 501,
        "l": 500.25,
        "c": 500.75,
        "v": 1200,
        "n": 34,
        "vw": 500.6,
    }
    return {**row, **other}


def body(*rows: Any, token: str | None = None, symbol: str = "BRK.B", **other: Any) -> bytes:
    return orjson.dumps({"bars": {symbol: list(rows)} if rows else {}, "next_page_token": token, **other})


def deliver(*replies: Reply, plan: tuple[Any, ...] = PLAN, **settings: Any) -> Heard:
    return fetch("alpaca", plan, replies, **{**KEYS, **settings})
