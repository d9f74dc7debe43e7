"""Ingestion, continued: bad rows, batches, progress, kept answers, several markets."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from ohlcv_pipeline.bars.planning import Order
from ohlcv_pipeline.bars.verify import verify
from ohlcv_pipeline.frames import micros
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline_tests.bars.vendor import (
    BTC,
    CRYPTO,
    DAY,
    ETH,
    MINUTE,
    Rows,
    Vendor,
    fill,
    listed,
    manifest_row,
    new_store,
    order,
    step,
    us,
    utc,
)

NOW = utc("2025-11-21 12:00")
TWO = ["2025-11-19", "2025-11-20"]
LATER = "5d0e4a3b-0b1d-4a72-9c53-7d0e6a1f0b8e"


def assert_accounted_for(store: Store) -> None:
    for interval in (MINUTE, DAY):
        assert verify(store.reader, CRYPTO, interval).passed


def test_bad_rows_of_an_answer_are_quarantined_with_the_answer_they_came_from(store: Store) -> None:
    def spoil(symbol: str, rows: Rows) -> Rows:
        return [[*row[:2], None, *row[3:]] if row[0] == us("2025-11-20 03:00") else row for row in rows]

    fill(store, ["2025-11-20"], [Vendor(edit=spoil)], NOW)
    rows = store.reader.quarantine("crypto", MINUTE).to_pylist()
    assert {(r["reason"], r["bucket_start"], r["partition"]) for r in rows} == {
        ("null_value", utc("2025-11-20 03:00"), "2025-11-20")
    }
    ids = set(store.reader.query("SELECT id FROM lake.raw_objects")["id"].to_pylist())
    assert {r["raw_id"] for r in rows} <= ids


def test_a_vendor_that_repeats_and_shuffles_its_rows_delivers_each_bar_once(store: Store) -> None:
    def shuffle(symbol: str, rows: Rows) -> Rows:
        return [*rows[::-1], *rows[:7]]

    outcome = fill(store, ["2025-11-20"], [Vendor(edit=shuffle)], NOW)
    assert (outcome.rows, len(outcome.duplicates["BTC"])) == (1440, 35)
    assert_accounted_for(store)


def test_case_31_a_shifted_series_is_named_and_not_published(store: Store) -> None:
    outage = {("BTC", int(b)) for b in step("2025-11-20 10:00", 45)}
    fill(store, ["2025-11-20"], [Vendor(silent=outage)], NOW)
    before = manifest_row(store, "2025-11-20")

    def split(symbol: str, rows: Rows) -> Rows:
        return [[row[0], *(value / 10 for value in row[1:5]), row[5]] for row in rows]

    later = NOW + timedelta(minutes=61)
    outcome = fill(store, ["2025-11-20"], [Vendor(silent=outage, edit=split)], later, run_id=LATER)
    assert (outcome.rows, outcome.failed) == (0, {"BTC": "ratio_shift"})
    assert manifest_row(store, "2025-11-20") == before
    assert set(store.reader.quarantine("crypto", MINUTE)["reason"].to_pylist()) == {"ratio_shift"}


def test_the_markets_of_one_lake_keep_their_quote_currencies_apart(tmp_path: Any) -> None:
    from ohlcv_pipeline.markets import MARKETS

    store = new_store(tmp_path, "crypto", "crypto_usdt")
    tether = MARKETS["crypto_usdt"]

    def cheaper(symbol: str, rows: Rows) -> Rows:
        return [[row[0], *(value / 2 for value in row[1:5]), row[5]] for row in rows]

    fill(store, ["2025-11-20"], [Vendor()], NOW)
    binance = Vendor("binance", market=tether, edit=cheaper)
    fill(store, ["2025-11-20"], [binance], NOW, market=tether, instruments=[tether.instrument("BTC")])
    prices = {
        name: np.asarray(store.reader.bars(name, MINUTE, "BTC", us("2025-11-20"), us("2025-11-21"))["open"])
        for name in ("crypto", "crypto_usdt")
    }
    assert np.array_equal(prices["crypto"] / 2, prices["crypto_usdt"])
    vendors = {
        name: store.reader.query(f"SELECT DISTINCT source_vendor AS v FROM lake.{name}.ohlcv_minute")["v"].to_pylist()
        for name in prices
    }
    assert vendors == {"crypto": ["coinbase"], "crypto_usdt": ["binance"]}
    store.catalog.close()


def test_a_vendor_of_another_market_is_never_asked(store: Store) -> None:
    stranger = Vendor("binance")
    outcome = fill(store, ["2025-11-20"], [stranger, Vendor()], NOW)
    assert (stranger.asked, outcome.rows) == ([], 1440)


def test_nothing_is_wanted_before_the_listing(store: Store) -> None:
    young = listed(BTC, listing_start=utc("2025-11-20 18:00"))
    vendor = Vendor()
    outcome = fill(store, TWO, [vendor], NOW, instruments=[young])
    assert outcome.rows == 360
    assert vendor.asked[0] == ("BTC", us("2025-11-20 18:00"), us("2025-11-20 23:00"))
    assert [row["partition"] for row in store.reader.manifest("crypto", MINUTE).to_pylist()] == ["2025-11-20"]


def test_an_order_for_a_key_that_is_no_partition_asks_nobody(store: Store) -> None:
    vendor = Vendor()
    with pytest.raises(ValueError, match="month"):
        fill(store, ["2025-13-01"], [vendor], NOW)
    assert vendor.asked == []


def test_the_fetch_time_of_a_bar_is_when_its_answer_came(store: Store) -> None:
    fill(store, ["2025-11-20"], [Vendor(received_at=utc("2025-11-21 11:59"))], NOW)
    rows = store.reader.query("SELECT DISTINCT fetched_at FROM lake.crypto.ohlcv_minute")["fetched_at"].to_pylist()
    assert rows == [utc("2025-11-21 11:59")]


def test_the_order_says_which_symbols_are_asked(store: Store) -> None:
    vendor = Vendor()
    fill(store, ["2025-11-20"], [vendor], NOW, instruments=[ETH])
    assert {symbol for symbol, _, _ in vendor.asked} == {"ETH"}
    assert isinstance(order(["2025-11-20"]), Order)
    assert (
        micros(store.reader.bars("crypto", MINUTE, "BTC", us("2025-11-20"), us("2025-11-21"))["bucket_start"]).size == 0
    )
