"""The nasty inputs of `spec/vendors.md`, Part C, as far as our vendors send them: from HTTP to the lake.

The number of a case is in the test's name. What a wire format means in detail is tested in `vendors/`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from ohlcv_pipeline.markets import Interval, to_us
from ohlcv_pipeline_tests.contract.conftest import Undisturbed
from ohlcv_pipeline_tests.contract.line import EXPECTED, MARKET_OF, TODAY, YESTERDAY, Line, alone, at, values
from ohlcv_pipeline_tests.exchange import Exchange

TEN_TO_THREE = at("02:50")
THREE = at("03:00")
APIS = ["coinbase", "kraken", "binance"]


@pytest.mark.parametrize("vendor", APIS)
def test_an_undisturbed_vendor_delivers_everything_in_one_request(line: Line, vendor: str) -> None:
    told = line.deliver(**alone(vendor))
    assert told.codes(vendor) == ["ok"]
    assert told.cell["rows"] == EXPECTED


def test_case_3_an_empty_answer_on_an_expected_session_is_looked_at_twice_and_then_the_next_vendor_asked(
    line: Line, exchange: Exchange
) -> None:
    exchange.fault(kind="empty", vendor="coinbase", symbol="BTC")
    told = line.deliver()
    # With the room that the second look takes around a hole, it is two pages long.
    assert told.codes("coinbase") == ["ok"] * 3
    assert told.vendors == {"kraken"}
    assert told.cell["rows"] == EXPECTED


def test_case_3_empty_answers_of_every_vendor_are_a_gap_and_no_success(line: Line, exchange: Exchange) -> None:
    for vendor in ("coinbase", "kraken"):
        exchange.fault(kind="empty", vendor=vendor, symbol="BTC")
    told = line.deliver()
    assert told.bars == []
    assert (told.cell["rows"], told.cell["complete"]) == (0, False)
    assert told.report.coverage_pct == 0.0
    assert told.report.missing_rows + told.report.pending_tail_rows == EXPECTED


@pytest.mark.parametrize("vendor", APIS)
def test_case_5_rows_out_of_order_are_sorted(
    line: Line, undisturbed: Undisturbed, exchange: Exchange, vendor: str
) -> None:
    plain = undisturbed(vendor)
    exchange.fault(kind="unsorted", vendor=vendor)
    told = line.deliver(**alone(vendor))
    assert values(told.bars) == values(plain)


@pytest.mark.parametrize("vendor", APIS)
def test_case_6_identical_duplicates_collapse_and_are_counted(
    line: Line, undisturbed: Undisturbed, exchange: Exchange, vendor: str
) -> None:
    plain = undisturbed(vendor)
    exchange.fault(kind="duplicate", vendor=vendor, start=TEN_TO_THREE, end=THREE)
    told = line.deliver(**alone(vendor))
    assert values(told.bars) == values(plain)
    assert {symbol: len(twice) for symbol, twice in told.outcome.duplicates.items()} == {"BTC": 10}
    assert told.quarantine == []


@pytest.mark.parametrize("vendor", APIS)
def test_case_6_of_two_different_rows_the_last_is_kept_and_the_other_quarantined(
    line: Line, undisturbed: Undisturbed, exchange: Exchange, vendor: str
) -> None:
    plain = undisturbed(vendor)
    exchange.fault(kind="bad_bar", vendor=vendor, start=THREE, defect="duplicate_conflict")
    told = line.deliver(**alone(vendor))
    (rival,) = told.quarantine
    assert (rival["reason"], rival["bucket_start"], rival["published"]) == ("duplicate_conflict", THREE, False)
    assert told.cell["rows"] == EXPECTED
    assert [bar for bar in values(told.bars) if bar not in values(plain)] == values([told.bar(THREE) or {}])


@pytest.mark.parametrize("vendor", APIS)
def test_case_7_the_running_bar_is_dropped_and_counted(line: Line, vendor: str) -> None:
    told = line.deliver(**alone(vendor))
    assert told.bars[-1]["bucket_start"] == at("04:57")
    # Kraken sends it whatever was asked; the others are asked for closed minutes only.
    assert told.outcome.dropped["outside_window" if vendor != "kraken" else "forming"] <= 3
    assert told.report.pending_tail_rows == 0


@pytest.mark.parametrize("vendor", APIS)
def test_case_8_rows_before_the_asked_window_are_dropped_and_counted(
    line: Line, exchange: Exchange, vendor: str
) -> None:
    exchange.fault(kind="early_row", vendor=vendor)
    told = line.deliver(since=at("02:00"), **alone(vendor))
    assert told.bars[0]["bucket_start"] == at("02:00")
    assert told.outcome.dropped["outside_window"] >= 1
    assert told.cell["rows"] == EXPECTED - 120


@pytest.mark.parametrize("vendor", [*APIS, "binance_archive"])
def test_case_9_numbers_spelt_the_other_way_are_read(
    line: Line, undisturbed: Undisturbed, exchange: Exchange, vendor: str
) -> None:
    day = YESTERDAY if vendor == "binance_archive" else TODAY
    plain = undisturbed(vendor)
    exchange.fault(
        kind="bad_bar", vendor=vendor, start=at("10:00", day) if day != TODAY else THREE, defect="string_number"
    )
    told = line.deliver("BTC", day, **alone(vendor))
    assert values(told.bars) == values(plain)
    assert told.quarantine == []


@pytest.mark.parametrize("vendor", APIS)
@pytest.mark.parametrize(
    ("defect", "reason"), [("null_value", "null_value"), ("nan", "not_finite")], ids=["case_10_null", "case_11_nan"]
)
def test_a_bar_without_a_number_is_quarantined_alone(
    line: Line, exchange: Exchange, vendor: str, defect: str, reason: str
) -> None:
    exchange.fault(kind="bad_bar", vendor=vendor, start=THREE, defect=defect)
    told = line.deliver(**alone(vendor))
    assert {(bad["reason"], bad["bucket_start"], bad["vendor"]) for bad in told.quarantine} == {(reason, THREE, vendor)}
    assert all(bad["raw"].startswith("[") for bad in told.quarantine)
    assert told.bar(THREE) is None
    assert told.cell["rows"] == EXPECTED - 1


@pytest.mark.parametrize(
    ("vendor", "defect"),
    [
        *((vendor, defect) for vendor in ("kraken", "binance") for defect in ("null_value", "high_below_low")),
        *(("coinbase", defect) for defect in ("high_below_low", "null_value", "nan")),
    ],
)
def test_a_quarantined_bar_is_a_gap_not_a_minute_without_trades(
    line: Line, exchange: Exchange, vendor: str, defect: str
) -> None:
    exchange.fault(kind="bad_bar", vendor=vendor, start=THREE, defect=defect)
    told = line.deliver(**alone(vendor))
    assert [(gap.first_us, gap.missing) for gap in told.report.gaps] == [(to_us(THREE), 1)]
    assert told.cell["no_trades_rows"] == 0


@pytest.mark.parametrize("defect", ["null_value", "off_grid"])
def test_a_bad_bar_seen_twice_in_one_run_is_quarantined_once(line: Line, exchange: Exchange, defect: str) -> None:
    exchange.fault(kind="bad_bar", vendor="kraken", start=THREE, defect=defect)
    assert len(line.deliver(vendors=["kraken"]).quarantine) == 1


def test_case_12_files_change_from_milliseconds_to_microseconds_between_two_years(line: Line) -> None:
    told = line.deliver("BTC", "2024-12-31", "2025-01-01", **alone("binance_archive"))
    assert len(told.bars) == 2880
    steps = {
        later["bucket_start"] - sooner["bucket_start"] for sooner, later in zip(told.bars, told.bars[1:], strict=False)
    }
    assert steps == {timedelta(minutes=1)}
    assert told.bars[0]["bucket_start"] == at("00:00", "2024-12-31")
    assert told.report.complete


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"kind": "html"}, "vendor_blocked"),
        ({"kind": "text", "message": '{"message":"We are down"}'}, "malformed_response"),
        ({"kind": "text", "message": "You have run over your hourly request allocation, limit 50"}, "rate_limited"),
        ({"kind": "outage", "status": 520}, "vendor_unavailable"),
        ({"kind": "outage", "status": 502}, "vendor_unavailable"),
    ],
    ids=["case_15_html", "case_17_json_error", "case_16_quota_text", "case_19_520", "case_19_502"],
)
def test_an_answer_that_is_no_data_sends_us_to_the_next_vendor(
    line: Line, exchange: Exchange, fault: dict[str, Any], code: str
) -> None:
    exchange.fault(vendor="coinbase", **fault)
    told = line.deliver()
    assert set(told.codes("coinbase")) == {code}
    assert told.vendors == {"kraken"}
    assert told.cell["rows"] == EXPECTED
    assert told.failed == {}


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"kind": "html"}, "vendor_blocked"),
        ({"kind": "text", "message": "We will be right back"}, "malformed_response"),
    ],
    ids=["html", "text"],
)
@pytest.mark.parametrize("vendor", [*APIS, "binance_archive"])
def test_an_answer_that_is_no_data_is_never_zero_rows(
    line: Line, exchange: Exchange, vendor: str, fault: dict[str, Any], code: str
) -> None:
    exchange.fault(vendor=vendor, **fault)
    told = line.deliver("BTC", YESTERDAY if vendor == "binance_archive" else TODAY, **alone(vendor))
    assert told.failed == {"BTC": code}
    assert told.bars == []
    # Nothing was answered, so nothing is held to be absent either: the next run asks again.
    assert told.line.platform.store.reader.absent(MARKET_OF[vendor], Interval.MINUTE).num_rows == 0
    exchange.clear()
    again = line.deliver("BTC", YESTERDAY if vendor == "binance_archive" else TODAY, **alone(vendor))
    assert again.failed == {}
    assert again.report.complete
