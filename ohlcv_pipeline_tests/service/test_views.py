"""What the status page makes of rows: filters, order, words."""

from __future__ import annotations

from typing import Any

import pytest

from ohlcv_pipeline.service.views import COLUMNS, Filters, coded, headline, price, span, when


def row(asset: str = "BTC", **changes: Any) -> dict[str, Any]:
    healthy = {
        "asset": asset,
        "market": "crypto",
        "interval": "minute",
        "coverage_start": "2025-08-23T00:00:00Z",
        "coverage_end": "2025-11-21T10:57:00Z",
        "coverage_pct": 99.99,
        "latest_timestamp": "2025-11-21T10:57:00Z",
        "freshness_minutes": 2.4,
        "status": "healthy",
        "is_stale": False,
        "open_gaps": 0,
        "vendor_status": "up",
        "alert_status": None,
        "last_alerted_at": None,
        "last_alert_lag_minutes": None,
        "last_success_at": None,
        "last_checksum": None,
    }
    return {**healthy, **changes}


STALE = row("SOL", status="stale", is_stale=True, freshness_minutes=74.4)
GAPS = row("ETH", status="gap_detected", open_gaps=2, freshness_minutes=None)
FINE = row("BTC")
ROWS = [FINE, GAPS, STALE]


def shown(**query: str) -> list[str]:
    filters = Filters.of(query)
    return [each["asset"] for each in filters.order(ROWS) if filters.shows(each)]


def test_no_filter_shows_all_in_the_given_order() -> None:
    assert shown() == ["BTC", "ETH", "SOL"]
    assert Filters.of({}).query == {}


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ({"problems": "1"}, ["ETH", "SOL"]),
        ({"problems": "true", "gaps": "1"}, ["ETH"]),
        ({"asset": "o"}, ["SOL"]),
        ({"market": "us_equities"}, []),
        ({"interval": "1m"}, ["BTC", "ETH", "SOL"]),
        ({"interval": "day"}, []),
        ({"interval": "fortnight", "sort": "colour"}, ["BTC", "ETH", "SOL"]),
    ],
)
def test_filters_leave_out_rows(query: dict[str, str], left: list[str]) -> None:
    assert shown(**query) == left


def test_empty_values_come_last_in_both_directions() -> None:
    assert shown(sort="lag") == ["BTC", "SOL", "ETH"]
    assert shown(sort="-lag") == ["SOL", "BTC", "ETH"]


def test_what_needs_attention_sorts_first() -> None:
    assert shown(sort="status") == ["SOL", "ETH", "BTC"]


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.key)
def test_every_column_sorts_up_then_down_then_not(column: Any) -> None:
    once = Filters.of({"sort": column.key})
    assert Filters.of({}).next_sort(column.key) == column.key
    assert (once.direction(column.key), once.next_sort(column.key)) == ("ascending", f"-{column.key}")
    twice = Filters.of({"sort": f"-{column.key}"})
    assert (twice.direction(column.key), twice.next_sort(column.key)) == ("descending", "")
    assert len(once.order(ROWS)) == len(ROWS)


def test_the_link_of_an_alert_selects_its_row() -> None:
    filters = Filters.of({"market": "crypto", "asset": "sol", "interval": "minute"})
    assert [filters.selects(each) for each in ROWS] == [False, False, True]
    assert filters.link("/status", sort="-lag") == "/status?market=crypto&interval=minute&asset=SOL&sort=-lag"


@pytest.mark.parametrize(
    ("rows", "tone", "sentence"),
    [
        ([], "warn", "No series is enabled"),
        ([FINE], "ok", "All 1 series are healthy"),
        ([FINE, GAPS], "warn", "1 of 2 series needs bars"),
        (ROWS, "bad", "1 of 3 series is stale, 1 has gaps"),
    ],
)
def test_the_headline_says_the_worst_first(rows: list[dict[str, Any]], tone: str, sentence: str) -> None:
    made = headline(rows)
    assert (made.tone, made.sentence) == (tone, sentence)


def test_words() -> None:
    assert [span(each) for each in (None, 0.9, 119.9, 120.0, 2879.0, 2880.0)] == [
        "–", "0 min", "119 min", "2 h 0 min", "47 h 59 min", "2 d 0 h",
    ]  # fmt: skip
    assert [when(None), when("2025-11-21T10:57:09Z")] == ["–", "2025-11-21 10:57"]
    assert [price(each) for each in (46_731.25, 1.0, 0.000012345678912, 1e12)] == [
        "46,731.25", "1", "0.000012345679", "1,000,000,000,000",
    ]  # fmt: skip


def test_what_stands_between_backticks_is_code_and_all_is_escaped() -> None:
    assert coded("`<b>` or <i>, `1m`") == "<code>&lt;b&gt;</code> or &lt;i&gt;, <code>1m</code>"
    assert coded("") == ""
