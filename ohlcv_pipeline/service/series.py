"""What the page of one series shows of lake and ledger: bars, gaps, partitions, revisions, quarantine, runs.

Reads only. The series' row of the summary comes from the snapshot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import select

from ohlcv_pipeline.bars.causes import Cause
from ohlcv_pipeline.bars.inquiry import Absence, inquire
from ohlcv_pipeline.frames import VALUE_COLUMNS
from ohlcv_pipeline.lake.reader import Reader
from ohlcv_pipeline.lake.snapshots import NO_LAKE, newest_number
from ohlcv_pipeline.ledger.database import Ledger
from ohlcv_pipeline.ledger.models import Incident, IngestionRun
from ohlcv_pipeline.markets import DAY_US, Instrument, Interval, Market, to_us
from ohlcv_pipeline.service.panels import newest_incidents

NEWEST = 20
"""Rows of a list. What is older can be asked of the API and the command line."""

WITNESSES = 5
"""So many series are looked at to tell the silence of one from that of its vendor."""

MOST_BARS = 1_500
"""Bars of a chart: a day of minutes, or three years of days."""


@dataclass(frozen=True)
class Detail:
    """One series: its newest bars, what it lacks, and what happened to it. Lists begin with the newest."""

    runs: Sequence[IngestionRun]
    incidents: Sequence[Incident]
    bars: Sequence[Mapping[str, Any]] = ()
    gaps: Sequence[Absence] = ()
    no_trades: int = 0
    partitions: Sequence[Mapping[str, Any]] = ()
    revisions: Sequence[Mapping[str, Any]] = ()
    revised: int = 0
    quarantine: Sequence[Mapping[str, Any]] = ()
    quarantined: int = 0

    @property
    def missing(self) -> int:
        """How many bars are not there that should be."""
        return sum(gap.missing for gap in self.gaps)


def detail(
    reader: Reader,
    ledger: Ledger,
    market: Market,
    instruments: Sequence[Instrument],
    instrument: Instrument,
    interval: Interval,
    now: datetime,
) -> Detail:
    """Read everything about one series; `instruments` are those that are enabled. Raises LakeError."""
    ledgered = _ledgered(ledger, market, instrument, interval)
    if newest_number(reader) == NO_LAKE:
        return ledgered
    start, end = market.target_window(interval, now)
    witnesses = [instrument, *(each for each in instruments if each != instrument)][:WITNESSES]
    absences = inquire(reader, market, interval, witnesses, start, end, now, symbols=[instrument.symbol])
    manifest = reader.manifest(market.name, interval, [instrument.symbol]).to_pylist()[::-1]
    newest = next((row["last_bucket"] for row in manifest if row["last_bucket"]), None)
    of = [market.name, str(interval), instrument.symbol]
    revisions, revised = _newest(
        reader,
        "bar_revisions",
        "bucket_start, close, source_vendor, revision, superseded_at, cause",
        "superseded_at DESC, bucket_start DESC",
        of,
    )
    quarantine, quarantined = _newest(
        reader,
        "quarantine",
        "bucket_start, reason, vendor, published, quarantined_at, decision",
        "quarantined_at DESC, bucket_start DESC",
        of,
    )
    return replace(
        ledgered,
        bars=[] if newest is None else bars(reader, market, instrument, interval, to_us(newest), NEWEST)[::-1],
        gaps=[each for each in reversed(absences) if each.is_gap],
        no_trades=sum(each.missing for each in absences if each.cause is Cause.NO_TRADES),
        partitions=manifest[:NEWEST],
        revisions=revisions,
        revised=revised,
        quarantine=quarantine,
        quarantined=quarantined,
    )


def _ledgered(ledger: Ledger, market: Market, instrument: Instrument, interval: Interval) -> Detail:
    """Return what the ledger knows of a series."""
    runs = select(IngestionRun).where(
        IngestionRun.parent_id.is_not(None),
        IngestionRun.market == market.name,
        IngestionRun.interval == str(interval),
        IngestionRun.asset_symbol == instrument.symbol,
    )
    incidents = newest_incidents().where(
        Incident.market == market.name, Incident.interval == str(interval), Incident.symbol == instrument.symbol
    )
    with ledger.read() as session:
        found = Detail(
            runs=list(session.scalars(runs.order_by(IngestionRun.started_at.desc(), IngestionRun.id).limit(NEWEST))),
            incidents=list(session.scalars(incidents.limit(NEWEST))),
        )
        session.expunge_all()
    return found


def bars(
    reader: Reader, market: Market, instrument: Instrument, interval: Interval, newest_us: int, count: int
) -> list[dict[str, Any]]:
    """Return the newest bars up to a bucket, oldest first: `bucket_start` and the five values. Raises LakeError."""
    # Sessions are a quarter of the week's minutes and days off come in fours: wide enough for any calendar.
    reach = count * interval.step_us * (1 if market.always_open else 6) + 5 * DAY_US
    table = reader.bars(market.name, interval, instrument.symbol, newest_us - reach, newest_us + 1)
    return list(table.select(["bucket_start", *VALUE_COLUMNS]).slice(max(0, table.num_rows - count)).to_pylist())


def candles(reader: Reader, market: Market, instrument: Instrument, interval: Interval, count: int) -> dict[str, Any]:
    """Return the newest bars as columns: `time` in seconds since the epoch, and the five values. Raises LakeError."""
    there = newest_number(reader) != NO_LAKE
    newest = reader.newest(market.name, interval, instrument.symbol) if there else -1
    found = [] if newest < 0 else bars(reader, market, instrument, interval, newest, count)
    return {
        "time": [int(row["bucket_start"].timestamp()) for row in found],
        **{name: [row[name] for row in found] for name in VALUE_COLUMNS},
    }


def _newest(
    reader: Reader, table: str, columns: str, order: str, of: Sequence[str]
) -> tuple[list[dict[str, Any]], int]:
    """Return the newest rows of a shared table about one series, and how many there are in all."""
    rows = reader.query(
        f"SELECT {columns}, count(*) OVER () AS total FROM lake.{table}"
        f" WHERE market = ? AND interval = ? AND symbol = ? ORDER BY {order} LIMIT {NEWEST}",
        of,
    ).to_pylist()
    return rows, rows[0]["total"] if rows else 0
