"""Incidents as they are stored and asked for. When one opens, is told of and clears is decided in `operations`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

from sqlalchemy import ColumnElement, String, and_, cast, delete, func, or_, select
from sqlalchemy.orm import Session

from ohlcv_pipeline.ledger.database import Ledger
from ohlcv_pipeline.ledger.models import Incident

View = Literal["open", "cleared", "all"]
"""Which incidents a list shows: `open` are those that have opened and are not over."""

_ACTIVE = ("open", "clearing")


def current(session: Session, kinds: Collection[str], cleared_since: datetime) -> list[Incident]:
    """Return, of each topic of these kinds, the incident that is not cleared, or else the last one cleared since."""
    query = (
        select(Incident)
        .where(
            Incident.kind.in_(kinds),
            or_(Incident.state != "cleared", Incident.cleared_at >= cleared_since),
        )
        .order_by(Incident.cleared_at)
    )
    found: dict[tuple[str, ...], Incident] = {}
    for row in sorted(session.scalars(query), key=lambda each: each.state != "cleared"):
        found[row.market, row.symbol, row.interval, row.kind, row.subject] = row
    return list(found.values())


def page(
    ledger: Ledger,
    view: View,
    *,
    market: str | None = None,
    symbol: str | None = None,
    limit: int = 100,
    after: tuple[datetime, UUID] | None = None,
) -> list[Incident]:
    """Return incidents that have opened, newest first by `first_breach_at`, then by id.

    `after` is the instant and the id of the last incident of the page before. Pending ones are not shown: nobody has
    been told, and they may come to nothing.
    """
    conditions: list[ColumnElement[bool]] = [Incident.state != "pending"]
    if view != "all":
        conditions.append(Incident.state.in_(_ACTIVE if view == "open" else ("cleared",)))
    if market is not None:
        conditions.append(Incident.market == market)
    if symbol is not None:
        conditions.append(Incident.symbol == symbol)
    if after is not None:
        at, identifier = after
        conditions.append(
            or_(Incident.first_breach_at < at, and_(Incident.first_breach_at == at, Incident.id < identifier))
        )
    query = select(Incident).where(*conditions).order_by(Incident.first_breach_at.desc(), Incident.id.desc())
    with ledger.read() as session:
        return list(session.scalars(query.limit(limit)))


def matching(ledger: Ledger, prefix: str) -> list[Incident]:
    """Return the incidents whose id begins with some hexadecimal digits, dashes or not; at most ten."""
    digits = prefix.replace("-", "").lower()
    spelt = func.replace(cast(Incident.id, String), "-", "")
    with ledger.read() as session:
        return list(session.scalars(select(Incident).where(spelt.startswith(digits, autoescape=True)).limit(10)))


def prune(session: Session, before: datetime) -> int:
    """Delete the incidents that were over before an instant (aware) and return how many that were."""
    over = (Incident.state == "cleared", Incident.cleared_at < before)
    return session.connection().execute(delete(Incident).where(*over)).rowcount


def active(ledger: Ledger) -> Sequence[Incident]:
    """Return the incidents that have opened and are not over, oldest first."""
    query = select(Incident).where(Incident.state.in_(_ACTIVE)).order_by(Incident.first_breach_at, Incident.id)
    with ledger.read() as session:
        return list(session.scalars(query))


def end_failed_run(ledger: Ledger, identifier: UUID, now: datetime) -> bool:
    """End the incident of a run that failed and will not be repeated; return False for any other incident."""
    with ledger.write() as session:
        row = session.get(Incident, identifier, with_for_update=True)
        if row is None or row.kind != "run_failed" or row.state == "cleared":
            return False
        row.state, row.cleared_at = "cleared", now
        return True
