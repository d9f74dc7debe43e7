"""Functions that run in processes of their own, and the way to start them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ohlcv_pipeline.lake.writer import Writer
from ohlcv_pipeline_tests.bars.vendor import BTC, CRYPTO, MINUTE, new_store, offer, publish_one, step, us, utc

# Forked from a server that has the packages loaded but has opened no lake: as quick as fork, as clean as spawn.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["ohlcv_pipeline_tests.bars.vendor", "ohlcv_pipeline_tests.faults.alerting", "pandas"])
START_SECONDS = 60.0
NOW = utc("2025-11-21 00:10")
PARTITION = "2025-11-20"

_barrier: Any = None


def _ready(barrier: Any) -> None:
    global _barrier
    _barrier = barrier


def wait_for_the_others() -> None:
    _barrier.wait(START_SECONDS)


def at_once(*calls: tuple[Callable[..., Any], *tuple[Any, ...]]) -> list[Any]:
    """Make each call (a function of a module and its arguments) in a process of its own.

    Those that `wait_for_the_others` go on together.
    """
    barrier = PROCESSES.Barrier(len(calls))
    with ProcessPoolExecutor(len(calls), PROCESSES, initializer=_ready, initargs=(barrier,)) as pool:
        return [future.result() for future in [pool.submit(*call) for call in calls]]


@contextmanager
def no_queue() -> Iterator[None]:
    """Stand in for the queue of writers, so that they collide as they would on a server's catalog."""
    yield


def create(home: Path) -> int:
    """Create or open the lake when the others do, and return how many tables it has."""
    wait_for_the_others()
    store = new_store(home)
    tables = store.reader.query("SELECT count(*) AS n FROM information_schema.tables WHERE table_catalog = 'lake'")
    return int(tables["n"][0].as_py())


def publish_at_once(home: Path, run_id: str, queue: bool) -> tuple[int, int]:
    """Publish the same day as the others; return how many rows that wrote and how many are stored."""
    if not queue:
        Writer.turn = lambda self: no_queue()  # type: ignore[method-assign]
    store = new_store(home)
    store.reader.manifest(CRYPTO.name, MINUTE)
    offered = offer(step(PARTITION, 1440), NOW, instrument=BTC)
    wait_for_the_others()
    published = publish_one(store, offered, NOW, [PARTITION], run_id=run_id)
    rows = store.reader.bars(CRYPTO.name, MINUTE, "BTC", us(PARTITION), us("2025-11-21")).num_rows
    return published.rows, rows
