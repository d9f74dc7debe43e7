"""Web vitals of a page on a machine four times as slow: what the tests record and the benchmarks judge."""

from __future__ import annotations

from playwright.sync_api import Page, ViewportSize

SLOWDOWN = 4
VIEWPORT: ViewportSize = {"width": 1440, "height": 900}

_OBSERVE = """
  window.vitals = { lcp: 0, long: [] };
  new PerformanceObserver(list => list.getEntries().forEach(each => { vitals.lcp = each.startTime; }))
    .observe({ type: 'largest-contentful-paint', buffered: true });
  new PerformanceObserver(list => list.getEntries().forEach(each => vitals.long.push([each.startTime, each.duration])))
    .observe({ type: 'longtask', buffered: true });
"""
_READ = """() => new Promise(done => setTimeout(() => {
  const paint = performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0;
  const loaded = performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd;
  const after = vitals.long.filter(([start, spent]) => start + spent > paint);
  done({
    lcp_ms: vitals.lcp,
    blocking_ms: after.reduce((sum, [, spent]) => sum + Math.max(0, spent - 50), 0),
    interactive_ms: Math.max(paint, loaded, ...after.map(([start, spent]) => start + spent)),
  });
}, 1000))"""
_REFRESH = """() => new Promise(done => {
  const start = performance.now();
  document.addEventListener('refreshed', () => done(performance.now() - start), { once: true });
  document.getElementById('refresh').click();
})"""


def measure(page: Page, path: str) -> dict[str, float]:
    """Return milliseconds: largest paint, blocking time after the first, interactive, and a refresh (not slowed)."""
    session = page.context.new_cdp_session(page)
    session.send("Emulation.setCPUThrottlingRate", {"rate": SLOWDOWN})
    page.add_init_script(_OBSERVE)
    page.goto(path)
    page.wait_for_load_state("load")
    found: dict[str, float] = page.evaluate(_READ)
    session.send("Emulation.setCPUThrottlingRate", {"rate": 1})
    refreshed: float = page.evaluate(_REFRESH)
    session.detach()
    return {**found, "refresh_ms": refreshed}
