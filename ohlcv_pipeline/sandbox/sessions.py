"""Bars of shares out of nothing but a seed: a pure function of (seed, vendor, symbol, session).

All vendors tell of one tape, prices in cents, as they were on the day: a split is a jump. Profiles, splits
and dividends are `shares`'; the same for coins, which never close, is `series`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ohlcv_pipeline.sandbox.listing import OUTAGE_MINUTES, stable_hash
from ohlcv_pipeline.sandbox.messages import DAY, MINUTE
from ohlcv_pipeline.sandbox.series import (
    CACHED_DAYS,
    CLOSE,
    COUNT,
    HALF,
    HIGH,
    LOGNORMAL,
    LOW,
    NORMAL,
    OPEN,
    QUOTE,
    VOLUME,
    Bars,
    Blocks,
    Floats,
    Ints,
    Rewrite,
    begun,
    raw,
)
from ohlcv_pipeline.sandbox.shares import OUTAGE_FROM, events, has_outage, share, timetable

ROWS = 7
DECIMALS = 2
MICROS_PER_CENT = 10_000
FULL = 390
BLOCK_SESSIONS = 24
CACHED_BLOCKS = 96

DAY_EXTRA = (20, 80)
"""A day's volume, turnover and trades are the sum over its minutes, plus so many thousandths, drawn per
session: auctions and odd lots are in the day and in no minute."""

BEFORE = (95, 38, 11, 2)
AFTER = (0, 1, 24, 77)
"""Bars outside the session: minutes before its open, and after its close, where the first holds the print
of the closing auction. Vendors that tell of them tell the same few every session."""
AUCTION = 5
"""The closing auction has as much volume as so many last minutes of the session."""


@dataclass(frozen=True)
class _Block:
    """Sessions of one share as one vendor records them: minutes in time order, and which are in session."""

    time: Ints
    cells: Ints
    regular: npt.NDArray[np.bool_]


@lru_cache(maxsize=8)
def _season(length: int) -> Floats:
    """Return how lively each minute of a session is, mean square 1: wild at the open, quiet at noon."""
    passed = (np.arange(length) + 0.5) / length
    lively = 0.7 + 1.6 * np.exp(-passed / 0.06) + 0.55 * np.exp((passed - 1.0) / 0.08)
    return np.asarray(lively / np.sqrt(np.mean(lively**2)))


class Tape:
    """All bars of all shares for one seed, with bounded caches."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._rewrite: Rewrite | None = None
        self._block = Blocks(self._make_block, CACHED_BLOCKS)
        self._rollup = lru_cache(maxsize=CACHED_DAYS)(self._make_rollup)
        self._walk = lru_cache(maxsize=256)(self._make_walk)

    def rewrite(self, rule: Rewrite | None) -> None:
        """Apply a rule of corrections to every minute from now on, and so to the days made of them."""
        self._rewrite = rule
        self._block.clear()
        self._rollup.cache_clear()

    def bars(self, venue: str, symbol: str, step: int, start: int, end: int, now: float) -> Bars:
        """Return the bars in session of the buckets in [start, end) that have begun at `now`.

        `step` is 60 or 86400, all instants unix seconds; a day's time is 00:00Z of its session's date. The
        last bar may be running. Minutes without a trade and those of an outage are absent.
        """
        if step == DAY:
            return self._daily(venue, symbol, start, end, now)
        return self.minutes(venue, symbol, start, end, now)

    def minutes(
        self,
        venue: str,
        symbol: str,
        start: int,
        end: int,
        now: float,
        *,
        extended: bool = False,
        most: int | None = None,
    ) -> Bars:
        """Return minute bars as `bars` does; with `extended` also those outside the session, `most` at most."""
        running = int(now // MINUTE) * MINUTE
        end = min(end, running + MINUTE)
        sessions = timetable().spanning(start, end)
        times, parts, held = [np.empty(0, np.int64)], [np.empty((ROWS, 0), np.int64)], 0
        for index in range(sessions.start // BLOCK_SESSIONS, -(-sessions.stop // BLOCK_SESSIONS) if sessions else 0):
            block = self._block(venue, symbol, index)
            wanted = slice(*np.searchsorted(block.time, [start, end]).tolist())
            time, cells = block.time[wanted], block.cells[:, wanted]
            if not extended:
                regular = block.regular[wanted]
                time, cells = time[regular], cells[:, regular]
            times.append(time)
            parts.append(cells)
            held += len(time)
            if most is not None and held >= most:
                break
        time, cells = np.concatenate(times)[:most], np.concatenate(parts, axis=1)[:, :most]
        if len(time) and time[-1] == running:
            cells[:, -1] = begun(cells[:, -1], (now - running) / MINUTE)
            if cells[VOLUME, -1] == 0:
                time, cells = time[:-1], cells[:, :-1]
        return Bars(time, cells, DECIMALS)

    def _daily(self, venue: str, symbol: str, start: int, end: int, now: float) -> Bars:
        table = timetable()
        first, last = np.searchsorted(table.labels, [start, end]).tolist()
        last = min(last, int(np.searchsorted(table.opens, now, side="right")))
        if last <= first:
            return Bars(np.empty(0, np.int64), np.empty((ROWS, 0), np.int64), DECIMALS)
        blocks = range(first // BLOCK_SESSIONS, (last - 1) // BLOCK_SESSIONS + 1)
        cells = np.concatenate([self._rollup(venue, symbol, index) for index in blocks], axis=1)
        cells = cells[:, first - blocks.start * BLOCK_SESSIONS : last - blocks.start * BLOCK_SESSIONS]
        label = int(table.labels[last - 1])
        if now < table.closes[last - 1]:
            so_far = self.minutes(venue, symbol, label, label + DAY, now)
            cells[:, -1] = self._roll_up(symbol, last - 1, so_far.time, so_far.columns)[:, 0]
        present = cells[OPEN] > 0
        return Bars(table.labels[first:last][present], cells[:, present], DECIMALS)

    def _make_rollup(self, venue: str, symbol: str, index: int) -> Ints:
        block = self._block.glimpse(venue, symbol, index)
        time, cells = block.time[block.regular], block.cells[:, block.regular]
        return self._roll_up(symbol, index * BLOCK_SESSIONS, time, cells)

    def _roll_up(self, symbol: str, first: int, time: Ints, cells: Ints) -> Ints:
        """Return the days of minutes in session, (7, days), from the session of number `first` on."""
        opens = timetable().opens
        if not len(time):
            return np.zeros((ROWS, 1), np.int64)
        last = int(np.searchsorted(opens, time[-1], side="right"))
        edges = np.searchsorted(time, opens[first:last])
        days = np.zeros((ROWS, last - first), np.int64)
        days[OPEN], days[CLOSE] = cells[OPEN, edges], cells[CLOSE, np.append(edges[1:], len(time)) - 1]
        days[HIGH] = np.maximum.reduceat(cells[HIGH], edges)
        days[LOW] = np.minimum.reduceat(cells[LOW], edges)
        sums = np.add.reduceat(cells[VOLUME:], edges, axis=1)
        low, high = DAY_EXTRA
        extra = [low + stable_hash(self.seed, "day", symbol, at) % (high - low + 1) for at in range(first, last)]
        days[VOLUME:] = sums + sums // 1000 * np.array(extra)
        return days

    def _make_walk(self, symbol: str) -> tuple[Floats, Floats, Floats]:
        """Return log open, log close (of a share as it is today) and volatility of every session.

        A mean-reverting walk around the typical price, that jumps overnight and pays its dividends. Shares
        have a market factor in common, and volatility clusters.
        """
        profile, event = share(symbol), events(symbol)
        size = len(event.factors)
        common, own = NORMAL[raw(size, self.seed, "shares")], NORMAL[raw(size, self.seed, "share", symbol)]
        moods, opens, closes = np.empty(size), np.empty(size), np.empty(size)
        paid = event.cents / event.shares / (100.0 * profile.price)
        mood, price = 0.0, 0.0
        for at in range(size):
            mood = 0.92 * mood + 0.12 * common[at, 0] + 0.10 * own[at, 0]
            moods[at] = np.exp(min(max(mood, -1.0), 1.2))
            sigma = profile.volatility * moods[at]
            opens[at] = price = 0.99 * price - paid[at] + 0.5 * sigma * (0.7 * common[at, 1] + 0.714 * own[at, 1])
            closes[at] = price = price + 0.85 * sigma * (0.7 * common[at, 2] + 0.714 * own[at, 2])
        return np.log(profile.price) + opens, np.log(profile.price) + closes, profile.volatility * moods

    def _make_block(self, venue: str, symbol: str, index: int) -> _Block:
        table, profile = timetable(), share(symbol)
        first = index * BLOCK_SESSIONS
        last = min(first + BLOCK_SESSIONS, len(table.labels))
        opens, closes = table.opens[first:last], table.closes[first:last]
        lengths = (closes - opens) // MINUTE
        size = last - first
        open_logs, close_logs, volatility = (part[first:last] for part in self._walk(symbol))
        noise = raw(BLOCK_SESSIONS * FULL, self.seed, "tape", symbol, index).reshape(-1, FULL, 4)[:size]
        more = raw(BLOCK_SESSIONS * FULL, self.seed, "more", symbol, index).reshape(-1, FULL, 4)[:size]

        season = np.zeros((size, FULL))
        for length in np.unique(lengths).tolist():
            season[lengths == length, :length] = _season(length)
        sigma = 0.85 * volatility[:, None] * season / np.sqrt(lengths[:, None])
        path = np.zeros((size, FULL + 1))
        np.cumsum(NORMAL[noise[..., 0]] * sigma, axis=1, out=path[:, 1:])
        ramp = np.minimum(np.arange(FULL + 1) / lengths[:, None], 1.0)
        path += ramp * (close_logs - open_logs - path[:, -1])[:, None] + open_logs[:, None]
        ratio = events(symbol).shares[first:last, None]
        ticks = np.maximum(np.rint(np.exp(path) * (100.0 * ratio)), 4.0)

        cells = np.zeros((ROWS, size, FULL), np.int64)
        begin, finish = ticks[:, :-1].copy(), ticks[:, 1:]
        # The first trade of a minute is not the last one of the minute before.
        begin[:, 1:] += more[:, 1:, 0] % 3 - 1.0
        cells[OPEN], cells[CLOSE] = begin, finish
        cells[HIGH] = np.maximum(begin, finish) * (1.0 + 0.45 * sigma * HALF[noise[..., 1]])
        cells[LOW] = np.maximum(np.minimum(begin, finish) * (1.0 - 0.45 * sigma * HALF[noise[..., 2]]) + 1.0, 1.0)
        np.minimum(cells[LOW], np.minimum(cells[OPEN], cells[CLOSE]), out=cells[LOW])
        busy = (0.6 + 0.6 * HALF[noise[..., 0]]) * LOGNORMAL[more[..., 1]]
        busy *= season**2 * (volatility[:, None] / profile.volatility)
        cells[VOLUME] = 100.0 + busy * (profile.volume / ratio)
        cells[COUNT] = 1 + cells[VOLUME] // 110
        cells[QUOTE] = cells[VOLUME] * _mean(cells, more[..., 2])

        minute = np.arange(FULL)
        present = minute < lengths[:, None]
        # A session's first and last minute always have their trade: they carry the auctions.
        inner = (minute > 0) & (minute < lengths[:, None] - 1)
        present &= ~((more[..., 3] < 4096 * profile.silent) & inner)
        for session in range(first, last):
            if has_outage(venue, session):
                present[session - first, OUTAGE_FROM : OUTAGE_FROM + OUTAGE_MINUTES] = False
        time = (opens[:, None] + MINUTE * minute)[present]
        kept = cells[:, present]
        if self._rewrite is not None:
            self._rewrite(venue, symbol, time, kept)
        return self._extend(time, kept, opens, closes, symbol, index)

    def _extend(self, time: Ints, cells: Ints, opens: Ints, closes: Ints, symbol: str, index: int) -> _Block:
        """Return minutes in session together with the few before and after, near the first and last price."""
        early, late = len(BEFORE), len(AFTER)
        size = early + late
        noise = raw(BLOCK_SESSIONS * size, self.seed, "outside", symbol, index)[: len(opens) * size].astype(np.int64)
        times = np.concatenate(
            [opens[:, None] - MINUTE * np.array(BEFORE), closes[:, None] + MINUTE * np.array(AFTER)], axis=1
        )
        firsts = np.searchsorted(time, opens)
        lasts = np.append(firsts[1:], len(time)) - 1
        near = np.repeat(np.stack([cells[OPEN, firsts], cells[CLOSE, lasts]], axis=1), [early, late], axis=1).ravel()
        outside = np.zeros((ROWS, near.size), np.int64)
        outside[OPEN] = np.maximum(near + noise[:, 0] % 9 - 4, 2)
        outside[CLOSE] = np.maximum(near + noise[:, 1] % 9 - 4, 2)
        outside[HIGH] = np.maximum(outside[OPEN], outside[CLOSE]) + noise[:, 2] % 3
        outside[LOW] = np.minimum(outside[OPEN], outside[CLOSE]) - noise[:, 2] % 2
        quiet = 100 + cells[VOLUME, lasts] // 50
        outside[VOLUME] = np.repeat(quiet, size) * (1 + noise[:, 3] % 8)
        outside[VOLUME, early::size] = cells[VOLUME, lasts] * AUCTION
        outside[COUNT] = 1 + outside[VOLUME] // 200
        outside[QUOTE] = outside[VOLUME] * _mean(outside, noise[:, 0])

        merged = np.concatenate([time, times.ravel()])
        order = np.argsort(merged, kind="stable")
        regular = (np.arange(len(merged)) < len(time))[order]
        return _Block(merged[order], np.concatenate([cells, outside], axis=1)[:, order], regular)


def _mean(cells: Ints, noise: npt.NDArray[np.integer]) -> Ints:
    """Return the mean price of each bar in micro-dollars, inside its range."""
    middle = (cells[HIGH] + cells[LOW] + 2 * cells[CLOSE]) * (MICROS_PER_CENT // 4) + noise.astype(np.int64) - 2048
    return _inside(middle, cells)


def _inside(means: Ints, cells: Ints) -> Ints:
    """Return mean prices in micro-dollars, none outside the range of its bar."""
    inside: Ints = np.minimum(np.maximum(means, cells[LOW] * MICROS_PER_CENT), cells[HIGH] * MICROS_PER_CENT)
    return inside


def vwap(bars: Bars) -> Ints:
    """Return the volume-weighted mean price of each bar in micro-dollars."""
    return _inside(bars.columns[QUOTE] // bars.columns[VOLUME], bars.columns)


def at_iex(bars: Bars, seed: int, symbol: str) -> Bars:
    """Return bars of the tape as one venue saw them: two to four percent of the volume, a narrower range."""
    # A hash of the minute alone: the same bar whatever else is asked with it (splitmix64's finaliser).
    mixed = bars.time.astype(np.uint64) + np.uint64(stable_hash(seed, "iex", symbol))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    draw = (mixed >> np.uint64(52)).astype(np.int64) % 1000
    cells = bars.columns.copy()
    body = np.sort(cells[[OPEN, CLOSE]], axis=0)
    cells[HIGH] = body[1] + (cells[HIGH] - body[1]) * draw // 1000
    cells[LOW] = body[0] - (body[0] - cells[LOW]) * draw // 1000
    means = vwap(bars)
    cells[[VOLUME, COUNT]] = cells[[VOLUME, COUNT]] * (20_000 + 20 * draw) // 1_000_000
    cells[COUNT] = np.maximum(cells[COUNT], 1)
    cells[QUOTE] = cells[VOLUME] * _inside(means, cells)
    seen = cells[VOLUME] > 0
    return Bars(bars.time[seen], cells[:, seen], bars.decimals)
