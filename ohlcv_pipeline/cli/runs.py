"""`ohlcv backfill status` and `ohlcv report`: what the ledger knows of runs and of what is still to be put right."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from ohlcv_pipeline.cli import console, errors
from ohlcv_pipeline.cli.options import IntervalOption, JsonOption, MarketOption, open_platform, tables

if TYPE_CHECKING:
    from ohlcv_pipeline.ledger.models import IngestionRun, RemediationEntry

SHOWN = 10
"""How many ended runs and open entries the tables show; JSON has every entry."""

WINDOW = timedelta(days=30)


def status(market: MarketOption = None, interval: IntervalOption = None, as_json: JsonOption = False) -> int:
    """Show the runs that are queued or at work, the newest ones, and what is still to be put right.

    - `ohlcv backfill status`
    - `ohlcv backfill status --market crypto --json`
    """
    home = open_platform()
    chosen = {(of.name, str(each)) for of, each in tables(home.settings, market, interval)}
    from ohlcv_pipeline.ledger import remediation, runs

    now = datetime.now(UTC)
    of_interval = None if interval is None else next(each for _, each in chosen)
    working = [row for row in runs.running(home.ledger) if (row.market, row.interval) in chosen]
    newest = runs.page(home.ledger, limit=SHOWN + len(working), market=market, interval=of_interval)
    ended = [row for row in newest if row.ended_at is not None]
    open_ones = [row for row in remediation.open_entries(home.ledger) if (row.market, row.interval) in chosen]
    open_ones.sort(key=lambda row: (row.escalated_at is None, row.detected_at))
    rate = runs.success_rate(home.ledger, now - WINDOW, market, of_interval)
    if as_json:
        console.write_json(
            {
                "running": [_run(row) for row in working],
                "ended": [_run(row) for row in ended[:SHOWN]],
                "open": [_entry(row) for row in open_ones],
                "success_rate": rate.success_rate,
                "runs": rate.runs,
            }
        )
        return errors.SUCCESS
    if working or ended:
        columns = ["run", "table", "status", "phase", "started", "done", "rows", "why"]
        console.table("Runs", columns, [_cells(row) for row in [*working, *ended[:SHOWN]]], {"rows", "done"})
    if open_ones:
        columns = ["table", "symbol", "issue", "from", "to", "attempts", "next attempt"]
        console.table("To be put right", columns, [_open_cells(row) for row in open_ones[:SHOWN]], {"attempts"})
        if len(open_ones) > SHOWN:
            console.note(f"… and {len(open_ones) - SHOWN} more; --json lists them all")
    share = f"{100 * rate.success_rate:.2f} % of {rate.runs:,}"
    console.out.print(
        f"{share} runs of single symbols within 30 days were successes; {len(open_ones)} entries are open."
    )
    return errors.SUCCESS


def report(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="Of a run, here or in Dagster.", show_default=False)],
    as_json: JsonOption = False,
) -> int:
    """Show what came of one run: rows, coverage, gaps and checksum of each symbol.

    Exits as the run ended: 0 success, 2 partial, 1 failed; 0 while it is running.

    - `ohlcv report 5f0e9c1e-31c5-4a9b-8a36-77c7f3b3f0a4`
    """
    home = open_platform()
    from ohlcv_pipeline.ledger import runs

    try:
        row = runs.run(home.ledger, UUID(run_id))
    except ValueError:
        row = None
    if row is None:
        raise errors.UsageError(f"there is no run {run_id}; `ohlcv backfill status` lists the newest ones")
    told = runs.told(home.ledger, row)
    code = {runs.FAILED: errors.FAILED, runs.PARTIAL: errors.PARTIAL}.get(row.status, errors.SUCCESS)
    if as_json:
        console.write_json(told)
        return code
    columns = ["symbol", "status", "rows", "expected", "missing", "coverage %", "gaps", "vendor", "checksum"]
    rows = [
        (
            each["asset_symbol"],
            each["status"],
            f"{each['actual_rows']:,}",
            f"{each['expected_rows']:,}",
            f"{each['missing_rows']:,}",
            None if each["coverage_pct"] is None else f"{each['coverage_pct']:.2f}",
            each["gaps_total"],
            each["vendor"],
            each["checksum_sha256"][:12],
        )
        for each in told["report"]
    ]
    window = f"{console.instant(row.backfill_window_start)} … {console.instant(row.backfill_window_end)}"
    console.out.print(f"{row.market}/ohlcv_{row.interval} {window}: {row.status}, attempt {row.attempt}", markup=False)
    if row.error_summary:
        console.out.print(row.error_summary, markup=False)
    if rows:
        console.table("", columns, rows, {"rows", "expected", "missing", "coverage %", "gaps"})
    return code


def _run(row: IngestionRun) -> dict[str, Any]:
    from ohlcv_pipeline.ledger import runs

    facts = {name: getattr(row, name) for name in runs.FACTS}
    return {**facts, "done_units": row.done_units, "total_units": row.total_units}


def _cells(row: IngestionRun) -> tuple[object, ...]:
    done = f"{row.done_units:,} of {row.total_units:,}" if row.total_units else None
    table = f"{row.market}/ohlcv_{row.interval}"
    started = console.instant(row.started_at.replace(microsecond=0))
    return str(row.id), table, row.status, row.phase, started, done, f"{row.row_count:,}", row.error_summary


def _entry(row: RemediationEntry) -> dict[str, Any]:
    names = (
        "id", "market", "asset_symbol", "interval", "issue_type", "range_start", "range_end", "detected_at", "run_id",
        "notes", "attempts", "next_attempt_at", "escalated_at",
    )  # fmt: skip
    return {name: getattr(row, name) for name in names}


def _open_cells(row: RemediationEntry) -> tuple[object, ...]:
    following = "a person" if row.escalated_at is not None else None
    if following is None and row.next_attempt_at is not None:
        following = console.instant(row.next_attempt_at.replace(microsecond=0))
    first, last = (console.instant(each) for each in (row.range_start, row.range_end))
    return f"{row.market}/ohlcv_{row.interval}", row.asset_symbol, row.issue_type, first, last, row.attempts, following
