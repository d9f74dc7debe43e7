"""Healing a table: what is missing is looked up, the log brought up to date, what is due requested as runs.

The rules are `remediation`; this joins them to lake and ledger. A table in which a run is at work is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID

import numpy as np

from ohlcv_pipeline.bars.causes import Mark
from ohlcv_pipeline.bars.checksum import CHECKSUM_VERSION
from ohlcv_pipeline.bars.inquiry import Absence, inquire
from ohlcv_pipeline.bars.planning import PENDING_TAIL
from ohlcv_pipeline.bars.report import holdings
from ohlcv_pipeline.bars.upkeep import damaged_cell
from ohlcv_pipeline.bars.verify import verify
from ohlcv_pipeline.ledger import remediation as log
from ohlcv_pipeline.ledger import requests, runs
from ohlcv_pipeline.ledger.models import IngestionRun, RemediationEntry
from ohlcv_pipeline.markets import Instrument, Interval, Market, from_us, span_us, to_us
from ohlcv_pipeline.operations.remediation import (
    FILLABLE,
    HOLES,
    Budget,
    Changes,
    Hole,
    Issue,
    Need,
    Open,
    Request,
    Resolution,
    Series,
    due,
    plan,
    reconcile,
    resolution,
)
from ohlcv_pipeline.platform import Platform

Table = tuple[Market, Interval]

_ENDED: Mapping[Resolution, str] = {
    Resolution.FILLED: "verified",
    Resolution.NO_TRADES: "silent",
    Resolution.UNFILLABLE: "confirmed",
    Resolution.REWRITTEN: "healed",
}


@dataclass
class Healed:
    """What one look has found and done: holes there are, requests made, entries resolved and escalated.

    `next_at` is when something that waits now will be due.
    """

    holes: int = 0
    requests: list[IngestionRun] = field(default_factory=list)
    resolved: dict[UUID, Resolution] = field(default_factory=dict)
    escalated: list[Open] = field(default_factory=list)
    next_at: datetime | None = None


def tables(home: Platform) -> list[Table]:
    """Return every table of the markets that are switched on."""
    return [(market, interval) for market in home.markets for interval in Interval]


def busy(home: Platform, market: Market, interval: Interval) -> bool:
    """Return whether a run of a table is queued or at work."""
    return bool(runs.running(home.ledger, market.name, str(interval)))


def budget(home: Platform) -> Budget:
    """Return how often and how fast runs are launched for one entry."""
    s = home.settings
    return Budget(s.remediation_attempts, timedelta(seconds=s.remediation_wait_seconds))


def find_holes(
    home: Platform, market: Market, interval: Interval, entries: Sequence[Open], now: datetime
) -> list[Hole]:
    """Return what is missing of a table's target window, and wherever an entry of the log still says so.

    Bars that were due less than a quarter of an hour ago may still come by themselves.
    """
    start, end = market.target_window(interval, now)
    start = min([start, *(entry.first_us for entry in entries)])
    buckets = market.buckets(interval, start, end)
    settled = market.bucket_closes(interval, buckets) + span_us(market.publish_delay[interval] + PENDING_TAIL)
    end = int(buckets[np.searchsorted(settled, to_us(now), "right") - 1]) + 1 if len(buckets) else start
    instruments = home.instruments(market)
    reader = home.store.reader
    first: dict[str, int] = {}
    rows = reader.manifest(market.name, interval).select(["symbol", "first_bucket"]).to_pylist()
    for row in rows:
        if row["first_bucket"] is not None:
            us = to_us(row["first_bucket"])
            first[row["symbol"]] = min(us, first.get(row["symbol"], us))
    absences = inquire(reader, market, interval, instruments, start, end, now)
    return [_hole(market, run, first) for run in _joined(market, interval, absences)]


def _joined(market: Market, interval: Interval, absences: Iterable[Absence]) -> list[list[Absence]]:
    """Return the absences that are holes, those that follow one another in the calendar together."""
    found: list[list[Absence]] = []
    for absence in absences:
        if absence.cause not in HOLES:
            continue
        before = found[-1][-1] if found else None
        if (
            before is not None
            and before.symbol == absence.symbol
            and not len(market.buckets(interval, before.last_us + 1, absence.first_us))
        ):
            found[-1].append(absence)
        else:
            found.append([absence])
    return found


def _hole(market: Market, run: Sequence[Absence], first: Mapping[str, int]) -> Hole:
    fillable = [each for each in run if each.cause in FILLABLE]
    looks = [each.next_look for each in fillable]
    return Hole(
        series=Series(market.name, run[0].interval, run[0].symbol),
        first_us=run[0].first_us,
        last_us=run[-1].last_us,
        fillable=bool(fillable),
        due_at=None if None in looks else min((look for look in looks if look is not None), default=None),
        begun=run[0].first_us > first.get(run[0].symbol, run[0].first_us),
    )


def as_open(row: RemediationEntry) -> Open:
    """Return an entry as the rules see it."""
    return Open(
        id=row.id,
        series=Series(row.market, row.interval, row.asset_symbol),
        issue=Issue(row.issue_type),
        first_us=to_us(row.range_start),
        last_us=to_us(row.range_end),
        detected_at=row.detected_at,
        attempts=row.attempts,
        next_attempt_at=row.next_attempt_at,
        escalated_at=row.escalated_at,
    )


def entries_of(rows: Iterable[RemediationEntry], table: Table, instruments: Sequence[Instrument]) -> list[Open]:
    """Return the entries about a table's enabled symbols; those of others rest."""
    market, interval = table
    enabled = {instrument.symbol for instrument in instruments}
    return [
        as_open(row)
        for row in rows
        if row.market == market.name and row.interval == interval and row.asset_symbol in enabled
    ]


MoreNeeds = Callable[[Market, Interval], Sequence[Need]]
"""What else is needed of a table than the log says; what is needed by force is damage, which the log is told of."""


def heal(
    home: Platform,
    which: Iterable[Table],
    now: datetime,
    *,
    sweep: bool = False,
    more: MoreNeeds = lambda market, interval: (),
    request: bool = True,
) -> Healed:
    """Bring the log of some tables up to date and request the runs that are due. Raises LakeError.

    Args:
        home: the installation.
        which: the tables.
        now: the current instant.
        sweep: begins what was never begun, too.
        more: partitions that are to be looked at for other reasons.
        request: False only brings the log up to date.
    """
    done = Healed()
    waits: list[datetime] = []
    for table in which:
        if not busy(home, *table):
            needs = more(*table)
            wrong = [damaged_cell(*table, need.series.symbol, need.partition, now) for need in needs if need.force]
            log.log(home.ledger, wrong, now)
            holes = _bring_up_to_date(home, table, now, done)
            if request:
                again = [need for need in needs if not need.force]
                _request_due(home, table, holes, again, now, done, waits, sweep=sweep)
    done.next_at = min((at for at in waits if at > now), default=None)
    return done


def _bring_up_to_date(home: Platform, table: Table, now: datetime, done: Healed) -> list[Hole]:
    """Hold the log of a table against what is missing; return that."""
    market, interval = table
    instruments = home.instruments(market)
    known = entries_of(log.open_entries(home.ledger), table, instruments)
    holes = find_holes(home, market, interval, [entry for entry in known if entry.issue is Issue.GAP], now)
    done.holes += len(holes)

    def decide(rows: Sequence[RemediationEntry]) -> tuple[log.Revision, Changes]:
        changes = reconcile(entries_of(rows, table, instruments), holes)
        return _revision(changes, now), changes

    changes = log.revise(home.ledger, decide, now)
    damaged = [entry for entry in known if entry.issue is Issue.CHECKSUM_MISMATCH]
    for entry, how in _verified(home, table, instruments, [*changes.closed, *damaged], now):
        log.resolve(home.ledger, [entry.id], how, _ENDED[how], now)
        done.resolved[entry.id] = how
    return holes


def _request_due(
    home: Platform,
    table: Table,
    holes: Sequence[Hole],
    more: Sequence[Need],
    now: datetime,
    done: Healed,
    waits: list[datetime],
    *,
    sweep: bool,
) -> None:
    """Request the runs that are due by the log of a table, and escalate the entries whose attempts are spent."""
    market, _ = table
    entries = entries_of(log.open_entries(home.ledger), table, home.instruments(market))
    work = due(entries, holes, {market.name: market}, budget(home), now, sweep=sweep)
    log.escalate(home.ledger, [entry.id for entry in work.escalated], now)
    done.escalated += work.escalated
    done.requests += _request(home, table, [*work.needs, *_besides(more, table, holes)], entries, now)
    waits += [entry.next_attempt_at for entry in entries if entry.next_attempt_at is not None]
    waits += [hole.due_at for hole in holes if hole.due_at is not None]


def _revision(changes: Changes, now: datetime) -> log.Revision:
    split = {opening.supersedes.id for opening in changes.opened if opening.supersedes is not None}
    return log.Revision(
        opened=[
            log.NewEntry(
                market=each.hole.series.market,
                symbol=each.hole.series.symbol,
                interval=each.hole.series.interval,
                issue_type=Issue.GAP,
                range_start=from_us(each.hole.first_us),
                range_end=from_us(each.hole.last_us),
                note="detected",
                detected_at=now if each.supersedes is None else each.supersedes.detected_at,
                supersedes=None if each.supersedes is None else each.supersedes.id,
                attempts=0 if each.supersedes is None else each.supersedes.attempts,
                next_attempt_at=None if each.supersedes is None else each.supersedes.next_attempt_at,
                escalated_at=None if each.supersedes is None else each.supersedes.escalated_at,
            )
            for each in changes.opened
        ],
        grown=[(entry.id, from_us(hole.first_us), from_us(hole.last_us)) for entry, hole in changes.extended],
        superseded=[(each.id, "split" if each.id in split else "swallowed") for each in changes.superseded],
    )


def _verified(
    home: Platform, table: Table, instruments: Sequence[Instrument], entries: Sequence[Open], now: datetime
) -> list[tuple[Open, Resolution]]:
    """Read the bars of entries that seem to be done again; return those that are proven, and how they ended."""
    market, interval = table
    by_symbol = {instrument.symbol: instrument for instrument in instruments}
    proven = []
    for entry in entries:
        symbol, first, last = entry.series.symbol, entry.first_us, entry.last_us
        keys = market.partition_keys(interval, first, last + 1)
        if not verify(home.store.reader, market, interval, [symbol], keys).passed:
            continue
        if entry.issue is Issue.CHECKSUM_MISMATCH:
            proven.append((entry, Resolution.REWRITTEN))
            continue
        (held,) = holdings(home.store.reader, market, interval, [by_symbol[symbol]], first, last + 1, now)
        silent, settled = held.bearing(Mark.NO_TRADES), held.bearing(Mark.UNFILLABLE)
        proven.append((entry, resolution(len(held.present), len(silent), len(settled))))
    return proven


@dataclass(frozen=True)
class Outlook:
    """What a person may do about a table now: requests that may help, and the holes that none helps now.

    `waiting` are asked for again in vain before `due_at`; `refused` were delivered and are in quarantine.
    """

    table: Table
    requests: Sequence[Request]
    holes: Sequence[Hole]
    waiting: Sequence[Hole]
    refused: Sequence[Hole]


def outlook(home: Platform, table: Table, now: datetime, more: Sequence[Need] = ()) -> Outlook:
    """Return what may be done about a table, whatever was tried before; `more` is needed for other reasons."""
    market, interval = table
    entries = entries_of(log.open_entries(home.ledger), table, home.instruments(market))
    holes = find_holes(home, market, interval, [entry for entry in entries if entry.issue is Issue.GAP], now)
    refused = [hole for hole in holes if not hole.fillable]
    waiting = [hole for hole in holes if hole.fillable and hole.due_at is not None and hole.due_at > now]
    needs = _besides(more, table, holes)
    for hole in holes:
        if hole not in refused and hole not in waiting:
            ids = frozenset(
                entry.id
                for entry in entries
                if entry.series == hole.series and hole.touches(entry.first_us, entry.last_us)
            )
            keys = market.partition_keys(interval, hole.first_us, hole.last_us + 1)
            needs += [Need(hole.series, key, ids) for key in keys]
    for entry in entries:
        if entry.issue is Issue.CHECKSUM_MISMATCH:
            keys = market.partition_keys(interval, entry.first_us, entry.last_us + 1)
            needs += [Need(entry.series, key, frozenset({entry.id}), force=True) for key in keys]
    return Outlook(table, planned(table, needs), holes, waiting, refused)


def _besides(more: Sequence[Need], table: Table, holes: Sequence[Hole]) -> list[Need]:
    """Leave out the partitions that are red for as long as they have a hole: its own runs settle both."""
    market, interval = table
    wait = {
        key
        for hole in holes
        if hole.fillable
        for key in market.partition_keys(interval, hole.first_us, hole.last_us + 1)
    }
    return [need for need in more if need.force or need.partition not in wait]


def request_by_hand(home: Platform, seen: Outlook, now: datetime) -> list[IngestionRun]:
    """Store the requests of an outlook for whoever runs them at once; attempts by hand spend no budget."""
    asks = [replace(as_ask(seen.table, wanted, now), trigger=runs.MANUAL, launched=True) for wanted in seen.requests]
    made = []
    for wanted, row in zip(seen.requests, requests.request_together(home.ledger, asks, now), strict=True):
        if row is not None:
            log.noted(home.ledger, wanted.entries, row.id, now)
            made.append(row)
    return made


def _request(
    home: Platform, table: Table, needs: Sequence[Need], entries: Sequence[Open], now: datetime
) -> list[IngestionRun]:
    """Store the requests for what is needed, and what they are for in the log.

    Where somebody was quicker, the table is looked at again when their run is over.
    """
    tried = {entry.id: entry.attempts for entry in entries}
    wanted = planned(table, needs)
    asks = [as_ask(table, each, now) for each in wanted]
    made = []
    for each, row in zip(wanted, requests.request_together(home.ledger, asks, now), strict=True):
        if row is not None:
            counts = [(id_, tried[id_] + 1) for id_ in each.entries & tried.keys()]
            attempts = [(id_, count, budget(home).next_at(count, now)) for id_, count in counts]
            log.launched(home.ledger, attempts, row.id, now)
            made.append(row)
    return made


def planned(table: Table, needs: Sequence[Need]) -> list[Request]:
    """Return the smallest set of requests for what is needed of one table."""
    market, interval = table
    if not needs:
        return []
    bounds = [market.partition_bounds(interval, need.partition) for need in needs]
    keys = market.partition_keys(interval, min(start for start, _ in bounds), max(end for _, end in bounds))
    return plan(needs, {(market.name, str(interval)): keys})


def as_ask(table: Table, wanted: Request, now: datetime) -> requests.Ask:
    """Return a planned request as the ledger takes it: its window is that of its partitions, up to now."""
    market, interval = table
    start, _ = market.partition_bounds(interval, wanted.first)
    _, end = market.partition_bounds(interval, wanted.last)
    return requests.Ask(
        market=market.name,
        interval=str(interval),
        window_start=from_us(start),
        window_end=min(from_us(end), now),
        checksum_version=CHECKSUM_VERSION,
        symbols=wanted.symbols,
        force=wanted.force,
        trigger=runs.SCHEDULED,
    )
