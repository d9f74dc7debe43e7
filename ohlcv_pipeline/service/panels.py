"""What the panels of the status page show of the ledger: incidents, messages, vendors, runs, remediation.

Reads only, in one transaction, and only what is public. The table of series is `views`, the lake's part `coverage`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, TypeVar

from sqlalchemy import Select, case, func, select
from sqlalchemy.orm import Session

from ohlcv_pipeline.ledger.database import Ledger
from ohlcv_pipeline.ledger.models import Incident, IngestionRun, Message, RemediationEntry, VendorStatus

WINDOW_DAYS = 30
"""Over how many days runs and failures are counted."""

T = TypeVar("T")

TARGET = 0.99
"""The share of runs that should succeed."""

NEWEST = 8
"""Rows of a panel. What is older can be asked of the API."""

VENDOR_VALID = timedelta(minutes=15)
"""How long a look at a vendor speaks for it."""


@dataclass(frozen=True)
class Vendor:
    """How a vendor does, and whether that was seen lately enough to be believed."""

    name: str
    markets: Sequence[str]
    status: str | None
    since: datetime | None
    checked_at: datetime | None
    data_age_minutes: float | None
    current: bool


@dataclass(frozen=True)
class Day:
    """The runs that were started on one UTC day."""

    day: date
    success: int
    partial: int
    failed: int

    @property
    def total(self) -> int:
        """All that have ended."""
        return self.success + self.partial + self.failed


@dataclass(frozen=True)
class Runs:
    """The runs of one symbol each of the last 30 days, a `Day` for every day, oldest first."""

    days: Sequence[Day]

    @property
    def total(self) -> int:
        """All that have ended."""
        return sum(day.total for day in self.days)

    def count(self, status: str) -> int:
        """Return how many ended with a status."""
        return sum(getattr(day, status) for day in self.days)

    @property
    def success_rate(self) -> float | None:
        """The share that succeeded, rounded down to four decimals; None without runs."""
        return math.floor(10_000 * self.count("success") / self.total) / 10_000 if self.total else None

    @property
    def met(self) -> bool:
        """Whether that is what it should be."""
        return self.success_rate is None or self.success_rate >= TARGET


@dataclass(frozen=True)
class Panels:
    """All panels as of one instant. Times are UTC."""

    incidents: Sequence[Incident]
    open_incidents: int
    given_up: int
    vendors: Sequence[Vendor]
    runs: Runs
    newest_runs: Sequence[IngestionRun]
    failures: Sequence[IngestionRun]
    remediation: Sequence[RemediationEntry]
    open_remediation: int
    escalated: int


def panels(ledger: Ledger, vendors: Mapping[str, Sequence[str]], now: datetime) -> Panels:
    """Read all panels. `vendors` maps a market to its vendors in order; `now` is aware."""
    with ledger.read() as session:
        since = now - timedelta(days=WINDOW_DAYS)
        children = select(IngestionRun).where(IngestionRun.parent_id.is_not(None), IngestionRun.started_at >= since)
        unresolved = RemediationEntry.resolved.is_(False)
        found = Panels(
            incidents=_all(session, newest_incidents().limit(NEWEST)),
            open_incidents=_count(session, select(Incident).where(Incident.state.in_(("open", "clearing")))),
            given_up=_count(
                session, select(Message).where(Message.status == "given_up", Message.acknowledged_at.is_(None))
            ),
            vendors=_vendors(session, vendors, now),
            runs=_runs(session, now),
            newest_runs=_all(
                session,
                select(IngestionRun)
                .where(IngestionRun.parent_id.is_(None))
                .order_by(IngestionRun.started_at.desc(), IngestionRun.id)
                .limit(NEWEST),
            ),
            failures=_all(
                session,
                children.where(IngestionRun.status.in_(("failed", "partial")))
                .order_by(IngestionRun.started_at.desc(), IngestionRun.id)
                .limit(NEWEST),
            ),
            remediation=_all(
                session,
                select(RemediationEntry)
                .order_by(RemediationEntry.resolved, RemediationEntry.detected_at.desc(), RemediationEntry.id)
                .limit(NEWEST),
            ),
            open_remediation=_count(session, select(RemediationEntry).where(unresolved)),
            escalated=_count(
                session, select(RemediationEntry).where(unresolved, RemediationEntry.escalated_at.is_not(None))
            ),
        )
        session.expunge_all()
    return found


def newest_incidents() -> Select[tuple[Incident]]:
    """Return the query of incidents that were ever open: those that still are first, then the newest."""
    return (
        select(Incident)
        .where(Incident.opened_at.is_not(None))
        .order_by(case((Incident.state == "cleared", 1), else_=0), Incident.opened_at.desc(), Incident.id)
    )


def _vendors(session: Session, vendors: Mapping[str, Sequence[str]], now: datetime) -> list[Vendor]:
    stored = {row.vendor: row for row in session.scalars(select(VendorStatus))}
    names = list(dict.fromkeys(name for of_market in vendors.values() for name in of_market))
    found = []
    for name in names:
        row = stored.get(name)
        age = row.data_age_seconds if row else None
        found.append(
            Vendor(
                name=name,
                markets=[market for market, of_market in vendors.items() if name in of_market],
                status=row.status if row else None,
                since=row.since if row else None,
                checked_at=row.checked_at if row else None,
                data_age_minutes=None if age is None else age / 60,
                current=row is not None and now - row.checked_at <= VENDOR_VALID,
            )
        )
    return found


def _runs(session: Session, now: datetime) -> Runs:
    today = now.astimezone(UTC).date()
    days = [today - timedelta(days=back) for back in range(WINDOW_DAYS - 1, -1, -1)]
    on_sqlite = session.get_bind().dialect.name == "sqlite"
    started = IngestionRun.started_at if on_sqlite else func.timezone("UTC", IngestionRun.started_at)
    day = func.date(started)
    query = (
        select(day, IngestionRun.status, func.count())
        .where(
            IngestionRun.parent_id.is_not(None),
            IngestionRun.started_at >= datetime.combine(days[0], time(), UTC),
            IngestionRun.status != "running",
        )
        .group_by(day, IngestionRun.status)
    )
    counts = {(str(on), status): count for on, status, count in session.execute(query).tuples()}
    return Runs(
        [Day(on, *(counts.get((str(on), status), 0) for status in ("success", "partial", "failed"))) for on in days]
    )


def _all(session: Session, query: Select[tuple[T]]) -> list[T]:
    return list(session.scalars(query))


def _count(session: Session, query: Select[tuple[Any]]) -> int:
    return session.scalar(select(func.count()).select_from(query.subquery())) or 0
