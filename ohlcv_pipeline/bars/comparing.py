"""What is compared: the minutes with the days they make up, and stored bars with those of a second vendor.

Frames are read and fetched here and judged by `reconcile`; the tolerances of both comparisons stand here. Nothing is
stored: a comparison is evidence, and what follows from it is for a person, or a forced backfill, to decide.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from ohlcv_pipeline.bars.quality import WORST, Severity, Verdict
from ohlcv_pipeline.bars.reconcile import Comparison, Finding, Judgement, Tolerances, compare
from ohlcv_pipeline.bars.rollup import roll_up_sessions
from ohlcv_pipeline.bars.schema import Delivery, judge
from ohlcv_pipeline.frames import floats, micros
from ohlcv_pipeline.lake.reader import Reader
from ohlcv_pipeline.markets import Instrument, Interval, Market, from_us, to_us
from ohlcv_pipeline.vendors.base import Page
from ohlcv_pipeline.vendors.errors import VendorError
from ohlcv_pipeline.vendors.failover import Source

CELLS = 12
"""How many cells a nightly comparison asks of a second vendor: a quarter of Tiingo's free requests of an hour."""

DEADLINE_SECONDS = 120.0
"""After that long the cells that are left are not asked any more."""

EQUAL = 1e-9
"""The same number, written by two services."""


def rollup_tolerances(market: Market) -> Tolerances:
    """Return how far the days of a market may be from its minutes.

    Without sessions both are made of the same trades. With them a day also counts the auctions, odd lots and what is
    traded outside the session: its volume is larger, by up to a third of the minutes', its range may be a little
    wider, and its close may be that of the closing auction.
    """
    if market.always_open:
        return Tolerances(EQUAL, EQUAL, EQUAL, EQUAL, volume=(0.999, 1.001))
    return Tolerances(EQUAL, 0.005, 0.005, EQUAL, volume=(0.75, 1 + EQUAL), auction=0.002)


def vendor_tolerances(market: Market, interval: Interval) -> Tolerances:
    """Return how far two vendors may be apart.

    Days of an exchange have one official open and close. Minutes, and the days of coins, come from venues of their
    own. Volumes are never compared: each vendor counts those of its venues. Minutes that only we have prove nothing
    about a vendor that leaves out those without a trade.
    """
    if interval is Interval.DAY and not market.always_open:
        return Tolerances(0.001, 0.005, 0.005, 0.001)
    whole = interval is Interval.DAY
    return Tolerances(0.005, 0.005, 0.005, 0.005, stale_run=3 if whole else 10, theirs_complete=whole)


@dataclass(frozen=True)
class Compared:
    """One comparison: of whom, from when to when, and who told what. `ours` and `theirs` name the two sides."""

    symbol: str
    partition: str
    ours: str
    theirs: str
    comparison: Comparison


@dataclass
class Reconciliation:
    """All comparisons of one kind. `unanswered` are cells that no second vendor could tell of, with the reason."""

    check: str
    compared: list[Compared] = field(default_factory=list)
    unanswered: list[dict[str, str]] = field(default_factory=list)

    @property
    def findings(self) -> list[tuple[Compared, Finding]]:
        """Every difference with its comparison, the gravest first."""
        every = [(each, finding) for each in self.compared for finding in each.comparison.findings]
        return sorted(every, key=lambda pair: (pair[1].severity != "ERROR", -pair[1].bars, pair[0].symbol))

    def rows(self) -> list[dict[str, Any]]:
        """Return the differences as rows of a table."""
        return [
            {
                "symbol": each.symbol,
                "partition": each.partition,
                "verdict": str(finding.judgement),
                "severity": finding.severity,
                "bars": finding.bars,
                "first": _text(finding.first_us),
                "last": _text(finding.last_us),
                "field": finding.field,
                "ours": finding.ours,
                "theirs": finding.theirs,
                "vendors": f"{each.ours} / {each.theirs}",
                "factor": None if finding.factor is None else round(finding.factor, 6),
                "side": {"ours": each.ours, "theirs": each.theirs}.get(finding.side or "", ""),
            }
            for each, finding in self.findings
        ]

    def verdict(self) -> Verdict:
        """Return what a check says of it: ERROR where an adjustment basis or a unit differs, else WARN."""
        counts = Counter(each.comparison.judgement for each in self.compared)
        rows = self.rows()
        severity: Severity = "ERROR" if any(finding.severity == "ERROR" for _, finding in self.findings) else "WARN"
        bars = sum(each.comparison.compared for each in self.compared)
        told = ", ".join(f"{count} {judgement}" for judgement, count in sorted(counts.items()))
        return Verdict(
            check=self.check,
            passed=not rows,
            summary=f"{bars:,} bars were compared: {told or 'none'}",
            severity=severity,
            numbers={
                "bars": bars,
                **{str(judgement): counts[judgement] for judgement in Judgement},
                "auctions": sum(each.comparison.auctions for each in self.compared),
                "unanswered": len(self.unanswered),
                "offenders": len(rows),
            },
            offenders=rows[:WORST],
        )


def _text(us: int) -> str:
    return f"{from_us(us):%Y-%m-%dT%H:%MZ}"


def compare_rollups(
    reader: Reader, market: Market, instruments: Sequence[Instrument], start_us: int, end_us: int
) -> Reconciliation:
    """Compare each session whose minutes are complete with its day bar, symbol by symbol. Raises LakeError.

    The newest sessions, of which days have not been published yet, wait. Where minutes and days of a session come
    from different vendors, their volumes are not compared.
    """
    found = Reconciliation("rollup")
    sessions = market.partition_keys(Interval.MINUTE, start_us, end_us)
    symbols = [each.symbol for each in instruments]
    cells = reader.manifest(market.name, Interval.MINUTE, symbols, sessions).to_pylist()
    months = reader.manifest(market.name, Interval.DAY, symbols).select(["symbol", "partition", "vendor"]).to_pylist()
    of_month = {(row["symbol"], row["partition"]): row["vendor"] for row in months}
    newest = reader.newest_of_each(market.name, Interval.DAY)
    for symbol in symbols:
        own = {
            _label(market, row["partition"]): row["vendor"]
            for row in cells
            if row["symbol"] == symbol and row["complete"]
        }
        own = {label: vendor for label, vendor in own.items() if label <= newest.get(symbol, -1)}
        if not own:
            continue
        labels = np.array(sorted(own), np.int64)
        first, last = (int(labels[edge]) for edge in (0, -1))
        window = market.partition_bounds(Interval.MINUTE, _date(first))[0], _closes(market, last)
        minutes = reader.bars(market.name, Interval.MINUTE, symbol, *window)
        days = reader.bars(market.name, Interval.DAY, symbol, first, last + 1)
        foreign = [label for label in own if own[label] != of_month.get((symbol, _date(label)[:7]))]
        rolled = _at(roll_up_sessions(minutes, market.calendar), labels)
        comparison = compare(
            _without_volume(rolled, np.array(foreign, np.int64)), _at(days, labels), rollup_tolerances(market)
        )
        found.compared.append(Compared(symbol, f"{_date(first)} … {_date(last)}", "minutes", "days", comparison))
    return found


def _label(market: Market, key: str) -> int:
    return int(market.calendar.labels[market.calendar.session_index(datetime.fromisoformat(key).date())])


def _date(label: int) -> str:
    return f"{from_us(label):%Y-%m-%d}"


def _closes(market: Market, label: int) -> int:
    return market.partition_bounds(Interval.MINUTE, _date(label))[1]


def _at(bars: pa.Table, labels: Any) -> pa.Table:
    return bars.filter(pa.array(np.isin(micros(bars["bucket_start"]), labels)))


def _without_volume(bars: pa.Table, labels: Any) -> pa.Table:
    """Return the bars with NaN as the volume of some."""
    volume = np.where(np.isin(micros(bars["bucket_start"]), labels), np.nan, floats(bars["volume"]))
    at = bars.schema.get_field_index("volume")
    return bars.set_column(at, bars.schema.field(at), pa.array(volume))


def sampled(cells: Sequence[Mapping[str, Any]], salt: str, most: int) -> list[Mapping[str, Any]]:
    """Return at most so many cells, the same for the same salt, ordered by a hash of salt, symbol and partition."""

    def place(cell: Mapping[str, Any]) -> str:
        return hashlib.sha256(f"{salt}|{cell['symbol']}|{cell['partition']}".encode()).hexdigest()

    return sorted(cells, key=place)[:most]


async def compare_vendors(
    reader: Reader,
    market: Market,
    interval: Interval,
    instruments: Sequence[Instrument],
    start_us: int,
    end_us: int,
    sources: Mapping[str, Source],
    now: datetime,
    most: int = CELLS,
    deadline_seconds: float = DEADLINE_SECONDS,
) -> Reconciliation:
    """Ask a second vendor for a sample of complete cells and compare what it tells with what is stored.

    The sample is the same all day and another one tomorrow. Cells of which no other vendor of the market serves the
    whole are not drawn. Raises LakeError.
    """
    found = Reconciliation("cross_vendor")
    by_symbol = {each.symbol: each for each in instruments}
    keys = market.partition_keys(interval, start_us, end_us)
    drawn: list[tuple[Mapping[str, Any], str]] = []
    manifest = reader.manifest(market.name, interval, list(by_symbol), keys).to_pylist()
    complete = [row for row in manifest if row["complete"] and row["rows"]]
    for cell in sampled(complete, f"{market.name}|{interval}|{now:%Y-%m-%d}", len(complete)):
        other = _second(market, interval, cell, by_symbol[cell["symbol"]], sources, to_us(now))
        if other is not None and len(drawn) < most:
            drawn.append((cell, other))
    left = list(drawn)
    try:
        async with asyncio.timeout(deadline_seconds):
            while left:
                cell, other = left[0]
                await _compare_cell(reader, market, interval, by_symbol, cell, sources[other], to_us(now), found)
                left.pop(0)
    except TimeoutError:
        found.unanswered += [_unanswered(cell, other, "deadline") for cell, other in left]
    return found


def _second(
    market: Market,
    interval: Interval,
    cell: Mapping[str, Any],
    instrument: Instrument,
    sources: Mapping[str, Source],
    now_us: int,
) -> str | None:
    """Return the first vendor, but for the one whose bars are stored, that has raw prices of the whole cell."""
    bounds = market.partition_bounds(interval, cell["partition"])
    for name in market.vendors:
        if name == cell["vendor"] or name not in sources or name not in instrument.vendor_symbols:
            continue
        adapter = sources[name].adapter
        if adapter.raw_prices and adapter.serves(interval, *bounds, now_us) == bounds and cell["vendor"] != "mixed":
            return name
    return None


async def _compare_cell(
    reader: Reader,
    market: Market,
    interval: Interval,
    by_symbol: Mapping[str, Instrument],
    cell: Mapping[str, Any],
    source: Source,
    now_us: int,
    found: Reconciliation,
) -> None:
    symbol, name = cell["symbol"], source.adapter.name
    start_us, end_us = market.partition_bounds(interval, cell["partition"])
    spelling = by_symbol[symbol].vendor_symbols[name]
    try:
        pages = [
            await source.adapter.fetch(fetch, source.transport)
            for fetch in source.adapter.plan(symbol, spelling, interval, start_us, end_us)
        ]
    except VendorError as error:
        found.unanswered.append(_unanswered(cell, name, str(error.code)))
        return
    theirs = judge([_delivery(page) for page in pages], market, interval, now_us).bars
    ours = await asyncio.to_thread(reader.bars, market.name, interval, symbol, start_us, end_us)
    comparison = compare(ours, theirs, vendor_tolerances(market, interval))
    found.compared.append(Compared(symbol, cell["partition"], cell["vendor"], name, comparison))


def _delivery(page: Page) -> Delivery:
    return Delivery(
        bars=page.bars,
        start_us=page.fetch.start_us,
        end_us=page.fetch.end_us,
        vendor=page.fetch.vendor,
        raw_id=page.answers[-1].id,
        fetched_at=page.answers[-1].received_at,
    )


def _unanswered(cell: Mapping[str, Any], vendor: str, code: str) -> dict[str, str]:
    return {"symbol": cell["symbol"], "partition": cell["partition"], "vendor": vendor, "code": code}
