from __future__ import annotations

from datetime import UTC, datetime

import orjson
import pytest

from ohlcv_pipeline.markets import DAY_US, MINUTE_US, Interval, to_us
from ohlcv_pipeline.vendors.binance import Binance, parse
from ohlcv_pipeline.vendors.errors import Code, Remedy
from ohlcv_pipeline_tests.vendors.wire import Reply, fetch, tabled

DAY = to_us(datetime(2025, 1, 1, tzinfo=UTC))
ROW = [1735689600000, "93576.00000000", "93610.93000000", "93537.50000000", "93610.93000000", "8.21827000",
       1735689659999, "768978.75522470", 2631, "3.95157000", "369757.32652890", "0"]  # fmt: skip
SILENT = [1735689660000, *ROW[1:5], "0.00000000", 1735689719999, "0.00000000", 0, "0", "0", "0"]
PLAN = ("BTC", "BTCUSDT", Interval.MINUTE, DAY, DAY + 2 * MINUTE_US)


def test_a_page_becomes_columns_with_a_computed_vwap() -> None:
    bars, rejects = tabled(parse(orjson.dumps([ROW, SILENT])))
    assert not rejects
    assert bars.to_pylist()[0] == {
        "bucket_start": datetime(2025, 1, 1, tzinfo=UTC),
        "open": 93576.0,
        "high": 93610.93,
        "low": 93537.5,
        "close": 93610.93,
        "volume": 8.21827,
        "trade_count": 2631,
        "vwap": 768978.75522470 / 8.21827,
    }


def test_part_c_39_zero_volume_is_a_bar_without_vwap() -> None:
    bars, _ = tabled(parse(orjson.dumps([ROW, SILENT])))
    assert bars["volume"].to_pylist()[1] == 0.0
    assert bars["vwap"].to_pylist()[1] is None


def test_part_c_12_microsecond_stamps_are_read_beside_milliseconds() -> None:
    bars, _ = tabled(parse(orjson.dumps([ROW, [1735689660000000, *ROW[1:]]])))
    assert bars["bucket_start"].to_pylist()[1] == datetime(2025, 1, 1, 0, 1, tzinfo=UTC)


def test_part_c_7_the_running_bar_is_left_in() -> None:
    assert len(parse(orjson.dumps([ROW, [4102444800000, *ROW[1:]]]))[0]) == 2


def test_a_day_of_minutes_is_two_pages_of_weight_two() -> None:
    first, second = Binance().plan("BTC", "BTCUSDT", Interval.MINUTE, DAY, DAY + DAY_US)
    (request,) = first.requests
    assert (request.path, request.weight) == ("/api/v3/klines", 2)
    assert request.params == {
        "symbol": "BTCUSDT",
        "interval": "1m",
        "startTime": 1735689600000,
        "endTime": 1735689600000 + 999 * 60_000,
        "limit": 1000,
    }
    assert second.requests[0].params["startTime"] == 1735689600000 + 1000 * 60_000
    assert second.requests[0].params["endTime"] == 1735689600000 + 1439 * 60_000


def test_any_window_of_the_past_is_served() -> None:
    assert Binance().serves(Interval.DAY, 0, DAY + 5, DAY + 5) == (0, DAY)
    assert not Binance().omits_empty_buckets


@pytest.mark.parametrize(
    ("status", "code", "expected", "waits"),
    [
        (400, -1121, Code.BAD_SYMBOL, []),
        (400, -1100, Code.BAD_REQUEST, []),
        (400, -1130, Code.BAD_REQUEST, []),
        (400, -1001, Code.VENDOR_UNAVAILABLE, [2, 4, 8, 16]),
        (503, -1008, Code.VENDOR_UNAVAILABLE, [2, 4, 8, 16]),
        (200, -1000, Code.VENDOR_UNAVAILABLE, [2, 4, 8, 16]),
        (429, -1003, Code.RATE_LIMITED, [30, 60, 60, 60]),
    ],
)
def test_part_c_17_error_codes_are_classes(status: int, code: int, expected: Code, waits: list[float]) -> None:
    heard = fetch("binance", PLAN, [Reply(status, b'{"code":%d,"msg":"Vendor text."}' % code)])
    assert heard.failure.code is expected
    assert heard.waits == waits
    assert "Vendor text" not in str(heard.failure)


def test_part_c_25_a_ban_stops_the_vendor() -> None:
    heard = fetch("binance", PLAN, [Reply(418, b'{"code":-1003,"msg":"banned"}', {"Retry-After": "259200"})])
    assert (heard.failure.remedy, heard.failure.wait_seconds) == (Remedy.STOP_VENDOR, 259_200)


def test_a_fetch_delivers_the_page() -> None:
    heard = fetch("binance", PLAN, [Reply(body=orjson.dumps([ROW, SILENT]))])
    assert len(heard.value.bars) == 2
    assert heard.line.vendor.asked[0].startswith("/api/v3/klines?symbol=BTCUSDT&interval=1m&startTime=1735689600000")
