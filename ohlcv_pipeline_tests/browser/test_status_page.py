"""What a person does with the status page, over the real service and a real lake."""

from __future__ import annotations

import csv
import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from ohlcv_pipeline_tests.browser import vitals
from ohlcv_pipeline_tests.browser.conftest import Open, Report
from ohlcv_pipeline_tests.browser.site import Site

pytestmark = pytest.mark.browser

REFRESHED = re.compile(r"Updated at \d\d:\d\d:\d\d UTC")


def row(page: Page, asset: str, interval: str = "minute", market: str = "crypto") -> Locator:
    return page.locator(f'tr[data-key="{market}/{asset}/{interval}"]')


def shown(page: Page) -> list[str]:
    """The keys of the rows that can be seen, in order."""
    keys: list[str] = page.locator('[data-testid="status-row"]:visible').evaluate_all(
        "rows => rows.map(row => row.dataset.key)"
    )
    return keys


def refresh(page: Page) -> None:
    """Press the button and wait until the page says that it is done."""
    page.locator("#announce").evaluate("each => each.textContent = ''")
    page.get_by_test_id("refresh-button").click()
    expect(page.locator("#announce")).to_have_text(REFRESHED)


def test_the_page_shows_every_series(open_page: Open) -> None:
    page = open_page("/")
    expect(page).to_have_url("/status")
    assert len(shown(page)) == 40
    btc = row(page, "BTC")
    expect(btc.locator("[data-col=status]")).to_have_text("Healthy")
    expect(btc.locator("[data-col=newest]")).to_have_text("2025-11-21 11:57")
    expect(btc.get_by_test_id("vendor-badge")).to_have_text("Available")
    expect(btc.get_by_test_id("alert-badge")).to_have_text("Cleared")
    report = btc.get_by_test_id("report-link")
    expect(report).to_have_text(re.compile("^[0-9a-f]{12}$"))
    expect(report).to_have_attribute("href", "/ingestion/runs/latest?interval=minute&market=crypto&asset=BTC")


def test_without_a_script_the_page_is_complete(open_page: Open) -> None:
    page = open_page("/status?interval=day&market=crypto&sort=-asset", java_script_enabled=False)
    assert page.locator('[data-testid="status-row"]:visible').count() == 10
    expect(page.get_by_test_id("status-row").first).to_have_attribute("data-key", "crypto/XRP/day")
    expect(page.locator("#pause")).to_be_hidden()
    page.get_by_role("link", name="Symbol").click()
    expect(page).to_have_url("/status?market=crypto&interval=day")
    page.get_by_role("checkbox", name="With gaps").check()
    page.get_by_role("button", name="Apply").click()
    assert page.locator('[data-testid="status-row"]:visible').count() == 0
    page.get_by_role("link", name="Show all").click()
    assert page.locator('[data-testid="status-row"]:visible').count() == 40
    row(page, "ETH").get_by_role("link", name="ETH", exact=True).click()
    expect(page.get_by_role("heading", name="ETH")).to_be_visible()
    page.locator("summary").click()
    expect(page.get_by_role("region", name="Newest bars").get_by_role("rowheader").first).to_be_visible()


def test_filters_live_in_the_url(open_page: Open) -> None:
    page = open_page("/status")
    page.get_by_role("combobox", name="Interval").select_option("minute")
    page.get_by_role("combobox", name="Market").select_option("crypto")
    page.get_by_role("searchbox", name="Symbol").fill("b")
    expect(page).to_have_url("/status?asset=b&market=crypto&interval=minute")
    assert shown(page) == ["crypto/BNB/minute", "crypto/BTC/minute"]
    expect(page.locator("#count")).to_have_text("2 of 40")
    page.reload()
    assert shown(page) == ["crypto/BNB/minute", "crypto/BTC/minute"]
    page.get_by_role("link", name="Show all").click()
    expect(page).to_have_url("/status")
    assert len(shown(page)) == 40


def test_problems_only_leaves_out_what_is_healthy(open_page: Open) -> None:
    page = open_page("/status")
    page.get_by_test_id("stale-filter-toggle").check()
    expect(page).to_have_url("/status?problems=1")
    left = shown(page)
    assert "crypto/BTC/minute" not in left
    assert "crypto/SOL/minute" in left
    page.get_by_role("checkbox", name="With gaps").check()
    assert shown(page) == ["crypto/ETH/minute"]


def test_the_link_of_an_alert_selects_its_row(open_page: Open) -> None:
    page = open_page("/status?market=crypto&asset=ETH&interval=minute")
    assert shown(page) == ["crypto/ETH/minute"]
    expect(row(page, "ETH")).to_have_attribute("aria-current", "true")


def test_every_column_sorts_as_the_server_does(open_page: Open) -> None:
    page = open_page("/status")
    for head in page.locator("#series thead th").all():
        key = head.get_attribute("data-col")
        for sort, direction in ((key, "ascending"), (f"-{key}", "descending")):
            head.get_by_role("link").click()
            expect(head).to_have_attribute("aria-sort", direction)
            rows = page.request.get(f"/status/series.json?sort={sort}").json()
            assert shown(page) == [f"{each['market']}/{each['asset']}/{each['interval']}" for each in rows], sort
        head.get_by_role("link").click()
    expect(page).to_have_url("/status")


def test_exports_hold_what_is_shown(open_page: Open, tmp_path: Path) -> None:
    page = open_page("/status")
    page.get_by_role("searchbox", name="Symbol").fill("ETH")
    page.get_by_role("link", name="Lag").click()
    wanted = [key.split("/")[1:] for key in shown(page)]
    for name in ("CSV", "JSON"):
        with page.expect_download() as started:
            page.get_by_role("link", name=name, exact=True).click()
        started.value.save_as(tmp_path / name)
    table = list(csv.DictReader((tmp_path / "CSV").open()))
    rows: list[dict[str, Any]] = json.loads((tmp_path / "JSON").read_text())
    assert [[each["asset"], each["interval"]] for each in table] == wanted
    assert [[each["asset"], each["interval"]] for each in rows] == wanted
    page.get_by_role("combobox", name="Market").select_option("crypto")
    expect(page.get_by_test_id("export-remediation")).to_have_attribute(
        "href", "/status/remediation?market=crypto&format=csv"
    )


def test_a_refresh_writes_what_the_server_writes(open_page: Open, site: Site) -> None:
    page = open_page("/status")
    # Whatever a cell has held is gone afterwards.
    row(page, "BTC").evaluate(
        "row => { row.cells[3].textContent = 'Stale'; row.cells[9].textContent = ''; row.dataset.stale = 'true'; }"
    )
    site.turn(seconds=16)
    refresh(page)
    expect(page.locator("#as-of")).to_have_text(f"{site.home.clock():%H:%M:%S}")
    written = page.locator("#series tbody").inner_html().replace(' class="changed"', "")
    assert written == open_page("/status", java_script_enabled=False).locator("#series tbody").inner_html()
    with page.expect_response("**/status/summary") as answered:
        refresh(page)
    assert answered.value.status == 304


def test_a_vendor_outage_shows_without_a_reload_and_keeps_everything_else(open_page: Open, site: Site) -> None:
    page = open_page("/status?market=crypto", viewport={"width": 1280, "height": 500})
    page.evaluate("window.same = true")
    page.get_by_role("link", name="Lag").click()
    link = row(page, "USDT", "day").get_by_role("link", name="USDT", exact=True)
    link.focus()
    page.evaluate("scrollTo(0, 240)")
    scrolled = page.evaluate("scrollY")
    order = shown(page)
    site.vendor("coinbase", "rate_limited")
    try:
        page.locator("#announce").evaluate("each => each.textContent = ''")
        page.evaluate("document.getElementById('refresh').click()")
        expect(page.locator("#announce")).to_have_text(REFRESHED)
        expect(row(page, "BTC").get_by_test_id("vendor-badge")).to_have_text("Unavailable / Rate-limited")
        expect(row(page, "BTC").locator("[data-col=status]")).to_have_text("Healthy")
        expect(page.locator("[data-part=vendors] [data-testid=vendor-badge]").first).to_have_text(
            "Unavailable / Rate-limited"
        )
        expect(link).to_be_focused()
        assert (page.evaluate("window.same"), page.evaluate("scrollY"), shown(page)) == (True, scrolled, order)
        expect(page).to_have_url("/status?market=crypto&sort=lag")
    finally:
        site.vendor("coinbase", "up")
    refresh(page)
    expect(row(page, "BTC").get_by_test_id("vendor-badge")).to_have_text("Available")


def test_it_refreshes_every_30_seconds_unless_paused_or_hidden(open_page: Open, site: Site) -> None:
    page = open_page("about:blank")
    page.clock.install()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto("/status")

    def summaries() -> int:
        return sum(url.endswith("/status/summary") for url in asked)

    with page.expect_response("**/status/summary"):
        page.clock.run_for(31_000)
    assert summaries() == 1
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#announce")).to_have_text("Automatic refresh is paused")
    page.clock.run_for(120_000)
    assert summaries() == 1
    with page.expect_response("**/status/summary"):
        page.get_by_role("button", name="Pause").click()
    page.evaluate(
        "Object.defineProperty(document, 'hidden', { value: true, configurable: true });"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    before = summaries()
    page.clock.run_for(120_000)
    assert summaries() == before
    with page.expect_response("**/status/summary"):
        page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")


def test_a_failed_refresh_keeps_the_old_rows_and_says_how_old_they_are(open_page: Open) -> None:
    page = open_page("/status")
    page.route("**/status/summary", lambda route: route.abort())
    page.get_by_test_id("refresh-button").click()
    expect(page.get_by_role("alert")).to_contain_text("The newest state could not be fetched. What you see is")
    expect(page.get_by_role("alert")).to_contain_text(re.compile(r"(\d+ d \d+ h|\d+ min|less than a minute) old"))
    assert len(shown(page)) == 40
    page.unroute("**/status/summary")
    refresh(page)
    expect(page.locator("#warning")).to_be_hidden()


def test_a_stopped_monitor_is_said_at_the_top(open_page: Open, site: Site) -> None:
    page = open_page("/status")
    expect(page.get_by_test_id("monitor-banner")).to_have_count(0)
    site.evaluated(site.home.clock() - timedelta(minutes=21))
    try:
        refresh(page)
        expect(page.get_by_test_id("monitor-banner")).to_contain_text("The monitor has stopped.")
    finally:
        site.evaluated(site.home.clock())
    refresh(page)
    expect(page.get_by_test_id("monitor-banner")).to_have_count(0)


def test_the_map_and_the_table_beside_it_name_what_is_missing(open_page: Open) -> None:
    page = open_page("/status")
    page.locator("#heat").scroll_into_view_if_needed()
    expect(page.locator("#heat")).to_have_attribute("style", re.compile("width"))
    colours = page.evaluate(
        """() => { const canvas = document.getElementById('heat');
          const all = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
          const seen = new Set();
          for (let i = 0; i < all.length; i += 4) if (all[i + 3] === 255) seen.add(`${all[i]},${all[i+1]},${all[i+2]}`);
          return ['63,154,108', '217,147,43', '196,70,59'].map(each => seen.has(each)) }"""
    )
    assert colours == [True, True, True]
    page.get_by_role("button", name="Days by month").click()
    expect(page.get_by_role("button", name="Days by month")).to_have_attribute("aria-pressed", "true")
    exceptions = page.locator("[data-part=exceptions]")
    expect(exceptions.locator("caption")).to_contain_text(re.compile("[0-9,]+ of [0-9,]+ partitions lack bars"))


def test_the_page_of_a_series_draws_its_bars(open_page: Open) -> None:
    page = open_page("/status")
    row(page, "ETH").get_by_role("link", name="ETH", exact=True).click()
    expect(page.locator("#chart canvas")).to_be_visible()
    drawn = page.evaluate(
        """() => { const canvas = document.querySelector('#chart canvas');
          const all = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
          let count = 0; for (let i = 3; i < all.length; i += 4) count += all[i] > 0; return count }"""
    )
    assert drawn > 2_000
    with page.expect_response("**/bars.json?count=1440") as answered:
        page.get_by_role("button", name="1,440 bars").click()
    assert len(answered.value.json()["time"]) == 1440
    gap = page.get_by_role("region", name="Gaps").get_by_role("row", name="2025-11-20 03:00")
    expect(gap).to_contain_text("2025-11-20 04:59")
    expect(gap).to_contain_text("120")
    expect(page.get_by_role("region", name="Runs").get_by_text("Partial")).to_be_visible()
    page.mouse.move(500, 300)
    expect(page.locator(".u-legend .u-series").first).to_contain_text("2025-11-2")


def test_web_vitals_are_recorded(open_page: Open, report: Report) -> None:
    measured = vitals.measure(open_page("about:blank", viewport=vitals.VIEWPORT), "/status")
    report("web-vitals", measured)
    assert set(measured) == {"lcp_ms", "blocking_ms", "interactive_ms", "refresh_ms"}
    assert all(value >= 0 for value in measured.values())
    assert measured["lcp_ms"] > 0


def test_a_stale_series_shows_and_clears_after_the_data_have_caught_up(open_page: Open, site: Site) -> None:
    page = open_page("/status")
    title = page.title()
    site.turn(minutes=75)
    refresh(page)
    btc = row(page, "BTC")
    expect(btc.locator("[data-col=status]")).to_have_text("Stale")
    expect(btc).to_have_attribute("data-stale", "true")
    page.get_by_test_id("stale-filter-toggle").check()
    assert "crypto/BTC/minute" in shown(page)
    assert page.title() != title
    site.fill(["2025-11-21"])
    refresh(page)
    expect(btc).to_be_hidden()
    page.get_by_test_id("stale-filter-toggle").uncheck()
    expect(btc.locator("[data-col=status]")).to_have_text("Healthy")
    assert page.title() == title
