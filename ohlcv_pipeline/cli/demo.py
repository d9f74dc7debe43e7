"""`ohlcv demo`: from nothing to a full lake with a status page and a running Dagster, in the sandbox."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated

import typer

from ohlcv_pipeline.cli import backfill, console, errors, services
from ohlcv_pipeline.cli.errors import UsageError
from ohlcv_pipeline.cli.options import open_platform, select
from ohlcv_pipeline.cli.services import PortOption, StatusPortOption


def demo(
    port: PortOption = 3000,
    status_port: StatusPortOption = 8000,
    up: Annotated[bool, typer.Option("--up/--no-up", help="Leave status page and Dagster running at the end.")] = True,
) -> int:
    """Fill the lake from the sandbox, prove that it is complete, and open status page and Dagster.

    No internet, no keys. Run again, it fetches only what has become due meanwhile.

    - `ohlcv demo`
    - `OHLCV_HOME=/tmp/demo ohlcv demo --port 3001`
    """
    begun = time.perf_counter()
    home = open_platform()
    if home.settings.profile != "sandbox":
        raise UsageError("the demo runs in the sandbox only; unset OHLCV_PROFILE or set it to sandbox")
    services.start_sandbox(home.settings)
    now = datetime.now(UTC)
    from ohlcv_pipeline.cli.planning import plan_table

    chosen = select(home, None, None, None, None, None, now)
    code = backfill.run_plans(home, [plan_table(home, each, False, now) for each in chosen], named=False, as_json=False)
    console.out.print(f"{backfill.timed(begun)} from the start.")
    if code != errors.SUCCESS or not up:
        return code
    for service in services.start(home.settings, port, status_port):
        console.out.print(f"{service['name']}: {service['url']} ({service['state']})")
    console.out.print(f"Everything is up after {backfill.timed(begun)}. `ohlcv down` stops it.")
    return code
