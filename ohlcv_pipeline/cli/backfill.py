"""`ohlcv backfill`: what is missing, fetched as Dagster runs in this process, and the checksum report at the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ohlcv_pipeline.cli import console, errors
from ohlcv_pipeline.cli.options import (
    EndOption,
    IntervalOption,
    JsonOption,
    MarketOption,
    StartOption,
    SymbolsOption,
    open_platform,
    select,
)

if TYPE_CHECKING:
    from ohlcv_pipeline.cli.instance import RunOutcome
    from ohlcv_pipeline.cli.planning import TablePlan
    from ohlcv_pipeline.cli.reporting import TableReport
    from ohlcv_pipeline.platform import Platform
    from ohlcv_pipeline.progress import Progress


app = typer.Typer()


@app.callback(invoke_without_command=True)
def backfill(
    context: typer.Context,
    market: MarketOption = None,
    interval: IntervalOption = None,
    symbols: SymbolsOption = None,
    start: StartOption = None,
    end: EndOption = None,
    force: Annotated[
        bool, typer.Option("--force/--only-missing", help="Fetch everything again, or only what is missing.")
    ] = False,
    replay: Annotated[
        bool, typer.Option("--replay", help="Rebuild from the answers that are kept; send nothing, start no run.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan; send nothing, start no run.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Fetch the bars that are missing, and account for every one.

    One Dagster run a table, with its checks, shown in the UI as any other. Interrupted, it continues where it
    ended. Exits 2 when some symbols could not be fetched, 1 when none could.

    - `ohlcv backfill` – 90 days of minutes and three years of days of every symbol
    - `ohlcv backfill --dry-run` – how many requests, and how long under the vendors' limits
    - `ohlcv backfill --interval day --symbols BTC,ETH --start 2024-01-01`
    - `ohlcv backfill --interval minute --start 2026-11-01 --end 2026-11-02T12:00:00Z --force`
    - `ohlcv backfill --replay` – the same bars from the vendors' kept answers; exits 1 when some are not proven
    - `ohlcv backfill plan` – what remediation would do
    """
    if context.invoked_subcommand is not None:
        for option in context.command.params:
            source = context.get_parameter_source(str(option.name))
            if source is not None and source.name == "COMMANDLINE":
                raise errors.UsageError(f"write {option.opts[0]} behind {context.invoked_subcommand}")
        return errors.SUCCESS
    if replay and force:
        raise errors.UsageError("--replay sends nothing and --force fetches again; use one of them")
    now = datetime.now(UTC)
    home = open_platform()
    selected = select(home, market, interval, symbols, start, end, now)
    if replay:
        from ohlcv_pipeline.cli import replaying

        return replaying.replay(home, selected, now, dry_run=dry_run, as_json=as_json)
    from ohlcv_pipeline.cli.planning import plan_table

    plans = [plan_table(home, each, force, now) for each in selected]
    if dry_run:
        _show_plans(home, plans, as_json)
        return errors.SUCCESS
    return run_plans(home, plans, named=symbols is not None, as_json=as_json)


def run_plans(home: Platform, plans: Sequence[TablePlan], *, named: bool, as_json: bool) -> int:
    """Run what is planned, print the report and return the exit code; `named` tells that symbols were chosen."""
    outcomes, reports = fetch(home, plans, named=named)
    code = exit_code(plans, outcomes)
    if as_json:
        console.write_json(_document(plans, outcomes, reports, code))
        return code
    from ohlcv_pipeline.cli.reporting import print_reports

    print_reports(reports, {asset: outcome.seconds for asset, outcome in outcomes.items()})
    for asset, outcome in outcomes.items():
        outcome.tell(asset, "ohlcv backfill")
    return code


def fetch(
    home: Platform, plans: Sequence[TablePlan], *, named: bool
) -> tuple[dict[str, RunOutcome], list[TableReport]]:
    """Execute a run for each table that lacks something and measure all of them afterwards."""
    from ohlcv_pipeline.cli.reporting import report_table

    due = [plan for plan in plans if plan.partitions]
    if due:
        outcomes = _execute(home, due, named)
    else:
        outcomes = {}
        console.note("Nothing is missing: no run was started.")
    now = datetime.now(UTC)
    return outcomes, [report_table(home.store.reader, home.settings, plan.selected, now) for plan in plans]


def _execute(home: Platform, plans: Sequence[TablePlan], named: bool) -> dict[str, RunOutcome]:
    from ohlcv_pipeline.cli import instance, processes

    processes.require_sandbox(home.settings)
    instance.prepare_dagster_home(home.settings)
    instance.quiet()
    from dagster import DagsterInstance

    from ohlcv_pipeline.definitions import build_definitions

    outcomes: dict[str, RunOutcome] = {}
    with console.progress() as bars, DagsterInstance.get() as dagster:
        tasks = {
            plan.asset: bars.add_task(plan.asset, total=sum(plan.requests.values()) or None, unit="requests")
            for plan in plans
        }

        def advance(asset: str, progress: Progress) -> None:
            bars.update(tasks[asset], completed=progress.requests, total=progress.planned)

        definitions = build_definitions(home.settings, advance)
        for plan in plans:
            # A task's clock runs from its creation; the next table's time begins when its run does.
            bars.reset(tasks[plan.asset])
            chosen = [instrument.symbol for instrument in plan.selected.instruments] if named else []
            outcomes[plan.asset] = instance.execute(
                definitions,
                dagster,
                plan.selected.market.name,
                str(plan.selected.interval),
                plan.partitions,
                chosen,
                plan.force,
            )
    return outcomes


def exit_code(plans: Sequence[TablePlan], outcomes: dict[str, RunOutcome]) -> int:
    """Return 0 when every symbol is accounted for, 2 when some are not, 1 when none is or a run broke."""
    asked = failed = 0
    for plan in plans:
        outcome = outcomes.get(plan.asset)
        if outcome is None:
            continue
        if not outcome.success and not outcome.failed:
            return errors.FAILED
        asked += len({symbol for symbol, _ in plan.cells})
        failed += len(outcome.failed)
    if not failed:
        return errors.SUCCESS
    return errors.PARTIAL if failed < asked else errors.FAILED


def _document(
    plans: Sequence[TablePlan], outcomes: dict[str, RunOutcome], reports: Sequence[TableReport], code: int
) -> dict[str, Any]:
    from ohlcv_pipeline.cli.reporting import verdict_on

    runs = [{"asset": asset, **outcome.as_json()} for asset, outcome in outcomes.items()]
    status = {errors.SUCCESS: "success", errors.PARTIAL: "partial", errors.FAILED: "failed"}[code]
    entries = [entry for each in reports for entry in each.as_json()]
    return {"status": status, "verdict": verdict_on(reports), "runs": runs, "report": entries}


def _show_plans(home: Platform, plans: Sequence[TablePlan], as_json: bool) -> None:
    names = {vendor for plan in plans for vendor in plan.selected.market.vendors}
    documents = [plan.as_json({name: home.settings.vendor(name) for name in names}) for plan in plans]
    seconds = sum(vendor["seconds_at_limit"] or 0.0 for plan in documents for vendor in plan["vendors"])
    if as_json:
        console.write_json({"dry_run": True, "plans": documents, "seconds_at_limit": round(seconds, 1)})
        return
    rows: list[Sequence[object]] = []
    for plan in documents:
        span = "–" if not plan["partitions"] else f"{plan['first_partition']} … {plan['last_partition']}"
        what = (plan["asset"], f"{plan['cells']:,}", f"{plan['buckets']:,}", f"{plan['partitions']:,}", span)
        for vendor in plan["vendors"] or [{"vendor": None, "requests": 0, "seconds_at_limit": 0.0}]:
            limit = vendor["seconds_at_limit"]
            shown = "no limit" if limit is None else console.duration(limit)
            rows.append((*what, vendor["vendor"], f"{vendor['requests']:,}", shown))
    columns = ["table", "cells", "buckets", "partitions", "from … to", "vendor", "requests", "time at its limits"]
    console.table("What would be fetched", columns, rows, {"cells", "buckets", "partitions", "requests"})
    if not any(plan["cells"] for plan in documents):
        console.note("Nothing is missing: a backfill would start no run.")
    elif seconds:
        console.note(f"Under the vendors' limits this takes at least {console.duration(seconds)}.")
    console.note("Nothing was sent, and no run was started.")


def timed(begun: float) -> str:
    """Return the seconds since `begun` (of `time.perf_counter`) as a person says them."""
    return console.duration(time.perf_counter() - begun)
