"""`ohlcv actions`: splits and dividends, fetched as a Dagster run in this process, and listed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from ohlcv_pipeline.cli import console, errors
from ohlcv_pipeline.cli.errors import UsageError
from ohlcv_pipeline.cli.options import JsonOption, MarketOption, SymbolsOption, open_platform, split, tables
from ohlcv_pipeline.wording import many

if TYPE_CHECKING:
    from ohlcv_pipeline.cli.instance import RunOutcome
    from ohlcv_pipeline.markets import Market
    from ohlcv_pipeline.platform import Platform

app = typer.Typer(
    no_args_is_help=True, help="Fetch and list splits and dividends, by which prices are adjusted when they are read."
)

_SHOWN = ["market", "symbol", "ex_date", "kind", "value", "vendor", "fetched_at"]


@app.command()
def fetch(market: MarketOption = None, as_json: JsonOption = False) -> int:
    """Ask for all splits and dividends again, one request a symbol, and write what has changed.

    One Dagster run a market, with the check for jumps that no action explains. Exits 2 when some symbols could not
    be had, 1 when none could.

    - `ohlcv actions fetch`
    - `ohlcv actions fetch --market us_equities --json`
    """
    home = open_platform()
    runs = [(of, _run(home, of)) for of in _with_actions(home, market)]
    if as_json:
        documents = [{"asset": f"{of.name}/corporate_actions", **run.as_json()} for of, run in runs]
        console.write_json({"runs": documents})
    else:
        for of, run in runs:
            asset, reader = f"{of.name}/corporate_actions", home.store.reader
            console.out.print(
                f"{asset}: {many(reader.actions(of.name).num_rows, 'action')} of"
                f" {many(reader.action_coverage(of.name).num_rows, 'symbol')}. {console.duration(run.seconds)}."
            )
            run.tell(asset, "ohlcv actions fetch")
    if all(run.success for _, run in runs):
        return errors.SUCCESS
    partly = any(run.success or 0 < len(run.failed) < len(home.instruments(of)) for of, run in runs)
    return errors.PARTIAL if partly else errors.FAILED


@app.command("list")
def show(market: MarketOption = None, symbols: SymbolsOption = None, as_json: JsonOption = False) -> int:
    """List the splits (new shares for one old) and dividends (dollars a share) in force.

    - `ohlcv actions list --symbols NVDA`
    """
    home = open_platform()
    chosen = _with_actions(home, market)
    reader = home.reading.reader
    rows = [row for of in chosen for row in reader.actions(of.name, split(symbols)).to_pylist()]
    if as_json:
        console.write_json({"actions": rows})
    elif rows:
        told = [row | {"ex_date": f"{row['ex_date']:%Y-%m-%d}", "fetched_at": console.instant(row["fetched_at"])}
                for row in rows]  # fmt: skip
        console.table("Corporate actions", _SHOWN, [[row[name] for name in _SHOWN] for row in told], {"value"})
        console.out.print(f"{many(len(rows), 'action')}.")
    else:
        console.out.print("No actions; `ohlcv actions fetch` asks for them.")
    return errors.SUCCESS


def _with_actions(home: Platform, market: str | None) -> Sequence[Market]:
    """Return the selected markets that have corporate actions. Raises UsageError when none has."""
    chosen = {of.name: of for of, _ in tables(home.settings, market, "day")}
    found = [of for of in chosen.values() if of.actions_vendor is not None]
    if not found:
        raise UsageError(f"{', '.join(chosen)}: no splits or dividends there; choose a market of shares with --market")
    return found


def _run(home: Platform, of: Market) -> RunOutcome:
    from ohlcv_pipeline.cli import instance, processes

    processes.require_sandbox(home.settings)
    instance.prepare_dagster_home(home.settings)
    instance.quiet()
    from dagster import DagsterInstance

    from ohlcv_pipeline.definitions import build_definitions

    with DagsterInstance.get() as dagster:
        return instance.run_job(build_definitions(home.settings), dagster, f"{of.name}_actions_refresh")
