"""Bars out of nothing but a seed: a pure function of (seed, venue, coin, time), whatever is asked first.

Prices are whole ticks and volumes whole 1e-8 units, so every decimal on the wire is exact. Wire formats
are the vendor modules'; corrections and splits come from `faults` as a `Rewrite`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from ohlcv_pipeline.frames import Micros
from ohlcv_pipeline.sandbox.listing import FIRST_DAY, OUTAGE_EVERY_DAYS, OUTAGE_MINUTES, VENUE, coin, stable_hash
from ohlcv_pipeline.sandbox.messages import DAY, MINUTE

Ints = Micros
Floats = npt.NDArray[np.float64]
Noise = npt.NDArray[np.uint16]
Block = TypeVar("Block")

OPEN, HIGH, LOW, CLOSE, VOLUME, COUNT, QUOTE, TAKER, TAKER_QUOTE = range(9)
"""Rows of a block: four prices in ticks, volume in 1e-8 coins, trades, turnover in 1e-8 of the quote
currency, and the takers' part of volume and turnover. All int64. Shares have the first seven rows, volume
in shares and turnover in micro-dollars."""

TURNOVERS = slice(QUOTE, None, TAKER_QUOTE - QUOTE)
"""The rows that are money: prices times volume."""

BLOCK_DAYS = 8
BLOCK_MINUTES = BLOCK_DAYS * 1440
WALK_DAYS = 40 * 366
CACHED_BLOCKS = 128
CACHED_DAYS = 16_384

SILENCE_SLOT = 12
"""At most one run of silent minutes per slot, never touching its first or last minute: a run has at
most ten minutes, and never crosses midnight."""
SILENCE_MEAN = 2.0

NORMAL: Floats = np.array([NormalDist().inv_cdf((i + 0.5) / 4096) for i in range(4096)])
HALF: Floats = np.abs(NORMAL)
LOGNORMAL: Floats = np.exp(0.8 * NORMAL - 0.32)
_HOURS = np.arange(1440) / 60.0
_SEASON: Floats = 1.0 + 0.45 * np.exp(-(((_HOURS - 14.5) / 3.2) ** 2)) - 0.25 * np.exp(-(((_HOURS - 5.0) / 3.0) ** 2))
_SEASON /= np.sqrt(np.mean(_SEASON**2))


@dataclass(frozen=True)
class Bars:
    """Bars in time order.

    `time` is in unix seconds; `columns` is (9, n) as the names above, of shares the first 7; a price is
    `columns[OPEN] / 10**decimals`. A bar without trades has volume 0 and four equal prices.
    """

    time: Ints
    columns: Ints
    decimals: int


Rewrite = Callable[[str, str, Ints, Ints], None]
"""Called with venue, coin, the minutes of a block (unix seconds) and its columns, which it may change."""


def raw(size: int, *key: object) -> Noise:
    """Return (size, 4) random 12-bit numbers. Raw Philox output is the same in every numpy release."""
    words = np.random.Philox(key=stable_hash(*key)).random_raw(size)
    quarters: Noise = np.asarray(words, "<u8").view("<u2")
    return (quarters >> np.uint16(4)).reshape(size, 4)


class Blocks(Generic[Block]):
    """The blocks that were asked for last, by venue, symbol and number; the others are made again."""

    def __init__(self, make: Callable[[str, str, int], Block], most: int) -> None:
        self._make, self._most = make, most
        self._held: OrderedDict[tuple[str, str, int], Block] = OrderedDict()

    def __call__(self, venue: str, symbol: str, index: int) -> Block:
        """Return a block, and hold it."""
        key = (venue, symbol, index)
        block = self._held[key] = self.glimpse(*key)
        self._held.move_to_end(key)
        if len(self._held) > self._most:
            self._held.popitem(last=False)
        return block

    def glimpse(self, venue: str, symbol: str, index: int) -> Block:
        """Return a block without holding it: years of days would push out the minutes that are asked page by page."""
        held = self._held.get((venue, symbol, index))
        return self._make(venue, symbol, index) if held is None else held

    def clear(self) -> None:
        """Forget all blocks."""
        self._held.clear()


class Series:
    """All bars of all venues for one seed, with bounded caches."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._rewrite: Rewrite | None = None
        self._minutes = Blocks(self._make_block, CACHED_BLOCKS)
        self._rollup = lru_cache(maxsize=CACHED_DAYS)(self._make_rollup)
        self._walk = lru_cache(maxsize=256)(self._make_walk)

    def rewrite(self, rule: Rewrite | None) -> None:
        """Apply a rule of corrections to every minute from now on, and so to the days made of them."""
        self._rewrite = rule
        self._minutes.clear()
        self._rollup.cache_clear()

    def bars(self, venue: str, symbol: str, step: int, start: int, end: int, now: float) -> Bars:
        """Return the bars of the buckets in [start, end) that have begun at `now`, the last one running.

        `step` is 60 or 86400, all instants unix seconds. Minutes of a declared outage are absent. Minutes
        without a trade are there with volume 0. A day is the roll-up of its minutes.
        """
        begin = max(-(-start // step), FIRST_DAY * DAY // step)
        running = int(now // step)
        stop = max(begin, min(-(-end // step), running + 1))
        cells = self._slice(venue, symbol, step, begin, stop)
        time = np.arange(begin, stop, dtype=np.int64) * step
        if stop == running + 1 and stop > begin:
            cells[:, -1] = self._running(venue, symbol, step, now)
        decimals = coin(symbol).decimals[venue]
        present = cells[OPEN] > 0
        if present.all():
            return Bars(time, cells, decimals)
        return Bars(time[present], cells[:, present], decimals)

    def _slice(self, venue: str, symbol: str, step: int, begin: int, stop: int) -> Ints:
        size, block = (BLOCK_MINUTES, self._minutes) if step == MINUTE else (BLOCK_DAYS, self._rollup)
        if stop <= begin:
            return np.empty((9, 0), np.int64)
        parts = []
        for index in range(begin // size, (stop - 1) // size + 1):
            base = index * size
            parts.append(block(venue, symbol, index)[:, max(begin - base, 0) : min(stop - base, size)])
        return np.concatenate(parts, axis=1)

    def _running(self, venue: str, symbol: str, step: int, now: float) -> Ints:
        """Return the bar that contains `now`, as far as it has got; all zero when it is absent so far."""
        minute = int(now // MINUTE)
        bar = begun(self._slice(venue, symbol, MINUTE, minute, minute + 1)[:, 0], now / MINUTE - minute)
        if step == MINUTE:
            return bar
        today = self._slice(venue, symbol, MINUTE, int(now // DAY) * 1440, minute)
        return _roll_up(np.concatenate([today, bar[:, None]], axis=1)[:, None, :])[:, 0]

    def _make_rollup(self, venue: str, symbol: str, index: int) -> Ints:
        return _roll_up(self._minutes.glimpse(venue, symbol, index).reshape(9, BLOCK_DAYS, 1440))

    def _make_walk(self, symbol: str) -> tuple[Floats, Floats]:
        """Return log price at each midnight from the block of FIRST_DAY on, and each day's volatility.

        A mean-reverting walk around the coin's typical price. Volatility clusters, and coins share a
        market factor, as they do outside.
        """
        profile = coin(symbol)
        common = NORMAL[raw(WALK_DAYS, self.seed, "market")]
        own = NORMAL[raw(WALK_DAYS, self.seed, "walk", symbol)]
        mood, price = 0.0, 0.0
        reversion = 0.85 if profile.stable else 0.99
        moods, prices = np.empty(WALK_DAYS), np.empty(WALK_DAYS)
        shocks = 0.95 * common[:, 1] * 0.25 + 0.15 * own[:, 1]
        steps = own[:, 0] if profile.stable else 0.7 * common[:, 0] + 0.714 * own[:, 0]
        for day, (shock, step) in enumerate(zip(shocks.tolist(), steps.tolist(), strict=True)):
            prices[day] = price
            mood = 0.94 * mood + shock
            moods[day] = mood
            price = reversion * price + profile.volatility * np.exp(min(max(mood, -1.2), 1.2)) * step
        return np.log(profile.price) + prices, profile.volatility * np.exp(np.clip(moods, -1.2, 1.2))

    def _make_block(self, venue: str, symbol: str, index: int) -> Ints:
        profile, place = coin(symbol), VENUE[venue]
        shape = (BLOCK_DAYS, 1440)
        first = index * BLOCK_DAYS
        walk, volatility = self._walk(symbol)
        at = first - FIRST_DAY // BLOCK_DAYS * BLOCK_DAYS
        if at + BLOCK_DAYS >= WALK_DAYS:
            raise ValueError(f"the sandbox's series ends {WALK_DAYS} days after 2015-01-01")
        sigma = volatility[at : at + BLOCK_DAYS, None] * _SEASON / np.sqrt(1440.0)

        shared = raw(BLOCK_MINUTES, self.seed, "path", symbol, index).reshape(*shape, 4)
        local = raw(BLOCK_MINUTES, self.seed, "venue", venue, symbol, index).reshape(*shape, 4)
        path = np.zeros((BLOCK_DAYS, 1441))
        np.cumsum(NORMAL[shared[..., 0]] * sigma, axis=1, out=path[:, 1:])
        opens, closes = walk[at : at + BLOCK_DAYS], walk[at + 1 : at + BLOCK_DAYS + 1]
        path += np.linspace(0.0, 1.0, 1441) * (closes - opens - path[:, -1])[:, None] + opens[:, None]
        # Zero at midnight on both sides, so that a day opens where the one before has closed.
        path[:, 1:-1] += NORMAL[local[:, 1:, 0]] * (0.00002 if profile.stable else 0.00006)
        path += place.premium * (0.1 if profile.stable else 1.0)

        scale = 10.0 ** profile.decimals[venue]
        points = np.exp(path) * scale
        ticks = np.maximum(np.rint(points), 1.0)
        cells: Ints = np.zeros((9, *shape), np.int64)
        begin, finish = ticks[:, :-1], ticks[:, 1:]
        cells[OPEN], cells[CLOSE] = begin, finish
        cells[HIGH] = np.maximum(begin, finish) * (1.0 + 0.45 * sigma * HALF[shared[..., 1]])
        cells[LOW] = np.maximum(np.minimum(begin, finish) * (1.0 - 0.45 * sigma * HALF[shared[..., 2]]) + 1.0, 1.0)
        np.minimum(cells[LOW], np.minimum(cells[OPEN], cells[CLOSE]), out=cells[LOW])

        busy = (0.6 + 0.6 * HALF[shared[..., 0]]) * LOGNORMAL[local[..., 1]]
        busy *= _SEASON**2 * (volatility[at : at + BLOCK_DAYS, None] / profile.volatility)
        cells[VOLUME] = busy * (profile.volume * place.share * 1e8) + 1000.0
        cells[COUNT] = 1.0 + busy * 40.0 * np.sqrt(place.share)
        weights = (cells[HIGH] + cells[LOW] + 2 * cells[CLOSE]) / (4.0 * scale)
        part = (local[..., 2] + 1000.0) / 6096.0
        cells[QUOTE] = cells[VOLUME] * weights
        cells[TAKER], cells[TAKER_QUOTE] = cells[VOLUME] * part, cells[QUOTE] * part

        cells = cells.reshape(9, BLOCK_MINUTES)
        outage = np.zeros(shape, bool)
        if place.outage_day is not None:
            days = np.arange(first, first + BLOCK_DAYS) % OUTAGE_EVERY_DAYS == place.outage_day
            outage[days, place.outage_minute : place.outage_minute + OUTAGE_MINUTES] = True
        if profile.silent:
            self._silence(cells, local[..., 3].reshape(-1), profile.silent, outage)
        cells[:, outage.reshape(-1)] = 0
        if self._rewrite is not None:
            time = np.arange(index * BLOCK_MINUTES, (index + 1) * BLOCK_MINUTES, dtype=np.int64) * MINUTE
            self._rewrite(venue, symbol, time, cells)
        return cells

    @staticmethod
    def _silence(cells: Ints, noise: Noise, share: float, outage: npt.NDArray[np.bool_]) -> None:
        """Empty the minutes without trades: flat at the last close, volume 0."""
        draws = noise.reshape(-1, SILENCE_SLOT)
        chosen = draws[:, 0] < 4096 * share * SILENCE_SLOT / SILENCE_MEAN
        # An outage keeps its exact length: no silence in the slots that touch it.
        near = outage.reshape(-1, SILENCE_SLOT).any(axis=1)
        chosen &= ~(near | np.roll(near, 1) | np.roll(near, -1))
        begin = 1 + draws[:, 1] % 10
        length = 1 + np.minimum(HALF[draws[:, 2]] * 1.6, 9.0).astype(np.int64)
        place = np.arange(SILENCE_SLOT)
        silent = (place >= begin[:, None]) & (place < np.minimum(begin + length, SILENCE_SLOT - 1)[:, None])
        quiet = np.flatnonzero((silent & chosen[:, None]).reshape(-1))
        if not len(quiet):
            return
        last = np.arange(cells.shape[1])
        last[quiet] = 0
        close = cells[CLOSE][np.maximum.accumulate(last)[quiet]]
        cells[:, quiet] = 0
        cells[OPEN : CLOSE + 1, quiet] = close


def begun(bar: Ints, part: float) -> Ints:
    """Return a bar (9,) or (7,) as it stands when a part of its minute has passed; absent stays absent."""
    bar = bar.copy()
    if bar[OPEN] > 0:
        bar[[HIGH, LOW, CLOSE]] = bar[OPEN] + np.rint((bar[[HIGH, LOW, CLOSE]] - bar[OPEN]) * part).astype(np.int64)
        bar[VOLUME:] = (bar[VOLUME:] * part).astype(np.int64)
        if bar[VOLUME] == 0:
            bar[OPEN + 1 : VOLUME] = bar[OPEN]
            bar[VOLUME:] = 0
        else:
            bar[COUNT] = max(bar[COUNT], 1)
    return bar


def _roll_up(minutes: Ints) -> Ints:
    """Return the bars of (9, days, n) minutes as (9, days); absent minutes are all zero."""
    traded = minutes[VOLUME] > 0
    days = np.zeros(minutes.shape[:2], np.int64)
    which = np.arange(minutes.shape[1])
    first, last = traded.argmax(axis=1), minutes.shape[2] - 1 - traded[:, ::-1].argmax(axis=1)
    days[OPEN], days[CLOSE] = minutes[OPEN, which, first], minutes[CLOSE, which, last]
    days[HIGH] = minutes[HIGH].max(axis=1)
    days[LOW] = np.where(traded, minutes[LOW], np.iinfo(np.int64).max).min(axis=1)
    days[VOLUME:] = minutes[VOLUME:].sum(axis=2)
    silent = ~traded.any(axis=1)
    if silent.any():
        days[LOW, silent] = days[HIGH, silent]
    return days
