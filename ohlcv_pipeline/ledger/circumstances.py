"""What else the ledger knows of a series when an alert about it is written: when it was last fetched."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from ohlcv_pipeline.ledger.models import IngestionRun


@dataclass(frozen=True)
class RunTimes:
    """When the newest successful run of a series ended, and when its newest run began; None without one."""

    last_success_at: datetime | None = None
    last_started_at: datetime | None = None


def run_times(session: Session, series: Collection[tuple[str, str, str]]) -> dict[tuple[str, str, str], RunTimes]:
    """Return what is known of the runs of some (market, symbol, interval)."""
    if not series:
        return {}
    key = (IngestionRun.market, IngestionRun.asset_symbol, IngestionRun.interval)
    query = (
        select(
            *key,
            func.max(IngestionRun.ended_at).filter(IngestionRun.status == "success"),
            func.max(IngestionRun.started_at),
        )
        .where(IngestionRun.parent_id.is_not(None), tuple_(*key).in_(series))
        .group_by(*key)
    )
    return {
        (market, symbol, interval): RunTimes(ended, started)
        for market, symbol, interval, ended, started in session.execute(query).tuples()
    }
