"""What came of each request to a vendor: appended in bulk, summarised for health rules, pruned by age.

Which status follows for the vendor is decided by `operations`; which codes there are, by `vendors`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sqlalchemy import case, delete, func, insert, select
from sqlalchemy.orm import Session

from ohlcv_pipeline.ledger.database import Ledger
from ohlcv_pipeline.ledger.models import VendorRequest

OK = "ok"
"""The code of a request that was answered as it should be."""


class Outcome(Protocol):
    """One attempt. `requested_at` is aware, `seconds` its duration, `status` None without an HTTP answer."""

    @property
    def vendor(self) -> str: ...  # noqa: D102
    @property
    def requested_at(self) -> datetime: ...  # noqa: D102
    @property
    def seconds(self) -> float: ...  # noqa: D102
    @property
    def status(self) -> int | None: ...  # noqa: D102
    @property
    def code(self) -> str: ...  # noqa: D102
    @property
    def attempt(self) -> int: ...  # noqa: D102
    @property
    def bytes(self) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class Recent:
    """A vendor's requests since some instant: how many of each code, and the 95th percentile of seconds.

    The percentile is by nearest rank, so it is a duration that occurred; None without requests.
    """

    counts: Mapping[str, int]
    p95_seconds: float | None

    @property
    def total(self) -> int:
        """All requests, whatever came of them."""
        return sum(self.counts.values())


def append(ledger: Ledger, outcomes: Sequence[Outcome]) -> None:
    """Store outcomes in one transaction. Raises NaiveTimestampError, storing none, if a time has no zone."""
    if not outcomes:
        return
    rows = [
        {
            "vendor": outcome.vendor,
            "requested_at": outcome.requested_at,
            "seconds": outcome.seconds,
            "status": outcome.status,
            "code": outcome.code,
            "attempt": outcome.attempt,
            "bytes": outcome.bytes,
        }
        for outcome in outcomes
    ]
    with ledger.write() as session:
        session.connection().execute(insert(VendorRequest), rows)


def recent(ledger: Ledger, vendor: str, since: datetime) -> Recent:
    """Summarise a vendor's requests that were sent at or after `since` (aware)."""
    rank = func.cume_dist().over(order_by=VendorRequest.seconds)
    ranked = (
        select(VendorRequest.code, VendorRequest.seconds, rank.label("rank"))
        .where(VendorRequest.vendor == vendor, VendorRequest.requested_at >= since)
        .subquery()
    )
    slow = func.min(case((ranked.c.rank >= 0.95, ranked.c.seconds)))
    query = select(ranked.c.code, func.count(), slow).group_by(ranked.c.code)
    with ledger.read() as session:
        rows = session.execute(query).tuples().all()
    return Recent(
        counts={code: count for code, count, _ in rows},
        p95_seconds=min((seconds for _, _, seconds in rows if seconds is not None), default=None),
    )


@dataclass(frozen=True)
class Trouble:
    """A vendor's requests since some instant that failed: how many, with which codes; `failing`: the newest did."""

    vendor: str
    count: int
    codes: Sequence[str]
    failing: bool


def troubles(ledger: Ledger, vendors: Sequence[str], since: datetime) -> list[Trouble]:
    """Return the troubles of those vendors that had any since `since` (aware), in the order given."""
    query = (
        select(VendorRequest.vendor, VendorRequest.code, func.count(), func.max(VendorRequest.id))
        .where(VendorRequest.vendor.in_(vendors), VendorRequest.requested_at >= since)
        .group_by(VendorRequest.vendor, VendorRequest.code)
    )
    with ledger.read() as session:
        rows = session.execute(query).tuples().all()
    found = []
    for vendor in vendors:
        newest = {code: last for name, code, _, last in rows if name == vendor}
        failed = {code: count for name, code, count, _ in rows if name == vendor and code != OK}
        if failed:
            failing = max(newest, key=lambda code: newest[code]) != OK
            found.append(Trouble(vendor, sum(failed.values()), sorted(failed), failing))
    return found


def prune(session: Session, before: datetime) -> int:
    """Delete the outcomes of requests sent before an instant (aware) and return how many that were."""
    return session.connection().execute(delete(VendorRequest).where(VendorRequest.requested_at < before)).rowcount
