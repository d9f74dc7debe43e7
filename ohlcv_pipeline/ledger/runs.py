"""What runs were asked for and what came of them: begun, kept alive, ended, and asked about afterwards.

A parent is one execution over a table, its children are its symbols. How a request becomes a run is `requests`; what
a symbol's account says is measured in `bars.recording`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from types import MappingProxyType
from typing import Any
from uuid import UUID, uuid5

from sqlalchemy import ColumnElement, Select, and_, delete, func, or_, select, tuple_, update
from sqlalchemy.orm import Session, aliased

from ohlcv_pipeline.ledger.database import Ledger
from ohlcv_pipeline.ledger.models import IngestionRun

EVERY_SYMBOL = "*"
NOTHING_SHA256 = sha256(b"").hexdigest()
"""The checksum of a run that has accounted for nothing yet."""

RUNNING, SUCCESS, PARTIAL, FAILED = "running", "success", "partial", "failed"
MANUAL, SCHEDULED = "manual", "scheduled"

ABANDONED_AFTER = timedelta(minutes=10)
KEPT = timedelta(days=35)
BACKFILLS_KEPT = timedelta(days=400)
SUCCESS_TARGET = 0.99

ERRORS: Mapping[str, str] = MappingProxyType(
    {
        "auth_failed": "a vendor did not accept the key it was sent",
        "vendor_blocked": "a vendor refuses to be asked for the time being",
        "rate_limited": "a vendor wants to be asked less often",
        "vendor_unavailable": "no vendor could be reached, or none answered in time",
        "bad_symbol": "no vendor knows the symbol",
        "malformed_response": "what came back was broken or not of the documented shape",
        "lake_conflict": "the lake could not be read or written",
        "timeout": "the run took longer than it may",
        "cancelled": "the run was stopped by a person",
        "abandoned": "the run gave no sign of life for ten minutes",
        "internal": "the run broke; its page in Dagster says why",
        "incomplete_window": "bars that are expected are not there",
    }
)
"""Every code that may stand in a run's `error_summary`, with its sentence; of several the first one tells most."""


def summary(code: str) -> str:
    """Return the `error_summary` of a code."""
    return f"{code}: {ERRORS[code]}"


@dataclass(frozen=True)
class Begun:
    """One execution of a run over [window_start, window_end); `id` is the same whenever it is tried again."""

    id: UUID
    market: str
    interval: str
    symbols: Sequence[str]
    window_start: datetime
    window_end: datetime
    trigger: str
    checksum_version: int
    force: bool = False
    dagster_run_id: str | None = None


@dataclass(frozen=True)
class Account:
    """What came of one symbol: how much of it was verified in the lake, and a code of `ERRORS` if something lacks."""

    symbol: str
    status: str
    row_count: int
    checksum_sha256: str
    code: str | None
    retries: int
    report: Mapping[str, Any]


@dataclass(frozen=True)
class Rate:
    """Child runs that ended within some time, by what came of them. Attempts of one run count once."""

    success: int
    partial: int
    failed: int

    @property
    def runs(self) -> int:
        """All of them."""
        return self.success + self.partial + self.failed

    @property
    def success_rate(self) -> float:
        """The share of successes, rounded down to four decimals; 1.0 without any run."""
        return self.success * 10_000 // self.runs / 10_000 if self.runs else 1.0

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        return self.success_rate >= SUCCESS_TARGET


def begin(ledger: Ledger, run: Begun, now: datetime) -> IngestionRun:
    """Record that a run begins, once more if it has before, with one child for each symbol; return the parent.

    A run that was requested keeps the window and the trigger of its request.
    """
    with ledger.write() as session:
        parent = session.get(IngestionRun, run.id, with_for_update=True)
        if parent is None:
            parent = _row(run, run.id, None, EVERY_SYMBOL, now)
            session.add(parent)
        elif parent.phase != "queued":
            parent.attempt += 1
        parent.status, parent.phase, parent.ended_at, parent.error_summary = RUNNING, "fetching", None, None
        parent.heartbeat_at, parent.dagster_run_id = now, run.dagster_run_id
        parent.done_units, parent.total_units = 0, None
        session.flush()
        known = {child.asset_symbol: child for child in session.scalars(_children(run.id))}
        for symbol in run.symbols:
            child = known.get(symbol)
            if child is None:
                child = _row(run, uuid5(run.id, symbol), run.id, symbol, now)
                child.backfill_window_start, child.backfill_window_end = (
                    parent.backfill_window_start,
                    parent.backfill_window_end,
                )
                child.trigger = parent.trigger
                session.add(child)
            child.status, child.phase, child.ended_at, child.error_summary = RUNNING, "fetching", None, None
            child.attempt = parent.attempt
        session.flush()
        session.expunge(parent)
        return parent


def _row(run: Begun, id_: UUID, parent_id: UUID | None, symbol: str, now: datetime) -> IngestionRun:
    return IngestionRun(
        id=id_,
        parent_id=parent_id,
        market=run.market,
        asset_symbol=symbol,
        interval=run.interval,
        status=RUNNING,
        phase="fetching",
        row_count=0,
        checksum_sha256=NOTHING_SHA256,
        checksum_version=run.checksum_version,
        started_at=now,
        trigger=run.trigger,
        attempt=1,
        backfill_window_start=run.window_start,
        backfill_window_end=run.window_end,
        retries=0,
        symbols=None,
        force=run.force,
        dagster_run_id=run.dagster_run_id,
        done_units=0,
    )


def heartbeat(
    ledger: Ledger, id_: UUID, now: datetime, *, phase: str, done_units: int = 0, total_units: int | None = None
) -> None:
    """Record that a run is alive and how far it is. A run that was given up meanwhile stays ended."""
    values = {"heartbeat_at": now, "phase": phase, "done_units": done_units, "total_units": total_units}
    with ledger.write() as session:
        session.execute(
            update(IngestionRun).where(IngestionRun.id == id_, IngestionRun.status == RUNNING).values(values)
        )


def end(ledger: Ledger, id_: UUID, accounts: Sequence[Account], checksum_sha256: str, now: datetime) -> str:
    """Record what came of a run and of each symbol, in one transaction; return the status of the parent.

    `checksum_sha256` is the run's. Children without an account end as incomplete.
    """
    by_symbol = {account.symbol: account for account in accounts}
    with ledger.write() as session:
        parent = session.get_one(IngestionRun, id_, with_for_update=True)
        children = session.scalars(_children(id_)).all()
        for child in children:
            account = by_symbol.get(child.asset_symbol)
            _end_row(child, now, FAILED if account is None else account.status)
            child.error_summary = summary("incomplete_window") if account is None else None
            if account is not None:
                child.row_count, child.checksum_sha256 = account.row_count, account.checksum_sha256
                child.error_summary = None if account.code is None else summary(account.code)
                child.retries += account.retries
                child.report = [dict(account.report)]
        statuses = {child.status for child in children}
        status = SUCCESS if statuses <= {SUCCESS} else FAILED if statuses == {FAILED} else PARTIAL
        _end_row(parent, now, status)
        parent.row_count = sum(child.row_count for child in children)
        parent.retries = sum(child.retries for child in children)
        parent.checksum_sha256 = checksum_sha256
        parent.error_summary = _worst([child.error_summary for child in children])
        return status


def _end_row(row: IngestionRun, now: datetime, status: str) -> None:
    row.status, row.phase, row.ended_at, row.heartbeat_at = status, "done", now, now


def _worst(told: Sequence[str | None]) -> str | None:
    """Return the summary that tells most."""
    codes = {each.partition(":")[0] for each in told if each}
    return next((summary(code) for code in ERRORS if code in codes), None)


def fail(ledger: Ledger, id_: UUID, code: str, now: datetime) -> None:
    """End a run that is running, and its children, as failed with a code of `ERRORS`."""
    with ledger.write() as session:
        _fail(session, or_(IngestionRun.id == id_, IngestionRun.parent_id == id_), code, now)


def _fail(session: Session, which: ColumnElement[bool], code: str, now: datetime) -> None:
    values = {"status": FAILED, "phase": "done", "ended_at": now, "error_summary": summary(code)}
    session.execute(
        update(IngestionRun)
        .where(which, IngestionRun.status == RUNNING)
        .values(values)
        .execution_options(synchronize_session=False)
    )


def abandon(ledger: Ledger, now: datetime) -> list[UUID]:
    """End the runs that have begun and gave no sign of life for ten minutes; return which.

    A run that waits to be begun is not among them. Costs one query when there is none.
    """
    silent = select(IngestionRun.id).where(
        IngestionRun.parent_id.is_(None),
        IngestionRun.status == RUNNING,
        IngestionRun.phase != "queued",
        IngestionRun.heartbeat_at < now - ABANDONED_AFTER,
    )
    with ledger.read() as session:
        found = list(session.scalars(silent))
    if found:
        with ledger.write() as session:
            # Whoever has shown a sign of life since then is left alone.
            found = list(session.scalars(silent.with_for_update()))
            _fail(session, or_(IngestionRun.id.in_(found), IngestionRun.parent_id.in_(found)), "abandoned", now)
    return found


def run(ledger: Ledger, id_: UUID) -> IngestionRun | None:
    """Return a run by its id, parent or child, or a parent by the id of its newest run in Dagster."""
    of_dagster = and_(IngestionRun.dagster_run_id == str(id_), IngestionRun.parent_id.is_(None))
    with ledger.read() as session:
        found = session.get(IngestionRun, id_)
        return found or session.scalars(select(IngestionRun).where(of_dagster)).first()


def children(ledger: Ledger, id_: UUID) -> list[IngestionRun]:
    """Return the children of a parent by symbol."""
    with ledger.read() as session:
        return list(session.scalars(_children(id_).order_by(IngestionRun.asset_symbol)))


FACTS = (
    "id", "market", "asset_symbol", "interval", "status", "phase", "row_count", "checksum_sha256", "checksum_version",
    "started_at", "ended_at", "trigger", "attempt", "backfill_window_start", "backfill_window_end", "error_summary",
)  # fmt: skip
"""What is told of a run, in this order."""


def told(ledger: Ledger, row: IngestionRun) -> dict[str, Any]:
    """Return the facts of a run with its report: that of a parent has the entries of its children."""
    rows = [row] if row.parent_id is not None else children(ledger, row.id)
    facts = {name: getattr(row, name) for name in FACTS}
    return {**facts, "report": [entry for each in rows for entry in each.report or []]}


def running(ledger: Ledger, market: str | None = None, interval: str | None = None) -> list[IngestionRun]:
    """Return the parents that are queued or running, oldest first."""
    query = select(IngestionRun).where(
        IngestionRun.parent_id.is_(None), IngestionRun.status == RUNNING, *_of(market, interval)
    )
    with ledger.read() as session:
        return list(session.scalars(query.order_by(IngestionRun.started_at)))


Place = tuple[datetime, UUID]
"""Where a page of runs ends: start and id of its last row."""


def page(
    ledger: Ledger,
    *,
    limit: int,
    market: str | None = None,
    interval: str | None = None,
    symbol: str | None = None,
    status: str | None = None,
    after: Place | None = None,
) -> list[IngestionRun]:
    """Return runs, newest first: parents, or the children of one symbol; `after` continues behind a place."""
    kind = IngestionRun.parent_id.is_(None) if symbol is None else IngestionRun.asset_symbol == symbol
    where = [kind, *_of(market, interval)]
    if status is not None:
        where.append(IngestionRun.status == status)
    return _newest(ledger, where, limit, after)


def failures(
    ledger: Ledger,
    since: datetime,
    *,
    limit: int,
    market: str | None = None,
    interval: str | None = None,
    symbol: str | None = None,
    after: Place | None = None,
) -> list[IngestionRun]:
    """Return the failed and partial children that started at or after an instant, newest first."""
    where = [
        IngestionRun.parent_id.is_not(None),
        IngestionRun.started_at >= since,
        IngestionRun.status.in_((FAILED, PARTIAL)),
        *_of(market, interval),
    ]
    if symbol is not None:
        where.append(IngestionRun.asset_symbol == symbol)
    return _newest(ledger, where, limit, after)


def success_rate(ledger: Ledger, since: datetime, market: str | None = None, interval: str | None = None) -> Rate:
    """Count the children that started at or after an instant and have ended."""
    query = (
        select(IngestionRun.status, func.count())
        .where(
            IngestionRun.parent_id.is_not(None),
            IngestionRun.status != RUNNING,
            IngestionRun.started_at >= since,
            *_of(market, interval),
        )
        .group_by(IngestionRun.status)
    )
    with ledger.read() as session:
        counts = dict(session.execute(query).tuples().all())
    return Rate(counts.get(SUCCESS, 0), counts.get(PARTIAL, 0), counts.get(FAILED, 0))


def prune(session: Session, now: datetime) -> int:
    """Delete runs past their time, 35 days or for parents of backfills 400, and return how many parents that were."""
    old = IngestionRun.started_at < now - KEPT
    parent = aliased(IngestionRun)
    backfills = select(parent.id).where(parent.parent_id.is_(None), parent.trigger == MANUAL)
    connection = session.connection()
    connection.execute(delete(IngestionRun).where(old, IngestionRun.parent_id.in_(backfills)))
    gone = connection.execute(
        delete(IngestionRun).where(
            IngestionRun.parent_id.is_(None),
            or_(
                and_(old, IngestionRun.trigger != MANUAL),
                IngestionRun.started_at < now - BACKFILLS_KEPT,
            ),
        )
    )
    return gone.rowcount


def _children(id_: UUID) -> Select[tuple[IngestionRun]]:
    return select(IngestionRun).where(IngestionRun.parent_id == id_)


def _of(market: str | None, interval: str | None) -> list[ColumnElement[bool]]:
    named = ((IngestionRun.market, market), (IngestionRun.interval, interval))
    return [column == value for column, value in named if value is not None]


def _newest(
    ledger: Ledger, where: Sequence[ColumnElement[bool]], limit: int, after: Place | None
) -> list[IngestionRun]:
    place = tuple_(IngestionRun.started_at, IngestionRun.id)
    query = select(IngestionRun).where(*where)
    if after is not None:
        query = query.where(place < after)
    with ledger.read() as session:
        return list(
            session.scalars(query.order_by(IngestionRun.started_at.desc(), IngestionRun.id.desc()).limit(limit))
        )
