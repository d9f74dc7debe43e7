"""What is done about bars that are missing: what the remediation log says next, and which runs are due.

Pure: holes and entries in, decisions out. Where holes are found is `remediation_sensors`, where entries are kept
`ledger.remediation`. Ranges are of bucket starts in µs, both ends included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import groupby
from uuid import UUID

from ohlcv_pipeline.bars.causes import NO_GAP, Cause
from ohlcv_pipeline.markets import Interval, Market

BRIDGE = 7
"""A run is begun in ten seconds and passes a partition that lacks nothing in a tenth: so many are passed over."""

LONGEST_WAIT = timedelta(days=1)

FILLABLE = frozenset({Cause.NOT_FETCHED, Cause.VENDOR_OUTAGE, Cause.PAGE_BOUNDARY, Cause.HALTED, Cause.UNKNOWN})
"""The causes of a hole that asking may fill; a refused row is a person's, what is unfillable has been settled."""

HOLES = frozenset(set(Cause) - NO_GAP - {Cause.UNFILLABLE})
"""The causes under which a hole stands in the log."""


class Issue(StrEnum):
    """What an entry of the log is about."""

    GAP = "gap"
    DUPLICATE = "duplicate"
    CHECKSUM_MISMATCH = "checksum_mismatch"
    PARTIAL_SOURCE = "partial_source"


class Resolution(StrEnum):
    """How an entry of the log ended."""

    FILLED = "filled"
    NO_TRADES = "no_trades"
    UNFILLABLE = "unfillable"
    SUPERSEDED = "superseded"
    DEDUPLICATED = "deduplicated"
    REWRITTEN = "rewritten"
    RECOVERED = "recovered"


@dataclass(frozen=True, order=True)
class Series:
    """One symbol of one table."""

    market: str
    interval: str
    symbol: str


@dataclass(frozen=True)
class Hole:
    """Consecutive expected buckets that are not there now.

    `fillable` tells whether asking again may help, `due_at` before when it is in vain, `begun` whether bars before
    it are stored: what was never begun is the daily sweep's, or a person's.
    """

    series: Series
    first_us: int
    last_us: int
    fillable: bool = True
    due_at: datetime | None = None
    begun: bool = True

    def touches(self, first_us: int, last_us: int) -> bool:
        """Return whether some bucket of a range lies in the hole."""
        return self.first_us <= last_us and first_us <= self.last_us


@dataclass(frozen=True)
class Budget:
    """How often runs are launched for one entry, and how long after the first of them the next one may follow."""

    attempts: int
    wait: timedelta

    def next_at(self, attempts: int, now: datetime) -> datetime:
        """Return when the attempt after so many may follow: each waits four times as long as the one before."""
        return now + min(self.wait * float(4 ** min(attempts - 1, 20)), LONGEST_WAIT)


@dataclass(frozen=True)
class Open:
    """An entry of the log that is not resolved."""

    id: UUID
    series: Series
    issue: Issue
    first_us: int
    last_us: int
    detected_at: datetime
    attempts: int = 0
    next_attempt_at: datetime | None = None
    escalated_at: datetime | None = None


@dataclass(frozen=True)
class Opening:
    """A gap that the log does not hold yet; `supersedes` is the entry whose history and budget it takes over."""

    hole: Hole
    supersedes: Open | None = None


@dataclass
class Changes:
    """What happens to the log: entries that begin, that grow, that others take over, and that seem to be done."""

    opened: list[Opening] = field(default_factory=list)
    extended: list[tuple[Open, Hole]] = field(default_factory=list)
    superseded: list[Open] = field(default_factory=list)
    closed: list[Open] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether anything happens."""
        return bool(self.opened or self.extended or self.superseded or self.closed)


def reconcile(entries: Iterable[Open], holes: Iterable[Hole]) -> Changes:
    """Hold the open entries of some series against all holes of the same series.

    Afterwards there is one gap entry for each hole, with its range. A gap that shrinks or splits is superseded by
    one entry for each piece; one that grows is extended, and an entry it has swallowed is superseded. An entry in
    whose range nothing is missing any more is `closed`: it may be resolved once its bars have been verified.
    """
    changes = Changes()
    of_series: dict[Series, list[Hole]] = {}
    for hole in holes:
        of_series.setdefault(hole.series, []).append(hole)
    told: set[Hole] = set()
    for entry in sorted(entries, key=lambda each: (each.detected_at, each.id)):
        pieces = [hole for hole in of_series.get(entry.series, ()) if hole.touches(entry.first_us, entry.last_us)]
        if entry.issue is Issue.PARTIAL_SOURCE:
            if not pieces:
                changes.closed.append(entry)
        elif entry.issue is Issue.GAP:
            _follow(entry, pieces, told, changes)
    for of_one in of_series.values():
        changes.opened += [Opening(hole) for hole in of_one if hole not in told]
    return changes


def _follow(entry: Open, pieces: Sequence[Hole], told: set[Hole], changes: Changes) -> None:
    """Say what has become of one gap, of which these holes are left; `told` are holes that have an entry."""
    if not pieces:
        changes.closed.append(entry)
        return
    whole = pieces[0]
    if whole.first_us <= entry.first_us and entry.last_us <= whole.last_us and whole not in told:
        told.add(whole)
        if (whole.first_us, whole.last_us) != (entry.first_us, entry.last_us):
            changes.extended.append((entry, whole))
        return
    changes.superseded.append(entry)
    for piece in pieces:
        if piece not in told:
            told.add(piece)
            changes.opened.append(Opening(piece, supersedes=entry))


@dataclass(frozen=True)
class Need:
    """A partition of one series that a run is to look at, because of some entries of the log.

    `force` fetches it again although it is complete, for its bars are not what was published.
    """

    series: Series
    partition: str
    entries: frozenset[UUID] = frozenset()
    force: bool = False


@dataclass(frozen=True)
class Request:
    """One run over consecutive partitions of a table, first and last named, for some symbols."""

    market: str
    interval: str
    first: str
    last: str
    symbols: tuple[str, ...]
    entries: frozenset[UUID]
    force: bool = False


@dataclass(frozen=True)
class Due:
    """What is to be done now: partitions to look at, and the entries whose budget is spent."""

    needs: Sequence[Need]
    escalated: Sequence[Open]


def due(
    entries: Sequence[Open],
    holes: Sequence[Hole],
    markets: Mapping[str, Market],
    budget: Budget,
    now: datetime,
    *,
    sweep: bool = False,
) -> Due:
    """Return what is due at `now`: `entries` are reconciled with `holes`; a sweep begins what was never begun, too."""
    needs: list[Need] = []
    escalated: list[Open] = []
    of_series: dict[Series, list[Hole]] = {}
    for hole in holes:
        of_series.setdefault(hole.series, []).append(hole)
    for entry in entries:
        if entry.issue not in (Issue.GAP, Issue.CHECKSUM_MISMATCH) or entry.escalated_at is not None:
            continue
        if entry.next_attempt_at is not None and entry.next_attempt_at > now:
            continue
        gap = entry.issue is Issue.GAP
        lacking = [h for h in of_series.get(entry.series, ()) if h.touches(entry.first_us, entry.last_us)]
        if gap and not any(_may_be_filled(hole, now, sweep) for hole in lacking):
            continue
        if entry.attempts >= budget.attempts:
            escalated.append(entry)
            continue
        market, interval = markets[entry.series.market], Interval(entry.series.interval)
        needs += [
            Need(entry.series, key, frozenset({entry.id}), force=not gap)
            for key in market.partition_keys(interval, entry.first_us, entry.last_us + 1)
        ]
    return Due(needs, escalated)


def _may_be_filled(hole: Hole, now: datetime, sweep: bool) -> bool:
    return hole.fillable and (hole.begun or sweep) and (hole.due_at is None or hole.due_at <= now)


def plan(needs: Iterable[Need], keys: Mapping[tuple[str, str], Sequence[str]]) -> list[Request]:
    """Return the smallest set of requests that looks at every partition needed, newest first.

    Neighbours become one request over all their symbols: what is complete is passed over. Partitions that are fetched
    again by force share a request only with neighbours of the same symbols, for force fetches all that is named.

    Args:
        needs: what runs are to look at.
        keys: the partition keys of each (market, interval), oldest first; they hold every partition needed.
    """
    requests: list[Request] = []
    by_table = sorted(needs, key=lambda need: (need.series.market, need.series.interval))
    for table, group in groupby(by_table, key=lambda need: (need.series.market, need.series.interval)):
        place = {key: n for n, key in enumerate(keys[table])}
        wanted: dict[tuple[bool, str], list[Need]] = {}
        for need in group:
            wanted.setdefault((need.force, need.partition), []).append(need)
        plain = {key: found for (force, key), found in wanted.items() if not force}
        forced = {key: found for (force, key), found in wanted.items() if force}
        requests += _merged(table, plain, place, BRIDGE, force=False)
        of_symbols: dict[frozenset[str], dict[str, list[Need]]] = {}
        for key, found in forced.items():
            of_symbols.setdefault(frozenset(need.series.symbol for need in found), {})[key] = found
        for same in of_symbols.values():
            requests += _merged(table, same, place, 0, force=True)
    return sorted(requests, key=lambda each: (each.market, each.interval, each.last, each.first), reverse=True)


def _merged(
    table: tuple[str, str], wanted: Mapping[str, Sequence[Need]], place: Mapping[str, int], bridge: int, *, force: bool
) -> list[Request]:
    """Return a request for each run of partitions that lie at most `bridge` others apart."""
    runs: list[list[str]] = []
    for key in sorted(wanted, key=place.__getitem__):
        if runs and place[key] - place[runs[-1][-1]] <= bridge + 1:
            runs[-1].append(key)
        else:
            runs.append([key])
    requests = []
    for run in runs:
        needs = [need for key in run for need in wanted[key]]
        symbols = tuple(sorted({need.series.symbol for need in needs}))
        entries = frozenset[UUID]().union(*(need.entries for need in needs))
        requests.append(Request(*table, run[0], run[-1], symbols, entries, force))
    return requests


def resolution(present: int, no_trades: int, unfillable: int) -> Resolution:
    """Return how a gap ended of which so many buckets are stored, without trades, or cannot be had."""
    if unfillable:
        return Resolution.UNFILLABLE
    return Resolution.FILLED if present or not no_trades else Resolution.NO_TRADES
