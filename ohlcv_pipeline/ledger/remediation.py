"""The remediation log: what was found wrong, what was done about it step by step, and how it ended.

What follows from what is decided in `operations.remediation`; here decisions are read from and written to the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, TypeVar
from uuid import UUID, uuid4

from sqlalchemy import delete, insert, select, tuple_, update
from sqlalchemy.orm import Session

from ohlcv_pipeline.ledger.database import Ledger
from ohlcv_pipeline.ledger.models import RemediationEntry, RemediationStep

T = TypeVar("T")

NOTES = MappingProxyType(
    {
        "detected": "expected bars are missing",
        "grown": "more bars of the same gap are missing",
        "split": "a part of the gap was filled",
        "swallowed": "a longer gap holds this one",
        "launched": "a run was launched",
        "by_hand": "a person launched a run",
        "verified": "the bars were read again and hash to their checksum",
        "confirmed": "asked for twice in vain",
        "silent": "nobody traded",
        "escalated": "the attempts are spent; a person has to look",
        "refused": "the vendor did not deliver; retries are spent",
        "retried": "a retry brought the answer",
        "repeated": "delivered more than once, stored once",
        "mismatch": "stored bars do not hash to their checksum",
        "healed": "rebuilt from kept answers or fetched again, and hashed again",
    }
)
"""Every sentence that may stand in `notes`, by its short name."""


@dataclass(frozen=True)
class NewEntry:
    """An entry to open; with `resolution` it is resolved at once. The range is of bucket starts, both included."""

    market: str
    symbol: str
    interval: str
    issue_type: str
    range_start: datetime
    range_end: datetime
    note: str
    detected_at: datetime
    run_id: str | None = None
    resolution: str | None = None
    supersedes: UUID | None = None
    attempts: int = 0
    next_attempt_at: datetime | None = None
    escalated_at: datetime | None = None


def log(ledger: Ledger, entries: Sequence[NewEntry], now: datetime) -> None:
    """Open entries in one transaction; one that is open already, of the same issue and range, is not opened again."""
    if entries:
        with ledger.write() as session:
            _open(session, entries, now)


def _open(session: Session, entries: Sequence[NewEntry], now: datetime) -> None:
    known = set(
        session.execute(
            select(*_IDENTITY).where(
                RemediationEntry.market.in_({each.market for each in entries}), ~RemediationEntry.resolved
            )
        ).tuples()
    )
    rows: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    for each in entries:
        same = (each.market, each.symbol, each.interval, each.issue_type, each.range_start, each.range_end)
        if same in known:
            continue
        resolved = each.resolution is not None
        rows.append(
            {
                "id": uuid4(),
                "market": each.market,
                "asset_symbol": each.symbol,
                "interval": each.interval,
                "issue_type": each.issue_type,
                "range_start": each.range_start,
                "range_end": each.range_end,
                "detected_at": each.detected_at,
                "run_id": each.run_id,
                "notes": NOTES[each.note],
                "resolved": resolved,
                "resolved_at": now if resolved else None,
                "resolution": each.resolution,
                "supersedes": each.supersedes,
                "attempts": each.attempts,
                "next_attempt_at": each.next_attempt_at,
                "escalated_at": each.escalated_at,
            }
        )
        steps.append(_step(rows[-1]["id"], "resolved" if resolved else "detected", each.note, now, each.run_id))
    if rows:
        session.execute(insert(RemediationEntry), rows)
        session.execute(insert(RemediationStep), steps)


_IDENTITY = (
    RemediationEntry.market, RemediationEntry.asset_symbol, RemediationEntry.interval, RemediationEntry.issue_type,
    RemediationEntry.range_start, RemediationEntry.range_end,
)  # fmt: skip


def _step(entry: UUID, step: str, note: str, now: datetime, run_id: str | None = None) -> dict[str, Any]:
    return {"entry_id": entry, "happened_at": now, "step": step, "run_id": run_id, "notes": NOTES[note]}


@dataclass(frozen=True)
class Revision:
    """What happens to the open entries of some series at once: new ones, grown ones, and those that others take over.

    `grown` maps an entry to its new range, `superseded` to the name of the note that says why.
    """

    opened: Sequence[NewEntry] = ()
    grown: Sequence[tuple[UUID, datetime, datetime]] = ()
    superseded: Sequence[tuple[UUID, str]] = ()


def revise(ledger: Ledger, decide: Callable[[Sequence[RemediationEntry]], tuple[Revision, T]], now: datetime) -> T:
    """Let `decide` see the open entries and write what it says, in one transaction: two who look at once do not both.

    Returns what `decide` returns beside the revision.
    """
    with ledger.write() as session:
        query = select(RemediationEntry).where(~RemediationEntry.resolved).with_for_update()
        entries = session.scalars(query.order_by(RemediationEntry.detected_at, RemediationEntry.id)).all()
        revision, result = decide(entries)
        for id_, first, last in revision.grown:
            _update(session, [id_], range_start=first, range_end=last)
        _note(session, [each for each, _, _ in revision.grown], "extended", "grown", now)
        for id_, note in revision.superseded:
            _resolve(session, [id_], "superseded", note, now)
        _open(session, revision.opened, now)
    return result


def _update(session: Session, ids: Collection[UUID], **values: object) -> None:
    session.execute(
        update(RemediationEntry)
        .where(RemediationEntry.id.in_(ids))
        .values(**values)
        .execution_options(synchronize_session=False)
    )


def _note(
    session: Session, ids: Collection[UUID], step: str, note: str, now: datetime, run_id: str | None = None
) -> None:
    if ids:
        session.execute(insert(RemediationStep), [_step(each, step, note, now, run_id) for each in ids])


def _resolve(session: Session, ids: Collection[UUID], resolution: str, note: str, now: datetime) -> None:
    _update(session, ids, resolved=True, resolved_at=now, resolution=resolution, notes=NOTES[note])
    _note(session, ids, "resolved", note, now)


def resolve(ledger: Ledger, ids: Collection[UUID], resolution: str, note: str, now: datetime) -> None:
    """Record how open entries ended; one that is resolved stays as it is."""
    with ledger.write() as session:
        query = select(RemediationEntry.id).where(RemediationEntry.id.in_(ids), ~RemediationEntry.resolved)
        still = list(session.scalars(query.with_for_update()))
        if still:
            _resolve(session, still, resolution, note, now)


def launched(ledger: Ledger, attempts: Collection[tuple[UUID, int, datetime]], run_id: UUID, now: datetime) -> None:
    """Record that a run was requested for some entries: which attempt of each it is, and when the next may follow."""
    if not attempts:
        return
    with ledger.write() as session:
        for id_, attempt, next_at in attempts:
            _update(session, [id_], attempts=attempt, next_attempt_at=next_at, run_id=str(run_id))
        _note(session, [each for each, _, _ in attempts], "launched", "launched", now, str(run_id))


def noted(ledger: Ledger, ids: Collection[UUID], run_id: UUID, now: datetime) -> None:
    """Record that a person runs something for some entries."""
    if ids:
        with ledger.write() as session:
            _update(session, ids, run_id=str(run_id))
            _note(session, ids, "launched", "by_hand", now, str(run_id))


def escalate(ledger: Ledger, ids: Collection[UUID], now: datetime) -> None:
    """Record that the attempts of some entries are spent."""
    if ids:
        with ledger.write() as session:
            _update(session, ids, escalated_at=now, notes=NOTES["escalated"])
            _note(session, ids, "escalated", "escalated", now)


def open_entries(ledger: Ledger) -> list[RemediationEntry]:
    """Return the entries that are not resolved, oldest first."""
    query = select(RemediationEntry).where(~RemediationEntry.resolved)
    with ledger.read() as session:
        return list(session.scalars(query.order_by(RemediationEntry.detected_at, RemediationEntry.id)))


def steps(ledger: Ledger, entry: UUID) -> list[RemediationStep]:
    """Return what was done about an entry, in order."""
    with ledger.read() as session:
        query = select(RemediationStep).where(RemediationStep.entry_id == entry)
        return list(session.scalars(query.order_by(RemediationStep.id)))


Place = tuple[datetime, UUID]
"""Where a page of the log ends: detection and id of its last entry."""


def page(
    ledger: Ledger,
    *,
    limit: int | None = None,
    market: str | None = None,
    symbol: str | None = None,
    interval: str | None = None,
    issue_type: str | None = None,
    resolved: bool | None = None,
    after: Place | None = None,
) -> list[RemediationEntry]:
    """Return entries, newest first by detection, then id; `after` continues behind a place."""
    named = (
        (RemediationEntry.market, market),
        (RemediationEntry.asset_symbol, symbol),
        (RemediationEntry.interval, interval),
        (RemediationEntry.issue_type, issue_type),
        (RemediationEntry.resolved, resolved),
    )
    query = select(RemediationEntry).where(*(column == value for column, value in named if value is not None))
    if after is not None:
        query = query.where(tuple_(RemediationEntry.detected_at, RemediationEntry.id) < after)
    newest = query.order_by(RemediationEntry.detected_at.desc(), RemediationEntry.id.desc())
    with ledger.read() as session:
        return list(session.scalars(newest if limit is None else newest.limit(limit)))


def prune(session: Session, before: datetime) -> int:
    """Delete entries that were resolved before an instant, with their steps, and return how many that were."""
    old = (RemediationEntry.resolved, RemediationEntry.resolved_at < before)
    return session.connection().execute(delete(RemediationEntry).where(*old)).rowcount
