"""`ohlcv checks`: the asset checks evaluated at once, and with `--ci` on a small lake of their own.

Dagster leaves its exit code at 0 when a check is red; this command does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ohlcv_pipeline.cli import console, errors
from ohlcv_pipeline.cli.errors import UsageError
from ohlcv_pipeline.cli.instance import CheckOutcome
from ohlcv_pipeline.cli.options import (
    IntervalOption,
    JsonOption,
    MarketOption,
    load_settings,
    open_platform,
    select,
    tables,
)

if TYPE_CHECKING:
    from ohlcv_pipeline.bars.quality import Verdict

_SHOWN_OFFENDERS = 5


@dataclass(frozen=True)
class TableChecks:
    """One table's checks; `error` says why a run of it failed."""

    table: str
    checks: Sequence[CheckOutcome]
    error: str | None = None

    @property
    def red(self) -> bool:
        """Whether a check is red with severity ERROR, or the bars could not be fetched."""
        return self.error is not None or any(check.red for check in self.checks)


def checks(
    market: MarketOption = None,
    interval: IntervalOption = None,
    ci: Annotated[
        bool, typer.Option("--ci", help="In a temporary home with its own sandbox: fetch a little, check it.")
    ] = False,
    fault: Annotated[
        list[str] | None, typer.Option("--fault", help="With --ci: a sandbox fault as JSON. Repeatable.")
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Evaluate every asset check; exit 1 when one of severity ERROR is red.

    Without `--ci` on what is stored of the target window; a WARN, such as a known gap, leaves the exit code at 0.

    - `ohlcv checks`
    - `ohlcv checks --ci` – for a pipeline: three days of minutes, two months of days, three symbols
    - `ohlcv checks --ci --fault '{"kind":"empty","vendor":"coinbase","interval":"minute"}'` – see it go red
    """
    if fault and not ci:
        raise UsageError("--fault goes with --ci; faults of a running sandbox: `ohlcv sandbox faults --add`")
    if ci:
        from ohlcv_pipeline.cli import rehearsal

        chosen = load_settings()
        found = rehearsal.rehearse(chosen.markets, tables(chosen, market, interval), fault or [])
    else:
        found = _inspect(market, interval)
    red = any(each.red for each in found)
    if as_json:
        console.write_json({"passed": not red, "tables": [_document(each) for each in found]})
    else:
        _show(found, red)
    return errors.FAILED if red else errors.SUCCESS


def _inspect(market: str | None, interval: str | None) -> list[TableChecks]:
    now = datetime.now(UTC)
    home = open_platform()
    selected = select(home, market, interval, None, None, None, now)
    from ohlcv_pipeline.bars.inspection import inspect

    s = home.settings
    return [
        TableChecks(
            f"{each.market.name}/ohlcv_{each.interval}",
            [
                from_verdict(verdict)
                for verdict in inspect(
                    home.reading.reader,
                    each.market,
                    each.interval,
                    each.instruments,
                    each.market.partition_keys(each.interval, each.start_us, each.end_us),
                    now,
                    s.freshness_threshold(each.market.name, each.interval),
                    s.coverage_error_pct,
                ).table
            ],
        )
        for each in selected
    ]


def from_verdict(verdict: Verdict) -> CheckOutcome:
    """Return a verdict in the form in which a run's checks come back."""
    return CheckOutcome(verdict.check, verdict.passed, verdict.severity, verdict.summary, verdict.offenders)


def _document(each: TableChecks) -> dict[str, Any]:
    return {
        "table": each.table,
        "error": each.error,
        "checks": [
            {"check": c.check, "passed": c.passed, "severity": c.severity, "summary": c.summary, "worst": c.worst}
            for c in each.checks
        ],
    }


def _show(found: Sequence[TableChecks], red: bool) -> None:
    rows = []
    for each in found:
        if each.error is not None:
            rows.append((each.table, "fetch", "FAILED", each.error))
        rows += [(each.table, c.check, "passed" if c.passed else f"{c.severity}", c.summary) for c in each.checks]
    console.table("Checks", ["table", "check", "verdict", "what was found"], rows)
    for each in found:
        for check in each.checks:
            if not check.passed and check.worst:
                columns = list(check.worst[0])
                worst = [[row.get(name) for name in columns] for row in check.worst[:_SHOWN_OFFENDERS]]
                console.table(f"{each.table} {check.check}: the worst", columns, worst)
    console.note("At least one check of severity ERROR is red." if red else "No check of severity ERROR is red.")
