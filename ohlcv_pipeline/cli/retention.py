"""`ohlcv retention`: history of the ledger and of Dagster that is past its time let go."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from ohlcv_pipeline.cli import console, errors, instance
from ohlcv_pipeline.cli.options import JsonOption, open_platform


def retention(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what would be deleted, and delete nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> int:
    """Delete history that is past its time: what is over in the ledger, and old runs of Dagster.

    Bars are never touched, nor is anything unsent, open or unresolved. The schedule `retention` does it weekly.

    - `ohlcv retention --dry-run`
    - `ohlcv retention`
    """
    home = open_platform()
    instance.prepare_dagster_home(home.settings)
    instance.quiet()
    from dagster import DagsterInstance

    from ohlcv_pipeline.operations.retention import prune

    with DagsterInstance.get() as dagster:
        done = prune(home, dagster, datetime.now(UTC), dry_run=dry_run)
    if as_json:
        console.write_json({"dry_run": dry_run, **vars(done)})
    else:
        rows = [(name.replace("_", " "), f"{count:,}") for name, count in vars(done).items()]
        title = "Past its time" if dry_run else "Deleted"
        console.table(title, ["what", "rows"], rows, {"rows"})
    return errors.SUCCESS
