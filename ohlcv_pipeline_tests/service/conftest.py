"""One installation of the test's own, and its service over ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from ohlcv_pipeline.ledger import symbols
from ohlcv_pipeline.ledger.database import open_ledger
from ohlcv_pipeline.platform import Platform
from ohlcv_pipeline.service.app import create_app
from ohlcv_pipeline.service.context import Context
from ohlcv_pipeline.settings import Settings
from ohlcv_pipeline_tests.bars.vendor import utc

NOW = utc("2025-11-21 12:00")
TOKEN = "correct-horse"


@dataclass
class Wall:
    """A clock that is set by hand."""

    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now

    def turn(self, **span: float) -> None:
        self.now += timedelta(**span)


@dataclass
class Home:
    """An installation, its clock, and its service, which is asked over ASGI and without what runs beside it."""

    platform: Platform
    clock: Wall = field(default_factory=Wall)

    def __post_init__(self) -> None:
        self.app: FastAPI = create_app(self.platform, self.clock)

    @property
    def context(self) -> Context:
        context: Context = self.app.state.context
        return context

    def close(self) -> None:
        self.platform.ledger.close()
        self.platform.reading.catalog.close()

    def refresh(self) -> bool:
        return self.context.summary.refresh()

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send one request; `options` are those of httpx."""

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://status.test") as client:
                return await client.request(method, path, **options)

        return asyncio.run(send())

    def get(self, path: str, **query: Any) -> httpx.Response:
        return self.ask("GET", path, params=query or None)

    def rows(self, **query: Any) -> list[dict[str, Any]]:
        """Return the rows of a new summary."""
        self.refresh()
        answer = self.get("/status/summary", **query)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["assets"])


def new_home(path: Path, enabled_at: datetime = NOW - timedelta(days=1), **settings: Any) -> Home:
    """Make an installation whose symbols are enabled since an instant."""
    chosen = {"admin_token": TOKEN, "read_rate_per_minute": 0, "write_rate_per_minute": 0, **settings}
    platform = Platform(Settings(home=path, _env_file=None, **chosen))
    with closing(open_ledger(platform.settings.ledger)) as ledger:
        symbols.seed(ledger, platform.markets, enabled_at)
    return Home(platform)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = new_home(tmp_path)
    yield made
    made.close()
