"""The verdicts on a table: five pure functions from what was measured to what a check says.

A verdict carries the worst offenders as rows, because a person will have to act on it. Measuring is `verify` and
`report`; telling Dagster is `checks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ohlcv_pipeline.bars.freshness import Freshness
from ohlcv_pipeline.bars.report import Entry

WORST = 20
"""How many offenders a verdict names; `total` counts them all."""

Severity = Literal["WARN", "ERROR"]


@dataclass(frozen=True)
class Verdict:
    """What one check says of one table."""

    check: str
    passed: bool
    summary: str
    severity: Severity = "ERROR"
    numbers: Mapping[str, int | float] = field(default_factory=dict)
    offenders: Sequence[Mapping[str, Any]] = ()


def _verdict(
    check: str,
    good: str,
    bad: str,
    offenders: Sequence[Mapping[str, Any]],
    numbers: Mapping[str, int | float],
    severity: Severity = "ERROR",
) -> Verdict:
    return Verdict(
        check=check,
        passed=not offenders,
        summary=bad if offenders else good,
        severity=severity,
        numbers={**numbers, "offenders": len(offenders)},
        offenders=list(offenders)[:WORST],
    )


def schema_verdict(
    expected: Mapping[str, str], actual: Mapping[str, str], violations: Sequence[Mapping[str, Any]], rows: int
) -> Verdict:
    """Judge the table's columns (name → SQL type) and the bars that break the frame's rules."""
    columns = [
        {"column": name, "rule": f"is {expected.get(name, 'not a column')}", "found": actual.get(name, "missing")}
        for name in sorted({*expected, *actual})
        if expected.get(name) != actual.get(name)
    ]
    return _verdict(
        "schema",
        f"{rows:,} bars have the columns and keep the rules",
        f"{len(columns)} columns differ and {len(violations)} bars break a rule",
        [*columns, *violations],
        {"rows": rows},
    )


def checksum_verdict(
    mismatched: Sequence[Mapping[str, Any]], unreadable: Sequence[str], cells: int, rows: int
) -> Verdict:
    """Judge the cells whose stored bars do not hash to their manifest's checksum."""
    offenders = [
        {"symbol": row["symbol"], "partition": row["partition"], "manifest": row["checksum"], "actual": row["actual"]}
        for row in mismatched
    ]
    offenders += [{"symbol": "", "partition": text, "manifest": "", "actual": "unreadable"} for text in unreadable]
    return _verdict(
        "checksum",
        f"{cells:,} cells ({rows:,} bars) hash to their manifest",
        f"{len(offenders)} of {cells:,} cells do not hash to their manifest: something changed the stored bars",
        offenders,
        {"cells": cells, "rows": rows},
    )


def duplicates_verdict(repeated: Sequence[Mapping[str, Any]], rows: int) -> Verdict:
    """Judge the buckets that are stored more than once."""
    return _verdict(
        "duplicates",
        f"no bucket stands twice among {rows:,} bars",
        f"{len(repeated)} buckets are stored more than once",
        repeated,
        {"rows": rows},
    )


def gaps_verdict(entries: Sequence[Entry], coverage_error_pct: float) -> Verdict:
    """Judge the expected buckets that are missing: WARN, or ERROR where a symbol's coverage is below the limit."""
    offenders = [
        {
            "symbol": entry.symbol,
            "missing": gap["missing"],
            "first": gap["range_start"],
            "last": gap["range_end"],
            "coverage_pct": entry.coverage_pct,
        }
        for entry in entries
        for gap in entry.as_json()["gaps"]
    ]
    offenders.sort(key=lambda row: -row["missing"])
    covered = [entry.coverage_pct for entry in entries if entry.coverage_pct is not None]
    lowest = min(covered, default=100.0)
    expected = sum(entry.expected_rows for entry in entries)
    lost = sum(entry.missing_rows for entry in entries)
    return _verdict(
        "gaps",
        f"every one of {expected:,} expected bars is stored or known to be without trades",
        f"{lost:,} of {expected:,} expected bars are missing in {len(offenders)} gaps; lowest coverage {lowest} %",
        offenders,
        {"expected": expected, "missing": lost, "lowest_coverage_pct": lowest},
        "ERROR" if lowest < coverage_error_pct else "WARN",
    )


def freshness_verdict(lags: Mapping[str, Freshness], threshold_minutes: float) -> Verdict:
    """Judge how far each symbol is behind, in market time."""
    offenders: list[Mapping[str, Any]] = [
        {"symbol": symbol, "lag_minutes": None if lag.lag_minutes is None else round(lag.lag_minutes, 1)}
        for symbol, lag in lags.items()
        if lag.stale
    ]
    offenders.sort(key=lambda row: -(row["lag_minutes"] or float("inf")))
    worst = max((lag.lag_minutes for lag in lags.values() if lag.lag_minutes is not None), default=0.0)
    return _verdict(
        "freshness",
        f"no symbol is more than {threshold_minutes:g} minutes of market time behind",
        f"{len(offenders)} of {len(lags)} symbols are more than {threshold_minutes:g} minutes of market time behind",
        offenders,
        {"worst_lag_minutes": round(worst, 1), "threshold_minutes": threshold_minutes},
        "WARN",
    )
