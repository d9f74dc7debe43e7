from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ohlcv_pipeline.sandbox import digits
from ohlcv_pipeline_tests.exchange import Exchange
from ohlcv_pipeline_tests.sandbox.asking import TIINGO_HEADERS, at, daily, iex, stocks

DAY = {"start": "2026-11-18T00:00:00Z", "end": "2026-11-18T23:59:00Z"}


def pages(exchange: Exchange, symbols: str, timeframe: str = "1Min", **query: Any) -> Iterator[dict[str, Any]]:
    token = {}
    while True:
        page = stocks(exchange, symbols, timeframe, **query, **token).json()
        yield page
        if page["next_page_token"] is None:
            return
        token = {"page_token": page["next_page_token"]}


def test_trailing_zeros_go_and_with_them_an_idle_point() -> None:
    values = np.array([17450, 1200, 1205, 5, 0, 100_000], np.int64)
    shown = digits.text(digits.trimmed(digits.fixed(values, 2), 2), b"\n").decode().split()
    assert shown == ["174.5", "12", "12.05", "0.05", "0", "1000"]


def test_stamps_are_iso_text() -> None:
    times = ["2024-02-29T23:59:00", "2026-11-18T14:30:00", "2026-11-18T00:00:00"]
    assert digits.text(digits.stamps(np.array([at(time) for time in times])), b"\n").decode().split() == times


class TestAlpaca:
    def test_a_bar_has_eight_fields_and_its_open_as_time(self, exchange: Exchange) -> None:
        answer = stocks(exchange, start="2026-11-18T14:30:00Z", end="2026-11-18T14:31:00Z")
        assert answer.headers["content-type"].startswith("application/json")
        content = answer.json()
        assert content["next_page_token"] is None
        first, second = content["bars"]["AAPL"]
        assert list(first) == ["t", "o", "h", "l", "c", "v", "n", "vw"]
        assert (first["t"], second["t"]) == ("2026-11-18T14:30:00Z", "2026-11-18T14:31:00Z")
        assert isinstance(first["v"], int)
        assert isinstance(first["n"], int)
        assert first["l"] <= first["vw"] <= first["h"]
        assert round(first["o"] * 100) == pytest.approx(first["o"] * 100, abs=1e-6)

    def test_symbols_come_sorted_and_unknown_ones_not_at_all(self, exchange: Exchange) -> None:
        content = stocks(exchange, "MSFT,BRK.B,ZZZ,AAPL", "1Day", start="2026-11-16", end="2026-11-18").json()
        assert list(content["bars"]) == ["AAPL", "BRK.B", "MSFT"]
        assert {len(rows) for rows in content["bars"].values()} == {3}
        assert stocks(exchange, "ZZZ", **DAY).json() == {"bars": {}, "next_page_token": None}

    def test_a_day_is_stamped_with_midnight_in_new_york(self, exchange: Exchange) -> None:
        rows = stocks(exchange, timeframe="1Day", start="2025-10-31", end="2025-11-03").json()["bars"]["AAPL"]
        assert [row["t"] for row in rows] == ["2025-10-31T04:00:00Z", "2025-11-03T05:00:00Z"]
        spring = stocks(exchange, timeframe="1Day", start="2025-03-07T00:00:00Z", end="2025-03-10T04:00:00Z").json()
        assert [row["t"] for row in spring["bars"]["AAPL"]] == ["2025-03-07T05:00:00Z", "2025-03-10T04:00:00Z"]
        late = stocks(exchange, timeframe="1Day", start="2025-03-07T05:00:01Z", end="2025-03-10T03:59:59Z").json()
        assert late["bars"] == {}

    def test_minutes_include_a_few_before_and_after_the_session(self, exchange: Exchange) -> None:
        rows = stocks(exchange, limit=10_000, **DAY).json()["bars"]["AAPL"]
        times = [at(row["t"].removesuffix("Z")) for row in rows]
        opened, closed = at("2026-11-18T14:30:00"), at("2026-11-18T21:00:00")
        assert len([time for time in times if opened <= time < closed]) == 390
        assert len([time for time in times if time < opened]) == 4
        assert [time - closed for time in times if time >= closed][:2] == [0, 60]

    @pytest.mark.parametrize("sort", ["asc", "desc"])
    @pytest.mark.parametrize("limit", [10, 97, 1000, 10_000])
    def test_pages_together_are_the_whole(self, exchange: Exchange, limit: int, sort: str) -> None:
        window = {"start": "2026-11-17T20:00:00Z", "end": "2026-11-18T16:00:00Z", "sort": sort}
        whole: dict[str, list[Any]] = {}
        sizes = []
        for page in pages(exchange, "TSLA,AAPL,BRK.B", limit=limit, **window):
            sizes.append(sum(map(len, page["bars"].values())))
            for symbol, rows in page["bars"].items():
                whole.setdefault(symbol, []).extend(rows)
        assert max(sizes) <= limit
        assert list(whole) == ["AAPL", "BRK.B", "TSLA"]
        for symbol, rows in whole.items():
            alone = stocks(exchange, symbol, limit=10_000, **window).json()["bars"][symbol]
            assert rows == alone
            times = [row["t"] for row in rows]
            assert times == sorted(set(times), reverse=sort == "desc")
        if limit == 10:
            # The odd pages: empty ones and short ones, with a token.
            assert 0 in sizes[:-1]
            assert {size for size in sizes[:-1] if 0 < size < limit}

    def test_limit_is_1000_by_default_and_10000_at_most(self, exchange: Exchange) -> None:
        window = {"start": "2026-11-02", "end": "2026-11-18"}
        assert len(stocks(exchange, **window).json()["bars"]["AAPL"]) == 1000
        assert stocks(exchange, limit=10_001, **window).status_code == 400
        full = stocks(exchange, "AAPL,MSFT,NVDA", limit=10_000, **window).json()
        assert sum(map(len, full["bars"].values())) == 10_000

    def test_the_same_seed_gives_the_same_bytes(self, exchange: Exchange) -> None:
        one, other = (stocks(exchange, "AAPL,QQQ", limit=10_000, **DAY).content for _ in range(2))
        assert one == other

    def test_without_both_keys_an_html_page_forbids(self, exchange: Exchange) -> None:
        for headers in ({}, {"APCA-API-KEY-ID": "key"}):
            answer = exchange.http.get("/alpaca/v2/stocks/bars", headers=headers)
            assert answer.status_code == 403
            assert answer.headers["content-type"].startswith("text/html")
            assert "<title>403 Forbidden</title>" in answer.text

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            ({"from": "2026-11-18"}, "unexpected query parameter(s): from"),
            ({"symbols": ""}, "symbols is required"),
            ({"symbols": "BRK-B"}, "invalid symbol: BRK-B"),
            ({"timeframe": "5Min"}, "timeframe"),
            ({"adjustment": "split"}, "adjustment"),
            ({"feed": "otc"}, "feed"),
            ({"currency": "JPY"}, "currency"),
            ({"start": "2026-11-18T10:00:00"}, "start"),
            ({"end": "tomorrow"}, "end"),
            ({"start": "2026-11-18", "end": "2026-11-17"}, "end should not be before start"),
            ({"limit": "0"}, "limit"),
            ({"sort": "up"}, "sort"),
            ({"page_token": "abc"}, "page_token"),
        ],
    )
    def test_a_wrong_request_is_400_with_a_message(self, exchange: Exchange, query: dict, message: str) -> None:
        answer = stocks(exchange, **query)
        assert answer.status_code == 400
        assert message in answer.json()["message"]

    def test_a_token_of_another_question_is_refused(self, exchange: Exchange) -> None:
        token = stocks(exchange, limit=5, **DAY).json()["next_page_token"]
        assert stocks(exchange, "MSFT", limit=5, page_token=token, **DAY).status_code == 400

    def test_one_venue_has_a_part_of_the_volume(self, exchange: Exchange) -> None:
        sip, small = (stocks(exchange, feed=feed, **DAY).json()["bars"]["AAPL"] for feed in ("sip", "iex"))
        assert len(small) == len(sip)
        assert sum(row["v"] for row in small) < 0.05 * sum(row["v"] for row in sip)

    def test_every_answer_tells_of_the_limit(self, exchange: Exchange) -> None:
        headers = stocks(exchange, **DAY).headers
        assert headers["x-ratelimit-limit"] == headers["x-ratelimit-remaining"] == "200"
        assert int(headers["x-ratelimit-reset"]) == at("2026-11-20T12:01:00")

    def test_over_the_limit_is_429_with_a_reset_and_no_retry_after(self, exchange: Exchange) -> None:
        exchange.limits("alpaca", rate=0.1, burst=2)
        answers = [stocks(exchange, **DAY) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["1", "0", "0"]
        assert "retry-after" not in answers[2].headers
        assert 5 <= int(answers[2].headers["x-ratelimit-reset"]) - at("2026-11-20T12:00:30") <= 10
        assert list(answers[2].json()) == ["message"]


class TestTiingo:
    def test_a_daily_row_has_raw_and_adjusted_fields_and_a_date(self, exchange: Exchange) -> None:
        (row,) = daily(exchange, "AAPL", startDate="2026-11-18", endDate="2026-11-18").json()
        assert list(row) == [
            "date", "close", "high", "low", "open", "volume", "adjClose", "adjHigh", "adjLow", "adjOpen", "adjVolume",
            "divCash", "splitFactor",
        ]  # fmt: skip
        assert row["date"] == "2026-11-18T00:00:00.000Z"
        (bar,) = stocks(exchange, timeframe="1Day", start="2026-11-18", end="2026-11-18").json()["bars"]["AAPL"]
        assert [row[name] for name in ("open", "high", "low", "close")] == [bar[name] for name in "ohlc"]

    def test_dates_are_inclusive_and_the_newest_row_comes_without_them(self, exchange: Exchange) -> None:
        rows = daily(exchange, startDate="2026-11-16", endDate="2026-11-18").json()
        assert [row["date"][:10] for row in rows] == ["2026-11-16", "2026-11-17", "2026-11-18"]
        assert [row["date"][:10] for row in daily(exchange).json()] == ["2026-11-19"]
        assert daily(exchange, startDate="2026-11-21", endDate="2026-11-22").json() == []

    def test_todays_row_appears_ninety_minutes_after_the_close(self, exchange: Exchange) -> None:
        for now, count in (("2026-11-20T22:29:59Z", 0), ("2026-11-20T22:30:00Z", 1)):
            exchange.clock(now)
            assert len(daily(exchange, startDate="2026-11-20", endDate="2026-11-20").json()) == count

    @pytest.mark.parametrize("ticker", ["NVDA", "AAPL", "BRK-B"])
    def test_adjusted_prices_follow_from_splits_and_cash_backwards(self, exchange: Exchange, ticker: str) -> None:
        rows = daily(exchange, ticker, startDate="2023-11-20", endDate="2026-11-19").json()
        assert rows[-1]["adjClose"] == rows[-1]["close"]
        for before, row in zip(rows, rows[1:], strict=False):
            split, cash = row["splitFactor"], row["divCash"]
            change = row["close"] * split / (before["close"] - cash)
            assert row["adjClose"] / before["adjClose"] == pytest.approx(change)
            shares = row["adjVolume"] / row["volume"] * split
            assert before["adjVolume"] / before["volume"] == pytest.approx(shares, rel=1e-6)
            for name in ("Open", "High", "Low"):
                factor = row["adjClose"] / row["close"]
                assert row[f"adj{name}"] == pytest.approx(row[name.lower()] * factor)
        splits = {row["date"][:10]: row["splitFactor"] for row in rows if row["splitFactor"] != 1}
        assert splits == ({"2025-06-10": 4.0} if ticker == "NVDA" else {})
        assert sum(row["divCash"] > 0 for row in rows) == (0 if ticker == "BRK-B" else 12)

    def test_a_shorter_range_has_the_same_adjusted_prices(self, exchange: Exchange) -> None:
        whole = daily(exchange, "NVDA", startDate="2025-05-01", endDate="2026-11-19").json()
        part = daily(exchange, "NVDA", startDate="2025-05-01", endDate="2025-06-30").json()
        assert part == whole[: len(part)]

    def test_columns_choose_the_fields(self, exchange: Exchange) -> None:
        (row,) = daily(exchange, columns="volume,close").json()
        assert set(row) == {"date", "volume", "close"}
        assert daily(exchange, columns="price").status_code == 400

    def test_intraday_rows_are_open_stamped_and_have_volume_on_demand(self, exchange: Exchange) -> None:
        day = {"startDate": "2026-11-18", "endDate": "2026-11-18"}
        rows = iex(exchange, **day).json()
        assert len(rows) == 390
        assert rows[0]["date"] == "2026-11-18T14:30:00.000Z"
        assert list(rows[0]) == ["date", "open", "high", "low", "close"]
        told = iex(exchange, columns="close,volume", **day).json()
        assert list(told[0]) == ["date", "close", "volume"]
        bars = stocks(exchange, **DAY).json()["bars"]["AAPL"]
        share = sum(row["volume"] for row in told) / sum(row["v"] for row in bars)
        assert 0.01 < share < 0.05
        assert len(iex(exchange, afterHours="true", **day).json()) == 398

    def test_too_many_rows_keep_the_newest(self, exchange: Exchange) -> None:
        rows = iex(exchange, startDate="2026-11-02", endDate="2026-11-18").json()
        assert len(rows) == 2000
        assert rows[-1]["date"] == "2026-11-18T20:59:00.000Z"

    def test_half_day_has_210_minutes(self, exchange: Exchange) -> None:
        rows = iex(exchange, startDate="2025-11-28", endDate="2025-11-28").json()
        assert len(rows) == 210
        assert rows[-1]["date"] == "2025-11-28T17:59:00.000Z"

    def test_credentials_tickers_and_frequencies_are_checked(self, exchange: Exchange) -> None:
        path = "/tiingo/tiingo/daily/AAPL/prices"
        assert exchange.http.get(path).status_code == 403
        assert exchange.http.get(path, headers={"Authorization": "Bearer x"}).status_code == 401
        assert exchange.http.get(path, params={"token": "x"}).status_code == 200
        for missing in (daily(exchange, "ZZZ"), daily(exchange, "BRK.B"), iex(exchange, "ZZZ")):
            assert (missing.status_code, missing.json()) == (404, {"detail": "Not found."})
        assert exchange.http.get("/tiingo/weather", headers=TIINGO_HEADERS).status_code == 404
        assert daily(exchange, "brk-b").status_code == 200
        for wrong in (
            iex(exchange, resampleFreq="5min"), daily(exchange, resampleFreq="weekly"), daily(exchange, format="csv"),
            daily(exchange, startDate="yesterday"),
        ):  # fmt: skip
            assert wrong.status_code == 400
            assert list(wrong.json()) == ["detail"]

    def test_over_the_limit_is_429_with_a_detail(self, exchange: Exchange) -> None:
        exchange.limits("tiingo", rate=0.01, burst=1)
        assert daily(exchange).status_code == 200
        refused = daily(exchange)
        assert refused.status_code == 429
        assert "hourly request allocation" in json.loads(refused.content)["detail"]
        assert not [name for name in refused.headers if name.startswith(("x-ratelimit", "retry"))]
