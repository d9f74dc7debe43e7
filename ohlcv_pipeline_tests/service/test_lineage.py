"""Lineage: what it says of a bar, its pages, its streams, and the snapshot that all pages of a walk are of."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from ohlcv_pipeline.bars.checksum import partition_checksum
from ohlcv_pipeline.markets import Interval
from ohlcv_pipeline_tests.bars.vendor import RUN, Vendor, change, fill, manifest_row, us, utc
from ohlcv_pipeline_tests.service.conftest import NOW, Home

DAYS = ["2025-11-17", "2025-11-18", "2025-11-19", "2025-11-20"]
WINDOW = {"asset": "btc", "interval": "1m", "start": "2025-11-18T23:00:00Z", "end": "2025-11-20T01:00:00Z"}


@pytest.fixture
def filled(home: Home) -> Home:
    silent = {("BTC", us("2025-11-19 00:30"))}
    fill(home.platform.store, DAYS, [Vendor(silent=silent)], NOW)
    return home


def walk(home: Home, **query: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        answer = home.get("/lineage", **{**WINDOW, **query, **cursor})
        assert answer.status_code == 200, answer.text
        items += answer.json()["items"]
        if answer.json()["next_cursor"] is None:
            return items
        cursor = {"cursor": answer.json()["next_cursor"]}


def test_a_bar_is_told_with_its_own_checksum_and_that_of_its_partition(filled: Home) -> None:
    first = walk(filled)[0]
    start = us("2025-11-18 23:00")
    bar = filled.platform.store.reader.bars("crypto", Interval.MINUTE, "BTC", start, start + 1)
    assert first == {
        "asset_symbol": "BTC",
        "market": "crypto",
        "bucket_start": "2025-11-18T23:00:00Z",
        "interval": "minute",
        "run_id": RUN,
        "source_vendor": "coinbase",
        "fetched_at": "2025-11-21T12:00:00Z",
        "checksum_sha256": partition_checksum("BTC", Interval.MINUTE, bar),
        "checksum_version": 1,
        "partition_checksum": manifest_row(filled.platform.store, "2025-11-18")["checksum"],
    }


@pytest.mark.parametrize("limit", [1_559, 700, 60, 1_560])
def test_pages_lose_and_repeat_no_row(filled: Home, limit: int) -> None:
    expected = [us("2025-11-18 23:00") + i * 60_000_000 for i in range(26 * 60)]
    expected.remove(us("2025-11-19 00:30"))
    found = [us(item["bucket_start"][:-1]) for item in walk(filled, limit=limit)]
    assert found == expected


def test_streams_hold_what_the_pages_hold(filled: Home) -> None:
    items = walk(filled)
    ndjson = filled.get("/lineage", **WINDOW, format="ndjson")
    assert [json.loads(line) for line in ndjson.text.splitlines()] == items
    table = filled.get("/lineage", **WINDOW, format="csv")
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert rows == [{key: str(value) for key, value in item.items()} for item in items]
    assert table.headers["content-disposition"] == 'attachment; filename="lineage-BTC.csv"'


def test_every_page_of_a_walk_is_of_one_snapshot(filled: Home) -> None:
    first = filled.get("/lineage", **WINDOW, limit=10).json()
    change(
        filled.platform.store,
        f"UPDATE lake.crypto.ohlcv_minute SET run_id = 'later' WHERE bucket_start >= make_timestamptz({us(DAYS[1])})",
    )
    second = filled.get("/lineage", **WINDOW, limit=10, cursor=first["next_cursor"]).json()
    assert {item["run_id"] for item in second["items"]} == {RUN}
    assert {item["run_id"] for item in walk(filled)} == {"later"}


def test_a_walk_goes_on_over_publications_and_maintenance(filled: Home) -> None:
    before = walk(filled)
    store = filled.platform.store
    first = filled.get("/lineage", **WINDOW, limit=500).json()
    revised = Vendor(
        edit=lambda symbol, rows: [[*row[:-1], row[-1] + 1] for row in rows], received_at=utc("2025-11-22")
    )
    fill(store, DAYS, [revised], utc("2025-11-22"), force=True, run_id="later")
    change(store, "CALL ducklake_merge_adjacent_files('lake')", "CALL ducklake_flush_inlined_data('lake')")
    items, cursor = first["items"], first["next_cursor"]
    while cursor is not None:
        page = filled.get("/lineage", **WINDOW, limit=500, cursor=cursor).json()
        items, cursor = items + page["items"], page["next_cursor"]
    assert items == before
    assert {item["run_id"] for item in walk(filled)} == {"later"}


def test_a_cursor_is_good_for_its_own_request_while_its_snapshot_exists(filled: Home) -> None:
    cursor = filled.get("/lineage", **WINDOW, limit=10).json()["next_cursor"]
    other = filled.get("/lineage", **{**WINDOW, "end": "2025-11-20T02:00:00Z"}, limit=10, cursor=cursor)
    assert (other.status_code, other.json()["errors"]) == (400, [{"field": "cursor", "code": "cursor_mismatch"}])
    rubbish = filled.get("/lineage", **WINDOW, limit=10, cursor="eyJ2IjoxfQ")
    assert rubbish.json()["errors"] == [{"field": "cursor", "code": "bad_cursor"}]
    fill(filled.platform.store, ["2025-11-21"], [Vendor()], NOW)
    change(filled.platform.store, "CALL ducklake_expire_snapshots('lake', older_than => now() + INTERVAL 1 DAY)")
    gone = filled.get("/lineage", **WINDOW, limit=10, cursor=cursor)
    assert (gone.status_code, gone.json()["errors"]) == (400, [{"field": "cursor", "code": "cursor_expired"}])


def test_nothing_in_the_window_is_an_empty_page(home: Home) -> None:
    assert home.get("/lineage", **WINDOW).json() == {"items": [], "next_cursor": None}
    fill(home.platform.store, DAYS, [Vendor()], NOW)
    for start, end in (("1990-01-01", "1990-02-01"), ("2026-01-01", "2027-01-01")):
        window = {**WINDOW, "start": f"{start}T00:00:00Z", "end": f"{end}T00:00:00Z"}
        assert home.get("/lineage", **window).json() == {"items": [], "next_cursor": None}
        assert home.get("/lineage", **window, format="ndjson").content == b""
        assert home.get("/lineage", **window, format="csv").text.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "field", "code"),
    [
        ({"end": "2025-11-18T23:00:00Z"}, "end", "not_after_start"),
        ({"start": "2025-11-20"}, "start", "not_a_time"),
        ({"start": "2025-11-20T00:00:00"}, "start", "naive_time"),
        ({"start": "2025-02-30T00:00:00Z"}, "start", "not_a_time"),
        ({"start": "0001-01-01T00:00:00+14:00"}, "start", "not_a_time"),
        ({"limit": 0}, "limit", "greater_than_equal"),
        ({"limit": 50_001}, "limit", "less_than_equal"),
        ({"interval": "5m"}, "interval", "unknown_interval"),
        ({"asset": "BTC\n"}, "asset", "not_a_symbol"),
        ({"asset": " "}, "asset", "not_a_symbol"),
        ({"format": "xml"}, "format", "literal_error"),
        ({"cursor": "%%"}, "cursor", "string_pattern_mismatch"),
        ({"as_of": "now"}, "as_of", "unknown_parameter"),
    ],
)
def test_a_wrong_parameter_is_named(home: Home, change: dict[str, Any], field: str, code: str) -> None:
    answer = home.get("/lineage", **{**WINDOW, **change})
    assert answer.status_code == 400, answer.text
    assert answer.json()["errors"] == [{"field": field, "code": code}]


def test_an_unknown_asset_or_market_is_not_found(home: Home) -> None:
    for wrong in ({"asset": "NOPE"}, {"market": "bonds"}, {"market": "us_equities"}, {"market": "crypto_usdt"}):
        assert home.get("/lineage", **{**WINDOW, **wrong}).status_code == 404
