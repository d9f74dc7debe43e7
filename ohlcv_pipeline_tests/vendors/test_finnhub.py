from __future__ import annotations

from typing import Any

import orjson
import pytest

from ohlcv_pipeline.markets import DAY_US, MARKETS, MINUTE_US, Interval, to_us
from ohlcv_pipeline.vendors.errors import Code, VendorError
from ohlcv_pipeline.vendors.finnhub import Finnhub, parse
from ohlcv_pipeline.vendors.registry import adapter
from ohlcv_pipeline_tests.vendors.wire import NOW, Heard, Reply, fetch, recorded, utc, values

OPEN = to_us(utc(2025, 11, 20, 14, 30))
PLAN = ("AAPL", "AAPL", Interval.MINUTE, OPEN, OPEN + 60 * MINUTE_US)
FIRST = OPEN // 1_000_000


def candles(*stamps: int, **other: Any) -> dict[str, Any]:
    n = len(stamps)
    arrays = {"c": [3.5] * n, "h": [4] * n, "l": [2] * n, "o": [3.25] * n, "t": list(stamps), "v": [100] * n}
    return {**arrays, "s": "ok", **other}


def deliver(*replies: Reply, plan: tuple[Any, ...] = PLAN) -> Heard:
    return fetch("finnhub", plan, replies, key="hush-hush")


def test_a_recorded_answer_is_read_exactly() -> None:
    bars, rejects, drift = parse(recorded("finnhub/candle_AAPL_60_issue309.json"), Interval.MINUTE)
    table = bars.table()
    assert (rejects, drift) == ((), ())
    assert values(table) == [
        (utc(2020, 7, 2, 18, 30), 366.95, 367.31, 366.21, 366.5698, 2113793.0, None, None),
        (utc(2020, 7, 2, 19, 30), 366.59, 367.0, 365.93, 366.19, 656192.0, None, None),
    ]


def test_part_c_3_recorded_no_data_is_an_empty_answer() -> None:
    assert len(parse(recorded("finnhub/candle_no_data_issue564.json"), Interval.MINUTE).bars) == 0
    assert len(deliver(Reply(body=b'{"s":"no_data"}')).value.bars) == 0


@pytest.mark.parametrize("arrays", [{}, dict.fromkeys("cholvt"), dict.fromkeys("cholvt", ())])
def test_part_c_2_no_data_without_its_arrays_is_empty_and_not_asked_for_again(arrays: dict[str, Any]) -> None:
    heard = deliver(Reply(body=orjson.dumps({"s": "no_data", **arrays})))
    assert (len(heard.value.bars), heard.value.rejects) == (0, ())
    assert (heard.line.codes, heard.waits) == (["ok"], [])


def test_part_c_48_a_day_is_its_date_wherever_in_it_the_stamp_lies() -> None:
    stamps = [
        utc(2025, 3, 7),
        utc(2025, 3, 10, 13, 30),
        utc(2025, 3, 11, 4),
        utc(2025, 11, 3, 5),
        utc(2025, 11, 4, 14, 30),
    ]
    text = orjson.dumps(candles(*(int(at.timestamp()) for at in stamps)))
    assert parse(text, Interval.DAY).bars.table()["bucket_start"].to_pylist() == [
        utc(at.year, at.month, at.day) for at in stamps
    ]


def test_arrays_of_different_length_are_malformed() -> None:
    with pytest.raises(VendorError, match="expected arrays of one length, found .*'v': 1") as caught:
        parse(orjson.dumps(candles(FIRST, FIRST + 60, v=[1])), Interval.MINUTE)
    assert caught.value.code is Code.MALFORMED_RESPONSE


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"v": None}, "'v', found null"),
        ({"t": "x"}, "'t', found text"),
        ({"t": ["2025-11-20", "2025-11-21"]}, "'t': expected unix seconds, found text"),
        ({"t": [1e12, 1e12]}, "expected unix seconds, found a number of another size"),
        ({"t": [-5, 5]}, "expected unix seconds, found a number of another size"),
        ({"o": ["3", "4"]}, "expected a number in field 'o'.* found text"),
        ({"s": "error"}, "expected ok or no_data"),
    ],
)
def test_a_change_of_the_format_is_named(change: dict[str, Any], told: str) -> None:
    with pytest.raises(VendorError, match=told):
        parse(orjson.dumps(candles(FIRST, FIRST + 60, **change)), Interval.MINUTE)


@pytest.mark.parametrize("field", ["t", "o", "h", "l", "c", "v"])
def test_an_array_that_is_gone_is_named(field: str) -> None:
    document = candles(FIRST)
    del document[field]
    with pytest.raises(VendorError, match=f"expected field '{field}'.* found it missing"):
        parse(orjson.dumps(document), Interval.MINUTE)


@pytest.mark.parametrize("text", [b"[]", b"{}", b'{"error":"x"}', b'"no_data"'])
def test_a_document_of_another_shape_is_malformed(text: bytes) -> None:
    with pytest.raises(VendorError) as caught:
        parse(text, Interval.MINUTE)
    assert caught.value.code is Code.MALFORMED_RESPONSE


def test_a_new_field_is_reported_and_changes_nothing() -> None:
    heard = deliver(Reply(body=orjson.dumps(candles(FIRST, vw=[3.1, 3.2], note="x"))))
    assert heard.value.drift == ("finnhub candles: new field 'note' (text)", "finnhub candles: new field 'vw' (array)")
    assert len(heard.value.bars) == 1


def test_part_c_1_a_null_refuses_its_row_alone() -> None:
    bars, rejects, _ = parse(orjson.dumps(candles(FIRST, FIRST + 60, c=[None, 3])), Interval.MINUTE)
    table = bars.table()
    assert table["bucket_start"].to_pylist() == [utc(2025, 11, 20, 14, 31)]
    assert [(reject.reason, reject.bucket_start) for reject in rejects] == [("null_value", OPEN)]


def test_part_c_61_times_are_whole_numbers_in_a_request() -> None:
    heard = deliver(Reply(body=orjson.dumps(candles(FIRST))))
    assert heard.line.vendor.asked == [f"/stock/candle?symbol=AAPL&resolution=1&from={FIRST}&to={FIRST + 59 * 60}"]
    assert "x-finnhub-token: hush-hush\r\n" in heard.line.vendor.heads[0].lower()


def test_days_are_asked_for_up_to_the_end_of_the_last_in_new_york() -> None:
    plan = ("AAPL", "AAPL", Interval.DAY, to_us(utc(2025, 3, 7)), to_us(utc(2025, 3, 11)))
    heard = deliver(Reply(body=b'{"s":"no_data"}'), plan=plan)
    first, last = int(utc(2025, 3, 7).timestamp()), int(utc(2025, 3, 11, 3, 59, 59).timestamp())
    assert heard.line.vendor.asked == [f"/stock/candle?symbol=AAPL&resolution=D&from={first}&to={last}"]


def test_part_c_23_a_429_waits_until_the_reset_header() -> None:
    limited = Reply(429, b"API limit reached.", {"X-Ratelimit-Reset": str(int(NOW) + 9), "Content-Type": "text/plain"})
    assert deliver(limited, Reply(body=orjson.dumps(candles(FIRST)))).waits == [9]


@pytest.mark.parametrize("status", [401, 403])
def test_what_the_plan_does_not_include_is_not_tried_again(status: int) -> None:
    heard = deliver(Reply(status, b'{"error":"You don\'t have access to this resource."}'))
    assert (heard.failure.code, len(heard.line.vendor.asked)) == (Code.AUTH_FAILED, 1)


def test_closed_minutes_and_sessions_are_served() -> None:
    now = to_us(utc(2025, 11, 20, 21))
    assert Finnhub().serves(Interval.MINUTE, OPEN, now + DAY_US, now) == (OPEN, now)
    assert Finnhub().serves(Interval.DAY, 0, now + DAY_US, now) == (0, to_us(utc(2025, 11, 21)))
    assert Finnhub().serves(Interval.DAY, 0, now + DAY_US, now - 1) == (0, to_us(utc(2025, 11, 20)))


def test_no_market_takes_prices_that_are_adjusted() -> None:
    assert not Finnhub.raw_prices
    assert all(adapter(vendor).raw_prices for market in MARKETS.values() for vendor in market.vendors)
