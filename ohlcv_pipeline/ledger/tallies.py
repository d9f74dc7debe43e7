"""What has happened since some place in the ledger, counted by the database where it can: what metrics add up.

What it is called there, and since when it is counted, lives in `operations.metrics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import case, func, literal, or_, select

from ohlcv_pipeline.ledger.database import Ledger
from ohlcv_pipeline.ledger.models import Incident, IngestionRun, Message, VendorRequest
from ohlcv_pipeline.ledger.outcomes import OK


@dataclass(frozen=True)
class Requests:
    """Requests to one vendor with one outcome whose duration is in one bucket, and the sum of their seconds.

    `bucket` is the position of the first bound that is not below the duration; their number for longer ones.
    """

    vendor: str
    code: str
    bucket: int
    count: int
    seconds: float


@dataclass(frozen=True)
class Attempt:
    """A request that failed, or one that was not the first try."""

    vendor: str
    attempt: int
    code: str


@dataclass(frozen=True)
class Ended:
    """A run that has ended; only parents are counted."""

    id: UUID
    market: str
    interval: str
    status: str
    trigger: str
    started_at: datetime
    ended_at: datetime
    row_count: int


def newest_request(ledger: Ledger) -> int:
    """Return the number of the newest request that is recorded, 0 if none is."""
    with ledger.read() as session:
        return session.scalar(select(func.max(VendorRequest.id))) or 0


def requests(ledger: Ledger, after: int, until: int, bounds: Sequence[float]) -> list[Requests]:
    """Count the requests with after < number <= until by vendor, outcome and duration (`bounds` in seconds)."""
    bucket = case(
        *((VendorRequest.seconds <= bound, literal(place)) for place, bound in enumerate(bounds)),
        else_=literal(len(bounds)),
    ).label("bucket")
    query = (
        select(VendorRequest.vendor, VendorRequest.code, bucket, func.count(), func.sum(VendorRequest.seconds))
        .where(VendorRequest.id > after, VendorRequest.id <= until)
        .group_by(VendorRequest.vendor, VendorRequest.code, "bucket")
    )
    with ledger.read() as session:
        return [Requests(*row) for row in session.execute(query).tuples()]


def unsmooth(ledger: Ledger, after: int, until: int) -> list[Attempt]:
    """Return the requests with after < number <= until that failed or were not the first try, in order."""
    query = (
        select(VendorRequest.vendor, VendorRequest.attempt, VendorRequest.code)
        .where(
            VendorRequest.id > after,
            VendorRequest.id <= until,
            or_(VendorRequest.attempt > 1, VendorRequest.code != OK),
        )
        .order_by(VendorRequest.id)
    )
    with ledger.read() as session:
        return [Attempt(*row) for row in session.execute(query).tuples()]


def ended_runs(ledger: Ledger, since: datetime) -> list[Ended]:
    """Return the parents that ended at or after an instant."""
    columns = (
        IngestionRun.id, IngestionRun.market, IngestionRun.interval, IngestionRun.status, IngestionRun.trigger,
        IngestionRun.started_at, IngestionRun.ended_at, IngestionRun.row_count,
    )  # fmt: skip
    query = select(*columns).where(IngestionRun.parent_id.is_(None), IngestionRun.ended_at >= since)
    with ledger.read() as session:
        return [Ended(*row) for row in session.execute(query)]


def incidents_since(ledger: Ledger, since: datetime) -> list[tuple[UUID, str, datetime | None, datetime | None]]:
    """Return id, kind, `opened_at` and `cleared_at` of the incidents that opened or cleared at or after an instant."""
    query = select(Incident.id, Incident.kind, Incident.opened_at, Incident.cleared_at).where(
        or_(Incident.opened_at >= since, Incident.cleared_at >= since)
    )
    with ledger.read() as session:
        return list(session.execute(query).tuples())


def open_incidents(ledger: Ledger) -> dict[str, int]:
    """Count the incidents that have opened and are not over, by kind."""
    query = select(Incident.kind, func.count()).where(Incident.state.in_(("open", "clearing"))).group_by(Incident.kind)
    with ledger.read() as session:
        return dict(session.execute(query).tuples().all())


def unsent_messages(ledger: Ledger) -> tuple[dict[str, int], datetime | None]:
    """Return how many messages wait on each channel, and since when the oldest does.

    One that was given up waits, too, until it is acknowledged.
    """
    waits = or_(Message.status == "pending", (Message.status == "given_up") & Message.acknowledged_at.is_(None))
    query = select(Message.channel, func.count(), func.min(Message.created_at)).where(waits).group_by(Message.channel)
    with ledger.read() as session:
        rows = session.execute(query).tuples().all()
    return {channel: count for channel, count, _ in rows}, min((oldest for _, _, oldest in rows), default=None)
