"""The pages as the server renders them: complete without a script, and nothing in them that is not public."""

from __future__ import annotations

import csv
import gzip
import io
import re
from datetime import UTC, datetime, timedelta

import pytest

from ohlcv_pipeline.ledger.models import IngestionRun, VendorStatus
from ohlcv_pipeline.markets import MINUTE_US, Interval, market, to_us
from ohlcv_pipeline.service.app import STATIC
from ohlcv_pipeline_tests.bars.vendor import Vendor, fill, us
from ohlcv_pipeline_tests.service.conftest import NOW, Home

CRYPTO, SHARES = market("crypto"), market("us_equities")
HOLE = {("BTC", bucket) for bucket in range(us("2025-11-20 03:00"), us("2025-11-20 05:00"), 60_000_000)}


def filled(home: Home) -> Home:
    keys = ["2025-11-19", "2025-11-20", "2025-11-21"]
    fill(home.platform.store, keys, [Vendor(silent=HOLE)], NOW)
    home.refresh()
    return home


def html(home: Home, path: str, **query: str) -> str:
    answer = home.get(path, **query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return answer.text


def test_the_root_leads_to_the_status_page(home: Home) -> None:
    answer = home.get("/")
    assert (answer.status_code, answer.headers["location"]) == (307, "/status")


def test_a_new_installation_has_a_calm_page(home: Home) -> None:
    home.refresh()
    page = html(home, "/status")
    assert page.count('data-testid="status-row"') == 40
    for sentence in (
        "No incident so far.",
        "No run is on record yet.",
        "Nothing had to be put right.",
        "Not asked yet",
    ):
        assert sentence in page
    assert 'data-testid="monitor-banner"' in page


def test_every_row_of_the_summary_is_on_the_page_and_filters_hide_rows(home: Home) -> None:
    filled(home)
    rows = home.rows()
    page = html(home, "/status", interval="minute", asset="btc", market="crypto")
    keys = re.findall(r'data-key="([^"]+)"', page)
    assert keys == [f"{row['market']}/{row['asset']}/{row['interval']}" for row in rows]
    visible = re.findall(r'data-key="([^"]+)"[^>]*?( aria-current="true")?>', re.sub(r"<tr[^>]* hidden>", "", page))
    assert visible == [("crypto/BTC/minute", ' aria-current="true"')]


def test_the_script_writes_what_the_server_writes(home: Home) -> None:
    page = html(filled(home), "/status")
    for kind, words in (("status", 3), ("vendor", 4), ("alert", 2)):
        assert len(re.findall(f'data-badge="{kind}/', page)) == words


def test_the_coverage_map_counts_what_is_there_and_what_is_due(home: Home) -> None:
    filled(home)
    found = home.get("/status/coverage.json", interval="minute").json()
    at = found["partitions"].index("2025-11-20")
    of = {(each["market"], each["asset"]): each for each in found["series"]}
    assert (of["crypto", "BTC"]["stored"][at], of["crypto", "BTC"]["due"][at]) == (1320, 1440)
    assert (of["crypto", "SOL"]["stored"][at], of["crypto", "SOL"]["due"][at]) == (0, 1440)
    assert (of["us_equities", "AAPL"]["due"][at], of["us_equities", "AAPL"]["due"][at - 4]) == (390, None)
    assert set(found) == {"interval", "partitions", "series"}
    assert all(set(each) == {"market", "asset", "stored", "due"} for each in found["series"])


@pytest.mark.parametrize(("silent", "missing"), [(3, 0), (20, 7)], ids=["young", "older"])
def test_the_newest_minutes_are_no_gap_for_a_quarter_of_an_hour(home: Home, silent: int, missing: int) -> None:
    due = to_us(NOW - CRYPTO.publish_delay[Interval.MINUTE])
    late = {("BTC", due - i * MINUTE_US) for i in range(1, silent + 1)}
    fill(home.platform.store, ["2025-11-21"], [Vendor(silent=late)], NOW)
    home.refresh()
    found = home.get("/status/coverage.json", interval="minute").json()
    cell = next(each for each in found["series"] if each["asset"] == "BTC")
    assert cell["due"][-1] - cell["stored"][-1] == missing


def test_the_coverage_map_follows_the_lake(home: Home) -> None:
    filled(home)
    before = home.get("/status/coverage.json", interval="minute").json()
    fill(home.platform.store, ["2025-11-18"], [Vendor()], NOW)
    home.clock.turn(seconds=2)
    after = home.get("/status/coverage.json", interval="minute").json()
    assert before != after


def test_exports_hold_what_is_shown_in_its_order(home: Home) -> None:
    filled(home)
    query = {"market": "crypto", "interval": "minute", "sort": "-asset"}
    exported = home.get("/status/series.json", **query)
    assert exported.headers["content-disposition"] == 'attachment; filename="series.json"'
    wanted = home.rows(market="crypto", interval="minute")[::-1]
    assert exported.json() == wanted
    table = list(csv.DictReader(io.StringIO(home.get("/status/series.csv", **query).text)))
    assert [row["asset"] for row in table] == [row["asset"] for row in wanted]
    assert table[0].keys() == wanted[0].keys()


def test_the_page_of_a_series_names_its_gap_and_shows_its_bars(home: Home) -> None:
    page = html(filled(home), "/status/crypto/BTC/minute")
    row = re.search(r"<tr><th scope=\"row\"><time[^>]*>2025-11-20 03:00</time></th>.*?</tr>", page)
    assert row is not None
    assert "2025-11-20 04:59" in row[0]
    assert ">120<" in row[0]
    newest = home.get("/status/crypto/BTC/minute/bars.json", count="30").json()
    assert {len(column) for column in newest.values()} == {30}
    assert newest["time"][-1] == us("2025-11-21 11:57") // 1_000_000
    assert "2025-11-21 11:57" in page


def test_bars_of_sessions_reach_over_nights_and_a_weekend(home: Home) -> None:
    spy = next(each for each in SHARES.instruments if each.symbol == "SPY")
    keys = ["2025-11-14", "2025-11-17", "2025-11-18", "2025-11-19", "2025-11-20"]
    vendor = Vendor(name="alpaca", market=SHARES)
    fill(home.platform.store, keys, [vendor], NOW, market=SHARES, instruments=[spy])
    home.refresh()
    found = home.get("/status/us_equities/SPY/minute/bars.json", count="1500").json()["time"]
    assert len(found) == 1500
    assert {datetime.fromtimestamp(each, UTC).date().day for each in found} == {17, 18, 19, 20}


def test_a_series_without_a_lake_has_a_page(home: Home) -> None:
    home.refresh()
    assert "No bar is stored yet." in html(home, "/status/us_equities/AAPL/day")
    assert home.get("/status/us_equities/AAPL/day/bars.json").json()["time"] == []


def test_runs_and_vendors_come_from_the_ledger(home: Home) -> None:
    with home.platform.ledger.write() as session:
        session.add(VendorStatus(vendor="coinbase", status="rate_limited", since=NOW, checked_at=NOW, failed_probes=2))
        parent = run("*", "success")
        session.add(parent)
        session.flush()
        for symbol, status in (("BTC", "success"), ("ETH", "success"), ("SOL", "failed")):
            child = run(symbol, status)
            child.parent_id = parent.id
            child.retries = 7 if status == "failed" else 0
            session.add(child)
    home.refresh()
    page = html(home, "/status")
    assert "66.66 %" in page
    assert '<td class="num">1</td><td class="num">7</td>' in page
    assert "2 succeeded, 0 partial, 1 failed" in page
    assert page.count("Unavailable / Rate-limited") == 20 + 1 + 2
    assert "No run has failed" not in page


def run(symbol: str, status: str) -> IngestionRun:
    return IngestionRun(
        market="crypto",
        asset_symbol=symbol,
        interval=str(Interval.MINUTE),
        status=status,
        phase="done",
        row_count=10,
        checksum_sha256="0" * 64,
        checksum_version=1,
        started_at=NOW - timedelta(hours=1),
        ended_at=NOW,
        trigger="schedule",
        backfill_window_start=NOW - timedelta(days=1),
        backfill_window_end=NOW,
    )


def test_what_is_not_there_is_not_found(home: Home) -> None:
    home.refresh()
    for path in ("/status/crypto/NOPE/minute", "/status/moon/BTC/minute", "/status/crypto/NOPE/day/bars.json"):
        assert home.get(path).status_code == 404, path
    assert home.get("/status/crypto/BTC/hour").status_code == 400
    assert home.get("/status", colour="red").status_code == 400


def test_nothing_on_a_page_is_inline_or_private(home: Home) -> None:
    filled(home)
    private = re.compile(
        r"password|secret|token|connection|dsn|internal|host=|traceback|sqlite|postgres|duckdb|\d+\.\d+\.\d+\.\d+|/home/|/tmp/",
        re.IGNORECASE,
    )
    for path in ("/status", "/status/crypto/BTC/minute", "/status/us_equities/AAPL/day"):
        page = html(home, path)
        assert private.search(page) is None, path
        assert not re.search(r"<style|<script(?![^>]*\ssrc=)|\sstyle=|\son\w+=|https?://(?!www\.w3\.org)", page), path


def test_a_symbol_in_the_url_is_escaped(home: Home) -> None:
    home.refresh()
    page = html(home, "/status", asset='"><b>x')
    assert "<b>x" not in page.lower().replace("<b>status", "")


def test_the_scripts_of_the_page_are_small() -> None:
    assert sum(len(gzip.compress(path.read_bytes())) for path in STATIC.glob("*.js")) < 30 * 1024
