"""`ohlcv backfill --replay`: bars rebuilt from the vendors' answers that are kept, and nothing sent."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING

from ohlcv_pipeline.cli import console, errors

if TYPE_CHECKING:
    from ohlcv_pipeline.bars.rebuild import Rebuilt
    from ohlcv_pipeline.cli.options import Selected
    from ohlcv_pipeline.platform import Platform


def replay(home: Platform, selected: Sequence[Selected], now: datetime, *, dry_run: bool, as_json: bool) -> int:
    """Rebuild what is selected, print what came of it and return the exit code."""
    from ohlcv_pipeline.bars.rebuild import rebuild

    begun = time.perf_counter()
    results = {}
    for each in selected:
        keys = each.market.partition_keys(each.interval, each.start_us, each.end_us)
        asset = f"{each.market.name}/ohlcv_{each.interval}"
        results[asset] = rebuild(home.store, each.market, each.interval, each.instruments, keys, now, apply=not dry_run)
    complete = all(result.complete for result in results.values())
    if as_json:
        tables = [{"asset": asset, **asdict(result)} for asset, result in results.items()]
        console.write_json({"complete": complete, "dry_run": dry_run, "tables": tables})
    else:
        _show(results, time.perf_counter() - begun, dry_run=dry_run)
    return errors.SUCCESS if complete else errors.FAILED


def _show(results: dict[str, Rebuilt], seconds: float, *, dry_run: bool) -> None:
    columns = ["table", "proven", "healed", "restored", "bars restored", "not proven"]
    rows = [
        (
            asset,
            f"{r.proven:,}",
            f"{len(r.repair.healed):,}",
            f"{len(r.restored):,}",
            f"{r.rows:,}",
            f"{len(r.unproven):,}",
        )
        for asset, r in results.items()
    ]
    console.table("Would be replayed" if dry_run else "Replayed", columns, rows, set(columns[1:]))
    wrong = [
        (f"{r['market']} {r['interval']} {r['symbol']} {r['partition']}", r["why"])
        for result in results.values()
        for r in [*result.unproven, *result.repair.unhealed]
    ]
    if wrong:
        console.table("What the raw answers do not prove", ["cell", "why"], wrong[:50])
        console.note("Fetch these cells from the vendors with `ohlcv backfill --force --start … --end …`.")
    else:
        console.out.print(f"Every cell is what its raw answers say. {console.duration(seconds)}, nothing was sent.")
