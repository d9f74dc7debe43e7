"""`ohlcv backfill plan` and `run`: what remediation would do about all that is missing, shown and done by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ohlcv_pipeline.cli import console, errors
from ohlcv_pipeline.cli.options import IntervalOption, JsonOption, MarketOption, open_platform, tables
from ohlcv_pipeline.wording import many

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from ohlcv_pipeline.ledger.models import IngestionRun
    from ohlcv_pipeline.markets import Interval, Market
    from ohlcv_pipeline.operations.healing import Outlook, Table
    from ohlcv_pipeline.operations.remediation import Hole, Need
    from ohlcv_pipeline.platform import Platform

DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show the plan; send nothing, start no run.")]


def plan(market: MarketOption = None, interval: IntervalOption = None, as_json: JsonOption = False) -> int:
    """Show the runs that would fill everything that is missing, failed, red or damaged now.

    It is what the daily sweep would launch, whatever was tried before. Nothing is sent, and nothing is written.

    - `ohlcv backfill plan`
    - `ohlcv backfill plan --market crypto --interval minute --json`
    """
    home = open_platform()
    _show(_outlooks(home, tables(home.settings, market, interval), datetime.now(UTC)), as_json)
    return errors.SUCCESS


def run(
    market: MarketOption = None,
    interval: IntervalOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> int:
    """Do what `plan` shows: each run in this process, verified, and the remediation log brought up to date.

    A table in which a run is at work is left alone. Exits 2 when something is still missing, 1 when a run failed
    altogether.

    - `ohlcv backfill run`
    - `ohlcv backfill run --market crypto --dry-run`
    """
    home = open_platform()
    chosen = tables(home.settings, market, interval)
    if dry_run:
        _show(_outlooks(home, chosen, datetime.now(UTC)), as_json)
        return errors.SUCCESS
    from ohlcv_pipeline.markets import to_us
    from ohlcv_pipeline.operations import distress, healing

    busy = [table for table in chosen if healing.busy(home, *table)]
    for of, of_interval in busy:
        console.note(f"{of.name}/ohlcv_{of_interval}: a run is at work; `ohlcv backfill status` shows it")
    free = [table for table in chosen if table not in busy]
    with _dagster(home) as dagster:
        now = datetime.now(UTC)

        def damaged(of: Market, of_interval: Interval) -> list[Need]:
            return distress.damaged(dagster, home, of, of_interval, to_us(now))

        healing.heal(home, free, now, more=damaged, request=False)
    rows = _run(home, _outlooks(home, free, datetime.now(UTC)))
    done = healing.heal(home, free, datetime.now(UTC), request=False)
    code = _code(rows)
    if as_json:
        from ohlcv_pipeline.ledger import runs

        console.write_json(
            {
                "status": {errors.SUCCESS: "success", errors.PARTIAL: "partial", errors.FAILED: "failed"}[code],
                "runs": [runs.told(home.ledger, row) for row in rows],
                "resolved": len(done.resolved),
                "holes_left": done.holes,
                "busy": [f"{of.name}/ohlcv_{of_interval}" for of, of_interval in busy],
            }
        )
        return code
    shown = [
        (f"{row.market}/ohlcv_{row.interval}", str(row.id), row.status, f"{row.row_count:,}", row.error_summary)
        for row in rows
    ]
    if rows:
        console.table("Runs", ["table", "run", "status", "rows", "why"], shown, {"rows"})
    else:
        console.note("Nothing that a run could fill: none was started.")
    console.out.print(f"{many(len(done.resolved), 'entry', 'entries')} resolved, {many(done.holes, 'gap')} left.")
    return code


def _code(rows: Sequence[IngestionRun]) -> int:
    statuses = {row.status for row in rows}
    if statuses <= {"success"}:
        return errors.SUCCESS
    return errors.FAILED if statuses == {"failed"} else errors.PARTIAL


def _dagster(home: Platform) -> DagsterInstance:
    from ohlcv_pipeline.cli import instance

    instance.prepare_dagster_home(home.settings)
    instance.quiet()
    from dagster import DagsterInstance

    return DagsterInstance.get()


def _outlooks(home: Platform, chosen: Sequence[Table], now: datetime) -> list[Outlook]:
    from ohlcv_pipeline.markets import to_us
    from ohlcv_pipeline.operations import distress, healing

    with _dagster(home) as dagster:
        return [
            healing.outlook(home, table, now, distress.needs(dagster, home, *table, to_us(now))) for table in chosen
        ]


def _run(home: Platform, outlooks: Sequence[Outlook]) -> list[IngestionRun]:
    """Execute the runs of some outlooks one after the other; return their rows as they ended."""
    if not any(each.requests for each in outlooks):
        return []
    from ohlcv_pipeline.cli import processes

    processes.require_sandbox(home.settings)
    from dagster import DagsterInstance

    from ohlcv_pipeline.ledger import runs
    from ohlcv_pipeline.operations import healing

    ended = []
    with console.progress() as bars, DagsterInstance.get() as dagster:
        for each in outlooks:
            for row in healing.request_by_hand(home, each, datetime.now(UTC)):
                _execute(home, dagster, bars, row)
                ended.append(runs.run(home.ledger, row.id) or row)
    return ended


def _execute(home: Platform, dagster: DagsterInstance, bars: Any, row: IngestionRun) -> None:
    from ohlcv_pipeline.cli import instance
    from ohlcv_pipeline.definitions import build_definitions
    from ohlcv_pipeline.ledger import runs
    from ohlcv_pipeline.operations import requests
    from ohlcv_pipeline.progress import Progress

    keys = requests.partitions_of(row)
    task = bars.add_task(f"{row.market}/ohlcv_{row.interval} {keys[0]} … {keys[-1]}", total=None, unit="requests")

    def advance(_asset: str, progress: Progress) -> None:
        bars.update(task, completed=progress.requests, total=progress.planned)

    definitions = build_definitions(home.settings, advance)
    tags = requests.tags(row)
    try:
        instance.execute(definitions, dagster, row.market, row.interval, keys, row.symbols or [], row.force, tags)
    finally:
        # Of a run that broke before its asset began nobody else would know.
        runs.fail(home.ledger, row.id, "cancelled", datetime.now(UTC))


def _show(outlooks: Sequence[Outlook], as_json: bool) -> None:
    if as_json:
        console.write_json({"plans": [_document(each) for each in outlooks]})
        return
    rows = [
        (
            f"{wanted.market}/ohlcv_{wanted.interval}",
            f"{wanted.first} … {wanted.last}" if wanted.first != wanted.last else wanted.first,
            ", ".join(wanted.symbols),
            "again, by force" if wanted.force else "what is missing",
        )
        for each in outlooks
        for wanted in each.requests
    ]
    if rows:
        console.table("Runs that would be launched", ["table", "partitions", "symbols", "what is fetched"], rows)
    else:
        console.note("Nothing that a run could fill.")
    for each in outlooks:
        market, interval = each.table
        name = f"{market.name}/ohlcv_{interval}"
        if each.waiting:
            until = min(hole.due_at for hole in each.waiting if hole.due_at is not None)
            console.note(
                f"{name}: {many(len(each.waiting), 'gap')} asked for in vain, from {console.instant(until)} on again"
            )
        if each.refused:
            console.note(
                f"{name}: {many(len(each.refused), 'gap')} of refused rows; `ohlcv quarantine list` shows them"
            )
    console.note("Nothing was sent, and no run was started.")


def _document(each: Outlook) -> Mapping[str, Any]:
    market, interval = each.table
    return {
        "market": market.name,
        "interval": str(interval),
        "holes": len(each.holes),
        "requests": [
            {
                "first_partition": wanted.first,
                "last_partition": wanted.last,
                "symbols": list(wanted.symbols),
                "force": wanted.force,
                "entries": sorted(str(id_) for id_ in wanted.entries),
            }
            for wanted in each.requests
        ],
        "waiting": [_hole(hole) for hole in each.waiting],
        "refused": [_hole(hole) for hole in each.refused],
    }


def _hole(hole: Hole) -> Mapping[str, Any]:
    from ohlcv_pipeline.markets import from_us

    return {
        "symbol": hole.series.symbol,
        "range_start": from_us(hole.first_us),
        "range_end": from_us(hole.last_us),
        "due_at": hole.due_at,
    }
