from __future__ import annotations

import hashlib
from email.utils import parsedate_to_datetime

import httpx
import numpy as np
import pytest

from ohlcv_pipeline.sandbox import digits
from ohlcv_pipeline.sandbox.listing import spellings
from ohlcv_pipeline_tests.exchange import Exchange
from ohlcv_pipeline_tests.sandbox.asking import archived, at, candles, csv_rows, klines, ohlc

NOW = at("2026-11-20T12:00:30")
START = at("2026-11-18T06:00:00")


@pytest.mark.parametrize(("decimals", "shown"), [(0, "12345"), (2, "123.45"), (5, "0.12345"), (8, "0.00012345")])
def test_fixed_point_text_is_exact(decimals: int, shown: str) -> None:
    values = np.array([12345, 0, 9_000_000_000_000_000], np.int64)
    lines = digits.text(digits.fixed(values, decimals), b"\n").decode().split()
    assert lines[0] == shown
    assert [round(float(line) * 10**decimals) for line in lines] == values.tolist()


def test_every_answer_carries_the_date_of_the_sandbox(exchange: Exchange) -> None:
    paths = ("/coinbase/time", "/kraken/0/public/Time", "/binance/api/v3/time", "/binance_archive/none")
    for path in paths:
        assert parsedate_to_datetime(exchange.http.get(path).headers["date"]).timestamp() == NOW
    assert exchange.http.get(paths[0]).json()["epoch"] == NOW
    assert exchange.http.get(paths[1]).json() == {"error": [], "result": {"unixtime": NOW}}
    assert exchange.http.get(paths[2]).json() == {"serverTime": NOW * 1000}


class TestCoinbase:
    def test_rows_are_newest_first_numbers_in_the_order_low_high_open_close(self, exchange: Exchange) -> None:
        rows = candles(exchange, start=START, end=START + 299 * 60).json()
        times = [row[0] for row in rows]
        assert times == sorted(times, reverse=True)
        assert set(range(START, START + 300 * 60, 60)) <= set(times)
        for _, low, high, opened, close, volume in rows:
            assert low <= min(opened, close) <= max(opened, close) <= high
            assert volume > 0

    def test_bounds_are_inclusive_and_iso_or_unix(self, exchange: Exchange) -> None:
        unix = candles(exchange, start=START, end=START + 120).json()
        iso = candles(exchange, start="2026-11-18T06:00:00Z", end="2026-11-18T06:02:00+00:00").json()
        assert unix == iso
        assert {START, START + 60, START + 120} <= {row[0] for row in unix}

    def test_more_than_300_buckets_are_refused(self, exchange: Exchange) -> None:
        answer = candles(exchange, start=START, end=START + 300 * 60)
        assert answer.status_code == 400
        assert answer.json() == {
            "message": "granularity too small for the requested time range. Count of aggregations requested exceeds 300"
        }

    def test_one_bound_alone_is_ignored(self, exchange: Exchange) -> None:
        newest = candles(exchange).json()
        assert candles(exchange, start=START).json() == newest
        assert newest[0][0] == NOW // 60 * 60
        assert 300 <= len(newest) <= 301

    def test_now_and_then_a_bar_before_start_comes_along(self, exchange: Exchange) -> None:
        early = [
            candles(exchange, start=start, end=start + 300).json()[-1][0] < start
            for start in range(START, START + 100 * 3600, 3600)
            if start < NOW - 600
        ]
        assert 0 < sum(early) < len(early) / 4

    def test_buckets_without_trades_are_absent(self, exchange: Exchange) -> None:
        rows = candles(exchange, "USDT-USD", start=START, end=START + 299 * 60).json()
        assert len([row for row in rows if row[0] >= START]) < 300

    def test_unknown_product_missing_user_agent_and_granularity(self, exchange: Exchange) -> None:
        assert candles(exchange, "FOO-USD").status_code == 404
        assert candles(exchange, "FOO-USD").json() == {"message": "NotFound"}
        assert candles(exchange, granularity=7).status_code == 400
        request = exchange.http.build_request("GET", "/coinbase/products/BTC-USD/candles")
        del request.headers["user-agent"]
        assert exchange.http.send(request).status_code == 400

    def test_all_listed_products_have_day_bars(self, exchange: Exchange) -> None:
        for product in spellings("coinbase"):
            assert len(candles(exchange, product, 86400, start=at("2026-01-01"), end=at("2026-01-10")).json()) >= 10

    def test_a_window_of_the_future_is_empty(self, exchange: Exchange) -> None:
        assert candles(exchange, start=NOW + 3600, end=NOW + 7200).json() == []


class TestKraken:
    def test_newest_720_closed_bars_and_the_running_one(self, exchange: Exchange) -> None:
        result = ohlc(exchange, since=START - 86400 * 100).json()["result"]
        rows = result["XXBTZUSD"]
        running = NOW // 60 * 60
        assert [row[0] for row in rows] == list(range(running - 720 * 60, running + 60, 60))
        assert result["last"] == running - 60
        assert all(isinstance(value, str) for value in rows[0][1:7])
        assert isinstance(rows[0][7], int)

    def test_since_is_exclusive(self, exchange: Exchange) -> None:
        running = NOW // 60 * 60
        rows = ohlc(exchange, since=running - 120).json()["result"]["XXBTZUSD"]
        assert [row[0] for row in rows] == [running - 60, running]

    def test_minute_without_trades_is_a_row_of_zeros(self, exchange: Exchange) -> None:
        rows = ohlc(exchange, "USDTUSD").json()["result"]["USDTZUSD"]
        silent = [row for row in rows[:-1] if row[7] == 0]
        assert silent
        assert all(row[5:] == ["0.0", "0.00000000", 0] and len(set(row[1:5])) == 1 for row in silent)
        traded = [row for row in rows if row[7]]
        assert all(float(row[3]) <= float(row[5]) <= float(row[2]) for row in traded)

    def test_result_key_is_krakens_own_name(self, exchange: Exchange) -> None:
        keys = {
            pair: next(key for key in ohlc(exchange, pair, interval=1440).json()["result"] if key != "last")
            for pair in ("XBTUSD", "ETHUSD", "XRPUSD", "XDGUSD", "SOLUSD")
        }
        assert keys["XBTUSD"] == "XXBTZUSD"
        assert keys["ETHUSD"] == "XETHZUSD"
        assert keys["XRPUSD"] == "XXRPZUSD"
        assert keys["SOLUSD"] == "SOLUSD"

    def test_errors_come_with_200(self, exchange: Exchange) -> None:
        for answer, error in (
            (ohlc(exchange, "FOOUSD"), "EQuery:Unknown asset pair"),
            (ohlc(exchange, interval=7), "EGeneral:Invalid arguments"),
        ):
            assert answer.status_code == 200
            assert answer.json() == {"error": [error]}


class TestBinance:
    def test_rows_have_twelve_fields_and_the_running_bar_is_last(self, exchange: Exchange) -> None:
        answer = klines(exchange, limit=1000)
        rows = answer.json()
        assert len(rows) == 1000
        assert rows[-1][0] <= NOW * 1000 <= rows[-1][6]
        assert all(len(row) == 12 and row[11] == "0" and row[6] - row[0] == 59_999 for row in rows)
        assert all(isinstance(row[place], str) for row in rows for place in (1, 2, 3, 4, 5, 7, 9, 10))
        assert "x-mbx-used-weight-1m" in answer.headers

    def test_limit_is_500_by_default_and_1000_at_most(self, exchange: Exchange) -> None:
        start = START * 1000
        assert len(klines(exchange, startTime=start).json()) == 500
        assert len(klines(exchange, startTime=start, limit=5000).json()) == 1000

    def test_bounds_are_inclusive_on_open_time_in_ms_or_us(self, exchange: Exchange) -> None:
        millis = klines(exchange, startTime=START * 1000, endTime=(START + 120) * 1000).json()
        micros = klines(exchange, startTime=START * 10**6, endTime=(START + 120) * 10**6).json()
        assert millis == micros
        assert [row[0] // 1000 for row in millis] == [START, START + 60, START + 120]
        assert klines(exchange, startTime=(START + 60) * 1000, endTime=START * 1000).json() == []

    def test_time_unit_header_switches_the_stamps_to_microseconds(self, exchange: Exchange) -> None:
        row = exchange.http.get(
            "/binance/api/v3/klines",
            params={"symbol": "BTCUSDT", "interval": "1m", "startTime": START * 1000, "limit": 1},
            headers={"X-MBX-TIME-UNIT": "MICROSECOND"},
        ).json()[0]
        assert (row[0], row[6]) == (START * 10**6, (START + 60) * 10**6 - 1)

    def test_zero_volume_minutes_are_rows_and_outages_are_holes(self, exchange: Exchange) -> None:
        rows = klines(exchange, "AAVEUSDT", startTime=START * 1000, limit=1000).json()
        assert any(row[5] == "0.00000000" and row[8] == 0 for row in rows)
        (gap,) = exchange.outages("binance", "2026-08-25T00:00:00Z", "2026-11-20T00:00:00Z")
        first = at(gap["start"].removesuffix("Z"))
        times = [row[0] // 1000 for row in klines(exchange, startTime=(first - 60) * 1000, limit=3).json()]
        assert times == [first - 60, first + 45 * 60, first + 46 * 60]

    @pytest.mark.parametrize(
        ("query", "code"),
        [
            ({"symbol": "FOOUSDT"}, -1121),
            ({"symbol": ""}, -1102),
            ({"interval": "7m"}, -1120),
            ({"startTime": "1.5"}, -1100),
            ({"since": "1"}, -1104),
        ],
    )
    def test_wrong_parameters_have_their_codes(self, exchange: Exchange, query: dict[str, str], code: int) -> None:
        answer = exchange.http.get("/binance/api/v3/klines", params={"symbol": "BTCUSDT", "interval": "1m", **query})
        assert answer.status_code == 400
        assert answer.json()["code"] == code

    def test_exchange_info_names_the_weight_limit(self, exchange: Exchange) -> None:
        content = exchange.http.get("/binance/api/v3/exchangeInfo").json()
        assert content["rateLimits"][0]["limit"] == 6000
        assert {symbol["symbol"] for symbol in content["symbols"]} == set(spellings("binance"))


class TestArchive:
    def test_checksum_names_the_digest_of_the_zip(self, exchange: Exchange) -> None:
        packed = archived(exchange, "BTCUSDT-1m-2026-11-18")
        digest = hashlib.sha256(packed.content).hexdigest()
        assert archived(exchange, "BTCUSDT-1m-2026-11-18", ".CHECKSUM").text.rstrip("\n") == (
            f"{digest}  BTCUSDT-1m-2026-11-18.zip"
        )
        assert packed.headers["last-modified"] == "Thu, 19 Nov 2026 03:00:00 GMT"

    def test_stamps_are_ms_before_2025_and_us_from_then_on(self, exchange: Exchange) -> None:
        before = csv_rows(archived(exchange, "BTCUSDT-1d-2024-12").content)
        after = csv_rows(archived(exchange, "BTCUSDT-1d-2025-01").content)
        assert (before[-1][0], before[-1][6]) == ("1735603200000", "1735689599999")
        assert (after[0][0], after[0][6]) == ("1735689600000000", "1735775999999999")
        assert {len(row) for row in before + after} == {12}

    def test_files_tell_the_same_as_the_api(self, exchange: Exchange) -> None:
        rows = csv_rows(archived(exchange, "ETHUSDT-1m-2026-11-18").content)
        asked = klines(exchange, "ETHUSDT", startTime=at("2026-11-18") * 1000, limit=1000).json()
        assert [row[1:6] for row in rows[:1000]] == [row[1:6] for row in asked]
        days = csv_rows(archived(exchange, "ETHUSDT-1d-2026-10").content)
        month = klines(
            exchange, "ETHUSDT", "1d", startTime=at("2026-10-01") * 1000, endTime=at("2026-10-31") * 1000
        ).json()
        assert [row[1:6] for row in days] == [row[1:6] for row in month]

    def test_monthly_minutes_are_the_daily_files_one_after_the_other(self, exchange: Exchange) -> None:
        month = csv_rows(archived(exchange, "BNBUSDT-1m-2026-10").content)
        last = csv_rows(archived(exchange, "BNBUSDT-1m-2026-10-31").content)
        assert month[-len(last) :] == last

    def test_file_appears_some_hours_after_its_day_and_on_the_second_of_the_month(self, exchange: Exchange) -> None:
        exchange.clock("2026-11-20T02:59:59Z")
        missing = archived(exchange, "BTCUSDT-1m-2026-11-19")
        assert missing.status_code == 404
        assert b"NoSuchKey" in missing.content
        exchange.clock("2026-11-20T03:00:00Z")
        assert archived(exchange, "BTCUSDT-1m-2026-11-19").status_code == 200
        exchange.clock("2026-11-01T12:00:00Z")
        assert archived(exchange, "BTCUSDT-1d-2026-10").status_code == 404
        exchange.clock("2026-11-02T03:00:00Z")
        assert archived(exchange, "BTCUSDT-1d-2026-10").status_code == 200

    def test_etag_answers_not_modified_until_history_changes(self, exchange: Exchange) -> None:
        name = "BTCUSDT-1m-2026-11-18"
        etag = archived(exchange, name).headers["etag"]
        assert archived(exchange, name, headers={"If-None-Match": etag}).status_code == 304
        exchange.fault(
            kind="correction", vendor="binance_archive", symbol="BTC", start="2026-11-18T10:00:00Z", factor=1.01
        )
        changed = archived(exchange, name, headers={"If-None-Match": etag})
        assert changed.status_code == 200
        assert changed.headers["etag"] != etag

    def test_unknown_files_do_not_exist(self, exchange: Exchange) -> None:
        for name in ("FOOUSDT-1m-2026-11-18", "BTCUSDT-1m-2026-02-30", "BTCUSDT-1d-2014-06"):
            assert archived(exchange, name).status_code == 404


def test_an_unknown_vendor_is_told_the_prefixes(exchange: Exchange) -> None:
    answer: httpx.Response = exchange.http.get("/bitstamp/ohlc")
    assert answer.status_code == 404
    assert "/coinbase" in answer.json()["error"]
