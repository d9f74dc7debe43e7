"""Benchmarks of whole commands: the demo's backfills through Dagster, in processes of their own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import httpx

from ohlcv_pipeline.bars.planning import Order, batches, quests
from ohlcv_pipeline.markets import Interval, market, to_us
from ohlcv_pipeline.vendors.failover import Source, plan
from ohlcv_pipeline.vendors.registry import ADAPTERS
from ohlcv_pipeline_tests.benchmarks.table import Row
from ohlcv_pipeline_tests.exchange import Exchange, running_exchange


def command(home: Path, exchange: Exchange, *words: str, markets: str = "crypto") -> tuple[float, float]:
    """Run an `ohlcv` command; return its seconds and its peak memory in MB. Raises on a failure."""
    environment: Mapping[str, str] = {
        **os.environ,
        "OHLCV_HOME": str(home),
        "OHLCV_PROFILE": "sandbox",
        "OHLCV_SANDBOX_URL": exchange.url,
        "OHLCV_MARKETS": markets,
        "DAGSTER_HOME": "",
    }
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", "from ohlcv_pipeline.cli import main; main()", *words],
        env={k: v for k, v in environment.items() if v},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    complaint = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"ohlcv {' '.join(words)} failed:\n{complaint}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def bare_requests(exchange: Exchange) -> float:
    """Return how long httpx alone takes for the requests of the demo's minutes, four at a time."""
    home = market("crypto")
    now = datetime.now(UTC)
    keys = home.partition_keys(Interval.MINUTE, *home.target_window(Interval.MINUTE, now))
    order = Order(home, Interval.MINUTE, home.instruments, keys, "bench")
    cells = {
        (i.symbol, key): home.expected(Interval.MINUTE, i, *home.partition_bounds(Interval.MINUTE, key), to_us(now))
        for key in keys
        for i in home.instruments
    }
    sources = {"coinbase": Source(ADAPTERS["coinbase"], None)}  # type: ignore[arg-type]
    urls = [
        (f"{exchange.url}/coinbase{request.path}", dict(request.params))
        for batch in batches(cells, 216_000)
        for quest in quests(order, batch, frozenset())
        for fetch in plan(sources, ("coinbase",), quest.instrument, Interval.MINUTE, quest.windows([]), to_us(now))
        for request in fetch.requests
    ]

    async def send() -> None:
        limits = httpx.Limits(max_connections=4, max_keepalive_connections=4)
        async with httpx.AsyncClient(limits=limits, headers={"User-Agent": "bench"}, trust_env=False) as client:
            left = iter(urls)

            async def worker() -> None:
                for url, params in left:
                    (await client.get(url, params=params)).raise_for_status()

            await asyncio.gather(*(worker() for _ in range(4)))

    start = time.perf_counter()
    asyncio.run(send())
    return time.perf_counter() - start


def demo(path: Path) -> list[Row]:
    """The demo's backfill, its repetition, its memory, and the same bars through the archive."""
    with running_exchange() as exchange:
        seconds, memory = command(path, exchange, "backfill", "--json")
        before = len(exchange.requests())
        again, _ = command(path, exchange, "backfill", "--only-missing", "--interval", "day", "--json")
        calls = len(exchange.requests()) - before
        raw = bare_requests(exchange)
    with running_exchange() as exchange:
        archive, _ = command(path / "usdt", exchange, "backfill", "--json", markets="crypto_usdt")
    return [
        Row("demo backfill inside Dagster, whole command", seconds, "s", must=30, aim=15, baseline=raw,
            note="baseline: httpx sending the same minute requests"),
        Row("the same bars through the archive format", archive, "s", must=20, aim=10, baseline=raw,
            note="baseline as above"),
        Row(f"no-op re-run, {calls} vendor calls", again, "s", must=5, aim=2),
        Row("peak memory of the demo backfill", memory, "MB", must=700, aim=400),
    ]  # fmt: skip


def definitions_load() -> Row:
    """Importing and building the definitions; beside importing Dagster alone."""

    def spent(code: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - start

    ours = sorted(spent("from ohlcv_pipeline.definitions import defs; defs()") for _ in range(3))[1]
    raw = sorted(spent("import dagster") for _ in range(3))[1]
    return Row("definitions load, interpreter included", ours, "s", must=3, aim=1.5, baseline=raw,
               note="baseline: import dagster")  # fmt: skip
