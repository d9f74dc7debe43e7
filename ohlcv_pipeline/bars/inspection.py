"""Measuring a table for its checks: one pass over the bars serves every partition and every check.

What the measurements mean is `quality`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pandera.errors
import pyarrow as pa
import pyarrow.compute as pc

from ohlcv_pipeline.bars.causes import Mark
from ohlcv_pipeline.bars.freshness import Freshness, freshness
from ohlcv_pipeline.bars.gaps import common, gaps, missing, union
from ohlcv_pipeline.bars.planning import PENDING_TAIL
from ohlcv_pipeline.bars.quality import Judgement, Measured, differing_columns, freshness_verdict, verdicts
from ohlcv_pipeline.bars.report import coverage_pct
from ohlcv_pipeline.bars.schema import BarFrame
from ohlcv_pipeline.bars.verify import mismatches, readings, row_ranges, still_claimed
from ohlcv_pipeline.frames import VALUE_COLUMNS, Mask, Micros, floats, micros
from ohlcv_pipeline.lake.catalog import LakeError
from ohlcv_pipeline.lake.reader import Reader
from ohlcv_pipeline.lake.tables import STORED_BARS, sql_types
from ohlcv_pipeline.markets import Instrument, Interval, Market, from_us, span_us, to_us

BY_PARTITION = ("schema", "checksum", "gaps", "duplicates")
CHECKS = (*BY_PARTITION, "freshness")
_NEED_ALL_BARS = {"schema", "checksum", "duplicates"}
_NONE = np.empty(0, np.int64)


def inspect(
    reader: Reader,
    market: Market,
    interval: Interval,
    instruments: Sequence[Instrument],
    partitions: Sequence[str],
    now: datetime,
    threshold_minutes: float,
    coverage_error_pct: float,
    checks: Collection[str] = CHECKS,
) -> Judgement:
    """Return what the named checks say of these symbols of these partitions; freshness speaks of the whole table.

    Bars that cannot be read are bad data, and `checksum` says so. Raises LakeError: a lake that cannot be reached
    is none.
    """
    found = Judgement([], [])
    if partitions and set(checks) & set(BY_PARTITION):
        measured = _Pass(reader, market, interval, instruments, sorted(partitions), now).measure(
            only_gaps=not _NEED_ALL_BARS & set(checks)
        )
        columns = differing_columns(sql_types(STORED_BARS), reader.columns(market.name, interval))
        found = verdicts(measured, columns, coverage_error_pct)
    table = list(found.table)
    if "freshness" in checks:
        lags = lag_of_each(reader, market, interval, instruments, now, threshold_minutes)
        table.append(freshness_verdict(lags, threshold_minutes))
    return Judgement(
        [verdict for verdict in table if verdict.check in checks],
        [verdict for verdict in found.partitions if verdict.check in checks],
    )


class _Pass:
    """One pass over the bars of some partitions, which are in order."""

    def __init__(
        self,
        reader: Reader,
        market: Market,
        interval: Interval,
        instruments: Sequence[Instrument],
        partitions: Sequence[str],
        now: datetime,
    ) -> None:
        self.reader, self.market, self.interval = reader, market, interval
        self.instruments, self.now = instruments, now
        self.bounds = {key: market.partition_bounds(interval, key) for key in partitions}
        self.measured = {key: Measured() for key in partitions}
        self.present: dict[tuple[str, str], Micros] = {}

    def measure(self, only_gaps: bool) -> dict[str, Measured]:
        """Read every cell once, or for the gaps alone those that are not complete, and measure them."""
        symbols = [instrument.symbol for instrument in self.instruments]
        manifest = self.reader.manifest(self.market.name, self.interval, symbols, list(self.bounds))
        open_cells = manifest.filter(pc.invert(manifest["complete"]))
        for key in manifest["partition"].to_pylist():
            self.measured[key].cells += 1
        for rows, bars in readings(self.reader, self.market, self.interval, open_cells if only_gaps else manifest):
            if isinstance(bars, LakeError):
                key = rows["partition"][0].as_py()
                self.measured[key].unreadable.append(key)
                continue
            self._bars(rows, bars)
        self._gaps(manifest)
        return self.measured

    def _bars(self, rows: pa.Table, bars: pa.Table) -> None:
        for row in rows.select(["partition", "rows"]).to_pylist():
            self.measured[row["partition"]].rows += row["rows"]
        for row in still_claimed(
            self.reader, self.market, self.interval, mismatches(bars, self.market, self.interval, rows)
        ):
            self.measured[row["partition"]].mismatched.append(row)
        for bucket, violation in rule_violations(bars):
            self._of(bucket).violations.append(violation)
        for bucket, repeated in repeated_buckets(bars):
            self._of(bucket).repeated.append(repeated)
        starts, ranges = micros(bars["bucket_start"]), row_ranges(bars["symbol"])
        lacking = rows.filter(pc.invert(rows["complete"]))
        for symbol, key in zip(lacking["symbol"].to_pylist(), lacking["partition"].to_pylist(), strict=True):
            first, last = ranges.get(symbol, (0, 0))
            lo, hi = first + np.searchsorted(starts[first:last], self.bounds[key])
            self.present[symbol, key] = union(starts[lo:hi])

    def _of(self, bucket: int) -> Measured:
        keys = list(self.bounds)
        return self.measured[keys[np.searchsorted([start for start, _ in self.bounds.values()], bucket, "right") - 1]]

    def _gaps(self, manifest: pa.Table) -> None:
        rows = {(row["symbol"], row["partition"]): row for row in manifest.select(_COUNTS).to_pylist()}
        empty = self._without_trades([key for (_, key), row in rows.items() if not row["complete"]])
        for key, of in self.measured.items():
            for instrument in self.instruments:
                cell = (instrument.symbol, key)
                row = rows.get(cell)
                if row is not None and row["complete"]:
                    of.expected += row["expected_rows"]
                    continue
                expected = self.market.expected(self.interval, instrument, *self.bounds[key], to_us(self.now))
                if not len(expected):
                    continue
                of.expected += len(expected)
                if row is not None and cell not in self.present:
                    self._unseen(of, instrument.symbol, row)
                else:
                    self._holes(of, instrument.symbol, expected, self.present.get(cell, _NONE), empty.get(cell, _NONE))

    def _holes(self, of: Measured, symbol: str, expected: Micros, present: Micros, no_trades: Micros) -> None:
        """Add the runs of expected buckets without a bar; the youngest minutes may still come."""
        present, no_trades = common(present, expected), common(no_trades, expected)
        without = missing(expected, union(present, no_trades), self.interval)
        if self.interval is Interval.MINUTE:
            without = without[without < to_us(self.now) - span_us(PENDING_TAIL)]
        if not len(without):
            return
        coverage = coverage_pct(len(present), len(expected), len(no_trades))
        self._lost(of, len(without), coverage)
        of.holes += [
            {
                "symbol": symbol,
                "missing": gap.missing,
                "first": _iso(gap.first_us),
                "last": _iso(gap.last_us),
                "coverage_pct": coverage,
            }
            for gap in gaps(expected, without)
        ]

    def _unseen(self, of: Measured, symbol: str, row: dict[str, Any]) -> None:
        """Add what the manifest says is missing of bars that cannot be read; where, only the bars could tell."""
        lost = row["expected_rows"] - row["rows"] - row["no_trades_rows"]
        if lost > 0:
            coverage = coverage_pct(row["rows"], row["expected_rows"], row["no_trades_rows"])
            self._lost(of, lost, coverage)
            of.holes.append({"symbol": symbol, "missing": lost, "first": "", "last": "", "coverage_pct": coverage})

    def _lost(self, of: Measured, count: int, coverage: float | None) -> None:
        of.missing += count
        of.lowest_coverage = min(of.lowest_coverage, 100.0 if coverage is None else coverage)

    def _without_trades(self, keys: Sequence[str]) -> dict[tuple[str, str], Micros]:
        if not keys:
            return {}
        symbols = [instrument.symbol for instrument in self.instruments]
        absent = self.reader.absent(self.market.name, self.interval, symbols, sorted(set(keys)))
        absent = absent.filter(pc.equal(absent["cause"], str(Mark.NO_TRADES)))
        found: dict[tuple[str, str], list[int]] = {}
        for symbol, key, bucket in zip(
            absent["symbol"].to_pylist(),
            absent["partition"].to_pylist(),
            micros(absent["bucket_start"]).tolist(),
            strict=True,
        ):
            found.setdefault((symbol, key), []).append(bucket)
        return {cell: union(np.array(buckets, np.int64)) for cell, buckets in found.items()}


_COUNTS = ["symbol", "partition", "rows", "expected_rows", "no_trades_rows", "complete"]


def _iso(us: int) -> str:
    return from_us(us).strftime("%Y-%m-%dT%H:%M:%SZ")


def lag_of_each(
    reader: Reader,
    market: Market,
    interval: Interval,
    instruments: Sequence[Instrument],
    now: datetime,
    threshold_minutes: float,
) -> dict[str, Freshness]:
    """Return how far each symbol is behind."""
    newest = reader.newest_of_each(market.name, interval)
    return {
        instrument.symbol: freshness(
            market, interval, instrument, newest.get(instrument.symbol), to_us(now), threshold_minutes
        )
        for instrument in instruments
    }


def rule_violations(bars: pa.Table) -> Iterator[tuple[int, dict[str, Any]]]:
    """Return the stored bars that break a rule of `BarFrame`: the bucket in µs, and the rule with the value.

    A vectorised sieve finds the suspects; the frame's model, which is slower by far, names what is wrong with them.
    """
    suspects = bars.filter(pa.array(_suspects(bars)))
    try:
        BarFrame.validate(suspects.to_pandas(), lazy=True)
    except pandera.errors.SchemaErrors as errors:
        symbols, starts = suspects["symbol"].to_pylist(), micros(suspects["bucket_start"])
        for case in errors.failure_cases.itertuples():
            if case.column in ("symbol", "bucket_start"):
                continue
            at = 0 if pd.isna(case.index) else int(case.index)
            yield (
                int(starts[at]),
                {
                    "symbol": symbols[at],
                    "bucket_start": _iso(int(starts[at])),
                    "column": str(case.column),
                    "rule": str(case.check),
                    "found": str(case.failure_case),
                },
            )


def _suspects(bars: pa.Table) -> Mask:
    open_, high, low, close, volume = (floats(bars[name]) for name in VALUE_COLUMNS)
    # Written so that NaN, which compares false with everything, is a suspect.
    sound = (low > 0) & (volume >= 0) & (low <= np.minimum(open_, close)) & (high >= np.maximum(open_, close))
    return ~(sound & np.isfinite(high) & np.isfinite(volume))


def repeated_buckets(bars: pa.Table) -> Iterator[tuple[int, dict[str, Any]]]:
    """Return the buckets, in µs and by name, that stand more than once in bars sorted by symbol and bucket."""
    symbols, starts = bars["symbol"].to_numpy(), micros(bars["bucket_start"])
    for at in np.flatnonzero((starts[1:] == starts[:-1]) & (symbols[1:] == symbols[:-1])):
        yield int(starts[at]), {"symbol": symbols[at], "bucket_start": _iso(int(starts[at]))}
