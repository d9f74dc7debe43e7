"""A New York year of minutes of which every hole is known: what a gap scan has to find, exactly."""

from __future__ import annotations

import numpy as np

from ohlcv_pipeline.bars.gaps import Gap
from ohlcv_pipeline.frames import Micros
from ohlcv_pipeline_tests.bars.vendor import MINUTE, NEW_YORK, us

HOLES, LOST = 218, 8_298
START, END = us("2025-01-01"), us("2026-01-01")


def year_with_holes() -> tuple[Micros, list[Gap]]:
    """Return the minutes of 2025 that are there and the holes between them; the first leads, the last trails."""
    expected = NEW_YORK.buckets(MINUTE, START, END)
    random = np.random.default_rng(HOLES)
    runs = np.empty(2 * HOLES - 1, np.int64)
    runs[::2] = _parts(random, LOST, HOLES)
    runs[1::2] = _parts(random, len(expected) - LOST, HOLES - 1)
    ends = np.cumsum(runs)
    holes = [
        Gap(int(expected[end - n]), int(expected[end - 1]), int(n)) for end, n in zip(ends[::2], runs[::2], strict=True)
    ]
    return expected[np.repeat(np.arange(len(runs)) % 2 == 1, runs)], holes


def _parts(random: np.random.Generator, total: int, count: int) -> Micros:
    """Cut a total into positive parts."""
    cuts = np.sort(random.choice(np.arange(1, total), count - 1, replace=False))
    return np.diff(cuts, prepend=0, append=total)
