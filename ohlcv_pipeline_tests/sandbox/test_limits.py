from __future__ import annotations

import re
import time

from ohlcv_pipeline_tests.exchange import Exchange, running_exchange
from ohlcv_pipeline_tests.sandbox.asking import archived, at, candles, klines, ohlc

NOW = at("2026-11-20T12:00:30")


def test_coinbase_answers_429_beyond_its_burst(exchange: Exchange) -> None:
    exchange.limits("coinbase", rate=0.01, burst=3)
    answers = [candles(exchange) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert answers[-1].json() == {"message": "Public rate limit exceeded"}
    assert "retry-after" not in answers[-1].headers


def test_kraken_answers_200_with_an_error(exchange: Exchange) -> None:
    exchange.limits("kraken", rate=0.01, burst=2)
    answers = [ohlc(exchange) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert answers[1].json()["error"] == []
    assert answers[2].json() == {"error": ["EGeneral:Too many requests"]}


def test_binance_counts_weight_and_says_how_many_seconds_to_wait(exchange: Exchange) -> None:
    exchange.limits("binance", rate=0.1, burst=6)
    answers = [klines(exchange, limit=1) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [answer.headers["x-mbx-used-weight-1m"] for answer in answers[:3]] == ["2", "4", "6"]
    assert 15 <= int(answers[3].headers["retry-after"]) <= 20
    assert answers[3].json()["code"] == -1003


def test_binance_bans_a_client_that_keeps_sending(exchange: Exchange) -> None:
    exchange.limits("binance", rate=0.01, burst=2)
    statuses = [klines(exchange, limit=1).status_code for _ in range(13)]
    assert statuses == [200, *[429] * 10, 418, 418]
    banned = klines(exchange, limit=1)
    seconds = int(banned.headers["retry-after"])
    until = int(re.search(r"IP banned until (\d+)", banned.json()["msg"])[1])  # type: ignore[index]
    assert 110 < seconds <= 120
    assert abs(until / 1000 - NOW - seconds) <= 1
    exchange.limits("binance", rate=100, burst=100)
    assert klines(exchange, limit=1).status_code == 200


def test_tokens_come_back_with_time(exchange: Exchange) -> None:
    exchange.limits("coinbase", rate=20, burst=1)
    assert candles(exchange).status_code == 200
    assert candles(exchange).status_code == 429
    time.sleep(0.1)
    assert candles(exchange).status_code == 200


def test_a_refused_request_meets_no_fault(exchange: Exchange) -> None:
    exchange.limits("coinbase", rate=0.01, burst=1)
    candles(exchange)
    exchange.fault(kind="outage", vendor="coinbase", times=1)
    assert candles(exchange).status_code == 429
    exchange.limits("coinbase", enabled=False)
    assert candles(exchange).status_code == 503


def test_the_archive_has_no_limit_and_the_documented_rates_hold_when_switched_on() -> None:
    with running_exchange(limits=True, now="2026-11-20T12:00:30Z") as exchange:
        assert {archived(exchange, "BTCUSDT-1d-2025-01").status_code for _ in range(30)} == {200}
        statuses = [candles(exchange, start=NOW - 60, end=NOW).status_code for _ in range(40)]
        assert statuses[:15] == [200] * 15
        assert 429 in statuses
        errors = [ohlc(exchange, since=NOW).json()["error"] for _ in range(8)]
        assert errors[:5] == [[]] * 5
        assert ["EGeneral:Too many requests"] in errors
