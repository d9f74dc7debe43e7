"""Benchmarks of the HTTP service, a real `ohlcv serve` asked over loopback by clients that keep their connections."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import duckdb
import numpy as np

from ohlcv_pipeline.ledger import symbols
from ohlcv_pipeline.markets import MINUTE_US, Interval, from_us, market
from ohlcv_pipeline.platform import Platform
from ohlcv_pipeline.settings import Settings
from ohlcv_pipeline_tests.bars.vendor import Vendor, fill
from ohlcv_pipeline_tests.benchmarks.core import Recorded, filled_store, minute_order
from ohlcv_pipeline_tests.benchmarks.table import Row
from ohlcv_pipeline_tests.exchange import running_exchange

CLIENTS = 16
PAUSE_SECONDS = 0.05
"""Between an answer and the next request of a client."""

SUMMARY = "/status/summary"


def _environment(home: Path, **more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OHLCV_", "DAGSTER_"))}
    return {
        **clean,
        "OHLCV_HOME": str(home),
        "OHLCV_MARKETS": "crypto",
        "OHLCV_READ_RATE_PER_MINUTE": "0",
        **more,
    }


@contextlib.contextmanager
def serving(home: Path, **environment: str) -> Iterator[int]:
    """Run the service of a home; yield its port."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "ohlcv_pipeline.cli", "serve", "--port", "0"],
        env=_environment(home, **environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2].strip(" /\n"))
        asyncio.run(_ask(port, [SUMMARY], time.monotonic() + 60))
        yield port
    finally:
        process.terminate()
        process.wait()


async def _ask(port: int, paths: Sequence[str], until: float, pause: float = 0.0) -> list[float]:
    """Ask for one path after the other over one connection, all of them at least once; return the seconds of each."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    spent, asked = [], 0
    while asked < len(paths) or (pause and time.monotonic() < until):
        path = paths[asked % len(paths)]
        begun = time.perf_counter()
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0]))
        spent.append(time.perf_counter() - begun)
        assert head.split(b" ", 2)[1] == b"200", head
        asked += 1
        await asyncio.sleep(pause)
    writer.close()
    return spent


async def _crowd(port: int, path: str, running: subprocess.Popen[bytes]) -> list[float]:
    """Ask as many clients until a process has ended."""

    async def client() -> list[float]:
        spent: list[float] = []
        while running.poll() is None:
            spent += await _ask(port, [path], time.monotonic() + 1, PAUSE_SECONDS)
        return spent

    return [seconds for each in await asyncio.gather(*(client() for _ in range(CLIENTS))) for seconds in each]


def p95(seconds: Sequence[float]) -> float:
    """Return the 95th percentile in ms."""
    return statistics.quantiles(seconds, n=20)[-1] * 1e3


def during_a_backfill(path: Path) -> Row:
    """The summary of 20 series for 16 clients while the demo's backfill writes them."""
    with running_exchange() as exchange:
        url = {"OHLCV_SANDBOX_URL": exchange.url}
        with serving(path, **url) as port:
            backfill = subprocess.Popen(
                [sys.executable, "-m", "ohlcv_pipeline.cli", "backfill", "--json"],
                env=_environment(path, **url),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            spent = asyncio.run(_crowd(port, SUMMARY, backfill))
            assert backfill.returncode == 0
    note = f"{len(spent):,} answers, each client {PAUSE_SECONDS * 1e3:.0f} ms after the last"
    what = f"p95 of the summary, 20 series, {CLIENTS} clients, beside a backfill"
    return Row(what, p95(spent), "ms", must=50, aim=10, note=note)


def many_series(path: Path, count: int) -> Platform:
    """Return an installation of so many symbols, with three years of days and a day of minutes of each."""
    home, now = market("crypto"), datetime.now(UTC)
    platform = Platform(Settings(home=path, markets=("crypto",), _env_file=None))
    for instrument in home.instruments:
        symbols.disable(platform.ledger, home, instrument.symbol, now)
    for i in range(count):
        symbol = f"S{i:04}"
        symbols.add(platform.ledger, home, symbol, now, name=symbol, base=symbol, vendor_symbols={"coinbase": symbol})
    instruments = platform.instruments(home)
    days = home.partition_keys(Interval.DAY, *home.target_window(Interval.DAY, now))
    yesterday = (now - timedelta(days=1)).date().isoformat()
    vendor = Vendor(page_rows=2_000, received_at=now)
    fill(platform.store, days, [vendor], now, interval=Interval.DAY, instruments=instruments)
    fill(platform.store, [yesterday], [vendor], now, instruments=instruments)
    platform.store.catalog.close()
    return platform


def of_many_series(path: Path, count: int = 1_000) -> Row:
    """The summary of 2,000 series: three years of days and a day of minutes of 1,000 symbols."""
    many_series(path, count).ledger.close()
    with serving(path) as port:
        spent = asyncio.run(_ask(port, [SUMMARY], time.monotonic() + 20, PAUSE_SECONDS))
    return Row("p95 of the summary, 2,000 series, three years of days", p95(spent), "ms", must=100, aim=20,
               note=f"{len(spent)} answers in 20 s")  # fmt: skip


def lineage(path: Path) -> Row:
    """Pages of 5,000 bars anywhere in 90 days of minutes of ten symbols; beside DuckDB reading the same rows."""
    home = market("crypto")
    settings = Settings(home=path, markets=("crypto",), _env_file=None)
    root = settings.root / "lake"
    store, _, _ = filled_store(root, minute_order(home), Recorded())
    store.catalog.close()
    random = np.random.default_rng(3)
    start_us = home.target_window(Interval.MINUTE, datetime.now(UTC))[0]
    windows = [
        (instrument.symbol, start_us + int(minute) * MINUTE_US)
        for instrument in home.instruments
        for minute in random.integers(0, 124_000, 20)
    ]
    random.shuffle(windows)
    end = quote(from_us(start_us + 129_600 * MINUTE_US).isoformat())
    paths = [
        f"/lineage?asset={symbol}&interval=minute&start={quote(from_us(begin).isoformat())}&end={end}"
        for symbol, begin in windows
    ]
    with serving(path) as port:
        spent = asyncio.run(_ask(port, paths, 0.0))
    return Row("p95 of a lineage page, 5,000 of 90 days of minutes", p95(spent), "ms", must=100, aim=40,
               baseline=_read(root, windows), note="baseline: DuckDB read_parquet of the same rows")  # fmt: skip


def _read(root: Path, windows: Sequence[tuple[str, int]]) -> float:
    connection = duckdb.connect(config={"threads": 2})
    sql = (
        "SELECT bucket_start, open, high, low, close, volume, run_id, source_vendor, fetched_at"
        f" FROM read_parquet('{root}/data/crypto/ohlcv_minute/**/*.parquet', union_by_name => true) WHERE symbol = ?"
        " AND bucket_start >= make_timestamptz(?) AND bucket_start < make_timestamptz(?) ORDER BY bucket_start"
    )
    spent = []
    for symbol, begin in windows:
        begun = time.perf_counter()
        connection.execute(sql, [symbol, begin, begin + 5_000 * MINUTE_US]).to_arrow_table()
        spent.append(time.perf_counter() - begun)
    return p95(spent)
