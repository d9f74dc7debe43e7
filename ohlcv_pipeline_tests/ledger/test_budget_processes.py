"""Real processes and the real clock: whether the limit holds when many writers meet on one row."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier

from ohlcv_pipeline.ledger.budget import Limits, SharedBudget
from ohlcv_pipeline.ledger.database import open_ledger
from ohlcv_pipeline.settings import VendorSettings

VENDOR = VendorSettings(requests_per_second=40, burst=10, weight_per_minute=6000)
PROCESSES, SECONDS = 4, 2.0


def hammer(url: str, barrier: Barrier, granted: Queue[list[float]]) -> None:
    """Ask without ever waiting and report the instants of the grants."""
    budget = SharedBudget(open_ledger(url), {"kraken": VENDOR})
    barrier.wait()
    mine, end = [], time.time() + SECONDS
    while (now := time.time()) < end:
        if budget.take("kraken", 2, now) == 0.0:
            mine.append(now)
    granted.put(mine)


def test_hammering_processes_stay_within_the_limit_and_use_it(ledger_url: str) -> None:
    open_ledger(ledger_url).close()
    spawn = multiprocessing.get_context("spawn")
    barrier, granted = spawn.Barrier(PROCESSES, timeout=30), spawn.Queue()
    processes = [spawn.Process(target=hammer, args=(ledger_url, barrier, granted)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    instants = sorted(instant for _ in processes for instant in granted.get(timeout=60))
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * PROCESSES

    limits = Limits.of(VENDOR)
    assert limits.requests is not None
    burst, rate = limits.requests.capacity, limits.requests.per_second
    span = instants[-1] - instants[0]
    assert len(instants) <= burst + rate * span + 1e-3
    # The limit is used, not merely kept: a lost token or a starved process would show here.
    assert len(instants) >= 0.8 * (burst + rate * SECONDS)
