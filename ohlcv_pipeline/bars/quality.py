"""The verdicts on a table: five pure functions from what was measured to what a check says.

A verdict carries the worst offenders as rows, because a person will have to act on it. Measuring is `inspection`;
telling Dagster is `partition_events`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ohlcv_pipeline.bars.freshness import Freshness
from ohlcv_pipeline.wording import many

WORST = 20
"""How many offenders a verdict names; `total` counts them all."""

Severity = Literal["WARN", "ERROR"]


@dataclass(frozen=True)
class Verdict:
    """What one check says of one table, or of one partition of it."""

    check: str
    passed: bool
    summary: str
    severity: Severity = "ERROR"
    numbers: Mapping[str, int | float] = field(default_factory=dict)
    offenders: Sequence[Mapping[str, Any]] = ()
    partition: str | None = None


@dataclass
class Measured:
    """What was measured of one partition, or of several together.

    `violations` and `repeated` are bars, `mismatched` manifest rows with their `actual` checksum, `unreadable`
    partitions, `holes` runs of missing bars. `rows` counts the bars that were read, `lowest_coverage` is of a symbol
    in a partition, in percent.
    """

    cells: int = 0
    rows: int = 0
    expected: int = 0
    missing: int = 0
    lowest_coverage: float = 100.0
    violations: list[Mapping[str, Any]] = field(default_factory=list)
    repeated: list[Mapping[str, Any]] = field(default_factory=list)
    mismatched: list[Mapping[str, Any]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    holes: list[Mapping[str, Any]] = field(default_factory=list)


def together(parts: Iterable[Measured]) -> Measured:
    """Return what was measured of several partitions as one."""
    whole = Measured()
    for part in parts:
        whole.cells += part.cells
        whole.rows += part.rows
        whole.expected += part.expected
        whole.missing += part.missing
        whole.lowest_coverage = min(whole.lowest_coverage, part.lowest_coverage)
        for name in ("violations", "repeated", "mismatched", "unreadable", "holes"):
            getattr(whole, name).extend(getattr(part, name))
    return whole


@dataclass(frozen=True)
class Judgement:
    """What the checks of a table say: each of the whole, and all but freshness of each partition."""

    table: Sequence[Verdict]
    partitions: Sequence[Verdict]


def verdicts(
    measured: Mapping[str, Measured], columns: Sequence[Mapping[str, Any]], coverage_error_pct: float
) -> Judgement:
    """Judge each partition and all of them together; `columns` are the table's columns that are not as they should."""

    def each(of: Measured) -> list[Verdict]:
        return [
            schema_verdict(columns, of),
            checksum_verdict(of),
            gaps_verdict(of, coverage_error_pct),
            duplicates_verdict(of),
        ]

    return Judgement(
        table=each(together(measured.values())),
        partitions=[replace(verdict, partition=key) for key, of in measured.items() for verdict in each(of)],
    )


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


def differing_columns(expected: Mapping[str, str], actual: Mapping[str, str]) -> list[Mapping[str, Any]]:
    """Return the columns (name → SQL type) of a table that are missing, of another type, or too many."""
    return [
        {"column": name, "rule": f"is {expected.get(name, 'not a column')}", "found": actual.get(name, "missing")}
        for name in sorted({*expected, *actual})
        if expected.get(name) != actual.get(name)
    ]


def schema_verdict(columns: Sequence[Mapping[str, Any]], of: Measured) -> Verdict:
    """Judge the table's columns, and the bars that break the frame's rules."""
    return _verdict(
        "schema",
        f"{of.rows:,} bars have the columns and keep the rules",
        f"{many(len(columns), 'column differs', 'columns differ')} and"
        f" {many(len(of.violations), 'bar breaks', 'bars break')} a rule",
        [*columns, *of.violations],
        {"rows": of.rows},
    )


def checksum_verdict(of: Measured) -> Verdict:
    """Judge the cells whose stored bars do not hash to their manifest's checksum, and those that cannot be read."""
    offenders = [
        {"symbol": row["symbol"], "partition": row["partition"], "manifest": row["checksum"], "actual": row["actual"]}
        for row in of.mismatched
    ]
    offenders += [{"symbol": "", "partition": key, "manifest": "", "actual": "unreadable"} for key in of.unreadable]
    bad = []
    if of.mismatched:
        bad.append(
            f"{len(of.mismatched)} of {of.cells:,} cells do not hash to their manifest:"
            " something changed the stored bars"
        )
    if of.unreadable:
        bad.append(
            f"the bars of {many(len(of.unreadable), 'partition')} cannot be read: a stored file is damaged or gone"
        )
    return _verdict(
        "checksum",
        f"{of.cells:,} cells ({of.rows:,} bars) hash to their manifest",
        "; ".join(bad),
        offenders,
        {"cells": of.cells, "rows": of.rows},
    )


def duplicates_verdict(of: Measured) -> Verdict:
    """Judge the buckets that are stored more than once."""
    return _verdict(
        "duplicates",
        f"no bucket stands twice among {of.rows:,} bars",
        f"{many(len(of.repeated), 'bucket is', 'buckets are')} stored more than once",
        of.repeated,
        {"rows": of.rows},
    )


def gaps_verdict(of: Measured, coverage_error_pct: float) -> Verdict:
    """Judge the expected bars that are missing: WARN, or ERROR where coverage in a partition is below the limit."""
    return _verdict(
        "gaps",
        f"every one of {of.expected:,} expected bars is stored or known to be without trades",
        f"{of.missing:,} of {of.expected:,} expected bars are missing in {many(len(of.holes), 'gap')};"
        f" lowest coverage {of.lowest_coverage} %",
        sorted(of.holes, key=lambda row: -row["missing"]),
        {"expected": of.expected, "missing": of.missing, "lowest_coverage_pct": of.lowest_coverage},
        "ERROR" if of.lowest_coverage < coverage_error_pct else "WARN",
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
