"""Faults that only the vendors of shares have, or have in their own way."""

from __future__ import annotations

import pytest

from ohlcv_pipeline_tests.exchange import Exchange
from ohlcv_pipeline_tests.sandbox.asking import at, daily, iex, stocks

BAR_ISO = "2026-11-18T15:00:00Z"
WINDOW = {"start": "2026-11-18T14:50:00Z", "end": "2026-11-18T15:10:00Z"}


def test_wrong_pair_of_alpaca_is_another_symbol(exchange: Exchange) -> None:
    exchange.fault(kind="wrong_pair", vendor="alpaca", symbol="AAPL")
    assert "AAPL" not in (bars := stocks(exchange, **WINDOW).json()["bars"])
    assert len(bars) == 1


def test_wrong_currency_is_echoed(exchange: Exchange) -> None:
    assert "currency" not in stocks(exchange, **WINDOW).json()
    exchange.fault(kind="wrong_currency", vendor="alpaca")
    assert stocks(exchange, **WINDOW).json()["currency"] == "MXN"


def test_repeated_token_leads_nowhere(exchange: Exchange) -> None:
    window = {**WINDOW, "limit": 16}
    token = stocks(exchange, **window).json()["next_page_token"]
    assert stocks(exchange, **window, page_token=token).json()["next_page_token"] is None
    exchange.fault(kind="repeated_token", vendor="alpaca")
    for _ in range(2):
        assert stocks(exchange, **window, page_token=token).json()["next_page_token"] == token


def test_a_field_of_shares_gets_another_name(exchange: Exchange) -> None:
    exchange.fault(kind="renamed_field", vendor="alpaca", start=BAR_ISO)
    names = {frozenset(row) for row in stocks(exchange, **WINDOW).json()["bars"]["AAPL"]}
    assert names == {frozenset("tohlcv") | {"n", "vw"}, frozenset("tohlv") | {"n", "vw", "last"}}


def test_a_fault_of_one_symbol_leaves_the_others_of_the_same_answer(exchange: Exchange) -> None:
    whole = stocks(exchange, "AAPL,BRK.B", **WINDOW).json()["bars"]
    exchange.fault(kind="empty", vendor="alpaca", symbol="BRK.B")
    assert stocks(exchange, "AAPL,BRK.B", **WINDOW).json()["bars"] == {"AAPL": whole["AAPL"]}
    assert stocks(exchange, "AAPL", **WINDOW).json()["bars"] == {"AAPL": whole["AAPL"]}


def test_a_fault_of_a_day_finds_the_session_by_its_date(exchange: Exchange) -> None:
    day = "2026-11-18T00:00:00Z"
    for vendor in ("alpaca", "tiingo"):
        exchange.fault(kind="bad_bar", defect="spike_x100", vendor=vendor, interval="day", start=day)
    closes = [row["c"] for row in stocks(exchange, "AAPL", "1Day", start="2026-11-17").json()["bars"]["AAPL"]]
    others = [row["close"] for row in daily(exchange, startDate="2026-11-17", endDate="2026-11-19").json()]
    for close in (closes, others):
        assert close[1] > 50 * close[0]
        assert close[2] < 2 * close[0]


def test_rate_limit_of_alpaca_says_when_it_ends(exchange: Exchange) -> None:
    for fields, wait in (({}, 30), ({"reset": 2}, 2)):
        exchange.fault(kind="rate_limit", vendor="alpaca", times=1, **fields)
        answer = stocks(exchange, **WINDOW)
        assert answer.status_code == 429
        assert answer.headers["x-ratelimit-remaining"] == "0"
        assert int(answer.headers["x-ratelimit-reset"]) == at("2026-11-20T12:00:30") + wait
        assert "retry-after" not in answer.headers


def test_quota_of_tiingo_comes_with_429_or_with_200(exchange: Exchange) -> None:
    exchange.fault(kind="rate_limit", vendor="tiingo", times=1)
    refused = iex(exchange)
    assert refused.status_code == 429
    assert "hourly request allocation" in refused.json()["detail"]
    exchange.fault(kind="text", vendor="tiingo", times=1)
    told = iex(exchange)
    assert (told.status_code, told.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert "hourly request allocation" in told.text


def test_recent_sip_is_refused_to_those_who_ask_for_it(exchange: Exchange) -> None:
    exchange.fault(kind="recent_sip", vendor="alpaca")
    refused = stocks(exchange, start="2026-11-19", end="2026-11-20T12:00:00Z")
    assert refused.status_code == 403
    assert refused.json() == {"message": "subscription does not permit querying recent SIP data"}
    for query in ({"end": "2026-11-20T11:45:30Z"}, {"end": "2026-11-20T12:00:00Z", "feed": "iex"}, {}):
        assert stocks(exchange, start="2026-11-19", **query).status_code == 200


def test_correction_of_a_share_shows_in_its_minute_and_its_day(exchange: Exchange) -> None:
    def seen() -> tuple[float, float, float]:
        (day,) = stocks(exchange, "AAPL", "1Day", start="2026-11-18", end="2026-11-18").json()["bars"]["AAPL"]
        (minute,) = stocks(exchange, start=BAR_ISO, end=BAR_ISO).json()["bars"]["AAPL"]
        (other,) = daily(exchange, startDate="2026-11-18", endDate="2026-11-18").json()
        return minute["c"], day["h"], other["high"]

    before = seen()
    exchange.fault(kind="correction", vendor="alpaca", symbol="AAPL", start=BAR_ISO, factor=1.5)
    after = seen()
    assert after[0] == after[1] == pytest.approx(before[0] * 1.5, abs=0.01)
    assert after[2] == before[2]
    exchange.fault(
        kind="correction", vendor="tiingo", symbol="AAPL", interval="day", start="2026-11-18T00:00:00Z", factor=2
    )
    (day,) = daily(exchange, startDate="2026-11-18", endDate="2026-11-18").json()
    (last,) = stocks(exchange, start="2026-11-18T20:59:00Z", end="2026-11-18T20:59:00Z").json()["bars"]["AAPL"]
    assert day["close"] == day["high"] == pytest.approx(last["c"] * 2)
    exchange.clear()
    assert seen() == before


def test_split_restates_every_price_before_its_end_at_one_vendor(exchange: Exchange) -> None:
    before = stocks(exchange, **WINDOW).json()["bars"]["AAPL"]
    other = iex(exchange, startDate="2026-11-18", endDate="2026-11-18").content
    exchange.fault(kind="split", vendor="alpaca", symbol="AAPL", end=BAR_ISO, factor=0.25)
    after = stocks(exchange, **WINDOW).json()["bars"]["AAPL"]
    for old, new in zip(before, after, strict=True):
        factor = 0.25 if old["t"] < BAR_ISO else 1.0
        assert [new[name] for name in "ohlc"] == pytest.approx([old[name] * factor for name in "ohlc"], abs=0.006)
        assert new["v"] == old["v"]
        assert new["l"] <= new["vw"] <= new["h"]
    assert iex(exchange, startDate="2026-11-18", endDate="2026-11-18").content == other
