"""Benchmarks of the status page in a headless Chromium, with the default universe of 40 series."""

from __future__ import annotations

import statistics
from pathlib import Path

from ohlcv_pipeline_tests.benchmarks.table import Row
from ohlcv_pipeline_tests.browser import vitals
from ohlcv_pipeline_tests.browser.chromium import running_chromium
from ohlcv_pipeline_tests.browser.site import running_site

ROUNDS = 5


def web_vitals(path: Path) -> list[Row]:
    """Return the median of a few first visits, each in a browser context of its own."""
    with running_chromium() as browser, running_site(path) as site:
        found = []
        for _ in range(ROUNDS):
            context = browser.new_context(base_url=site.url, viewport=vitals.VIEWPORT)
            found.append(vitals.measure(context.new_page(), "/status"))
            context.close()
    slowed = f"40 series, CPU slowed {vitals.SLOWDOWN} times, median of {ROUNDS}"
    bounds = (
        ("lcp_ms", "status page: largest paint", 1_500, 400, slowed),
        ("blocking_ms", "status page: blocking time", 150, 50, slowed),
        ("interactive_ms", "status page: interactive", 1_500, 500, slowed),
        ("refresh_ms", "status page: refresh by hand", 500, 100, f"40 series, median of {ROUNDS}"),
    )
    return [
        Row(what, statistics.median(each[key] for each in found), "ms", must=must, aim=aim, note=note)
        for key, what, must, aim, note in bounds
    ]
