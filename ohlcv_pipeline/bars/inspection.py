"""Measuring a table for its checks: one pass over the bars serves schema, checksum and duplicates alike.

What the measurements mean is `quality`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pandera.errors
import pyarrow as pa

from ohlcv_pipeline.bars.freshness import Freshness, freshness
from ohlcv_pipeline.bars.quality import (
    Verdict,
    checksum_verdict,
    duplicates_verdict,
    freshness_verdict,
    gaps_verdict,
    schema_verdict,
)
from ohlcv_pipeline.bars.report import report
from ohlcv_pipeline.bars.schema import BarFrame
from ohlcv_pipeline.bars.verify import verify
from ohlcv_pipeline.frames import VALUE_COLUMNS, floats, micros
from ohlcv_pipeline.lake.reader import Reader
from ohlcv_pipeline.lake.tables import STORED_BARS, sql_types
from ohlcv_pipeline.markets import Instrument, Interval, Market, from_us, to_us

CHECKS = ("schema", "checksum", "gaps", "duplicates", "freshness")
_NEED_BARS = {"schema", "checksum", "duplicates"}


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
) -> list[Verdict]:
    """Return the verdict of each check named, on these symbols of these partitions; freshness on the whole table.

    Raises LakeError: a lake that cannot be reached is no bad data.
    """
    verdicts: list[Verdict] = []
    if _NEED_BARS & set(checks):
        violations: list[dict[str, Any]] = []
        repeated: list[dict[str, Any]] = []

        def examine(bars: pa.Table, total: int) -> None:
            violations.extend(rule_violations(bars))
            repeated.extend(repeated_buckets(bars))

        symbols = [instrument.symbol for instrument in instruments]
        verified = verify(reader, market, interval, symbols, partitions, on_chunk=examine)
        verdicts += [
            schema_verdict(sql_types(STORED_BARS), reader.columns(market.name, interval), violations, verified.rows),
            checksum_verdict(verified.mismatched, verified.unreadable, verified.cells, verified.rows),
            duplicates_verdict(repeated, verified.rows),
        ]
    if "gaps" in checks and partitions:
        bounds = [market.partition_bounds(interval, key) for key in partitions]
        start, end = min(b[0] for b in bounds), max(b[1] for b in bounds)
        entries = report(reader, market, interval, instruments, start, end, now)
        verdicts.append(gaps_verdict(entries, coverage_error_pct))
    if "freshness" in checks:
        lags = lag_of_each(reader, market, interval, instruments, now, threshold_minutes)
        verdicts.append(freshness_verdict(lags, threshold_minutes))
    return [verdict for verdict in verdicts if verdict.check in checks]


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


def rule_violations(bars: pa.Table) -> list[dict[str, Any]]:
    """Return the stored bars that break a rule of `BarFrame`, with the rule and the value.

    A vectorised sieve finds the suspects; the frame's model, which is slower by far, names what is wrong with them.
    """
    try:
        BarFrame.validate(bars.filter(pa.array(_suspects(bars))).to_pandas(), lazy=True)
    except pandera.errors.SchemaErrors as errors:
        cases = errors.failure_cases
        return [
            {"column": str(case.column), "rule": str(case.check), "found": str(case.failure_case)}
            for case in cases.itertuples()
        ]
    return []


def _suspects(bars: pa.Table) -> npt.NDArray[np.bool_]:
    open_, high, low, close, volume = (floats(bars[name]) for name in VALUE_COLUMNS)
    # Written so that NaN, which compares false with everything, is a suspect.
    sound = (low > 0) & (volume >= 0) & (low <= np.minimum(open_, close)) & (high >= np.maximum(open_, close))
    return ~(sound & np.isfinite(high) & np.isfinite(volume))


def repeated_buckets(bars: pa.Table) -> list[dict[str, Any]]:
    """Return the buckets that stand more than once in bars sorted by symbol and bucket."""
    symbols, starts = bars["symbol"].to_numpy(), micros(bars["bucket_start"])
    again = np.flatnonzero((starts[1:] == starts[:-1]) & (symbols[1:] == symbols[:-1]))
    return [{"symbol": symbols[i], "bucket_start": from_us(starts[i]).strftime("%Y-%m-%dT%H:%M:%SZ")} for i in again]
