"""Which expected bars are absent, and what one answer of a vendor proves about that.

Distances are counted in expected buckets, so nights, weekends and holidays are never gaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ohlcv_pipeline.frames import Micros
from ohlcv_pipeline.markets import MINUTE_US, Interval

LONGEST_NO_TRADES_RUN = 30
"""A longer silence of a minute series is an outage until proven otherwise."""

_NONE = np.empty(0, np.int64)


def common(buckets: Micros, among: Micros) -> Micros:
    """Return the buckets that are also among the others. Both arrays are sorted; numpy's own is far slower."""
    if not len(buckets) or not len(among):
        return _NONE
    position = np.minimum(np.searchsorted(among, buckets), len(among) - 1)
    return np.compress(among[position] == buckets, buckets)


def union(*parts: Micros) -> Micros:
    """Return the buckets of all parts, sorted and unique."""
    merged = np.concatenate(parts)
    if (merged[1:] < merged[:-1]).any():
        merged.sort()
    return np.compress(np.append(np.ones(len(merged[:1]), bool), merged[1:] != merged[:-1]), merged)


@dataclass(frozen=True)
class Gap:
    """A run of consecutive expected buckets that are absent; both ends are inclusive bucket starts in µs."""

    first_us: int
    last_us: int
    missing: int


def missing(expected: Micros, present: Micros, interval: Interval) -> Micros:
    """Return the expected buckets that are not present. Both arrays are sorted and unique."""
    if not len(expected) or not len(present):
        return expected
    if len(expected) == len(present) and np.array_equal(expected, present):
        return _NONE
    step = interval.step_us
    origin = int(min(expected[0], present[0]))
    stored = np.zeros((int(max(expected[-1], present[-1])) - origin) // step + 1, bool)
    stored[(present - origin) // step] = True
    return expected[~stored[(expected - origin) // step]]


def gaps(expected: Micros, absent: Micros, gap_multiple: float = 1.0) -> list[Gap]:
    """Return the runs of absent buckets, oldest first; `absent` is a sorted subset of `expected`.

    A run of n buckets counts when n + 1 > `gap_multiple`. Raises ValueError when `absent` is no subset.
    """
    if not len(absent):
        return []
    position = np.searchsorted(expected, absent)
    if position[-1] >= len(expected) or not np.array_equal(expected[position], absent):
        raise ValueError("absent buckets must all be expected")
    breaks = np.flatnonzero(np.diff(position) != 1) + 1
    first = np.concatenate(([0], breaks))
    last = np.concatenate((breaks, [len(absent)])) - 1
    return [
        Gap(int(absent[i]), int(absent[j]), int(j - i + 1))
        for i, j in zip(first, last, strict=True)
        if j - i + 2 > gap_multiple
    ]


def without_trades(expected: Micros, answered: Sequence[Micros], interval: Interval) -> Micros:
    """Return the expected minutes that an answer itself proves to be without trades.

    A vendor that omits empty buckets proves a minute empty when one and the same answer holds a bar before it
    and a bar after it and the silence lasts at most 30 minutes. The edges of an answer prove nothing: the hole
    may lie between two pages. Days are never proven empty.

    Args:
        expected: sorted expected buckets in µs.
        answered: the sorted bucket starts of each answer.
        interval: the interval of both.
    """
    if interval is not Interval.MINUTE:
        return _NONE
    proven = []
    for present in answered:
        if len(present) < 2:
            continue
        lo, hi = np.searchsorted(expected, [present[0], present[-1]])
        inside = expected[lo : hi + 1]
        if len(inside) == len(present):
            continue
        absent = missing(inside, present, interval)
        proven += [
            absent[np.searchsorted(absent, gap.first_us) : np.searchsorted(absent, gap.last_us) + 1]
            for gap in gaps(inside, absent)
            if gap.missing <= LONGEST_NO_TRADES_RUN
        ]
    return union(*proven) if proven else _NONE


def stamped_at_close(answered: Micros, opens: Micros, closes: Micros) -> bool:
    """Return whether the minutes of an answer look as if each were labelled with its close instead of its opening.

    Then every session in it lacks the minute of its open, and has one that begins when the session ends.

    Args:
        answered: the sorted bucket starts of the answer in µs, those outside sessions included.
        opens: when the sessions around it open.
        closes: when they close.
    """
    if not len(answered):
        return False
    inside = (opens >= answered[0] - MINUTE_US) & (closes <= answered[-1])
    at_open, at_close = common(opens[inside], answered), common(closes[inside], answered)
    return bool(inside.any()) and not len(at_open) and len(at_close) == np.count_nonzero(inside)


def windows(expected: Micros, wanted: Micros, slack: int = 0) -> list[tuple[int, int]]:
    """Return the runs of wanted buckets as pairs (first, last), joining runs at most `slack` buckets apart."""
    if not len(wanted):
        return []
    position = np.searchsorted(expected, wanted)
    breaks = np.flatnonzero(np.diff(position) > slack + 1) + 1
    first = np.concatenate(([0], breaks))
    last = np.concatenate((breaks, [len(wanted)])) - 1
    return [(int(wanted[i]), int(wanted[j])) for i, j in zip(first, last, strict=True)]
