"""Overnight jumps that look like a split of which nobody told: found and named, never applied.

A crash moves a price as far, but to no whole ratio, or with a crowd trading; a bad print does not last.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ohlcv_pipeline.frames import Floats, Micros, floats, micros

RATIOS = (1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 100.0)
"""New shares for one old in the splits that companies make; the same the other way round."""

NEAR = 0.03
"""A share opens within this part of where its split puts it. Apple's fall of 2000-09-29, 1.90, is 5 % from a half."""

LASTING = 0.15
"""The medians of the closes before and after have moved by the ratio within this part, or it was a bad print."""

NEIGHBOURS = 3
CROWD = 4.0
"""A split changes how many shares trade, not how many dollars; beyond so many times the usual it is a crash."""
USUAL_SESSIONS = 20


@dataclass(frozen=True)
class Jump:
    """A session (00:00Z in µs) that opened `ratio` times below the close before, near a split of `split` for one.

    `told` is the ratio that the known actions of that night explain, 1.0 without any.
    """

    session_us: int
    ratio: float
    split: float
    told: float


def split_like_jumps(days: pa.Table, actions: pa.Table) -> list[Jump]:
    """Return the jumps of one symbol's raw day bars, sorted, that its actions (`ACTION_SCHEMA`) do not explain."""
    starts = micros(days["bucket_start"])
    if len(starts) < 2:
        return []
    opened, close, volume = (floats(days[name]) for name in ("open", "close", "volume"))
    told = _told(starts, close, actions)
    ratio = close[:-1] / opened[1:]
    left = np.log(ratio / told)
    splits = np.log(np.array([*RATIOS, *(1 / each for each in RATIOS)]))
    nearest = splits[np.argmin(np.abs(left[:, None] - splits), axis=1)]
    dollars = close * volume
    found = []
    for i in np.flatnonzero(np.abs(left - nearest) <= np.log1p(NEAR)).tolist():
        before, after = close[max(0, i + 1 - NEIGHBOURS) : i + 1], close[i + 1 : i + 1 + NEIGHBOURS]
        moved = np.log(np.median(before) / np.median(after) / told[i])
        usual = np.median(dollars[max(0, i + 1 - USUAL_SESSIONS) : i + 1])
        if abs(moved - nearest[i]) <= np.log1p(LASTING) and dollars[i + 1] <= CROWD * max(usual, 1.0):
            found.append(Jump(int(starts[i + 1]), float(ratio[i]), float(np.exp(nearest[i])), float(told[i])))
    return found


def _told(starts: Micros, close: Floats, actions: pa.Table) -> Floats:
    """Return by what the actions between each bar and the next divide the price, (n - 1,)."""
    told = np.ones(len(starts) - 1)
    for ex, kind, value in zip(
        micros(actions["ex_date"]), actions["kind"].to_pylist(), floats(actions["value"]), strict=True
    ):
        first = int(np.searchsorted(starts, ex))
        if 0 < first < len(starts):
            told[first - 1] *= value if kind == "split" else 1.0 / max(1.0 - value / close[first - 1], 1e-9)
    return told
