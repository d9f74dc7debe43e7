"""No automatic finding of WCAG 2.2 A and AA on any page, in light and in dark; and what the keyboard reaches."""

from __future__ import annotations

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from ohlcv_pipeline_tests.browser.conftest import Open, Report

pytestmark = pytest.mark.browser

RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}}
PAGES = (
    "/status?market=crypto&interval=minute",
    "/status/crypto/ETH/minute",
    "/status/us_equities/AAPL/day",
    "/docs",
    "/demo/mail",
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES)
def test_no_finding(open_page: Open, path: str, scheme: str, report: Report) -> None:
    page = open_page(path, color_scheme=scheme)
    page.wait_for_load_state("networkidle")
    found = Axe().run(page, options=RULES)
    report(f"axe-{PAGES.index(path)}-{scheme}", {"page": path, "scheme": scheme, **found.response})
    assert found.violations_count == 0, found.generate_report()


def test_no_finding_on_a_phone(open_page: Open) -> None:
    page = open_page("/status?asset=A", viewport={"width": 390, "height": 844}, has_touch=True)
    found = Axe().run(page, options=RULES)
    assert found.violations_count == 0, found.generate_report()


def overflow(page: Page) -> int:
    """Return by how many pixels the page is wider than the window."""
    width: int = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return width


@pytest.mark.parametrize("path", [*PAGES[:2], "/demo/mail"])
@pytest.mark.parametrize("width", [390, 320], ids=["phone", "400 % of 1280"])
def test_a_narrow_window_needs_no_sideways_scrolling(open_page: Open, path: str, width: int) -> None:
    page = open_page(path, viewport={"width": width, "height": 700})
    page.wait_for_load_state("networkidle")
    assert overflow(page) <= 0


def test_targets_are_large_enough(open_page: Open) -> None:
    page = open_page("/status")
    small = page.evaluate(
        """() => [...document.querySelectorAll('main a, main button, main select, main input, header a, header button')]
          .filter(each => each.checkVisibility())
          .map(each => [each.outerHTML.slice(0, 80), (each.closest('label') ?? each).getBoundingClientRect()])
          .filter(([, box]) => box.width < 24 || box.height < 24).map(([html, box]) => [html, box.width, box.height])"""
    )
    assert small == []


def test_the_keyboard_reaches_everything_and_shows_where_it_is(open_page: Open) -> None:
    page = open_page("/status")
    seen = []
    for _ in range(24):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate(
                """() => { const at = document.activeElement; return [at.id || at.name || at.textContent.trim(),
                   getComputedStyle(at).outlineStyle !== 'none' || at.matches('input[type=search]:focus-visible')] }"""
            )
        )
    names = [name for name, _ in seen]
    wanted = ["Skip to the content", "OHLCV Status", "pause", "refresh", "export-csv", "export-json", "f-asset"]
    wanted += ["f-market", "f-interval"]
    assert [name for name in names if name in wanted] == wanted
    assert [name for name, visible in seen if not visible] == []
    assert "Symbol" in names
    assert "Lag" in names


def test_sorting_filtering_and_refreshing_by_keyboard_alone(open_page: Open) -> None:
    page = open_page("/status")
    page.get_by_test_id("stale-filter-toggle").focus()
    page.keyboard.press("Space")
    expect(page).to_have_url("/status?problems=1")
    page.get_by_role("link", name="Lag").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("columnheader", name="Lag")).to_have_attribute("aria-sort", "ascending")
    expect(page.get_by_role("link", name="Lag")).to_be_focused()
    page.get_by_test_id("refresh-button").focus()
    page.keyboard.press("Space")
    expect(page.locator("#announce")).to_contain_text("Updated at")
    expect(page.get_by_test_id("refresh-button")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#pause")).to_have_attribute("aria-pressed", "true")


def test_the_map_is_read_with_arrow_keys(open_page: Open) -> None:
    page = open_page("/status")
    page.get_by_role("region", name="Coverage map").focus()
    expect(page.locator("#heat")).to_have_attribute("style", re.compile("width"))
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#heat-reading")).to_contain_text("AAVE crypto, 2025-11-21: complete")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#heat-reading")).to_contain_text("BTC crypto, 2025-11-20: complete, 1,440 bars")


def test_motion_stops_where_it_is_not_wanted(open_page: Open) -> None:
    page = open_page("/status", reduced_motion="reduce")
    moving = page.evaluate(
        "() => { const cell = document.querySelector('td'); cell.classList.add('changed');"
        " return getComputedStyle(cell).animationName }"
    )
    assert moving == "none"
