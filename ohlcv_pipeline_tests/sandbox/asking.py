"""Requests to the sandbox, spelt as the vendors document them."""

from __future__ import annotations

import io
import zipfile
from datetime import UTC, datetime
from typing import Any

import httpx

from ohlcv_pipeline_tests.exchange import Exchange

TIINGO_HEADERS = {"Authorization": "Token secret"}


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def candles(exchange: Exchange, product: str = "BTC-USD", granularity: int = 60, **query: Any) -> httpx.Response:
    return exchange.http.get(f"/coinbase/products/{product}/candles", params={"granularity": granularity, **query})


def ohlc(exchange: Exchange, pair: str = "XBTUSD", **query: Any) -> httpx.Response:
    return exchange.http.get("/kraken/0/public/OHLC", params={"pair": pair, **query})


def klines(exchange: Exchange, symbol: str = "BTCUSDT", interval: str = "1m", **query: Any) -> httpx.Response:
    return exchange.http.get("/binance/api/v3/klines", params={"symbol": symbol, "interval": interval, **query})


def archived(exchange: Exchange, name: str, suffix: str = "", **options: Any) -> httpx.Response:
    symbol, interval, *day = name.split("-")
    span = "daily" if len(day) == 3 else "monthly"
    return exchange.http.get(
        f"/binance_archive/data/spot/{span}/klines/{symbol}/{interval}/{name}.zip{suffix}", **options
    )


def stocks(exchange: Exchange, symbols: str = "AAPL", timeframe: str = "1Min", **query: Any) -> httpx.Response:
    return exchange.http.get(
        "/alpaca/v2/stocks/bars",
        params={"symbols": symbols, "timeframe": timeframe, **query},
        headers={"APCA-API-KEY-ID": "key", "APCA-API-SECRET-KEY": "secret"},
    )


def daily(exchange: Exchange, ticker: str = "AAPL", **query: Any) -> httpx.Response:
    return exchange.http.get(f"/tiingo/tiingo/daily/{ticker}/prices", params=query, headers=TIINGO_HEADERS)


def iex(exchange: Exchange, ticker: str = "AAPL", **query: Any) -> httpx.Response:
    return exchange.http.get(
        f"/tiingo/iex/{ticker}/prices", params={"resampleFreq": "1min", **query}, headers=TIINGO_HEADERS
    )


def csv_rows(packed: bytes) -> list[list[str]]:
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        (member,) = archive.namelist()
        return [line.split(",") for line in archive.read(member).decode().splitlines()]
