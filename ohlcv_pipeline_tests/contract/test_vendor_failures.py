"""Part C, continued: answers that are broken, late, limited or of another pair, from HTTP to the lake."""

from __future__ import annotations

from datetime import timedelta
from email.utils import formatdate
from typing import Any

import pytest

from ohlcv_pipeline_tests.contract.line import EXPECTED, NOW, TODAY, YESTERDAY, Line, alone, at
from ohlcv_pipeline_tests.exchange import Exchange

TEN_TO_THREE = at("02:50")
THREE = at("03:00")
APIS = ["coinbase", "kraken", "binance"]


BROKEN = [
    pytest.param({"kind": "empty_body"}, id="case_20_empty_body"),
    pytest.param({"kind": "truncated"}, id="case_21_truncated"),
    pytest.param({"kind": "truncated", "mismatch": True}, id="case_21_content_length"),
    pytest.param({"kind": "drop", "mid_body": True}, id="case_21_cut_off"),
    pytest.param({"kind": "bad_gzip"}, id="case_22_bad_gzip"),
]


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("vendor", ["coinbase", "binance_archive"])
def test_a_broken_body_is_asked_for_again(line: Line, exchange: Exchange, vendor: str, fault: dict[str, Any]) -> None:
    exchange.fault(vendor=vendor, times=1, **fault)
    told = line.deliver("BTC", YESTERDAY if vendor == "binance_archive" else TODAY, **alone(vendor))
    assert told.codes(vendor).count("malformed_response") == 1
    assert told.waits == [2.0]
    assert told.report.complete
    assert told.failed == {}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_body_that_stays_broken_is_left_after_three_more_tries_for_the_next_vendor(
    line: Line, exchange: Exchange, fault: dict[str, Any]
) -> None:
    exchange.fault(vendor="coinbase", **fault)
    told = line.deliver()
    assert told.codes("coinbase") == ["malformed_response"] * 4
    assert told.waits == [2.0, 4.0, 8.0]
    assert told.vendors == {"kraken"}


@pytest.mark.parametrize("vendor", APIS)
def test_case_23_a_429_that_says_nothing_is_waited_out_until_the_next_whole_minute(
    line: Line, exchange: Exchange, vendor: str
) -> None:
    exchange.fault(kind="rate_limit", vendor=vendor, times=1)
    told = line.deliver(**alone(vendor))
    assert told.codes(vendor) == ["rate_limited", "ok"]
    assert sum(told.waits) == pytest.approx(30.0, abs=0.01)
    assert told.cell["rows"] == EXPECTED


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        ("7", 7.0),
        (7, 7.0),
        ("0.493", 1.0),
        ("2.5", 2.5),
        ("-20", 1.0),
        ("99999999999999", 900.0),
        (formatdate((NOW + timedelta(seconds=42)).timestamp(), usegmt=True), 42.0),
        (formatdate((NOW - timedelta(days=2)).timestamp(), usegmt=True), 1.0),
        ("soon", 30.0),
    ],
)
def test_case_24_every_form_of_retry_after_is_understood_and_clamped(
    line: Line, exchange: Exchange, retry_after: object, seconds: float
) -> None:
    exchange.fault(kind="rate_limit", vendor="coinbase", retry_after=retry_after, times=1)
    told = line.deliver(vendors=["coinbase"])
    assert sum(told.waits) == pytest.approx(seconds, abs=0.01)
    assert told.cell["rows"] == EXPECTED


def test_a_vendor_that_says_429_for_ever_is_left_for_the_next(line: Line, exchange: Exchange) -> None:
    exchange.fault(kind="rate_limit", vendor="coinbase", retry_after=3)
    told = line.deliver()
    assert told.codes("coinbase") == ["rate_limited"] * 5
    assert told.vendors == {"kraken"}
    assert told.failed == {}


def test_case_25_a_short_ban_stops_the_whole_vendor_until_its_end(line: Line, exchange: Exchange) -> None:
    exchange.fault(kind="ban", vendor="binance", seconds=30, times=1)
    told = line.deliver(**alone("binance"))
    assert told.codes("binance") == ["rate_limited", "ok"]
    assert sum(told.waits) == pytest.approx(30.0, abs=0.01)
    assert told.cell["rows"] == EXPECTED


def test_case_25_a_long_ban_is_not_waited_for_and_not_asked_into(line: Line, exchange: Exchange) -> None:
    exchange.fault(kind="ban", vendor="binance", seconds=7200)
    told = line.deliver("BTC", "2026-06-05", "2026-06-06", "2026-06-07", **alone("binance"))
    assert told.failed == {"BTC": "rate_limited"}
    assert told.waits == []
    # Those on their way when the first answer came, and none after it.
    assert len(exchange.requests("binance")) <= 4


@pytest.mark.parametrize("vendor", ["coinbase", "binance"])
def test_case_27_a_short_page_ends_nothing(line: Line, exchange: Exchange, vendor: str) -> None:
    # Two hours at the end of what would be a page are left out the first time they are asked for.
    cut = {"start": at("14:00", YESTERDAY), "end": at("16:40", YESTERDAY)}
    exchange.fault(kind="missing", vendor=vendor, times=1, **cut)
    told = line.deliver("BTC", YESTERDAY, **alone(vendor))
    assert told.cell["rows"] == 1440
    assert told.cell["complete"]


@pytest.mark.parametrize("vendor", ["coinbase", "binance_archive"])
@pytest.mark.parametrize(
    ("defect", "reason"),
    [
        ("high_below_low", "bad_ohlc"),
        ("close_above_high", "bad_ohlc"),
        ("negative_low", "negative"),
        ("negative_volume", "negative"),
    ],
)
def test_case_34_a_bar_whose_prices_contradict_each_other_is_quarantined_alone(
    line: Line, exchange: Exchange, vendor: str, defect: str, reason: str
) -> None:
    day, expected = (YESTERDAY, 1440) if vendor == "binance_archive" else (TODAY, EXPECTED)
    bucket = at("03:00", day)
    exchange.fault(kind="bad_bar", vendor=vendor, start=bucket, defect=defect)
    told = line.deliver("BTC", day, **alone(vendor))
    (bad,) = told.quarantine
    assert (bad["reason"], bad["bucket_start"], bad["published"]) == (reason, bucket, False)
    assert told.cell["rows"] == expected - 1


@pytest.mark.parametrize(("defect", "reason"), [("spike_x100", "price_spike"), ("absurd_volume", "volume_spike")])
def test_case_35_an_absurd_bar_that_breaks_no_rule_is_published_and_flagged(
    line: Line, exchange: Exchange, defect: str, reason: str
) -> None:
    exchange.fault(kind="bad_bar", vendor="coinbase", start=THREE, defect=defect)
    told = line.deliver()
    (flag,) = told.quarantine
    assert (flag["reason"], flag["bucket_start"], flag["published"]) == (reason, THREE, True)
    assert told.cell["rows"] == EXPECTED


@pytest.mark.parametrize("vendor", ["kraken", "binance"])
def test_case_39_a_bar_of_zero_volume_is_stored_as_delivered(line: Line, vendor: str) -> None:
    told = line.deliver("AAVE", **alone(vendor))
    silent = [bar for bar in told.bars if bar["volume"] == 0]
    assert silent
    assert all(bar["open"] == bar["high"] == bar["low"] == bar["close"] for bar in silent)
    assert {bar["vwap"] for bar in silent} == {None}
    assert {bar["trade_count"] for bar in silent} == {0}
    assert (told.cell["rows"], told.cell["no_trades_rows"]) == (EXPECTED, 0)


def test_case_40_scattered_minutes_left_out_are_without_trades_and_no_gap(line: Line) -> None:
    told = line.deliver("AAVE", YESTERDAY, vendors=["coinbase"])
    assert told.cell["no_trades_rows"] > 0
    assert told.cell["rows"] + told.cell["no_trades_rows"] == 1440
    assert told.cell["complete"]
    assert told.report.coverage_pct == 100.0


def test_case_40_one_long_run_left_out_is_a_gap(line: Line, exchange: Exchange) -> None:
    exchange.fault(kind="missing", vendor="coinbase", start=at("02:00"), end=at("02:45"))
    told = line.deliver(vendors=["coinbase"])
    assert told.cell["no_trades_rows"] == 0
    assert not told.cell["complete"]
    assert [gap.missing for gap in told.report.gaps] == [45]
    assert told.codes("coinbase") == ["ok", "ok"]


def test_case_40_a_long_run_left_out_by_one_vendor_comes_from_the_next_and_nothing_else_does(
    line: Line, exchange: Exchange
) -> None:
    exchange.fault(kind="missing", vendor="coinbase", start=at("02:00"), end=at("02:45"))
    told = line.deliver()
    filled = [bar["bucket_start"] for bar in told.bars if bar["source_vendor"] == "kraken"]
    assert filled == [at("02:00") + timedelta(minutes=i) for i in range(45)]
    assert told.cell["vendor"] == "mixed"
    assert told.report.complete


@pytest.mark.parametrize("vendor", [*APIS, "binance_archive"])
def test_case_42_an_opening_time_off_the_grid_is_quarantined(line: Line, exchange: Exchange, vendor: str) -> None:
    day = YESTERDAY if vendor == "binance_archive" else TODAY
    bucket = at("03:00", day)
    exchange.fault(kind="bad_bar", vendor=vendor, start=bucket, defect="off_grid")
    told = line.deliver("BTC", day, **alone(vendor))
    found = {(bad["reason"], bad["bucket_start"]) for bad in told.quarantine}
    assert found == {("not_aligned", bucket + timedelta(seconds=7))}
    assert told.bar(bucket) is None


def test_case_43_a_file_that_does_not_match_its_checksum_is_fetched_again(line: Line, exchange: Exchange) -> None:
    exchange.fault(kind="wrong_checksum", vendor="binance_archive", times=2)
    told = line.deliver("BTC", YESTERDAY, of="crypto_usdt")
    assert len(told.codes("binance_archive")) == 6
    assert told.vendors == {"binance_archive"}
    assert told.cell["complete"]


@pytest.mark.parametrize("kind", ["wrong_checksum", "corrupt_zip"])
def test_case_43_a_file_that_never_matches_is_refused_and_the_next_vendor_asked(
    line: Line, exchange: Exchange, kind: str
) -> None:
    exchange.fault(kind=kind, vendor="binance_archive")
    told = line.deliver("BTC", YESTERDAY, of="crypto_usdt")
    assert len(told.codes("binance_archive")) == (8 if kind == "wrong_checksum" else 2)
    assert told.vendors == {"binance"}
    assert told.cell["complete"]
    assert told.failed == {}


def test_case_43_a_file_that_is_replaced_later_becomes_a_new_revision(line: Line, exchange: Exchange) -> None:
    bucket = at("10:00", YESTERDAY)
    before = line.deliver("BTC", YESTERDAY, of="crypto_usdt")
    old, cell = before.bar(bucket), before.cell
    exchange.fault(kind="correction", vendor="binance_archive", symbol="BTC", start=bucket, factor=1.02)
    after = line.deliver("BTC", YESTERDAY, of="crypto_usdt", force=True)
    assert old is not None
    assert (after.bar(bucket) or {})["close"] == pytest.approx(old["close"] * 1.02, rel=1e-4)
    assert (cell["revision"], after.cell["revision"]) == (1, 2)
    assert after.cell["checksum"] != cell["checksum"]
    assert set(cell["raw_ids"]) < set(after.cell["raw_ids"])
    assert after.outcome.rows == 1


def test_a_file_not_yet_published_is_no_failure_of_the_vendor(line: Line, exchange: Exchange) -> None:
    exchange.fault(kind="not_yet", vendor="binance_archive")
    told = line.deliver("BTC", YESTERDAY, of="crypto_usdt")
    assert set(told.codes("binance_archive")) == {"not_yet"}
    assert told.vendors == {"binance"}
    assert told.failed == {}


def test_case_53_rows_of_another_pair_are_never_taken(line: Line, exchange: Exchange) -> None:
    exchange.fault(kind="wrong_pair", vendor="kraken")
    told = line.deliver(vendors=["kraken"])
    assert told.failed == {"BTC": "malformed_response"}
    assert told.bars == []


def test_case_53_a_pair_spelt_the_vendors_old_way_is_taken(line: Line) -> None:
    told = line.deliver("XRP", vendors=["kraken"])
    assert told.cell["rows"] == EXPECTED


@pytest.mark.parametrize("kind", ["extra_field", "missing_field"])
@pytest.mark.parametrize("vendor", APIS)
def test_rows_of_another_shape_are_refused_as_a_whole(line: Line, exchange: Exchange, vendor: str, kind: str) -> None:
    exchange.fault(kind=kind, vendor=vendor)
    told = line.deliver(**alone(vendor))
    assert told.failed == {"BTC": "malformed_response"}
    assert told.bars == []


def test_what_was_refused_is_kept_as_evidence(line: Line, exchange: Exchange) -> None:
    exchange.fault(kind="missing_field", vendor="coinbase")
    line.deliver()
    kept = line.platform.store.reader.query("SELECT vendor, status FROM lake.raw_objects ORDER BY vendor").to_pylist()
    assert kept == [{"vendor": "coinbase", "status": 200}, {"vendor": "kraken", "status": 200}]
