"""One Chromium and one service for each file of tests.

While the browser is open its event loop runs in the thread of the tests, so that nothing else there can have one: it
is closed before the next file begins.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from ohlcv_pipeline_tests.browser.chromium import CHROMIUM, running_chromium
from ohlcv_pipeline_tests.browser.site import Site, running_site
from ohlcv_pipeline_tests.pages import ROOT

REPORTS = ROOT / "reports"

Open = Callable[..., Page]
"""Opens a page in a context of its own; keyword arguments are those of the context."""

Report = Callable[[str, Mapping[str, Any]], None]
"""Keeps what was measured as a file of a name."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not installed; on Debian: apt-get install chromium")
    with running_chromium() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def site(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The service over a small lake. Asks for the browser first, lest it be started for nothing."""
    with running_site(tmp_path_factory.mktemp("site")) as found:
        yield found


@pytest.fixture
def report() -> Report:
    """Write what was measured into `reports/`, where CI finds it."""

    def write(name: str, found: Mapping[str, Any]) -> None:
        REPORTS.mkdir(exist_ok=True)
        (REPORTS / f"{name}.json").write_text(json.dumps(found, indent=1))

    return write


@pytest.fixture
def open_page(browser: Browser, site: Site) -> Iterator[Open]:
    """Open pages of the service; at the end, none has asked another host or met an error in its scripts."""
    contexts: list[BrowserContext] = []
    strangers: list[str] = []
    errors: list[str] = []

    def look(url: str) -> None:
        if urlsplit(url).scheme in ("http", "https", "ws", "wss") and not url.startswith(site.url):
            strangers.append(url)

    def listen(kind: str, text: str) -> None:
        # A request that was made to fail is told of as an error, too; those of a policy or a script are not wanted.
        if kind == "error" and "Failed to load resource" not in text:
            errors.append(text)

    def opener(path: str = "/status", **options: Any) -> Page:
        context = browser.new_context(base_url=site.url, locale="en-GB", **options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: look(request.url))
        page.on("console", lambda message: listen(message.type, message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(path)
        return page

    yield opener
    for context in contexts:
        context.close()
    assert strangers == []
    assert errors == []
