"""How each vendor did when it was last looked at: one row a vendor, replaced by every look.

Which status follows from what is decided in `operations.vendor_health`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select

from ohlcv_pipeline.ledger.database import Ledger
from ohlcv_pipeline.ledger.models import VendorBudget, VendorStatus

VALID_FOR = timedelta(minutes=15)
"""A status that was found longer ago says nothing about now."""

UNKNOWN = "degraded"
"""What a vendor is shown as when nothing is known of it, or not any more: that is no good news."""


@dataclass(frozen=True)
class Found:
    """What a look at a vendor found. `data_age_seconds` is None when no bar came."""

    vendor: str
    status: str
    data_age_seconds: float | None
    failed_probes: int
    details: str


def record(ledger: Ledger, found: Sequence[Found], now: datetime) -> None:
    """Replace the rows of some vendors, in one transaction; `since` stays while the status does."""
    with ledger.write() as session:
        for each in found:
            row = session.get(VendorStatus, each.vendor, with_for_update=True)
            if row is None:
                row = VendorStatus(vendor=each.vendor, status=each.status, since=now)
                session.add(row)
            elif row.status != each.status:
                row.status, row.since = each.status, now
            row.checked_at, row.details = now, each.details
            row.data_age_seconds, row.failed_probes = each.data_age_seconds, each.failed_probes


def newest(ledger: Ledger) -> dict[str, VendorStatus]:
    """Return what was last found, by vendor in alphabetical order, however long ago."""
    with ledger.read() as session:
        return {row.vendor: row for row in session.scalars(select(VendorStatus).order_by(VendorStatus.vendor))}


def served(status: str, checked_at: datetime, now: datetime) -> str:
    """Return the status that is shown at `now` of a vendor that was looked at then."""
    return status if now - checked_at <= VALID_FOR else UNKNOWN


def blocked(ledger: Ledger, now: datetime) -> frozenset[str]:
    """Return the vendors that asked to be left alone, and whose time is not over."""
    query = select(VendorBudget.vendor).where(VendorBudget.blocked_until > now)
    with ledger.read() as session:
        return frozenset(session.scalars(query))
