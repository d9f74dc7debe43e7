"""Two tellings of the same bars, held against each other: where they differ, and what kind of difference it is.

Pure: two frames of one symbol in, findings out. Which frames are compared is `comparing`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np
import pyarrow as pa

from ohlcv_pipeline.frames import VALUE_COLUMNS, Floats, Mask, Micros, floats, micros

Side = Literal["ours", "theirs"]

HUNDRED = float(np.log(100.0))
UNIT_NEAR = 0.05
"""A ratio within this part of 100, or of a hundredth, is a change of unit: pence for pounds."""
BASIS_AT_LEAST = 0.002
"""A smaller constant factor cannot be told from small corrections; a quarter's dividend is mostly larger."""
BASIS_SLACK = 0.001
"""By how much more than the tolerance bars may differ once divided by the factor: adjusted prices are rounded."""
BASIS_BARS = 3
PRINT = 0.03
"""A price that is this part away from the closes beside it, and back at once, is a print of its own."""


class Judgement(StrEnum):
    """What kind of difference two tellings show."""

    AGREEMENT = "agreement"
    ADJUSTMENT_BASIS = "adjustment_basis"
    UNIT = "unit"
    STALE = "stale"
    ONE_OFF_PRINT = "one_off_print"
    REVISION = "revision"
    MISSING = "missing"


GRAVE = frozenset({Judgement.ADJUSTMENT_BASIS, Judgement.UNIT})
"""Whole stretches are wrong by a factor: severity ERROR. The others are WARN."""


@dataclass(frozen=True)
class Tolerances:
    """How far theirs may be from ours, as parts of the price; 0 means equal as float64.

    `volume` bounds ours ÷ theirs, None leaves volumes alone. A side that repeats one price for `stale_run` bars while
    the other moves is stale. `auction` is how far a close may be off where theirs has more volume than ours: that of
    the closing auction. `theirs_complete`: a bar that only ours has is missing there.
    """

    open: float
    high: float
    low: float
    close: float
    volume: tuple[float, float] | None = None
    stale_run: int = 3
    auction: float = 0.0
    theirs_complete: bool = True


@dataclass(frozen=True)
class Finding:
    """Bars that differ in one way. First and last are bucket starts in µs; field and values are of the worst bar.

    `side` is the one that is stale, lacks the bars, or has the print; `factor` is theirs ÷ ours.
    """

    judgement: Judgement
    bars: int
    first_us: int
    last_us: int
    field: str = ""
    ours: float | None = None
    theirs: float | None = None
    factor: float | None = None
    side: Side | None = None

    @property
    def severity(self) -> Literal["WARN", "ERROR"]:
        """How grave it is."""
        return "ERROR" if self.judgement in GRAVE else "WARN"


@dataclass(frozen=True)
class Comparison:
    """What came of comparing so many bars; without findings the two agree. `auctions` closes were excused."""

    compared: int
    findings: tuple[Finding, ...] = ()
    auctions: int = 0

    @property
    def judgement(self) -> Judgement:
        """The gravest of the findings, else agreement."""
        ranked = sorted(self.findings, key=lambda each: (each.judgement not in GRAVE, -each.bars))
        return ranked[0].judgement if ranked else Judgement.AGREEMENT


def compare(ours: pa.Table, theirs: pa.Table, tolerances: Tolerances) -> Comparison:
    """Hold theirs against ours: bars of one symbol with positive prices, each sorted by unique `bucket_start`.

    A volume that is NaN is not compared. Each bar is in one finding at most for its prices, and in one for its volume.
    """
    our_starts, their_starts = micros(ours["bucket_start"]), micros(theirs["bucket_start"])
    starts, i, j = np.intersect1d(our_starts, their_starts, assume_unique=True, return_indices=True)
    pair = _Pair(
        starts,
        np.vstack([floats(ours[name])[i] for name in VALUE_COLUMNS]),
        np.vstack([floats(theirs[name])[j] for name in VALUE_COLUMNS]),
        tolerances,
    )
    findings = list(_absent(np.setdiff1d(their_starts, our_starts, assume_unique=True), "ours"))
    if tolerances.theirs_complete:
        findings += _absent(np.setdiff1d(our_starts, their_starts, assume_unique=True), "theirs")
    auctions = 0
    if len(starts):
        priced, auctions = pair.price_findings()
        findings += priced
        findings += pair.volume_findings(priced)
    return Comparison(len(starts), tuple(findings), auctions)


def _absent(buckets: Micros, side: Side) -> Iterator[Finding]:
    if len(buckets):
        yield Finding(Judgement.MISSING, len(buckets), int(buckets[0]), int(buckets[-1]), side=side)


@dataclass(frozen=True)
class _Pair:
    """The bars that both tell of: starts (n,), values (5, n) each."""

    starts: Micros
    ours: Floats
    theirs: Floats
    tolerances: Tolerances

    def price_findings(self) -> tuple[list[Finding], int]:
        t = self.tolerances
        apart = np.log(self.theirs[:4] / self.ours[:4])
        # An ulp is no difference: the logarithm of two equal prices is 0, of two nearly equal ones about 1e-16.
        limit = np.log1p([[t.open], [t.high], [t.low], [t.close]]) + 1e-12
        off = np.abs(apart) > limit
        excused = off[3] & ~off[:3].any(axis=0) & (np.abs(apart[3]) <= np.log1p(t.auction))
        excused &= ~(self.theirs[4] <= self.ours[4])
        left = off.any(axis=0) & ~excused
        findings = []
        middle = np.sort(apart, axis=0)[1:3].mean(axis=0)
        unit = left & (np.abs(np.abs(middle) - HUNDRED) <= UNIT_NEAR)
        unit &= np.abs(apart - middle).max(axis=0) <= UNIT_NEAR
        if unit.any():
            findings.append(self._finding(Judgement.UNIT, unit, apart, float(np.exp(np.median(middle[unit])))))
            left &= ~unit
        for side, values, others in (("ours", self.ours, self.theirs), ("theirs", self.theirs, self.ours)):
            for run in _standing(values, others, t.stale_run):
                # A hundredth of a price, rounded to cents, may stand still without being stale.
                if not (run & unit).any():
                    left[run] = False
                    findings.append(self._finding(Judgement.STALE, run, apart, side=side))  # type: ignore[arg-type]
        while left.any():
            # The middle of those that are left, one of them and no mean of two, so that two factors stay two.
            candidates = np.sort(middle[left])
            factor = float(candidates[len(candidates) // 2])
            basis = left & (np.abs(apart - factor) <= limit + BASIS_SLACK).all(axis=0)
            if abs(factor) < BASIS_AT_LEAST or np.sum(basis) < BASIS_BARS:
                break
            findings.append(self._finding(Judgement.ADJUSTMENT_BASIS, basis, apart, float(np.exp(factor))))
            left &= ~basis
        prints = {"ours": self._prints(left, off, apart, self.ours, self.theirs)}
        prints["theirs"] = self._prints(left, off, apart, self.theirs, self.ours)
        for side, mask in prints.items():
            if mask.any():
                left &= ~mask
                findings.append(self._finding(Judgement.ONE_OFF_PRINT, mask, apart, side=side))  # type: ignore[arg-type]
        if left.any():
            findings.append(self._finding(Judgement.REVISION, left, apart))
        return findings, int(excused.sum())

    def volume_findings(self, priced: list[Finding]) -> list[Finding]:
        if self.tolerances.volume is None:
            return []
        least, most = self.tolerances.volume
        ours, theirs = self.ours[4], self.theirs[4]
        off = (ours < theirs * least) | (ours > theirs * most)
        # Where prices have another basis or unit, so has the volume.
        for each in priced:
            if each.judgement in GRAVE:
                off &= (self.starts < each.first_us) | (self.starts > each.last_us)
        with np.errstate(divide="ignore", invalid="ignore"):
            apart = np.log(theirs / ours)
            unit = off & (np.abs(np.abs(apart) - HUNDRED) <= UNIT_NEAR)
        findings = []
        for judgement, mask in ((Judgement.UNIT, unit), (Judgement.REVISION, off & ~unit)):
            if mask.any():
                worst = int(np.argmax(np.where(mask, np.abs(np.nan_to_num(apart, posinf=1e9, neginf=-1e9)), -1.0)))
                findings.append(self._at(judgement, mask, 4, worst, _factor(apart[worst])))
        return findings

    def _prints(self, left: Mask, off: Mask, apart: Floats, values: Floats, others: Floats) -> Mask:
        """Return the bars, none beside another, whose differing price leaves the closes beside it on one side only."""
        alone = left.copy()
        alone[1:] &= ~left[:-1]
        alone[:-1] &= ~left[1:]
        if len(self.starts) < 2:
            return np.zeros_like(alone)
        field = np.argmax(np.where(off, np.abs(apart), -1.0), axis=0)
        bars = np.arange(len(self.starts))
        here, there = (np.abs(np.log(side[field, bars] / _beside(side[3]))) for side in (values, others))
        alone &= (here > PRINT) & (there <= here / 2)
        return alone

    def _finding(
        self, judgement: Judgement, mask: Mask, apart: Floats, factor: float | None = None, side: Side | None = None
    ) -> Finding:
        field, worst = np.unravel_index(int(np.argmax(np.where(mask, np.abs(apart), -1.0))), apart.shape)
        return self._at(judgement, mask, int(field), int(worst), factor, side)

    def _at(
        self, judgement: Judgement, mask: Mask, field: int, worst: int,
        factor: float | None, side: Side | None = None,
    ) -> Finding:  # fmt: skip
        hit = np.flatnonzero(mask)
        return Finding(
            judgement,
            len(hit),
            int(self.starts[hit[0]]),
            int(self.starts[hit[-1]]),
            VALUE_COLUMNS[field],
            float(self.ours[field, worst]),
            float(self.theirs[field, worst]),
            factor,
            side,
        )


def _factor(apart: float) -> float | None:
    return float(np.exp(apart)) if np.isfinite(apart) else None


def _beside(closes: Floats) -> Floats:
    """Return the mean of the closes on both sides of each bar, at the ends of the one there is."""
    before, after = np.append(closes[1], closes[:-1]), np.append(closes[1:], closes[-2])
    mean: Floats = (before + after) / 2
    return mean


def _standing(values: Floats, others: Floats, run: int) -> Iterator[Mask]:
    """Yield the stretches of at least `run` bars in which one price is repeated while the other side moves."""
    prices, close = values[:4], values[3]
    flat = prices.max(axis=0) == prices.min(axis=0)
    again = np.append(False, flat[1:] & flat[:-1] & (close[1:] == close[:-1]))
    moves = others[:4].max(axis=0) > others[:4].min(axis=0)
    begins = np.flatnonzero(flat & ~again)
    for first in begins.tolist():
        last = first + 1
        while last < len(close) and again[last]:
            last += 1
        if last - first >= run and moves[first:last].mean() >= 0.5:
            stretch = np.zeros(len(close), bool)
            stretch[first:last] = True
            yield stretch
