"""Publishing a batch: judged bars become inserts, revisions, manifest rows and quarantine in one transaction.

The comparison with what is stored is `merge`, the transaction `lake.writer`. After the commit every cell is read
back and hashed: what is not in the lake as it was meant to be is an error, not a hope.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ohlcv_pipeline.bars.causes import Mark
from ohlcv_pipeline.bars.checksum import CHECKSUM_VERSION, checksum, records
from ohlcv_pipeline.bars.marks import Absences, Marker
from ohlcv_pipeline.bars.merge import Account, Merged, Series, merge
from ohlcv_pipeline.bars.planning import Order
from ohlcv_pipeline.bars.revisions import Replaced, causes, restored, superseded
from ohlcv_pipeline.bars.schema import Delivery, Finding, Judged, Reason
from ohlcv_pipeline.bars.verify import mismatches, read_cells, still_claimed
from ohlcv_pipeline.frames import TIMESTAMP, VALUE_COLUMNS, Micros, micros
from ohlcv_pipeline.lake.catalog import LakeError
from ohlcv_pipeline.lake.raw import RawObject
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline.lake.tables import ABSENT_BUCKETS, BAR_REVISIONS, LOOKS, MANIFEST, QUARANTINE, STORED_BARS
from ohlcv_pipeline.lake.writer import Changes, Scope, Stored
from ohlcv_pipeline.markets import Instrument, from_us, to_us

_NONE = np.empty(0, np.int64)


@dataclass(frozen=True)
class Offer:
    """What was collected of one symbol: judged bars, where they came from, and what is still without a bar.

    `no_trades` and `unanswered` are expected buckets in µs: proven empty, and asked for in vain.
    """

    instrument: Instrument
    judged: Judged
    deliveries: Sequence[Delivery]
    no_trades: Micros
    unanswered: Micros


def stored_form(symbol: str, judged: Judged, deliveries: Sequence[Delivery], run_id: str, at: datetime) -> pa.Table:
    """Return judged bars of one symbol with the columns that tell where they came from, and since when."""
    n = judged.bars.num_rows
    source = pa.array(judged.source)
    vendors = pa.array([d.vendor for d in deliveries], pa.string())
    fetched = pa.array([d.fetched_at for d in deliveries], TIMESTAMP)
    return pa.Table.from_arrays(
        [
            _constant(symbol, n),
            *judged.bars.columns,
            vendors.take(source),
            fetched.take(source),
            _constant(run_id, n),
            pa.repeat(pa.scalar(at, TIMESTAMP), n),
        ],
        schema=STORED_BARS,
    )


@dataclass
class Published:
    """Rows written, and the symbols whose prices all moved by one factor and were therefore not."""

    rows: int = 0
    shifted: list[str] = field(default_factory=list)


def publish(
    order: Order,
    store: Store,
    partitions: Sequence[str],
    offers: Sequence[Offer],
    answers: Sequence[RawObject],
    now: datetime,
    decided: pa.Table | None = None,
) -> Published:
    """Publish the offers into the cells of these partitions, and prove it.

    Publishing the same offers again changes nothing and writes nothing. `decided` are rows of the quarantine whose
    decision commits with the bars. Raises LakeError.
    """
    decision = Decision(order, partitions, now)
    scope = Scope(
        market=order.market.name,
        interval=order.interval,
        symbols=[offer.instrument.symbol for offer in offers],
        partitions=partitions,
        start_us=min(start for start, _ in decision.bounds.values()),
        end_us=max(end for _, end in decision.bounds.values()),
    )
    rulings = QUARANTINE.empty_table() if decided is None else decided
    changes = store.writer.publish(
        scope, lambda stored: replace(decision.changes(stored, offers), decided=rulings), answers, now
    )
    if changes and decision.touched:
        touched = pa.Table.from_pylist(decision.touched, MANIFEST)
        stored = read_cells(store.reader, order.market, order.interval, touched)
        damaged = mismatches(stored, order.market, order.interval, touched)
        if damaged := still_claimed(store.reader, order.market, order.interval, damaged):
            cells = ", ".join(f"{row['symbol']} {row['partition']}" for row in damaged)
            raise LakeError(f"published bars read back with another checksum: {cells}")
    return Published(changes.inserted.num_rows, decision.shifted)


class Decision:
    """What a batch of offers changes, given the stored state; asked again after a conflict.

    `touched` are the manifest rows, new or standing, of the cells whose bars it changes: what to read back.
    """

    def __init__(self, order: Order, partitions: Sequence[str], now: datetime) -> None:
        self.order = order
        self.now = now
        self.bounds = {key: order.market.partition_bounds(order.interval, key) for key in partitions}
        self.ends = {key: order.market.partition_end(order.interval, key) for key in partitions}
        self.marker = Marker(order, self.bounds, now)
        self.expected: dict[tuple[str, datetime | None, datetime | None], int] = {}
        self.shifted: list[str] = []
        self.touched: list[dict[str, Any]] = []

    def changes(self, stored: Stored, offers: Sequence[Offer]) -> Changes:
        """Return what the offers change."""
        self.shifted, self.touched = [], []
        bars, absent = _by_symbol(stored.bars), _by_symbol(stored.absent)
        cells = {(row["symbol"], row["partition"]): row for row in stored.manifest.to_pylist()}
        inserted, outgoing = [], []
        manifest: list[dict[str, Any]] = []
        new_absent: list[dict[str, Any]] = []
        old_absent: list[dict[str, Any]] = []
        looks: list[dict[str, Any]] = []
        findings: list[dict[str, Any]] = []
        # In the order of the table, so that its files need no sorting.
        for offer in sorted(offers, key=lambda each: each.instrument.symbol):
            symbol = offer.instrument.symbol
            held = bars.get(symbol, stored.bars.slice(0, 0))
            formed = stored_form(symbol, offer.judged, offer.deliveries, self.order.run_id, stored.next_at)
            offered = _without(self._inside(formed), _standing_releases(offer, stored.released))
            merged = merge(held, offered, self._rank, force=self.order.force)
            findings += [self._finding(symbol, finding) for finding in offer.judged.findings]
            if merged.shifted:
                self.shifted.append(symbol)
                findings += [self._finding(symbol, finding) for finding in _shift_findings(offer)]
                continue
            absences = self.marker.of(
                symbol,
                offer.deliveries,
                no_trades=offer.no_trades,
                unanswered=offer.unanswered,
                present=micros(merged.bars["bucket_start"]),
                before=absent.get(symbol, stored.absent.slice(0, 0)),
            )
            new_absent += absences.added
            old_absent += absences.removed
            looks += absences.looks
            series = Series.of(symbol, self.order.interval, merged.bars)
            came, went = micros(merged.inserted["bucket_start"]), micros(merged.superseded["bucket_start"])
            coming = merged.inserted
            for key, (start, end) in self.bounds.items():
                before = cells.get((symbol, key))
                row = self._manifest_row(offer, key, series, absences, before)
                comes, goes = _any_within(came, start, end), _any_within(went, start, end)
                differs = row is not None and before is not None and row["checksum"] != before["checksum"]
                damaged = (comes or goes or differs) and before is not None and self._damaged(held, key, before)
                # What was not delivered again is proven by nothing: the cell stays what was published, and red.
                unproven = damaged and differs and not _all_among(_between(merged.bars, start, end), offered)
                if unproven:
                    row = None
                if row is not None:
                    manifest.append(row)
                if goes:
                    outgoing.append(self._superseded(merged, key, before, stored.next_at, damaged=damaged))
                if damaged and before is not None and (row or before)["checksum"] == before["checksum"]:
                    coming = restored(coming, _between(held, start, end), start, end, before["fetched_at"])
                standing = row or before
                if standing is not None and (row is not None or comes) and not unproven:
                    self.touched.append(standing)
            inserted.append(coming)
        return Changes(
            inserted=pa.concat_tables([STORED_BARS.empty_table(), *inserted]),
            superseded=pa.concat_tables([BAR_REVISIONS.empty_table(), *outgoing]),
            manifest=pa.Table.from_pylist(manifest, MANIFEST),
            absent=pa.Table.from_pylist(new_absent, ABSENT_BUCKETS),
            present=pa.Table.from_pylist(old_absent, ABSENT_BUCKETS),
            looks=pa.Table.from_pylist(looks, LOOKS),
            quarantine=pa.Table.from_pylist(findings, QUARANTINE),
        )

    def _rank(self, vendor: str) -> int:
        order = self.order.market.vendors
        return order.index(vendor) if vendor in order else len(order)

    def _inside(self, bars: pa.Table) -> pa.Table:
        """Leave out bars of partitions that are not published: a look around a hole at midnight brings some."""
        starts = micros(bars["bucket_start"])
        bounds = np.array(sorted(self.bounds.values()))
        at = np.searchsorted(bounds[:, 0], starts, side="right") - 1
        inside = (at >= 0) & (starts < bounds[at, 1])
        return bars if inside.all() else bars.filter(pa.array(inside))

    def _manifest_row(
        self, offer: Offer, key: str, series: Series, absences: Absences, before: dict[str, Any] | None
    ) -> dict[str, Any] | None:
        """Return the cell's new manifest row, None when it stays as it is."""
        start, end = self.bounds[key]
        delay = self.order.market.publish_delay[self.order.interval]
        measured = series.account(
            start,
            end,
            expected=self._expected(offer.instrument, key),
            no_trades=absences.count(Mark.NO_TRADES, start, end),
            unfillable=absences.count(Mark.UNFILLABLE, start, end),
            ended=self.ends[key] <= to_us(self.now - delay),
        )
        if before is None and not measured.expected_rows and not measured.rows:
            return None
        row = self._cell(offer.instrument.symbol, key) | _columns(measured)
        if before is not None and all(before[name] == value for name, value in row.items()):
            return None
        changed = before is None or before["checksum"] != measured.checksum
        came_from = [d.raw_id for d in offer.deliveries if d.start_us < end and d.end_us > start]
        return row | {
            "checksum_version": CHECKSUM_VERSION,
            "raw_ids": sorted({*(before["raw_ids"] if before else ()), *came_from}),
            "run_id": self.order.run_id if before is None or changed else before["run_id"],
            "revision": (before["revision"] if before else 0) + int(changed),
            "fetched_at": self.now if before is None or changed else before["fetched_at"],
        }

    def _expected(self, instrument: Instrument, key: str) -> int:
        """Return how many buckets are expected of a cell; the same for all symbols that are listed throughout."""
        known = key, instrument.listing_start, instrument.delisted_at
        if known not in self.expected:
            buckets = self.order.market.expected(self.order.interval, instrument, *self.bounds[key], to_us(self.now))
            self.expected[known] = len(buckets)
        return self.expected[known]

    def _damaged(self, held: pa.Table, key: str, before: dict[str, Any]) -> bool:
        """Return whether a cell's stored bars are not those that its manifest row speaks of."""
        bars = _between(held, *self.bounds[key])
        return checksum(before["symbol"], self.order.interval, records(bars)) != str(before["checksum"])

    def _superseded(
        self, merged: Merged, key: str, before: dict[str, Any] | None, at: datetime, *, damaged: bool
    ) -> pa.Table:
        """Return the cell's replaced bars as rows of the revision history."""
        went = _between(merged.superseded, *self.bounds[key])
        why = [Replaced.REPAIR] * went.num_rows if damaged else causes(went, merged.inserted, self._rank)
        revision = before["revision"] if before else 0
        return superseded(went, self.order.market.name, self.order.interval, revision, at, self.order.run_id, why)

    def _finding(self, symbol: str, finding: Finding) -> dict[str, Any]:
        market, bucket = self.order.market, finding.bucket_start
        keys = [] if bucket is None else market.partition_keys(self.order.interval, bucket, bucket + 1)
        return self._cell(symbol, keys[0] if keys else None) | {
            "bucket_start": None if bucket is None else from_us(bucket),
            "reason": str(finding.reason),
            "published": finding.published,
            "raw": finding.raw,
            "vendor": finding.vendor,
            "raw_id": finding.raw_id,
            "run_id": self.order.run_id,
            "quarantined_at": self.now,
        }

    def _cell(self, symbol: str, key: str | None) -> dict[str, Any]:
        return {
            "market": self.order.market.name,
            "interval": str(self.order.interval),
            "symbol": symbol,
            "partition": key,
        }


def _columns(measured: Account) -> dict[str, Any]:
    def instant(us: int | None) -> datetime | None:
        return None if us is None else from_us(us)

    return {
        "rows": measured.rows,
        "expected_rows": measured.expected_rows,
        "no_trades_rows": measured.no_trades_rows,
        "unfillable_rows": measured.unfillable_rows,
        "first_bucket": instant(measured.first_bucket),
        "last_bucket": instant(measured.last_bucket),
        "checksum": measured.checksum,
        "vendor": measured.vendor,
        "complete": measured.complete,
    }


def _shift_findings(offer: Offer) -> list[Finding]:
    judged = offer.judged
    rows = judged.bars.select(VALUE_COLUMNS).to_pylist()
    return [
        Finding(
            bucket, Reason.RATIO_SHIFT, json.dumps(row), False, offer.deliveries[at].vendor, offer.deliveries[at].raw_id
        )
        for bucket, row, at in zip(
            micros(judged.bars["bucket_start"]).tolist(), rows, judged.source.tolist(), strict=True
        )
    ]


def _standing_releases(offer: Offer, released: pa.Table) -> Micros:
    """Return the buckets whose released row the vendor sends again beside the bar it was released against.

    It then has said nothing new, and the decision stands.
    """
    if not released.num_rows:
        return _NONE
    rows = released.filter(pc.equal(released["symbol"], offer.instrument.symbol))
    decided = set(zip(micros(rows["bucket_start"]).tolist(), rows["raw"].to_pylist(), strict=True))
    said = {(finding.bucket_start, finding.raw) for finding in offer.judged.findings}
    return np.array(sorted(bucket for bucket, _ in decided & said), np.int64)


def _without(bars: pa.Table, buckets: Micros) -> pa.Table:
    return bars.filter(pa.array(~np.isin(micros(bars["bucket_start"]), buckets))) if len(buckets) else bars


def _constant(value: str, n: int) -> pa.Array:
    return pa.repeat(pa.scalar(value, pa.string()), n)


def _by_symbol(table: pa.Table) -> dict[str, pa.Table]:
    """Split a table that is sorted by symbol, without copying it."""
    if not table.num_rows:
        return {}
    table = table.sort_by("symbol") if table.schema.equals(ABSENT_BUCKETS) else table
    symbols = table["symbol"].to_numpy()
    first = np.flatnonzero(np.append(True, symbols[1:] != symbols[:-1]))
    lengths = np.diff(np.append(first, len(symbols)))
    return {symbols[i]: table.slice(i, n) for i, n in zip(first.tolist(), lengths.tolist(), strict=True)}


def _between(bars: pa.Table, start: int, end: int) -> pa.Table:
    lo, hi = np.searchsorted(micros(bars["bucket_start"]), [start, end])
    return bars.slice(lo, hi - lo)


def _any_within(buckets: Micros, start: int, end: int) -> bool:
    lo, hi = np.searchsorted(buckets, [start, end])
    return bool(hi > lo)


def _all_among(bars: pa.Table, offered: pa.Table) -> bool:
    return bool(np.isin(micros(bars["bucket_start"]), micros(offered["bucket_start"])).all())
