"""The command line as its users have it: a process of its own, a home of its own, a sandbox on loopback."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from ohlcv_pipeline.cli import run
from ohlcv_pipeline.settings import settings
from ohlcv_pipeline_tests.exchange import Exchange, running_exchange

START, END = "2026-10-11", "2026-10-12"
"""A day on which the sandbox declares an outage of Coinbase, 13:07 to 13:51."""


@dataclass(frozen=True)
class Ended:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Cli:
    """Runs `ohlcv` in a home, against a sandbox."""

    home: Path
    url: str
    extra: tuple[tuple[str, str], ...] = ()

    @property
    def environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("OHLCV_", "DAGSTER_"))}
        return {**clean, "OHLCV_HOME": str(self.home), "OHLCV_SANDBOX_URL": self.url, **dict(self.extra)}

    def __call__(self, *arguments: str) -> Ended:
        ended = subprocess.run(
            [sys.executable, "-m", "ohlcv_pipeline.cli", *arguments],
            capture_output=True,
            text=True,
            env=self.environment,
            check=False,
            timeout=120,
        )
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    def here(self, *arguments: str) -> Ended:
        """Run in this process: what is imported once need not be imported again."""
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="\n", write_through=True) for _ in range(2))
        before = dict(os.environ)
        os.environ.clear()
        os.environ.update(self.environment)
        settings.cache_clear()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = run(arguments)
        finally:
            os.environ.clear()
            os.environ.update(before)
            settings.cache_clear()
        shown, told = (stream.buffer.getvalue().decode() for stream in (out, err))  # type: ignore[attr-defined]
        return Ended(code, shown, told)

    def using(self, **variables: str) -> Cli:
        """Return the same command line with more of an environment."""
        return replace(self, extra=(*self.extra, *variables.items()))

    def requests(self) -> int:
        """Return how many requests the sandbox's vendors were sent."""
        counts = httpx.get(f"{self.url}/admin/requests", trust_env=False).json()["counts"]
        return sum(n for of_vendor in counts.values() for n in of_vendor.values())

    def runs(self) -> list[str]:
        """Return the files of the runs that Dagster has recorded."""
        history = self.home / "sandbox" / "dagster" / "history" / "runs"
        return sorted(path.name for path in history.glob("*-*.db")) if history.is_dir() else []


@pytest.fixture(scope="session")
def exchange() -> Iterator[Exchange]:
    with running_exchange() as started:
        yield started


@pytest.fixture
def faulty(exchange: Exchange) -> Iterator[Exchange]:
    """The sandbox for a test that switches faults on; they are off afterwards."""
    yield exchange
    exchange.clear()


@pytest.fixture
def cli(tmp_path: Path, exchange: Exchange) -> Cli:
    return Cli(tmp_path / "home", exchange.url)


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory, exchange: Exchange) -> Cli:
    """A lake with one day of minutes and a month of days of two symbols. Tests only read it."""
    cli = Cli(tmp_path_factory.mktemp("filled"), exchange.url)
    days = cli.here(
        "backfill", "--interval", "day", "--symbols", "BTC,ETH", "--start", "2026-10-01", "--end", "2026-11-01"
    )
    assert days.code == 0, days.err
    return cli
