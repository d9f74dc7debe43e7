"""Why a bucket has no bar: one cause for each run of absent buckets, decided from facts alone.

Pure. The facts are gathered from lake and ledger in `inquiry`; runs of absent buckets are cut here so that each has
one set of facts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ohlcv_pipeline.bars.gaps import LONGEST_NO_TRADES_RUN
from ohlcv_pipeline.frames import Micros
from ohlcv_pipeline.markets import Instrument, Interval, Market, to_us


class Mark(StrEnum):
    """What asking for a bucket that has no bar has shown: what the lake keeps of it."""

    NO_TRADES = "no_trades"
    UNANSWERED = "unanswered"
    UNFILLABLE = "unfillable"


class Cause(StrEnum):
    """Why a bucket has no bar."""

    NOT_DUE = "not_due"
    CLOSED_SESSION = "closed_session"
    LISTING = "listing"
    NO_TRADES = "no_trades"
    NOT_FETCHED = "not_fetched"
    QUARANTINED = "quarantined"
    PAGE_BOUNDARY = "page_boundary"
    VENDOR_OUTAGE = "vendor_outage"
    HALTED = "halted"
    UNFILLABLE = "unfillable"
    UNKNOWN = "unknown"


NO_GAP = frozenset({Cause.NOT_DUE, Cause.CLOSED_SESSION, Cause.LISTING, Cause.NO_TRADES})
"""The causes under which nothing is missing."""


class State(StrEnum):
    """What is recorded of an absent bucket that is expected; the first that fits."""

    NO_TRADES = "no_trades"
    QUARANTINED = "quarantined"
    UNFILLABLE = "unfillable"
    UNANSWERED = "unanswered"
    TAIL = "tail"
    FAILED = "failed"
    UNASKED = "unasked"


@dataclass(frozen=True)
class Run:
    """Consecutive absent buckets of one state; both ends are inclusive bucket starts in µs."""

    first_us: int
    last_us: int
    missing: int
    state: State


class Failures(Protocol):
    """What a vendor's requests came to since an instant: how many failed, as what, and whether the newest did."""

    @property
    def vendor(self) -> str: ...  # noqa: D102
    @property
    def count(self) -> int: ...  # noqa: D102
    @property
    def codes(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def failing(self) -> bool: ...  # noqa: D102


@dataclass(frozen=True)
class Facts:
    """What is known about a run when its cause is asked for.

    `bracketed`: one answer was asked for the buckets on both sides of it. `peers`: how many other symbols of the
    market were asked for the same time, `silent` how many of them have no bar in it either.
    """

    interval: Interval
    always_open: bool
    missing: int
    state: State
    bracketed: bool = False
    peers: int = 0
    silent: int = 0
    reasons: Sequence[str] = ()
    failures: Sequence[Failures] = ()


def unexpected(market: Market, interval: Interval, instrument: Instrument, bucket_us: int, now_us: int) -> Cause | None:
    """Return why no bar is expected for a bucket at `now`, None when one is."""
    if bucket_us > market.calendar.closes[-1]:
        return Cause.NOT_DUE
    if not len(market.buckets(interval, bucket_us, bucket_us + 1)):
        return Cause.CLOSED_SESSION
    listed, gone = instrument.listing_start, instrument.delisted_at
    if (listed is not None and bucket_us < to_us(listed)) or (gone is not None and bucket_us >= to_us(gone)):
        return Cause.LISTING
    due = len(market.expected(interval, instrument, bucket_us, bucket_us + 1, now_us))
    return None if due else Cause.NOT_DUE


def runs(expected: Micros, absent: Micros, states: npt.NDArray[np.str_]) -> list[Run]:
    """Cut the absent buckets, a sorted subset of the expected ones, into runs of one state each.

    Every absent bucket is in exactly one run.
    """
    if not len(absent):
        return []
    position = np.searchsorted(expected, absent)
    breaks = np.flatnonzero((np.diff(position) != 1) | (states[1:] != states[:-1])) + 1
    first = np.concatenate(([0], breaks)).tolist()
    last = (np.concatenate((breaks, [len(absent)])) - 1).tolist()
    return [Run(int(absent[i]), int(absent[j]), j - i + 1, State(states[i])) for i, j in zip(first, last, strict=True)]


def why(facts: Facts) -> tuple[Cause, str]:
    """Return the one cause of a run and the sentence that says what it rests on."""
    match facts.state:
        case State.NO_TRADES:
            return Cause.NO_TRADES, "one answer holds a bar before and after: nobody traded"
        case State.QUARANTINED:
            return Cause.QUARANTINED, f"delivered, but refused as {', '.join(facts.reasons)}; `ohlcv quarantine list`"
        case State.TAIL:
            return Cause.NOT_DUE, "among the newest minutes, which may come a quarter of an hour late"
        case State.UNFILLABLE:
            _, suspicion = _silence(facts)
            return Cause.UNFILLABLE, f"asked for twice in vain, at least an hour apart; {suspicion}"
        case State.UNANSWERED:
            cause, suspicion = _silence(facts)
            return cause, f"asked for once in vain; {suspicion}"
        case State.FAILED:
            if facts.failures:
                return Cause.VENDOR_OUTAGE, f"asked for without an answer: {_told(facts.failures)}"
            return Cause.UNKNOWN, "asked for, neither answered nor refused, and no failure is on record any more"
        case State.UNASKED:
            failing = [each for each in facts.failures if each.failing]
            if failing:
                return Cause.VENDOR_OUTAGE, f"no answer since it was due: {_told(failing)}"
            return Cause.NOT_FETCHED, "nobody has asked for it since it was due; `ohlcv backfill` does"


def _silence(facts: Facts) -> tuple[Cause, str]:
    """Return what the silence of vendors that did answer looks like; only `page_boundary` is more than a suspicion."""
    if facts.peers and facts.silent == facts.peers:
        return Cause.VENDOR_OUTAGE, f"all {facts.peers} other symbols are silent at the same time"
    minutes = facts.interval is Interval.MINUTE
    if not facts.always_open and facts.peers and (facts.missing > LONGEST_NO_TRADES_RUN or not minutes):
        spoke = facts.peers - facts.silent
        return Cause.HALTED, f"looks like a halt: {spoke} of {facts.peers} other symbols traded meanwhile"
    if minutes and facts.missing > LONGEST_NO_TRADES_RUN:
        return Cause.VENDOR_OUTAGE, f"one long silence of {facts.missing} minutes looks like an outage of the vendor"
    if not facts.bracketed:
        return Cause.PAGE_BOUNDARY, "it lay at the edge of every answer, which proves nothing"
    return Cause.UNKNOWN, "a short silence inside an answer; nothing proves that nobody traded"


def _told(failures: Sequence[Failures]) -> str:
    return "; ".join(
        f"{each.count} {'request' if each.count == 1 else 'requests'} to {each.vendor} failed ({', '.join(each.codes)})"
        for each in failures
    )
