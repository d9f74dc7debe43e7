"""The quarantine and what a person decides about it: a row is released into the bars, or discarded for good.

A released row passes the same rules as a delivered one and is published the same way. Which rows get here is `schema`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa

from ohlcv_pipeline.bars.planning import Order
from ohlcv_pipeline.bars.publication import Offer, Published, publish
from ohlcv_pipeline.bars.schema import Delivery, Judged, judge
from ohlcv_pipeline.frames import VALUE_COLUMNS, BarColumns
from ohlcv_pipeline.lake.reader import Reader
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline.lake.tables import QUARANTINE, QUARANTINE_KEY
from ohlcv_pipeline.lake.writer import Changes, Scope
from ohlcv_pipeline.markets import Instrument, Interval, Market, to_us

_NONE = np.empty(0, np.int64)


class Decision(StrEnum):
    """What was decided about a row; `open` when nothing was."""

    OPEN = "open"
    RELEASED = "released"
    DISCARDED = "discarded"


class RefusedError(Exception):
    """A row cannot become a bar, or a decision cannot be taken. The text names the rule."""


@dataclass(frozen=True)
class Row:
    """One row of the quarantine. `id` is made of what the row is, so it stays the same for ever."""

    id: str
    state: Decision
    columns: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.columns[name]

    def decided(self, decision: Decision, now: datetime, by: str, note: str, run_id: str | None) -> pa.Table:
        """Return the row of the table with a decision in it."""
        ruling = {
            "decision": str(decision),
            "decided_at": now,
            "decided_by": by,
            "note": note,
            "decision_run_id": run_id,
        }
        return pa.Table.from_pylist([{**self.columns, **ruling}], QUARANTINE)


def row_of(columns: Mapping[str, Any]) -> Row:
    """Return a row of the table with its id and state."""
    bucket = columns["bucket_start"]
    parts = [columns[name] for name in QUARANTINE_KEY if name != "bucket_start"]
    identity = json.dumps([*parts, None if bucket is None else to_us(bucket)])
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    return Row(digest, Decision(columns["decision"] or Decision.OPEN), columns)


def rows(reader: Reader, market: Market, interval: Interval, symbols: Sequence[str] | None = None) -> list[Row]:
    """Return the rows of one table, oldest bucket first; those without a readable time come last."""
    found = [row_of(columns) for columns in reader.quarantine(market.name, interval, symbols).to_pylist()]
    return sorted(found, key=lambda row: (row["bucket_start"] is None, row["bucket_start"], row["symbol"], row.id))


def release(
    store: Store,
    market: Market,
    interval: Interval,
    instrument: Instrument,
    row: Row,
    now: datetime,
    *,
    run_id: str,
    by: str,
    note: str = "",
) -> Published:
    """Publish a row with the vendor and the answer it came from, and note the decision in the same transaction.

    It replaces whatever bar is stored. A row that was published and only flagged is confirmed. Raises RefusedError
    naming the rule that the row breaks, LakeError.
    """
    ruling = row.decided(Decision.RELEASED, now, by, note, run_id)
    if row["published"]:
        _note(store, market, interval, row, ruling, now)
        return Published()
    delivery = _delivery(store.reader, row)
    judged = judged_alone(row, delivery, market, interval, now)
    (key,) = market.partition_keys(interval, delivery.start_us, delivery.end_us)
    order = Order(market, interval, [instrument], [key], run_id, force=True)
    offer = Offer(instrument, judged, [delivery], _NONE, _NONE)
    published = publish(order, store, [key], [offer], [], now, ruling)
    store.writer.seal(now)
    return published


def discard(
    store: Store, market: Market, interval: Interval, row: Row, now: datetime, *, by: str, note: str = ""
) -> None:
    """Note that a row stays out for good; it is kept as evidence. Raises RefusedError for a released row."""
    if row.state is Decision.RELEASED:
        raise RefusedError(
            f"{row.id} was released and its bar is stored; `ohlcv backfill --force` lets the vendor replace it"
        )
    _note(store, market, interval, row, row.decided(Decision.DISCARDED, now, by, note, None), now)


def judged_alone(row: Row, delivery: Delivery, market: Market, interval: Interval, now: datetime) -> Judged:
    """Return what the rules make of the row by itself. Raises RefusedError naming the rule that it breaks."""
    judged = judge([delivery], market, interval, to_us(now))
    broken = [str(finding.reason) for finding in judged.findings if not finding.published] + list(judged.dropped)
    if broken:
        raise RefusedError(f"{row.id} can never be a bar as it is: {', '.join(broken)}")
    return judged


def values_of(row: Row) -> dict[str, float]:
    """Return the five values of a row. Raises RefusedError when it has no time, or not these numbers."""
    try:
        values = json.loads(row["raw"])
        numbers = {name: float(values[name]) for name in VALUE_COLUMNS}
    except (ValueError, TypeError, KeyError):
        raise RefusedError(f"{row.id} can never be a bar: {row['reason']}, its row has no five numbers") from None
    if row["bucket_start"] is None:
        raise RefusedError(f"{row.id} can never be a bar: {row['reason']}, its row has no readable time")
    return numbers


def _delivery(reader: Reader, row: Row) -> Delivery:
    """Return the row as the answer that it came in delivered it. Raises RefusedError."""
    values, bucket = values_of(row), to_us(row["bucket_start"])
    columns = BarColumns.of(np.array([bucket], np.int64), np.array([[value] for value in values.values()]))
    arrived = reader.query(
        "SELECT max(fetched_at) AS at FROM lake.raw_objects WHERE id = ? AND fetched_at <= ?",
        [row["raw_id"], row["quarantined_at"]],
    ).to_pylist()[0]["at"]
    return Delivery(columns, bucket, bucket + 1, row["vendor"], row["raw_id"], arrived or row["quarantined_at"])


def _note(store: Store, market: Market, interval: Interval, row: Row, ruling: pa.Table, now: datetime) -> None:
    at = 0 if row["bucket_start"] is None else to_us(row["bucket_start"])
    keys = market.partition_keys(interval, at, at + 1) if at else []
    scope = Scope(market.name, interval, [row["symbol"]], keys, at, at + 1)
    store.writer.publish(scope, lambda stored: Changes(decided=ruling), [], now)
