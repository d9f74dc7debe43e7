from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ohlcv_pipeline.settings import Settings
from ohlcv_pipeline_tests.exchange import Exchange, running_exchange
from ohlcv_pipeline_tests.integration.installation import (
    NOW,
    ONE_TRY,
    Installation,
    dagster_instance,
    stop_time,
)
from ohlcv_pipeline_tests.kept import Kept


@pytest.fixture(scope="session")
def running() -> Iterator[Exchange]:
    with running_exchange(now=NOW) as exchange:
        yield exchange


@pytest.fixture
def exchange(running: Exchange) -> Iterator[Exchange]:
    """The exchange of this session, without faults and at noon."""
    running.reset_requests()
    yield running
    running.clear()
    running.clock(NOW)


Install = Callable[..., Installation]


@pytest.fixture
def install(tmp_path: Path, exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Make an installation of its own, or below `at` the one that is there; keyword arguments are settings."""
    with ExitStack() as stack:

        def make(at: Path = tmp_path, **given: Any) -> Installation:
            stop_time(monkeypatch, NOW)
            chosen = {"home": at / "home", "sandbox_url": exchange.url, "schedules": False, "vendors": ONE_TRY}
            settings = Settings(_env_file=None, **{**chosen, **given})  # type: ignore[call-arg]
            made = Installation(settings, stack.enter_context(dagster_instance(at / "dagster")), exchange)
            stack.callback(made.close)
            return made

        yield make


def install_kept(kept: Kept, install: Install, fill: Callable[[Installation], object], **given: Any) -> Installation:
    """Return the installation that `fill` has made, the first time by letting it; keyword arguments are settings."""
    there = kept.put_back()
    made = install(kept.folder, **given)
    if not there:
        fill(made)
        made.close()
        kept.keep()
    return made


@pytest.fixture
def crypto(install: Install) -> Installation:
    """Crypto in US dollars with three symbols: two that trade every minute, and one that does not."""
    made = install()
    made.enable_only("BTC", "ETH", "AAVE")
    return made
