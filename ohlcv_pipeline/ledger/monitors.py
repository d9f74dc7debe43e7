"""Which evaluation of each monitor is the newest: they are numbered, and one that comes too late is ignored."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from ohlcv_pipeline.ledger.database import Ledger
from ohlcv_pipeline.ledger.models import Monitor


def next_sequence(ledger: Ledger, name: str) -> int:
    """Return the number of an evaluation that begins now. Ask for it before looking at anything."""
    with ledger.read() as session:
        found = session.scalar(select(Monitor.sequence).where(Monitor.name == name))
    return (found or 0) + 1


def advance(ledger: Ledger, session: Session, name: str, sequence: int, now: datetime) -> bool:
    """Record an evaluation inside an open write transaction; return False if a newer one is recorded already.

    Until that transaction ends no other evaluation of this monitor gets further than here.
    """
    fresh = {"name": name, "sequence": 0, "evaluated_at": now}
    session.execute(ledger.insert(Monitor).values(fresh).on_conflict_do_nothing())
    row = session.scalars(select(Monitor).where(Monitor.name == name).with_for_update()).one()
    if sequence <= row.sequence:
        return False
    row.sequence, row.evaluated_at = sequence, now
    return True


def arm(ledger: Ledger, name: str, now: datetime) -> None:
    """Note that a monitor is expected to evaluate from now on, unless it has already or that is noted already."""
    with ledger.read() as session:
        if session.get(Monitor, name) is not None:
            return
    fresh = {"name": name, "sequence": 0, "evaluated_at": now}
    with ledger.write() as session:
        session.execute(ledger.insert(Monitor).values(fresh).on_conflict_do_nothing())


def last_sign(ledger: Ledger, name: str) -> datetime | None:
    """Return when a monitor last evaluated, or was armed; None of one nobody has waited for."""
    with ledger.read() as session:
        return session.scalar(select(Monitor.evaluated_at).where(Monitor.name == name))


def last_evaluation(ledger: Ledger, name: str) -> datetime | None:
    """Return when a monitor last evaluated, None if it never has."""
    with ledger.read() as session:
        return session.scalar(select(Monitor.evaluated_at).where(Monitor.name == name, Monitor.sequence > 0))
