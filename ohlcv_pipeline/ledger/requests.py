"""Requests for runs: durable before anyone is answered, taken once however often they are sent.

A request is the parent row of the run that will do it, still queued. A sensor launches it; from then on it is `runs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy import delete, or_, select, text, update
from sqlalchemy.orm import Session

from ohlcv_pipeline.ledger.database import Ledger
from ohlcv_pipeline.ledger.errors import KeyReusedError, OverlapError
from ohlcv_pipeline.ledger.models import IdempotencyKey, IngestionRun
from ohlcv_pipeline.ledger.runs import EVERY_SYMBOL, MANUAL, NOTHING_SHA256, RUNNING

KEYS_KEPT = timedelta(hours=24)


@dataclass(frozen=True)
class Ask:
    """What a run is asked for: bars of [window_start, window_end), of all enabled symbols unless some are named.

    `launched` tells that whoever asks runs it, too, so that nobody else has to.
    """

    market: str
    interval: str
    window_start: datetime
    window_end: datetime
    checksum_version: int
    symbols: Sequence[str] | None = None
    force: bool = False
    trigger: str = MANUAL
    launched: bool = False


@dataclass(frozen=True)
class Key:
    """An idempotency key that a client sent, with the SHA-256 of what it sent it with."""

    value: str
    body_sha256: str


def request(ledger: Ledger, ask: Ask, now: datetime, key: Key | None = None) -> IngestionRun:
    """Store a request and return its run, which is queued; with a key that is known, the run of that key.

    Raises:
        OverlapError: a backfill of the same table is queued or running and overlaps; it names that run.
        KeyReusedError: the key was used within a day for something else.
    """
    with ledger.write() as session:
        _one_at_a_time(session)
        known = None if key is None else _known(session, key, now)
        if known is not None:
            session.expunge(known)
            return known
        overlapping = _overlapping(session, ask)
        if overlapping is not None:
            raise OverlapError(overlapping)
        row = _queued(ask, now)
        session.add(row)
        if key is not None:
            session.add(IdempotencyKey(key=key.value, body_sha256=key.body_sha256, run_id=row.id, created_at=now))
        session.flush()
        session.expunge(row)
        return row


def request_together(ledger: Ledger, asks: Sequence[Ask], now: datetime) -> list[IngestionRun | None]:
    """Store requests that belong together, in one transaction: they may overlap one another, but no other backfill.

    Returns a run for each, None where another backfill is in the way.
    """
    with ledger.write() as session:
        _one_at_a_time(session)
        rows = [_queued(ask, now) if _overlapping(session, ask) is None else None for ask in asks]
        session.add_all(row for row in rows if row is not None)
        session.flush()
        session.expunge_all()
        return rows


def _overlapping(session: Session, ask: Ask) -> UUID | None:
    """Return a backfill of the same table that is queued or running and overlaps."""
    return session.scalars(
        select(IngestionRun.id).where(
            IngestionRun.parent_id.is_(None),
            IngestionRun.status == RUNNING,
            IngestionRun.market == ask.market,
            IngestionRun.interval == ask.interval,
            IngestionRun.backfill_window_start < ask.window_end,
            IngestionRun.backfill_window_end > ask.window_start,
            # A tick of a schedule is over in seconds and keeps nobody waiting.
            or_(
                IngestionRun.trigger == MANUAL,
                IngestionRun.phase == "queued",
                IngestionRun.launched_at.is_not(None),
            ),
        )
    ).first()


def _queued(ask: Ask, now: datetime) -> IngestionRun:
    return IngestionRun(
        id=uuid4(),
        parent_id=None,
        market=ask.market,
        asset_symbol=EVERY_SYMBOL,
        interval=ask.interval,
        status=RUNNING,
        phase="queued",
        row_count=0,
        checksum_sha256=NOTHING_SHA256,
        checksum_version=ask.checksum_version,
        started_at=now,
        trigger=ask.trigger,
        attempt=1,
        backfill_window_start=ask.window_start,
        backfill_window_end=ask.window_end,
        retries=0,
        symbols=None if ask.symbols is None else list(ask.symbols),
        force=ask.force,
        launched_at=now if ask.launched else None,
        done_units=0,
    )


def _one_at_a_time(session: Session) -> None:
    """Let requests follow one another: SQLite has one writer anyway, Postgres is told."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("LOCK TABLE idempotency_keys IN EXCLUSIVE MODE"))


def _known(session: Session, key: Key, now: datetime) -> IngestionRun | None:
    """Return the run of a key that was used within a day. Raises KeyReusedError."""
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at <= now - KEYS_KEPT))
    used = session.get(IdempotencyKey, key.value)
    if used is None:
        return None
    if used.body_sha256 != key.body_sha256:
        raise KeyReusedError(used.run_id)
    return session.get(IngestionRun, used.run_id)


def queued(ledger: Ledger) -> list[IngestionRun]:
    """Return the requests that no run has begun on, oldest first."""
    query = select(IngestionRun).where(IngestionRun.status == RUNNING, IngestionRun.phase == "queued")
    with ledger.read() as session:
        return list(session.scalars(query.order_by(IngestionRun.started_at, IngestionRun.id)))


def launched(ledger: Ledger, id_: UUID, dagster_run_id: str, now: datetime) -> None:
    """Record which run of Dagster a request has become."""
    with ledger.write() as session:
        session.execute(
            update(IngestionRun)
            .where(IngestionRun.id == id_, IngestionRun.phase == "queued")
            .values(launched_at=now, dagster_run_id=dagster_run_id)
        )
