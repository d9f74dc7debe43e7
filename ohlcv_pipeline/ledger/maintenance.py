"""Times in which no alert is raised, of one market or of all. What they do to incidents is decided in `operations`."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from ohlcv_pipeline.ledger.database import Ledger
from ohlcv_pipeline.ledger.errors import LedgerError
from ohlcv_pipeline.ledger.models import MaintenanceWindow


def mute(ledger: Ledger, market: str | None, starts_at: datetime, ends_at: datetime, reason: str) -> MaintenanceWindow:
    """Create a window [start, end) for a market, or for all if it is None. Raises ValueError for an empty one."""
    if ends_at <= starts_at:
        raise ValueError(f"a window must end after it starts; {ends_at.isoformat()} does not follow")
    window = MaintenanceWindow(market=market, starts_at=starts_at, ends_at=ends_at, reason=reason)
    with ledger.write() as session:
        session.add(window)
        session.flush()
        session.expunge(window)
    return window


def end(ledger: Ledger, identifier: UUID, now: datetime) -> MaintenanceWindow:
    """End a window now; one that has not begun is deleted. Raises LedgerError if there is none that could end."""
    with ledger.write() as session:
        window = session.get(MaintenanceWindow, identifier, with_for_update=True)
        if window is None or window.ends_at <= now:
            raise LedgerError(f"there is no window {identifier} that has not ended; `ohlcv alerts mutes` lists them")
        if window.starts_at >= now:
            session.delete(window)
        else:
            window.ends_at = now
        session.flush()
        session.expunge(window)
    return window


def not_ended(ledger: Ledger, now: datetime) -> list[MaintenanceWindow]:
    """Return the windows that are on or to come, in order of their start."""
    query = select(MaintenanceWindow).where(MaintenanceWindow.ends_at > now).order_by(MaintenanceWindow.starts_at)
    with ledger.read() as session:
        return list(session.scalars(query))


def muted_markets(session: Session, now: datetime) -> set[str | None]:
    """Return the markets with a window that is on; None stands for all of them."""
    query = select(MaintenanceWindow.market).where(MaintenanceWindow.starts_at <= now, MaintenanceWindow.ends_at > now)
    return set(session.scalars(query))
