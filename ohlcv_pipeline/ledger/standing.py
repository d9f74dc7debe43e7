"""How every series stands by the ledger: what the status summary needs of all its tables, in one transaction.

What follows from it is decided in `operations.overview`; each table's own questions live in its own module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ohlcv_pipeline.ledger.database import Ledger
from ohlcv_pipeline.ledger.models import (
    Incident,
    IngestionRun,
    Message,
    Monitor,
    RemediationEntry,
    Symbol,
    VendorStatus,
)
from ohlcv_pipeline.markets import Instrument, Interval

Series = tuple[str, str, str]
"""Market, symbol, interval."""


@dataclass(frozen=True)
class Alert:
    """The newest freshness incident of a series, and the newest alert about it that its channel took."""

    state: str
    alerted_at: datetime | None
    alerted_lag_minutes: float | None


@dataclass(frozen=True)
class Waiting:
    """The outbox: messages that wait, the oldest of them, whether one has failed, and whether one was given up."""

    pending: int
    oldest: datetime | None
    failed: bool
    given_up: bool


@dataclass(frozen=True)
class Standing:
    """The ledger at one instant. `enabled` are the instruments with their markets, in order of both."""

    enabled: Sequence[tuple[str, Instrument]]
    alerts: Mapping[Series, Alert]
    open_gaps: Mapping[Series, int]
    vendors: Mapping[str, tuple[str, datetime]]
    last_success: Mapping[Series, datetime]
    evaluated_at: datetime | None
    waiting: Waiting


def standing(ledger: Ledger, window_starts: Mapping[tuple[str, str], datetime], monitor: str) -> Standing:
    """Return how the series of some markets stand.

    Args:
        ledger: where to look.
        window_starts: (market, interval) → the instant from which on a gap counts.
        monitor: the name of the monitor whose evaluations count.
    """
    markets = {market for market, _ in window_starts}
    with ledger.read() as session:
        return Standing(
            enabled=_enabled(session, markets),
            alerts=_alerts(session, markets),
            open_gaps=_open_gaps(session, window_starts),
            vendors={row.vendor: (row.status, row.checked_at) for row in session.scalars(select(VendorStatus))},
            last_success=_last_success(session, markets),
            evaluated_at=session.scalar(
                select(Monitor.evaluated_at).where(Monitor.name == monitor, Monitor.sequence > 0)
            ),
            waiting=_waiting(session),
        )


def markets_of(ledger: Ledger, symbol: str) -> set[str]:
    """Return the names of the markets that have a symbol, enabled or not."""
    with ledger.read() as session:
        return set(session.scalars(select(Symbol.market).where(Symbol.symbol == symbol)))


def _enabled(session: Session, markets: set[str]) -> list[tuple[str, Instrument]]:
    columns = (
        Symbol.market, Symbol.symbol, Symbol.name, Symbol.base, Symbol.quote, Symbol.vendor_symbols, Symbol.enabled,
        Symbol.listing_start, Symbol.delisted_at, Symbol.enabled_at,
    )  # fmt: skip
    query = select(*columns).where(Symbol.enabled, Symbol.market.in_(markets)).order_by(Symbol.market, Symbol.symbol)
    return [(market, Instrument(*values)) for market, *values in session.execute(query)]


def _alerts(session: Session, markets: set[str]) -> dict[Series, Alert]:
    """Return the newest incident of each series; one that is pending is none yet."""
    columns = (Incident.market, Incident.symbol, Incident.interval, Incident.state, Incident.notified_at)
    query = (
        select(*columns, Incident.alert_lag_minutes)
        .where(Incident.kind == "freshness", Incident.state != "pending", Incident.market.in_(markets))
        .order_by(Incident.first_breach_at)
    )
    found: dict[Series, Alert] = {}
    for market, symbol, interval, state, notified_at, lag in session.execute(query):
        before = found.get((market, symbol, interval))
        if notified_at is None and before is not None:
            notified_at, lag = before.alerted_at, before.alerted_lag_minutes
        found[market, symbol, interval] = Alert(state, notified_at, None if notified_at is None else lag)
    return found


def _open_gaps(session: Session, window_starts: Mapping[tuple[str, str], datetime]) -> dict[Series, int]:
    found: dict[Series, int] = {}
    for (market, interval), start in window_starts.items():
        query = (
            select(RemediationEntry.asset_symbol, func.count())
            .where(
                ~RemediationEntry.resolved,
                RemediationEntry.market == market,
                RemediationEntry.interval == interval,
                RemediationEntry.issue_type == "gap",
                RemediationEntry.range_end >= start,
            )
            .group_by(RemediationEntry.asset_symbol)
        )
        found.update({(market, symbol, interval): count for symbol, count in session.execute(query)})
    return found


def _last_success(session: Session, markets: set[str]) -> dict[Series, datetime]:
    """Return the end of the newest successful run of each enabled series: one look into an index for each."""
    found: dict[Series, datetime] = {}
    for interval in Interval:
        newest = (
            select(func.max(IngestionRun.ended_at))
            .where(
                IngestionRun.market == Symbol.market,
                IngestionRun.interval == interval,
                IngestionRun.asset_symbol == Symbol.symbol,
                IngestionRun.status == "success",
            )
            .scalar_subquery()
        )
        query = select(Symbol.market, Symbol.symbol, newest).where(Symbol.enabled, Symbol.market.in_(markets))
        found.update({(market, symbol, interval): ended for market, symbol, ended in session.execute(query) if ended})
    return found


def _waiting(session: Session) -> Waiting:
    pending = session.execute(
        select(func.count(), func.min(Message.created_at), func.max(Message.attempts)).where(
            Message.status == "pending"
        )
    ).one()
    given_up = session.scalar(
        select(func.count()).where(Message.status == "given_up", Message.acknowledged_at.is_(None))
    )
    count, oldest, attempts = pending
    return Waiting(count, oldest, bool(attempts), bool(given_up))
