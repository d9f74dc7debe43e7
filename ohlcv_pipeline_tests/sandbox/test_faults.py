from __future__ import annotations

import hashlib
import json
import math
import re
import time
import zipfile
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from ohlcv_pipeline.sandbox.faults import DEFECTS, KINDS
from ohlcv_pipeline_tests.exchange import Exchange
from ohlcv_pipeline_tests.sandbox.asking import archived, at, candles, csv_rows, iex, klines, ohlc, stocks

DAY = at("2026-11-18")
BAR = at("2026-11-18T15:00:00")
BAR_ISO = "2026-11-18T15:00:00Z"
# Kraken knows its newest 720 minutes only.
RECENT = at("2026-11-20T10:00:00")
RECENT_ISO = "2026-11-20T10:00:00Z"
VENDORS = ("coinbase", "kraken", "binance", "binance_archive", "alpaca", "tiingo")
PLACES = {"coinbase": (3, 2, 1, 4, 5), "kraken": (1, 2, 3, 4, 6)}


def ask(exchange: Exchange, vendor: str) -> httpx.Response:
    if vendor == "coinbase":
        return candles(exchange, start=BAR - 600, end=BAR + 600)
    if vendor == "kraken":
        return ohlc(exchange)
    if vendor == "binance":
        return klines(exchange, startTime=(BAR - 600) * 1000, limit=21)
    if vendor == "alpaca":
        return stocks(exchange, start="2026-11-18T14:50:00Z", end="2026-11-18T15:10:00Z")
    if vendor == "tiingo":
        return iex(exchange, startDate="2026-11-18", endDate="2026-11-18", columns="open,high,low,close,volume")
    return archived(exchange, "BTCUSDT-1m-2026-11-18")


def rows_of(vendor: str, answer: httpx.Response) -> list[list[object]]:
    if vendor == "binance_archive":
        return [list(row) for row in csv_rows(answer.content)]
    content = json.loads(answer.content)
    if vendor == "kraken":
        return list(content["result"]["XXBTZUSD"])
    rows = content["bars"].get("AAPL", []) if vendor == "alpaca" else content
    return [list(row.values()) if isinstance(row, dict) else row for row in rows]


def seconds(row: list[object]) -> int:
    if not str(row[0]).isdecimal():
        return int(datetime.fromisoformat(str(row[0])).timestamp())
    stamp = int(str(row[0]))
    return stamp // 10**6 if stamp > 10**14 else stamp // 1000 if stamp > 10**11 else stamp


def bar(vendor: str, rows: list[list[object]]) -> list[list[object]]:
    return [row for row in rows if seconds(row) == (RECENT if vendor == "kraken" else BAR)]


def start_of(vendor: str) -> str:
    return RECENT_ISO if vendor == "kraken" else BAR_ISO


def values(vendor: str, row: list[object]) -> list[float]:
    return [float(str(row[place])) for place in PLACES.get(vendor, (1, 2, 3, 4, 5))]


@pytest.fixture(params=VENDORS)
def vendor(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class TestAnswersInstead:
    def test_outage_has_a_chosen_status_for_a_number_of_requests(self, exchange: Exchange, vendor: str) -> None:
        exchange.fault(kind="outage", vendor=vendor, status=520, times=2)
        assert [ask(exchange, vendor).status_code for _ in range(3)] == [520, 520, 200]

    def test_outage_of_one_symbol_interval_and_time_leaves_the_rest(self, exchange: Exchange) -> None:
        exchange.fault(
            kind="outage", vendor="coinbase", symbol="ETH-USD", interval="minute", start=BAR_ISO,
            end="2026-11-18T16:00:00Z",
        )  # fmt: skip
        window = {"start": BAR, "end": BAR + 600}
        assert candles(exchange, "ETH-USD", **window).status_code == 503
        assert candles(exchange, "BTC-USD", **window).status_code == 200
        assert candles(exchange, "ETH-USD", 86400, start=DAY, end=DAY).status_code == 200
        assert candles(exchange, "ETH-USD", start=BAR - 600, end=BAR - 60).status_code == 200
        assert candles(exchange, "ETH-USD", start=BAR + 3600, end=BAR + 7200).status_code == 200

    def test_latency_delays_the_true_answer(self, exchange: Exchange) -> None:
        exchange.fault(kind="latency", vendor="coinbase", seconds=0.3, times=1)
        began = time.perf_counter()
        assert ask(exchange, "coinbase").status_code == 200
        assert time.perf_counter() - began >= 0.3

    def test_drop_closes_the_connection(self, exchange: Exchange, vendor: str) -> None:
        exchange.fault(kind="drop", vendor=vendor, times=1)
        with pytest.raises(httpx.RemoteProtocolError):
            ask(exchange, vendor)
        assert exchange.counts()[vendor] == {"0": 1}
        assert ask(exchange, vendor).status_code == 200

    def test_drop_mid_body_sends_half_of_what_it_promised(self, exchange: Exchange, vendor: str) -> None:
        exchange.fault(kind="drop", vendor=vendor, mid_body=True, times=1)
        with pytest.raises(httpx.RemoteProtocolError, match=r"incomplete message body|peer closed"):
            ask(exchange, vendor)
        assert ask(exchange, vendor).status_code == 200

    @pytest.mark.parametrize("retry_after", ["Fri, 20 Nov 2026 12:05:00 GMT", "0.493", 3, -1, None])
    def test_rate_limit_sends_retry_after_as_given(self, exchange: Exchange, retry_after: object) -> None:
        exchange.fault(kind="rate_limit", vendor="coinbase", retry_after=retry_after)
        answer = ask(exchange, "coinbase")
        assert answer.status_code == 429
        assert answer.headers.get("retry-after") == (None if retry_after is None else str(retry_after))

    def test_ban_is_418_with_its_end_in_the_text(self, exchange: Exchange) -> None:
        exchange.fault(kind="ban", vendor="binance", seconds=300)
        answer = ask(exchange, "binance")
        assert (answer.status_code, answer.headers["retry-after"]) == (418, "300")
        assert f"IP banned until {(at('2026-11-20T12:00:30') + 300) * 1000}" in answer.json()["msg"]

    def test_html_text_and_empty_body_come_with_200(self, exchange: Exchange, vendor: str) -> None:
        bodies = {}
        for kind in ("html", "text", "empty_body"):
            exchange.fault(kind=kind, vendor=vendor, times=1)
            answer = ask(exchange, vendor)
            assert answer.status_code == 200
            bodies[kind] = (answer.headers["content-type"].split(";")[0], answer.text)
        assert bodies["html"][0] == "text/html"
        assert bodies["html"][1].startswith("<!DOCTYPE html>")
        assert bodies["text"][0] == "text/plain"
        assert bodies["empty_body"][1] == ""

    def test_not_yet_hides_a_published_file(self, exchange: Exchange) -> None:
        exchange.fault(kind="not_yet", vendor="binance_archive", symbol="BTC", times=1)
        assert ask(exchange, "binance_archive").status_code == 404
        assert ask(exchange, "binance_archive").status_code == 200


class TestSpoiltBodies:
    def test_truncated_cuts_the_body_and_keeps_the_length_consistent(self, exchange: Exchange) -> None:
        whole = ask(exchange, "coinbase").content
        exchange.fault(kind="truncated", vendor="coinbase")
        answer = ask(exchange, "coinbase")
        assert answer.content == whole[: len(whole) // 2]
        assert int(answer.headers["content-length"]) == len(answer.content)

    def test_truncated_with_mismatch_promises_the_whole(self, exchange: Exchange) -> None:
        exchange.fault(kind="truncated", vendor="kraken", mismatch=True)
        with pytest.raises(httpx.RemoteProtocolError):
            ask(exchange, "kraken")

    def test_bad_gzip_cannot_be_decoded(self, exchange: Exchange, vendor: str) -> None:
        exchange.fault(kind="bad_gzip", vendor=vendor)
        with pytest.raises(httpx.DecodingError):
            ask(exchange, vendor)

    def test_wrong_pair_echoes_another_key(self, exchange: Exchange) -> None:
        exchange.fault(kind="wrong_pair", vendor="kraken")
        assert set(ask(exchange, "kraken").json()["result"]) == {"XETHZUSD", "last"}

    def test_wrong_checksum_names_another_digest(self, exchange: Exchange) -> None:
        exchange.fault(kind="wrong_checksum", vendor="binance_archive", times=1)
        packed = ask(exchange, "binance_archive").content
        wrong, right = (archived(exchange, "BTCUSDT-1m-2026-11-18", ".CHECKSUM").text for _ in range(2))
        assert hashlib.sha256(packed).hexdigest() not in wrong
        assert hashlib.sha256(packed).hexdigest() in right

    def test_corrupt_zip_agrees_with_its_checksum_and_cannot_be_opened(self, exchange: Exchange) -> None:
        exchange.fault(kind="corrupt_zip", vendor="binance_archive")
        packed = ask(exchange, "binance_archive").content
        assert hashlib.sha256(packed).hexdigest() in archived(exchange, "BTCUSDT-1m-2026-11-18", ".CHECKSUM").text
        with pytest.raises(zipfile.BadZipFile):
            csv_rows(packed)


class TestSpoiltRows:
    def test_empty_is_a_valid_answer_without_rows(self, exchange: Exchange, vendor: str) -> None:
        exchange.fault(kind="empty", vendor=vendor)
        assert rows_of(vendor, ask(exchange, vendor)) == []

    def test_nan_is_a_bare_token(self, exchange: Exchange, vendor: str) -> None:
        exchange.fault(kind="nan", vendor=vendor)
        answer = ask(exchange, vendor)
        body = answer.content if vendor != "binance_archive" else b",".join(
            str(cell).encode() for cell in rows_of(vendor, answer)[0]
        )  # fmt: skip
        assert re.search(rb"[,:]NaN,", body)
        assert math.isnan(values(vendor, rows_of(vendor, answer)[0])[3])

    def test_missing_takes_out_the_buckets_of_its_range(self, exchange: Exchange, vendor: str) -> None:
        whole = rows_of(vendor, ask(exchange, vendor))
        end = start_of(vendor).replace("00:00Z", "05:00Z")
        exchange.fault(kind="missing", vendor=vendor, start=start_of(vendor), end=end)
        rows = rows_of(vendor, ask(exchange, vendor))
        gone = {seconds(row) for row in whole} - {seconds(row) for row in rows}
        first = RECENT if vendor == "kraken" else BAR
        assert gone == set(range(first, first + 300, 60))

    @pytest.mark.parametrize("identical", [True, False])
    def test_duplicate_repeats_a_row(self, exchange: Exchange, vendor: str, identical: bool) -> None:
        exchange.fault(kind="duplicate", vendor=vendor, start=start_of(vendor), identical=identical)
        one, other = bar(vendor, rows_of(vendor, ask(exchange, vendor)))
        assert (one == other) is identical

    def test_unsorted_keeps_the_rows_and_loses_their_order(self, exchange: Exchange, vendor: str) -> None:
        whole = rows_of(vendor, ask(exchange, vendor))
        exchange.fault(kind="unsorted", vendor=vendor)
        rows = rows_of(vendor, ask(exchange, vendor))
        times = [seconds(row) for row in rows]
        assert sorted(times) != times != sorted(times, reverse=True)
        assert sorted(map(str, rows)) == sorted(map(str, whole))

    def test_early_row_lies_before_the_window(self, exchange: Exchange, vendor: str) -> None:
        first = {"kraken": None, "binance_archive": DAY, "tiingo": DAY}.get(vendor, BAR - 600)
        exchange.fault(kind="early_row", vendor=vendor)
        times = sorted(seconds(row) for row in rows_of(vendor, ask(exchange, vendor)))
        assert all(after - before == 60 for before, after in pairwise(times[1:]))
        assert times[0] == first - 60 if first else len(times) == 722

    @pytest.mark.parametrize(("kind", "more"), [("extra_field", 1), ("missing_field", -1)])
    def test_a_row_has_one_field_more_or_less(self, exchange: Exchange, vendor: str, kind: str, more: int) -> None:
        exchange.fault(kind=kind, vendor=vendor, start=start_of(vendor))
        rows = rows_of(vendor, ask(exchange, vendor))
        (row,) = bar(vendor, rows)
        other = next(row for row in rows if seconds(row) not in (RECENT, BAR))
        assert len(row) - len(other) == more

    def test_stale_prices_stand_still_at_the_close_before(self, exchange: Exchange, vendor: str) -> None:
        whole = sorted(rows_of(vendor, ask(exchange, vendor)), key=seconds)
        end = start_of(vendor).replace("00:00Z", "05:00Z")
        exchange.fault(kind="stale", vendor=vendor, start=start_of(vendor), end=end)
        rows = sorted(rows_of(vendor, ask(exchange, vendor)), key=seconds)
        moment = RECENT if vendor == "kraken" else BAR
        (before,) = [row for row in whole if seconds(row) == moment - 60]
        close = values(vendor, before)[3]
        for old, new in zip(whole, rows, strict=True):
            stale = moment <= seconds(old) < moment + 300
            assert values(vendor, new)[:4] == ([close] * 4 if stale else values(vendor, old)[:4])

    def test_a_fault_about_a_bar_waits_for_a_request_that_holds_it(self, exchange: Exchange) -> None:
        exchange.fault(kind="bad_bar", defect="spike_x100", vendor="coinbase", start=BAR_ISO, times=1)
        candles(exchange, start=BAR + 60, end=BAR + 600)
        assert len(exchange.faults()) == 1
        ask(exchange, "coinbase")
        assert exchange.faults() == []


OHLCV = list[float]
DEFECT_HOLDS: dict[str, Callable[[OHLCV, OHLCV], bool]] = {
    "high_below_low": lambda bad, good: bad[1] < bad[2],
    "negative_low": lambda bad, good: bad[2] == -good[2],
    "close_above_high": lambda bad, good: bad[3] > bad[1],
    "nan": lambda bad, good: math.isnan(bad[3]),
    "negative_volume": lambda bad, good: bad[4] < 0,
    "spike_x100": lambda bad, good: all(abs(bad[i] / good[i] - 100) < 1e-6 for i in range(4)),
    "absurd_volume": lambda bad, good: bad[4] == 1e15,
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_bad_bar_has_its_defect(exchange: Exchange, vendor: str, defect: str) -> None:
    whole = rows_of(vendor, ask(exchange, vendor))
    (good,) = bar(vendor, whole)
    exchange.fault(kind="bad_bar", defect=defect, vendor=vendor, start=start_of(vendor))
    rows = rows_of(vendor, ask(exchange, vendor))
    bad = bar(vendor, rows)
    assert [row for row in rows if row not in bad and seconds(row) % 60 == 0] == [row for row in whole if row != good]
    close = PLACES.get(vendor, (1, 2, 3, 4, 5))[3]
    if defect in DEFECT_HOLDS:
        assert DEFECT_HOLDS[defect](values(vendor, bad[0]), values(vendor, good))
    elif defect == "duplicate_conflict":
        assert len(bad) == 2
        assert bad[0] != bad[1]
    elif defect == "off_grid":
        assert bad == []
        assert len([row for row in rows if seconds(row) == seconds(good) + 7]) == 1
    elif defect == "null_value":
        assert bad[0][close] == ("" if vendor == "binance_archive" else None)
    elif vendor == "binance_archive":
        assert bad[0][close] == f'"{good[close]}"'
    else:
        assert isinstance(bad[0][close], str) is not isinstance(good[close], str)
        assert float(str(bad[0][close])) == float(str(good[close]))


class TestHistory:
    def test_correction_shows_in_minutes_days_and_files_and_goes_when_cleared(self, exchange: Exchange) -> None:
        def seen() -> tuple[list[list[object]], list[float], bytes, str]:
            minutes = rows_of("binance", klines(exchange, startTime=DAY * 1000, limit=1000))
            minutes += rows_of("binance", klines(exchange, startTime=(DAY + 60000) * 1000, limit=440))
            (day,) = rows_of("binance", klines(exchange, interval="1d", startTime=DAY * 1000, limit=1))
            packed = ask(exchange, "binance_archive").content
            digest = archived(exchange, "BTCUSDT-1m-2026-11-18", ".CHECKSUM").text
            return minutes, values("binance", day), packed, digest

        before = seen()
        exchange.fault(kind="correction", vendor="binance", symbol="BTC", start=BAR_ISO, factor=3.0)
        minutes, day, packed, digest = seen()
        (old,) = bar("binance", before[0])
        (new,) = bar("binance", minutes)
        assert values("binance", new)[3] == pytest.approx(3 * values("binance", old)[3])
        assert values("binance", new)[1] == values("binance", new)[3]
        assert sum(a != b for a, b in zip(before[0], minutes, strict=True)) == 1
        assert day[1] == values("binance", new)[3]
        assert [row[1:6] for row in csv_rows(packed)] == [row[1:6] for row in minutes]
        assert hashlib.sha256(packed).hexdigest() in digest
        exchange.clear()
        assert seen() == before

    def test_correction_of_a_day_moves_its_close(self, exchange: Exchange) -> None:
        before = candles(exchange, "BTC-USD", 86400, start=DAY, end=DAY).json()[0]
        exchange.fault(
            kind="correction", vendor="coinbase", symbol="BTC-USD", interval="day",
            start="2026-11-18T00:00:00Z", factor=0.5,
        )  # fmt: skip
        after = candles(exchange, "BTC-USD", 86400, start=DAY, end=DAY).json()[0]
        last = candles(exchange, "BTC-USD", start=DAY + 86340, end=DAY + 86340).json()[0]
        assert after[4] == last[4] == after[1] == pytest.approx(before[4] / 2, abs=0.01)

    def test_split_scales_every_price_before_its_end(self, exchange: Exchange) -> None:
        window = {"start": BAR - 600, "end": BAR + 600}
        before = {row[0]: row for row in candles(exchange, **window).json()}
        exchange.fault(kind="split", vendor="coinbase", symbol="BTC", end=BAR_ISO, factor=0.5)
        after = {row[0]: row for row in candles(exchange, **window).json()}
        for at_time, row in after.items():
            ratio = 0.5 if at_time < BAR else 1.0
            assert row[1:5] == pytest.approx([price * ratio for price in before[at_time][1:5]], abs=0.006)
            assert row[5] == before[at_time][5]
        assert candles(exchange, "ETH-USD", **window).status_code == 200


def test_every_kind_is_exercised_here() -> None:
    source = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*faults.py"))
    assert [kind for kind in KINDS if f'"{kind}"' not in source] == []
