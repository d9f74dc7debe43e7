"""The inquiry into what is missing: facts from lake and ledger, and one cause for each run of absent buckets.

The rules are `causes`; what is expected and what is there, `report`. The ledger of gaps is computed, never stored:
it cannot disagree with the bars.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ohlcv_pipeline.bars.causes import NO_GAP, Cause, Facts, Failures, Mark, Run, State, runs, why
from ohlcv_pipeline.bars.gaps import missing
from ohlcv_pipeline.bars.planning import PENDING_TAIL, SECOND_LOOK
from ohlcv_pipeline.bars.report import Holding, holdings
from ohlcv_pipeline.frames import Micros, micros
from ohlcv_pipeline.lake.reader import Reader
from ohlcv_pipeline.markets import Instrument, Interval, Market, from_us, span_us, to_us

LOOKING_BACK = timedelta(hours=1)
"""How long before a cell was published its requests may have failed: no run tries the same request for longer."""

LONGEST_CLOSURE = timedelta(days=14)

FailuresSince = Callable[[datetime], Sequence[Failures]]
"""What the market's vendors failed with since an instant."""


@dataclass(frozen=True)
class Look:
    """One answer that did not hold the bucket: asked for [start, end) it held so many rows."""

    looked_at: datetime
    vendor: str
    window_start: datetime
    window_end: datetime
    rows: int
    raw_id: str
    run_id: str


@dataclass(frozen=True)
class Absence:
    """A run of absent buckets with its one cause, the evidence for it, and when it is looked at again.

    `evidence` are the answers that marks rest on; `attempts` counts the runs that asked, as far as marks tell.
    """

    market: str
    symbol: str
    interval: str
    first_us: int
    last_us: int
    missing: int
    cause: Cause
    because: str
    attempts: int
    next_look: datetime | None
    evidence: Sequence[Look]

    @property
    def is_gap(self) -> bool:
        """Whether something is missing that should be there."""
        return self.cause not in NO_GAP


_STATE_OF = {
    Mark.UNANSWERED: State.UNANSWERED,
    Mark.UNFILLABLE: State.UNFILLABLE,
    Mark.NO_TRADES: State.NO_TRADES,
}
_ATTEMPTS = {State.NO_TRADES: 1, State.UNANSWERED: 1, State.UNFILLABLE: 2}
"""How many answers a mark takes: the least there were, also for marks that were made before answers were noted."""


def inquire(
    reader: Reader,
    market: Market,
    interval: Interval,
    instruments: Sequence[Instrument],
    start_us: int,
    end_us: int,
    now: datetime,
    failures_since: FailuresSince = lambda since: (),
    symbols: Sequence[str] | None = None,
) -> list[Absence]:
    """Return every run of buckets in [start, end) that are expected and not stored, by symbol and time.

    Expected buckets are stored or in exactly one run.

    Args:
        reader: the lake.
        market: of the bars.
        interval: of the bars.
        instruments: every enabled one, because the silence of one is judged by the others.
        start_us: the first bucket.
        end_us: the end, exclusive.
        now: the current instant.
        failures_since: what requests failed with.
        symbols: those asked about; all of them if None.
    """
    held = holdings(reader, market, interval, instruments, start_us, end_us, now)
    asked = [each for each in held if symbols is None or each.instrument.symbol in symbols]
    names = [each.instrument.symbol for each in asked]
    keys = market.partition_keys(interval, start_us, end_us)
    refused = _refused(reader, market, interval, names, keys)
    marks = _of_each(reader.absent(market.name, interval, names, keys))
    looks = _of_each(reader.looks(market.name, interval, names, start_us, end_us))
    failed = cache(failures_since)
    found = []
    for holding in asked:
        symbol = holding.instrument.symbol
        absent = missing(holding.expected, holding.present, interval)
        reasons = refused.get(symbol, {})
        states = _states(holding, absent, reasons, market, interval, now)
        own_looks = _Looks.of(looks[symbol]) if symbol in looks else None
        for run in runs(holding.expected, absent, states):
            evidence = [] if own_looks is None else own_looks.asked_for(run)
            facts = _facts(market, interval, run, holding, held, evidence, reasons, failed)
            cause, because = why(facts)
            found.append(
                Absence(
                    market=market.name,
                    symbol=symbol,
                    interval=str(interval),
                    first_us=run.first_us,
                    last_us=run.last_us,
                    missing=run.missing,
                    cause=cause,
                    because=because,
                    attempts=max(len({look.run_id for look in evidence}), _ATTEMPTS.get(run.state, 0)),
                    next_look=_next_look(run, marks.get(symbol)),
                    evidence=evidence,
                )
            )
    return found


@dataclass(frozen=True)
class _Looks:
    """The answers noted about one symbol, and the window of each in µs."""

    rows: Sequence[Look]
    starts: Micros
    ends: Micros

    @classmethod
    def of(cls, table: pa.Table) -> _Looks:
        rows = [Look(**row) for row in table.select([each.name for each in fields(Look)]).to_pylist()]
        return cls(rows, micros(table["window_start"]), micros(table["window_end"]))

    def asked_for(self, run: Run) -> list[Look]:
        """Return those that were asked for some bucket of a run."""
        asked = (self.starts <= run.last_us) & (self.ends > run.first_us)
        return [self.rows[i] for i in np.flatnonzero(asked).tolist()]


def _of_each(table: pa.Table) -> dict[str, pa.Table]:
    """Return the rows of each symbol."""
    return {name: table.filter(pc.equal(table["symbol"], name)) for name in table["symbol"].unique().to_pylist()}


def _states(
    holding: Holding,
    absent: Micros,
    refused: Mapping[int, Sequence[str]],
    market: Market,
    interval: Interval,
    now: datetime,
) -> npt.NDArray[np.str_]:
    """Return the state of each absent bucket: the least telling is written first, and written over."""
    states = np.full(len(absent), State.UNASKED, dtype="U16")
    closes = market.bucket_closes(interval, absent)
    delay, tail = span_us(market.publish_delay[interval]), span_us(PENDING_TAIL)
    for key, row in holding.cells.items():
        lo, hi = np.searchsorted(absent, market.partition_bounds(interval, key))
        asked_at = to_us(row["fetched_at"])
        # What a run asked for and got answered without is marked: an unmarked bucket that was due got no answer.
        due = closes[lo:hi] + delay <= asked_at
        if interval is Interval.MINUTE:
            due &= absent[lo:hi] <= asked_at - tail
        states[lo:hi][due] = State.FAILED
    if interval is Interval.MINUTE:
        states[absent >= to_us(now) - tail] = State.TAIL
    for mark in (Mark.UNANSWERED, Mark.UNFILLABLE):
        states[np.isin(absent, holding.bearing(mark))] = _STATE_OF[mark]
    states[np.isin(absent, np.array(sorted(refused), np.int64))] = State.QUARANTINED
    states[np.isin(absent, holding.bearing(Mark.NO_TRADES))] = State.NO_TRADES
    return states


def _facts(
    market: Market,
    interval: Interval,
    run: Run,
    holding: Holding,
    held: Sequence[Holding],
    evidence: Sequence[Look],
    refused: Mapping[int, Sequence[str]],
    failed: FailuresSince,
) -> Facts:
    facts = Facts(interval, market.always_open, run.missing, run.state)
    (key, *_) = market.partition_keys(interval, run.first_us, run.first_us + 1)
    if run.state is State.QUARANTINED:
        reasons = {reason for bucket in refused if run.first_us <= bucket <= run.last_us for reason in refused[bucket]}
        return replace(facts, reasons=sorted(reasons))
    if run.state is State.FAILED:
        return replace(facts, failures=failed(holding.cells[key]["fetched_at"] - LOOKING_BACK))
    if run.state is State.UNASKED:
        closed = int(market.bucket_closes(interval, np.array([run.first_us]))[0])
        return replace(facts, failures=failed(from_us(closed)))
    if run.state in (State.UNANSWERED, State.UNFILLABLE):
        before, after = _neighbours(market, interval, run)
        peers = [each for each in held if each is not holding and key in each.cells and _any_within(each.expected, run)]
        return replace(
            facts,
            bracketed=any(to_us(e.window_start) <= before and after < to_us(e.window_end) for e in evidence),
            peers=len(peers),
            silent=sum(not _any_within(each.present, run) for each in peers),
        )
    return facts


def _neighbours(market: Market, interval: Interval, run: Run) -> tuple[int, int]:
    """Return the calendar's buckets just before and just after a run."""
    margin = span_us(LONGEST_CLOSURE)
    before = market.buckets(interval, run.first_us - margin, run.first_us)
    after = market.buckets(interval, run.last_us + 1, run.last_us + margin)
    return int(before[-1]) if len(before) else run.first_us, int(after[0]) if len(after) else run.last_us


def _any_within(buckets: Micros, run: Run) -> bool:
    lo, hi = np.searchsorted(buckets, [run.first_us, run.last_us + 1])
    return bool(hi > lo)


def _next_look(run: Run, marks: pa.Table | None) -> datetime | None:
    """Return when a run may be asked for again, None when only the next backfill, a person or nobody decides that."""
    if run.state is State.UNANSWERED and marks is not None:
        buckets, looked = micros(marks["bucket_start"]), micros(marks["looked_at"])
        return from_us(looked[(buckets >= run.first_us) & (buckets <= run.last_us)].max()) + SECOND_LOOK
    if run.state is State.TAIL:
        return from_us(run.last_us) + PENDING_TAIL
    return None


def _refused(
    reader: Reader, market: Market, interval: Interval, symbols: Sequence[str], keys: Sequence[str]
) -> dict[str, dict[int, list[str]]]:
    """Return the reasons of rows that were refused and are not discarded, by symbol and bucket."""
    found: dict[str, dict[int, list[str]]] = {}
    for row in reader.quarantine(market.name, interval, symbols, keys).to_pylist():
        if row["bucket_start"] is not None and not row["published"] and row["decision"] is None:
            found.setdefault(row["symbol"], {}).setdefault(to_us(row["bucket_start"]), []).append(row["reason"])
    return found
