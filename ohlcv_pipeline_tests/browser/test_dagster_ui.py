"""What a user sees of a table in Dagster's own UI, in a headless Chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from ohlcv_pipeline.bars.inspection import CHECKS
from ohlcv_pipeline.lake.tables import STORED_BARS
from ohlcv_pipeline_tests.integration.services import Services, running_services

pytestmark = [pytest.mark.slow, pytest.mark.browser]

ASSET = "/assets/crypto/ohlcv_minute"
LONG = 30_000
"""Milliseconds until something must have appeared; the UI polls."""


@pytest.fixture(scope="module")
def services(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Dagster with three days of minutes. Asks for the browser first, lest it be started for nothing."""
    with running_services(tmp_path_factory.mktemp("services")) as found:
        filled = found.launch("crypto_minute_refresh", ["2026-06-01", "2026-06-02", "2026-06-03"], {})
        assert filled["status"] == "SUCCESS"
        yield found


@pytest.fixture
def page(browser: Browser, services: Services, tmp_path: Path) -> Iterator[Page]:
    opened = browser.new_page(base_url=services.url, viewport={"width": 1500, "height": 1400}, locale="en-GB")
    strangers: list[str] = []

    def look(url: str) -> None:
        if urlsplit(url).scheme in ("http", "https", "ws", "wss") and urlsplit(url).hostname != "127.0.0.1":
            strangers.append(url)

    opened.on("request", lambda request: look(request.url))
    yield opened
    opened.screenshot(path=tmp_path / "page.png")
    opened.close()
    assert strangers == []


def test_the_asset_page_says_what_the_table_is(page: Page) -> None:
    page.goto(f"{ASSET}?view=overview")
    expect(page.get_by_text("Minute bars. Crypto in US dollars")).to_be_visible(timeout=LONG)
    for text in ("DuckLake", "Parquet", "market-data", "lake.crypto.ohlcv_minute", "interval: minute", "quote: USD"):
        expect(page.get_by_text(text).first).to_be_visible(timeout=LONG)
    for column in STORED_BARS.names:
        expect(page.get_by_text(column, exact=True).first).to_be_visible(timeout=LONG)
    expect(page.get_by_text("volume-weighted mean price in USD")).to_be_visible()
    expect(page.get_by_text("crypto_minute_refresh").first).to_be_visible()


def test_the_partitions_view_counts_the_materialised_ones(page: Page) -> None:
    page.goto(f"{ASSET}?view=partitions")
    expect(page.get_by_text("Materialized (3)")).to_be_visible(timeout=LONG)
    expect(page.get_by_text("Failed (0)")).to_be_visible()


def test_a_partition_shows_its_rows_and_checksum(page: Page) -> None:
    page.goto(f"{ASSET}?view=partitions&partition=2026-06-02")
    for name in ("coverage_pct", "checksum", "expected_rows", "no_trades_rows"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible(timeout=LONG)
    expect(page.get_by_text("14400", exact=True).first).to_be_visible()


def test_five_checks_are_green(page: Page) -> None:
    page.goto(f"{ASSET}?view=checks")
    expect(page.get_by_text("Checks (6)")).to_be_visible(timeout=LONG)
    for check in CHECKS:
        expect(page.get_by_text(check, exact=True).first).to_be_visible(timeout=LONG)
    expect(page.get_by_text("Succeeded", exact=True)).to_have_count(5, timeout=LONG)


def test_bars_that_are_missing_turn_a_check_red_with_a_table_of_them(page: Page, services: Services) -> None:
    services.exchange.fault(
        kind="missing", vendor="coinbase", symbol="BTC", start="2026-06-05T10:00:00Z", end="2026-06-05T12:00:00Z"
    )
    try:
        again = services.launch("crypto_minute_refresh", ["2026-06-03", "2026-06-04", "2026-06-05"], {"force": True})
    finally:
        services.exchange.clear()
    assert again["status"] == "SUCCESS"
    page.goto(f"{ASSET}?view=checks&checkDetail=gaps")
    expect(page.get_by_text("Failed", exact=True).first).to_be_visible(timeout=LONG)
    expect(page.get_by_text("Succeeded", exact=True)).to_have_count(4, timeout=LONG)
    expect(page.get_by_text(re.compile("120 of 43,200 expected bars are missing"))).to_be_visible(timeout=LONG)
    table = page.locator("table", has_text="2026-06-05T10:00:00Z").last
    expect(table).to_contain_text("BTC")
    expect(table).to_contain_text("2026-06-05T11:59:00Z")
    expect(table).to_contain_text("120")
