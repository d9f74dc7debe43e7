"""More of `spec/vendors.md`, Part C: what vendors do to bars that are stored already, and what only shares have."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from ohlcv_pipeline.bars.access import Lake
from ohlcv_pipeline.markets import Interval
from ohlcv_pipeline_tests.contract.conftest import MakeLine
from ohlcv_pipeline_tests.contract.line import EXPECTED, NOW, YESTERDAY, Line, at
from ohlcv_pipeline_tests.exchange import Exchange

THREE = at("03:00")
SESSION = "2026-06-09"
SHARES = "us_equities"


@pytest.fixture
def shares(make_line: MakeLine) -> Line:
    return make_line(markets=(SHARES,))


def revisions(line: Line, symbol: str) -> list[dict[str, object]]:
    sql = "SELECT bucket_start, close, revision FROM lake.bar_revisions WHERE symbol = ? ORDER BY bucket_start"
    return line.platform.store.reader.query(sql, [symbol]).to_pylist()


def test_case_32_a_minute_that_late_trades_changed_is_replaced_and_its_past_kept(
    line: Line, exchange: Exchange
) -> None:
    before = line.deliver()
    old = before.bar(THREE)
    exchange.fault(kind="correction", vendor="coinbase", symbol="BTC", start=THREE.isoformat(), factor=1.01)
    told = line.deliver(force=True)
    new = told.bar(THREE)
    assert old is not None
    assert new is not None
    assert new["close"] != old["close"]
    assert revisions(line, "BTC") == [{"bucket_start": THREE, "close": old["close"], "revision": 1}]
    assert (told.cell["revision"], told.cell["rows"]) == (2, EXPECTED)


def test_case_30_a_bar_told_anew_is_one_row_and_nobody_knew_it_before(line: Line, exchange: Exchange) -> None:
    bucket, hour = at("03:00", YESTERDAY), timedelta(hours=1)
    old = line.deliver("BTC", YESTERDAY).bar(bucket)
    exchange.fault(kind="correction", vendor="coinbase", symbol="BTC", start=bucket.isoformat(), factor=1.01)
    line.now = NOW + hour
    edited = line.deliver("BTC", YESTERDAY, force=True)
    new, untouched = edited.bar(bucket), edited.bar(bucket + timedelta(minutes=1))
    assert old is not None
    assert new is not None
    assert untouched is not None
    assert edited.cell["rows"] == 1440
    lake = Lake(line.platform.store.reader, line.platform.markets)

    def close(as_of: datetime) -> list[float]:
        return list(lake.bars("BTC", "minute", bucket, bucket + timedelta(minutes=1), as_of=as_of)["close"])

    assert close(NOW) == close(NOW + hour - timedelta(seconds=1)) == [old["close"]]
    assert close(NOW + hour) == [new["close"]] != [old["close"]]
    # What nobody edited keeps the time at which it was first seen.
    assert (new["published_at"], untouched["published_at"]) == (NOW + hour, NOW)


def test_case_37_a_price_below_zero_is_refused_and_its_neighbours_stored(line: Line, exchange: Exchange) -> None:
    exchange.fault(kind="bad_bar", vendor="coinbase", symbol="BTC", start=THREE.isoformat(), defect="negative_low")
    told = line.deliver(vendors=["coinbase"])
    assert told.bar(THREE) is None
    assert told.cell["rows"] == EXPECTED - 1
    assert [(row["bucket_start"], row["reason"]) for row in told.quarantine] == [(THREE, "negative")]


@pytest.mark.parametrize("closed", ["2026-06-19", "2026-07-03", "2025-01-09", "2026-06-07"])
def test_case_46_a_day_on_which_the_exchange_is_closed_is_no_partition(
    shares: Line, exchange: Exchange, closed: str
) -> None:
    with pytest.raises(ValueError, match=f"{closed} is not a session"):
        shares.deliver("AAPL", closed, of=SHARES)
    assert exchange.counts().get("alpaca", {}) == {}


@pytest.mark.parametrize(("vendor", "spelling"), [("alpaca", "BRK.B"), ("tiingo", "BRK-B")])
def test_case_52_a_share_of_a_class_is_asked_for_in_each_vendors_spelling(
    shares: Line, vendor: str, spelling: str
) -> None:
    told = shares.deliver("BRK.B", "2026-05", of=SHARES, vendors=[vendor], interval=Interval.DAY)
    assert told.cell["rows"] == told.cell["expected_rows"] == 20
    assert told.vendors == {vendor}
    raw = shares.platform.store.reader.query("SELECT DISTINCT url FROM lake.raw_objects")["url"].to_pylist()
    assert all(spelling in url for url in raw)


def test_case_48_a_day_of_an_exchange_is_a_session_date_whoever_tells_it(shares: Line) -> None:
    days = {
        vendor: [
            bar["bucket_start"]
            for bar in shares.deliver(
                "AAPL", "2026-03", of=SHARES, vendors=[vendor], interval=Interval.DAY, force=True
            ).bars
        ]
        for vendor in ("alpaca", "tiingo")
    }
    assert days["alpaca"] == days["tiingo"]
    assert all((day.hour, day.minute) == (0, 0) for day in days["alpaca"])
